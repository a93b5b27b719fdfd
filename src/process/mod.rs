//! Noising processes: x_t = alpha·x0 + sigma·eps, the law of dX = drift·X dt + diffusion dW (S3.eq68, eq81; item 35).
//!
//! Pure f64 numbers: nothing here knows tensors or networks. Every process runs from time 0 (clean) to time 1.

mod config;
mod continuous;
mod custom;
mod level;
mod linear_log_snr;
mod schedule;
mod scheduler_config;
mod terminal;
mod vp;

pub use config::ProcessConfig;
pub use continuous::{Edm, Flow, Ou, Ve};
pub use custom::Custom;
pub use level::{Level, TimeConvention};
pub use linear_log_snr::LinearLogSnr;
pub use schedule::{BetaSchedule, Discrete};
pub use scheduler_config::{Prediction, SchedulerConfig, Spacing, Variance};
pub use terminal::Terminal;
pub use vp::{BetaCurve, SubVp, Vp};

use std::fmt::Debug;

/// A noising process with a linear drift: its marginal kernel is N(alpha·x0, sigma²·I).
///
/// Implement `log_alpha`, `sigma`, `drift` and `diffusion`; the rest follows. They must agree: drift = d log_alpha/dt and
/// diffusion² = d sigma²/dt − 2·drift·sigma² (the moment equations m' = f·m, v' = 2·f·v + g²), and the signal-to-noise ratio must
/// fall with time. [`Custom`] derives the last two.
pub trait Process: Send + Sync + Debug {
    /// The name it has in settings and model folders.
    fn name(&self) -> &'static str;

    /// ln alpha; −∞ where nothing of the data is left.
    fn log_alpha(&self, time: f64) -> f64;

    /// Standard deviation of the noise.
    fn sigma(&self, time: f64) -> f64;

    /// f in dX = f·X dt + g dW, per unit of time.
    fn drift(&self, time: f64) -> f64;

    /// g in dX = f·X dt + g dW.
    fn diffusion(&self, time: f64) -> f64;

    /// Standard deviation of the Gaussian that samplers start from, for data of about unit variance.
    fn prior_std(&self) -> f64;

    /// The least time that networks are trained at and sampled from; below it the score may be unbounded.
    fn min_time(&self) -> f64 {
        1e-3
    }

    /// Factor of the clean data.
    fn alpha(&self, time: f64) -> f64 {
        self.log_alpha(time).exp()
    }

    /// ln(alpha/sigma): DPM-Solver's lambda, half the logarithm of the signal-to-noise ratio.
    fn half_log_snr(&self, time: f64) -> f64 {
        self.log_alpha(time) - self.sigma(time).ln()
    }

    /// The time of a half_log_snr, clamped to [0, 1]: the inverse of [`Process::half_log_snr`].
    fn time_at(&self, half_log_snr: f64) -> f64 {
        let (mut low, mut high) = (0.0, 1.0);
        if !(half_log_snr < self.half_log_snr(low)) {
            return low;
        }
        if !(half_log_snr > self.half_log_snr(high)) {
            return high;
        }
        // Bisection to the last bit: the function falls.
        loop {
            let middle = 0.5 * (low + high);
            if middle <= low || middle >= high {
                return middle;
            }
            if self.half_log_snr(middle) > half_log_snr { low = middle } else { high = middle }
        }
    }

    /// The noise level at a time.
    fn level(&self, time: f64) -> Level {
        let log_alpha = self.log_alpha(time);
        Level {
            t: 1000.0 * time,
            time,
            alpha: self.alpha(time),
            sigma: self.sigma(time),
            log_alpha,
            drift: self.drift(time),
            diffusion: self.diffusion(time),
        }
    }

    /// The noise level of a half_log_snr.
    fn level_at(&self, half_log_snr: f64) -> Level {
        self.level(self.time_at(half_log_snr))
    }

    /// The level that a uniform number in [0, 1) draws in training.
    fn draw(&self, u: f64) -> Level {
        let first = self.min_time();
        self.level(first + u * (1.0 - first))
    }

    /// The table behind a process of discrete levels.
    fn discrete(&self) -> Option<&Discrete> {
        None
    }
}
