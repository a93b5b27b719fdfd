//! DDPM's training and sampling loops, and where their errors come from (S0 and S1 "algorithm", S3 section 2.2; items 21, 22 and 24).

use super::chain::{Affine, Gaussian, Law, ShiftedScore, Step, through};
use super::measure::normals;
use super::one_dim::{draw, falling_order_miss, moments_z, one_row, uneven_bumps, worst, worst_of};
use super::vp::{level, linear};
use super::vp_posterior::beta;
use super::{Bound, Identity};
use crate::analytic::{Mixture, gaussian, statistics};
use crate::denoiser::Denoiser;
use crate::error::{Error, Result};
use crate::loss::draw_levels;
use crate::ops::{self, perturb, weighted_mse};
use crate::process::{Discrete, Level, Variance};
use crate::rng::{Address, Purpose};
use crate::sampler::{Run, StepNoise, ddpm};
use crate::tape::{Grads, Tape};
use crate::tensor::Tensor;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 21 S0.algorithm gradient",
        claim: "the tape's gradient of ‖eps − eps_θ‖² is the finite difference in f64, for a linear eps_θ; relative",
        // f32 sums of 512 products, in blocks: 4√512·ε.
        bound: Bound::AtMost(1.1e-5),
        measure: loss_gradient,
    },
    Identity {
        id: "item 21 S0.algorithm times",
        claim: "n is uniform on 1 to N: chi² of 50 000 draws in 50 bins",
        // 49 degrees of freedom, seed 211: 98 is exceeded once in 25 000 seeds.
        bound: Bound::AtMost(98.0),
        measure: times_chi_square,
    },
    Identity {
        id: "item 21 S3 oracle loss",
        claim: "E(eps − eps*)² = ᾱσ0²/(ᾱσ0² + 1 − ᾱ) with the exact eps*, at five n, in standard errors",
        // n = 100 000 each, seed 213, z-score 4.5.
        bound: Bound::AtMost(4.5),
        measure: oracle_loss,
    },
    Identity {
        id: "item 21 S0.algorithm misprint",
        claim: "\"eps ~ Uniform(1, T)\", a time drawn into eps: its mean, which should be 0",
        // (T + 1)/2 = 500.5, known to 1 % from 1000 draws.
        bound: Bound::AtLeast(400.0),
        measure: printed_draw,
    },
    Identity {
        id: "item 21 S1 pseudo-code misprint",
        claim: "√α_t·x_0 + √(1−α_t)·eps, the bars dropped: the noise's variance at t = 1000",
        // β_T = 0.02 against 1 − ᾱ_T = 0.99996.
        bound: Bound::AtLeast(0.9),
        measure: || Ok((beta(1000)? - level(&linear()?, 1000)?.sigma.powi(2)).abs()),
    },
    Identity {
        id: "item 21 S3 algorithm root misprint",
        claim: "\"√1 ᾱ_n\" for √(1 − ᾱ_n): the variance of x_n for unit data at n = N",
        // 2ᾱ_N = 8e-5 against 1.
        bound: Bound::AtLeast(0.9),
        measure: || Ok((2.0 * linear()?.alpha_bar(999)? - 1.0).abs()),
    },
    Identity {
        id: "item 22 S3 sampling",
        claim: "100 000 samples of 100 steps have the mean and variance of the exact recursion, both variances, in standard errors",
        // n = 100 000, seeds 221 and 222, z-score 4.5.
        bound: Bound::AtMost(4.5),
        measure: || {
            let silent = Step { variance: Variance::FixedLarge, noise_at_end: false };
            worst_of([Step::POSTERIOR, Step::LITERAL, silent].map(recursion_z))
        },
    },
    Identity {
        id: "item 22 S3 recursion",
        claim: "the recursion of Gaussian data through 1000 exact steps returns mean and variance, first order in β",
        // First order: a few tenths of the largest β, 0.02.
        bound: Bound::AtMost(0.02),
        measure: recursion_error,
    },
    Identity {
        id: "item 22 S1 last step",
        claim: "without noise at the end x_0 does not depend on the last z; with it, it is off by exactly √β₁·z",
        bound: Bound::AtMost(1e-14), // one product
        measure: last_noise,
    },
    Identity {
        id: "item 22 S0.algorithm order misprint",
        claim: "t = 1…T for t = T…1: relative miss of the variance of x_0, data of variance 0.25",
        // The step from t = T, taken last, leaves its own level: variance 1 − β_T or more.
        bound: Bound::AtLeast(1.0),
        measure: || final_variance(|chain| chain.reverse()).map(|variance| (variance / 0.25 - 1.0).abs()),
    },
    Identity {
        id: "item 22 S3 algorithm minus misprint",
        claim: "the missing minus before β_n/√(1−ᾱ_n)·eps read as a plus: logarithm of the final variance over the data's",
        // Each step widens instead of shrinking: a factor of (1 + 2β)-like growth, e^{2Σβ} = e^{20}.
        bound: Bound::AtLeast(10.0),
        measure: missing_minus,
    },
    Identity {
        id: "item 24 S3.remark7 steps",
        claim: "(a) the reverse step is only nearly Gaussian: W₁ to the data falls with first order in the step, begun at the exact p_T",
        // N = 32 to 256: the second-order share is about 1/N of the error.
        bound: Bound::AtMost(0.1),
        measure: || order_of(&[32.0, 64.0, 128.0, 256.0], |n| 1.0 / n, |n| error_of_steps(n as usize)),
    },
    Identity {
        id: "item 24 S3.remark7 score",
        claim: "(b) a score off by delta: W₁ to the chain with the exact score falls with delta, first order",
        // The response is analytic in delta <= 0.2: second order below a tenth.
        bound: Bound::AtMost(0.1),
        measure: || order_of(&[0.2, 0.1, 0.05, 0.025], |delta| delta, error_of_score),
    },
    Identity {
        id: "item 24 S3.remark7 prior",
        claim: "(c) N(0, 1) for p_T: W₁ to the chain from p_T falls with ᾱ_T, first order: √ᾱ_T of the mean, of which √ᾱ_T is remembered",
        // ᾱ_T from e^{−4} to e^{−7}: the next term, √ᾱ_T smaller, is a share below a tenth.
        bound: Bound::AtMost(0.1),
        measure: || order_of(&[4.0, 5.0, 6.0, 7.0], |total| (-total).exp(), error_of_prior),
    },
];

// ---- item 21 ----

/// eps_θ = weight·x_t + bias on 512 noised numbers: tape against central differences.
fn loss_gradient() -> Result<f64> {
    const COUNT: usize = 512;
    let at = level(&linear()?, 300)?;
    let x0: Vec<f32> = normals(210, COUNT).iter().map(|v| *v as f32).collect();
    let x0 = Tensor::from_slice(&x0, [1, COUNT])?;
    let p = perturb(&x0, &[at.alpha], &[at.sigma], Address::new(212, Purpose::TrainNoise), &[0])?;
    let (x, eps) = (p.x_t.view([COUNT, 1])?, p.eps.view([COUNT, 1])?);
    let theta = [0.3_f32, -0.2];
    let weight = Tensor::from_slice(&theta[..1], [1, 1])?.with_grad(true);
    let bias = Tensor::from_slice(&theta[1..], [1])?.with_grad(true);
    let forward = || Ok(weighted_mse(&ops::linear(&x, &weight, Some(&bias), None)?, &eps, &[1.0; COUNT])?.0);
    let (loss, tape) = Tape::record(forward)?;
    let mut grads = Grads::new();
    tape.backward_from_loss(&loss, &mut grads)?;
    let missing = || Error::Usage("loss gradient: the tape returned none".into());
    let got = [&weight, &bias].map(|t| Ok(f64::from(grads.get(t).ok_or_else(missing)?.to_vec::<f32>()?[0])));

    let (x, eps) = (x.to_vec::<f32>()?, eps.to_vec::<f32>()?);
    let value = |w: f64, b: f64| {
        let square = |(x, eps): (&f32, &f32)| (w * f64::from(*x) + b - f64::from(*eps)).powi(2);
        x.iter().zip(&eps).map(square).sum::<f64>() / COUNT as f64
    };
    let (w, b, h) = (f64::from(theta[0]), f64::from(theta[1]), 1e-5);
    let want = [value(w + h, b) - value(w - h, b), value(w, b + h) - value(w, b - h)].map(|v| v / (2.0 * h));
    let size = worst(want.map(f64::abs));
    worst_of(got.into_iter().zip(want).map(|(got, want): (Result<f64>, f64)| Ok((got? - want).abs() / size)))
}

/// n of 1000 training steps of 50 images.
fn drawn_times() -> Result<Vec<f64>> {
    let table = linear()?;
    let mut levels = [Level::CLEAN; 50];
    let mut times = Vec::new();
    for step in 0..1000 {
        draw_levels(&table, 211, step, &mut levels);
        times.extend(levels.iter().map(|at| at.t + 1.0));
    }
    Ok(times)
}

fn times_chi_square() -> Result<f64> {
    let mut bins = [0.0_f64; 50];
    for n in drawn_times()? {
        bins[((n as usize - 1) / 20).min(49)] += 1.0;
    }
    Ok(bins.iter().map(|count| (count - 1000.0).powi(2) / 1000.0).sum())
}

fn oracle_loss() -> Result<f64> {
    let (table, data) = (linear()?, Gaussian { mean: 0.4, variance: 2.0 });
    let law = Mixture::new(&[1.0], &[data.mean], &[data.variance.sqrt()])?;
    let x0 = one_row(&draw(&law, 214, 100_000))?;
    worst_of([1, 50, 200, 500, 1000].into_iter().map(|n| {
        let at = level(&table, n)?;
        let p = perturb(&x0, &[at.alpha], &[at.sigma], Address::new(213, Purpose::TrainNoise).step(n), &[0])?;
        let x0_hat = data.denoise(&p.x_t, at)?.x0_hat()?.to_vec::<f64>()?;
        let (x_t, eps) = (p.x_t.to_vec::<f64>()?, p.eps.to_vec::<f64>()?);
        let errors = (0..eps.len()).map(|i| (eps[i] - (x_t[i] - at.alpha * x0_hat[i]) / at.sigma).powi(2));
        let moments = statistics::moments(&errors.collect::<Vec<f64>>())?;
        let signal = at.alpha.powi(2) * data.variance;
        Ok((moments.mean - signal / (signal + at.sigma.powi(2))).abs() / moments.mean_error)
    }))
}

fn printed_draw() -> Result<f64> {
    Ok(statistics::moments(&drawn_times()?[..1000])?.mean.abs())
}

// ---- item 22 ----

/// 100 steps to almost nothing of the data.
fn short_chain() -> Result<Vec<Level>> {
    let betas: Vec<f64> = (0..100).map(|n| 1e-3 + 0.099 * f64::from(n) / 99.0).collect();
    let table = Discrete::from_betas(&betas, false)?;
    (0..=100).rev().map(|n| level(&table, n)).collect()
}

const DATA: Gaussian = Gaussian { mean: 0.8, variance: 0.25 };

fn recursion_z(step: Step) -> Result<f64> {
    let levels = short_chain()?;
    let exact = step.affine_chain(&DATA, &levels)?.into_iter().fold((0.0, 1.0), |moments, map| map.moments(moments));
    let noise = StepNoise::Drawn(Address::new(222, Purpose::ReverseStep));
    let x = one_row(&normals(221, 100_000))?;
    let end = ddpm(&mut Run::new(&DATA, noise, &[0]), x, &through(&levels)?, step.variance, step.noise_at_end)?;
    moments_z(&end.to_vec::<f64>()?, exact.0, exact.1)
}

/// The 1000 maps of DDPM's table for the data, noisiest first.
fn long_chain() -> Result<Vec<Affine>> {
    let table = linear()?;
    let levels = (0..=1000).rev().map(|n| level(&table, n)).collect::<Result<Vec<Level>>>()?;
    Step::LITERAL.affine_chain(&DATA, &levels)
}

fn recursion_error() -> Result<f64> {
    let end = long_chain()?.into_iter().fold((0.0, 1.0), |moments, map| map.moments(moments));
    Ok(worst([(end.0 - DATA.mean).abs(), (end.1 / DATA.variance - 1.0).abs()]))
}

fn final_variance(change: impl FnOnce(&mut Vec<Affine>)) -> Result<f64> {
    let mut chain = long_chain()?;
    change(&mut chain);
    Ok(chain.into_iter().fold((0.0, 1.0), |moments, map| map.moments(moments)).1)
}

fn missing_minus() -> Result<f64> {
    let (table, mut log) = (linear()?, 0.0);
    let mut variance: f64 = 1.0;
    for n in (1..=1000).rev() {
        let (beta, at) = (beta(n)?, level(&table, n)?);
        // eps* = sigma·(x − alpha·mean)/(alpha²·v + sigma²): its factor of x.
        let slope = at.sigma / (at.alpha.powi(2) * DATA.variance + at.sigma.powi(2));
        let factor = (1.0 + beta / at.sigma * slope) / (1.0 - beta).sqrt();
        variance = factor.powi(2) * variance + beta;
        log = (variance / DATA.variance).ln();
    }
    Ok(log)
}

fn last_noise() -> Result<f64> {
    let table = linear()?;
    let at = (level(&table, 1)?, Level::CLEAN);
    let (x, z, zero) = ([0.3, -1.0], [2.0, -0.5], [0.0, 0.0]);
    let silent = Step { variance: Variance::FixedLarge, noise_at_end: false };
    let run = |step: Step, z: &[f64]| step.apply(&DATA, at, &x, z);
    let (plain, ignored, noisy) = (run(silent, &zero)?, run(silent, &z)?, run(Step::LITERAL, &z)?);
    let root = beta(1)?.sqrt();
    Ok(worst((0..2).map(|i| worst([(plain[i] - ignored[i]).abs(), (noisy[i] - plain[i] - root * z[i]).abs()]))))
}

// ---- item 24 ----

/// The miss of the order of `error` in `step`, over the knobs.
fn order_of(knobs: &[f64], step: fn(f64) -> f64, error: fn(f64) -> Result<f64>) -> Result<f64> {
    let steps: Vec<f64> = knobs.iter().map(|knob| step(*knob)).collect();
    let errors = knobs.iter().map(|knob| error(*knob)).collect::<Result<Vec<f64>>>()?;
    falling_order_miss(&steps, &errors, 1.0)
}

/// N equal steps to ᾱ_T = e^{−total}.
fn equal_steps(total: f64, steps: usize) -> Result<Vec<Level>> {
    let table = Discrete::from_betas(&vec![-(-total / steps as f64).exp_m1(); steps], false)?;
    (0..=steps).rev().map(|n| level(&table, n)).collect()
}

/// The two bumps, or another law, on points 0.04 apart: half the smallest deviation of a step's noise.
fn on_line(pdf: impl Fn(f64) -> f64) -> Law {
    Law::new(pdf, 8.0, 400)
}

/// The law at the noisiest of the levels.
fn terminal(levels: &[Level]) -> Result<Law> {
    let end = uneven_bumps()?.0.noised(levels[0].alpha, levels[0].sigma)?;
    Ok(on_line(|x| end.pdf(x)))
}

fn error_of_steps(steps: usize) -> Result<f64> {
    let ((law, oracle), levels) = (uneven_bumps()?, equal_steps(2.0, steps)?);
    let end = terminal(&levels)?.sampled(&oracle, &levels, Step::LITERAL)?;
    Ok(end.wasserstein(&on_line(|x| law.pdf(x))))
}

fn error_of_score(delta: f64) -> Result<f64> {
    let (oracle, levels) = (uneven_bumps()?.1, equal_steps(2.0, 64)?);
    let exact = terminal(&levels)?.sampled(&oracle, &levels, Step::LITERAL)?;
    let shifted = ShiftedScore { inner: &oracle, delta };
    Ok(terminal(&levels)?.sampled(&shifted, &levels, Step::LITERAL)?.wasserstein(&exact))
}

fn error_of_prior(total: f64) -> Result<f64> {
    let (oracle, levels) = (uneven_bumps()?.1, equal_steps(total, (8.0 * total) as usize)?);
    let exact = terminal(&levels)?.sampled(&oracle, &levels, Step::LITERAL)?;
    let prior = on_line(|x| gaussian::normal_pdf(x, 0.0, 1.0));
    Ok(prior.sampled(&oracle, &levels, Step::LITERAL)?.wasserstein(&exact))
}
