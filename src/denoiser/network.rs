//! Networks as denoisers.

use super::predict::{eps_coefficients, x0_coefficients};
use super::{Denoiser, Differentiable, Estimate, split_variance};
use crate::error::Result;
use crate::nn::{ClassInput, Mlp, Mode, Params, UNet};
use crate::ops;
use crate::process::{Level, SchedulerConfig};
use crate::tape::{Grads, Tape};
use crate::tensor::Tensor;

/// A network, the weights to run it with, and the class of each image.
pub struct NetworkDenoiser<'a> {
    /// The network.
    pub unet: &'a UNet,
    /// Raw or averaged weights.
    pub params: &'a Params,
    /// What its input, its time and its output mean.
    pub scheduler: &'a SchedulerConfig,
    /// Class of each image, for a class-conditional network.
    pub class_labels: Option<&'a [u32]>,
}

impl NetworkDenoiser<'_> {
    fn forward(&self, x: &Tensor, times: &[f32]) -> Result<Tensor> {
        self.unet.forward(self.params, x, times, self.class_labels.map(ClassInput::Labels), Mode::Inference)
    }
}

impl Denoiser for NetworkDenoiser<'_> {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        denoise(self.scheduler, x_t, at, |x, times| self.forward(x, times))
    }

    fn denoise_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        denoise_rows(self.scheduler, x_t, at, |x, times| self.forward(x, times))
    }
}

impl Differentiable for NetworkDenoiser<'_> {
    fn vjp_rows(&self, x_t: &Tensor, at: &[Level], v: &Tensor) -> Result<(Vec<Estimate>, Tensor)> {
        vjp_rows(self.scheduler, x_t, at, v, |x, times| self.forward(x, times))
    }
}

/// A multilayer perceptron and the weights to run it with.
pub struct MlpDenoiser<'a> {
    /// The network.
    pub mlp: &'a Mlp,
    /// Raw or averaged weights.
    pub params: &'a Params,
    /// What its input, its time and its output mean.
    pub scheduler: &'a SchedulerConfig,
}

impl Denoiser for MlpDenoiser<'_> {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        denoise(self.scheduler, x_t, at, |x, times| self.mlp.forward(self.params, x, times))
    }

    fn denoise_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        denoise_rows(self.scheduler, x_t, at, |x, times| self.mlp.forward(self.params, x, times))
    }
}

impl Differentiable for MlpDenoiser<'_> {
    fn vjp_rows(&self, x_t: &Tensor, at: &[Level], v: &Tensor) -> Result<(Vec<Estimate>, Tensor)> {
        vjp_rows(self.scheduler, x_t, at, v, |x, times| self.mlp.forward(self.params, x, times))
    }
}

/// All rows at one level.
fn denoise(
    scheduler: &SchedulerConfig,
    x_t: &Tensor,
    at: Level,
    forward: impl FnOnce(&Tensor, &[f32]) -> Result<Tensor>,
) -> Result<Estimate> {
    let times = vec![network_time(scheduler, at); x_t.shape().first().copied().unwrap_or(0)];
    let net_out = match scheduler.input_scale(at) {
        1.0 => forward(x_t, &times)?,
        scale => forward(&ops::affine(x_t, scale as f32, 0.0)?, &times)?,
    };
    let net_out = split_variance(net_out, x_t.shape().last_size())?;
    estimate(scheduler, x_t.clone(), net_out, at)
}

/// Each row at its own level, in one evaluation.
fn denoise_rows(
    scheduler: &SchedulerConfig,
    x_t: &Tensor,
    at: &[Level],
    forward: impl FnOnce(&Tensor, &[f32]) -> Result<Tensor>,
) -> Result<Vec<Estimate>> {
    let times: Vec<f32> = at.iter().map(|at| network_time(scheduler, *at)).collect();
    let net_out = match row_scales(scheduler, at) {
        None => forward(x_t, &times)?,
        Some(scales) => forward(&ops::blend(x_t, &scales, None)?, &times)?,
    };
    estimates(scheduler, x_t, split_variance(net_out, x_t.shape().last_size())?, at)
}

/// The same, and vᵀ·∂net_out/∂x_t of each row by the tape: rows do not see one another, so one backward pass serves all.
fn vjp_rows(
    scheduler: &SchedulerConfig,
    x_t: &Tensor,
    at: &[Level],
    v: &Tensor,
    forward: impl FnOnce(&Tensor, &[f32]) -> Result<Tensor>,
) -> Result<(Vec<Estimate>, Tensor)> {
    let times: Vec<f32> = at.iter().map(|at| network_time(scheduler, *at)).collect();
    let scales = row_scales(scheduler, at);
    let factors = scales.clone().unwrap_or_else(|| vec![1.0; at.len()]);
    // A tensor of its own: x_t itself may be followed elsewhere.
    let input = ops::blend(x_t, &factors, None)?.with_grad(true);
    // A learned variance is no part of the estimate.
    let channels = x_t.shape().last_size();
    let ((net_out, variance), tape) = Tape::record(|| split_variance(forward(&input, &times)?, channels))?;
    let mut grads = Grads::new();
    tape.backward(&net_out, v.clone(), &mut grads)?;
    let product = match (grads.take(input.id()), scales) {
        (None, _) => Tensor::zeros(x_t.shape(), x_t.dtype(), x_t.device())?,
        (Some(dx), None) => dx,
        (Some(dx), Some(scales)) => ops::blend(&dx, &scales, None)?,
    };
    Ok((estimates(scheduler, x_t, (net_out, variance), at)?, product))
}

/// The factor of each row before the network sees it; none where all are 1.
fn row_scales(scheduler: &SchedulerConfig, at: &[Level]) -> Option<Vec<f64>> {
    let scales: Vec<f64> = at.iter().map(|at| scheduler.input_scale(*at)).collect();
    scales.iter().any(|scale| *scale != 1.0).then_some(scales)
}

fn estimates(
    scheduler: &SchedulerConfig,
    x_t: &Tensor,
    (net_out, variance): (Tensor, Option<Tensor>),
    at: &[Level],
) -> Result<Vec<Estimate>> {
    let row = |(i, at): (usize, &Level)| {
        let variance = variance.as_ref().map(|v| v.rows(i, 1)).transpose()?;
        estimate(scheduler, x_t.rows(i, 1)?, (net_out.rows(i, 1)?, variance), *at)
    };
    at.iter().enumerate().map(row).collect()
}

fn network_time(scheduler: &SchedulerConfig, at: Level) -> f32 {
    scheduler.time_convention.network_time(at) as f32
}

/// What a raw output says about x0 and eps.
fn estimate(
    scheduler: &SchedulerConfig,
    x_t: Tensor,
    (net_out, variance): (Tensor, Option<Tensor>),
    at: Level,
) -> Result<Estimate> {
    let (x0, eps) = (x0_coefficients(scheduler.prediction, at)?, eps_coefficients(scheduler.prediction, at)?);
    Ok(Estimate { x_t, net_out, x0, eps, clip: None, x0_hat: None, variance, is_guided: false })
}
