//! The Gaussian that a chain ends in, estimated from data (S3.eq4, Remark 2; item 6).

use super::Level;
use crate::error::{Error, Result};

/// N(mean, variance) in every coordinate: what X^(N) is close to, and what samplers may start from.
#[derive(Clone, Debug, PartialEq)]
pub struct Terminal {
    /// μ̃ of each coordinate: alpha·μ₀.
    pub mean: Vec<f64>,
    /// σ̃² of each coordinate, a variance: alpha²·σ₀² + sigma².
    pub variance: Vec<f64>,
}

impl Terminal {
    /// Fits the Gaussian of the noised data at a level to the data's mean and variance.
    ///
    /// * `rows` — `[n, dim]`, row-major: the clean data
    /// * `at` — the last level; alpha = 1 and sigma² = N·σ² for S3's variance-exploding chain
    ///
    /// The variance is the one with 1/n: that of the uniform law on the given points, for which both moments are exact.
    ///
    /// # Errors
    /// [`Error::Usage`] without rows of `dim` numbers; [`Error::NonFinite`] if a moment is not finite.
    ///
    /// # Example
    /// ```
    /// use tweedie::process::{Level, Terminal};
    /// // Mean 1, variance 4; 25 steps of noise 0.2 add 1.
    /// let terminal = Terminal::fit(&[-1.0, 3.0], 1, Level::of(1.0, 25_f64.sqrt() * 0.2))?;
    /// assert_eq!(terminal.mean, [1.0]);
    /// assert!((terminal.variance[0] - 5.0).abs() < 1e-15);
    /// # Ok::<(), tweedie::Error>(())
    /// ```
    pub fn fit(rows: &[f64], dim: usize, at: Level) -> Result<Terminal> {
        if dim == 0 || rows.is_empty() || !rows.len().is_multiple_of(dim) {
            let n = rows.len();
            return Err(Error::Usage(format!("terminal: {n} numbers are no rows of {dim}; give at least one row")));
        }
        let n = (rows.len() / dim) as f64;
        let column = |j: usize| rows.iter().skip(j).step_by(dim);
        let mean0: Vec<f64> = (0..dim).map(|j| column(j).sum::<f64>() / n).collect();
        // Two passes: no difference of large squares.
        let square = |j: usize| column(j).map(|x| (x - mean0[j]).powi(2)).sum::<f64>() / n;
        let variance: Vec<f64> = (0..dim).map(|j| at.alpha.powi(2) * square(j) + at.sigma.powi(2)).collect();
        let mean: Vec<f64> = mean0.iter().map(|mean| at.alpha * mean).collect();
        match mean.iter().chain(&variance).find(|v| !v.is_finite()) {
            None => Ok(Terminal { mean, variance }),
            Some(bad) => Err(Error::NonFinite(format!("terminal: a moment of the data is {bad}; check the data"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_fitted_each_on_its_own() {
        let rows = [0.0, 10.0, 2.0, 10.0, 4.0, 10.0];
        let terminal = Terminal::fit(&rows, 2, Level::of(0.5, 3.0)).unwrap();
        assert_eq!(terminal.mean, [1.0, 5.0]);
        assert!((terminal.variance[0] - (0.25 * 8.0 / 3.0 + 9.0)).abs() < 1e-14);
        assert_eq!(terminal.variance[1], 9.0);
    }

    #[test]
    fn data_without_moments_are_refused() {
        assert!(Terminal::fit(&[], 1, Level::CLEAN).unwrap_err().to_string().contains("at least one row"));
        assert!(Terminal::fit(&[1.0, 2.0, 3.0], 2, Level::CLEAN).unwrap_err().to_string().contains("rows of 2"));
        assert!(Terminal::fit(&[1.0, f64::INFINITY], 1, Level::CLEAN).is_err());
    }
}
