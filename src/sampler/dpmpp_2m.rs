//! DPM-Solver++ of second order, multistep (Lu et al. 2023, algorithm 2).

use super::{Grid, Run};
use crate::denoiser::StepTerms;
use crate::error::Result;
use crate::tensor::Tensor;

/// One NFE per step, order 2 in half_log_snr. The first step is of first order, as is a step from pure noise or to clean data, whose
/// length is infinite.
///
/// # Errors
/// Those of the denoiser and the callback.
pub fn dpmpp_2m(run: &mut Run<'_>, mut x: Tensor, grid: &Grid) -> Result<Tensor> {
    let steps = grid.steps().len();
    // The last x0_hat, and the length of the step it was made for.
    let mut last: Option<(Tensor, f64)> = None;
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        let estimate = run.denoise(&x, from)?;
        let length = to.half_log_snr() - from.half_log_snr();
        // x_to = (sigma_to/sigma_from)·x + alpha_to·(1 − e^−h)·D, with D extrapolated from the last two estimates.
        let gain = if to.alpha == 0.0 {
            // Into pure noise, as encoding goes: alpha_to·e^−h = sigma_to·alpha_from/sigma_from is left of the difference.
            -to.sigma * from.alpha / from.sigma
        } else {
            to.alpha * -(-length).exp_m1()
        };
        let (now, before) = match &last {
            Some((_, last)) if last.is_finite() && *last != 0.0 && length.is_finite() => {
                (1.0 + 0.5 * length / last, -0.5 * length / last)
            }
            _ => (1.0, 0.0),
        };
        let terms = StepTerms { x: to.sigma / from.sigma, x0: gain * now, ..Default::default() };
        let past = last.as_ref().filter(|_| before != 0.0).map(|(x0_hat, _)| (gain * before, x0_hat));
        let next = run.advance(&estimate, terms, past)?;
        if step + 1 < steps {
            last = Some((estimate.x0_hat()?, length));
        }
        x = run.finish_step((step, steps), at, next, &estimate)?;
    }
    Ok(x)
}
