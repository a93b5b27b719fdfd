//! Measures a model folder, or runs its network once.

// Help texts are read in a terminal: their brackets are shapes, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tweedie::data::Dataset;
use tweedie::device::Device;
use tweedie::error::unknown_name;
use tweedie::eval::{LossOptions, denoising_loss};
use tweedie::io::ModelFolder;
use tweedie::nn::Precision;
use tweedie::ops::{ConvAccuracy, set_conv_accuracy};
use tweedie::pipeline::{ClassifierPipeline, Pipeline};
use tweedie::{Error, Result, cli};

/// Measure a model, or run its network once on given input.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  eval --model runs/digits --metric loss
  eval --model runs/digits --metric loss --weights raw --count 100 --json
  eval --model runs/digits --metric bpd --metric ode-bpd --count 60
  eval --model runs/digits-classifier --metric accuracy
  eval --model runs/text --metric bpc
  eval --model runs/digits --forward in.safetensors --out out.safetensors"
)]
struct Args {
    /// Model folder, as train or diffusers writes it
    #[arg(long)]
    model: PathBuf,
    /// Data set [default: the one the model was trained on]
    #[arg(long)]
    data: Option<String>,
    /// What to measure on held-out images: loss (mean eps-loss), bpd (variational bound in bits/dim, split in L_T, L_{t-1} and L_0), ode-bpd
    /// (density of the probability-flow ODE in bits/dim, of dequantised images); of tokens, bpc (bound in bits per token of held-out text)
    /// or bpd (of images); of a classifier, accuracy by noise level; may be repeated [default: loss, bpc or bpd, or accuracy]
    #[arg(long)]
    metric: Vec<String>,
    /// Run the network once: x [n,h,w,c], t [n], optional class_labels [n]; writes net_out [n,h,w,c]
    #[arg(long, value_name = "IN.safetensors", requires = "out")]
    forward: Option<PathBuf>,
    /// Where --forward writes
    #[arg(long, value_name = "OUT.safetensors", requires = "forward")]
    out: Option<PathBuf>,
    /// Held-out images to measure on [default: all]
    #[arg(long)]
    count: Option<usize>,
    /// ema (the moving average) or raw
    #[arg(long, default_value = "ema")]
    weights: String,
    /// Seed of times, noise, probes and dequantisation
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    likelihood: cli::LikelihoodFlags,
    /// auto (a GPU if there is one), cpu, cuda or cuda:INDEX
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads, 0 for all cores; the result does not depend on it
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// How the CPU computes convolutions: exact, default or fast (errors of 1e-6 to 3e-6 each)
    #[arg(long, value_name = "NAME", default_value = "default")]
    conv_accuracy: String,
    /// f32, or bf16 for activations and products on the CPU
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

const ACCURACY: &str = "accuracy";
const METRICS: [&str; 5] = ["loss", "bpd", "ode-bpd", "bpc", ACCURACY];

/// Flags that a model of tokens reads.
const OF_TOKENS: [&str; 11] =
    ["model", "data", "metric", "count", "weights", "seed", "draws", "device", "threads", "precision", "json"];

fn main() -> ExitCode {
    let matches = Args::command().get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    cli::exit(cli::with_threads(args.threads, || run(&args, &matches)))
}

/// The bound of a model of tokens.
fn run_tokens(args: &Args, device: Device) -> Result<()> {
    let pipeline = cli::load_tokens(&args.model, cli::weights_flag(&args.weights)?, None, device)?;
    let (draws, seed) = (args.likelihood.draws, args.seed);
    let (metric, data, value, text) =
        cli::token_bits(&pipeline, (&args.metric, args.data.as_deref()), (args.count, draws, seed))?;
    if args.json {
        cli::print_line(&json!({ "model": args.model, "data": data, metric: value }).to_string());
    } else {
        println!("{text}");
    }
    Ok(())
}

fn run(args: &Args, matches: &ArgMatches) -> Result<()> {
    let precision = Precision::from_name(&args.precision)?;
    let device = cli::check_machine(&args.device, precision)?;
    set_conv_accuracy(ConvAccuracy::from_name(&args.conv_accuracy)?);
    if args.count == Some(0) {
        return Err(Error::Usage("--count 0: expected at least 1".into()));
    }
    if let Some(name) = args.metric.iter().find(|m| !METRICS.contains(&m.as_str())) {
        return Err(unknown_name("metric", name, &METRICS));
    }
    let has_tokens = cli::has_tokens(&args.model);
    cli::check_kind(matches, &OF_TOKENS, has_tokens)?;
    if has_tokens {
        return run_tokens(args, device);
    }
    if args.metric.iter().any(|m| m == "bpc") {
        return Err(Error::Usage("--metric bpc: has no meaning for a model of images; use --metric bpd".into()));
    }
    let weights = cli::weights_flag(&args.weights)?;
    if ModelFolder::new(&args.model).is_classifier()? {
        return measure_classifier(args, device, precision);
    }
    if args.metric.iter().any(|m| m == ACCURACY) {
        return Err(Error::Usage(format!(
            "--metric accuracy: \"{}\" is no classifier; train one with train --task classifier",
            args.model.display()
        )));
    }
    let pipeline = Pipeline::load_weights(&args.model, weights)?.to_device(device)?.with_precision(precision);
    match (&args.forward, &args.out) {
        (Some(input), Some(output)) => forward(&pipeline, input, output),
        _ => measure(args, &pipeline),
    }
}

fn measure_classifier(args: &Args, device: Device, precision: Precision) -> Result<()> {
    if let Some(name) = args.metric.iter().find(|m| *m != ACCURACY) {
        return Err(Error::Usage(format!(
            "--metric {name}: the model is a classifier; it has --metric accuracy alone"
        )));
    }
    if args.forward.is_some() {
        return Err(Error::Usage("--forward: the model is a classifier; name a diffusion model".into()));
    }
    let weights = cli::weights_flag(&args.weights)?;
    let classifier = ClassifierPipeline::load(&args.model, weights)?.to_device(device)?.with_precision(precision);
    let own = classifier.description();
    let spec = args.data.clone().unwrap_or_else(|| own.data.clone());
    let data = Dataset::load(&spec, own.split_seed)?;
    if data.shape() != own.image_shape {
        let (d, m) = (data.shape(), own.image_shape);
        return Err(Error::Usage(format!(
            "--data {spec}: images of {d:?}, the classifier wants {m:?} (height, width, channels)"
        )));
    }
    let (report, text) =
        cli::accuracy(&classifier, &data, (args.count, args.seed), args.likelihood.plot.as_deref(), &args.model)?;
    match args.json {
        true => cli::print_line(&json!({ "model": args.model, "data": spec, "accuracy": report }).to_string()),
        false => cli::print_line(&text),
    }
    Ok(())
}

fn forward(pipeline: &Pipeline, input: &Path, output: &Path) -> Result<()> {
    let shape = cli::forward_file(pipeline, input, output)?;
    eprintln!("net_out {shape}: wrote {}", output.display());
    Ok(())
}

fn measure(args: &Args, pipeline: &Pipeline) -> Result<()> {
    let own = pipeline.description();
    let Some(spec) = args.data.clone().or_else(|| own.map(|o| o.data.clone())) else {
        return Err(Error::Usage("--data: the model does not say what it was trained on; name a data set".into()));
    };
    let data = Dataset::load(&spec, own.map_or(0, |o| o.split_seed))?;
    if data.shape() != pipeline.image_shape() {
        let (d, m) = (data.shape(), pipeline.image_shape());
        return Err(Error::Usage(format!(
            "--data {spec}: images of {d:?}, the model wants {m:?} (height, width, channels)"
        )));
    }
    let asks = |name: &str| args.metric.iter().any(|m| m == name) || (name == "loss" && args.metric.is_empty());
    let mut map = Map::new();
    map.insert("model".into(), json!(args.model));
    map.insert("data".into(), json!(spec));
    let mut add = |name: &str, report: serde_json::Result<Value>, text: &str| {
        map.insert(name.into(), report.map_err(|e| Error::Model(format!("report: {e}")))?);
        if !args.json {
            println!("{text}");
        }
        Ok::<(), Error>(())
    };
    if asks("loss") {
        let images = args.count.unwrap_or(usize::MAX);
        let options = LossOptions { images, seed: args.seed, ..LossOptions::default() };
        let loss = denoising_loss(pipeline.unet(), pipeline.params(), pipeline.scheduler(), &data, &options)?;
        let text = format!(
            "loss  {:.5} ± {:.5}  (mean eps-loss, {} held-out images × {} levels, seed {})",
            loss.mean, loss.standard_error, loss.images, loss.draws, loss.seed
        );
        add("loss", serde_json::to_value(&loss), &text)?;
    }
    if asks("bpd") || asks("ode-bpd") {
        let measured = cli::measured(pipeline, &data, &args.likelihood, args.count, args.seed)?;
        if asks("bpd") {
            let (report, text) = cli::bpd(&measured, &args.likelihood, &args.model)?;
            add("bpd", serde_json::to_value(&report), &text)?;
        }
        if asks("ode-bpd") {
            let (report, text) = cli::ode_bpd(&measured, &args.likelihood)?;
            add("ode_bpd", serde_json::to_value(&report), &text)?;
        }
    }
    if args.json {
        cli::print_line(&Value::Object(map).to_string());
    }
    Ok(())
}
