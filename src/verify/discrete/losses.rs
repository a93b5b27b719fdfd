//! Losses: concrete score matching, and score entropy in its three forms (items 69–73).

use super::super::measure::largest;
use super::super::{Bound, Identity};
use super::language::{absorbing, uniform};
use crate::analytic::statistics;
use crate::discrete::loss::{
    Weight, concrete_score_matching, concrete_score_term, denoising_score_entropy, implicit_one_neighbour,
    implicit_score_entropy, score_entropy, score_entropy_term,
};
use crate::discrete::{Enumeration, Graph, Head, categorical, corrupt};
use crate::error::Result;
use crate::rng::{Address, Purpose};

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 69 S3.section6.2 minimiser",
        claim: "concrete score matching at s = r·(1 + δ) is Σ p·w·r²·δ²: 0 at the ratio and nowhere else",
        bound: Bound::AtMost(1e-12), // sums of 27 to 64 sequences times 9 terms, a few ε each
        measure: csm_minimiser,
    },
    Identity {
        id: "item 69 S3.section6.2 negative scores",
        claim: "its loss at s = −r is finite, 4r², and its slope at s = 0 is −2r: distance from both",
        bound: Bound::AtMost(4e-9), // squares of up to 9, each off by ε/2 of that, over 2h = 2e-6: 1e-9, twice, and ε·36
        measure: csm_negative,
    },
    Identity {
        id: "item 70 S3.section6.2 zero at the ratio",
        claim: "the score entropy of s = r·e^δ is Σ p·w·r·(e^δ − 1 − δ), so 0 at s = r and above it elsewhere",
        bound: Bound::AtMost(1e-12),
        measure: score_entropy_shape,
    },
    Identity {
        id: "item 70 S3.section6.2 logarithm",
        claim: "its slope at s = 1e-12 for r = 1 keeps s from 0",
        bound: Bound::AtLeast(1e11), // r/s = 1e12, by a difference over a tenth of s
        measure: steep_at_zero,
    },
    Identity {
        id: "item 71 S3.section6.2 implicit",
        claim: "explicit − implicit score entropy is one number for four scores, also with weights that are not symmetric",
        bound: Bound::AtMost(1e-12),
        measure: || explicit_less_implicit(true),
    },
    Identity {
        id: "item 71 S3.section6.2 without the swap",
        claim: "with w(x, y) before the logarithm too, explicit − implicit changes with the score by",
        bound: Bound::AtLeast(0.1), // weights differ by up to their size, and ln s by 0.5
        measure: || explicit_less_implicit(false),
    },
    Identity {
        id: "item 72 S3.section6.2 denoising",
        claim: "explicit − denoising score entropy is one number for four scores, also with weights that are not symmetric",
        bound: Bound::AtMost(1e-12),
        measure: explicit_less_denoising,
    },
    Identity {
        id: "item 72 S3.section6.2 support",
        claim: "weights where x cannot come from the x0 that y comes from break it: change with the score in the absorbing graph",
        bound: Bound::AtLeast(0.1), // the missing terms are w·r·ln s, and ln s changes by up to 0.5
        measure: beyond_the_support,
    },
    Identity {
        id: "item 72 S3.section6.2 small noise",
        claim: "conditional ratios at σ̄ = 1e-10 against their series, relative",
        bound: Bound::AtMost(1e-9), // the series 1/σ̄ − 1/2 is cut at σ̄/12, and K of the graph is 28
        measure: small_noise,
    },
    Identity {
        id: "item 72 S3.section6.2 as written",
        claim: "p(y|x0)/p(x|x0) from 1 − e^(−σ̄) as written, at the same noise: relative error",
        bound: Bound::AtLeast(1e-8), // 1 − e^(−1e-10) keeps 6 of 16 digits: ε/2 in 1e-10 is 1e-6
        measure: as_written,
    },
    Identity {
        id: "item 72 S3.section6.2 gradient",
        claim: "the gradient of the denoising loss over draws of (x0, x_t) is the explicit one in the mean, in standard errors",
        // n = 40 000 for each of two graphs, seed 72: z = 4.2 happens once in 20 000 for the two.
        bound: Bound::AtMost(4.2),
        measure: gradient,
    },
    Identity {
        id: "item 73 S3.section6.2 one neighbour",
        claim: "variance of the implicit loss over all neighbours, in that of one drawn uniformly: the largest share for σ̄ from 0.02 to 4",
        bound: Bound::AtMost(1.0), // a mean over y: Var E[·|x] ≤ Var
        measure: || Ok(largest(variances()?.into_iter().map(|row| row.full / row.one))),
    },
    Identity {
        id: "item 73 S3.section6.2 no theorem",
        claim: "variance of the denoising loss in that of one neighbour, uniform graph at σ̄ = 0.02: it may be larger",
        bound: Bound::AtLeast(1.0),
        measure: || Ok(variances()?.first().map_or(f64::NAN, |row| row.denoising / row.one)),
    },
];

/// ln s of score number `k`: the true ratio times e^(±0.5), by sequence, token and value; exact for k = 0.
fn perturbed<G: Graph>(model: &Enumeration<G>, x: &[u32], sigma_bar: f64, k: usize) -> Vec<f64> {
    let place = model.index(x, model.graph().states());
    let ratios = model.ratios(x, sigma_bar);
    ratios.iter().enumerate().map(|(i, r)| r.ln() + shift(k, place * ratios.len() + i)).collect()
}

fn shift(k: usize, place: usize) -> f64 {
    if k == 0 { 0.0 } else { Address::new(70, Purpose::Test).sample(k).uniform(place) - 0.5 }
}

/// w(x, y) > 0 that is not symmetric.
fn lopsided(x: usize, y: usize) -> f64 {
    0.3 + ((5 * x + 3 * y) % 7) as f64 * 0.4
}

const NOISES: [f64; 3] = [0.1, 0.8, 3.0];

/// Σ p_t(x)·f(x) over all noisy sequences.
fn expected<G: Graph>(model: &Enumeration<G>, sigma_bar: f64, f: impl Fn(&[u32]) -> Result<f64>) -> Result<f64> {
    let p = model.marginal(sigma_bar);
    let terms = p.iter().enumerate().filter(|(_, p)| **p > 0.0);
    terms.map(|(i, p)| Ok(p * f(&model.sequence(i, model.graph().states()))?)).sum()
}

/// A measurement on a language in the uniform and in the absorbing graph, the larger.
fn on_both(
    on_uniform: impl Fn(&Enumeration<crate::discrete::Uniform>) -> Result<f64>,
    on_absorbing: impl Fn(&Enumeration<crate::discrete::Absorbing>) -> Result<f64>,
) -> Result<f64> {
    Ok(largest([on_uniform(&uniform(3, 3, Head::LogRatios)?)?, on_absorbing(&absorbing(3, 3, Head::LogRatios)?)?]))
}

fn csm_minimiser() -> Result<f64> {
    fn worst<G: Graph>(model: &Enumeration<G>) -> Result<f64> {
        let (graph, mut errors) = (model.graph(), Vec::new());
        for (sigma_bar, delta) in [(0.8, 0.0), (0.8, 0.2), (3.0, -0.4)] {
            let off = |scale: f64, delta: f64| {
                expected(model, sigma_bar, |x| {
                    let r = model.ratios(x, sigma_bar);
                    let s: Vec<f64> = r.iter().map(|r| r * scale * (1.0 + delta)).collect();
                    let zero = vec![0.0; r.len()];
                    Ok(concrete_score_matching(graph, x, &s, if scale == 1.0 { &r } else { &zero }, &lopsided))
                })
            };
            // With scale δ and no ratio the sum is δ²·Σ p·w·r².
            let (got, want) = (off(1.0, delta)?, off(delta, 0.0)?);
            errors.push((got - want) / (1.0 + want));
        }
        Ok(largest(errors))
    }
    on_both(worst, worst)
}

fn csm_negative() -> Result<f64> {
    let h = 1e-6;
    let misses = [0.2, 1.0, 3.0].map(|r| {
        let slope = (concrete_score_term(h, r) - concrete_score_term(-h, r)) / (2.0 * h);
        largest([concrete_score_term(-r, r) - 4.0 * r * r, slope + 2.0 * r])
    });
    Ok(largest(misses))
}

fn score_entropy_shape() -> Result<f64> {
    fn worst<G: Graph>(model: &Enumeration<G>) -> Result<f64> {
        let (graph, mut errors) = (model.graph(), Vec::new());
        for (sigma_bar, delta) in [(0.8, 0.0), (0.8, 0.1), (3.0, -0.1), (0.1, 1.0)] {
            let got = expected(model, sigma_bar, |x| {
                let r = model.ratios(x, sigma_bar);
                let log_s: Vec<f64> = r.iter().map(|r| r.ln() + delta).collect();
                Ok(score_entropy(graph, x, &log_s, &r, &lopsided))
            })?;
            let shape: f64 = f64::exp_m1(delta) - delta;
            let mass = expected(model, sigma_bar, |x| {
                // Σ w·r over the others: score entropy of s = r without its other parts.
                let r = model.ratios(x, sigma_bar);
                let (states, zero) = (graph.states(), vec![0.0; r.len()]);
                let others = (0..r.len()).filter(|i| i % states != x[i / states] as usize);
                let sum: f64 = others.map(|i| lopsided(x[i / states] as usize, i % states) * (r[i] - zero[i])).sum();
                Ok(sum)
            })?;
            errors.push((got - shape * mass) / (1.0 + mass));
        }
        Ok(largest(errors))
    }
    on_both(worst, worst)
}

fn steep_at_zero() -> Result<f64> {
    let s = 1e-12_f64;
    let (low, high) = (score_entropy_term((0.95 * s).ln(), 1.0), score_entropy_term((1.05 * s).ln(), 1.0));
    Ok((low - high) / (0.1 * s))
}

/// How much `difference(k)` changes over four scores, relative to its size.
fn spread(difference: impl Fn(usize) -> Result<f64>) -> Result<f64> {
    let values = (0..4).map(difference).collect::<Result<Vec<f64>>>()?;
    Ok(largest(values.iter().map(|value| (value - values[0]) / (1.0 + values[0].abs()))))
}

fn explicit<G: Graph>(model: &Enumeration<G>, sigma_bar: f64, k: usize, weight: Weight) -> Result<f64> {
    expected(model, sigma_bar, |x| {
        let log_s = perturbed(model, x, sigma_bar, k);
        Ok(score_entropy(model.graph(), x, &log_s, &model.ratios(x, sigma_bar), weight))
    })
}

fn explicit_less_implicit(is_swapped: bool) -> Result<f64> {
    fn worst<G: Graph>(model: &Enumeration<G>, weights: &[Weight], is_swapped: bool) -> Result<f64> {
        let (graph, mut worst) = (model.graph(), Vec::new());
        for (sigma_bar, weight) in NOISES.iter().flat_map(|sigma| weights.iter().map(move |w| (*sigma, *w))) {
            worst.push(spread(|k| {
                let log_s_at = |x: &[u32]| Ok(perturbed(model, x, sigma_bar, k));
                let implicit = expected(model, sigma_bar, |x| {
                    if is_swapped {
                        return implicit_score_entropy(graph, x, &log_s_at, weight);
                    }
                    // Both parts with w(x, y): what the swap is for.
                    let mut sum = 0.0;
                    for l in 0..x.len() {
                        for y in (0..graph.states()).filter(|y| *y != x[l] as usize) {
                            let mut there = x.to_vec();
                            there[l] = y as u32;
                            let at = |x: &[u32], y: usize| perturbed(model, x, sigma_bar, k)[l * graph.states() + y];
                            sum += weight(x[l] as usize, y) * (at(x, y).exp() - at(&there, x[l] as usize));
                        }
                    }
                    Ok(sum)
                })?;
                Ok(explicit(model, sigma_bar, k, weight)? - implicit)
            })?);
        }
        Ok(largest(worst))
    }
    let symmetric: Weight = &|_, _| 1.0;
    let by_uniform = worst(&uniform(3, 3, Head::LogRatios)?, &[symmetric, &lopsided], is_swapped)?;
    // Sequences that no mask covers have neighbours of the same kind and the masked ones: every probability is positive.
    let model = absorbing(3, 2, Head::LogRatios)?;
    let graph = *model.graph();
    let rates = |x: usize, y: usize| graph.rate(x, y);
    Ok(largest([by_uniform, worst(&model, &[symmetric, &lopsided, &rates], is_swapped)?]))
}

/// Σ p_0(x0)·p(x|x0)·f(x, x0).
fn expected_pairs<G: Graph>(
    model: &Enumeration<G>,
    sigma_bar: f64,
    mut f: impl FnMut(&[u32], &[u32]) -> Result<f64>,
) -> Result<f64> {
    let (graph, mut sum) = (model.graph(), 0.0);
    for (i, p0) in model.law().iter().enumerate() {
        let x0 = model.sequence(i, graph.symbols());
        for j in 0..graph.states().pow(x0.len() as u32) {
            let x = model.sequence(j, graph.states());
            let token = |(x, a): (&u32, &u32)| graph.transition(*x as usize, *a as usize, sigma_bar);
            let p: f64 = x.iter().zip(&x0).map(token).product();
            if p > 0.0 {
                sum += p0 * p * f(&x, &x0)?;
            }
        }
    }
    Ok(sum)
}

/// How much explicit − denoising changes over the scores, the largest over noises and weights.
fn denoising_spread<G: Graph>(model: &Enumeration<G>, weights: &[Weight]) -> Result<f64> {
    let (graph, mut worst) = (model.graph(), Vec::new());
    for (sigma_bar, weight) in NOISES.iter().flat_map(|sigma| weights.iter().map(move |w| (*sigma, *w))) {
        worst.push(spread(|k| {
            let denoising = expected_pairs(model, sigma_bar, |x, x0| {
                let log_s = perturbed(model, x, sigma_bar, k);
                Ok(denoising_score_entropy(graph, (x, x0), sigma_bar, &log_s, weight))
            })?;
            Ok(explicit(model, sigma_bar, k, weight)? - denoising)
        })?);
    }
    Ok(largest(worst))
}

fn explicit_less_denoising() -> Result<f64> {
    let symmetric: Weight = &|_, _| 1.0;
    let by_uniform = denoising_spread(&uniform(3, 3, Head::LogRatios)?, &[symmetric, &lopsided])?;
    let model = absorbing(3, 2, Head::LogRatios)?;
    let graph = *model.graph();
    let rates = |x: usize, y: usize| graph.rate(x, y);
    // A symbol comes from one x0 alone, the mask from all: weights are for a masked token and its other values.
    let from_mask = |x: usize, y: usize| if x == 3 { lopsided(x, y) } else { 0.0 };
    Ok(largest([by_uniform, denoising_spread(&model, &[&from_mask, &rates])?]))
}

/// Weights at tokens of the absorbing graph that are not masked: p(y|x0) > 0 where x cannot come from x0, so the mean over x0 misses it.
fn beyond_the_support() -> Result<f64> {
    denoising_spread(&absorbing(3, 2, Head::LogRatios)?, &[&lopsided])
}

const TINY: f64 = 1e-10;

fn small_noise() -> Result<f64> {
    let (uniform, masking) = (crate::discrete::Uniform::new(28)?, crate::discrete::Absorbing::new(27)?);
    let inverse = 1.0 / TINY - 0.5;
    let rows = [
        (masking.ratio(3, 27, 3, TINY), inverse),
        (uniform.ratio(3, 5, 3, TINY), 1.0 + 28.0 * inverse),
        (uniform.ratio(5, 3, 3, TINY), 1.0 / (1.0 + 28.0 * inverse)),
    ];
    Ok(largest(rows.map(|(got, want)| got / want - 1.0)))
}

fn as_written() -> Result<f64> {
    let kept = (-TINY).exp();
    Ok((kept / (1.0 - kept) / (1.0 / TINY - 0.5) - 1.0).abs())
}

fn gradient() -> Result<f64> {
    fn z<G: Graph>(model: &Enumeration<G>) -> Result<f64> {
        let (graph, sigma_bar, states) = (model.graph(), 0.8, model.graph().states());
        // The gradient in a factor common to all ratios: Σ w·(s − r).
        let slope = |x: &[u32], ratio: &dyn Fn(usize, usize) -> f64| -> f64 {
            let log_s = perturbed(model, x, sigma_bar, 1);
            let mut sum = 0.0;
            for l in 0..x.len() {
                for y in (0..states).filter(|y| *y != x[l] as usize) {
                    let w = graph.rate(x[l] as usize, y);
                    sum += if w == 0.0 { 0.0 } else { w * (log_s[l * states + y].exp() - ratio(l, y)) };
                }
            }
            sum
        };
        let want = expected(model, sigma_bar, |x| {
            let ratios = model.ratios(x, sigma_bar);
            Ok(slope(x, &|l, y| ratios[l * states + y]))
        })?;
        let address = Address::new(72, Purpose::Test);
        let draws: Vec<f64> = (0..40_000)
            .map(|i| {
                let clean = categorical(address.sample(i).sub_index(1).word(0), model.law()).unwrap_or(0);
                let x0 = model.sequence(clean, graph.symbols());
                let x = corrupt(graph, &x0, sigma_bar, address.sample(i));
                slope(&x, &|l, y| graph.ratio(y, x[l] as usize, x0[l] as usize, sigma_bar))
            })
            .collect();
        let found = statistics::moments(&draws)?;
        Ok((found.mean - want) / found.mean_error)
    }
    on_both(z, z)
}

/// Variances of three estimators of one loss at the true score, w = 1.
struct Variances {
    one: f64,
    full: f64,
    denoising: f64,
}

/// For σ̄ = 0.02, 0.1, 0.5, 1, 2, 4 in the uniform graph.
fn variances() -> Result<Vec<Variances>> {
    let model = uniform(3, 3, Head::LogRatios)?;
    let (graph, weight): (_, Weight) = (*model.graph(), &|_, _| 1.0);
    let row = |sigma_bar: f64| -> Result<Variances> {
        let log_s_at = |x: &[u32]| Ok(perturbed(&model, x, sigma_bar, 0));
        let count = 3 * (graph.states() - 1);
        let moments = |power: i32| -> Result<[f64; 3]> {
            let full =
                expected(&model, sigma_bar, |x| Ok(implicit_score_entropy(&graph, x, &log_s_at, weight)?.powi(power)))?;
            let one = expected(&model, sigma_bar, |x| {
                let terms = (0..count).map(|pick| implicit_one_neighbour(&graph, x, pick, &log_s_at, weight));
                Ok(terms.map(|term| Ok(term?.powi(power))).sum::<Result<f64>>()? / count as f64)
            })?;
            let denoising = expected_pairs(&model, sigma_bar, |x, x0| {
                // Without the constant, which no gradient sees: s − r0·ln s.
                let log_s = perturbed(&model, x, sigma_bar, 0);
                let constant = denoising_score_entropy(&graph, (x, x0), sigma_bar, &vec![0.0; log_s.len()], weight);
                let value =
                    denoising_score_entropy(&graph, (x, x0), sigma_bar, &log_s, weight) - constant + count as f64;
                Ok(value.powi(power))
            })?;
            Ok([one, full, denoising])
        };
        let (first, second) = (moments(1)?, moments(2)?);
        let [one, full, denoising] = [0, 1, 2].map(|i| second[i] - first[i].powi(2));
        Ok(Variances { one, full, denoising })
    };
    [0.02, 0.1, 0.5, 1.0, 2.0, 4.0].into_iter().map(row).collect()
}
