//! The variance-preserving process whose log-SNR is a straight line of time (Kingma et al. 2021, sec. 5; appendix I).

use super::Process;
use crate::error::{Error, Result};

/// alpha² = sigmoid(l), sigma² = sigmoid(−l) with l = ln(alpha²/sigma²) from `max` at time 0 to `min` at time 1. The data at time 0 carry
/// noise, so that every weight is bounded; uniform times are uniform log-SNRs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearLogSnr {
    min: f64,
    max: f64,
}

/// Beyond this sigma² or alpha² is below the last bit of the other, in f32 even of 1.
const LARGEST: f64 = 40.0;

impl LinearLogSnr {
    /// From log-SNR `max` at time 0 to `min` at time 1.
    ///
    /// # Errors
    /// [`Error::Usage`] unless −40 <= min < max <= 40.
    pub fn new(min: f64, max: f64) -> Result<LinearLogSnr> {
        if min >= -LARGEST && min < max && max <= LARGEST {
            return Ok(LinearLogSnr { min, max });
        }
        Err(Error::Usage(format!(
            "process linear_log_snr: log_snr_min = {min}, log_snr_max = {max}: expected -{LARGEST} <= min < max <= {LARGEST}"
        )))
    }

    fn log_snr(&self, time: f64) -> f64 {
        self.max + time * (self.min - self.max)
    }
}

/// 1/(1 + e^{−x}), with all digits where it is small.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Process for LinearLogSnr {
    fn name(&self) -> &'static str {
        "linear_log_snr"
    }

    fn log_alpha(&self, time: f64) -> f64 {
        // −½·ln(1 + e^{−l}); for l far below 0 it is l/2.
        -0.5 * (-self.log_snr(time)).exp().ln_1p()
    }

    fn sigma(&self, time: f64) -> f64 {
        sigmoid(-self.log_snr(time)).sqrt()
    }

    /// d ln alpha/dt = ½·l'·sigma².
    fn drift(&self, time: f64) -> f64 {
        -0.5 * (self.max - self.min) * sigmoid(-self.log_snr(time))
    }

    fn diffusion(&self, time: f64) -> f64 {
        ((self.max - self.min) * sigmoid(-self.log_snr(time))).sqrt()
    }

    fn prior_std(&self) -> f64 {
        1.0
    }

    fn min_time(&self) -> f64 {
        0.0
    }

    fn half_log_snr(&self, time: f64) -> f64 {
        0.5 * self.log_snr(time)
    }

    fn time_at(&self, half_log_snr: f64) -> f64 {
        ((self.max - 2.0 * half_log_snr) / (self.max - self.min)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_snr_is_a_straight_line_on_the_unit_circle() {
        let process = LinearLogSnr::new(-8.0, 7.0).unwrap();
        for time in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let at = process.level(time);
            assert!((at.alpha.powi(2) + at.sigma.powi(2) - 1.0).abs() < 1e-15, "time {time}");
            assert!((2.0 * at.half_log_snr() - (7.0 - 15.0 * time)).abs() < 1e-13, "time {time}");
            assert!((process.time_at(at.half_log_snr()) - time).abs() < 1e-14, "time {time}");
        }
    }

    #[test]
    fn ranges_without_a_process_are_refused() {
        for (min, max) in [(1.0, 1.0), (2.0, 1.0), (-50.0, 1.0), (0.0, 41.0), (f64::NAN, 1.0)] {
            assert!(LinearLogSnr::new(min, max).unwrap_err().to_string().contains("log_snr_min"), "{min} {max}");
        }
    }
}
