//! The CPU side of [`super::linear`] for bf16 activations: products of bf16 pairs, sums in f32. The weight and its gradient are f32.

use crate::device::{Device, DisjointMut, Scratch, for_each_block};
use crate::error::Result;
use crate::ops::kept;
use crate::simd::pairs::{self, Line, Outer, Output, PairRun, Pairs, Rows};
use crate::tensor::{Dtype, Tensor};
use half::bf16;

/// Rows of channels as words of two, an odd last channel with a 0.
enum Words<'a> {
    Same(&'a [u32]),
    Copy(Scratch<u32>),
}

impl<'a> Words<'a> {
    fn new(x: &'a [bf16], c: usize) -> Words<'a> {
        if c.is_multiple_of(2) {
            return Words::Same(bytemuck::cast_slice(x));
        }
        let (rows, wide) = (x.len() / c, c + 1);
        let mut words = Scratch::<u32>::take(rows * wide / 2);
        let out = DisjointMut::new(&mut words);
        for_each_block(rows, 4 * c, |row| {
            let to: &mut [bf16] = bytemuck::cast_slice_mut(out.slice(row * wide / 2, wide / 2));
            to[..c].copy_from_slice(&x[row * c..][..c]);
            to[c] = bf16::ZERO;
        });
        Words::Copy(words)
    }

    /// y = each row times the packed operand, plus bias and residual.
    fn multiply(
        &self,
        c: usize,
        packed: &Pairs,
        y: &mut [bf16],
        width: usize,
        bias: Option<&[f32]>,
        residual: Option<&[bf16]>,
    ) {
        let words = match self {
            Words::Same(words) => words,
            Words::Copy(words) => &words[..],
        };
        let (len, rows) = (c.div_ceil(2), y.len() / width.max(1));
        let run = [PairRun { a: 0, b: 0, len }];
        let out = Output { y: DisjointMut::new(y), place: |row| row * width, bias, per_group: None, residual };
        pairs::multiply_rows(rows, Rows { words, base: |row| row * len, runs: &run }, packed, out);
    }
}

pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    mut y: Tensor,
) -> Result<Tensor> {
    let (c_in, c_out) = (weight.shape()[1], weight.shape()[0]);
    let packed = kept(weight, ("linear bf16", [c_in, c_out]), |w| pairs::forward_weights(w, [c_out, 1, c_in]))?;
    let bias = bias.map(Tensor::host::<f32>).transpose()?;
    let residual = residual.map(Tensor::host::<bf16>).transpose()?;
    Words::new(x.host()?, c_in.max(1)).multiply(c_in, &packed, y.host_mut()?, c_out, bias, residual);
    Ok(y)
}

pub(super) fn backward_x(x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (c_in, c_out) = (weight.shape()[1], weight.shape()[0]);
    let mut dx = Tensor::empty(x.shape(), Dtype::Bf16, Device::Cpu)?;
    let packed = pairs::backward_weights(weight.host()?, [c_out, 1, c_in], &[0]);
    Words::new(dy.host()?, c_out.max(1)).multiply(c_out, &packed, dx.host_mut()?, c_in, None, None);
    Ok(dx)
}

pub(super) fn backward_weight(x: &Tensor, dy: &Tensor, rows: usize) -> Result<Tensor> {
    /// Rows are cut into pieces, which stand for the rows of pixels of a convolution.
    const PIECE: usize = 256;
    let (c_in, c_out) = (x.shape().last_size(), dy.shape().last_size());
    let mut dweight = Tensor::empty([c_out, c_in], Dtype::F32, Device::Cpu)?;
    let (x, dy) = (x.host::<bf16>()?, dy.host::<bf16>()?);
    let width = PIECE.min(rows);
    let sizes = Outer { rows: rows.div_ceil(width.max(1)), width, channels: [c_out, c_in], kernel: [1, 1] };
    fn piece(data: &[bf16], len: usize, index: usize) -> Line<'_> {
        Line::whole(&data[index * len..data.len().min((index + 1) * len)])
    }
    let (left, right) = (|at: usize| piece(dy, width * c_out, at), |at: usize, _: usize| piece(x, width * c_in, at));
    pairs::accumulate_outer(dweight.host_mut::<f32>()?, sizes, left, |at| at, right);
    Ok(dweight)
}
