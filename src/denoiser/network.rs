//! A U-Net as a denoiser.

use super::predict::{eps_coefficients, x0_coefficients};
use super::{Denoiser, Estimate};
use crate::error::Result;
use crate::nn::{ClassInput, Mode, Params, UNet};
use crate::process::{Level, Prediction};
use crate::tensor::Tensor;

/// A network, the weights to run it with, and the class of each image.
pub struct NetworkDenoiser<'a> {
    /// The network.
    pub unet: &'a UNet,
    /// Raw or averaged weights.
    pub params: &'a Params,
    /// What its output means.
    pub prediction: Prediction,
    /// Class of each image, for a class-conditional network.
    pub class_labels: Option<&'a [u32]>,
}

impl Denoiser for NetworkDenoiser<'_> {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        let n = x_t.shape().first().copied().unwrap_or(0);
        let times = vec![at.t as f32; n];
        let class = self.class_labels.map(ClassInput::Labels);
        let net_out = self.unet.forward(self.params, x_t, &times, class, Mode::Inference)?;
        Ok(Estimate {
            x_t: x_t.clone(),
            net_out,
            x0: x0_coefficients(self.prediction, at)?,
            eps: eps_coefficients(self.prediction, at)?,
            clip: None,
            x0_hat: None,
        })
    }
}
