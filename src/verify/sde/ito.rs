//! Euler–Maruyama and Itô's integral (item 36).

use super::super::measure::{LinearStep, equal_times, largest, normals, order_miss, rms, vp};
use super::super::{Bound, Identity};
use crate::analytic::statistics;
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::process::{BetaCurve, Process, Vp};
use crate::rng::{Address, Purpose};
use crate::sampler::{Grid, Run, StepNoise, euler_maruyama};
use crate::tensor::Tensor;
use std::sync::Arc;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 36 S3.eq69 step",
        claim: "the sampler's step is x − (f·x − g²·∇ log p)·Δt + g·√Δt·z but for O(Δt²)",
        bound: Bound::AtMost(0.1), // a slope within 0.1 of 2 names the order
        measure: printed_step,
    },
    Identity {
        id: "item 36 S3.eq69 weak order",
        claim: "Euler–Maruyama's mean and variance on Gaussian data are off by O(Δt)",
        bound: Bound::AtMost(0.1), // a slope within 0.1 of 1 names the order
        measure: weak_order,
    },
    Identity {
        id: "item 36 S3.eq139 strong order",
        claim: "with noise that does not depend on X, Euler–Maruyama's paths are off by O(Δt), not O(√Δt)",
        bound: Bound::AtMost(0.1),
        measure: strong_order,
    },
    Identity {
        id: "item 36 S3.eq71 sum",
        claim: "the variance of the Itô sums, Σ g(kε)²·ε, tends to ∫g² with order 1",
        bound: Bound::AtMost(0.1),
        measure: ito_sum,
    },
    Identity {
        id: "item 36 S3.eq71 isometry",
        claim: "E(∫g dW)² = ∫g², by simulated Itô sums, in standard errors",
        // n = 4000 paths of 2048 steps, seed 36: z = 4 happens once in 16 000. The sum's own error is 0.005 relative, a quarter
        // of a standard error.
        bound: Bound::AtMost(4.0),
        measure: isometry,
    },
    Identity {
        id: "item 36 S3.eq70 W dW",
        claim: "∫W dW = (W² − T)/2: the Itô sums are off by √(T²/(2K)) in the mean square, in standard errors",
        // n = 4000 paths, seed 37, for each of three K; z = 4 happens once in 16 000.
        bound: Bound::AtMost(4.0),
        measure: w_dw,
    },
    Identity {
        id: "item 36 S3.eq70 not half of W squared",
        claim: "without Itô's −T/2 the sums stay T/2 away from W²/2",
        bound: Bound::AtLeast(0.4), // T/2 = 0.5 less the sum's own error of 0.02
        measure: stratonovich,
    },
];

/// Mean and variance of the data: not the prior's 0 and 1, for which errors cancel.
const GAUSSIANS: [(f64, f64); 2] = [(0.7, 0.09), (-0.4, 2.25)];

fn weak_order() -> Result<f64> {
    let process = vp()?;
    let steps = [200, 400, 800, 1600];
    let mut misses = Vec::new();
    for (mean, variance) in GAUSSIANS {
        let oracle = Oracle::gaussian(&[mean], &[variance])?;
        let law = |time: f64| {
            let at = process.level(time);
            (at.alpha * mean, at.alpha.powi(2) * variance + at.sigma.powi(2))
        };
        // Down to 0.1: near 0.05 the first order's coefficient of one variance happens to change its sign.
        let (last, want) = (0.1, law(0.1));
        let (mut means, mut variances) = (Vec::new(), Vec::new());
        for n in steps {
            let mut now = law(1.0);
            for at in equal_times(&process, last, n)?.steps() {
                let one = Grid::through(&process, &[at.from, at.to])?;
                now = LinearStep::read(&oracle, |run, x| euler_maruyama(run, x, &one))?.push(now);
            }
            means.push((now.0 - want.0).abs());
            variances.push((now.1 - want.1).abs());
        }
        misses.extend([order_miss(&steps, &means, 1.0)?, order_miss(&steps, &variances, 1.0)?]);
    }
    Ok(largest(misses))
}

/// The sampler's step from time 0.5 against x − (f·x − g²·∇ log p)·Δt + g·√Δt·z.
fn printed_step() -> Result<f64> {
    let (mean, variance) = GAUSSIANS[0];
    let oracle = Oracle::gaussian(&[mean], &[variance])?;
    let process = vp()?;
    let from = process.level(0.5);
    let score = |x: f64| oracle.score(&[x], from)[0];
    let steps = [100, 200, 400, 800];
    let mut errors = Vec::new();
    for n in steps {
        let dt = 1.0 / n as f64;
        let grid = Grid::through(&process, &[from, process.level(0.5 - dt)])?;
        let got = LinearStep::read(&oracle, |run, x| euler_maruyama(run, x, &grid))?;
        let g2 = from.diffusion.powi(2);
        let keep = 1.0 - (from.drift - g2 * (score(1.0) - score(0.0))) * dt;
        errors.push(largest([got.shift - g2 * score(0.0) * dt, got.keep - keep, got.noise.powi(2) - g2 * dt]));
    }
    order_miss(&steps, &errors, 2.0)
}

/// Steps of the reference path: 64 times the finest under test, whose error it shifts by 1/64.
const FINE: usize = 32_768;
const PATHS: usize = 32;

fn strong_order() -> Result<f64> {
    // A drift that is not linear, but without a ridge between far bumps: a path that crosses it at one step size and not at
    // another would outweigh all others.
    let oracle = Oracle::isotropic(&[0.4, 0.6], &[vec![-0.4], vec![0.5]], &[0.5, 0.6])?;
    let process: Arc<dyn Process> = Arc::new(Vp::new(BetaCurve::Linear { min: 0.5, max: 4.0 }, false)?);
    let fine = normals(38, FINE * PATHS);
    let start = oracle.sample(38, PATHS, process.level(1.0))?;
    let samples: Vec<u32> = (0..PATHS as u32).collect();
    let path = |steps: usize| -> Result<Vec<f64>> {
        // One Brownian path for all: a coarse increment is the sum of the fine ones.
        let merged = FINE / steps;
        let increment = |step: usize| {
            let sum = |path: usize| (0..merged).map(|i| fine[(step * merged + i) * PATHS + path]).sum::<f64>();
            let z: Vec<f64> = (0..PATHS).map(|path| sum(path) / (merged as f64).sqrt()).collect();
            Tensor::from_slice(&z, [PATHS, 1])
        };
        let noise = (0..steps).map(increment).collect::<Result<Vec<_>>>()?;
        let mut run = Run::new(&oracle, StepNoise::Given(&noise), &samples);
        euler_maruyama(&mut run, start.clone(), &equal_times(&process, 0.1, steps)?)?.to_vec()
    };
    let reference = path(FINE)?;
    let steps = [64, 128, 256, 512];
    let errors = steps.map(|n| path(n).map(|x| rms(&x, &reference)).unwrap_or(f64::NAN));
    order_miss(&steps, &errors, 1.0)
}

const CURVE: BetaCurve = BetaCurve::Linear { min: 0.1, max: 20.0 };

/// g(k/steps)²/steps.
fn ito_variances(steps: usize) -> Result<Vec<f64>> {
    let process = Vp::new(CURVE, false)?;
    Ok((0..steps).map(|k| process.diffusion(k as f64 / steps as f64).powi(2) / steps as f64).collect())
}

fn ito_sum() -> Result<f64> {
    let steps = [64, 128, 256, 512];
    let error = |n: usize| ito_variances(n).map_or(f64::NAN, |v| (v.iter().sum::<f64>() - CURVE.integral(1.0)).abs());
    order_miss(&steps, &steps.map(error), 1.0)
}

fn isometry() -> Result<f64> {
    let deviations: Vec<f64> = ito_variances(2048)?.iter().map(|v| v.sqrt()).collect();
    let mut z = vec![0.0_f32; deviations.len()];
    let mut sum = |path: usize| {
        Address::new(36, Purpose::Test).sample(path).fill_normal(&mut z);
        deviations.iter().zip(&z).map(|(g, z)| g * f64::from(*z)).sum::<f64>()
    };
    let sums: Vec<f64> = (0..4000).map(&mut sum).collect();
    let found = statistics::moments(&sums)?;
    let want = CURVE.integral(1.0);
    Ok(largest([found.mean / found.mean_error, (found.variance - want) / found.variance_error]))
}

/// Σ W_k·(W_(k+1) − W_k) over [0, 1], and W_1, of 4000 paths.
fn w_dw_sums(steps: usize) -> Vec<(f64, f64)> {
    let mut z = vec![0.0_f32; steps];
    let mut path = |path: usize| {
        Address::new(37, Purpose::Test).sample(path).step(steps).fill_normal(&mut z);
        let root = (1.0 / steps as f64).sqrt();
        z.iter().fold((0.0, 0.0), |(sum, w), z| {
            let increment = root * f64::from(*z);
            (sum + w * increment, w + increment)
        })
    };
    (0..4000).map(&mut path).collect()
}

fn w_dw() -> Result<f64> {
    let mut scores = Vec::new();
    for steps in [64, 256, 1024] {
        // The error is (1 − Σ ΔW²)/2: mean 0, variance 1/(2K).
        let error = |(sum, w): (f64, f64)| sum - 0.5 * (w * w - 1.0);
        let errors: Vec<f64> = w_dw_sums(steps).into_iter().map(error).collect();
        let found = statistics::moments(&errors)?;
        let want = 0.5 / steps as f64;
        scores.extend([found.mean / found.mean_error, (found.variance - want) / found.variance_error]);
    }
    Ok(largest(scores))
}

fn stratonovich() -> Result<f64> {
    let errors: Vec<f64> = w_dw_sums(1024).into_iter().map(|(sum, w)| sum - 0.5 * w * w).collect();
    Ok(statistics::moments(&errors)?.mean.abs())
}
