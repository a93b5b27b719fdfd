//! Inverse-transform sampling (items 2 and 3): uniform numbers from fair coins, and any law from uniform numbers.

use crate::rng::Address;
use crate::{Error, Result};

/// Bits of the uniforms below: the midpoint (k + ½)·2⁻⁵² of every cell is a double, which it is not with 53.
const UNIFORM_BITS: u32 = 52;

/// The number 0.U₁U₂…U_n in binary (S3, after eq. 1; item 3), in [0, 1 − 2⁻ⁿ]: each of the 2ⁿ values once over all coins.
///
/// Its mean is ½ − 2⁻ⁿ⁻¹ and its distribution function is off by 2⁻ⁿ. It can be 0, where an unbounded law has the
/// quantile −∞: sample with [`binary_uniform`].
///
/// # Errors
/// [`Error::Usage`] unless there are 1 to 52 coins.
pub fn binary_expansion(bits: &[bool]) -> Result<f64> {
    if bits.is_empty() || bits.len() > UNIFORM_BITS as usize {
        return Err(Error::Usage(format!(
            "binary uniform: 1 to {UNIFORM_BITS} coins fit a double, got {}; pass a part of them",
            bits.len()
        )));
    }
    let integer = bits.iter().fold(0u64, |k, &bit| (k << 1) | u64::from(bit));
    Ok(integer as f64 * 0.5f64.powi(bits.len() as i32))
}

/// A uniform number in (0, 1) from n fair coins: 0.U₁U₂…U_n + 2⁻ⁿ⁻¹, the middle of its cell (item 3).
///
/// The half cell keeps the number off 0 and 1, makes the mean exactly ½, and halves the error of the distribution
/// function to 2⁻ⁿ⁻¹.
///
/// # Errors
/// [`Error::Usage`] unless there are 1 to 52 coins.
pub fn binary_uniform(bits: &[bool]) -> Result<f64> {
    Ok(binary_expansion(bits)? + 0.5f64.powi(bits.len() as i32 + 1))
}

/// A uniform number in the open interval (0, 1): [`binary_uniform`] of 52 bits of element `element` of `address`.
pub fn open_uniform(address: Address, element: usize) -> f64 {
    let cells = (1u64 << UNIFORM_BITS) as f64;
    ((address.uniform(element) * cells).floor() + 0.5) / cells
}

/// Fills `out` with quantile(u) at addressed uniforms u in (0, 1) (item 2): element `i` of the address goes to `out[i]`.
///
/// The law of the samples is the one whose quantile function this is.
pub fn sample_inverse(quantile: impl Fn(f64) -> f64, address: Address, out: &mut [f64]) {
    for (element, value) in out.iter_mut().enumerate() {
        *value = quantile(open_uniform(address, element));
    }
}

/// The quantile of any distribution function: the smallest double x with `cdf(x)` ≥ `u` (item 2).
///
/// * `cdf` — non-decreasing, with values in [0, 1]; jumps and flat stretches are allowed
/// * `u` — in (0, 1)
/// * `bracket` — where to look first, `lo < hi`; it is widened about its middle until it holds the answer, so any pair
///   of the right scale will do
///
/// Secant steps alternate with bisection of the doubles' bit patterns, of which there are 2⁶⁴: at most about 64 rounds
/// of two evaluations, however wide the bracket.
///
/// # Errors
/// [`Error::Usage`] if `u` or `bracket` is not as above; [`Error::NonFinite`] if `cdf` is NaN, leaves [0, 1], falls
/// between two points met on the way by more than 64 units in the last place, or never reaches `u`.
pub fn invert_cdf(cdf: impl Fn(f64) -> f64, u: f64, bracket: (f64, f64)) -> Result<f64> {
    if !(u > 0.0 && u < 1.0) {
        return Err(Error::Usage(format!("invert_cdf: u must lie in (0, 1), got {u}; pass a probability inside")));
    }
    let checked = |x: f64| {
        let value = cdf(x);
        let bad = format!("invert_cdf: cdf({x}) must lie in [0, 1], got {value}; pass a distribution function");
        if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(Error::NonFinite(bad)) }
    };
    let (mut lo, mut hi) = widen(&checked, u, bracket)?;
    // Invariant: cdf(lo) < u ≤ cdf(hi).
    while key(hi) - key(lo) > 1 {
        let slope = (hi.0 - lo.0) / (hi.1 - lo.1);
        let secant = lo.0 + (u - lo.1) * slope;
        let middle = from_key(lo.0, hi.0);
        // Two probes a round: the secant's makes smooth functions fast, the middle's bounds the number of rounds.
        for x in [secant, middle] {
            if x > lo.0 && x < hi.0 {
                let value = checked(x)?;
                // A sum of rounded terms may fall by a few of their last places.
                let slack = 64.0 * f64::EPSILON * hi.1;
                if value < lo.1 - slack || value > hi.1 + slack {
                    return Err(Error::NonFinite(format!(
                        "invert_cdf: cdf must not fall, got {value} at {x} between {} and {}; pass a distribution function",
                        lo.1, hi.1
                    )));
                }
                let value = value.clamp(lo.1, hi.1);
                if value < u { lo = (x, value) } else { hi = (x, value) }
            }
        }
    }
    Ok(hi.0)
}

/// A pair (x, cdf(x)).
type Point = (f64, f64);

/// The ends of a bracket with cdf(lo) < u ≤ cdf(hi), found by doubling its half-width.
fn widen(cdf: &impl Fn(f64) -> Result<f64>, u: f64, (mut lo, mut hi): (f64, f64)) -> Result<(Point, Point)> {
    if !(lo < hi && lo.is_finite() && hi.is_finite()) {
        let text = format!("invert_cdf: the bracket must be finite with lo < hi, got [{lo}, {hi}]; swap or widen it");
        return Err(Error::Usage(text));
    }
    let mut width = hi - lo;
    let (mut low, mut high) = (cdf(lo)?, cdf(hi)?);
    while low >= u || high < u {
        if !width.is_finite() || low > high {
            return Err(Error::NonFinite(format!(
                "invert_cdf: cdf must rise from 0 to 1, got {low} at {lo} and {high} at {hi} on the way to u = {u}; pass \
                 a distribution function"
            )));
        }
        if low >= u {
            (hi, high) = (lo, low);
            lo -= width;
            low = cdf(lo.max(f64::MIN))?;
        } else {
            (lo, low) = (hi, high);
            hi += width;
            high = cdf(hi.min(f64::MAX))?;
        }
        width *= 2.0;
    }
    Ok(((lo.max(f64::MIN), low), (hi.min(f64::MAX), high)))
}

/// The place of a point's x among all doubles in increasing order; −0 stands just before 0.
fn key((x, _): Point) -> i128 {
    let bits = x.to_bits() as i64;
    i128::from(if bits < 0 { i64::MIN - bits - 1 } else { bits })
}

/// The double half-way between two in that order.
fn from_key(lo: f64, hi: f64) -> f64 {
    let middle = ((key((lo, 0.0)) + key((hi, 0.0))).div_euclid(2)) as i64;
    f64::from_bits((if middle < 0 { i64::MIN - middle - 1 } else { middle }) as u64)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::analytic::statistics;
    use crate::rng::Purpose;

    fn coins(value: usize, n: usize) -> Vec<bool> {
        (0..n).rev().map(|place| value >> place & 1 == 1).collect()
    }

    #[test]
    fn binary_expansions_take_every_value_once_and_are_off_by_one_cell() {
        // Every number here is a multiple of 2^-17 below 2^16: all sums are exact.
        for n in 1..=16 {
            let count = 1usize << n;
            let cell = 0.5f64.powi(n as i32);
            let mut values: Vec<f64> = (0..count).map(|k| binary_expansion(&coins(k, n)).unwrap()).collect();
            values.sort_by(f64::total_cmp);
            assert!(values.iter().enumerate().all(|(k, &value)| value == k as f64 * cell), "{n} coins");
            assert_eq!(values.iter().sum::<f64>() / count as f64, 0.5 - cell / 2.0, "{n} coins");
            assert_eq!(statistics::ks(&values, |x| x).unwrap(), cell, "{n} coins");
        }
    }

    #[test]
    fn binary_uniforms_are_centred_stay_inside_and_halve_the_error() {
        for n in 1..=16 {
            let count = 1usize << n;
            let cell = 0.5f64.powi(n as i32);
            let values: Vec<f64> = (0..count).map(|k| binary_uniform(&coins(k, n)).unwrap()).collect();
            assert!(values.iter().all(|&u| u >= cell / 2.0 && u <= 1.0 - cell / 2.0), "{n} coins");
            assert_eq!(values.iter().sum::<f64>() / count as f64, 0.5, "{n} coins");
            assert_eq!(statistics::ks(&values, |x| x).unwrap(), cell / 2.0, "{n} coins");
        }
    }

    #[test]
    fn binary_uniforms_of_52_coins_are_exact_and_of_more_are_refused() {
        assert_eq!(binary_uniform(&[true; 52]).unwrap(), 1.0 - 0.5f64.powi(53));
        assert_eq!(binary_uniform(&[false; 52]).unwrap(), 0.5f64.powi(53));
        assert!(binary_uniform(&[true; 53]).is_err() && binary_uniform(&[]).is_err());
    }

    #[test]
    fn open_uniforms_are_uniform_and_equal_the_binary_ones() {
        let address = Address::new(2, Purpose::Test);
        let values: Vec<f64> = (0..100_000).map(|i| open_uniform(address, i)).collect();
        let distance = statistics::ks(&values, |x| x).unwrap();
        assert!(distance < statistics::ks_critical(1e-3, 1e5).unwrap(), "{distance}"); // seed 2
        for (i, &value) in values.iter().enumerate().take(100) {
            let integer = (address.uniform(i) * 2f64.powi(52)) as usize;
            assert_eq!(value, binary_uniform(&coins(integer, 52)).unwrap());
        }
    }

    #[test]
    fn samples_of_an_element_do_not_depend_on_how_many_are_drawn() {
        let address = Address::new(3, Purpose::Test);
        let (mut few, mut many) = ([0.0; 3], [0.0; 50]);
        sample_inverse(|u| -(1.0 - u).ln(), address, &mut few);
        sample_inverse(|u| -(1.0 - u).ln(), address, &mut many);
        assert_eq!(few, many[..3]);
    }

    #[test]
    fn inverted_cdfs_equal_closed_quantiles_from_any_bracket() {
        // Logistic: quantile ln(u/(1−u)). The cdf's rounding, EPSILON relative to u or 1, moves x by EPSILON/(1−u).
        let cdf = |x: f64| 1.0 / (1.0 + (-x).exp());
        for bracket in [(-1.0, 1.0), (100.0, 101.0), (-1e300, 1e300), (-5e-324, 0.0)] {
            for u in [1e-12, 1e-3, 0.3, 0.5, 0.9, 0.999_999] {
                let x = invert_cdf(cdf, u, bracket).unwrap();
                let want = (u / (1.0 - u)).ln();
                let bound = 8.0 * f64::EPSILON * (1.0 / (1.0 - u) + want.abs());
                assert!((x - want).abs() <= bound, "u = {u} from {bracket:?}: {x} against {want}");
            }
        }
    }

    #[test]
    fn inverted_cdfs_are_the_smallest_point_at_jumps_and_flats() {
        // Half the mass at 1, half uniform on [3, 4].
        let cdf = |x: f64| if x < 1.0 { 0.0 } else { 0.5 + 0.5 * (x - 3.0).clamp(0.0, 1.0) };
        for (u, want) in [(0.2, 1.0), (0.5, 1.0), (0.75, 3.5)] {
            assert_eq!(invert_cdf(cdf, u, (-10.0, 10.0)).unwrap(), want, "u = {u}");
        }
    }

    #[test]
    fn inversion_takes_few_evaluations() {
        let count = Cell::new(0);
        let cdf = |x: f64| {
            count.set(count.get() + 1);
            if x < 1e-200 { 0.0 } else { 1.0 }
        };
        assert_eq!(invert_cdf(cdf, 0.5, (-1e300, 1e300)).unwrap(), 1e-200);
        assert!(count.get() <= 130, "{} evaluations", count.get());
    }

    #[test]
    fn functions_that_are_no_cdf_are_errors_and_not_loops() {
        type Function = fn(f64) -> f64;
        let wrong: [(&str, Function); 5] = [
            ("constant", |_| 0.3),
            ("falling", |x| 1.0 / (1.0 + x.exp())),
            ("NaN", |_| f64::NAN),
            ("above one", |x| 1.0 + x.max(0.0)),
            ("never at u", |x| 0.4 / (1.0 + (-x).exp())),
        ];
        for (name, cdf) in wrong {
            assert!(invert_cdf(cdf, 0.5, (-1.0, 1.0)).is_err(), "{name}");
        }
        let bump = |x: f64| if (0.4..0.6).contains(&x) { 0.0 } else { x.clamp(0.0, 1.0) };
        assert!(invert_cdf(bump, 0.25, (0.0, 1.0)).is_ok(), "a fall that is never met does no harm");
        for (u, bracket) in [(0.0, (0.0, 1.0)), (1.0, (0.0, 1.0)), (0.5, (1.0, 1.0)), (0.5, (f64::NAN, 1.0))] {
            assert!(invert_cdf(|x| x.clamp(0.0, 1.0), u, bracket).is_err(), "{u} {bracket:?}");
        }
    }
}
