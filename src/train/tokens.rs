//! The task of a diffusion model of tokens: a transformer that fills in what noise took from a text, or from images by their levels.

use super::task::{Curves, Shown, Task};
use super::token_batch::{Setting, TokenBatch};
use crate::config::TrainConfig;
use crate::data::{Loader, TextSet, TokenData};
use crate::device::Device;
use crate::discrete::{BoundOptions, Graph, NetworkScore, Objective, Tokens as Sequences, bits_per_token};
use crate::error::{Error, Result};
use crate::io::ModelFolder;
use crate::io::folder::FORMAT_VERSION;
use crate::io::token_folder::{TRANSFORMER, TokenDescription, TokenJson};
use crate::nn::{Mode, ParamSpec, Params, Transformer};
use crate::pipeline::{TokenNetwork, TokenSampleOptions, sample_token_network, write_token_samples};
use crate::rng::{Address, Purpose};
use crate::tensor::Tensor;

/// Held-out sequences of a validation during training, at most, and times of each.
const VALIDATION: (usize, usize) = (256, 1);
/// Samples that are shown, of a text and of images.
const TEXTS: usize = 4;
const IMAGES: usize = 20;

/// Where sequences come from.
enum Source<'a> {
    Windows { text: &'a TextSet, starts: usize },
    Images(Loader<'a>),
}

pub(super) struct TokenTask<'a> {
    config: TrainConfig,
    description: TokenDescription,
    transformer: Transformer,
    graph: Box<dyn Graph>,
    objective: Objective,
    times: (f64, f64),
    source: Source<'a>,
    fingerprint: String,
    /// None where too little is held out.
    held_out: Option<Sequences>,
    batch: Option<TokenBatch>,
}

impl<'a> TokenTask<'a> {
    pub(super) fn new(config: &TrainConfig, data: &'a TokenData) -> Result<TokenTask<'a>> {
        let length = data.length(config.length);
        let scheduler = config.token_scheduler(data.symbols())?;
        let (source, image_shape) = match data {
            TokenData::Text(text) => (Source::Windows { text, starts: text.window_starts(length)? }, None),
            TokenData::Images(images) => {
                (Source::Images(Loader::new(images, config.seed, config.batch)?), Some(images.shape()))
            }
        };
        let objective = config.objective()?;
        let own = TokenJson {
            format_version: FORMAT_VERSION,
            data: config.data.clone(),
            split_seed: config.seed,
            fingerprint: Some(data.fingerprint()),
            length,
            image_shape,
            loss: objective.name().into(),
            requires_tweedie: "diffusers has no class for diffusion of tokens".into(),
        };
        let transformer = config.transformer(&scheduler, length, image_shape)?;
        let tokenizer = data.tokenizer().cloned();
        let description = TokenDescription { transformer, scheduler, own, tokenizer };
        description.check()?;
        let (least, most) = config.token_times()?;
        Ok(TokenTask {
            config: config.clone(),
            transformer: Transformer::new(&description.transformer)?,
            graph: description.scheduler.build_graph()?,
            description,
            objective,
            // Near 1 the implicit loss has few tokens of great weight.
            times: (least, if objective == Objective::Ise { most - least } else { most }),
            source,
            fingerprint: data.fingerprint(),
            held_out: held_out(data, length)?,
            batch: None,
        })
    }

    fn setting(&self) -> Setting<'_> {
        Setting {
            graph: &*self.graph,
            noise: self.description.scheduler.noise,
            objective: self.objective,
            chain: (self.config.chain_steps, self.config.auxiliary),
        }
    }

    /// The sequences of a step, `[n, L]`: windows that begin anywhere, or the shuffled images.
    fn sequences(&mut self, step: u64) -> Result<Vec<u32>> {
        let (n, length) = (self.config.batch, self.description.own.length);
        match &mut self.source {
            Source::Windows { text, starts } => {
                let address = Address::new(self.config.seed, Purpose::Shuffle).step(step as usize);
                let start = |i: usize| address.sample(i).below(0, *starts);
                Ok((0..n).flat_map(|i| &text.train()[start(i)..][..length]).copied().collect())
            }
            Source::Images(loader) => {
                let mut indices = vec![0; n];
                loader.batch_indices(step, &mut indices)?;
                let images = loader.dataset();
                let tokens = indices.iter().flat_map(|i| images.image(*i as usize));
                Ok(tokens.map(|level| u32::from(*level)).collect())
            }
        }
    }

    /// The times of a step and what each counts: t = u^p, with one u in each of as many equal parts of \[0, 1\] as the batch has rows, or all
    /// anywhere, between the least and the largest time. A power above 1 draws more of small times, where a few tokens count much.
    fn draw_times(&self, step: u64) -> (Vec<f64>, Vec<f64>) {
        let (n, power) = (self.config.batch, self.config.time_power);
        let address = Address::new(self.config.seed, Purpose::Time).step(step as usize);
        let is_stratified = self.config.time_sampling == "stratified";
        let (least, most) = self.times;
        let place = |i: usize| {
            let u = address.sample(i).uniform(0);
            if is_stratified { (i as f64 + u) / n as f64 } else { u }
        };
        let time = |u: f64| (least + (most - least) * u.powf(power), (most - least) * power * u.powf(power - 1.0));
        (0..n).map(|i| time(place(i))).unzip()
    }

    fn batch(&self) -> Result<&TokenBatch> {
        self.batch.as_ref().ok_or_else(|| Error::Usage("training: no batch was drawn".into()))
    }

    fn score<'b>(&'b self, params: &'b Params) -> NetworkScore<'b> {
        let head = self.description.scheduler.head;
        NetworkScore { transformer: &self.transformer, params, graph: &*self.graph, head }
    }
}

/// Held-out sequences for validation, evenly spread; none where there are fewer than two.
fn held_out(data: &TokenData, length: usize) -> Result<Option<Sequences>> {
    let Ok(all) = data.held_out(length) else { return Ok(None) };
    let rows = all.len() / length;
    if rows < 2 {
        return Ok(None);
    }
    let count = rows.min(VALIDATION.0);
    let chosen = (0..count).flat_map(|i| &all[i * rows / count * length..][..length]);
    Ok(Some(Sequences::new(chosen.copied().collect(), length)?))
}

impl Task for TokenTask<'_> {
    fn specs(&self) -> &[ParamSpec] {
        self.transformer.specs()
    }

    fn component(&self) -> &'static str {
        TRANSFORMER
    }

    fn network(&self) -> serde_json::Value {
        self.description.transformer.to_json()
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn rows(&self) -> &'static str {
        "sequences"
    }

    fn measure(&self) -> String {
        format!("held-out bound in {}", self.description.unit())
    }

    fn curves(&self) -> Curves {
        let (loss, graph, unit) = (self.objective.name(), self.graph.name(), self.description.unit());
        Curves {
            title: "Loss of tokens",
            training: format!("training: {loss}, {graph} graph, {unit}"),
            validation: format!("held out: bound in {unit} (averaged weights)"),
        }
    }

    fn describe(&self, folder: &ModelFolder) -> Result<()> {
        folder.write_token_descriptions(&self.description)
    }

    fn draw(&mut self, step: u64, _device: Device) -> Result<()> {
        let x0 = self.sequences(step)?;
        let address = Address::new(self.config.seed, Purpose::TrainNoise).step(step as usize);
        self.batch = Some(TokenBatch::noised(self.setting(), x0, self.draw_times(step), address));
        Ok(())
    }

    fn batch_is_finite(&self) -> Result<bool> {
        Ok(self.batch()?.is_finite())
    }

    fn loss(&self, params: &Params, mode: Mode) -> Result<(Tensor, Tensor)> {
        self.batch()?.loss(self.setting(), &self.transformer, params, mode)
    }

    fn validation_loss(&self, averaged: &Params) -> Result<Option<f64>> {
        let Some(sequences) = &self.held_out else { return Ok(None) };
        let options = BoundOptions { draws: VALIDATION.1, batch: 16, address: Address::new(0, Purpose::Eval) };
        let noise = self.description.scheduler.noise;
        Ok(Some(bits_per_token(&self.score(averaged), &*self.graph, noise, sequences, &options)?.bits))
    }

    /// Samples of the averaged weights.
    fn show(&self, folder: &ModelFolder, done: u64, weights: Shown<'_>) -> Result<Option<String>> {
        let network = TokenNetwork { score: self.score(weights.averaged), description: &self.description };
        let count = if self.description.tokenizer.is_some() { TEXTS } else { IMAGES };
        let options = TokenSampleOptions { count, steps: 64, ..TokenSampleOptions::default() };
        let sampled = sample_token_network(&network, &options, &mut |_, _| Ok(()))?;
        let ending = if self.description.tokenizer.is_some() { "txt" } else { "png" };
        let path = folder.path(&format!("samples/step_{done:06}_ema.{ending}"));
        write_token_samples(&self.description, &path, &sampled.tokens)?;
        Ok(self.description.tokenizer.as_ref().map(|tokenizer| tokenizer.decode(sampled.tokens.row(0))))
    }
}
