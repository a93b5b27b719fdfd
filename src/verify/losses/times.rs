//! How times are drawn and where they begin (S3.eq114–117, Remark 9; items 45 and 46).

use super::super::measure::normals;
use super::super::one_dim::worst_of;
use super::super::{Bound, Identity};
use crate::analytic::quadrature::GaussLegendre;
use crate::analytic::statistics;
use crate::denoiser::target;
use crate::error::Result;
use crate::loss::{ErrorOf, Lambda, TimeSampler, TimeSampling, Weight, Weighting};
use crate::ops::{perturb, weighted_mse};
use crate::process::{
    BetaCurve, BetaSchedule, Level, Prediction, Process, ProcessConfig, SchedulerConfig, TimeConvention, Vp,
};
use crate::rng::{Address, Purpose};
use crate::tensor::Tensor;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 45 S3.eq114-116 estimate",
        claim: "the mean over drawn times is the integral, for uniform, stratified and loss-aware times and four weights: z-score",
        // Means of 200 batches of 64 each, z-score 4.5 in twelve cases.
        bound: Bound::AtMost(4.5),
        measure: estimates,
    },
    Identity {
        id: "item 45 S3.eq116 without importance",
        claim: "loss-aware times without their importance: the mean over the integral is off by at least this",
        // The drawn density is the loss itself: E L²/(E L)² − 1 for a loss that falls from 1 to 0.
        bound: Bound::AtLeast(0.1),
        measure: without_importance,
    },
    Identity {
        id: "item 45 S3.eq116 likelihood equality",
        claim: "KL(p_0‖q_0) = ½∫g²·E(∇ log p_t − ∇ log q_t)² dt + KL(p_T‖q_T), two Gaussians under VP: relative",
        // Composite rule of 16 points on 64 panels of smooth functions.
        bound: Bound::AtMost(1e-10),
        measure: likelihood_equality,
    },
    Identity {
        id: "item 45 S3.eq116 likelihood bound",
        claim: "for linear scores that are those of no data, KL(p_0‖p_θ) of the reverse SDE over its bound with λ = g²",
        // Song, Durkan et al. 2021, theorem 1.
        bound: Bound::AtMost(1.0),
        measure: likelihood_bound,
    },
    Identity {
        id: "item 45 S3.eq116 misprint",
        claim: "\"s_θ predicts σ_t·eps\" for −eps/σ_t: relative miss at σ_t = 0.1",
        // σ² + 1 for the sign, or 1 − σ² without it.
        bound: Bound::AtLeast(0.9),
        measure: || {
            let (sigma, eps) = (0.1, 1.3);
            Ok(1.0 - sigma * eps / (eps / sigma))
        },
    },
    Identity {
        id: "item 46 S3.eq117 slope",
        claim: "with λ = 1 the loss of the exact score grows by d/β(0) for each factor e in t0, N(0, ¼) data, t0 from 1e-5 to 1e-7; relative",
        // σ² = β(0)t + ½(β(1) − β(0))t²: 100·t0 of the integrand, 1e-3 at the upper end, a third of it over the span.
        bound: Bound::AtMost(1e-3),
        measure: log_slope,
    },
    Identity {
        id: "item 46 S3.eq117 point masses",
        claim: "for two points at ±1 the same loss does not grow below t0 = 1e-3: what it gains down to 1e-7",
        // The wrong point has a share below e^{−2/σ²} = e^{−10000}.
        bound: Bound::AtMost(1e-12),
        measure: point_mass_growth,
    },
    Identity {
        id: "item 46 S3.eq117 finite",
        claim: "losses and gradients' factors at t = 1e-5 in f32, all weights and outputs of VP: how many are not finite",
        bound: Bound::AtMost(0.0), // a count
        measure: not_finite,
    },
    Identity {
        id: "item 46 S3.remark9 refused",
        claim: "t_min = 0 is refused where the weight is unbounded and nowhere else: how many of 14 cases are not so",
        bound: Bound::AtMost(0.0), // a count
        measure: wrongly_refused,
    },
    Identity {
        id: "item 46 stratified",
        claim: "stratified times: the variance of a batch's mean loss over that of uniform times, 64 images",
        // One offset leaves (jump/n)²/12, the jump of the loss from time 1 back to 0, here 1: over Var/n with Var = 0.13 that is 1/100.
        // Variances of 200 batches are known to a tenth.
        bound: Bound::AtMost(0.02),
        measure: stratified_variance,
    },
];

const VP: BetaCurve = BetaCurve::Linear { min: 0.1, max: 20.0 };

fn vp(prediction: Prediction) -> SchedulerConfig {
    let schedule = BetaSchedule::Linear;
    SchedulerConfig {
        continuous: Some(ProcessConfig::Vp { schedule, beta_min: 0.1, beta_max: 20.0, zero_terminal_snr: false }),
        time_convention: TimeConvention::Time,
        prediction,
        ..SchedulerConfig::default()
    }
}

const T_MIN: f64 = 1e-3;

/// E(eps − eps*)² for data of variance 2 (item 21).
fn oracle_loss(at: Level) -> f64 {
    let signal = 2.0 * at.alpha.powi(2);
    signal / (signal + at.sigma.powi(2))
}

fn sampler(sampling: TimeSampling) -> Result<TimeSampler> {
    TimeSampler::new(vp(Prediction::Eps).process()?, sampling, Some(T_MIN))
}

/// The mean of each of `batches` batches of 64 after the same number that only fill the history; importance is left out if so said.
fn batch_means(sampling: TimeSampling, weight: Weight, batches: u64, with_importance: bool) -> Result<Vec<f64>> {
    let weighting = Weighting::new(weight, &vp(Prediction::Eps))?;
    let mut sampler = sampler(sampling)?;
    let mut means = Vec::new();
    for step in 0..2 * batches {
        let drawn = sampler.draw(450, step, 64);
        let losses = drawn.levels.iter().map(|at| Ok(weighting.of_output(*at)? * oracle_loss(*at)));
        let losses = losses.collect::<Result<Vec<f64>>>()?;
        sampler.record(&drawn, &losses);
        if step >= batches {
            let share = |i: usize| if with_importance { drawn.importance[i] } else { 1.0 };
            means.push((0..64).map(|i| losses[i] * share(i)).sum::<f64>() / 64.0);
        }
    }
    Ok(means)
}

/// The mean of the weighted loss over uniform times, by quadrature in ln t.
fn integral(weight: Weight) -> Result<f64> {
    let weighting = Weighting::new(weight, &vp(Prediction::Eps))?;
    let (process, rule) = (vp(Prediction::Eps).process()?, GaussLegendre::new(16)?);
    let integrand = |log: f64| {
        let at = process.level(log.exp());
        log.exp() * weighting.of_output(at).unwrap_or(f64::NAN) * oracle_loss(at)
    };
    Ok(rule.composite(integrand, T_MIN.ln(), 0.0, 64) / (1.0 - T_MIN))
}

fn estimates() -> Result<f64> {
    let score = Weight::Custom { of: ErrorOf::Score, lambda: Lambda::new(|at| at.sigma.powi(2)) };
    let weights = [Weight::Snr, Weight::Likelihood, Weight::MinSnr { gamma: 5.0 }, score];
    let samplings = [TimeSampling::Uniform, TimeSampling::Stratified, TimeSampling::LossAware];
    worst_of(weights.into_iter().flat_map(|weight| samplings.map(|s| (weight.clone(), s))).map(|(weight, sampling)| {
        let moments = statistics::moments(&batch_means(sampling, weight.clone(), 200, true)?)?;
        Ok((moments.mean - integral(weight)?).abs() / moments.mean_error)
    }))
}

fn without_importance() -> Result<f64> {
    let moments = statistics::moments(&batch_means(TimeSampling::LossAware, Weight::Snr, 200, false)?)?;
    Ok((moments.mean / integral(Weight::Snr)? - 1.0).abs())
}

fn stratified_variance() -> Result<f64> {
    let variance = |sampling| Ok(statistics::moments(&batch_means(sampling, Weight::Snr, 200, true)?)?.variance);
    let (stratified, uniform): (Result<f64>, Result<f64>) =
        (variance(TimeSampling::Stratified), variance(TimeSampling::Uniform));
    Ok(stratified? / uniform?)
}

// ---- likelihood weighting ----

/// KL(N(a, u)‖N(b, v)), variances.
fn divergence((a, u): (f64, f64), (b, v): (f64, f64)) -> f64 {
    0.5 * (u / v - 1.0 - (u / v).ln() + (a - b).powi(2) / v)
}

const DATA: (f64, f64) = (0.8, 0.25);

fn noised((mean, variance): (f64, f64), at: Level) -> (f64, f64) {
    (at.alpha * mean, at.alpha.powi(2) * variance + at.sigma.powi(2))
}

/// ½∫ g²·E_p(∇ log p_t − (shift − x)·rate)² dt over [0, 1], with the linear score of each level.
fn half_loss(score: impl Fn(Level) -> (f64, f64)) -> Result<f64> {
    let process = Vp::new(VP, false)?;
    let rule = GaussLegendre::new(16)?;
    let integrand = |t: f64| {
        let at = process.level(t);
        let ((mean, variance), (shift, rate)) = (noised(DATA, at), score(at));
        // ∇ log p_t − score = (mean − x)/variance − (shift − x)·rate.
        let constant = (mean - shift) * rate;
        let slope = rate - 1.0 / variance;
        at.diffusion.powi(2) * (constant.powi(2) + slope.powi(2) * variance)
    };
    Ok(0.5 * rule.composite(integrand, 0.0, 1.0, 64))
}

fn likelihood_equality() -> Result<f64> {
    let end = Vp::new(VP, false)?.level(1.0);
    worst_of([(0.0, 1.0), (-0.5, 0.6), (0.8, 0.3)].map(|model| {
        let of_model = |at: Level| {
            let (mean, variance) = noised(model, at);
            (mean, 1.0 / variance)
        };
        let bound = half_loss(of_model)? + divergence(noised(DATA, end), noised(model, end));
        Ok((bound / divergence(DATA, model) - 1.0).abs())
    }))
}

/// The law that the reverse SDE with a linear score ends in, from N(0, 1), by the trapezoidal rule on its moments.
fn reverse_law(score: impl Fn(Level) -> (f64, f64)) -> Result<(f64, f64)> {
    const STEPS: usize = 20_000;
    let process = Vp::new(VP, false)?;
    let rates = |t: f64, (mean, variance): (f64, f64)| {
        let at = process.level(t);
        let ((shift, rate), square) = (score(at), at.diffusion.powi(2));
        // In reverse time: dX = (−f·X + g²·score) ds + g dW.
        let pull = -at.drift - square * rate;
        (pull * mean + square * rate * shift, 2.0 * pull * variance + square)
    };
    let (mut state, step) = ((0.0, 1.0), 1.0 / STEPS as f64);
    for k in 0..STEPS {
        let t = 1.0 - k as f64 * step;
        let first = rates(t, state);
        let guess = (state.0 + step * first.0, state.1 + step * first.1);
        let second = rates((t - step).max(0.0), guess);
        state = (state.0 + 0.5 * step * (first.0 + second.0), state.1 + 0.5 * step * (first.1 + second.1));
    }
    Ok(state)
}

fn likelihood_bound() -> Result<f64> {
    let end = Vp::new(VP, false)?.level(1.0);
    worst_of([(1.3, 0.2), (0.7, -0.3), (1.0, 0.5)].map(|(factor, wave)| {
        // The exact score, stretched and shifted by amounts that change with time.
        let score = |at: Level| {
            let (mean, variance) = noised(DATA, at);
            (mean + wave * (5.0 * at.time).sin(), factor / variance)
        };
        let bound = half_loss(score)? + divergence(noised(DATA, end), (0.0, 1.0));
        Ok(divergence(DATA, reverse_law(score)?) / bound)
    }))
}

// ---- item 46 ----

/// ∫ E‖∇ log p_{t|0} − ∇ log p_t‖² dt from `low` to `high`, given σ²·integrand at a level.
fn unit_loss(low: f64, high: f64, scaled: impl Fn(Level) -> f64) -> Result<f64> {
    let (process, rule) = (Vp::new(VP, false)?, GaussLegendre::new(16)?);
    let integrand = |log: f64| {
        let at = process.level(log.exp());
        log.exp() * scaled(at) / at.sigma.powi(2)
    };
    Ok(rule.composite(integrand, low.ln(), high.ln(), 64))
}

fn log_slope() -> Result<f64> {
    let exact = |at: Level| {
        let signal = 0.25 * at.alpha.powi(2);
        signal / (signal + at.sigma.powi(2))
    };
    let (low, high): (f64, f64) = (1e-7, 1e-5);
    let slope = unit_loss(low, high, exact)? / (high / low).ln();
    // d/β(0) = 10.
    Ok((slope / 10.0 - 1.0).abs())
}

fn point_mass_growth() -> Result<f64> {
    // E Var[x0 | x_t]·alpha²/σ² with x0 = ±1: 1 − E tanh² at one of them, below 4·e^{−2·alpha²/σ²}·e^{…}: bounded by the share of the other.
    let rule = crate::analytic::quadrature::GaussHermite::new(100)?;
    unit_loss(1e-7, 1e-3, |at| {
        let ratio = at.alpha / at.sigma;
        let variance = |eps: f64| 1.0 / (ratio * (ratio + eps)).cosh().powi(2);
        ratio.powi(2) * rule.expect(variance, 0.0, 1.0)
    })
}

fn outputs() -> [Prediction; 6] {
    [
        Prediction::Eps,
        Prediction::X0,
        Prediction::V,
        Prediction::Score,
        Prediction::Velocity,
        Prediction::Edm { sigma_data: 0.5 },
    ]
}

fn not_finite() -> Result<f64> {
    let weights = [
        Weight::Simple,
        Weight::Vlb,
        Weight::VlbTilde,
        Weight::Snr,
        Weight::MinSnr { gamma: 5.0 },
        Weight::Likelihood,
        Weight::VlbContinuous,
    ];
    let mut count = 0;
    for (weight, prediction) in weights.iter().flat_map(|w| outputs().map(|o| (w.clone(), o))) {
        let scheduler = vp(prediction);
        let weighting = Weighting::new(weight, &scheduler)?;
        let at = scheduler.process()?.level(1e-5);
        let f32s = |seed: u64| -> Vec<f32> { normals(seed, 64).iter().map(|v| *v as f32).collect() };
        let x0 = Tensor::from_slice(&f32s(460), [1, 64])?;
        let p = perturb(&x0, &[at.alpha], &[at.sigma], Address::new(461, Purpose::TrainNoise), &[0])?;
        let wanted = target(prediction, &x0, &p.eps, &[at.alpha], &[at.sigma])?;
        let output = Tensor::from_slice(&f32s(462), [1, 64])?;
        let loss = weighted_mse(&output, &wanted, &[weighting.of_output(at)? as f32])?.0;
        count += usize::from(!(loss.is_finite()? && p.x_t.is_finite()? && wanted.is_finite()?));
    }
    Ok(count as f64)
}

fn wrongly_refused() -> Result<f64> {
    let (eps, x0, v) = (Prediction::Eps, Prediction::X0, Prediction::V);
    let score = |lambda: fn(Level) -> f64| Weight::Custom { of: ErrorOf::Score, lambda: Lambda::new(lambda) };
    let smooth = |prediction| SchedulerConfig {
        continuous: Some(ProcessConfig::LinearLogSnr { log_snr_min: -8.0, log_snr_max: 7.0 }),
        ..vp(prediction)
    };
    let flow = SchedulerConfig { continuous: Some(ProcessConfig::Flow), ..vp(Prediction::Velocity) };
    let cases = [
        (vp(x0), Weight::Simple, false),
        (vp(eps), Weight::Snr, false),
        (vp(x0), Weight::Snr, true),
        (vp(x0), Weight::MinSnr { gamma: 5.0 }, false),
        (vp(eps), Weight::Vlb, false),
        (vp(eps), Weight::VlbTilde, false),
        (vp(x0), Weight::Vlb, true),
        (vp(eps), Weight::Likelihood, true),
        (vp(v), Weight::VlbContinuous, true),
        (flow, Weight::VlbContinuous, true),
        (smooth(eps), Weight::VlbContinuous, false),
        (SchedulerConfig::default(), Weight::Likelihood, false),
        (vp(eps), score(|_| 1.0), true),
        (vp(eps), score(|at| at.sigma.powi(2)), false),
    ];
    let wrong = cases.into_iter().map(|(scheduler, weight, is_refused)| {
        let weighting = Weighting::new(weight, &scheduler)?;
        let is_right = weighting.check(Some(0.0)).is_err() == is_refused && weighting.check(Some(1e-5)).is_ok();
        Ok(f64::from(u8::from(!is_right)))
    });
    wrong.sum()
}
