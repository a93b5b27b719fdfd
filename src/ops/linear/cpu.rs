//! The CPU side of [`super::linear`]: three products. The packed weight of the forward pass is kept where it will be asked for again.

use super::bf16;
use crate::device::{Device, DisjointMut, for_each_block};
use crate::error::Result;
use crate::ops::kept;
use crate::simd::gemm::{Matrix, Prepared, multiply, multiply_prepared};
use crate::simd::{BiasGelu, GeluBackward, dispatch};
use crate::tensor::{Dtype, Shape, Tensor};
use std::sync::Arc;

fn pack(weight: &Tensor) -> Result<Arc<Prepared>> {
    let (c_in, c_out) = (weight.shape()[1], weight.shape()[0]);
    kept(weight, ("linear", [c_out, c_in]), |w| Prepared::new(Matrix::lines(w, c_in), [c_out, c_in]))
}

pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    mut y: Tensor,
) -> Result<Tensor> {
    if x.dtype() == Dtype::Bf16 {
        return bf16::forward(x, weight, bias, residual, y);
    }
    let c_out = weight.shape()[0];
    let x = x.host::<f32>()?;
    let bias = bias.map(Tensor::host::<f32>).transpose()?;
    let residual = residual.map(Tensor::host::<f32>).transpose()?;
    let rows = y.count() / c_out.max(1);
    let packed = pack(weight)?;
    multiply_prepared(y.host_mut()?, rows, x, &packed, |r, j, line| {
        if let Some(b) = bias {
            line.iter_mut().zip(&b[j..]).for_each(|(y, b)| *y += b);
        }
        if let Some(e) = residual {
            line.iter_mut().zip(&e[r * c_out + j..]).for_each(|(y, e)| *y += e);
        }
    });
    Ok(y)
}

/// gelu(x·Wᵀ + bias), and what GELU was applied to if it is to be kept.
pub(super) fn forward_gelu(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: Shape,
    keep: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let mut y = Tensor::empty(shape, Dtype::F32, Device::Cpu)?;
    let mut before = keep.then(|| Tensor::empty(shape, Dtype::F32, Device::Cpu)).transpose()?;
    let c_out = weight.shape()[0];
    let rows = y.count() / c_out.max(1);
    let bias = bias.map(Tensor::host::<f32>).transpose()?;
    let kept = before.as_mut().map(|t| t.host_mut::<f32>().map(DisjointMut::new)).transpose()?;
    let packed = pack(weight)?;
    multiply_prepared(y.host_mut()?, rows, x.host()?, &packed, |r, j, line| {
        let len = line.len();
        let before = kept.as_ref().map_or(&mut [][..], |kept| kept.slice(r * c_out + j, len));
        dispatch(BiasGelu { line, bias: bias.map(|b| &b[j..j + len]), before });
    });
    Ok((y, before))
}

/// dx = dy·gelu'(x).
pub(super) fn gelu_backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    const BLOCK: usize = 16 * 1024;
    let mut dx = Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu)?;
    let (count, x, dy) = (dx.count(), x.host::<f32>()?, dy.host::<f32>()?);
    let out = DisjointMut::new(dx.host_mut::<f32>()?);
    for_each_block(count.div_ceil(BLOCK), 30 * BLOCK, |block| {
        let (at, len) = (block * BLOCK, BLOCK.min(count - block * BLOCK));
        dispatch(GeluBackward { x: &x[at..at + len], dy: &dy[at..at + len], dx: out.slice(at, len) });
    });
    Ok(dx)
}

pub(super) fn backward_x(x: &Tensor, weight: &Tensor, dy: &Tensor, rows: usize) -> Result<Tensor> {
    if dy.dtype() == Dtype::Bf16 {
        return bf16::backward_x(x, weight, dy);
    }
    let (c_in, c_out) = (weight.shape()[1], weight.shape()[0]);
    let mut dx = Tensor::empty(x.shape(), Dtype::F32, Device::Cpu)?;
    let (dy, w) = (Matrix::lines(dy.host()?, c_out), Matrix::by_k(weight.host()?, c_in));
    multiply(dx.host_mut()?, [rows, c_in, c_out], dy, w, |_, _, _| {});
    Ok(dx)
}

pub(super) fn backward_weight(x: &Tensor, dy: &Tensor, rows: usize) -> Result<Tensor> {
    if dy.dtype() == Dtype::Bf16 {
        return bf16::backward_weight(x, dy, rows);
    }
    let (c_in, c_out) = (x.shape().last_size(), dy.shape().last_size());
    let mut dweight = Tensor::empty([c_out, c_in], Dtype::F32, Device::Cpu)?;
    let (dy, x) = (Matrix::by_k(dy.host()?, c_out), Matrix::by_k(x.host()?, c_in));
    multiply(dweight.host_mut()?, [c_out, c_in, rows], dy, x, |_, _, _| {});
    Ok(dweight)
}
