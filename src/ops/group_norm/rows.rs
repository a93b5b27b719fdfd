//! The loops of [`super::cpu`] over the pixels of a block, each of which is a row of all channels, or of those of one of two tensors; a part of
//! wider rows is given as (rows, width, first channel).

use crate::simd::{Kernel, Lanes, Number, for_columns, get_columns, put_columns};

/// Rows that are gone through for a few channels before the next few: so many that fetching and leaving the channels' sums costs
/// little, so few that they stay in the first-level cache. A multiple of 4.
const ROWS: usize = 16;

/// Σ (x − centre) or Σ (x − centre)² of each channel over a block's rows, four rows a visit of the sums.
pub(super) struct Sums<'a, T> {
    pub(super) rows: &'a [T],
    /// `[c]`; without one, plain sums are taken.
    pub(super) centre: Option<&'a [f32]>,
    /// `[c]`, overwritten.
    pub(super) sums: &'a mut [f32],
}

impl<T: Number> Kernel for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Sums { rows, centre, sums } = self;
        let c = sums.len();
        sums.fill(0.0);
        for rows in rows.chunks(ROWS * c) {
            for_columns!(V, c, |i, K, len| {
                let mut sum: [V; K] = get_columns(sums, i, len);
                let m: [V; K] = match centre {
                    Some(centre) => get_columns(centre, i, len),
                    None => [V::splat(0.0); K],
                };
                let mut fours = rows.chunks_exact(4 * c);
                for four in &mut fours {
                    let (x0, x1): ([V; K], [V; K]) = (get_columns(four, i, len), get_columns(four, c + i, len));
                    let (x2, x3): ([V; K], [V; K]) =
                        (get_columns(four, 2 * c + i, len), get_columns(four, 3 * c + i, len));
                    for k in 0..K {
                        let (a, b, d, e) = (x0[k], x1[k], x2[k], x3[k]);
                        let more = if centre.is_none() {
                            a.add(b).add(d.add(e))
                        } else {
                            let (a, b, d, e) = (a.sub(m[k]), b.sub(m[k]), d.sub(m[k]), e.sub(m[k]));
                            a.mul_add(a, b.mul(b)).add(d.mul_add(d, e.mul(e)))
                        };
                        sum[k] = sum[k].add(more);
                    }
                }
                for row in fours.remainder().chunks_exact(c) {
                    let x: [V; K] = get_columns(row, i, len);
                    for k in 0..K {
                        let d = x[k].sub(m[k]);
                        sum[k] = if centre.is_none() { sum[k].add(x[k]) } else { d.mul_add(d, sum[k]) };
                    }
                }
                put_columns(sum, sums, i, len);
            });
        }
    }
}

/// y = silu(x·slope + offset), or without SiLU.
pub(super) struct Apply<'a, T> {
    pub(super) x: &'a [T],
    pub(super) slope: &'a [f32],
    pub(super) offset: &'a [f32],
    pub(super) y: (&'a mut [T], usize, usize),
    pub(super) silu: bool,
}

impl<T: Number> Kernel for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Apply { x, slope, offset, y: (y, width, first), silu } = self;
        let c = slope.len();
        for (x, y) in x.chunks(ROWS * c).zip(y.chunks_mut(ROWS * width)) {
            for_columns!(V, c, |i, K, len| {
                let (slope, offset): ([V; K], [V; K]) = (get_columns(slope, i, len), get_columns(offset, i, len));
                for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(width)) {
                    let mut z: [V; K] = get_columns(x, i, len);
                    for k in 0..K {
                        z[k] = z[k].mul_add(slope[k], offset[k]);
                        if silu {
                            z[k] = z[k].mul(z[k].sigmoid());
                        }
                    }
                    put_columns(z, y, first + i, len);
                }
            });
        }
    }
}

/// The derivative of SiLU at z.
#[inline(always)]
fn silu_slope<V: Lanes>(z: V) -> V {
    let g = z.sigmoid();
    let one = V::splat(1.0);
    g.mul(z.mul_add(one.sub(g), one))
}

/// dz = dy·silu'(x·slope + offset), and Σ dz, Σ dz·(x − mean) of each channel over a block's rows.
pub(super) struct BackwardSums<'a, T> {
    pub(super) x: &'a [T],
    /// Without it, `dz` holds dy.
    pub(super) dy: Option<(&'a [T], usize, usize)>,
    pub(super) slope: &'a [f32],
    pub(super) offset: &'a [f32],
    pub(super) mean: &'a [f32],
    /// `[c]`, overwritten.
    pub(super) sum: &'a mut [f32],
    /// `[c]`, overwritten.
    pub(super) sum_x: &'a mut [f32],
    /// Receives dz where SiLU follows; empty where nobody wants it.
    pub(super) dz: &'a mut [T],
    pub(super) silu: bool,
}

impl<T: Number> Kernel for BackwardSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let BackwardSums { x, dy, slope, offset, mean, sum, sum_x, dz, silu } = self;
        let c = slope.len();
        sum.fill(0.0);
        sum_x.fill(0.0);
        for (chunk, x) in x.chunks(ROWS * c).enumerate() {
            for_columns!(V, c, |i, K, len| {
                let (slope, offset): ([V; K], [V; K]) = (get_columns(slope, i, len), get_columns(offset, i, len));
                let mean: [V; K] = get_columns(mean, i, len);
                let (mut total, mut total_x): ([V; K], [V; K]) = (get_columns(sum, i, len), get_columns(sum_x, i, len));
                for (row, x) in x.chunks_exact(c).enumerate() {
                    let row = chunk * ROWS + row;
                    let x: [V; K] = get_columns(x, i, len);
                    let mut d: [V; K] = match dy {
                        Some((dy, width, first)) => get_columns(dy, row * width + first + i, len),
                        None => get_columns(dz, row * c + i, len),
                    };
                    for k in 0..K {
                        if silu {
                            d[k] = d[k].mul(silu_slope(x[k].mul_add(slope[k], offset[k])));
                        }
                        total[k] = total[k].add(d[k]);
                        total_x[k] = x[k].sub(mean[k]).mul_add(d[k], total_x[k]);
                    }
                    if silu && !dz.is_empty() {
                        put_columns(d, dz, row * c + i, len);
                    }
                }
                put_columns(total, sum, i, len);
                put_columns(total_x, sum_x, i, len);
            });
        }
    }
}

/// dx = slope·dz + (a·x + b), where dx holds dz if `dy` is not given.
pub(super) struct BackwardInput<'a, T> {
    pub(super) x: &'a [T],
    pub(super) dy: Option<(&'a [T], usize, usize)>,
    pub(super) slope: &'a [f32],
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) dx: &'a mut [T],
}

impl<T: Number> Kernel for BackwardInput<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let BackwardInput { x, dy, slope, a, b, dx } = self;
        let c = slope.len();
        for (chunk, (x, dx)) in x.chunks(ROWS * c).zip(dx.chunks_mut(ROWS * c)).enumerate() {
            for_columns!(V, c, |i, K, len| {
                let slope: [V; K] = get_columns(slope, i, len);
                let (a, b): ([V; K], [V; K]) = (get_columns(a, i, len), get_columns(b, i, len));
                for (row, (x, dx)) in x.chunks_exact(c).zip(dx.chunks_exact_mut(c)).enumerate() {
                    let x: [V; K] = get_columns(x, i, len);
                    let mut d: [V; K] = match dy {
                        Some((dy, width, first)) => get_columns(dy, (chunk * ROWS + row) * width + first + i, len),
                        None => get_columns(dx, i, len),
                    };
                    for k in 0..K {
                        d[k] = d[k].mul_add(slope[k], x[k].mul_add(a[k], b[k]));
                    }
                    put_columns(d, dx, i, len);
                }
            });
        }
    }
}
