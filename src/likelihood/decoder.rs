//! L_0 = −log p(x0 | x_1): what the last step of the chain says of the data (S3.eq52; item 31).

use crate::analytic::gaussian::log_normal_interval;
use crate::error::{Error, Result};
use crate::process::Level;
use std::f64::consts::TAU;

/// The values that pixels can have: `count` of them, from −1 to 1 in equal steps. 17 for the digits, 256 for 8-bit images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelLevels {
    count: usize,
}

impl PixelLevels {
    /// `count` levels.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than two.
    pub fn new(count: usize) -> Result<PixelLevels> {
        if count < 2 {
            return Err(Error::Usage(format!("pixel levels: {count}: expected at least 2")));
        }
        Ok(PixelLevels { count })
    }

    /// How many.
    pub fn count(self) -> usize {
        self.count
    }

    /// The distance of neighbours, in units of x0.
    pub fn width(self) -> f64 {
        2.0 / (self.count - 1) as f64
    }

    /// The value of level `index`, below [`PixelLevels::count`].
    pub fn value(self, index: usize) -> f64 {
        (2 * index) as f64 / (self.count - 1) as f64 - 1.0
    }

    /// The level of a value.
    ///
    /// # Errors
    /// [`Error::Data`] for a value that lies between the levels or beyond them.
    pub fn index(self, value: f64) -> Result<usize> {
        let position = (value + 1.0) / self.width();
        let index = position.round();
        // Pixels are f32: 256 levels are known to 1e-5 of a width.
        if (position - index).abs() <= 1e-3 && index >= 0.0 && index < self.count as f64 {
            return Ok(index as usize);
        }
        Err(Error::Data(format!(
            "pixel levels: the value {value} is none of {} levels from -1 to 1; is the data set the one of the model?",
            self.count
        )))
    }

    /// Where the bin of a level begins and ends: half way to its neighbours; the two at the edges reach to ∓∞.
    pub fn bin(self, index: usize) -> (f64, f64) {
        let (value, half) = (self.value(index), 0.5 * self.width());
        let low = if index == 0 { f64::NEG_INFINITY } else { value - half };
        let high = if index + 1 == self.count { f64::INFINITY } else { value + half };
        (low, high)
    }
}

/// p(x0 | x_1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decoder {
    /// N(x0_hat, variance·I): for data that are real numbers. L_0 is then of a density, and may be below 0.
    Gaussian,
    /// The mass of N(x0_hat, variance) in the bin of each level, edge bins to infinity (Ho et al. 2020, eq. 13): a probability.
    Discretised(PixelLevels),
    /// p(x0 | x_1) ∝ q(x_1 | x0) over the levels, one pixel at a time (Kingma et al. 2021, eq. 8): a probability, and no network is asked.
    Posterior(PixelLevels),
}

impl Decoder {
    /// Whether it asks the model for x0_hat.
    pub fn needs_model(self) -> bool {
        !matches!(self, Decoder::Posterior(_))
    }

    /// −log p(x0 | x_1) in nats, over all of `x0`; of a density for [`Decoder::Gaussian`].
    ///
    /// * `x0`, `x_1`, `x0_hat` — of one length; `x0_hat` is not read by [`Decoder::Posterior`], `x_1` by that one alone
    /// * `at` — the level of x_1
    /// * `variance` — of the Gaussian
    ///
    /// # Errors
    /// [`Error::Data`] if `x0` is not on the levels.
    pub fn nll(self, x0: &[f64], x_1: &[f64], x0_hat: &[f64], at: Level, variance: f64) -> Result<f64> {
        match self {
            Decoder::Gaussian => {
                let square: f64 = x0.iter().zip(x0_hat).map(|(x, hat)| (x - hat).powi(2)).sum();
                Ok(0.5 * (x0.len() as f64 * (TAU * variance).ln() + square / variance))
            }
            Decoder::Discretised(levels) => {
                let std = variance.sqrt();
                let pixel = |(x, hat): (&f64, &f64)| Ok(-log_mass(levels, levels.index(*x)?, *hat, std));
                x0.iter().zip(x0_hat).map(pixel).sum()
            }
            Decoder::Posterior(levels) => {
                let pixel = |(x, x_1): (&f64, &f64)| Ok(-log_posterior(levels, levels.index(*x)?, *x_1, at));
                x0.iter().zip(x_1).map(pixel).sum()
            }
        }
    }

    /// The probability of each level of one pixel, with the same arguments; nothing for [`Decoder::Gaussian`].
    pub fn probabilities(self, x_1: f64, x0_hat: f64, at: Level, variance: f64) -> Vec<f64> {
        match self {
            Decoder::Gaussian => Vec::new(),
            Decoder::Discretised(levels) => {
                (0..levels.count).map(|i| log_mass(levels, i, x0_hat, variance.sqrt()).exp()).collect()
            }
            Decoder::Posterior(levels) => (0..levels.count).map(|i| log_posterior(levels, i, x_1, at).exp()).collect(),
        }
    }
}

/// ln of N(mean, std²)'s mass in a bin, wherever the mean is.
fn log_mass(levels: PixelLevels, index: usize, mean: f64, std: f64) -> f64 {
    let (low, high) = levels.bin(index);
    log_normal_interval((low - mean) / std, (high - mean) / std)
}

/// ln of level `index`'s share among all levels of exp(−(x_1 − alpha·value)²/(2·sigma²)).
fn log_posterior(levels: PixelLevels, index: usize, x_1: f64, at: Level) -> f64 {
    let exponent = |i: usize| -0.5 * ((x_1 - at.alpha * levels.value(i)) / at.sigma).powi(2);
    let own = exponent(index);
    // The largest is taken out, so that nothing overflows.
    let top = (0..levels.count).map(exponent).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = (0..levels.count).map(|i| (exponent(i) - top).exp()).sum();
    own - top - total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_the_data_sets() {
        let digits = PixelLevels::new(17).unwrap();
        assert_eq!((digits.width(), digits.value(0), digits.value(8), digits.value(16)), (0.125, -1.0, 0.0, 1.0));
        let bytes = PixelLevels::new(256).unwrap();
        for levels in [digits, bytes] {
            for i in 0..levels.count() {
                assert_eq!(levels.index(f64::from(levels.value(i) as f32)).unwrap(), i);
            }
        }
        // An 8-bit pixel is no level of 17, and nothing beyond the edges is.
        assert!(digits.index(bytes.value(100)).unwrap_err().to_string().contains("none of 17 levels"));
        assert!(digits.index(1.125).is_err() && digits.index(-1.125).is_err() && digits.index(f64::NAN).is_err());
        assert!(PixelLevels::new(1).is_err());
    }

    #[test]
    fn hand_computed_masses_and_shares_are_met() {
        let levels = PixelLevels::new(3).unwrap(); // −1, 0, 1 with bins that meet at ±½
        let at = Level::of(0.5, 0.5);
        // P(−½ < N(0, ½²) < ½) = P(|Z| < 1).
        let middle = Decoder::Discretised(levels).nll(&[0.0], &[0.0], &[0.0], at, 0.25).unwrap();
        assert!(((-middle).exp() - 0.682_689_492_137_086).abs() < 1e-14);
        // x_1 = ½: exponents −2, −½, 0.
        let share = Decoder::Posterior(levels).nll(&[0.0], &[0.5], &[9.0], at, 9.0).unwrap();
        let total = 1.0 + (-0.5_f64).exp() + (-2.0_f64).exp();
        assert!(((-share).exp() - (-0.5_f64).exp() / total).abs() < 1e-15);
        let density = Decoder::Gaussian.nll(&[0.3], &[0.0], &[0.1], at, 0.04).unwrap();
        assert!((density - (0.5 + 0.5 * (TAU * 0.04).ln())).abs() < 1e-15);
    }

    #[test]
    fn a_mean_far_from_the_pixel_costs_finitely_many_nats() {
        let levels = PixelLevels::new(256).unwrap();
        // 200 deviations away: about 200²/2 nats, where the mass itself is 0 in f64.
        let far = Decoder::Discretised(levels).nll(&[-1.0], &[0.0], &[1.0], Level::CLEAN, 1e-4).unwrap();
        assert!((far / (0.5 * 199.6_f64.powi(2)) - 1.0).abs() < 1e-2, "{far}");
        let sharp = Decoder::Posterior(levels).nll(&[-1.0], &[1.0], &[0.0], Level::of(1.0, 1e-3), 1.0).unwrap();
        assert!((sharp / 2e6 - 1.0).abs() < 1e-9, "{sharp}");
    }
}
