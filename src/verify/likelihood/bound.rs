//! The bound itself on linear-Gaussian chains, the identities behind it, and maximum likelihood on a coin (items 25–28).

use super::super::measure::{largest, normals};
use super::super::one_dim::points;
use super::super::vp::{level, linear};
use super::super::vp_posterior::beta;
use super::super::{Bound, Identity};
use crate::analytic::Bernoulli;
use crate::error::Result;
use crate::likelihood::{LinearChain, LinearStep, Transition};
use crate::process::{Discrete, Level};
use std::f64::consts::TAU;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 25 S3.eq39 bound",
        claim: "−ln p(x0) = L_T + Σ L_{t−1} + L_0 − KL(q(x_1…x_T|x0) ‖ p(x_1…x_T|x0)) for models with an affine eps_hat",
        bound: Bound::AtMost(1e-10), // Cholesky factors of 8x8 covariances with entries down to 1e-2: 1e-16·1e4
        measure: decomposition,
    },
    Identity {
        id: "item 25 S3.eq39 equality",
        claim: "the bound is −ln p(x0) where the model's reverse steps are the exact ones, which makes p(x_1…x_T|x0) = q",
        bound: Bound::AtMost(1e-12), // sums of 8 terms of size 1 to 10
        measure: || Ok(largest(exact_cases()?.into_iter().map(|(bound, log_p, _)| bound + log_p))),
    },
    Identity {
        id: "item 25 S3.eq39 strict",
        claim: "for any other model it is above: the least gap over models and points",
        bound: Bound::AtLeast(1e-3), // a KL between Gaussians of different means, second order in a miss of 0.1
        measure: || {
            let gaps = model_cases()?.into_iter().map(|(bound, log_p, _)| bound + log_p);
            Ok(gaps.fold(f64::INFINITY, f64::min))
        },
    },
    Identity {
        id: "item 25 S1 no log misprint",
        claim: "p_θ(x0) without its log is not what the bound reaches where log p_θ(x0) is",
        // The bound b is −ln p: e^{−b} + b is 1 at least.
        bound: Bound::AtLeast(1.0),
        measure: || {
            let misses = exact_cases()?.into_iter().map(|(bound, log_p, _)| (log_p.exp() + bound).abs());
            Ok(misses.fold(f64::INFINITY, f64::min))
        },
    },
    Identity {
        id: "item 25 S0 joint misprint",
        claim: "log p_θ(x_{0:T}) for log p_θ(x_0): −E_q log p(x_0…x_T) is the bound plus q's entropy, not the bound",
        // Eight coordinates with deviations from 0.1 to 1: the entropy is −4 nats or so.
        bound: Bound::AtLeast(1.0),
        measure: || Ok(entropy_of_path(&levels()?).abs()),
    },
    Identity {
        id: "item 25 S0 sign misprint",
        claim: "+KL for −KL: E log p(x0|x_1) + Σ KL exceeds log p(x0), so it bounds nothing",
        bound: Bound::AtLeast(1e-2), // twice the KLs, less the gap
        measure: || {
            let excess = model_cases()?.into_iter().map(|(_, log_p, [l_t, sum, l_0])| l_t + sum - l_0 - log_p);
            Ok(excess.fold(f64::INFINITY, f64::min))
        },
    },
    Identity {
        id: "item 26 S3.exercise6 fit",
        claim: "θ̂ is the mean: no θ of a grid has a lower −ln L (its excess below 0, at worst)",
        bound: Bound::AtMost(0.0),
        measure: || {
            let (flips, fitted) = coin()?;
            let best = fitted.nll(&flips);
            let others =
                points(0.001, 0.999, 999).into_iter().map(|theta| Ok(best - Bernoulli::new(theta)?.nll(&flips)));
            Ok(others.collect::<Result<Vec<f64>>>()?.into_iter().fold(f64::NEG_INFINITY, f64::max).max(0.0))
        },
    },
    Identity {
        id: "item 26 S3.exercise6 decomposition",
        claim: "−ln L/n = KL(p̂ ‖ p_θ) + H(p̂)",
        bound: Bound::AtMost(1e-14), // sums of two; the likelihood sums 40 equal numbers
        measure: || {
            let (flips, fitted) = coin()?;
            let miss = |theta: f64| {
                let model = Bernoulli::new(theta)?;
                Ok(model.nll(&flips) / flips.len() as f64 - fitted.kl(&model) - fitted.entropy())
            };
            Ok(largest([0.1, 0.3, 0.5, 0.9].into_iter().map(miss).collect::<Result<Vec<f64>>>()?))
        },
    },
    Identity {
        id: "item 27 S3.exercise7 Bayes",
        claim: "q(x_t|x_{t−1}) = q(x_{t−1}|x_t, x_0)·q(x_t|x_0)/q(x_{t−1}|x_0), as logarithms of densities",
        // Squares of (x − mean)/σ with |x| up to 2 and σ down to 0.01: ε·(2/0.01)·a few deviations.
        bound: Bound::AtMost(1e-11),
        measure: || bayes(|_, posterior| posterior),
    },
    Identity {
        id: "item 27 S0 Bayes misprint",
        claim: "q(x_{t−1}|x_t), which forgets x_0 (data N(0, 1)), in place of q(x_{t−1}|x_t, x_0)",
        // β for β̃ at n = 2 alone is ½ln 2.2 of nats.
        bound: Bound::AtLeast(0.1),
        measure: || bayes(|forgetful, _| forgetful),
    },
    Identity {
        id: "item 28 S3.eq45-46 telescope",
        claim: "Σ_{t≥2} ln q(x_t|x_{t−1})/q(x_{t−1}|x_t, x_0) = ln q(x_T|x_0) − ln q(x_1|x_0) on a path of DDPM's table",
        // 999 terms, each off by 1e-14 of its square of a few.
        bound: Bound::AtMost(1e-9),
        measure: telescope,
    },
];

/// ln N(x; mean, variance).
fn log_normal(x: f64, mean: f64, variance: f64) -> f64 {
    -0.5 * ((TAU * variance).ln() + (x - mean).powi(2) / variance)
}

fn levels() -> Result<Vec<Level>> {
    let betas: Vec<f64> = (1..=8).map(|k| 0.05 * f64::from(k)).collect();
    let table = Discrete::from_betas(&betas, false)?;
    (0..8).map(|k| table.level_of(k)).collect()
}

/// The exact reverse steps of data N(0, variance).
fn exact(variance: f64) -> Result<LinearChain> {
    let levels = levels()?;
    let spread = |at: Level| at.alpha.powi(2) * variance + at.sigma.powi(2);
    let step = |to: Level, from: Level| {
        let keep = from.alpha / to.alpha * spread(to) / spread(from);
        LinearStep { shift: 0.0, keep, variance: spread(to) - keep * keep * spread(from) }
    };
    let below = [Level::CLEAN].into_iter().chain(levels.iter().copied());
    let steps = below.zip(&levels).map(|(to, from)| step(to, *from)).collect();
    let top = spread(levels[7]).sqrt();
    LinearChain::new(levels, steps, top)
}

/// Bound, ln p and parts at some points.
type Case = (f64, f64, [f64; 3]);

fn cases_of(chain: &LinearChain) -> Result<Vec<Case>> {
    let case = |x0: f64| Ok((chain.bound(x0)?, chain.log_density(x0), chain.parts(x0)?));
    [-1.5, -0.2, 0.0, 0.7, 2.5].into_iter().map(case).collect()
}

fn exact_cases() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for variance in [0.25, 1.0, 3.0] {
        cases.extend(cases_of(&exact(variance)?)?);
    }
    Ok(cases)
}

/// Chains whose steps are off in all three numbers, by a seed.
fn models() -> Result<Vec<LinearChain>> {
    let levels = levels()?;
    let make = |seed: u64| {
        let z = normals(seed, 3 * levels.len());
        let step = |i: usize| LinearStep {
            shift: 0.3 * z[3 * i],
            keep: 0.9 + 0.1 * z[3 * i + 1],
            variance: 0.1 * (1.0 + i as f64) * (0.3 * z[3 * i + 2]).exp(),
        };
        LinearChain::new(levels.clone(), (0..levels.len()).map(step).collect(), 1.0)
    };
    (250..256).map(make).collect()
}

fn model_cases() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for chain in models()? {
        cases.extend(cases_of(&chain)?);
    }
    Ok(cases)
}

fn decomposition() -> Result<f64> {
    let mut misses = Vec::new();
    for chain in models()?.into_iter().chain([exact(0.25)?, exact(3.0)?]) {
        for x0 in [-1.5, -0.2, 0.0, 0.7, 2.5] {
            misses.push(chain.bound(x0)? + chain.log_density(x0) - chain.gap(x0)?);
        }
    }
    Ok(largest(misses))
}

/// The entropy of q(x_1…x_T|x0), the sum of its steps'.
fn entropy_of_path(levels: &[Level]) -> f64 {
    let below = [Level::CLEAN].into_iter().chain(levels.iter().copied());
    let beta = |to: Level, from: &Level| from.sigma.powi(2) - (from.alpha / to.alpha * to.sigma).powi(2);
    below.zip(levels).map(|(to, from)| 0.5 * ((TAU * beta(to, from)).ln() + 1.0)).sum()
}

/// Forty flips of a coin of 0.3, and its fit.
fn coin() -> Result<(Vec<bool>, Bernoulli)> {
    let flips: Vec<bool> = normals(26, 40).into_iter().map(|z| z < -0.5244).collect();
    let fitted = Bernoulli::fit(&flips)?;
    Ok((flips, fitted))
}

/// The largest miss of Bayes' identity over times and points; `choose` takes ln q(x_{t−1}|x_t) for N(0, 1) data and ln q(x_{t−1}|x_t, x_0).
fn bayes(choose: fn(f64, f64) -> f64) -> Result<f64> {
    let table = linear()?;
    let mut misses = Vec::new();
    for n in [2, 3, 10, 101, 500, 1000] {
        let (from, to, beta) = (level(&table, n)?, level(&table, n - 1)?, beta(n)?);
        let z = normals(27 + n as u64, 12);
        for z in z.chunks_exact(3) {
            let x0 = z[0];
            let x_s = to.alpha * x0 + to.sigma * z[1];
            let x_t = (1.0 - beta).sqrt() * x_s + beta.sqrt() * z[2];
            let forward = log_normal(x_t, (1.0 - beta).sqrt() * x_s, beta);
            let posterior = log_posterior(x_s, x_t, x0, (from, to), beta)?;
            let forgetful = log_normal(x_s, (1.0 - beta).sqrt() * x_t, beta);
            let rest =
                log_normal(x_t, from.alpha * x0, from.sigma.powi(2)) - log_normal(x_s, to.alpha * x0, to.sigma.powi(2));
            misses.push(forward - choose(forgetful, posterior) - rest);
        }
    }
    Ok(largest(misses))
}

/// ln q(x_s | x_t, x0) by the documents' mean (S3.eq56) and the transition's variance.
fn log_posterior(x_s: f64, x_t: f64, x0: f64, (from, to): (Level, Level), beta: f64) -> Result<f64> {
    let tilde = Transition::new(from, to)?.beta_tilde();
    let mean = tilde * ((1.0 - beta).sqrt() / beta * x_t + to.alpha / to.sigma.powi(2) * x0);
    Ok(log_normal(x_s, mean, tilde))
}

fn telescope() -> Result<f64> {
    let table = linear()?;
    let z = normals(28, 1001);
    let x0 = z[1000];
    let (mut x, mut sum) = (0.0, 0.0);
    for n in 1..=1000 {
        let (from, beta) = (level(&table, n)?, beta(n)?);
        let before = if n == 1 { x0 } else { x };
        x = (1.0 - beta).sqrt() * before + beta.sqrt() * z[n - 1];
        if n == 1 {
            sum += log_normal(x, from.alpha * x0, from.sigma.powi(2));
            continue;
        }
        let to = level(&table, n - 1)?;
        sum += log_normal(x, (1.0 - beta).sqrt() * before, beta);
        sum -= log_posterior(before, x, x0, (from, to), beta)?;
    }
    let end = level(&table, 1000)?;
    Ok((sum - log_normal(x, end.alpha * x0, end.sigma.powi(2))).abs())
}
