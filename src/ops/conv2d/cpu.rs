//! The CPU side of [`super::conv2d`].

use super::padded::Padded;
use super::windows::{Product, Windows, multiply};
use super::{ConvExtras, Sizes, bf16, winograd};
use crate::device::{Device, DisjointMut, Scratch, for_each_block};
use crate::error::Result;
use crate::ops::kept;
use crate::simd::{Packed, Run, accumulate_outer};
use crate::tensor::{Dtype, Tensor};
use std::sync::OnceLock;

pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    extras: ConvExtras<'_>,
    s: Sizes,
) -> Result<Tensor> {
    match (s.methods.forward, x.dtype()) {
        (Some(scheme), Dtype::Bf16) => return winograd::forward::<half::bf16>(scheme, x, weight, bias, extras, s),
        (Some(scheme), _) => return winograd::forward::<f32>(scheme, x, weight, bias, extras, s),
        (None, Dtype::Bf16) => return bf16::forward(x, weight, bias, extras, s),
        (None, _) => {}
    }
    let [rows, columns] = s.conv.pad_after.map(|after| (s.conv.pad_before, after));
    let windows = Windows {
        x: x.host()?,
        size: [s.n, s.h, s.w, s.c_in],
        rows,
        columns,
        span: s.kh,
        stride: s.conv.stride,
        count: [s.h_out, s.w_out],
    };
    let runs: Vec<Run> = (0..s.kh).map(|kh| Run { offset: windows.at(kh, 0), len: s.kw * s.c_in }).collect();
    let k = s.kh * s.kw * s.c_in;
    let pack = |w: &[f32]| Packed::from_columns(k, s.c_out, |j| &w[j * k..(j + 1) * k]);
    let packed = kept(weight, ("conv2d direct", [k, s.c_out]), pack)?;
    let bias = bias.map(Tensor::host::<f32>).transpose()?;
    let per_image = extras.per_image.map(Tensor::host::<f32>).transpose()?;
    let residual = extras.residual.map(Tensor::host::<f32>).transpose()?;
    let mut y = Tensor::empty([s.n, s.h_out, s.w_out, s.c_out], Dtype::F32, Device::Cpu)?;
    let out = DisjointMut::new(y.host_mut::<f32>()?);
    let image_values = s.h_out * s.w_out * s.c_out;
    let place = |_, image: usize, y: usize| (image * s.h_out + y) * s.w_out * s.c_out;
    multiply(&[Product { windows, runs, b: &packed }], place, s.c_out, |at, j, sums| {
        let line = out.slice(at + j, sums.len());
        line.copy_from_slice(sums);
        if let Some(b) = bias {
            line.iter_mut().zip(&b[j..]).for_each(|(y, b)| *y += b);
        }
        if let Some(e) = per_image {
            line.iter_mut().zip(&e[at / image_values * s.c_out + j..]).for_each(|(y, e)| *y += e);
        }
        if let Some(r) = residual {
            line.iter_mut().zip(&r[at + j..]).for_each(|(y, r)| *y += r);
        }
    });
    Ok(y)
}

pub(super) fn backward_weight(x: &Tensor, dy: &Tensor, s: Sizes) -> Result<Tensor> {
    match (s.methods.backward_weight, dy.dtype()) {
        (Some(scheme), Dtype::Bf16) => return winograd::backward_weight::<half::bf16>(scheme, x, dy, s),
        (Some(scheme), _) => return winograd::backward_weight::<f32>(scheme, x, dy, s),
        (None, Dtype::Bf16) => return bf16::backward_weight(x, dy, s),
        (None, _) => {}
    }
    let ([rows, columns], data) = (s.conv.pad_after.map(|after| (s.conv.pad_before, after)), x.host::<f32>()?);
    let padded = match (rows, columns) {
        ((0, 0), (0, 0)) => Padded::same(data, [s.h, s.w, s.c_in]),
        _ => Padded::copy([s.n, s.h, s.w, s.c_in], rows, columns, |row, to| {
            to.copy_from_slice(&data[row * s.w * s.c_in..][..s.w * s.c_in]);
        }),
    };
    let count = s.n * s.h_out * s.w_out;
    let (mut dy_at, mut x_at) = (Scratch::<usize>::take(count), Scratch::<usize>::take(count));
    let mut p = 0;
    for image in 0..s.n {
        for y in 0..s.h_out {
            for x in 0..s.w_out {
                dy_at[p] = p * s.c_out;
                x_at[p] = padded.at(image, y * s.conv.stride, x * s.conv.stride);
                p += 1;
            }
        }
    }
    let kernel_rows: Vec<usize> = (0..s.kh).map(|kh| padded.at(0, kh, 0)).collect();
    let mut dweight = Tensor::zeros([s.c_out, s.kh, s.kw, s.c_in], Dtype::F32, Device::Cpu)?;
    let segment = s.kw * s.c_in;
    let (a, b) = ((dy.host::<f32>()?, &dy_at[..]), (padded.data(), &x_at[..]));
    accumulate_outer(dweight.host_mut::<f32>()?, s.c_out, segment, &kernel_rows, a, b);
    Ok(dweight)
}

/// Along one axis, for input positions of one residue modulo the stride: position `stride·i + residue` receives
/// dy at `i + shift` through kernel tap `tap`, for each pair.
fn taps(residue: usize, k: usize, s: &Sizes) -> Vec<(usize, isize)> {
    let stride = s.conv.stride as isize;
    // Descending taps have ascending shifts, so that with stride 1 neighbouring taps form one run.
    (0..k)
        .rev()
        .map(|tap| (tap, residue as isize + s.conv.pad_before as isize - tap as isize))
        .filter(|(_, distance)| distance.rem_euclid(stride) == 0)
        .map(|(tap, distance)| (tap, distance.div_euclid(stride)))
        .collect()
}

/// Zeros needed around dy along one axis of input size `size` and output size `size_out`.
pub(super) fn margin(size: usize, size_out: usize, k: usize, s: &Sizes) -> (usize, usize) {
    let (mut before, mut after) = (0, 0);
    for residue in 0..s.conv.stride.min(size) {
        let last = ((size - 1 - residue) / s.conv.stride) as isize;
        for (_, shift) in taps(residue, k, s) {
            before = before.max(-shift);
            after = after.max(last + shift - (size_out as isize - 1));
        }
    }
    (before as usize, after as usize)
}

pub(super) fn backward_x(weight: &Tensor, dy: &Tensor, s: Sizes) -> Result<Tensor> {
    match (s.methods.backward_x, dy.dtype()) {
        (Some(scheme), Dtype::Bf16) => return winograd::backward_x::<half::bf16>(scheme, weight, dy, s),
        (Some(scheme), _) => return winograd::backward_x::<f32>(scheme, weight, dy, s),
        (None, Dtype::Bf16) => return bf16::backward_x(weight, dy, s),
        (None, _) => {}
    }
    let w = weight.host::<f32>()?;
    let (rows, columns) = (margin(s.h, s.h_out, s.kh, &s), margin(s.w, s.w_out, s.kw, &s));
    let dy = dy.host::<f32>()?;
    let mut dx = Tensor::empty([s.n, s.h, s.w, s.c_in], Dtype::F32, Device::Cpu)?;
    let out = DisjointMut::new(dx.host_mut::<f32>()?);
    let stride = s.conv.stride;
    let classes = Class::all(&s);
    // The packed rows follow the order of a class's taps.
    let packed: Vec<OnceLock<Packed>> = classes.iter().map(|_| OnceLock::new()).collect();
    for_each_block(classes.len(), 20 * w.len() / classes.len().max(1), |class| {
        let order = classes[class].order(&s);
        packed[class].get_or_init(|| {
            Packed::from_rows(order.len() * s.c_out, s.c_in, |row| {
                let (tap, channel) = (order[row / s.c_out], row % s.c_out);
                &w[(channel * s.kh * s.kw + tap) * s.c_in..][..s.c_in]
            })
        });
    });
    let products = classes.iter().zip(packed.iter().filter_map(OnceLock::get)).map(|(class, b)| {
        let first_row = |shift: isize| (shift + rows.0 as isize) as usize;
        let [taps_y, taps_x] = &class.taps;
        let windows = Windows {
            x: dy,
            size: [s.n, s.h_out, s.w_out, s.c_out],
            rows,
            columns,
            span: taps_y.iter().map(|(_, shift)| first_row(*shift) + 1).max().unwrap_or(1),
            stride: 1,
            count: class.count,
        };
        // One run for each tap, joined where they touch.
        let mut runs: Vec<Run> = Vec::new();
        for (_, shift_y) in taps_y {
            for (_, shift_x) in taps_x {
                let offset = windows.at(first_row(*shift_y), (shift_x + columns.0 as isize) as usize);
                match runs.last_mut() {
                    Some(run) if run.offset + run.len == offset => run.len += s.c_out,
                    _ => runs.push(Run { offset, len: s.c_out }),
                }
            }
        }
        Product { windows, runs, b }
    });
    let place = |class: usize, image: usize, i: usize| {
        let [residue_y, residue_x] = classes[class].residue;
        ((image * s.h + stride * i + residue_y) * s.w + residue_x) * s.c_in
    };
    multiply(&products.collect::<Vec<_>>(), place, stride * s.c_in, |at, j, sums| {
        out.slice(at + j, sums.len()).copy_from_slice(sums);
    });
    Ok(dx)
}

/// The pixels of an input gradient that receive the same taps: those of one residue modulo the stride, down and across.
pub(super) struct Class {
    pub(super) residue: [usize; 2],
    /// What [`taps`] says of each axis.
    pub(super) taps: [Vec<(usize, isize)>; 2],
    /// Such pixels down and across an image.
    pub(super) count: [usize; 2],
}

impl Class {
    pub(super) fn all(s: &Sizes) -> Vec<Class> {
        let stride = s.conv.stride;
        let residues = (0..stride.min(s.h)).flat_map(|y| (0..stride.min(s.w)).map(move |x| [y, x]));
        let class = |residue: [usize; 2]| Class {
            residue,
            taps: [taps(residue[0], s.kh, s), taps(residue[1], s.kw, s)],
            count: [(s.h - residue[0]).div_ceil(stride), (s.w - residue[1]).div_ceil(stride)],
        };
        residues.map(class).collect()
    }

    /// Its taps, by rows.
    pub(super) fn order(&self, s: &Sizes) -> Vec<usize> {
        let [down, across] = &self.taps;
        down.iter().flat_map(|(ky, _)| across.iter().map(move |(kx, _)| ky * s.kw + kx)).collect()
    }
}
