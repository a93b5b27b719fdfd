//! Cross-entropy of logits, fused with its softmax: L = Σ_r w_r·(log Σ_k e^(z_rk) − z_r,target). With w = α'/(1 − α) at masked tokens and 0
//! elsewhere this is the masked loss of MDLM (Sahoo et al. 2024, eq. 10), and with log-scores the absorbing score entropy up to a constant.
//!
//! Saved    logits (shared), targets, weights, the log-sum-exp of each row.
//! Cost     logits are read once forward; once backward, which writes their gradient. Rows of weight 0 are not read.
//! Order    a row's sum runs by lanes; rows are added in f64 in order.
//! Kernels  `kernels/cross_entropy.cu`.

#[doc(hidden)]
pub mod cases;
mod cpu;
mod cuda;

use crate::device::{Device, Scratch};
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::Tensor;

/// The weighted sum of the rows' cross-entropies, and each row's, unweighted.
///
/// * `logits` — `[…, k]`, f32; a softmax makes them probabilities
/// * `targets` — the class of each row, below `k`
/// * `weights` — of each row, finite
///
/// Returns `[1]`, f32, and the entropies in nats, `[rows]`, f64, 0 where the weight is 0; both on the device of `logits`. The first is differentiable
/// in `logits`.
///
/// # Errors
/// [`Error::Shape`] if there is not one target and one weight for each row, or a target is `k` or more; [`Error::Usage`] if a weight is not finite.
///
/// # Example
/// ```
/// use tweedie::{ops, tensor::Tensor};
/// let logits = Tensor::from_slice(&[0.0_f32, 0.0, 5.0, 5.0], [2, 2])?;
/// let (loss, rows) = ops::cross_entropy(&logits, &[1, 0], &[1.0, 2.0])?;
/// let ln2 = std::f64::consts::LN_2;
/// assert!((f64::from(loss.to_vec::<f32>()?[0]) - 3.0 * ln2).abs() < 1e-6);
/// assert!(rows.to_vec::<f64>()?.iter().all(|row| (row - ln2).abs() < 1e-6));
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn cross_entropy(logits: &Tensor, targets: &[u32], weights: &[f32]) -> Result<(Tensor, Tensor)> {
    let shape = logits.shape();
    let k = shape.last_size();
    if shape.len() < 2 || k == 0 {
        return Err(Error::Shape(format!("cross_entropy: logits want [rows,k] with k at least 1, got {shape}")));
    }
    let rows = logits.count() / k;
    if targets.len() != rows || weights.len() != rows {
        let (t, w) = (targets.len(), weights.len());
        return Err(Error::Shape(format!(
            "cross_entropy: {rows} rows of logits want as many targets and weights, got {t} and {w}"
        )));
    }
    if let Some((row, bad)) = targets.iter().enumerate().find(|(_, t)| **t as usize >= k) {
        return Err(Error::Shape(format!("cross_entropy: target {bad} of row {row} is outside {k} classes")));
    }
    if let Some((row, bad)) = weights.iter().enumerate().find(|(_, w)| !w.is_finite()) {
        return Err(Error::Usage(format!("cross_entropy: weight {bad} of row {row}: expected a finite number")));
    }
    let (targets, weights) = (copy(targets), copy(weights));
    let (loss, per_row, lse) = match logits.device() {
        Device::Cpu => cpu::forward(logits, &targets, &weights)?,
        Device::Cuda(index) => cuda::forward(index, logits, &targets, &weights)?,
    };
    let loss = tape::push(loss, &[logits], || Box::new(CrossEntropy { logits: logits.clone(), targets, weights, lse }));
    Ok((loss, per_row))
}

/// In memory of the pool: a batch of tokens is more than a page.
fn copy<T: bytemuck::Pod>(values: &[T]) -> Scratch<T> {
    let mut copy = Scratch::take(values.len());
    copy.copy_from_slice(values);
    copy
}

struct CrossEntropy {
    logits: Tensor,
    targets: Scratch<u32>,
    weights: Scratch<f32>,
    lse: Tensor,
}

impl Node for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dlogits = match dy.device() {
            Device::Cpu => cpu::backward(&self, dy.host::<f32>()?[0])?,
            Device::Cuda(index) => cuda::backward(index, &self, &dy)?,
        };
        grads.add(self.logits.grad_slot(), dlogits)
    }
}
