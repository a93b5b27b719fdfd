//! GELU in its tanh form (Hendrycks & Gimpel 2016): ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) = x·g(x), where
//! g(x) = sigmoid(x·(c₁ + c₃·x²)), c₁ = 2√(2/π), c₃ = 0.044715·c₁.
//!
//! g is within 6e-7 of its exact value: the sigmoid's 5e-7 relative, and the rounding of its argument u, which u·sigmoid'(u) < 0.23 weighs. The form
//! itself differs from x·Φ(x) by less than 5e-4.

use super::{Kernel, Lanes, for_vectors, get, put};

const LINEAR: f32 = 1.595_769;
const CUBIC: f32 = 0.071_354_81;

#[inline(always)]
fn gate<V: Lanes>(x: V, square: V) -> V {
    x.mul(square.times_plus(CUBIC, V::splat(LINEAR))).sigmoid()
}

/// Adds `bias` to a line and applies GELU; `before` receives what GELU was applied to, unless it is empty.
pub(crate) struct BiasGelu<'a> {
    pub(crate) line: &'a mut [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) before: &'a mut [f32],
}

impl Kernel for BiasGelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let BiasGelu { line, bias, before } = self;
        for_vectors!(V, line.len(), |i, len| {
            let mut x = get::<V>(line, i, len);
            if let Some(bias) = bias {
                x = x.add(get(bias, i, len));
            }
            if !before.is_empty() {
                put(x, before, i, len);
            }
            put(x.mul(gate(x, x.mul(x))), line, i, len);
        });
    }
}

/// dx = dy·gelu'(x), gelu' = g + x·g·(1 − g)·(c₁ + 3·c₃·x²).
pub(crate) struct GeluBackward<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) dy: &'a [f32],
    pub(crate) dx: &'a mut [f32],
}

impl Kernel for GeluBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let GeluBackward { x, dy, dx } = self;
        for_vectors!(V, dx.len(), |i, len| {
            let x = get::<V>(x, i, len);
            let square = x.mul(x);
            let g = gate(x, square);
            let inner = square.times_plus(3.0 * CUBIC, V::splat(LINEAR));
            let slope = x.mul(inner).mul(g).mul_add(V::splat(1.0).sub(g), g);
            put(get::<V>(dy, i, len).mul(slope), dx, i, len);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::lanes::run_at;

    fn exact(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
    }

    #[test]
    fn gelu_and_its_slope_keep_their_bounds_on_every_level() {
        let x: Vec<f32> = (-120_003..120_003).map(|i| i as f32 * 1e-4).collect();
        for level in [super::super::Level::Portable, super::super::Level::Avx2, super::super::Level::Avx512] {
            if level > super::super::best_level() {
                continue;
            }
            let (mut y, mut before, mut slope) = (x.clone(), vec![0.0; x.len()], vec![0.0; x.len()]);
            run_at(level, BiasGelu { line: &mut y, bias: None, before: &mut before });
            assert_eq!(before, x);
            let ones = vec![1.0; x.len()];
            run_at(level, GeluBackward { x: &x, dy: &ones, dx: &mut slope });
            for (i, x) in x.iter().map(|x| f64::from(*x)).enumerate() {
                let error = (f64::from(y[i]) - exact(x)).abs();
                assert!(error <= 6e-7 * x.abs() + 1e-37, "{level:?}: gelu({x}) = {}, error {error:e}", y[i]);
                // Of the slope's terms x·g·(1 − g)·(c₁ + 3c₃x²) is at most 0.5 and has four more roundings; g's error 6e-7 enters it times
                // (1 − 2g)·x·(c₁ + 3c₃x²), which g·(1 − g) outweighs where x is large.
                let want = (exact(x + 1e-5) - exact(x - 1e-5)) / 2e-5;
                let error = (f64::from(slope[i]) - want).abs();
                assert!(error <= 4e-6, "{level:?}: gelu'({x}) = {}, error {error:e}", slope[i]);
            }
        }
    }

    #[test]
    fn gelu_of_large_numbers_is_the_number_or_nothing_and_nan_stays() {
        let mut line = [1e4_f32, -1e4, f32::NAN, 0.0];
        run_at(super::super::level(), BiasGelu { line: &mut line, bias: None, before: &mut [] });
        assert!(line[0] == 1e4 && line[1].abs() < 1e-30 && line[2].is_nan() && line[3] == 0.0, "{line:?}");
    }
}
