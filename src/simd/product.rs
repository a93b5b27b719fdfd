//! Blocked matrix products on the micro-kernels, parallel over output tiles. Each output value is computed by one
//! tile in one fixed order of summation, so the bits depend neither on the number of threads nor on how many rows there are.

use super::kernel::{self, MR, NR, Run};
use super::pack::Packed;
use crate::device::{DisjointMut, for_each_block};

/// Values of k that are summed before the next tile's turn in [`accumulate_outer`].
const K_BLOCK: usize = 256;
/// Bytes of both operands that a round of [`accumulate_outer`] reads: they stay in the cores' second-level caches.
const ROUND_BYTES: usize = 1 << 20;

/// Rows of a left-hand operand, read where they lie: a row that begins at element i of `data` has as its k values the `runs` from there, one
/// after the other.
#[derive(Clone, Copy)]
pub(crate) struct Gather<'a> {
    /// The memory the rows lie in.
    pub(crate) data: &'a [f32],
    /// The pieces of each row.
    pub(crate) runs: &'a [Run],
}

/// `y[r][j] = Σ_k a_r[k]·b[k][j]` for the columns of some panels of b, on the calling thread. `rows` yields where a row begins and what is
/// handed on to `store(row, j0, values)` with each finished piece of it; it is run through once for each panel.
///
/// # Panics
/// If a row leaves the data: a defect of an op, found here before it can read foreign memory.
pub(crate) fn multiply_gathered(
    a: Gather<'_>,
    b: &Packed,
    panels: std::ops::Range<usize>,
    rows: impl Iterator<Item = (usize, usize)> + Clone,
    mut store: impl FnMut(usize, usize, &[f32]),
) {
    let k: usize = a.runs.iter().map(|run| run.len).sum();
    assert_eq!(k, b.k(), "the runs hold {k} values, the packed operand {} rows", b.k());
    let reach = a.runs.iter().map(|run| run.offset + run.len).max().unwrap_or(0);
    let mut tile = [[0.0; NR]; MR];
    for panel in panels {
        let columns = NR.min(b.n() - panel * NR);
        let mut rows = rows.clone();
        loop {
            let (mut bases, mut names, mut live) = ([a.data.as_ptr(); MR], [0; MR], 0);
            for (base, name) in rows.by_ref().take(MR) {
                assert!(base + reach <= a.data.len(), "row at {base} + {reach} leaves {} elements", a.data.len());
                // A last tile with fewer rows computes its last row several times and keeps it once.
                bases[live..].fill(a.data[base..].as_ptr());
                names[live] = name;
                live += 1;
            }
            if live == 0 {
                break;
            }
            // SAFETY: every run of every row is inside the data by the assertion; the panel holds k rows of NR.
            unsafe { kernel::rows(&bases, a.runs, b.panel(panel).as_ptr(), columns, &mut tile) };
            if columns == NR {
                // Of whole pieces the compiler knows the length.
                tile[..live].iter().zip(names).for_each(|(sums, name)| store(name, panel * NR, sums.as_slice()));
            } else {
                tile[..live].iter().zip(names).for_each(|(sums, name)| store(name, panel * NR, &sums[..columns]));
            }
        }
    }
}

/// Gathers of the two operands of [`accumulate_outer`]: for each k, a row of each.
#[derive(Clone, Copy)]
struct OuterOperand<'a> {
    data: &'a [f32],
    offsets: &'a [usize],
}

/// `c[i][s·segment + j] += Σ_k a[a_offsets[k] + i]·b[b_offsets[k] + segment_offsets[s] + j]` with `c` of shape
/// `[rows, segments·segment]`.
///
/// With one segment this is Aᵀ·B. A convolution's weight gradient has one segment for each kernel row. Parallel over
/// tiles of `c`; the sum over k runs in order.
pub(crate) fn accumulate_outer(
    c: &mut [f32],
    rows: usize,
    segment: usize,
    segment_offsets: &[usize],
    a: (&[f32], &[usize]),
    b: (&[f32], &[usize]),
) {
    let (a, b) = (OuterOperand { data: a.0, offsets: a.1 }, OuterOperand { data: b.0, offsets: b.1 });
    let k = a.offsets.len();
    assert_eq!(k, b.offsets.len(), "operands have {k} and {} rows", b.offsets.len());
    check_outer(&a, rows, 0);
    check_outer(&b, segment, segment_offsets.iter().copied().max().unwrap_or(0));
    let width = segment * segment_offsets.len();
    assert_eq!(c.len(), rows * width, "c holds {} values, not {rows}x{width}", c.len());
    let row_tiles = rows.div_ceil(MR);
    // A job is one strip of MR rows against up to STRIP columns of one segment.
    const STRIP: usize = 8 * NR;
    let strips = segment.div_ceil(STRIP);
    let jobs = row_tiles * segment_offsets.len() * strips;
    let out = DisjointMut::new(c);
    let work = |job: usize, round: std::ops::Range<usize>| {
        let (i, s, strip) =
            (job / (segment_offsets.len() * strips), job / strips % segment_offsets.len(), job % strips);
        let i0 = i * MR;
        let live_rows = MR.min(rows - i0);
        for k0 in round.clone().step_by(K_BLOCK) {
            let k1 = round.end.min(k0 + K_BLOCK);
            for j0 in (strip * STRIP..segment.min((strip + 1) * STRIP)).step_by(NR) {
                let columns = NR.min(segment - j0);
                let mut tile = [[0.0; NR]; MR];
                for r in 0..live_rows {
                    tile[r][..columns].copy_from_slice(out.slice((i0 + r) * width + s * segment + j0, columns));
                }
                // SAFETY: `check_outer` found the last value of every row inside the data, and pool buffers
                // have readable slack for the rest of a tile behind it.
                unsafe {
                    kernel::outer(
                        a.data.as_ptr().add(i0),
                        &a.offsets[k0..k1],
                        b.data.as_ptr().add(segment_offsets[s] + j0),
                        &b.offsets[k0..k1],
                        columns,
                        &mut tile,
                    );
                }
                for r in 0..live_rows {
                    out.slice((i0 + r) * width + s * segment + j0, columns).copy_from_slice(&tile[r][..columns]);
                }
            }
        }
    };
    // All jobs sum one round of k before the next begins, so that its rows are read from the cache by all but the first.
    let length = (ROUND_BYTES / (4 * (rows + segment)) / K_BLOCK).max(1) * K_BLOCK;
    for first in (0..k).step_by(length) {
        let round = first..k.min(first + length);
        for_each_block(jobs, 2 * MR * STRIP.min(segment) * round.len(), |job| work(job, round.clone()));
    }
}

fn check_outer(operand: &OuterOperand<'_>, width: usize, extra: usize) {
    let last = operand.offsets.iter().copied().max().unwrap_or(0);
    let len = operand.data.len();
    assert!(
        operand.offsets.is_empty() || last + extra + width <= len,
        "row at {last} + {extra} + {width} leaves {len}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Scratch;
    use crate::rng::{Address, Purpose};

    fn noise(len: usize, seed: u64) -> Scratch<f32> {
        let mut data = Scratch::take(len);
        Address::new(seed, Purpose::Test).fill_normal(&mut data);
        data
    }

    #[test]
    fn products_match_plain_loops_for_sizes_on_both_sides_of_every_tile() {
        for (m, n, k) in [(1, 1, 1), (7, 31, 5), (8, 32, 16), (9, 33, 17), (300, 70, 40), (257, 16, 3), (500, 600, 300)]
        {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            let packed = Packed::from_rows(k, n, |i| &b[i * n..(i + 1) * n]);
            let columns: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
            let transposed = Packed::from_columns(k, n, |j| &columns[j * k..(j + 1) * k]);
            let mut y = vec![0.0; m * n];
            let mut outer = vec![0.0; m * n];
            let runs = [Run { offset: 0, len: k }];
            let rows = (0..m).map(|r| (r * k, r * n));
            let gather = Gather { data: &a, runs: &runs };
            multiply_gathered(gather, &packed, 0..packed.panels(), rows.clone(), |at, j, v| {
                y[at + j..][..v.len()].copy_from_slice(v);
            });
            let mut again = vec![0.0; m * n];
            multiply_gathered(gather, &transposed, 0..packed.panels(), rows, |at, j, v| {
                again[at + j..][..v.len()].copy_from_slice(v);
            });
            assert_eq!(y, again, "{m}x{n}x{k}: packed from rows and from columns");
            // The same product as a sum of outer products needs the left operand with k first.
            let mut a_by_k = Scratch::<f32>::take(k * m);
            for (i, v) in a_by_k.iter_mut().enumerate() {
                *v = a[i % m * k + i / m];
            }
            let (ao, bo): (Vec<usize>, Vec<usize>) = ((0..k).map(|i| i * m).collect(), (0..k).map(|i| i * n).collect());
            accumulate_outer(&mut outer, m, n, &[0], (&a_by_k, &ao), (&b, &bo));
            for r in 0..m {
                for j in 0..n {
                    let want: f64 = (0..k).map(|i| f64::from(a[r * k + i]) * f64::from(b[i * n + j])).sum();
                    let size: f64 = (0..k).map(|i| f64::from(a[r * k + i] * b[i * n + j]).abs()).sum();
                    // k products summed in f32: at most k roundings of partial sums below `size`.
                    let bound = k as f64 * f64::from(f32::EPSILON) * size;
                    for (name, got) in [("rows", y[r * n + j]), ("outer", outer[r * n + j])] {
                        assert!((f64::from(got) - want).abs() <= bound, "{name} {m}x{n}x{k} at {r},{j}: {got} {want}");
                    }
                }
            }
        }
    }
}
