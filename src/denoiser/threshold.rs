//! Clipping and dynamic thresholding of x0_hat, as a wrapper around any denoiser.

use super::{Denoiser, Estimate};
use crate::error::{Error, Result};
use crate::process::{Level, SchedulerConfig};
use crate::tensor::{Dtype, Tensor};

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
            estimate.x0_hat = Some(dynamic_threshold(estimate.x0_hat()?, ratio, top)?);
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
}

/// Per image: s = the `ratio` quantile of |x0|, at least 1 and at most `top`; x0 clamped to ±s and divided by s
/// (Saharia et al. 2022, sec. 2.3, with diffusers' upper bound).
fn dynamic_threshold(mut x0: Tensor, ratio: f64, top: f64) -> Result<Tensor> {
    let n = x0.shape().first().copied().unwrap_or(1).max(1);
    let row = x0.count() / n;
    match x0.dtype() {
        Dtype::F32 => {
            for image in x0.host_mut::<f32>()?.chunks_exact_mut(row) {
                let s = bound(image.iter().map(|v| f64::from(v.abs())).collect(), ratio, top) as f32;
                image.iter_mut().for_each(|v| *v = v.clamp(-s, s) / s);
            }
        }
        Dtype::F64 => {
            for image in x0.host_mut::<f64>()?.chunks_exact_mut(row) {
                let s = bound(image.iter().map(|v| v.abs()).collect(), ratio, top);
                image.iter_mut().for_each(|v| *v = v.clamp(-s, s) / s);
            }
        }
        Dtype::Bf16 => return Err(Error::Dtype("thresholding: wants f32 or f64, got Bf16".into())),
    }
    Ok(x0)
}

/// The quantile with linear interpolation, in [1, top].
fn bound(mut sizes: Vec<f64>, ratio: f64, top: f64) -> f64 {
    sizes.sort_by(f64::total_cmp);
    let position = ratio.clamp(0.0, 1.0) * (sizes.len() - 1) as f64;
    let (low, part) = (position.floor() as usize, position.fract());
    let high = sizes[(low + 1).min(sizes.len() - 1)];
    let quantile = sizes[low] + part * (high - sizes[low]);
    // diffusers clamps to [1, top]; a top below 1 leaves 1.
    quantile.min(top).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_thresholding_scales_an_image_by_its_quantile_and_leaves_small_ones() {
        let x0 = Tensor::from_slice(&[0.5, -3.0, 2.0, 1.0, 0.1, 0.2, -0.3, 0.4], [2, 4]).unwrap();
        // |x| sorted: .5 1 2 3; the .5 quantile lies at position 1.5: 1.5.
        let got = dynamic_threshold(x0, 0.5, 10.0).unwrap().to_vec::<f64>().unwrap();
        let want = [0.5 / 1.5, -1.0, 1.0, 1.0 / 1.5, 0.1, 0.2, -0.3, 0.4];
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-15), "{got:?}");
    }
}
