//! The loops of [`super::cpu`] over the scores of one query.

use crate::simd::{Kernel, Lanes, for_vectors, get, put};

/// Turns products into e^(scale·product − top), where `top` grows to their maximum, and adds them to `total`. Returns the factor by
/// which earlier results must shrink; it is already applied to `total`.
pub(super) struct Softmax<'a> {
    pub(super) row: &'a mut [f32],
    pub(super) scale: f32,
    pub(super) top: &'a mut f32,
    pub(super) total: &'a mut f32,
}

impl Kernel for Softmax<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Lanes>(self) -> f32 {
        let Softmax { row, scale, top, total } = self;
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
        let new = (scale * lanes.maximum().max(largest)).max(*top);
        let correction = if new == *top { 1.0 } else { crate::simd::exp(*top - new) };
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
        *top = new;
        *total = *total * correction + (lanes.sum() + sum);
        correction
    }
}

/// p = e^(scale·product − log), ds = scale·p·(dp − mean), both in place.
pub(super) struct Probabilities<'a> {
    pub(super) p: &'a mut [f32],
    pub(super) ds: &'a mut [f32],
    pub(super) scale: f32,
    pub(super) log: f32,
    pub(super) mean: f32,
}

impl Kernel for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Probabilities { p, ds, scale, log, mean } = self;
        for_vectors!(V, p.len(), |i, len| {
            let value = get::<V>(p, i, len).mul(V::splat(scale)).sub(V::splat(log)).exp();
            put(value, p, i, len);
            let slope = value.mul(V::splat(scale)).mul(get::<V>(ds, i, len).sub(V::splat(mean)));
            put(slope, ds, i, len);
        });
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
