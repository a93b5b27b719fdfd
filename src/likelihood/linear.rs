//! Reverse chains whose every step is affine and Gaussian, in one dimension: there −log p(x0), the bound and the gap between them are
//! finite sums (items 25 and 30; S3.eq31–39). A model with an affine eps_hat on N(·, ·) data, coordinate by coordinate, is such a chain.

use super::chain::Chain;
use crate::analytic::divergence::{kl_diagonal, kl_full};
use crate::error::{Error, Result};
use crate::process::Level;
use nalgebra::{DMatrix, DVector};
use std::f64::consts::TAU;

/// p(x_s | x_t) = N(shift + keep·x_t, variance).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearStep {
    /// What is added.
    pub shift: f64,
    /// Factor of x_t.
    pub keep: f64,
    /// Variance of the noise.
    pub variance: f64,
}

/// p(x_T) and the steps x_T → … → x_1 → x0 of a chain.
///
/// # Example
/// ```
/// use tweedie::{likelihood::{LinearChain, LinearStep}, process::Level};
/// // One level of noise; q(x_1|x0) = N(0.6·x0, 0.8²), x0 ~ N(0, 1), and the exact posterior of it: nothing is lost.
/// let step = LinearStep { shift: 0.0, keep: 0.6, variance: 0.64 };
/// let chain = LinearChain::new(vec![Level::of(0.6, 0.8)], vec![step], 1.0)?;
/// assert!((chain.bound(1.5)? + chain.log_density(1.5)).abs() < 1e-14);
/// # Ok::<(), tweedie::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LinearChain {
    levels: Vec<Level>,
    steps: Vec<LinearStep>,
    prior_variance: f64,
}

impl LinearChain {
    /// A chain over `levels`, the cleanest first; step number i leads from level i to level i − 1, step 0 to the data.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are not as many steps as levels, or a variance is not above 0.
    pub fn new(levels: Vec<Level>, steps: Vec<LinearStep>, prior_std: f64) -> Result<LinearChain> {
        if levels.is_empty() || steps.len() != levels.len() {
            let (l, s) = (levels.len(), steps.len());
            return Err(Error::Usage(format!("linear chain: {s} steps over {l} levels: expected one for each")));
        }
        if let Some(bad) = steps.iter().map(|s| s.variance).chain([prior_std]).find(|v| !(*v > 0.0)) {
            return Err(Error::Usage(format!("linear chain: a variance or deviation of {bad}: expected above 0")));
        }
        Ok(LinearChain { levels, steps, prior_variance: prior_std * prior_std })
    }

    /// The chain of a model that estimates x0_hat = a + b·x_t, `estimate(level)` = (a, b).
    ///
    /// # Errors
    /// As [`LinearChain::new`].
    pub fn of_model(chain: &Chain, variances: &[f64], estimate: impl Fn(Level) -> (f64, f64)) -> Result<LinearChain> {
        let levels = chain.levels();
        if variances.len() != levels.len() {
            let (l, v) = (levels.len(), variances.len());
            return Err(Error::Usage(format!("linear chain: {v} variances over {l} levels: expected one for each")));
        }
        let (a, b) = estimate(chain.first());
        let mut steps = vec![LinearStep { shift: a, keep: b, variance: variances[0] }];
        for (link, variance) in chain.links().iter().zip(&variances[1..]) {
            let (from, to) = (link.transition.from(), link.transition.to());
            let (a, b) = estimate(from);
            let of_x0 = link.transition.x0_factor(link.transition.beta_tilde());
            // The posterior's factor of x_t: (alpha_t/alpha_s)·(sigma_s/sigma_t)².
            let of_x = (from.log_alpha - to.log_alpha).exp() * (to.sigma / from.sigma).powi(2);
            steps.push(LinearStep { shift: of_x0 * a, keep: of_x + of_x0 * b, variance: *variance });
        }
        LinearChain::new(levels.to_vec(), steps, chain.prior_std())
    }

    /// ln p(x0), exact: the chain's marginal is Gaussian.
    pub fn log_density(&self, x0: f64) -> f64 {
        let (mean, variance) = self.steps.iter().rev().fold((0.0, self.prior_variance), |(mean, variance), step| {
            (step.shift + step.keep * mean, step.keep * step.keep * variance + step.variance)
        });
        -0.5 * ((TAU * variance).ln() + (x0 - mean).powi(2) / variance)
    }

    /// L_T + Σ L_{t−1} + L_0 of x0 in nats, every expectation over q in closed form.
    ///
    /// # Errors
    /// Never for a chain that could be built.
    pub fn bound(&self, x0: f64) -> Result<f64> {
        Ok(self.parts(x0)?.iter().sum())
    }

    /// The same as L_T, Σ L_{t−1} and L_0.
    ///
    /// # Errors
    /// As [`LinearChain::bound`].
    pub fn parts(&self, x0: f64) -> Result<[f64; 3]> {
        let top = self.levels[self.levels.len() - 1];
        let terminal = kl_diagonal(&[top.alpha * x0], &[top.sigma.powi(2)], &[0.0], &[self.prior_variance])?;
        let mut diffusion = 0.0;
        for (pair, step) in self.levels.windows(2).zip(&self.steps[1..]) {
            let (to, from) = (pair[0], pair[1]);
            // q(x_s | x_t, x0) = N(x·x_t + z·x0, tilde); both means are affine in x_t ~ N(alpha·x0, sigma²).
            let ratio = from.alpha / to.alpha;
            let x = ratio * (to.sigma / from.sigma).powi(2);
            let tilde = to.sigma.powi(2) - x * x * from.sigma.powi(2);
            let z = to.alpha - x * from.alpha;
            let at_mean = (step.keep - x) * from.alpha * x0 + step.shift - z * x0;
            let square = at_mean.powi(2) + ((step.keep - x) * from.sigma).powi(2);
            diffusion += kl_diagonal(&[0.0], &[tilde], &[0.0], &[step.variance])? + 0.5 * square / step.variance;
        }
        let (first, last) = (self.levels[0], self.steps[0]);
        let square = (last.shift + last.keep * first.alpha * x0 - x0).powi(2) + (last.keep * first.sigma).powi(2);
        Ok([terminal, diffusion, 0.5 * ((TAU * last.variance).ln() + square / last.variance)])
    }

    /// KL(q(x_1…x_T | x0) ‖ p(x_1…x_T | x0)), from the two joint Gaussians: what the bound loses.
    ///
    /// # Errors
    /// [`Error::Usage`] if a covariance is singular to rounding.
    pub fn gap(&self, x0: f64) -> Result<f64> {
        let t = self.levels.len();
        // q: Cov(x_s, x_t) = (alpha_t/alpha_s)·sigma_s² for s below t.
        let q_mean: Vec<f64> = self.levels.iter().map(|l| l.alpha * x0).collect();
        let q_cov = DMatrix::from_fn(t, t, |i, j| {
            let (low, high) = (self.levels[i.min(j)], self.levels[i.max(j)]);
            high.alpha / low.alpha * low.sigma.powi(2)
        });
        // p: rows 0..t are x_1 … x_T, row t is x0; built from x_T downwards, then conditioned on x0.
        let mut mean = DVector::<f64>::zeros(t + 1);
        let mut cov = DMatrix::<f64>::zeros(t + 1, t + 1);
        cov[(t - 1, t - 1)] = self.prior_variance;
        for (i, step) in self.steps.iter().enumerate().rev() {
            let (from, to) = (i, if i == 0 { t } else { i - 1 });
            mean[to] = step.shift + step.keep * mean[from];
            for k in (i..t).rev() {
                let value = step.keep * cov[(from, k)];
                (cov[(to, k)], cov[(k, to)]) = (value, value);
            }
            cov[(to, to)] = step.keep.powi(2) * cov[(from, from)] + step.variance;
        }
        let spread = cov[(t, t)];
        let lean = |i: usize| cov[(i, t)] / spread;
        let p_mean: Vec<f64> = (0..t).map(|i| mean[i] + lean(i) * (x0 - mean[t])).collect();
        let p_cov = DMatrix::from_fn(t, t, |i, j| cov[(i, j)] - lean(i) * cov[(j, t)]);
        kl_full(&q_mean, q_cov.as_slice(), &p_mean, p_cov.as_slice())
    }
}
