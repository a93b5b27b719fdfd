//! Networks as concrete scores.

use super::{ConcreteScore, Graph, Head, Tokens};
use crate::device::{Device, DisjointMut, for_each_block};
use crate::error::{Error, Result};
use crate::nn::{Mode, Params, Transformer};

/// The most noise that is told to a network and divided by: e^−500 is far below any probability that is drawn, and its inverse still a number.
const MOST_NOISE: f64 = 500.0;

/// A transformer, the weights to run it with, and what its `[n, L, K]` outputs f mean on a graph:
///
/// * [`Head::LogClean`]: ln p(x0 = y | x) is the log-softmax of f in a masking graph, where a token that is not masked is carried over and the mask
///   has probability 0 (Sahoo et al. 2024, section 3.2.3). Without a mask it is that of f_y + ln p(x_l | y), where the noise says how far the
///   token itself is to be believed: f is then the p̃ of Austin et al. 2021, eq. 4, and a network that says nothing has ratios of 1.
/// * [`Head::LogRatios`]: ln s_y is f_y; at a masked token f_y − ln K − ln(e^σ̄ − 1), the size that the ratios of the masking graph have at any noise
///   (Lou, Meng & Ermon 2024, appendix C.2). What is not masked never moves there, and its ratios are 0.
pub struct NetworkScore<'a> {
    /// The network: K outputs, and as many tokens as the graph has states.
    pub transformer: &'a Transformer,
    /// Raw or averaged weights.
    pub params: &'a Params,
    /// The graph it was trained on.
    pub graph: &'a dyn Graph,
    /// How it was trained.
    pub head: Head,
}

impl NetworkScore<'_> {
    /// What the network is told of total noises: nothing if it has no place for it.
    pub fn levels(transformer: &Transformer, sigma_bar: &[f64]) -> Option<Vec<f32>> {
        let told = |sigma_bar: &f64| sigma_bar.min(MOST_NOISE) as f32;
        transformer.config().cond_dim.map(|_| sigma_bar.iter().map(told).collect())
    }

    /// One token's outputs `[K]` as its values `[S]`.
    fn read(&self, x: u32, sigma_bar: f64, net_out: &[f32], out: &mut [f64]) {
        let (mask, k) = (self.graph.mask(), net_out.len());
        if mask.is_some_and(|mask| mask != x) {
            // ln 1 for the token itself, in either head.
            out.fill(f64::NEG_INFINITY);
            out[x as usize] = 0.0;
            return;
        }
        out[k..].fill(f64::NEG_INFINITY);
        out.iter_mut().zip(net_out).for_each(|(out, f)| *out = f64::from(*f));
        if self.head == Head::LogClean && mask.is_none() {
            let believe = |(a, out): (usize, &mut f64)| *out += self.graph.transition(x as usize, a, sigma_bar).ln();
            out.iter_mut().enumerate().for_each(believe);
        }
        let shift = match (self.head, mask) {
            (Head::LogClean, _) => log_sum_exp(out),
            (Head::LogRatios, Some(_)) => (k as f64).ln() + sigma_bar.min(MOST_NOISE).exp_m1().ln(),
            (Head::LogRatios, None) => 0.0,
        };
        out.iter_mut().for_each(|out| *out -= shift);
        if self.head == Head::LogRatios {
            out[x as usize] = 0.0;
        }
    }
}

/// ln Σ e^f; NaN if an f is.
fn log_sum_exp(values: &[f64]) -> f64 {
    let most = values.iter().fold(f64::NEG_INFINITY, |most, f| most.max(*f));
    most + values.iter().map(|f| (f - most).exp()).sum::<f64>().ln()
}

impl ConcreteScore for NetworkScore<'_> {
    fn head(&self) -> Head {
        self.head
    }

    fn states(&self) -> usize {
        self.graph.states()
    }

    /// Where the noise only scales the ratios of a masked token, what the network says of its clean value is free of it too.
    fn is_time_free(&self) -> bool {
        self.transformer.config().cond_dim.is_none() && self.graph.mask().is_some()
    }

    fn evaluate(&self, tokens: &Tokens, sigma_bar: &[f64], out: &mut [f64]) -> Result<()> {
        let (n, length, states) = (tokens.rows(), tokens.length(), self.states());
        if sigma_bar.len() != n || out.len() != n * length * states {
            let (noises, values) = (sigma_bar.len(), out.len());
            return Err(Error::Shape(format!(
                "concrete score: {n} sequences of {length} tokens want {n} noises and room for {states} values a token, got {noises} and {values}"
            )));
        }
        let levels = NetworkScore::levels(self.transformer, sigma_bar);
        let net_out = self.transformer.forward(self.params, tokens.values(), n, levels.as_deref(), Mode::Inference)?;
        let net_out = net_out.to_device(Device::Cpu)?;
        let k = net_out.shape().last_size();
        if k != self.graph.symbols() {
            let (symbols, name) = (self.graph.symbols(), self.graph.name());
            return Err(Error::Usage(format!(
                "--graph {name}: {symbols} symbols want as many outputs, the network has {k}"
            )));
        }
        let values = net_out.host::<f32>()?;
        let out = DisjointMut::new(out);
        for_each_block(n, 20 * length * states, |i| {
            let out = out.slice(i * length * states, length * states);
            let rows = values[i * length * k..].chunks_exact(k).zip(out.chunks_exact_mut(states));
            for (x, (net_out, out)) in tokens.row(i).iter().zip(rows) {
                self.read(*x, sigma_bar[i], net_out, out);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discrete::{Absorbing, Uniform, View};
    use crate::nn::TransformerConfig;
    use crate::tensor::Tensor;

    const K: usize = 5;

    /// A network whose weights are all drawn, so that every part of it speaks.
    fn network(graph: &dyn Graph, cond_dim: Option<usize>) -> (Transformer, Params) {
        let tokens = graph.states();
        let config = TransformerConfig {
            tokens,
            outputs: K,
            length: 8,
            width: 16,
            depth: 2,
            heads: 2,
            cond_dim,
            ..Default::default()
        };
        let net = Transformer::new(&config).unwrap();
        let tensors = net.specs().iter().enumerate().map(|(i, spec)| {
            let values = crate::testing::Array::normal(spec.shape, i as u64, 0.4, 0.1).to_f32();
            Tensor::from_slice(&values, spec.shape).unwrap()
        });
        let params = Params::new(net.specs(), tensors.collect(), false).unwrap();
        (net, params)
    }

    fn evaluate(score: &NetworkScore<'_>, tokens: &[u32], sigma_bar: &[f64]) -> Vec<f64> {
        let tokens = Tokens::new(tokens.to_vec(), tokens.len() / sigma_bar.len()).unwrap();
        let mut out = vec![f64::NAN; tokens.values().len() * score.states()];
        score.evaluate(&tokens, sigma_bar, &mut out).unwrap();
        out
    }

    #[test]
    fn a_sequence_has_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
        let (absorbing, uniform) = (Absorbing::new(K).unwrap(), Uniform::new(K).unwrap());
        let graphs: [(&dyn Graph, Option<usize>); 2] = [(&absorbing, None), (&uniform, Some(8))];
        for (graph, cond_dim) in graphs {
            let (net, params) = network(graph, cond_dim);
            let score = NetworkScore { transformer: &net, params: &params, graph, head: Head::LogRatios };
            let tokens: Vec<u32> = (0..48).map(|i| (i * 7 + i / 5) % graph.states() as u32).collect();
            let sigma_bar = [0.1, 2.0, 0.7, 0.1, 5.0, 1.0];
            let all = evaluate(&score, &tokens, &sigma_bar);
            let row = 8 * graph.states();
            for i in 0..6 {
                let alone = evaluate(&score, &tokens[i * 8..][..8], &sigma_bar[i..=i]);
                assert_eq!(alone, all[i * row..][..row], "{}, row {i}", graph.name());
            }
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let again = pool.install(|| evaluate(&score, &tokens, &sigma_bar));
                assert_eq!(again, all, "{}, {threads} threads", graph.name());
            }
            assert!(all.iter().all(|value| !value.is_nan()));
        }
    }

    #[test]
    fn both_heads_of_a_masking_network_tell_one_law_of_clean_tokens_at_any_noise() {
        let graph = Absorbing::new(K).unwrap();
        let (net, params) = network(&graph, None);
        let x = [0, 5, 5, 3];
        for sigma_bar in [1e-6, 0.3, 12.0, f64::INFINITY] {
            let laws: Vec<Vec<f64>> = [Head::LogClean, Head::LogRatios]
                .iter()
                .map(|head| {
                    let score = NetworkScore { transformer: &net, params: &params, graph: &graph, head: *head };
                    assert!(score.is_time_free());
                    let values = evaluate(&score, &x, &[sigma_bar]);
                    let view = View { graph: &graph, head: *head, x: &x, sigma_bar, values: &values };
                    (0..4).flat_map(|l| view.clean(l).unwrap()).collect()
                })
                .collect();
            for (a, b) in laws[0].iter().zip(&laws[1]) {
                // Both are normalised in f64; the shift, up to 500, costs its last digits.
                assert!((a - b).abs() <= 1e-12, "{a} and {b} at {sigma_bar}");
            }
            assert_eq!(laws[0][..6], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0], "a token that is not masked is certain");
        }
    }

    #[test]
    fn clean_tokens_of_a_uniform_network_are_the_ratios_that_bayes_rule_makes_of_them() {
        let graph = Uniform::new(K).unwrap();
        let (net, params) = network(&graph, Some(8));
        let score = NetworkScore { transformer: &net, params: &params, graph: &graph, head: Head::LogClean };
        assert!(!score.is_time_free());
        let x = [0, 4, 2, 3];
        for sigma_bar in [1e-6, 0.3, 12.0, f64::INFINITY] {
            let values = evaluate(&score, &x, &[sigma_bar]);
            let view = View { graph: &graph, head: Head::LogClean, x: &x, sigma_bar, values: &values };
            for (l, x) in x.iter().enumerate() {
                let (clean, ratios) = (view.clean(l).unwrap(), view.ratios(l).unwrap());
                assert!((clean.iter().sum::<f64>() - 1.0).abs() < 1e-14 && clean.iter().all(|p| *p > 0.0), "{clean:?}");
                for (y, ratio) in ratios.iter().enumerate() {
                    // p(y)/p(x) = Σ_a p(a | x)·p(y | a)/p(x | a).
                    let bayes = |a: usize| clean[a] * graph.ratio(y, *x as usize, a, sigma_bar);
                    let want: f64 = (0..K).map(bayes).sum();
                    assert!((ratio / want - 1.0).abs() < 1e-12, "{x} to {y} at {sigma_bar}: {ratio} against {want}");
                }
            }
        }
        // All outputs 0: a uniform law, which noise leaves as it is.
        let silent = crate::nn::initialise(net.specs(), 1).unwrap();
        let score = NetworkScore { params: &silent, ..score };
        for sigma_bar in [1e-6, 0.3, 12.0, f64::INFINITY] {
            let values = evaluate(&score, &x, &[sigma_bar]);
            let view = View { graph: &graph, head: Head::LogClean, x: &x, sigma_bar, values: &values };
            assert!((0..4).flat_map(|l| view.ratios(l).unwrap()).all(|ratio| (ratio - 1.0).abs() < 1e-12));
        }
    }

    #[test]
    fn ratios_of_a_uniform_law_are_exact_where_the_network_says_nothing() {
        // All outputs 0: uniform clean tokens; the ratio of each to the mask is 1/(K·(e^σ̄ − 1)).
        let graph = Absorbing::new(K).unwrap();
        let config =
            TransformerConfig { tokens: 6, outputs: K, length: 4, width: 8, depth: 1, heads: 2, ..Default::default() };
        let net = Transformer::new(&config).unwrap();
        let params = crate::nn::initialise(net.specs(), 1).unwrap();
        let score = NetworkScore { transformer: &net, params: &params, graph: &graph, head: Head::LogRatios };
        for sigma_bar in [1e-9, 0.5, 40.0] {
            let values = evaluate(&score, &[5, 2], &[sigma_bar]);
            let view = View { graph: &graph, head: Head::LogRatios, x: &[5, 2], sigma_bar, values: &values };
            let want = 1.0 / (K as f64 * f64::exp_m1(sigma_bar));
            let ratios = view.ratios(0).unwrap();
            assert!(ratios[..K].iter().all(|s| (s / want - 1.0).abs() < 1e-13), "{ratios:?} against {want}");
            assert_eq!((ratios[K], view.ratios(1).unwrap()), (1.0, vec![0.0, 0.0, 1.0, 0.0, 0.0, 0.0]));
        }
    }

    #[test]
    fn wrong_sizes_unknown_tokens_and_other_graphs_are_refused() {
        let graph = Absorbing::new(K).unwrap();
        let (net, params) = network(&graph, None);
        let score = NetworkScore { transformer: &net, params: &params, graph: &graph, head: Head::LogClean };
        let mut out = vec![0.0; 12];
        let tokens = |values: Vec<u32>| Tokens::new(values, 2).unwrap();
        let text = score.evaluate(&tokens(vec![0, 6]), &[1.0], &mut out).unwrap_err().to_string();
        assert!(text.contains("index 6"), "{text}");
        let text = score.evaluate(&tokens(vec![0, 1]), &[], &mut out).unwrap_err().to_string();
        assert!(text.contains("want 1 noises"), "{text}");
        let other = Uniform::new(K + 1).unwrap();
        let score = NetworkScore { graph: &other, ..score };
        let text = score.evaluate(&tokens(vec![0, 1]), &[1.0], &mut out).unwrap_err().to_string();
        assert!(text.contains("--graph uniform: 6 symbols"), "{text}");
    }
}
