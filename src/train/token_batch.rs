//! A batch of noised sequences and its loss: every [`Objective`] as sums that the tape differentiates.

use crate::discrete::{Graph, NetworkScore, Noise, Objective, corrupt};
use crate::error::Result;
use crate::nn::{Mode, Params, Transformer};
use crate::ops::{self, PosteriorTerm, ScoreForm, ScoreTerm};
use crate::rng::Address;
use crate::tensor::Tensor;
use std::f64::consts::LN_2;

/// What a loss is told besides the batch.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) graph: &'a dyn Graph,
    pub(super) noise: Noise,
    pub(super) objective: Objective,
    /// Steps of D3PM's chain, and the share of cross-entropy in its loss.
    pub(super) chain: (u64, f64),
}

/// Sequences at their times.
pub(super) struct TokenBatch {
    length: usize,
    /// Clean and noisy tokens, `[n, L]`.
    x0: Vec<u32>,
    x_t: Vec<u32>,
    /// Of each sequence, `[n]`, and what each counts because of how it was drawn.
    times: Vec<f64>,
    importance: Vec<f64>,
    sigma_bar: Vec<f64>,
    /// For the implicit loss: a neighbour of each sequence.
    neighbours: Vec<Neighbour>,
}

/// A sequence with one token changed to a value that noise leads to.
struct Neighbour {
    /// The token that differs; none in a sequence that has no such neighbour.
    at: Option<usize>,
    /// Its value there.
    y: u32,
    /// How many neighbours it stands for.
    count: usize,
}

impl TokenBatch {
    /// Noises each sequence to its own time, with the noise of samples 0 to n − 1 at `address`.
    ///
    /// * `x0` — `[n, L]`
    /// * `times`, `importance` — `[n]`; D3PM takes the next level of its chain at or above a time
    pub(super) fn noised(
        setting: Setting<'_>,
        x0: Vec<u32>,
        (mut times, importance): (Vec<f64>, Vec<f64>),
        address: Address,
    ) -> TokenBatch {
        let Setting { graph, noise, objective, chain: (steps, _) } = setting;
        if objective == Objective::D3pm {
            let steps = steps as f64;
            times.iter_mut().for_each(|t| *t = (*t * steps).ceil().max(1.0) / steps);
        }
        let length = x0.len() / times.len().max(1);
        let sigma_bar: Vec<f64> = times.iter().map(|t| noise.sigma_bar(*t)).collect();
        let mut x_t = Vec::with_capacity(x0.len());
        for (i, x0) in x0.chunks_exact(length.max(1)).enumerate() {
            x_t.extend(corrupt(graph, x0, sigma_bar[i], address.sample(i)));
        }
        let neighbours = match objective {
            Objective::Ise => {
                let rows = x_t.chunks_exact(length).enumerate();
                rows.map(|(i, x)| Neighbour::draw(graph, x, address.sample(i).sub_index(1))).collect()
            }
            _ => Vec::new(),
        };
        TokenBatch { length, x0, x_t, times, importance, sigma_bar, neighbours }
    }

    /// The loss in bits per token, an estimate of the integral over time, and the share of each token `[n·L]`.
    pub(super) fn loss(
        &self,
        setting: Setting<'_>,
        net: &Transformer,
        params: &Params,
        mode: Mode,
    ) -> Result<(Tensor, Tensor)> {
        let forward = |tokens: &[u32]| {
            let levels = NetworkScore::levels(net, &self.sigma_bar);
            net.forward(params, tokens, self.times.len(), levels.as_deref(), mode)
        };
        let net_out = forward(&self.x_t)?;
        match setting.objective {
            Objective::D3pm if setting.graph.mask().is_none() => {
                ops::posterior_kl(&net_out, &self.terms(|i, x, x0| setting.posterior_term(self.at(i), x, x0)))
            }
            Objective::Mdlm | Objective::D3pm => ops::cross_entropy(&net_out, &self.x0, &self.masked_weights(setting)),
            Objective::Dse | Objective::Se | Objective::Csm => {
                ops::score_entropy(&net_out, &self.terms(|i, x, x0| setting.term(self.at(i), x, x0)))
            }
            // ln s of a masked token is f less a number that the network does not change: without it, as without C(r) in the explicit form.
            Objective::Ise => {
                let free = ScoreTerm { ratio_x0: 0.0, ratio_rest: 0.0, ..setting.rate_term(self.at(0), 0, 0) };
                let forth = |i, x| {
                    let ScoreTerm { x_t, weight, .. } = setting.rate_term(self.at(i), x, 0);
                    ScoreTerm { x_t, weight, ..free }
                };
                let (forth, rows) = ops::score_entropy(&net_out, &self.terms(|i, x, _| forth(i, x)))?;
                let back = ops::score_entropy(&forward(&self.neighbouring())?, &self.back_terms(setting))?.0;
                Ok((ops::add(&forth, &back)?, rows))
            }
        }
    }

    /// Whether the batch holds numbers alone: tokens always do.
    pub(super) fn is_finite(&self) -> bool {
        self.times.iter().all(|t| t.is_finite())
    }

    fn at(&self, i: usize) -> At {
        let share = self.importance[i] / (LN_2 * self.x_t.len() as f64);
        At { t: self.times[i], sigma_bar: self.sigma_bar[i], share }
    }

    /// A term for each token, of its sequence's index, its noisy and its clean value.
    fn terms<T>(&self, term: impl Fn(usize, u32, u32) -> T) -> Vec<T> {
        let tokens = self.x_t.iter().zip(&self.x0).enumerate();
        tokens.map(|(l, (x, x0))| term(l / self.length, *x, *x0)).collect()
    }

    /// What the cross-entropy of each token counts in a masking graph: nothing where it is not masked.
    fn masked_weights(&self, setting: Setting<'_>) -> Vec<f32> {
        let mask = setting.graph.mask();
        let weights: Vec<f64> = (0..self.times.len()).map(|i| setting.masked_weight(self.at(i))).collect();
        let weight = |(l, x): (usize, &u32)| if Some(*x) == mask { weights[l / self.length] as f32 } else { 0.0 };
        self.x_t.iter().enumerate().map(weight).collect()
    }

    /// All neighbours, `[n, L]`.
    fn neighbouring(&self) -> Vec<u32> {
        let mut tokens = self.x_t.clone();
        for (i, neighbour) in self.neighbours.iter().enumerate() {
            if let Some(at) = neighbour.at {
                tokens[i * self.length + at] = neighbour.y;
            }
        }
        tokens
    }

    /// −w(y, x)·ln s(x')_x at the token in which the neighbour x' differs, times the number of neighbours.
    fn back_terms(&self, setting: Setting<'_>) -> Vec<ScoreTerm> {
        let mut terms =
            self.terms(|_, _, _| ScoreTerm { weight: 0.0, ..ScoreTerm::absorbing(0, 0, u32::MAX, 1.0, 0.0) });
        for (i, neighbour) in self.neighbours.iter().enumerate() {
            let Some(at) = neighbour.at else { continue };
            let (l, here) = (i * self.length + at, self.at(i));
            let weight = setting.noise.rate(here.t) * setting.graph.rate(neighbour.y as usize, self.x_t[l] as usize);
            terms[l] = ScoreTerm {
                x_t: neighbour.y,
                x0: self.x_t[l],
                weight: weight * here.share * neighbour.count as f64,
                ratio_x0: 1.0,
                ratio_rest: 0.0,
                form: ScoreForm::Log,
            };
        }
        terms
    }
}

/// Where a sequence is: its time, its total noise, and what each token counts in the mean.
#[derive(Clone, Copy)]
struct At {
    t: f64,
    sigma_bar: f64,
    share: f64,
}

impl Setting<'_> {
    /// What a masked token's cross-entropy counts: the rate of uncovering, or its share in a step of the chain.
    fn masked_weight(&self, at: At) -> f64 {
        let (steps, auxiliary) = self.chain;
        let weight = match self.objective {
            Objective::D3pm => {
                let (before, here) = self.touched(at);
                steps as f64 * (here - before) / here + auxiliary
            }
            _ => self.noise.unmask_rate(at.t),
        };
        weight * at.share
    }

    /// The share of tokens that a jump has touched before a step of the chain, and at its level. The first step leads to the data: what noise the
    /// schedule has at t = 0 belongs to it.
    fn touched(&self, at: At) -> (f64, f64) {
        let steps = self.chain.0 as f64;
        let before = at.t - 1.0 / steps;
        let before = if before * steps < 0.5 { 0.0 } else { self.noise.touched(before) };
        (before, self.noise.touched(at.t))
    }

    /// D3PM's step of a token in the uniform graph, one of as many as the chain has, and the share of its cross-entropy.
    fn posterior_term(&self, at: At, x_t: u32, x0: u32) -> PosteriorTerm {
        let (steps, auxiliary) = self.chain;
        PosteriorTerm {
            x_t,
            x0,
            weight: steps as f64 * at.share,
            auxiliary: auxiliary * at.share,
            touched: self.touched(at),
        }
    }

    /// The score entropy of a token at the rate of the graph. Outputs of a masked token are ln s + ln K + ln(e^σ̄ − 1): with that, ratios of e^σ̄ − 1,
    /// which span all sizes, go into the weight, and what is left of them is K at x0.
    fn rate_term(&self, at: At, x: u32, x0: u32) -> ScoreTerm {
        let k = self.graph.symbols();
        match self.graph.mask() {
            Some(mask) => {
                let weight = self.noise.unmask_rate(at.t) * at.share / k as f64;
                let weight = if x == mask { weight } else { 0.0 };
                ScoreTerm { x_t: mask, x0, weight, ratio_x0: k as f64, ratio_rest: 0.0, form: ScoreForm::Entropy }
            }
            None => ScoreTerm::uniform(x, x0, k, at.sigma_bar.exp_m1(), self.noise.rate(at.t) * at.share),
        }
    }

    /// The term of a token under the losses of one evaluation.
    fn term(&self, at: At, x: u32, x0: u32) -> ScoreTerm {
        let term = self.rate_term(at, x, x0);
        let (k, grown) = (self.graph.symbols() as f64, at.sigma_bar.exp_m1());
        let has_mask = self.graph.mask().is_some();
        match self.objective {
            // From the rate σ/(e^σ̄ − 1) or σ/K of a pair to 1.
            Objective::Se if has_mask => ScoreTerm { weight: term.weight * self.unmask_share(at), ..term },
            Objective::Se => ScoreTerm { weight: at.share, ..term },
            // s = e^f/(K·(e^σ̄ − 1)): its square takes one more factor 1/K and, over the largest r, none of e^σ̄ − 1.
            Objective::Csm if has_mask => ScoreTerm { weight: term.weight / k, form: ScoreForm::Squares, ..term },
            // The largest r is that of a token that left x0.
            Objective::Csm => ScoreTerm { weight: term.weight * grown / (grown + k), form: ScoreForm::Squares, ..term },
            _ => term,
        }
    }

    /// (1/(e^σ̄ − 1)) over the rate of uncovering: 1/σ, which is 0 where all is masked.
    fn unmask_share(&self, at: At) -> f64 {
        self.noise.rate(at.t).recip()
    }
}

impl Neighbour {
    /// One of the sequences y that differ from `x` in a token and to which noise leads from it, all alike.
    fn draw(graph: &dyn Graph, x: &[u32], address: Address) -> Neighbour {
        match graph.mask() {
            Some(mask) => {
                let open: Vec<usize> = (0..x.len()).filter(|l| x[*l] != mask).collect();
                let at = (!open.is_empty()).then(|| open[address.below(0, open.len())]);
                Neighbour { at, y: mask, count: open.len() }
            }
            None => {
                let others = graph.states() - 1;
                let at = address.below(0, x.len());
                let other = address.below(1, others) as u32;
                let y = if other < x[at] { other } else { other + 1 };
                Neighbour { at: Some(at), y, count: x.len() * others }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discrete::{Absorbing, Head, Uniform, loss};
    use crate::nn::TransformerConfig;
    use crate::rng::Purpose;
    use crate::tensor::Tensor;

    const K: usize = 4;
    const NOISE: Noise = Noise::LogLinear { eps: 1e-2 };

    /// A network that says something everywhere, and ln s of a sequence as samplers read it.
    struct Model {
        net: Transformer,
        params: Params,
    }

    impl Model {
        fn new(graph: &dyn Graph) -> Model {
            let (tokens, cond_dim) = (graph.states(), graph.mask().is_none().then_some(4));
            let config = TransformerConfig {
                tokens,
                outputs: K,
                length: 6,
                width: 8,
                depth: 1,
                heads: 2,
                cond_dim,
                ..TransformerConfig::default()
            };
            let net = Transformer::new(&config).unwrap();
            let tensors = net.specs().iter().enumerate().map(|(i, spec)| {
                let values = crate::testing::Array::normal(spec.shape, i as u64, 0.4, 0.1).to_f32();
                Tensor::from_slice(&values, spec.shape).unwrap()
            });
            let params = Params::new(net.specs(), tensors.collect(), true).unwrap();
            Model { net, params }
        }

        fn log_scores(&self, graph: &dyn Graph, x: &[u32], sigma_bar: f64) -> Vec<f64> {
            use crate::discrete::{ConcreteScore, Tokens};
            let score = NetworkScore { transformer: &self.net, params: &self.params, graph, head: Head::LogRatios };
            let mut out = vec![0.0; x.len() * graph.states()];
            score.evaluate(&Tokens::new(x.to_vec(), x.len()).unwrap(), &[sigma_bar], &mut out).unwrap();
            out
        }
    }

    fn value(loss: &Tensor) -> f64 {
        f64::from(loss.to_vec::<f32>().unwrap()[0])
    }

    /// The batch of two sequences, and its loss.
    fn batch(setting: Setting<'_>, model: &Model, sample: usize) -> (TokenBatch, f64) {
        let x0 = vec![0, 1, 3, 2, 2, 1, 3, 3, 0, 1, 2, 0];
        let address = Address::new(7, Purpose::TrainNoise).step(sample);
        let batch = TokenBatch::noised(setting, x0, (vec![0.3, 0.8], vec![1.0; 2]), address);
        let loss = batch.loss(setting, &model.net, &model.params, Mode::Inference).unwrap().0;
        (batch, value(&loss))
    }

    #[test]
    fn losses_of_one_evaluation_are_those_in_f64() {
        let (absorbing, uniform) = (Absorbing::new(K).unwrap(), Uniform::new(K).unwrap());
        let graphs: [&dyn Graph; 2] = [&absorbing, &uniform];
        for graph in graphs {
            let model = Model::new(graph);
            for objective in [Objective::Dse, Objective::Se, Objective::Csm] {
                let setting = Setting { graph, noise: NOISE, objective, chain: (10, 0.0) };
                let (batch, got) = batch(setting, &model, 0);
                let mut want = 0.0;
                for i in 0..2 {
                    let (x, x0) = (&batch.x_t[i * 6..][..6], &batch.x0[i * 6..][..6]);
                    let (t, sigma_bar) = (batch.times[i], batch.sigma_bar[i]);
                    let log_s = model.log_scores(graph, x, sigma_bar);
                    let rate = |x: usize, y: usize| NOISE.rate(t) * graph.rate(x, y);
                    let one = |x: usize, y: usize| f64::from(u8::from(graph.rate(x, y) > 0.0));
                    // The largest ratio is that of a value from which x was reached.
                    let largest = (0..K).map(|a| graph.ratio(a, (a + 1) % K, a, sigma_bar)).fold(0.0, f64::max);
                    let largest = if graph.mask().is_some() { sigma_bar.exp_m1().recip() } else { largest };
                    want += match objective {
                        Objective::Dse => loss::denoising_score_entropy(graph, (x, x0), sigma_bar, &log_s, &rate),
                        Objective::Se => loss::denoising_score_entropy(graph, (x, x0), sigma_bar, &log_s, &one),
                        _ => {
                            let s: Vec<f64> = log_s.iter().map(|s| s.exp()).collect();
                            let ratio = |(l, y)| graph.ratio(y, x[l] as usize, x0[l] as usize, sigma_bar);
                            let states = graph.states();
                            let r: Vec<f64> =
                                (0..6).flat_map(|l| (0..states).map(move |y| (l, y))).map(ratio).collect();
                            loss::concrete_score_matching(graph, x, &s, &r, &|x, y| rate(x, y) / largest)
                        }
                    } / (12.0 * LN_2);
                }
                // 48 terms in f32 on outputs whose own f32 is the same on both sides: 48 roundings and those of exp, 3e-7.
                let bound = 48.0 * (f64::from(f32::EPSILON) + 3e-7) * want.abs();
                assert!((got - want).abs() <= bound, "{} {}: {got} against {want}", graph.name(), objective.name());
            }
        }
    }

    #[test]
    fn masked_losses_are_the_cross_entropy_at_the_rates_of_their_times() {
        let graph = Absorbing::new(K).unwrap();
        let model = Model::new(&graph);
        for objective in [Objective::Mdlm, Objective::D3pm] {
            let setting = Setting { graph: &graph, noise: NOISE, objective, chain: (10, 0.25) };
            let (batch, got) = batch(setting, &model, 1);
            let mut want = 0.0;
            for i in 0..2 {
                let x = &batch.x_t[i * 6..][..6];
                let log_s = model.log_scores(&graph, x, 1.0);
                let t = [0.3, 0.8][i];
                // A step of the chain from t to t − 0.1 uncovers a tenth of all that is masked, in every scale of the noise.
                let weight = if objective == Objective::Mdlm { NOISE.unmask_rate(t) } else { 10.0 * 0.1 / t + 0.25 };
                for l in (0..6).filter(|l| x[*l] == K as u32) {
                    let row = &log_s[l * 5..][..K];
                    let normaliser = row.iter().map(|s| s.exp()).sum::<f64>().ln();
                    want -= weight * (row[batch.x0[i * 6 + l] as usize] - normaliser) / (12.0 * LN_2);
                }
            }
            let bound = 48.0 * (f64::from(f32::EPSILON) + 3e-7) * want.abs();
            assert!((got - want).abs() <= bound, "{}: {got} against {want}", objective.name());
        }
    }

    #[test]
    fn d3pm_s_loss_is_the_hybrid_in_f64_on_either_graph() {
        use crate::discrete::{ConcreteScore, Tokens, View, d3pm};
        let (absorbing, uniform) = (Absorbing::new(K).unwrap(), Uniform::new(K).unwrap());
        let graphs: [&dyn Graph; 2] = [&absorbing, &uniform];
        for graph in graphs {
            let model = Model::new(graph);
            // Ten levels: 0.3 and 0.8 are two of them; and one, whose step leads to the data.
            for steps in [10, 1] {
                let setting = Setting { graph, noise: NOISE, objective: Objective::D3pm, chain: (steps, 0.25) };
                let (batch, got) = batch(setting, &model, 3);
                let (transformer, params) = (&model.net, &model.params);
                let score = NetworkScore { transformer, params, graph, head: Head::LogClean };
                let mut want = 0.0;
                for i in 0..2 {
                    let (x, x0) = (&batch.x_t[i * 6..][..6], &batch.x0[i * 6..][..6]);
                    let (t, sigma_bar) = (batch.times[i], batch.sigma_bar[i]);
                    let mut values = vec![0.0; 6 * graph.states()];
                    score.evaluate(&Tokens::new(x.to_vec(), 6).unwrap(), &[sigma_bar], &mut values).unwrap();
                    let view = View { graph, head: Head::LogClean, x, sigma_bar, values: &values };
                    let bound = d3pm::step_divergence(&view, x0, NOISE, (t - 1.0 / steps as f64).max(0.0)).unwrap();
                    // In a masking graph a token that is not masked is certain: its cross-entropy is 0 there.
                    let cross = d3pm::cross_entropy(&view, x0).unwrap();
                    want += (steps as f64 * bound + 0.25 * cross) / (12.0 * LN_2);
                }
                // 48 terms in f32, each of a few roundings and those of exp and ln, 3e-7, of what all steps together cost.
                let bound = 48.0 * (f64::from(f32::EPSILON) + 6e-7) * (want.abs() + steps as f64);
                assert!((got - want).abs() <= bound, "{} {steps}: {got} against {want}", graph.name());
            }
        }
    }

    #[test]
    fn the_implicit_loss_with_one_neighbour_is_that_with_all_in_the_mean() {
        let (absorbing, uniform) = (Absorbing::new(K).unwrap(), Uniform::new(K).unwrap());
        let graphs: [&dyn Graph; 2] = [&absorbing, &uniform];
        for graph in graphs {
            let model = Model::new(graph);
            let setting = Setting { graph, noise: NOISE, objective: Objective::Ise, chain: (10, 0.0) };
            let (first, _) = batch(setting, &model, 2);
            let mut want = 0.0;
            for i in 0..2 {
                let x = &first.x_t[i * 6..][..6];
                let (t, sigma_bar) = (first.times[i], first.sigma_bar[i]);
                let weight = |x: usize, y: usize| NOISE.rate(t) * graph.rate(x, y);
                // What the network does not change is left out of the loss: ln K + ln(e^σ̄ − 1) of a masked token.
                let left_out = if graph.mask().is_some() { (K as f64).ln() + sigma_bar.exp_m1().ln() } else { 0.0 };
                let full =
                    loss::implicit_score_entropy(graph, x, &|x| Ok(model.log_scores(graph, x, sigma_bar)), &weight);
                let open = x.iter().filter(|x| Some(**x) != graph.mask()).count() as f64;
                want += (full.unwrap() - open * NOISE.rate(t) * left_out * f64::from(u8::from(graph.mask().is_some())))
                    / (12.0 * LN_2);
            }
            // n = 4000 neighbours of each of the two sequences, seed 7: a z-score of 4 happens once in 16 000.
            let n = 4000;
            let draws: Vec<f64> = (0..n)
                .map(|sample| {
                    let mut again = copy(&first);
                    let address = Address::new(7, Purpose::Test).step(sample);
                    let rows = again.x_t.chunks_exact(6).enumerate();
                    again.neighbours = rows.map(|(i, x)| Neighbour::draw(graph, x, address.sample(i))).collect();
                    value(&again.loss(setting, &model.net, &model.params, Mode::Inference).unwrap().0)
                })
                .collect();
            let mean = draws.iter().sum::<f64>() / n as f64;
            let variance = draws.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            let z = (mean - want) / (variance / n as f64).sqrt();
            assert!(z.abs() < 4.0 && variance > 0.0, "{}: {mean} against {want}, z = {z}", graph.name());
        }
    }

    fn copy(batch: &TokenBatch) -> TokenBatch {
        TokenBatch {
            length: batch.length,
            x0: batch.x0.clone(),
            x_t: batch.x_t.clone(),
            times: batch.times.clone(),
            importance: batch.importance.clone(),
            sigma_bar: batch.sigma_bar.clone(),
            neighbours: Vec::new(),
        }
    }
}
