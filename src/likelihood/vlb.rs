//! The variational bound of given points, by Monte Carlo over noise and levels.
//!
//! Levels are not drawn evenly over time: most of Σ L_{t−1} lies in a small part of it. With L = ln(alpha²/sigma²) the sum is an
//! integral of ½·E‖eps − eps_hat‖² over L in continuous time (Kingma et al. 2021, eq. 18: whatever the schedule between the ends), and near
//! it for a chain. That integrand is bounded for large L and falls like e^L for small ones, so levels are drawn evenly in s = ln(1 +
//! e^(L + 8)), which is finite even where the last level is pure noise. The draws of one point are equidistant in s behind one uniform offset of
//! its own: low discrepancy within a point, independence between points, and so a standard error that is exact.

use super::chain::{Chain, Link, terminal_kl};
use super::decoder::Decoder;
use crate::denoiser::Denoiser;
use crate::error::{Error, Result};
use crate::ops;
use crate::process::{Level, Process};
use crate::rng::{Address, Purpose};
use crate::tensor::Tensor;

/// Which bound: that of a chain of T levels, or of continuous time.
#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    /// L_T + Σ L_{t−1} + L_0.
    Chain(&'a Chain),
    /// T → ∞, with ∫ −½·dL/dt·E‖eps − eps_hat‖² dt for the sum; from time 1 to the process's least time.
    Continuous(&'a dyn Process),
}

/// How it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlbOptions {
    /// Levels for each point; a chain of at most as many steps has each taken once.
    pub draws: usize,
    /// Draws of x_1 for L_0.
    pub decoder_draws: usize,
    /// Seed of levels and noise.
    pub seed: u64,
}

impl Default for VlbOptions {
    fn default() -> VlbOptions {
        VlbOptions { draws: 32, decoder_draws: 4, seed: 0 }
    }
}

/// One draw's part of Σ L_{t−1}.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Time of its level, 0 to 1.
    pub time: f64,
    /// Its part, in nats; the parts of a point sum to [`Bound::diffusion`] less [`Bound::constant`].
    pub nats: f64,
}

/// The bound of one point, in nats.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// L_T, exact.
    pub terminal: f64,
    /// Σ L_{t−1}, an unbiased estimate; with [`Bound::constant`].
    pub diffusion: f64,
    /// The part of it that comes from the variances alone, exact; 0 in continuous time.
    pub constant: f64,
    /// L_0, an unbiased estimate.
    pub decoder: f64,
    /// The draws behind `diffusion`.
    pub terms: Vec<Term>,
}

impl Bound {
    /// −log p(x0) is at most this, on average over the draws.
    pub fn total(&self) -> f64 {
        self.terminal + self.diffusion + self.decoder
    }
}

/// The bound of each point of `x0`.
///
/// * `x0` — `[n, …]`, f32 or f64 (f32 on a GPU)
/// * `samples` — `[n]`, the index of each point in the whole of the data: its noise is addressed by it
///
/// With a [`super::ReverseVariance`] the constants of the steps are counted. The denoiser's x0_hat may be clipped: the bound is then that of the chain
/// that clips.
///
/// # Errors
/// [`Error::Usage`] for no draws, or continuous time on a table of levels; [`Error::NonFinite`] for a term that is not finite; those of the
/// denoiser and the decoder.
pub fn vlb(
    denoiser: &dyn Denoiser,
    route: Route<'_>,
    decoder: Decoder,
    x0: &Tensor,
    samples: &[u32],
    options: &VlbOptions,
) -> Result<Vec<Bound>> {
    let n = x0.shape().first().copied().unwrap_or(0);
    if n == 0 || samples.len() != n || options.draws == 0 || options.decoder_draws == 0 {
        let (draws, of_decoder, s) = (options.draws, options.decoder_draws, samples.len());
        return Err(Error::Usage(format!(
            "vlb: {n} points with {s} indices, {draws} and {of_decoder} draws: expected at least one of each, and an index a point"
        )));
    }
    let plan = Plan::new(route, options.draws)?;
    let points = Points { x0: x0.clone(), values: host_rows(x0)?, samples, seed: options.seed };
    let d = x0.count() / n;
    let constant = plan.constant() * d as f64;
    let mut bounds: Vec<Bound> = points
        .values
        .iter()
        .map(|x0| Bound {
            terminal: terminal_kl(x0.iter().copied(), plan.last, plan.prior_std),
            diffusion: constant,
            constant,
            decoder: 0.0,
            terms: Vec::with_capacity(plan.draws),
        })
        .collect();
    for draw in 0..plan.draws {
        let offset = |sample: u32| points.address(sample, OFFSET).uniform(0);
        let picks: Vec<(Level, f64)> = samples.iter().map(|s| plan.pick(draw, offset(*s))).collect();
        let levels: Vec<Level> = picks.iter().map(|(level, _)| *level).collect();
        let x_t = points.noised(&levels, NOISE + draw)?;
        let estimates = denoiser.denoise_rows(&x_t, &levels)?;
        for (i, (estimate, (level, weight))) in estimates.iter().zip(picks).enumerate() {
            let x0_hat = estimate.x0_hat()?.to_f64s()?;
            let square: f64 = points.values[i].iter().zip(&x0_hat).map(|(x, hat)| (x - hat).powi(2)).sum();
            let term = Term { time: level.time, nats: weight * square };
            bounds[i].diffusion += term.nats;
            bounds[i].terms.push(term);
        }
    }
    decode(denoiser, &plan, decoder, &points, options.decoder_draws, &mut bounds)?;
    match bounds.iter().position(|bound| !bound.total().is_finite()) {
        None => Ok(bounds),
        Some(i) => Err(Error::NonFinite(format!(
            "vlb: the bound of point {} is {}; are the model's outputs finite?",
            samples[i],
            bounds[i].total()
        ))),
    }
}

/// Places among a point's numbers.
const OFFSET: usize = 0;
const DECODER: usize = 1;
/// The first draw of a level.
const NOISE: usize = 1 << 16;

/// Adds L_0.
fn decode(
    denoiser: &dyn Denoiser,
    plan: &Plan<'_>,
    decoder: Decoder,
    points: &Points<'_>,
    draws: usize,
    bounds: &mut [Bound],
) -> Result<()> {
    let (at, variance) = (plan.first, plan.decoder_variance);
    let levels = vec![at; bounds.len()];
    for draw in 0..draws {
        let x_1 = points.noised(&levels, DECODER + draw)?;
        let hats = match decoder.needs_model() {
            true => {
                denoiser.denoise_rows(&x_1, &levels)?.iter().map(|e| e.x0_hat()?.to_f64s()).collect::<Result<_>>()?
            }
            false => vec![Vec::new(); bounds.len()],
        };
        let x_1 = host_rows(&x_1)?;
        for (i, bound) in bounds.iter_mut().enumerate() {
            bound.decoder += decoder.nll(&points.values[i], &x_1[i], &hats[i], at, variance)? / draws as f64;
        }
    }
    Ok(())
}

/// The points, on their device and as numbers.
struct Points<'a> {
    x0: Tensor,
    values: Vec<Vec<f64>>,
    samples: &'a [u32],
    seed: u64,
}

impl Points<'_> {
    fn address(&self, sample: u32, place: usize) -> Address {
        Address::new(self.seed, Purpose::Likelihood).sample(sample as usize).step(place)
    }

    /// alpha·x0 + sigma·eps, each row at its own level.
    fn noised(&self, levels: &[Level], place: usize) -> Result<Tensor> {
        let (alpha, sigma): (Vec<f64>, Vec<f64>) = levels.iter().map(|l| (l.alpha, l.sigma)).unzip();
        // The sample is part of the address: `perturb` sets it row by row.
        Ok(ops::perturb(&self.x0, &alpha, &sigma, self.address(0, place).sub_index(1), self.samples)?.x_t)
    }
}

/// What is drawn, from where to where.
struct Plan<'a> {
    route: Route<'a>,
    draws: usize,
    first: Level,
    last: Level,
    prior_std: f64,
    decoder_variance: f64,
    /// s at the cleanest level, and at each level of a chain after it; falling.
    places: Vec<f64>,
}

/// Where s bends: below, a level's part of the sum falls like its signal-to-noise ratio for data of any usual size.
const BEND: f64 = 8.0;

/// s = ln(1 + e^(L + 8)) of L = 2·half_log_snr.
fn place(half_log_snr: f64) -> f64 {
    let x = 2.0 * half_log_snr + BEND;
    if x > 30.0 { x } else { x.exp().ln_1p() }
}

/// The half_log_snr of s.
fn place_back(s: f64) -> f64 {
    let x = if s > 30.0 { s } else { s.exp_m1().ln() };
    0.5 * (x - BEND)
}

impl<'a> Plan<'a> {
    fn new(route: Route<'a>, draws: usize) -> Result<Plan<'a>> {
        match route {
            Route::Chain(chain) => {
                let (levels, links) = (chain.levels(), chain.links().len());
                let places = levels.iter().map(|level| place(level.half_log_snr())).collect();
                Ok(Plan {
                    route,
                    draws: draws.min(links),
                    first: chain.first(),
                    last: levels[links],
                    prior_std: chain.prior_std(),
                    decoder_variance: chain.decoder_variance(),
                    places,
                })
            }
            Route::Continuous(process) => {
                if let Some(table) = process.discrete() {
                    return Err(Error::Usage(format!(
                        "vlb: the process \"{}\" is a table of {} levels and has no continuous time; take the bound of its chain",
                        process.name(),
                        table.steps()
                    )));
                }
                let (first, last) = (process.level(process.min_time()), process.level(1.0));
                Ok(Plan {
                    route,
                    draws,
                    first,
                    last,
                    prior_std: process.prior_std(),
                    decoder_variance: first.sigma.powi(2),
                    places: vec![place(first.half_log_snr()), place(last.half_log_snr())],
                })
            }
        }
    }

    /// The constants of all steps, for each dimension.
    fn constant(&self) -> f64 {
        match self.route {
            Route::Chain(chain) => chain.links().iter().map(Link::constant).sum(),
            Route::Continuous(_) => 0.0,
        }
    }

    /// The level of a draw, and the factor that makes ‖x0 − x0_hat‖² there its part of the sum.
    fn pick(&self, draw: usize, offset: f64) -> (Level, f64) {
        let (top, bottom) = (self.places[0], self.places[self.places.len() - 1]);
        let step = (top - bottom) / self.draws as f64;
        let s = bottom + (draw as f64 + offset) * step;
        match self.route {
            Route::Continuous(process) => {
                let level = process.level_at(place_back(s));
                // dL/ds = 1 + e^(−L − 8), and ½·e^L of the squared error of x0_hat.
                let snr = (2.0 * level.half_log_snr()).exp();
                (level, 0.5 * step * (snr + (-BEND).exp()))
            }
            Route::Chain(chain) if self.draws == chain.links().len() => {
                let link = &chain.links()[draw];
                (link.transition.from(), link.weight())
            }
            Route::Chain(chain) => {
                // The step whose part of s holds it: places fall.
                let index = self.places.partition_point(|at| *at > s).clamp(1, chain.links().len()) - 1;
                let link = &chain.links()[index];
                (link.transition.from(), link.weight() * step / (self.places[index] - self.places[index + 1]))
            }
        }
    }
}

/// All numbers of a tensor, from any device, row by row.
pub(super) fn host_rows(x: &Tensor) -> Result<Vec<Vec<f64>>> {
    let n = x.shape().first().copied().unwrap_or(0);
    let values = x.to_f64s()?;
    Ok(values.chunks((values.len() / n.max(1)).max(1)).map(<[f64]>::to_vec).collect())
}

#[cfg(test)]
#[path = "vlb_tests.rs"]
mod tests;
