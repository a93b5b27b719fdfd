//! DDIM (Song, Meng & Ermon 2021, eqs. 12 and 16; S2, S3.eq152; items 49–52).

use super::{Grid, Run};
use crate::denoiser::StepTerms;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Deterministic at `eta = 0`, DDPM's ancestral step with beta-tilde at `eta = 1`. One NFE per step.
///
/// Where x0_hat was clipped, diffusers keeps the raw eps_hat; `recompute_eps` takes (x_t − alpha·x0_hat)/sigma
/// instead (diffusers' `use_clipped_model_output`).
///
/// # Errors
/// [`Error::Usage`] if `eta` is outside [0, 1]; those of the denoiser and the callback.
pub fn ddim(run: &mut Run<'_>, mut x: Tensor, grid: &Grid, eta: f64, recompute_eps: bool) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&eta) {
        return Err(Error::Usage(format!("--eta {eta}: expected 0 (deterministic) to 1 (as DDPM)")));
    }
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        let estimate = run.denoise(&x, from)?;

        // Split the noise of the next level into kept (down) and fresh (up): eq. 16.
        let beta = -(2.0 * (from.log_alpha - to.log_alpha)).exp_m1();
        let sigma_up = eta * to.sigma / from.sigma * beta.max(0.0).sqrt();
        let sigma_down = (to.sigma.powi(2) - sigma_up.powi(2)).max(0.0).sqrt();

        let mut terms = StepTerms { x: 0.0, x0: to.alpha, eps: sigma_down, noise: sigma_up };
        if recompute_eps {
            terms = StepTerms {
                x: sigma_down / from.sigma,
                x0: to.alpha - sigma_down * from.alpha / from.sigma,
                eps: 0.0,
                noise: sigma_up,
            };
        }
        x = run.step(&estimate, terms, (step, steps), at)?;
    }
    Ok(x)
}
