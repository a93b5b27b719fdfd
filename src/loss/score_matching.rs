//! Score matching in four forms, at one point and in f64: what the expectation over x_t of each is made of (S3.eq93, eq94, eq102–107,
//! eq147; item 42).
//!
//! With s the model, p_t the law of x_t and d its dimension,
//!
//! explicit   E‖s − ∇ log p_t‖²
//! denoising  E‖s + eps/sigma‖²         = explicit − C,  C = E‖∇ log p_t‖² − d/sigma² ≤ 0
//! implicit   E[½‖s‖² + ∇·s]            = ½·explicit − ½·E‖∇ log p_t‖²                 (Hyvärinen 2005)
//! sliced     E[½(v·s)² + v·(∇s)v]      = implicit, for probes v of covariance I       (Song, Garg et al. 2019)
//!
//! None of the constants depends on the model, so all four have one minimiser. Only the explicit form needs the score of p_t.

use crate::denoiser::oracle::Oracle;
use crate::process::Level;

/// A model of the score ∇ log p_t, in f64.
pub trait ScoreModel {
    /// s(x_t), as long as `x_t`.
    fn score(&self, x_t: &[f64], at: Level) -> Vec<f64>;

    /// (∇s)·v: the derivative of s along `v`, at `x_t`.
    fn derivative_along(&self, x_t: &[f64], at: Level, v: &[f64]) -> Vec<f64>;

    /// ∇·s, one derivative for each axis.
    fn divergence(&self, x_t: &[f64], at: Level) -> f64 {
        let along = |i: usize| {
            let unit: Vec<f64> = (0..x_t.len()).map(|j| f64::from(u8::from(i == j))).collect();
            self.derivative_along(x_t, at, &unit)[i]
        };
        (0..x_t.len()).map(along).sum()
    }
}

impl ScoreModel for Oracle {
    fn score(&self, x_t: &[f64], at: Level) -> Vec<f64> {
        Oracle::score(self, x_t, at)
    }

    fn derivative_along(&self, x_t: &[f64], at: Level, v: &[f64]) -> Vec<f64> {
        let hessian = self.hessian(x_t, at);
        hessian.chunks_exact(v.len()).map(|row| dot(row, v)).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// ‖s − ∇ log p_t‖² (S3.eq93) with a law whose score is known.
pub fn explicit(model: &dyn ScoreModel, known: &Oracle, x_t: &[f64], at: Level) -> f64 {
    let pairs = model.score(x_t, at).into_iter().zip(known.score(x_t, at));
    pairs.map(|(model, known)| (model - known).powi(2)).sum()
}

/// ‖s + eps/sigma‖² (S3.eq94, eq114) at x_t = alpha·x0 + sigma·eps; `at` must have noise.
pub fn denoising(model: &dyn ScoreModel, x_t: &[f64], eps: &[f64], at: Level) -> f64 {
    let pairs = model.score(x_t, at).into_iter().zip(eps);
    pairs.map(|(model, eps)| (model + eps / at.sigma).powi(2)).sum()
}

/// explicit − denoising, in expectation, from E‖∇ log p_t‖²; `at` must have noise.
pub fn denoising_constant(mean_square_score: f64, dim: usize, at: Level) -> f64 {
    mean_square_score - dim as f64 / at.sigma.powi(2)
}

/// ½‖s‖² + ∇·s.
pub fn implicit(model: &dyn ScoreModel, x_t: &[f64], at: Level) -> f64 {
    let score = model.score(x_t, at);
    0.5 * dot(&score, &score) + model.divergence(x_t, at)
}

/// ½(v·s)² + v·(∇s)v for one probe v.
pub fn sliced(model: &dyn ScoreModel, x_t: &[f64], at: Level, probe: &[f64]) -> f64 {
    0.5 * dot(probe, &model.score(x_t, at)).powi(2) + dot(probe, &model.derivative_along(x_t, at, probe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oracle_as_a_model_of_itself_has_no_explicit_loss() {
        let oracle = Oracle::gaussian(&[1.0, -0.5], &[1.5, 0.4, 0.4, 0.8]).unwrap();
        let at = Level::of(0.8, 0.6);
        assert_eq!(explicit(&oracle, &oracle, &[0.3, 0.7], at), 0.0);
        // ∇·s of a Gaussian is −trace of the inverse covariance [[1.32, .256], [.256, .872]].
        let trace = (1.32 + 0.872) / (1.32 * 0.872 - 0.256 * 0.256);
        assert!((oracle.divergence(&[0.3, 0.7], at) + trace).abs() < 1e-13);
    }

    #[test]
    fn the_mean_over_all_signs_of_the_sliced_form_is_the_implicit_one() {
        let oracle = Oracle::gaussian(&[1.0, -0.5], &[1.5, 0.4, 0.4, 0.8]).unwrap();
        let (x, at) = ([0.3, 0.7], Level::of(0.8, 0.6));
        let signs = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]];
        let mean = signs.iter().map(|v| sliced(&oracle, &x, at, v)).sum::<f64>() / 4.0;
        assert!((mean - implicit(&oracle, &x, at)).abs() < 1e-14);
    }
}
