//! Inpainting and colourisation (items 58 and 59) on jointly Gaussian data, where the conditional law is known.

use super::super::measure::{equal_log_snr, largest, vp};
use super::super::{Bound, Identity};
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::process::{Level, Variance};
use crate::rng::{Address, Purpose};
use crate::sampler::{
    Grid, KnownComponents, KnownElements, Projection, Resampling, Run, SamplerKind, SamplerOptions, StepNoise,
    sample_again,
};
use crate::tensor::Tensor;
use std::sync::OnceLock;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 58 S3.eq162-165 conditional",
        claim: "for Gaussians the score of the unknown part given the known one is that of the conditional law",
        bound: Bound::AtMost(1e-12), // f64
        measure: conditional_score,
    },
    Identity {
        id: "item 58 S3.eq170 known pixels",
        claim: "what is known is there at the end, bit for bit, with every sampler that visits a grid",
        bound: Bound::AtMost(0.0),
        measure: known_bits,
    },
    Identity {
        id: "item 58 S3.eq170 moments",
        claim: "samples have the moments of the algorithm's own linear recursion: in standard errors",
        bound: Bound::AtMost(4.0), // of two numbers: 4 deviations are 1e-4
        measure: own_moments,
    },
    Identity {
        id: "item 58 S3.eq166-167 bias",
        claim: "plain replacement is biased: distance of the mean from the conditional one, 1.35",
        bound: Bound::AtLeast(0.2),
        measure: || Ok((runs()?[0].0 - TRUTH.0).abs()),
    },
    Identity {
        id: "item 58 S3.eq166-167 more steps",
        claim: "four times as many steps do not mend that",
        bound: Bound::AtLeast(0.2),
        measure: || Ok((recursion(4 * STEPS)?.0 - TRUTH.0).abs()),
    },
    Identity {
        id: "item 58 resampling",
        claim: "ten times each step, RePaint's way, leaves at most a fifth of the bias",
        bound: Bound::AtMost(0.2),
        measure: || {
            let [plain, again] = *runs()?;
            Ok((again.0 - TRUTH.0).abs() / (plain.0 - TRUTH.0).abs())
        },
    },
    Identity {
        id: "item 58 resampled variance",
        claim: "and brings the variance from far above the conditional one, 0.19, to within a fifth of it",
        bound: Bound::AtMost(0.2),
        measure: || {
            let [plain, again] = *runs()?;
            Ok(if plain.1 > 1.3 * TRUTH.1 { (again.1 / TRUTH.1 - 1.0).abs() } else { f64::NAN })
        },
    },
    Identity {
        id: "item 58 all and none",
        claim: "with everything known the data come back, with nothing known the plain sampler, bit for bit",
        bound: Bound::AtMost(0.0),
        measure: all_and_none,
    },
    Identity {
        id: "item 58 S3.eq170 misprint",
        claim: "with √Δn for √Δt, as printed, the reverse SDE's noise is far too large: ratio of final variances",
        bound: Bound::AtLeast(10.0),
        measure: noise_by_index,
    },
    Identity {
        id: "item 59 grey",
        claim: "coloured samples keep the grey level",
        bound: Bound::AtMost(1e-14), // two sums of three in f64
        measure: || Ok(colours()?.grey),
    },
    Identity {
        id: "item 59 bias",
        claim: "colouring is replacement in a rotated basis: plain it is biased, against the conditional mean",
        bound: Bound::AtLeast(0.05),
        measure: || Ok(colours()?.plain),
    },
    Identity {
        id: "item 59 resampling",
        claim: "resampling leaves at most a third of that",
        bound: Bound::AtMost(1.0 / 3.0),
        measure: || colours().map(|colours| colours.again / colours.plain),
    },
];

/// Correlation of the two numbers, both standard normal, and the second, known one.
const RHO: f64 = 0.9;
const Y: f64 = 1.5;
/// Conditional mean and variance of the first.
const TRUTH: (f64, f64) = (RHO * Y, 1.0 - RHO * RHO);
const STEPS: usize = 100;
const SAMPLES: usize = 4000;
const LAST: f64 = 1e-4;

fn oracle() -> Result<Oracle> {
    Oracle::gaussian(&[0.0, 0.0], &[1.0, RHO, RHO, 1.0])
}

fn grid(steps: usize) -> Result<Grid> {
    let process = vp()?;
    let noisy = equal_log_snr(&process, LAST, steps - 1)?;
    let mut levels: Vec<Level> = noisy.steps().iter().map(|step| step.from).collect();
    levels.extend([process.level(LAST), Level::CLEAN]);
    Grid::through(&process, &levels)
}

/// Samples `[n, d]` with something known.
fn sample(
    oracle: &Oracle,
    n: usize,
    kind: SamplerKind,
    known: Option<&dyn Projection>,
    steps: usize,
    times: usize,
) -> Result<Vec<f64>> {
    let samples: Vec<u32> = (0..n as u32).collect();
    let mut run = Run::new(oracle, StepNoise::Drawn(Address::new(58, Purpose::ReverseStep)), &samples);
    if let Some(known) = known {
        run = run.with_projection(known, Address::new(58, Purpose::Known));
    }
    let start = oracle.sample(58, n, vp()?.level(1.0))?;
    let options = SamplerOptions { variance: Variance::FixedSmall, ..Default::default() };
    sample_again(kind, &mut run, start, &grid(steps)?, &options, Resampling { times, jump: 1 })?.to_vec()
}

fn second_known(n: usize) -> Result<KnownElements> {
    Ok(KnownElements {
        x0: Tensor::from_slice(&[f64::NAN, Y].repeat(n), [n, 2])?,
        mask: Tensor::from_slice(&[0.0, 1.0], [1, 2])?,
    })
}

/// Mean and variance of the unknown number, plain and with each step taken ten times; run once.
fn runs() -> Result<&'static [(f64, f64); 2]> {
    static RUNS: OnceLock<[(f64, f64); 2]> = OnceLock::new();
    if let Some(known) = RUNS.get() {
        return Ok(known);
    }
    let oracle = oracle()?;
    let known = second_known(SAMPLES)?;
    let moments = |times: usize| {
        let x = sample(&oracle, SAMPLES, SamplerKind::Ddpm, Some(&known), STEPS, times)?;
        let first: Vec<f64> = x.chunks_exact(2).map(|pair| pair[0]).collect();
        let found = crate::analytic::statistics::moments(&first)?;
        Ok::<_, crate::Error>((found.mean, found.variance))
    };
    let found = [moments(1)?, moments(10)?];
    Ok(RUNS.get_or_init(|| found))
}

/// Mean and variance of the unknown number by the algorithm's own recursion: a step of DDPM is linear, and the known number at each level
/// is alpha·Y + sigma·z, drawn afresh.
fn recursion(steps: usize) -> Result<(f64, f64)> {
    let oracle = oracle()?;
    let grid = grid(steps)?;
    let first = grid.steps()[0].from;
    // The start is drawn from p_T whole: its covariance is alpha²·C + sigma²·I.
    let (mut mean, mut variance) = ([0.0, 0.0], [1.0, first.alpha.powi(2) * RHO, 1.0]);
    for step in grid.steps() {
        let (from, to) = (step.from, step.to);
        let x0 = |x: [f64; 2]| oracle.posterior_mean(&x, from)[0];
        let (zero, a, b) = (x0([0.0, 0.0]), x0([1.0, 0.0]), x0([0.0, 1.0]));
        // DDPM's mean: (alpha_from/alpha_to)·(sigma_to/sigma_from)²·x + alpha_to·fresh·x0_hat, and its variance, beta-tilde.
        let (keep, gain) = ((from.alpha / to.alpha) * (to.sigma / from.sigma).powi(2), to.alpha * step.fresh());
        let (k, l) = (keep + gain * (a - zero), gain * (b - zero));
        let noise = to.sigma.powi(2) * step.fresh();
        let next = gain * zero + k * mean[0] + l * mean[1];
        let spread = k * k * variance[0] + 2.0 * k * l * variance[1] + l * l * variance[2] + noise;
        (mean, variance) = ([next, to.alpha * Y], [spread, 0.0, to.sigma.powi(2)]);
    }
    Ok((mean[0], variance[0]))
}

fn own_moments() -> Result<f64> {
    let ((mean, variance), (want, spread)) = (runs()?[0], recursion(STEPS)?);
    let n = SAMPLES as f64;
    Ok(largest([(mean - want) / (spread / n).sqrt(), (variance - spread) / (spread * (2.0 / n).sqrt())]))
}

fn conditional_score() -> Result<f64> {
    let oracle = oracle()?;
    let process = vp()?;
    let mut worst = Vec::new();
    for at in [0.05, 0.3, 0.8].map(|t| process.level(t)) {
        let (v, c) = (1.0, at.alpha.powi(2) * RHO);
        for x in [[-1.0, 0.4], [0.2, 1.5], [2.0, -0.7]] {
            let want = -(x[0] - c / v * x[1]) / (v - c * c / v);
            worst.push(oracle.score(&x, at)[0] - want);
        }
    }
    Ok(largest(worst))
}

fn known_bits() -> Result<f64> {
    let oracle = oracle()?;
    let known = second_known(8)?;
    let mut differences = Vec::new();
    for kind in SamplerKind::ALL.into_iter().filter(|kind| *kind != SamplerKind::Rk45) {
        let x = sample(&oracle, 8, kind, Some(&known), 12, 2)?;
        differences.extend(x.chunks_exact(2).map(|pair| pair[1] - Y));
        differences.extend(x.iter().map(|x| if x.is_finite() { 0.0 } else { f64::NAN }));
    }
    Ok(largest(differences))
}

fn all_and_none() -> Result<f64> {
    let oracle = oracle()?;
    let x0: Vec<f64> = (0..16).map(|i| 0.1 * f64::from(i) - 0.7).collect();
    let known = |share: f64| -> Result<KnownElements> {
        Ok(KnownElements { x0: Tensor::from_slice(&x0, [8, 2])?, mask: Tensor::from_slice(&[share; 2], [1, 2])? })
    };
    let run = |known: Option<&dyn Projection>| sample(&oracle, 8, SamplerKind::Ddpm, known, 12, 1);
    let plain = run(None)?;
    let (all, none) = (run(Some(&known(1.0)?))?, run(Some(&known(0.0)?))?);
    Ok(largest(all.iter().zip(&x0).chain(none.iter().zip(&plain)).map(|(a, b)| a - b)))
}

/// One number N(0, 1), whose law the VP process keeps: the variance at the end with noise g·√Δn, Δn = 1, over that with g·√Δt.
fn noise_by_index() -> Result<f64> {
    let process = vp()?;
    let steps = 1000;
    let mut variances = [1.0, 1.0];
    for k in 0..steps {
        let t = 1.0 - k as f64 / steps as f64;
        let (dt, g) = (1.0 / steps as f64, process.diffusion(t));
        // dx = (−f·x + g²·score)·dt with score −x.
        let keep = 1.0 + (-process.drift(t) - g * g) * dt;
        for (variance, length) in variances.iter_mut().zip([1.0, dt]) {
            *variance = keep * keep * *variance + g * g * length;
        }
    }
    Ok(variances[0] / variances[1])
}

struct Colours {
    grey: f64,
    plain: f64,
    again: f64,
}

/// A pixel of three correlated colours of which the grey level is known: how far the mean colour lies from the conditional one.
fn colours() -> Result<&'static Colours> {
    static FOUND: OnceLock<Colours> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let covariance = [1.0, 0.2, -0.1, 0.2, 0.5, 0.3, -0.1, 0.3, 0.4];
    let oracle = Oracle::gaussian(&[0.0; 3], &covariance)?;
    let (third, grey) = (1.0 / 3.0_f64.sqrt(), 0.9);
    let n = 2000;
    let known = KnownComponents { rows: vec![third; 3], values: Tensor::from_slice(&vec![grey; n], [n, 1])? };
    // Cov(x, a·x)/Var(a·x)·grey.
    let with_grey: Vec<f64> = covariance.chunks_exact(3).map(|row| third * row.iter().sum::<f64>()).collect();
    let total = third * with_grey.iter().sum::<f64>();
    let mean_of = |times: usize| -> Result<(Vec<f64>, f64)> {
        let x = sample(&oracle, n, SamplerKind::Ddpm, Some(&known), 60, times)?;
        let off = largest(x.chunks_exact(3).map(|pixel| third * pixel.iter().sum::<f64>() - grey));
        Ok(((0..3).map(|j| x.iter().skip(j).step_by(3).sum::<f64>() / n as f64).collect(), off))
    };
    let miss = |mean: &[f64]| {
        let off = mean.iter().zip(&with_grey).map(|(mean, with)| (mean - with / total * grey).powi(2));
        off.sum::<f64>().sqrt()
    };
    let ((plain, first), (again, second)) = (mean_of(1)?, mean_of(8)?);
    let found = Colours { grey: first.max(second), plain: miss(&plain), again: miss(&again) };
    Ok(FOUND.get_or_init(|| found))
}
