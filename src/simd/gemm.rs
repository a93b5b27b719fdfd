//! Matrix products c[i][j] = Σ_k a(i, k)·b(k, j), with the right operand packed and the left read where it lies if its values of k are
//! consecutive.
//!
//! ```text
//! for each slab of k:          b is packed into panels of 32 columns, a into panels of 8 rows if it must be, in parallel
//!   for each block of rows:    in parallel
//!     for each block of k:     a panel of b meets the block's rows, 8 at a time
//! ```
//! A block of rows stays in the second-level cache while the panels of b pass by. Broadcasting from 8 rows costs no more than from a packed
//! panel; only rows whose values of k are far apart are packed. Sums run over k in order, one fused multiply-add after the other, through
//! memory between blocks: the bits are those of [`super::multiply_gathered`] and depend neither on the number of threads nor on how many rows
//! there are.

use super::kernel::{MR, NR};
use super::pack::{transpose_lines, transpose_rows};
use super::tile::{self, Operands};
use crate::device::{DisjointMut, Scratch, for_each_block};
use std::ops::Range;

/// Values of k that are summed in registers: a panel of b has 64 KiB.
const K_BLOCK: usize = 512;
/// Values of b that are packed at once, at most: 4 MiB.
const SLAB_VALUES: usize = 1 << 20;
/// Values of both operands that are packed at once: 1 MiB, which the second-level caches hold.
const PAIR_VALUES: usize = 1 << 18;
/// Rows of a job, at most and at least.
const ROWS: [usize; 2] = [128, 16];
/// Columns of a job where there are few rows, at least.
const COLUMNS: usize = 64;
/// Panels of columns that are finished together, while they are in the cache.
const FINISHED: usize = 8;
/// Jobs that there should be, so that threads end together.
const JOBS: usize = 8;

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

    /// Number of steps in which `count` lines are packed.
    fn steps(count: usize) -> usize {
        count.div_ceil(STRIP)
    }

    /// Packs one step of lines `first..first + count` of values `k0..k0 + depth` into panels of `W` lines: value k of a panel is `W`
    /// consecutive numbers. Lines beyond `count` are 0.
    fn pack<const W: usize>(
        &self,
        [first, count]: [usize; 2],
        [k0, depth]: [usize; 2],
        to: &DisjointMut<'_, f32>,
        step: usize,
    ) {
        if depth == 0 {
            return;
        }
        let (line, lines) = (step * STRIP, STRIP.min(count - step * STRIP));
        let to = to.slice(line * depth, lines.next_multiple_of(W) * depth);
        if self.by_k {
            let row = |k: usize| &self.data[(k0 + k) * self.stride + first + line..][..lines];
            transpose_rows::<W>(depth, row, to);
        } else {
            for (p, panel) in to.chunks_exact_mut(W * depth).enumerate() {
                let row = |l: usize| &self.data[(first + line + p * W + l) * self.stride + k0..][..depth];
                transpose_lines::<W>(W.min(lines - p * W), row, panel);
            }
        }
    }
}

/// Lines that are packed in one step: a multiple of both widths.
const STRIP: usize = 64;

/// Some lines of a left operand: value k of line i is `data[i/MR·panel + i%MR·line + k·step]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    data: &'a [f32],
    panel: usize,
    line: usize,
    step: usize,
    lines: usize,
    depth: usize,
}

impl<'a> Left<'a> {
    /// Lines `first..first + lines` of `a`, with values `k0..k0 + depth` of each, read where they lie.
    pub(crate) fn there(a: Matrix<'a>, [first, lines]: [usize; 2], [k0, depth]: [usize; 2]) -> Left<'a> {
        let (line, step) = if a.by_k { (1, a.stride) } else { (a.stride, 1) };
        Left { data: &a.data[first * line + k0 * step..], panel: MR * line, line, step, lines, depth }
    }

    /// All lines packed in `data`.
    fn packed(data: &'a [f32], lines: usize, depth: usize) -> Left<'a> {
        Left { data, panel: MR * depth, line: 1, step: MR, lines, depth }
    }

    /// Some of its lines, from a multiple of [`MR`], and some of their values.
    fn part(&self, [first, lines]: [usize; 2], [k0, depth]: [usize; 2]) -> Left<'a> {
        Left { data: &self.data[first / MR * self.panel + k0 * self.step..], lines, depth, ..*self }
    }

    /// # Panics
    /// If a value leaves the data: a defect of an op, found here before it can read foreign memory.
    fn check(&self, k: Range<usize>) {
        let last = self.lines.saturating_sub(1);
        let end = last / MR * self.panel + last % MR * self.line + k.end.saturating_sub(1) * self.step;
        assert!(k.end <= self.depth && end < self.data.len(), "value {end} of {}", self.data.len());
    }
}

/// Some lines of a right operand, packed by the thread that asks for it.
pub(crate) struct Right {
    data: Scratch<f32>,
    lines: usize,
    depth: usize,
}

impl Right {
    /// Lines `first..first + lines` of `b`, with values `k0..k0 + depth` of each.
    pub(crate) fn new(b: Matrix<'_>, [first, lines]: [usize; 2], [k0, depth]: [usize; 2]) -> Right {
        let mut data = Scratch::take(Panels::size(lines, depth));
        Panels::pack(b, [first, lines], [k0, depth], &mut data);
        Right { data, lines, depth }
    }

    /// To multiply by.
    pub(crate) fn panels(&self) -> Panels<'_> {
        Panels::there(&self.data, [self.lines, self.depth])
    }
}

/// Packed lines of a right operand, wherever they lie.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    data: &'a [f32],
    lines: usize,
    depth: usize,
}

impl<'a> Panels<'a> {
    /// Values that so many lines of so many values take.
    pub(crate) fn size(lines: usize, depth: usize) -> usize {
        lines.next_multiple_of(NR) * depth
    }

    /// Packs lines `first..first + lines` of `b`, with values `k0..k0 + depth` of each, to the beginning of `to`.
    pub(crate) fn pack(b: Matrix<'_>, [first, lines]: [usize; 2], [k0, depth]: [usize; 2], to: &mut [f32]) {
        let to = DisjointMut::new(&mut to[..Panels::size(lines, depth)]);
        (0..Matrix::steps(lines)).for_each(|step| b.pack::<NR>([first, lines], [k0, depth], &to, step));
    }

    /// What [`Panels::pack`] left at the beginning of `data`.
    pub(crate) fn there(data: &'a [f32], [lines, depth]: [usize; 2]) -> Panels<'a> {
        Panels { data: &data[..Panels::size(lines, depth)], lines, depth }
    }
}

/// `c = a·b`, or `c += a·b` where not `from_zero`, on the calling thread. Row i of c begins at `start + i·stride`.
pub(crate) fn multiply_panels(
    c: &DisjointMut<'_, f32>,
    [start, stride]: [usize; 2],
    a: Left<'_>,
    b: Panels<'_>,
    from_zero: bool,
) {
    assert_eq!(a.depth, b.depth, "one operand has {} values of k, the other {}", a.depth, b.depth);
    let slab = Slab { a, b: b.data, depth: b.depth, n: b.lines, from_zero, stride };
    slab.multiply(c, start, 0..b.lines.div_ceil(NR));
}

/// A whole right operand, packed: for weights that meet many left operands.
#[derive(Debug)]
pub(crate) struct Prepared {
    data: Scratch<f32>,
    n: usize,
    k: usize,
}

impl Prepared {
    /// Packs `n` lines of `k` values.
    pub(crate) fn new(b: Matrix<'_>, [n, k]: [usize; 2]) -> Prepared {
        let mut data = Scratch::take(n.next_multiple_of(NR) * k);
        let to = DisjointMut::new(&mut data);
        for_each_block(Matrix::steps(n), 10 * STRIP * k, |step| b.pack::<NR>([0, n], [0, k], &to, step));
        Prepared { data, n, k }
    }
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
    if is_done(c, [m, n, k], &finish) {
        return;
    }
    // Packed lines of each operand.
    let (of_a, of_b) = (if a.by_k { m.next_multiple_of(MR) } else { 0 }, n.next_multiple_of(NR));
    let most = if a.by_k { PAIR_VALUES / (of_a + of_b) } else { SLAB_VALUES / of_b };
    let longest = (most / K_BLOCK).max(1) * K_BLOCK;
    let mut memory_a = Scratch::<f32>::take(of_a * longest.min(k));
    let mut memory_b = Scratch::<f32>::take(of_b * longest.min(k));
    for k0 in (0..k).step_by(longest) {
        let depth = longest.min(k - k0);
        let (to_a, to_b) = (DisjointMut::new(&mut memory_a), DisjointMut::new(&mut memory_b));
        let steps = Matrix::steps(n);
        for_each_block(steps + Matrix::steps(of_a.min(m)), 10 * STRIP * depth, |step| match step.checked_sub(steps) {
            None => b.pack::<NR>([0, n], [k0, depth], &to_b, step),
            Some(step) => a.pack::<MR>([0, m], [k0, depth], &to_a, step),
        });
        let left = match a.by_k {
            true => Left::packed(&memory_a, m, depth),
            false => Left::there(a, [0, m], [k0, depth]),
        };
        multiply_slab(c, [m, n, k], left, &memory_b, k0..k0 + depth, &finish);
    }
}

/// As [`multiply`] for rows `a` of consecutive values and a `b` packed beforehand, which says what n and k are.
pub(crate) fn multiply_prepared(
    c: &mut [f32],
    m: usize,
    a: &[f32],
    b: &Prepared,
    finish: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    let sizes = [m, b.n, b.k];
    if is_done(c, sizes, &finish) {
        return;
    }
    let left = Left::there(Matrix::lines(a, b.k), [0, m], [0, b.k]);
    multiply_slab(c, sizes, left, &b.data, 0..b.k, &finish);
}

/// Whether there was nothing to sum.
fn is_done(c: &mut [f32], [m, n, k]: [usize; 3], finish: &impl Fn(usize, usize, &mut [f32])) -> bool {
    assert_eq!(c.len(), m * n, "c holds {} values, not {m}x{n}", c.len());
    if k == 0 {
        c.fill(0.0);
        c.chunks_exact_mut(n.max(1)).enumerate().for_each(|(i, row)| finish(i, 0, row));
    }
    k == 0 || c.is_empty()
}

/// Adds the products of one slab of k, and finishes after the last.
fn multiply_slab(
    c: &mut [f32],
    [m, n, k]: [usize; 3],
    a: Left<'_>,
    b: &[f32],
    range: Range<usize>,
    finish: &(impl Fn(usize, usize, &mut [f32]) + Sync + Send),
) {
    // How the work is cut has no say in the bits: a sum is computed by one job in one order.
    let ([mut rows, least], mut columns) = (ROWS, n.next_multiple_of(NR).max(NR));
    let jobs = |rows: usize, columns: usize| m.div_ceil(rows) * n.div_ceil(columns);
    while columns > COLUMNS && jobs(rows, columns) < JOBS {
        columns = (columns / 2).next_multiple_of(NR);
    }
    while rows > least && jobs(rows, columns) < JOBS {
        rows /= 2;
    }
    let across = n.div_ceil(columns);
    let out = DisjointMut::new(c);
    let flops = 2 * rows.min(m) * columns.min(n) * range.len();
    for_each_block(jobs(rows, columns), flops, |job| {
        let (i, j) = (job / across * rows, job % across * columns);
        let lines = [i, rows.min(m - i)];
        let panels = j / NR..(j + columns).min(n).div_ceil(NR);
        for k0 in (0..range.len()).step_by(K_BLOCK) {
            let depth = K_BLOCK.min(range.len() - k0);
            let slab = Slab {
                a: a.part(lines, [k0, depth]),
                b: &b[k0 * NR..],
                depth: range.len(),
                n,
                from_zero: range.start + k0 == 0,
                stride: n,
            };
            let is_last = range.start + k0 + depth == k;
            for p in panels.clone().step_by(FINISHED) {
                let group = p..panels.end.min(p + FINISHED);
                slab.multiply(&out, i * n, group.clone());
                for r in i..if is_last { i + lines[1] } else { i } {
                    finish(r, p * NR, out.slice(r * n + p * NR, (group.end * NR).min(n) - p * NR));
                }
            }
        }
    });
}

/// Parts of both operands. `b` begins at the first of the left operand's values of k; its panels have `depth` of them.
struct Slab<'a> {
    a: Left<'a>,
    b: &'a [f32],
    depth: usize,
    n: usize,
    from_zero: bool,
    stride: usize,
}

impl Slab<'_> {
    /// All rows of `a` against some panels of b, begun at 0 or at what is there. Row i of c begins at `start + i·stride`.
    fn multiply(&self, c: &DisjointMut<'_, f32>, start: usize, panels: Range<usize>) {
        let (a, k) = (self.a, self.a.depth);
        if k == 0 || a.lines == 0 {
            return;
        }
        a.check(0..k);
        for p in panels {
            let b = self.b[p * self.depth * NR..][..k * NR].as_ptr();
            let columns = NR.min(self.n - p * NR);
            for q in 0..a.lines.div_ceil(MR) {
                let rows = MR.min(a.lines - q * MR);
                let base = a.data[q * a.panel..].as_ptr();
                // A tile with fewer rows computes its last row several times and keeps it once.
                let lines = std::array::from_fn(|r| base.wrapping_add(r.min(rows - 1) * a.line));
                let operands = Operands { k, a: lines, a_step: a.step, b, b_step: NR };
                let at = start + q * MR * self.stride + p * NR;
                if (rows, columns) == (MR, NR) {
                    let c = std::array::from_fn(|r| c.slice(at + r * self.stride, NR).as_mut_ptr());
                    // SAFETY: `check` covers the left operand, the slices the right one and c.
                    unsafe { tile::multiply(&operands, c, NR, self.from_zero) };
                    continue;
                }
                let mut sums = [[0.0_f32; NR]; MR];
                for r in 0..if self.from_zero { 0 } else { rows } {
                    sums[r][..columns].copy_from_slice(c.slice(at + r * self.stride, columns));
                }
                let to = sums.each_mut().map(|row| row.as_mut_ptr());
                // SAFETY: as above; `sums` is a whole tile.
                unsafe { tile::multiply(&operands, to, columns, self.from_zero) };
                for r in 0..rows {
                    c.slice(at + r * self.stride, columns).copy_from_slice(&sums[r][..columns]);
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
        let more = [(130, 290, 257), (4099, 5, 3), (3, 3, 1025), (2, 3, 0)];
        // More columns than are finished together; two slabs of packed rows, of packed columns.
        let slabs = [(1030, 290, 5), (200, 400, 600), (3, 2100, 520)];
        for (m, n, k) in sizes.into_iter().chain(more).chain(slabs) {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            let (a_by_k, b_lines) = if k > 0 { (transpose(&a, k), transpose(&b, n)) } else { (vec![], vec![]) };
            let add = |i: usize, j: usize, v: &mut [f32]| {
                v.iter_mut().enumerate().for_each(|(l, v)| *v += (i * n + j + l) as f32 / (m * n) as f32);
            };
            let mut results = vec![noise(m * n, 3)];
            let prepared = Prepared::new(Matrix::lines(&b_lines, k), [n, k]);
            multiply_prepared(&mut results[0], m, &a, &prepared, add);
            for (left, right) in [
                (Matrix::lines(&a, k), Matrix::lines(&b_lines, k)),
                (Matrix::by_k(&a_by_k, m), Matrix::by_k(&b, n)),
                (Matrix::lines(&a, k), Matrix::by_k(&b, n)),
            ] {
                let mut c = noise(m * n, 3);
                multiply(&mut c, [m, n, k], left, right, add);
                results.push(c);
            }
            assert!(results.iter().all(|c| *c == results[0]), "{m}x{n}x{k}: layouts differ");
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
