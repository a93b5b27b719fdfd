//! Attention of one query for each image: y_n = softmax_t(q_n·k_nt/√d)·v_nt for each head. It makes one vector of a feature map, by weights that
//! depend on what is there (Lee et al. 2019, sec. 3.2; the pooling of Dhariwal & Nichol's classifiers, 2021, sec. 4.3).
//!
//! Layout   q, y `[n, heads·d]`; k, v `[n, …, heads·d]`, t places in all.
//! Method   a job an image; a head's t probabilities lie in memory, t of them.
//! Saved    q, k, v (shared) and the probabilities, `[n, heads, t]`.
//! Cost     4·t·c flops an image forward, 8·t·c backward: k and v are read once each way, so it is memory bound.
//! Order    sums over channels and places run in order, in f64.
//! CUDA     `kernels/attention_pool.cu`.

#[doc(hidden)]
pub mod cases;
mod cpu;
mod cuda;

use super::same_device;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Dtype, Tensor};

/// Attends from one query to every place of the same image.
///
/// * `q` — `[n, c]`, f32
/// * `k`, `v` — `[n, t, c]` or `[n, h, w, c]`, of one shape, f32
/// * `heads` — must divide `c`; head i owns channels `i·c/heads ..`
///
/// Returns `[n, c]`. Differentiable in `q`, `k` and `v`.
///
/// # Errors
/// [`Error::Shape`] if the shapes or types do not agree or `heads` does not divide `c`; [`Error::Device`] if the arguments live on
/// different devices.
///
/// # Example
/// ```
/// use tweedie::{ops::attention_pool, tensor::Tensor};
/// let q = Tensor::from_slice(&[0.0_f32], [1, 1])?;
/// let v = Tensor::from_slice(&[2.0_f32, 4.0], [1, 2, 1])?;
/// assert_eq!(attention_pool(&q, &v, &v, 1)?.to_vec::<f32>()?, [3.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn attention_pool(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (shape, n, c) = (k.shape(), q.shape().first().copied().unwrap_or(0), q.shape().last_size());
    let fits = q.shape().len() == 2 && shape.len() >= 3 && shape[0] == n && shape.last_size() == c;
    if !fits || v.shape() != shape || k.count() == 0 {
        let (q, v) = (q.shape(), v.shape());
        return Err(Error::Shape(format!("attention_pool: expected q [n,c] and k, v [n,…,c], got {q}, {shape}, {v}")));
    }
    if [q, k, v].iter().any(|x| x.dtype() != Dtype::F32) {
        let [q, k, v] = [q, k, v].map(Tensor::dtype);
        return Err(Error::Shape(format!("attention_pool: expected f32, got {q:?}, {k:?}, {v:?}; cast them")));
    }
    if heads == 0 || !c.is_multiple_of(heads) {
        return Err(Error::Shape(format!("attention_pool: {c} channels do not divide into {heads} heads")));
    }
    let sizes = Sizes { n, t: k.count() / (n * c), heads, d: c / heads };
    let (y, probabilities) = match same_device("attention_pool", &[q, k, v])? {
        Device::Cpu => cpu::forward(q, k, v, sizes)?,
        Device::Cuda(index) => cuda::forward(index, q, k, v, sizes)?,
    };
    Ok(tape::push(y, &[q, k, v], || {
        Box::new(AttentionPool { q: q.clone(), k: k.clone(), v: v.clone(), probabilities, sizes })
    }))
}

#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    t: usize,
    heads: usize,
    d: usize,
}

struct AttentionPool {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    probabilities: Tensor,
    sizes: Sizes,
}

impl Node for AttentionPool {
    fn name(&self) -> &'static str {
        "attention_pool"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (dq, dk, dv) = match dy.device() {
            Device::Cpu => cpu::backward(&self, &dy)?,
            Device::Cuda(index) => cuda::backward(index, &self, &dy)?,
        };
        grads.add(self.q.grad_slot(), dq)?;
        grads.add(self.k.grad_slot(), dk)?;
        grads.add(self.v.grad_slot(), dv)
    }
}
