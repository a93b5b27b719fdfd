//! Variance-exploding, EDM, Ornstein–Uhlenbeck and flow-matching processes in closed form.

use super::Process;
use crate::error::{Error, Result};

const LARGEST_SIGMA: f64 = 1e6;

fn check_sigmas(name: &str, min: f64, max: f64) -> Result<()> {
    // Networks compute in f32, and squares of sigma must stay in it.
    if min > 0.0 && max > min && max <= LARGEST_SIGMA {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "process {name}: sigma from {min} to {max}: expected 0 < sigma_min < sigma_max <= {LARGEST_SIGMA}"
    )))
}

/// Variance exploding with geometric sigmas (S3.eq64; Song et al. 2021, eq. 30): alpha = 1, sigma = min·(max/min)^t. The data at
/// time 0 carry `sigma_min` of noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ve {
    sigma_min: f64,
    sigma_max: f64,
}

impl Ve {
    /// From `sigma_min` at time 0 to `sigma_max` at time 1.
    ///
    /// # Errors
    /// [`Error::Usage`] unless 0 < min < max.
    pub fn new(sigma_min: f64, sigma_max: f64) -> Result<Ve> {
        check_sigmas("ve", sigma_min, sigma_max)?;
        Ok(Ve { sigma_min, sigma_max })
    }

    fn log_ratio(&self) -> f64 {
        (self.sigma_max / self.sigma_min).ln()
    }
}

impl Process for Ve {
    fn name(&self) -> &'static str {
        "ve"
    }

    fn log_alpha(&self, _time: f64) -> f64 {
        0.0
    }

    fn sigma(&self, time: f64) -> f64 {
        self.sigma_min * (time * self.log_ratio()).exp()
    }

    fn drift(&self, _time: f64) -> f64 {
        0.0
    }

    fn diffusion(&self, time: f64) -> f64 {
        self.sigma(time) * (2.0 * self.log_ratio()).sqrt()
    }

    fn prior_std(&self) -> f64 {
        self.sigma_max
    }

    fn min_time(&self) -> f64 {
        0.0
    }

    fn time_at(&self, half_log_snr: f64) -> f64 {
        ((-half_log_snr - self.sigma_min.ln()) / self.log_ratio()).clamp(0.0, 1.0)
    }
}

/// Karras et al. 2022: alpha = 1, and equal steps of time are equal steps of sigma^(1/rho) (their eq. 5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edm {
    sigma_min: f64,
    sigma_max: f64,
    rho: f64,
}

impl Edm {
    /// From `sigma_min` at time 0 to `sigma_max` at time 1; `rho` 7 in the paper, 1 for equal steps of sigma.
    ///
    /// # Errors
    /// [`Error::Usage`] unless 0 < min < max and rho ≥ 1.
    pub fn new(sigma_min: f64, sigma_max: f64, rho: f64) -> Result<Edm> {
        check_sigmas("edm", sigma_min, sigma_max)?;
        if !(rho >= 1.0 && rho.is_finite()) {
            return Err(Error::Usage(format!("process edm: rho = {rho}: expected at least 1")));
        }
        Ok(Edm { sigma_min, sigma_max, rho })
    }

    /// sigma^(1/rho) at a time, and its slope.
    fn root(&self, time: f64) -> (f64, f64) {
        let (low, high) = (self.sigma_min.powf(1.0 / self.rho), self.sigma_max.powf(1.0 / self.rho));
        (low + time * (high - low), high - low)
    }
}

impl Process for Edm {
    fn name(&self) -> &'static str {
        "edm"
    }

    fn log_alpha(&self, _time: f64) -> f64 {
        0.0
    }

    fn sigma(&self, time: f64) -> f64 {
        self.root(time).0.powf(self.rho)
    }

    fn drift(&self, _time: f64) -> f64 {
        0.0
    }

    fn diffusion(&self, time: f64) -> f64 {
        let (root, slope) = self.root(time);
        // g² = 2·sigma·sigma'.
        (2.0 * self.rho * slope * root.powf(2.0 * self.rho - 1.0)).sqrt()
    }

    fn prior_std(&self) -> f64 {
        self.sigma_max
    }

    fn min_time(&self) -> f64 {
        0.0
    }

    fn time_at(&self, half_log_snr: f64) -> f64 {
        let (low, slope) = (self.root(0.0).0, self.root(0.0).1);
        (((-half_log_snr / self.rho).exp() - low) / slope).clamp(0.0, 1.0)
    }
}

/// Ornstein–Uhlenbeck (S3.eq108, eq109; item 39): dX = −rate·X dt + noise dW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ou {
    rate: f64,
    noise: f64,
}

impl Ou {
    /// With the documents' β = `rate` and σ = `noise`.
    ///
    /// # Errors
    /// [`Error::Usage`] unless both are above 0.
    pub fn new(rate: f64, noise: f64) -> Result<Ou> {
        if !(rate > 0.0 && noise > 0.0 && rate.is_finite() && noise.is_finite()) {
            return Err(Error::Usage(format!("process ou: rate = {rate}, noise = {noise}: both must be above 0")));
        }
        Ok(Ou { rate, noise })
    }
}

impl Process for Ou {
    fn name(&self) -> &'static str {
        "ou"
    }

    fn log_alpha(&self, time: f64) -> f64 {
        -self.rate * time
    }

    fn sigma(&self, time: f64) -> f64 {
        self.noise * (-(-2.0 * self.rate * time).exp_m1() / (2.0 * self.rate)).sqrt()
    }

    fn drift(&self, _time: f64) -> f64 {
        -self.rate
    }

    fn diffusion(&self, _time: f64) -> f64 {
        self.noise
    }

    /// Of the stationary law, σ²/(2β).
    fn prior_std(&self) -> f64 {
        self.noise / (2.0 * self.rate).sqrt()
    }
}

/// Flow matching along straight lines (Lipman et al. 2023; Liu et al. 2023): alpha = 1 − t, sigma = t. At time 1 nothing of the
/// data is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow;

impl Process for Flow {
    fn name(&self) -> &'static str {
        "flow"
    }

    fn log_alpha(&self, time: f64) -> f64 {
        (-time).ln_1p()
    }

    fn alpha(&self, time: f64) -> f64 {
        1.0 - time
    }

    fn sigma(&self, time: f64) -> f64 {
        time
    }

    fn drift(&self, time: f64) -> f64 {
        -1.0 / (1.0 - time)
    }

    fn diffusion(&self, time: f64) -> f64 {
        (2.0 * time / (1.0 - time)).sqrt()
    }

    fn prior_std(&self) -> f64 {
        1.0
    }

    fn time_at(&self, half_log_snr: f64) -> f64 {
        1.0 / (1.0 + half_log_snr.exp())
    }
}
