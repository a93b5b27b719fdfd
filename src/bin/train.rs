//! Trains a diffusion model and writes its folder.

// Help texts are read in a terminal: their brackets are shapes, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use toml::{Table, Value};
use tweedie::config::{CLASSIFIER, DIGITS_TOKENS, TEXT, TrainConfig};
use tweedie::data::TokenData;
use tweedie::nn::Precision;
use tweedie::train::{RunOptions, TrainSummary, saved_config, train};
use tweedie::{Error, Result, cli};

/// Train a diffusion model, or a classifier that guides one. Without arguments: a class-conditional model of handwritten digits, in about a minute.
#[derive(Parser)]
#[command(
    version,
    after_help = cli::help(
        "Examples:
  train
  train --data /usr/share/datasets/fashion-mnist --preset small --out runs/fashion --steps 5000
  train --out runs/digits --resume --steps 4000
  train --preset digits-likelihood
  train --task classifier
  train --data text
  train --data book.txt --tokenizer characters --out runs/book
  train --data digits --graph absorbing
  train --weight min-snr --set min_snr_gamma=5 --set time_sampling=stratified --out runs/min-snr
  train --out runs/wide --set block_out_channels=[64,128] --set dropout=0.1"
    )
)]
struct Args {
    /// diffusion, or classifier: a network that tells the classes of noisy images and guides samples to them [default: diffusion]
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// Data set: digits, flags, or a folder or file of IDX images; text (Paradise Lost), or a file of text
    #[arg(long)]
    data: Option<String>,
    /// Model folder to write [default: runs/PRESET, or runs/PRESET-classifier]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Settings to start from: digits, small, flags, cifar10, digits-likelihood, text, digits-tokens [default: what fits --data and --graph,
    /// text, digits-tokens or digits]
    #[arg(long)]
    preset: Option<String>,
    /// Optimiser steps, those before a resume included
    #[arg(long)]
    steps: Option<u64>,
    /// Images or windows of text per step
    #[arg(long)]
    batch: Option<usize>,
    /// Peak learning rate
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// What the error at each noise level counts: simple, vlb, vlb-tilde, snr, min-snr, likelihood, vlb-continuous, or table (of
    /// --set weight_table=FILE) [default: the preset's]
    #[arg(long, value_name = "NAME")]
    weight: Option<String>,
    /// Noise on tokens: absorbing (tokens are masked) or uniform; images become tokens too [default: the preset's]
    #[arg(long, value_name = "NAME")]
    graph: Option<String>,
    /// Loss of tokens: dse, ise, se, csm, d3pm or mdlm [default: mdlm for absorbing, dse for uniform]
    #[arg(long, value_name = "NAME")]
    loss: Option<String>,
    /// Symbols of a text: letters (a to z and the space), characters (those of the text), bytes, or words (of any language, lower-cased)
    /// [default: letters]
    #[arg(long, value_name = "NAME")]
    tokenizer: Option<String>,
    /// Tokens of a window of text [default: 128]
    #[arg(long, value_name = "TOKENS")]
    length: Option<usize>,
    /// Seed of weights, data order, times and noise
    #[arg(long)]
    seed: Option<u64>,
    /// Threads, 0 for all cores; the result does not depend on it
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// auto (a GPU if there is one), cpu, cuda or cuda:INDEX
    #[arg(long, default_value = "auto")]
    device: String,
    /// f32, or bf16 for activations and products on the CPU [default: f32]
    #[arg(long, value_name = "NAME")]
    precision: Option<String>,
    /// 3x3 convolutions on the CPU: default; fast (errors of 1e-6 to 3e-6 each, more memory); exact (plain sums: slower, least memory, errors as
    /// small as the default's) [default: default]
    #[arg(long, value_name = "NAME")]
    conv_accuracy: Option<String>,
    /// Compute each residual block again for its gradients instead of keeping its inner values: less memory, more time, the same bits
    #[arg(long)]
    recompute: bool,
    /// Continue the run in --out from its last checkpoint, bit for bit
    #[arg(long)]
    resume: bool,
    /// Replace a model that is already in --out
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Steps between checkpoints
    #[arg(long)]
    save_every: Option<u64>,
    /// TOML file of settings
    #[arg(long)]
    config: Option<PathBuf>,
    /// One setting, as config.toml in a model folder names them (optimizer=muon, ema_decay=0.999, …); may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object on stdout at the end
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The flags that are settings.
    fn flags(&self) -> Table {
        let mut table = Table::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                table.insert(key.into(), value);
            }
        };
        let int = |n: u64| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
        put("task", self.task.clone().map(Value::String));
        put("data", self.data.clone().map(Value::String));
        put("steps", self.steps.map(int));
        put("batch", self.batch.map(|n| int(n as u64)));
        put("lr", self.lr.map(Value::Float));
        put("weight", self.weight.clone().map(Value::String));
        put("seed", self.seed.map(int));
        put("conv_accuracy", self.conv_accuracy.clone().map(Value::String));
        put("recompute", self.recompute.then_some(Value::Boolean(true)));
        put("precision", self.precision.clone().map(Value::String));
        put("save_every", self.save_every.map(int));
        put("graph", self.graph.clone().map(Value::String));
        put("loss", self.loss.clone().map(Value::String));
        put("tokenizer", self.tokenizer.clone().map(Value::String));
        put("length", self.length.map(|n| int(n as u64)));
        table
    }

    /// The preset that fits the flags, or the same by `--set`, where none is named.
    fn usual_preset(&self) -> &'static str {
        let set =
            |key: &str| self.set.iter().rev().find_map(|text| Some(text.split_once('=')?).filter(|(k, _)| *k == key));
        let data = self.data.as_deref().or_else(|| set("data").map(|(_, value)| value));
        match (data, self.graph.is_some() || set("graph").is_some()) {
            (Some(data), _) if TokenData::is_text(data) => TEXT,
            (_, true) => DIGITS_TOKENS,
            _ => "digits",
        }
    }

    /// The run's folder and settings. A resumed run starts from its own settings, a new one from the preset.
    fn settings(&self) -> Result<(PathBuf, TrainConfig)> {
        let from_file = |key: &str| -> Result<Option<String>> {
            let Some(path) = &self.config else { return Ok(None) };
            let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            let table = text.parse::<Table>();
            let table = table.map_err(|e| Error::Usage(format!("--config {}: {e}", path.display())))?;
            Ok(table.get(key).and_then(Value::as_str).map(String::from))
        };
        let preset = match &self.preset {
            Some(name) => Some(name.clone()),
            None => from_file("preset")?,
        };
        let task = match &self.task {
            Some(name) => Some(name.clone()),
            None => from_file("task")?,
        };
        let is_classifier = task.as_deref() == Some(CLASSIFIER);
        let name = preset.as_deref().unwrap_or_else(|| self.usual_preset());
        let fallback = if is_classifier { format!("runs/{name}-classifier") } else { format!("runs/{name}") };
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from(fallback));
        let saved = if self.resume { saved_config(&out)? } else { None };
        let base = match (saved, &preset) {
            (Some(saved), None) => saved,
            (Some(saved), Some(name)) if *name == saved.preset => saved,
            _ if is_classifier => TrainConfig::classifier_preset(name)?,
            _ => TrainConfig::preset(name)?,
        };
        let config = TrainConfig::overlay(&base, self.config.as_deref(), &self.set, self.flags())?;
        Ok((out, config))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    cli::exit(cli::with_threads(args.threads, || {
        cli::note_forced_method();
        run(&args)
    }))
}

fn run(args: &Args) -> Result<()> {
    let (out, config) = args.settings()?;
    let device = cli::check_machine(&args.device, Precision::from_name(&config.precision)?)?;
    if config.has_tokens()
        && let Some(note) = TokenData::left_out(&config.data, config.tokenizer()?)?
    {
        eprintln!("note: {note}");
    }
    let options = RunOptions { out, resume: args.resume, overwrite: args.overwrite, device };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        // A second Ctrl-C does not wait for the checkpoint.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step and saving; press again to leave at once");
    })
    .map_err(|e| Error::Usage(format!("Ctrl-C cannot be caught: {e}")))?;

    let bar = cli::progress_bar(config.steps);
    let mut smooth = None;
    let rows = if config.has_tokens() { "sequences" } else { "images" };
    let outcome = train(&config, &options, &stop, |report, steps| {
        if smooth.is_none() {
            let (data, batch, out) = (&config.data, config.batch, options.out.display());
            eprintln!("training on {data}: {steps} steps of {batch} {rows} on {device}, into {out}");
        }
        let mean = smooth.map_or(report.loss, |mean: f64| mean + 0.03 * (report.loss - mean));
        smooth = Some(mean);
        bar.set_position(report.step + 1);
        if let Some(text) = &report.text {
            // Of many lines the first ones.
            let lines = text.lines().take(4).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
            bar.suspend(|| eprintln!("step {}:\n{}", report.step + 1, cli::harmless(&lines)));
        }
        bar.set_message(format!("loss {mean:.4}  {} {rows}/s", rate(report.rows_per_second)));
    });
    bar.finish_and_clear();
    let summary = outcome?;
    finish(args, &config, &summary)
}

fn finish(args: &Args, config: &TrainConfig, s: &TrainSummary) -> Result<()> {
    let model = s.model.display();
    let has_tokens = s.rows == "sequences";
    let validation = s.val_loss.map_or(String::new(), |loss| format!(", {} {loss:.4}", s.measure));
    if s.new_steps == 0 && !s.stopped {
        eprintln!("{model} has done its {} steps already; ask for more with --steps", s.steps);
        return print_json(args, s);
    }
    let state = if s.stopped { "stopped at" } else { "trained" };
    eprintln!(
        "{state} {} steps in {:.1} s ({} {}/s, {} parameters): loss {:.4}{validation}",
        s.steps,
        s.seconds,
        rate(s.rows_per_second),
        s.rows,
        s.parameters,
        s.loss
    );
    if !s.stopped && s.val_loss.is_none() && config.validate_every > 0 {
        eprintln!("no {}: too little of the data is held out, two {} are wanted", s.measure, s.rows);
    }
    if s.stopped {
        eprintln!("continue with: cargo run --release --bin train -- --out {model} --resume");
    } else {
        eprintln!("wrote {model} (samples/, loss.png, metrics.jsonl)");
        if s.task == CLASSIFIER {
            eprintln!("next: cargo run --release --bin eval -- --model {model} --metric accuracy");
            eprintln!(
                "and:  cargo run --release --bin sample -- --model runs/MODEL --guidance classifier --classifier {model} --class 3"
            );
            return print_json(args, s);
        }
        let more = match (s.class_conditional, has_tokens && TokenData::is_text(&config.data)) {
            (_, true) => " --count 4",
            (true, false) => " --class 3 --count 64 --out samples.png",
            (false, false) => " --count 64 --out samples.png",
        };
        eprintln!("next: cargo run --release --bin sample -- --model {model}{more}");
    }
    print_json(args, s)
}

/// A rate with three digits, also where a step takes seconds.
fn rate(per_second: f64) -> String {
    let digits = if per_second < 1.0 { 3 } else { (2.0 - per_second.log10().floor()).max(0.0) as usize };
    format!("{per_second:.digits$}")
}

fn print_json(args: &Args, s: &TrainSummary) -> Result<()> {
    if args.json {
        let text = serde_json::to_string(s).map_err(|e| Error::Model(format!("summary: {e}")))?;
        cli::print_line(&text);
    }
    Ok(())
}
