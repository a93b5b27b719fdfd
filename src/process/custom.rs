//! A process of the user's own: alpha and sigma as functions of time.

use super::Process;
use crate::error::{Error, Result};
use std::fmt;

type Curve = Box<dyn Fn(f64) -> f64 + Send + Sync>;

/// A process given by ln alpha and sigma; drift and diffusion are derived.
///
/// # Example
/// ```
/// use tweedie::process::{Custom, Process};
/// // Straight angles: alpha = cos(πt/2), sigma = sin(πt/2), up to 0.99 of the way.
/// let angle = |t: f64| 0.99 * t * std::f64::consts::FRAC_PI_2;
/// let process = Custom::new(move |t| angle(t).cos().ln(), move |t| angle(t).sin(), 1.0)?;
/// assert!((process.drift(0.5) + 0.99 * std::f64::consts::FRAC_PI_2 * angle(0.5).tan()).abs() < 1e-9);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub struct Custom {
    log_alpha: Curve,
    sigma: Curve,
    prior_std: f64,
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Custom {{ prior_std: {} }}", self.prior_std)
    }
}

/// Times at which the curves are checked.
const CHECKS: usize = 1000;

impl Custom {
    /// A process on [0, 1].
    ///
    /// * `log_alpha` — ln alpha(t), finite
    /// * `sigma` — sigma(t), finite, above 0 for t > 0
    /// * `prior_std` — standard deviation of the start of samplers
    ///
    /// Both should be smooth a little beyond [0, 1] or one-sided there: derivatives at the ends are taken inwards.
    ///
    /// # Errors
    /// [`Error::Usage`] if a curve is not finite or the signal-to-noise ratio does not fall, with the time at which.
    pub fn new(
        log_alpha: impl Fn(f64) -> f64 + Send + Sync + 'static,
        sigma: impl Fn(f64) -> f64 + Send + Sync + 'static,
        prior_std: f64,
    ) -> Result<Custom> {
        if !(prior_std > 0.0 && prior_std.is_finite()) {
            return Err(Error::Usage(format!("custom process: prior_std = {prior_std}: expected a number above 0")));
        }
        let process = Custom { log_alpha: Box::new(log_alpha), sigma: Box::new(sigma), prior_std };
        let mut last = f64::INFINITY;
        for i in 0..=CHECKS {
            let time = i as f64 / CHECKS as f64;
            let (a, s) = (process.log_alpha(time), process.sigma(time));
            let is_noised = s > 0.0 || (i == 0 && s == 0.0);
            if !(a.is_finite() && s.is_finite() && is_noised) {
                return Err(Error::Usage(format!(
                    "custom process: at time {time} ln alpha = {a} and sigma = {s}: expected finite numbers, sigma above 0"
                )));
            }
            let ratio = a - s.ln();
            if i > 0 && !(ratio < last) {
                return Err(Error::Usage(format!(
                    "custom process: the signal-to-noise ratio must fall with time, but ln(alpha/sigma) goes from {last} to {ratio} \
                     at time {time}"
                )));
            }
            last = ratio;
        }
        Ok(process)
    }
}

/// Fourth-order central difference; near an end the second-order one-sided one's points would leave [0, 1], so the stencil is
/// moved inwards.
fn derivative(f: &Curve, time: f64) -> f64 {
    const H: f64 = 1e-4;
    let low = (time - 2.0 * H).clamp(0.0, 1.0 - 4.0 * H);
    // Lagrange derivative at `time` of the quartic through five equidistant points.
    let nodes: [f64; 5] = std::array::from_fn(|i| low + i as f64 * H);
    let mut sum = 0.0;
    for (j, node) in nodes.iter().enumerate() {
        let mut weight = 0.0;
        for m in 0..5 {
            if m == j {
                continue;
            }
            let mut product = 1.0 / (node - nodes[m]);
            for k in 0..5 {
                if k != j && k != m {
                    product *= (time - nodes[k]) / (node - nodes[k]);
                }
            }
            weight += product;
        }
        sum += weight * f(*node);
    }
    sum
}

impl Process for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn log_alpha(&self, time: f64) -> f64 {
        (self.log_alpha)(time)
    }

    fn sigma(&self, time: f64) -> f64 {
        (self.sigma)(time)
    }

    fn drift(&self, time: f64) -> f64 {
        derivative(&self.log_alpha, time)
    }

    fn diffusion(&self, time: f64) -> f64 {
        // g² = 2·sigma·(sigma' − f·sigma).
        let sigma = self.sigma(time);
        (2.0 * sigma * (derivative(&self.sigma, time) - self.drift(time) * sigma)).max(0.0).sqrt()
    }

    fn prior_std(&self) -> f64 {
        self.prior_std
    }
}
