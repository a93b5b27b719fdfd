//! The CUDA side of [`super::conv2d`]. A 1×1 convolution is [`linear`]'s product; sums over pixels are its too.

use super::super::linear::cuda::{self as linear, LARGE, SMALL, Tile, add_ranges, int, wants_large};
use super::{ConvExtras, Sizes};
use crate::device::Device;
use crate::device::cuda::{args, gpu};
use crate::error::Result;
use crate::kernels::conv2d as kernel;
use crate::tensor::{Dtype, Tensor};

const NARROW: Tile = Tile { rows: 128, columns: 16, threads: 128 };
const SHALLOW: Tile = Tile { rows: 16, columns: 128, threads: 128 };

/// The sizes as the kernels take them.
fn ints(s: &Sizes) -> Result<[u32; 11]> {
    // These products are 31-bit in the kernels, and so are positions in the padded image.
    let taps = s.kh * s.kw;
    for count in [s.n * s.h * s.w, s.n * s.h_out * s.w_out, taps * s.c_in, taps * s.c_out] {
        int(count)?;
    }
    for (size, after) in [(s.h, s.conv.pad_after[0]), (s.w, s.conv.pad_after[1])] {
        int(size + s.conv.pad_before + after + s.conv.stride)?;
    }
    let sizes = [s.n, s.h, s.w, s.c_in, s.c_out, s.kh, s.kw, s.h_out, s.w_out, s.conv.stride, s.conv.pad_before];
    let mut ints = [0; 11];
    for (to, from) in ints.iter_mut().zip(sizes) {
        *to = int(from)?;
    }
    Ok(ints)
}

/// The product that a 1×1 convolution of every pixel is.
fn as_linear(s: &Sizes) -> Option<linear::Sizes> {
    let plain = s.kh == 1 && s.kw == 1 && s.conv.stride == 1 && (s.h_out, s.w_out) == (s.h, s.w);
    plain.then_some(linear::Sizes { rows: s.n * s.h * s.w, c_in: s.c_in, c_out: s.c_out })
}

pub(super) fn forward(
    index: usize,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    extras: ConvExtras<'_>,
    s: Sizes,
) -> Result<Tensor> {
    let shape = [s.n, s.h_out, s.w_out, s.c_out];
    if let (Some(sizes), None) = (as_linear(&s), extras.per_image) {
        return linear::forward(index, x, weight, bias, extras.residual, shape, sizes);
    }
    let mut y = Tensor::empty(shape, Dtype::F32, Device::Cuda(index))?;
    let [n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, pad] = ints(&s)?;
    let rows = s.n * s.h_out * s.w_out;
    let (kernel, tile) = match s.c_in.is_multiple_of(4) {
        false => (kernel::FORWARD_SCALAR, SMALL),
        true if s.c_out <= NARROW.columns => (kernel::FORWARD_NARROW, NARROW),
        true if wants_large(rows, s.c_out) => (kernel::FORWARD, LARGE),
        true => (kernel::FORWARD_SMALL, SMALL),
    };
    let geometry = tile.blocks(tile.count(rows, s.c_out))?;
    let (bias, per_image, residual) = (
        bias.map(Tensor::cuda).transpose()?,
        extras.per_image.map(Tensor::cuda).transpose()?,
        extras.residual.map(Tensor::cuda).transpose()?,
    );
    let out = y.cuda_mut()?;
    let (x, weight) = (x.cuda()?, weight.cuda()?);
    let args =
        args![x, weight, bias, per_image, residual, out, n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, pad];
    // SAFETY: x, weight, bias, per_image, residual and y have the shapes of `sizes` (checked in `conv2d`); a window's pixels outside the
    // image and a tile's overhang are not touched; order and types are those of `conv2d_forward`, the same for all four.
    unsafe { gpu(index)?.launch(kernel, geometry, &args) }?;
    Ok(y)
}

/// The gradient of `x`, in its shape.
pub(super) fn backward_x(index: usize, x: &Tensor, weight: &Tensor, dy: &Tensor, s: Sizes) -> Result<Tensor> {
    if let Some(sizes) = as_linear(&s) {
        return linear::backward_x(index, weight, dy, x, sizes);
    }
    let mut dx = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
    let [n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, pad] = ints(&s)?;
    // One class of pixels for each residue modulo the stride; the first is the largest.
    let classes = s.conv.stride.min(s.h) * s.conv.stride.min(s.w);
    let rows = s.n * s.h.div_ceil(s.conv.stride) * s.w.div_ceil(s.conv.stride);
    let (kernel, tile) = match s.c_in.is_multiple_of(4) && s.c_out.is_multiple_of(4) {
        false => (kernel::BACKWARD_X_SCALAR, SMALL),
        true if wants_large(rows * classes, s.c_in) => (kernel::BACKWARD_X, LARGE),
        true => (kernel::BACKWARD_X_SMALL, SMALL),
    };
    let tiles = tile.count(rows, s.c_in);
    let geometry = tile.blocks(tiles * classes)?;
    let out = dx.cuda_mut()?;
    let (weight, dy) = (weight.cuda()?, dy.cuda()?);
    let args = args![weight, dy, out, int(tiles)?, n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, pad];
    // SAFETY: weight, dy and dx have the shapes of `sizes` (checked in `conv2d`); a window's pixels outside dy and a tile's overhang are
    // not touched; order and types are those of `conv2d_backward_x`, the same for all three.
    unsafe { gpu(index)?.launch(kernel, geometry, &args) }?;
    Ok(dx)
}

/// The gradient of `weight`, in its shape.
pub(super) fn backward_weight(index: usize, x: &Tensor, weight: &Tensor, dy: &Tensor, s: Sizes) -> Result<Tensor> {
    if let Some(sizes) = as_linear(&s) {
        return linear::backward_weight(index, x, dy, weight, sizes);
    }
    let [n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, pad] = ints(&s)?;
    let columns = s.kh * s.kw * s.c_in;
    let (kernel, tile) = match (s.c_in.is_multiple_of(4), s.c_out.is_multiple_of(4)) {
        (true, true) if s.c_out <= SHALLOW.rows => (kernel::BACKWARD_WEIGHT_SHALLOW, SHALLOW),
        (true, false) if s.c_out <= SHALLOW.rows => (kernel::BACKWARD_WEIGHT_SHALLOW_SCALAR, SHALLOW),
        (true, true) if s.c_out > SMALL.rows && columns > SMALL.columns => (kernel::BACKWARD_WEIGHT, LARGE),
        (true, true) => (kernel::BACKWARD_WEIGHT_SMALL, SMALL),
        _ => (kernel::BACKWARD_WEIGHT_SCALAR, SMALL),
    };
    let tiles = tile.count(s.c_out, columns);
    let (chunks, len) = tile.split(tiles, s.n * s.h_out * s.w_out);
    let geometry = tile.blocks(tiles * chunks)?;
    let (many, len) = (int(chunks)?, int(len)?);
    add_ranges(index, chunks, weight, |out| {
        let (x, dy) = (x.cuda()?, dy.cuda()?);
        let args = args![x, dy, out, many, len, n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, pad];
        // SAFETY: x and dy have the shapes of `sizes` (checked in `conv2d`), out holds `chunks` weights; pixels outside x and a tile's
        // overhang are not touched; order and types are those of `conv2d_backward_weight`, the same for all four.
        unsafe { gpu(index)?.launch(kernel, geometry, &args) }
    })
}

/// The gradients of the per-image vector and of the bias, whichever are wanted.
pub(super) fn backward_sums(
    index: usize,
    dy: &Tensor,
    s: Sizes,
    wants_per_image: bool,
    wants_bias: bool,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (n, pixels, c) = (s.n, s.h_out * s.w_out, s.c_out);
    let dy = dy.cuda()?;
    if !wants_per_image {
        let dbias = wants_bias.then(|| linear::sum_rows(index, dy, [1, n * pixels, c], [c])).transpose()?;
        return Ok((None, dbias));
    }
    let dper_image = linear::sum_rows(index, dy, [n, pixels, c], [n, c])?;
    let sums = dper_image.cuda()?;
    let dbias = wants_bias.then(|| linear::sum_rows(index, sums, [1, n, c], [c])).transpose()?;
    Ok((Some(dper_image), dbias))
}
