//! The CPU side of [`super::attention`]: tiles of queries against tiles of keys, one head of one image after the other.

use super::rows::{Dot, Probabilities, Softmax};
use super::{Attention, Sizes};
use crate::device::{Device, DisjointMut, Scratch, for_each_block};
use crate::error::Result;
use crate::ops::pointwise::{narrow, widen};
use crate::simd::dispatch;
use crate::simd::gemm::{Left, Matrix, Right, multiply_panels};
use crate::tensor::{Dtype, Tensor};

/// Queries of a tile in the forward pass, where tiles run in parallel.
const QUERIES: usize = 64;
/// Queries of a tile in the backward pass.
const BACKWARD_QUERIES: usize = 128;
/// Keys of a tile.
const KEYS: usize = 256;
/// Values between rows of a backward tile's scores: its columns are read too, and 1 KiB apart they would compete for the same lines of the cache.
const GAP: usize = 16;

/// One head of one image inside `[n, t, heads·d]`.
#[derive(Clone, Copy)]
struct Head {
    start: usize,
    stride: usize,
    t: usize,
    d: usize,
}

impl Head {
    fn new(s: Sizes, index: usize) -> Head {
        let stride = s.heads * s.d;
        Head { start: index / s.heads * s.t * stride + index % s.heads * s.d, stride, t: s.t, d: s.d }
    }

    /// Where a token's channels begin, and how far apart tokens are.
    fn at(&self, token: usize) -> [usize; 2] {
        [self.start + token * self.stride, self.stride]
    }

    fn row<'a>(&self, data: &'a [f32], token: usize) -> &'a [f32] {
        &data[self.at(token)[0]..][..self.d]
    }

    /// Tokens as lines whose values are channels.
    fn by_token<'a>(&self, data: &'a [f32]) -> Matrix<'a> {
        Matrix::lines(&data[self.start..], self.stride)
    }

    /// Channels as lines whose values are tokens.
    fn by_channel<'a>(&self, data: &'a [f32]) -> Matrix<'a> {
        Matrix::by_k(&data[self.start..], self.stride)
    }

    /// First token and count of each tile of at most `size`.
    fn tiles(&self, size: usize) -> impl Iterator<Item = [usize; 2]> + use<> {
        let t = self.t;
        (0..t).step_by(size).map(move |start| [start, size.min(t - start)])
    }
}

fn scale(s: Sizes) -> f32 {
    (1.0 / (s.d as f64).sqrt()) as f32
}

pub(super) fn forward(q: &Tensor, k: &Tensor, v: &Tensor, s: Sizes) -> Result<(Tensor, Tensor)> {
    if q.dtype() == Dtype::Bf16 {
        let (y, lse) = forward(&widen(q)?, &widen(k)?, &widen(v)?, s)?;
        return Ok((narrow(&y)?, lse));
    }
    let mut y = Tensor::empty(q.shape(), Dtype::F32, Device::Cpu)?;
    let mut lse = Tensor::empty([s.n, s.heads, s.t], Dtype::F32, Device::Cpu)?;
    let (q, k, v) = (q.host::<f32>()?, k.host::<f32>()?, v.host::<f32>()?);
    let out = DisjointMut::new(y.host_mut::<f32>()?);
    let logs = DisjointMut::new(lse.host_mut::<f32>()?);
    for_each_block(s.n * s.heads, 4 * s.t * s.t * s.d, |index| {
        let head = Head::new(s, index);
        let tiles = |tile| {
            let keys = Right::new(head.by_token(k), tile, [0, s.d]);
            (keys, Right::new(head.by_channel(v), [0, s.d], tile), tile[1])
        };
        let tiles: Vec<(Right, Right, usize)> = head.tiles(KEYS).map(tiles).collect();
        for_each_block(s.t.div_ceil(QUERIES), 4 * QUERIES * s.t * s.d, |block| {
            let (start, len) = (block * QUERIES, QUERIES.min(s.t - block * QUERIES));
            let log = logs.slice(index * s.t + start, len);
            forward_block(q, head, [start, len], &tiles, scale(s), &out, log);
        });
    });
    Ok((y, lse))
}

/// One tile of queries against all keys, with a softmax that is corrected whenever a tile of keys brings a larger score.
fn forward_block(
    q: &[f32],
    head: Head,
    [start, len]: [usize; 2],
    tiles: &[(Right, Right, usize)],
    scale: f32,
    out: &DisjointMut<'_, f32>,
    log: &mut [f32],
) {
    let queries = Left::there(head.by_token(q), [start, len], [0, head.d]);
    let (mut top, mut total, mut shrink) = ([f32::NEG_INFINITY; QUERIES], [0.0_f32; QUERIES], [1.0_f32; QUERIES]);
    let mut scores = Scratch::<f32>::take(len * KEYS);
    for (index, (keys, values, width)) in tiles.iter().enumerate() {
        let scores = &mut scores[..len * width];
        multiply_panels(&DisjointMut::new(scores), [0, *width], queries, keys, true);
        let (top, total, shrink) = (&mut top[..len], &mut total[..len], &mut shrink[..len]);
        dispatch(Softmax { scores, width: *width, scale, top, total, shrink });
        for r in (0..len).filter(|r| index > 0 && shrink[*r] != 1.0) {
            out.slice(head.at(start + r)[0], head.d).iter_mut().for_each(|y| *y *= shrink[r]);
        }
        let weights = Left::there(Matrix::lines(scores, *width), [0, len], [0, *width]);
        multiply_panels(out, head.at(start), weights, values, index == 0);
    }
    for r in 0..len {
        let inverse = 1.0 / total[r];
        out.slice(head.at(start + r)[0], head.d).iter_mut().for_each(|y| *y *= inverse);
        log[r] = top[r] + total[r].ln();
    }
}

pub(super) fn backward(node: &Attention, dy: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let s = node.sizes;
    if dy.dtype() == Dtype::Bf16 {
        let [q, k, v, y] = [&node.q, &node.k, &node.v, &node.y].map(widen);
        let wide = Attention { q: q?, k: k?, v: v?, y: y?, lse: node.lse.clone(), sizes: s };
        let (dq, dk, dv) = backward(&wide, &widen(dy)?)?;
        return Ok((narrow(&dq)?, narrow(&dk)?, narrow(&dv)?));
    }
    let [mut dq, mut dk, mut dv] = [
        Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu)?,
        Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu)?,
        Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu)?,
    ];
    let [q, k, v, y, lse] = [&node.q, &node.k, &node.v, &node.y, &node.lse].map(|t| t.host::<f32>());
    let (q, k, v, y, lse, dy) = (q?, k?, v?, y?, lse?, dy.host::<f32>()?);
    let outs = [&mut dq, &mut dk, &mut dv].map(|t| t.host_mut::<f32>().map(DisjointMut::new));
    let [out_q, out_k, out_v] = outs;
    let outs = [out_q?, out_k?, out_v?];
    for_each_block(s.n * s.heads, 10 * s.t * s.t * s.d, |index| {
        let head = Head::new(s, index);
        let mut means = Scratch::<f32>::take(s.t);
        for (token, mean) in means.iter_mut().enumerate() {
            *mean = dispatch(Dot(head.row(dy, token), head.row(y, token)));
        }
        let log = &lse[index * s.t..][..s.t];
        backward_head([q, k, v, dy], head, scale(s), log, &means, &outs);
    });
    Ok((dq, dk, dv))
}

/// dq, dk and dv of one head. `means` are the sums of dy·y over each token's channels.
fn backward_head(
    [q, k, v, dy]: [&[f32]; 4],
    head: Head,
    scale: f32,
    log: &[f32],
    means: &[f32],
    [out_q, out_k, out_v]: &[DisjointMut<'_, f32>; 3],
) {
    let channels = [0, head.d];
    let size = BACKWARD_QUERIES.min(head.t) * (KEYS.min(head.t) + GAP);
    let (mut p, mut ds) = (Scratch::<f32>::take(size), Scratch::<f32>::take(size));
    for keys in head.tiles(KEYS) {
        let [first_key, width] = keys;
        let stride = width + GAP;
        let by_key = Right::new(head.by_token(k), keys, channels);
        let by_value = Right::new(head.by_token(v), keys, channels);
        let by_channel = Right::new(head.by_channel(k), channels, keys);
        for queries in head.tiles(BACKWARD_QUERIES) {
            let [first, len] = queries;
            let left = Left::there(head.by_token(q), queries, channels);
            multiply_panels(&DisjointMut::new(&mut p), [0, stride], left, &by_key, true);
            let left = Left::there(head.by_token(dy), queries, channels);
            multiply_panels(&DisjointMut::new(&mut ds), [0, stride], left, &by_value, true);
            let (log, mean) = (&log[first..first + len], &means[first..first + len]);
            dispatch(Probabilities { p: &mut p, ds: &mut ds, width, stride, scale, log, mean });
            let left = Left::there(Matrix::lines(&ds, stride), [0, len], [0, width]);
            multiply_panels(out_q, head.at(first), left, &by_channel, first_key == 0);
            for (slopes, factor, out) in [(&ds, q, out_k), (&p, dy, out_v)] {
                let left = Left::there(Matrix::by_k(slopes, stride), [0, width], [0, len]);
                let right = Right::new(head.by_channel(factor), channels, queries);
                multiply_panels(out, head.at(first_key), left, &right, first == 0);
            }
        }
    }
}
