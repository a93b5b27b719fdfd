//! The stochastic Heun sampler of Karras et al. 2022 (algorithm 2), for any process: y = x/alpha, and their sigma is
//! nsr = sigma/alpha.

use super::ode::to_clean;
use super::{Grid, GridStep, Run};
use crate::denoiser::{Estimate, StepTerms};
use crate::error::{Error, Result};
use crate::ops::Noise;
use crate::process::Level;
use crate::tensor::Tensor;

/// Noise that is added before a step and removed by it (Karras et al. 2022, sec. 4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// S_churn: its amount over the whole run; 0 for the deterministic sampler.
    pub churn: f64,
    /// S_tmin: least nsr at which noise is added.
    pub min: f64,
    /// S_tmax: largest one.
    pub max: f64,
    /// S_noise: its standard deviation.
    pub noise: f64,
}

impl Default for Churn {
    /// None of it; the range and deviation are those of the paper's table 5 for ImageNet-64.
    fn default() -> Churn {
        Churn { churn: 0.0, min: 0.05, max: 50.0, noise: 1.003 }
    }
}

/// Beyond this fall of nsr over one step, Heun's mean makes more of the later slope than it is worth: the change of x0_hat enters y with
/// (nsr − nsr')/(2·nsr').
const LARGEST_FALL: f64 = 10.0;

/// Two NFE per step, order 2; one NFE for the step to clean data, for one over which nsr falls by more than tenfold, and for one from pure noise,
/// where nsr is infinite: these are Euler's (DDIM's).
///
/// # Errors
/// [`Error::Usage`] if a churn setting is negative; those of the denoiser and the callback.
pub fn edm(run: &mut Run<'_>, mut x: Tensor, grid: &Grid, churn: &Churn) -> Result<Tensor> {
    if !(churn.churn >= 0.0 && churn.min >= 0.0 && churn.noise >= 0.0 && churn.churn.is_finite()) {
        return Err(Error::Usage(format!("--churn {}: expected a number from 0", churn.churn)));
    }
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let (hat, from) = raise(run, &x, grid, at.from, churn, steps)?;
        let at_hat = GridStep { from, to: at.to };
        let estimate = run.denoise(&hat, from)?;
        x = match to_clean(run, &estimate, at)? {
            Some(x0) => x0,
            None if from.nsr() > LARGEST_FALL * at.to.nsr() => {
                run.advance(&estimate, estimate.by_denoiser(rotate(at_hat), from), None)?
            }
            None => heun(run, &hat, &estimate, at_hat)?,
        };
        x = run.finish_step((step, steps), at, x, &estimate)?;
    }
    Ok(x)
}

/// x at a level a little noisier than `from`, within the process's range.
fn raise(
    run: &mut Run<'_>,
    x: &Tensor,
    grid: &Grid,
    from: Level,
    churn: &Churn,
    steps: usize,
) -> Result<(Tensor, Level)> {
    let nsr = from.nsr();
    let gamma = (churn.churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0);
    if gamma == 0.0 || !(churn.min..=churn.max).contains(&nsr) {
        return Ok((x.clone(), from));
    }
    let to = grid.level_at(from.half_log_snr() - gamma.ln_1p());
    let added = (to.nsr().powi(2) - nsr.powi(2)).max(0.0).sqrt();
    if added == 0.0 {
        return Ok((x.clone(), from));
    }
    Ok((run.add_noise(x, to.alpha / from.alpha, to.alpha * added * churn.noise)?, to))
}

/// y moves along eps_hat by the change of nsr: DDIM's step with eta 0.
fn rotate(at: GridStep) -> StepTerms {
    StepTerms { x0: at.to.alpha, eps: at.to.sigma, ..Default::default() }
}

fn heun(run: &mut Run<'_>, x: &Tensor, estimate: &Estimate, at: GridStep) -> Result<Tensor> {
    let (from, to) = (at.from, at.to);
    // y' = y + (nsr' − nsr)·eps_hat, times alpha'.
    let ratio = to.alpha / from.alpha;
    let change = to.sigma - ratio * from.sigma;
    let terms = StepTerms { x: ratio, eps: change, ..Default::default() };
    let tangent = estimate.step(estimate.by_denoiser(terms, from), Noise::None)?;
    let second = run.denoise(&tangent, to)?;
    let terms = StepTerms { x: 0.5, eps: 0.5 * change, ..Default::default() };
    run.advance(&second, second.by_denoiser(terms, to), Some((0.5 * ratio, x)))
}
