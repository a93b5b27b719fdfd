//! The CUDA side of [`super::linear`]; `conv2d` takes its 1×1 products, its tiles and its sums over pixels from here.

use crate::device::Device;
use crate::device::cuda::{CudaBuffer, Geometry, args, gpu, size};
use crate::error::{Error, Result};
use crate::kernels::linear as kernel;
use crate::tensor::{Dtype, Shape, Tensor};

/// Sizes of one product.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Sizes {
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) c_in: usize,
    pub(in crate::ops) c_out: usize,
}

impl Sizes {
    fn ints(self) -> Result<[u32; 3]> {
        Ok([int(self.rows)?, int(self.c_in)?, int(self.c_out)?])
    }

    fn is_vector(self) -> bool {
        self.c_in.is_multiple_of(4) && self.c_out.is_multiple_of(4)
    }
}

/// What a block of a product makes, as `kernels/gemm.cuh` has it.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Tile {
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) columns: usize,
    pub(in crate::ops) threads: u32,
}

pub(in crate::ops) const LARGE: Tile = Tile { rows: 128, columns: 128, threads: 256 };
pub(in crate::ops) const SMALL: Tile = Tile { rows: 64, columns: 64, threads: 128 };

impl Tile {
    /// Tiles that cover `rows` x `columns`.
    pub(in crate::ops) fn count(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }

    /// A block for each of `tiles`.
    pub(in crate::ops) fn blocks(self, tiles: usize) -> Result<Geometry> {
        Geometry::covering(tiles * self.threads as usize, self.threads)
    }

    /// How the `rows` that a weight gradient sums are split, so that few tiles still make many blocks: ranges, rows of each.
    pub(in crate::ops) fn split(self, tiles: usize, rows: usize) -> (usize, usize) {
        const THREADS: usize = 1 << 16; // of all blocks together: as many as large GPUs run at a time
        const LEAST: usize = 256; // rows that are worth a tile's extra trip through memory
        const MOST: usize = 128; // so that one launch adds them
        let blocks = THREADS / self.threads as usize;
        let wanted = blocks.div_ceil(tiles.max(1)).min(rows.div_ceil(LEAST)).clamp(1, MOST);
        let len = rows.div_ceil(wanted).next_multiple_of(16).max(16);
        (rows.div_ceil(len).max(1), len)
    }
}

/// Whether large tiles are many enough to keep a large GPU busy; if not, four small ones do more in the place of each.
pub(in crate::ops) fn wants_large(rows: usize, columns: usize) -> bool {
    const MANY: usize = 96;
    columns > SMALL.columns && LARGE.count(rows, columns) >= MANY
}

/// A count that the products hold in 31 bits, tiles' overhang included.
pub(in crate::ops) fn int(n: usize) -> Result<u32> {
    const MOST: usize = (1 << 31) - 256;
    if n > MOST {
        return Err(Error::Shape(format!(
            "cuda: a product over {n} rows; expected at most {MOST}; use a smaller --batch"
        )));
    }
    size(n)
}

/// `x`: `[rows, c_in]`, `weight`: `[c_out, c_in]`, the result `[rows, c_out]`, of whatever shapes.
pub(in crate::ops) fn forward(
    index: usize,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    shape: impl Into<Shape>,
    sizes: Sizes,
) -> Result<Tensor> {
    let mut y = Tensor::empty(shape, Dtype::F32, Device::Cuda(index))?;
    let [rows, c_in, c_out] = sizes.ints()?;
    let (kernel, tile) = match sizes.c_in.is_multiple_of(4) {
        false => (kernel::FORWARD_SCALAR, SMALL),
        true if wants_large(sizes.rows, sizes.c_out) => (kernel::FORWARD, LARGE),
        true => (kernel::FORWARD_SMALL, SMALL),
    };
    let geometry = tile.blocks(tile.count(sizes.rows, sizes.c_out))?;
    let bias = bias.map(Tensor::cuda).transpose()?;
    let residual = residual.map(Tensor::cuda).transpose()?;
    let args = args![x.cuda()?, weight.cuda()?, bias, residual, y.cuda_mut()?, rows, c_in, c_out];
    // SAFETY: x holds rows·c_in f32, weight c_out·c_in, bias c_out, y and residual rows·c_out (checked by the op); a tile goes no
    // further than these counts; order and types are those of `linear_forward`, the same for all three.
    unsafe { gpu(index)?.launch(kernel, geometry, &args) }?;
    Ok(y)
}

/// The gradient of `x`, in its shape.
pub(in crate::ops) fn backward_x(
    index: usize,
    weight: &Tensor,
    dy: &Tensor,
    x: &Tensor,
    sizes: Sizes,
) -> Result<Tensor> {
    let mut dx = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
    let [rows, c_in, c_out] = sizes.ints()?;
    let (kernel, tile) = match sizes.is_vector() {
        false => (kernel::BACKWARD_X_SCALAR, SMALL),
        true if wants_large(sizes.rows, sizes.c_in) => (kernel::BACKWARD_X, LARGE),
        true => (kernel::BACKWARD_X_SMALL, SMALL),
    };
    let geometry = tile.blocks(tile.count(sizes.rows, sizes.c_in))?;
    let args = args![weight.cuda()?, dy.cuda()?, dx.cuda_mut()?, rows, c_in, c_out];
    // SAFETY: weight holds c_out·c_in f32, dy rows·c_out, dx rows·c_in (checked forward); a tile goes no further than these counts;
    // order and types are those of `linear_backward_x`, the same for all three.
    unsafe { gpu(index)?.launch(kernel, geometry, &args) }?;
    Ok(dx)
}

/// The gradient of `weight`, in its shape.
pub(in crate::ops) fn backward_weight(
    index: usize,
    x: &Tensor,
    dy: &Tensor,
    weight: &Tensor,
    sizes: Sizes,
) -> Result<Tensor> {
    let [rows, c_in, c_out] = sizes.ints()?;
    let (kernel, tile) = match sizes.is_vector() {
        false => (kernel::BACKWARD_WEIGHT_SCALAR, SMALL),
        // Ranges of rows make up for few tiles.
        true if sizes.c_in > SMALL.columns && sizes.c_out > SMALL.rows => (kernel::BACKWARD_WEIGHT, LARGE),
        true => (kernel::BACKWARD_WEIGHT_SMALL, SMALL),
    };
    let tiles = tile.count(sizes.c_out, sizes.c_in);
    let (chunks, len) = tile.split(tiles, sizes.rows);
    let geometry = tile.blocks(tiles * chunks)?;
    let (many, len) = (int(chunks)?, int(len)?);
    add_ranges(index, chunks, weight, |out| {
        let args = args![x.cuda()?, dy.cuda()?, out, rows, c_in, c_out, many, len];
        // SAFETY: x holds rows·c_in f32, dy rows·c_out (checked forward), out chunks·c_out·c_in; a tile goes no further than these
        // counts; order and types are those of `linear_backward_weight`, the same for all three.
        unsafe { gpu(index)?.launch(kernel, geometry, &args) }
    })
}

/// The gradient of `weight` as the sum of `chunks` that `product` writes one behind the other.
pub(in crate::ops) fn add_ranges(
    index: usize,
    chunks: usize,
    weight: &Tensor,
    product: impl FnOnce(&mut CudaBuffer) -> Result<()>,
) -> Result<Tensor> {
    if chunks == 1 {
        let mut dweight = Tensor::empty(weight.shape(), Dtype::F32, Device::Cuda(index))?;
        product(dweight.cuda_mut()?)?;
        return Ok(dweight);
    }
    let mut ranges = gpu(index)?.take(chunks * weight.count() * size_of::<f32>())?;
    product(&mut ranges)?;
    sum_rows(index, &ranges, [1, chunks, weight.count()], weight.shape())
}

/// Sums over the rows of each part of `data` (`[parts, rows, c]`): `[parts, c]`, in `shape`.
pub(in crate::ops) fn sum_rows(
    index: usize,
    data: &CudaBuffer,
    [parts, rows, c]: [usize; 3],
    shape: impl Into<Shape>,
) -> Result<Tensor> {
    const ONE_PASS: usize = 256;
    let mut sums = Tensor::empty(shape, Dtype::F32, Device::Cuda(index))?;
    if rows <= ONE_PASS {
        sum_ranges(index, data, sums.cuda_mut()?, [parts, rows, c], rows.max(1))?;
        return Ok(sums);
    }
    let len = rows.div_ceil(512).max(ONE_PASS / 2);
    let chunks = rows.div_ceil(len);
    let mut ranges = gpu(index)?.take(parts * chunks * c * size_of::<f32>())?;
    sum_ranges(index, data, &mut ranges, [parts, rows, c], len)?;
    sum_ranges(index, &ranges, sums.cuda_mut()?, [parts, chunks, c], chunks)?;
    Ok(sums)
}

/// Sums over each range of `len` rows.
fn sum_ranges(
    index: usize,
    data: &CudaBuffer,
    out: &mut CudaBuffer,
    [parts, rows, c]: [usize; 3],
    len: usize,
) -> Result<()> {
    const MOST_THREADS: usize = 256;
    let (kernel, wide) = match c.is_multiple_of(4) {
        true => (kernel::SUM_ROWS, 4),
        false => (kernel::SUM_ROWS_SCALAR, 1),
    };
    let chunks = rows.div_ceil(len).max(1);
    let lanes = c.div_ceil(wide).next_power_of_two().min(32);
    // Few rows leave no work for more threads.
    let threads = (lanes * len.min(MOST_THREADS).next_power_of_two()).clamp(32, MOST_THREADS);
    let geometry = Geometry::covering(c.div_ceil(lanes * wide) * chunks * parts * threads, threads as u32)?;
    let args = args![data, out, int(rows)?, int(c)?, int(chunks)?, int(len)?, lanes as u32];
    // SAFETY: data holds parts·rows·c f32 and out parts·chunks·c (the callers'); order and types are those of `linear_sum_rows`, the
    // same for both; lanes and threads are powers of two up to 32 and 256.
    unsafe { gpu(index)?.launch(kernel, geometry, &args) }
}

/// GELU of every element.
pub(super) fn gelu(index: usize, x: &Tensor) -> Result<Tensor> {
    let mut y = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
    let count = y.count();
    let args = args![x.cuda()?, y.cuda_mut()?, count as u64];
    let geometry = Geometry::covering(count.div_ceil(4), 256)?;
    // SAFETY: x and y hold count f32 and a thread touches elements below it; order and types are those of `linear_gelu_forward`.
    unsafe { gpu(index)?.launch(kernel::GELU_FORWARD, geometry, &args) }?;
    Ok(y)
}

/// dx = dy·gelu'(x).
pub(super) fn gelu_backward(index: usize, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let mut dx = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
    let count = dx.count();
    let args = args![x.cuda()?, dy.cuda()?, dx.cuda_mut()?, count as u64];
    let geometry = Geometry::covering(count.div_ceil(4), 256)?;
    // SAFETY: x, dy (the gradient of an output of x's shape) and dx hold count f32 and a thread touches elements below it; order and types
    // are those of `linear_gelu_backward`.
    unsafe { gpu(index)?.launch(kernel::GELU_BACKWARD, geometry, &args) }?;
    Ok(dx)
}
