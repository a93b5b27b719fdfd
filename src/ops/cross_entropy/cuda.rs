//! The CUDA side of [`super::cross_entropy`]: `kernels/cross_entropy.cu`.

use super::CrossEntropy;
use crate::device::Device;
use crate::device::cuda::{Geometry, args, gpu, size};
use crate::error::Result;
use crate::kernels::cross_entropy as kernel;
use crate::tensor::{Dtype, Tensor};

/// A warp of 256 threads for each row.
fn warps(rows: usize) -> Result<Geometry> {
    Geometry::covering(rows.div_ceil(8) * 256, 256)
}

pub(super) fn forward(
    index: usize,
    logits: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<(Tensor, Tensor, Tensor)> {
    let gpu = gpu(index)?;
    let (rows, k) = (targets.len(), logits.shape().last_size());
    let mut loss = Tensor::empty([1], Dtype::F32, Device::Cuda(index))?;
    let mut per_row = Tensor::empty([rows], Dtype::F64, Device::Cuda(index))?;
    let mut lse = Tensor::empty([rows], Dtype::F32, Device::Cuda(index))?;
    let (targets, weights) = (gpu.upload(bytemuck::cast_slice(targets))?, gpu.upload(bytemuck::cast_slice(weights))?);
    let z = logits.cuda_as::<f32>()?;
    let args = args![z, &targets, &weights, per_row.cuda_mut()?, lse.cuda_mut()?, size(rows)?, size(k)?];
    // SAFETY: logits hold rows·k f32, targets, weights, per_row and lse one for each row, and every target is below k (checked in
    // `cross_entropy`); a warp has a row; order and types are those of `cross_entropy_rows`.
    unsafe { gpu.launch(kernel::ROWS, warps(rows)?, &args) }?;
    let args = args![per_row.cuda_mut()?, &weights, loss.cuda_mut()?, size(rows)?];
    let one_block = Geometry { blocks: [1, 1, 1], threads: 512, shared: 0 };
    // SAFETY: per_row and weights hold one for each row, loss one; order and types are those of `cross_entropy_loss`.
    unsafe { gpu.launch(kernel::LOSS, one_block, &args) }?;
    Ok((loss, per_row, lse))
}

pub(super) fn backward(index: usize, node: &CrossEntropy, dy: &Tensor) -> Result<Tensor> {
    let gpu = gpu(index)?;
    let (rows, k) = (node.targets.len(), node.logits.shape().last_size());
    let mut dlogits = Tensor::empty(node.logits.shape(), Dtype::F32, Device::Cuda(index))?;
    let targets = gpu.upload(bytemuck::cast_slice(&node.targets))?;
    let weights = gpu.upload(bytemuck::cast_slice(&node.weights))?;
    let (z, lse, dy) = (node.logits.cuda_as::<f32>()?, node.lse.cuda_as::<f32>()?, dy.cuda_as::<f32>()?);
    let args = args![z, &targets, &weights, lse, dy, dlogits.cuda_mut()?, size(rows)?, size(k)?];
    // SAFETY: logits and dlogits hold rows·k f32, targets, weights and lse one for each row, dy one; a warp has a row; order and types are those
    // of `cross_entropy_backward`.
    unsafe { gpu.launch(kernel::BACKWARD, warps(rows)?, &args) }?;
    Ok(dlogits)
}
