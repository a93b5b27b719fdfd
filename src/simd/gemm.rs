//! Matrix product with both operands packed, for products that are large in every direction: c[i][j] = Σ_k a(i, k)·b(k, j).
//!
//! ```text
//! for each slab of k:          both operands' parts are packed, in parallel
//!   for each tile of c:        in parallel; one job has 64 rows and 256 columns
//!     for each block of k:     a panel of b (32 columns) meets the job's panels of a (8 rows) while both are in cache
//! ```
//! A packed panel is read in order, so neither rows far apart nor rows a power of two apart cost anything; packing reads
//! every cache line once. Sums run over k in order, one fused multiply-add after the other, through memory between
//! blocks: the bits are those of [`super::multiply_rows`] and depend neither on the number of threads nor on how many
//! rows there are.

use super::kernel::{MR, NR};
use super::pack::{transpose_lines, transpose_rows};
use super::packed::packed;
use crate::device::{DisjointMut, Scratch, for_each_block};
use std::ops::Range;

/// Values of k whose panels are packed at once.
const SLAB: usize = 512;
/// Values of k that a pair of panels is multiplied over: a panel of b has 32 KiB.
const K_BLOCK: usize = 256;
/// Rows of c whose part of `a` is packed at once.
const ROW_SLAB: usize = 4096;
/// Panels of `a` and `b` of a job: 64 rows and 256 columns.
const JOB: (usize, usize) = (8, 8);

/// Where an operand lies: its lines are the rows of c for `a`, the columns of c for `b`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    stride: usize,
    by_k: bool,
}

impl<'a> Matrix<'a> {
    /// Value k of line i is `data[i·stride + k]`.
    pub(crate) fn lines(data: &'a [f32], stride: usize) -> Matrix<'a> {
        Matrix { data, stride, by_k: false }
    }

    /// Value k of line i is `data[k·stride + i]`.
    pub(crate) fn by_k(data: &'a [f32], stride: usize) -> Matrix<'a> {
        Matrix { data, stride, by_k: true }
    }

    /// Packs lines `first..first + count` of values `k0..k0 + depth` into panels of `W` lines: value k of a panel is `W` consecutive
    /// numbers. Lines beyond `count` are 0.
    fn pack<const W: usize>(&self, first: usize, count: usize, k0: usize, depth: usize, to: &mut [f32]) {
        // Lines of one job: a multiple of both widths.
        const STRIP: usize = 64;
        let out = DisjointMut::new(to);
        for_each_block(count.div_ceil(STRIP), 10 * STRIP * depth, |strip| {
            let (line, lines) = (strip * STRIP, STRIP.min(count - strip * STRIP));
            let to = out.slice(line * depth, lines.next_multiple_of(W) * depth);
            if self.by_k {
                let row = |k: usize| &self.data[(k0 + k) * self.stride + first + line..][..lines];
                transpose_rows::<W>(depth, row, to);
            } else {
                for (p, panel) in to.chunks_exact_mut(W * depth).enumerate() {
                    let row = |l: usize| &self.data[(first + line + p * W + l) * self.stride + k0..][..depth];
                    transpose_lines::<W>(W.min(lines - p * W), row, panel);
                }
            }
        });
    }
}

/// Some lines of a matrix, packed for [`multiply_panels`] by the thread that calls it.
pub(crate) struct Panels {
    data: Scratch<f32>,
    lines: usize,
    depth: usize,
}

impl Panels {
    /// Lines `first..first + lines` of `a`, with values `k0..k0 + depth` of each.
    pub(crate) fn left(a: Matrix<'_>, [first, lines]: [usize; 2], [k0, depth]: [usize; 2]) -> Panels {
        let mut data = Scratch::take(lines.next_multiple_of(MR) * depth);
        a.pack::<MR>(first, lines, k0, depth, &mut data);
        Panels { data, lines, depth }
    }

    /// As [`Panels::left`], for `b`.
    pub(crate) fn right(b: Matrix<'_>, [first, lines]: [usize; 2], [k0, depth]: [usize; 2]) -> Panels {
        let mut data = Scratch::take(lines.next_multiple_of(NR) * depth);
        b.pack::<NR>(first, lines, k0, depth, &mut data);
        Panels { data, lines, depth }
    }
}

/// `c = a·b`, or `c += a·b` where not `from_zero`, on the calling thread. Row i of c begins at `start + i·stride`.
pub(crate) fn multiply_panels(
    c: &DisjointMut<'_, f32>,
    [start, stride]: [usize; 2],
    a: &Panels,
    b: &Panels,
    from_zero: bool,
) {
    assert_eq!(a.depth, b.depth, "one operand has {} values of k, the other {}", a.depth, b.depth);
    let slab = Slab { a: &a.data, b: &b.data, depth: a.depth, n: b.lines, rows: a.lines, from_zero, stride };
    slab.tile(c, start, 0..a.lines.div_ceil(MR), 0..b.lines.div_ceil(NR));
}

/// `c = a·b` for `c` of shape `[m, n]` and sums of `k` products. `finish(i, j, values)` is called once for every piece of a row
/// after its sums are complete, from several threads.
pub(crate) fn multiply(
    c: &mut [f32],
    [m, n, k]: [usize; 3],
    a: Matrix<'_>,
    b: Matrix<'_>,
    finish: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    assert_eq!(c.len(), m * n, "c holds {} values, not {m}x{n}", c.len());
    if k == 0 {
        c.fill(0.0);
        c.chunks_exact_mut(n.max(1)).enumerate().for_each(|(i, row)| finish(i, 0, row));
        return;
    }
    let depth = SLAB.min(k);
    let mut packed_a = Scratch::<f32>::take(ROW_SLAB.min(m).next_multiple_of(MR) * depth);
    let mut packed_b = Scratch::<f32>::take(n.next_multiple_of(NR) * depth);
    let out = DisjointMut::new(c);
    for k0 in (0..k).step_by(SLAB) {
        let depth = SLAB.min(k - k0);
        b.pack::<NR>(0, n, k0, depth, &mut packed_b);
        for i0 in (0..m).step_by(ROW_SLAB) {
            let rows = ROW_SLAB.min(m - i0);
            a.pack::<MR>(i0, rows, k0, depth, &mut packed_a);
            let slab = Slab { a: &packed_a, b: &packed_b, depth, n, rows, from_zero: k0 == 0, stride: n };
            let (down, across) = (rows.div_ceil(MR).div_ceil(JOB.0), n.div_ceil(NR).div_ceil(JOB.1));
            let last = k0 + depth == k;
            for_each_block(down * across, 2 * (JOB.0 * MR).min(rows) * (JOB.1 * NR).min(n) * depth, |job| {
                let (down, across) = (job / across, job % across);
                let panels = |first: usize, count: usize, all: usize| first * count..all.min((first + 1) * count);
                let (of_a, of_b) = (panels(down, JOB.0, rows.div_ceil(MR)), panels(across, JOB.1, n.div_ceil(NR)));
                slab.tile(&out, i0 * n, of_a, of_b);
                if last {
                    let (j, i) = (across * JOB.1 * NR, down * JOB.0 * MR);
                    for r in i..rows.min(i + JOB.0 * MR) {
                        let len = n.min(j + JOB.1 * NR) - j;
                        finish(i0 + r, j, out.slice((i0 + r) * n + j, len));
                    }
                }
            });
        }
    }
}

/// Packed parts of both operands.
struct Slab<'a> {
    a: &'a [f32],
    b: &'a [f32],
    depth: usize,
    n: usize,
    rows: usize,
    from_zero: bool,
    stride: usize,
}

impl Slab<'_> {
    /// One tile of c, of some panels of each operand: its sums over the slab's k, begun at 0 or at what is there.
    fn tile(&self, c: &DisjointMut<'_, f32>, start: usize, of_a: Range<usize>, of_b: Range<usize>) {
        for k0 in (0..self.depth).step_by(K_BLOCK) {
            let k = K_BLOCK.min(self.depth - k0);
            let from_zero = self.from_zero && k0 == 0;
            for p in of_b.clone() {
                let b = &self.b[(p * self.depth + k0) * NR..][..k * NR];
                let columns = NR.min(self.n - p * NR);
                for q in of_a.clone() {
                    let a = &self.a[(q * self.depth + k0) * MR..][..k * MR];
                    let rows = MR.min(self.rows - q * MR);
                    let at = start + q * MR * self.stride + p * NR;
                    if (rows, columns) == (MR, NR) {
                        let c = std::array::from_fn(|r| c.slice(at + r * self.stride, NR));
                        packed(a, b, c, from_zero);
                        continue;
                    }
                    let mut tile = [[0.0; NR]; MR];
                    for r in 0..rows {
                        tile[r][..columns].copy_from_slice(c.slice(at + r * self.stride, columns));
                    }
                    packed(a, b, tile.each_mut().map(|row| &mut row[..]), from_zero);
                    for r in 0..rows {
                        c.slice(at + r * self.stride, columns).copy_from_slice(&tile[r][..columns]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Address, Purpose};

    fn noise(len: usize, seed: u64) -> Vec<f32> {
        let mut data = vec![0.0; len];
        Address::new(seed, Purpose::Test).fill_normal(&mut data);
        data
    }

    fn transpose(x: &[f32], width: usize) -> Vec<f32> {
        (0..x.len()).map(|i| x[i % (x.len() / width) * width + i / (x.len() / width)]).collect()
    }

    #[test]
    fn packed_products_match_plain_loops_for_sizes_on_both_sides_of_every_block() {
        let sizes = [(1, 1, 1), (7, 31, 5), (8, 32, 16), (9, 33, 17), (65, 257, 3), (64, 256, 255), (20, 40, 530)];
        for (m, n, k) in sizes.into_iter().chain([(130, 290, 257), (4099, 5, 3), (3, 3, 1025), (2, 3, 0)]) {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            let (a_by_k, b_lines) = if k > 0 { (transpose(&a, k), transpose(&b, n)) } else { (vec![], vec![]) };
            let mut results = Vec::new();
            for (left, right) in [
                (Matrix::lines(&a, k), Matrix::lines(&b_lines, k)),
                (Matrix::by_k(&a_by_k, m), Matrix::by_k(&b, n)),
                (Matrix::lines(&a, k), Matrix::by_k(&b, n)),
            ] {
                let mut c = noise(m * n, 3);
                multiply(&mut c, [m, n, k], left, right, |i, j, v| {
                    v.iter_mut().enumerate().for_each(|(l, v)| *v += (i * n + j + l) as f32 / (m * n) as f32);
                });
                results.push(c);
            }
            assert!(results[0] == results[1] && results[0] == results[2], "{m}x{n}x{k}: layouts differ");
            for (at, got) in results[0].iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let want: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
                let size: f64 = 2.0 + (0..k).map(|l| f64::from(a[i * k + l] * b[l * n + j]).abs()).sum::<f64>();
                let want = want + at as f64 / (m * n) as f64;
                // At most k + 1 roundings of partial sums below `size`.
                let bound = (k + 1) as f64 * f64::from(f32::EPSILON) * size;
                assert!((f64::from(*got) - want).abs() <= bound, "{m}x{n}x{k} at {i},{j}: {got} {want}");
            }
        }
    }
}
