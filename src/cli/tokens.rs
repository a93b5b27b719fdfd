//! `sample` and `eval` for models of tokens: text as it emerges, holes filled, bits per token.

use super::{OutputKind, print_line, progress_bar};
use crate::data::{TextSet, TokenData};
use crate::device::Device;
use crate::discrete::{Bits, GraphKind, TokenSampler, Tokens, expected_share};
use crate::error::{Error, Result};
use crate::io::ModelFolder;
use crate::io::token_folder::TokenDescription;
use crate::pipeline::{TokenPipeline, TokenSampleOptions, TokenSamples, Weights, joined, write_token_samples};
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Flags of `sample` that are for models of tokens alone.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TokenFlags {
    /// Text with holes: each _ is a token that is filled in, around what is known
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
pub fn has_tokens(model: &Path) -> bool {
    ModelFolder::new(model).has_tokens()
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
    let options = TokenSampleOptions {
        sampler: request.sampler.map(TokenSampler::from_name).transpose()?,
        steps: request.steps.unwrap_or(256),
        count: request.count.unwrap_or(if has_text { 4 } else { 64 }),
        seed: request.seed,
        batch: request.batch,
        length: request.flags.length,
        known: request.flags.infill.as_deref().map(|text| pipeline.infill(text)).transpose()?,
    };
    let mut shown = Shown::new(description, &options, request.json);
    let drawn = pipeline.sample(&options, &mut |row, tokens| shown.update(row, tokens))?;
    shown.finish()?;
    let texts = texts_of(description, &drawn.tokens);
    if let (Some(texts), false) = (&texts, request.json) {
        print_line(joined(texts).trim_end_matches('\n'));
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

fn mean(values: &[usize]) -> f64 {
    values.iter().sum::<usize>() as f64 / values.len().max(1) as f64
}

fn summary(description: &TokenDescription, drawn: &TokenSamples, options: &TokenSampleOptions, out: Option<&Path>) {
    let (n, evaluations) = (drawn.tokens.rows(), mean(&drawn.evaluations));
    let share = match drawn.sampler {
        TokenSampler::Cached if options.known.is_none() => {
            let want = expected_share(options.steps, description.own.length) * options.steps as f64;
            format!(" of {} (log-linear noise wants {want:.1})", options.steps)
        }
        _ => String::new(),
    };
    let written = out.map_or(String::new(), |path| format!(": wrote {}", path.display()));
    eprintln!(
        "{n} samples of {} tokens by {}, {evaluations:.1} evaluations each{share}, {:.2} s{written}",
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

/// Columns of a line of text that is not done.
const COLUMNS: usize = 76;
/// Texts that are shown while they emerge, at most.
const EMERGING: usize = 8;

/// What is seen while sequences are drawn: the texts themselves on a terminal, else a bar of moves on stderr.
struct Shown<'a> {
    description: &'a TokenDescription,
    texts: Vec<String>,
    /// Lines on the terminal that the next picture of the texts replaces.
    lines: usize,
    last: Option<Instant>,
    is_live: bool,
    bar: indicatif::ProgressBar,
}

impl<'a> Shown<'a> {
    fn new(description: &'a TokenDescription, options: &TokenSampleOptions, json: bool) -> Shown<'a> {
        let is_text = description.tokenizer.is_some();
        let is_live = is_text && !json && options.count <= EMERGING && std::io::stdout().is_terminal();
        let bar = if is_live { indicatif::ProgressBar::hidden() } else { progress_bar(0) };
        Shown { description, texts: vec![String::new(); options.count], lines: 0, last: None, is_live, bar }
    }

    fn update(&mut self, row: usize, tokens: &[u32]) -> Result<()> {
        self.bar.inc(1);
        let Some(tokenizer) = self.description.tokenizer.as_ref().filter(|_| self.is_live) else { return Ok(()) };
        self.texts[row] = tokenizer.decode(tokens);
        if self.last.is_none_or(|last| last.elapsed() > Duration::from_millis(40)) {
            self.last = Some(Instant::now());
            self.draw()?;
        }
        Ok(())
    }

    /// Puts the texts over those of before: up by as many lines, each cleared to its end.
    fn draw(&mut self) -> Result<()> {
        let lines: Vec<String> = self.texts.iter().flat_map(|text| wrapped(text)).collect();
        let mut picture = self.back();
        lines.iter().for_each(|line| picture += &format!("\x1b[K{line}\n"));
        self.lines = lines.len();
        put(&picture)
    }

    fn back(&self) -> String {
        if self.lines > 0 { format!("\x1b[{}A\x1b[J", self.lines) } else { String::new() }
    }

    /// Takes the picture away: the texts are printed where it was.
    fn finish(&mut self) -> Result<()> {
        self.bar.finish_and_clear();
        put(&self.back())
    }
}

fn put(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("write", "the terminal"))
}

/// Lines of at most [`COLUMNS`] characters, at least one; what would move the cursor is shown as a space.
fn wrapped(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let lines: Vec<String> = characters.chunks(COLUMNS).map(|line| line.iter().collect()).collect();
    if lines.is_empty() { vec![String::new()] } else { lines }
}

/// Measures the bound of a model of tokens on held-out data: the metric's name (`bpc`, or `bpd` where tokens are pixels), its value, and the line
/// to print.
///
/// * `data` — the name of the data, or that of the model's own
///
/// # Errors
/// [`Error::Usage`] for another metric, or data that does not fit the model.
pub fn token_bits(
    pipeline: &TokenPipeline,
    (metrics, data): (&[String], Option<&str>),
    (count, draws, seed): (Option<usize>, usize, u64),
) -> Result<(&'static str, String, Value, String)> {
    let own = &pipeline.description().own;
    let metric = if own.image_shape.is_some() { "bpd" } else { "bpc" };
    if let Some(other) = metrics.iter().find(|name| *name != metric) {
        let kind = if metric == "bpd" { "images as tokens" } else { "text" };
        return Err(Error::Usage(format!(
            "--metric {other}: has no meaning for a model of {kind}; use --metric {metric}"
        )));
    }
    if draws == 0 {
        return Err(Error::Usage("--draws 0: expected at least 1".into()));
    }
    let spec = data.unwrap_or(&own.data).to_string();
    let held_out = match (&pipeline.description().tokenizer, TokenData::is_text(&spec)) {
        (Some(tokenizer), true) => TokenData::Text(TextSet::load_as(&spec, tokenizer)?),
        (None, false) => TokenData::load(&spec, crate::data::TokenizerKind::Letters, own.split_seed)?,
        (Some(_), false) if !Path::new(&spec).exists() => {
            return Err(Error::Usage(format!("--data {spec}: expected text or the path of a text, got neither")));
        }
        (Some(_), false) => return Err(Error::Usage(format!("--data {spec}: expected a text, got images"))),
        (None, true) => return Err(Error::Usage(format!("--data {spec}: expected images, got a text"))),
    };
    let Bits { bits, standard_error, sequences, prior, last } =
        pipeline.bits(&held_out, count.unwrap_or(usize::MAX), draws, seed)?;
    let (unit, graph) = (if metric == "bpd" { "bits/dim" } else { "bits/token" }, pipeline.score().graph.name());
    let text = format!(
        "{metric}  {bits:.4} ± {standard_error:.4} {unit}  (upper bound of a probability; {graph} graph, {} symbols; {sequences} held-out \
         sequences of {} tokens × {draws} times, seed {seed}; prior {prior:.4}, L_0 {last:.4})",
        pipeline.description().scheduler.symbols,
        own.length,
    );
    let value = json!({
        "mean": bits,
        "standard_error": standard_error,
        "prior": prior,
        "last": last,
        "sequences": sequences,
        "length": own.length,
        "symbols": pipeline.description().scheduler.symbols,
        "draws": draws,
        "seed": seed,
    });
    Ok((metric, spec, value, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_the_width_and_never_move_the_cursor() {
        assert_eq!(wrapped(""), [""]);
        assert_eq!(wrapped("a\nb\u{1b}[2J"), ["a b [2J"]);
        let lines = wrapped(&"x".repeat(COLUMNS + 1));
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [COLUMNS, 1]);
    }
}
