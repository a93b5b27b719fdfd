//! The networks that are compared: tweedie's presets, as diffusers' `UNet2DModel` would be configured.

use std::path::{Path, PathBuf};

/// A U-Net on images of 32×32.
pub struct Preset {
    pub name: &'static str,
    /// Of images.
    pub channels: usize,
    pub block_out_channels: &'static [usize],
    /// Which levels have attention, one head over all channels.
    pub attention: &'static [bool],
    pub layers_per_block: usize,
    pub groups: usize,
    pub norm_eps: f64,
    /// Zeros before the first pixel on the way down; one follows the last.
    pub downsample_padding: usize,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub dropout: f32,
    /// What all tensors must hold together, as ours do.
    pub parameters: usize,
}

/// google/ddpm-cifar10-32.
pub const CIFAR10: Preset = Preset {
    name: "cifar10",
    channels: 3,
    block_out_channels: &[128, 256, 256, 256],
    attention: &[false, true, false, false],
    layers_per_block: 2,
    groups: 32,
    norm_eps: 1e-6,
    downsample_padding: 0,
    flip_sin_to_cos: false,
    freq_shift: 1.0,
    dropout: 0.1,
    parameters: 35_746_307,
};

pub const SMALL: Preset = Preset {
    name: "small",
    channels: 1,
    block_out_channels: &[32, 64, 64],
    attention: &[false, false, true],
    layers_per_block: 1,
    groups: 8,
    norm_eps: 1e-5,
    downsample_padding: 1,
    flip_sin_to_cos: true,
    freq_shift: 0.0,
    dropout: 0.0,
    parameters: 1_112_801,
};

/// The residual blocks of a level: input and output channels of each.
pub struct Level {
    pub blocks: Vec<[usize; 2]>,
    pub attention: bool,
    /// Whether a convolution that resamples follows.
    pub resample: bool,
}

impl Preset {
    pub fn levels_down(&self) -> Vec<Level> {
        let (mut c_in, last) = (self.block_out_channels[0], self.attention.len() - 1);
        let level = |(i, (&c_out, &attention)): (usize, (&usize, &bool))| {
            let mut block = |_| [std::mem::replace(&mut c_in, c_out), c_out];
            Level { blocks: (0..self.layers_per_block).map(&mut block).collect(), attention, resample: i < last }
        };
        self.block_out_channels.iter().zip(self.attention).enumerate().map(level).collect()
    }

    /// Each block reads the skip that was left last beside what comes from below.
    pub fn levels_up(&self) -> Vec<Level> {
        let mut skips = vec![self.block_out_channels[0]];
        for level in self.levels_down() {
            let c_out = level.blocks[0][1];
            skips.extend(level.blocks.iter().map(|_| c_out).chain(level.resample.then_some(c_out)));
        }
        let (mut c_in, mut skips) = (self.deepest(), skips.into_iter().rev());
        let level = |(i, (&c_out, &attention)): (usize, (&usize, &bool))| {
            let below = |skip| [std::mem::replace(&mut c_in, c_out) + skip, c_out];
            let blocks = skips.by_ref().take(self.layers_per_block + 1).map(below).collect();
            Level { blocks, attention, resample: i > 0 }
        };
        self.block_out_channels.iter().zip(self.attention).enumerate().rev().map(level).collect()
    }

    pub fn deepest(&self) -> usize {
        self.block_out_channels[self.block_out_channels.len() - 1]
    }

    /// Angles per unit of time of the sinusoidal embedding.
    pub fn frequencies(&self) -> Vec<f32> {
        let half = self.block_out_channels[0] / 2;
        let exponent = |i| -(i as f64) / (half as f64 - self.freq_shift);
        (0..half).map(|i| 10_000_f64.powf(exponent(i)) as f32).collect()
    }

    /// `n` images, NCHW: the same as the driver's.
    pub fn images(&self, n: usize) -> Vec<f32> {
        let c = self.channels;
        let value = |at: usize| {
            let (i, j, k, l) = (at / (c << 10), (at >> 10) % c, (at >> 5) % 32, at % 32);
            (0.5 * i as f64 + 0.37 * j as f64 + 0.11 * k as f64 + 0.07 * l as f64).sin() as f32
        };
        (0..(n * c) << 10).map(value).collect()
    }

    /// The file of weights in the driver's folder.
    pub fn weights(&self, models: &Path) -> PathBuf {
        models.join(self.name).join("unet/diffusion_pytorch_model.safetensors")
    }

    /// Refuses a network of another size than ours.
    pub fn expect(&self, parameters: usize) -> Result<(), String> {
        let (name, expected) = (self.name, self.parameters);
        let wrong = || format!("{name} has {parameters} parameters, {expected} were expected");
        (parameters == expected).then_some(()).ok_or_else(wrong)
    }
}

/// The share of signal after each of 1000 steps of noise.
pub fn alpha_bar() -> Vec<f32> {
    let betas = (0..1000).map(|t| 1e-4 + (0.02 - 1e-4) * f64::from(t) / 999.0);
    let keep = |product: &mut f64, beta: f64| {
        *product *= 1.0 - beta;
        Some(*product as f32)
    };
    betas.scan(1.0, keep).collect()
}
