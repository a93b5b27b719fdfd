//! DDPM's ancestral sampler (Ho et al. 2020, algorithm 2; S0, S1, S3; items 19, 20, 22).

use super::{Grid, Run};
use crate::error::{Error, Result};
use crate::process::Variance;
use crate::tensor::Tensor;

/// Draws x_s from q(x_s | x_t, x0_hat) with variance beta-tilde or beta. One NFE per step.
///
/// On a grid of fewer than T steps, beta is the joint variance of the steps left out. For any process with x_t = alpha·x0 +
/// sigma·eps: beta = Var[x_t | x_s] = sigma_t² − (alpha_t/alpha_s)²·sigma_s². The step to clean data adds no noise, unless `noise_at_end` (the lecture
/// documents' literal √β₁·z; only beta has any there).
///
/// With a learned variance each element's lies between the two, where the estimate says (Nichol & Dhariwal 2021, eq. 15).
///
/// # Errors
/// [`Error::Usage`] for a learned variance that the denoiser says nothing of; those of the denoiser and the callback.
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
            Variance::LearnedRange => {
                let Some(v) = &estimate.variance else {
                    return Err(Error::Usage(
                        "ddpm: variance learned_range: the network says nothing of a variance; use fixed_small or fixed_large"
                            .into(),
                    ));
                };
                // diffusers' least variance, of a step to clean data.
                let log = |variance: f64| variance.max(1e-20).ln();
                let logs = (log(to.sigma.powi(2) * fresh), log(from.sigma.powi(2) * fresh));
                x = run.advance_learned(&estimate, at.posterior(0.0), (v, logs))?;
                x = run.finish_step((step, steps), at, x, &estimate)?;
                continue;
            }
        };
        x = run.advance(&estimate, at.posterior(noise), None)?;
        x = run.finish_step((step, steps), at, x, &estimate)?;
    }
    Ok(x)
}
