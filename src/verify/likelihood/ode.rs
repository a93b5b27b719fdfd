//! The exact density by the probability-flow ODE, and the trace by probes (item 48).

use super::super::measure::{largest, normals, vp};
use super::super::{Bound, Identity};
use crate::analytic::statistics;
use crate::denoiser::oracle::Oracle;
use crate::denoiser::{Denoiser, Differentiable, Estimate};
use crate::error::Result;
use crate::likelihood::{OdeOptions, Trace, gaussian_log_prior, ode_log_density};
use crate::process::{Level, Process, Ve};
use crate::tensor::Tensor;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 48 Gaussian",
        claim: "correlated Gaussian in the plane, exact p_T as prior, exact trace: ln p at t_min, over a hundred tolerances",
        // About a hundred steps, each with an error below the tolerance times 2 + |∫ div|.
        bound: Bound::AtMost(1.0),
        measure: || density_miss(&correlated()?, &*vp()?),
    },
    Identity {
        id: "item 48 mixture",
        claim: "the same for a mixture in the plane",
        bound: Bound::AtMost(1.0), // as above
        measure: || density_miss(&plane()?, &*vp()?),
    },
    Identity {
        id: "item 48 VE",
        claim: "and on the VE process",
        bound: Bound::AtMost(1.0), // as above
        measure: || density_miss(&plane()?, &Ve::new(0.02, 20.0)?),
    },
    Identity {
        id: "item 48 prior",
        claim: "N(0, I) for the exact p_T leaves its own error at the end of the way, ln p_T − ln N there, and no other",
        bound: Bound::AtMost(1e-12), // the same way in both: one sum more
        measure: prior_difference,
    },
    Identity {
        id: "item 48 prior matters",
        claim: "which is nats, not rounding: the largest of 8 points, β from .1 to 20",
        bound: Bound::AtLeast(1e-3), // alpha(1)·E[x0]·x_1 = 6.6e-3·1·1
        measure: || {
            let misses = with_both_priors()?;
            Ok(largest(misses.into_iter().map(|(exact, standard)| exact.log_density - standard.log_density)))
        },
    },
    Identity {
        id: "item 48 all signs",
        claim: "a Jacobian that is not symmetric: the mean of vᵀJv over all 2^d sign vectors is tr J",
        bound: Bound::AtMost(1e-12), // 16 sums of 16 products
        measure: || {
            let all: Vec<f64> = signs(4).iter().map(|v| quadratic_form(v)).collect::<Result<_>>()?;
            Ok((all.iter().sum::<f64>() / 16.0 - MATRIX_TRACE).abs())
        },
    },
    Identity {
        id: "item 48 one sign vector",
        claim: "and one of them alone is not",
        bound: Bound::AtLeast(0.1), // off-diagonal sums of MATRIX are 0.2 and more for each
        measure: || {
            let misses = signs(4).into_iter().map(|v| Ok((quadratic_form(&v)? - MATRIX_TRACE).abs()));
            Ok(misses.collect::<Result<Vec<f64>>>()?.into_iter().fold(f64::INFINITY, f64::min))
        },
    },
    Identity {
        id: "item 48 diagonal",
        claim: "on a diagonal Jacobian one sign vector is exact: ln p of an uncorrelated Gaussian beside the exact trace",
        bound: Bound::AtMost(1e-10), // the same flow and divergence to rounding
        measure: || {
            let data = Oracle::gaussian(&[0.3, -0.2], &[0.5, 0.0, 0.0, 0.1])?;
            let process = vp()?;
            let x = data.sample(48, 4, process.level(process.min_time()))?;
            let run = |trace| densities(&data, &*process, &x, 1e-6, trace);
            let (exact, one) = (run(Trace::Exact)?, run(Trace::Rademacher { probes: 1, seed: 48 })?);
            Ok(largest(exact.iter().zip(one).map(|(a, b)| a - b)))
        },
    },
    Identity {
        id: "item 48 mean of densities",
        claim: "ln p of a mixture is the mean over all sign vectors, each with a solution of its own, in units of the tolerance",
        bound: Bound::AtMost(100.0), // as for item 48 mixture
        measure: || {
            let (data, process) = (plane()?, vp()?);
            let x = data.sample(48, 4, process.level(process.min_time()))?;
            let exact = densities(&data, &*process, &x, 1e-7, Trace::Exact)?;
            let mut mean = vec![0.0; exact.len()];
            for sign in signs(2) {
                let found = densities(&data, &*process, &x, 1e-7, Trace::Given(&[sign]))?;
                mean.iter_mut().zip(found).for_each(|(mean, found)| *mean += found / 4.0);
            }
            Ok(largest(exact.iter().zip(mean).map(|(a, b)| a - b)) / 1e-7)
        },
    },
    Identity {
        id: "item 48 Gaussian probes",
        claim: "400 solutions with a Gaussian probe each, seed 480: their mean less ln p, in standard errors",
        bound: Bound::AtMost(4.0),
        measure: gaussian_probes,
    },
];

/// Correlated, neither centred nor of unit variance.
fn correlated() -> Result<Oracle> {
    Oracle::gaussian(&[1.0, -0.5], &[0.5, 0.3, 0.3, 0.4])
}

fn plane() -> Result<Oracle> {
    Oracle::mixture(
        &[0.4, 0.6],
        &[vec![-1.0, 0.2], vec![0.8, 0.5]],
        &[vec![0.3, 0.1, 0.1, 0.2], vec![0.2, -0.1, -0.1, 0.4]],
    )
}

fn densities(data: &Oracle, process: &dyn Process, x: &Tensor, tolerance: f64, trace: Trace<'_>) -> Result<Vec<f64>> {
    let samples: Vec<u32> = (0..x.shape().first().copied().unwrap_or(0) as u32).collect();
    let prior = |x: &[f64]| data.log_density(x, process.level(1.0));
    let found = ode_log_density(data, process, x, &samples, &prior, &OdeOptions { tolerance, trace })?;
    Ok(found.into_iter().map(|found| found.log_density).collect())
}

/// The largest miss of ln p over 8 points at two tolerances, in hundreds of the tolerance.
fn density_miss(data: &Oracle, process: &dyn Process) -> Result<f64> {
    let first = process.level(process.min_time());
    let x = data.sample(48, 8, first)?;
    let exact: Vec<f64> = x.host::<f64>()?.chunks_exact(2).map(|x| data.log_density(x, first)).collect();
    let mut misses = Vec::new();
    for tolerance in [1e-5, 1e-8] {
        let found = densities(data, process, &x, tolerance, Trace::Exact)?;
        misses.extend(found.iter().zip(&exact).map(|(found, exact)| (found - exact) / (100.0 * tolerance)));
    }
    Ok(largest(misses))
}

type Pair = (crate::likelihood::OdeDensity, crate::likelihood::OdeDensity);

/// The densities of 8 points with the exact prior and with N(0, I).
fn with_both_priors() -> Result<Vec<Pair>> {
    let (data, process) = (correlated()?, vp()?);
    let x = data.sample(48, 8, process.level(process.min_time()))?;
    let samples: Vec<u32> = (0..8).collect();
    let options = OdeOptions { tolerance: 1e-6, trace: Trace::Exact };
    let exact = |x: &[f64]| data.log_density(x, process.level(1.0));
    let a = ode_log_density(&data, &*process, &x, &samples, &exact, &options)?;
    let b = ode_log_density(&data, &*process, &x, &samples, &gaussian_log_prior(1.0), &options)?;
    Ok(a.into_iter().zip(b).collect())
}

fn prior_difference() -> Result<f64> {
    let (data, last) = (correlated()?, vp()?.level(1.0));
    let standard = gaussian_log_prior(1.0);
    Ok(largest(
        with_both_priors()?
            .into_iter()
            .map(|(a, b)| a.log_density - b.log_density - (data.log_density(&a.end, last) - standard(&b.end))),
    ))
}

/// All vectors of d signs.
fn signs(d: usize) -> Vec<Vec<f64>> {
    (0..1_u32 << d).map(|k| (0..d).map(|i| 1.0 - 2.0 * f64::from((k >> i) & 1)).collect()).collect()
}

const MATRIX: [f64; 16] = [0.3, 1.0, -0.4, 0.1, 0.2, -0.5, 0.15, 0.7, 0.9, -0.2, 1.1, 0.05, -0.6, 0.35, 0.45, 0.8];
const MATRIX_TRACE: f64 = 0.3 - 0.5 + 1.1 + 0.8;

/// A denoiser whose x0_hat is MATRIX·x_t.
struct Linear;

impl Denoiser for Linear {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        let rows = x_t.host::<f64>()?.chunks_exact(4);
        let row = |x: &[f64], i: usize| MATRIX[4 * i..4 * i + 4].iter().zip(x).map(|(m, x)| m * x).sum::<f64>();
        let out: Vec<f64> = rows.flat_map(|x| (0..4).map(move |i| row(x, i))).collect();
        Ok(Estimate::of_x0(x_t.clone(), Tensor::from_slice(&out, x_t.shape())?, at))
    }
}

impl Differentiable for Linear {
    fn vjp_rows(&self, x_t: &Tensor, at: &[Level], v: &Tensor) -> Result<(Vec<Estimate>, Tensor)> {
        let column = |v: &[f64], j: usize| (0..4).map(|i| v[i] * MATRIX[4 * i + j]).sum::<f64>();
        let rows = v.host::<f64>()?.chunks_exact(4);
        let out: Vec<f64> = rows.flat_map(|v| (0..4).map(move |j| column(v, j))).collect();
        Ok((self.denoise_rows(x_t, at)?, Tensor::from_slice(&out, v.shape())?))
    }
}

/// vᵀJv by the denoiser's product.
fn quadratic_form(v: &[f64]) -> Result<f64> {
    let x = Tensor::from_slice(&normals(481, 4), [1, 4])?;
    let (_, product) = Linear.vjp_rows(&x, &[Level::of(0.8, 0.6)], &Tensor::from_slice(v, [1, 4])?)?;
    Ok(product.host::<f64>()?.iter().zip(v).map(|(p, v)| p * v).sum())
}

fn gaussian_probes() -> Result<f64> {
    const COUNT: usize = 400;
    let (data, process) = (plane()?, vp()?);
    let first = process.level(process.min_time());
    let point = data.sample(482, 1, first)?.to_vec::<f64>()?;
    // The same point in every row: rows differ by their probes alone.
    let x = Tensor::from_slice(&point.repeat(COUNT), [COUNT, 2])?;
    let found = densities(&data, &*process, &x, 1e-5, Trace::Gaussian { probes: 1, seed: 480 })?;
    let moments = statistics::moments(&found)?;
    Ok((moments.mean - data.log_density(&point, first)).abs() / moments.mean_error)
}
