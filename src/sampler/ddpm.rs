//! DDPM's ancestral sampler (Ho et al. 2020, algorithm 2; S0, S1, S3; items 19, 20, 22).

use super::{Grid, Run};
use crate::denoiser::StepTerms;
use crate::error::Result;
use crate::process::Variance;
use crate::tensor::Tensor;

/// Draws x_{t−1} from q(x_{t−1} | x_t, x0_hat) with variance beta-tilde or beta. One NFE per step.
///
/// On a grid of fewer than T steps, beta is the joint variance of the steps left out: 1 − alpha_bar_t/alpha_bar_s. A step from time
/// 0 adds no noise.
///
/// # Errors
/// Those of the denoiser and the callback.
pub fn ddpm(run: &mut Run<'_>, mut x: Tensor, grid: &Grid, variance: Variance) -> Result<Tensor> {
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        let estimate = run.denoise(&x, from)?;

        // Posterior mean: √ᾱ_s·beta/(1−ᾱ_t)·x0 + (alpha_t/alpha_s)·(1−ᾱ_s)/(1−ᾱ_t)·x_t.
        let beta = -(2.0 * (from.log_alpha - to.log_alpha)).exp_m1();
        let var_from = from.sigma.powi(2);
        let var_to = to.sigma.powi(2);
        let beta_tilde = (var_to / var_from * beta).max(1e-20); // diffusers' floor, 1e-10 as a deviation
        let noise = match variance {
            _ if from.t <= 0.0 => 0.0,
            Variance::FixedSmall => beta_tilde.sqrt(),
            Variance::FixedLarge => beta.sqrt(),
        };
        let terms = StepTerms {
            x: (from.log_alpha - to.log_alpha).exp() * var_to / var_from,
            x0: to.alpha * beta / var_from,
            eps: 0.0,
            noise,
        };
        x = run.step(&estimate, terms, (step, steps), at)?;
    }
    Ok(x)
}
