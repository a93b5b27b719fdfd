//! Models of tokens: load a folder, draw text or images, fill holes.

use super::Weights;
use crate::data::TokenData;
use crate::device::Device;
use crate::discrete::{
    Bits, BoundOptions, Constraint, Graph, NetworkScore, TokenSampler, TokenSamplerOptions, Tokens, bits_per_token,
    sample_tokens,
};
use crate::error::{Error, Result};
use crate::io::image::{auto_columns, auto_scale, grid, write_png};
use crate::io::token_folder::{TRANSFORMER, TokenDescription};
use crate::io::{ModelFolder, TensorFile, weights::open_params, write_atomically};
use crate::nn::{Params, Transformer};
use crate::rng::{Address, Purpose};
use std::path::Path;
use std::time::Instant;

/// What a draw of sequences is told.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenSampleOptions {
    /// The sampler; the model's usual one if not said: cached where the model allows it, else analytic.
    pub sampler: Option<TokenSampler>,
    /// Steps; of no meaning to gillespie.
    pub steps: usize,
    /// Sequences.
    pub count: usize,
    /// The seed.
    pub seed: u64,
    /// The most sequences in one evaluation.
    pub batch: usize,
    /// How many tokens of each are wanted, the first ones; all if not said.
    pub length: Option<usize>,
    /// What is known of the first tokens: `None` is a hole.
    pub known: Option<Vec<Option<u32>>>,
}

impl Default for TokenSampleOptions {
    fn default() -> TokenSampleOptions {
        TokenSampleOptions { sampler: None, steps: 256, count: 1, seed: 0, batch: 16, length: None, known: None }
    }
}

/// Sequences, and what they cost.
#[derive(Clone, Debug)]
pub struct TokenSamples {
    /// `[n, length]`.
    pub tokens: Tokens,
    /// Evaluations of each sequence.
    pub evaluations: Vec<usize>,
    /// Calls of the network.
    pub batches: usize,
    /// The sampler that drew them.
    pub sampler: TokenSampler,
    /// Seconds.
    pub seconds: f64,
}

/// A network on its way to sequences.
pub struct TokenNetwork<'a> {
    /// Network, weights and graph.
    pub score: NetworkScore<'a>,
    /// What the folder says of it.
    pub description: &'a TokenDescription,
}

impl TokenNetwork<'_> {
    /// Cached where the network is not told the noise, else analytic.
    fn usual_sampler(&self) -> TokenSampler {
        let is_time_free = crate::discrete::ConcreteScore::is_time_free(&self.score);
        if is_time_free { TokenSampler::Cached } else { TokenSampler::Analytic }
    }

    /// How many tokens are shown, and what is known of the window that they are the beginning of.
    fn window(&self, options: &TokenSampleOptions) -> Result<(usize, Option<Constraint>)> {
        let (length, symbols) = (self.description.own.length, self.description.scheduler.symbols);
        let given = options.known.as_ref().map_or(0, Vec::len);
        let window = "the window that the model was trained on";
        if options.known.is_some() && !(1..=length).contains(&given) {
            return Err(Error::Usage(format!("--infill: expected 1 to {length} tokens, {window}, got {given}")));
        }
        let shown = options.length.unwrap_or(if options.known.is_some() { given } else { length });
        if !(1..=length).contains(&shown) {
            return Err(Error::Usage(format!("--length {shown}: expected 1 to {length} tokens, {window}")));
        }
        if given > shown {
            return Err(Error::Usage(format!("--length {shown}: expected at least the {given} tokens of --infill")));
        }
        let Some(known) = &options.known else { return Ok((shown, None)) };
        let holes = known.iter().filter(|token| token.is_none()).count() + shown - given;
        if holes == 0 {
            return Err(Error::Usage(
                "--infill: expected a hole, got none; write _ for each token to be filled in".into(),
            ));
        }
        let mut known = known.clone();
        known.resize(length, None);
        Ok((shown, Some(Constraint::infill(known, symbols)?)))
    }
}

/// Draws sequences. They are drawn as long as those of training, and cut: a window knows what follows its part that is shown.
///
/// `watch` is called with the index of a sequence and its tokens after each of its moves.
///
/// # Errors
/// [`Error::Usage`] for options that do not fit the model.
pub fn sample_token_network(
    network: &TokenNetwork<'_>,
    options: &TokenSampleOptions,
    watch: &mut dyn FnMut(usize, &[u32]) -> Result<()>,
) -> Result<TokenSamples> {
    let begin = Instant::now();
    let (shown, constraint) = network.window(options)?;
    let sampler = options.sampler.unwrap_or_else(|| network.usual_sampler());
    let settings = TokenSamplerOptions {
        steps: options.steps,
        seed: options.seed,
        batch: options.batch,
        constraint,
        ..TokenSamplerOptions::default()
    };
    let samples: Vec<u32> = (0..options.count as u32).collect();
    let place = (network.score.graph, network.description.scheduler.noise);
    let mut show = |row: usize, tokens: &[u32]| watch(row, &tokens[..shown]);
    let length = network.description.own.length;
    let drawn = sample_tokens(sampler, &network.score, place, length, &samples, None, &settings, &mut show)?;
    let tokens = drawn.tokens.iter().flat_map(|row| row[..shown].iter().copied()).collect();
    Ok(TokenSamples {
        tokens: Tokens::new(tokens, shown)?,
        evaluations: drawn.evaluations,
        batches: drawn.batches,
        sampler,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

/// Writes sequences: a text file of one a line (with a line of `---` between where they have lines of their own; bytes as they are), or a sheet of
/// images.
///
/// # Errors
/// [`Error::Usage`] for images of a text or the other way round; [`Error::Io`] if the file cannot be written.
pub fn write_token_samples(description: &TokenDescription, path: &Path, tokens: &Tokens) -> Result<()> {
    if let Some(tokenizer) = &description.tokenizer {
        let rows: Vec<Vec<u8>> = tokens.iter().map(|row| tokenizer.to_bytes(row)).collect();
        let is_broken = rows.iter().any(|row| row.contains(&b'\n'));
        let bytes = [rows.join(between(is_broken).as_bytes()), b"\n".to_vec()].concat();
        return write_atomically(path, |out| out.write_all(&bytes).map_err(Error::io("write", path)));
    }
    let (values, [n, h, w, c]) = pixels(description, tokens)?;
    let columns = if n % 10 == 0 && n <= 100 { 10 } else { auto_columns(n) };
    write_png(path, &grid(&values, [n, h, w, c], columns, auto_scale(h, w), 2)?)
}

/// What stands between texts, which may have lines of their own.
fn between(is_broken: bool) -> &'static str {
    if is_broken { "\n---\n" } else { "\n" }
}

/// Texts one a line; with a line of `---` between where they have lines of their own.
pub fn joined(texts: &[String]) -> String {
    texts.join(between(texts.iter().any(|text| text.contains('\n')))) + "\n"
}

/// Images in [−1, 1], `[n, h, w, c]`; a masked value is grey.
///
/// # Errors
/// [`Error::Usage`] if the tokens are no images.
pub fn pixels(description: &TokenDescription, tokens: &Tokens) -> Result<(Vec<f32>, [usize; 4])> {
    let shape = description.own.image_shape.filter(|shape| shape.iter().product::<usize>() == tokens.length());
    let Some([h, w, c]) = shape else {
        return Err(Error::Usage(
            "--out: a picture wants whole images, the model's tokens are no pixels of one".into(),
        ));
    };
    let most = (description.scheduler.symbols - 1) as f64;
    let value =
        |token: &u32| if f64::from(*token) > most { 0.0 } else { (2.0 * f64::from(*token) / most - 1.0) as f32 };
    Ok((tokens.values().iter().map(value).collect(), [tokens.rows(), h, w, c]))
}

/// A loaded model of tokens.
pub struct TokenPipeline {
    transformer: Transformer,
    params: Params,
    graph: Box<dyn Graph>,
    description: TokenDescription,
}

impl TokenPipeline {
    /// Loads a model folder with either set of weights.
    ///
    /// # Errors
    /// [`Error::Model`] that says what is missing, malformed or does not fit.
    pub fn load(folder: impl AsRef<Path>, weights: Weights) -> Result<TokenPipeline> {
        let folder = ModelFolder::new(folder.as_ref());
        let description = folder.read_token_descriptions()?;
        let transformer = Transformer::new(&description.transformer)?;
        let averages = folder.weights(TRANSFORMER);
        let has_checkpoint = folder.checkpoint().is_file();
        let (path, prefix) = match weights {
            Weights::Raw if has_checkpoint => (folder.checkpoint(), "raw."),
            // A run killed between its first checkpoint and its first weights has the averages there alone.
            Weights::Ema if has_checkpoint && !averages.exists() => (folder.checkpoint(), "ema."),
            _ => (averages, ""),
        };
        if !path.is_file() {
            let (root, path) = (folder.root().display(), path.display());
            return Err(Error::Model(format!("model \"{root}\": {path} is missing; the model has no weights")));
        }
        let params = open_params(&TensorFile::open(path)?.into(), transformer.specs(), prefix)?;
        let graph = description.scheduler.build_graph()?;
        Ok(TokenPipeline { transformer, params, graph, description })
    }

    /// The same model with its weights on `device`.
    ///
    /// # Errors
    /// [`Error::Device`] if the device cannot be used or its memory does not suffice.
    pub fn to_device(self, device: Device) -> Result<TokenPipeline> {
        Ok(TokenPipeline { params: self.params.to_device(device)?, ..self })
    }

    /// What the folder says of the model.
    pub fn description(&self) -> &TokenDescription {
        &self.description
    }

    /// The model as samplers and bounds see it.
    pub fn score(&self) -> NetworkScore<'_> {
        let head = self.description.scheduler.head;
        NetworkScore { transformer: &self.transformer, params: &self.params, graph: &*self.graph, head }
    }

    /// What is known of a text with holes, by the model's symbols.
    ///
    /// # Errors
    /// [`Error::Usage`] for symbols outside the vocabulary, which it names, or a model of images.
    pub fn infill(&self, text: &str) -> Result<Vec<Option<u32>>> {
        let Some(tokenizer) = &self.description.tokenizer else {
            return Err(Error::Usage("--infill: expected a model of text, got one whose tokens are pixels".into()));
        };
        tokenizer.infill(text).map_err(|e| Error::Usage(format!("--infill: {e}; write _ in their place")))
    }

    /// The sampler that was asked for, or the model's usual one.
    pub fn sampler(&self, asked: Option<TokenSampler>) -> TokenSampler {
        asked.unwrap_or_else(|| self.network().usual_sampler())
    }

    fn network(&self) -> TokenNetwork<'_> {
        TokenNetwork { score: self.score(), description: &self.description }
    }

    /// Draws sequences; see [`sample_token_network`].
    ///
    /// # Errors
    /// As [`sample_token_network`].
    pub fn sample(
        &self,
        options: &TokenSampleOptions,
        watch: &mut dyn FnMut(usize, &[u32]) -> Result<()>,
    ) -> Result<TokenSamples> {
        sample_token_network(&self.network(), options, watch)
    }

    /// Bound of the held-out sequences of `data` in bits per token, each at `draws` times.
    ///
    /// * `count` — the most sequences: the first images, or windows of a text that are evenly spread
    ///
    /// # Errors
    /// [`Error::Usage`] for data of other symbols or sizes; as [`bits_per_token`].
    pub fn bits(&self, data: &TokenData, count: usize, draws: usize, seed: u64) -> Result<Bits> {
        let (symbols, length) = (self.description.scheduler.symbols, self.description.own.length);
        if (data.symbols(), data.length(length)) != (symbols, length) {
            let (got, tokens) = (data.symbols(), data.length(length));
            return Err(Error::Usage(format!(
                "--data: expected sequences of {length} tokens out of {symbols} symbols, as the model was trained on, got {tokens} out of {got}"
            )));
        }
        let all = data.held_out(length)?;
        let rows = all.len() / length;
        let count = count.min(rows);
        // Of images the first ones, as other likelihoods take them; neighbouring windows of a text are much alike.
        let place = |i: usize| if self.description.own.image_shape.is_some() { i } else { i * rows / count };
        let chosen = (0..count).flat_map(|i| &all[place(i) * length..][..length]);
        let sequences = Tokens::new(chosen.copied().collect(), length)?;
        let options = BoundOptions { draws, batch: 16, address: Address::new(seed, Purpose::Eval) };
        bits_per_token(&self.score(), &*self.graph, self.description.scheduler.noise, &sequences, &options)
    }
}
