//! DDPM's ancestral sampler (Ho et al. 2020, algorithm 2; S0, S1, S3; items 19, 20, 22).

use super::{Grid, Run};
use crate::error::Result;
use crate::process::Variance;
use crate::tensor::Tensor;

/// Draws x_s from q(x_s | x_t, x0_hat) with variance beta-tilde or beta. One NFE per step.
///
/// On a grid of fewer than T steps, beta is the joint variance of the steps left out. For any process with x_t = alpha·x0 +
/// sigma·eps: beta = Var[x_t | x_s] = sigma_t² − (alpha_t/alpha_s)²·sigma_s². The step to clean data adds no noise, unless `noise_at_end` (the lecture
/// documents' literal √β₁·z; only beta has any there).
///
/// # Errors
/// Those of the denoiser and the callback.
pub fn ddpm(run: &mut Run<'_>, mut x: Tensor, grid: &Grid, variance: Variance, noise_at_end: bool) -> Result<Tensor> {
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        let estimate = run.denoise(&x, from)?;

        // beta / sigma_t²: how much of the noise at t was added since s.
        let fresh = at.fresh();
        let noise = match variance {
            _ if to.is_clean() && !noise_at_end => 0.0,
            Variance::FixedSmall => to.sigma * fresh.sqrt(),
            Variance::FixedLarge => from.sigma * fresh.sqrt(),
        };
        x = run.advance(&estimate, at.posterior(noise), None)?;
        x = run.finish_step((step, steps), at, x, &estimate)?;
    }
    Ok(x)
}
