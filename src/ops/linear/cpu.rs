//! The CPU side of [`super::linear`].

use crate::device::{Device, DisjointMut, Scratch};
use crate::error::Result;
use crate::simd::{Gather, Packed, Run, accumulate_outer, multiply_rows};
use crate::tensor::{Dtype, Tensor};

pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    mut y: Tensor,
) -> Result<Tensor> {
    let (c_in, c_out) = (weight.shape()[1], weight.shape()[0]);
    let (x, w) = (x.host::<f32>()?, weight.host::<f32>()?);
    let bias = bias.map(Tensor::host::<f32>).transpose()?;
    let residual = residual.map(Tensor::host::<f32>).transpose()?;
    let packed = Packed::from_columns(c_in, c_out, |j| &w[j * c_in..(j + 1) * c_in]);
    let out = DisjointMut::new(y.host_mut::<f32>()?);
    let runs = [Run { offset: 0, len: c_in }];
    multiply_rows(x.len() / c_in, Gather { data: x, base: |r| r * c_in, runs: &runs }, &packed, |r, j, sums| {
        let line = out.slice(r * c_out + j, sums.len());
        line.copy_from_slice(sums);
        if let Some(b) = bias {
            line.iter_mut().zip(&b[j..]).for_each(|(y, b)| *y += b);
        }
        if let Some(e) = residual {
            line.iter_mut().zip(&e[r * c_out + j..]).for_each(|(y, e)| *y += e);
        }
    });
    Ok(y)
}

pub(super) fn backward_x(x: &Tensor, weight: &Tensor, dy: &Tensor, rows: usize) -> Result<Tensor> {
    let (c_in, c_out) = (weight.shape()[1], weight.shape()[0]);
    let w = weight.host::<f32>()?;
    let packed = Packed::from_rows(c_out, c_in, |k| &w[k * c_in..(k + 1) * c_in]);
    let mut dx = Tensor::empty(x.shape(), Dtype::F32, Device::Cpu)?;
    let out = DisjointMut::new(dx.host_mut::<f32>()?);
    let runs = [Run { offset: 0, len: c_out }];
    multiply_rows(rows, Gather { data: dy.host()?, base: |r| r * c_out, runs: &runs }, &packed, |r, j, sums| {
        out.slice(r * c_in + j, sums.len()).copy_from_slice(sums);
    });
    Ok(dx)
}

pub(super) fn backward_weight(x: &Tensor, dy: &Tensor, rows: usize) -> Result<Tensor> {
    let (c_in, c_out) = (x.shape().last_size(), dy.shape().last_size());
    let mut dweight = Tensor::zeros([c_out, c_in], Dtype::F32, Device::Cpu)?;
    let (mut a, mut b) = (Scratch::<usize>::take(rows), Scratch::<usize>::take(rows));
    for r in 0..rows {
        (a[r], b[r]) = (r * c_out, r * c_in);
    }
    let (dy, x) = (dy.host::<f32>()?, x.host::<f32>()?);
    accumulate_outer(dweight.host_mut::<f32>()?, c_out, c_in, &[0], (dy, &a), (x, &b), true);
    Ok(dweight)
}
