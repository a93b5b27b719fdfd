//! Variance-preserving processes: dX = −½β(t)·X dt + √β(t) dW (S3.eq67), and the sub-VP process of Song et al. 2021.

use super::Process;
use crate::error::{Error, Result};

/// β(t) with its integral in closed form, per unit of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BetaCurve {
    /// From `min` to `max` in a straight line (Song et al. 2021, eq. 32).
    Linear {
        /// β(0).
        min: f64,
        /// β(1).
        max: f64,
    },
    /// √β in a straight line.
    ScaledLinear {
        /// β(0).
        min: f64,
        /// β(1).
        max: f64,
    },
    /// alpha_bar as a squared cosine (Nichol & Dhariwal 2021, eq. 17), stopped at 0.9946 of its time, where alpha is still
    /// 0.0085 (Lu et al. 2022, appendix D.2).
    Cosine,
    /// β as a logistic curve over [−6, 6] from `min` to `max` (Xu et al. 2022, GeoDiff).
    Sigmoid {
        /// Lower asymptote.
        min: f64,
        /// Upper asymptote.
        max: f64,
    },
}

const COSINE_SHIFT: f64 = 0.008; // Nichol & Dhariwal 2021, sec. 3.2
const COSINE_END: f64 = 0.9946; // Lu et al. 2022, appendix D.2

impl BetaCurve {
    /// Refuses curves that leave (0, ∞).
    ///
    /// # Errors
    /// [`Error::Usage`] with both ends.
    pub fn validated(self) -> Result<BetaCurve> {
        match self {
            BetaCurve::Linear { min, max } | BetaCurve::ScaledLinear { min, max } | BetaCurve::Sigmoid { min, max } => {
                if !(min > 0.0 && max >= min && max.is_finite()) {
                    return Err(Error::Usage(format!(
                        "beta from {min} to {max}: expected 0 < first <= last, both finite"
                    )));
                }
            }
            BetaCurve::Cosine => {}
        }
        Ok(self)
    }

    /// β(t).
    pub fn beta(&self, time: f64) -> f64 {
        match *self {
            BetaCurve::Linear { min, max } => min + (max - min) * time,
            BetaCurve::ScaledLinear { min, max } => (min.sqrt() + (max.sqrt() - min.sqrt()) * time).powi(2),
            BetaCurve::Cosine => {
                let rate = std::f64::consts::PI * COSINE_END / (1.0 + COSINE_SHIFT);
                rate * cosine_angle(time).tan()
            }
            BetaCurve::Sigmoid { min, max } => min + (max - min) / (1.0 + (6.0 - 12.0 * time).exp()),
        }
    }

    /// ∫₀ᵗ β.
    pub fn integral(&self, time: f64) -> f64 {
        match *self {
            BetaCurve::Linear { min, max } => min * time + 0.5 * (max - min) * time * time,
            BetaCurve::ScaledLinear { min, max } => {
                // ∫(a + bt)² = a²t + abt² + b²t³/3: no difference of close numbers at small t.
                let (a, b) = (min.sqrt(), max.sqrt() - min.sqrt());
                time * (a * a + time * (a * b + time * b * b / 3.0))
            }
            BetaCurve::Cosine => {
                // ln cos u0 − ln cos u = −½ ln(1 − (sin²u − sin²u0)/cos²u0), and sin²u − sin²u0 = sin(u+u0)·sin(u−u0).
                let (u, u0) = (cosine_angle(time), cosine_angle(0.0));
                -(-(u + u0).sin() * (u - u0).sin() / u0.cos().powi(2)).ln_1p()
            }
            BetaCurve::Sigmoid { min, max } => {
                // ∫ 1/(1+e^{6−12t}) = (softplus(12t − 6) − softplus(−6))/12, as one logarithm of a ratio.
                let (low, growth) = ((-6.0_f64).exp(), (12.0 * time).exp_m1());
                min * time + (max - min) / 12.0 * (low * growth / (1.0 + low)).ln_1p()
            }
        }
    }
}

fn cosine_angle(time: f64) -> f64 {
    (COSINE_END * time + COSINE_SHIFT) / (1.0 + COSINE_SHIFT) * std::f64::consts::FRAC_PI_2
}

/// The variance-preserving process; optionally with alpha shifted and scaled to end at 0 (Lin et al. 2024, algorithm 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vp {
    beta: BetaCurve,
    /// alpha at time 1 before the rescaling; 0 where there is none.
    alpha_end: f64,
}

impl Vp {
    /// The process of a curve.
    ///
    /// # Errors
    /// [`Error::Usage`] if β leaves (0, ∞).
    pub fn new(beta: BetaCurve, zero_terminal_snr: bool) -> Result<Vp> {
        let beta = beta.validated()?;
        let alpha_end = if zero_terminal_snr { (-0.5 * beta.integral(1.0)).exp() } else { 0.0 };
        Ok(Vp { beta, alpha_end })
    }

    /// 1 − alpha, with all its digits at small times.
    fn one_minus_alpha(&self, time: f64) -> f64 {
        -(-0.5 * self.beta.integral(time)).exp_m1() / (1.0 - self.alpha_end)
    }
}

impl Process for Vp {
    fn name(&self) -> &'static str {
        "vp"
    }

    fn log_alpha(&self, time: f64) -> f64 {
        if self.alpha_end == 0.0 {
            return -0.5 * self.beta.integral(time);
        }
        let rest = self.one_minus_alpha(time);
        if time >= 1.0 || rest >= 1.0 { f64::NEG_INFINITY } else { (-rest).ln_1p() }
    }

    fn sigma(&self, time: f64) -> f64 {
        if self.alpha_end == 0.0 {
            return (-(-self.beta.integral(time)).exp_m1()).sqrt();
        }
        let rest = if time >= 1.0 { 1.0 } else { self.one_minus_alpha(time).min(1.0) };
        (rest * (2.0 - rest)).sqrt()
    }

    fn drift(&self, time: f64) -> f64 {
        let plain = -0.5 * self.beta.beta(time);
        if self.alpha_end == 0.0 {
            return plain;
        }
        // d/dt ln(alpha − end) = alpha'/(alpha − end).
        let alpha = (-0.5 * self.beta.integral(time)).exp();
        if time >= 1.0 { f64::NEG_INFINITY } else { plain * alpha / (alpha - self.alpha_end) }
    }

    fn diffusion(&self, time: f64) -> f64 {
        (-2.0 * self.drift(time)).sqrt()
    }

    fn prior_std(&self) -> f64 {
        1.0
    }
}

/// The sub-VP process: VP's drift with less noise, sigma = 1 − alpha² (Song et al. 2021, eq. 29).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubVp {
    beta: BetaCurve,
}

impl SubVp {
    /// The process of a curve.
    ///
    /// # Errors
    /// [`Error::Usage`] if β leaves (0, ∞).
    pub fn new(beta: BetaCurve) -> Result<SubVp> {
        Ok(SubVp { beta: beta.validated()? })
    }
}

impl Process for SubVp {
    fn name(&self) -> &'static str {
        "sub_vp"
    }

    fn log_alpha(&self, time: f64) -> f64 {
        -0.5 * self.beta.integral(time)
    }

    fn sigma(&self, time: f64) -> f64 {
        -(-self.beta.integral(time)).exp_m1()
    }

    fn drift(&self, time: f64) -> f64 {
        -0.5 * self.beta.beta(time)
    }

    fn diffusion(&self, time: f64) -> f64 {
        (self.beta.beta(time) * -(-2.0 * self.beta.integral(time)).exp_m1()).sqrt()
    }

    fn prior_std(&self) -> f64 {
        1.0
    }
}
