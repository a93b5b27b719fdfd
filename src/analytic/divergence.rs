//! Kullback and Leibler's divergence between Gaussians, in nats: isotropic (S3.eq58, Exercise 9), diagonal (S0) and general (S1); item 32.
//! Arguments are variances throughout, the second law's after the first's.

use crate::{Error, Result};
use nalgebra::{DMatrix, DVector};

/// KL(N(mean0, variance0·I) ‖ N(mean1, variance1·I)) in as many dimensions as the means have: ½(d·(r − 1 − ln r) + ‖mean1 −
/// mean0‖²/variance1) with r = variance0/variance1.
///
/// # Errors
/// [`Error::Usage`] if the means differ in length or a variance is not above 0.
///
/// # Example
/// ```
/// use tweedie::analytic::divergence::kl_isotropic;
/// assert_eq!(kl_isotropic(&[0.0, 0.0], 1.0, &[3.0, 4.0], 1.0)?, 12.5);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn kl_isotropic(mean0: &[f64], variance0: f64, mean1: &[f64], variance1: f64) -> Result<f64> {
    let (d0, d1) = (vec![variance0; mean0.len()], vec![variance1; mean1.len()]);
    kl_diagonal(mean0, &d0, mean1, &d1)
}

/// KL(N(mean0, diag variances0) ‖ N(mean1, diag variances1)): ½Σ[ln(v1/v0) − 1 + v0/v1 + (m1 − m0)²/v1].
///
/// # Errors
/// [`Error::Usage`] if lengths differ or a variance is not above 0.
pub fn kl_diagonal(mean0: &[f64], variances0: &[f64], mean1: &[f64], variances1: &[f64]) -> Result<f64> {
    let lengths = [variances0.len(), mean1.len(), variances1.len()];
    if lengths != [mean0.len(); 3] {
        let d = mean0.len();
        return Err(Error::Usage(format!("kl: {d} means and lists of {lengths:?}: expected one length")));
    }
    if let Some(bad) = variances0.iter().chain(variances1).find(|v| !(**v > 0.0 && v.is_finite())) {
        return Err(Error::Usage(format!("kl: a variance of {bad}: expected numbers above 0")));
    }
    let means = mean0.iter().zip(mean1).map(|(a, b)| (b - a).powi(2));
    let terms =
        means.zip(variances0.iter().zip(variances1)).map(|(square, (v0, v1))| variance_part(v0 / v1) + square / v1);
    Ok(0.5 * terms.sum::<f64>())
}

/// r − 1 − ln r, without the cancellation of its parts where r is near 1.
pub fn variance_part(r: f64) -> f64 {
    let x = r - 1.0;
    if x.abs() < 1e-2 {
        // x²/2 − x³/3 + …: the ninth term is 1e-2⁷·2/9 of the first, below rounding.
        let series = |n: i32| (-1f64).powi(n) / f64::from(n) * x.powi(n);
        return (2..10).rev().map(series).sum();
    }
    x - r.ln()
}

/// KL(N(mean0, cov0) ‖ N(mean1, cov1)) for covariances `[d, d]`, row-major: ½(tr(cov1⁻¹cov0) − d + Δᵀcov1⁻¹Δ + ln det cov1/det cov0), by
/// Cholesky factors.
///
/// # Errors
/// [`Error::Usage`] if sizes differ or a covariance is not symmetric positive definite.
pub fn kl_full(mean0: &[f64], cov0: &[f64], mean1: &[f64], cov1: &[f64]) -> Result<f64> {
    let d = mean0.len();
    if mean1.len() != d || [cov0.len(), cov1.len()] != [d * d; 2] {
        let sizes = [mean1.len(), cov0.len(), cov1.len()];
        return Err(Error::Usage(format!("kl: sizes {sizes:?} for {d} means: expected {d}, {0} and {0}", d * d)));
    }
    let factor = |cov: &[f64]| {
        let matrix = DMatrix::from_row_slice(d, d, cov);
        let is_symmetric = (&matrix - matrix.transpose()).amax() <= 1e-12 * matrix.amax();
        let factor = if is_symmetric { matrix.cholesky() } else { None };
        factor.ok_or_else(|| Error::Usage("kl: a covariance is not symmetric and positive definite".into()))
    };
    let (l0, l1) = (factor(cov0)?.l(), factor(cov1)?.l());
    let log_det = |l: &DMatrix<f64>| 2.0 * l.diagonal().iter().map(|v| v.ln()).sum::<f64>();
    let solved = |b: &DMatrix<f64>| {
        l1.solve_lower_triangular(b).ok_or_else(|| Error::Usage("kl: a covariance is singular".into()))
    };
    // tr(cov1⁻¹cov0) = ‖L1⁻¹L0‖², Δᵀcov1⁻¹Δ = ‖L1⁻¹Δ‖².
    let delta = DVector::from_column_slice(mean1) - DVector::from_column_slice(mean0);
    let trace = solved(&l0)?.norm_squared();
    let square = solved(&DMatrix::from_column_slice(d, 1, delta.as_slice()))?.norm_squared();
    Ok(0.5 * (trace - d as f64 + square + log_det(&l1) - log_det(&l0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_part_is_smooth_across_its_branches() {
        for r in [1.0 - 1.01e-2, 1.0 - 0.99e-2, 1.0 + 0.99e-2, 1.0 + 1.01e-2] {
            // x − ln(1 + x) loses about EPSILON/x of x²/2.
            let want: f64 = (r - 1.0) - (r - 1.0_f64).ln_1p();
            assert!((variance_part(r) / want - 1.0).abs() < 1e-11, "{r}");
        }
        assert_eq!(variance_part(1.0), 0.0);
        assert!((variance_part(1.0 + 1e-8) / 0.5e-16 - 1.0).abs() < 1e-7);
    }

    #[test]
    fn laws_that_do_not_fit_are_refused() {
        assert!(kl_isotropic(&[0.0], 0.0, &[0.0], 1.0).unwrap_err().to_string().contains("variance of 0"));
        assert!(kl_isotropic(&[0.0, 1.0], 1.0, &[0.0], 1.0).is_err());
        assert!(kl_full(&[0.0; 2], &[1.0, 0.0, 0.0, 1.0], &[0.0; 2], &[1.0, 2.0, 2.0, 1.0]).is_err());
        assert!(kl_full(&[0.0; 2], &[1.0, 0.0, 0.5, 1.0], &[0.0; 2], &[1.0, 0.0, 0.0, 1.0]).is_err());
        assert!(kl_full(&[0.0; 2], &[1.0; 3], &[0.0; 2], &[1.0; 4]).is_err());
    }
}
