//! Measures a model folder, or runs its network once.

// Help texts are read in a terminal: their brackets are shapes, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tweedie::cli::{self, Standing};
use tweedie::data::{Dataset, TokenData};
use tweedie::device::Device;
use tweedie::error::unknown_name;
use tweedie::eval::{LossOptions, denoising_loss};
use tweedie::io::ModelFolder;
use tweedie::nn::Precision;
use tweedie::ops::{ConvAccuracy, set_conv_accuracy};
use tweedie::pipeline::{ClassifierPipeline, Pipeline};
use tweedie::process::ProcessConfig;
use tweedie::{Error, Result};

/// Measure a model, or run its network once on given input.
#[derive(Parser)]
#[command(
    version,
    after_help = cli::help(
        "Examples:
  eval --model runs/digits --metric loss
  eval --model runs/digits --metric loss --weights raw --count 100 --json
  eval --model runs/digits --metric bpd --metric ode-bpd --count 60
  eval --model runs/digits-likelihood --model runs/digits-tokens --metric bpd
  eval --model runs/digits-classifier --metric accuracy
  eval --model runs/text --metric bpc
  eval --model runs/digits --forward in.safetensors --out out.safetensors"
    )
)]
struct Args {
    /// Model folder, as train or diffusers writes it; several stand side by side
    #[arg(long, required = true)]
    model: Vec<PathBuf>,
    /// Data set [default: the one the model was trained on]
    #[arg(long)]
    data: Option<String>,
    /// What to measure on held-out images: loss (mean eps-loss), bpd (variational bound in bits/dim, split in L_T, L_{t-1} and L_0), ode-bpd
    /// (density of the probability-flow ODE in bits/dim, of dequantised images); of tokens, bpc (bound in bits per character of held-out text,
    /// or per byte or word of the model's tokens) or bpd (of images); of a classifier, accuracy by noise level; may be repeated [default: loss,
    /// bpc or bpd, or accuracy; bpd beside a model of another kind]
    #[arg(long)]
    metric: Vec<String>,
    /// Run the network once: x [n,h,w,c], t [n], optional class_labels [n]; writes net_out [n,h,w,c]
    #[arg(long, value_name = "IN.safetensors", requires = "out")]
    forward: Option<PathBuf>,
    /// Where --forward writes
    #[arg(long, value_name = "OUT.safetensors", requires = "forward")]
    out: Option<PathBuf>,
    /// Held-out images, or sequences of a text, to measure on [default: all]
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
    /// 3x3 convolutions on the CPU, whatever the model was trained with: default; fast (errors of 1e-6 to 3e-6 each, more memory); exact (plain
    /// sums: slower, least memory, errors as small as the default's)
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

/// One model's numbers, printed as they come: for JSON, and for the table.
type Measured = (Map<String, Value>, Vec<Standing>);

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
    let kinds: Vec<bool> = args.model.iter().map(|model| cli::has_tokens(model)).collect::<Result<_>>()?;
    // A flag must mean something to one of them.
    let mut checks = kinds.iter().map(|has_tokens| cli::check_kind(matches, &OF_TOKENS, *has_tokens));
    if !checks.clone().any(|check| check.is_ok()) {
        checks.next().transpose()?;
    }
    let is_one = kinds.len() == 1;
    for (flag, given) in [("--forward", args.forward.is_some()), ("--plot", args.likelihood.plot.is_some())] {
        if given && !is_one {
            return Err(Error::Usage(format!("{flag}: writes one file; name one --model with it")));
        }
    }
    let metrics = cli::metrics_of_all(&args.model, &args.metric)?;
    let (mut maps, mut standings) = (Vec::new(), Vec::new());
    for (model, has_tokens) in args.model.iter().zip(kinds) {
        if !is_one && !args.json {
            println!("{}:", model.display());
        }
        let one = One { args, model, metrics: &metrics, device, precision };
        let (map, mut own) = if has_tokens { one.tokens() } else { one.images() }?;
        maps.push(Value::Object(map));
        standings.append(&mut own);
    }
    match (args.json, is_one) {
        (false, _) => print!("{}", cli::side_by_side(&standings)),
        // Empty after --forward.
        (true, true) if maps[0].as_object().is_some_and(Map::is_empty) => {}
        (true, true) => cli::print_line(&maps.remove(0).to_string()),
        (true, false) => cli::print_line(&json!({ "models": maps }).to_string()),
    }
    Ok(())
}

/// One model, and what is asked of it.
struct One<'a> {
    args: &'a Args,
    model: &'a Path,
    metrics: &'a [String],
    device: Device,
    precision: Precision,
}

impl One<'_> {
    /// The bound of a model of tokens.
    fn tokens(&self) -> Result<Measured> {
        let args = self.args;
        if self.precision != Precision::F32 {
            return Err(Error::Usage(format!("--precision {}: the transformer computes in f32 alone", args.precision)));
        }
        let pipeline = cli::load_tokens(self.model, cli::weights_flag(&args.weights)?, None, self.device)?;
        let (draws, seed) = (args.likelihood.draws, args.seed);
        let (value, text, mut standing) = cli::token_bits(&pipeline, args.data.as_deref(), (args.count, draws, seed))?;
        if !args.json {
            println!("{text}");
        }
        standing.model = self.model.to_path_buf();
        let mut map = self.map(&standing.on_data);
        map.insert(standing.metric.into(), value);
        Ok((map, vec![standing]))
    }

    fn map(&self, data: &str) -> Map<String, Value> {
        Map::from_iter([("model".to_string(), json!(self.model)), ("data".to_string(), json!(data))])
    }

    fn images(&self) -> Result<Measured> {
        let weights = cli::weights_flag(&self.args.weights)?;
        if ModelFolder::new(self.model).is_classifier()? {
            return self.classifier();
        }
        let pipeline = Pipeline::load_weights(self.model, weights)?.to_device(self.device)?;
        let pipeline = pipeline.with_precision(self.precision);
        match (&self.args.forward, &self.args.out) {
            (Some(input), Some(output)) => forward(&pipeline, input, output).map(|()| (Map::new(), Vec::new())),
            _ => self.diffusion(&pipeline),
        }
    }

    fn classifier(&self) -> Result<Measured> {
        let args = self.args;
        if args.forward.is_some() {
            return Err(Error::Usage("--forward: the model is a classifier; name a diffusion model".into()));
        }
        let weights = cli::weights_flag(&args.weights)?;
        let classifier = ClassifierPipeline::load(self.model, weights)?.to_device(self.device)?;
        let classifier = classifier.with_precision(self.precision);
        let own = classifier.description();
        let spec = args.data.clone().unwrap_or_else(|| own.data.clone());
        let data = self.data(&spec, own.split_seed, own.image_shape)?;
        let plot = args.likelihood.plot.as_deref();
        let (report, text) = cli::accuracy(&classifier, &data, (args.count, args.seed), plot, self.model)?;
        if !args.json {
            cli::print_line(&text);
        }
        let mut map = self.map(&spec);
        // At most: as if an image were told at all levels or at none.
        let value = (report.accuracy, (report.accuracy * (1.0 - report.accuracy) / report.images as f64).sqrt());
        let standing = self.standing(ACCURACY, "", value, (&data, report.images), "classifier".into());
        map.insert(ACCURACY.into(), json!(report));
        Ok((map, vec![standing]))
    }

    /// The held-out data, of the model's sizes.
    fn data(&self, spec: &str, split_seed: u64, shape: [usize; 3]) -> Result<Dataset> {
        if TokenData::is_text(spec) {
            return Err(Error::Usage(format!("--data {spec}: expected images, got a text")));
        }
        let data = Dataset::load(spec, split_seed)?;
        let got = data.shape();
        if got != shape {
            return Err(Error::Usage(format!(
                "--data {spec}: images of {got:?}, the model wants {shape:?} (height, width, channels)"
            )));
        }
        Ok(data)
    }

    fn standing(
        &self,
        metric: &'static str,
        unit: &'static str,
        value: (f64, f64),
        (data, images): (&Dataset, usize),
        kind: String,
    ) -> Standing {
        let on = cli::held_out_images(data.name(), data.max_value() as usize + 1, images);
        Standing { model: self.model.into(), kind, metric, unit, value, on, on_data: data.name().into() }
    }

    fn diffusion(&self, pipeline: &Pipeline) -> Result<Measured> {
        let (args, own) = (self.args, pipeline.description());
        let Some(spec) = args.data.clone().or_else(|| own.map(|o| o.data.clone())) else {
            return Err(Error::Usage("--data: the model does not say what it was trained on; name a data set".into()));
        };
        let data = self.data(&spec, own.map_or(0, |o| o.split_seed), pipeline.image_shape())?;
        let asks = |name: &str| self.metrics.iter().any(|m| m == name) || (name == "loss" && self.metrics.is_empty());
        let process = pipeline.scheduler().continuous.as_ref().map_or("ddpm", ProcessConfig::name);
        let kind = format!("continuous, {process}, {}", pipeline.scheduler().prediction.name());
        let (mut map, mut standings) = (self.map(&spec), Vec::new());
        let mut add = |standing: Standing, report: serde_json::Result<Value>, text: &str| {
            let key = standing.metric.replace('-', "_");
            map.insert(key, report.map_err(|e| Error::Model(format!("report: {e}")))?);
            standings.push(standing);
            if !args.json {
                println!("{text}");
            }
            Ok::<(), Error>(())
        };
        let stands = |metric, unit, value, images| self.standing(metric, unit, value, (&data, images), kind.clone());
        let of_bound = |bound: &str, value, images| {
            self.standing("bpd", "bits/dim", value, (&data, images), format!("{kind}; {bound}"))
        };
        if asks("loss") {
            let images = args.count.unwrap_or(usize::MAX);
            let options = LossOptions { images, seed: args.seed, ..LossOptions::default() };
            let loss = denoising_loss(pipeline.unet(), pipeline.params(), pipeline.scheduler(), &data, &options)?;
            let text = format!(
                "loss  {:.5} ± {:.5}  (mean eps-loss, {} held-out images × {} levels, seed {})",
                loss.mean, loss.standard_error, loss.images, loss.draws, loss.seed
            );
            let standing = stands("loss", "", (loss.mean, loss.standard_error), loss.images);
            add(standing, serde_json::to_value(&loss), &text)?;
        }
        if asks("bpd") || asks("ode-bpd") {
            let measured = cli::measured(pipeline, &data, &args.likelihood, args.count, args.seed)?;
            if asks("bpd") {
                let (report, text) = cli::bpd(&measured, &args.likelihood, self.model)?;
                let value = (report.total.mean, report.total.standard_error);
                add(of_bound(&report.bound, value, report.images), serde_json::to_value(&report), &text)?;
            }
            if asks("ode-bpd") {
                let (report, text) = cli::ode_bpd(&measured, &args.likelihood)?;
                let value = (report.total.mean, report.total.standard_error);
                add(stands("ode-bpd", "bits/dim", value, report.images), serde_json::to_value(&report), &text)?;
            }
        }
        Ok((map, standings))
    }
}

fn forward(pipeline: &Pipeline, input: &Path, output: &Path) -> Result<()> {
    let shape = cli::forward_file(pipeline, input, output)?;
    eprintln!("net_out {shape}: wrote {}", output.display());
    Ok(())
}
