//! The adaptive method of Dormand and Prince (1980), orders 5 and 4, for the probability-flow ODE in the angle.

use super::dormand_prince::{ATTEMPTS, ERROR, NODES, STAGES, next_step};
use super::ode::along;
use super::{Grid, GridStep, Run};
use crate::denoiser::{Estimate, StepTerms};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::{self, Noise, ReverseStep, StepInputs};
use crate::process::Level;
use crate::tensor::Tensor;

/// One sample on its way: z = x/radius at an angle, its slope there, and the next step.
struct Lane {
    z: Tensor,
    angle: f64,
    step: f64,
    slope: Tensor,
}

/// Integrates from the grid's first level to its last noisy one; the levels between have no meaning. Each sample has its own step
/// size, so it does not depend on the others. `tolerance` bounds the local error, absolute and relative (a network in f32 repays 1e-4, an oracle in f64 down to 1e-12).
///
/// One NFE and six for each attempted step; `nfe` counts those of the sample that takes most. The callback sees one step.
///
/// # Errors
/// [`Error::Usage`] for a tolerance outside [1e-13, 1); [`Error::NonFinite`] if the denoiser returns numbers that are not finite or the
/// steps become too small; those of the denoiser and the callback.
pub fn rk45(run: &mut Run<'_>, x: Tensor, grid: &Grid, tolerance: f64) -> Result<Tensor> {
    if !(1e-13..1.0).contains(&tolerance) {
        return Err(Error::Usage(format!("--tolerance {tolerance}: expected 1e-13 to 1")));
    }
    if run.has_projection() {
        return Err(Error::Usage(
            "rk45: chooses its own steps, between which nothing can be put in; use another sampler".into(),
        ));
    }
    let (first, last, ends_clean) = ends(grid)?;
    let n = x.shape().first().copied().unwrap_or(0);
    let mut lanes = start(run, &x, first, (last.angle() - first.angle()) / 20.0)?;
    for attempt in 0.. {
        if lanes.iter().all(|lane| lane.angle == last.angle()) {
            break;
        }
        if attempt == ATTEMPTS {
            return Err(Error::NonFinite(format!(
                "rk45: {ATTEMPTS} steps did not reach the end; use a larger --tolerance"
            )));
        }
        attempt_step(run, grid, &mut lanes, x.shape(), last, tolerance)?;
    }
    let rows = lanes.iter().map(|lane| scaled(&lane.z, last.radius())).collect::<Result<Vec<_>>>()?;
    let mut x = Tensor::stack_rows(&rows, x.shape())?;
    let estimate = run.denoise(&x, last)?;
    let mut to = last;
    if ends_clean && n > 0 {
        x = run.advance(&estimate, StepTerms { x0: 1.0, ..Default::default() }, None)?;
        to = Level::CLEAN;
    }
    x = run.finish_step((0, 1), GridStep { from: first, to }, x, &estimate)?;
    Ok(x)
}

/// The first level, the last noisy one, and whether clean data follow it.
fn ends(grid: &Grid) -> Result<(Level, Level, bool)> {
    match grid.steps() {
        [] => Err(Error::Usage("rk45: the grid has no steps".into())),
        [.., end] if end.to.is_clean() => Ok((grid.steps()[0].from, end.from, true)),
        [first, ..] => Ok((first.from, grid.steps()[grid.steps().len() - 1].to, false)),
    }
}

fn start(run: &mut Run<'_>, x: &Tensor, first: Level, step: f64) -> Result<Vec<Lane>> {
    let n = x.shape().first().copied().unwrap_or(0);
    let estimates = run.denoise_rows(x, &vec![first; n])?;
    let lane = |(i, estimate): (usize, &Estimate)| {
        let z = scaled(&x.rows(i, 1)?, 1.0 / first.radius())?;
        Ok(Lane { z, angle: first.angle(), step, slope: tangent(estimate, first)? })
    };
    estimates.iter().enumerate().map(lane).collect()
}

/// One attempted step of every lane that has not arrived.
fn attempt_step(
    run: &mut Run<'_>,
    grid: &Grid,
    lanes: &mut [Lane],
    shape: crate::tensor::Shape,
    last: Level,
    tolerance: f64,
) -> Result<()> {
    let end = last.angle();
    // An arrived lane is evaluated where it is, and ignored.
    let steps: Vec<f64> = lanes
        .iter()
        .map(
            |lane| {
                if (end - lane.angle).abs() <= lane.step.abs() * (1.0 + 1e-9) { end - lane.angle } else { lane.step }
            },
        )
        .collect();
    let mut slopes: Vec<Vec<Tensor>> = lanes.iter().map(|lane| vec![lane.slope.clone()]).collect();
    let mut next: Vec<Tensor> = lanes.iter().map(|lane| lane.z.clone()).collect();
    for (stage, row) in STAGES.iter().enumerate() {
        let mut levels = Vec::with_capacity(lanes.len());
        let mut inputs = Vec::with_capacity(lanes.len());
        for (i, lane) in lanes.iter().enumerate() {
            let angle = lane.angle + NODES[stage + 1] * steps[i];
            let level =
                if NODES[stage + 1] == 1.0 && lane.angle + steps[i] == end { last } else { grid.level_at_angle(angle) };
            let factors: Vec<f64> = row.iter().map(|a| a * steps[i]).collect();
            next[i] = combine(&lane.z, &factors, &slopes[i])?;
            inputs.push(scaled(&next[i], level.radius())?);
            levels.push(level);
        }
        let estimates = run.denoise_rows(&Tensor::stack_rows(&inputs, shape)?, &levels)?;
        for ((slopes, estimate), level) in slopes.iter_mut().zip(&estimates).zip(levels) {
            slopes.push(tangent(estimate, level)?);
        }
    }
    let errors = lanes.iter().enumerate().map(|(i, lane)| {
        let factors: Vec<f64> = ERROR.iter().map(|e| e * steps[i]).collect();
        let error = combine(&scaled(&lane.z, 0.0)?, &factors, &slopes[i])?;
        ops::error_norm(&error, &lane.z, &next[i], tolerance)
    });
    // One copy for all of them: each would wait for the GPU.
    let errors = Tensor::stack_rows(&errors.collect::<Result<Vec<_>>>()?, [lanes.len()])?.to_device(Device::Cpu)?;
    for (i, (lane, error)) in lanes.iter_mut().zip(errors.to_vec::<f64>()?).enumerate() {
        if lane.angle == end {
            continue;
        }
        if !error.is_finite() {
            return Err(Error::NonFinite(format!("rk45: the slope at angle {} is not finite", lane.angle)));
        }
        if error <= 1.0 {
            lane.z = next[i].clone();
            lane.angle = if lane.angle + steps[i] == end { end } else { lane.angle + steps[i] };
            if let Some(slope) = slopes[i].pop() {
                lane.slope = slope;
            }
        }
        lane.step = next_step(steps[i], error);
    }
    Ok(())
}

/// dz/dφ.
fn tangent(estimate: &Estimate, at: Level) -> Result<Tensor> {
    estimate.step(along(estimate, at, 0.0, 1.0), Noise::None)
}

fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    combine_two(x, factor, x, 0.0)
}

fn combine_two(a: &Tensor, to_x: f64, b: &Tensor, to_out: f64) -> Result<Tensor> {
    let step = ReverseStep { to_x, to_out, ..Default::default() };
    ops::reverse_step(a, b, StepInputs::default(), &step, Noise::None)
}

/// z + Σ factors·slopes.
fn combine(z: &Tensor, factors: &[f64], slopes: &[Tensor]) -> Result<Tensor> {
    let mut sum = z.clone();
    for (factor, slope) in factors.iter().zip(slopes).filter(|(factor, _)| **factor != 0.0) {
        sum = combine_two(&sum, 1.0, slope, *factor)?;
    }
    Ok(sum)
}
