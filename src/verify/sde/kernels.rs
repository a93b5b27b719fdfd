//! Closed kernels and the SDEs they solve (items 35 and 39).

use super::super::measure::{derivative, largest, miss, order_miss};
use super::super::{Bound, Identity};
use crate::analytic::quadrature::GaussLegendre;
use crate::error::Result;
use crate::process::{BetaCurve, Custom, Discrete, Edm, Flow, LinearLogSnr, Ou, Process, SubVp, Ve, Vp};

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 35 S3.eq68 moments",
        claim: "every closed kernel solves m' = f·m and v' = 2·f·v + g²",
        // The stencil is a hundredth of the distance to the nearer end: it misses a pole there by 64·0.01⁸ = 1e-14, and the
        // logistic curve of rate 12 by (12·0.005)⁸/30 = 1e-11; it rounds off by EPSILON·|ln v|/0.01 = 3e-13 of 1/t, and by 1e-10 of
        // 17 where VE's ln v = −9 meets h = 2e-5. Custom's own fourth-order differences with steps of 1e-4 are good to 2e-12.
        bound: Bound::AtMost(1e-10),
        measure: moments,
    },
    Identity {
        id: "item 35 S3.eq81 time_at",
        claim: "the log-SNR of every process falls, and time_at inverts it",
        // A few roundings of |half_log_snr| ≤ 12 over its slope, at least 1: 16·12·EPSILON.
        bound: Bound::AtMost(16.0 * 12.0 * f64::EPSILON),
        measure: inverse,
    },
    Identity {
        id: "item 35 S3.eq65 S3.eq67 chain",
        claim: "betas β(n/N)/N become dX = −½β·X dt + √β dW: marginals and coefficients differ by O(1/N)",
        bound: Bound::AtMost(0.1), // a slope within 0.1 of 1 names the order
        measure: chain,
    },
    Identity {
        id: "item 35 S3.eq64 steps",
        claim: "steps √β·Z, Z ~ N(0, Δt), add the variance of dX = √β dZ",
        // The midpoint sum of 1000 steps: (Δt)²/24 of v'' relative to v is 5e-6 at most here.
        bound: Bound::AtMost(1e-5),
        measure: || ve_steps(|root_beta| root_beta),
    },
    Identity {
        id: "item 35 S3.eq63 misprint",
        claim: "steps β·Z, Z ~ N(0, Δt), as printed, add another variance",
        // β = 2·ln 10·σ² makes ∫β²/∫β − 1 = ln 10·(1 + 0.1²) − 1 = 1.33.
        bound: Bound::AtLeast(1.0),
        measure: || ve_steps(|root_beta| root_beta.powi(2)),
    },
    Identity {
        id: "item 35 S3.eq63 sigma misprint",
        claim: "σ²·Z for the step of variance σ², as printed, loses nearly all of it",
        bound: Bound::AtLeast(0.5), // σ² of each of 1000 steps is of order 1e-3
        measure: squared_sigma,
    },
    Identity {
        id: "item 39 S3.eq108 S3.eq109 moments",
        claim: "OU's kernel is e^(−βt), σ²(1 − e^(−2βt))/(2β): the response of the SDE to noise, by quadrature",
        bound: Bound::AtMost(1e-14), // 32 Gauss points sum to about 32·EPSILON
        measure: ou_moments,
    },
    Identity {
        id: "item 39 S3.eq109 semigroup",
        claim: "OU's kernels compose: k_s∘k_t = k_(s+t)",
        bound: Bound::AtMost(1e-14), // products of a few numbers below 1
        measure: semigroup,
    },
    Identity {
        id: "item 39 S3.eq109 stationary",
        claim: "OU keeps N(0, σ²/(2β)), its prior",
        bound: Bound::AtMost(1e-14),
        measure: stationary,
    },
];

/// One of each process with a closed kernel.
fn processes() -> Result<Vec<Box<dyn Process>>> {
    let (min, max) = (0.1, 20.0);
    let angle = |t: f64| (0.05 + 0.8 * t) * std::f64::consts::FRAC_PI_2;
    Ok(vec![
        Box::new(Vp::new(BetaCurve::Linear { min, max }, false)?),
        Box::new(Vp::new(BetaCurve::ScaledLinear { min, max }, false)?),
        Box::new(Vp::new(BetaCurve::Cosine, false)?),
        Box::new(Vp::new(BetaCurve::Sigmoid { min, max }, false)?),
        Box::new(Vp::new(BetaCurve::Linear { min, max }, true)?),
        Box::new(SubVp::new(BetaCurve::Linear { min, max })?),
        Box::new(Ve::new(0.01, 50.0)?),
        Box::new(Ou::new(1.5, 0.8)?),
        Box::new(Edm::new(0.002, 80.0, 7.0)?),
        Box::new(Flow),
        Box::new(LinearLogSnr::new(-8.0, 7.0)?),
        Box::new(Custom::new(move |t| angle(t).cos().ln(), move |t| angle(t).sin(), 1.0)?),
    ])
}

/// Times close to both ends and between. Nearer to pure noise, ln alpha of a process that ends in it has lost too many digits for a
/// difference: its 1 − alpha is rounded.
const TIMES: [f64; 10] = [0.002, 0.01, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.99];

fn moments() -> Result<f64> {
    let miss_of = |process: &dyn Process, t: f64| {
        // In logarithms: (ln m)' = f, (ln v)' = 2f + g²/v, so that processes of any size are held to the same digits.
        let h = 0.01 * t.min(1.0 - t);
        let mean = derivative(|t| process.log_alpha(t), t, h);
        let variance = derivative(|t| 2.0 * process.sigma(t).ln(), t, h);
        let (f, g) = (process.drift(t), process.diffusion(t));
        largest([miss(mean, f), miss(variance, 2.0 * f + (g / process.sigma(t)).powi(2))])
    };
    let list = processes()?;
    Ok(largest(list.iter().flat_map(|p| TIMES.map(|t| miss_of(&**p, t)))))
}

fn inverse() -> Result<f64> {
    let miss_of = |process: &dyn Process| {
        let times: Vec<f64> = (1..200).map(|i| f64::from(i) / 200.0).collect();
        let falls = times.windows(2).all(|pair| process.half_log_snr(pair[1]) < process.half_log_snr(pair[0]));
        if !falls {
            return f64::NAN;
        }
        largest(times.iter().map(|t| process.time_at(process.half_log_snr(*t)) - t))
    };
    Ok(largest(processes()?.iter().map(|p| miss_of(&**p))))
}

fn chain() -> Result<f64> {
    let beta = BetaCurve::Linear { min: 0.1, max: 20.0 };
    let sde = Vp::new(beta, false)?;
    let steps = [200, 400, 800, 1600];
    let (mut marginals, mut coefficients) = (Vec::new(), Vec::new());
    for n in steps {
        let time = |k: usize| (k + 1) as f64 / n as f64;
        let betas: Vec<f64> = (0..n).map(|k| beta.beta(time(k)) / n as f64).collect();
        let table = Discrete::from_betas(&betas, false)?;
        let levels = (0..n).map(|k| table.level_of(k)).collect::<Result<Vec<_>>>()?;
        marginals.push(largest(levels.iter().map(|level| {
            let at = sde.level(level.time);
            largest([level.alpha - at.alpha, level.sigma - at.sigma])
        })));
        coefficients.push(largest(levels.iter().map(|level| {
            let at = sde.level(level.time);
            largest([level.drift - at.drift, level.diffusion.powi(2) - at.diffusion.powi(2)])
        })));
    }
    Ok(order_miss(&steps, &marginals, 1.0)?.max(order_miss(&steps, &coefficients, 1.0)?))
}

/// How far the variance of 1000 steps coefficient(√β)·Z, Z ~ N(0, Δt), is from that of VE's kernel, relatively.
fn ve_steps(coefficient: impl Fn(f64) -> f64) -> Result<f64> {
    let process = Ve::new(0.1, 1.0)?;
    let dt = 1e-3;
    let step = |k: usize| coefficient(process.diffusion((k as f64 + 0.5) * dt)).powi(2) * dt;
    let added: f64 = (0..1000).map(step).sum();
    let kernel = process.sigma(1.0).powi(2) - process.sigma(0.0).powi(2);
    Ok((added / kernel - 1.0).abs())
}

fn squared_sigma() -> Result<f64> {
    let process = Ve::new(0.1, 1.0)?;
    let variance = |k: usize| process.sigma(k as f64 / 1000.0).powi(2);
    let added: f64 = (0..1000).map(|k| (variance(k + 1) - variance(k)).powi(2)).sum();
    Ok((added / (variance(1000) - variance(0)) - 1.0).abs())
}

fn ou_moments() -> Result<f64> {
    let (rate, noise) = (1.5, 0.8);
    let process = Ou::new(rate, noise)?;
    let rule = GaussLegendre::new(32)?;
    let miss_of = |t: f64| {
        // X_t = e^(−βt)·X_0 + σ∫e^(−β(t−s)) dW_s, so Var = σ²∫e^(−2β(t−s)) ds.
        let variance = rule.integrate(|s| (noise * (-rate * (t - s)).exp()).powi(2), 0.0, t);
        largest([process.alpha(t) - (-rate * t).exp(), process.sigma(t).powi(2) - variance])
    };
    Ok(largest([0.01, 0.1, 0.4, 0.7, 1.0].map(miss_of)))
}

fn semigroup() -> Result<f64> {
    let process = Ou::new(1.5, 0.8)?;
    let miss_of = |(s, t): (f64, f64)| {
        let (first, second, whole) = (process.level(s), process.level(t), process.level(s + t));
        let variance = (second.alpha * first.sigma).powi(2) + second.sigma.powi(2);
        largest([first.alpha * second.alpha - whole.alpha, variance - whole.sigma.powi(2)])
    };
    Ok(largest([(0.1, 0.2), (0.01, 0.9), (0.5, 0.5), (0.3, 0.003)].map(miss_of)))
}

fn stationary() -> Result<f64> {
    let process = Ou::new(1.5, 0.8)?;
    let prior = process.prior_std().powi(2);
    let after = |t: f64| process.alpha(t).powi(2) * prior + process.sigma(t).powi(2);
    Ok(largest([0.01, 0.3, 1.0].map(|t| after(t) - prior)))
}
