//! Exact laws of sampling chains in one dimension: the coefficients of a sampler's step are read off by giving it the noise 0 and 1,
//! and mean, variance or the whole density is carried through them. So a chain is measured without drawing a sample.

use super::measure::column;
use crate::denoiser::{Denoiser, Estimate};
use crate::error::Result;
use crate::process::{Level, Process, Variance, Ve};
use crate::sampler::{Grid, Run, StepNoise, ddpm};
use crate::tensor::Tensor;
use std::sync::Arc;

/// The exact denoiser of N(mean, variance) in every coordinate, as one affine map: E[x0|x] = mean + g·(x − alpha·mean).
pub(super) struct Gaussian {
    /// Mean of the data.
    pub mean: f64,
    /// Variance of the data.
    pub variance: f64,
}

impl Gaussian {
    /// g = alpha·v/(alpha²·v + sigma²).
    fn gain(&self, at: Level) -> f64 {
        at.alpha * self.variance / (at.alpha.powi(2) * self.variance + at.sigma.powi(2))
    }
}

impl Denoiser for Gaussian {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        let gain = self.gain(at);
        let shift = (1.0 - gain * at.alpha) * self.mean;
        let ones = Tensor::from_slice(&vec![1.0; x_t.count()], x_t.shape())?;
        let x0 = (gain, shift);
        let eps = ((1.0 - at.alpha * gain) / at.sigma, -at.alpha * shift / at.sigma);
        Ok(Estimate {
            x_t: x_t.clone(),
            net_out: ones,
            x0,
            eps,
            clip: None,
            x0_hat: None,
            variance: None,
            is_guided: false,
        })
    }
}

/// A denoiser whose score is off by `delta` everywhere: x0_hat is off by sigma²·delta/alpha (Tweedie).
pub(super) struct ShiftedScore<'a> {
    /// The exact one.
    pub inner: &'a dyn Denoiser,
    /// Error of the score.
    pub delta: f64,
}

impl Denoiser for ShiftedScore<'_> {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        let shift = at.sigma.powi(2) * self.delta / at.alpha;
        let exact = self.inner.denoise(x_t, at)?.x0_hat()?.to_vec::<f64>()?;
        let shifted: Vec<f64> = exact.iter().map(|x| x + shift).collect();
        Ok(Estimate::of_x0(x_t.clone(), Tensor::from_slice(&shifted, x_t.shape())?, at))
    }
}

/// How DDPM's step is taken: the variance, and whether the step to clean data has noise (the documents' literal one).
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// β or β̃.
    pub variance: Variance,
    /// √β₁·z in the last step.
    pub noise_at_end: bool,
}

impl Step {
    /// The documents' literal step: variance β, noise in the last step too (S3, the algorithm after eq. 62).
    pub(super) const LITERAL: Step = Step { variance: Variance::FixedLarge, noise_at_end: true };
    /// Ho et al. 2020 with β̃.
    pub(super) const POSTERIOR: Step = Step { variance: Variance::FixedSmall, noise_at_end: false };

    /// The real sampler from `from` to `to`, at each of `x` with each of the noises `z`.
    pub(super) fn apply(
        self,
        denoiser: &dyn Denoiser,
        (from, to): (Level, Level),
        x: &[f64],
        z: &[f64],
    ) -> Result<Vec<f64>> {
        let z = [column(z)?];
        let mut run = Run::new(denoiser, StepNoise::Given(&z), &[]);
        ddpm(&mut run, column(x)?, &through(&[from, to])?, self.variance, self.noise_at_end)?.to_vec()
    }

    /// The affine map of the step, for a denoiser that is affine.
    pub(super) fn affine(self, denoiser: &dyn Denoiser, at: (Level, Level)) -> Result<Affine> {
        let out = self.apply(denoiser, at, &[0.0, 1.0, 0.0], &[0.0, 0.0, 1.0])?;
        Ok(Affine { factor: out[1] - out[0], shift: out[0], noise: out[2] - out[0] })
    }

    /// The affine maps through these levels, noisiest first.
    pub(super) fn affine_chain(self, denoiser: &dyn Denoiser, levels: &[Level]) -> Result<Vec<Affine>> {
        levels.windows(2).map(|pair| self.affine(denoiser, (pair[0], pair[1]))).collect()
    }
}

/// x → factor·x + shift + noise·z.
#[derive(Clone, Copy, Debug)]
pub(super) struct Affine {
    /// Factor of x.
    pub factor: f64,
    /// What is added.
    pub shift: f64,
    /// Deviation of the fresh noise.
    pub noise: f64,
}

impl Affine {
    /// Mean and variance after the map.
    pub(super) fn moments(self, (mean, variance): (f64, f64)) -> (f64, f64) {
        (self.factor * mean + self.shift, self.factor.powi(2) * variance + self.noise.powi(2))
    }
}

/// A grid through levels of any process: the samplers here read nothing of the process beyond its levels.
pub(super) fn through(levels: &[Level]) -> Result<Grid> {
    let process: Arc<dyn Process> = Arc::new(Ve::new(0.1, 1.0)?);
    Grid::through(&process, levels)
}

/// A density on equidistant points. Sums over them are spectrally accurate for Gaussian mixtures whose widths are above the spacing.
#[derive(Clone)]
pub(super) struct Law {
    low: f64,
    cell: f64,
    density: Vec<f64>,
}

impl Law {
    /// `pdf` on `cells + 1` points of [−reach, reach].
    pub(super) fn new(pdf: impl Fn(f64) -> f64, reach: f64, cells: usize) -> Law {
        let cell = 2.0 * reach / cells as f64;
        Law { low: -reach, cell, density: (0..=cells).map(|i| pdf(cell.mul_add(i as f64, -reach))).collect() }
    }

    fn points(&self) -> Vec<f64> {
        (0..self.density.len()).map(|i| self.cell.mul_add(i as f64, self.low)).collect()
    }

    /// The law of mean(x) + std·z, with `means` the mean at every point.
    fn push(&mut self, means: &[f64], std: f64) {
        let mut next = vec![0.0; self.density.len()];
        let scale = self.cell / (std * std::f64::consts::TAU.sqrt());
        for (mean, density) in means.iter().zip(&self.density) {
            // Beyond nine deviations lies 1e-19 of the mass.
            let at = |x: f64| ((x - self.low) / self.cell).clamp(0.0, next.len() as f64) as usize;
            let (first, last) = (at(mean - 9.0 * std), at(mean + 9.0 * std + self.cell));
            for (j, value) in next.iter_mut().enumerate().take(last).skip(first) {
                let u = (self.cell.mul_add(j as f64, self.low) - mean) / std;
                *value += density * scale * (-0.5 * u * u).exp();
            }
        }
        self.density = next;
    }

    /// The law after DDPM's steps through these levels, noisiest first.
    pub(super) fn sampled(mut self, denoiser: &dyn Denoiser, levels: &[Level], step: Step) -> Result<Law> {
        let x = self.points();
        for pair in levels.windows(2) {
            let at = (pair[0], pair[1]);
            let means = step.apply(denoiser, at, &x, &vec![0.0; x.len()])?;
            let noise = step.apply(denoiser, at, &[0.0, 0.0], &[0.0, 1.0])?;
            self.push(&means, noise[1] - noise[0]);
        }
        Ok(self)
    }

    /// W₁ = ∫ |F − G| dx to another law on the same points.
    pub(super) fn wasserstein(&self, other: &Law) -> f64 {
        let mut gap = 0.0;
        let gaps = self.density.iter().zip(&other.density).map(|(p, q)| {
            gap += (p - q) * self.cell;
            f64::abs(gap)
        });
        gaps.sum::<f64>() * self.cell
    }
}
