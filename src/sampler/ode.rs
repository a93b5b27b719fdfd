//! Euler, Heun and the classical Runge–Kutta method for the probability-flow ODE (Song et al. 2021, eq. 13; end of S3 section 4;
//! item 41), in the angle of the module's header.

use super::{Grid, GridStep, Run};
use crate::denoiser::{Estimate, StepTerms};
use crate::error::Result;
use crate::ops::Noise;
use crate::process::Level;
use crate::tensor::Tensor;

/// stretch·x_t + weight·dz/dφ, the slope that `estimate` gives at its level, in the terms of a step.
pub(super) fn along(estimate: &Estimate, at: Level, stretch: f64, weight: f64) -> StepTerms {
    let angle = at.angle();
    let terms = StepTerms { x: stretch, x0: -weight * angle.sin(), eps: weight * angle.cos(), noise: 0.0 };
    estimate.by_denoiser(terms, at)
}

/// The step to clean data, or nothing for another step.
pub(super) fn to_clean(run: &mut Run<'_>, estimate: &Estimate, at: GridStep) -> Result<Option<Tensor>> {
    let terms = StepTerms { x0: 1.0, ..Default::default() };
    if at.to.is_clean() { run.advance(estimate, terms, None).map(Some) } else { Ok(None) }
}

/// Euler's method. One NFE per step, order 1.
///
/// What k-diffusion calls Euler is DDIM with eta 0, which takes the same slope along the circle instead of the tangent.
///
/// # Errors
/// Those of the denoiser and the callback.
pub fn euler(run: &mut Run<'_>, mut x: Tensor, grid: &Grid) -> Result<Tensor> {
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        let estimate = run.denoise(&x, from)?;
        x = match to_clean(run, &estimate, at)? {
            Some(x0) => x0,
            None => {
                let turn = to.angle() - from.angle();
                let terms = along(&estimate, from, to.radius() / from.radius(), turn * to.radius());
                run.advance(&estimate, terms, None)?
            }
        };
        x = run.finish_step((step, steps), at, x, &estimate)?;
    }
    Ok(x)
}

/// Heun's method: the mean of the slopes at both ends. Two NFE per step but one for the step to clean data, order 2.
///
/// # Errors
/// Those of the denoiser and the callback.
pub fn heun(run: &mut Run<'_>, mut x: Tensor, grid: &Grid) -> Result<Tensor> {
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        let estimate = run.denoise(&x, from)?;
        x = match to_clean(run, &estimate, at)? {
            Some(x0) => x0,
            None => {
                let turn = (to.angle() - from.angle()) * to.radius();
                let stretch = to.radius() / from.radius();
                let tangent = estimate.step(along(&estimate, from, stretch, turn), Noise::None)?;
                let second = run.denoise(&tangent, to)?;
                // x + ½(k1 + k2)·h, where k1·h = tangent − x.
                let terms = along(&second, to, 0.5, 0.5 * turn);
                run.advance(&second, terms, Some((0.5 * stretch, &x)))?
            }
        };
        x = run.finish_step((step, steps), at, x, &estimate)?;
    }
    Ok(x)
}

/// The classical Runge–Kutta method. Four NFE per step but one for the step to clean data, order 4.
///
/// # Errors
/// Those of the denoiser and the callback.
pub fn rk4(run: &mut Run<'_>, mut x: Tensor, grid: &Grid) -> Result<Tensor> {
    let steps = grid.steps().len();
    for (step, &at) in grid.steps().iter().enumerate() {
        let (from, to) = (at.from, at.to);
        let first = run.denoise(&x, from)?;
        x = match to_clean(run, &first, at)? {
            Some(x0) => x0,
            None => {
                let turn = to.angle() - from.angle();
                let middle = grid.level_at_angle(from.angle() + 0.5 * turn);
                // Each stage is x + (its slope)·(its part of the turn), at its level's own radius.
                let stage = |estimate: &Estimate, slope_at: Level, part: f64, end: Level| {
                    let stretch = end.radius() / from.radius();
                    let terms = along(estimate, slope_at, 0.0, part * turn * end.radius());
                    estimate.step_from(terms, Some((stretch, &x)), Noise::None)
                };
                let sum = |estimate: &Estimate, slope_at: Level, weight: f64, past: (f64, &Tensor)| {
                    let terms = along(estimate, slope_at, 0.0, weight * turn * to.radius());
                    estimate.step_from(terms, Some(past), Noise::None)
                };
                let second = run.denoise(&stage(&first, from, 0.5, middle)?, middle)?;
                let third = run.denoise(&stage(&second, middle, 0.5, middle)?, middle)?;
                let fourth = run.denoise(&stage(&third, middle, 1.0, to)?, to)?;
                let total = sum(&first, from, 1.0 / 6.0, (to.radius() / from.radius(), &x))?;
                let total = sum(&second, middle, 1.0 / 3.0, (1.0, &total))?;
                let total = sum(&third, middle, 1.0 / 3.0, (1.0, &total))?;
                let terms = along(&fourth, to, 0.0, turn * to.radius() / 6.0);
                run.advance(&fourth, terms, Some((1.0, &total)))?
            }
        };
        x = run.finish_step((step, steps), at, x, &first)?;
    }
    Ok(x)
}
