//! How much noise there is at a time: the total noise σ̄(t) and its rate σ(t) = dσ̄/dt, for t in [0, 1].
//!
//! A token is untouched with probability e^(−σ̄) in every graph. Log-linear and geometric as in Lou, Meng & Ermon 2024 (section 5.1),
//! cosine as in Sahoo et al. 2024 (appendix).

use crate::error::{Error, Result, unknown_name};
use serde::{Deserialize, Serialize};

/// A noise schedule of continuous-time discrete diffusion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "noise", rename_all = "snake_case")]
pub enum Noise {
    /// e^(−σ̄) = 1 − (1 − eps)·t; σ̄(1) is infinite at eps = 0, as the absorbing graph wants it.
    LogLinear {
        /// e^(−σ̄(1)), in [0, 1).
        eps: f64,
    },
    /// σ̄ = min^(1−t)·max^t: there is noise at t = 0 too.
    Geometric {
        /// σ̄(0), above 0.
        min: f64,
        /// σ̄(1), above `min`.
        max: f64,
    },
    /// e^(−σ̄) = eps + (1 − eps)·cos(πt/2).
    Cosine {
        /// e^(−σ̄(1)), in [0, 1).
        eps: f64,
    },
}

impl Noise {
    /// All names.
    pub const NAMES: [&str; 3] = ["log_linear", "geometric", "cosine"];

    /// Reads a name, with the end that the graph wants: e^(−σ̄(1)) = 0 with a mask, else 1e-3 (σ̄(1) = 6.9); geometric from 1e-3 to 20.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str, has_mask: bool) -> Result<Noise> {
        let eps = if has_mask { 0.0 } else { 1e-3 };
        match name {
            "log_linear" => Ok(Noise::LogLinear { eps }),
            "geometric" => Ok(Noise::Geometric { min: 1e-3, max: 20.0 }),
            "cosine" => Ok(Noise::Cosine { eps }),
            _ => Err(unknown_name("noise", name, &Noise::NAMES)),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Noise::LogLinear { .. } => "log_linear",
            Noise::Geometric { .. } => "geometric",
            Noise::Cosine { .. } => "cosine",
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Usage`] outside the ranges of the fields.
    pub fn check(&self) -> Result<()> {
        match *self {
            Noise::LogLinear { eps } | Noise::Cosine { eps } if !(0.0..1.0).contains(&eps) => {
                Err(Error::Usage(format!("{} noise: expected eps in [0, 1), got {eps}", self.name())))
            }
            Noise::Geometric { min, max } if !(min > 0.0 && min < max && max < f64::INFINITY) => {
                Err(Error::Usage(format!("geometric noise: expected 0 < min < max, got {min} and {max}")))
            }
            _ => Ok(()),
        }
    }

    /// e^(−σ̄(t)): the share of tokens that no jump has touched.
    pub fn survival(&self, t: f64) -> f64 {
        match *self {
            Noise::LogLinear { eps } => 1.0 - (1.0 - eps) * t,
            Noise::Geometric { .. } => (-self.sigma_bar(t)).exp(),
            // sin((1 − t)·π/2) keeps its digits where cos(πt/2) is near 0.
            Noise::Cosine { eps } => eps + (1.0 - eps) * ((1.0 - t) * std::f64::consts::FRAC_PI_2).sin(),
        }
    }

    /// 1 − e^(−σ̄(t)): the share of tokens that a jump has touched; masked ones, in the absorbing graph.
    pub fn touched(&self, t: f64) -> f64 {
        match *self {
            Noise::LogLinear { eps } => (1.0 - eps) * t,
            Noise::Geometric { .. } => -(-self.sigma_bar(t)).exp_m1(),
            Noise::Cosine { eps } => 2.0 * (1.0 - eps) * (t * std::f64::consts::FRAC_PI_4).sin().powi(2),
        }
    }

    /// σ̄(t), from 0 to infinity.
    pub fn sigma_bar(&self, t: f64) -> f64 {
        match *self {
            Noise::Geometric { min, max } => min * (max / min).powf(t),
            // Whichever of the two is small keeps its digits.
            _ if self.touched(t) < 0.5 => -(-self.touched(t)).ln_1p(),
            _ => -self.survival(t).ln(),
        }
    }

    /// σ(t) = dσ̄/dt.
    pub fn rate(&self, t: f64) -> f64 {
        match *self {
            Noise::Geometric { min, max } => self.sigma_bar(t) * (max / min).ln(),
            _ => self.touched_slope(t) / self.survival(t),
        }
    }

    /// d touched/dt = σ·e^(−σ̄), which stays finite where σ does not.
    fn touched_slope(&self, t: f64) -> f64 {
        match *self {
            Noise::LogLinear { eps } => 1.0 - eps,
            Noise::Geometric { .. } => self.rate(t) * self.survival(t),
            Noise::Cosine { eps } => {
                (1.0 - eps) * std::f64::consts::FRAC_PI_2 * (t * std::f64::consts::FRAC_PI_2).sin()
            }
        }
    }

    /// σ(t)/(e^σ̄(t) − 1): the rate at which a masked token is uncovered, and the weight of its cross-entropy (1/t in log-linear noise).
    pub fn unmask_rate(&self, t: f64) -> f64 {
        self.touched_slope(t) / self.touched(t)
    }

    /// The time at which this share of tokens has been touched, clamped to [0, 1].
    pub fn time_of_touched(&self, touched: f64) -> f64 {
        let time = match *self {
            Noise::LogLinear { eps } => touched / (1.0 - eps),
            Noise::Geometric { min, max } => (-(-touched).ln_1p() / min).ln() / (max / min).ln(),
            Noise::Cosine { eps } => {
                (0.5 * touched / (1.0 - eps)).sqrt().min(1.0).asin() * 4.0 * std::f64::consts::FRAC_1_PI
            }
        };
        time.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Noise; 5] = [
        Noise::LogLinear { eps: 0.0 },
        Noise::LogLinear { eps: 1e-3 },
        Noise::Geometric { min: 1e-4, max: 20.0 },
        Noise::Cosine { eps: 0.0 },
        Noise::Cosine { eps: 1e-3 },
    ];

    #[test]
    fn rates_are_derivatives_and_times_invert_the_share_touched() {
        for noise in ALL {
            for t in [0.05, 0.3, 0.7, 0.95] {
                let h = 1e-5;
                let slope = (noise.sigma_bar(t + h) - noise.sigma_bar(t - h)) / (2.0 * h);
                // h²·σ̄'''/6 with σ̄''' up to 2/(1 − t)³ and ln(max/min)³·σ̄; rounding ε·σ̄/h.
                assert!((slope / noise.rate(t) - 1.0).abs() < 1e-6, "{noise:?} at {t}: {slope}");
                let weight = noise.rate(t) / noise.sigma_bar(t).exp_m1();
                assert!((weight / noise.unmask_rate(t) - 1.0).abs() < 1e-12, "{noise:?} at {t}: {weight}");
                assert!((noise.survival(t) + noise.touched(t) - 1.0).abs() < 1e-15);
                // The share is known to ε, and time to ε·touched/slope.
                let back = noise.time_of_touched(noise.touched(t));
                let bound = 8.0 * f64::EPSILON * (1.0 + 1.0 / noise.touched_slope(t));
                assert!((back - t).abs() < bound, "{noise:?} at {t}: {back}");
            }
        }
    }

    #[test]
    fn ends_are_clean_and_fully_masked_where_promised() {
        for noise in [Noise::LogLinear { eps: 0.0 }, Noise::Cosine { eps: 0.0 }] {
            assert_eq!((noise.touched(0.0), noise.sigma_bar(0.0), noise.survival(1.0)), (0.0, 0.0, 0.0), "{noise:?}");
            assert!((noise.touched(1.0) - 1.0).abs() <= f64::EPSILON && noise.unmask_rate(1.0).is_finite());
        }
        assert_eq!(Noise::LogLinear { eps: 0.0 }.sigma_bar(1.0), f64::INFINITY);
        let geometric = Noise::Geometric { min: 1e-3, max: 20.0 };
        assert!((geometric.sigma_bar(0.0) - 1e-3).abs() < 1e-18 && (geometric.sigma_bar(1.0) - 20.0).abs() < 1e-12);
    }

    #[test]
    fn numbers_out_of_range_and_unknown_names_are_refused() {
        assert!(Noise::LogLinear { eps: 1.0 }.check().is_err() && Noise::Cosine { eps: -0.1 }.check().is_err());
        assert!(Noise::Geometric { min: 0.0, max: 1.0 }.check().is_err());
        assert!(Noise::Geometric { min: 1.0, max: f64::INFINITY }.check().is_err());
        assert!(ALL.iter().all(|noise| noise.check().is_ok()));
        let text = Noise::from_name("loglinear", true).unwrap_err().to_string();
        assert!(text.contains("did you mean \"log_linear\"?"), "{text}");
        for name in Noise::NAMES {
            assert_eq!(Noise::from_name(name, false).unwrap().name(), name);
        }
    }
}
