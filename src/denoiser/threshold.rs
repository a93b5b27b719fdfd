//! Clipping and dynamic thresholding of x0_hat, as a wrapper around any denoiser.

use super::{Denoiser, Estimate};
use crate::error::Result;
use crate::ops;
use crate::process::{Level, SchedulerConfig};
use crate::tensor::Tensor;

/// Bounds x0_hat as a scheduler's settings say; eps_hat stays raw.
pub struct Threshold<'a, D> {
    /// The denoiser inside.
    pub inner: D,
    /// The settings: `thresholding` wins over `clip_sample`.
    pub config: &'a SchedulerConfig,
}

impl<D: Denoiser> Threshold<'_, D> {
    fn bound(&self, mut estimate: Estimate) -> Result<Estimate> {
        if self.config.thresholding {
            let (ratio, top) = (self.config.dynamic_thresholding_ratio, self.config.sample_max_value);
            estimate.x0_hat = Some(ops::dynamic_threshold(estimate.x0_hat()?, ratio, top)?);
        } else if self.config.clip_sample {
            estimate.clip = Some(self.config.clip_sample_range);
        }
        Ok(estimate)
    }
}

impl<D: Denoiser> Denoiser for Threshold<'_, D> {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        self.bound(self.inner.denoise(x_t, at)?)
    }

    fn denoise_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        self.inner.denoise_rows(x_t, at)?.into_iter().map(|estimate| self.bound(estimate)).collect()
    }
    fn evaluations(&self, at: Level) -> usize {
        self.inner.evaluations(at)
    }
}
