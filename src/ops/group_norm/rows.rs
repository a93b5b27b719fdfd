//! The loops of [`super::cpu`] over the pixels of a block, each of which is a row of all channels, or of those of one of two tensors; a part of
//! wider rows is given as (rows, width, first channel).

use crate::simd::{Kernel, Lanes, Number, for_vectors, get, put};

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
        let mut fours = rows.chunks_exact(4 * c);
        for four in &mut fours {
            let (ab, cd) = four.split_at(2 * c);
            let ((a, b), (d, e)) = (ab.split_at(c), cd.split_at(c));
            for_vectors!(V, c, |i, len| {
                let (a, b) = (get::<V>(a, i, len), get::<V>(b, i, len));
                let (d, e) = (get::<V>(d, i, len), get::<V>(e, i, len));
                let sum = get::<V>(sums, i, len);
                let sum = match centre {
                    None => sum.add(a.add(b).add(d.add(e))),
                    Some(centre) => {
                        let m = get::<V>(centre, i, len);
                        let (a, b, d, e) = (a.sub(m), b.sub(m), d.sub(m), e.sub(m));
                        sum.add(a.mul_add(a, b.mul(b)).add(d.mul_add(d, e.mul(e))))
                    }
                };
                put(sum, sums, i, len);
            });
        }
        for row in fours.remainder().chunks_exact(c) {
            for_vectors!(V, c, |i, len| {
                let (v, sum) = (get::<V>(row, i, len), get::<V>(sums, i, len));
                let sum = match centre {
                    None => sum.add(v),
                    Some(centre) => {
                        let d = v.sub(get::<V>(centre, i, len));
                        d.mul_add(d, sum)
                    }
                };
                put(sum, sums, i, len);
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
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(width)) {
            let y = &mut y[first..first + c];
            for_vectors!(V, c, |i, len| {
                let z = get::<V>(x, i, len).mul_add(get(slope, i, len), get(offset, i, len));
                put(if silu { z.mul(z.sigmoid()) } else { z }, y, i, len);
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
    pub(super) dy: (&'a [T], usize, usize),
    pub(super) slope: &'a [f32],
    pub(super) offset: &'a [f32],
    pub(super) mean: &'a [f32],
    /// `[c]`, overwritten.
    pub(super) sum: &'a mut [f32],
    /// `[c]`, overwritten.
    pub(super) sum_x: &'a mut [f32],
    /// Receives dz; empty where nobody wants it, or where it is dy.
    pub(super) dz: &'a mut [T],
    pub(super) silu: bool,
}

impl<T: Number> Kernel for BackwardSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let BackwardSums { x, dy: (dy, width, first), slope, offset, mean, sum, sum_x, dz, silu } = self;
        let c = slope.len();
        sum.fill(0.0);
        sum_x.fill(0.0);
        for (row, (x, dy)) in x.chunks_exact(c).zip(dy.chunks_exact(width)).enumerate() {
            let dy = &dy[first..first + c];
            for_vectors!(V, c, |i, len| {
                let (v, mut d) = (get::<V>(x, i, len), get::<V>(dy, i, len));
                if silu {
                    d = d.mul(silu_slope(v.mul_add(get(slope, i, len), get(offset, i, len))));
                    if !dz.is_empty() {
                        put(d, dz, row * c + i, len);
                    }
                }
                put(get::<V>(sum, i, len).add(d), sum, i, len);
                put(v.sub(get(mean, i, len)).mul_add(d, get(sum_x, i, len)), sum_x, i, len);
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
        for (row, (x, dx)) in x.chunks_exact(c).zip(dx.chunks_exact_mut(c)).enumerate() {
            for_vectors!(V, c, |i, len| {
                let dz = match dy {
                    Some((dy, width, first)) => get::<V>(dy, row * width + first + i, len),
                    None => get::<V>(dx, i, len),
                };
                let rest = get::<V>(x, i, len).mul_add(get(a, i, len), get(b, i, len));
                put(dz.mul_add(get(slope, i, len), rest), dx, i, len);
            });
        }
    }
}
