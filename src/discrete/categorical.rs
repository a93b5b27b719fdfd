//! Draws from a few weighted values by inverse cdf, exact far into both tails.

/// The index that 64 random bits choose among `weights`: index i with probability weights\[i\]/Σ.
///
/// The uniform is (word + ½)/2^64, counted from the nearer end of the list: a first or last value of probability 1e-18 is drawn as often as it
/// should be, which a uniform of 24 or 53 bits cannot do. Values of weight 0 are never drawn. Sums run in the order of the list.
///
/// * `weights` — at least 0 and finite, with a positive sum; they need not sum to 1
///
/// Returns `None` for weights that are not so.
///
/// # Example
/// ```
/// use tweedie::discrete::categorical;
/// assert_eq!(categorical(0, &[0.0, 1e-18, 1.0]), Some(1)); // 2^-65 is below 1e-18
/// assert_eq!(categorical(40, &[0.0, 1e-18, 1.0]), Some(2)); // 40.5·2^-64 is above
/// assert_eq!(categorical(7, &[0.0, 0.0]), None);
/// ```
pub fn categorical(word: u64, weights: &[f64]) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    if !(total > 0.0 && total < f64::INFINITY) || weights.iter().any(|weight| !(*weight >= 0.0)) {
        return None;
    }
    let (near_start, from_end) = (word >> 63 == 0, !word);
    if near_start {
        walk(unit(word) * total, weights.iter().enumerate())
    } else {
        walk(unit(from_end) * total, weights.iter().enumerate().rev())
    }
}

/// (word + ½)/2^64, above 0; of words from 2^52 on the upper 53 bits, plus half, so that those below 2^63 stay below ½.
pub(super) fn unit(word: u64) -> f64 {
    if word >> 52 == 0 {
        (word as f64 + 0.5) * (1.0 / 18_446_744_073_709_551_616.0)
    } else {
        ((word >> 11) as f64 + 0.5) * (1.0 / 9_007_199_254_740_992.0)
    }
}

/// The first value at which the running sum passes `depth`; the last positive one if rounding leaves none.
fn walk<'a>(depth: f64, weights: impl Iterator<Item = (usize, &'a f64)>) -> Option<usize> {
    let (mut sum, mut last) = (0.0, None);
    for (i, weight) in weights.filter(|(_, weight)| **weight > 0.0) {
        sum += weight;
        last = Some(i);
        if depth < sum {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Address, Purpose};

    #[test]
    fn frequencies_follow_the_weights() {
        // n = 200 000, seed 5: chi² of 4 values has 3 degrees of freedom, 16.3 is its 99.9 % point.
        let weights = [3.0, 0.0, 1.0, 5.0, 1.0];
        let mut counts = [0.0_f64; 5];
        let n = 200_000;
        for i in 0..n {
            counts[categorical(Address::new(5, Purpose::Test).word(i), &weights).unwrap()] += 1.0;
        }
        let want = weights.map(|w| w / 10.0 * n as f64);
        let chi: f64 = (0..5).filter(|i| want[*i] > 0.0).map(|i| (counts[i] - want[i]).powi(2) / want[i]).sum();
        assert!(chi < 16.3 && counts[1] == 0.0, "{counts:?}");
    }

    #[test]
    fn both_tails_are_cut_at_their_exact_words() {
        // A value of probability k·2^-64 belongs to exactly k words, at either end.
        for k in [1_u64, 3, 1000, 1 << 40] {
            let p = k as f64 / 2_f64.powi(64);
            let rest = 1.0 - p;
            assert_eq!(categorical(k - 1, &[p, rest]), Some(0));
            assert_eq!(categorical(k, &[p, rest]), Some(1));
            assert_eq!(categorical(u64::MAX - (k - 1), &[rest, p]), Some(1));
            assert_eq!(categorical(u64::MAX - k, &[rest, p]), Some(0));
        }
        // 1e-30 is below every word: never drawn, and no weight of 0 either.
        for word in [0, u64::MAX] {
            assert_eq!(categorical(word, &[0.0, 1e-30, 1.0, 1e-30, 0.0]), Some(2));
        }
    }

    #[test]
    fn the_halves_meet_at_one_half_and_bad_weights_are_refused() {
        for word in [(1 << 63) - 1, 1 << 63] {
            assert_eq!(categorical(word, &[1.0, 1.0]), Some(usize::from(word >> 63 == 1)));
        }
        for bad in [&[][..], &[0.0], &[-1.0, 2.0], &[f64::NAN, 1.0], &[f64::INFINITY]] {
            assert_eq!(categorical(1, bad), None, "{bad:?}");
        }
    }
}
