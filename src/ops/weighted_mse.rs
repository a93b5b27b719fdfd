//! Weighted mean squared error: L = Σ_i w_i·Σ_e (prediction − target)² / count (L_simple at w = 1, Ho et al. 2020, eq. 14).
//!
//! Saved    prediction (shared), target (shared), weights.
//! Order    f32 sums of blocks of 1024 elements, added in f64 in order.

use super::same_device;
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::Tensor;

/// The loss, and the unweighted mean squared error of each image.
///
/// * `prediction`, `target` — `[n, …]`
/// * `weights` — `[n]`
///
/// Returns `[1]`, the mean over all elements of the weighted squares. Differentiable in `prediction` only.
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
/// assert_eq!(per_image, [1.0, 9.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn weighted_mse(prediction: &Tensor, target: &Tensor, weights: &[f32]) -> Result<(Tensor, Vec<f64>)> {
    let n = prediction.shape().first().copied().unwrap_or(0);
    if prediction.shape() != target.shape() || weights.len() != n || n == 0 {
        let (p, t, w) = (prediction.shape(), target.shape(), weights.len());
        return Err(Error::Shape(format!("weighted_mse: prediction {p}, target {t} and {w} weights do not match")));
    }
    let per_image = match same_device("weighted_mse", &[prediction, target])? {
        Device::Cpu => cpu::forward(prediction, target, n)?,
        device => return Err(no_kernel("weighted_mse", device)),
    };
    let loss = per_image.iter().zip(weights).map(|(e, w)| e * f64::from(*w)).sum::<f64>() / n as f64;
    let loss = tape::push(Tensor::from_slice(&[loss as f32], [1])?, &[prediction], || {
        Box::new(WeightedMse { prediction: prediction.clone(), target: target.clone(), weights: weights.to_vec() })
    });
    Ok((loss, per_image))
}

struct WeightedMse {
    prediction: Tensor,
    target: Tensor,
    weights: Vec<f32>,
}

impl Node for WeightedMse {
    fn name(&self) -> &'static str {
        "weighted_mse"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        match dy.device() {
            Device::Cpu => {
                let dprediction = cpu::backward(&self.prediction, &self.target, &self.weights, dy.host::<f32>()?[0])?;
                grads.add(self.prediction.grad_slot(), dprediction)
            }
            device => Err(no_kernel("weighted_mse backward", device)),
        }
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::tensor::{Dtype, Tensor};

    const BLOCK: usize = 1024;

    pub(super) fn forward(prediction: &Tensor, target: &Tensor, n: usize) -> Result<Vec<f64>> {
        let row = prediction.count() / n;
        let (p, t) = (prediction.host::<f32>()?, target.host::<f32>()?);
        let mut means = vec![0.0; n];
        let out = DisjointMut::new(&mut means);
        for_each_block(n, 3 * row, |image| {
            let range = image * row..(image + 1) * row;
            let mut total = 0.0;
            for (p, t) in p[range.clone()].chunks(BLOCK).zip(t[range].chunks(BLOCK)) {
                total += f64::from(p.iter().zip(t).map(|(p, t)| (p - t) * (p - t)).sum::<f32>());
            }
            out.slice(image, 1)[0] = total / row as f64;
        });
        Ok(means)
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

#[doc(hidden)]
pub mod cases {
    use super::weighted_mse;
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

    /// Rows: size 1, odd, more than one block.
    pub fn table() -> Vec<Case> {
        vec![case(1, 1, 95), case(3, 7, 96), case(2, 1500, 97)]
    }
}
