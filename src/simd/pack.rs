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
            let sources: [&[f32]; NR] = std::array::from_fn(|j| if j < columns { column(start + j) } else { &[] });
            for (i, line) in panel.chunks_exact_mut(NR).enumerate() {
                for (value, source) in line.iter_mut().zip(&sources[..columns]) {
                    *value = source[i];
                }
                line[columns..].fill(0.0);
            }
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
