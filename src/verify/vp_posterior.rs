//! The posterior q(x_{t−1} | x_t, x_0), the two variances of the reverse step, and the mean from score or noise (S0, S1, S3 sections 2.2
//! and 3.1; items 19, 20 and 23).

use super::chain::{Affine, Gaussian, Step};
use super::one_dim::{points, worst, worst_of};
use super::vp::{level, linear};
use super::{Bound, Identity};
use crate::analytic::gaussian::normal_pdf;
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::process::{BetaSchedule, Level, Variance};

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 19 S3.eq54-57 three forms",
        claim: "ddpm's mean for known x_0 is the mean in x_0, in eps, and in the score of q(x_t|x_0)",
        bound: Bound::AtMost(1e-12), // β/(1−ᾱ) cancels against 1 at small t: a few ε over √(1e-4)
        measure: three_forms,
    },
    Identity {
        id: "item 19 S3.eq56 Bayes",
        claim: "mean and variance of q(x_t|x_{t−1})·q(x_{t−1}|x_0)/q(x_t|x_0) on a grid are ddpm's with β̃",
        bound: Bound::AtMost(1e-12), // sums of 801 points, spectrally accurate
        measure: grid_bayes,
    },
    Identity {
        id: "item 19 S1 first step",
        claim: "β̃_1 = 0 and the mean is x_0: the last step returns x_0 whatever x_1 and z",
        bound: Bound::AtMost(1e-14), // one product
        measure: first_step,
    },
    Identity {
        id: "item 19 S0 mean misprint",
        claim: "β_0 and β̄_0 for β_t and ᾱ_t in the mean, x_{t+1} for x_{t−1}: miss of the factor of x_t at t = 500",
        // ᾱ_1 = 0.9999 against √α_500·(1−ᾱ_499)/(1−ᾱ_500) = 0.99; of x_0: β_1·√ᾱ_1/(1−ᾱ_500) against 3e-3. The larger miss is 0.5 %.
        bound: Bound::AtLeast(2e-3),
        measure: printed_posterior_mean,
    },
    Identity {
        id: "item 19 S0 variance misprint",
        claim: "β_0(1−ᾱ_t)/(1−ᾱ_t) = β_0 for β̃_t: relative miss of the variance at t = 500",
        // 1e-4 against 0.01.
        bound: Bound::AtLeast(0.9),
        measure: || Ok((1e-4 / reverse_variance(500, Variance::FixedSmall)? - 1.0).abs()),
    },
    Identity {
        id: "item 19 S3.eq54 variance misprint",
        claim: "variance β_n for β̃_n: relative miss at n = 2",
        // β₂/β̃₂ − 1 = 1.2.
        bound: Bound::AtLeast(1.0),
        measure: || Ok(1.0 / variance_ratio(2)? - 1.0),
    },
    Identity {
        id: "item 19 S1 mean misprint",
        claim: "1/√ᾱ_t for 1/√α_t before the bracket: the factor of x_t at t = 1000",
        // 157 against 1.01.
        bound: Bound::AtLeast(100.0),
        measure: || Ok((1.0 / level(&linear()?, 1000)?.alpha - 1.0 / (1.0 - beta(1000)?).sqrt()).abs()),
    },
    Identity {
        id: "item 20 S3.eq24 ratio",
        claim: "β̃/β is 0.455 at n = 2, 0.982 at 101 and 0.9999992 at 1000: largest miss in half units of the last digit",
        bound: Bound::AtMost(1.0),
        measure: ratio_digits,
    },
    Identity {
        id: "item 20 S0 constant data",
        claim: "X⁰ constant and σ² = β̃: every law on the way is N(√ᾱ_n·x_0, 1 − ᾱ_n), the last the constant",
        bound: Bound::AtMost(1e-12), // 1000 affine maps
        measure: || reproduces(&Gaussian { mean: 1.7, variance: 0.0 }, Step::POSTERIOR),
    },
    Identity {
        id: "item 20 S3.eq28 unit Gaussian",
        claim: "X⁰ ~ N(0, 1) and σ² = β with the literal last noise: every law on the way is N(0, 1)",
        bound: Bound::AtMost(1e-12), // 1000 affine maps
        measure: || reproduces(&UNIT, Step::LITERAL),
    },
    Identity {
        id: "item 20 S3.eq28 last noise",
        claim: "z = 0 in the last step leaves N(0, 1) with the variance 1 − β₁",
        bound: Bound::AtMost(1e-12), // as above
        measure: || {
            let silent = Step { variance: Variance::FixedLarge, noise_at_end: false };
            let end = laws(&UNIT, silent)?.last().map_or(f64::NAN, |law| law.1.1);
            Ok((end - (1.0 - beta(1)?)).abs())
        },
    },
    Identity {
        id: "item 20 S0 wrong variance",
        claim: "β for constant data and β̃ for N(0, 1) do not reproduce them: the smaller of the two misses",
        // Constant data: √β₁ of noise is left, 1e-4 of variance, and more on the way (β₂ − β̃₂). N(0, 1): the early steps' β − β̃ miss.
        bound: Bound::AtLeast(5e-5),
        measure: || {
            let constant = reproduces(&Gaussian { mean: 1.7, variance: 0.0 }, Step::LITERAL)?;
            Ok(constant.min(reproduces(&UNIT, Step::POSTERIOR)?))
        },
    },
    Identity {
        id: "item 23 S3.eq25-30 three means",
        claim: "(x + β·score)/√α, (x − β·eps/√(1−ᾱ))/√α and ddpm's mean agree on a mixture",
        bound: Bound::AtMost(1e-12), // as item 19
        measure: mixture_means,
    },
    Identity {
        id: "item 23 S3.eq134-135 in space",
        claim: "the same in three dimensions",
        bound: Bound::AtMost(1e-12), // as item 19
        measure: space_means,
    },
    Identity {
        id: "item 23 S1 bars misprint",
        claim: "(1−α_t)/√(1−α_t) for (1−α_t)/√(1−ᾱ_t), as S0's one letter d_t and S1's sampler have it: the factor of eps at t = 1000",
        // √0.02 = 0.14 against 0.02.
        bound: Bound::AtLeast(0.1),
        measure: || {
            let (beta, at) = (beta(1000)?, level(&linear()?, 1000)?);
            Ok((beta.sqrt() - beta / at.sigma).abs() / (1.0 - beta).sqrt())
        },
    },
];

const UNIT: Gaussian = Gaussian { mean: 0.0, variance: 1.0 };

/// β_n of DDPM's table.
pub(super) fn beta(n: usize) -> Result<f64> {
    Ok(BetaSchedule::Linear.betas(1000, 1e-4, 0.02)[n - 1])
}

/// The levels n and n − 1.
fn pair(n: usize) -> Result<(Level, Level)> {
    let table = linear()?;
    Ok((level(&table, n)?, level(&table, n - 1)?))
}

/// A denoiser that knows x_0.
fn known(x0: f64) -> Result<Oracle> {
    Oracle::data_set(&[vec![x0]])
}

fn three_forms() -> Result<f64> {
    let x0 = 0.7;
    let (oracle, x) = (known(x0)?, points(-3.0, 3.0, 13));
    worst_of([2, 3, 10, 101, 500, 1000].into_iter().map(|n| {
        let ((from, to), beta) = (pair(n)?, beta(n)?);
        let got = Step::POSTERIOR.apply(&oracle, (from, to), &x, &[0.0; 13])?;
        // 1 − ᾱ from the table: 1 − alpha² would lose what the identity is about at small n.
        let (rest, rest_before) = (from.sigma.powi(2), to.sigma.powi(2));
        let small = beta * rest_before / rest;
        Ok(worst(x.iter().zip(got).map(|(x, got)| {
            let in_x0 = small * ((1.0 - beta).sqrt() / beta * x + to.alpha / rest_before * x0);
            let eps = (x - from.alpha * x0) / from.sigma;
            let in_eps = (x - beta / from.sigma * eps) / (1.0 - beta).sqrt();
            let score = -(x - from.alpha * x0) / rest;
            let in_score = (x + beta * score) / (1.0 - beta).sqrt();
            worst([(got - in_x0).abs(), (got - in_eps).abs(), (got - in_score).abs()])
        })))
    }))
}

fn grid_bayes() -> Result<f64> {
    let x0 = 0.7;
    let oracle = known(x0)?;
    worst_of([2, 10, 101, 500, 1000].into_iter().map(|n| {
        let ((from, to), beta) = (pair(n)?, beta(n)?);
        let x_t = from.alpha * x0 - 0.8 * from.sigma;
        let step = Step::POSTERIOR.apply(&oracle, (from, to), &[x_t, x_t], &[0.0, 1.0])?;
        let (mean, deviation) = (step[0], step[1] - step[0]);
        let grid = points(mean - 12.0 * deviation, mean + 12.0 * deviation, 801);
        let weight =
            |x: f64| normal_pdf(x_t, (1.0 - beta).sqrt() * x, beta.sqrt()) * normal_pdf(x, to.alpha * x0, to.sigma);
        let moment = |f: &dyn Fn(f64) -> f64| grid.iter().map(|x| weight(*x) * f(*x)).sum::<f64>();
        let mass = moment(&|_| 1.0);
        let centre = moment(&|x| x) / mass;
        let variance = moment(&|x| (x - centre).powi(2)) / mass;
        // The grid's mass is q(x_t|x_0).
        let evidence = mass * (grid[1] - grid[0]) / normal_pdf(x_t, from.alpha * x0, from.sigma);
        Ok(worst([(centre - mean).abs(), (variance / deviation.powi(2) - 1.0).abs(), (evidence - 1.0).abs()]))
    }))
}

fn first_step() -> Result<f64> {
    let end = Step { variance: Variance::FixedSmall, noise_at_end: true };
    let out = end.apply(&known(0.7)?, pair(1)?, &[-2.0, 0.0, 3.0], &[1.0, -4.0, 2.0])?;
    Ok(worst(out.into_iter().map(|x| (x - 0.7).abs())))
}

/// The variance of the noise of step n.
fn reverse_variance(n: usize, variance: Variance) -> Result<f64> {
    let step = Step { variance, noise_at_end: true };
    Ok(step.affine(&UNIT, pair(n)?)?.noise.powi(2))
}

fn variance_ratio(n: usize) -> Result<f64> {
    Ok(reverse_variance(n, Variance::FixedSmall)? / reverse_variance(n, Variance::FixedLarge)?)
}

fn ratio_digits() -> Result<f64> {
    let given = [(2, 0.455, 5e-4), (101, 0.982, 5e-4), (1000, 0.999_999_2, 5e-8)];
    worst_of(given.into_iter().map(|(n, ratio, half)| Ok((variance_ratio(n)? - ratio).abs() / half)))
}

fn printed_posterior_mean() -> Result<f64> {
    let ((from, to), first) = (pair(500)?, level(&linear()?, 1)?);
    let (bar_0, beta_0, beta) = (first.alpha.powi(2), beta(1)?, beta(500)?);
    let rest = from.sigma.powi(2);
    // As printed: (1−ᾱ_t)β_0/(1−ᾱ_t)·[β̄_0/β_0·x_t + √β̄_0/(1−ᾱ_t)·x_0].
    let printed = (bar_0, beta_0 * bar_0.sqrt() / rest);
    let right = ((1.0 - beta).sqrt() * to.sigma.powi(2) / rest, to.alpha * beta / rest);
    Ok(worst([(printed.0 - right.0).abs(), (printed.1 - right.1).abs()]))
}

/// Mean and variance.
type Moments = (f64, f64);

/// The exact marginal at each level from T − 1 to 0, and what the chain makes of the one at T.
fn laws(data: &Gaussian, step: Step) -> Result<Vec<(Moments, Moments)>> {
    let table = linear()?;
    let levels = (0..=1000).rev().map(|n| level(&table, n)).collect::<Result<Vec<Level>>>()?;
    let marginal = |at: &Level| (at.alpha * data.mean, at.alpha.powi(2) * data.variance + at.sigma.powi(2));
    let mut moments = marginal(&levels[0]);
    let chain: Vec<Affine> = step.affine_chain(data, &levels)?;
    let next = |(at, map): (&Level, Affine)| {
        moments = map.moments(moments);
        (marginal(at), moments)
    };
    Ok(levels[1..].iter().zip(chain).map(next).collect())
}

fn reproduces(data: &Gaussian, step: Step) -> Result<f64> {
    let laws = laws(data, step)?;
    Ok(worst(laws.into_iter().map(|(want, got)| worst([(want.0 - got.0).abs(), (want.1 - got.1).abs()]))))
}

fn mixture_means() -> Result<f64> {
    let (law, oracle) = super::one_dim::uneven_bumps()?;
    let x = points(-4.0, 4.0, 17);
    worst_of([2, 10, 101, 500, 1000].into_iter().map(|n| {
        let ((from, to), beta) = (pair(n)?, beta(n)?);
        let got = Step::LITERAL.apply(&oracle, (from, to), &x, &[0.0; 17])?;
        let marginal = law.noised(from.alpha, from.sigma)?;
        Ok(worst(x.iter().zip(got).map(|(x, got)| {
            let in_score = (x + beta * marginal.score(*x)) / (1.0 - beta).sqrt();
            let eps = (x - from.alpha * oracle.posterior_mean(&[*x], from)[0]) / from.sigma;
            let in_eps = (x - beta / from.sigma * eps) / (1.0 - beta).sqrt();
            worst([(got - in_score).abs(), (got - in_eps).abs()])
        })))
    }))
}

fn space_means() -> Result<f64> {
    let oracle = super::denoising::space()?;
    let x = [0.4, -1.2, 0.9];
    worst_of([2, 10, 101, 500, 1000].into_iter().map(|n| {
        let ((from, to), beta) = (pair(n)?, beta(n)?);
        let (score, mean) = (oracle.score(&x, from), oracle.posterior_mean(&x, from));
        // ddpm's mean in x_t and x0_hat, the two factors read off a known x_0 of 0 and 1.
        let zero = Step::LITERAL.apply(&known(0.0)?, (from, to), &[0.0, 1.0], &[0.0, 0.0])?;
        let one = Step::LITERAL.apply(&known(1.0)?, (from, to), &[0.0, 1.0], &[0.0, 0.0])?;
        Ok(worst((0..3).map(|i| {
            let got = zero[1] * x[i] + one[0] * mean[i];
            (got - (x[i] + beta * score[i]) / (1.0 - beta).sqrt()).abs()
        })))
    }))
}
