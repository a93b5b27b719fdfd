//! The Bernoulli law: the smallest model on which maximum likelihood is minimal divergence (S3, Exercise 6; item 26).

use crate::{Error, Result};

/// A coin that shows 1 with probability `theta`.
///
/// # Example
/// ```
/// use tweedie::analytic::Bernoulli;
/// let fitted = Bernoulli::fit(&[true, false, true, true])?;
/// assert_eq!(fitted.theta(), 0.75);
/// # Ok::<(), tweedie::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bernoulli {
    theta: f64,
}

impl Bernoulli {
    /// The coin of a probability.
    ///
    /// # Errors
    /// [`Error::Usage`] unless 0 ≤ theta ≤ 1.
    pub fn new(theta: f64) -> Result<Bernoulli> {
        if (0.0..=1.0).contains(&theta) {
            return Ok(Bernoulli { theta });
        }
        Err(Error::Usage(format!("bernoulli: theta = {theta}: expected a probability, 0 to 1")))
    }

    /// The coin of greatest likelihood: the share of ones.
    ///
    /// # Errors
    /// [`Error::Usage`] for no samples.
    pub fn fit(samples: &[bool]) -> Result<Bernoulli> {
        if samples.is_empty() {
            return Err(Error::Usage("bernoulli: no samples to fit; give at least one".into()));
        }
        Bernoulli::new(samples.iter().filter(|s| **s).count() as f64 / samples.len() as f64)
    }

    /// P(1).
    pub fn theta(&self) -> f64 {
        self.theta
    }

    /// −ln of the samples' probability, in nats; ∞ where one is impossible.
    pub fn nll(&self, samples: &[bool]) -> f64 {
        samples.iter().map(|s| -if *s { self.theta.ln() } else { (-self.theta).ln_1p() }).sum()
    }

    /// H, in nats.
    pub fn entropy(&self) -> f64 {
        self.cross_entropy(self)
    }

    /// E[−ln of `other`'s probability] under this coin, in nats; what has probability 0 here counts 0.
    pub fn cross_entropy(&self, other: &Bernoulli) -> f64 {
        let part = |p: f64, log_q: f64| if p == 0.0 { 0.0 } else { -p * log_q };
        part(self.theta, other.theta.ln()) + part(1.0 - self.theta, (-other.theta).ln_1p())
    }

    /// KL(self ‖ other), in nats.
    pub fn kl(&self, other: &Bernoulli) -> f64 {
        let part = |p: f64, q: f64| if p == 0.0 { 0.0 } else { p * (p / q).ln() };
        part(self.theta, other.theta) + part(1.0 - self.theta, 1.0 - other.theta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certain_coins_have_no_entropy_and_wrong_ones_no_finite_likelihood() {
        let certain = Bernoulli::fit(&[true; 3]).unwrap();
        assert_eq!((certain.theta(), certain.entropy(), certain.nll(&[true])), (1.0, 0.0, 0.0));
        assert_eq!(certain.nll(&[false]), f64::INFINITY);
        let fair = Bernoulli::new(0.5).unwrap();
        assert!((certain.kl(&fair) - 2f64.ln()).abs() < 1e-15);
        assert_eq!(fair.kl(&certain), f64::INFINITY);
        assert!(Bernoulli::new(1.5).is_err() && Bernoulli::new(f64::NAN).is_err() && Bernoulli::fit(&[]).is_err());
    }
}
