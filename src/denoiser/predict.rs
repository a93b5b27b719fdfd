//! What the network's output means: conversions between eps, x0 and v, in one place (items 14 and 44).
//!
//! All are linear in (x_t, net_out) with x_t = alpha·x0 + sigma·eps and v = alpha·eps − sigma·x0.

use crate::error::{Error, Result};
use crate::ops::{self, Noise, ReverseStep};
use crate::process::{Level, Prediction};
use crate::tensor::Tensor;

/// (a, b) with x0_hat = a·x_t + b·net_out.
///
/// # Errors
/// [`Error::Usage`] for eps prediction at alpha = 0: pure noise holds no x0 (train with v or x0 for zero terminal SNR).
pub fn x0_coefficients(prediction: Prediction, at: Level) -> Result<(f64, f64)> {
    match prediction {
        Prediction::X0 => Ok((0.0, 1.0)),
        // alpha·x_t − sigma·v = (alpha² + sigma²)·x0; the sum is 1 for variance-preserving processes.
        Prediction::V => {
            let norm = at.alpha.powi(2) + at.sigma.powi(2);
            Ok((at.alpha / norm, -at.sigma / norm))
        }
        Prediction::Eps if at.alpha > 0.0 => Ok((1.0 / at.alpha, -at.sigma / at.alpha)),
        Prediction::Eps => Err(Error::Usage(format!(
            "prediction_type epsilon: level t = {} is pure noise (alpha = 0), from which x0 cannot be computed; use v_prediction",
            at.t
        ))),
    }
}

/// (a, b) with eps_hat = a·x_t + b·net_out.
///
/// # Errors
/// [`Error::Usage`] for x0 prediction at sigma = 0: clean data holds no noise.
pub fn eps_coefficients(prediction: Prediction, at: Level) -> Result<(f64, f64)> {
    match prediction {
        Prediction::Eps => Ok((0.0, 1.0)),
        Prediction::V => {
            let norm = at.alpha.powi(2) + at.sigma.powi(2);
            Ok((at.sigma / norm, at.alpha / norm))
        }
        Prediction::X0 if at.sigma > 0.0 => Ok((1.0 / at.sigma, -at.alpha / at.sigma)),
        Prediction::X0 => Err(Error::Usage(format!("level t = {} has no noise to estimate (sigma = 0)", at.t))),
    }
}

/// What the network should have said, for each image at its own level.
///
/// # Errors
/// [`Error::Shape`] if `x0` and `eps` differ.
pub fn target(prediction: Prediction, x0: &Tensor, eps: &Tensor, alpha: &[f64], sigma: &[f64]) -> Result<Tensor> {
    match prediction {
        Prediction::Eps => Ok(eps.clone()),
        Prediction::X0 => Ok(x0.clone()),
        Prediction::V => {
            let rows = alpha.iter().zip(sigma).enumerate().map(|(i, (alpha, sigma))| {
                let step = ReverseStep { to_x: -sigma, to_out: *alpha, ..Default::default() };
                ops::reverse_step(&x0.rows(i, 1)?, &eps.rows(i, 1)?, None, &step, Noise::None)
            });
            let rows = rows.collect::<Result<Vec<_>>>()?;
            Tensor::stack_rows(&rows, x0.shape())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prediction_recovers_x0_and_eps() {
        let (x0, eps) = (0.7_f64, -1.3_f64);
        for sigma in [0.01_f64, 0.5, 0.99] {
            let alpha = (1.0 - sigma * sigma).sqrt();
            let at = Level { t: 0.0, alpha, sigma, log_alpha: alpha.ln() };
            let x_t = alpha * x0 + sigma * eps;
            let outputs = [(Prediction::Eps, eps), (Prediction::X0, x0), (Prediction::V, alpha * eps - sigma * x0)];
            for (prediction, out) in outputs {
                let (a, b) = x0_coefficients(prediction, at).unwrap();
                let (c, d) = eps_coefficients(prediction, at).unwrap();
                assert!((a * x_t + b * out - x0).abs() < 1e-12, "{prediction:?}");
                assert!((c * x_t + d * out - eps).abs() < 1e-12, "{prediction:?}");
                let row = |v: f64| Tensor::from_slice(&[v], [1, 1]).unwrap();
                let t = target(prediction, &row(x0), &row(eps), &[alpha], &[sigma]).unwrap();
                assert!((t.to_vec::<f64>().unwrap()[0] - out).abs() < 1e-15);
            }
        }
    }

    #[test]
    fn the_two_limits_without_an_answer_are_errors() {
        let noise = Level { t: 999.0, alpha: 0.0, sigma: 1.0, log_alpha: f64::NEG_INFINITY };
        assert!(x0_coefficients(Prediction::Eps, noise).unwrap_err().to_string().contains("use v_prediction"));
        assert_eq!(x0_coefficients(Prediction::V, noise).unwrap(), (0.0, -1.0));
        assert!(eps_coefficients(Prediction::X0, Level::CLEAN).is_err());
    }
}
