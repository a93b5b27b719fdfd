//! The CUDA side of [`super::posterior_kl`]: `kernels/posterior_kl.cu`.

use super::{PosteriorKl, Row};
use crate::device::Device;
use crate::device::cuda::{Geometry, args, gpu, size};
use crate::error::Result;
use crate::kernels::posterior_kl as kernel;
use crate::tensor::{Dtype, Tensor};

/// A warp of 256 threads for each row.
fn warps(rows: usize) -> Result<Geometry> {
    Geometry::covering(rows.div_ceil(8) * 256, 256)
}

pub(super) fn forward(index: usize, logits: &Tensor, rows: &[Row]) -> Result<(Tensor, Tensor, Tensor)> {
    let gpu = gpu(index)?;
    let (count, k) = (rows.len(), logits.shape().last_size());
    let mut loss = Tensor::empty([1], Dtype::F32, Device::Cuda(index))?;
    let mut per_row = Tensor::empty([count], Dtype::F64, Device::Cuda(index))?;
    let mut saved = Tensor::empty([count, 4], Dtype::F32, Device::Cuda(index))?;
    let table = gpu.upload(bytemuck::cast_slice(rows))?;
    let z = logits.cuda_as::<f32>()?;
    let args = args![z, &table, per_row.cuda_mut()?, saved.cuda_mut()?, size(count)?, size(k)?];
    // SAFETY: logits hold count·k f32, the table nine words, per_row an f64 and saved four f32 for each row, and every x_t and x0 is below k
    // (checked in `posterior_kl`); a warp has a row; order and types are those of `posterior_kl_rows`.
    unsafe { gpu.launch(kernel::ROWS, warps(count)?, &args) }?;
    let args = args![per_row.cuda_mut()?, loss.cuda_mut()?, size(count)?];
    let one_block = Geometry { blocks: [1, 1, 1], threads: 512, shared: 0 };
    // SAFETY: per_row holds count f64, loss one f32; order and types are those of `posterior_kl_loss`.
    unsafe { gpu.launch(kernel::LOSS, one_block, &args) }?;
    Ok((loss, per_row, saved))
}

pub(super) fn backward(index: usize, node: &PosteriorKl, dy: &Tensor) -> Result<Tensor> {
    let gpu = gpu(index)?;
    let (count, k) = (node.rows.len(), node.logits.shape().last_size());
    let mut dlogits = Tensor::empty(node.logits.shape(), Dtype::F32, Device::Cuda(index))?;
    let table = gpu.upload(bytemuck::cast_slice(&node.rows))?;
    let (z, saved, dy) = (node.logits.cuda_as::<f32>()?, node.saved.cuda_as::<f32>()?, dy.cuda_as::<f32>()?);
    let args = args![z, &table, saved, dy, dlogits.cuda_mut()?, size(count)?, size(k)?];
    // SAFETY: logits and dlogits hold count·k f32, the table nine words and saved four f32 for each row, dy one f32; a warp has a row; order and
    // types are those of `posterior_kl_backward`.
    unsafe { gpu.launch(kernel::BACKWARD, warps(count)?, &args) }?;
    Ok(dlogits)
}
