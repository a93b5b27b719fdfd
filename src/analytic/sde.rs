//! Paths of an SDE in one dimension by Euler and Maruyama (S3.eq69; item 36): what [`Solver1`](super::fokker_planck::Solver1)
//! does to a density, done to samples.

use crate::rng::{Address, Purpose};
use crate::{Error, Result};

/// Many independent paths of one SDE, at one time.
///
/// ```
/// use tweedie::analytic::{sde::Paths, statistics};
///
/// // Ornstein and Uhlenbeck, dX = −X dt + √2 dW, from 1: at t = ½ the mean is e^{−½}.
/// let mut paths = Paths::new(vec![1.0; 10_000], 0);
/// paths.run(|x, _| -x, |_| 2f64.sqrt(), 0.0, 0.5, 100)?;
/// assert!((statistics::moments(paths.x())?.mean - (-0.5f64).exp()).abs() < 0.03);
/// # Ok::<(), tweedie::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Paths {
    x: Vec<f64>,
    address: Address,
    z: Vec<f32>,
}

impl Paths {
    /// Paths that begin at `x`. Path i takes its noise from (`seed`, i) alone, whatever their number.
    pub fn new(x: Vec<f64>, seed: u64) -> Paths {
        let z = vec![0.0; x.len()];
        Paths { x, address: Address::new(seed, Purpose::Path), z }
    }

    /// Advances from time `t0` to `t1` in `steps` equal steps of dX = f(X, t) dt + g(t) dW, f and g taken at a step's
    /// beginning: weak order 1, and strong order 1 because g does not depend on X.
    ///
    /// * `drift` — f(x, t)
    /// * `diffusion` — g(t), the coefficient of dW and not its square
    ///
    /// To go back, run s = T − t with Anderson's drift −(f − g²·score) at t = T − s (S3.eq82).
    ///
    /// # Errors
    /// [`Error::Usage`] unless t0 < t1 and `steps` ≥ 1; [`Error::NonFinite`] if a path is not finite at the end.
    pub fn run(
        &mut self,
        drift: impl Fn(f64, f64) -> f64,
        diffusion: impl Fn(f64) -> f64,
        t0: f64,
        t1: f64,
        steps: usize,
    ) -> Result<()> {
        let dt = (t1 - t0) / steps as f64;
        if !(dt > 0.0 && dt.is_finite()) {
            return Err(Error::Usage(format!(
                "paths: t0 < t1 and at least one step, got {t0} to {t1} in {steps}; to go back, run s = T − t with the \
                 reverse drift"
            )));
        }
        for k in 0..steps {
            let t = t0 + k as f64 * dt;
            let spread = diffusion(t) * dt.sqrt();
            self.address.fill_normal(&mut self.z);
            self.address.step += 1;
            for (x, z) in self.x.iter_mut().zip(&self.z) {
                *x += drift(*x, t) * dt + spread * f64::from(*z);
            }
        }
        match self.x.iter().find(|x| !x.is_finite()) {
            None => Ok(()),
            Some(x) => Err(Error::NonFinite(format!(
                "paths: a path is {x} at t = {t1}; check drift and diffusion, or take more steps"
            ))),
        }
    }

    /// Where the paths are.
    pub fn x(&self) -> &[f64] {
        &self.x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytic::statistics::moments;

    #[test]
    fn paths_have_the_moments_of_their_own_recursion() {
        // dX = −2X dt + 3t dW from 1: m ← m(1 − 2h), v ← v(1 − 2h)² + (3t)²h, exactly those of the scheme.
        let (steps, h) = (20, 0.05);
        let (mut mean, mut variance) = (1.0_f64, 0.0_f64);
        for k in 0..steps {
            (mean, variance) =
                (mean * (1.0 - 2.0 * h), variance * (1.0 - 2.0 * h).powi(2) + (3.0 * k as f64 * h).powi(2) * h);
        }
        let mut paths = Paths::new(vec![1.0; 40_000], 5);
        paths.run(|x, _| -2.0 * x, |t| 3.0 * t, 0.0, 1.0, steps).unwrap();
        let got = moments(paths.x()).unwrap();
        assert!((got.mean - mean).abs() < 4.5 * got.mean_error, "mean {} against {mean}", got.mean);
        assert!(
            (got.variance - variance).abs() < 4.5 * got.variance_error,
            "variance {} against {variance}",
            got.variance
        );
    }

    #[test]
    fn a_path_does_not_depend_on_the_others_and_goes_on_with_fresh_noise() {
        let end = |n, parts: usize| {
            let mut paths = Paths::new(vec![0.0; n], 1);
            for part in 0..parts {
                let t = part as f64 / parts as f64;
                paths.run(|x, _| -x, |_| 1.0, t, t + 1.0 / parts as f64, 8 / parts).unwrap();
            }
            paths.x().to_vec()
        };
        assert_eq!(end(3, 1), end(10, 1)[..3]);
        assert_eq!(end(3, 1), end(3, 2), "two halves are the whole");
    }

    #[test]
    fn wrong_times_and_runaway_paths_are_named() {
        let run = |t1, steps, rate: f64| {
            Paths::new(vec![1.0], 0).run(|x, _| rate * x, |_| 1.0, 0.0, t1, steps).unwrap_err().to_string()
        };
        assert!(run(0.0, 5, 0.0).contains("got 0 to 0 in 5"));
        assert!(run(1.0, 0, 0.0).contains("in 0;"));
        assert!(run(1.0, 2, 1e300).starts_with("paths: a path is "));
    }
}
