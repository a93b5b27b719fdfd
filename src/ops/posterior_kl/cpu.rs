//! The CPU side of [`super::posterior_kl`]: plain loops over sixteen lanes, which the compiler vectorises.

use super::{PosteriorKl, Row};
use crate::device::{Device, DisjointMut, for_each_block};
use crate::error::Result;
use crate::simd::{exp, ln};
use crate::tensor::{Dtype, Tensor};
use crate::vectorise;

/// Rows of a job.
const BLOCK: usize = 64;
const LANES: usize = 16;

/// Calls `f(y of the first lane, how many lanes count, their logits)` for each sixteen.
#[inline(always)]
fn each(z: &[f32], mut f: impl FnMut(u32, u32, [f32; LANES])) {
    for (block, part) in z.chunks(LANES).enumerate() {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        lanes[..part.len()].copy_from_slice(part);
        f((block * LANES) as u32, part.len() as u32, lanes);
    }
}

#[inline(always)]
fn total(lanes: [f32; LANES]) -> f64 {
    lanes.iter().map(|v| f64::from(*v)).sum()
}

/// The largest logit, which a NaN is not.
#[inline(always)]
fn largest(z: &[f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    each(z, |_, _, z| tops.iter_mut().zip(z).for_each(|(top, z)| *top = if z > *top { z } else { *top }));
    tops.iter().fold(f32::NEG_INFINITY, |top, v| top.max(*v))
}

/// Σ e^(z − top) over y ≠ `x`.
#[inline(always)]
fn others(z: &[f32], top: f32, x: u32) -> f64 {
    let mut sums = [0.0_f32; LANES];
    each(z, |first, count, z| {
        for l in 0..LANES as u32 {
            let e = exp(z[l as usize] - top);
            sums[l as usize] += if first + l != x && l < count { e } else { 0.0 };
        }
    });
    total(sums)
}

/// Σ ln t and Σ (1 − 1/t) of t = slope·e^(z − top) + floor, over y that are neither x_t nor x0.
#[inline(always)]
fn rest(row: &Row, z: &[f32], top: f32, (slope, floor): (f32, f32)) -> (f64, f64) {
    let (mut logs, mut misses) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    each(z, |first, count, z| {
        for l in 0..LANES as u32 {
            let t = slope * exp(z[l as usize] - top) + floor;
            let y = first + l;
            let is_rest = y != row.x_t && y != row.x0 && l < count;
            logs[l as usize] += if is_rest { ln(t) } else { 0.0 };
            misses[l as usize] += if is_rest { (t - 1.0) / t } else { 0.0 };
        }
    });
    (total(logs), total(misses))
}

/// One row's loss, and what is saved of it.
#[inline(always)]
fn row_loss(row: &Row, z: &[f32]) -> (f64, [f32; 4]) {
    let top = largest(z);
    let (x, x0) = (row.x_t as usize, row.x0 as usize);
    let is_same = x == x0;
    let (rho, weight, auxiliary) = (f64::from(row.rho), f64::from(row.weight), f64::from(row.auxiliary));
    // What noise tells of x_t itself: it came from there rather than from any other by 1 to ρ.
    let (away, here) = (others(z, top, row.x_t), f64::from(exp(z[x] - top)) / rho);
    let sum = away + here;
    let lse = f64::from(top) + sum.ln();
    let cross = auxiliary * if is_same { (away / here).ln_1p() } else { lse - f64::from(z[x0]) };
    let cross_at_x = auxiliary * if is_same { -away } else { here } / sum;
    if row.weight == 0.0 {
        return (cross, [lse as f32, 1.0, cross_at_x as f32, 0.0]);
    }
    let [kappa, mass, at_x, drift] = [row.kappa, row.rest, row.at_x, row.drift].map(f64::from);
    let g = if is_same { rho } else { 1.0 };
    let floor = (away + rho * here) / (g * sum);
    let d = drift * if is_same { away } else { here } / sum;
    let (logs, mut misses) = rest(row, z, top, ((kappa / (g * sum)) as f32, floor as f32));
    let mut divergence = -mass * logs - at_x * d.ln_1p();
    if !is_same {
        let ratio = (1.0 + kappa) / (kappa * f64::from(exp(z[x0] - top)) / sum + floor);
        divergence += mass * (1.0 + kappa) * ratio.ln();
        misses += 1.0 - ratio;
    }
    // q(x_t | x_t, j) of j = x_t and of any other.
    let between = (1.0 + kappa) * rho;
    let (own, other) = if is_same { (at_x, at_x / between) } else { (at_x * between, at_x) };
    let (miss, elsewhere) = (d / (1.0 + d), mass / g);
    let at_x = weight * (own * miss + elsewhere * rho * misses) * here / sum + cross_at_x;
    let elsewhere = other * miss + elsewhere * misses;
    (weight * divergence + cross, [lse as f32, floor as f32, at_x as f32, elsewhere as f32])
}

#[inline(always)]
fn losses(rows: &[Row], z: &[f32], k: usize, out: &mut [f64], saved: &mut [f32]) {
    for (((row, z), out), saved) in rows.iter().zip(z.chunks_exact(k)).zip(out).zip(saved.chunks_exact_mut(4)) {
        let (loss, of_row) = if row.weight == 0.0 && row.auxiliary == 0.0 { (0.0, [0.0; 4]) } else { row_loss(row, z) };
        *out = loss;
        saved.copy_from_slice(&of_row);
    }
}

/// dz = dL·(w·p̂·Σ_y q(y | x_t, j)·(1 − q(y)/p(y)) + c·(p̂ − \[j = x0\])); at x_t as saved.
#[inline(always)]
fn slopes(rows: &[Row], z: &[f32], k: usize, saved: &[f32], dy: f32, out: &mut [f32]) {
    for (((row, z), saved), out) in
        rows.iter().zip(z.chunks_exact(k)).zip(saved.chunks_exact(4)).zip(out.chunks_exact_mut(k))
    {
        let (w, c) = (dy * row.weight, dy * row.auxiliary);
        if w == 0.0 && c == 0.0 {
            out.fill(0.0);
            continue;
        }
        let (lse, floor, at_x, base) = (saved[0], saved[1], saved[2], saved[3]);
        let g = if row.x_t == row.x0 { row.rho } else { 1.0 };
        let (slope, mass) = (row.kappa / g, row.kappa * row.rest / g);
        let dz = |p: f32, ratio: f32| p * (w * (base + mass * ratio) + c);
        for (z, out) in z.iter().zip(out.iter_mut()) {
            let p = exp(*z - lse);
            let t = slope * p + floor;
            *out = dz(p, (t - 1.0) / t);
        }
        let (x, x0) = (row.x_t as usize, row.x0 as usize);
        let p = exp(z[x0] - lse);
        out[x0] = dz(p, 1.0 - (1.0 + row.kappa) / (slope * p + floor));
        out[x0] -= c;
        out[x] = dy * at_x;
    }
}

fn run_losses(rows: &[Row], z: &[f32], k: usize, out: &mut [f64], saved: &mut [f32]) {
    vectorise!(losses(rows: &[Row], z: &[f32], k: usize, out: &mut [f64], saved: &mut [f32]))
}

fn run_slopes(rows: &[Row], z: &[f32], k: usize, saved: &[f32], dy: f32, out: &mut [f32]) {
    vectorise!(slopes(rows: &[Row], z: &[f32], k: usize, saved: &[f32], dy: f32, out: &mut [f32]))
}

pub(super) fn forward(logits: &Tensor, rows: &[Row]) -> Result<(Tensor, Tensor, Tensor)> {
    let (count, k) = (rows.len(), logits.shape().last_size());
    let mut per_row = Tensor::empty([count], Dtype::F64, Device::Cpu)?;
    let mut saved = Tensor::empty([count, 4], Dtype::F32, Device::Cpu)?;
    let z = logits.host::<f32>()?;
    {
        let (out, kept) = (DisjointMut::new(per_row.host_mut::<f64>()?), DisjointMut::new(saved.host_mut::<f32>()?));
        for_each_block(count.div_ceil(BLOCK), 60 * BLOCK * k, |block| {
            let (at, len) = (block * BLOCK, BLOCK.min(count - block * BLOCK));
            let (out, kept) = (out.slice(at, len), kept.slice(at * 4, len * 4));
            run_losses(&rows[at..at + len], &z[at * k..][..len * k], k, out, kept);
        });
    }
    let loss = per_row.host::<f64>()?.iter().sum::<f64>();
    Ok((Tensor::from_slice(&[loss as f32], [1])?, per_row, saved))
}

pub(super) fn backward(node: &PosteriorKl, dy: f32) -> Result<Tensor> {
    let (count, k) = (node.rows.len(), node.logits.shape().last_size());
    let mut dlogits = Tensor::empty(node.logits.shape(), Dtype::F32, Device::Cpu)?;
    let (z, saved) = (node.logits.host::<f32>()?, node.saved.host::<f32>()?);
    let out = DisjointMut::new(dlogits.host_mut::<f32>()?);
    for_each_block(count.div_ceil(BLOCK), 25 * BLOCK * k, |block| {
        let (at, len) = (block * BLOCK, BLOCK.min(count - block * BLOCK));
        let (rows, saved) = (&node.rows[at..at + len], &saved[at * 4..][..len * 4]);
        run_slopes(rows, &z[at * k..][..len * k], k, saved, dy, out.slice(at * k, len * k));
    });
    Ok(dlogits)
}
