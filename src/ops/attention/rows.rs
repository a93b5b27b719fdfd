//! The loops of [`super::cpu`] over a tile of scores: rows of `width` values, one for each query, `stride` apart.

use crate::simd::{Kernel, Lanes, for_vectors, get, put};

/// Turns products into e^(scale·product − top), where a row's `top` grows to their maximum, and adds them to its `total`. `shrink` is set to the
/// factor of each row's earlier results; it is already applied to `total`.
pub(super) struct Softmax<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) width: usize,
    pub(super) scale: f32,
    pub(super) top: &'a mut [f32],
    pub(super) total: &'a mut [f32],
    pub(super) shrink: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Softmax { scores, width, scale, top, total, shrink } = self;
        for (r, row) in scores.chunks_exact_mut(width).enumerate() {
            // A NaN is no maximum; it reaches the output through the sum.
            let mut lanes = V::splat(f32::NEG_INFINITY);
            let mut largest = f32::NEG_INFINITY;
            for_vectors!(V, row.len(), |i, len| {
                if len == V::LEN {
                    lanes = lanes.at_least(get(row, i, len));
                } else {
                    row[i..i + len].iter().for_each(|v| largest = if *v > largest { *v } else { largest });
                }
            });
            let new = (scale * lanes.maximum().max(largest)).max(top[r]);
            let correction = if new == top[r] { 1.0 } else { crate::simd::exp(top[r] - new) };
            let mut lanes = V::splat(0.0);
            let mut sum = 0.0;
            for_vectors!(V, row.len(), |i, len| {
                let p = get::<V>(row, i, len).mul(V::splat(scale)).sub(V::splat(new)).exp();
                put(p, row, i, len);
                if len == V::LEN {
                    lanes = lanes.add(p);
                } else {
                    sum += row[i..i + len].iter().sum::<f32>();
                }
            });
            top[r] = new;
            total[r] = total[r] * correction + (lanes.sum() + sum);
            shrink[r] = correction;
        }
    }
}

/// p = e^(scale·product − log), ds = scale·p·(dp − mean), both in place.
pub(super) struct Probabilities<'a> {
    pub(super) p: &'a mut [f32],
    pub(super) ds: &'a mut [f32],
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) scale: f32,
    pub(super) log: &'a [f32],
    pub(super) mean: &'a [f32],
}

impl Kernel for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Probabilities { p, ds, width, stride, scale, log, mean } = self;
        for r in 0..log.len().min(mean.len()) {
            let (p, ds) = (&mut p[r * stride..][..width], &mut ds[r * stride..][..width]);
            for_vectors!(V, width, |i, len| {
                let value = get::<V>(p, i, len).mul(V::splat(scale)).sub(V::splat(log[r])).exp();
                put(value, p, i, len);
                let slope = value.mul(V::splat(scale)).mul(get::<V>(ds, i, len).sub(V::splat(mean[r])));
                put(slope, ds, i, len);
            });
        }
    }
}

/// Σ a·b.
pub(super) struct Dot<'a>(pub(super) &'a [f32], pub(super) &'a [f32]);

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Lanes>(self) -> f32 {
        let Dot(a, b) = self;
        let mut sum = V::splat(0.0);
        for_vectors!(V, a.len(), |i, len| {
            sum = get::<V>(a, i, len).mul_add(get(b, i, len), sum);
        });
        sum.sum()
    }
}

/// Rotates the pairs (i, i + d/2) of a row by the angles of a token, whose cosines and then sines `table` holds; or back.
pub(super) struct Turn<'a> {
    pub(super) row: &'a mut [f32],
    pub(super) table: &'a [f32],
    pub(super) back: bool,
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Turn { row, table, back } = self;
        let half = row.len() / 2;
        let ((first, second), (cosines, sines)) = (row.split_at_mut(half), table.split_at(half));
        let sign = V::splat(if back { -1.0 } else { 1.0 });
        for_vectors!(V, half, |i, len| {
            let (a, b) = (get::<V>(first, i, len), get::<V>(second, i, len));
            let (cosine, sine) = (get::<V>(cosines, i, len), get::<V>(sines, i, len).mul(sign));
            put(b.neg_mul_add(sine, a.mul(cosine)), first, i, len);
            put(a.mul_add(sine, b.mul(cosine)), second, i, len);
        });
    }
}
