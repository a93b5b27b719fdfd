//! Euler–Maruyama on Anderson's reverse SDE (S3.eq69, eq82; items 36 and 38).

use super::{Grid, Run};
use crate::denoiser::StepTerms;
use crate::error::Result;
use crate::tensor::Tensor;

/// dX = (f·X − g²·∇log p_t) dt + g dW, backwards. One NFE per step, weak order 1.
///
/// X and the denoiser are frozen at the step's beginning, while f and g²/sigma² enter by their integrals, which the levels give exactly:
/// ∫f dt = Δ ln alpha and ∫g²/sigma² dt = −2·Δ ln(alpha/sigma). It differs from S3.eq69's f·Δt and g²·Δt in the second
/// order of the step, and stays stable where β(t) is steep.
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
        let terms = if to.is_clean() || from.alpha == 0.0 {
            StepTerms { x0: to.alpha, noise: to.sigma, ..Default::default() }
        } else {
            let growth = to.log_alpha - from.log_alpha;
            let added = 2.0 * (to.half_log_snr() - from.half_log_snr());
            // −g²·score·dt with score = −eps_hat/sigma, and dt below 0.
            StepTerms { x: 1.0 + growth, x0: 0.0, eps: -added * from.sigma, noise: from.sigma * added.sqrt() }
        };
        x = run.advance(&estimate, estimate.by_denoiser(terms, from), None)?;
        x = run.finish_step((step, steps), at, x, &estimate)?;
    }
    Ok(x)
}
