//! The CUDA side of [`super::layer_norm`]: `kernels/layer_norm.cu`.

use super::{LayerNorm, Sizes};
use crate::device::Device;
use crate::device::cuda::{Arg, Geometry, args, gpu, size};
use crate::error::Result;
use crate::kernels::layer_norm as kernel;
use crate::ops::Film;
use crate::tape::Grads;
use crate::tensor::{Dtype, Tensor};

/// Rows of one partial sum.
const CHUNK: usize = 64;

/// A warp of 256 threads for each row.
fn warps(s: Sizes) -> Result<Geometry> {
    Geometry::covering((s.n * s.rows).div_ceil(8) * 256, 256)
}

pub(super) fn forward(
    index: usize,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    film: Option<Film<'_>>,
    s: Sizes,
) -> Result<(Tensor, Tensor, Tensor)> {
    let empty = |shape: &[usize]| Tensor::empty(crate::tensor::Shape::from(shape), Dtype::F32, Device::Cuda(index));
    let (mut y, mut mean, mut rstd) = (empty(&x.shape()[..])?, empty(&[s.n, s.rows])?, empty(&[s.n, s.rows])?);
    let bias = bias.map(Tensor::cuda_as::<f32>).transpose()?;
    let scale = film.map(|f| f.scale.cuda_as::<f32>()).transpose()?;
    let shift = film.map(|f| f.shift.cuda_as::<f32>()).transpose()?;
    let args = args![
        x.cuda_as::<f32>()?,
        weight.cuda_as::<f32>()?,
        Arg::Buffer(bias),
        Arg::Buffer(scale),
        Arg::Buffer(shift),
        y.cuda_mut()?,
        mean.cuda_mut()?,
        rstd.cuda_mut()?,
        size(s.n * s.rows)?,
        size(s.rows)?,
        size(s.c)?,
        s.norm_eps as f32
    ];
    // SAFETY: x and y hold n·rows·c f32, weight and bias c, scale and shift n·c (checked in `layer_norm`), mean and rstd n·rows; a warp has a row
    // below n·rows; order and types are those of `layer_norm_forward`.
    unsafe { gpu(index)?.launch(kernel::FORWARD, warps(s)?, &args) }?;
    Ok((y, mean, rstd))
}

pub(super) fn backward(index: usize, node: &LayerNorm, dy: &Tensor, grads: &mut Grads) -> Result<()> {
    let s = node.sizes;
    let (x, d, weight) = (node.x.cuda_as::<f32>()?, dy.cuda_as::<f32>()?, node.weight.cuda_as::<f32>()?);
    let (mean, rstd) = (node.mean.cuda_as::<f32>()?, node.rstd.cuda_as::<f32>()?);
    let scale = node.film.as_ref().map(|(scale, _)| scale.cuda_as::<f32>()).transpose()?;
    if node.x.requires_grad() {
        let mut dx = Tensor::empty(dy.shape(), Dtype::F32, Device::Cuda(index))?;
        let (all, rows, c) = (size(s.n * s.rows)?, size(s.rows)?, size(s.c)?);
        let args = args![x, d, weight, Arg::Buffer(scale), mean, rstd, dx.cuda_mut()?, all, rows, c];
        // SAFETY: x, dy and dx hold n·rows·c f32, weight c, scale n·c, mean and rstd n·rows; a warp has a row below n·rows; order and types are
        // those of `layer_norm_backward_dx`.
        unsafe { gpu(index)?.launch(kernel::BACKWARD_DX, warps(s)?, &args) }?;
        grads.add(node.x.grad_slot(), dx)?;
    }
    parameters(index, node, dy, grads)
}

/// The gradients of weight, bias, scale and shift.
fn parameters(index: usize, node: &LayerNorm, dy: &Tensor, grads: &mut Grads) -> Result<()> {
    let Sizes { n, rows, c, .. } = node.sizes;
    let gpu = gpu(index)?;
    let chunks = rows.div_ceil(CHUNK).max(1);
    let partial = gpu.take(n * chunks * 2 * c * size_of::<f32>())?;
    let (x, d) = (node.x.cuda_as::<f32>()?, dy.cuda_as::<f32>()?);
    let (mean, rstd) = (node.mean.cuda_as::<f32>()?, node.rstd.cuda_as::<f32>()?);
    let args = args![x, d, mean, rstd, &partial, size(rows)?, size(c)?, size(chunks)?, size(CHUNK)?];
    let geometry = Geometry::covering(c.div_ceil(128) * n * chunks * 128, 128)?;
    // SAFETY: x and dy hold n·rows·c f32, mean and rstd n·rows, partial n·chunks·2·c; a thread has a channel below c; order and types are those
    // of `layer_norm_backward_sums`.
    unsafe { gpu.launch(kernel::BACKWARD_SUMS, geometry, &args) }?;
    let empty = |t: &Tensor| Tensor::empty(t.shape(), Dtype::F32, Device::Cuda(index));
    let mut dweight = empty(&node.weight)?;
    let mut dbias = node.bias.as_ref().map(empty).transpose()?;
    let (mut dscale, mut dshift) = match &node.film {
        Some((scale, shift)) => (Some(empty(scale)?), Some(empty(shift)?)),
        None => (None, None),
    };
    let bias = node.bias.as_ref().map(Tensor::cuda_as::<f32>).transpose()?;
    let scale = node.film.as_ref().map(|(scale, _)| scale.cuda_as::<f32>()).transpose()?;
    let (of_bias, of_scale) = (dbias.as_mut().map(Tensor::cuda_mut), dscale.as_mut().map(Tensor::cuda_mut));
    let of_shift = dshift.as_mut().map(Tensor::cuda_mut);
    let args = args![
        &partial,
        node.weight.cuda_as::<f32>()?,
        Arg::Buffer(bias),
        Arg::Buffer(scale),
        dweight.cuda_mut()?,
        Arg::Buffer(of_bias.transpose()?.map(|b| &*b)),
        Arg::Buffer(of_scale.transpose()?.map(|b| &*b)),
        Arg::Buffer(of_shift.transpose()?.map(|b| &*b)),
        size(n)?,
        size(c)?,
        size(chunks)?
    ];
    // SAFETY: partial holds n·chunks·2·c f32, weight, bias, dweight and dbias c, scale, dscale and dshift n·c; a thread has a channel below c;
    // order and types are those of `layer_norm_backward_parameters`.
    unsafe { gpu.launch(kernel::BACKWARD_PARAMETERS, Geometry::covering(c, 128)?, &args) }?;
    grads.add(node.weight.grad_slot(), dweight)?;
    if let (Some(bias), Some(dbias)) = (&node.bias, dbias) {
        grads.add(bias.grad_slot(), dbias)?;
    }
    if let (Some((scale, shift)), Some(dscale), Some(dshift)) = (&node.film, dscale, dshift) {
        grads.add(scale.grad_slot(), dscale)?;
        grads.add(shift.grad_slot(), dshift)?;
    }
    Ok(())
}
