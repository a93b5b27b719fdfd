//! The transformer that is measured: a character model of 27 symbols and a mask, told the noise level or not.

use tweedie::Result;
use tweedie::discrete::{
    Absorbing, Graph, Head, NetworkScore, Noise, TokenSampler, TokenSamplerOptions, sample_tokens,
};
use tweedie::nn::{Mode, Params, Transformer, TransformerConfig, initialise};
use tweedie::ops;
use tweedie::optim::{self, Moments, UpdateSettings};
use tweedie::rng::{Address, Purpose};
use tweedie::tape::{Grads, Tape, profile};

/// Sequences of a batch.
pub(crate) const BATCH: usize = 16;

/// 6 blocks of 384 channels, 6 heads, 256 tokens, 28 symbols.
pub(crate) fn plain() -> TransformerConfig {
    TransformerConfig::default()
}

/// The same with a modulation of every norm and a gate of every branch.
pub(crate) fn conditioned() -> TransformerConfig {
    TransformerConfig { cond_dim: Some(128), ..plain() }
}

/// A model with its batch and what training it takes.
pub(crate) struct Model {
    net: Transformer,
    params: Params,
    ema: Params,
    moments: Moments,
    grads: Grads,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    levels: Option<Vec<f32>>,
    step: u64,
}

impl Model {
    /// A new network and a batch in which half of the symbols are masked.
    pub(crate) fn new(config: &TransformerConfig) -> Result<Model> {
        let net = Transformer::new(config)?;
        let params = initialise(net.specs(), 0)?;
        let ema = Params::new(net.specs(), params.tensors().to_vec(), false)?;
        let count = BATCH * config.length;
        let address = Address::new(0, Purpose::Test);
        let mask = config.tokens as u32 - 1;
        let targets: Vec<u32> = (0..count).map(|i| address.below(2 * i, config.tokens - 1) as u32).collect();
        let is_masked = |i: usize| address.below(2 * i + 1, 2) == 0;
        let tokens = targets.iter().enumerate().map(|(i, t)| if is_masked(i) { mask } else { *t }).collect();
        let weights = (0..count).map(|i| if is_masked(i) { 1.0 / count as f32 } else { 0.0 }).collect();
        let levels = config.cond_dim.map(|_| (0..BATCH).map(|i| 0.1 + 0.2 * i as f32).collect());
        let (moments, grads) = (Moments::zeros(&params)?, Grads::new());
        Ok(Model { net, params, ema, moments, grads, tokens, targets, weights, levels, step: 0 })
    }

    /// Number of weights.
    pub(crate) fn parameters(&self) -> usize {
        self.params.count()
    }

    /// Operations of a forward pass.
    pub(crate) fn flops(&self) -> f64 {
        let config = self.net.config();
        let rows = (BATCH * config.length) as f64;
        let is_product =
            |name: &str| !name.contains("embedding") && !name.contains("adaLN") && !name.contains("sigma_map");
        let products = self.net.specs().iter().filter(|spec| spec.shape.len() == 2 && is_product(&spec.name));
        let products: usize = products.map(|spec| spec.shape.count()).sum();
        2.0 * rows * products as f64 + 4.0 * rows * (config.length * config.width * config.depth) as f64
    }

    /// One evaluation.
    pub(crate) fn forward(&mut self) -> Result<()> {
        self.net.forward(&self.params, &self.tokens, BATCH, self.levels.as_deref(), Mode::Inference).map(|_| ())
    }

    /// Draws a batch of sequences in so many steps of the masking graph; the mean number of evaluations of each.
    pub(crate) fn sample(&self, sampler: TokenSampler, steps: usize) -> Result<f64> {
        let graph = Absorbing::new(self.net.config().outputs)?;
        let score = NetworkScore { transformer: &self.net, params: &self.params, graph: &graph, head: Head::LogClean };
        let options = TokenSamplerOptions { steps, batch: BATCH, ..TokenSamplerOptions::default() };
        let samples: Vec<u32> = (0..BATCH as u32).collect();
        let place = (&graph as &dyn Graph, Noise::LogLinear { eps: 0.0 });
        let length = self.net.config().length;
        let drawn = sample_tokens(sampler, &score, place, length, &samples, None, &options, &mut |_, _| Ok(()))?;
        Ok(drawn.evaluations.iter().sum::<usize>() as f64 / BATCH as f64)
    }

    /// Forward, loss, backward, clip, update; the norm is read, as a loop that reports it does.
    pub(crate) fn train_step(&mut self) -> Result<()> {
        self.grads.clear();
        self.step += 1;
        let mode = Mode::Training(Address::new(0, Purpose::Dropout).step(self.step as usize));
        let record = || {
            let logits = self.net.forward(&self.params, &self.tokens, BATCH, self.levels.as_deref(), mode)?;
            Ok(ops::cross_entropy(&logits, &self.targets, &self.weights)?.0)
        };
        let (loss, tape) = Tape::record(record)?;
        tape.backward_from_loss(&loss, &mut self.grads)?;
        let norm = optim::global_norm(&self.params, &self.grads)?;
        profile::lap("gradient norm");
        let outcome = optim::Outcome { loss, norm };
        let settings = UpdateSettings {
            lr: 1e-4,
            muon: None,
            betas: (0.9, 0.999),
            adam_eps: 1e-8,
            weight_decay: 0.01,
            grad_clip: 1.0,
            ema_decay: 0.999,
        };
        let (params, ema, moments) = (&mut self.params, &mut self.ema, &mut self.moments);
        optim::update(params, ema, moments, &self.grads, &outcome, self.step, &settings)?;
        profile::lap("optimizer");
        Ok(())
    }
}
