//! The CPU side of [`super::layer_norm`].

use super::rows::{Backward, Forward};
use super::{LayerNorm, Sizes};
use crate::device::{Device, DisjointMut, Scratch, for_each_block};
use crate::error::Result;
use crate::ops::{Film, narrow};
use crate::simd::dispatch;
use crate::tape::Grads;
use crate::tensor::{Dtype, Tensor};

/// Rows of a job.
const BLOCK: usize = 64;

/// What x̂ is multiplied by, `[parts, c]`: a part for each sample, or one for all without a modulation.
fn slopes(weight: &[f32], scale: Option<&[f32]>) -> Scratch<f32> {
    let parts = scale.map_or(1, |scale| scale.len() / weight.len());
    let mut slopes = Scratch::<f32>::take(parts * weight.len());
    for (at, slope) in slopes.iter_mut().enumerate() {
        *slope = weight[at % weight.len()] * scale.map_or(1.0, |scale| 1.0 + scale[at]);
    }
    slopes
}

/// What is added to that, in the same parts.
fn offsets(bias: Option<&[f32]>, film: Option<[&[f32]; 2]>, c: usize) -> Option<Scratch<f32>> {
    let parts = film.map_or(1, |[scale, _]| scale.len() / c);
    if bias.is_none() && film.is_none() {
        return None;
    }
    let mut offsets = Scratch::<f32>::take(parts * c);
    for (at, offset) in offsets.iter_mut().enumerate() {
        let bias = bias.map_or(0.0, |bias| bias[at % c]);
        *offset = film.map_or(bias, |[scale, shift]| bias * (1.0 + scale[at]) + shift[at]);
    }
    Some(offsets)
}

pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    film: Option<Film<'_>>,
    s: Sizes,
) -> Result<(Tensor, Tensor, Tensor)> {
    let mut y = Tensor::empty(x.shape(), Dtype::F32, Device::Cpu)?;
    let [mut mean, mut rstd] = [
        Tensor::empty([s.n, s.rows], Dtype::F32, Device::Cpu)?,
        Tensor::empty([s.n, s.rows], Dtype::F32, Device::Cpu)?,
    ];
    let film = film.map(|f| Ok::<_, crate::Error>([f.scale.host::<f32>()?, f.shift.host::<f32>()?])).transpose()?;
    let slopes = slopes(weight.host()?, film.map(|[scale, _]| scale));
    let offsets = offsets(bias.map(Tensor::host).transpose()?, film, s.c);
    let x = x.host::<f32>()?;
    let out = DisjointMut::new(y.host_mut::<f32>()?);
    let (means, rstds) = (DisjointMut::new(mean.host_mut::<f32>()?), DisjointMut::new(rstd.host_mut::<f32>()?));
    let blocks = s.rows.div_ceil(BLOCK);
    for_each_block(s.n * blocks, 8 * BLOCK.min(s.rows) * s.c, |job| {
        let (sample, start) = (job / blocks, job % blocks * BLOCK);
        let (row, len) = (sample * s.rows + start, BLOCK.min(s.rows - start));
        let part = if film.is_some() { sample * s.c } else { 0 };
        dispatch(Forward {
            x: &x[row * s.c..][..len * s.c],
            y: out.slice(row * s.c, len * s.c),
            slope: &slopes[part..part + s.c],
            offset: offsets.as_ref().map(|all| &all[part..part + s.c]),
            norm_eps: s.norm_eps,
            mean: means.slice(row, len),
            rstd: rstds.slice(row, len),
        });
    });
    Ok((y, mean, rstd))
}

pub(super) fn backward(node: &LayerNorm, dy: &Tensor, grads: &mut Grads) -> Result<()> {
    let Sizes { n, rows, c, .. } = node.sizes;
    let weight = node.weight.host::<f32>()?;
    let scale = node.film.as_ref().map(|(scale, _)| scale.host::<f32>()).transpose()?;
    let slopes = slopes(weight, scale);
    let mut dx = match node.x.requires_grad() {
        true => Some(Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu)?),
        false => None,
    };
    let blocks = rows.div_ceil(BLOCK);
    let mut partial = Scratch::<f32>::take(n * blocks * 2 * c);
    {
        let (x, dy) = (node.x.host::<f32>()?, dy.host::<f32>()?);
        let (mean, rstd) = (node.mean.host::<f32>()?, node.rstd.host::<f32>()?);
        let out = dx.as_mut().map(|dx| dx.host_mut::<f32>().map(DisjointMut::new)).transpose()?;
        let sums = DisjointMut::new(&mut partial);
        for_each_block(n * blocks, 16 * BLOCK.min(rows) * c, |job| {
            let (sample, start) = (job / blocks, job % blocks * BLOCK);
            let (row, len) = (sample * rows + start, BLOCK.min(rows - start));
            let part = if scale.is_some() { sample * c } else { 0 };
            dispatch(Backward {
                x: &x[row * c..][..len * c],
                dy: &dy[row * c..][..len * c],
                slope: &slopes[part..part + c],
                mean: &mean[row..row + len],
                rstd: &rstd[row..row + len],
                dx: out.as_ref().map_or(&mut [], |out| out.slice(row * c, len * c)),
                sums: sums.slice(job * 2 * c, 2 * c),
            });
        });
    }
    if let Some(dx) = dx {
        grads.add(node.x.grad_slot(), dx)?;
    }
    parameters(node, &partial, weight, scale, grads)
}

/// The gradients of weight, bias, scale and shift from the blocks' sums of dy and of dy·x̂.
fn parameters(
    node: &LayerNorm,
    partial: &[f32],
    weight: &[f32],
    scale: Option<&[f32]>,
    grads: &mut Grads,
) -> Result<()> {
    let Sizes { n, c, .. } = node.sizes;
    let per_sample = partial.len() / n.max(1);
    let mut sums = Scratch::<f64>::zeroed(n * 2 * c);
    for (sample, sums) in sums.chunks_exact_mut(2 * c).enumerate() {
        for block in partial[sample * per_sample..][..per_sample].chunks_exact(2 * c) {
            sums.iter_mut().zip(block).for_each(|(sum, v)| *sum += f64::from(*v));
        }
    }
    // dweight and dbias: what x̂ and 1 are multiplied by holds 1 + scale too.
    let mut of_parameters = Scratch::<f64>::zeroed(2 * c);
    for (at, sum) in sums.iter().enumerate() {
        let (sample, column) = (at / (2 * c), at % (2 * c));
        of_parameters[column] += sum * scale.map_or(1.0, |scale| 1.0 + f64::from(scale[sample * c + column % c]));
    }
    grads.add(node.weight.grad_slot(), narrow(&of_parameters[c..], [c])?)?;
    if let Some(bias) = &node.bias {
        grads.add(bias.grad_slot(), narrow(&of_parameters[..c], [c])?)?;
    }
    let Some((scale, shift)) = &node.film else { return Ok(()) };
    let bias = node.bias.as_ref().map(Tensor::host::<f32>).transpose()?;
    let (mut of_scale, mut of_shift) = (Scratch::<f64>::take(n * c), Scratch::<f64>::take(n * c));
    for (at, (of_scale, of_shift)) in of_scale.iter_mut().zip(of_shift.iter_mut()).enumerate() {
        let (sample, column) = (at / c, at % c);
        let [dy, dyx] = [0, c].map(|half| sums[sample * 2 * c + half + column]);
        *of_scale = dyx * f64::from(weight[column]) + bias.map_or(0.0, |bias| dy * f64::from(bias[column]));
        *of_shift = dy;
    }
    grads.add(scale.grad_slot(), narrow(&of_scale, [n, c])?)?;
    grads.add(shift.grad_slot(), narrow(&of_shift, [n, c])?)
}
