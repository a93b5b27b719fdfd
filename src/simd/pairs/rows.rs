//! Products whose left-hand rows lie in memory as pairs of k: as [`super::super::multiply_gathered`].

use super::super::kernel::NR;
use super::super::lanes::{Kernel, Lanes, dispatch, for_vectors, get, put};
use super::kernel::{PairRun, pairs};
use super::weights::Pairs;
use crate::device::{DisjointMut, for_each_block};
use half::bf16;

/// Rows that share a panel while it is in cache.
const ROW_BLOCK: usize = 20 * MR;
/// Rows of a tile: the more, the less often the panel comes from the second-level cache.
const MR: usize = 12;

/// The left-hand operand: row r is the runs' words from `base(r)` on.
pub(crate) struct Rows<'a, F> {
    /// All words.
    pub(crate) words: &'a [u32],
    /// First word of a row.
    pub(crate) base: F,
    /// Which words make up a row; their `b` count the rows of the packed operand.
    pub(crate) runs: &'a [PairRun],
}

/// The result and what is added to it before it is rounded.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a, F> {
    /// All of y.
    pub(crate) y: DisjointMut<'a, bf16>,
    /// Where row r begins in y, and in the residual.
    pub(crate) place: F,
    /// One value for each column.
    pub(crate) bias: Option<&'a [f32]>,
    /// `[groups, columns]` and the rows of a group.
    pub(crate) per_group: Option<(&'a [f32], usize)>,
    /// As y.
    pub(crate) residual: Option<&'a [bf16]>,
}

/// `y[r][j] = Σ_k a_r[k]·b[k][j]` plus what `out` adds, for `m` rows.
///
/// Parallel over blocks of rows and panels. The sum over k runs in order: bits depend neither on threads nor on how many rows there are.
pub(crate) fn multiply_rows<F, G>(m: usize, a: Rows<'_, F>, b: &Pairs, out: Output<'_, G>)
where
    F: Fn(usize) -> usize + Sync + Send,
    G: Fn(usize) -> usize + Sync + Send,
{
    assert!(a.runs.iter().all(|run| run.b + run.len <= b.k()), "runs leave the {} rows of the packed operand", b.k());
    let reach = a.runs.iter().map(|run| run.a + run.len).max().unwrap_or(0);
    let row = |r: usize| {
        let base = (a.base)(r);
        assert!(base + reach <= a.words.len(), "row {r} at {base} + {reach} leaves {} words", a.words.len());
        a.words[base..].as_ptr()
    };
    let (panels, blocks) = (b.panels(), m.div_ceil(ROW_BLOCK));
    for_each_block(blocks * panels, 2 * ROW_BLOCK.min(m) * NR * b.k(), |job| {
        let (block, panel) = (job / panels, job % panels);
        let end = m.min((block + 1) * ROW_BLOCK);
        let (data, columns) = (b.panel(panel).as_ptr(), NR.min(b.n() - panel * NR));
        let mut tile = [[0.0; NR]; MR];
        for first in (block * ROW_BLOCK..end).step_by(MR) {
            // A last tile with fewer rows computes its last row several times and keeps it once.
            let rows: [*const u32; MR] = std::array::from_fn(|r| row((first + r).min(end - 1)));
            // SAFETY: `row` checked that every run of every row is inside the words, the assertion above that it is inside the panel.
            unsafe { pairs::<MR, 1>(&rows, a.runs, data, columns, true, &mut tile) };
            let sums = &tile[..MR.min(end - first)];
            dispatch(Finish { first, start: panel * NR, columns, width: b.n(), sums, out: &out });
        }
    });
}

/// Writes the columns of one panel of a tile's rows.
struct Finish<'t, 'a, G> {
    first: usize,
    start: usize,
    columns: usize,
    width: usize,
    sums: &'t [[f32; NR]],
    out: &'t Output<'a, G>,
}

impl<G: Fn(usize) -> usize> Kernel for Finish<'_, '_, G> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Finish { first, start, columns, width, sums, out } = self;
        for (row, sums) in (first..).zip(sums) {
            let place = (out.place)(row) + start;
            let y = out.y.slice(place, columns);
            let residual = out.residual.map(|residual| &residual[place..place + columns]);
            let bias = out.bias.map(|bias| &bias[start..start + columns]);
            let group = out.per_group.map(|(values, rows)| &values[row / rows * width + start..][..columns]);
            for_vectors!(V, columns, |i, len| {
                let mut sum = get::<V>(sums, i, len);
                if let Some(bias) = bias {
                    sum = sum.add(get(bias, i, len));
                }
                if let Some(group) = group {
                    sum = sum.add(get(group, i, len));
                }
                if let Some(residual) = residual {
                    sum = sum.add(get(residual, i, len));
                }
                put(sum, y, i, len);
            });
        }
    }
}
