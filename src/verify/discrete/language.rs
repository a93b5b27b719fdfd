//! What the identities of discrete diffusion share: a small language, its noised laws pushed through a sampler's step, chi-square.

use crate::discrete::{
    Absorbing, ConcreteScore, Constraint, Custom, Enumeration, Graph, Head, Noise, Rule, Span, Tokens, Uniform, View,
    categorical,
};
use crate::error::Result;
use crate::rng::{Address, Purpose};
use nalgebra::DMatrix;

/// Weights of all sequences, none 0 and none alike: tokens depend on one another.
pub(super) fn weights(symbols: usize, length: usize) -> Vec<f64> {
    let count = symbols.pow(length as u32);
    (0..count).map(|i| 0.2 + ((i * 37 + 11) % 23) as f64 * if i.is_multiple_of(5) { 2.0 } else { 0.5 }).collect()
}

pub(super) fn uniform(symbols: usize, length: usize, head: Head) -> Result<Enumeration<Uniform>> {
    Enumeration::new(Uniform::new(symbols)?, length, &weights(symbols, length), head)
}

pub(super) fn absorbing(symbols: usize, length: usize, head: Head) -> Result<Enumeration<Absorbing>> {
    Enumeration::new(Absorbing::new(symbols)?, length, &weights(symbols, length), head)
}

/// A ring of three with a drift: neither symmetric nor of uniform π.
pub(super) fn ring() -> Result<Custom> {
    Custom::new(DMatrix::from_row_slice(3, 3, &[-1.0, 0.2, 0.9, 0.7, -0.5, 0.1, 0.3, 0.3, -1.0]))
}

/// The model's answer for one sequence, `[L, S]`.
pub(super) fn answer<G: Graph>(model: &Enumeration<G>, x: &[u32], sigma_bar: f64) -> Result<Vec<f64>> {
    let mut values = vec![0.0; x.len() * model.graph().states()];
    model.evaluate(&Tokens::new(x.to_vec(), x.len())?, &[sigma_bar], &mut values)?;
    Ok(values)
}

/// The law of sequences `[S^L]` after steps of a sampler's rule through these times, from the law `p`; known tokens of a constraint stay.
pub(super) fn pushed<G: Graph>(
    model: &Enumeration<G>,
    noise: Noise,
    rule: Rule,
    times: &[f64],
    mut p: Vec<f64>,
    constraint: Option<&Constraint>,
) -> Result<Vec<f64>> {
    let (graph, states) = (model.graph(), model.graph().states());
    for pair in times.windows(2) {
        let span = Span { from: pair[0], to: pair[1] };
        let sigma_bar = noise.sigma_bar(span.from);
        let mut next = vec![0.0; p.len()];
        for (here, mass) in p.iter().enumerate().filter(|(_, mass)| **mass > 0.0) {
            let x = model.sequence(here, states);
            let values = answer(model, &x, sigma_bar)?;
            let view = View { graph, head: model.head(), x: &x, sigma_bar, values: &values };
            // Tokens move independently of one another: the product of their laws, one token after the other.
            let mut ways = vec![(0, *mass)];
            for l in 0..x.len() {
                let law = match constraint.and_then(|constraint| constraint.known(l)) {
                    Some(known) => (0..states).map(|y| f64::from(u8::from(y == known as usize))).collect(),
                    None => rule.law(&view, noise, l, span)?,
                };
                let moved = |(index, mass): (usize, f64)| {
                    let choice = |(y, q): (usize, &f64)| (index * states + y, mass * q);
                    law.iter().enumerate().filter(|(_, q)| **q > 0.0).map(choice).collect::<Vec<(usize, f64)>>()
                };
                ways = ways.into_iter().flat_map(moved).collect();
            }
            ways.into_iter().for_each(|(index, mass)| next[index] += mass);
        }
        p = next;
    }
    Ok(p)
}

/// `steps` equal steps of t from `first` to `last`.
pub(super) fn times(first: f64, last: f64, steps: usize) -> Vec<f64> {
    (0..=steps).map(|k| first + (last - first) * k as f64 / steps as f64).collect()
}

/// Half the sum of absolute differences; NaN if one is.
pub(super) fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    0.5 * p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum::<f64>()
}

/// `n` sequences from a law over digits in `0..base`, with the randomness of a seed.
pub(super) fn draw<G: Graph>(model: &Enumeration<G>, law: &[f64], base: usize, seed: u64, n: usize) -> Result<Tokens> {
    let address = Address::new(seed, Purpose::Oracle);
    let index = |i: usize| categorical(address.sample(i).word(0), law).unwrap_or(0);
    Tokens::new((0..n).flat_map(|i| model.sequence(index(i), base)).collect(), model.length())
}

/// Chi-square of sequences against a law over digits in `0..base`, as a standard normal (Wilson & Hilferty 1931): above 3.72 once in ten thousand.
/// Infinite if a sequence came that cannot.
pub(super) fn chi_square_z<G: Graph>(model: &Enumeration<G>, sampled: &Tokens, law: &[f64], base: usize) -> f64 {
    let mut counts = vec![0.0; law.len()];
    sampled.iter().for_each(|x| counts[model.index(x, base)] += 1.0);
    let n = sampled.rows() as f64;
    // Cells with fewer than 5 expected go into one.
    let (mut chi, mut cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
    for (count, p) in counts.iter().zip(law) {
        if *p == 0.0 && *count > 0.0 {
            return f64::INFINITY;
        }
        if n * p < 5.0 {
            rest = (rest.0 + count, rest.1 + n * p);
        } else {
            chi += (count - n * p).powi(2) / (n * p);
            cells += 1.0;
        }
    }
    if rest.1 >= 5.0 {
        chi += (rest.0 - rest.1).powi(2) / rest.1;
        cells += 1.0;
    }
    let freedom: f64 = cells - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    ((chi / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}
