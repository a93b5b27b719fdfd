//! DDIM's step between the deterministic and the ancestral one (items 50 and 51).

use super::super::measure::{all_levels, column, largest, miss, normals, table, two_bumps};
use super::super::{Bound, Identity};
use crate::denoiser::{Denoiser, Threshold};
use crate::error::Result;
use crate::process::{BetaSchedule, Process, SchedulerConfig, Variance};
use crate::rng::{Address, Purpose};
use crate::sampler::{DdimNoise, Grid, GridStep, Run, StepNoise, ddim, ddpm};
use std::sync::Arc;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 50 S3.eq152 ancestral",
        claim: "eta 1 is DDPM's step with beta-tilde, given the same z, at all 1000 steps of two schedules",
        // A few roundings of numbers of size 1 to 4, where 1−ᾱ comes from summed logarithms.
        bound: Bound::AtMost(1e-12),
        measure: ancestral,
    },
    Identity {
        id: "item 50 S3.eq153 update",
        claim: "the step is √ᾱ_n·x̂0 + √(1−ᾱ_n−σ²)·ε̂ + σ_(n+1)·z with x̂0 = (x − √(1−ᾱ_(n+1))·ε̂)/√ᾱ_(n+1)",
        bound: Bound::AtMost(1e-12), // as above; x̂0 by division through √ᾱ ≥ 0.006 of differences with EPSILON: 1e-13
        measure: || update(|alpha_bar| alpha_bar.sqrt()),
    },
    Identity {
        id: "item 50 S3.eq153 misprint",
        claim: "divided by ᾱ_(n+1), as printed, x̂0 enters 1/√ᾱ_(n+1) times too large",
        bound: Bound::AtLeast(0.1), // relative to x: a noisy step adds x̂0 itself where √ᾱ·x̂0 belongs
        measure: || update(|alpha_bar| alpha_bar),
    },
    Identity {
        id: "item 50 S3.eq153 sigma misprint",
        claim: "σ_n·Z, as printed, for σ_(n+1)·Z changes the variances, at eta 1 relatively",
        bound: Bound::AtLeast(0.3), // β̃_1 = 0 for β̃_2 = 0.54·β_2 where the variance is β_1
        measure: shifted_sigma,
    },
    Identity {
        id: "item 50 S3.eq153 eta 0",
        claim: "eta 0 gives the same bits for every seed of the noise",
        bound: Bound::AtMost(0.0),
        measure: bits,
    },
    Identity {
        id: "item 50 S3.eq151 clipped",
        claim: "with clipped x̂0 the raw ε̂ stays, or is recomputed as (x − √ᾱ·x̂0)/√(1−ᾱ) if asked",
        bound: Bound::AtMost(1e-12), // a few roundings of numbers below 10
        measure: || clipped(|got, want| largest([got[0] - want[0], got[1] - want[1]])),
    },
    Identity {
        id: "item 50 S3.eq151 clipping matters",
        claim: "and the two are not the same",
        bound: Bound::AtLeast(1e-3), // a step's share of what is clipped off
        measure: || clipped(|got, _| (got[0] - got[1]).abs()),
    },
    Identity {
        id: "item 51 S3.eq153 exponential integrator",
        claim: "eta 0 is the exact flow in half_log_snr for constant ε̂: x' = (α'/α)·x − σ'·(e^h − 1)·ε̂",
        bound: Bound::AtMost(1e-12), // α'/α through logarithms: EPSILON·|ln α| ≤ 1e-15, times x
        measure: exponential,
    },
];

/// Points that the step is taken from.
const POINTS: [f64; 4] = [-2.5, -0.3, 0.8, 3.0];

/// DDIM's step from [`POINTS`].
fn step_of(denoiser: &dyn Denoiser, grid: &Grid, noise: &DdimNoise, z: &[f64], recompute: bool) -> Result<Vec<f64>> {
    let given = [column(z)?];
    let mut run = Run::new(denoiser, StepNoise::Given(&given), &[0, 1, 2, 3]);
    ddim(&mut run, column(&POINTS)?, grid, noise, recompute)?.to_vec()
}

/// Calls `body` with every step of a schedule's table.
fn for_steps(schedule: &BetaSchedule, mut body: impl FnMut(&Grid, GridStep) -> Result<()>) -> Result<()> {
    let table = table(schedule)?;
    let levels = all_levels(&table)?;
    let process: Arc<dyn Process> = Arc::new(table);
    levels.windows(2).try_for_each(|pair| {
        let at = GridStep { from: pair[0], to: pair[1] };
        body(&Grid::through(&process, pair)?, at)
    })
}

fn ancestral() -> Result<f64> {
    let (oracle, _) = two_bumps()?;
    let z = normals(50, POINTS.len());
    let mut misses = Vec::new();
    for schedule in [BetaSchedule::Linear, BetaSchedule::Cosine] {
        for_steps(&schedule, |grid, _| {
            let ours = step_of(&oracle, grid, &DdimNoise::Eta(1.0), &z, false)?;
            let given = [column(&z)?];
            let mut run = Run::new(&oracle, StepNoise::Given(&given), &[0, 1, 2, 3]);
            let theirs = ddpm(&mut run, column(&POINTS)?, grid, Variance::FixedSmall, false)?.to_vec::<f64>()?;
            misses.extend(ours.iter().zip(&theirs).map(|(a, b)| miss(*a, *b)));
            Ok(())
        })?;
    }
    Ok(largest(misses))
}

/// Eq. 153 with x̂0's divisor as a function of ᾱ_(n+1), against the sampler at eta 0.6.
fn update(divisor: fn(f64) -> f64) -> Result<f64> {
    let (oracle, _) = two_bumps()?;
    let z = normals(51, POINTS.len());
    let noise = DdimNoise::Eta(0.6);
    let mut misses = Vec::new();
    for_steps(&BetaSchedule::Linear, |grid, at| {
        let got = step_of(&oracle, grid, &noise, &z, false)?;
        let sigma = noise.deviation(at, (0, 1))?;
        for ((x, z), got) in POINTS.iter().zip(&z).zip(got) {
            // ε̂ by Tweedie's formula: −√(1−ᾱ)·score.
            let eps = -at.from.sigma * oracle.score(&[*x], at.from)[0];
            let x0 = (x - at.from.sigma * eps) / divisor(at.from.alpha.powi(2));
            let kept = (at.to.sigma.powi(2) - sigma * sigma).max(0.0).sqrt();
            misses.push(miss(at.to.alpha * x0 + kept * eps + sigma * z, got));
        }
        Ok(())
    })?;
    Ok(largest(misses))
}

/// The largest relative miss of the variance with σ_n for σ_(n+1) in front of Z, from 1 − ᾱ_N on.
fn shifted_sigma() -> Result<f64> {
    let mut steps: Vec<GridStep> = Vec::new();
    for_steps(&BetaSchedule::Linear, |_, at| {
        steps.push(at);
        Ok(())
    })?;
    let noise = DdimNoise::Eta(1.0);
    let sigmas = steps.iter().map(|at| noise.deviation(*at, (0, 1))).collect::<Result<Vec<_>>>()?;
    let mut variance = steps[0].from.sigma.powi(2);
    let mut misses = Vec::new();
    for (at, pair) in steps.iter().zip(sigmas.windows(2)) {
        let kept = (at.to.sigma.powi(2) - pair[0].powi(2)) / at.from.sigma.powi(2);
        variance = kept * variance + pair[1].powi(2);
        misses.push(variance / at.to.sigma.powi(2) - 1.0);
    }
    Ok(largest(misses))
}

fn bits() -> Result<f64> {
    let (oracle, _) = two_bumps()?;
    let table = table(&BetaSchedule::Linear)?;
    let grid = Grid::through(&(Arc::new(table.clone()) as Arc<dyn Process>), &all_levels(&table)?)?;
    let end = |seed: u64| -> Result<Vec<f64>> {
        let noise = StepNoise::Drawn(Address::new(seed, Purpose::ReverseStep));
        let mut run = Run::new(&oracle, noise, &[0, 1, 2, 3]);
        ddim(&mut run, column(&POINTS)?, &grid, &DdimNoise::Eta(0.0), false)?.to_vec()
    };
    let (a, b) = (end(1)?, end(2)?);
    let differ = a.iter().zip(&b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    Ok(differ as f64)
}

/// The largest of `compare([raw, recomputed], [their formulas])` over the steps, clipping at 0.4.
fn clipped(compare: fn([f64; 2], [f64; 2]) -> f64) -> Result<f64> {
    let bound = 0.4;
    let config = SchedulerConfig { clip_sample: true, clip_sample_range: bound, ..SchedulerConfig::default() };
    let (oracle, _) = two_bumps()?;
    let denoiser = Threshold { inner: &oracle, config: &config };
    let mut found = Vec::new();
    for_steps(&BetaSchedule::Linear, |grid, at| {
        if at.to.is_clean() {
            return Ok(());
        }
        let step = |recompute: bool| step_of(&denoiser, grid, &DdimNoise::Eta(0.0), &[0.0; 4], recompute);
        for ((x, raw), again) in POINTS.iter().zip(step(false)?).zip(step(true)?) {
            let x0 = oracle.posterior_mean(&[*x], at.from)[0];
            let kept = x0.clamp(-bound, bound);
            let eps = |x0: f64| (x - at.from.alpha * x0) / at.from.sigma;
            let formula = |eps: f64| at.to.alpha * kept + at.to.sigma * eps;
            found.push(compare([raw, again], [formula(eps(x0)), formula(eps(kept))]));
        }
        Ok(())
    })?;
    Ok(largest(found))
}

/// The exact flow of dx/dλ = (α'/α)·x − σ·ε̂ over h = λ' − λ, with α and σ from λ alone.
fn exponential() -> Result<f64> {
    let (oracle, _) = two_bumps()?;
    let mut misses = Vec::new();
    for_steps(&BetaSchedule::Linear, |grid, at| {
        if at.to.is_clean() {
            return Ok(()); // λ' is infinite
        }
        let got = step_of(&oracle, grid, &DdimNoise::Eta(0.0), &[0.0; 4], false)?;
        let (from, to) = (at.from.half_log_snr(), at.to.half_log_snr());
        // α² = 1/(1 + e^(−2λ)), σ² = 1/(1 + e^(2λ)).
        let alpha = |l: f64| (1.0 + (-2.0 * l).exp()).recip().sqrt();
        let sigma = |l: f64| (1.0 + (2.0 * l).exp()).recip().sqrt();
        for (x, got) in POINTS.iter().zip(got) {
            let eps = (x - alpha(from) * oracle.posterior_mean(&[*x], at.from)[0]) / sigma(from);
            let want = alpha(to) / alpha(from) * x - sigma(to) * (to - from).exp_m1() * eps;
            misses.push(miss(got, want));
        }
        Ok(())
    })?;
    Ok(largest(misses))
}
