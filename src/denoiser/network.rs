//! A U-Net as a denoiser.

use super::predict::{eps_coefficients, x0_coefficients};
use super::{Denoiser, Estimate};
use crate::error::Result;
use crate::nn::{ClassInput, Mode, Params, UNet};
use crate::ops;
use crate::process::{Level, SchedulerConfig};
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

    fn time(&self, at: Level) -> f32 {
        self.scheduler.time_convention.network_time(at) as f32
    }

    fn estimate(&self, x_t: Tensor, net_out: Tensor, at: Level) -> Result<Estimate> {
        let prediction = self.scheduler.prediction;
        let (x0, eps) = (x0_coefficients(prediction, at)?, eps_coefficients(prediction, at)?);
        Ok(Estimate { x_t, net_out, x0, eps, clip: None, x0_hat: None })
    }
}

impl Denoiser for NetworkDenoiser<'_> {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        let n = x_t.shape().first().copied().unwrap_or(0);
        let times = vec![self.time(at); n];
        let scale = self.scheduler.input_scale(at);
        let net_out = match scale {
            1.0 => self.forward(x_t, &times)?,
            _ => self.forward(&ops::affine(x_t, scale as f32, 0.0)?, &times)?,
        };
        self.estimate(x_t.clone(), net_out, at)
    }

    fn denoise_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        let times: Vec<f32> = at.iter().map(|at| self.time(*at)).collect();
        let scales: Vec<f32> = at.iter().map(|at| self.scheduler.input_scale(*at) as f32).collect();
        let input = scale_rows(x_t, &scales)?;
        let net_out = self.forward(&input, &times)?;
        let rows = at.iter().enumerate();
        rows.map(|(i, at)| self.estimate(x_t.rows(i, 1)?, net_out.rows(i, 1)?, *at)).collect()
    }
}

fn scale_rows(x: &Tensor, scales: &[f32]) -> Result<Tensor> {
    if scales.iter().all(|s| *s == 1.0) {
        return Ok(x.clone());
    }
    let rows = scales.iter().enumerate().map(|(i, s)| ops::affine(&x.rows(i, 1)?, *s, 0.0));
    Tensor::stack_rows(&rows.collect::<Result<Vec<_>>>()?, x.shape())
}
