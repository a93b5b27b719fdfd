//! The CPU side of [`super::group_norm`].
//!
//! An image after the other, so that the second pass over one finds it in the cache; within an image, blocks of pixels
//! with all their channels. Both are run in parallel: many images go to threads whole, few are shared block by block.

use super::super::{Activation, Joined, narrow};
use super::rows::{Apply, BackwardInput, BackwardSums, Sums};
use super::{Film, GroupNormNode, Sizes};
use crate::device::{Device, DisjointMut, Scratch, for_each_block};
use crate::error::Result;
use crate::simd::dispatch;
use crate::tape::Grads;
use crate::tensor::{Dtype, Tensor};

impl Sizes {
    /// Pixels of a block: 16 KiB, half of the first-level cache, where the channels allow it.
    fn block(&self) -> usize {
        (4096 / self.c.max(1)).clamp(16, 128)
    }

    fn blocks(&self) -> usize {
        self.pixels.div_ceil(self.block())
    }

    fn per_group(&self) -> usize {
        self.c / self.norm.groups
    }

    /// Calls `work(index, first pixel, pixels)` for every block of an image.
    fn for_each_block(&self, flops: usize, work: impl Fn(usize, usize, usize) + Sync + Send) {
        let size = self.block();
        for_each_block(self.blocks(), flops * size.min(self.pixels) * self.c, |index| {
            work(index, index * size, size.min(self.pixels - index * size));
        });
    }

    /// Copies a value of each group to the group's channels.
    fn spread(&self, of_groups: &[f32], to_channels: &mut [f32]) {
        for (channels, value) in to_channels.chunks_exact_mut(self.per_group()).zip(of_groups) {
            channels.fill(*value);
        }
    }
}

/// Some of the channels of x, or of its gradient: all, or those of one of two tensors.
#[derive(Clone, Copy)]
struct Part<D> {
    data: D,
    /// The first channel among all.
    first: usize,
    c: usize,
}

impl<D> Part<D> {
    /// The part's channels of `[c]` values.
    fn of<'a>(&self, values: &'a [f32]) -> &'a [f32] {
        &values[self.first..][..self.c]
    }

    /// Where pixels `start..start + len` of the part begin, and how many values they have.
    fn range(&self, start: usize, len: usize) -> [usize; 2] {
        [start * self.c, len * self.c]
    }
}

/// The parts of images `[n,h,w,c]`, on the host.
fn parts<T: Activation>(x: Joined<'_>) -> Result<Vec<Part<&[T]>>> {
    let mut parts = Vec::with_capacity(2);
    let mut first = 0;
    for x in x.tensors() {
        let c = x.shape().last_size();
        parts.push(Part { data: x.host::<T>()?, first, c });
        first += c;
    }
    Ok(parts)
}

/// The same of one image.
fn of_image<'a, T>(parts: &[Part<&'a [T]>], image: usize, s: Sizes) -> Vec<Part<&'a [T]>> {
    let cut = |part: &Part<&'a [T]>| {
        let size = s.pixels * part.c;
        Part { data: &part.data[image * size..][..size], ..*part }
    };
    parts.iter().map(cut).collect()
}

/// z = x·slope + offset is the value before SiLU: of one image, `[c]` each.
#[derive(Clone, Copy)]
struct Affine<'a> {
    slope: &'a [f32],
    offset: &'a [f32],
}

/// What the affine map is made of, on the host.
#[derive(Clone, Copy)]
struct Parameters<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    film: Option<(&'a [f32], &'a [f32])>,
}

impl<'a> Parameters<'a> {
    fn new(weight: &'a Tensor, bias: &'a Tensor, film: Option<(&'a Tensor, &'a Tensor)>) -> Result<Parameters<'a>> {
        let film = match film {
            Some((scale, shift)) => Some((scale.host::<f32>()?, shift.host::<f32>()?)),
            None => None,
        };
        Ok(Parameters { weight: weight.host()?, bias: bias.host()?, film })
    }

    /// 1 + scale of an image's channel.
    fn gain(&self, at: usize) -> f64 {
        self.film.map_or(1.0, |(scale, _)| 1.0 + f64::from(scale[at]))
    }

    /// `mean` and `rstd` are those of the image's groups; `room` holds 2c values.
    fn affine<'r>(&self, image: usize, mean: &[f32], rstd: &[f32], s: Sizes, room: &'r mut [f32]) -> Affine<'r> {
        let (slope, offset) = room.split_at_mut(s.c);
        for g in 0..s.norm.groups {
            let (mean, rstd) = (f64::from(mean[g]), f64::from(rstd[g]));
            for i in g * s.per_group()..(g + 1) * s.per_group() {
                let at = image * s.c + i;
                let (gain, shift) = (self.gain(at), self.film.map_or(0.0, |(_, shift)| f64::from(shift[at])));
                // f64: offset is a difference of large numbers when |mean| is far above the deviation.
                slope[i] = (rstd * f64::from(self.weight[i]) * gain) as f32;
                offset[i] = (f64::from(self.bias[i]) * gain + shift - mean * f64::from(slope[i])) as f32;
            }
        }
        Affine { slope, offset }
    }
}

pub(super) fn forward<T: Activation>(
    x: Joined<'_>,
    weight: &Tensor,
    bias: &Tensor,
    film: Option<Film<'_>>,
    s: Sizes,
) -> Result<(Tensor, Tensor, Tensor)> {
    let parts = parts::<T>(x)?;
    let parameters = Parameters::new(weight, bias, film.map(|f| (f.scale, f.shift)))?;
    let (groups, size) = (s.norm.groups, s.pixels * s.c);
    let mut mean = Tensor::empty([s.n, groups], Dtype::F32, Device::Cpu)?;
    let mut rstd = Tensor::empty([s.n, groups], Dtype::F32, Device::Cpu)?;
    let mut y = Tensor::empty(x.first.shape().with_last(s.c), T::DTYPE, Device::Cpu)?;
    let (out_mean, out_rstd) = (DisjointMut::new(mean.host_mut::<f32>()?), DisjointMut::new(rstd.host_mut::<f32>()?));
    let out = DisjointMut::new(y.host_mut::<T>()?);
    for_each_block(s.n, 20 * size, |image| {
        let parts = of_image(&parts, image, s);
        let (mean, rstd) = (out_mean.slice(image * groups, groups), out_rstd.slice(image * groups, groups));
        let mut room = Scratch::<f32>::take(2 * s.c + s.blocks() * 2 * (groups + s.c));
        let (of_affine, partial) = room.split_at_mut(2 * s.c);
        statistics(&parts, s, mean, rstd, partial);
        let affine = parameters.affine(image, mean, rstd, s, of_affine);
        s.for_each_block(20, |_, start, len| {
            let y = out.slice(image * size + start * s.c, len * s.c);
            for part in &parts {
                let [at, count] = part.range(start, len);
                let (slope, offset) = (part.of(affine.slope), part.of(affine.offset));
                let (x, y) = (&part.data[at..at + count], (&mut *y, s.c, part.first));
                dispatch(Apply { x, slope, offset, y, silu: s.norm.silu });
            }
        });
    });
    Ok((y, mean, rstd))
}

/// Mean and 1/√(variance + norm_eps) of each group of one image. `partial` has room for each block: of a group the mean and
/// the sum of squared distances, of a channel a sum and its group's mean.
fn statistics<T: Activation>(parts: &[Part<&[T]>], s: Sizes, mean: &mut [f32], rstd: &mut [f32], partial: &mut [f32]) {
    let (groups, per_group) = (s.norm.groups, s.per_group());
    let out = DisjointMut::new(&mut *partial);
    s.for_each_block(5, |index, start, len| {
        let (of_groups, of_channels) =
            out.slice(index * 2 * (groups + s.c), 2 * (groups + s.c)).split_at_mut(2 * groups);
        let (means, squares) = of_groups.split_at_mut(groups);
        let (sums, centre) = of_channels.split_at_mut(s.c);
        for part in parts {
            let ([at, count], sums) = (part.range(start, len), &mut sums[part.first..][..part.c]);
            dispatch(Sums { rows: &part.data[at..at + count], centre: None, sums });
        }
        let count = (len * per_group) as f32;
        for (mean, sums) in means.iter_mut().zip(sums.chunks_exact(per_group)) {
            *mean = sums.iter().sum::<f32>() / count;
        }
        s.spread(means, centre);
        for part in parts {
            let ([at, count], sums) = (part.range(start, len), &mut sums[part.first..][..part.c]);
            dispatch(Sums { rows: &part.data[at..at + count], centre: Some(part.of(centre)), sums });
        }
        for (square, sums) in squares.iter_mut().zip(sums.chunks_exact(per_group)) {
            *square = sums.iter().sum();
        }
    });
    for g in 0..groups {
        let (mut centre, mut squares, mut count) = (0.0_f64, 0.0_f64, 0.0_f64);
        for (index, slot) in partial.chunks_exact(2 * (groups + s.c)).enumerate() {
            let more = (s.block().min(s.pixels - index * s.block()) * per_group) as f64;
            let total = count + more;
            let distance = f64::from(slot[g]) - centre;
            squares += f64::from(slot[groups + g]) + distance * distance * (count * more / total);
            centre += distance * (more / total);
            count = total;
        }
        mean[g] = centre as f32;
        rstd[g] = (1.0 / (squares / count + s.norm.norm_eps).sqrt()) as f32;
    }
}

pub(super) fn backward<T: Activation>(node: GroupNormNode, dy: Tensor, grads: &mut Grads) -> Result<()> {
    let s = node.sizes;
    let (groups, size) = (s.norm.groups, s.pixels * s.c);
    let x = Joined { first: &node.x, second: node.x2.as_ref() };
    let parts = parts::<T>(x)?;
    let parameters = Parameters::new(&node.weight, &node.bias, node.film.as_ref().map(|(a, b)| (a, b)))?;
    let (mean, rstd) = (node.mean.host::<f32>()?, node.rstd.host::<f32>()?);
    let wanted = |x: &Tensor| match x.requires_grad() {
        true => Tensor::empty(x.shape(), T::DTYPE, Device::Cpu).map(Some),
        false => Ok(None),
    };
    // Nobody else needs dy: its memory, which the cache holds already, becomes dx.
    let in_place = x.second.is_none() && node.x.requires_grad() && dy.is_unique();
    let (dy, mut dx) = match in_place {
        true => (None, vec![Some(dy)]),
        false => (Some(dy), x.tensors().map(wanted).collect::<Result<Vec<_>>>()?),
    };
    let dy = dy.as_ref().map(Tensor::host::<T>).transpose()?;
    let outs: Vec<Option<DisjointMut<'_, T>>> = dx
        .iter_mut()
        .map(|dx| Ok(dx.as_mut().map(|dx| dx.host_mut::<T>()).transpose()?.map(DisjointMut::new)))
        .collect::<Result<_>>()?;
    // Σ dz and Σ dz·x̂ over the pixels of each image and channel.
    let (mut dz_sum, mut dzx_sum) = (Scratch::<f64>::take(s.n * s.c), Scratch::<f64>::take(s.n * s.c));
    let (out_sum, out_sum_x) = (DisjointMut::new(&mut dz_sum), DisjointMut::new(&mut dzx_sum));
    for_each_block(s.n, 40 * size, |image| {
        let (parts, dy) = (of_image(&parts, image, s), dy.map(|dy| &dy[image * size..][..size]));
        let (mean, rstd) = (&mean[image * groups..][..groups], &rstd[image * groups..][..groups]);
        let mut room = Scratch::<f32>::take((5 + 2 * s.blocks()) * s.c);
        let (of_affine, room) = room.split_at_mut(2 * s.c);
        let (of_input, room) = room.split_at_mut(2 * s.c);
        let affine = parameters.affine(image, mean, rstd, s, of_affine);
        let (sum, sum_x) = (out_sum.slice(image * s.c, s.c), out_sum_x.slice(image * s.c, s.c));
        let dx: Vec<Option<DisjointMut<'_, T>>> = outs
            .iter()
            .zip(&parts)
            .map(|(out, part)| {
                let size = s.pixels * part.c;
                out.as_ref().map(|out| DisjointMut::new(out.slice(image * size, size)))
            })
            .collect();
        backward_sums(&parts, dy, affine, (mean, rstd), &dx, (sum, sum_x), s, room);
        if dx.iter().any(Option::is_some) {
            backward_input(&parts, dy, affine, (mean, rstd), &dx, image, &parameters, (sum, sum_x), s, of_input);
        }
    });
    drop(outs);
    parameter_gradients(&node, &parameters, &dz_sum, &dzx_sum, grads)?;
    for (x, dx) in x.tensors().zip(dx) {
        if let Some(dx) = dx {
            grads.add(x.grad_slot(), dx)?;
        }
    }
    Ok(())
}

/// Σ dz and Σ dz·x̂ over the pixels of one image; leaves dz in `dx` where there is one and SiLU follows. Without a `dy`, `dx` holds it.
/// `room` holds c values, and 2c of each block.
fn backward_sums<T: Activation>(
    parts: &[Part<&[T]>],
    dy: Option<&[T]>,
    affine: Affine<'_>,
    (mean, rstd): (&[f32], &[f32]),
    dx: &[Option<DisjointMut<'_, T>>],
    (sum, sum_x): (&mut [f64], &mut [f64]),
    s: Sizes,
    room: &mut [f32],
) {
    let (centre, partial) = room.split_at_mut(s.c);
    s.spread(mean, centre);
    let out = DisjointMut::new(&mut *partial);
    s.for_each_block(25, |index, start, len| {
        let (sum, sum_x) = out.slice(index * 2 * s.c, 2 * s.c).split_at_mut(s.c);
        let dy = dy.map(|dy| &dy[start * s.c..][..len * s.c]);
        for (part, dx) in parts.iter().zip(dx) {
            let [at, count] = part.range(start, len);
            let dz = dx.as_ref().map_or(&mut [][..], |dx| dx.slice(at, count));
            let (slope, offset, mean) = (part.of(affine.slope), part.of(affine.offset), part.of(centre));
            let sum = &mut sum[part.first..][..part.c];
            let sum_x = &mut sum_x[part.first..][..part.c];
            let (x, silu) = (&part.data[at..at + count], s.norm.silu);
            let dy = dy.map(|dy| (dy, s.c, part.first));
            dispatch(BackwardSums { x, dy, slope, offset, mean, sum, sum_x, dz, silu });
        }
    });
    sum.fill(0.0);
    sum_x.fill(0.0);
    for block in partial.chunks_exact(2 * s.c) {
        for i in 0..s.c {
            sum[i] += f64::from(block[i]);
            sum_x[i] += f64::from(block[s.c + i]);
        }
    }
    for (sums, rstd) in sum_x.chunks_exact_mut(s.per_group()).zip(rstd) {
        sums.iter_mut().for_each(|v| *v *= f64::from(*rstd));
    }
}

/// dx = slope·dz + a·x + b of one image: the group's means of dx̂ and dx̂·x̂ are taken off, with x̂ = (x − mean)·rstd expanded.
/// `room` holds 2c values.
fn backward_input<T: Activation>(
    parts: &[Part<&[T]>],
    dy: Option<&[T]>,
    affine: Affine<'_>,
    (mean, rstd): (&[f32], &[f32]),
    dx: &[Option<DisjointMut<'_, T>>],
    image: usize,
    parameters: &Parameters<'_>,
    (sum, sum_x): (&[f64], &[f64]),
    s: Sizes,
    room: &mut [f32],
) {
    let (a, b) = room.split_at_mut(s.c);
    for g in 0..s.norm.groups {
        let channels = g * s.per_group()..(g + 1) * s.per_group();
        let (mut total, mut total_x) = (0.0_f64, 0.0_f64);
        for i in channels.clone() {
            let gain = f64::from(parameters.weight[i]) * parameters.gain(image * s.c + i);
            total += gain * sum[i];
            total_x += gain * sum_x[i];
        }
        let scale = -f64::from(rstd[g]) / (s.pixels * s.per_group()) as f64;
        let linear = (scale * total_x * f64::from(rstd[g])) as f32;
        a[channels.clone()].fill(linear);
        b[channels].fill((scale * total - f64::from(linear) * f64::from(mean[g])) as f32);
    }
    let (a, b) = (&*a, &*b);
    s.for_each_block(6, |_, start, len| {
        let dy = dy.filter(|_| !s.norm.silu).map(|dy| &dy[start * s.c..][..len * s.c]);
        for (part, dx) in parts.iter().zip(dx) {
            let Some(dx) = dx else { continue };
            let [at, count] = part.range(start, len);
            let (x, dx) = (&part.data[at..at + count], dx.slice(at, count));
            let (slope, a, b) = (part.of(affine.slope), part.of(a), part.of(b));
            dispatch(BackwardInput { x, dy: dy.map(|dy| (dy, s.c, part.first)), slope, a, b, dx });
        }
    });
}

/// The gradients of weight, bias, scale and shift from the sums over pixels, images in order.
fn parameter_gradients(
    node: &GroupNormNode,
    parameters: &Parameters<'_>,
    dz_sum: &[f64],
    dzx_sum: &[f64],
    grads: &mut Grads,
) -> Result<()> {
    let s = node.sizes;
    let (mut dweight, mut dbias) = (Scratch::<f64>::zeroed(s.c), Scratch::<f64>::zeroed(s.c));
    for image in 0..s.n {
        for i in 0..s.c {
            let at = image * s.c + i;
            dweight[i] += dzx_sum[at] * parameters.gain(at);
            dbias[i] += dz_sum[at] * parameters.gain(at);
        }
    }
    grads.add(node.weight.grad_slot(), narrow(&dweight, [s.c])?)?;
    grads.add(node.bias.grad_slot(), narrow(&dbias, [s.c])?)?;
    if let Some((scale, shift)) = &node.film {
        let mut dscale = Scratch::<f64>::take(s.n * s.c);
        for (at, d) in dscale.iter_mut().enumerate() {
            let i = at % s.c;
            *d = dzx_sum[at] * f64::from(parameters.weight[i]) + dz_sum[at] * f64::from(parameters.bias[i]);
        }
        grads.add(scale.grad_slot(), narrow(&dscale, [s.n, s.c])?)?;
        grads.add(shift.grad_slot(), narrow(dz_sum, [s.n, s.c])?)?;
    }
    Ok(())
}
