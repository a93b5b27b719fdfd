//! The one-dimensional transforms of [`super`]: B, A and G, with A and G transposed for the weight gradient.

use super::super::lanes::Lanes;

const R: f32 = std::f32::consts::FRAC_1_SQRT_2; // the point √½
const S: f32 = std::f32::consts::SQRT_2; // the point √2

/// Bᵀ d.
#[inline(always)]
fn input<V: Lanes, const A: usize>(d: [V; A]) -> [V; A] {
    let mut o = d;
    if A == 4 {
        (o[0], o[1], o[2], o[3]) = (d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3]));
    } else {
        o[0] = d[2].times_plus(-2.5, d[0].add(d[4]));
        o[5] = d[3].times_plus(-2.5, d[1].add(d[5]));
        let (even, odd) = (d[2].times_plus(-2.0, d[4]), d[1].times_plus(-2.0, d[3]));
        (o[1], o[2]) = (odd.times_plus(R, even), odd.times_plus(-R, even));
        let (even, odd) = (d[2].times_plus(-0.5, d[4]), d[1].times_plus(-0.5, d[3]));
        (o[3], o[4]) = (odd.times_plus(S, even), odd.times_plus(-S, even));
    }
    o
}

/// Aᵀ m.
#[inline(always)]
pub(super) fn output<V: Lanes, const A: usize, const M: usize>(m: [V; A]) -> [V; M] {
    let mut o = [m[0]; M];
    let (even, odd) = (m[1].add(m[2]), m[1].sub(m[2]));
    if A == 4 {
        (o[0], o[1]) = (m[0].add(even), odd.sub(m[3]));
    } else {
        let (far, far_odd) = (m[3].add(m[4]), m[3].sub(m[4]));
        o[0] = m[0].add(even).add(far);
        o[1] = far_odd.times_plus(S, odd.times(R));
        o[2] = far.times_plus(2.0, even.times(0.5));
        o[3] = far_odd.times_plus(2.0 * S, odd.times_plus(0.5 * R, m[5]));
    }
    o
}

/// A dy, the transpose of [`output`].
#[inline(always)]
fn gradient<V: Lanes, const A: usize, const M: usize>(d: [V; M]) -> [V; A] {
    let mut o = [d[0]; A];
    if A == 4 {
        (o[1], o[2], o[3]) = (d[0].add(d[1]), d[0].sub(d[1]), d[1].times(-1.0));
    } else {
        let (even, odd) = (d[2].times_plus(0.5, d[0]), d[3].times_plus(0.5 * R, d[1].times(R)));
        (o[1], o[2]) = (even.add(odd), even.sub(odd));
        let (even, odd) = (d[2].times_plus(2.0, d[0]), d[3].times_plus(2.0 * S, d[1].times(S)));
        (o[3], o[4], o[5]) = (even.add(odd), even.sub(odd), d[3]);
    }
    o
}

/// G g.
#[inline(always)]
fn weight<V: Lanes, const A: usize>(g: [V; 3]) -> [V; A] {
    let mut o = [g[0]; A];
    if A == 4 {
        let (even, odd) = (g[0].add(g[2]).times(0.5), g[1].times(0.5));
        (o[1], o[2], o[3]) = (even.add(odd), even.sub(odd), g[2]);
    } else {
        let even = g[0].times_plus(-2.0 / 3.0, g[2].times(-1.0 / 3.0));
        (o[1], o[2]) = (g[1].times_plus(-2.0 / 3.0 * R, even), g[1].times_plus(2.0 / 3.0 * R, even));
        let even = g[0].times_plus(1.0 / 6.0, g[2].times(1.0 / 3.0));
        (o[3], o[4]) = (g[1].times_plus(S / 6.0, even), g[1].times_plus(-S / 6.0, even));
        o[5] = g[2];
    }
    o
}

/// Gᵀ u, the transpose of [`weight`].
#[inline(always)]
fn weight_gradient<V: Lanes, const A: usize>(u: [V; A]) -> [V; 3] {
    let (even, odd) = (u[1].add(u[2]), u[1].sub(u[2]));
    if A == 4 {
        return [even.times_plus(0.5, u[0]), odd.times(0.5), even.times_plus(0.5, u[3])];
    }
    let (far, far_odd) = (u[3].add(u[4]), u[3].sub(u[4]));
    [
        far.times_plus(1.0 / 6.0, even.times_plus(-2.0 / 3.0, u[0])),
        far_odd.times_plus(S / 6.0, odd.times(-2.0 / 3.0 * R)),
        far.times_plus(1.0 / 3.0, even.times_plus(-1.0 / 3.0, u[5])),
    ]
}

/// A one-dimensional transform of I values to O. Not a closure: only `inline(always)` functions take the instructions of their caller.
pub(super) trait Line<const I: usize, const O: usize> {
    fn line<V: Lanes>(values: [V; I]) -> [V; O];
}

/// Declares a transform as a type.
macro_rules! line {
    ($name:ident, $inputs:literal, $outputs:literal, $function:ident $(, $sizes:literal)*) => {
        pub(super) struct $name;

        impl Line<$inputs, $outputs> for $name {
            #[inline(always)]
            fn line<V: Lanes>(values: [V; $inputs]) -> [V; $outputs] {
                $function::<V $(, $sizes)*>(values)
            }
        }
    };
}

line!(Input2, 4, 4, input, 4);
line!(Input4, 6, 6, input, 6);
line!(Gradient2, 2, 4, gradient, 4, 2);
line!(Gradient4, 4, 6, gradient, 6, 4);
line!(Weight2, 3, 4, weight, 4);
line!(Weight4, 3, 6, weight, 6);
line!(WeightGradient2, 4, 3, weight_gradient, 4);
line!(WeightGradient4, 6, 3, weight_gradient, 6);
