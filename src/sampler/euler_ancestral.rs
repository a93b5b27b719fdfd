//! Euler's method with ancestral noise, as k-diffusion has it (Karras et al. 2022's coordinates; crowsonkb/k-diffusion
//! `sample_euler_ancestral`).

use super::{DdimNoise, Grid, Run};
use crate::denoiser::StepTerms;
use crate::error::Result;
use crate::tensor::Tensor;

/// An Euler step of y = x/alpha over nsr = sigma/alpha down to a level below the next, then fresh noise up to it. One NFE per step. In exact
/// arithmetic the same as DDIM with this `eta`.
///
/// # Errors
/// [`crate::Error::Usage`] if `eta` is outside [0, 1]; those of the denoiser and the callback.
pub fn euler_ancestral(run: &mut Run<'_>, mut x: Tensor, grid: &Grid, eta: f64) -> Result<Tensor> {
    let steps = grid.steps().len();
    let noise = DdimNoise::Eta(eta);
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        let sigma_up = noise.deviation(at, (step, steps))?;
        let sigma_down = (to.sigma.powi(2) - sigma_up.powi(2)).max(0.0).sqrt();
        let estimate = run.denoise(&x, from)?;
        let terms = if from.alpha == 0.0 || to.is_clean() {
            // From pure noise nsr is infinite and y has no value; this is the step's limit. To clean data it is x0_hat to the last bit.
            StepTerms { x: 0.0, x0: to.alpha, eps: sigma_down, noise: sigma_up }
        } else {
            let ratio = to.alpha / from.alpha;
            StepTerms { x: ratio, x0: 0.0, eps: sigma_down - ratio * from.sigma, noise: sigma_up }
        };
        x = run.advance(&estimate, estimate.by_denoiser(terms, from), None)?;
        x = run.finish_step((step, steps), at, x, &estimate)?;
    }
    Ok(x)
}
