//! Sub-sequences τ of DDPM's times 1 to T (S2; Song, Meng & Ermon 2021, sec. 4.2; item 52).

use crate::error::{Error, Result};

/// Checks a sub-sequence: from 1, increasing, and ending at T.
///
/// # Errors
/// [`Error::Usage`] that names the first entry which is wrong.
pub fn check_tau(tau: &[usize], total: usize) -> Result<()> {
    let bad = |text: String| Err(Error::Usage(format!("tau: {text}")));
    let Some(&last) = tau.last() else { return bad("expected at least one time, got none".into()) };
    if tau[0] == 0 {
        return bad(format!("entry 1 is 0; times run from 1 to {total}"));
    }
    for (i, pair) in tau.windows(2).enumerate() {
        if pair[1] == pair[0] {
            return bad(format!("entry {} repeats {}; each time may stand once", i + 2, pair[0]));
        }
        if pair[1] < pair[0] {
            return bad(format!("entry {} is {}, after {}; times must increase", i + 2, pair[1], pair[0]));
        }
    }
    if let Some(i) = tau.iter().position(|n| *n > total) {
        return bad(format!("entry {} is {}, beyond the last time, {total}", i + 1, tau[i]));
    }
    if last != total {
        return bad(format!("the last entry is {last}; it must be {total}, where sampling starts"));
    }
    Ok(())
}

/// Reads whitespace-separated times.
///
/// # Errors
/// [`Error::Usage`] for a word that is not a whole number.
pub fn parse_tau(text: &str) -> Result<Vec<usize>> {
    let number = |(i, word): (usize, &str)| {
        word.parse().map_err(|_| Error::Usage(format!("tau: entry {} is \"{word}\", not a whole number", i + 1)))
    };
    text.split_whitespace().enumerate().map(number).collect()
}

/// τ_i ≈ T·(i/S)²: dense near clean data (Song, Meng & Ermon 2021, appendix D.2).
pub fn quadratic_tau(total: usize, steps: usize) -> Vec<usize> {
    let mut last = 0;
    (1..=steps)
        .map(|i| {
            let exact = total as f64 * (i as f64 / steps as f64).powi(2);
            last = (exact.round() as usize).max(last + 1);
            last
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_sub_sequences_are_named_by_their_first_wrong_entry() {
        for (tau, part) in [
            (&[][..], "at least one"),
            (&[0, 5, 10], "entry 1 is 0"),
            (&[1, 5, 5, 10], "entry 3 repeats 5"),
            (&[1, 5, 4, 10], "entry 3 is 4, after 5"),
            (&[1, 5, 11], "entry 3 is 11, beyond the last time, 10"),
            (&[1, 5], "the last entry is 5; it must be 10"),
        ] {
            let text = check_tau(tau, 10).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
        assert!(check_tau(&[10], 10).is_ok() && check_tau(&(1..=10).collect::<Vec<_>>(), 10).is_ok());
        assert!(parse_tau("1 2x").unwrap_err().to_string().contains("entry 2 is \"2x\""));
        assert_eq!(parse_tau("1\n3 10\n").unwrap(), [1, 3, 10]);
    }

    #[test]
    fn quadratic_sub_sequences_of_every_length_are_valid_and_dense_at_the_clean_end() {
        for steps in 1..=100 {
            check_tau(&quadratic_tau(100, steps), 100).unwrap();
        }
        assert_eq!(quadratic_tau(1000, 5), [40, 160, 360, 640, 1000]);
    }
}
