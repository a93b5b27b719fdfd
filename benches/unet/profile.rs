//! `--profile` of the U-Nets.

use super::noise_images;
use super::profile::{arguments, measure};
use tweedie::Result;
use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::device::{Device, reset_peak};
use tweedie::nn::{Mode, UNet, initialise};
use tweedie::rng::{Address, Purpose};
use tweedie::tensor::Tensor;
use tweedie::train::Trainer;

/// Profiles both presets, forward and training. `--shapes` gives each shape its line.
pub(crate) fn run() -> Result<()> {
    let names = ["cifar10 forward", "cifar10 training", "small forward", "small training"];
    let (steps, is_wanted) = arguments(&names)?;
    for (preset, batch, shape) in [("cifar10", 8, [16, 32, 32, 3]), ("small", 64, [128, 32, 32, 1])] {
        let data = noise_images(shape, if preset == "small" { 10 } else { 0 })?;
        let wanted = |what: &str| is_wanted(&format!("{preset} {what}"));
        if wanted("forward") {
            infer(preset, batch, &data, steps)?;
        }
        if wanted("training") {
            train(preset, batch, &data, steps)?;
        }
    }
    Ok(())
}

fn infer(preset: &str, batch: usize, data: &Dataset, steps: usize) -> Result<()> {
    let [h, w, c] = data.shape();
    let unet = UNet::new(&TrainConfig { class_conditional: false, ..TrainConfig::preset(preset)? }.unet(data)?)?;
    let params = initialise(unet.specs(), 0)?;
    let mut values = vec![0.0_f32; batch * h * w * c];
    Address::new(1, Purpose::Test).fill_normal(&mut values);
    let x = Tensor::from_slice(&values, [batch, h, w, c])?;
    let times = vec![500.0; batch];
    reset_peak(Device::Cpu);
    measure(&format!("{preset} forward, batch {batch}"), steps, || {
        unet.forward(&params, &x, &times, None, Mode::Inference).map(|_| ())
    })
}

fn train(preset: &str, batch: usize, data: &Dataset, steps: usize) -> Result<()> {
    let recompute = std::env::args().any(|a| a == "--recompute");
    let config = TrainConfig { batch, recompute, ..TrainConfig::preset(preset)? };
    let mut trainer = Trainer::new(&config, data, Device::Cpu)?;
    reset_peak(Device::Cpu);
    measure(&format!("{preset} training step, batch {batch}"), steps, || trainer.train_step().map(|_| ()))
}
