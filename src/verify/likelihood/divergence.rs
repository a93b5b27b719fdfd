//! Divergences of Gaussians (items 29 and 32).

use super::super::measure::{largest, normals, vp};
use super::super::vp::{level, linear};
use super::super::{Bound, Identity};
use crate::analytic::divergence::{kl_diagonal, kl_full, kl_isotropic};
use crate::analytic::gaussian::normal_pdf;
use crate::analytic::quadrature::GaussLegendre;
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::likelihood::{Decoder, Route, VlbOptions, bits_per_dim, terminal_kl, vlb};
use crate::tensor::Tensor;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 29 S3.eq47 closed form",
        claim: "L_T of one point is ∫ q ln(q/p), by quadrature",
        bound: Bound::AtMost(1e-12), // 40 panels of 20 points of a smooth integrand
        measure: terminal_by_quadrature,
    },
    Identity {
        id: "item 29 S3.eq47 size",
        claim: "unit-variance data, T = 1000 linear: L_T = 2.91e-5 bits/dim, in half units of the last digit",
        bound: Bound::AtMost(1.0),
        measure: || {
            let nats = terminal_kl([1.0], level(&linear()?, 1000)?, 1.0);
            Ok((bits_per_dim(nats, 1) - 2.91e-5).abs() / 0.5e-7)
        },
    },
    Identity {
        id: "item 29 S1 no parameters",
        claim: "L_T of two different models on the same points: their difference",
        bound: Bound::AtMost(0.0),
        measure: two_models,
    },
    Identity {
        id: "item 32 S3.eq58 quadrature",
        claim: "the isotropic KL in one dimension is ∫ p ln(p/q)",
        bound: Bound::AtMost(1e-12), // as for item 29
        measure: || {
            let cases = [(0.3, 0.5, -0.2, 0.8), (0.0, 1.0, 2.0, 1.0), (1.0, 2.0, 1.0, 0.7)];
            largest_of(cases.map(|(m0, s0, m1, s1)| {
                Ok(kl_isotropic(&[m0], s0 * s0, &[m1], s1 * s1)? - kl_by_quadrature((m0, s0), (m1, s1))?)
            }))
        },
    },
    Identity {
        id: "item 32 S1 general",
        claim: "the general KL is E_p[ln p − ln q] in three dimensions: standard errors of 20000 draws, seed 32",
        bound: Bound::AtMost(4.0),
        measure: by_samples,
    },
    Identity {
        id: "item 32 S0 reduction",
        claim: "the general KL is the diagonal one on diagonal covariances, and that the isotropic one on equal variances",
        bound: Bound::AtMost(1e-13), // three terms of size 1
        measure: reductions,
    },
    Identity {
        id: "item 32 S0 diagonal misprint",
        claim: "Σ[ln σ2/σ1 − 1 + σ1/σ2 + Δ²/σ2²] as printed, with deviations for variances and no half",
        bound: Bound::AtLeast(0.1), // Δ²/σ2² counted twice is 0.4 here
        measure: || {
            let (m, s): ([f64; 2], [f64; 2]) = ([0.3, -0.2], [0.5, 0.8]);
            let printed = (s[1] / s[0]).ln() - 1.0 + s[0] / s[1] + ((m[1] - m[0]) / s[1]).powi(2);
            Ok((printed - kl_diagonal(&m[..1], &[s[0].powi(2)], &m[1..], &[s[1].powi(2)])?).abs())
        },
    },
];

fn largest_of(misses: impl IntoIterator<Item = Result<f64>>) -> Result<f64> {
    Ok(largest(misses.into_iter().collect::<Result<Vec<f64>>>()?))
}

/// ∫ p ln(p/q) of (mean, deviation) each, over nine deviations of p: what lies beyond is 1e-18 of it.
fn kl_by_quadrature(p: (f64, f64), q: (f64, f64)) -> Result<f64> {
    let log = |x: f64, (mean, std): (f64, f64)| -0.5 * ((x - mean) / std).powi(2) - std.ln();
    let integrand = |x: f64| normal_pdf(x, p.0, p.1) * (log(x, p) - log(x, q));
    Ok(GaussLegendre::new(20)?.composite(integrand, p.0 - 9.0 * p.1, p.0 + 9.0 * p.1, 40))
}

fn terminal_by_quadrature() -> Result<f64> {
    let process = vp()?;
    let mut misses = Vec::new();
    for (time, x0) in [(0.3, 1.2), (0.6, -0.4), (1.0, 3.0)] {
        let at = process.level(time);
        let want = kl_by_quadrature((at.alpha * x0, at.sigma), (0.0, 1.0))?;
        misses.push(terminal_kl([x0], at, 1.0) - want);
    }
    Ok(largest(misses))
}

fn two_models() -> Result<f64> {
    let process = vp()?;
    let x0 = Tensor::from_slice(&normals(29, 6), [3, 2])?;
    let of = |mean: f64| {
        let model = Oracle::gaussian(&[mean, 0.0], &[0.3, 0.1, 0.1, 0.4])?;
        let route = Route::Continuous(&*process);
        vlb(&model, route, Decoder::Gaussian, &x0, &[0, 1, 2], &VlbOptions::default())
    };
    let (a, b) = (of(0.0)?, of(5.0)?);
    // Models that agree elsewhere too would prove nothing.
    if a.iter().zip(&b).any(|(a, b)| a.diffusion == b.diffusion) {
        return Ok(f64::NAN);
    }
    Ok(largest(a.iter().zip(&b).map(|(a, b)| a.terminal - b.terminal)))
}

const MEANS: [[f64; 3]; 2] = [[0.1, -0.3, 0.5], [0.4, 0.0, 0.2]];
/// Lower triangles with which the covariances are L·Lᵀ.
const FACTORS: [[f64; 9]; 2] =
    [[1.0, 0.0, 0.0, 0.5, 0.8, 0.0, -0.3, 0.2, 0.6], [0.9, 0.0, 0.0, -0.2, 1.1, 0.0, 0.4, 0.3, 0.7]];

fn covariance(factor: &[f64; 9]) -> Vec<f64> {
    (0..9).map(|at| (0..3).map(|k| factor[at / 3 * 3 + k] * factor[at % 3 * 3 + k]).sum()).collect()
}

fn by_samples() -> Result<f64> {
    const COUNT: usize = 20_000;
    let covs = FACTORS.map(|factor| covariance(&factor));
    let want = kl_full(&MEANS[0], &covs[0], &MEANS[1], &covs[1])?;
    // ln N(x) by forward substitution through the triangle.
    let log = |x: &[f64; 3], which: usize| {
        let (l, mean) = (FACTORS[which], MEANS[which]);
        let (mut y, mut sum) = ([0.0; 3], 0.0);
        for i in 0..3 {
            y[i] = (x[i] - mean[i] - (0..i).map(|k| l[3 * i + k] * y[k]).sum::<f64>()) / l[4 * i];
            sum -= 0.5 * y[i] * y[i] + l[4 * i].ln();
        }
        sum
    };
    let draws = normals(32, 3 * COUNT);
    let differences: Vec<f64> = draws
        .chunks_exact(3)
        .map(|z| {
            let part = |i: usize| MEANS[0][i] + (0..=i).map(|k| FACTORS[0][3 * i + k] * z[k]).sum::<f64>();
            let x = [part(0), part(1), part(2)];
            log(&x, 0) - log(&x, 1)
        })
        .collect();
    let moments = crate::analytic::statistics::moments(&differences)?;
    Ok((moments.mean - want).abs() / moments.mean_error)
}

fn reductions() -> Result<f64> {
    let variances = [[0.5, 1.5, 0.9], [1.2, 0.8, 0.4]];
    let full = |v: &[f64; 3]| {
        let mut matrix = vec![0.0; 9];
        v.iter().enumerate().for_each(|(i, v)| matrix[4 * i] = *v);
        matrix
    };
    let general = kl_full(&MEANS[0], &full(&variances[0]), &MEANS[1], &full(&variances[1]))?;
    let diagonal = kl_diagonal(&MEANS[0], &variances[0], &MEANS[1], &variances[1])?;
    let (a, b) =
        (kl_diagonal(&MEANS[0], &[0.7; 3], &MEANS[1], &[0.2; 3])?, kl_isotropic(&MEANS[0], 0.7, &MEANS[1], 0.2)?);
    let same = kl_full(&MEANS[0], &covariance(&FACTORS[0]), &MEANS[0], &covariance(&FACTORS[0]))?;
    Ok(largest([general - diagonal, a - b, same]))
}
