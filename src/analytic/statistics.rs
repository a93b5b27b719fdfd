//! What samples say about a law: distances of distributions, moments with their standard errors, generating functions,
//! and the order at which errors fall.
//!
//! All functions refuse an empty or non-finite sample, so that a NaN cannot pass a bound.

use crate::analytic::inverse::invert_cdf;
use crate::analytic::quadrature::GaussLegendre;
use crate::{Error, Result};

/// The samples in ascending order, or an error if there are fewer than `least` or one is not finite.
fn sorted(samples: &[f64], least: usize) -> Result<Vec<f64>> {
    check(samples, least)?;
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    Ok(sorted)
}

fn check(samples: &[f64], least: usize) -> Result<()> {
    if samples.len() < least {
        return Err(Error::Usage(format!("statistics: at least {least} samples, got {}; draw more", samples.len())));
    }
    match samples.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::NonFinite(format!(
            "statistics: samples must be finite, got {} at index {at}; look for the step that made it",
            samples[at]
        ))),
    }
}

// ---- distances ----

/// Kolmogorov and Smirnov's statistic sup_x |F_n(x) − F(x)| of samples to a continuous distribution function, in [0, 1].
///
/// # Errors
/// [`Error::Usage`] without samples; [`Error::NonFinite`] for a sample or a value of `cdf` that is not finite.
pub fn ks(samples: &[f64], cdf: impl Fn(f64) -> f64) -> Result<f64> {
    let sorted = sorted(samples, 1)?;
    let n = sorted.len() as f64;
    let mut distance = 0.0f64;
    for (i, &x) in sorted.iter().enumerate() {
        let value = cdf(x);
        if !value.is_finite() {
            return Err(Error::NonFinite(format!("ks: cdf({x}) is {value}; pass a distribution function")));
        }
        distance = distance.max(value - i as f64 / n).max((i + 1) as f64 / n - value);
    }
    Ok(distance)
}

/// The two-sample statistic sup_x |F_a(x) − F_b(x)|, in [0, 1]. Its law is that of [`ks`] at n = n_a·n_b/(n_a + n_b).
///
/// # Errors
/// [`Error::Usage`] without samples; [`Error::NonFinite`] for a sample that is not finite.
pub fn ks_two(a: &[f64], b: &[f64]) -> Result<f64> {
    let mut distance = 0.0f64;
    merge(a, b, |gap, _| distance = distance.max(gap))?;
    Ok(distance)
}

/// Calls `visit(|F_a − F_b|, length)` for every stretch between neighbouring samples of the union, in ascending order.
fn merge(a: &[f64], b: &[f64], mut visit: impl FnMut(f64, f64)) -> Result<()> {
    let (a, b) = (sorted(a, 1)?, sorted(b, 1)?);
    let at = |sorted: &[f64], k: usize| sorted.get(k).copied().unwrap_or(f64::INFINITY);
    let (mut i, mut j) = (0, 0);
    let mut x = at(&a, 0).min(at(&b, 0));
    while x.is_finite() {
        i += a[i..].iter().take_while(|&&value| value == x).count();
        j += b[j..].iter().take_while(|&&value| value == x).count();
        let gap = (i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs();
        let next = at(&a, i).min(at(&b, j));
        // After the last sample both functions are 1; 0 · ∞ would be no number.
        visit(gap, if next.is_finite() { next - x } else { 0.0 });
        x = next;
    }
    Ok(())
}

/// The probability of a Kolmogorov–Smirnov statistic above `distance` if the samples follow the law.
///
/// `n` is the count, n_a·n_b/(n_a + n_b) for two samples. Kolmogorov's limit at (√n + 0.12 + 0.11/√n)·distance
/// (Stephens 1970), good to a few per cent from n = 10 up.
pub fn ks_p_value(distance: f64, n: f64) -> f64 {
    kolmogorov_tail(stephens(n) * distance)
}

/// The Kolmogorov–Smirnov statistic that samples of the law exceed with probability `alpha`; `n` as in [`ks_p_value`].
///
/// # Errors
/// [`Error::Usage`] unless `alpha` lies in (0, 1).
pub fn ks_critical(alpha: f64, n: f64) -> Result<f64> {
    Ok(invert_cdf(|x| 1.0 - kolmogorov_tail(x), 1.0 - alpha, (0.5, 2.0))? / stephens(n))
}

fn stephens(n: f64) -> f64 {
    n.sqrt() + 0.12 + 0.11 / n.sqrt()
}

/// P(K > x) of Kolmogorov's law; the series in 1/x below 1, where the other converges slowly.
fn kolmogorov_tail(x: f64) -> f64 {
    use std::f64::consts::{PI, TAU};
    if x <= 0.0 {
        1.0
    } else if x < 1.0 {
        let term = |k: i32| (-(f64::from(2 * k - 1) * PI / x).powi(2) / 8.0).exp();
        1.0 - TAU.sqrt() / x * (1..=4).map(term).sum::<f64>()
    } else {
        let term = |k: i32| f64::from(1 - 2 * (k % 2)) * (-2.0 * (f64::from(k) * x).powi(2)).exp();
        -2.0 * (1..=6).map(term).sum::<f64>()
    }
}

/// The 1-Wasserstein distance ∫₀¹ |F_n⁻¹(u) − F⁻¹(u)| du of samples to a law by its quantile function, in the unit of x.
///
/// Each of the n cells of u takes four Gauss points: exact to rounding where the quantile is smooth and does not cross
/// the sample, else off by a fraction of the cell's own part, O(1/n) in all. The law needs a mean.
///
/// # Errors
/// [`Error::Usage`] without samples; [`Error::NonFinite`] for a sample or quantile that is not finite.
pub fn wasserstein(samples: &[f64], quantile: impl Fn(f64) -> f64) -> Result<f64> {
    let sorted = sorted(samples, 1)?;
    let rule = GaussLegendre::new(4)?;
    let n = sorted.len() as f64;
    let part = |(i, x): (usize, &f64)| rule.integrate(|u| (x - quantile(u)).abs(), i as f64 / n, (i + 1) as f64 / n);
    let distance: f64 = sorted.iter().enumerate().map(part).sum();
    if !distance.is_finite() {
        return Err(Error::NonFinite(format!(
            "wasserstein: the distance is {distance}; pass a quantile finite in (0, 1)"
        )));
    }
    Ok(distance)
}

/// The 1-Wasserstein distance ∫ |F_a(x) − F_b(x)| dx of two samples, of any two sizes, in the unit of x.
///
/// # Errors
/// [`Error::Usage`] without samples; [`Error::NonFinite`] for a sample that is not finite.
pub fn wasserstein_two(a: &[f64], b: &[f64]) -> Result<f64> {
    let mut distance = 0.0;
    merge(a, b, |gap, length| distance += gap * length)?;
    Ok(distance)
}

// ---- moments ----

/// Mean and variance of samples with their standard errors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// The sample mean.
    pub mean: f64,
    /// Its standard error √(s²/n).
    pub mean_error: f64,
    /// The unbiased variance s².
    pub variance: f64,
    /// Its standard error √((m₄ − s⁴(n − 3)/(n − 1))/n), with m₄ the fourth central moment of the sample.
    pub variance_error: f64,
}

/// Mean, variance and their standard errors: the law must have four moments for the last to mean anything.
///
/// # Errors
/// [`Error::Usage`] for fewer than four samples; [`Error::NonFinite`] for a sample that is not finite.
pub fn moments(samples: &[f64]) -> Result<Moments> {
    check(samples, 4)?;
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let central = |k: i32| samples.iter().map(|x| (x - mean).powi(k)).sum::<f64>();
    let variance = central(2) / (n - 1.0);
    let spread = central(4) / n - variance * variance * (n - 3.0) / (n - 1.0);
    let variance_error = (spread.max(0.0) / n).sqrt();
    Ok(Moments { mean, mean_error: (variance / n).sqrt(), variance, variance_error })
}

/// The sample quantile at `u` in [0, 1], linear between order statistics u·(n − 1) (Hyndman & Fan 1996, type 7).
///
/// # Errors
/// [`Error::Usage`] without samples or for `u` outside [0, 1]; [`Error::NonFinite`] for a sample that is not finite.
pub fn quantile(samples: &[f64], u: f64) -> Result<f64> {
    Ok(quantile_of_sorted(&sorted(samples, 1)?, check_level(u)?))
}

fn check_level(u: f64) -> Result<f64> {
    let text = || format!("quantile: u must lie in [0, 1], got {u}; pass a probability");
    if (0.0..=1.0).contains(&u) { Ok(u) } else { Err(Error::Usage(text())) }
}

fn quantile_of_sorted(sorted: &[f64], u: f64) -> f64 {
    let at = u * (sorted.len() - 1) as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (at - at.floor()) * (sorted[above] - sorted[below])
}

/// The sample median: [`quantile`] at ½.
///
/// # Errors
/// Those of [`quantile`].
pub fn median(samples: &[f64]) -> Result<f64> {
    quantile(samples, 0.5)
}

/// The interquartile range: [`quantile`] at ¾ less that at ¼.
///
/// # Errors
/// Those of [`quantile`].
pub fn iqr(samples: &[f64]) -> Result<f64> {
    let sorted = sorted(samples, 1)?;
    Ok(quantile_of_sorted(&sorted, 0.75) - quantile_of_sorted(&sorted, 0.25))
}

// ---- generating functions ----

/// The empirical moment generating function (1/n) Σ e^{tx} (item 16; S3.eq18–22).
///
/// For a law without exponential moments (Cauchy) it estimates nothing: take [`characteristic`].
///
/// # Errors
/// [`Error::Usage`] without samples; [`Error::NonFinite`] if a sample is not finite or the mean overflows.
pub fn moment_generating(samples: &[f64], t: f64) -> Result<f64> {
    check(samples, 1)?;
    let value = samples.iter().map(|x| (t * x).exp()).sum::<f64>() / samples.len() as f64;
    if !value.is_finite() {
        return Err(Error::NonFinite(format!("moment generating function: {value} at t = {t}; pass a smaller t")));
    }
    Ok(value)
}

/// The empirical characteristic function (1/n) Σ e^{itx} as (real, imaginary); it converges for every law (item 16).
///
/// # Errors
/// [`Error::Usage`] without samples; [`Error::NonFinite`] for a sample or t that is not finite.
pub fn characteristic(samples: &[f64], t: f64) -> Result<(f64, f64)> {
    check(samples, 1)?;
    check(&[t], 1)?;
    let n = samples.len() as f64;
    let (real, imaginary) = samples.iter().fold((0.0, 0.0), |(real, imaginary), x| {
        let (sin, cos) = (t * x).sin_cos();
        (real + cos, imaginary + sin)
    });
    Ok((real / n, imaginary / n))
}

// ---- orders ----

/// The order p at which errors ≈ C·step^p fall: the least-squares slope of ln(error) on ln(step).
///
/// Give it three or more steps, each half the last: with the largest already in the asymptotic range, and the smallest
/// with an error still ten times above rounding or above the statistical error, else the slope measures those. A slope
/// within 0.1 of a whole number names the order.
///
/// # Errors
/// [`Error::Usage`] unless there are as many steps as errors, at least two, all positive and finite, and two steps
/// differ.
pub fn fit_order(steps: &[f64], errors: &[f64]) -> Result<f64> {
    let positive = |values: &[f64]| values.iter().all(|&x| x > 0.0 && x.is_finite());
    let several = steps.iter().any(|step| *step != steps[0]);
    if steps.len() != errors.len() || !positive(steps) || !positive(errors) || !several {
        return Err(Error::Usage(format!(
            "fit_order: as many positive errors as positive, different steps, got {errors:?} at {steps:?}; leave out exact \
             results"
        )));
    }
    let logs = |values: &[f64]| values.iter().map(|x| x.ln()).collect::<Vec<f64>>();
    let centred = |values: Vec<f64>| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.into_iter().map(|x| x - mean).collect::<Vec<f64>>()
    };
    let (x, y) = (centred(logs(steps)), centred(logs(errors)));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    Ok(product(&x, &y) / product(&x, &x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytic::inverse::sample_inverse;
    use crate::rng::{Address, Purpose};

    fn draw(count: usize, seed: u64, quantile: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut samples = vec![0.0; count];
        sample_inverse(quantile, Address::new(seed, Purpose::Test), &mut samples);
        samples
    }

    #[test]
    fn ks_is_the_largest_gap_on_either_side_of_a_jump() {
        let uniform = |x: f64| x.clamp(0.0, 1.0);
        assert_eq!(ks(&[0.5], uniform).unwrap(), 0.5);
        assert_eq!(ks(&[0.75], uniform).unwrap(), 0.75);
        assert_eq!(ks(&[0.9, 0.1], uniform).unwrap(), 0.4);
        assert_eq!(ks(&[0.25, 0.25, 0.25, 0.25], uniform).unwrap(), 0.75);
        assert!(ks(&[], uniform).is_err() && ks(&[f64::NAN], uniform).is_err() && ks(&[0.0], |_| f64::NAN).is_err());
    }

    #[test]
    fn two_sample_ks_counts_ties_once() {
        assert_eq!(ks_two(&[1.0, 2.0], &[1.0, 2.0]).unwrap(), 0.0);
        assert_eq!(ks_two(&[1.0, 1.0], &[1.0]).unwrap(), 0.0);
        assert_eq!(ks_two(&[1.0, 2.0, 3.0, 4.0], &[3.0, 4.0]).unwrap(), 0.5);
        assert_eq!(ks_two(&[0.0], &[1.0, 2.0]).unwrap(), 1.0);
        assert_eq!(ks_two(&[1.0, 2.0], &[0.0]).unwrap(), 1.0);
    }

    #[test]
    fn critical_values_are_those_of_the_table() {
        // Kolmogorov's limit: 1.2238 at 10 %, 1.3581 at 5 %, 1.6276 at 1 %, 1.9495 at 0.1 %.
        for (alpha, want) in [(0.1, 1.2238), (0.05, 1.3581), (0.01, 1.6276), (0.001, 1.9495)] {
            let value = ks_critical(alpha, 1e12).unwrap() * 1e6;
            assert!((value - want).abs() < 1e-4, "{alpha}: {value}");
        }
        // The exact 5 % point at n = 10 is 0.40925 (Massey 1951).
        assert!((ks_critical(0.05, 10.0).unwrap() - 0.409_25).abs() < 2e-3);
        assert!((ks_p_value(ks_critical(0.3, 50.0).unwrap(), 50.0) - 0.3).abs() < 1e-12);
        assert!(ks_critical(0.0, 10.0).is_err());
    }

    #[test]
    fn both_series_of_kolmogorov_agree_where_they_meet() {
        // Six terms of the alternating series leave e^{-98}, four of the other e^{-60}; 10 roundings remain.
        let below = kolmogorov_tail(1.0 - f64::EPSILON);
        assert!((below - kolmogorov_tail(1.0)).abs() < 1e-14, "{below}");
        assert_eq!(kolmogorov_tail(0.0), 1.0);
    }

    #[test]
    fn p_values_of_true_laws_are_uniform() {
        // 400 samples of 100 uniforms, seeds 0..400; the asymptotic p-value is off by about 1 %, the critical statistic at
        // 0.1 % is 0.097.
        let p_values: Vec<f64> =
            (0..400).map(|seed| ks_p_value(ks(&draw(100, seed, |u| u), |x| x).unwrap(), 100.0)).collect();
        let distance = ks(&p_values, |x| x).unwrap();
        assert!(distance < ks_critical(1e-3, 400.0).unwrap(), "{distance}");
    }

    #[test]
    fn wasserstein_of_a_shift_is_the_shift() {
        // Exponential samples against the quantile shifted by 3, farther than samples stray except in the last cells of u:
        // there the exact distance is min(|…|); with 1e4 samples (seed 5) the mean is 1 ± 0.01, and 3 less its error.
        let samples = draw(10_000, 5, |u| -(1.0 - u).ln());
        let mean = moments(&samples).unwrap();
        let shifted = wasserstein(&samples, |u| 3.0 - (1.0 - u).ln()).unwrap();
        assert!((shifted - (4.0 - mean.mean)).abs() < 1e-3, "{shifted}");
        // Against the law itself the expected distance is about ∫ sqrt(F(1−F)·2/(πn)) dx = 0.8·1.57/√n = 0.0125.
        let own = wasserstein(&samples, |u| -(1.0 - u).ln()).unwrap();
        assert!(own > 0.001 && own < 0.04, "{own}");
    }

    #[test]
    fn wasserstein_to_a_uniform_law_is_exact_on_its_cell_centres() {
        // n points at the centres of their cells: ∫|u − centre| du is 1/(4n²) a cell, so 1/(4n). The kink is in the middle
        // of each, where four Gauss points make 1.043 of ∫|x| dx = 1 on [−1, 1].
        let n = 50;
        let samples: Vec<f64> = (0..n).map(|k| (k as f64 + 0.5) / n as f64).collect();
        let distance = wasserstein(&samples, |u| u).unwrap();
        assert!((distance * 4.0 * n as f64 - 1.0).abs() < 0.05, "{distance}");
        assert!((wasserstein(&[2.0], |u| u).unwrap() - 1.5).abs() < 1e-15);
    }

    #[test]
    fn two_sample_wasserstein_is_the_mean_gap_of_order_statistics() {
        let (a, b) = (draw(1000, 6, |u| u), draw(1000, 7, |u| u * u));
        let (sorted_a, sorted_b) = (sorted(&a, 1).unwrap(), sorted(&b, 1).unwrap());
        let want = sorted_a.iter().zip(&sorted_b).map(|(x, y)| (x - y).abs()).sum::<f64>() / 1000.0;
        let value = wasserstein_two(&a, &b).unwrap();
        assert!((value - want).abs() < 1e-12, "{value} against {want}"); // 2000 additions of parts below 1e-3
        assert_eq!(wasserstein_two(&[0.0], &[1.0, 3.0]).unwrap(), 2.0);
        assert_eq!(wasserstein_two(&[1.0, 3.0], &[0.0]).unwrap(), 2.0);
        assert_eq!(wasserstein_two(&[0.0, 5.0], &[5.0, 0.0]).unwrap(), 0.0);
    }

    #[test]
    fn moments_of_a_known_sample_are_exact() {
        let found = moments(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((found.mean, found.variance), (2.5, 5.0 / 3.0));
        assert!((found.mean_error - (5.0f64 / 12.0).sqrt()).abs() < 1e-15);
        assert!(moments(&[1.0, 2.0, 3.0]).is_err() && moments(&[0.0, 1.0, 2.0, f64::INFINITY]).is_err());
    }

    #[test]
    fn standard_errors_are_the_spread_over_seeds() {
        // Exponential law: mean 1, variance 1, Var(s²) = (9 − 1)/n. 300 seeds give the spread to 1/sqrt(600) = 4 %, the
        // heavy fourth moment three times that; z-scores of both must spread by 1 within 15 %.
        let all: Vec<Moments> = (0..300).map(|seed| moments(&draw(2000, seed, |u| -(1.0 - u).ln())).unwrap()).collect();
        let spread = |z: Vec<f64>| moments(&z).unwrap().variance.sqrt();
        let of_mean = spread(all.iter().map(|m| (m.mean - 1.0) / m.mean_error).collect());
        let of_variance = spread(all.iter().map(|m| (m.variance - 1.0) / (8.0f64 / 2000.0).sqrt()).collect());
        let stated = all.iter().map(|m| m.variance_error).sum::<f64>() / 300.0 / (8.0f64 / 2000.0).sqrt();
        for (name, value) in [("mean", of_mean), ("variance", of_variance), ("stated error", stated)] {
            assert!((value - 1.0).abs() < 0.15, "{name}: {value}");
        }
    }

    #[test]
    fn quantiles_interpolate_between_order_statistics() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        assert_eq!((median(&samples).unwrap(), iqr(&samples).unwrap()), (2.5, 1.5));
        assert_eq!((quantile(&samples, 0.0).unwrap(), quantile(&samples, 1.0).unwrap()), (1.0, 4.0));
        assert!(quantile(&samples, 1.5).is_err() && median(&[]).is_err());
        assert!(median(&[1.0, f64::NAN]).is_err());
    }

    #[test]
    fn generating_functions_of_two_points_are_cosh_and_cos() {
        let samples = [-1.0, 1.0];
        assert!((moment_generating(&samples, 0.7).unwrap() - 0.7f64.cosh()).abs() < 1e-15);
        let (real, imaginary) = characteristic(&samples, 0.7).unwrap();
        assert!((real - 0.7f64.cos()).abs() < 1e-15 && imaginary.abs() < 1e-15);
        assert!((characteristic(&[2.0], 0.7).unwrap().1 - 1.4f64.sin()).abs() < 1e-15);
        assert!(moment_generating(&[1e3], 1.0).is_err());
    }

    #[test]
    fn characteristic_functions_exist_for_cauchy_samples() {
        // e^{−γ|t|}; n = 1e5, seed 8: the error of each part is at most 1/sqrt(n), four of them allowed.
        let law = crate::analytic::Cauchy::new(0.5).unwrap();
        let samples = draw(100_000, 8, |u| law.quantile(u));
        for t in [0.3, 1.0, 4.0] {
            let (real, imaginary) = characteristic(&samples, t).unwrap();
            let bound = 4.0 / 1e5f64.sqrt();
            assert!((real - (-0.5 * t).exp()).abs() < bound && imaginary.abs() < bound, "{t}: {real} + {imaginary}i");
        }
        assert!(moment_generating(&samples, 1.0).is_err(), "the largest of 1e5 Cauchy samples overflows e^x");
    }

    #[test]
    fn fitted_orders_are_slopes_on_logarithms() {
        let steps = [0.4, 0.2, 0.1];
        let errors = steps.map(|h: f64| 3.0 * h.powf(2.5));
        assert!((fit_order(&steps, &errors).unwrap() - 2.5).abs() < 1e-13);
        for (steps, errors) in [(&steps[..2], &errors[..]), (&[0.1, 0.1], &[1.0, 2.0]), (&[0.2, 0.1], &[0.0, 1.0])] {
            assert!(fit_order(steps, errors).is_err(), "{steps:?} {errors:?}");
        }
        assert!(fit_order(&[], &[]).is_err() && fit_order(&[0.2, 0.1], &[f64::NAN, 1.0]).is_err());
    }
}
