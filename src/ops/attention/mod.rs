//! Multi-head attention: y = softmax(q·kᵀ/√d)·v for each image and head (Vaswani et al. 2017, eq. 1).
//!
//! Layout   q, k, v, y `[n, t, heads·d]` (a feature map `[n,h,w,c]` is the same memory).
//! Method   tiles of 64 queries (backward 128) against tiles of 256 keys, online softmax (Milakov & Gimelshein 2018): a tile of scores
//!          lives in the cache, nothing of t × t exists. Keys and values are packed once for each head.
//! Saved    q, k, v, y (shared) and the log-sum-exp of each row, `[n, heads, t]`; probabilities are recomputed.
//! Cost     4·t²·c flops per image forward, 10·t²·c backward.
//! Order    every sum runs over tokens or channels in order, tiles in order.
//! Types    bf16 q, k, v are copied to f32, and results rounded.
//! Rotary   `self_attention` (`rotary.rs`) reads q, k and v as the thirds of one tensor's tokens and rotates them by position.
//! CUDA     `kernels/attention.cu`: tiles of 64 queries against tiles of 64 keys, online softmax.

#[doc(hidden)]
pub mod cases;
mod cpu;
mod cuda;
mod rotary;
mod rows;

pub use rotary::{rotary_table, self_attention};

use super::same_device;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::Tensor;

/// Attends from every query to every key of the same image.
///
/// * `q`, `k`, `v` — `[n, t, c]` or `[n, h, w, c]`, all of one shape
/// * `heads` — must divide `c`; head i owns channels `i·c/heads ..`
///
/// Returns a tensor of the shape of `q`, on its device. Differentiable in `q`, `k` and `v`.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or `heads` does not divide `c`; [`Error::Device`] if the arguments live on
/// different devices.
///
/// # Example
/// ```
/// use tweedie::{ops::attention, tensor::Tensor};
/// let (q, v) = (Tensor::from_slice(&[0.0_f32, 0.0], [1, 2, 1])?, Tensor::from_slice(&[2.0_f32, 4.0], [1, 2, 1])?);
/// assert_eq!(attention(&q, &q, &v, 1)?.to_vec::<f32>()?, [3.0, 3.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let shape = q.shape();
    if shape.len() < 3 || k.shape() != shape || v.shape() != shape {
        let (k, v) = (k.shape(), v.shape());
        return Err(Error::Shape(format!("attention: q, k, v want one shape [n,…,c], got {shape}, {k}, {v}")));
    }
    let c = shape.last_size();
    if heads == 0 || !c.is_multiple_of(heads) {
        return Err(Error::Shape(format!("attention: {c} channels do not divide into {heads} heads")));
    }
    let sizes = Sizes { n: shape[0], t: shape.count() / (shape[0] * c).max(1), heads, d: c / heads };
    let (y, lse) = match same_device("attention", &[q, k, v])? {
        Device::Cpu => cpu::forward_apart(q, k, v, sizes)?,
        Device::Cuda(index) => cuda::forward(index, q, k, v, sizes)?,
    };
    let saved = y.clone();
    Ok(tape::push(y, &[q, k, v], || {
        Box::new(Attention { q: q.clone(), k: k.clone(), v: v.clone(), y: saved, lse, sizes })
    }))
}

#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    t: usize,
    heads: usize,
    d: usize,
}

struct Attention {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    lse: Tensor,
    sizes: Sizes,
}

impl Node for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (dq, dk, dv) = match dy.device() {
            Device::Cpu => cpu::backward_apart(&self, &dy)?,
            Device::Cuda(index) => return cuda::backward(index, &self, &dy, grads),
        };
        grads.add(self.q.grad_slot(), dq)?;
        grads.add(self.k.grad_slot(), dk)?;
        grads.add(self.v.grad_slot(), dv)
    }
}
