//! The CPU side of [`super::cross_entropy`].

use super::CrossEntropy;
use crate::device::{Device, DisjointMut, for_each_block};
use crate::error::Result;
use crate::simd::{Kernel, Lanes, dispatch, for_vectors, get, put};
use crate::tensor::{Dtype, Tensor};

/// Rows of a job.
const BLOCK: usize = 64;

/// The largest of a row and log Σ e^(z − largest); a NaN reaches the sum.
struct LogSumExp<'a>(&'a [f32]);

impl Kernel for LogSumExp<'_> {
    type Output = (f32, f64);

    #[inline(always)]
    fn run<V: Lanes>(self) -> (f32, f64) {
        let row = self.0;
        let mut lanes = V::splat(f32::NEG_INFINITY);
        let mut top = f32::NEG_INFINITY;
        for_vectors!(V, row.len(), |i, len| {
            if len == V::LEN {
                lanes = lanes.at_least(get(row, i, len));
            } else {
                row[i..i + len].iter().for_each(|v| top = if *v > top { *v } else { top });
            }
        });
        top = lanes.maximum().max(top);
        let (mut total, mut rest) = (V::splat(0.0), 0.0_f32);
        for_vectors!(V, row.len(), |i, len| {
            let p = get::<V>(row, i, len).sub(V::splat(top)).exp();
            if len == V::LEN {
                total = total.add(p);
            } else {
                let mut last = [0.0_f32; 16];
                put(p, &mut last, 0, len);
                rest = last[..len].iter().sum();
            }
        });
        (top, f64::from(total.sum() + rest).ln())
    }
}

/// dz = factor·e^(z − lse), with `factor` taken off at the target.
struct Backward<'a> {
    logits: &'a [f32],
    dlogits: &'a mut [f32],
    lse: f32,
    factor: f32,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Backward { logits, dlogits, lse, factor } = self;
        for_vectors!(V, logits.len(), |i, len| {
            let p = get::<V>(logits, i, len).sub(V::splat(lse)).exp();
            put(p.times(factor), dlogits, i, len);
        });
    }
}

pub(super) fn forward(logits: &Tensor, targets: &[u32], weights: &[f32]) -> Result<(Tensor, Tensor, Tensor)> {
    let (rows, k) = (targets.len(), logits.shape().last_size());
    let mut per_row = Tensor::empty([rows], Dtype::F64, Device::Cpu)?;
    let mut lse = Tensor::empty([rows], Dtype::F32, Device::Cpu)?;
    let z = logits.host::<f32>()?;
    {
        let (out, logs) = (DisjointMut::new(per_row.host_mut::<f64>()?), DisjointMut::new(lse.host_mut::<f32>()?));
        for_each_block(rows.div_ceil(BLOCK), 20 * BLOCK * k, |block| {
            let (start, len) = (block * BLOCK, BLOCK.min(rows - block * BLOCK));
            let (entropies, logs) = (out.slice(start, len), logs.slice(start, len));
            for (i, (entropy, log)) in entropies.iter_mut().zip(logs).enumerate() {
                let row = start + i;
                (*entropy, *log) = (0.0, 0.0);
                if weights[row] != 0.0 {
                    let (top, rest) = dispatch(LogSumExp(&z[row * k..][..k]));
                    *entropy = (f64::from(top) - f64::from(z[row * k + targets[row] as usize])) + rest;
                    *log = (f64::from(top) + rest) as f32;
                }
            }
        });
    }
    let weighted = per_row.host::<f64>()?.iter().zip(weights).map(|(entropy, w)| entropy * f64::from(*w));
    let loss = weighted.sum::<f64>();
    Ok((Tensor::from_slice(&[loss as f32], [1])?, per_row, lse))
}

pub(super) fn backward(node: &CrossEntropy, dy: f32) -> Result<Tensor> {
    let (rows, k) = (node.targets.len(), node.logits.shape().last_size());
    let mut dlogits = Tensor::empty(node.logits.shape(), Dtype::F32, Device::Cpu)?;
    let (z, lse) = (node.logits.host::<f32>()?, node.lse.host::<f32>()?);
    let (targets, weights) = (&node.targets[..], &node.weights[..]);
    let out = DisjointMut::new(dlogits.host_mut::<f32>()?);
    for_each_block(rows.div_ceil(BLOCK), 16 * BLOCK * k, |block| {
        for row in block * BLOCK..rows.min((block + 1) * BLOCK) {
            let (dlogits, factor) = (out.slice(row * k, k), weights[row] * dy);
            if factor == 0.0 {
                dlogits.fill(0.0);
                continue;
            }
            dispatch(Backward { logits: &z[row * k..][..k], dlogits, lse: lse[row], factor });
            dlogits[targets[row] as usize] -= factor;
        }
    });
    Ok(dlogits)
}
