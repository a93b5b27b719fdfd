//! Sub-sequences τ of the times (S2; item 52).

use super::super::measure::{largest, normals, table};
use super::super::{Bound, Identity};
use super::marginals::chain_miss;
use crate::error::Result;
use crate::ops::perturb;
use crate::process::{BetaSchedule, Level, Process, SchedulerConfig};
use crate::rng::{Address, Purpose};
use crate::sampler::{Grid, GridKind, check_tau, parse_tau, quadratic_tau};
use crate::tensor::Tensor;
use std::sync::Arc;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 52 S2 marginals",
        claim: "on τ of length 1, 2, 17 and T the chain's mean and variance at every τ_i are √ᾱ·x0 and 1−ᾱ",
        bound: Bound::AtMost(1e-12), // as for item 49
        measure: marginals,
    },
    Identity {
        id: "item 52 S2 complement",
        claim: "x_t off τ is one jump: √ᾱ_t·x0 + √(1−ᾱ_t)·ε with ᾱ_t the product of 1−β",
        bound: Bound::AtMost(1e-12), // 1000 factors, each rounded once: 1000·EPSILON/2 = 1e-13
        measure: complement,
    },
    Identity {
        id: "item 52 S2 accepted and refused",
        claim: "τ of one time and of all are accepted; empty ones, 0, repeats, descents and ends other than T are not",
        bound: Bound::AtMost(0.0), // wrong verdicts
        measure: verdicts,
    },
    Identity {
        id: "item 52 S2 mean misprint",
        claim: "divided twice by √(1−ᾱ_(τ_i)), as printed, the noise kept from x_(τ_i) is too large",
        bound: Bound::AtLeast(1.0), // the variance relatively: 1/(1−ᾱ) − 1, thousands at the clean end
        measure: || printed(|now, before| before / now.powi(2), |_| 0.0),
    },
    Identity {
        id: "item 52 S2 variance misprint",
        claim: "α²_(τ_i)·I, as printed, for σ²_(τ_i)·I adds noise where σ = 0",
        bound: Bound::AtLeast(0.5), // ᾱ² of variances at most 1
        measure: || printed(|now, before| before / now, |alpha_bar| alpha_bar.powi(2)),
    },
];

fn levels_of(tau: Vec<usize>) -> Result<Vec<Level>> {
    let process: Arc<dyn Process> = Arc::new(table(&BetaSchedule::Linear)?);
    let grid = Grid::new(&SchedulerConfig::default(), &process, &GridKind::Tau(tau), 1)?;
    let ends = grid.steps().iter().map(|step| step.to);
    Ok(grid.steps().iter().take(1).map(|step| step.from).chain(ends).collect())
}

fn marginals() -> Result<f64> {
    let table = table(&BetaSchedule::Linear)?;
    let all: Vec<usize> = (1..=1000).collect();
    let mut misses = Vec::new();
    for (seed, tau) in [vec![1000], vec![3, 1000], quadratic_tau(1000, 17), all].into_iter().enumerate() {
        let levels = levels_of(tau.clone())?;
        // The levels are τ's, noisiest first, then clean data.
        let times: Vec<f64> = levels.iter().rev().skip(1).map(|level| level.t + 1.0).collect();
        let is_tau = times.iter().copied().eq(tau.iter().map(|n| *n as f64));
        misses.push(if is_tau { chain_miss(&table, &levels, seed as u64)? } else { f64::NAN });
    }
    Ok(largest(misses))
}

fn complement() -> Result<f64> {
    let betas = BetaSchedule::Linear.betas(1000, 1e-4, 0.02);
    let table = table(&BetaSchedule::Linear)?;
    let tau = quadratic_tau(1000, 17);
    let x0 = Tensor::from_slice(&normals(52, 8), [1, 8])?;
    let (mut product, mut misses) = (1.0, Vec::new());
    for (k, beta) in betas.iter().enumerate() {
        product *= 1.0 - beta;
        if tau.contains(&(k + 1)) {
            continue;
        }
        let at = table.level_of(k)?;
        let address = Address::new(52, Purpose::TrainNoise).step(k);
        let jump = perturb(&x0, &[at.alpha], &[at.sigma], address, &[0])?;
        let (x_t, eps) = (jump.x_t.to_vec::<f64>()?, jump.eps.to_vec::<f64>()?);
        let want = |(x0, eps): (&f64, &f64)| product.sqrt() * x0 + (1.0 - product).sqrt() * eps;
        misses.extend(x0.host::<f64>()?.iter().zip(&eps).map(want).zip(x_t).map(|(want, got)| got - want));
    }
    Ok(largest(misses))
}

fn verdicts() -> Result<f64> {
    let all: Vec<usize> = (1..=10).collect();
    let accepted: [&[usize]; 4] = [&[10], &all, &[1, 10], &[2, 3, 7, 10]];
    let refused: [&[usize]; 7] = [&[], &[0, 10], &[0], &[1, 5, 5, 10], &[5, 3, 10], &[1, 11], &[1, 9]];
    let wrong = accepted.iter().filter(|tau| check_tau(tau, 10).is_err()).count()
        + refused.iter().filter(|tau| check_tau(tau, 10).is_ok()).count()
        + usize::from(parse_tau("1 3\n10").ok() != Some(vec![1, 3, 10]))
        + ["1 x", "1.5", "-1"].iter().filter(|text| parse_tau(text).is_ok()).count()
        + (1..=10).filter(|steps| check_tau(&quadratic_tau(10, *steps), 10).is_err()).count();
    Ok(wrong as f64)
}

/// The largest relative miss of the variance after one step on τ at σ = 0: `kept(1−ᾱ_(τ_i), 1−ᾱ_(τ_(i−1)))`, the share of x's
/// variance that stays, and `added(ᾱ_(τ_i))`.
fn printed(kept: fn(f64, f64) -> f64, added: fn(f64) -> f64) -> Result<f64> {
    let levels = levels_of(quadratic_tau(1000, 17))?;
    let noisy = levels.windows(2).filter(|pair| !pair[1].is_clean());
    Ok(largest(noisy.map(|pair| {
        let (now, before) = (pair[0].sigma.powi(2), pair[1].sigma.powi(2));
        (kept(now, before) * now + added(pair[0].alpha.powi(2))) / before - 1.0
    })))
}
