//! `sample` for models of tokens: text as it emerges, holes filled.

use super::emerging::Shown;
use super::{OutputKind, print_line};
use crate::device::Device;
use crate::discrete::{GraphKind, TokenSampler, Tokens, expected_evaluations};
use crate::error::{Error, Result};
use crate::io::ModelFolder;
use crate::io::token_folder::TokenDescription;
use crate::pipeline::{TokenPipeline, TokenSampleOptions, TokenSamples, Weights, joined, write_token_samples};
use crate::sampler::SamplerKind;
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Flags of `sample` that are for models of tokens alone.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TokenFlags {
    /// Text with holes: each _ is a token that is filled in, around what is known (a character, byte or, of words, a word)
    #[arg(long, value_name = "TEXT")]
    pub infill: Option<String>,
    /// Tokens of each sample that are shown, the first ones [default: all, or those of --infill]
    #[arg(long, value_name = "TOKENS")]
    pub length: Option<usize>,
    /// Noise on tokens that the model must have been trained on, absorbing or uniform; another model is refused
    #[arg(long, value_name = "NAME")]
    pub graph: Option<String>,
}

/// Whether a folder holds a model of tokens.
///
/// # Errors
/// [`Error::Model`] for a folder that is none of a model.
pub fn has_tokens(model: &Path) -> Result<bool> {
    let folder = ModelFolder::new(model);
    folder.is_classifier()?;
    Ok(folder.has_tokens())
}

/// Refuses flags that were given and mean nothing for this kind of model: for one of tokens all but `known`, for one of images [`TokenFlags`].
///
/// # Errors
/// [`Error::Usage`] that names the first of them.
pub fn check_kind(matches: &ArgMatches, known: &[&str], has_tokens: bool) -> Result<()> {
    const OF_TOKENS: [&str; 3] = ["infill", "length", "graph"];
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let is_wrong = |id: &str| given(id) && if has_tokens { !known.contains(&id) } else { OF_TOKENS.contains(&id) };
    // Groups of flags have names of types.
    let flags = matches.ids().map(clap::Id::as_str).filter(|id| id.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    let Some(wrong) = flags.into_iter().find(|id| is_wrong(id)) else { return Ok(()) };
    let (flag, kind) = (wrong.replace('_', "-"), if has_tokens { "tokens" } else { "images" });
    Err(Error::Usage(format!("--{flag}: has no meaning for a model of {kind}; leave it out")))
}

/// Loads a model of tokens, and refuses one of another graph than `graph`.
///
/// # Errors
/// As [`TokenPipeline::load`]; [`Error::Usage`] for an unknown or another graph.
pub fn load_tokens(model: &Path, weights: Weights, graph: Option<&str>, device: Device) -> Result<TokenPipeline> {
    let asked = graph.map(GraphKind::from_name).transpose()?;
    let pipeline = TokenPipeline::load(model, weights)?;
    let has = pipeline.description().scheduler.graph;
    if let Some(asked) = asked.filter(|asked| *asked != has) {
        let (asked, has) = (asked.name(), has.name());
        return Err(Error::Usage(format!(
            "--graph {asked}: the model was trained on the {has} graph, and knows no other noise; leave the flag out, or train with --graph {asked}"
        )));
    }
    pipeline.to_device(device)
}

/// What `sample` is asked of a model of tokens.
pub struct TokenRequest<'a> {
    /// The name, if one was given.
    pub sampler: Option<&'a str>,
    /// Steps, or the usual 256.
    pub steps: Option<usize>,
    /// Sequences: usually 4 texts, 64 images.
    pub count: Option<usize>,
    /// The seed.
    pub seed: u64,
    /// Sequences of an evaluation.
    pub batch: usize,
    /// A text or picture file.
    pub out: Option<PathBuf>,
    /// Whether one JSON object is printed instead of the texts.
    pub json: bool,
    /// The rest.
    pub flags: &'a TokenFlags,
}

/// Draws sequences: texts on stdout, as they emerge where it is a terminal; images in a file.
///
/// # Errors
/// [`Error::Usage`] for a flag that does not fit the model; [`Error::Io`] if the file cannot be written.
pub fn sample_text(pipeline: &TokenPipeline, request: &TokenRequest<'_>) -> Result<()> {
    let description = pipeline.description();
    let has_text = description.tokenizer.is_some();
    let out = match (&request.out, has_text) {
        (None, false) => Some(PathBuf::from("samples.png")),
        (out, _) => out.clone(),
    };
    if let Some(path) = &out {
        check_file(path, has_text)?;
    }
    if request.steps == Some(0) || request.count == Some(0) || request.batch == 0 {
        return Err(Error::Usage("--steps, --count and --batch: expected at least 1, got 0".into()));
    }
    let sampler = request.sampler.map(sampler_flag).transpose()?;
    if sampler == Some(TokenSampler::Gillespie) && request.steps.is_some() {
        return Err(Error::Usage("--steps: gillespie has none, it follows each jump; leave the flag out".into()));
    }
    if request.flags.length.is_some() && !has_text {
        return Err(Error::Usage("--length: the model's tokens are pixels of whole images; leave the flag out".into()));
    }
    let options = TokenSampleOptions {
        sampler,
        steps: request.steps.unwrap_or(256),
        count: request.count.unwrap_or(if has_text { 4 } else { 64 }),
        seed: request.seed,
        batch: request.batch,
        length: request.flags.length,
        known: request.flags.infill.as_deref().map(|text| pipeline.infill(text)).transpose()?,
    };
    let sampler = pipeline.sampler(options.sampler);
    let mut shown = Shown::new(description, &options, expected_moves(description, &options, sampler), request.json);
    let drawn = pipeline.sample(&options, &mut |row, tokens| shown.update(row, tokens))?;
    shown.finish()?;
    let texts = texts_of(description, &drawn.tokens);
    if let (Some(texts), false) = (&texts, request.json) {
        let text = joined(texts);
        let text = text.trim_end_matches('\n');
        match std::io::stdout().is_terminal() {
            true => print_line(&harmless(text)),
            false => print_line(text),
        }
    }
    if let Some(path) = &out {
        write_token_samples(description, path, &drawn.tokens)?;
    }
    summary(description, &drawn, &options, out.as_deref());
    if request.json {
        print_line(&report(&drawn, &options, texts.as_deref(), out.as_deref()).to_string());
    }
    Ok(())
}

/// Reads `--sampler` for a model of tokens.
fn sampler_flag(name: &str) -> Result<TokenSampler> {
    match SamplerKind::from_name(name) {
        Ok(_) => Err(Error::Usage(format!(
            "--sampler {name}: draws images; for a model of tokens take {}",
            TokenSampler::ALL.map(TokenSampler::name).join(", ")
        ))),
        Err(_) => TokenSampler::from_name(name),
    }
}

/// Text that a terminal shows as it is: what would steer it is escaped.
pub fn harmless(text: &str) -> String {
    let is_shown = |c: char| !c.is_control() || c == '\n' || c == '\t';
    text.chars().map(|c| if is_shown(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

fn texts_of(description: &TokenDescription, tokens: &Tokens) -> Option<Vec<String>> {
    let tokenizer = description.tokenizer.as_ref()?;
    Some(tokens.iter().map(|row| tokenizer.decode(row)).collect())
}

fn check_file(path: &Path, has_text: bool) -> Result<()> {
    let shown = path.display();
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    match (ending.as_deref(), has_text) {
        (Some("txt"), true) => crate::cli::output::check_folder("--out", path),
        (Some("png"), false) => OutputKind::of("--out", path).map(|_| ()),
        (_, true) => Err(Error::Usage(format!("--out {shown}: expected a name ending in .txt, the model writes text"))),
        (_, false) => {
            Err(Error::Usage(format!("--out {shown}: expected a name ending in .png, the model's tokens are pixels")))
        }
    }
}

/// Evaluations of the cached sampler, for each sequence.
fn expected_of(description: &TokenDescription, options: &TokenSampleOptions) -> f64 {
    let known = options.known.iter().flatten().filter(|token| token.is_some()).count();
    expected_evaluations(description.scheduler.noise, options.steps, description.own.length - known)
}

/// About how many moves all sequences make together.
fn expected_moves(description: &TokenDescription, options: &TokenSampleOptions, sampler: TokenSampler) -> u64 {
    let of_one = match sampler {
        TokenSampler::Cached => expected_of(description, options),
        TokenSampler::Gillespie => description.own.length as f64,
        TokenSampler::Euler | TokenSampler::Analytic | TokenSampler::Ancestral => options.steps as f64,
    };
    (of_one * options.count as f64).round() as u64
}

fn mean(values: &[usize]) -> f64 {
    values.iter().sum::<usize>() as f64 / values.len().max(1) as f64
}

fn summary(description: &TokenDescription, drawn: &TokenSamples, options: &TokenSampleOptions, out: Option<&Path>) {
    let (n, evaluations) = (drawn.tokens.rows(), mean(&drawn.evaluations));
    let share = match drawn.sampler {
        TokenSampler::Cached => {
            let known = options.known.iter().flatten().filter(|token| token.is_some()).count();
            let want = expected_evaluations(description.scheduler.noise, options.steps, description.own.length - known);
            format!(" of {} steps ({want:.1} expected)", options.steps)
        }
        _ => String::new(),
    };
    let written = out.map_or(String::new(), |path| format!(": wrote {}", path.display()));
    eprintln!(
        "{n} {} of {} tokens by {}, {evaluations:.1} evaluations each{share}, {:.2} s{written}",
        if n == 1 { "sample" } else { "samples" },
        drawn.tokens.length(),
        drawn.sampler.name(),
        drawn.seconds
    );
}

fn report(drawn: &TokenSamples, options: &TokenSampleOptions, texts: Option<&[String]>, out: Option<&Path>) -> Value {
    let (n, length) = (drawn.tokens.rows(), drawn.tokens.length());
    json!({
        "seconds": drawn.seconds,
        "count": n,
        "length": length,
        "tokens_per_second": (n * length) as f64 / drawn.seconds,
        "evaluations": mean(&drawn.evaluations),
        "batches": drawn.batches,
        "sampler": drawn.sampler.name(),
        "steps": options.steps,
        "seed": options.seed,
        "texts": texts,
        "out": out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_never_steered_by_samples() {
        assert_eq!(harmless("a\tb\nc\u{1b}[2J\u{7}é"), "a\tb\nc\\u{1b}[2J\\u{7}é");
    }
}
