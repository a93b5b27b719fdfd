//! The CUDA side of [`super::score_entropy`]: `kernels/score_entropy.cu`.

use super::Row;
use crate::device::Device;
use crate::device::cuda::{Geometry, args, gpu, size};
use crate::error::Result;
use crate::kernels::score_entropy as kernel;
use crate::tensor::{Dtype, Tensor};

/// A warp of 256 threads for each row.
fn warps(rows: usize) -> Result<Geometry> {
    Geometry::covering(rows.div_ceil(8) * 256, 256)
}

pub(super) fn forward(index: usize, log_scores: &Tensor, rows: &[Row]) -> Result<(Tensor, Tensor)> {
    let gpu = gpu(index)?;
    let (count, k) = (rows.len(), log_scores.shape().last_size());
    let mut loss = Tensor::empty([1], Dtype::F32, Device::Cuda(index))?;
    let mut per_row = Tensor::empty([count], Dtype::F64, Device::Cuda(index))?;
    let table = gpu.upload(bytemuck::cast_slice(rows))?;
    let args = args![log_scores.cuda_as::<f32>()?, &table, per_row.cuda_mut()?, size(count)?, size(k)?];
    // SAFETY: log_scores hold count·k f32, the table eight words and per_row an f64 for each row, and every x0 is below k (checked in
    // `score_entropy`); a warp has a row; order and types are those of `score_entropy_rows`.
    unsafe { gpu.launch(kernel::ROWS, warps(count)?, &args) }?;
    let args = args![per_row.cuda_mut()?, loss.cuda_mut()?, size(count)?];
    let one_block = Geometry { blocks: [1, 1, 1], threads: 512, shared: 0 };
    // SAFETY: per_row holds count f64, loss one f32; order and types are those of `score_entropy_loss`.
    unsafe { gpu.launch(kernel::LOSS, one_block, &args) }?;
    Ok((loss, per_row))
}

pub(super) fn backward(index: usize, log_scores: &Tensor, rows: &[Row], dy: &Tensor) -> Result<Tensor> {
    let gpu = gpu(index)?;
    let (count, k) = (rows.len(), log_scores.shape().last_size());
    let mut dscores = Tensor::empty(log_scores.shape(), Dtype::F32, Device::Cuda(index))?;
    let table = gpu.upload(bytemuck::cast_slice(rows))?;
    let (scores, dy) = (log_scores.cuda_as::<f32>()?, dy.cuda_as::<f32>()?);
    let args = args![scores, &table, dy, dscores.cuda_mut()?, size(count)?, size(k)?];
    // SAFETY: log_scores and dscores hold count·k f32, the table eight words for each row, dy one f32; a warp has a row; order and types are those
    // of `score_entropy_backward`.
    unsafe { gpu.launch(kernel::BACKWARD, warps(count)?, &args) }?;
    Ok(dscores)
}
