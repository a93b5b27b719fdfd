//! The CPU side of [`super::attention`] and [`super::self_attention`]: tiles of queries against tiles of keys, one head of one image after the
//! other. Where positions are rotary, a head's queries and keys are turned into working memory first, and their gradients turned back.

use super::Sizes;
use super::rows::{Dot, Probabilities, Softmax, Turn};
use crate::device::{Device, DisjointMut, Scratch, for_each_block};
use crate::error::Result;
use crate::ops::pointwise::{narrow, widen};
use crate::simd::dispatch;
use crate::simd::gemm::{Left, Matrix, Panels, Right, multiply_panels};
use crate::tensor::{Dtype, Shape, Tensor};

/// Queries of a tile in the forward pass, where tiles run in parallel.
const QUERIES: usize = 64;
/// Queries of a tile in the backward pass.
const BACKWARD_QUERIES: usize = 128;
/// Keys of a tile.
const KEYS: usize = 256;
/// Values between rows of a backward tile's scores: its columns are read too, and 1 KiB apart they would compete for the same lines of the cache.
const GAP: usize = 16;

/// Where q, k and v lie: three tensors, or the thirds of each token of one; a token begins `stride` values after the one before.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) qkv: [&'a [f32]; 3],
    pub(super) stride: usize,
    /// Cosines and sines `[≥ t, d]`, where positions are rotary.
    pub(super) rotary: Option<&'a [f32]>,
}

impl<'a> Inputs<'a> {
    pub(super) fn apart(q: &'a Tensor, k: &'a Tensor, v: &'a Tensor) -> Result<Inputs<'a>> {
        Ok(Inputs { qkv: [q.host()?, k.host()?, v.host()?], stride: q.shape().last_size(), rotary: None })
    }

    pub(super) fn joined(qkv: &'a Tensor, rotary: Option<&'a Tensor>) -> Result<Inputs<'a>> {
        let stride = qkv.shape().last_size();
        let all = qkv.host::<f32>()?;
        let third = |i: usize| all.get(i * stride / 3..).unwrap_or(&[]);
        let rotary = rotary.map(Tensor::host::<f32>).transpose()?;
        Ok(Inputs { qkv: [third(0), third(1), third(2)], stride, rotary })
    }
}

/// The tokens of one head of one image in memory.
#[derive(Clone, Copy)]
struct Head {
    start: usize,
    stride: usize,
    t: usize,
    d: usize,
}

impl Head {
    /// Inside `[n, t, …]`, whose tokens are `stride` values apart.
    fn new(s: Sizes, index: usize, stride: usize) -> Head {
        Head { start: index / s.heads * s.t * stride + index % s.heads * s.d, stride, t: s.t, d: s.d }
    }

    /// Where a token's channels begin, and how far apart tokens are.
    fn at(&self, token: usize) -> [usize; 2] {
        [self.start + token * self.stride, self.stride]
    }

    /// First token and count of each tile of at most `size`.
    fn tiles(&self, size: usize) -> impl Iterator<Item = [usize; 2]> + use<> {
        let t = self.t;
        (0..t).step_by(size).map(move |start| [start, size.min(t - start)])
    }

    /// What the keys and the values of a tile take when packed.
    fn tile_sizes(&self) -> [usize; 2] {
        let keys = KEYS.min(self.t);
        [Panels::size(keys, self.d), Panels::size(self.d, keys)]
    }
}

/// A head's values, to be read.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    head: Head,
}

impl<'a> Rows<'a> {
    fn row(&self, token: usize) -> &'a [f32] {
        &self.data[self.head.at(token)[0]..][..self.head.d]
    }

    /// Tokens as lines whose values are channels.
    fn by_token(&self) -> Matrix<'a> {
        Matrix::lines(&self.data[self.head.start..], self.head.stride)
    }

    /// Channels as lines whose values are tokens.
    fn by_channel(&self) -> Matrix<'a> {
        Matrix::by_k(&self.data[self.head.start..], self.head.stride)
    }

    /// The rotated rows of all tokens, one behind the other, in `memory`.
    fn turned<'b>(&self, table: &[f32], memory: &'b mut [f32]) -> Rows<'b> {
        let Head { t, d, .. } = self.head;
        for token in 0..t {
            let to = &mut memory[token * d..][..d];
            to.copy_from_slice(self.row(token));
            dispatch(Turn { row: to, table: &table[token * d..][..d], back: false });
        }
        Rows { data: memory, head: Head { start: 0, stride: d, t, d } }
    }
}

/// A head's queries, keys and values.
fn rows_of<'a>(inputs: Inputs<'a>, head: Head) -> [Rows<'a>; 3] {
    inputs.qkv.map(|data| Rows { data, head })
}

/// Working memory for the rotated queries and keys of a head.
fn memory(inputs: Inputs<'_>, s: Sizes) -> Scratch<f32> {
    Scratch::take(if inputs.rotary.is_some() { 2 * s.t * s.d } else { 0 })
}

/// The same with queries and keys rotated, where positions are rotary.
fn turn<'a>([q, k, v]: [Rows<'a>; 3], rotary: Option<&[f32]>, memory: &'a mut [f32]) -> [Rows<'a>; 3] {
    let Some(table) = rotary else { return [q, k, v] };
    let (of_q, of_k) = memory.split_at_mut(q.head.t * q.head.d);
    [q.turned(table, of_q), k.turned(table, of_k), v]
}

fn scale(s: Sizes) -> f32 {
    (1.0 / (s.d as f64).sqrt()) as f32
}

/// y of `shape` and the log-sum-exp of each row.
pub(super) fn forward(inputs: Inputs<'_>, shape: Shape, s: Sizes) -> Result<(Tensor, Tensor)> {
    let mut y = Tensor::empty(shape, Dtype::F32, Device::Cpu)?;
    let mut lse = Tensor::empty([s.n, s.heads, s.t], Dtype::F32, Device::Cpu)?;
    let out = DisjointMut::new(y.host_mut::<f32>()?);
    let logs = DisjointMut::new(lse.host_mut::<f32>()?);
    for_each_block(s.n * s.heads, 4 * s.t * s.t * s.d, |index| {
        let mut memory = memory(inputs, s);
        let head = Head::new(s, index, inputs.stride);
        let [q, k, v] = turn(rows_of(inputs, head), inputs.rotary, &mut memory);
        let [of_keys, of_values] = head.tile_sizes();
        let mut tiles = Scratch::<f32>::take(s.t.div_ceil(KEYS) * (of_keys + of_values));
        for (tile, to) in head.tiles(KEYS).zip(tiles.chunks_exact_mut(of_keys + of_values)) {
            let (of_keys, of_values) = to.split_at_mut(of_keys);
            Panels::pack(k.by_token(), tile, [0, s.d], of_keys);
            Panels::pack(v.by_channel(), [0, s.d], tile, of_values);
        }
        let own = Head::new(s, index, s.heads * s.d);
        for_each_block(s.t.div_ceil(QUERIES), 4 * QUERIES * s.t * s.d, |block| {
            let (start, len) = (block * QUERIES, QUERIES.min(s.t - block * QUERIES));
            let log = logs.slice(index * s.t + start, len);
            forward_block(q, own, [start, len], &tiles, scale(s), &out, log);
        });
    });
    Ok((y, lse))
}

/// One tile of queries against all keys, with a softmax that is corrected whenever a tile of keys brings a larger score.
fn forward_block(
    q: Rows<'_>,
    own: Head,
    [start, len]: [usize; 2],
    tiles: &[f32],
    scale: f32,
    out: &DisjointMut<'_, f32>,
    log: &mut [f32],
) {
    let queries = Left::there(q.by_token(), [start, len], [0, own.d]);
    let (mut top, mut total, mut shrink) = ([f32::NEG_INFINITY; QUERIES], [0.0_f32; QUERIES], [1.0_f32; QUERIES]);
    let mut scores = Scratch::<f32>::take(len * KEYS);
    let [of_keys, of_values] = own.tile_sizes();
    for ([first, width], tile) in own.tiles(KEYS).zip(tiles.chunks_exact(of_keys + of_values)) {
        let (keys, values) = tile.split_at(of_keys);
        let (keys, values) = (Panels::there(keys, [width, own.d]), Panels::there(values, [own.d, width]));
        let scores = &mut scores[..len * width];
        multiply_panels(&DisjointMut::new(scores), [0, width], queries, keys, true);
        let (top, total, shrink) = (&mut top[..len], &mut total[..len], &mut shrink[..len]);
        dispatch(Softmax { scores, width, scale, top, total, shrink });
        for r in (0..len).filter(|r| first > 0 && shrink[*r] != 1.0) {
            out.slice(own.at(start + r)[0], own.d).iter_mut().for_each(|y| *y *= shrink[r]);
        }
        let weights = Left::there(Matrix::lines(scores, width), [0, len], [0, width]);
        multiply_panels(out, own.at(start), weights, values, first == 0);
    }
    for r in 0..len {
        let inverse = 1.0 / total[r];
        out.slice(own.at(start + r)[0], own.d).iter_mut().for_each(|y| *y *= inverse);
        log[r] = top[r] + total[r].ln();
    }
}

/// What the backward pass reads: inputs, y, dy and the log-sum-exp of each row.
pub(super) struct Saved<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) y: &'a Tensor,
    pub(super) dy: &'a Tensor,
    pub(super) lse: &'a Tensor,
}

/// dq, dk and dv, which lie as q, k and v do.
pub(super) fn backward(saved: &Saved<'_>, s: Sizes, outs: [DisjointMut<'_, f32>; 3]) -> Result<()> {
    let inputs = saved.inputs;
    let (y, dy, lse) = (saved.y.host::<f32>()?, saved.dy.host::<f32>()?, saved.lse.host::<f32>()?);
    for_each_block(s.n * s.heads, 10 * s.t * s.t * s.d, |index| {
        let mut memory = memory(inputs, s);
        let mut means = Scratch::<f32>::take(s.t);
        let head = Head::new(s, index, inputs.stride);
        let [q, k, v] = turn(rows_of(inputs, head), inputs.rotary, &mut memory);
        let own = Head::new(s, index, s.heads * s.d);
        let [y, dy] = [y, dy].map(|data| Rows { data, head: own });
        for (token, mean) in means.iter_mut().enumerate() {
            *mean = dispatch(Dot(dy.row(token), y.row(token)));
        }
        let log = &lse[index * s.t..][..s.t];
        backward_head([q, k, v, dy], head, scale(s), log, &means, &outs);
        if let Some(table) = inputs.rotary {
            for (token, out) in (0..s.t).flat_map(|token| [(token, &outs[0]), (token, &outs[1])]) {
                let row = out.slice(head.at(token)[0], s.d);
                dispatch(Turn { row, table: &table[token * s.d..][..s.d], back: true });
            }
        }
    });
    Ok(())
}

/// dq, dk and dv of one head. `means` are the sums of dy·y over each token's channels.
fn backward_head(
    [q, k, v, dy]: [Rows<'_>; 4],
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
        let by_key = Right::new(k.by_token(), keys, channels);
        let by_value = Right::new(v.by_token(), keys, channels);
        let by_channel = Right::new(k.by_channel(), channels, keys);
        for queries in head.tiles(BACKWARD_QUERIES) {
            let [first, len] = queries;
            let left = Left::there(q.by_token(), queries, channels);
            multiply_panels(&DisjointMut::new(&mut p), [0, stride], left, by_key.panels(), true);
            let left = Left::there(dy.by_token(), queries, channels);
            multiply_panels(&DisjointMut::new(&mut ds), [0, stride], left, by_value.panels(), true);
            let (log, mean) = (&log[first..first + len], &means[first..first + len]);
            dispatch(Probabilities { p: &mut p, ds: &mut ds, width, stride, scale, log, mean });
            let left = Left::there(Matrix::lines(&ds, stride), [0, len], [0, width]);
            multiply_panels(out_q, head.at(first), left, by_channel.panels(), first_key == 0);
            for (slopes, factor, out) in [(&ds, q, out_k), (&p, dy, out_v)] {
                let left = Left::there(Matrix::by_k(slopes, stride), [0, width], [0, len]);
                let right = Right::new(factor.by_channel(), channels, queries);
                multiply_panels(out, head.at(first_key), left, right.panels(), first == 0);
            }
        }
    }
}

/// [`super::attention`] forward: the types of f32 and bf16.
pub(super) fn forward_apart(q: &Tensor, k: &Tensor, v: &Tensor, s: Sizes) -> Result<(Tensor, Tensor)> {
    if q.dtype() == Dtype::Bf16 {
        let (y, lse) = forward_apart(&widen(q)?, &widen(k)?, &widen(v)?, s)?;
        return Ok((narrow(&y)?, lse));
    }
    forward(Inputs::apart(q, k, v)?, q.shape(), s)
}

/// [`super::attention`] backward.
pub(super) fn backward_apart(node: &super::Attention, dy: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let s = node.sizes;
    if dy.dtype() == Dtype::Bf16 {
        let [q, k, v, y] = [&node.q, &node.k, &node.v, &node.y].map(widen);
        let wide = super::Attention { q: q?, k: k?, v: v?, y: y?, lse: node.lse.clone(), sizes: s };
        let (dq, dk, dv) = backward_apart(&wide, &widen(dy)?)?;
        return Ok((narrow(&dq)?, narrow(&dk)?, narrow(&dv)?));
    }
    let empty = || Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu);
    let (mut dq, mut dk, mut dv) = (empty()?, empty()?, empty()?);
    let [out_q, out_k, out_v] = [&mut dq, &mut dk, &mut dv].map(|t| t.host_mut::<f32>().map(DisjointMut::new));
    let inputs = Inputs::apart(&node.q, &node.k, &node.v)?;
    backward(&Saved { inputs, y: &node.y, dy, lse: &node.lse }, s, [out_q?, out_k?, out_v?])?;
    Ok((dq, dk, dv))
}

/// [`super::self_attention`] backward: the gradient of `[n, t, 3·heads·d]`.
pub(super) fn backward_joined(saved: &Saved<'_>, shape: Shape, s: Sizes) -> Result<Tensor> {
    let mut dqkv = Tensor::empty(shape, Dtype::F32, Device::Cpu)?;
    let third = s.heads * s.d;
    let all = dqkv.host_mut::<f32>()?;
    let empty = all.is_empty();
    let all = DisjointMut::new(all);
    // Thirds of each token: a head's block writes its own channels of each.
    let outs = [0, 1, 2].map(|i| all.from(if empty { 0 } else { i * third }));
    backward(saved, s, outs)?;
    Ok(dqkv)
}
