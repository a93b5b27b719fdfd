//! The CPU side of [`super::attention`].

use super::{Attention, Sizes};
use crate::device::{Device, DisjointMut, Scratch, for_each_block};
use crate::error::Result;
use crate::simd::{self, Gather, Packed, Run, accumulate_outer, multiply_rows_serial};
use crate::tensor::{Dtype, Tensor};
use crate::vectorise;

/// Queries that share one temporary of scores.
const BLOCK: usize = 64;

/// One head of one image inside `[n, t, heads·d]`.
#[derive(Clone, Copy)]
struct Head {
    start: usize,
    stride: usize,
    d: usize,
}

impl Head {
    fn new(s: Sizes, index: usize) -> Head {
        let stride = s.heads * s.d;
        Head { start: index / s.heads * s.t * stride + index % s.heads * s.d, stride, d: s.d }
    }

    fn at(&self, token: usize) -> usize {
        self.start + token * self.stride
    }

    fn row<'a>(&self, data: &'a [f32], token: usize) -> &'a [f32] {
        &data[self.at(token)..][..self.d]
    }
}

fn scale(s: Sizes) -> f32 {
    (1.0 / (s.d as f64).sqrt()) as f32
}

/// scores[i][j] = a_i·b_j for tokens i of a block, with all tokens j packed.
fn products(data: &[f32], head: Head, start: usize, len: usize, packed: &Packed, out: &mut [f32]) {
    let (runs, n) = ([Run { offset: 0, len: head.d }], packed.n());
    let rows = Gather { data, base: |r| head.at(start + r), runs: &runs };
    multiply_rows_serial(len, rows, packed, |r, j, v| out[r * n + j..][..v.len()].copy_from_slice(v));
}

pub(super) fn forward(q: &Tensor, k: &Tensor, v: &Tensor, s: Sizes) -> Result<(Tensor, Tensor)> {
    let mut y = Tensor::empty(q.shape(), Dtype::F32, Device::Cpu)?;
    let mut lse = Tensor::empty([s.n, s.heads, s.t], Dtype::F32, Device::Cpu)?;
    let (q, k, v) = (q.host::<f32>()?, k.host::<f32>()?, v.host::<f32>()?);
    let out = DisjointMut::new(y.host_mut::<f32>()?);
    let logs = DisjointMut::new(lse.host_mut::<f32>()?);
    for_each_block(s.n * s.heads, 4 * s.t * s.t * s.d, |index| {
        let head = Head::new(s, index);
        let keys = Packed::from_columns(s.d, s.t, |j| head.row(k, j));
        let values = Packed::from_rows(s.t, s.d, |j| head.row(v, j));
        let blocks = s.t.div_ceil(BLOCK);
        for_each_block(blocks, 4 * BLOCK * s.t * s.d, |block| {
            let (start, len) = (block * BLOCK, BLOCK.min(s.t - block * BLOCK));
            let mut scores = Scratch::<f32>::take(len * s.t);
            products(q, head, start, len, &keys, &mut scores);
            let logs = logs.slice(index * s.t + start, len);
            for (row, log) in scores.chunks_exact_mut(s.t).zip(logs) {
                *log = softmax(row, scale(s));
            }
            let runs = [Run { offset: 0, len: s.t }];
            let rows = Gather { data: &scores, base: |r| r * s.t, runs: &runs };
            multiply_rows_serial(len, rows, &values, |r, j, sums| {
                out.slice(head.at(start + r) + j, sums.len()).copy_from_slice(sums);
            });
        });
    });
    Ok((y, lse))
}

/// Turns a row of products into probabilities of `scale·product`; returns the log-sum-exp.
fn softmax(row: &mut [f32], scale: f32) -> f32 {
    #[inline(always)]
    fn body(row: &mut [f32], scale: f32) -> f32 {
        // NaN must reach the output: max() would drop it, the sum below does not.
        let top = row.iter().fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m }) * scale;
        let mut lanes = [0.0_f32; 16];
        let mut chunks = row.chunks_exact_mut(16);
        for chunk in &mut chunks {
            for (v, sum) in chunk.iter_mut().zip(&mut lanes) {
                *v = simd::exp(*v * scale - top);
                *sum += *v;
            }
        }
        let mut total: f32 = lanes.iter().sum();
        for v in chunks.into_remainder() {
            *v = simd::exp(*v * scale - top);
            total += *v;
        }
        let inverse = 1.0 / total;
        row.iter_mut().for_each(|v| *v *= inverse);
        top + total.ln()
    }
    vectorise!(body(row: &mut [f32], scale: f32) -> f32)
}

pub(super) fn backward(node: &Attention, dy: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let s = node.sizes;
    let [mut dq, mut dk, mut dv] = [
        Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu)?,
        Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu)?,
        Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu)?,
    ];
    let [q, k, v, y, lse] = [&node.q, &node.k, &node.v, &node.y, &node.lse].map(|t| t.host::<f32>());
    let (q, k, v, y, lse, dy) = (q?, k?, v?, y?, lse?, dy.host::<f32>()?);
    let outs = [&mut dq, &mut dk, &mut dv].map(|t| t.host_mut::<f32>().map(DisjointMut::new));
    let [out_q, out_k, out_v] = outs;
    let (out_q, out_k, out_v) = (out_q?, out_k?, out_v?);
    for_each_block(s.n * s.heads, 10 * s.t * s.t * s.d, |index| {
        let head = Head::new(s, index);
        let by_key = Packed::from_columns(s.d, s.t, |j| head.row(k, j));
        let by_value = Packed::from_columns(s.d, s.t, |j| head.row(v, j));
        let keys = Packed::from_rows(s.t, s.d, |j| head.row(k, j));
        let (mut sum_k, mut sum_v) = (Scratch::<f32>::zeroed(s.t * s.d), Scratch::<f32>::zeroed(s.t * s.d));
        for start in (0..s.t).step_by(BLOCK) {
            let len = BLOCK.min(s.t - start);
            let mut p = Scratch::<f32>::take(len * s.t);
            let mut ds = Scratch::<f32>::take(len * s.t);
            products(q, head, start, len, &by_key, &mut p);
            products(dy, head, start, len, &by_value, &mut ds);
            for r in 0..len {
                let token = start + r;
                let rows = head.row(dy, token).iter().zip(head.row(y, token));
                let mean: f32 = rows.map(|(a, b)| a * b).sum();
                let log = lse[index * s.t + token];
                probabilities_and_slopes(&mut p[r * s.t..][..s.t], &mut ds[r * s.t..][..s.t], scale(s), log, mean);
            }
            let runs = [Run { offset: 0, len: s.t }];
            let rows = Gather { data: &ds, base: |r| r * s.t, runs: &runs };
            multiply_rows_serial(len, rows, &keys, |r, j, sums| {
                out_q.slice(head.at(start + r) + j, sums.len()).copy_from_slice(sums);
            });
            let rows: Vec<usize> = (0..len).map(|r| r * s.t).collect();
            let tokens: Vec<usize> = (0..len).map(|r| head.at(start + r)).collect();
            accumulate_outer(&mut sum_k, s.t, s.d, &[0], (&ds, &rows), (q, &tokens), false);
            accumulate_outer(&mut sum_v, s.t, s.d, &[0], (&p, &rows), (dy, &tokens), false);
        }
        for token in 0..s.t {
            out_k.slice(head.at(token), s.d).copy_from_slice(&sum_k[token * s.d..][..s.d]);
            out_v.slice(head.at(token), s.d).copy_from_slice(&sum_v[token * s.d..][..s.d]);
        }
    });
    Ok((dq, dk, dv))
}

/// p = exp(scale·product − log), ds = scale·p·(dp − mean), both in place.
fn probabilities_and_slopes(p: &mut [f32], ds: &mut [f32], scale: f32, log: f32, mean: f32) {
    #[inline(always)]
    fn body(p: &mut [f32], ds: &mut [f32], scale: f32, log: f32, mean: f32) {
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = simd::exp(*p * scale - log);
            *ds = scale * *p * (*ds - mean);
        }
    }
    vectorise!(body(p: &mut [f32], ds: &mut [f32], scale: f32, log: f32, mean: f32))
}
