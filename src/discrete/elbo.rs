//! The bound on −ln p(x0) that a concrete score gives, estimated: bits per token with a standard error (item 76).
//!
//! −ln p(x0) ≤ KL(p(x_1|x0) ‖ π) + ∫ E[integrand of `bound_rate`] dt + L_0, with L_0 = −ln p(x0 | x at t = 0) where noise is left there.

use super::d3pm::{cross_entropy, prior_divergence};
use super::loss::bound_rate;
use super::{ConcreteScore, Graph, Noise, Tokens, View, categorical, check_model};
use crate::error::{Error, Result};
use crate::rng::Address;
use std::f64::consts::LN_2;

/// x_t of x0: each token drawn from its column of exp(σ̄R). Token l takes element l of the address, whatever the length.
///
/// * `x0` — `[L]`
pub fn corrupt(graph: &dyn Graph, x0: &[u32], sigma_bar: f64, address: Address) -> Vec<u32> {
    let states = graph.states();
    let mut column = vec![0.0; states];
    let draw = |(l, x0): (usize, &u32)| {
        (0..states).for_each(|y| column[y] = graph.transition(y, *x0 as usize, sigma_bar));
        categorical(address.word(l), &column).map_or(*x0, |y| y as u32)
    };
    x0.iter().enumerate().map(draw).collect()
}

/// Times are drawn as u^1.5: near t = 0 a token is noisy with probability about t and then counts about 1/t, so with uniform times the second
/// moment, ∫ dt/t, would not exist.
const TIME_POWER: f64 = 1.5;

/// Times of sequences that follow one another are so far apart, modulo 1: each is uniform by itself, and together they leave no gaps, so that the
/// mean over the sequences varies little with their times.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// What [`bits_per_token`] draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundOptions {
    /// Times t = u^1.5 of each sequence, with one u in each of as many equal parts of \[0, 1\].
    pub draws: usize,
    /// The most sequences in one evaluation.
    pub batch: usize,
    /// Where the randomness lies; sequence i is sample i of it.
    pub address: Address,
}

/// A bound in bits per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bits {
    /// Mean over the sequences.
    pub bits: f64,
    /// Its standard error over the sequences, as if their times were drawn apart from one another: rather too large.
    pub standard_error: f64,
    /// How many sequences.
    pub sequences: usize,
    /// The part of the prior, KL(p(x_1|x0) ‖ π).
    pub prior: f64,
    /// The part L_0, 0 where no noise is left at t = 0.
    pub last: f64,
}

/// Estimates the bound on sequences.
///
/// * `sequences` — `[n, L]`, symbols of the graph; n at least 2
///
/// # Errors
/// [`Error::Usage`] if model and graph disagree, a setting is 0, or the bound is infinite because tokens survive in a masking graph; those of the
/// model.
pub fn bits_per_token(
    model: &dyn ConcreteScore,
    graph: &dyn Graph,
    noise: Noise,
    sequences: &Tokens,
    options: &BoundOptions,
) -> Result<Bits> {
    noise.check()?;
    check_model(model, graph)?;
    let (n, length) = (sequences.rows(), sequences.length());
    if n < 2 || options.draws == 0 || options.batch == 0 {
        let BoundOptions { draws, batch, .. } = options;
        let text = format!("bound: expected at least 2 sequences, 1 draw and a batch of 1, got {n}, {draws}, {batch}");
        return Err(Error::Usage(text));
    }
    if let Some(bad) = sequences.values().iter().find(|token| **token as usize >= graph.symbols()) {
        let symbols = graph.symbols();
        return Err(Error::Data(format!("bound: expected symbols below {symbols}, got {bad}; data holds no mask")));
    }
    let prior: Vec<f64> = sequences.iter().map(|x0| prior_divergence(graph, x0, noise.sigma_bar(1.0))).collect();
    if let Some(infinite) = prior.iter().find(|kl| !kl.is_finite()) {
        return Err(Error::Usage(format!(
            "bound: {} noise leaves a share {:.1e} of the tokens unmasked at t = 1, so the prior's part is {infinite}; take eps = 0",
            noise.name(),
            noise.survival(1.0)
        )));
    }
    let run = Estimate { model, graph, noise, sequences, options };
    let mut nats = prior.clone();
    for draw in 0..options.draws {
        let first = options.address.step(draw).sub_index(1).uniform(0);
        let time = |i: usize| {
            let u = (first + i as f64 * GOLDEN).fract();
            ((draw as f64 + u) / options.draws as f64).powf(TIME_POWER)
        };
        // dt = 1.5·u^½·du with u = t^(2/3).
        let density = |t: f64| TIME_POWER * t.powf(1.0 - 1.0 / TIME_POWER);
        let rates = run.at(draw, &time, &|view, x0, t| Ok(density(t) * bound_rate(view, x0, noise, t)?))?;
        nats.iter_mut().zip(rates).for_each(|(sum, rate)| *sum += rate / options.draws as f64);
    }
    let mut last = vec![0.0; n];
    if noise.sigma_bar(0.0) > 0.0 {
        last = run.at(options.draws, &|_| 0.0, &|view, x0, _| cross_entropy(view, x0))?;
        nats.iter_mut().zip(&last).for_each(|(sum, nats)| *sum += nats);
    }
    let scale = 1.0 / (LN_2 * length as f64);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
    let centre = mean(&nats);
    let variance = nats.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / (n - 1) as f64;
    Ok(Bits {
        bits: scale * centre,
        standard_error: scale * (variance / n as f64).sqrt(),
        sequences: n,
        prior: scale * mean(&prior),
        last: scale * mean(&last),
    })
}

/// A number of a view, its clean sequence and its time.
type Term<'a> = &'a dyn Fn(&View<'_>, &[u32], f64) -> Result<f64>;

struct Estimate<'a> {
    model: &'a dyn ConcreteScore,
    graph: &'a dyn Graph,
    noise: Noise,
    sequences: &'a Tokens,
    options: &'a BoundOptions,
}

impl Estimate<'_> {
    /// One number of each sequence, noised at its own time.
    fn at(&self, draw: usize, time: &dyn Fn(usize) -> f64, term: Term) -> Result<Vec<f64>> {
        let (n, length) = (self.sequences.rows(), self.sequences.length());
        let row_len = length * self.graph.states();
        let mut terms = Vec::with_capacity(n);
        for first in (0..n).step_by(self.options.batch) {
            let rows: Vec<usize> = (first..(first + self.options.batch).min(n)).collect();
            let times: Vec<f64> = rows.iter().map(|i| time(*i)).collect();
            let sigma_bar: Vec<f64> = times.iter().map(|t| self.noise.sigma_bar(*t)).collect();
            let address = |i: usize| self.options.address.sample(i).step(draw);
            let noised = |(i, sigma): (&usize, &f64)| corrupt(self.graph, self.sequences.row(*i), *sigma, address(*i));
            let x_t = Tokens::new(rows.iter().zip(&sigma_bar).flat_map(noised).collect(), length)?;
            let mut values = vec![0.0; rows.len() * row_len];
            self.model.evaluate(&x_t, &sigma_bar, &mut values)?;
            for (at, i) in rows.iter().enumerate() {
                let view = View {
                    graph: self.graph,
                    head: self.model.head(),
                    x: x_t.row(at),
                    sigma_bar: sigma_bar[at],
                    values: &values[at * row_len..][..row_len],
                };
                terms.push(term(&view, self.sequences.row(*i), times[at])?);
            }
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discrete::{Absorbing, Enumeration, Head, Uniform};
    use crate::rng::Purpose;

    fn data(model: &Enumeration<impl Graph>, n: usize) -> Tokens {
        let draw = |i: usize| categorical(Address::new(3, Purpose::Oracle).sample(i).word(0), model.law()).unwrap();
        let values = (0..n).flat_map(|i| model.sequence(draw(i), 3)).collect();
        Tokens::new(values, model.length()).unwrap()
    }

    #[test]
    fn the_estimate_is_the_entropy_of_the_language_within_its_standard_error() {
        // n = 4000 sequences, 8 times each, and 40 000 with one; seeds 3 and 4: a z-score of 4 happens once in 16 000, and less often as times
        // leave no gaps. The bound itself is E = H + KL(p_1 ‖ π).
        let law: Vec<f64> = (0..27).map(|i| 1.0 + (i * i % 7) as f64).collect();
        fn check<G: Graph>(model: &Enumeration<G>, noise: Noise, (n, draws): (usize, usize)) {
            let options = |batch| BoundOptions { draws, batch, address: Address::new(4, Purpose::Eval) };
            let sequences = data(model, n);
            let got = bits_per_token(model, model.graph(), noise, &sequences, &options(64)).unwrap();
            let want = (model.entropy() + model.prior_divergence(noise.sigma_bar(1.0))) / (3.0 * LN_2);
            let z = (got.bits - want) / got.standard_error;
            // An error of 3 % of the bound, or two different laws of the times, must show.
            assert!(z.abs() < 4.0 && got.standard_error < 0.03 * want, "{got:?} against {want}");
            // The numbers of a sequence do not depend on its batch.
            let other = bits_per_token(model, model.graph(), noise, &sequences, &options(7)).unwrap();
            assert_eq!(got.bits.to_bits(), other.bits.to_bits());
        }
        let masked = Enumeration::new(Absorbing::new(3).unwrap(), 3, &law, Head::LogClean).unwrap();
        for size in [(4000, 8), (40_000, 1)] {
            check(&masked, Noise::LogLinear { eps: 0.0 }, size);
        }
        for head in [Head::LogRatios, Head::LogClean] {
            let uniform = Enumeration::new(Uniform::new(3).unwrap(), 3, &law, head).unwrap();
            check(&uniform, Noise::LogLinear { eps: 1e-3 }, (4000, 8));
        }
    }

    #[test]
    fn infinite_bounds_masks_in_data_and_other_graphs_are_refused() {
        let model = Enumeration::new(Absorbing::new(3).unwrap(), 2, &[1.0; 9], Head::LogClean).unwrap();
        let options = BoundOptions { draws: 1, batch: 2, address: Address::new(4, Purpose::Eval) };
        let bits = |noise, tokens: Vec<u32>| {
            bits_per_token(&model, model.graph(), noise, &Tokens::new(tokens, 2).unwrap(), &options).map(|b| b.bits)
        };
        let text = bits(Noise::LogLinear { eps: 1e-3 }, vec![0; 4]).unwrap_err().to_string();
        assert!(text.contains("take eps = 0"), "{text}");
        let text = bits(Noise::LogLinear { eps: 0.0 }, vec![0, 3, 1, 1]).unwrap_err().to_string();
        assert!(text.contains("got 3"), "{text}");
        let other = Uniform::new(3).unwrap();
        let tokens = Tokens::new(vec![0; 4], 2).unwrap();
        let text =
            bits_per_token(&model, &other, Noise::LogLinear { eps: 0.1 }, &tokens, &options).unwrap_err().to_string();
        assert!(text.contains("graph"), "{text}");
    }
}
