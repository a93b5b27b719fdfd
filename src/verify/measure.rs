//! What the identities share: derivatives, known data, levels, a sampler's step read as a linear map, and its runs.

use crate::analytic::{Mixture, statistics};
use crate::denoiser::Denoiser;
use crate::denoiser::oracle::Oracle;
use crate::error::{Error, Result};
use crate::process::{BetaCurve, BetaSchedule, Discrete, Level, Process, Vp};
use crate::rng::{Address, Purpose};
use crate::sampler::{Grid, Run, StepNoise};
use crate::tensor::Tensor;
use std::sync::Arc;

/// The largest magnitude; NaN if one is, which `f64::max` would drop.
pub(super) fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, |most, v| if v.is_nan() || most.is_nan() { f64::NAN } else { most.max(v.abs()) })
}

/// |a − b| / max(|b|, 1): relative where values are large.
pub(super) fn miss(a: f64, b: f64) -> f64 {
    (a - b).abs() / b.abs().max(1.0)
}

/// f'(t) by the central difference of eighth order: error h⁸·f⁽⁹⁾/630, rounding about EPSILON·|f|/h.
pub(super) fn derivative(f: impl Fn(f64) -> f64, t: f64, h: f64) -> f64 {
    const WEIGHTS: [f64; 4] = [0.8, -0.2, 4.0 / 105.0, -1.0 / 280.0];
    let pair = |(k, weight): (usize, &f64)| {
        let reach = (k + 1) as f64 * h;
        weight * (f(t + reach) - f(t - reach))
    };
    WEIGHTS.iter().enumerate().map(pair).sum::<f64>() / h
}

/// Standard normals of a seed, in f64.
pub(super) fn normals(seed: u64, count: usize) -> Vec<f64> {
    let mut z = vec![0.0_f32; count];
    Address::new(seed, Purpose::Test).fill_normal(&mut z);
    z.into_iter().map(f64::from).collect()
}

/// One number a row.
pub(super) fn column(values: &[f64]) -> Result<Tensor> {
    Tensor::from_slice(values, [values.len(), 1])
}

/// Data with two bumps, 0.4·N(−1.2, 0.4²) + 0.6·N(0.9, 0.5²): as a denoiser, and as a law.
pub(super) fn two_bumps() -> Result<(Oracle, Mixture)> {
    let (weights, means, stds) = ([0.4, 0.6], [-1.2, 0.9], [0.4, 0.5]);
    let oracle = Oracle::isotropic(&weights, &means.map(|m| vec![m]), &stds)?;
    Ok((oracle, Mixture::new(&weights, &means, &stds)?))
}

/// Song et al. 2021's VP process, β from 0.1 to 20.
pub(super) fn vp() -> Result<Arc<dyn Process>> {
    Ok(Arc::new(Vp::new(BetaCurve::Linear { min: 0.1, max: 20.0 }, false)?))
}

/// Ho et al. 2020's table: T = 1000, betas from 1e-4 to 0.02, or Nichol & Dhariwal's cosine.
pub(super) fn table(schedule: &BetaSchedule) -> Result<Discrete> {
    Discrete::from_betas(&schedule.betas(1000, 1e-4, 0.02), false)
}

/// Every level of a table, noisiest first, then clean data.
pub(super) fn all_levels(table: &Discrete) -> Result<Vec<Level>> {
    let mut levels = (0..table.steps()).rev().map(|k| table.level_of(k)).collect::<Result<Vec<_>>>()?;
    levels.push(Level::CLEAN);
    Ok(levels)
}

/// `steps` equal steps of time from 1 down to `last`.
pub(super) fn equal_times(process: &Arc<dyn Process>, last: f64, steps: usize) -> Result<Grid> {
    let time = |k: usize| 1.0 - (1.0 - last) * k as f64 / steps as f64;
    let levels: Vec<Level> = (0..=steps).map(|k| process.level(time(k))).collect();
    Grid::through(process, &levels)
}

/// `steps` equal steps of half_log_snr from time 1 down to time `last`.
pub(super) fn equal_log_snr(process: &Arc<dyn Process>, last: f64, steps: usize) -> Result<Grid> {
    let (begin, end) = (process.half_log_snr(1.0), process.half_log_snr(last));
    let level = |k: usize| match k {
        0 => process.level(1.0),
        _ if k == steps => process.level(last),
        _ => process.level_at(begin + (end - begin) * k as f64 / steps as f64),
    };
    let levels: Vec<Level> = (0..=steps).map(level).collect();
    Grid::through(process, &levels)
}

/// One step of a sampler on Gaussian data in one dimension: next = shift + keep·x + noise·z.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinearStep {
    pub(super) shift: f64,
    pub(super) keep: f64,
    pub(super) noise: f64,
}

impl LinearStep {
    /// Reads the three numbers off the step that `body` takes from three points with given noise.
    pub(super) fn read(
        denoiser: &dyn Denoiser,
        body: impl FnOnce(&mut Run<'_>, Tensor) -> Result<Tensor>,
    ) -> Result<LinearStep> {
        let noise = [column(&[0.0, 0.0, 1.0])?];
        let mut run = Run::new(denoiser, StepNoise::Given(&noise), &[0, 1, 2]);
        match body(&mut run, column(&[0.0, 1.0, 0.0])?)?.host::<f64>()? {
            &[shift, moved, noised] => Ok(LinearStep { shift, keep: moved - shift, noise: noised - shift }),
            other => Err(Error::Shape(format!("linear step: three rows went in, {} came out", other.len()))),
        }
    }

    /// Mean and variance after the step.
    pub(super) fn push(self, (mean, variance): (f64, f64)) -> (f64, f64) {
        (self.shift + self.keep * mean, self.keep.powi(2) * variance + self.noise.powi(2))
    }
}

/// Kolmogorov and Smirnov's distance of samples to a law, in units of the one that true samples exceed with probability `alpha`.
pub(super) fn ks_share(samples: &[f64], law: &Mixture, alpha: f64) -> Result<f64> {
    let critical = statistics::ks_critical(alpha, samples.len() as f64)?;
    Ok(statistics::ks(samples, |x| law.cdf(x))? / critical)
}

/// The same for two samples of one size.
pub(super) fn ks_two_share(a: &[f64], b: &[f64], alpha: f64) -> Result<f64> {
    let (n, m) = (a.len() as f64, b.len() as f64);
    Ok(statistics::ks_two(a, b)? / statistics::ks_critical(alpha, n * m / (n + m))?)
}

/// How far the order at which `errors` fall with 1/`steps` lies from `order`.
pub(super) fn order_miss(steps: &[usize], errors: &[f64], order: f64) -> Result<f64> {
    let sizes: Vec<f64> = steps.iter().map(|n| 1.0 / *n as f64).collect();
    Ok((statistics::fit_order(&sizes, errors)? - order).abs())
}

/// √(mean of squares) of a difference.
pub(super) fn rms(a: &[f64], b: &[f64]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    if a.len() == b.len() { (sum / a.len() as f64).sqrt() } else { f64::NAN }
}
