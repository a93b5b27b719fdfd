//! One noise level, and what a network is told of it.

use crate::error::{Result, unknown_name};

/// One noise level of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The process's own time for networks: DDPM's index, or 1000·time of a continuous process; −1 for clean data.
    pub t: f64,
    /// Time of the process, 0 (clean) to 1.
    pub time: f64,
    /// Factor of the clean data.
    pub alpha: f64,
    /// Standard deviation of the noise.
    pub sigma: f64,
    /// ln alpha, from which differences of close levels are taken.
    pub log_alpha: f64,
    /// f in dX = f·X dt + g dW, per unit of time.
    pub drift: f64,
    /// g in dX = f·X dt + g dW.
    pub diffusion: f64,
}

impl Level {
    /// Clean data: alpha 1, sigma 0.
    pub const CLEAN: Level =
        Level { t: -1.0, time: 0.0, alpha: 1.0, sigma: 0.0, log_alpha: 0.0, drift: 0.0, diffusion: 0.0 };

    /// A level of no particular process, for oracles: time, drift and diffusion are 0.
    pub fn of(alpha: f64, sigma: f64) -> Level {
        Level { t: 0.0, alpha, sigma, log_alpha: alpha.ln(), ..Level::CLEAN }
    }

    /// Whether no noise is left.
    pub fn is_clean(&self) -> bool {
        self.sigma == 0.0
    }

    /// ln(alpha/sigma): +∞ for clean data, −∞ for pure noise.
    pub fn half_log_snr(&self) -> f64 {
        self.log_alpha - self.sigma.ln()
    }

    /// Noise-to-signal ratio sigma/alpha: what Karras et al. (2022) call sigma.
    pub fn nsr(&self) -> f64 {
        self.sigma / self.alpha
    }

    /// atan(sigma/alpha): 0 for clean data, π/2 for pure noise.
    pub fn angle(&self) -> f64 {
        self.sigma.atan2(self.alpha)
    }

    /// √(alpha² + sigma²): 1 for variance-preserving processes.
    pub fn radius(&self) -> f64 {
        self.alpha.hypot(self.sigma)
    }
}

/// What the network's time input means (item 80). It is stored in the model: another one is another network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeConvention {
    /// DDPM's index n, 0 to T − 1.
    DdpmIndex,
    /// 1000·t of a continuous process.
    Time,
    /// 100·ln(alpha/sigma), clamped to ±1000.
    LogSnr,
}

impl TimeConvention {
    /// All names.
    pub const NAMES: [&str; 3] = ["ddpm_index", "time", "log_snr"];

    /// Reads a name.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the known names.
    pub fn from_name(name: &str) -> Result<TimeConvention> {
        match name {
            "ddpm_index" => Ok(TimeConvention::DdpmIndex),
            "time" => Ok(TimeConvention::Time),
            "log_snr" => Ok(TimeConvention::LogSnr),
            _ => Err(unknown_name("time_convention", name, &TimeConvention::NAMES)),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            TimeConvention::DdpmIndex => "ddpm_index",
            TimeConvention::Time => "time",
            TimeConvention::LogSnr => "log_snr",
        }
    }

    /// What the network is told at a level.
    pub fn network_time(self, at: Level) -> f64 {
        match self {
            TimeConvention::DdpmIndex | TimeConvention::Time => at.t,
            TimeConvention::LogSnr => (100.0 * at.half_log_snr()).clamp(-1000.0, 1000.0),
        }
    }
}
