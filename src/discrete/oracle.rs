//! Small languages enumerated: exact p_t, ratios, posteriors and entropies, behind the trait that a network implements (item 68).

use super::{ConcreteScore, Graph, Head, Tokens};
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// A law of sequences of `L` tokens, `[K^L]`, under the noise of a graph. Token 0 is the most significant digit of a sequence's index.
///
/// Costs S^L numbers: for K and L of a handful.
pub struct Enumeration<G> {
    graph: G,
    length: usize,
    law: Vec<f64>,
    head: Head,
    /// The law at the last noise asked for.
    kept: Mutex<Option<(f64, Arc<Vec<f64>>)>>,
}

/// The most sequences that are enumerated.
const MAX_STATES: usize = 1 << 20;

impl<G: Graph> Enumeration<G> {
    /// * `law` — `[K^L]`, non-negative weights with a positive sum; they are normalised
    /// * `length` — L, at least 1
    /// * `head` — which of the two it returns to samplers
    ///
    /// # Errors
    /// [`Error::Usage`] if the law does not have K^L weights, is no law, or S^L is above a million.
    pub fn new(graph: G, length: usize, law: &[f64], head: Head) -> Result<Enumeration<G>> {
        let count = |base: usize| u32::try_from(length).ok().and_then(|l| base.checked_pow(l));
        let sequences = count(graph.symbols()).unwrap_or(usize::MAX);
        if length == 0 || law.len() != sequences || count(graph.states()).is_none_or(|all| all > MAX_STATES) {
            let symbols = graph.symbols();
            return Err(Error::Usage(format!(
                "enumeration: expected {symbols}^{length} weights of few enough sequences, got {}",
                law.len()
            )));
        }
        let sum: f64 = law.iter().sum();
        if law.iter().any(|p| !(*p >= 0.0)) || !(sum > 0.0 && sum < f64::INFINITY) {
            return Err(Error::Usage(format!("enumeration: expected weights of at least 0, got a sum of {sum}")));
        }
        let law = law.iter().map(|p| p / sum).collect();
        Ok(Enumeration { graph, length, law, head, kept: Mutex::new(None) })
    }

    /// The graph.
    pub fn graph(&self) -> &G {
        &self.graph
    }

    /// L.
    pub fn length(&self) -> usize {
        self.length
    }

    /// p_0 `[K^L]`.
    pub fn law(&self) -> &[f64] {
        &self.law
    }

    /// The sequence of an index, with digits in `0..base`.
    pub fn sequence(&self, index: usize, base: usize) -> Vec<u32> {
        let mut rest = index;
        let mut x = vec![0; self.length];
        for token in x.iter_mut().rev() {
            *token = (rest % base) as u32;
            rest /= base;
        }
        x
    }

    /// The index of a sequence, with digits in `0..base`.
    pub fn index(&self, x: &[u32], base: usize) -> usize {
        x.iter().fold(0, |index, token| index * base + *token as usize)
    }

    /// p_t at total noise σ̄, `[S^L]`: exp(σ̄R) along each axis.
    pub fn marginal(&self, sigma_bar: f64) -> Arc<Vec<f64>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, p)) = &*kept
            && *at == sigma_bar
        {
            return Arc::clone(p);
        }
        let states = self.graph.states();
        let mut p = vec![0.0; states.pow(self.length as u32)];
        for (i, weight) in self.law.iter().enumerate() {
            p[self.index(&self.sequence(i, self.graph.symbols()), states)] = *weight;
        }
        let mut fibre = vec![0.0; states];
        for l in 0..self.length {
            let stride = states.pow((self.length - 1 - l) as u32);
            for start in (0..p.len()).filter(|i| (i / stride).is_multiple_of(states)) {
                fibre.iter_mut().enumerate().for_each(|(y, value)| *value = p[start + y * stride]);
                self.graph.spread(sigma_bar, &mut fibre);
                fibre.iter().enumerate().for_each(|(y, value)| p[start + y * stride] = *value);
            }
        }
        let p = Arc::new(p);
        *kept = Some((sigma_bar, Arc::clone(&p)));
        p
    }

    /// p_t(x with token l set to y)/p_t(x) `[L, S]`: the concrete score.
    pub fn ratios(&self, x: &[u32], sigma_bar: f64) -> Vec<f64> {
        let (p, states) = (self.marginal(sigma_bar), self.graph.states());
        let here = self.index(x, states);
        let other = |l: usize, y: usize| {
            let stride = states.pow((self.length - 1 - l) as u32);
            p[here + y * stride - x[l] as usize * stride]
        };
        (0..self.length).flat_map(|l| (0..states).map(move |y| (l, y))).map(|(l, y)| other(l, y) / p[here]).collect()
    }

    /// p(x0 | x_t), `[K^L]`. With a mask it does not depend on σ̄, to the bit.
    pub fn posterior(&self, x: &[u32], sigma_bar: f64) -> Vec<f64> {
        let likelihood = |x0: &[u32]| -> f64 {
            let token = |(x, a): (&u32, &u32)| match self.graph.mask() {
                Some(mask) => f64::from(u8::from(*x == mask || x == a)),
                None => self.graph.transition(*x as usize, *a as usize, sigma_bar),
            };
            x.iter().zip(x0).map(token).product()
        };
        let symbols = self.graph.symbols();
        let joint: Vec<f64> =
            self.law.iter().enumerate().map(|(i, p)| p * likelihood(&self.sequence(i, symbols))).collect();
        let sum: f64 = joint.iter().sum();
        joint.into_iter().map(|p| p / sum).collect()
    }

    /// p(x0_l = a | x_t) `[L, S]`, 0 for the mask.
    pub fn clean(&self, x: &[u32], sigma_bar: f64) -> Vec<f64> {
        let states = self.graph.states();
        let mut clean = vec![0.0; self.length * states];
        for (i, p) in self.posterior(x, sigma_bar).into_iter().enumerate() {
            for (l, a) in self.sequence(i, self.graph.symbols()).into_iter().enumerate() {
                clean[l * states + a as usize] += p;
            }
        }
        clean
    }

    /// Σ −p·ln p of the data, in nats per sequence.
    pub fn entropy(&self) -> f64 {
        entropy(&self.law)
    }

    /// KL(p_t ‖ π) of whole sequences in nats; infinite where p_t has mass that π lacks.
    pub fn prior_divergence(&self, sigma_bar: f64) -> f64 {
        let (prior, states) = (self.graph.prior(), self.graph.states());
        let terms = self.marginal(sigma_bar);
        let term = |(i, p): (usize, &f64)| {
            let q: f64 = self.sequence(i, states).iter().map(|token| prior[*token as usize]).product();
            if *p > 0.0 { p * (p / q).ln() } else { 0.0 }
        };
        terms.iter().enumerate().map(term).sum()
    }
}

/// Σ −p·ln p in nats.
pub fn entropy(law: &[f64]) -> f64 {
    law.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()
}

impl<G: Graph> ConcreteScore for Enumeration<G> {
    fn head(&self) -> Head {
        self.head
    }

    fn states(&self) -> usize {
        self.graph.states()
    }

    fn is_time_free(&self) -> bool {
        self.head == Head::LogClean && self.graph.mask().is_some()
    }

    fn evaluate(&self, tokens: &Tokens, sigma_bar: &[f64], out: &mut [f64]) -> Result<()> {
        let row = self.length * self.graph.states();
        if tokens.length() != self.length || sigma_bar.len() != tokens.rows() || out.len() != tokens.rows() * row {
            return Err(Error::Shape(format!(
                "enumeration: expected rows of {} tokens with a noise and {row} outputs each, got {} rows of {}, {} noises, {} outputs",
                self.length,
                tokens.rows(),
                tokens.length(),
                sigma_bar.len(),
                out.len()
            )));
        }
        for ((x, sigma_bar), out) in tokens.iter().zip(sigma_bar).zip(out.chunks_exact_mut(row)) {
            let values = match self.head {
                Head::LogRatios => self.ratios(x, *sigma_bar),
                Head::LogClean => self.clean(x, *sigma_bar),
            };
            out.iter_mut().zip(values).for_each(|(out, value)| *out = value.ln());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discrete::{Absorbing, Uniform, View};

    /// A law of every sequence, each with another weight.
    fn weights(count: usize) -> Vec<f64> {
        (0..count).map(|i| 0.1 + ((i * 37 + 11) % 23) as f64).collect()
    }

    #[test]
    fn ratios_and_clean_probabilities_are_two_views_of_one_model() {
        fn check<G: Graph + Clone>(graph: G) {
            let law = weights(27);
            let by_ratio = Enumeration::new(graph.clone(), 3, &law, Head::LogRatios).unwrap();
            let by_clean = Enumeration::new(graph.clone(), 3, &law, Head::LogClean).unwrap();
            let row = 3 * graph.states();
            for index in 0..graph.states().pow(3) {
                let x = by_ratio.sequence(index, graph.states());
                for sigma_bar in [0.05, 1.0, 4.0] {
                    let batch = Tokens::new(x.clone(), 3).unwrap();
                    let (mut ratios, mut clean) = (vec![0.0; row], vec![0.0; row]);
                    by_ratio.evaluate(&batch, &[sigma_bar], &mut ratios).unwrap();
                    by_clean.evaluate(&batch, &[sigma_bar], &mut clean).unwrap();
                    let view = |head, values| View { graph: &graph, head, x: &x, sigma_bar, values };
                    let (a, b) = (view(Head::LogRatios, &ratios), view(Head::LogClean, &clean));
                    for l in (0..3).filter(|l| graph.mask().is_none_or(|mask| mask == x[*l])) {
                        // The way back through exp(−σ̄R) multiplies rounding by e^σ̄ = 55 and by 1/p(x) of 20 at 0.05.
                        let miss = |a: Vec<f64>, b: Vec<f64>| {
                            a.iter().zip(&b).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max)
                        };
                        assert!(miss(a.ratios(l).unwrap(), b.ratios(l).unwrap()) < 1e-12, "{x:?} {sigma_bar}");
                        assert!(miss(a.clean(l).unwrap(), b.clean(l).unwrap()) < 1e-12, "{x:?} {sigma_bar}");
                    }
                }
            }
        }
        check(Uniform::new(3).unwrap());
        check(Absorbing::new(3).unwrap());
    }

    #[test]
    fn impossible_sequences_and_wrong_sizes_are_errors() {
        let graph = Absorbing::new(2).unwrap();
        assert!(Enumeration::new(graph, 2, &[1.0; 3], Head::LogClean).is_err());
        assert!(Enumeration::new(graph, 2, &[-1.0, 1.0, 1.0, 1.0], Head::LogClean).is_err());
        assert!(Enumeration::new(graph, 40, &[1.0; 4], Head::LogClean).is_err());
        // Only 00 occurs: a sequence that begins with 1 has no posterior.
        let law = Enumeration::new(graph, 2, &[1.0, 0.0, 0.0, 0.0], Head::LogClean).unwrap();
        let batch = Tokens::new(vec![1, 2], 2).unwrap();
        let mut values = vec![0.0; 6];
        law.evaluate(&batch, &[1.0], &mut values).unwrap();
        let view = View { graph: &graph, head: Head::LogClean, x: &[1, 2], sigma_bar: 1.0, values: &values };
        assert!(view.clean(1).unwrap_err().to_string().contains("impossible"));
        assert!(law.evaluate(&batch, &[1.0, 2.0], &mut values).is_err());
    }
}
