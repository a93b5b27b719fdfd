//! Weighted mean squared error: L = Σ_i w_i·Σ_e (prediction − target)² / count (L_simple at w = 1, Ho et al. 2020, eq. 14).
//!
//! Saved    prediction (shared), target (shared), weights.
//! Order    f32 sums of blocks of 1024 elements, added in f64 in order; the kernels add f32 sums of 16 in f64.
//! Kernels  `kernels/weighted_mse.cu`.

use super::same_device;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::Tensor;

/// The loss, and the unweighted mean squared error of each image.
///
/// * `prediction`, `target` — `[n, …]`
/// * `weights` — `[n]`
///
/// Returns `[1]`, the mean over all elements of the weighted squares, and the errors `[n]`, f64, both where the inputs live: the host need not wait
/// for them. The loss is differentiable in `prediction` only.
///
/// # Errors
/// [`Error::Shape`] if shapes differ or there is not one weight per image.
///
/// # Example
/// ```
/// use tweedie::{ops::weighted_mse, tensor::Tensor};
/// let (p, t) = (Tensor::from_slice(&[1.0_f32, 5.0], [2, 1])?, Tensor::from_slice(&[0.0_f32, 2.0], [2, 1])?);
/// let (loss, per_image) = weighted_mse(&p, &t, &[1.0, 2.0])?;
/// assert_eq!(loss.to_vec::<f32>()?, [(1.0 + 2.0 * 9.0) / 2.0]);
/// assert_eq!(per_image.to_vec::<f64>()?, [1.0, 9.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn weighted_mse(prediction: &Tensor, target: &Tensor, weights: &[f32]) -> Result<(Tensor, Tensor)> {
    let n = prediction.shape().first().copied().unwrap_or(0);
    if prediction.shape() != target.shape() || weights.len() != n || n == 0 {
        let (p, t, w) = (prediction.shape(), target.shape(), weights.len());
        return Err(Error::Shape(format!("weighted_mse: prediction {p}, target {t} and {w} weights do not match")));
    }
    let device = same_device("weighted_mse", &[prediction, target])?;
    let weights = Tensor::from_slice(weights, [n])?.to_device(device)?;
    let (loss, per_image) = match device {
        Device::Cpu => cpu::forward(prediction, target, &weights)?,
        Device::Cuda(index) => cuda::forward(index, prediction, target, &weights)?,
    };
    let loss = tape::push(loss, &[prediction], || {
        Box::new(WeightedMse { prediction: prediction.clone(), target: target.clone(), weights })
    });
    Ok((loss, per_image))
}

struct WeightedMse {
    prediction: Tensor,
    target: Tensor,
    weights: Tensor,
}

impl Node for WeightedMse {
    fn name(&self) -> &'static str {
        "weighted_mse"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dprediction = match dy.device() {
            Device::Cpu => cpu::backward(&self.prediction, &self.target, self.weights.host()?, dy.host::<f32>()?[0])?,
            Device::Cuda(index) => cuda::backward(index, &self.prediction, &self.target, &self.weights, &dy)?,
        };
        grads.add(self.prediction.grad_slot(), dprediction)
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::tensor::{Dtype, Tensor};

    const BLOCK: usize = 1024;

    pub(super) fn forward(prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<(Tensor, Tensor)> {
        let n = weights.count();
        let row = prediction.count() / n;
        let (p, t) = (prediction.host::<f32>()?, target.host::<f32>()?);
        let mut means = Tensor::empty([n], Dtype::F64, Device::Cpu)?;
        let out = DisjointMut::new(means.host_mut::<f64>()?);
        for_each_block(n, 3 * row, |image| {
            let range = image * row..(image + 1) * row;
            let mut total = 0.0;
            for (p, t) in p[range.clone()].chunks(BLOCK).zip(t[range].chunks(BLOCK)) {
                total += f64::from(p.iter().zip(t).map(|(p, t)| (p - t) * (p - t)).sum::<f32>());
            }
            out.slice(image, 1)[0] = total / row as f64;
        });
        let weighted = means.host::<f64>()?.iter().zip(weights.host::<f32>()?).map(|(e, w)| e * f64::from(*w));
        let loss = weighted.sum::<f64>() / n as f64;
        Ok((Tensor::from_slice(&[loss as f32], [1])?, means))
    }

    pub(super) fn backward(prediction: &Tensor, target: &Tensor, weights: &[f32], dy: f32) -> Result<Tensor> {
        let mut dp = Tensor::empty(prediction.shape(), Dtype::F32, Device::Cpu)?;
        let (row, count) = (dp.count() / weights.len(), dp.count());
        let (p, t) = (prediction.host::<f32>()?, target.host::<f32>()?);
        let out = DisjointMut::new(dp.host_mut::<f32>()?);
        for_each_block(weights.len(), 3 * row, |image| {
            let k = (2.0 * f64::from(weights[image]) * f64::from(dy) / count as f64) as f32;
            let at = image * row;
            for (i, d) in out.slice(at, row).iter_mut().enumerate() {
                *d = k * (p[at + i] - t[at + i]);
            }
        });
        Ok(dp)
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::weighted_mse as kernel;
    use crate::tensor::{Dtype, Tensor};

    /// Elements of one partial sum; `kernels/weighted_mse.cu` has the same number.
    const PART: usize = 4096;

    pub(super) fn forward(
        index: usize,
        prediction: &Tensor,
        target: &Tensor,
        weights: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let gpu = gpu(index)?;
        let n = weights.count();
        let row = prediction.count() / n;
        let chunks = row.div_ceil(PART);
        let mut loss = Tensor::empty([1], Dtype::F32, Device::Cuda(index))?;
        let mut per_image = Tensor::empty([n], Dtype::F64, Device::Cuda(index))?;
        let partial = gpu.take(n * chunks * size_of::<f64>())?;
        let (p, t) = (prediction.cuda_as::<f32>()?, target.cuda_as::<f32>()?);
        let parts = args![p, t, &partial, size(row)?, size(chunks)?];
        let mut geometry = Geometry::covering(n * chunks, 1)?;
        geometry.threads = 256;
        // SAFETY: prediction and target hold n·row f32 (checked in `weighted_mse`), partial n·chunks f64; order and types are those of
        // `weighted_mse_partial`.
        unsafe { gpu.launch(kernel::PARTIAL, geometry, &parts) }?;
        let weights = weights.cuda_as::<f32>()?;
        let (means, total) = (per_image.cuda_mut()?, loss.cuda_mut()?);
        let sums = args![&partial, weights, means, total, size(n)?, size(row)?, size(chunks)?];
        let one_block = Geometry { blocks: [1, 1, 1], threads: 512, shared: 0 };
        // SAFETY: partial holds n·chunks f64, weights and per_image n each, loss one; order and types are those of `weighted_mse_loss`.
        unsafe { gpu.launch(kernel::LOSS, one_block, &sums) }?;
        Ok((loss, per_image))
    }

    pub(super) fn backward(
        index: usize,
        prediction: &Tensor,
        target: &Tensor,
        weights: &Tensor,
        dy: &Tensor,
    ) -> Result<Tensor> {
        let n = weights.count();
        let row = prediction.count() / n;
        let factor = (2.0 / prediction.count() as f64) as f32;
        let mut dp = Tensor::empty(prediction.shape(), Dtype::F32, Device::Cuda(index))?;
        let (p, t, w) = (prediction.cuda_as::<f32>()?, target.cuda_as::<f32>()?, weights.cuda_as::<f32>()?);
        let args = args![p, t, w, dy.cuda_as::<f32>()?, dp.cuda_mut()?, size(n)?, size(row)?, factor];
        let geometry = Geometry::per_image(n, row.div_ceil(4), 128)?;
        // SAFETY: prediction, target and dp hold n·row f32, weights n, dy one; a thread touches elements below row of its images; order
        // and types are those of `weighted_mse_backward`.
        unsafe { gpu(index)?.launch(kernel::BACKWARD, geometry, &args) }?;
        Ok(dp)
    }
}

#[doc(hidden)]
pub mod cases {
    use super::weighted_mse;
    use crate::device::Device;
    use crate::tensor::Tensor;
    use crate::testing::{Array, Case};

    /// `n` images of `row` elements.
    pub fn case(n: usize, row: usize, seed: u64) -> Case {
        let weights: Vec<f32> = (0..n).map(|i| 0.5 + i as f32).collect();
        let copy = weights.clone();
        Case {
            op: "weighted_mse",
            label: format!("{n}x{row}"),
            inputs: vec![Array::normal([n, row], seed, 1.0, 0.0), Array::normal([n, row], seed + 1, 1.0, 0.0)],
            differentiable: vec![true, false],
            run: Box::new(move |t| Ok(weighted_mse(&t[0], &t[1], &weights)?.0)),
            oracle: Box::new(move |a| {
                let squares = a[0].data.iter().zip(&a[1].data).enumerate();
                let total: f64 = squares.map(|(k, (p, t))| f64::from(copy[k / row]) * (p - t).powi(2)).sum();
                Array { shape: [1].into(), data: vec![total / (n * row) as f64] }
            }),
            terms: n * row,
            grad_terms: 1,
        }
    }

    /// The error of each image.
    fn per_image(n: usize, row: usize, seed: u64) -> Case {
        Case {
            label: format!("{n}x{row}, each image"),
            differentiable: vec![false, false],
            run: Box::new(move |t| {
                let errors = weighted_mse(&t[0], &t[1], &vec![1.0; n])?.1;
                let values = errors.to_device(Device::Cpu)?.to_vec::<f64>()?;
                let narrow: Vec<f32> = values.iter().map(|v| *v as f32).collect();
                Tensor::from_slice(&narrow, [n])?.to_device(errors.device())
            }),
            oracle: Box::new(move |a| {
                let images = a[0].data.chunks(row).zip(a[1].data.chunks(row));
                let mean = |(p, t): (&[f64], &[f64])| p.iter().zip(t).map(|(p, t)| (p - t).powi(2)).sum::<f64>();
                Array { shape: [n].into(), data: images.map(|pair| mean(pair) / row as f64).collect() }
            }),
            terms: row,
            ..case(n, row, seed)
        }
    }

    /// Rows: size 1, odd, more than one block, more than one partial sum on both sides of its edge, more images than warps of a block.
    pub fn table() -> Vec<Case> {
        let mut rows = vec![case(1, 1, 95), case(3, 7, 96), case(2, 1500, 97), case(2, 4096, 98), case(1, 8194, 99)];
        // More images than a grid has in y.
        rows.push(case(65_540, 1, 193));
        rows.extend([case(20, 5, 190), per_image(20, 5, 191), per_image(3, 4100, 192)]);
        rows
    }
}
