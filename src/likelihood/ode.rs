//! The density that the probability-flow ODE gives to a point (Song et al. 2021, eq. 39; Grathwohl et al. 2019; item 48).
//!
//! In the angle φ = atan(sigma/alpha) the flow is dz/dφ = cos φ·eps_hat − sin φ·x0_hat for z = x/√(alpha² + sigma²), whatever the process, and
//! finite at both ends; along it d ln p/dφ = −div. From the least time to time 1:
//!
//! ln p(x) = ln p_1(x_1) + d·ln(radius_1/radius_0) + ∫ div dφ.
//!
//! The divergence is the trace of the Jacobian, by the denoiser's own vector-Jacobian products: one for each coordinate (exact), or with
//! random v, E[vᵀJv] = tr J (Hutchinson 1990). Each point keeps its v on the whole way and has steps of its own size (Dormand and
//! Prince's method, as the sampler rk45), whose error counts the divergence too. All states are f64.

use super::vlb::host_rows;
use crate::denoiser::{Differentiable, Estimate};
use crate::error::{Error, Result};
use crate::process::{Level, Process};
use crate::rng::{Address, Purpose};
use crate::sampler::dormand_prince::{ATTEMPTS, ERROR, NODES, STAGES, next_step};
use crate::tensor::Tensor;

/// How the trace of the Jacobian is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trace<'a> {
    /// A product for every coordinate, d times the cost.
    Exact,
    /// The mean over this many vectors of signs ±1, of this seed: the least variance of all laws with independent entries, none on a diagonal Jacobian.
    Rademacher {
        /// Vectors for each point.
        probes: usize,
        /// Their seed.
        seed: u64,
    },
    /// The mean over this many vectors of standard normals.
    Gaussian {
        /// Vectors for each point.
        probes: usize,
        /// Their seed.
        seed: u64,
    },
    /// The mean over these vectors, of the length of a point, the same for all points.
    Given(&'a [Vec<f64>]),
}

/// How the ODE is solved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OdeOptions<'a> {
    /// Bound of the local error, absolute and relative; 1e-13 to 1. A network in f32 repays 1e-5 or so.
    pub tolerance: f64,
    /// How the trace is taken.
    pub trace: Trace<'a>,
}

impl Default for OdeOptions<'_> {
    fn default() -> Self {
        OdeOptions { tolerance: 1e-5, trace: Trace::Rademacher { probes: 1, seed: 0 } }
    }
}

/// The density of one point.
#[derive(Clone, Debug, PartialEq)]
pub struct OdeDensity {
    /// ln p at the process's least time, in nats, per unit of volume of x.
    pub log_density: f64,
    /// ln of the prior's density at the end of the way.
    pub log_prior: f64,
    /// The end of the way, x at time 1.
    pub end: Vec<f64>,
    /// Evaluations of the denoiser, with a product each.
    pub evaluations: usize,
}

/// ln N(x; 0, std²·I).
pub fn gaussian_log_prior(std: f64) -> impl Fn(&[f64]) -> f64 {
    move |x| {
        let variance = std * std;
        x.iter().map(|x| -0.5 * ((std::f64::consts::TAU * variance).ln() + x * x / variance)).sum()
    }
}

/// ln p of each point under the probability-flow ODE.
///
/// * `x` — `[n, …]`, points at the process's *least time*; f64 for oracles, f32 for networks. A point u of clean data stands there as
///   alpha·u, whose density per unit of u is alpha^d times as large.
/// * `samples` — `[n]`, the index of each point, by which its probes are addressed
/// * `log_prior` — ln p_1: [`gaussian_log_prior`] of the process's deviation, or the exact law where that of the data is known
///
/// # Errors
/// [`Error::Usage`] for a tolerance outside [1e-13, 1), no probes, probes of another length, or the exact trace beyond 4096 coordinates;
/// [`Error::NonFinite`] if the flow is not finite or takes too many steps; those of the denoiser.
///
/// # Example
/// ```
/// use tweedie::denoiser::oracle::Oracle;
/// use tweedie::likelihood::{OdeOptions, Trace, ode_log_density};
/// use tweedie::{process::{BetaCurve, Process, Vp}, tensor::Tensor};
/// let vp = Vp::new(BetaCurve::Linear { min: 0.1, max: 20.0 }, false)?;
/// let data = Oracle::gaussian(&[0.5], &[0.09])?;
/// let prior = |x: &[f64]| data.log_density(x, vp.level(1.0));
/// let options = OdeOptions { tolerance: 1e-8, trace: Trace::Exact };
/// let found = ode_log_density(&data, &vp, &Tensor::from_slice(&[0.7_f64], [1, 1])?, &[0], &prior, &options)?;
/// let exact = data.log_density(&[0.7], vp.level(vp.min_time()));
/// assert!((found[0].log_density - exact).abs() < 1e-6);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn ode_log_density(
    denoiser: &dyn Differentiable,
    process: &dyn Process,
    x: &Tensor,
    samples: &[u32],
    log_prior: &dyn Fn(&[f64]) -> f64,
    options: &OdeOptions<'_>,
) -> Result<Vec<OdeDensity>> {
    if !(1e-13..1.0).contains(&options.tolerance) {
        return Err(Error::Usage(format!("--tolerance {}: expected 1e-13 to 1", options.tolerance)));
    }
    let n = x.shape().first().copied().unwrap_or(0);
    if n == 0 || samples.len() != n {
        let s = samples.len();
        return Err(Error::Usage(format!("ode likelihood: {n} points with {s} indices: expected one index a point")));
    }
    let flow = Flow { denoiser, like: x.rows(0, 1)?, scale: probe_scale(options.trace, x.count() / n)? };
    let (first, last) = (process.level(process.min_time()), process.level(1.0));
    let mut lanes = start(&flow, x, samples, (first, last), options.trace)?;
    for attempt in 0.. {
        if lanes.iter().all(|lane| lane.angle == last.angle()) {
            break;
        }
        if attempt == ATTEMPTS {
            return Err(Error::NonFinite(format!(
                "ode likelihood: {ATTEMPTS} steps did not reach the end; use a larger --tolerance"
            )));
        }
        attempt_step(&flow, process, &mut lanes, last, options.tolerance)?;
    }
    let stretch = last.radius().ln() - first.radius().ln();
    Ok(lanes
        .into_iter()
        .map(|lane| {
            let end: Vec<f64> = lane.z.iter().map(|z| z * last.radius()).collect();
            let log_prior = log_prior(&end);
            let log_density = log_prior + end.len() as f64 * stretch + lane.integral;
            OdeDensity { log_density, log_prior, end, evaluations: lane.evaluations }
        })
        .collect())
}

/// The most coordinates with an exact trace: beyond, one evaluation costs more than a thousand samples do.
const MOST_EXACT: usize = 4096;

/// The factor of the sum of products over the probes; refuses probes that cannot be.
fn probe_scale(trace: Trace<'_>, d: usize) -> Result<f64> {
    match trace {
        Trace::Exact if d > MOST_EXACT => Err(Error::Usage(format!(
            "ode likelihood: the exact trace of {d} coordinates: expected at most {MOST_EXACT}; use probes"
        ))),
        Trace::Exact => Ok(1.0),
        Trace::Rademacher { probes: 0, .. } | Trace::Gaussian { probes: 0, .. } | Trace::Given([]) => {
            Err(Error::Usage("--probes 0: expected at least 1, or the exact trace".into()))
        }
        Trace::Rademacher { probes, .. } | Trace::Gaussian { probes, .. } => Ok(1.0 / probes as f64),
        Trace::Given(list) => match list.iter().find(|v| v.len() != d) {
            Some(v) => {
                let length = v.len();
                Err(Error::Usage(format!("ode likelihood: a probe of {length} numbers for points of {d}")))
            }
            None => Ok(1.0 / list.len() as f64),
        },
    }
}

/// The probes of one point.
fn probes(trace: Trace<'_>, d: usize, sample: u32) -> Vec<Vec<f64>> {
    let address = |seed: u64, probe: usize| {
        Address::new(seed, Purpose::Likelihood).sample(sample as usize).step(probe).sub_index(2)
    };
    match trace {
        Trace::Exact => (0..d).map(|j| (0..d).map(|k| f64::from(u8::from(j == k))).collect()).collect(),
        Trace::Rademacher { probes, seed } => {
            let sign = |probe: usize, k: usize| {
                let word = address(seed, probe).bits((k / 128) as u32)[k / 32 % 4];
                1.0 - 2.0 * f64::from((word >> (k % 32)) & 1)
            };
            (0..probes).map(|probe| (0..d).map(|k| sign(probe, k)).collect()).collect()
        }
        Trace::Gaussian { probes, seed } => {
            let mut z = vec![0.0_f32; d];
            let mut draw = |probe: usize| {
                address(seed, probe).fill_normal(&mut z);
                z.iter().map(|v| f64::from(*v)).collect()
            };
            (0..probes).map(&mut draw).collect()
        }
        Trace::Given(list) => list.to_vec(),
    }
}

/// The denoiser as a flow.
struct Flow<'a> {
    denoiser: &'a dyn Differentiable,
    /// A row like those of the user's points: its type, shape and device.
    like: Tensor,
    scale: f64,
}

/// dz/dφ and its divergence.
type Slope = (Vec<f64>, f64);

/// One point on its way.
struct Lane {
    z: Vec<f64>,
    integral: f64,
    angle: f64,
    step: f64,
    slope: Slope,
    probes: Vec<Vec<f64>>,
    evaluations: usize,
}

impl Flow<'_> {
    fn tensor(&self, rows: &[Vec<f64>]) -> Result<Tensor> {
        let shape = self.like.shape().with_rows(rows.len());
        let tensor = Tensor::from_f64s(&rows.concat(), shape, self.like.dtype())?;
        tensor.to_device(self.like.device())
    }

    /// The slopes of points z, row i at level `at[i]`, with the probes of each.
    fn slopes(&self, z: &[Vec<f64>], at: &[Level], probes: &[&[Vec<f64>]]) -> Result<Vec<Slope>> {
        let x: Vec<Vec<f64>> = z.iter().zip(at).map(|(z, at)| z.iter().map(|z| z * at.radius()).collect()).collect();
        let x_t = self.tensor(&x)?;
        let mut traces = vec![0.0; z.len()];
        let mut estimates = Vec::new();
        for k in 0..probes.first().map_or(0, |list| list.len()) {
            let v: Vec<Vec<f64>> = probes.iter().map(|list| list[k].clone()).collect();
            let (found, product) = self.denoiser.vjp_rows(&x_t, at, &self.tensor(&v)?)?;
            for ((trace, v), row) in traces.iter_mut().zip(&v).zip(host_rows(&product)?) {
                *trace += self.scale * v.iter().zip(row).map(|(v, p)| v * p).sum::<f64>();
            }
            estimates = found;
        }
        estimates
            .iter()
            .zip(at)
            .zip(x.iter().zip(traces))
            .map(|((e, at), (x, trace))| slope(e, *at, x, trace))
            .collect()
    }
}

/// cos φ·eps_hat − sin φ·x0_hat in terms of x and net_out, and the trace of its derivative by z.
fn slope(estimate: &Estimate, at: Level, x: &[f64], trace: f64) -> Result<Slope> {
    let (sin, cos) = at.angle().sin_cos();
    let of_x = cos * estimate.eps.0 - sin * estimate.x0.0;
    let of_out = cos * estimate.eps.1 - sin * estimate.x0.1;
    let net_out = estimate.net_out.to_f64s()?;
    let value = x.iter().zip(net_out).map(|(x, out)| of_x * x + of_out * out).collect();
    Ok((value, at.radius() * (of_x * x.len() as f64 + of_out * trace)))
}

fn start(
    flow: &Flow<'_>,
    x: &Tensor,
    samples: &[u32],
    (first, last): (Level, Level),
    trace: Trace<'_>,
) -> Result<Vec<Lane>> {
    let mut z = host_rows(x)?;
    z.iter_mut().flatten().for_each(|z| *z /= first.radius());
    let all: Vec<Vec<Vec<f64>>> = samples.iter().zip(&z).map(|(s, z)| probes(trace, z.len(), *s)).collect();
    let views: Vec<&[Vec<f64>]> = all.iter().map(Vec::as_slice).collect();
    let slopes = flow.slopes(&z, &vec![first; z.len()], &views)?;
    let step = (last.angle() - first.angle()) / 20.0;
    let parts = z.into_iter().zip(slopes).zip(all);
    Ok(parts
        .map(|((z, slope), probes)| Lane {
            z,
            integral: 0.0,
            angle: first.angle(),
            step,
            slope,
            probes,
            evaluations: 1,
        })
        .collect())
}

/// One attempted step of every point that has not arrived. The others are evaluated where they are, and ignored: a class-conditional network
/// wants a row for each of its labels.
fn attempt_step(flow: &Flow<'_>, process: &dyn Process, lanes: &mut [Lane], last: Level, tolerance: f64) -> Result<()> {
    let end = last.angle();
    let step_of = |lane: &Lane| {
        if end - lane.angle <= lane.step * (1.0 + 1e-9) { end - lane.angle } else { lane.step }
    };
    let steps: Vec<f64> = lanes.iter().map(step_of).collect();
    let views: Vec<&[Vec<f64>]> = lanes.iter().map(|lane| lane.probes.as_slice()).collect();
    let mut slopes: Vec<Vec<Slope>> = lanes.iter().map(|lane| vec![lane.slope.clone()]).collect();
    let mut next: Vec<(Vec<f64>, f64)> = Vec::new();
    for (row, node) in STAGES.iter().zip(&NODES[1..]) {
        let level = |(lane, step): (&Lane, &f64)| {
            let angle = lane.angle + node * step;
            let arrives = *step == 0.0 || (*node == 1.0 && lane.angle + step == end);
            if arrives { last } else { process.level_at(-angle.tan().ln()) }
        };
        let at: Vec<Level> = lanes.iter().zip(&steps).map(level).collect();
        let parts = lanes.iter().zip(&steps).zip(&slopes);
        next = parts.map(|((lane, step), slopes)| combine(&lane.z, lane.integral, *step, row, slopes)).collect();
        let z: Vec<Vec<f64>> = next.iter().map(|(z, _)| z.clone()).collect();
        for (list, slope) in slopes.iter_mut().zip(flow.slopes(&z, &at, &views)?) {
            list.push(slope);
        }
    }
    for ((lane, step), ((z, integral), mut slopes)) in lanes.iter_mut().zip(steps).zip(next.into_iter().zip(slopes)) {
        if lane.angle == end {
            continue;
        }
        let error = combine(&vec![0.0; z.len()], 0.0, step, &ERROR, &slopes);
        let size = error_size(&error, (&lane.z, lane.integral), (&z, integral), tolerance);
        if !size.is_finite() {
            return Err(Error::NonFinite(format!("ode likelihood: the slope at angle {} is not finite", lane.angle)));
        }
        lane.evaluations += STAGES.len();
        if size <= 1.0 {
            lane.angle = if lane.angle + step == end { end } else { lane.angle + step };
            (lane.z, lane.integral) = (z, integral);
            if let Some(slope) = slopes.pop() {
                lane.slope = slope;
            }
        }
        lane.step = next_step(step, size);
    }
    Ok(())
}

/// The state plus Σ step·factors·slopes.
fn combine(z: &[f64], integral: f64, step: f64, factors: &[f64], slopes: &[Slope]) -> (Vec<f64>, f64) {
    let (mut z, mut integral) = (z.to_vec(), integral);
    for (factor, (slope, divergence)) in factors.iter().zip(slopes).filter(|(factor, _)| **factor != 0.0) {
        z.iter_mut().zip(slope).for_each(|(z, s)| *z += step * factor * s);
        integral += step * factor * divergence;
    }
    (z, integral)
}

/// The larger of two errors beside their tolerance: of the point, as [`crate::ops::error_norm`] has it, and of the integral for each
/// dimension.
fn error_size(
    (error, of_integral): &(Vec<f64>, f64),
    before: (&[f64], f64),
    after: (&[f64], f64),
    tolerance: f64,
) -> f64 {
    let d = error.len() as f64;
    let term = |((e, a), b): ((&f64, &f64), &f64)| (e / (tolerance * (1.0 + a.abs().max(b.abs())))).powi(2);
    let square: f64 = error.iter().zip(before.0).zip(after.0).map(term).sum();
    let of_integral = of_integral.abs() / (tolerance * (d + before.1.abs().max(after.1.abs())));
    let of_point = (square / d).sqrt();
    // `max` would drop a NaN.
    if of_integral > of_point || of_integral.is_nan() { of_integral } else { of_point }
}

#[cfg(test)]
#[path = "ode_tests.rs"]
mod tests;
