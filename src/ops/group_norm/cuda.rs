//! The CUDA side of [`super::group_norm`]: `kernels/group_norm.cu`.

use super::{Film, GroupNormNode, Sizes};
use crate::device::cuda::{Arg, Geometry, args, gpu, size};
use crate::device::{CudaBuffer, Device};
use crate::error::{Error, Result};
use crate::kernels::group_norm as kernel;
use crate::tape::Grads;
use crate::tensor::{Dtype, Shape, Tensor};

/// Threads of a block that owns a tile.
const THREADS: usize = 256;

/// Threads of a block that merges partials.
const MERGERS: u32 = 128;

/// Pixels that a thread loads at a time.
const BATCH: usize = 8;

/// Threads across a row of pixels, at most: 512 bytes of 16-byte accesses.
const LANES: usize = 32;

/// Chunks of an image, at most; what each holds is merged for each group.
const CHUNKS: usize = 256;

/// Channels of a tile, at most, and values of a tile that is a whole image: 128 KiB, which the cache may keep between two reads.
const WHOLE: (usize, usize) = (256, 32 * 1024);

/// How an image is cut.
#[derive(Clone, Copy)]
enum Tiles {
    /// All pixels of `width` channels, whole groups.
    Whole { width: usize },
    /// `chunk` pixels of `width` channels.
    Cut { width: usize, chunk: usize },
}

impl Tiles {
    /// Depends on the size of one image alone, so that its bits do not depend on the batch.
    fn new(s: Sizes) -> Tiles {
        let vector = if s.c.is_multiple_of(4) { 4 } else { 1 };
        let per_group = s.c / s.norm.groups;
        let step = (1..=4).map(|k| k * per_group).find(|w| w % vector == 0).unwrap_or(4 * per_group);
        let width = step.max((LANES / step).max(1) * step).min(s.c);
        if width <= WHOLE.0 && s.pixels * width <= WHOLE.1 {
            return Tiles::Whole { width };
        }
        let units = s.c / vector;
        let lanes = units.div_ceil(units.div_ceil(LANES));
        let batch = THREADS / lanes * BATCH;
        Tiles::Cut { width: lanes * vector, chunk: batch * s.pixels.div_ceil(batch * CHUNKS) }
    }
}

/// What all kernels take.
struct Call<'a> {
    index: usize,
    s: Sizes,
    x: &'a Tensor,
    weight: &'a Tensor,
    bias: &'a Tensor,
    film: Option<Film<'a>>,
}

impl Call<'_> {
    fn empty(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        Tensor::empty(shape, Dtype::F32, Device::Cuda(self.index))
    }

    /// Weight, bias, scale, shift.
    fn parameters(&self) -> Result<[Arg<'_>; 4]> {
        let scale = self.film.map(|f| f.scale.cuda()).transpose()?;
        let shift = self.film.map(|f| f.shift.cuda()).transpose()?;
        Ok([Some(self.weight.cuda()?), Some(self.bias.cuda()?), scale, shift].map(Arg::Buffer))
    }

    /// Pixels, channels, groups.
    fn sizes(&self) -> Result<[Arg<'static>; 3]> {
        let s = self.s;
        Ok([Arg::U32(size(s.pixels)?), Arg::U32(size(s.c)?), Arg::U32(size(s.norm.groups)?)])
    }

    /// A block for each tile.
    fn tiles(&self, width: usize, chunk: usize) -> Result<Geometry> {
        let blocks = self.s.n * self.s.pixels.div_ceil(chunk.max(1)) * self.s.c.div_ceil(width.max(1));
        Geometry::covering(blocks * THREADS, THREADS as u32)
    }

    /// A block for each image and group.
    fn groups(&self) -> Result<Geometry> {
        Geometry::covering(self.s.n * self.s.norm.groups * MERGERS as usize, MERGERS)
    }

    fn whole(&self, width: usize, mean: &mut Tensor, rstd: &mut Tensor, y: &mut Tensor) -> Result<()> {
        let mut args = args![self.x.cuda()?].to_vec();
        args.extend(self.parameters()?);
        args.extend(args![mean.cuda_mut()?, rstd.cuda_mut()?, y.cuda_mut()?]);
        args.extend(self.sizes()?);
        args.extend(args![size(width)?, u32::from(self.s.norm.silu), self.s.norm.norm_eps as f32]);
        // SAFETY: `x`, `y` hold n·pixels·c f32, parameters c or n·c (checked in `group_norm`), `mean` and `rstd` n·g; blocks are images
        // times sets of `width` channels, and threads touch values below the counts alone; order and types are the kernel's.
        unsafe { gpu(self.index)?.launch(kernel::WHOLE, self.tiles(width, self.s.pixels)?, &args) }
    }

    fn partial(&self, width: usize, chunk: usize, partial: &mut CudaBuffer) -> Result<()> {
        let [pixels, c, _] = self.sizes()?;
        let mut args = args![self.x.cuda()?, partial].to_vec();
        args.extend([pixels, c, Arg::U32(size(chunk)?), Arg::U32(size(width)?)]);
        // SAFETY: `partial` holds two f32 for each image, chunk and channel; otherwise as in `whole`.
        unsafe { gpu(self.index)?.launch(kernel::PARTIAL, self.tiles(width, chunk)?, &args) }
    }

    fn merge(&self, chunk: usize, partial: &CudaBuffer, mean: &mut Tensor, rstd: &mut Tensor) -> Result<()> {
        let mut args = args![partial, mean.cuda_mut()?, rstd.cuda_mut()?].to_vec();
        args.extend(self.sizes()?);
        args.extend(args![size(chunk)?, self.s.norm.norm_eps as f32]);
        // SAFETY: `partial` is what `partial` wrote, `mean` and `rstd` hold n·g f32, a block writes its own.
        unsafe { gpu(self.index)?.launch(kernel::MERGE, self.groups()?, &args) }
    }

    fn forward(&self, width: usize, chunk: usize, [mean, rstd]: [&Tensor; 2], y: &mut Tensor) -> Result<()> {
        let mut args = args![self.x.cuda()?].to_vec();
        args.extend(self.parameters()?);
        args.extend(args![mean.cuda()?, rstd.cuda()?, y.cuda_mut()?]);
        args.extend(self.sizes()?);
        args.extend(args![size(chunk)?, size(width)?, u32::from(self.s.norm.silu)]);
        // SAFETY: as in `whole`.
        unsafe { gpu(self.index)?.launch(kernel::FORWARD, self.tiles(width, chunk)?, &args) }
    }
}

pub(super) fn forward(
    index: usize,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    film: Option<Film<'_>>,
    s: Sizes,
) -> Result<(Tensor, Tensor, Tensor)> {
    if s.pixels > i32::MAX as usize {
        return Err(Error::Shape(format!("group_norm: {} pixels; cuda takes at most {}", s.pixels, i32::MAX)));
    }
    let call = Call { index, s, x, weight, bias, film };
    let mut y = call.empty(x.shape())?;
    let [mut mean, mut rstd] = [call.empty([s.n, s.norm.groups])?, call.empty([s.n, s.norm.groups])?];
    match Tiles::new(s) {
        Tiles::Whole { width } => call.whole(width, &mut mean, &mut rstd, &mut y)?,
        Tiles::Cut { width, chunk } => {
            let mut partial = gpu(index)?.take(s.n * s.pixels.div_ceil(chunk) * s.c * 2 * size_of::<f32>())?;
            call.partial(width, chunk, &mut partial)?;
            call.merge(chunk, &partial, &mut mean, &mut rstd)?;
            call.forward(width, chunk, [&mean, &rstd], &mut y)?;
        }
    }
    Ok((y, mean, rstd))
}

/// What backward makes; `dz` and `dzx` are the sums over each image's pixels, and `dz` is the gradient of the shift.
struct Sums {
    dz: Tensor,
    dzx: Tensor,
    dscale: Option<Tensor>,
    dx: Option<Tensor>,
}

fn cuda_mut(tensor: &mut Option<Tensor>) -> Result<Arg<'_>> {
    Ok(Arg::Buffer(match tensor {
        Some(tensor) => Some(tensor.cuda_mut()?),
        None => None,
    }))
}

/// The backward's kernels, which also take dy and the saved statistics.
struct Backward<'a> {
    call: Call<'a>,
    dy: &'a Tensor,
    mean: &'a Tensor,
    rstd: &'a Tensor,
}

impl Backward<'_> {
    /// x, dy, parameters, mean, rstd.
    fn inputs(&self) -> Result<Vec<Arg<'_>>> {
        let mut args = args![self.call.x.cuda()?, self.dy.cuda()?].to_vec();
        args.extend(self.call.parameters()?);
        args.extend(args![self.mean.cuda()?, self.rstd.cuda()?]);
        Ok(args)
    }

    fn whole(&self, width: usize, sums: &mut Sums) -> Result<()> {
        let call = &self.call;
        let mut args = self.inputs()?;
        args.extend(args![sums.dz.cuda_mut()?, sums.dzx.cuda_mut()?]);
        args.extend([cuda_mut(&mut sums.dscale)?, cuda_mut(&mut sums.dx)?]);
        args.extend(call.sizes()?);
        args.extend(args![size(width)?, u32::from(call.s.norm.silu)]);
        // SAFETY: sums hold n·c f32, `dx` n·pixels·c or is null; otherwise as in the forward's `whole`.
        unsafe { gpu(call.index)?.launch(kernel::BACKWARD_WHOLE, call.tiles(width, call.s.pixels)?, &args) }
    }

    fn sums(&self, width: usize, chunk: usize, partial: &mut CudaBuffer) -> Result<()> {
        let call = &self.call;
        let mut args = self.inputs()?;
        args.push(partial.into());
        args.extend(call.sizes()?);
        args.extend(args![size(chunk)?, size(width)?, u32::from(call.s.norm.silu)]);
        // SAFETY: `partial` holds two f32 for each image, chunk and channel; otherwise as in the forward's `whole`.
        unsafe { gpu(call.index)?.launch(kernel::BACKWARD_SUMS, call.tiles(width, chunk)?, &args) }
    }

    fn merge(&self, chunks: usize, partial: &CudaBuffer, sums: &mut Sums, k: &mut [Tensor; 2]) -> Result<()> {
        let call = &self.call;
        let [weight, bias, scale, _] = call.parameters()?;
        let [constants, linears] = k;
        let mut args = vec![partial.into(), weight, bias, scale];
        args.extend(args![self.rstd.cuda()?, sums.dz.cuda_mut()?, sums.dzx.cuda_mut()?]);
        args.extend([cuda_mut(&mut sums.dscale)?]);
        args.extend(args![constants.cuda_mut()?, linears.cuda_mut()?]);
        args.extend(call.sizes()?);
        args.extend(args![size(chunks)?]);
        // SAFETY: `partial` is what `sums` wrote, sums hold n·c f32, `k` n·g each; a block writes its own group's.
        unsafe { gpu(call.index)?.launch(kernel::BACKWARD_MERGE, call.groups()?, &args) }
    }

    fn dx(&self, width: usize, chunk: usize, [constants, linears]: &[Tensor; 2], dx: &mut Tensor) -> Result<()> {
        let call = &self.call;
        let mut args = self.inputs()?;
        args.extend(args![constants.cuda()?, linears.cuda()?, dx.cuda_mut()?]);
        args.extend(call.sizes()?);
        args.extend(args![size(chunk)?, size(width)?, u32::from(call.s.norm.silu)]);
        // SAFETY: as in `sums`, and `dx` has the shape of x.
        unsafe { gpu(call.index)?.launch(kernel::BACKWARD_DX, call.tiles(width, chunk)?, &args) }
    }

    fn weight(&self, sums: &Sums, dweight: &mut Tensor, dbias: &mut Tensor) -> Result<()> {
        let (call, s) = (&self.call, self.call.s);
        let [_, _, scale, _] = call.parameters()?;
        let mut args = vec![sums.dz.cuda()?.into(), sums.dzx.cuda()?.into(), scale];
        args.extend(args![dweight.cuda_mut()?, dbias.cuda_mut()?, size(s.n)?, size(s.c)?]);
        let geometry = Geometry::covering(s.c.div_ceil(8) * THREADS, THREADS as u32)?;
        // SAFETY: sums and `scale` hold n·c f32, the results c; a block owns eight channels and threads stop at c.
        unsafe { gpu(call.index)?.launch(kernel::BACKWARD_WEIGHT, geometry, &args) }
    }
}

pub(super) fn backward(index: usize, node: &GroupNormNode, dy: &Tensor, grads: &mut Grads) -> Result<()> {
    let s = node.sizes;
    let film = node.film.as_ref().map(|(scale, shift)| Film { scale, shift });
    let call = Call { index, s, x: &node.x, weight: &node.weight, bias: &node.bias, film };
    let wants_scale = film.is_some_and(|f| f.scale.requires_grad());
    let mut sums = Sums {
        dz: call.empty([s.n, s.c])?,
        dzx: call.empty([s.n, s.c])?,
        dscale: wants_scale.then(|| call.empty([s.n, s.c])).transpose()?,
        dx: node.x.requires_grad().then(|| call.empty(node.x.shape())).transpose()?,
    };
    let run = Backward { call, dy, mean: &node.mean, rstd: &node.rstd };
    match Tiles::new(s) {
        Tiles::Whole { width } => run.whole(width, &mut sums)?,
        Tiles::Cut { width, chunk } => {
            let chunks = s.pixels.div_ceil(chunk);
            let mut partial = gpu(index)?.take(s.n * chunks * s.c * 2 * size_of::<f32>())?;
            let mut coefficients = [run.call.empty([s.n, s.norm.groups])?, run.call.empty([s.n, s.norm.groups])?];
            run.sums(width, chunk, &mut partial)?;
            run.merge(chunks, &partial, &mut sums, &mut coefficients)?;
            if let Some(dx) = &mut sums.dx {
                run.dx(width, chunk, &coefficients, dx)?;
            }
        }
    }
    if node.weight.requires_grad() || node.bias.requires_grad() {
        let [mut dweight, mut dbias] = [run.call.empty([s.c])?, run.call.empty([s.c])?];
        run.weight(&sums, &mut dweight, &mut dbias)?;
        grads.add(node.weight.grad_slot(), dweight)?;
        grads.add(node.bias.grad_slot(), dbias)?;
    }
    if let (Some(film), Some(dscale)) = (film, sums.dscale) {
        grads.add(film.scale.grad_slot(), dscale)?;
    }
    if let Some(film) = film {
        grads.add(film.shift.grad_slot(), sums.dz)?;
    }
    match sums.dx {
        Some(dx) => grads.add(node.x.grad_slot(), dx),
        None => Ok(()),
    }
}
