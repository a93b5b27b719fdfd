//! Dynamic thresholding (Saharia et al. 2022, sec. 2.3, with diffusers' upper bound): per image, s = the `ratio` quantile of |x0|, at least 1
//! and at most `top`; x0 clamped to ±s and divided by s.
//!
//! Not differentiable: samplers use it. Quantiles are interpolated linearly between the two nearest values. Kernel: `kernels/dynamic_threshold.cu`.

use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor};

/// Bounds each image of `x0` `[n, …]` (f32 or f64) by its own quantile; values end in [−1, 1], but for those of images that had none
/// beyond it, and NaN stays NaN.
///
/// * `ratio` — which quantile of |x0|, 0 to 1
/// * `top` — the most that values are divided by, at least 1
///
/// # Errors
/// [`Error::Dtype`] for types other than f32 and f64.
///
/// # Example
/// ```
/// use tweedie::{ops::dynamic_threshold, tensor::Tensor};
/// let x0 = Tensor::from_slice(&[4.0_f64, -1.0, 2.0], [1, 3])?;
/// // The median of |x0| is 2.
/// assert_eq!(dynamic_threshold(x0, 0.5, 10.0)?.to_vec::<f64>()?, [1.0, -0.5, 1.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn dynamic_threshold(x0: Tensor, ratio: f64, top: f64) -> Result<Tensor> {
    let n = x0.shape().first().copied().unwrap_or(1);
    if x0.count() == 0 {
        return Ok(x0);
    }
    let row = x0.count() / n;
    let position = ratio.clamp(0.0, 1.0) * (row - 1) as f64;
    let rank = Rank { low: position.floor() as usize, part: position.fract() };
    match (x0.device(), x0.dtype()) {
        (Device::Cpu, Dtype::F32) => cpu::bound_f32(x0, row, rank, top),
        (Device::Cpu, Dtype::F64) => cpu::bound_f64(x0, row, rank, top),
        (Device::Cpu, dtype) => Err(Error::Dtype(format!("dynamic_threshold: wants f32 or f64, got {dtype:?}"))),
        (Device::Cuda(index), Dtype::F32) => cuda::bound(index, &x0, n, row, rank, top),
        (device, _) => Err(no_kernel("dynamic_threshold", device)),
    }
}

/// A place between two of the sorted values: `part` of the way from number `low` (from 0) to the next.
#[derive(Clone, Copy)]
struct Rank {
    low: usize,
    part: f64,
}

mod cpu {
    use super::Rank;
    use crate::error::Result;
    use crate::tensor::Tensor;

    pub(super) fn bound_f32(mut x0: Tensor, row: usize, rank: Rank, top: f64) -> Result<Tensor> {
        for image in x0.host_mut::<f32>()?.chunks_exact_mut(row) {
            let s = quantile(image.iter().map(|v| f64::from(v.abs())).collect(), rank, top) as f32;
            image.iter_mut().for_each(|v| *v = v.clamp(-s, s) / s);
        }
        Ok(x0)
    }

    pub(super) fn bound_f64(mut x0: Tensor, row: usize, rank: Rank, top: f64) -> Result<Tensor> {
        for image in x0.host_mut::<f64>()?.chunks_exact_mut(row) {
            let s = quantile(image.iter().map(|v| v.abs()).collect(), rank, top);
            image.iter_mut().for_each(|v| *v = v.clamp(-s, s) / s);
        }
        Ok(x0)
    }

    /// The quantile with linear interpolation, in [1, top].
    fn quantile(mut sizes: Vec<f64>, rank: Rank, top: f64) -> f64 {
        sizes.sort_by(f64::total_cmp);
        let high = sizes[(rank.low + 1).min(sizes.len() - 1)];
        let quantile = sizes[rank.low] + rank.part * (high - sizes[rank.low]);
        // diffusers clamps to [1, top]; a top below 1 leaves 1.
        quantile.min(top).max(1.0)
    }
}

mod cuda {
    use super::Rank;
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::dynamic_threshold as kernel;
    use crate::tensor::{Dtype, Tensor};

    /// `kernels/dynamic_threshold.cu` has the same number.
    const THREADS: u32 = 512;

    pub(super) fn bound(index: usize, x0: &Tensor, n: usize, row: usize, rank: Rank, top: f64) -> Result<Tensor> {
        let mut y = Tensor::empty(x0.shape(), Dtype::F32, Device::Cuda(index))?;
        let args = args![x0.cuda_as::<f32>()?, y.cuda_mut()?, size(n)?, size(row)?, size(rank.low)?, rank.part, top];
        let mut geometry = Geometry::covering(n, 1)?;
        geometry.threads = THREADS;
        // SAFETY: x0 and y hold n·row f32, and the rank is below row (made in `dynamic_threshold`); a block touches its images alone; order
        // and types are those of `dynamic_threshold_forward`.
        unsafe { gpu(index)?.launch(kernel::FORWARD, geometry, &args) }?;
        Ok(y)
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::dynamic_threshold;
    use crate::testing::{Array, Case};

    fn case(n: usize, row: usize, ratio: f64, top: f64, scale: f32) -> Case {
        Case {
            op: "dynamic_threshold",
            label: format!("{n}x{row}, quantile {ratio}, top {top}, scale {scale}"),
            inputs: vec![Array::normal([n, row], 220, scale, 0.0)],
            differentiable: vec![false],
            run: Box::new(move |t| dynamic_threshold(t[0].clone(), ratio, top)),
            oracle: Box::new(move |a| {
                let mut y = a[0].clone();
                for image in y.data.chunks_exact_mut(row) {
                    let mut sizes: Vec<f64> = image.iter().map(|v| v.abs()).collect();
                    sizes.sort_by(f64::total_cmp);
                    let place = ratio * (row - 1) as f64;
                    let (low, high) = (sizes[place.floor() as usize], sizes[place.ceil() as usize]);
                    let s = (low + place.fract() * (high - low)).min(top).max(1.0);
                    image.iter_mut().for_each(|v| *v = v.clamp(-s, s) / s);
                }
                y
            }),
            terms: 1,
            grad_terms: 1,
        }
    }

    /// Rows: one value, both ends, fewer and more values than threads, equal values, the upper bound, small images.
    pub(crate) fn table() -> Vec<Case> {
        let mut equal = case(2, 40, 0.4, 9.0, 1.0);
        equal.label = "many equal values".into();
        equal.inputs[0].data.iter_mut().for_each(|v| *v = (2.0 * *v).round());
        vec![
            case(1, 1, 0.995, 5.0, 3.0),
            case(3, 37, 0.0, 5.0, 30.0),
            case(2, 37, 1.0, 50.0, 3.0),
            case(2, 700, 0.995, 50.0, 3.0),
            case(1, 513, 0.5, 1.5, 8.0),
            case(2, 64, 0.9, 5.0, 0.01),
            equal,
        ]
    }
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
