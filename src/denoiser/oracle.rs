//! Denoisers whose every number is known: Gaussian mixtures with any covariances, down to the points of a finite data set
//! (items 9, 13, 43). With them samplers, losses and likelihoods are proved without a network.
//!
//! x0 ~ Σ w_k·N(m_k, C_k) makes x_t ~ Σ w_k·N(alpha·m_k, V_k) with V_k = alpha²·C_k + sigma²·I. All is f64, in the eigenbasis of C_k.

use super::{Denoiser, Estimate};
use crate::analytic::{Mixture, gaussian};
use crate::device::{DisjointMut, for_each_block};
use crate::error::{Error, Result};
use crate::process::Level;
use crate::rng::{Address, Purpose};
use crate::tensor::{Dtype, Tensor};
use nalgebra::{DMatrix, SymmetricEigen};

/// A Gaussian mixture, a single Gaussian, or a finite data set, as data distribution.
///
/// # Example
/// ```
/// use tweedie::{denoiser::oracle::Oracle, process::Level};
/// // Gaussian shrinkage (S3, Example 1): E[x0 | x0 + 2·eps = 3] = 4/(4 + 4)·3 for x0 ~ N(0, 4).
/// let oracle = Oracle::gaussian(&[0.0], &[4.0])?;
/// assert_eq!(oracle.posterior_mean(&[3.0], Level::of(1.0, 2.0)), [1.5]);
/// # Ok::<(), tweedie::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Oracle {
    dim: usize,
    components: Vec<Component>,
}

#[derive(Clone, Debug)]
struct Component {
    weight: f64,
    mean: Vec<f64>,
    /// Eigenvectors of the covariance, one a row; none where all variances are equal.
    basis: Option<Vec<f64>>,
    /// Eigenvalues, one for each axis.
    variances: Vec<f64>,
}

/// What one component says of a point.
struct View {
    /// Q·(x − alpha·m).
    along: Vec<f64>,
    /// ln(w·N(x; alpha·m, V)).
    log_joint: f64,
}

impl Oracle {
    /// N(mean, covariance), the covariance `[d, d]` row-major.
    ///
    /// # Errors
    /// As [`Oracle::mixture`].
    pub fn gaussian(mean: &[f64], covariance: &[f64]) -> Result<Oracle> {
        Oracle::mixture(&[1.0], &[mean.to_vec()], &[covariance.to_vec()])
    }

    /// Σ weight·N(mean, covariance); weights are normalised.
    ///
    /// # Errors
    /// [`Error::Usage`] if lengths differ, a weight is not above 0, or a covariance is not symmetric and non-negative.
    pub fn mixture(weights: &[f64], means: &[Vec<f64>], covariances: &[Vec<f64>]) -> Result<Oracle> {
        if covariances.len() != weights.len() {
            let (w, c) = (weights.len(), covariances.len());
            return Err(Error::Usage(format!("oracle: {w} weights and {c} covariances; give one of each a component")));
        }
        let mut oracle = Oracle::isotropic(weights, means, &vec![0.0; weights.len()])?;
        let d = oracle.dim;
        for (component, covariance) in oracle.components.iter_mut().zip(covariances) {
            let symmetric = |i: usize, j: usize| (covariance[i * d + j] - covariance[j * d + i]).abs() <= 1e-12;
            if covariance.len() != d * d || !(0..d * d).all(|k| symmetric(k / d, k % d)) {
                let n = covariance.len();
                return Err(Error::Usage(format!("oracle: a covariance of {n} numbers: expected a symmetric {d}x{d}")));
            }
            let eigen = SymmetricEigen::new(DMatrix::from_row_slice(d, d, covariance));
            if let Some(bad) = eigen.eigenvalues.iter().find(|v| !(**v >= -1e-12)) {
                return Err(Error::Usage(format!(
                    "oracle: a covariance has the eigenvalue {bad}: expected none below 0"
                )));
            }
            component.variances = eigen.eigenvalues.iter().map(|v| v.max(0.0)).collect();
            // Columns of the matrix are the vectors, and it is stored by columns: one a row here.
            component.basis = Some(eigen.eigenvectors.as_slice().to_vec());
        }
        Ok(oracle)
    }

    /// Σ weight·N(mean, std²·I); weights are normalised.
    ///
    /// # Errors
    /// [`Error::Usage`] if lengths differ, there is no component, a weight is not above 0 or a std below 0.
    pub fn isotropic(weights: &[f64], means: &[Vec<f64>], stds: &[f64]) -> Result<Oracle> {
        let dim = means.first().map_or(0, Vec::len);
        if dim == 0 || means.iter().any(|m| m.len() != dim) || [means.len(), stds.len()] != [weights.len(); 2] {
            let (w, m, s) = (weights.len(), means.len(), stds.len());
            return Err(Error::Usage(format!(
                "oracle: {w} weights, {m} means, {s} deviations; give one of each a component, all means of one length"
            )));
        }
        let total: f64 = weights.iter().sum();
        let are_finite = means.iter().flatten().all(|m| m.is_finite());
        if !(are_finite
            && weights.iter().all(|w| *w > 0.0)
            && total.is_finite()
            && stds.iter().all(|s| *s >= 0.0 && s.is_finite()))
        {
            return Err(Error::Usage(
                "oracle: weights must be above 0 and deviations not below 0, and all numbers finite".into(),
            ));
        }
        let component = |k: usize| Component {
            weight: weights[k] / total,
            mean: means[k].clone(),
            basis: None,
            variances: vec![stds[k].powi(2); dim],
        };
        Ok(Oracle { dim, components: (0..weights.len()).map(component).collect() })
    }

    /// The uniform law on a finite set of points: what a model that has memorised its training data samples.
    ///
    /// # Errors
    /// As [`Oracle::isotropic`].
    pub fn data_set(points: &[Vec<f64>]) -> Result<Oracle> {
        Oracle::isotropic(&vec![1.0; points.len()], points, &vec![0.0; points.len()])
    }

    /// Length of a point.
    pub fn dim(&self) -> usize {
        self.dim
    }

    fn view(&self, component: &Component, x: &[f64], at: Level) -> View {
        let difference: Vec<f64> = x.iter().zip(&component.mean).map(|(x, m)| x - at.alpha * m).collect();
        let along = component.rotate(&difference);
        let mut log_joint = component.weight.ln();
        for (u, variance) in along.iter().zip(&component.variances) {
            let v = at.alpha.powi(2) * variance + at.sigma.powi(2);
            log_joint -= 0.5 * (u * u / v + (std::f64::consts::TAU * v).ln());
        }
        View { along, log_joint }
    }

    /// Each component's view and its probability given x_t; and ln p_t(x_t).
    fn posterior(&self, x: &[f64], at: Level) -> (Vec<(View, f64)>, f64) {
        let views: Vec<View> = self.components.iter().map(|c| self.view(c, x, at)).collect();
        let top = views.iter().map(|v| v.log_joint).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = views.iter().map(|v| (v.log_joint - top).exp()).sum();
        let log_density = top + total.ln();
        let shares: Vec<f64> = views.iter().map(|v| (v.log_joint - log_density).exp()).collect();
        (views.into_iter().zip(shares).collect(), log_density)
    }

    /// ln p_t(x_t).
    pub fn log_density(&self, x_t: &[f64], at: Level) -> f64 {
        self.posterior(x_t, at).1
    }

    /// ∇ ln p_t(x_t).
    pub fn score(&self, x_t: &[f64], at: Level) -> Vec<f64> {
        let mut score = vec![0.0; self.dim];
        for ((view, share), component) in self.posterior(x_t, at).0.iter().zip(&self.components) {
            let scaled = component.over_marginal(&view.along, at, |_| -1.0);
            add_scaled(&mut score, *share, &component.rotate_back(&scaled));
        }
        score
    }

    /// E[x0 | x_t], computed from the components' own posteriors, not through the score.
    pub fn posterior_mean(&self, x_t: &[f64], at: Level) -> Vec<f64> {
        if at.is_clean() {
            return x_t.iter().map(|x| x / at.alpha).collect();
        }
        let mut mean = vec![0.0; self.dim];
        for ((view, share), component) in self.posterior(x_t, at).0.iter().zip(&self.components) {
            add_scaled(&mut mean, *share, &component.posterior_mean(&view.along, at));
        }
        mean
    }

    /// Cov[x0 | x_t], `[d, d]` row-major.
    pub fn posterior_covariance(&self, x_t: &[f64], at: Level) -> Vec<f64> {
        let d = self.dim;
        let mean = self.posterior_mean(x_t, at);
        let mut covariance = vec![0.0; d * d];
        for ((view, share), component) in self.posterior(x_t, at).0.iter().zip(&self.components) {
            let own: Vec<f64> =
                component.posterior_mean(&view.along, at).iter().zip(&mean).map(|(a, b)| a - b).collect();
            let ones = vec![1.0; d];
            let inner = component.over_marginal(&ones, at, |variance| variance * at.sigma.powi(2));
            component.add_diagonal(&mut covariance, *share, &inner);
            add_outer(&mut covariance, *share, &own);
        }
        covariance
    }

    /// ∇² ln p_t(x_t), `[d, d]` row-major.
    pub fn hessian(&self, x_t: &[f64], at: Level) -> Vec<f64> {
        let mut hessian = vec![0.0; self.dim * self.dim];
        for ((view, share), component) in self.posterior(x_t, at).0.iter().zip(&self.components) {
            let scaled = component.over_marginal(&view.along, at, |_| -1.0);
            add_outer(&mut hessian, *share, &component.rotate_back(&scaled));
            let inverse = component.over_marginal(&vec![1.0; self.dim], at, |_| -1.0);
            component.add_diagonal(&mut hessian, *share, &inverse);
        }
        add_outer(&mut hessian, -1.0, &self.score(x_t, at));
        hessian
    }

    /// Draws `count` points `[count, d]` (f64) of p_t; sample i of a seed is always the same. [`Level::CLEAN`] draws data.
    ///
    /// # Errors
    /// Never: a tensor of this size can be made.
    pub fn sample(&self, seed: u64, count: usize, at: Level) -> Result<Tensor> {
        let mut values = Vec::with_capacity(count * self.dim);
        let mut z = vec![0.0_f32; 2 * self.dim];
        for i in 0..count {
            let address = Address::new(seed, Purpose::Oracle).sample(i);
            let mut rest = address.sub_index(1).uniform(0);
            let chosen = self.components.iter().find(|c| {
                rest -= c.weight;
                rest < 0.0
            });
            // Rounding may leave a last bit beyond the last component.
            let component = chosen.unwrap_or(&self.components[self.components.len() - 1]);
            address.fill_normal(&mut z);
            let inner: Vec<f64> = component.variances.iter().zip(&z).map(|(v, z)| v.sqrt() * f64::from(*z)).collect();
            let spread = component.rotate_back(&inner);
            for j in 0..self.dim {
                let x0 = component.mean[j] + spread[j];
                values.push(at.alpha * x0 + at.sigma * f64::from(z[self.dim + j]));
            }
        }
        Tensor::from_slice(&values, [count, self.dim])
    }

    fn denoise_into(&self, x: &[f64], at: Level, out: &mut [f64]) {
        out.copy_from_slice(&self.posterior_mean(x, at));
    }
}

impl From<&Mixture> for Oracle {
    /// The same law, as a denoiser of `[n, 1]`.
    fn from(mixture: &Mixture) -> Oracle {
        let component = |c: &gaussian::Component| Component {
            weight: c.weight,
            mean: vec![c.mean],
            basis: None,
            variances: vec![c.std * c.std],
        };
        Oracle { dim: 1, components: mixture.components().iter().map(component).collect() }
    }
}

impl Component {
    fn rotate(&self, x: &[f64]) -> Vec<f64> {
        match &self.basis {
            None => x.to_vec(),
            Some(q) => q.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(q, x)| q * x).sum()).collect(),
        }
    }

    fn rotate_back(&self, u: &[f64]) -> Vec<f64> {
        let Some(q) = &self.basis else { return u.to_vec() };
        let mut x = vec![0.0; u.len()];
        for (row, u) in q.chunks_exact(u.len()).zip(u) {
            add_scaled(&mut x, *u, row);
        }
        x
    }

    /// u·factor(variance)/(alpha²·variance + sigma²), axis by axis.
    fn over_marginal(&self, u: &[f64], at: Level, factor: impl Fn(f64) -> f64) -> Vec<f64> {
        let marginal = |variance: f64| at.alpha.powi(2) * variance + at.sigma.powi(2);
        u.iter().zip(&self.variances).map(|(u, v)| u * factor(*v) / marginal(*v)).collect()
    }

    fn posterior_mean(&self, along: &[f64], at: Level) -> Vec<f64> {
        let inner = self.over_marginal(along, at, |variance| at.alpha * variance);
        let mut mean = self.rotate_back(&inner);
        add_scaled(&mut mean, 1.0, &self.mean);
        mean
    }

    /// Adds scale·Qᵀ·diag·Q.
    fn add_diagonal(&self, matrix: &mut [f64], scale: f64, diagonal: &[f64]) {
        let d = diagonal.len();
        match &self.basis {
            None => (0..d).for_each(|i| matrix[i * d + i] += scale * diagonal[i]),
            Some(q) => {
                for (row, value) in q.chunks_exact(d).zip(diagonal) {
                    add_outer(matrix, scale * value, row);
                }
            }
        }
    }
}

fn add_scaled(sum: &mut [f64], scale: f64, x: &[f64]) {
    sum.iter_mut().zip(x).for_each(|(s, x)| *s += scale * x);
}

fn add_outer(matrix: &mut [f64], scale: f64, x: &[f64]) {
    for (row, a) in matrix.chunks_exact_mut(x.len()).zip(x) {
        add_scaled(row, scale * a, x);
    }
}

impl Denoiser for Oracle {
    /// Takes `[n, …]` whose rows have the oracle's length, f32 or f64.
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        let n = x_t.shape().first().copied().unwrap_or(0);
        if n == 0 || x_t.count() != n * self.dim {
            let (shape, dim) = (x_t.shape(), self.dim);
            return Err(Error::Shape(format!("oracle: x_t {shape}: expected rows of {dim} numbers")));
        }
        let x: Vec<f64> = match x_t.dtype() {
            Dtype::F64 => x_t.to_vec()?,
            Dtype::F32 => x_t.host::<f32>()?.iter().map(|v| f64::from(*v)).collect(),
            Dtype::Bf16 => return Err(Error::Dtype("oracle: wants f32 or f64, got Bf16".into())),
        };
        let mut means = vec![0.0; x.len()];
        let out = DisjointMut::new(&mut means);
        let d = self.dim;
        for_each_block(n, 20 * d * self.components.len(), |i| {
            self.denoise_into(&x[i * d..(i + 1) * d], at, out.slice(i * d, d));
        });
        let x0_hat = Tensor::from_f64s(&means, x_t.shape(), x_t.dtype())?;
        if at.is_clean() {
            return Ok(Estimate {
                x_t: x_t.clone(),
                net_out: x0_hat,
                x0: (0.0, 1.0),
                eps: (0.0, 0.0),
                clip: None,
                x0_hat: None,
                variance: None,
                is_guided: false,
            });
        }
        Ok(Estimate::of_x0(x_t.clone(), x0_hat, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oracle_of_a_mixture_has_its_density_and_score_at_every_level() {
        let mixture = Mixture::new(&[1.0, 3.0], &[-2.0, 1.5], &[0.3, 0.8]).unwrap();
        let oracle = Oracle::from(&mixture);
        for (alpha, sigma) in [(1.0, 0.0), (1.0, 2.0), (0.6, 0.8)] {
            let (at, noised) = (Level::of(alpha, sigma), mixture.noised(alpha, sigma).unwrap());
            for x in [-3.0, 0.1, 1.5] {
                // Both are some twenty roundings of numbers of size 10.
                assert!((oracle.log_density(&[x], at) - noised.log_pdf(x)).abs() < 1e-13, "density at {x}");
                assert!((oracle.score(&[x], at)[0] - noised.score(x)).abs() < 1e-13, "score at {x}");
            }
        }
    }
}
