//! DDIM (Song, Meng & Ermon 2021, eqs. 12 and 16; S2, S3.eq152; items 49–52).

use super::{Grid, GridStep, Run};
use crate::denoiser::StepTerms;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// How much fresh noise each step adds.
#[derive(Clone, Debug, PartialEq)]
pub enum DdimNoise {
    /// A share of the ancestral step's: 0 deterministic, 1 DDPM with beta-tilde.
    Eta(f64),
    /// The standard deviation itself, one for each step, the noisiest first: any in [0, sigma of the level that the step ends at].
    Sigma(Vec<f64>),
}

impl DdimNoise {
    /// Standard deviation of the fresh noise of a step.
    ///
    /// # Errors
    /// [`Error::Usage`] for an eta outside [0, 1], a sigma outside its bounds, or a list of another length than the grid.
    pub fn deviation(&self, at: GridStep, (step, steps): (usize, usize)) -> Result<f64> {
        match self {
            // The part of x_from's noise that was added since x_to: 1 − (alpha_from·sigma_to / (alpha_to·sigma_from))².
            DdimNoise::Eta(eta) if (0.0..=1.0).contains(eta) => Ok(eta * at.to.sigma * at.fresh().sqrt()),
            DdimNoise::Eta(eta) => Err(Error::Usage(format!("--eta {eta}: expected 0 (deterministic) to 1 (as DDPM)"))),
            DdimNoise::Sigma(list) => {
                let Some(&sigma) = list.get(step).filter(|_| list.len() == steps) else {
                    let n = list.len();
                    return Err(Error::Usage(format!("raw sigmas: {n} given, {steps} steps want one each")));
                };
                // A last digit beyond the bound is rounding, not a mistake.
                let bound = at.to.sigma;
                if !(0.0..=bound * (1.0 + 1e-12)).contains(&sigma) {
                    return Err(Error::Usage(format!(
                        "raw sigma {sigma} of step {step}: expected 0 to {bound}, the sigma of the level that the step ends at"
                    )));
                }
                Ok(sigma.min(bound))
            }
        }
    }
}

/// Deterministic at `eta = 0`, DDPM's ancestral step with beta-tilde at `eta = 1`. One NFE per step. At `eta = 0` it is the exponential
/// integrator of the probability-flow ODE: exact where eps_hat and x0_hat do not change along the step.
///
/// Where x0_hat was clipped, diffusers keeps the raw eps_hat; `recompute_eps` takes (x_t − alpha·x0_hat)/sigma
/// instead (diffusers' `use_clipped_model_output`). So does every step of a guided estimate that was clipped: guidance moves most of x0_hat out
/// of the range, and with the raw eps_hat samples end as noise.
///
/// # Errors
/// As [`DdimNoise::deviation`]; those of the denoiser and the callback.
pub fn ddim(run: &mut Run<'_>, mut x: Tensor, grid: &Grid, noise: &DdimNoise, recompute_eps: bool) -> Result<Tensor> {
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        // Split the noise of the next level into kept (down) and fresh (up): eq. 16.
        let sigma_up = noise.deviation(at, (step, steps))?;
        let sigma_down = (to.sigma.powi(2) - sigma_up.powi(2)).max(0.0).sqrt();

        let estimate = run.denoise(&x, from)?;
        let mut terms = StepTerms { x: 0.0, x0: to.alpha, eps: sigma_down, noise: sigma_up };
        let was_changed = estimate.clip.is_some() || estimate.x0_hat.is_some();
        if recompute_eps || (estimate.is_guided && was_changed) {
            terms = StepTerms {
                x: sigma_down / from.sigma,
                x0: to.alpha - sigma_down * from.alpha / from.sigma,
                eps: 0.0,
                noise: sigma_up,
            };
        }
        x = run.advance(&estimate, terms, None)?;
        x = run.finish_step((step, steps), at, x, &estimate)?;
    }
    Ok(x)
}
