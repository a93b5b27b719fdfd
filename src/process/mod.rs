//! Noising processes as two f64 scalars per level: x_t = alpha·x0 + sigma·eps.
//!
//! Pure numbers: nothing here knows tensors or networks.

mod schedule;
mod scheduler_config;

pub use schedule::{BetaSchedule, Discrete};
pub use scheduler_config::{Prediction, SchedulerConfig, Spacing, Variance};

/// One noise level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The time that the network sees (DDPM index); −1 for clean data.
    pub t: f64,
    /// Factor of the clean data.
    pub alpha: f64,
    /// Standard deviation of the noise.
    pub sigma: f64,
    /// ln alpha, from which differences of close levels are taken.
    pub log_alpha: f64,
}

impl Level {
    /// Clean data: alpha 1, sigma 0.
    pub const CLEAN: Level = Level { t: -1.0, alpha: 1.0, sigma: 0.0, log_alpha: 0.0 };
}
