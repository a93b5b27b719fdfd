//! Euler–Maruyama on Anderson's reverse SDE (S3.eq69, eq82; items 36 and 38).

use super::{Grid, Run};
use crate::denoiser::StepTerms;
use crate::error::Result;
use crate::tensor::Tensor;

/// dX = (f·X − g²·∇log p_t) dt + g dW, backwards in the process's own time, with the coefficients of the step's beginning. One NFE per
/// step, weak order 1.
///
/// From a level where nothing of the data is left the SDE's rates are infinite; there x_T tells nothing of x_t, which is drawn
/// afresh: alpha·x0_hat + sigma·z. The step to clean data takes x0_hat.
///
/// # Errors
/// Those of the denoiser and the callback.
pub fn euler_maruyama(run: &mut Run<'_>, mut x: Tensor, grid: &Grid) -> Result<Tensor> {
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        let estimate = run.denoise(&x, from)?;
        let terms = if to.is_clean() || !(from.drift.is_finite() && from.diffusion.is_finite()) {
            StepTerms { x0: to.alpha, noise: to.sigma, ..Default::default() }
        } else {
            let dt = to.time - from.time; // negative
            let variance = from.diffusion.powi(2) * -dt;
            // −g²·score·dt with score = −eps_hat/sigma.
            StepTerms { x: 1.0 + from.drift * dt, x0: 0.0, eps: -variance / from.sigma, noise: variance.sqrt() }
        };
        x = run.advance(&estimate, terms, None)?;
        run.finish_step((step, steps), at, &x, &estimate)?;
    }
    Ok(x)
}
