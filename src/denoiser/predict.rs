//! What the network's output means: conversions between eps, x0, v, score, velocity and EDM's F, in one place (items 14 and 44).
//!
//! All are linear in (x_t, net_out) with x_t = alpha·x0 + sigma·eps and v = alpha·eps − sigma·x0.

use crate::error::{Error, Result};
use crate::ops;
use crate::process::{Level, Prediction};
use crate::tensor::Tensor;

/// (a, b) with x0_hat = a·x_t + b·net_out.
///
/// # Errors
/// [`Error::Usage`] for eps and score prediction at alpha = 0: pure noise holds no x0 (train with v or x0 for zero terminal SNR).
pub fn x0_coefficients(prediction: Prediction, at: Level) -> Result<(f64, f64)> {
    let Level { alpha, sigma, .. } = at;
    match prediction {
        Prediction::X0 => Ok((0.0, 1.0)),
        // alpha·x_t − sigma·v = (alpha² + sigma²)·x0; the sum is 1 for variance-preserving processes.
        Prediction::V => {
            let norm = alpha.powi(2) + sigma.powi(2);
            Ok((alpha / norm, -sigma / norm))
        }
        // x_t − sigma·(eps − x0) = (alpha + sigma)·x0.
        Prediction::Velocity => Ok((1.0 / (alpha + sigma), -sigma / (alpha + sigma))),
        // c_skip and c_out of Karras et al. 2022, table 1, for y = x_t/alpha and its sigma/alpha; regular at both ends.
        Prediction::Edm { sigma_data } => {
            let scale = (alpha * sigma_data).hypot(sigma);
            Ok((alpha * (sigma_data / scale).powi(2), sigma * sigma_data / scale))
        }
        Prediction::Eps if alpha > 0.0 => Ok((1.0 / alpha, -sigma / alpha)),
        Prediction::Score if alpha > 0.0 => Ok((1.0 / alpha, sigma / alpha)),
        Prediction::Eps | Prediction::Score => Err(Error::Usage(format!(
            "prediction_type {}: level t = {} is pure noise (alpha = 0), from which x0 cannot be computed; use v_prediction",
            prediction.name(),
            at.t
        ))),
    }
}

/// (a, b) with eps_hat = a·x_t + b·net_out.
///
/// # Errors
/// [`Error::Usage`] for x0 prediction at sigma = 0: clean data holds no noise.
pub fn eps_coefficients(prediction: Prediction, at: Level) -> Result<(f64, f64)> {
    let Level { alpha, sigma, .. } = at;
    match prediction {
        Prediction::Eps => Ok((0.0, 1.0)),
        Prediction::V => {
            let norm = alpha.powi(2) + sigma.powi(2);
            Ok((sigma / norm, alpha / norm))
        }
        Prediction::Velocity => Ok((1.0 / (alpha + sigma), alpha / (alpha + sigma))),
        Prediction::Edm { sigma_data } => {
            // (x_t − alpha·x0_hat)/sigma with 1 − alpha·c_skip = sigma²/scale²: nothing is divided by sigma.
            let scale = (alpha * sigma_data).hypot(sigma);
            Ok((sigma / scale / scale, -alpha * sigma_data / scale))
        }
        Prediction::Score => Ok((0.0, -1.0)),
        Prediction::X0 if sigma > 0.0 => Ok((1.0 / sigma, -alpha / sigma)),
        Prediction::X0 => Err(Error::Usage(format!("level t = {} has no noise to estimate (sigma = 0)", at.t))),
    }
}

/// (a, b) with which a·x0 + b·eps is what the network should have said.
fn target_coefficients(prediction: Prediction, alpha: f64, sigma: f64) -> (f64, f64) {
    match prediction {
        Prediction::Eps => (0.0, 1.0),
        Prediction::X0 => (1.0, 0.0),
        Prediction::V => (-sigma, alpha),
        Prediction::Score => (0.0, -1.0),
        Prediction::Velocity => (-1.0, 1.0),
        Prediction::Edm { sigma_data } => {
            let scale = (alpha * sigma_data).hypot(sigma);
            (sigma / (scale * sigma_data), -alpha * sigma_data / scale)
        }
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
        _ => {
            let factors = alpha.iter().zip(sigma).map(|(alpha, sigma)| target_coefficients(prediction, *alpha, *sigma));
            let (of_x0, of_eps): (Vec<f64>, Vec<f64>) = factors.unzip();
            ops::blend(x0, &of_x0, Some((eps, &of_eps)))
        }
    }
}

/// Weight of the squared error at a level, with which outputs that grow towards one end count evenly: 1/(alpha² + sigma²) for v, 1 for
/// the others.
pub fn loss_weight(prediction: Prediction, at: Level) -> f64 {
    match prediction {
        Prediction::V => 1.0 / (at.alpha.powi(2) + at.sigma.powi(2)),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prediction_recovers_x0_and_eps() {
        let (x0, eps) = (0.7_f64, -1.3_f64);
        // Variance preserving, variance exploding, and straight lines.
        for (alpha, sigma) in [(0.9999, 0.01), (0.75_f64.sqrt(), 0.5), (0.14, 0.99), (1.0, 30.0), (0.3, 0.7)] {
            let at = Level::of(alpha, sigma);
            let x_t = alpha * x0 + sigma * eps;
            // Karras et al. 2022, table 1, in y = x_t/alpha and s = sigma/alpha: F = (x0 − c_skip·y)/c_out.
            let (y, s, d): (f64, f64, f64) = (x_t / alpha, sigma / alpha, 0.5);
            let c_skip = d * d / (s * s + d * d);
            let c_out = s * d / (s * s + d * d).sqrt();
            let outputs = [
                (Prediction::Eps, eps),
                (Prediction::X0, x0),
                (Prediction::V, alpha * eps - sigma * x0),
                (Prediction::Score, -eps),
                (Prediction::Velocity, eps - x0),
                (Prediction::Edm { sigma_data: d }, (x0 - c_skip * y) / c_out),
            ];
            for (prediction, out) in outputs {
                let (a, b) = x0_coefficients(prediction, at).unwrap();
                let (c, d) = eps_coefficients(prediction, at).unwrap();
                assert!((a * x_t + b * out - x0).abs() < 1e-12 * s.max(1.0), "{prediction:?}");
                assert!((c * x_t + d * out - eps).abs() < 1e-12, "{prediction:?}");
                let row = |v: f64| Tensor::from_slice(&[v], [1, 1]).unwrap();
                let t = target(prediction, &row(x0), &row(eps), &[alpha], &[sigma]).unwrap();
                assert!((t.to_vec::<f64>().unwrap()[0] - out).abs() < 1e-13 * out.abs().max(1.0), "{prediction:?}");
            }
        }
    }

    #[test]
    fn the_two_limits_without_an_answer_are_errors() {
        let noise = Level::of(0.0, 1.0);
        assert!(x0_coefficients(Prediction::Eps, noise).unwrap_err().to_string().contains("use v_prediction"));
        assert_eq!(x0_coefficients(Prediction::V, noise).unwrap(), (0.0, -1.0));
        assert!(eps_coefficients(Prediction::X0, Level::CLEAN).is_err());
    }
}
