//! Sampling known distributions, and what a generative model is for (S3 section 1; items 1–4).

use super::one_dim::{worst, worst_of};
use super::{Bound, Identity};
use crate::analytic::quadrature::GaussLegendre;
use crate::analytic::{Cauchy, inverse, statistics};
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::eval::{CoverageReport, coverage, duplicate_rate, expected_coverage};
use crate::process::Level;
use crate::rng::{Address, Purpose};
use std::f64::consts::PI;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 1 S3.eq1 mass",
        claim: "the Cauchy density is non-negative and integrates to 1 over the line",
        // 1024 terms that are known to a few ε each and add up to 1.
        bound: Bound::AtMost(1e-12),
        measure: cauchy_mass,
    },
    Identity {
        id: "item 1 S3.exercise1 cdf",
        claim: "cdf(quantile(u)) = u, relative to the nearer end, down to u = 1e-300; and the cdf is the density's integral",
        // tan and atan at condition number below 4, and 256 terms of a quadrature: 64ε and 1e-13.
        bound: Bound::AtMost(1e-13),
        measure: cauchy_cdf,
    },
    Identity {
        id: "item 2 S3.section1 inverse transform",
        claim: "quantile(U) follows the law: √n·KS of 100 000 Cauchy samples",
        // n = 100 000, seed 21: Kolmogorov's law exceeds 2.23 once in ten thousand seeds.
        bound: Bound::AtMost(2.23),
        measure: cauchy_ks,
    },
    Identity {
        id: "item 2 S3.section1 median and quartiles",
        claim: "median 0 and interquartile range 2γ, in standard errors",
        // n = 100 000, seed 22, z-score 4.5: 1 in 70 000 for two numbers.
        bound: Bound::AtMost(4.5),
        measure: cauchy_quartiles,
    },
    Identity {
        id: "item 2 S3.section1 no moments",
        claim: "the mean of 10 000 Cauchy samples is as wide as one sample: IQR of 400 means over 2γ",
        // The mean of Cauchy samples has the law of one; with a variance the ratio would be near 0.01. Its deviation is
        // π/(2√400) = 0.08 (seed 23), so 0.6 lies five below 1.
        bound: Bound::AtLeast(0.6),
        measure: cauchy_means,
    },
    Identity {
        id: "item 2 S3.section1 any cdf",
        claim: "the numeric inverse of a cdf is the closed quantile, in units of x²/γ beyond γ",
        // u and the cdf are known to ε, so x to ε over the density, which is πε·(γ² + x²)/γ.
        bound: Bound::AtMost(1e-13),
        measure: numeric_inverse,
    },
    Identity {
        id: "item 3 S3.section1 every value once",
        claim: "n coins give every k/2^n once, with mean ½ − 2^(−n−1), for n to 16",
        bound: Bound::AtMost(0.0), // dyadic numbers: nothing is rounded
        measure: || over_coins(every_value_once),
    },
    Identity {
        id: "item 3 S3.section1 distribution",
        claim: "the distribution function of n coins is off by exactly 2^(−n); with half a cell added by 2^(−n−1)",
        bound: Bound::AtMost(0.0), // dyadic numbers
        measure: || over_coins(distribution_error),
    },
    Identity {
        id: "item 3 S3.section1 half cell",
        claim: "half a cell added: mean ½, and no coins give an infinite Cauchy quantile",
        bound: Bound::AtMost(0.0), // dyadic numbers, and a count
        measure: || over_coins(half_cell),
    },
    Identity {
        id: "item 3 S3.section1 as written",
        claim: "without the half cell one value in 2^n has the Cauchy quantile −∞: how many over n to 16",
        bound: Bound::AtLeast(16.0),
        measure: || (1..=COINS).map(|n| Ok(infinite_quantiles(&values(n, inverse::binary_expansion)?)? as f64)).sum(),
    },
    Identity {
        id: "item 4 S3.section1 one image is faithful",
        claim: "a sampler of one good image: 1 − precision",
        bound: Bound::AtMost(0.0), // a count: the image lies inside a real point's ball
        measure: || Ok(1.0 - constant_sampler()?.precision),
    },
    Identity {
        id: "item 4 S3.section1 one image covers nothing",
        claim: "a sampler of one good image: the larger of coverage and recall",
        // In d = 4 at most a few times k = 5 of 1000 balls hold one point (a kissing-number bound); recall 0 of balls of radius 0.
        bound: Bound::AtMost(0.05),
        measure: || constant_sampler().map(|report| worst([report.coverage, report.recall])),
    },
    Identity {
        id: "item 4 S3.section1 one image repeats",
        claim: "nearest-neighbour duplicates: 1 for the sampler of one image, 0 for the true one",
        bound: Bound::AtMost(0.0), // counts
        measure: duplicates,
    },
    Identity {
        id: "item 4 S3.section1 the true sampler",
        claim: "density 1 and coverage 1 − ∏(n−1−i)/(n+m−1−i), whatever the law: distance in standard errors of 24 runs",
        // Seeds 41 to 64, n = m = 400, k = 5; Student's t with 23 degrees of freedom exceeds 5.2 once in 40 000.
        bound: Bound::AtMost(5.2),
        measure: true_sampler,
    },
];

fn cauchy_mass() -> Result<f64> {
    let rule = GaussLegendre::new(16)?;
    worst_of([0.01, 0.5, 1.0, 7.0, 1e3].into_iter().map(|gamma| {
        let law = Cauchy::new(gamma)?;
        let is_negative = [-1e9, -1.0, 0.0, 2.0].into_iter().any(|x| law.pdf(x) < 0.0);
        // Neither the law's centre nor its scale, with which the substituted integrand would be constant.
        let mass = rule.line(|x| law.pdf(x), 0.3 * gamma, 3.0 * gamma, 64);
        Ok(if is_negative { f64::INFINITY } else { (mass - 1.0).abs() })
    }))
}

fn cauchy_cdf() -> Result<f64> {
    let rule = GaussLegendre::new(16)?;
    worst_of([0.3, 4.0].into_iter().map(|gamma| {
        let law = Cauchy::new(gamma)?;
        let inverted = [1e-300, 1e-17, 1e-3, 0.2, 0.5, 0.77, 0.999].map(|u| {
            let back = law.cdf(law.quantile(u));
            (back - u).abs() / u.min(1.0 - u)
        });
        let integrated = [(-9.0, -1.0), (-0.5, 2.0)].map(|(a, b)| {
            let mass = rule.composite(|x| law.pdf(x), gamma * a, gamma * b, 16);
            (law.cdf(gamma * b) - law.cdf(gamma * a) - mass).abs()
        });
        Ok(worst(inverted.into_iter().chain(integrated)))
    }))
}

const GAMMA: f64 = 2.0;

fn cauchy_samples(seed: u64, count: usize) -> Result<Vec<f64>> {
    let law = Cauchy::new(GAMMA)?;
    let mut samples = vec![0.0; count];
    inverse::sample_inverse(|u| law.quantile(u), Address::new(seed, Purpose::Test), &mut samples);
    Ok(samples)
}

fn cauchy_ks() -> Result<f64> {
    let (law, samples) = (Cauchy::new(GAMMA)?, cauchy_samples(21, 100_000)?);
    Ok((samples.len() as f64).sqrt() * statistics::ks(&samples, |x| law.cdf(x))?)
}

fn cauchy_quartiles() -> Result<f64> {
    let samples = cauchy_samples(22, 100_000)?;
    // A sample quantile has variance u(1 − u)/(n·p²): ¼/(n·p(0)²) for the median; for the difference of quartiles, whose
    // covariance is (1/16)/(n·p(γ)²), ¼/(n·p(γ)²).
    let root = (samples.len() as f64).sqrt();
    let (median_error, iqr_error) = (0.5 * PI * GAMMA / root, PI * GAMMA / root);
    let iqr = statistics::iqr(&samples)?;
    Ok(worst([statistics::median(&samples)?.abs() / median_error, (iqr - 2.0 * GAMMA).abs() / iqr_error]))
}

fn cauchy_means() -> Result<f64> {
    const EACH: usize = 10_000;
    let samples = cauchy_samples(23, 400 * EACH)?;
    let means: Vec<f64> = samples.chunks_exact(EACH).map(|part| part.iter().sum::<f64>() / EACH as f64).collect();
    Ok(statistics::iqr(&means)? / (2.0 * GAMMA))
}

fn numeric_inverse() -> Result<f64> {
    let law = Cauchy::new(GAMMA)?;
    worst_of((0..500).map(|i| {
        let u = inverse::open_uniform(Address::new(24, Purpose::Test), i);
        let (numeric, closed) = (inverse::invert_cdf(|x| law.cdf(x), u, (-1.0, 1.0))?, law.quantile(u));
        Ok((numeric - closed).abs() * GAMMA / closed.abs().max(GAMMA).powi(2))
    }))
}

const COINS: usize = 16;

/// The values of all 2ⁿ coins, ascending.
fn values(n: usize, of: fn(&[bool]) -> Result<f64>) -> Result<Vec<f64>> {
    let coins = |k: usize| -> Vec<bool> { (0..n).map(|bit| k >> bit & 1 == 1).collect() };
    let mut values = (0..1 << n).map(|k| of(&coins(k))).collect::<Result<Vec<f64>>>()?;
    values.sort_by(f64::total_cmp);
    Ok(values)
}

fn over_coins(error: fn(usize) -> Result<f64>) -> Result<f64> {
    worst_of((1..=COINS).map(error))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn every_value_once(n: usize) -> Result<f64> {
    let values = values(n, inverse::binary_expansion)?;
    let cell = 0.5_f64.powi(n as i32);
    let misplaced = values.iter().enumerate().map(|(k, value)| (value - k as f64 * cell).abs());
    Ok(worst(misplaced.chain([(mean(&values) - (0.5 - 0.5 * cell)).abs()])))
}

/// sup |F_n(x) − x| over [0, 1], approached from below and above at every jump.
fn distance_to_uniform(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    worst(values.iter().enumerate().flat_map(|(k, v)| [(k as f64 / n - v).abs(), ((k + 1) as f64 / n - v).abs()]))
}

fn distribution_error(n: usize) -> Result<f64> {
    let cell = 0.5_f64.powi(n as i32);
    let plain = distance_to_uniform(&values(n, inverse::binary_expansion)?);
    let centred = distance_to_uniform(&values(n, inverse::binary_uniform)?);
    Ok(worst([(plain - cell).abs(), (centred - 0.5 * cell).abs()]))
}

fn infinite_quantiles(uniforms: &[f64]) -> Result<usize> {
    let law = Cauchy::new(GAMMA)?;
    Ok(uniforms.iter().filter(|u| law.quantile(**u).is_infinite()).count())
}

fn half_cell(n: usize) -> Result<f64> {
    let values = values(n, inverse::binary_uniform)?;
    Ok((mean(&values) - 0.5).abs() + infinite_quantiles(&values)? as f64)
}

const DIM: usize = 4;

/// Draws of a law of three bumps in four dimensions: the real images, or those of a sampler that has learned them.
fn images(seed: u64, count: usize) -> Result<Vec<f64>> {
    let means = [[0.0; DIM], [3.0, 0.0, -1.0, 2.0], [-2.0, 2.0, 2.0, 0.0]].map(|mean| mean.to_vec());
    let law = Oracle::isotropic(&[0.5, 0.3, 0.2], &means, &[1.0, 0.5, 0.3])?;
    law.sample(seed, count, Level::CLEAN)?.to_vec()
}

/// One good image, over and over.
fn constant_images(count: usize) -> Result<Vec<f64>> {
    // The first of a fresh draw: as realistic as any, and none of the real ones.
    Ok(images(43, 1)?.repeat(count))
}

fn constant_sampler() -> Result<CoverageReport> {
    coverage(&images(41, 1000)?, &constant_images(1000)?, DIM, 5)
}

fn duplicates() -> Result<f64> {
    let (constant, good) = (duplicate_rate(&constant_images(300)?, DIM, 0.0)?, images(42, 300)?);
    Ok(worst([1.0 - constant, duplicate_rate(&good, DIM, 1e-6)?]))
}

fn true_sampler() -> Result<f64> {
    const COUNT: usize = 400;
    let mut runs = (Vec::new(), Vec::new());
    for seed in 41..65 {
        let report = coverage(&images(seed, COUNT)?, &images(1000 + seed, COUNT)?, DIM, 5)?;
        runs.0.push(report.density);
        runs.1.push(report.coverage);
    }
    let (density, coverage) = (statistics::moments(&runs.0)?, statistics::moments(&runs.1)?);
    let expected = expected_coverage(COUNT, COUNT, 5);
    Ok(worst([(density.mean - 1.0).abs() / density.mean_error, (coverage.mean - expected).abs() / coverage.mean_error]))
}
