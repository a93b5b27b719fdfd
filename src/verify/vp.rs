//! The variance-preserving chain and its limit (S3 section 2.2, S0, S1, S4; items 15–18).

use super::one_dim::{draw, falling_order_miss, ks_scaled, moments_z, one_row, points, uneven_bumps, worst, worst_of};
use super::{Bound, Identity};
use crate::analytic::gaussian::normal_pdf;
use crate::analytic::quadrature::GaussLegendre;
use crate::analytic::{Cauchy, Mixture, inverse, statistics};
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::ops::perturb;
use crate::process::{BetaSchedule, Discrete, Level};
use crate::rng::{Address, Purpose};

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 15 S3.eq16-17 variance",
        claim: "Var X^n = ᾱ_n·Var X⁰ + 1 − ᾱ_n at every n, the steps iterated and the jump by the table",
        bound: Bound::AtMost(1e-12), // 1000 products and sums of numbers up to 9: 1000ε·9 at worst
        measure: || over_schedules(|betas| variance_error(betas, 9.0)),
    },
    Identity {
        id: "item 15 S3.exercise4 preserved",
        claim: "variance 1 stays 1 at every n, step by step and in the jump by the table",
        bound: Bound::AtMost(1e-12), // as above
        measure: || over_schedules(|betas| variance_error(betas, 1.0).map(|error| worst([error, unit_drift(betas)]))),
    },
    Identity {
        id: "item 15 S3.exercise4 limit",
        claim: "only then: variance 9 changes at each n, and ends at 1 where ᾱ_T goes to 0, within 8·ᾱ_T",
        bound: Bound::AtMost(1e-12), // as above
        measure: || over_schedules(limit_error),
    },
    Identity {
        id: "item 15 S0.forward order",
        claim: "0 < β₁ ≤ … ≤ β_T < 1 in every schedule, and tables outside (0, 1) are refused: how many are not so",
        bound: Bound::AtMost(0.0), // a count
        measure: misordered,
    },
    Identity {
        id: "item 15 S0.forward order misprint",
        claim: "\"0 < β_t < β_0 … < β_T\", each below its predecessor: neighbours of 1000 linear betas of which that is false",
        bound: Bound::AtLeast(999.0), // a count
        measure: || {
            let betas = BetaSchedule::Linear.betas(1000, 1e-4, 0.02);
            Ok(betas.windows(2).filter(|pair| !(pair[1] < pair[0])).count() as f64)
        },
    },
    Identity {
        id: "item 16 S3.eq22 order",
        claim: "|M_n(t) − e^{t²/2}| falls as √ᾱ_n, and as ᾱ_n for centred data: order in √ᾱ_n",
        // The next order is a share √ᾱ_n·t of 0.02 and less.
        bound: Bound::AtMost(0.05),
        measure: || Ok(worst([generating_order(false, 1.0)?, generating_order(true, 2.0)?])),
    },
    Identity {
        id: "item 16 S3.eq22 two points",
        claim: "centred symmetric data of unit variance: the error over its bound e^{t²/2}·ᾱ_n²t⁴/12",
        // u²/2 − u⁴/12 <= ln cosh u <= u²/2 at u = √ᾱ_n·t.
        bound: Bound::AtMost(1.0),
        measure: two_point_bound,
    },
    Identity {
        id: "item 16 S3.eq18-22 samples",
        claim: "the empirical generating function of x_n is that of the closed law, in standard errors",
        // n = 100 000, seed 161, t = −1, 0.5 and 1: z-score 4.5.
        bound: Bound::AtMost(4.5),
        measure: empirical_generating,
    },
    Identity {
        id: "item 16 S3.exercise5 Cauchy",
        claim: "for Cauchy data the characteristic function converges, E e^{itx_n} = e^{−√ᾱ_n·γ|t| − (1−ᾱ_n)t²/2}: √n·error",
        // n = 100 000, seed 163: each part has a standard error below 1/√n, √n·modulus above 4.5 once in 25 000.
        bound: Bound::AtMost(4.5),
        measure: cauchy_characteristic,
    },
    Identity {
        id: "item 16 S3.exercise10 covariance",
        claim: "in the plane the covariance of x_n is ᾱ_n·C + (1 − ᾱ_n)·I: off the diagonal it vanishes like ᾱ_n",
        bound: Bound::AtMost(1e-13), // the inverse of a 2 x 2 matrix of condition below 10
        measure: plane_covariance,
    },
    Identity {
        id: "item 16 S3.eq20 misprint",
        claim: "σ²β_n for β_n with the σ = 1/4 of section 2.1: the generating function at n = 1000, t = 1 misses e^{1/2}",
        // e^{1/32} against e^{1/2}: 0.62.
        bound: Bound::AtLeast(0.5),
        measure: printed_generating,
    },
    Identity {
        id: "item 17 S0.claim",
        claim: "the product of T single steps is the jump (√ᾱ_T, √(1−ᾱ_T)), T = 1000, four schedules",
        bound: Bound::AtMost(1e-12), // 1000 products
        measure: || over_schedules(jump_error),
    },
    Identity {
        id: "item 17 S1 alpha_bar",
        claim: "ᾱ_1000 = 4.0358e-5 for β from 1e-4 to 0.02, relative",
        bound: Bound::AtMost(1e-5), // the five digits given
        measure: || Ok((linear()?.alpha_bar(999)? / 4.0358e-5 - 1.0).abs()),
    },
    Identity {
        id: "item 17 S1 tiny values",
        claim: "ln ᾱ where ᾱ is below the smallest double, and 1 − ᾱ where it is below the last bit of ᾱ: relative",
        bound: Bound::AtMost(1e-14), // 300 sums of one logarithm
        measure: tiny_values,
    },
    Identity {
        id: "item 17 S4 diffusion kernel",
        claim: "50 noised steps and one jump follow N(√ᾱ·x, 1 − ᾱ) convolved with the data: √n·KS and moments' z-score over 2",
        // n = 100 000, seeds 171 to 173; KS 2.23 once in ten thousand, z-score 4.46.
        bound: Bound::AtMost(2.23),
        measure: || worst_of([kernel_samples(false), kernel_samples(true)].map(|x| law_distance(&x?))),
    },
    Identity {
        id: "item 17 S0.claim misprint",
        claim: "β̄_t for ᾱ_t, a product of betas: √β̄_t against √ᾱ_t at t = 10",
        // √ᾱ_10 = 0.999 against 1e-18.
        bound: Bound::AtLeast(0.9),
        measure: printed_claim,
    },
    Identity {
        id: "item 17 S1 product to T misprint",
        claim: "ᾱ_t = ∏_(i=1)^T for ∏_(i=1)^t: the factor of x_0 at t = 100",
        // 0.946 against 0.006.
        bound: Bound::AtLeast(0.9),
        measure: || Ok((linear()?.level_of(99)?.alpha - linear()?.level_of(999)?.alpha).abs()),
    },
    Identity {
        id: "item 17 S4 variance misprint",
        claim: "variance √(1−ᾱ_t) for 1 − ᾱ_t: relative miss at t = 1",
        // √1e-4/1e-4 = 100.
        bound: Bound::AtLeast(50.0),
        measure: || linear()?.level_of(0).map(|first| first.sigma / first.sigma.powi(2) - 1.0),
    },
    Identity {
        id: "item 18 S0 convolution",
        claim: "N(μ1, σ1²) * N(μ2, σ2²) = N(μ1 + μ2, σ1² + σ2²) by quadrature",
        bound: Bound::AtMost(1e-13), // 1024 positive terms of a number below 1
        measure: || convolution_error(f64::hypot),
    },
    Identity {
        id: "item 18 S0 deviations",
        claim: "deviations do not add: N(μ1 + μ2, (σ1 + σ2)²) misses the convolution",
        // 1/√2 against 1/2 in the peak of two unit Gaussians, over √(2π): 0.08.
        bound: Bound::AtLeast(0.05),
        measure: || convolution_error(|a, b| a + b),
    },
];

/// DDPM's table: β from 1e-4 to 0.02 in 1000 steps.
pub(super) fn linear() -> Result<Discrete> {
    Discrete::from_betas(&BetaSchedule::Linear.betas(1000, 1e-4, 0.02), false)
}

/// The level after n steps; clean for n = 0.
pub(super) fn level(table: &Discrete, n: usize) -> Result<Level> {
    n.checked_sub(1).map_or(Ok(Level::CLEAN), |k| table.level_of(k))
}

const SCHEDULES: [BetaSchedule; 4] =
    [BetaSchedule::Linear, BetaSchedule::ScaledLinear, BetaSchedule::Cosine, BetaSchedule::Sigmoid];

fn over_schedules(error: fn(&[f64]) -> Result<f64>) -> Result<f64> {
    worst_of(SCHEDULES.iter().map(|schedule| error(&schedule.betas(1000, 1e-4, 0.02))))
}

/// Var X^n for n = 1 to T, step by step.
fn variances(betas: &[f64], mut variance: f64) -> Vec<f64> {
    let step = |beta: &f64| {
        variance = (1.0 - beta) * variance + beta;
        variance
    };
    betas.iter().map(step).collect()
}

fn variance_error(betas: &[f64], variance: f64) -> Result<f64> {
    let table = Discrete::from_betas(betas, false)?;
    worst_of(variances(betas, variance).into_iter().enumerate().map(|(k, iterated)| {
        let (at, alpha_bar) = (table.level_of(k)?, table.alpha_bar(k)?);
        let jumped = at.alpha.powi(2) * variance + at.sigma.powi(2);
        Ok(worst([(iterated - jumped).abs(), (iterated - (alpha_bar * variance + 1.0 - alpha_bar)).abs()]))
    }))
}

/// How far the variance of unit data strays from 1, step by step.
fn unit_drift(betas: &[f64]) -> f64 {
    worst(variances(betas, 1.0).into_iter().map(|variance| (variance - 1.0).abs()))
}

fn limit_error(betas: &[f64]) -> Result<f64> {
    let all = variances(betas, 9.0);
    let falls = all.first().is_some_and(|first| *first < 9.0) && all.windows(2).all(|pair| pair[1] < pair[0]);
    let last = Discrete::from_betas(betas, false)?.alpha_bar(betas.len() - 1)?;
    let end = all.last().map_or(f64::NAN, |end| (end - 1.0 - 8.0 * last).abs());
    Ok(if falls { end } else { f64::INFINITY })
}

fn misordered() -> Result<f64> {
    let is_ordered = |schedule: &BetaSchedule| {
        let betas = schedule.betas(1000, 1e-4, 0.02);
        betas[0] > 0.0 && betas[999] < 1.0 && betas.windows(2).all(|pair| pair[0] <= pair[1])
    };
    let disordered = SCHEDULES.iter().filter(|schedule| !is_ordered(schedule)).count();
    let bad = [vec![0.1, 0.0], vec![0.1, 1.0], vec![-0.1, 0.2], vec![0.1, f64::NAN], vec![]];
    let accepted = bad.iter().filter(|betas| Discrete::from_betas(betas, false).is_ok()).count();
    Ok((disordered + accepted) as f64)
}

// ---- item 16 ----

/// E e^{tX} of a mixture in closed form.
fn generating(law: &Mixture, t: f64) -> f64 {
    law.components().iter().map(|c| c.weight * (c.mean * t + 0.5 * (c.std * t).powi(2)).exp()).sum()
}

/// β = 0.05 in each of 400 steps (Exercise 5 has β fixed).
fn fixed() -> Result<Discrete> {
    Discrete::from_betas(&[0.05; 400], false)
}

/// How far the order of |M_n(t) − e^{t²/2}| in √ᾱ_n is from `order`; centred data have their mean taken off.
fn generating_order(centred: bool, order: f64) -> Result<f64> {
    let shift = if centred { uneven_bumps()?.0.mean() } else { 0.0 };
    let law = Mixture::new(&[0.3, 0.7], &[-1.5 - shift, 1.0 - shift], &[0.4, 0.5])?;
    let table = fixed()?;
    worst_of([-1.0, 0.5, 1.0].into_iter().map(|t: f64| {
        let (mut steps, mut errors) = (Vec::new(), Vec::new());
        for n in [200, 240, 280, 320] {
            let at = level(&table, n)?;
            steps.push(at.alpha);
            errors.push((generating(&law.noised(at.alpha, at.sigma)?, t) - (0.5 * t * t).exp()).abs());
        }
        falling_order_miss(&steps, &errors, order)
    }))
}

fn two_point_bound() -> Result<f64> {
    let table = fixed()?;
    worst_of([5, 20, 80, 100].into_iter().map(|n| {
        let at = level(&table, n)?;
        // Narrow bumps would add their own variance: the two points enter exactly, as cosh.
        Ok(worst([0.5, 1.0, 2.0].map(|t: f64| {
            let limit = (0.5 * t * t).exp();
            let exact = (at.alpha * t).cosh() * (0.5 * (at.sigma * t).powi(2)).exp();
            (exact - limit).abs() / (limit * at.alpha.powi(4) * t.powi(4) / 12.0)
        })))
    }))
}

fn empirical_generating() -> Result<f64> {
    let law = uneven_bumps()?.0;
    let at = level(&fixed()?, 10)?;
    let x0 = one_row(&draw(&law, 160, 100_000))?;
    let x = perturb(&x0, &[at.alpha], &[at.sigma], Address::new(161, Purpose::Test), &[0])?.x_t.to_vec::<f64>()?;
    let noised = law.noised(at.alpha, at.sigma)?;
    worst_of([-1.0, 0.5, 1.0].map(|t| {
        // Var e^{tX} = M(2t) − M(t)².
        let exact = generating(&noised, t);
        let error = ((generating(&noised, 2.0 * t) - exact * exact) / x.len() as f64).sqrt();
        Ok((statistics::moment_generating(&x, t)? - exact).abs() / error)
    }))
}

fn cauchy_characteristic() -> Result<f64> {
    let law = Cauchy::new(2.0)?;
    let mut x0 = vec![0.0; 100_000];
    inverse::sample_inverse(|u| law.quantile(u), Address::new(162, Purpose::Test), &mut x0);
    let x0 = one_row(&x0)?;
    let table = fixed()?;
    worst_of([5, 50, 400].into_iter().map(|n| {
        let at = level(&table, n)?;
        let address = Address::new(163, Purpose::Test).step(n);
        let x = perturb(&x0, &[at.alpha], &[at.sigma], address, &[0])?.x_t.to_vec::<f64>()?;
        worst_of([0.3, 1.0, 2.0].map(|t: f64| {
            let (real, imaginary) = statistics::characteristic(&x, t)?;
            let exact = (-at.alpha * law.gamma() * t - 0.5 * (at.sigma * t).powi(2)).exp();
            Ok((x.len() as f64).sqrt() * (real - exact).hypot(imaginary))
        }))
    }))
}

fn plane_covariance() -> Result<f64> {
    let c = [1.5, 0.9, 0.9, 0.7];
    let oracle = Oracle::gaussian(&[1.0, -2.0], &c)?;
    let table = fixed()?;
    worst_of([1, 10, 40, 160].into_iter().map(|n| {
        let at = level(&table, n)?;
        // −∇² ln p of a Gaussian is the inverse of its covariance.
        let h = oracle.hessian(&[0.3, 0.4], at);
        let determinant = h[0] * h[3] - h[1] * h[2];
        let covariance = [-h[3] / determinant, h[1] / determinant, h[2] / determinant, -h[0] / determinant];
        let alpha_bar = at.alpha.powi(2);
        let identity = |k: usize| if k.is_multiple_of(3) { 1.0 - alpha_bar } else { 0.0 };
        Ok(worst((0..4).map(|k| (covariance[k] - alpha_bar * c[k] - identity(k)).abs())))
    }))
}

fn printed_generating() -> Result<f64> {
    let at = level(&linear()?, 1000)?;
    let sigma = 0.25 * at.sigma;
    Ok((generating(&uneven_bumps()?.0.noised(at.alpha, sigma)?, 1.0) - 0.5_f64.exp()).abs())
}

// ---- items 17 and 18 ----

fn jump_error(betas: &[f64]) -> Result<f64> {
    let table = Discrete::from_betas(betas, false)?;
    let (mut factor, mut variance) = (1.0, 0.0);
    worst_of(betas.iter().enumerate().map(|(k, beta)| {
        factor *= (1.0 - beta).sqrt();
        variance = (1.0 - beta) * variance + beta;
        let at = table.level_of(k)?;
        Ok(worst([(at.alpha - factor).abs(), (at.sigma.powi(2) - variance).abs()]))
    }))
}

fn tiny_values() -> Result<f64> {
    let steep = Discrete::from_betas(&[0.999; 300], false)?.level_of(299)?;
    let flat = Discrete::from_betas(&[1e-18; 3], false)?.level_of(2)?;
    let log = 150.0 * 0.001_f64.ln();
    // 1 − 0.999 is known to ε/0.001 only: that of its logarithm is a fourteenth of that.
    let of_table = 150.0 * (-0.999_f64).ln_1p();
    Ok(worst([
        (steep.log_alpha / of_table - 1.0).abs(),
        (of_table / log - 1.0).abs(),
        (flat.sigma.powi(2) / 3e-18 - 1.0).abs(),
    ]))
}

/// The level of the sampled kernels.
fn kernel_table() -> Result<Discrete> {
    Discrete::from_betas(&BetaSchedule::Linear.betas(50, 2e-3, 0.05), false)
}

fn kernel_samples(in_one_jump: bool) -> Result<Vec<f64>> {
    let x0 = one_row(&draw(&uneven_bumps()?.0, 171, 100_000))?;
    if in_one_jump {
        let at = level(&kernel_table()?, 50)?;
        return perturb(&x0, &[at.alpha], &[at.sigma], Address::new(172, Purpose::Test), &[0])?.x_t.to_vec();
    }
    let mut x = x0;
    for (n, beta) in BetaSchedule::Linear.betas(50, 2e-3, 0.05).into_iter().enumerate() {
        let address = Address::new(173, Purpose::Test).step(n);
        x = perturb(&x, &[(1.0 - beta).sqrt()], &[beta.sqrt()], address, &[0])?.x_t;
    }
    x.to_vec()
}

fn law_distance(x: &[f64]) -> Result<f64> {
    let at = level(&kernel_table()?, 50)?;
    let law = uneven_bumps()?.0.noised(at.alpha, at.sigma)?;
    Ok(worst([ks_scaled(x, &law)?, 0.5 * moments_z(x, law.mean(), law.variance())?]))
}

fn printed_claim() -> Result<f64> {
    let betas = BetaSchedule::Linear.betas(1000, 1e-4, 0.02);
    let product: f64 = betas[..10].iter().product();
    Ok((linear()?.level_of(9)?.alpha - product.sqrt()).abs())
}

/// The largest distance of the convolution to the normal law whose deviation is `of` the two.
fn convolution_error(of: fn(f64, f64) -> f64) -> Result<f64> {
    let rule = GaussLegendre::new(16)?;
    let cases = [(0.0, 1.0, 0.0, 1.0), (-1.0, 0.3, 2.0, 1.5), (4.0, 2.0, -1.0, 0.5)];
    Ok(worst(cases.into_iter().flat_map(|(m1, s1, m2, s2)| {
        let rule = &rule;
        points(m1 + m2 - 2.0, m1 + m2 + 2.0, 9).into_iter().map(move |x| {
            let product = |y: f64| normal_pdf(y, m1, s1) * normal_pdf(x - y, m2, s2);
            (rule.line(product, m1, s1, 64) - normal_pdf(x, m1 + m2, of(s1, s2))).abs()
        })
    })))
}
