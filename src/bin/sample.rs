//! Draws samples from a model folder.

// Help texts are read in a terminal: their brackets are shapes, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tweedie::cli::{self, EditArgs, OutputKind, Sheet, TokenFlags, TokenRequest};
use tweedie::device::Device;
use tweedie::nn::Precision;
use tweedie::ops::{ConvAccuracy, set_conv_accuracy};
use tweedie::pipeline::{Pipeline, SampleOptions};
use tweedie::sampler::{Churn, Corrector, DdimNoise, GridKind, SamplerKind, SamplerOptions};
use tweedie::{Error, Result};

/// Draw samples from a model folder: images as a picture, an animation or tensors, or text.
#[derive(Parser)]
#[command(
    version,
    after_help = cli::help(
        "Examples:
  sample --model runs/digits --class 3 --count 64 --out threes.png
  sample --model runs/digits --sampler ddim --steps 25 --out digits.gif
  sample --model runs/digits --sampler ddpm --steps 1000 --count 1000 --out x.safetensors --json
  sample --model runs/digits --class 3 --guidance-scale 2 --out clear_threes.png
  sample --model runs/flags --inpaint flag.png --mask left --resample 10 --count 15 --out filled.png
  sample --model runs/flags --colorize grey.png --count 15 --out coloured.png
  sample --model runs/digits-unconditional --classifier runs/digits-classifier --guidance-scale 2 --class 3 --out threes.png
  sample --model runs/digits --interpolate 3 17 --count 11 --out strip.png
  sample --model runs/digits --sampler dpmpp_2m --spacing log_snr --steps 12 --out fast.png
  sample --model runs/text --count 4
  sample --model runs/text --infill \"To be, or ____ to be\" --count 3
  sample --model runs/digits --sampler heun --steps 50 --encode images.safetensors --out latents.safetensors"
    )
)]
struct Args {
    /// Model folder, as train or diffusers writes it
    #[arg(long)]
    model: PathBuf,
    /// ddpm, ddim, euler, heun, rk4, rk45, euler_maruyama, predictor_corrector, edm, dpmpp_2m or euler_ancestral [default: ddpm, for
    /// --interpolate heun]; of tokens: tau_leaping, analytic, d3pm, cached or gillespie [default: cached, where the network is not told the noise, else analytic]
    #[arg(long)]
    sampler: Option<String>,
    /// Steps [default: 50, of tokens 256]; an evaluation of the network each, 2 for heun and edm, 4 for rk4, 1 + --corrector-steps for predictor_corrector
    #[arg(long)]
    steps: Option<usize>,
    /// Levels that are visited: leading, trailing, linspace (the times of ddpm), uniform, quadratic, karras, log_snr
    #[arg(long, conflicts_with = "tau")]
    spacing: Option<String>,
    /// Text file with the times 1 to T that are visited, ascending, the last one T
    #[arg(long, value_name = "FILE", conflicts_with = "steps")]
    tau: Option<PathBuf>,
    /// Share of fresh noise: 0 deterministic, 1 as DDPM [default: ddim 0, euler_ancestral 1]
    #[arg(long, allow_negative_numbers = true)]
    eta: Option<f64>,
    /// ddim: standard deviation of the fresh noise instead of --eta: a number for every step but the last, or a text file with one
    /// for each step, the noisiest first
    #[arg(long, value_name = "SIGMA|FILE", allow_negative_numbers = true, conflicts_with = "eta")]
    raw_sigma: Option<String>,
    /// ddpm: variance of the reverse step, small (beta-tilde), large (beta) or learned (by the network) [default: the model's]
    #[arg(long)]
    variance: Option<String>,
    /// ddpm: add noise in the last step too, as the lecture documents print it
    #[arg(long)]
    noise_at_end: bool,
    /// rk45: bound of the local error [default: 1e-4]
    #[arg(long, allow_negative_numbers = true)]
    tolerance: Option<f64>,
    /// edm: S_churn, the noise that is added and removed again [default: 0]
    #[arg(long, allow_negative_numbers = true)]
    churn: Option<f64>,
    /// predictor_corrector: Langevin steps after each step [default: 1]
    #[arg(long)]
    corrector_steps: Option<usize>,
    /// predictor_corrector: signal-to-noise ratio of a Langevin step [default: 0.16]
    #[arg(long, allow_negative_numbers = true)]
    corrector_snr: Option<f64>,
    /// DDIM: recompute the noise estimate from the clipped image estimate
    #[arg(long)]
    recompute_eps: bool,
    /// Images [default: 64], or texts [default: 4]
    #[arg(long)]
    count: Option<usize>,
    /// Seed; sample i of a seed is the same at any --count, --batch and --threads
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Class number, or none for the null class [default: classes take turns; the null class along --interpolate]
    #[arg(long, allow_negative_numbers = true)]
    class: Option<String>,
    /// ema (the moving average) or raw
    #[arg(long, default_value = "ema")]
    weights: String,
    /// safetensors file with the start x_T [n,h,w,c]
    #[arg(long)]
    init: Option<PathBuf>,
    /// safetensors file with the noise of each step, z_0000, z_0001, … [n,h,w,c]
    #[arg(long)]
    noise: Option<PathBuf>,
    /// Run a deterministic sampler backwards from the images x0 [n,h,w,c] of this safetensors file; --out gets their x_T, from
    /// which --init comes back (with ddim, add --recompute-eps)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["init", "noise", "count", "inpaint", "colorize"])]
    encode: Option<PathBuf>,
    /// What the network must have been told of the time: ddpm_index, time or log_snr; another model is refused
    #[arg(long, value_name = "NAME")]
    time_convention: Option<String>,
    /// Write every state: FILE.safetensors (x_0000…, x0_hat_0000…) or FILE.gif
    #[arg(long)]
    trajectory: Option<PathBuf>,
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
    /// Images or texts per network evaluation; the result does not depend on it
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// f32, or bf16 for activations and products on the CPU
    #[arg(long, default_value = "f32")]
    precision: String,
    /// FILE.png, FILE.gif or FILE.safetensors (x0 [n,h,w,c] in [-1,1]) [default: samples.png]; FILE.txt of texts, which are printed too
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    edit: EditArgs,
    #[command(flatten)]
    tokens: TokenFlags,
}

/// Flags that a model of tokens reads.
const OF_TOKENS: [&str; 15] = [
    "model",
    "sampler",
    "steps",
    "count",
    "seed",
    "weights",
    "device",
    "threads",
    "batch",
    "precision",
    "out",
    "json",
    "infill",
    "length",
    "graph",
];

impl Args {
    /// Refuses flags that the sampler does not read.
    fn check_flags(&self, sampler: SamplerKind) -> Result<()> {
        use SamplerKind::{Ddim, Ddpm, Edm, EulerAncestral, PredictorCorrector, Rk45};
        let flags: [(&str, bool, &[SamplerKind]); 9] = [
            ("--eta", self.eta.is_some(), &[Ddim, EulerAncestral]),
            ("--raw-sigma", self.raw_sigma.is_some(), &[Ddim]),
            ("--recompute-eps", self.recompute_eps, &[Ddim]),
            ("--variance", self.variance.is_some(), &[Ddpm]),
            ("--noise-at-end", self.noise_at_end, &[Ddpm]),
            ("--tolerance", self.tolerance.is_some(), &[Rk45]),
            ("--churn", self.churn.is_some(), &[Edm]),
            ("--corrector-steps", self.corrector_steps.is_some(), &[PredictorCorrector]),
            ("--corrector-snr", self.corrector_snr.is_some(), &[PredictorCorrector]),
        ];
        let name = sampler.name();
        for (flag, given, readers) in flags {
            if given && !readers.contains(&sampler) {
                let use_them = readers.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" or ");
                return Err(Error::Usage(format!(
                    "{flag}: has no meaning for --sampler {name}; use --sampler {use_them}"
                )));
            }
        }
        if sampler == Rk45 && (self.steps.is_some() || self.tau.is_some() || self.spacing.is_some()) {
            return Err(Error::Usage("--sampler rk45: chooses its own steps; say --tolerance instead of them".into()));
        }
        Ok(())
    }

    fn settings(&self, steps: usize) -> Result<SamplerOptions> {
        let usual = SamplerOptions::default();
        let noise = match (&self.raw_sigma, self.eta) {
            (Some(text), _) => DdimNoise::Sigma(cli::raw_sigmas(text, steps)?),
            (None, eta) => DdimNoise::Eta(eta.unwrap_or(0.0)),
        };
        Ok(SamplerOptions {
            noise,
            recompute_eps: self.recompute_eps,
            noise_at_end: self.noise_at_end,
            ancestral_eta: self.eta.unwrap_or(usual.ancestral_eta),
            tolerance: self.tolerance.unwrap_or(usual.tolerance),
            churn: Churn { churn: self.churn.unwrap_or(usual.churn.churn), ..usual.churn },
            corrector: Corrector {
                steps: self.corrector_steps.unwrap_or(usual.corrector.steps),
                snr: self.corrector_snr.unwrap_or(usual.corrector.snr),
            },
            ..usual
        })
    }
}

fn main() -> ExitCode {
    let matches = Args::command().get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    cli::exit(cli::with_threads(args.threads, || run(&args, &matches)))
}

/// A model of tokens.
fn run_tokens(args: &Args, device: Device, precision: Precision) -> Result<()> {
    if precision != Precision::F32 {
        return Err(Error::Usage(format!("--precision {}: the transformer computes in f32 alone", args.precision)));
    }
    let weights = cli::weights_flag(&args.weights)?;
    let pipeline = cli::load_tokens(&args.model, weights, args.tokens.graph.as_deref(), device)?;
    let request = TokenRequest {
        sampler: args.sampler.as_deref(),
        steps: args.steps,
        count: args.count,
        seed: args.seed,
        batch: args.batch,
        out: args.out.clone(),
        json: args.json,
        flags: &args.tokens,
    };
    cli::sample_text(&pipeline, &request)
}

fn run(args: &Args, matches: &ArgMatches) -> Result<()> {
    let precision = Precision::from_name(&args.precision)?;
    let device = cli::check_machine(&args.device, precision)?;
    let has_tokens = cli::has_tokens(&args.model)?;
    cli::check_kind(matches, &OF_TOKENS, has_tokens)?;
    if has_tokens {
        return run_tokens(args, device, precision);
    }
    set_conv_accuracy(ConvAccuracy::from_name(&args.conv_accuracy)?);
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("samples.png"));
    let kind = OutputKind::of("--out", &out)?;
    let trajectory = match &args.trajectory {
        Some(path) => Some((path, OutputKind::of_states("--trajectory", path)?)),
        None => None,
    };
    let is_strip = !args.edit.interpolate.is_empty();
    let usual = if is_strip { SamplerKind::Heun } else { SamplerKind::Ddpm };
    let sampler = args.sampler.as_deref().map_or(Ok(usual), cli::sampler_flag)?;
    args.check_flags(sampler)?;
    let class = cli::class_flag(args.class.as_deref())?;
    let weights = cli::weights_flag(&args.weights)?;
    let pipeline = Pipeline::load_weights(&args.model, weights)?.to_device(device)?.with_precision(precision);
    cli::check_time_convention(args.time_convention.as_deref(), &pipeline)?;
    let known = args.edit.known(pipeline.image_shape())?;
    let tau = args.tau.as_deref().map(cli::read_tau).transpose()?;
    let all = pipeline.scheduler().num_train_timesteps;
    let steps = tau.as_ref().map_or(args.steps.unwrap_or(all.min(50)), Vec::len);
    let spacing = match (tau, &args.spacing) {
        (Some(tau), _) => Some(GridKind::Tau(tau)),
        (None, Some(name)) => Some(GridKind::from_name(name)?),
        (None, None) => None,
    };
    let mut options = SampleOptions {
        sampler,
        steps,
        spacing,
        variance: args.variance.as_deref().map(cli::variance_flag).transpose()?,
        settings: args.settings(steps)?,
        count: args.count.unwrap_or(64),
        class,
        seed: args.seed,
        batch: args.batch,
        init: args.init.as_deref().map(cli::read_init).transpose()?,
        noise: args.noise.as_deref().map(cli::read_noise).transpose()?,
        trajectory: kind == OutputKind::Gif || trajectory.is_some(),
        guidance: args.edit.guidance(&args.device, precision)?,
        known: known.as_ref().map(|(known, _)| known.clone()),
        resampling: args.edit.resampling()?,
    };
    let bar = cli::progress_bar(0);
    let mut show = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    if is_strip {
        options.class = cli::strip_class(&pipeline, options.class)?;
        options.init = Some(cli::interpolation(&pipeline, &args.edit.interpolate, &options, &mut show)?);
    }
    let outcome = match &args.encode {
        Some(path) => pipeline.encode(&cli::read_images(path)?, &options, &mut show),
        None => pipeline.sample_with(&options, &mut show),
    };
    bar.finish_and_clear();
    let samples = outcome?;
    let columns = is_strip.then_some(options.count);
    cli::write_samples(&out, kind, &samples, Sheet { shown: known.as_ref().map(|(_, shown)| shown), columns })?;
    if let Some((path, kind)) = trajectory {
        cli::write_trajectory(path, kind, &samples)?;
    }
    eprintln!(
        "{} {}, {} evaluations each, {:.2} s: wrote {}",
        samples.x0.shape()[0],
        if args.encode.is_some() { "images encoded" } else { "samples" },
        samples.nfe,
        samples.seconds,
        out.display()
    );
    if args.json {
        let text = json!({
            "seconds": samples.seconds,
            "nfe": samples.nfe,
            "seconds_per_nfe": samples.seconds / samples.nfe as f64,
            "count": samples.x0.shape()[0],
            "images_per_second": samples.x0.shape()[0] as f64 / samples.seconds,
            "sampler": sampler.name(),
            "steps": steps,
            "seed": args.seed,
            "precision": args.precision,
            "conv_accuracy": args.conv_accuracy,
            "out": out,
        });
        cli::print_line(&serde_json::to_string(&text).map_err(|e| Error::Model(format!("summary: {e}")))?);
    }
    Ok(())
}
