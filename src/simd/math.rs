//! Elementary functions that the compiler can vectorise: no table, no branch, no call.

/// e^x for f32, relative error below 3e-7 (two units in the last place) where the result is a normal number; the
/// argument is clamped to [-87.3, 88.3], so the result is never 0 or infinite. NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // The magic constant 1.5·2^23 rounds to the nearest integer and leaves it in the low bits of the mantissa.
    const MAGIC: f32 = 12_582_912.0;
    let clamped = if x > 88.3 { 88.3 } else { x };
    let clamped = if clamped < -87.3 { -87.3 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    // ln 2 in two parts (Cody and Waite), so that the remainder keeps its bits.
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    y * scale
}

/// ln x for a normal number above 0, relative error below 3e-7 near 1 too, where ln is small; NaN for what is not above 0. By Cephes' logf.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const ROOT_HALF: u32 = 0x3F35_04F3;
    // x = m·2^e with m in [sqrt(1/2), sqrt(2)).
    let shifted = x.to_bits().wrapping_sub(ROOT_HALF);
    let e = ((shifted as i32) >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(ROOT_HALF)) - 1.0;
    let z = m * m;
    let mut p = 0.0;
    for c in crate::rng::LN {
        p = p * m + c;
    }
    // ln 2 in two parts, so that e·ln 2 loses no bits.
    let low = e * -2.121_944_4e-4 + (p * m * z - 0.5 * z);
    let y = e * (355.0 / 512.0) + (m + low);
    if x > 0.0 { y } else { f32::NAN }
}

/// 1/(1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst: f64 = 0.0;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / want - 1.0).abs());
        }
        assert!(worst < 3e-7, "worst relative error {worst:e}");
    }

    #[test]
    fn ln_keeps_its_relative_error_over_all_sizes_and_next_to_one() {
        let worst = |x: f32| (f64::from(ln(x)) / f64::from(x).ln() - 1.0).abs();
        for i in -87_000..88_000 {
            let x = exp(i as f32 * 1e-3);
            assert!(x == 1.0 || worst(x) < 3e-7, "{x:e}: {:e}", worst(x));
        }
        // Next to 1, from a unit in the last place on.
        for i in 1..100_000_u32 {
            for bits in [1.0_f32.to_bits() + i * 83, 1.0_f32.to_bits() - i * 83, 1.0_f32.to_bits() + i] {
                let x = f32::from_bits(bits);
                assert!(x == 1.0 || worst(x) < 3e-7, "{x:e}: {:e}", worst(x));
            }
        }
        assert_eq!(ln(1.0), 0.0);
        assert!([f32::NAN, -1.0, 0.0].iter().all(|x| ln(*x).is_nan()));
    }

    #[test]
    fn exp_stays_finite_beyond_its_range_and_keeps_nan() {
        assert!(exp(1e30).is_finite() && exp(-1e30) > 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }
}
