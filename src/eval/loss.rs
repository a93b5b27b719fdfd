//! The mean eps-loss on held-out images, reproducible by seed.

use crate::data::Dataset;
use crate::denoiser;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::loss::eps_loss_factor;
use crate::nn::{ClassEmbed, ClassInput, Mode, Params, UNet};
use crate::ops;
use crate::process::{Level, SchedulerConfig};
use crate::rng::{Address, Purpose};
use crate::tensor::{Dtype, Tensor};
use serde::Serialize;

/// How the loss is measured.
#[derive(Clone, Debug)]
pub struct LossOptions {
    /// Held-out images used, at most.
    pub images: usize,
    /// Noise levels per image, spread evenly over the process's times.
    pub draws: usize,
    /// Seed of times and noise.
    pub seed: u64,
    /// Images per network evaluation; the result does not depend on it.
    pub batch: usize,
}

impl Default for LossOptions {
    fn default() -> LossOptions {
        LossOptions { images: usize::MAX, draws: 4, seed: 0, batch: 60 }
    }
}

/// A measured loss.
#[derive(Clone, Debug, Serialize)]
pub struct LossReport {
    /// Mean over images, levels and elements of (eps − eps_hat)².
    pub mean: f64,
    /// Standard error over images.
    pub standard_error: f64,
    /// Images used.
    pub images: usize,
    /// Levels per image.
    pub draws: usize,
    /// Seed of times and noise.
    pub seed: u64,
}

/// Measures the mean eps-loss on held-out images with their true classes, on the device of `params`.
///
/// Draw r of image i lies at a uniform time within the r-th of `draws` equal parts, so every image sees all noise levels.
///
/// # Errors
/// [`Error::Data`] if nothing is held out or sizes do not fit the network; those of the network.
pub fn denoising_loss(
    unet: &UNet,
    params: &Params,
    scheduler: &SchedulerConfig,
    data: &Dataset,
    options: &LossOptions,
) -> Result<LossReport> {
    let images = data.held_out().len().min(options.images);
    if images == 0 || options.draws == 0 || options.batch == 0 {
        return Err(Error::Data(format!("data set \"{}\": no held-out images to measure the loss on", data.name())));
    }
    let process = scheduler.process()?;
    let [h, w, c] = data.shape();
    let is_conditional = unet.config().class_embed != ClassEmbed::None;
    // One entry per (image, draw), in that order.
    let pairs: Vec<(usize, usize)> =
        (0..images * options.draws).map(|k| (k / options.draws, k % options.draws)).collect();
    let mut per_image = vec![0.0_f64; images];
    for chunk in pairs.chunks(options.batch) {
        let n = chunk.len();
        let mut x0 = Tensor::zeros([n, h, w, c], Dtype::F32, Device::Cpu)?;
        let (mut levels, mut labels): (Vec<Level>, Vec<u32>) = (Vec::new(), Vec::new());
        for ((image, draw), out) in chunk.iter().zip(x0.host_mut::<f32>()?.chunks_exact_mut(h * w * c)) {
            let index = data.held_out()[*image] as usize;
            data.copy_image(index, out);
            let u = Address::new(options.seed, Purpose::Eval).sample(*image).sub_index(1).uniform(*draw);
            levels.push(process.draw((*draw as f64 + u) / options.draws as f64));
            if is_conditional {
                let label = data.label(index);
                labels.push(label.ok_or_else(|| {
                    Error::Data(format!("data set \"{}\": the model wants class labels, it has none", data.name()))
                })?);
            }
        }
        let alpha: Vec<f64> = levels.iter().map(|l| l.alpha).collect();
        let sigma: Vec<f64> = levels.iter().map(|l| l.sigma).collect();
        let scaled =
            |of: fn(&Level) -> f64| levels.iter().map(|l| scheduler.input_scale(*l) * of(l)).collect::<Vec<_>>();
        let (in_alpha, in_sigma) = (scaled(|l| l.alpha), scaled(|l| l.sigma));
        let samples: Vec<u32> = chunk.iter().map(|(i, d)| (i * options.draws + d) as u32).collect();
        let x0 = x0.to_device(params.device())?;
        let noised = ops::perturb(&x0, &in_alpha, &in_sigma, Address::new(options.seed, Purpose::Eval), &samples)?;
        let target = denoiser::target(scheduler.prediction, &x0, &noised.eps, &alpha, &sigma)?;
        let convention = scheduler.time_convention;
        let times: Vec<f32> = levels.iter().map(|l| convention.network_time(*l) as f32).collect();
        let class = is_conditional.then_some(ClassInput::Labels(&labels));
        let net_out = unet.forward(params, &noised.x_t, &times, class, Mode::Inference)?;
        let net_out = denoiser::split_variance(net_out, c)?.0;
        let (_, errors) = ops::weighted_mse(&net_out, &target, &vec![1.0; n])?;
        let errors = errors.to_device(Device::Cpu)?.to_vec::<f64>()?;
        for (((image, _), error), level) in chunk.iter().zip(errors).zip(&levels) {
            per_image[*image] += error * eps_loss_factor(scheduler.prediction, *level)? / options.draws as f64;
        }
    }
    let mean = per_image.iter().sum::<f64>() / images as f64;
    let variance = per_image.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (images.max(2) - 1) as f64;
    let standard_error = (variance / images as f64).sqrt();
    Ok(LossReport { mean, standard_error, images, draws: options.draws, seed: options.seed })
}
