//! The CPU side of [`super::group_norm`].

use super::super::narrow;
use super::{Film, GroupNormNode, Sizes};
use crate::device::{Device, DisjointMut, Scratch, for_each_block};
use crate::error::Result;
use crate::simd::sigmoid;
use crate::tape::Grads;
use crate::tensor::{Dtype, Tensor};
use crate::vectorise;

const BLOCK: usize = 64;

/// Per image and channel, z = x·slope + offset is the value before SiLU.
struct Affine {
    slope: Scratch<f32>,
    offset: Scratch<f32>,
}

pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    film: Option<Film<'_>>,
    s: Sizes,
) -> Result<(Tensor, Tensor, Tensor)> {
    let data = x.host::<f32>()?;
    let mut mean = Tensor::empty([s.n, s.norm.groups], Dtype::F32, Device::Cpu)?;
    let mut rstd = Tensor::empty([s.n, s.norm.groups], Dtype::F32, Device::Cpu)?;
    statistics(data, s, mean.host_mut()?, rstd.host_mut()?);
    let film = film.map(|f| Ok::<_, crate::Error>((f.scale.host::<f32>()?, f.shift.host::<f32>()?))).transpose()?;
    let affine = affine(weight.host()?, bias.host()?, film, mean.host()?, rstd.host()?, s);
    let mut y = Tensor::empty(x.shape(), Dtype::F32, Device::Cpu)?;
    let out = DisjointMut::new(y.host_mut::<f32>()?);
    for_each_pixel_block(s, 12, |image, start, len| {
        let at = (image * s.pixels + start) * s.c;
        let (slope, offset) = (&affine.slope[image * s.c..][..s.c], &affine.offset[image * s.c..][..s.c]);
        apply(&data[at..at + len * s.c], slope, offset, out.slice(at, len * s.c), s.norm.silu);
    });
    Ok((y, mean, rstd))
}

/// Calls `work(image, first pixel, pixels)` for every block of pixels.
fn for_each_pixel_block(s: Sizes, flops: usize, work: impl Fn(usize, usize, usize) + Sync + Send) {
    let blocks = s.pixels.div_ceil(BLOCK);
    for_each_block(s.n * blocks, flops * BLOCK.min(s.pixels) * s.c, |job| {
        let (image, start) = (job / blocks, job % blocks * BLOCK);
        work(image, start, BLOCK.min(s.pixels - start));
    });
}

fn statistics(x: &[f32], s: Sizes, mean: &mut [f32], rstd: &mut [f32]) {
    let (groups, blocks) = (s.norm.groups, s.pixels.div_ceil(BLOCK));
    let per_group = s.c / groups;
    // (mean, sum of squared distances) of each block and group.
    let mut partial = Scratch::<f32>::take(s.n * blocks * groups * 2);
    let out = DisjointMut::new(&mut partial);
    for_each_pixel_block(s, 5, |image, start, len| {
        let rows = &x[(image * s.pixels + start) * s.c..][..len * s.c];
        let mut sums = Scratch::<f32>::zeroed(s.c);
        let slots = out.slice((image * blocks + start / BLOCK) * groups * 2, groups * 2);
        add_rows(rows, &mut sums);
        for g in 0..groups {
            let total: f32 = sums[g * per_group..(g + 1) * per_group].iter().sum();
            slots[2 * g] = total / (len * per_group) as f32;
        }
        let mut means = Scratch::<f32>::take(s.c);
        for (i, m) in means.iter_mut().enumerate() {
            *m = slots[2 * (i / per_group)];
        }
        sums.fill(0.0);
        add_squared_distances(rows, &means, &mut sums);
        for g in 0..groups {
            slots[2 * g + 1] = sums[g * per_group..(g + 1) * per_group].iter().sum();
        }
    });
    for image in 0..s.n {
        for g in 0..groups {
            let (mut count, mut centre, mut squares) = (0.0_f64, 0.0_f64, 0.0_f64);
            for block in 0..blocks {
                let slot = ((image * blocks + block) * groups + g) * 2;
                let more = (BLOCK.min(s.pixels - block * BLOCK) * per_group) as f64;
                let distance = f64::from(partial[slot]) - centre;
                let total = count + more;
                squares += f64::from(partial[slot + 1]) + distance * distance * count * more / total;
                centre += distance * more / total;
                count = total;
            }
            mean[image * groups + g] = centre as f32;
            rstd[image * groups + g] = (1.0 / (squares / count + s.norm.norm_eps).sqrt()) as f32;
        }
    }
}

fn add_rows(rows: &[f32], sums: &mut [f32]) {
    #[inline(always)]
    fn body(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (s, v) in sums.iter_mut().zip(row) {
                *s += v;
            }
        }
    }
    vectorise!(body(rows: &[f32], sums: &mut [f32]))
}

fn add_squared_distances(rows: &[f32], means: &[f32], sums: &mut [f32]) {
    #[inline(always)]
    fn body(rows: &[f32], means: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for ((s, v), m) in sums.iter_mut().zip(row).zip(means) {
                let d = v - m;
                *s += d * d;
            }
        }
    }
    vectorise!(body(rows: &[f32], means: &[f32], sums: &mut [f32]))
}

fn affine(
    weight: &[f32],
    bias: &[f32],
    film: Option<(&[f32], &[f32])>,
    mean: &[f32],
    rstd: &[f32],
    s: Sizes,
) -> Affine {
    let per_group = s.c / s.norm.groups;
    let (mut slope, mut offset) = (Scratch::take(s.n * s.c), Scratch::take(s.n * s.c));
    for image in 0..s.n {
        for i in 0..s.c {
            let (at, g) = (image * s.c + i, image * s.norm.groups + i / per_group);
            let (scale, shift) = film.map_or((0.0, 0.0), |(scale, shift)| (scale[at], shift[at]));
            // f64: offset is a difference of large numbers when |mean| is far above the deviation.
            let gain = f64::from(weight[i]) * (1.0 + f64::from(scale));
            let a = f64::from(rstd[g]) * gain;
            slope[at] = a as f32;
            let centred = f64::from(bias[i]) * (1.0 + f64::from(scale)) + f64::from(shift);
            offset[at] = (centred - f64::from(mean[g]) * f64::from(slope[at])) as f32;
        }
    }
    Affine { slope, offset }
}

fn apply(x: &[f32], slope: &[f32], offset: &[f32], y: &mut [f32], silu: bool) {
    #[inline(always)]
    fn with_silu(x: &[f32], slope: &[f32], offset: &[f32], y: &mut [f32]) {
        for (x, y) in x.chunks_exact(slope.len()).zip(y.chunks_exact_mut(slope.len())) {
            for i in 0..slope.len().min(offset.len()) {
                let z = x[i] * slope[i] + offset[i];
                y[i] = z * sigmoid(z);
            }
        }
    }
    #[inline(always)]
    fn plain(x: &[f32], slope: &[f32], offset: &[f32], y: &mut [f32]) {
        for (x, y) in x.chunks_exact(slope.len()).zip(y.chunks_exact_mut(slope.len())) {
            for i in 0..slope.len().min(offset.len()) {
                y[i] = x[i] * slope[i] + offset[i];
            }
        }
    }
    if silu {
        vectorise!(with_silu(x: &[f32], slope: &[f32], offset: &[f32], y: &mut [f32]))
    } else {
        vectorise!(plain(x: &[f32], slope: &[f32], offset: &[f32], y: &mut [f32]))
    }
}

pub(super) fn backward(node: GroupNormNode, dy: &Tensor, grads: &mut Grads) -> Result<()> {
    let s = node.sizes;
    let (groups, per_group) = (s.norm.groups, s.c / s.norm.groups);
    let (x, dy) = (node.x.host::<f32>()?, dy.host::<f32>()?);
    let (weight, bias) = (node.weight.host::<f32>()?, node.bias.host::<f32>()?);
    let film = match &node.film {
        Some((scale, shift)) => Some((scale.host::<f32>()?, shift.host::<f32>()?)),
        None => None,
    };
    let (mean, rstd) = (node.mean.host::<f32>()?, node.rstd.host::<f32>()?);
    let affine = affine(weight, bias, film, mean, rstd, s);
    // Σ dz and Σ dz·x̂ over the pixels of each image and channel.
    let (dz_sum, dzx_sum) = sums(x, dy, &affine, mean, rstd, s);

    let (mut dweight, mut dbias) = (Scratch::<f64>::zeroed(s.c), Scratch::<f64>::zeroed(s.c));
    let (mut dscale, mut dshift) = (Scratch::<f64>::take(s.n * s.c), Scratch::<f64>::take(s.n * s.c));
    // dx = slope·dz + (constant + linear·x̂) with the group's means of dx̂ and dx̂·x̂.
    let (mut constant, mut linear) = (Scratch::<f32>::take(s.n * groups), Scratch::<f32>::take(s.n * groups));
    for image in 0..s.n {
        for g in 0..groups {
            let (mut total, mut total_x) = (0.0_f64, 0.0_f64);
            for i in g * per_group..(g + 1) * per_group {
                let at = image * s.c + i;
                let scale = film.map_or(0.0, |(scale, _)| f64::from(scale[at]));
                let gain = f64::from(weight[i]) * (1.0 + scale);
                dweight[i] += dzx_sum[at] * (1.0 + scale);
                dbias[i] += dz_sum[at] * (1.0 + scale);
                dscale[at] = dzx_sum[at] * f64::from(weight[i]) + dz_sum[at] * f64::from(bias[i]);
                dshift[at] = dz_sum[at];
                total += gain * dz_sum[at];
                total_x += gain * dzx_sum[at];
            }
            let count = (s.pixels * per_group) as f64;
            let r = f64::from(rstd[image * groups + g]);
            constant[image * groups + g] = (-r * total / count) as f32;
            linear[image * groups + g] = (-r * total_x / count) as f32;
        }
    }
    grads.add(node.weight.grad_slot(), narrow(&dweight, [s.c])?)?;
    grads.add(node.bias.grad_slot(), narrow(&dbias, [s.c])?)?;
    if let Some((scale, shift)) = &node.film {
        grads.add(scale.grad_slot(), narrow(&dscale, [s.n, s.c])?)?;
        grads.add(shift.grad_slot(), narrow(&dshift, [s.n, s.c])?)?;
    }
    if node.x.requires_grad() {
        let mut dx = Tensor::empty(node.x.shape(), Dtype::F32, Device::Cpu)?;
        let out = DisjointMut::new(dx.host_mut::<f32>()?);
        // dx = slope·dz + a·x + b per image and channel, with x̂ = (x − mean)·rstd expanded.
        let (mut a, mut b) = (Scratch::<f32>::take(s.n * s.c), Scratch::<f32>::take(s.n * s.c));
        for at in 0..s.n * s.c {
            let g = at / s.c * groups + at % s.c / per_group;
            a[at] = linear[g] * rstd[g];
            b[at] = (f64::from(constant[g]) - f64::from(a[at]) * f64::from(mean[g])) as f32;
        }
        for_each_pixel_block(s, 20, |image, start, len| {
            let (at, channels) = ((image * s.pixels + start) * s.c, image * s.c..(image + 1) * s.c);
            let coefficients = [&affine.slope, &affine.offset, &a, &b].map(|t| &t[channels.clone()]);
            let range = at..at + len * s.c;
            dx_block(&x[range.clone()], &dy[range], coefficients, out.slice(at, len * s.c), s.norm.silu);
        });
        grads.add(node.x.grad_slot(), dx)?;
    }
    Ok(())
}

/// Derivative of SiLU at z.
#[inline(always)]
fn silu_slope(z: f32) -> f32 {
    let g = sigmoid(z);
    g * (1.0 + z * (1.0 - g))
}

fn dx_block(x: &[f32], dy: &[f32], coefficients: [&[f32]; 4], dx: &mut [f32], silu: bool) {
    #[inline(always)]
    fn body(x: &[f32], dy: &[f32], coefficients: [&[f32]; 4], dx: &mut [f32], silu: bool) {
        let c = coefficients[0].len();
        let [slope, offset, a, b] = coefficients.map(|t| &t[..c]);
        for ((x, dy), dx) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
            if silu {
                for i in 0..c {
                    let dz = dy[i] * silu_slope(x[i] * slope[i] + offset[i]);
                    dx[i] = slope[i] * dz + (a[i] * x[i] + b[i]);
                }
            } else {
                for i in 0..c {
                    dx[i] = slope[i] * dy[i] + (a[i] * x[i] + b[i]);
                }
            }
        }
    }
    vectorise!(body(x: &[f32], dy: &[f32], coefficients: [&[f32]; 4], dx: &mut [f32], silu: bool))
}

/// (Σ dz, Σ dz·x̂) over pixels, `[n, c]` each.
fn sums(x: &[f32], dy: &[f32], affine: &Affine, mean: &[f32], rstd: &[f32], s: Sizes) -> (Scratch<f64>, Scratch<f64>) {
    let blocks = s.pixels.div_ceil(BLOCK);
    let (groups, per_group) = (s.norm.groups, s.c / s.norm.groups);
    let mut partial = Scratch::<f32>::zeroed(s.n * blocks * 2 * s.c);
    let out = DisjointMut::new(&mut partial);
    for_each_pixel_block(s, 20, |image, start, len| {
        let at = (image * s.pixels + start) * s.c;
        let slots = out.slice((image * blocks + start / BLOCK) * 2 * s.c, 2 * s.c);
        let (dz, dzx) = slots.split_at_mut(s.c);
        let mut centre = Scratch::<f32>::take(s.c);
        for (i, m) in centre.iter_mut().enumerate() {
            *m = mean[image * groups + i / per_group];
        }
        let channels = image * s.c..(image + 1) * s.c;
        let coefficients = [&affine.slope[channels.clone()], &affine.offset[channels], &centre];
        let range = at..at + len * s.c;
        sums_block(&x[range.clone()], &dy[range], coefficients, dz, dzx, s.norm.silu);
    });
    let (mut dz_sum, mut dzx_sum) = (Scratch::<f64>::zeroed(s.n * s.c), Scratch::<f64>::zeroed(s.n * s.c));
    for image in 0..s.n {
        for block in 0..blocks {
            let slots = &partial[(image * blocks + block) * 2 * s.c..][..2 * s.c];
            for i in 0..s.c {
                dz_sum[image * s.c + i] += f64::from(slots[i]);
                dzx_sum[image * s.c + i] += f64::from(slots[s.c + i]);
            }
        }
        for i in 0..s.c {
            dzx_sum[image * s.c + i] *= f64::from(rstd[image * groups + i / per_group]);
        }
    }
    (dz_sum, dzx_sum)
}

/// Adds dz and dz·(x − mean) of a block of pixels to the channel sums.
fn sums_block(x: &[f32], dy: &[f32], k: [&[f32]; 3], dz: &mut [f32], dzx: &mut [f32], silu: bool) {
    #[inline(always)]
    fn body(x: &[f32], dy: &[f32], k: [&[f32]; 3], dz: &mut [f32], dzx: &mut [f32], silu: bool) {
        let c = dz.len().min(dzx.len());
        let [slope, offset, mean] = k.map(|t| &t[..c]);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            for i in 0..c {
                let d = if silu { dy[i] * silu_slope(x[i] * slope[i] + offset[i]) } else { dy[i] };
                dz[i] += d;
                dzx[i] += d * (x[i] - mean[i]);
            }
        }
    }
    vectorise!(body(x: &[f32], dy: &[f32], k: [&[f32]; 3], dz: &mut [f32], dzx: &mut [f32], silu: bool))
}
