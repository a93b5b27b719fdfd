//! Weights of the loss: what they are for DDPM, what they change and what they do not (S1; S3.eq59–62, eq118–123; items 33 and 47).

use super::super::one_dim::{worst, worst_of};
use super::super::vp::{level, linear};
use super::super::vp_posterior::beta;
use super::super::{Bound, Identity};
use crate::denoiser::eps_coefficients;
use crate::error::Result;
use crate::loss::{ErrorOf, Lambda, Weight, Weighting};
use crate::process::{BetaSchedule, Level, Prediction, ProcessConfig, SchedulerConfig, TimeConvention};

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 33 S3.eq62 vlb",
        claim: "vlb is β_n/(2(1−β_n)(1−ᾱ_n)), vlb-tilde β_n/(2(1−β_n)(1−ᾱ_(n−1))) on the eps error, all n from 2; relative",
        // 1 − ᾱ by summed logarithms on both sides; alpha_s/alpha_t through a difference of logarithms of up to 10.
        bound: Bound::AtMost(1e-12),
        measure: chain_weights,
    },
    Identity {
        id: "item 33 S1 same minimiser",
        claim: "a free parameter for each t: least squares has the same minimiser under every weight, and it is eps*'s slope",
        bound: Bound::AtMost(1e-14), // one division of the same two numbers, weighted
        measure: || free_parameters().map(worst),
    },
    Identity {
        id: "item 33 S1 shared parameter",
        claim: "one parameter for all t: how far the minimisers under different weights lie apart",
        // eps* = σ/(ᾱ·v + σ²)·x has slopes from 0.04 to 1, and snr and vlb share them out differently.
        bound: Bound::AtLeast(0.1),
        measure: shared_parameter,
    },
    Identity {
        id: "item 33 S1 every output",
        claim: "a weight is one loss: its factor on the error of eps, x0, v, score, velocity and F times that error; relative",
        // Ten roundings, and those of exponents of up to 20.
        bound: Bound::AtMost(1e-12),
        measure: every_output,
    },
    Identity {
        id: "item 33 S1 continuous VLB",
        claim: "N·vlb of a step of length 1/N tends to −½·d log SNR/dt with first order in 1/N, VP at four times",
        // Second order is a share β/N of 0.3 and less.
        bound: Bound::AtMost(0.1),
        measure: continuous_limit,
    },
    Identity {
        id: "item 33 S1 loss misprint",
        claim: "1/(2‖Σ‖²) for 1/(2σ²), Σ = σ²·I: the weight of n = 1000 over the right one",
        // 1/σ² = 1/β_N = 50.
        bound: Bound::AtLeast(40.0),
        measure: || Ok(1.0 / beta(1000)?),
    },
    Identity {
        id: "item 47 S3.eq121-122 map",
        claim: "λ_n·β_n²(s_θ − s)² = λ̃_n(eps_θ − eps)² with λ̃_n = λ_n·β_n²/(1−ᾱ_n), all n; relative",
        bound: Bound::AtMost(1e-13), // four products and a quotient of differences of order one
        measure: score_map,
    },
    Identity {
        id: "item 47 S3.eq122 VLB weight",
        claim: "λ_n = 1/(2β_n(1−β_n)) makes λ̃_n the weight vlb, for all n; relative",
        bound: Bound::AtMost(1e-12), // as item 33 S3.eq62
        measure: vlb_weight,
    },
    Identity {
        id: "item 47 S3.eq123 divergence",
        claim: "vlb times (eps_θ − eps)² is the distance of the two means of a reverse step over 2β_n, n from 2; relative",
        // Means of order one, whose difference is √β = 0.01 of them: 1e-16/1e-4.
        bound: Bound::AtMost(1e-10),
        measure: step_divergence,
    },
    Identity {
        id: "item 47 S3.eq123 misprint",
        claim: "the sum from n = 1, which is L_0 and no divergence: nats per dimension that it adds on N(0, 1) data with eps*",
        // w_1·E(eps − eps*)² = ᾱ_1/(2(1−β_1)) = ½.
        bound: Bound::AtLeast(0.4),
        measure: || {
            let first = level(&linear()?, 1)?;
            Ok(of_ddpm(Weight::Vlb)?.of_eps(first)? * first.alpha.powi(2))
        },
    },
];

/// A weight of DDPM's table.
fn of_ddpm(weight: Weight) -> Result<Weighting> {
    Weighting::new(weight, &SchedulerConfig::default())
}

fn weights() -> Vec<Weight> {
    let own = Weight::Custom { of: ErrorOf::Score, lambda: Lambda::new(|at| at.sigma) };
    let gamma = 5.0;
    vec![
        Weight::Vlb,
        Weight::VlbTilde,
        Weight::Snr,
        Weight::MinSnr { gamma },
        Weight::Likelihood,
        Weight::VlbContinuous,
        own,
    ]
}

// ---- item 33 ----

fn chain_weights() -> Result<f64> {
    let (table, large, small) = (linear()?, of_ddpm(Weight::Vlb)?, of_ddpm(Weight::VlbTilde)?);
    worst_of((2..=1000).map(|n| {
        let (beta, at, before) = (beta(n)?, level(&table, n)?, level(&table, n - 1)?);
        let rate = beta / (2.0 * (1.0 - beta));
        let (large, small) =
            (large.of_eps(at)? * at.sigma.powi(2) / rate, small.of_eps(at)? * before.sigma.powi(2) / rate);
        Ok(worst([(large - 1.0).abs(), (small - 1.0).abs()]))
    }))
}

/// Levels at which the loss is summed, and E[x·eps], E[x²] of data of variance 2 at each.
fn moments() -> Result<Vec<(Level, f64, f64)>> {
    let table = linear()?;
    let of_level = |n: usize| {
        let at = level(&table, n)?;
        Ok((at, at.sigma, 2.0 * at.alpha.powi(2) + at.sigma.powi(2)))
    };
    (1..=20).map(|k| of_level(50 * k)).collect()
}

/// For each weight and level, how far the slope of the weighted least squares for eps is from eps*'s.
fn free_parameters() -> Result<Vec<f64>> {
    let mut misses = Vec::new();
    for weighting in weights().into_iter().map(of_ddpm) {
        let weighting = weighting?;
        for (at, product, square) in moments()? {
            let weight = weighting.of_eps(at)?;
            misses.push((weight * product / (weight * square) - product / square).abs());
        }
    }
    Ok(misses)
}

/// The range of the one slope that least squares over all levels finds.
fn shared_parameter() -> Result<f64> {
    let slopes = weights().into_iter().map(|weight| {
        let weighting = of_ddpm(weight)?;
        let (mut product, mut square) = (0.0, 0.0);
        for (at, p, s) in moments()? {
            let weight = weighting.of_eps(at)?;
            (product, square) = (product + weight * p, square + weight * s);
        }
        Ok(product / square)
    });
    let slopes = slopes.collect::<Result<Vec<f64>>>()?;
    let (low, high) = slopes.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), s| (low.min(*s), high.max(*s)));
    Ok(high - low)
}

fn every_output() -> Result<f64> {
    let linear = BetaSchedule::Linear;
    let processes = [
        None,
        Some(ProcessConfig::Vp { schedule: linear.clone(), beta_min: 0.1, beta_max: 20.0, zero_terminal_snr: false }),
        Some(ProcessConfig::SubVp { schedule: linear, beta_min: 0.1, beta_max: 20.0 }),
        Some(ProcessConfig::Ve { sigma_min: 0.01, sigma_max: 50.0 }),
        Some(ProcessConfig::Flow),
        Some(ProcessConfig::LinearLogSnr { log_snr_min: -8.0, log_snr_max: 7.0 }),
    ];
    let predictions = [
        Prediction::Eps,
        Prediction::X0,
        Prediction::V,
        Prediction::Score,
        Prediction::Velocity,
        Prediction::Edm { sigma_data: 0.5 },
    ];
    let mut misses = Vec::new();
    for (continuous, prediction) in processes.iter().flat_map(|p| predictions.map(|o| (p.clone(), o))) {
        let time_convention = if continuous.is_some() { TimeConvention::Time } else { TimeConvention::DdpmIndex };
        let scheduler = SchedulerConfig { continuous, prediction, time_convention, ..SchedulerConfig::default() };
        let process = scheduler.process()?;
        for weight in weights() {
            let weighting = Weighting::new(weight, &scheduler)?;
            for time in [0.01, 0.3, 0.8, 0.97] {
                let at = process.level(time);
                let eps_error = eps_coefficients(prediction, at)?.1;
                misses.push((weighting.of_output(at)? / (weighting.of_eps(at)? * eps_error.powi(2)) - 1.0).abs());
            }
        }
    }
    Ok(worst(misses))
}

fn continuous_limit() -> Result<f64> {
    let vp = |steps| SchedulerConfig {
        continuous: Some(ProcessConfig::Vp {
            schedule: BetaSchedule::Linear,
            beta_min: 0.1,
            beta_max: 20.0,
            zero_terminal_snr: false,
        }),
        time_convention: TimeConvention::Time,
        num_train_timesteps: steps,
        ..SchedulerConfig::default()
    };
    worst_of([0.2, 0.4, 0.6, 0.9].map(|time| {
        let sizes = [200, 400, 800, 1600];
        let limit = |steps: usize| {
            let scheduler = vp(steps);
            let at = scheduler.process()?.level(time);
            let chain = Weighting::new(Weight::Vlb, &scheduler)?.of_eps(at)?;
            Ok((steps as f64 * chain - Weighting::new(Weight::VlbContinuous, &scheduler)?.of_eps(at)?).abs())
        };
        let errors = sizes.iter().map(|steps| limit(*steps)).collect::<Result<Vec<f64>>>()?;
        super::super::measure::order_miss(&sizes, &errors, 1.0)
    }))
}

// ---- item 47 ----

/// n, its level and β_n.
fn every_level() -> Result<Vec<(usize, Level, f64)>> {
    let table = linear()?;
    (1..=1000).map(|n| Ok((n, level(&table, n)?, beta(n)?))).collect()
}

fn score_map() -> Result<f64> {
    let misses = every_level()?.into_iter().map(|(_, at, beta)| {
        let (eps, eps_hat, lambda) = (-1.3, 0.4, 2.0);
        // eq111–112 and eq121 with x_t = alpha·x0 + sigma·eps.
        let (score, score_hat) = (-eps / at.sigma, -eps_hat / at.sigma);
        let of_score: f64 = lambda * beta.powi(2) * (score_hat - score).powi(2);
        let of_eps = lambda * beta.powi(2) / at.sigma.powi(2) * (eps_hat - eps).powi(2);
        (of_score / of_eps - 1.0).abs()
    });
    Ok(worst(misses))
}

fn vlb_weight() -> Result<f64> {
    let vlb = of_ddpm(Weight::Vlb)?;
    worst_of(every_level()?.into_iter().map(|(_, at, beta)| {
        let lambda = 1.0 / (2.0 * beta * (1.0 - beta));
        Ok((lambda * beta.powi(2) / at.sigma.powi(2) / vlb.of_eps(at)? - 1.0).abs())
    }))
}

fn step_divergence() -> Result<f64> {
    let vlb = of_ddpm(Weight::Vlb)?;
    worst_of(every_level()?.into_iter().skip(1).map(|(_, at, beta)| {
        let (x0, eps, eps_hat) = (0.6, -1.3, 0.4);
        let x_t = at.alpha * x0 + at.sigma * eps;
        let mean = |eps: f64| (x_t - beta / at.sigma * eps) / (1.0 - beta).sqrt();
        let divergence = (mean(eps) - mean(eps_hat)).powi(2) / (2.0 * beta);
        Ok((vlb.of_eps(at)? * (eps - eps_hat).powi(2) / divergence - 1.0).abs())
    }))
}
