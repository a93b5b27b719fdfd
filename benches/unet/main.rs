//! Whole training steps (draw, forward, backward, clip, update) and inference of U-Nets: time, images a second, GFLOP/s
//! and the most memory held in tensors.
//!
//! `cargo bench --bench unet [-- --quick]`; `-- --profile [--cpu] [--shapes] [--recompute] [--only=TEXT] [--steps=N]`
//! prints each op's share instead, `-- --scaling` how times grow with batch, size and channels. Operations are those of convolutions, linear layers and attention, counted
//! from the network's parameters; the time is that of everything.

#[allow(dead_code, reason = "every bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "every bench uses a part of it")]
#[path = "../common/flops.rs"]
mod flops;
#[path = "../common/profile.rs"]
mod profile;
#[path = "profile.rs"]
mod profiles;
mod scaling;

use common::{Bench, Row, Work};
use flops::UNetFlops;
use std::process::ExitCode;
use std::time::Instant;
use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::device::{pool_stats, reset_pool_peak};
use tweedie::nn::{Mode, Precision, UNet, initialise};
use tweedie::rng::{Address, Purpose};
use tweedie::tensor::Tensor;
use tweedie::train::Trainer;
use tweedie::{Error, Result};

const NOTES: &str = "MiB: most memory held in tensors and temporaries; training holds weights, their average, two moments \
and gradients. Steps in bf16 stand beside f32's peak.";

const USAGE: &str = "\
cargo bench --bench unet [-- NAME] [--quick | --list]   the steps whose name contains NAME
cargo bench --bench unet -- --profile [--cpu] [--shapes] [--recompute] [--only=TEXT] [--steps=N]   each op's share of a step
cargo bench --bench unet -- --scaling   time by batch, size of images and channels";

fn main() -> ExitCode {
    common::main(USAGE, run)
}

fn run() -> Result<()> {
    if std::env::args().any(|argument| argument == "--profile") {
        return profiles::run();
    }
    if std::env::args().any(|argument| argument == "--scaling") {
        let unknown = std::env::args().skip(1).find(|argument| argument != "--bench" && argument != "--scaling");
        return match unknown {
            Some(unknown) => Err(Error::Usage(format!("{unknown} is unknown; --scaling stands alone"))),
            None => scaling::run(),
        };
    }
    let mut bench = Bench::new("unet");
    let images = noise_images([16, 32, 32, 3], 0)?;
    for precision in ["f32", "bf16"] {
        train(&mut bench, "digits", 64, &Dataset::load("digits", 0)?, precision)?;
        train(&mut bench, "small", 64, &noise_images([128, 28, 28, 1], 10)?, precision)?;
        infer(&mut bench, "cifar10", 1, &images, precision)?;
        train(&mut bench, "cifar10", 8, &images, precision)?;
    }
    bench.finish(NOTES)
}

/// A data set of random pixels `[n, h, w, c]`; labelled in turn if there are `classes`.
fn noise_images(shape: [usize; 4], classes: u32) -> Result<Dataset> {
    let address = Address::new(0, Purpose::Test);
    let pixels = (0..shape.iter().product()).map(|i| address.below(i, 256) as u8).collect();
    let labels = (0..shape[0] as u32).filter(|_| classes > 0).map(|i| i % classes).collect();
    Dataset::from_pixels("noise", pixels, shape, labels, 255, 0)
}

/// Adds the row of a measured piece of work on `batch` images.
fn push(bench: &mut Bench, name: String, seconds: f64, batch: usize, work: Work) {
    let extra = vec![(batch as f64 / seconds, "images/s"), (pool_stats().peak as f64 / f64::from(1 << 20), "MiB")];
    bench.push(Row { name, seconds, work, naive: None, extra });
}

/// Rows of f32 have no suffix.
fn suffix(precision: &str) -> String {
    if precision == "f32" { String::new() } else { format!(" {precision}") }
}

fn train(bench: &mut Bench, preset: &str, batch: usize, data: &Dataset, precision: &str) -> Result<()> {
    let config = TrainConfig { batch, precision: precision.into(), ..TrainConfig::preset(preset)? };
    let [h, w, c] = data.shape();
    let flops = UNetFlops::of(&UNet::new(&config.unet(data)?)?, [h, w]);
    let work = Work::Flops(batch as f64 * flops.training());
    let mut trainer = Trainer::new(&config, data, tweedie::device::Device::Cpu)?;
    reset_pool_peak();
    let parameters = trainer.parameter_count() as f64 / 1e6;
    let name = format!("{preset}{} training step {batch}x{h}x{w}x{c} {parameters:.2} M", suffix(precision));
    let measured = bench.measure(&name, work, || {
        let begin = Instant::now();
        trainer.train_step()?;
        Ok(begin.elapsed())
    });
    if let Some(seconds) = measured {
        push(bench, name, seconds, batch, work);
    }
    Ok(())
}

fn infer(bench: &mut Bench, preset: &str, batch: usize, data: &Dataset, precision: &str) -> Result<()> {
    let config = TrainConfig::preset(preset)?;
    let [h, w, c] = data.shape();
    let unet = UNet::new(&config.unet(data)?)?.with_precision(Precision::from_name(precision)?);
    let params = initialise(unet.specs(), 0)?;
    let work = Work::Flops(batch as f64 * UNetFlops::of(&unet, [h, w]).forward());
    let mut values = vec![0.0_f32; batch * h * w * c];
    Address::new(1, Purpose::Test).fill_normal(&mut values);
    let x = Tensor::from_slice(&values, [batch, h, w, c])?;
    let times = vec![500.0; batch];
    reset_pool_peak();
    let parameters = params.count() as f64 / 1e6;
    let name = format!("{preset}{} forward {batch}x{h}x{w}x{c} {parameters:.2} M", suffix(precision));
    let measured = bench.measure(&name, work, || {
        let begin = Instant::now();
        let y = unet.forward(&params, &x, &times, None, Mode::Inference)?;
        let time = begin.elapsed();
        drop(y);
        Ok(time)
    });
    if let Some(seconds) = measured {
        push(bench, name, seconds, batch, work);
    }
    Ok(())
}
