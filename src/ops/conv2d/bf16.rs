//! The CPU side of [`super::conv2d`] for bf16 images: products of bf16 pairs, sums in f32, without transforms.
//!
//! Weights stay f32 and are rounded while they are packed; their gradient is f32. Images are padded to an even number of channels where
//! theirs is odd, so that a pixel is whole words.

use super::cpu::{Class, margin};
use super::padded::Padded;
use super::{ConvExtras, Sizes};
use crate::device::{Device, DisjointMut};
use crate::error::Result;
use crate::ops::kept;
use crate::simd::pairs::{self, Line, Outer, Output, PairRun, Rows};
use crate::tensor::{Dtype, Tensor};
use half::bf16;

/// Images of words with (before, after) rows and columns of zeros around them; no copy where nothing is added.
fn pad<'a>(x: &'a [bf16], [n, h, w, c]: [usize; 4], rows: (usize, usize), columns: (usize, usize)) -> Padded<'a, u32> {
    let words = c.div_ceil(2);
    if (rows, columns, 2 * words) == ((0, 0), (0, 0), c) {
        return Padded::same(bytemuck::cast_slice(x), [h, w, words]);
    }
    Padded::copy([n, h, w, words], rows, columns, |row, to| {
        let (source, to) = (&x[row * w * c..][..w * c], bytemuck::cast_slice_mut::<u32, bf16>(to));
        if c == 2 * words {
            to.copy_from_slice(source);
            return;
        }
        for (to, from) in to.chunks_exact_mut(2 * words).zip(source.chunks_exact(c)) {
            to[..c].copy_from_slice(from);
            to[c] = bf16::ZERO;
        }
    })
}

pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    extras: ConvExtras<'_>,
    s: Sizes,
) -> Result<Tensor> {
    let [rows, columns] = s.conv.pad_after.map(|after| (s.conv.pad_before, after));
    let padded = pad(x.host()?, [s.n, s.h, s.w, s.c_in], rows, columns);
    let len = s.kw * padded.c;
    let runs: Vec<PairRun> = (0..s.kh).map(|ky| PairRun { a: ky * padded.w * padded.c, b: ky * len, len }).collect();
    let pack = |w: &[f32]| pairs::forward_weights(w, [s.c_out, s.kh * s.kw, s.c_in]);
    let packed = kept(weight, ("conv2d bf16", [s.kh * len, s.c_out]), pack)?;
    let bias = bias.map(Tensor::host::<f32>).transpose()?;
    let per_image = extras.per_image.map(Tensor::host::<f32>).transpose()?;
    let residual = extras.residual.map(Tensor::host::<bf16>).transpose()?;
    let mut y = Tensor::empty([s.n, s.h_out, s.w_out, s.c_out], Dtype::Bf16, Device::Cpu)?;
    let out = DisjointMut::new(y.host_mut::<bf16>()?);
    let pixels = s.h_out * s.w_out;
    let base = |p: usize| {
        let (image, y, x) = (p / pixels, p % pixels / s.w_out, p % s.w_out);
        padded.at(image, y * s.conv.stride, x * s.conv.stride)
    };
    let x = Rows { words: padded.data(), base, runs: &runs };
    let per_group = per_image.map(|e| (e, pixels));
    pairs::multiply_rows(
        s.n * pixels,
        x,
        &packed,
        Output { y: out, place: |p| p * s.c_out, bias, per_group, residual },
    );
    Ok(y)
}

pub(super) fn backward_weight(x: &Tensor, dy: &Tensor, s: Sizes) -> Result<Tensor> {
    let (x, dy) = (x.host::<bf16>()?, dy.host::<bf16>()?);
    let mut dweight = Tensor::empty([s.c_out, s.kh, s.kw, s.c_in], Dtype::F32, Device::Cpu)?;
    // Rows of x are counted with those of the padding.
    let (stride, before) = (s.conv.stride, s.conv.pad_before);
    let padded = s.h + before + s.conv.pad_after[0];
    let sizes = Outer { rows: s.n * s.h_out, width: s.w_out, channels: [s.c_out, s.c_in], kernel: [s.kh, s.kw] };
    let left = |row: usize| Line::whole(&dy[row * s.w_out * s.c_out..][..s.w_out * s.c_out]);
    let first = |row: usize| row / s.h_out * padded + row % s.h_out * stride;
    let right = |row: usize, kx: usize| match (row % padded).checked_sub(before) {
        Some(y) if y < s.h => {
            let pixels = &x[(row / padded * s.h + y) * s.w * s.c_in..][..s.w * s.c_in];
            Line { pixels, start: kx as isize - before as isize, step: stride }
        }
        _ => Line::whole(&[]),
    };
    pairs::accumulate_outer(dweight.host_mut::<f32>()?, sizes, left, first, right);
    Ok(dweight)
}

pub(super) fn backward_x(weight: &Tensor, dy: &Tensor, s: Sizes) -> Result<Tensor> {
    let w = weight.host::<f32>()?;
    let (rows, columns) = (margin(s.h, s.h_out, s.kh, &s), margin(s.w, s.w_out, s.kw, &s));
    let padded = pad(dy.host()?, [s.n, s.h_out, s.w_out, s.c_out], rows, columns);
    let mut dx = Tensor::empty([s.n, s.h, s.w, s.c_in], Dtype::Bf16, Device::Cpu)?;
    let out = DisjointMut::new(dx.host_mut::<bf16>()?);
    let stride = s.conv.stride;
    // The taps of all classes, one after the other.
    let classes = Class::all(&s);
    let order: Vec<usize> = classes.iter().flat_map(|class| class.order(&s)).collect();
    let packed = pairs::backward_weights(w, [s.c_out, s.kh * s.kw, s.c_in], &order);
    let mut taken = 0;
    for Class { residue: [residue_y, residue_x], taps: [taps_y, taps_x], count: [class_h, class_w] } in classes {
        // One run for each tap, joined where they touch.
        let mut runs: Vec<PairRun> = Vec::new();
        for &(_, shift_y) in &taps_y {
            for &(_, shift_x) in &taps_x {
                let (y, x) = (shift_y + rows.0 as isize, shift_x + columns.0 as isize);
                let a = padded.at(0, y as usize, x as usize);
                match runs.last_mut() {
                    Some(run) if run.a + run.len == a => run.len += padded.c,
                    _ => runs.push(PairRun { a, b: taken, len: padded.c }),
                }
                taken += padded.c;
            }
        }
        let class = class_h * class_w;
        let base = |p: usize| padded.at(p / class, p % class / class_w, p % class_w);
        let dy = Rows { words: padded.data(), base, runs: &runs };
        let place = |p: usize| {
            let (image, i, x) = (p / class, p % class / class_w, p % class_w);
            ((image * s.h + stride * i + residue_y) * s.w + stride * x + residue_x) * s.c_in
        };
        let to = Output { y: out, place, bias: None, per_group: None, residual: None };
        pairs::multiply_rows(s.n * class, dy, &packed, to);
    }
    Ok(dx)
}
