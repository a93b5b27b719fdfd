//! A bidirectional transformer for sequences of symbols: the blocks of DiT (Peebles & Xie 2023) with rotary positions, as SEDD (Lou, Meng & Ermon
//! 2024) and MDLM (Sahoo et al. 2024) have them. Parameters are named as SEDD's published checkpoints name them.
//!
//! ```text
//! h = embedding[tokens] (+ positions, where the network has a vector for each) (+ its neighbours, by their distance)
//! per block, with six vectors from the noise level:
//!     h ← h + gate·attn_out(attention(attn_qkv(norm1(h)·(1 + scale) + shift)))
//!     h ← h + gate·mlp.2(gelu(mlp.0(norm2(h)·(1 + scale) + shift)))
//! y = linear(norm_final(h)·(1 + scale) + shift)
//! ```
//! Without a noise level there are neither modulations nor gates. Norms have weights and no biases.

use super::Mode;
use super::groups::in_groups;
use super::layers::Linear;
use super::param::{Builder, Init, Layout, ParamId, ParamSpec, Params};
use super::transformer_config::TransformerConfig;
use crate::device::{Device, Scratch};
use crate::error::{Error, Result};
use crate::ops::{self, Film};
use crate::tape;
use crate::tensor::Tensor;
use std::sync::Mutex;

/// Sines and cosines of the noise level, as in SEDD.
const TIME_FEATURES: usize = 256;

/// A linear layer without bias.
struct Weight(ParamId);

impl Weight {
    fn new(b: &mut Builder, name: String, c_in: usize, c_out: usize, bound: f64) -> Weight {
        Weight(b.add(name, [c_out, c_in], Layout::Plain, Init::Uniform(bound)))
    }
}

/// Vectors that a noise level becomes: a linear layer from its embedding, first all 0 (adaLN-zero), whose blocks of `width` outputs are shifts,
/// scales and gates.
struct Modulation(Linear);

impl Modulation {
    fn new(b: &mut Builder, name: &str, cond_dim: usize, width: usize, vectors: usize) -> Modulation {
        Modulation(Linear::with_bound(b, name, cond_dim, vectors * width, 0.0))
    }

    /// `N` tensors `[n, width]`.
    fn forward<const N: usize>(&self, p: &Params, cond: &Tensor, width: usize) -> Result<[Tensor; N]> {
        let all = self.0.forward(p, cond, None)?;
        let mut parts = Vec::with_capacity(N);
        for i in 0..N {
            parts.push(ops::slice_channels(&all, i * width, width)?);
        }
        parts.try_into().map_err(|_| Error::Shape(format!("transformer: a modulation has not {N} vectors")))
    }
}

struct Block {
    name: String,
    norm1: ParamId,
    qkv: Weight,
    out: Weight,
    norm2: ParamId,
    up: Linear,
    down: Linear,
    modulation: Option<Modulation>,
}

impl Block {
    fn new(b: &mut Builder, name: String, c: &TransformerConfig) -> Block {
        let (width, wide) = (c.width, c.mlp_ratio * c.width);
        let bound = 1.0 / (width as f64).sqrt();
        // Without gates, which begin closed, 2·depth branches add to one stream: so much smaller keeps its first size (Radford et al. 2019).
        let smaller = if c.cond_dim.is_none() { 1.0 / (2.0 * c.depth as f64).sqrt() } else { 1.0 };
        let norm =
            |b: &mut Builder, part: &str| b.add(format!("{name}.{part}.weight"), [width], Layout::Plain, Init::Ones);
        let norm1 = norm(b, "norm1");
        let qkv = Weight::new(b, format!("{name}.attn_qkv.weight"), width, 3 * width, bound);
        let out = Weight::new(b, format!("{name}.attn_out.weight"), width, width, bound * smaller);
        let norm2 = norm(b, "norm2");
        let up = Linear::new(b, &format!("{name}.mlp.0"), width, wide);
        let down = Linear::with_bound(b, &format!("{name}.mlp.2"), wide, width, smaller / (wide as f64).sqrt());
        let modulation =
            c.cond_dim.map(|cond_dim| Modulation::new(b, &format!("{name}.adaLN_modulation"), cond_dim, width, 6));
        Block { name, norm1, qkv, out, norm2, up, down, modulation }
    }
}

/// The network; its weights are kept in [`Params`].
///
/// # Example
/// ```
/// use tweedie::nn::{Mode, Transformer, TransformerConfig, initialise};
/// let config = TransformerConfig { tokens: 5, outputs: 4, length: 8, width: 12, depth: 2, heads: 2, ..TransformerConfig::default() };
/// let net = Transformer::new(&config)?;
/// let params = initialise(net.specs(), 0)?;
/// // Two sequences of three symbols; a sample's logits do not depend on its neighbours.
/// let both = net.forward(&params, &[0, 1, 2, 4, 4, 3], 2, None, Mode::Inference)?;
/// assert_eq!(both.shape()[..], [2, 3, 4]);
/// let second = net.forward(&params, &[4, 4, 3], 1, None, Mode::Inference)?;
/// assert_eq!(both.to_vec::<f32>()?[12..], second.to_vec::<f32>()?);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub struct Transformer {
    config: TransformerConfig,
    specs: Vec<ParamSpec>,
    embedding: ParamId,
    positions: Option<ParamId>,
    neighbours: Option<ParamId>,
    sigma_map: Option<[Linear; 2]>,
    blocks: Vec<Block>,
    norm_final: ParamId,
    linear_out: Linear,
    modulation_out: Option<Modulation>,
    /// Cosines and sines of the positions, where they were last used.
    rotary: Mutex<Tensor>,
}

impl Transformer {
    /// Builds the layers that `config` describes.
    ///
    /// # Errors
    /// [`Error::Usage`] as [`TransformerConfig::validate`].
    pub fn new(config: &TransformerConfig) -> Result<Transformer> {
        config.validate()?;
        let b = &mut Builder::new();
        let width = config.width;
        // Where no gate keeps them closed, the first branches would drown smaller vectors, and tokens be told apart late.
        let init = if config.cond_dim.is_some() { Init::Uniform(1.0 / (width as f64).sqrt()) } else { Init::Normal };
        let embedding = b.add("vocab_embed.embedding".into(), [config.tokens, width], Layout::Plain, init);
        let positions = config
            .position_embed
            .then(|| b.add("vocab_embed.positions".into(), [config.length, width], Layout::Plain, init));
        // A row for each distance and symbol, and one for what lies outside the sequence; together as large as the symbol's own.
        let neighbours = (!config.neighbours.is_empty()).then(|| {
            let count = config.neighbours.len();
            let init = Init::Uniform((3.0 / count as f64).sqrt());
            b.add("vocab_embed.neighbours".into(), [count * (config.tokens + 1), width], Layout::Plain, init)
        });
        let sigma_map = config.cond_dim.map(|cond_dim| {
            let first = Linear::new(b, "sigma_map.mlp.0", TIME_FEATURES, cond_dim);
            [first, Linear::new(b, "sigma_map.mlp.2", cond_dim, cond_dim)]
        });
        let blocks = (0..config.depth).map(|i| Block::new(b, format!("blocks.{i}"), config)).collect();
        let norm_final = b.add("output_layer.norm_final.weight".into(), [width], Layout::Plain, Init::Ones);
        // All 0: the first logits are uniform, and the first log-scores say that all ratios are 1.
        let linear_out = Linear::with_bound(b, "output_layer.linear", width, config.outputs, 0.0);
        let modulation_out =
            config.cond_dim.map(|cond_dim| Modulation::new(b, "output_layer.adaLN_modulation", cond_dim, width, 2));
        let rotary = ops::rotary_table(config.length, width / config.heads, config.rotary_base)?;
        Ok(Transformer {
            config: config.clone(),
            specs: std::mem::take(b).finish(),
            embedding,
            positions,
            neighbours,
            sigma_map,
            blocks,
            norm_final,
            linear_out,
            modulation_out,
            rotary: Mutex::new(rotary),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// The parameters, in the order of [`Params`].
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Runs the network.
    ///
    /// * `tokens` — `n` sequences of equal length, one behind the other; each symbol below `config.tokens`
    /// * `n` — at least 1
    /// * `levels` — the noise level of each sequence, `[n]`, as the network was trained on them (SEDD: the total noise σ̄), where the network has
    ///   a `cond_dim`; `None` where it has not
    /// * `mode` — dropout in training
    ///
    /// Returns `[n, t, outputs]`, logits or log-scores as the network was trained. Differentiable in the parameters.
    ///
    /// # Errors
    /// [`Error::Shape`] if sizes disagree, a sequence is longer than `config.length`, or a symbol is unknown; [`Error::Usage`] if noise levels are
    /// missing or not wanted.
    pub fn forward(&self, p: &Params, tokens: &[u32], n: usize, levels: Option<&[f32]>, mode: Mode) -> Result<Tensor> {
        self.check(tokens, n, levels)?;
        let t = tokens.len() / n;
        in_groups(n, p.device(), mode, |rows| {
            let tokens = &tokens[rows.start * t..rows.end * t];
            self.forward_group(p, tokens, rows.len(), levels.map(|levels| &levels[rows]), mode)
        })
    }

    /// [`Transformer::forward`] of sequences that go through each layer together.
    fn forward_group(
        &self,
        p: &Params,
        tokens: &[u32],
        n: usize,
        levels: Option<&[f32]>,
        mode: Mode,
    ) -> Result<Tensor> {
        let width = self.config.width;
        let cond = tape::scope("sigma_map", || self.condition(p, levels))?;
        let rotary = self.rotations(p.device())?;
        let mut h = tape::scope("vocab_embed", || self.embed(p, tokens, n))?;
        for (index, block) in self.blocks.iter().enumerate() {
            h = tape::scope(&block.name, || self.block(p, (index, block), &h, cond.as_ref(), &rotary, mode))?;
        }
        tape::scope("output_layer", || {
            let modulation = match (&self.modulation_out, &cond) {
                (Some(layer), Some(cond)) => Some(layer.forward::<2>(p, cond, width)?),
                _ => None,
            };
            let film = modulation.as_ref().map(|[shift, scale]| Film { scale, shift });
            let h = ops::layer_norm(&h, p.get(self.norm_final), None, film, self.config.norm_eps)?;
            self.linear_out.forward(p, &h, None)
        })
    }

    fn check(&self, tokens: &[u32], n: usize, levels: Option<&[f32]>) -> Result<()> {
        let t = tokens.len() / n.max(1);
        if t == 0 || tokens.len() != n * t {
            let count = tokens.len();
            return Err(Error::Shape(format!(
                "transformer: {count} tokens are not {n} sequences of one length above 0"
            )));
        }
        if t > self.config.length {
            let most = self.config.length;
            return Err(Error::Shape(format!("transformer: sequences of {t} tokens; the model has {most} positions")));
        }
        match (levels, &self.sigma_map) {
            (Some(levels), Some(_)) if levels.len() == n => Ok(()),
            (None, None) => Ok(()),
            (Some(_), None) => {
                Err(Error::Usage("noise levels were given, but the transformer has no cond_dim to be told them".into()))
            }
            (levels, Some(_)) => {
                let got = levels.map_or("none".into(), |levels| levels.len().to_string());
                Err(Error::Usage(format!("transformer: {n} sequences want {n} noise levels, got {got}")))
            }
        }
    }

    /// SiLU of the embedded noise level `[n, cond_dim]`: every modulation begins with it.
    fn condition(&self, p: &Params, levels: Option<&[f32]>) -> Result<Option<Tensor>> {
        let (Some([first, second]), Some(levels)) = (&self.sigma_map, levels) else { return Ok(None) };
        let features = ops::time_features(levels, TIME_FEATURES, true, 0.0, p.device())?;
        let hidden = ops::silu(&first.forward(p, &features, None)?)?;
        Ok(Some(ops::silu(&second.forward(p, &hidden, None)?)?))
    }

    /// The symbols' vectors, with the positions' and the neighbours' where there are any.
    fn embed(&self, p: &Params, tokens: &[u32], n: usize) -> Result<Tensor> {
        let mut h = ops::embed_sequences(p.get(self.embedding), tokens, n)?;
        let t = tokens.len() / n;
        let mut rows = Scratch::<u32>::take(tokens.len());
        if let Some(positions) = self.positions {
            rows.iter_mut().zip((0..t as u32).cycle()).for_each(|(row, t)| *row = t);
            h = ops::add(&h, &ops::embed_sequences(p.get(positions), &rows, n)?)?;
        }
        let Some(neighbours) = self.neighbours else { return Ok(h) };
        let outside = self.config.tokens as u32;
        for (k, distance) in self.config.neighbours.iter().enumerate() {
            let first = k as u32 * (outside + 1);
            for (rows, tokens) in rows.chunks_exact_mut(t).zip(tokens.chunks_exact(t)) {
                for (at, row) in rows.iter_mut().enumerate() {
                    let there = at.checked_add_signed(*distance as isize).and_then(|there| tokens.get(there));
                    *row = first + there.unwrap_or(&outside);
                }
            }
            h = ops::add(&h, &ops::embed_sequences(p.get(neighbours), &rows, n)?)?;
        }
        Ok(h)
    }

    /// The rotary table, moved where it is wanted.
    fn rotations(&self, device: Device) -> Result<Tensor> {
        let mut table = self.rotary.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if table.device() != device {
            *table = table.to_device(device)?;
        }
        Ok(table.clone())
    }

    fn block(
        &self,
        p: &Params,
        (index, block): (usize, &Block),
        h: &Tensor,
        cond: Option<&Tensor>,
        rotary: &Tensor,
        mode: Mode,
    ) -> Result<Tensor> {
        let config = &self.config;
        let vectors = match (&block.modulation, cond) {
            (Some(layer), Some(cond)) => Some(layer.forward::<6>(p, cond, config.width)?),
            _ => None,
        };
        let [film1, film2] = [0, 3].map(|at| vectors.as_ref().map(|v| Film { shift: &v[at], scale: &v[at + 1] }));
        let [gate1, gate2] = [2, 5].map(|at| vectors.as_ref().map(|v| &v[at]));

        let x = ops::layer_norm(h, p.get(block.norm1), None, film1, config.norm_eps)?;
        let qkv = ops::linear(&x, p.get(block.qkv.0), None, None)?;
        let x = ops::self_attention(&qkv, config.heads, Some(rotary))?;
        let out = |residual: Option<&Tensor>| ops::linear(&x, p.get(block.out.0), None, residual);
        let h = self.branch(h, gate1, mode, 2 * index, out)?;

        let x = ops::layer_norm(&h, p.get(block.norm2), None, film2, config.norm_eps)?;
        let x = block.up.forward_gelu(p, &x)?;
        self.branch(&h, gate2, mode, 2 * index + 1, |residual| block.down.forward(p, &x, residual))
    }

    /// h + gate·dropout(branch); where there is neither gate nor dropout, `last` adds h where it makes its result.
    fn branch(
        &self,
        h: &Tensor,
        gate: Option<&Tensor>,
        mode: Mode,
        index: usize,
        last: impl Fn(Option<&Tensor>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let drops = match mode {
            Mode::Training(address) if self.config.dropout > 0.0 => Some(address),
            _ => None,
        };
        if gate.is_none() && drops.is_none() {
            return last(Some(h));
        }
        let branch = last(None)?;
        let branch = match drops {
            Some(address) => ops::dropout(&branch, self.config.dropout, address.sub_index(index))?,
            None => branch,
        };
        match gate {
            Some(gate) => ops::gated_residual(h, &branch, gate),
            None => ops::add(h, &branch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::initialise;
    use crate::optim::{self, Moments, UpdateSettings};
    use crate::rng::{Address, Purpose};
    use crate::tape::{Grads, Tape};

    fn small() -> TransformerConfig {
        TransformerConfig { tokens: 6, outputs: 5, length: 8, width: 16, depth: 2, heads: 2, ..Default::default() }
    }

    #[test]
    fn first_vectors_depend_on_the_tokens_at_the_distances_and_on_no_others() {
        let net = Transformer::new(&TransformerConfig { neighbours: vec![-2, 1], ..small() }).unwrap();
        let params = initialise(net.specs(), 3).unwrap();
        let embed = |tokens: &[u32]| {
            let h = net.embed(&params, tokens, 2).unwrap().to_vec::<f32>().unwrap();
            h.chunks(16).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        let tokens = [0, 5, 2, 3, 4, 1, 5, 5];
        let before = embed(&tokens);
        for changed in 0..8 {
            let mut tokens = tokens;
            tokens[changed] = (tokens[changed] + 1) % 6;
            for (l, (old, new)) in before.iter().zip(embed(&tokens)).enumerate() {
                let distance = changed as i64 - l as i64;
                let sees = changed / 4 == l / 4 && [0, -2, 1].contains(&distance);
                assert_eq!(*old != new, sees, "token {changed} changed, vector {l}");
            }
        }
    }

    #[test]
    fn every_parameter_has_a_gradient_with_and_without_noise_levels() {
        for cond_dim in [None, Some(12)] {
            let config = TransformerConfig {
                cond_dim,
                dropout: 0.1,
                position_embed: cond_dim.is_none(),
                length: 4,
                neighbours: vec![-1, 1],
                ..small()
            };
            let net = Transformer::new(&config).unwrap();
            // Away from the first values, of which many are 0 and let nothing through.
            let tensors = net.specs().iter().enumerate().map(|(i, spec)| {
                let values = crate::testing::Array::normal(spec.shape, i as u64, 0.3, 0.1).to_f32();
                Tensor::from_slice(&values, spec.shape).unwrap()
            });
            let params = Params::new(net.specs(), tensors.collect(), true).unwrap();
            let levels = cond_dim.map(|_| [0.3, 2.0]);
            let mode = Mode::Training(Address::new(1, Purpose::Dropout));
            let tokens = [0, 5, 2, 3, 4, 1, 5, 5];
            let mut grads = Grads::new();
            let run = || {
                let y = net.forward(&params, &tokens, 2, levels.as_ref().map(|l| &l[..]), mode)?;
                Ok(ops::cross_entropy(&y, &[0, 1, 2, 3, 4, 0, 1, 2], &[1.0; 8])?.0)
            };
            let (loss, tape) = Tape::record(run).unwrap();
            tape.backward_from_loss(&loss, &mut grads).unwrap();
            for (spec, tensor) in net.specs().iter().zip(params.tensors()) {
                let grad = grads.get(tensor).unwrap_or_else(|| panic!("{} has no gradient", spec.name));
                assert!(grad.to_vec::<f32>().unwrap().iter().any(|g| *g != 0.0), "{}: all 0", spec.name);
            }
        }
    }

    #[test]
    fn only_a_network_with_positions_tells_the_places_of_equal_tokens_apart() {
        for position_embed in [false, true] {
            let net = Transformer::new(&TransformerConfig { position_embed, ..small() }).unwrap();
            let tensors = net.specs().iter().enumerate().map(|(i, spec)| {
                let values = crate::testing::Array::normal(spec.shape, i as u64, 0.3, 0.1).to_f32();
                Tensor::from_slice(&values, spec.shape).unwrap()
            });
            let params = Params::new(net.specs(), tensors.collect(), false).unwrap();
            let y = net.forward(&params, &[5; 8], 2, None, Mode::Inference).unwrap().to_vec::<f32>().unwrap();
            let (first, second) = y.split_at(20);
            assert_eq!(first, second, "two sequences of the same tokens");
            // Equal values average to themselves but for roundings of their weights.
            let most =
                first.chunks(5).flat_map(|row| row.iter().zip(first).map(|(a, b)| (a - b).abs())).fold(0.0, f32::max);
            assert_eq!(most > 1e-3, position_embed, "{most}");
        }
    }

    #[test]
    fn a_new_network_says_nothing_and_its_branches_are_closed() {
        let net = Transformer::new(&TransformerConfig { cond_dim: Some(12), ..small() }).unwrap();
        let params = initialise(net.specs(), 3).unwrap();
        let y = net.forward(&params, &[0, 5, 2, 3], 1, Some(&[0.7]), Mode::Inference).unwrap();
        assert!(y.to_vec::<f32>().unwrap().iter().all(|v| *v == 0.0));
        let count = |net: &Transformer| net.specs().iter().map(|s| s.shape.count()).sum::<usize>();
        // 28·384 + 6·(12·384² + 2·384 + 5·384) + 384 + 28·385
        assert_eq!(count(&Transformer::new(&TransformerConfig::default()).unwrap()), 10_654_876);
    }

    #[test]
    fn training_learns_a_rule_that_needs_both_neighbours() {
        // A masked symbol between a and b is (a + 2b) mod 5: nothing is learnt from one side alone, nor without positions.
        let net = Transformer::new(&TransformerConfig { depth: 1, width: 32, ..small() }).unwrap();
        // Of seeds 0 to 3 the first ends where four of the pairs (a, b) and (b, a) are one to it, at 8·ln 2/25 = 0.22; the others learn all.
        let mut params = initialise(net.specs(), 1).unwrap();
        let mut ema = Params::new(net.specs(), params.tensors().to_vec(), false).unwrap();
        let mut moments = Moments::zeros(&params).unwrap();
        let pairs: Vec<[u32; 2]> = (0..25).map(|i| [i % 5, i / 5]).collect();
        let tokens: Vec<u32> = pairs.iter().flat_map(|[a, b]| [*a, 5, *b]).collect();
        let targets: Vec<u32> = pairs.iter().flat_map(|[a, b]| [0, (a + 2 * b) % 5, 0]).collect();
        let weights: Vec<f32> = pairs.iter().flat_map(|_| [0.0, 0.04, 0.0]).collect();
        let mut losses = Vec::new();
        for step in 1..=500 {
            let mut grads = Grads::new();
            let record = || {
                let y = net.forward(&params, &tokens, 25, None, Mode::Inference)?;
                Ok(ops::cross_entropy(&y, &targets, &weights)?.0)
            };
            let (loss, tape) = Tape::record(record).unwrap();
            tape.backward_from_loss(&loss, &mut grads).unwrap();
            losses.push(loss.to_vec::<f32>().unwrap()[0]);
            let outcome = optim::Outcome { norm: optim::global_norm(&params, &grads).unwrap(), loss };
            let settings = UpdateSettings {
                lr: 3e-3,
                muon: None,
                betas: (0.9, 0.99),
                adam_eps: 1e-8,
                weight_decay: 0.0,
                grad_clip: 1.0,
                ema_decay: 0.9,
            };
            optim::update(&mut params, &mut ema, &mut moments, &grads, &outcome, step, &settings).unwrap();
        }
        let (first, last) = (losses[0], losses[499]);
        assert!((first - 5.0_f32.ln()).abs() < 1e-5, "uniform logits cost ln 5, not {first}");
        assert!(last < 0.1, "{first} -> {last}");
    }

    #[test]
    fn wrong_inputs_are_named() {
        let text = |config: &TransformerConfig, tokens: &[u32], n, levels: Option<&[f32]>| {
            let net = Transformer::new(config).unwrap();
            let params = initialise(net.specs(), 0).unwrap();
            net.forward(&params, tokens, n, levels, Mode::Inference).unwrap_err().to_string()
        };
        let with = TransformerConfig { cond_dim: Some(4), ..small() };
        assert!(text(&small(), &[0; 5], 2, None).contains("5 tokens are not 2 sequences"));
        assert!(text(&small(), &[], 0, None).contains("0 tokens are not 0 sequences"));
        assert!(text(&small(), &[0; 9], 1, None).contains("sequences of 9 tokens; the model has 8 positions"));
        assert!(text(&small(), &[6], 1, None).contains("index 6 is outside a table of 6 rows"));
        assert!(text(&small(), &[0], 1, Some(&[0.0])).contains("has no cond_dim"));
        assert!(text(&with, &[0], 1, None).contains("1 sequences want 1 noise levels, got none"));
        assert!(text(&with, &[0, 1], 2, Some(&[0.0])).contains("2 sequences want 2 noise levels, got 1"));
    }
}
