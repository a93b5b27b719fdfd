//! diffusers' `UNet2DModel` in burn, its fields named as diffusers' are.

use crate::on_burn::device;
use crate::presets::{self, CIFAR10, Preset, SMALL};
use crate::{Item, Run, timed};
use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{MseLoss, Reduction};
use burn::nn::{Dropout, DropoutConfig, GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::activation::silu;
use burn::tensor::module::{attention, interpolate};
use burn::tensor::ops::{AttentionModuleOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use std::path::Path;

pub fn items() -> Vec<Item> {
    vec![
        ("unet_cifar10_forward_1", || forward(&CIFAR10, 1)),
        ("unet_cifar10_forward_4", || forward(&CIFAR10, 4)),
        ("unet_cifar10_forward_16", || forward(&CIFAR10, 16)),
        ("unet_cifar10_train_8", || train(&CIFAR10, 8)),
        ("unet_small_forward_64", || forward(&SMALL, 64)),
        ("unet_small_train_64", || train(&SMALL, 64)),
    ]
}

#[derive(Module, Debug)]
struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    dropout: Dropout,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

/// 3×3, with as many zeros before the first pixel; one follows the last.
fn conv(c_in: usize, c_out: usize, stride: usize, before: usize, device: &Device) -> Conv2d {
    let padding = PaddingConfig2d::Explicit(before, before, 1, 1);
    Conv2dConfig::new([c_in, c_out], [3, 3]).with_stride([stride, stride]).with_padding(padding).init(device)
}

fn norm(p: &Preset, channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(p.groups, channels).with_epsilon(p.norm_eps).init(device)
}

fn linear(c_in: usize, c_out: usize, device: &Device) -> Linear {
    LinearConfig::new(c_in, c_out).init(device)
}

impl ResBlock {
    fn new(p: &Preset, [c_in, c_out]: [usize; 2], device: &Device) -> ResBlock {
        ResBlock {
            norm1: norm(p, c_in, device),
            conv1: conv(c_in, c_out, 1, 1, device),
            time_emb_proj: linear(4 * p.block_out_channels[0], c_out, device),
            norm2: norm(p, c_out, device),
            dropout: DropoutConfig::new(p.dropout.into()).init(),
            conv2: conv(c_out, c_out, 1, 1, device),
            conv_shortcut: (c_in != c_out).then(|| Conv2dConfig::new([c_in, c_out], [1, 1]).init(device)),
        }
    }

    fn forward(&self, x: Tensor<4>, emb: Tensor<2>) -> Tensor<4> {
        let h = self.conv1.forward(silu(self.norm1.forward(x.clone())));
        let h = h + self.time_emb_proj.forward(emb).unsqueeze_dims::<4>(&[2, 3]);
        let h = self.conv2.forward(self.dropout.forward(silu(self.norm2.forward(h))));
        match &self.conv_shortcut {
            Some(conv) => conv.forward(x) + h,
            None => x + h,
        }
    }
}

/// One head over all channels.
#[derive(Module, Debug)]
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
}

impl Attention {
    fn new(p: &Preset, c: usize, device: &Device) -> Attention {
        let square = || linear(c, c, device);
        let group_norm = norm(p, c, device);
        Attention { group_norm, to_q: square(), to_k: square(), to_v: square(), to_out: vec![square()] }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shape = x.dims();
        let h: Tensor<3> = self.group_norm.forward(x.clone()).flatten(2, 3);
        let h = h.swap_dims(1, 2);
        let [q, k, v] =
            [&self.to_q, &self.to_k, &self.to_v].map(|layer| layer.forward(h.clone()).unsqueeze_dim::<4>(1));
        let h: Tensor<3> = attention(q, k, v, None, None, AttentionModuleOptions::default()).squeeze_dim(1);
        let h = self.to_out.iter().fold(h, |h, layer| layer.forward(h));
        x + h.swap_dims(1, 2).reshape(shape)
    }
}

#[derive(Module, Debug)]
struct Resampler {
    conv: Conv2d,
}

/// Residual blocks, each with its attention where there is one.
#[derive(Module, Debug)]
struct Level {
    resnets: Vec<ResBlock>,
    attentions: Vec<Attention>,
    downsamplers: Vec<Resampler>,
    upsamplers: Vec<Resampler>,
}

impl Level {
    fn new(p: &Preset, level: &presets::Level, down: bool, device: &Device) -> Level {
        let c = level.blocks[0][1];
        let (stride, before) = if down { (2, p.downsample_padding) } else { (1, 1) };
        let resamplers = |wanted: bool| {
            let conv = (wanted && level.resample).then(|| conv(c, c, stride, before, device));
            conv.map(|conv| Resampler { conv }).into_iter().collect()
        };
        let attentions = level.blocks.iter().filter(|_| level.attention);
        Level {
            resnets: level.blocks.iter().map(|sizes| ResBlock::new(p, *sizes, device)).collect(),
            attentions: attentions.map(|_| Attention::new(p, c, device)).collect(),
            downsamplers: resamplers(down),
            upsamplers: resamplers(!down),
        }
    }

    fn block(&self, j: usize, x: Tensor<4>, emb: &Tensor<2>) -> Tensor<4> {
        let h = self.resnets[j].forward(x, emb.clone());
        match self.attentions.get(j) {
            Some(attention) => attention.forward(h),
            None => h,
        }
    }
}

#[derive(Module, Debug)]
struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

#[derive(Module, Debug)]
struct UNet {
    time_embedding: TimeEmbedding,
    conv_in: Conv2d,
    down_blocks: Vec<Level>,
    mid_block: Level,
    up_blocks: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet {
    fn new(p: &Preset, device: &Device) -> Result<UNet, String> {
        let (first, last) = (p.block_out_channels[0], p.deepest());
        let levels =
            |levels: Vec<presets::Level>, down| levels.iter().map(|level| Level::new(p, level, down, device)).collect();
        let mid = presets::Level { blocks: vec![[last, last]; 2], attention: false, resample: false };
        let unet = UNet {
            time_embedding: TimeEmbedding {
                linear_1: linear(first, 4 * first, device),
                linear_2: linear(4 * first, 4 * first, device),
            },
            conv_in: conv(p.channels, first, 1, 1, device),
            down_blocks: levels(p.levels_down(), true),
            // Attention lies between the two blocks.
            mid_block: Level {
                attentions: vec![Attention::new(p, last, device)],
                ..Level::new(p, &mid, false, device)
            },
            up_blocks: levels(p.levels_up(), false),
            conv_norm_out: norm(p, first, device),
            conv_out: conv(first, p.channels, 1, 1, device),
        };
        p.expect(unet.num_params())?;
        Ok(unet)
    }

    /// `x` `[n, c, h, w]` at the times `t` `[n]`, whose sine has these frequencies.
    fn forward(&self, p: &Preset, frequencies: Tensor<1>, x: Tensor<4>, t: Tensor<1>) -> Result<Tensor<4>, String> {
        let angles = t.unsqueeze_dim::<2>(1) * frequencies.unsqueeze_dim::<2>(0);
        let (sin, cos) = (angles.clone().sin(), angles.cos());
        let features = Tensor::cat(if p.flip_sin_to_cos { vec![cos, sin] } else { vec![sin, cos] }, 1);
        let emb = silu(self.time_embedding.linear_1.forward(features));
        let emb = &silu(self.time_embedding.linear_2.forward(emb));
        let mut h = self.conv_in.forward(x);
        let mut skips = vec![h.clone()];
        for level in &self.down_blocks {
            for j in 0..level.resnets.len() {
                h = level.block(j, h, emb);
                skips.push(h.clone());
            }
            for resampler in &level.downsamplers {
                h = resampler.conv.forward(h);
                skips.push(h.clone());
            }
        }
        for j in 0..self.mid_block.resnets.len() {
            h = self.mid_block.block(j, h, emb);
        }
        for level in &self.up_blocks {
            for j in 0..level.resnets.len() {
                let skip = skips.pop().ok_or("a skip is missing")?;
                h = level.block(j, Tensor::cat(vec![h, skip], 1), emb);
            }
            for resampler in &level.upsamplers {
                let twice = InterpolateOptions::new(InterpolateMode::Nearest).with_scale_factor([2.0, 2.0]);
                h = resampler.conv.forward(interpolate(h, twice));
            }
        }
        Ok(self.conv_out.forward(silu(self.conv_norm_out.forward(h))))
    }
}

fn images(p: &Preset, n: usize, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(p.images(n), [n, p.channels, 32, 32]), device)
}

fn list(values: Vec<f32>, device: &Device) -> Tensor<1> {
    Tensor::from_data(values.as_slice(), device)
}

fn forward(p: &'static Preset, n: usize) -> Result<Run, String> {
    let device = device(false);
    let (unet, frequencies) = (UNet::new(p, &device)?, list(p.frequencies(), &device));
    let (x, t) = (images(p, n, &device), list(vec![500.0; n], &device));
    Ok(Box::new(move || timed(|| unet.forward(p, frequencies.clone(), x.clone(), t.clone()))))
}

/// Draw, forward, backward, clip, AdamW. burn clips each tensor by its own norm.
fn train(p: &'static Preset, n: usize) -> Result<Run, String> {
    let device = device(true);
    let clip = Some(GradientClippingConfig::Norm(1.0));
    let config = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).with_grad_clipping(clip);
    let (mut unet, mut optimizer) = (Some(UNet::new(p, &device)?), config.init());
    let (x0, frequencies) = (images(p, n, &device), list(p.frequencies(), &device));
    let alpha_bar = list(presets::alpha_bar(), &device);
    let mut step = move || -> Result<f32, String> {
        let net = unet.take().ok_or("the last step failed")?;
        let t: Tensor<1, Int> = Tensor::<1>::random([n], Distribution::Uniform(0.0, 1000.0), &device).int();
        let eps = x0.random_like(Distribution::Normal(0.0, 1.0));
        let a: Tensor<4> = alpha_bar.clone().select(0, t.clone()).reshape([n, 1, 1, 1]);
        let x_t = x0.clone() * a.clone().sqrt() + eps.clone() * (-a + 1.0).sqrt();
        let y = net.forward(p, frequencies.clone(), x_t, t.float())?;
        let loss = MseLoss::new().forward(y, eps, Reduction::Mean);
        let grads = GradientsParams::from_grads(loss.backward(), &net);
        unet = Some(optimizer.step(1e-4, net, grads));
        Ok(loss.into_scalar())
    };
    Ok(Box::new(move || timed(&mut step)))
}

/// The first row of pixels of one evaluation with the driver's weights.
pub fn check(p: &Preset, models: &Path) -> Result<Vec<f32>, String> {
    let device = device(false);
    let mut unet = UNet::new(p, &device)?;
    let mut file = SafetensorsStore::from_file(p.weights(models)).with_from_adapter(PyTorchToBurnAdapter);
    unet.load_from(&mut file).map_err(|e| e.to_string())?;
    let (frequencies, x, t) = (list(p.frequencies(), &device), images(p, 1, &device), list(vec![500.0], &device));
    let y = unet.forward(p, frequencies, x, t)?;
    let mut row: Vec<f32> = y.into_data().try_into_vec().map_err(|e| e.to_string())?;
    row.truncate(32);
    Ok(row)
}
