//! Packing of the right-hand operand into panels of [`NR`] columns: panel p holds row k's columns `p·NR .. p·NR + NR`
//! as `NR` consecutive values, rows one after the other. Columns beyond `n` are zero.

use super::kernel::NR;
use crate::device::{DisjointMut, Scratch, for_each_block};

/// A packed `[k, n]` matrix.
#[derive(Debug)]
pub(crate) struct Packed {
    data: Scratch<f32>,
    k: usize,
    n: usize,
}

impl Packed {
    /// Rows.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }

    /// One panel: `k·NR` values.
    pub(crate) fn panel(&self, index: usize) -> &[f32] {
        &self.data[index * self.k * NR..(index + 1) * self.k * NR]
    }

    /// Packs rows that lie consecutively in memory: `row(k)` returns the n values of row k.
    pub(crate) fn from_rows<'a>(k: usize, n: usize, row: impl Fn(usize) -> &'a [f32] + Sync + Send) -> Packed {
        let packed = Packed { data: Scratch::take(n.div_ceil(NR) * k * NR), k, n };
        packed.fill(|panel, columns, start| {
            for (i, line) in panel.chunks_exact_mut(NR).enumerate() {
                line[..columns].copy_from_slice(&row(i)[start..start + columns]);
                line[columns..].fill(0.0);
            }
        })
    }

    /// Packs the transpose: `column(j)` returns the k values of column j.
    pub(crate) fn from_columns<'a>(k: usize, n: usize, column: impl Fn(usize) -> &'a [f32] + Sync + Send) -> Packed {
        let packed = Packed { data: Scratch::take(n.div_ceil(NR) * k * NR), k, n };
        packed.fill(|panel, columns, start| {
            transpose_lines::<NR>(columns, |j| column(start + j), panel);
        })
    }

    fn fill(mut self, body: impl Fn(&mut [f32], usize, usize) + Sync + Send) -> Packed {
        let (k, n, panels) = (self.k, self.n, self.panels());
        let data = DisjointMut::new(&mut self.data);
        for_each_block(panels, 20 * k * NR, |p| {
            body(data.slice(p * k * NR, k * NR), NR.min(n - p * NR), p * NR);
        });
        self
    }
}

/// Values of k that are moved together: a cache line of each source.
const STEP: usize = 16;

/// `to[k][j] = line(j)[k]` for `count` lines of `to.len()/W` values, 0 for the lines from `count` to `W`.
pub(crate) fn transpose_lines<'a, const W: usize>(count: usize, line: impl Fn(usize) -> &'a [f32], to: &mut [f32]) {
    let depth = to.len() / W;
    let lines: [&[f32]; W] = std::array::from_fn(|j| if j < count { &line(j)[..depth] } else { &[] });
    if count < W {
        to.fill(0.0);
    }
    for k0 in (0..depth).step_by(STEP) {
        let to = &mut to[k0 * W..W * depth.min(k0 + STEP)];
        let mut j = 0;
        while j + 4 <= count && to.len() == STEP * W {
            let four = [&lines[j][k0..k0 + STEP], &lines[j + 1][k0..], &lines[j + 2][k0..], &lines[j + 3][k0..]];
            transpose_four::<W>(four, &mut to[j..]);
            j += 4;
        }
        for j in j..count {
            for (k, to) in to.chunks_exact_mut(W).enumerate() {
                to[j] = lines[j][k0 + k];
            }
        }
    }
}

/// `to[W·k + j] = lines[j][k]` for four lines and [`STEP`] values of each.
#[inline(always)]
fn transpose_four<const W: usize>(lines: [&[f32]; 4], to: &mut [f32]) {
    let lines = lines.map(|line| &line[..STEP]);
    let to = &mut to[..(STEP - 1) * W + 4];
    for k in (0..STEP).step_by(4) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{
                _mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps, _mm_unpackhi_ps, _mm_unpacklo_ps,
            };
            // SAFETY: SSE is part of x86-64; k + 4 <= STEP values of each line, and rows k to k + 3 of `to`, are inside.
            unsafe {
                let [a, b, c, d] = lines.map(|line| _mm_loadu_ps(line.as_ptr().add(k)));
                let (low, high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
                let (low2, high2) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
                let to = to.as_mut_ptr().add(k * W);
                _mm_storeu_ps(to, _mm_movelh_ps(low, low2));
                _mm_storeu_ps(to.add(W), _mm_movehl_ps(low2, low));
                _mm_storeu_ps(to.add(2 * W), _mm_movelh_ps(high, high2));
                _mm_storeu_ps(to.add(3 * W), _mm_movehl_ps(high2, high));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        for l in k..k + 4 {
            for j in 0..4 {
                to[l * W + j] = lines[j][l];
            }
        }
    }
}

/// Panels of `W` columns from rows: `to[p][k][j] = row(k)[p·W + j]`, 0 beyond the row; all panels have `depth` rows.
pub(super) fn transpose_rows<'a, const W: usize>(depth: usize, row: impl Fn(usize) -> &'a [f32], to: &mut [f32]) {
    // A few rows at a time: their cache lines stay until the neighbouring panel has had its part, however far apart they lie.
    const ROWS: usize = 4;
    for k0 in (0..depth).step_by(ROWS) {
        for (p, panel) in to.chunks_exact_mut(W * depth).enumerate() {
            for k in k0..depth.min(k0 + ROWS) {
                let (to, row) = (&mut panel[k * W..(k + 1) * W], row(k));
                match row.get(p * W..(p + 1) * W) {
                    Some(from) => to.copy_from_slice(from),
                    None => {
                        let rest = &row[p * W..];
                        to[..rest.len()].copy_from_slice(rest);
                        to[rest.len()..].fill(0.0);
                    }
                }
            }
        }
    }
}
