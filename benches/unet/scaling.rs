//! How the time of a forward pass and of a training step grows with the batch, the side of the images and the channels: a table, the rest held
//! fixed. Where nothing but arithmetic counts, GFLOP/s stay the same down a column.

use super::flops::UNetFlops;
use std::time::Instant;
use tweedie::Result;
use tweedie::config::TrainConfig;
use tweedie::device::Device;
use tweedie::nn::{Mode, UNet, initialise};
use tweedie::rng::{Address, Purpose};
use tweedie::tensor::Tensor;
use tweedie::train::Trainer;

/// Times are the least of this many, after one that is not counted.
const RUNS: usize = 3;

struct Point {
    batch: usize,
    side: usize,
    channels: usize,
}

pub(crate) fn run() -> Result<()> {
    println!("U-Net of two levels (channels, twice as many), two blocks each, attention at the lower; 3 colours");
    println!(
        "{:<22} {:>12} {:>9} {:>12} {:>9}",
        "batch x side, channels", "forward ms", "GFLOP/s", "training ms", "GFLOP/s"
    );
    let base = Point { batch: 8, side: 32, channels: 64 };
    for batch in [1, 2, 4, 8, 16, 32] {
        line(&Point { batch, ..base })?;
    }
    for side in [8, 16, 32, 64, 128] {
        line(&Point { side, ..base })?;
    }
    for channels in [16, 32, 64, 128, 256] {
        line(&Point { channels, ..base })?;
    }
    Ok(())
}

fn line(point: &Point) -> Result<()> {
    let Point { batch, side, channels } = *point;
    let config = TrainConfig {
        batch,
        block_out_channels: vec![channels, 2 * channels],
        layers_per_block: 2,
        class_conditional: false,
        ..TrainConfig::preset("digits")?
    };
    let data = super::noise_images([batch.max(2), side, side, 3], 0)?;
    let unet = UNet::new(&config.unet(&data)?)?;
    let flops = UNetFlops::of(&unet, [side, side]);
    let params = initialise(unet.specs(), 0)?;
    let mut values = vec![0.0_f32; batch * side * side * 3];
    Address::new(1, Purpose::Test).fill_normal(&mut values);
    let x = Tensor::from_slice(&values, [batch, side, side, 3])?;
    let times = vec![500.0; batch];
    let forward = least(|| unet.forward(&params, &x, &times, None, Mode::Inference).map(|_| ()))?;
    let mut trainer = Trainer::new(&config, &data, Device::Cpu)?;
    let training = least(|| trainer.train_step().map(|_| ()))?;
    let rate = |flops: f64, seconds: f64| batch as f64 * flops / seconds / 1e9;
    println!(
        "{:<22} {:>12.2} {:>9.0} {:>12.2} {:>9.0}",
        format!("{batch}x{side}, {channels}"),
        1e3 * forward,
        rate(flops.forward(), forward),
        1e3 * training,
        rate(flops.training(), training)
    );
    Ok(())
}

/// Seconds of the fastest run.
fn least(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let begin = Instant::now();
        work()?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(best)
}
