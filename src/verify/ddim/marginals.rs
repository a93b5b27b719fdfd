//! The non-Markovian family q_σ has DDPM's marginals, and S2's induction (item 49).

use super::super::measure::{LinearStep, all_levels, largest, table};
use super::super::{Bound, Identity};
use crate::analytic::gaussian::normal_pdf;
use crate::analytic::quadrature::GaussLegendre;
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::process::{BetaSchedule, Discrete, Level, Process};
use crate::rng::{Address, Purpose};
use crate::sampler::{DdimNoise, Grid, ddim};
use std::sync::Arc;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 49 S3.eq149 marginals",
        claim: "for any σ_n in [0, √(1−ᾱ_(n−1))] the chain's mean and variance are √ᾱ_n·x0 and 1−ᾱ_n at all n",
        // 1000 steps of a few roundings of numbers near 1, read as differences of two: 1000·8·EPSILON = 2e-12 at worst, its
        // root mean square a thirtieth of that.
        bound: Bound::AtMost(1e-12),
        measure: || {
            let table = table(&BetaSchedule::Linear)?;
            let levels = all_levels(&table)?;
            Ok(largest([1, 2, 3].map(|seed| chain_miss(&table, &levels, seed).unwrap_or(f64::NAN))))
        },
    },
    Identity {
        id: "item 49 S3.eq149 misprint",
        claim: "with √ᾱ_n·X0 for √ᾱ_(n+1)·X0 inside, as printed, the mean is off by 0.557·|x0| near n = 230 at σ = 0",
        bound: Bound::AtLeast(0.5),
        measure: || printed_means(|misses| largest(misses.iter().copied())),
    },
    Identity {
        id: "item 49 S3.eq149 last mean",
        claim: "which the last step hides: at n = 0 the printed mean is right",
        bound: Bound::AtMost(1e-12), // √ᾱ_0·x0 + 0·(…)
        measure: || printed_means(|misses| misses.last().copied().unwrap_or(f64::NAN)),
    },
    Identity {
        id: "item 49 S3.eq149 sigma misprint",
        claim: "σ ≥ 0 alone, as printed, allows variances above 1−ᾱ_n: σ² must not exceed that, and the sampler refuses it",
        bound: Bound::AtLeast(0.1), // σ = 1.1·√(1−ᾱ_n): 1.21 − 1
        measure: too_much_noise,
    },
    Identity {
        id: "item 49 S3.eq150 misprint",
        claim: "√α_n, as printed, for √ᾱ_n keeps nearly all of the data at n = N",
        bound: Bound::AtLeast(0.9), // √0.98 − √4e-5
        measure: without_bar,
    },
    Identity {
        id: "item 49 S3.eq118 misprint",
        claim: "∏(1−β_n) over i ≤ n, as printed, for ᾱ_n = ∏(1−β_i) is (1−β_n)^n",
        bound: Bound::AtLeast(0.1), // of numbers from 1 to 0
        measure: last_beta_alone,
    },
    Identity {
        id: "item 49 S2 induction",
        claim: "∫ q(x_k|x0)·q(x_(k−1)|x_k, x0) dx_k = N(√ᾱ_(k−1)·x0, 1−ᾱ_(k−1)), by quadrature",
        bound: Bound::AtMost(1e-12), // densities of height up to 1.5 from 1024 Gauss points
        measure: || induction(|_, alpha_bar| (1.0 - alpha_bar).sqrt()),
    },
    Identity {
        id: "item 49 S2 result misprint",
        claim: "the variance (1−ᾱ_(k−1))·σ_k², as printed, is another",
        bound: Bound::AtLeast(0.1), // of densities of order 1
        measure: || induction(|sigma, alpha_bar| (1.0 - alpha_bar).sqrt() * sigma),
    },
    Identity {
        id: "item 49 S2 integral",
        claim: "the completed square's integral over x_k is √(π/a) with a = (1−ᾱ_(k−1))/(2σ_k²(1−ᾱ_k))",
        bound: Bound::AtMost(1e-12), // relative, 1024 Gauss points
        measure: || gaussian_integral(|a| (std::f64::consts::PI / a).sqrt()),
    },
    Identity {
        id: "item 49 S2 integral misprint",
        claim: "1/√(2π), as printed, for that integral is wrong",
        bound: Bound::AtLeast(0.1), // relative
        measure: || gaussian_integral(|_| 1.0 / std::f64::consts::TAU.sqrt()),
    },
];

const X0: f64 = 0.7;

/// The largest miss of mean and variance along a chain of DDIM steps with exact x0_hat and random σ.
pub(super) fn chain_miss(table: &Discrete, levels: &[Level], seed: u64) -> Result<f64> {
    let oracle = Oracle::data_set(&[vec![X0]])?;
    let process: Arc<dyn Process> = Arc::new(table.clone());
    let (uniform, first) = (Address::new(seed, Purpose::Test), levels[0]);
    let mut now = (first.alpha * X0, first.sigma.powi(2));
    let mut misses = Vec::new();
    for (i, pair) in levels.windows(2).enumerate() {
        let grid = Grid::through(&process, pair)?;
        let noise = DdimNoise::Sigma(vec![uniform.uniform(i) * pair[1].sigma]);
        now = LinearStep::read(&oracle, |run, x| ddim(run, x, &grid, &noise, false))?.push(now);
        misses.extend([now.0 - pair[1].alpha * X0, now.1 - pair[1].sigma.powi(2)]);
    }
    Ok(largest(misses))
}

/// The misses of eq. 149's mean as printed, at σ = 0 and x0 = 1, from n = N − 1 to 0.
fn printed_means(pick: fn(&[f64]) -> f64) -> Result<f64> {
    let levels = all_levels(&table(&BetaSchedule::Linear)?)?;
    let mut mean = levels[0].alpha;
    let mut misses = Vec::new();
    for pair in levels.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        mean = to.alpha + to.sigma / from.sigma * (mean - to.alpha);
        misses.push((mean - to.alpha).abs());
    }
    Ok(pick(&misses))
}

fn too_much_noise() -> Result<f64> {
    let oracle = Oracle::data_set(&[vec![X0]])?;
    let table = table(&BetaSchedule::Linear)?;
    let levels = all_levels(&table)?;
    let process: Arc<dyn Process> = Arc::new(table);
    let misses = levels.windows(2).filter(|pair| !pair[1].is_clean()).map(|pair| {
        let sigma = 1.1 * pair[1].sigma;
        let grid = Grid::through(&process, pair)?;
        let noise = DdimNoise::Sigma(vec![sigma]);
        let is_refused = LinearStep::read(&oracle, |run, x| ddim(run, x, &grid, &noise, false)).is_err();
        // What the printed kernel would add alone, with nothing kept of X^(n+1).
        Ok(if is_refused { (sigma / pair[1].sigma).powi(2) - 1.0 } else { f64::NAN })
    });
    Ok(largest(misses.collect::<Result<Vec<f64>>>()?))
}

fn without_bar() -> Result<f64> {
    let betas = BetaSchedule::Linear.betas(1000, 1e-4, 0.02);
    let table = table(&BetaSchedule::Linear)?;
    let misses = betas.iter().enumerate().map(|(k, beta)| Ok((1.0 - beta).sqrt() - table.level_of(k)?.alpha));
    Ok(largest(misses.collect::<Result<Vec<_>>>()?))
}

fn last_beta_alone() -> Result<f64> {
    let betas = BetaSchedule::Linear.betas(1000, 1e-4, 0.02);
    let table = table(&BetaSchedule::Linear)?;
    let misses = betas.iter().enumerate().map(|(k, beta)| Ok((1.0 - beta).powi(k as i32 + 1) - table.alpha_bar(k)?));
    Ok(largest(misses.collect::<Result<Vec<_>>>()?))
}

/// ᾱ_k, ᾱ_(k−1) and σ_k of a few steps.
fn few_steps() -> Result<Vec<(f64, f64, f64)>> {
    let table = table(&BetaSchedule::Linear)?;
    let step = |(k, share): (usize, f64)| {
        let (now, before) = (table.alpha_bar(k)?, table.alpha_bar(k - 1)?);
        Ok((now, before, share * (1.0 - before).sqrt()))
    };
    [(200, 0.3), (400, 0.9), (600, 0.5), (990, 0.1)].into_iter().map(step).collect()
}

fn induction(deviation: fn(f64, f64) -> f64) -> Result<f64> {
    let rule = GaussLegendre::new(16)?;
    let mut misses = Vec::new();
    for (now, before, sigma) in few_steps()? {
        let centre = now.sqrt() * X0;
        let keep = (1.0 - before - sigma * sigma).sqrt() / (1.0 - now).sqrt();
        for offset in [-1.0, 0.0, 0.6] {
            let to = before.sqrt() * X0 + offset;
            let joint = |x: f64| {
                normal_pdf(x, centre, (1.0 - now).sqrt())
                    * normal_pdf(to, before.sqrt() * X0 + keep * (x - centre), sigma)
            };
            // The integrand's bump lies where the second factor wants it.
            let got = rule.line(joint, centre + offset, 0.3, 64);
            misses.push(got - normal_pdf(to, before.sqrt() * X0, deviation(sigma, before)));
        }
    }
    Ok(largest(misses))
}

/// The integral over x_k of S2's two exponents, and what completing the square leaves: formula(a)·e^(−(x_(k−1) − √ᾱ_(k−1)·x0)²/(2(1−ᾱ_(k−1)))).
fn gaussian_integral(formula: fn(f64) -> f64) -> Result<f64> {
    let rule = GaussLegendre::new(16)?;
    let offset: f64 = 0.4;
    let miss = |(now, before, sigma): (f64, f64, f64)| {
        let keep = ((1.0 - before - sigma * sigma) / (1.0 - now)).sqrt();
        // x from √ᾱ_k·x0 on.
        let exponent = |x: f64| -x * x / (2.0 * (1.0 - now)) - (offset - keep * x).powi(2) / (2.0 * sigma * sigma);
        let got = rule.line(|x| exponent(x).exp(), offset, 0.3, 64);
        let a = (1.0 - before) / (2.0 * sigma * sigma * (1.0 - now));
        formula(a) * (-offset * offset / (2.0 * (1.0 - before))).exp() / got - 1.0
    };
    Ok(largest(few_steps()?.into_iter().map(miss)))
}
