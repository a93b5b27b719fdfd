//! Continuous time: rates, exponentials, the reverse process, and sequences (items 66–68 and 75).

use super::super::measure::{derivative, largest, miss, order_miss};
use super::super::{Bound, Identity};
use super::language::{absorbing, answer, ring, uniform};
use crate::discrete::{
    Absorbing, AbsorbingTransition, Enumeration, Graph, Head, Noise, Transition, Uniform, UniformTransition, View,
};
use crate::error::Result;
use nalgebra::{DMatrix, DVector};

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 66 S3.section6.2 exponential",
        claim: "the closed exp(σ̄R) of the uniform and the absorbing graph is the matrix exponential",
        bound: Bound::AtMost(1e-12), // Padé's approximant and up to 5 squarings of entries below 1
        measure: exponential,
    },
    Identity {
        id: "item 66 S3.section6.2 semigroup",
        claim: "exp(aR)·exp(bR) = exp((a + b)R), and exp(0) = I",
        bound: Bound::AtMost(1e-12),
        measure: semigroup,
    },
    Identity {
        id: "item 66 S3.section6.2 columns",
        claim: "columns of R sum to 0 with no negative rate, those of exp(σ̄R) to 1",
        bound: Bound::AtMost(1e-13),
        measure: columns,
    },
    Identity {
        id: "item 66 S3.section6.2 equation",
        claim: "dp/dt = σ(t)·R·p under each noise, by the derivative of the closed law",
        // Differences of eighth order at h = 2e-3: h⁸·p⁽⁹⁾/630 with derivatives up to 9!/0.2⁹ is 1e-12, rounding ε/h 1e-13; a few of each.
        bound: Bound::AtMost(1e-11),
        measure: equation,
    },
    Identity {
        id: "item 66 S3.section6.1 chain",
        claim: "n steps of the chain are the continuous process at σ̄ = −n·ln λ",
        bound: Bound::AtMost(1e-13),
        measure: chain,
    },
    Identity {
        id: "item 66 S3.section6.2 one letter misprint",
        claim: "the transition matrix of section 6.1 as the rates of 6.2, both printed Q: mass grows at rate",
        bound: Bound::AtLeast(0.999), // exactly 1
        measure: one_letter,
    },
    Identity {
        id: "item 67 S3.section6.2 reverse equation",
        claim: "(p_(t−h) − p_t)/h = R̄_t·p_t but for O(h)",
        bound: Bound::AtMost(0.1), // a slope within 0.1 of 1 names the order
        measure: reverse_equation,
    },
    Identity {
        id: "item 67 S3.section6.2 balance",
        claim: "R̄ from the ratios takes back what R does: R̄·p = −R·p, columns summing to 0",
        bound: Bound::AtMost(1e-12),
        measure: balance,
    },
    Identity {
        id: "item 67 S3.section6.2 Bayes",
        claim: "p(x_(t−h) = y | x_t = x)/h tends to R̄(y, x) with order 1",
        bound: Bound::AtMost(0.1),
        measure: bayes,
    },
    Identity {
        id: "item 67 S3.section6.2 not swapped",
        claim: "with R(y, x) in place of R(x, y) masks are never taken back: how far R̄·p is from −R·p",
        bound: Bound::AtLeast(0.1), // the mask's own share of dp/dt at σ̄ = 0.7 is e^(−0.7) = 0.5
        measure: not_swapped,
    },
    Identity {
        id: "item 68 S3.section6.2 ratios",
        claim: "the concrete score is p_t(y)/p_t(x) summed over all clean sequences, 1 at y = x, for K to 6 and L to 4",
        bound: Bound::AtMost(1e-11), // sums of up to 216 terms in another order, divided by the small ones
        measure: ratios,
    },
    Identity {
        id: "item 68 S3.section6.2 two heads",
        claim: "ratios from the probabilities of clean tokens, and back, in every graph",
        bound: Bound::AtMost(1e-12),
        measure: two_heads,
    },
    Identity {
        id: "item 75 S3.section6.3 Kronecker",
        claim: "the full S^L rate matrix is the Kronecker sum: only sequences one token apart have a rate",
        bound: Bound::AtMost(0.0), // the same numbers are added
        measure: kronecker,
    },
    Identity {
        id: "item 75 S3.section6.3 factors",
        claim: "noising each token alone is the exponential of the full matrix",
        bound: Bound::AtMost(1e-12),
        measure: factors,
    },
    Identity {
        id: "item 75 S3.section6.3 two at once",
        claim: "the probability that two tokens change within dt falls as dt²",
        bound: Bound::AtMost(0.1), // a slope within 0.1 of 2 names the order
        measure: two_at_once,
    },
];

fn graphs() -> Result<Vec<Box<dyn Graph>>> {
    Ok(vec![
        Box::new(Uniform::new(2)?),
        Box::new(Uniform::new(5)?),
        Box::new(Absorbing::new(2)?),
        Box::new(Absorbing::new(5)?),
        Box::new(ring()?),
    ])
}

fn rate_matrix(graph: &dyn Graph) -> DMatrix<f64> {
    DMatrix::from_fn(graph.states(), graph.states(), |y, x| graph.rate(y, x))
}

fn transition_matrix(graph: &dyn Graph, sigma_bar: f64) -> DMatrix<f64> {
    DMatrix::from_fn(graph.states(), graph.states(), |y, x| graph.transition(y, x, sigma_bar))
}

/// The largest entry of the difference.
fn apart(a: &DMatrix<f64>, b: &DMatrix<f64>) -> f64 {
    largest((a - b).iter().copied())
}

fn exponential() -> Result<f64> {
    let mut worst = Vec::new();
    for graph in graphs()?.iter().filter(|graph| graph.name() != "custom") {
        for sigma_bar in [1e-6, 0.1, 1.0, 5.0, 20.0] {
            let want = (rate_matrix(&**graph) * sigma_bar).exp();
            worst.push(apart(&transition_matrix(&**graph, sigma_bar), &want));
        }
    }
    Ok(largest(worst))
}

fn semigroup() -> Result<f64> {
    let mut worst = Vec::new();
    for graph in graphs()? {
        let at = |sigma_bar: f64| transition_matrix(&*graph, sigma_bar);
        for (a, b) in [(0.1, 0.5), (2.0, 3.0), (0.0, 0.4)] {
            worst.push(apart(&(at(a) * at(b)), &at(a + b)));
        }
        worst.push(apart(&at(0.0), &DMatrix::identity(graph.states(), graph.states())));
    }
    Ok(largest(worst))
}

fn columns() -> Result<f64> {
    let mut worst = Vec::new();
    for graph in graphs()? {
        for x in 0..graph.states() {
            worst.push((0..graph.states()).map(|y| graph.rate(y, x)).sum());
            worst.extend((0..graph.states()).filter(|y| *y != x).map(|y| graph.rate(y, x).min(0.0)));
            for sigma_bar in [0.3, 4.0, f64::INFINITY] {
                worst.push((0..graph.states()).map(|y| graph.transition(y, x, sigma_bar)).sum::<f64>() - 1.0);
            }
        }
    }
    Ok(largest(worst))
}

const NOISES: [Noise; 3] =
    [Noise::LogLinear { eps: 1e-3 }, Noise::Geometric { min: 1e-2, max: 5.0 }, Noise::Cosine { eps: 1e-3 }];

fn equation() -> Result<f64> {
    let mut worst = Vec::new();
    for graph in graphs()? {
        let states = graph.states();
        for noise in NOISES {
            for t in [0.2, 0.5, 0.8] {
                let p: Vec<f64> = (0..states).map(|y| graph.transition(y, 0, noise.sigma_bar(t))).collect();
                for y in 0..states {
                    let slope = derivative(|t| graph.transition(y, 0, noise.sigma_bar(t)), t, 2e-3);
                    let flow: f64 = (0..states).map(|x| graph.rate(y, x) * p[x]).sum();
                    worst.push(miss(slope, noise.rate(t) * flow));
                }
            }
        }
    }
    Ok(largest(worst))
}

fn chain() -> Result<f64> {
    let (uniform, masking) = (UniformTransition::new(4, 0.2)?, AbsorbingTransition::new(4, 0.2)?);
    let mut worst = Vec::new();
    for steps in [1, 5, 40] {
        let sigma_bar = |lambda: f64| -(steps as f64) * lambda.ln();
        let (a, b) = (Uniform::new(4)?, Absorbing::new(4)?);
        for (y, x) in (0..5).flat_map(|y| (0..5).map(move |x| (y, x))) {
            worst.push(masking.power(y, x, steps) - b.transition(y, x, sigma_bar(0.8)));
            if y < 4 && x < 4 {
                worst.push(uniform.power(y, x, steps) - a.transition(y, x, sigma_bar(uniform.eigenvalue())));
            }
        }
    }
    Ok(largest(worst))
}

fn one_letter() -> Result<f64> {
    let chain = UniformTransition::new(3, 0.2)?;
    let p = [0.5, 0.3, 0.2];
    Ok((0..3).map(|y| (0..3).map(|x| chain.power(y, x, 1) * p[x]).sum::<f64>()).sum())
}

/// Sequences `[S^L]` that differ from one in token l alone: (l, y, index).
fn neighbours<G: Graph>(model: &Enumeration<G>, here: usize) -> Vec<(usize, usize, usize)> {
    let states = model.graph().states();
    let x = model.sequence(here, states);
    let mut list = Vec::new();
    for l in 0..x.len() {
        for y in (0..states).filter(|y| *y != x[l] as usize) {
            let mut there = x.clone();
            there[l] = y as u32;
            list.push((l, y, model.index(&there, states)));
        }
    }
    list
}

/// (R̄·p, −R·p) over whole sequences, with R̄ from the model's ratios, or R's indices swapped.
fn flows<G: Graph>(model: &Enumeration<G>, sigma_bar: f64, is_swapped: bool) -> (Vec<f64>, Vec<f64>) {
    let (graph, p) = (model.graph(), model.marginal(sigma_bar));
    let states = graph.states();
    let (mut reverse, mut forward) = (vec![0.0; p.len()], vec![0.0; p.len()]);
    for here in (0..p.len()).filter(|here| p[*here] > 0.0) {
        let x = model.sequence(here, states);
        let ratios = model.ratios(&x, sigma_bar);
        for (l, y, there) in neighbours(model, here) {
            let x = x[l] as usize;
            let rate = if is_swapped { graph.rate(y, x) } else { graph.rate(x, y) };
            let back = ratios[l * states + y] * rate * p[here];
            reverse[there] += back;
            reverse[here] -= back;
            let forth = graph.rate(y, x) * p[here];
            forward[there] += forth;
            forward[here] -= forth;
        }
    }
    (reverse, forward.into_iter().map(|flow| -flow).collect())
}

fn balance() -> Result<f64> {
    let apart = |(reverse, forward): (Vec<f64>, Vec<f64>)| {
        let sum: f64 = reverse.iter().sum();
        largest(reverse.iter().zip(&forward).map(|(a, b)| a - b).chain([sum]))
    };
    let mut worst = Vec::new();
    for sigma_bar in [0.05, 0.7, 3.0] {
        worst.push(apart(flows(&uniform(3, 3, Head::LogRatios)?, sigma_bar, false)));
        worst.push(apart(flows(&absorbing(3, 3, Head::LogRatios)?, sigma_bar, false)));
    }
    Ok(largest(worst))
}

fn not_swapped() -> Result<f64> {
    let (reverse, forward) = flows(&absorbing(3, 3, Head::LogRatios)?, 0.7, true);
    Ok(reverse.iter().zip(&forward).map(|(a, b)| (a - b).abs()).sum())
}

fn reverse_equation() -> Result<f64> {
    fn miss_of<G: Graph>(model: &Enumeration<G>) -> Result<f64> {
        let sigma_bar = 0.8;
        let (p, (reverse, _)) = (model.marginal(sigma_bar), flows(model, sigma_bar, false));
        let steps = [100, 200, 400, 800];
        let residual = |n: usize| {
            let h = 1.0 / n as f64;
            let before = model.marginal(sigma_bar - h);
            largest((0..p.len()).map(|i| (before[i] - p[i]) / h - reverse[i]))
        };
        order_miss(&steps, &steps.map(residual), 1.0)
    }
    Ok(largest([miss_of(&uniform(3, 3, Head::LogRatios)?)?, miss_of(&absorbing(3, 3, Head::LogRatios)?)?]))
}

fn bayes() -> Result<f64> {
    let (model, sigma_bar, steps) = (uniform(3, 2, Head::LogRatios)?, 0.8, [100, 200, 400, 800]);
    let graph = model.graph();
    let p = model.marginal(sigma_bar);
    let transition = |to: &[u32], from: &[u32], h: f64| -> f64 {
        to.iter().zip(from).map(|(y, x)| graph.transition(*y as usize, *x as usize, h)).product()
    };
    let error = |n: usize| {
        let h = 1.0 / n as f64;
        let before = model.marginal(sigma_bar - h);
        let mut worst = Vec::new();
        for here in 0..p.len() {
            let x = model.sequence(here, 3);
            let ratios = model.ratios(&x, sigma_bar);
            for (l, y, there) in neighbours(&model, here) {
                let posterior = transition(&x, &model.sequence(there, 3), h) * before[there] / p[here];
                worst.push(posterior / h - ratios[l * 3 + y] * graph.rate(x[l] as usize, y));
            }
        }
        largest(worst)
    };
    order_miss(&steps, &steps.map(error), 1.0)
}

fn ratios() -> Result<f64> {
    fn worst_of<G: Graph>(model: &Enumeration<G>) -> f64 {
        let (graph, states) = (model.graph(), model.graph().states());
        let mut worst = Vec::new();
        for sigma_bar in [0.1, 2.0] {
            let likelihood = |x: &[u32], x0: &[u32]| -> f64 {
                x.iter().zip(x0).map(|(x, a)| graph.transition(*x as usize, *a as usize, sigma_bar)).product()
            };
            let p = |x: &[u32]| -> f64 {
                let clean = model.law().iter().enumerate();
                clean.map(|(i, p0)| p0 * likelihood(x, &model.sequence(i, graph.symbols()))).sum()
            };
            for here in (0..states.pow(model.length() as u32)).step_by(7) {
                let x = model.sequence(here, states);
                let ratios = model.ratios(&x, sigma_bar);
                worst.extend((0..x.len()).map(|l| ratios[l * states + x[l] as usize] - 1.0));
                for (l, y, there) in neighbours(model, here) {
                    worst.push(miss(ratios[l * states + y], p(&model.sequence(there, states)) / p(&x)));
                }
            }
        }
        largest(worst)
    }
    let short = [worst_of(&uniform(6, 3, Head::LogRatios)?), worst_of(&uniform(3, 4, Head::LogRatios)?)];
    Ok(largest(short.into_iter().chain([worst_of(&absorbing(3, 4, Head::LogRatios)?)])))
}

fn two_heads() -> Result<f64> {
    fn worst_of<G: Graph>(by_ratio: &Enumeration<G>, by_clean: &Enumeration<G>) -> Result<f64> {
        let (graph, mut worst) = (by_ratio.graph(), Vec::new());
        for here in 0..graph.states().pow(3) {
            let x = by_ratio.sequence(here, graph.states());
            for sigma_bar in [0.05, 0.6, 3.0] {
                let (a, b) = (answer(by_ratio, &x, sigma_bar)?, answer(by_clean, &x, sigma_bar)?);
                let view = |head, values| View { graph, head, x: &x, sigma_bar, values };
                let (a, b) = (view(Head::LogRatios, &a), view(Head::LogClean, &b));
                for l in (0..3).filter(|l| graph.mask().is_none_or(|mask| mask == x[*l])) {
                    worst.extend(a.ratios(l)?.iter().zip(b.ratios(l)?).map(|(a, b)| miss(*a, b)));
                    worst.extend(a.clean(l)?.iter().zip(b.clean(l)?).map(|(a, b)| miss(*a, b)));
                }
            }
        }
        Ok(largest(worst))
    }
    let law = super::language::weights(3, 3);
    let own = |head| Enumeration::new(ring()?, 3, &law, head);
    let (ratios, clean) = (Head::LogRatios, Head::LogClean);
    Ok(largest([
        worst_of(&uniform(3, 3, ratios)?, &uniform(3, 3, clean)?)?,
        worst_of(&absorbing(3, 3, ratios)?, &absorbing(3, 3, clean)?)?,
        worst_of(&own(ratios)?, &own(clean)?)?,
    ]))
}

/// Σ_l I ⊗ … ⊗ R ⊗ … ⊗ I over `length` tokens.
fn kronecker_sum(graph: &dyn Graph, length: u32) -> DMatrix<f64> {
    let (states, rates) = (graph.states(), rate_matrix(graph));
    let identity = |n: u32| DMatrix::<f64>::identity(states.pow(n), states.pow(n));
    let term = |l: u32| identity(l).kronecker(&rates).kronecker(&identity(length - 1 - l));
    (1..length).fold(term(0), |sum, l| sum + term(l))
}

fn kronecker() -> Result<f64> {
    fn worst_of<G: Graph>(model: &Enumeration<G>) -> f64 {
        let (graph, states) = (model.graph(), model.graph().states());
        let mut want = kronecker_sum(graph, model.length() as u32);
        // Everything that the rates of single tokens say is taken away: the diagonal first.
        for here in 0..want.nrows() {
            let x = model.sequence(here, states);
            want[(here, here)] -= x.iter().map(|x| graph.rate(*x as usize, *x as usize)).sum::<f64>();
            for (l, y, there) in neighbours(model, here) {
                want[(there, here)] -= graph.rate(y, x[l] as usize);
            }
        }
        largest(want.iter().copied())
    }
    Ok(largest([worst_of(&uniform(3, 3, Head::LogRatios)?), worst_of(&absorbing(3, 3, Head::LogRatios)?)]))
}

fn factors() -> Result<f64> {
    fn worst_of<G: Graph>(model: &Enumeration<G>) -> f64 {
        let start = DVector::from_column_slice(&model.marginal(0.0));
        let worst = [0.2, 1.5].map(|sigma_bar| {
            let want = (kronecker_sum(model.graph(), model.length() as u32) * sigma_bar).exp() * &start;
            largest(model.marginal(sigma_bar).iter().zip(want.iter()).map(|(a, b)| a - b))
        });
        largest(worst)
    }
    Ok(largest([worst_of(&uniform(3, 3, Head::LogRatios)?), worst_of(&absorbing(3, 3, Head::LogRatios)?)]))
}

fn two_at_once() -> Result<f64> {
    let (graph, steps) = (Uniform::new(3)?, [100, 200, 400, 800]);
    // Of three tokens: all but none and one.
    let probability = |n: usize| {
        let stay = graph.transition(0, 0, 1.0 / n as f64);
        1.0 - stay.powi(3) - 3.0 * stay.powi(2) * (1.0 - stay)
    };
    order_miss(&steps, &steps.map(probability), 2.0)
}
