//! n-grams of symbols with Witten and Bell's smoothing: what a text model must beat.

use crate::error::{Error, Result};
use std::collections::HashMap;

/// How often each context of one length was seen, with how many different successors, and how often each successor.
#[derive(Clone, Debug, Default)]
struct Counts {
    contexts: HashMap<u64, (u32, u32)>,
    grams: HashMap<u64, u32>,
}

/// Contexts of 0 to `order` symbols, each mixed with the next shorter one: p(y | c) = (n(cy) + T(c)·p(y | c'))/(n(c) + T(c)), where c' is c
/// without its first symbol, T(c) the number of different successors of c, and the last resort uniform (Witten & Bell 1991, method C).
#[derive(Clone, Debug)]
pub struct WittenBell {
    symbols: usize,
    by_length: Vec<Counts>,
}

impl WittenBell {
    /// Counts a text.
    ///
    /// * `tokens` — symbols below `symbols`
    /// * `order` — the longest context
    ///
    /// # Errors
    /// [`Error::Usage`] if (order + 1) symbols do not fit 64 bits, or a token is no symbol.
    ///
    /// # Example
    /// ```
    /// use tweedie::eval::WittenBell;
    /// let text: Vec<u32> = (0..300).map(|i| i % 3).collect();
    /// let bits = WittenBell::new(&text, 3, 1)?.bits(&text, 200)?;
    /// assert!(bits[0] > 1.5 && bits[1] < 0.05); // one symbol of context tells the next
    /// # Ok::<(), tweedie::Error>(())
    /// ```
    pub fn new(tokens: &[u32], symbols: usize, order: usize) -> Result<WittenBell> {
        let fits = u32::try_from(order + 1).ok().and_then(|len| (symbols as u64).checked_pow(len)).is_some();
        if symbols == 0 || !fits {
            let text =
                format!("n-grams: contexts of {order} out of {symbols} symbols do not fit 64 bits; take a lower order");
            return Err(Error::Usage(text));
        }
        check(tokens, symbols)?;
        let mut by_length = vec![Counts::default(); order + 1];
        for (length, counts) in by_length.iter_mut().enumerate() {
            for window in tokens.windows(length + 1) {
                let (gram, context) = keys(window, symbols);
                let seen = counts.grams.entry(gram).or_insert(0);
                let (total, types) = counts.contexts.entry(context).or_insert((0, 0));
                *total += 1;
                *types += u32::from(*seen == 0);
                *seen += 1;
            }
        }
        Ok(WittenBell { symbols, by_length })
    }

    /// p of the last symbol of `window` after the others, for contexts of 0, 1, … symbols as far as `window` and the order go.
    fn probabilities(&self, window: &[u32]) -> impl Iterator<Item = f64> {
        let mut p = 1.0 / self.symbols as f64;
        self.by_length.iter().zip(1..=window.len()).map(move |(counts, length)| {
            let (gram, context) = keys(&window[window.len() - length..], self.symbols);
            if let Some((total, types)) = counts.contexts.get(&context) {
                let seen = counts.grams.get(&gram).copied().unwrap_or(0);
                p = (f64::from(seen) + f64::from(*types) * p) / f64::from(total + types);
            }
            p
        })
    }

    /// Mean −log₂ p of `tokens[from..]` in bits per symbol, with contexts of 0 to `order` symbols, `[order + 1]`. Contexts reach back before
    /// `from`.
    ///
    /// # Errors
    /// [`Error::Usage`] if `from` leaves nothing, or fewer than `order` symbols before it, or a token is no symbol.
    pub fn bits(&self, tokens: &[u32], from: usize) -> Result<Vec<f64>> {
        let order = self.by_length.len() - 1;
        check(tokens, self.symbols)?;
        if from >= tokens.len() || from < order {
            let count = tokens.len();
            return Err(Error::Usage(format!("n-grams: expected a start from {order} to below {count}, got {from}")));
        }
        let mut bits = vec![0.0; order + 1];
        for at in from..tokens.len() {
            let window = &tokens[at - order..=at];
            bits.iter_mut().zip(self.probabilities(window)).for_each(|(sum, p)| *sum -= p.log2());
        }
        let count = (tokens.len() - from) as f64;
        Ok(bits.into_iter().map(|sum| sum / count).collect())
    }
}

fn check(tokens: &[u32], symbols: usize) -> Result<()> {
    match tokens.iter().find(|token| **token as usize >= symbols) {
        Some(bad) => Err(Error::Usage(format!("n-grams: expected symbols below {symbols}, got {bad}"))),
        None => Ok(()),
    }
}

/// Numbers of a window, and of its context: all but the last symbol.
fn keys(window: &[u32], symbols: usize) -> (u64, u64) {
    let key = window.iter().fold(0, |key, token| key * symbols as u64 + u64::from(*token));
    (key, key / symbols as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_the_formula_by_hand_and_sum_to_one() {
        // 0 0 1 0 2: n(0) = 3 with successors 0, 1, 2; three symbols seen of four.
        let model = WittenBell::new(&[0, 0, 1, 0, 2], 4, 1).unwrap();
        let p = |y: u32| (f64::from([3, 1, 1, 0][y as usize]) + 3.0 * 0.25) / 8.0;
        for y in 0..4 {
            let got: Vec<f64> = model.probabilities(&[0, y]).collect();
            let want = (f64::from([1, 1, 1, 0][y as usize]) + 3.0 * p(y)) / 6.0;
            assert!((got[0] - p(y)).abs() < 1e-15 && (got[1] - want).abs() < 1e-15, "{y}: {got:?}");
            // A context that never came says what the shorter one says.
            assert_eq!(model.probabilities(&[3, y]).last(), Some(got[0]));
        }
        for context in 0..4 {
            let sum: f64 = (0..4).filter_map(|y| model.probabilities(&[context, y]).last()).sum();
            assert!((sum - 1.0).abs() < 1e-15);
        }
    }

    #[test]
    fn sizes_and_symbols_out_of_range_are_refused() {
        assert!(WittenBell::new(&[0, 5], 3, 1).is_err() && WittenBell::new(&[0], 256, 8).is_err());
        let model = WittenBell::new(&[0, 1, 0, 1], 2, 2).unwrap();
        assert!(model.bits(&[0, 1, 0], 1).is_err() && model.bits(&[0, 1, 0], 3).is_err());
        assert_eq!(model.bits(&[0, 1, 0], 2).unwrap().len(), 3);
    }
}
