//! Guidance: wrappers D → D that pull samples towards a class (items 55–61). They compose, and samplers do not see them.
//!
//! A [`Pair`] of denoisers, one to follow and one to leave behind, is combined as w·D_towards + (1 − w)·D_away (S3.eq173 in terms of D): with
//! the null class as the second it is classifier-free guidance ([`ClassifierFree`]), with a weaker model autoguidance ([`Two`]). A classifier's
//! gradient is added to any denoiser by [`ClassifierGuided`].

mod classifier;
mod free;
mod network;
mod pair;

pub use classifier::{ClassScore, ClassifierGuided, OracleClassifier};
pub use free::ClassifierFree;
pub use network::NoisyClassifier;
pub use pair::{Guided, Pair, Two};

use crate::error::{Error, Result};
use crate::process::Level;

/// How strongly, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// The scale w (the lectures' omega): 0 leaves the guiding out, 1 is Bayes' rule, more exaggerates. Ho & Salimans (2022) count from 0: their
    /// w is this minus 1.
    pub scale: f64,
    /// Noise-to-signal ratios sigma/alpha, least and greatest, between which to guide; everywhere if not said (item 57; Kynkäänniemi et
    /// al. 2024). Outside, w is 1 for a pair and 0 for a classifier.
    pub interval: Option<(f64, f64)>,
}

impl Strength {
    /// This scale at all levels.
    pub fn of(scale: f64) -> Strength {
        Strength { scale, interval: None }
    }

    /// Refuses what is no number, and an interval that ends before it begins.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        if !self.scale.is_finite() {
            return Err(Error::Usage(format!("guidance scale {}: expected a finite number, 1 for plain", self.scale)));
        }
        match self.interval {
            Some((low, high)) if !(low >= 0.0 && low <= high) => Err(Error::Usage(format!(
                "guidance interval {low} to {high}: expected noise-to-signal ratios from 0, the smaller first"
            ))),
            _ => Ok(()),
        }
    }

    /// The scale at a level, or `outside` where the interval leaves it out.
    fn at(&self, at: Level, outside: f64) -> f64 {
        // sigma <= high·alpha instead of a quotient: alpha may be 0.
        let is_inside = |(low, high): (f64, f64)| {
            at.sigma >= low * at.alpha && (at.sigma <= high * at.alpha || high == f64::INFINITY)
        };
        if self.interval.is_none_or(is_inside) { self.scale } else { outside }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_its_ends_and_nothing_outside() {
        let strength = Strength { scale: 3.0, interval: Some((0.5, 2.0)) };
        for (sigma, want) in [(0.4, 1.0), (0.5, 3.0), (1.0, 3.0), (2.0, 3.0), (2.1, 1.0)] {
            assert_eq!(strength.at(Level::of(1.0, sigma), 1.0), want, "{sigma}");
        }
        let open = Strength { scale: 3.0, interval: Some((1.0, f64::INFINITY)) };
        assert_eq!(open.at(Level::of(0.0, 1.0), 1.0), 3.0);
        assert_eq!(strength.at(Level::of(0.0, 1.0), 1.0), 1.0);
        for bad in [(2.0, 1.0), (-1.0, 1.0), (f64::NAN, 1.0)] {
            assert!(Strength { scale: 1.0, interval: Some(bad) }.check().is_err(), "{bad:?}");
        }
        assert!(Strength::of(f64::NAN).check().is_err() && Strength::of(f64::INFINITY).check().is_err());
    }
}
