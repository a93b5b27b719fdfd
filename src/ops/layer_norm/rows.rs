//! The loops of [`super::cpu`] over the rows of a block.

use crate::simd::{Kernel, Lanes, for_vectors, get, put};

/// Mean and 1/√(var + eps) of each row, and y = (x − mean)·rstd·slope + offset.
pub(super) struct Forward<'a> {
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
    pub(super) slope: &'a [f32],
    pub(super) offset: Option<&'a [f32]>,
    pub(super) norm_eps: f64,
    pub(super) mean: &'a mut [f32],
    pub(super) rstd: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Forward { x, y, slope, offset, norm_eps, mean, rstd } = self;
        let c = slope.len();
        let rows = x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(mean.iter_mut().zip(rstd));
        for ((x, y), (mean, rstd)) in rows {
            let mut sum = V::splat(0.0);
            for_vectors!(V, c, |i, len| {
                sum = sum.add(get(x, i, len));
            });
            *mean = sum.sum() / c as f32;
            let centre = V::splat(*mean);
            // The squares of the last vector's missing lanes, which are 0 and not x, are taken off by leaving them out.
            let (mut squares, mut rest) = (V::splat(0.0), 0.0);
            for_vectors!(V, c, |i, len| {
                let d = get::<V>(x, i, len).sub(centre);
                if len == V::LEN {
                    squares = d.mul_add(d, squares);
                } else {
                    rest = x[i..i + len].iter().map(|x| (x - *mean) * (x - *mean)).sum::<f32>();
                }
            });
            let variance = f64::from(squares.sum() + rest) / c as f64;
            *rstd = (1.0 / (variance + norm_eps).sqrt()) as f32;
            let factor = V::splat(*rstd);
            for_vectors!(V, c, |i, len| {
                let xhat = get::<V>(x, i, len).sub(centre).mul(factor);
                let value = match offset {
                    Some(offset) => xhat.mul_add(get(slope, i, len), get(offset, i, len)),
                    None => xhat.mul(get(slope, i, len)),
                };
                put(value, y, i, len);
            });
        }
    }
}

/// dx of each row, and the sums over rows of dy and of dy·x̂ for each channel.
pub(super) struct Backward<'a> {
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
    pub(super) slope: &'a [f32],
    pub(super) mean: &'a [f32],
    pub(super) rstd: &'a [f32],
    /// Empty where nobody wants it.
    pub(super) dx: &'a mut [f32],
    /// Σ dy, then Σ dy·x̂: `[2, c]`, overwritten.
    pub(super) sums: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Backward { x, dy, slope, mean, rstd, dx, sums } = self;
        let c = slope.len();
        sums.fill(0.0);
        let (sum_dy, sum_dyx) = sums.split_at_mut(c);
        let rows = x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(mean.iter().zip(rstd));
        for (row, ((x, dy), (mean, rstd))) in rows.enumerate() {
            let (centre, factor) = (V::splat(*mean), V::splat(*rstd));
            // Missing lanes of dy are 0, and so are their products.
            let (mut of_g, mut of_gx) = (V::splat(0.0), V::splat(0.0));
            for_vectors!(V, c, |i, len| {
                let d = get::<V>(dy, i, len);
                let xhat = get::<V>(x, i, len).sub(centre).mul(factor);
                let dyx = d.mul(xhat);
                put(get::<V>(sum_dy, i, len).add(d), sum_dy, i, len);
                put(get::<V>(sum_dyx, i, len).add(dyx), sum_dyx, i, len);
                let slope = get::<V>(slope, i, len);
                of_g = d.mul_add(slope, of_g);
                of_gx = dyx.mul_add(slope, of_gx);
            });
            if dx.is_empty() {
                continue;
            }
            let (mean_g, mean_gx) = (V::splat(of_g.sum() / c as f32), V::splat(of_gx.sum() / c as f32));
            let dx = &mut dx[row * c..][..c];
            for_vectors!(V, c, |i, len| {
                let xhat = get::<V>(x, i, len).sub(centre).mul(factor);
                let g = get::<V>(dy, i, len).mul_add(get(slope, i, len), V::splat(0.0).sub(mean_g));
                put(xhat.neg_mul_add(mean_gx, g).mul(factor), dx, i, len);
            });
        }
    }
}
