//! Draws samples from a model folder.

// Help texts are read in a terminal: their brackets are shapes, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use clap::Parser;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tweedie::cli::{self, OutputKind};
use tweedie::pipeline::{Pipeline, SampleOptions};
use tweedie::sampler::SamplerKind;
use tweedie::{Error, Result};

/// Draw samples from a model folder as a picture, an animation or tensors.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  sample --model runs/digits --class 3 --count 64 --out threes.png
  sample --model runs/digits --sampler ddim --steps 25 --out digits.gif
  sample --model runs/digits --sampler ddpm --steps 1000 --count 1000 --out x.safetensors --json"
)]
struct Args {
    /// Model folder, as train or diffusers writes it
    #[arg(long)]
    model: PathBuf,
    /// ddpm (ancestral) or ddim
    #[arg(long, default_value = "ddpm")]
    sampler: String,
    /// Network evaluations, 1 to the model's number of times [default: 50]
    #[arg(long)]
    steps: Option<usize>,
    /// DDIM's share of fresh noise: 0 deterministic, 1 as DDPM [default: 0]
    #[arg(long, allow_negative_numbers = true)]
    eta: Option<f64>,
    /// DDIM: recompute the noise estimate from the clipped image estimate
    #[arg(long)]
    recompute_eps: bool,
    /// Images
    #[arg(long, default_value_t = 64)]
    count: usize,
    /// Seed; sample i of a seed is the same at any --count, --batch and --threads
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Class number, or none for the null class [default: classes take turns]
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
    /// Write every state: FILE.safetensors (x_0000…, x0_hat_0000…) or FILE.gif
    #[arg(long)]
    trajectory: Option<PathBuf>,
    /// auto or cpu (cuda is not in this version)
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads, 0 for all cores; the result does not depend on it
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Images per network evaluation; the result does not depend on it
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// f32 (bf16 is not in this version)
    #[arg(long, default_value = "f32")]
    precision: String,
    /// FILE.png, FILE.gif or FILE.safetensors (x0 [n,h,w,c] in [-1,1])
    #[arg(long, default_value = "samples.png")]
    out: PathBuf,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    cli::exit(cli::with_threads(args.threads, || run(&args)))
}

fn run(args: &Args) -> Result<()> {
    cli::check_machine(&args.device, &args.precision)?;
    let kind = OutputKind::of("--out", &args.out)?;
    let trajectory = match &args.trajectory {
        Some(path) => Some((path, OutputKind::of_states("--trajectory", path)?)),
        None => None,
    };
    let sampler = SamplerKind::from_name(&args.sampler)?;
    for (flag, given) in [("--eta", args.eta.is_some()), ("--recompute-eps", args.recompute_eps)] {
        if given && sampler != SamplerKind::Ddim {
            let name = &args.sampler;
            return Err(Error::Usage(format!("{flag}: has no meaning for --sampler {name}; use --sampler ddim")));
        }
    }
    let class = cli::class_flag(args.class.as_deref())?;
    let weights = cli::weights_flag(&args.weights)?;
    let pipeline = Pipeline::load_weights(&args.model, weights)?;
    let all = pipeline.scheduler().num_train_timesteps;
    let steps = args.steps.unwrap_or(all.min(50));
    let options = SampleOptions {
        sampler,
        steps,
        eta: args.eta.unwrap_or(0.0),
        variance: None,
        recompute_eps: args.recompute_eps,
        count: args.count,
        class,
        seed: args.seed,
        batch: args.batch,
        init: args.init.as_deref().map(cli::read_init).transpose()?,
        noise: args.noise.as_deref().map(cli::read_noise).transpose()?,
        trajectory: kind == OutputKind::Gif || trajectory.is_some(),
    };
    let bar = cli::progress_bar(0);
    let outcome = pipeline.sample_with(&options, &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let samples = outcome?;
    cli::write_samples(&args.out, kind, &samples)?;
    if let Some((path, kind)) = trajectory {
        cli::write_trajectory(path, kind, &samples)?;
    }
    eprintln!(
        "{} samples, {} evaluations each, {:.2} s: wrote {}",
        args.count,
        samples.nfe,
        samples.seconds,
        args.out.display()
    );
    if args.json {
        let text = json!({
            "seconds": samples.seconds,
            "nfe": samples.nfe,
            "seconds_per_nfe": samples.seconds / samples.nfe as f64,
            "count": args.count,
            "images_per_second": args.count as f64 / samples.seconds,
            "sampler": args.sampler,
            "steps": steps,
            "seed": args.seed,
            "out": args.out,
        });
        println!("{}", serde_json::to_string(&text).map_err(|e| Error::Model(format!("summary: {e}")))?);
    }
    Ok(())
}
