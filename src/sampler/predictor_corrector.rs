//! Predictor–corrector sampling (Song et al. 2021, algorithms 4 and 5): an ancestral step, then Langevin steps at the new level.

use super::{Grid, Run};
use crate::denoiser::StepTerms;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The Langevin part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Corrector {
    /// Langevin steps after each predictor step.
    pub steps: usize,
    /// r of the paper: the ratio of the score's part to the noise's in a Langevin step.
    pub snr: f64,
}

impl Default for Corrector {
    fn default() -> Corrector {
        Corrector { steps: 1, snr: 0.16 } // Song et al. 2021, appendix G
    }
}

/// 1 + `corrector.steps` NFE per step, 1 for the step to clean data.
///
/// The paper scales a Langevin step by ‖z‖/‖score‖ of the batch; here by that ratio's value for noise, sigma, so that a sample does not
/// depend on the others.
///
/// # Errors
/// [`Error::Usage`] unless snr lies in (0, 1); those of the denoiser and the callback.
pub fn predictor_corrector(run: &mut Run<'_>, mut x: Tensor, grid: &Grid, corrector: &Corrector) -> Result<Tensor> {
    let snr = corrector.snr;
    if !(snr > 0.0 && snr < 1.0) {
        return Err(Error::Usage(format!("--corrector-snr {snr}: expected a number between 0 and 1")));
    }
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let to = at.to;
        let mut estimate = run.denoise(&x, at.from)?;
        x = run.advance(&estimate, at.posterior(to.sigma * at.fresh().sqrt()), None)?;
        for _ in 0..if to.is_clean() { 0 } else { corrector.steps } {
            estimate = run.denoise(&x, to)?;
            // x + e·score + √(2e)·z with e = 2·(r·sigma)², score = −eps_hat/sigma.
            let e = 2.0 * (snr * to.sigma).powi(2);
            let terms = StepTerms { x: 1.0, x0: 0.0, eps: -e / to.sigma, noise: (2.0 * e).sqrt() };
            x = run.advance(&estimate, estimate.by_denoiser(terms, to), None)?;
        }
        x = run.finish_step((step, steps), at, x, &estimate)?;
    }
    Ok(x)
}
