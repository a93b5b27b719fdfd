//! The CUDA side of [`super::attention_pool`]: `kernels/attention_pool.cu`.

use super::{AttentionPool, Sizes};
use crate::device::Device;
use crate::device::cuda::{Geometry, args, gpu, size};
use crate::error::Result;
use crate::kernels::attention_pool as kernel;
use crate::tensor::{Dtype, Tensor};

/// A block for each head of each image.
fn blocks(s: Sizes) -> Result<Geometry> {
    Geometry::covering(s.n * s.heads * 128, 128)
}

pub(super) fn forward(index: usize, q: &Tensor, k: &Tensor, v: &Tensor, s: Sizes) -> Result<(Tensor, Tensor)> {
    let gpu = gpu(index)?;
    let mut y = Tensor::empty(q.shape(), Dtype::F32, Device::Cuda(index))?;
    let mut probabilities = Tensor::empty([s.n, s.heads, s.t], Dtype::F32, Device::Cuda(index))?;
    let (q, k, v) = (q.cuda_as::<f32>()?, k.cuda_as::<f32>()?, v.cuda_as::<f32>()?);
    let (t, heads, d) = (size(s.t)?, size(s.heads)?, size(s.d)?);
    let args = args![q, k, v, probabilities.cuda_mut()?, y.cuda_mut()?, t, heads, d];
    // SAFETY: q and y hold n·heads·d f32, k and v t times as many, probabilities n·heads·t (checked in `attention_pool`); a block has a head of an
    // image; order and types are those of `attention_pool_forward`.
    unsafe { gpu.launch(kernel::FORWARD, blocks(s)?, &args) }?;
    Ok((y, probabilities))
}

pub(super) fn backward(index: usize, node: &AttentionPool, dy: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let (gpu, s) = (gpu(index)?, node.sizes);
    let empty = |like: &Tensor| Tensor::empty(like.shape(), Dtype::F32, Device::Cuda(index));
    let (mut dq, mut dk, mut dv) = (empty(&node.q)?, empty(&node.k)?, empty(&node.v)?);
    let mut dscores = empty(&node.probabilities)?;
    let (q, k, v) = (node.q.cuda_as::<f32>()?, node.k.cuda_as::<f32>()?, node.v.cuda_as::<f32>()?);
    let (p, dy) = (node.probabilities.cuda_as::<f32>()?, dy.cuda_as::<f32>()?);
    let (t, heads, d) = (size(s.t)?, size(s.heads)?, size(s.d)?);
    let (ds, dq_out, dk_out, dv_out) = (dscores.cuda_mut()?, dq.cuda_mut()?, dk.cuda_mut()?, dv.cuda_mut()?);
    let args = args![q, k, v, p, dy, ds, dq_out, dk_out, dv_out, t, heads, d];
    // SAFETY: as in `forward`; gradients have the sizes of what they belong to, and dscores that of the probabilities; order and types are
    // those of `attention_pool_backward`.
    unsafe { gpu.launch(kernel::BACKWARD, blocks(s)?, &args) }?;
    Ok((dq, dk, dv))
}
