//! The bound on −ln p(x0), in continuous time and in steps (item 76).

use super::super::measure::{largest, order_miss};
use super::super::{Bound, Identity};
use super::language::{absorbing, answer, uniform};
use crate::analytic::quadrature::tanh_sinh;
use crate::discrete::d3pm::{cross_entropy, prior_divergence, step_divergence};
use crate::discrete::loss::{bound_rate, denoising_score_entropy};
use crate::discrete::{ConcreteScore, Enumeration, Graph, Head, Noise, View, entropy};
use crate::error::Result;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 76 S3.section6.3 expectation",
        claim: "with the exact score E[bound] = H + KL(p_1 ‖ π), in nats, uniform and absorbing graph under two noises",
        bound: Bound::AtMost(1e-7), // the quadrature's tolerance of 1e-8, for its two last halvings
        measure: expectation,
    },
    Identity {
        id: "item 76 S3.section6.3 last part",
        claim: "where noise is left at t = 0, L_0 closes the bound: H + KL + what single tokens cannot know of one another there",
        bound: Bound::AtMost(1e-7),
        measure: last_part,
    },
    Identity {
        id: "item 76 S3.section6.3 without the last part",
        claim: "without L_0 the number is below the entropy, so no bound: how far, in nats",
        bound: Bound::AtLeast(0.05), // H(x0 | x at σ̄ = 0.1) less KL and correlation; about a tenth of the tokens are noisy
        measure: without_last_part,
    },
    Identity {
        id: "item 76 S3.section6.3 inexact score",
        claim: "a score that is off raises the bound, by Σ p·R·r·(e^δ − 1 − δ) for s = r·e^δ: relative distance from that",
        bound: Bound::AtMost(1e-6), // two quadratures to 1e-8, and a part of about 0.1
        measure: inexact,
    },
    Identity {
        id: "item 76 S3.section6.3 other weights",
        claim: "with the rate from x_t into y in place of the rate from y into x_t: distance from H + KL, in nats",
        bound: Bound::AtLeast(0.05),
        measure: other_weights,
    },
    Identity {
        id: "item 76 S3.section6.3 surviving tokens",
        claim: "in the absorbing graph e^(−σ̄(1)) = 1e-3 leaves an infinite KL, and 0 leaves none: how many of two are otherwise",
        bound: Bound::AtMost(0.0), // a count
        measure: surviving,
    },
    Identity {
        id: "item 76 S3.section6.3 steps on one token",
        claim: "D3PM's bound of 1, 3 and 10 steps with exact clean probabilities is H + KL(p_1 ‖ π) on one token",
        bound: Bound::AtMost(1e-12),
        measure: steps_on_one_token,
    },
    Identity {
        id: "item 76 S3.section6.3 many steps",
        claim: "on tokens that depend on one another it tends to the continuous bound with order 1",
        bound: Bound::AtMost(0.1), // a slope within 0.1 of 1 names the order
        measure: many_steps,
    },
];

/// Σ p_0(x0)·p(x|x0)·f(view of x, x0) at time t.
fn expected<G: Graph>(
    model: &Enumeration<G>,
    noise: Noise,
    t: f64,
    f: &dyn Fn(&View<'_>, &[u32]) -> Result<f64>,
) -> Result<f64> {
    let (graph, sigma_bar) = (model.graph(), noise.sigma_bar(t));
    let (states, mut sum) = (graph.states(), 0.0);
    for j in 0..states.pow(model.length() as u32) {
        let x = model.sequence(j, states);
        let token = |(x, a): (&u32, &u32)| graph.transition(*x as usize, *a as usize, sigma_bar);
        let p = |x0: &[u32]| -> f64 { x.iter().zip(x0).map(token).product() };
        let pairs = model.law().iter().enumerate().map(|(i, p0)| (model.sequence(i, graph.symbols()), *p0));
        let pairs: Vec<(Vec<u32>, f64)> =
            pairs.map(|(x0, p0)| (p0 * p(&x0), x0)).filter(|(p, _)| *p > 0.0).map(|(p, x0)| (x0, p)).collect();
        if pairs.is_empty() {
            continue;
        }
        let values = answer(model, &x, sigma_bar)?;
        let view = View { graph, head: model.head(), x: &x, sigma_bar, values: &values };
        for (x0, p) in pairs {
            sum += p * f(&view, &x0)?;
        }
    }
    Ok(sum)
}

const TOLERANCE: f64 = 1e-8;

/// A number of a view, its clean sequence and its time.
type Term<'a> = &'a dyn Fn(&View<'_>, &[u32], f64) -> Result<f64>;

/// ∫ of an expectation over time. A failure inside becomes a NaN, which the rule reports.
fn over_time<G: Graph>(model: &Enumeration<G>, noise: Noise, f: Term) -> Result<f64> {
    let at = |t: f64| expected(model, noise, t, &|view, x0| f(view, x0, t)).unwrap_or(f64::NAN);
    // t = u²: with u above 1e-8 no time is so small that a ratio overflows; what is left out is of the size of 1e-16·ln(1e16).
    tanh_sinh(|u| 2.0 * u * at(u * u), 1e-8, 1.0, TOLERANCE)
}

fn prior_part<G: Graph>(model: &Enumeration<G>, noise: Noise) -> f64 {
    let (graph, sigma_bar) = (model.graph(), noise.sigma_bar(1.0));
    let clean = model.law().iter().enumerate();
    clean.map(|(i, p)| p * prior_divergence(graph, &model.sequence(i, graph.symbols()), sigma_bar)).sum()
}

/// E[bound] without L_0.
fn continuous<G: Graph>(model: &Enumeration<G>, noise: Noise) -> Result<f64> {
    let path = over_time(model, noise, &|view, x0, t| bound_rate(view, x0, noise, t))?;
    Ok(path + prior_part(model, noise))
}

fn target<G: Graph>(model: &Enumeration<G>, noise: Noise) -> f64 {
    model.entropy() + model.prior_divergence(noise.sigma_bar(1.0))
}

const PARTIAL: Noise = Noise::LogLinear { eps: 0.05 };
const FULL: Noise = Noise::LogLinear { eps: 0.0 };
const LEFT: Noise = Noise::Geometric { min: 0.1, max: 8.0 };

fn expectation() -> Result<f64> {
    fn miss<G: Graph>(model: &Enumeration<G>, noise: Noise) -> Result<f64> {
        Ok(continuous(model, noise)? - target(model, noise))
    }
    let (flat, masked) = (uniform(3, 2, Head::LogRatios)?, absorbing(3, 3, Head::LogClean)?);
    Ok(largest([
        miss(&flat, PARTIAL)?,
        miss(&flat, Noise::Cosine { eps: 0.05 })?,
        miss(&masked, FULL)?,
        miss(&masked, Noise::Cosine { eps: 0.0 })?,
    ]))
}

/// Σ_l H(x0_l | x) − H(x0 | x) at t = 0.
fn correlation<G: Graph>(model: &Enumeration<G>, noise: Noise) -> f64 {
    let (sigma_bar, states) = (noise.sigma_bar(0.0), model.graph().states());
    let p = model.marginal(sigma_bar);
    let of = |here: usize| {
        let x = model.sequence(here, states);
        let tokens: f64 = model.clean(&x, sigma_bar).chunks(states).map(entropy).sum();
        tokens - entropy(&model.posterior(&x, sigma_bar))
    };
    p.iter().enumerate().filter(|(_, p)| **p > 0.0).map(|(i, p)| p * of(i)).sum()
}

fn last_part() -> Result<f64> {
    let model = uniform(3, 2, Head::LogRatios)?;
    let last = expected(&model, LEFT, 0.0, &|view, x0| cross_entropy(view, x0))?;
    Ok((continuous(&model, LEFT)? + last - target(&model, LEFT) - correlation(&model, LEFT)).abs())
}

fn without_last_part() -> Result<f64> {
    let model = uniform(3, 2, Head::LogRatios)?;
    Ok(model.entropy() - continuous(&model, LEFT)?)
}

/// The integrand of the uniform graph at s = r·e^δ, with the weights of one's choice.
fn shifted<G: Graph>(
    graph: &G,
    view: &View<'_>,
    x0: &[u32],
    delta: f64,
    weight: &dyn Fn(usize, usize) -> f64,
) -> Result<f64> {
    let mut log_s = Vec::new();
    for l in 0..x0.len() {
        log_s.extend(view.ratios(l)?.into_iter().map(|ratio| ratio.ln() + delta));
    }
    Ok(denoising_score_entropy(graph, (view.x, x0), view.sigma_bar, &log_s, weight))
}

fn inexact() -> Result<f64> {
    let (model, delta) = (uniform(3, 2, Head::LogRatios)?, 0.3);
    let graph = *model.graph();
    let at = |delta: f64| {
        over_time(&model, PARTIAL, &|view, x0, t| {
            Ok(PARTIAL.rate(t) * shifted(&graph, view, x0, delta, &|x, y| graph.rate(x, y))?)
        })
    };
    // Σ_x p·Σ_y R(x, y)·r: by the ratios alone.
    let mass = over_time(&model, PARTIAL, &|view, x0, t| {
        let mut sum = 0.0;
        for l in 0..x0.len() {
            let x = view.x[l] as usize;
            let ratios = view.ratios(l)?;
            sum += (0..3).filter(|y| *y != x).map(|y| graph.rate(x, y) * ratios[y]).sum::<f64>();
        }
        Ok(PARTIAL.rate(t) * sum)
    })?;
    let shape = f64::exp_m1(delta) - delta;
    Ok(((at(delta)? - at(0.0)?) / (shape * mass) - 1.0).abs())
}

fn other_weights() -> Result<f64> {
    // Rates that are not symmetric: a ring of three.
    let model = Enumeration::new(super::language::ring()?, 1, &[0.5, 0.2, 0.3], Head::LogRatios)?;
    let graph = model.graph();
    let path = over_time(&model, PARTIAL, &|view, x0, t| {
        Ok(PARTIAL.rate(t) * shifted(graph, view, x0, 0.0, &|x, y| graph.rate(y, x))?)
    })?;
    Ok((path + prior_part(&model, PARTIAL) - target(&model, PARTIAL)).abs())
}

fn surviving() -> Result<f64> {
    let masked = absorbing(3, 2, Head::LogClean)?;
    let left = prior_part(&masked, Noise::LogLinear { eps: 1e-3 });
    Ok(f64::from(u8::from(left < f64::INFINITY)) + f64::from(u8::from(prior_part(&masked, FULL) != 0.0)))
}

/// E of D3PM's bound over `steps` equal steps.
fn chain<G: Graph>(model: &Enumeration<G>, noise: Noise, steps: usize) -> Result<f64> {
    let time = |k: usize| k as f64 / steps as f64;
    let step = |k: usize| {
        expected(model, noise, time(k), &|view, x0| match k {
            1 => cross_entropy(view, x0),
            _ => step_divergence(view, x0, noise, time(k - 1)),
        })
    };
    Ok((1..=steps).map(step).sum::<Result<f64>>()? + prior_part(model, noise))
}

fn steps_on_one_token() -> Result<f64> {
    fn worst<G: Graph>(model: &Enumeration<G>, noise: Noise) -> Result<f64> {
        let misses = [1, 3, 10].map(|steps| chain(model, noise, steps).map_or(f64::NAN, |b| b - target(model, noise)));
        Ok(largest(misses))
    }
    let (flat, masked) = (uniform(5, 1, Head::LogClean)?, absorbing(5, 1, Head::LogClean)?);
    Ok(largest([worst(&flat, PARTIAL)?, worst(&masked, FULL)?]))
}

fn many_steps() -> Result<f64> {
    fn miss<G: Graph>(model: &Enumeration<G>, noise: Noise) -> Result<f64> {
        let steps = [32, 64, 128, 256];
        let want = target(model, noise);
        let errors = steps.map(|n| chain(model, noise, n).map_or(f64::NAN, |bound| bound - want));
        order_miss(&steps, &errors, 1.0)
    }
    miss(&absorbing(3, 2, Head::LogClean)?, FULL)
}
