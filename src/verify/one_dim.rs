//! What the identities of the chains in one dimension share: worst errors that keep a NaN, orders, z-scores, one known mixture.

use crate::analytic::{Mixture, statistics};
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::rng::{Address, Purpose};
use crate::tensor::Tensor;

/// The largest of the errors; NaN if one is.
pub(super) fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, |top: f64, error| if error.is_nan() || error > top { error } else { top })
}

/// The largest of the errors that could be measured; the first failure if one could not.
pub(super) fn worst_of(errors: impl IntoIterator<Item = Result<f64>>) -> Result<f64> {
    Ok(worst(errors.into_iter().collect::<Result<Vec<f64>>>()?))
}

/// How far the order at which `errors` fall with `steps` is from `order`; infinite where they do not fall at every refinement.
pub(super) fn falling_order_miss(steps: &[f64], errors: &[f64], order: f64) -> Result<f64> {
    let falls = steps.windows(2).zip(errors.windows(2)).all(|(s, e)| (s[1] < s[0]) == (e[1] < e[0]));
    if !falls {
        return Ok(f64::INFINITY);
    }
    Ok((statistics::fit_order(steps, errors)? - order).abs())
}

/// The larger distance of sample mean and variance from the law's, in standard errors.
pub(super) fn moments_z(samples: &[f64], mean: f64, variance: f64) -> Result<f64> {
    let m = statistics::moments(samples)?;
    Ok(worst([(m.mean - mean).abs() / m.mean_error, (m.variance - variance).abs() / m.variance_error]))
}

/// Kolmogorov and Smirnov's distance in units of 1/√n: above 1.95 once in a thousand seeds, above 2.23 once in ten thousand.
pub(super) fn ks_scaled(samples: &[f64], law: &Mixture) -> Result<f64> {
    Ok((samples.len() as f64).sqrt() * statistics::ks(samples, |x| law.cdf(x))?)
}

/// One row of all numbers, for batches that are noised and stepped as one image.
pub(super) fn one_row(values: &[f64]) -> Result<Tensor> {
    Tensor::from_slice(values, [1, values.len()])
}

/// Equidistant points, both ends included.
pub(super) fn points(low: f64, high: f64, count: usize) -> Vec<f64> {
    (0..count).map(|i| low + (high - low) * i as f64 / (count - 1) as f64).collect()
}

/// Two bumps of unequal weight: neither centred, nor symmetric, nor of unit variance. As a law and as a denoiser.
pub(super) fn uneven_bumps() -> Result<(Mixture, Oracle)> {
    let (weights, means, stds) = ([0.3, 0.7], [-1.5, 1.0], [0.4, 0.5]);
    let oracle = Oracle::isotropic(&weights, &means.map(|m| vec![m]), &stds)?;
    Ok((Mixture::new(&weights, &means, &stds)?, oracle))
}

/// Samples of a law.
pub(super) fn draw(law: &Mixture, seed: u64, count: usize) -> Vec<f64> {
    let mut samples = vec![0.0; count];
    law.sample(Address::new(seed, Purpose::Oracle), &mut samples);
    samples
}
