//! diffusers' `UNet2DModel` in candle, its tensors under diffusers' names.

use crate::on_candle::text;
use crate::presets::{self, CIFAR10, Level, Preset, SMALL};
use crate::{Item, Run, timed};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{
    AdamW, Conv2d, Conv2dConfig, Dropout, GroupNorm, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap,
    conv2d, group_norm, linear, loss, ops,
};
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

struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    dropout: Dropout,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

fn conv3x3(c_in: usize, c_out: usize, vb: VarBuilder) -> Result<Conv2d> {
    conv2d(c_in, c_out, 3, Conv2dConfig { padding: 1, ..Default::default() }, vb)
}

fn norm(p: &Preset, channels: usize, vb: VarBuilder) -> Result<GroupNorm> {
    group_norm(p.groups, channels, p.norm_eps, vb)
}

impl ResBlock {
    fn new(p: &Preset, [c_in, c_out]: [usize; 2], vb: VarBuilder) -> Result<ResBlock> {
        let shortcut = || conv2d(c_in, c_out, 1, Conv2dConfig::default(), vb.pp("conv_shortcut"));
        Ok(ResBlock {
            norm1: norm(p, c_in, vb.pp("norm1"))?,
            conv1: conv3x3(c_in, c_out, vb.pp("conv1"))?,
            time: linear(4 * p.block_out_channels[0], c_out, vb.pp("time_emb_proj"))?,
            norm2: norm(p, c_out, vb.pp("norm2"))?,
            dropout: Dropout::new(p.dropout),
            conv2: conv3x3(c_out, c_out, vb.pp("conv2"))?,
            shortcut: (c_in != c_out).then(shortcut).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, emb: &Tensor, train: bool) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward(x)?.silu()?)?;
        let time = self.time.forward(emb)?.unsqueeze(2)?.unsqueeze(3)?;
        let h = self.norm2.forward(&h.broadcast_add(&time)?)?.silu()?;
        let h = self.conv2.forward(&self.dropout.forward(&h, train)?)?;
        match &self.shortcut {
            Some(conv) => conv.forward(x)? + h,
            None => x + h,
        }
    }
}

/// One head over all channels.
struct Attention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Attention {
    fn new(p: &Preset, c: usize, vb: VarBuilder) -> Result<Attention> {
        Ok(Attention {
            norm: norm(p, c, vb.pp("group_norm"))?,
            q: linear(c, c, vb.pp("to_q"))?,
            k: linear(c, c, vb.pp("to_k"))?,
            v: linear(c, c, vb.pp("to_v"))?,
            out: linear(c, c, vb.pp("to_out.0"))?,
        })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let c = x.dim(1)?;
        let h = self.norm.forward(x)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let (q, k, v) = (self.q.forward(&h)?, self.k.forward(&h)?, self.v.forward(&h)?);
        let scores = (q.matmul(&k.t()?)? / (c as f64).sqrt())?;
        // The fused softmax has no gradient.
        let weights = if train { ops::softmax(&scores, 2)? } else { ops::softmax_last_dim(&scores)? };
        let h = self.out.forward(&weights.matmul(&v)?)?.transpose(1, 2)?;
        x + h.reshape(x.shape())?
    }
}

/// Residual blocks, each with its attention where there is one.
struct Blocks {
    resnets: Vec<ResBlock>,
    attentions: Vec<Attention>,
    resample: Option<Conv2d>,
}

impl Blocks {
    fn new(p: &Preset, level: &Level, (resampler, stride): (&str, usize), vb: VarBuilder) -> Result<Blocks> {
        let resnet = |(j, sizes): (usize, &[usize; 2])| ResBlock::new(p, *sizes, vb.pp(format!("resnets.{j}")));
        let (sizes, c) = (&level.blocks, level.blocks[0][1]);
        let attentions = 0..if level.attention { sizes.len() } else { 0 };
        let padding = if stride == 2 { p.downsample_padding } else { 1 };
        let config = Conv2dConfig { padding, stride, ..Default::default() };
        Ok(Blocks {
            resnets: sizes.iter().enumerate().map(resnet).collect::<Result<_>>()?,
            attentions: attentions
                .map(|j| Attention::new(p, c, vb.pp(format!("attentions.{j}"))))
                .collect::<Result<_>>()?,
            resample: level.resample.then(|| conv2d(c, c, 3, config, vb.pp(resampler))).transpose()?,
        })
    }

    fn block(&self, j: usize, x: &Tensor, emb: &Tensor, train: bool) -> Result<Tensor> {
        let h = self.resnets[j].forward(x, emb, train)?;
        self.attentions.get(j).map_or(Ok(h.clone()), |attention| attention.forward(&h, train))
    }
}

struct UNet {
    frequencies: Tensor,
    flip_sin_to_cos: bool,
    time: [Linear; 2],
    conv_in: Conv2d,
    down: Vec<Blocks>,
    mid: [ResBlock; 2],
    mid_attention: Attention,
    up: Vec<Blocks>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet {
    fn new(p: &Preset, vb: VarBuilder) -> Result<UNet> {
        let (first, last) = (p.block_out_channels[0], p.deepest());
        let levels = |name: &str, levels: Vec<Level>, resampler| -> Result<Vec<Blocks>> {
            let level = |(i, level): (usize, &Level)| Blocks::new(p, level, resampler, vb.pp(format!("{name}.{i}")));
            levels.iter().enumerate().map(level).collect()
        };
        let mid = |j: usize| ResBlock::new(p, [last, last], vb.pp(format!("mid_block.resnets.{j}")));
        Ok(UNet {
            frequencies: Tensor::new(p.frequencies(), &Device::Cpu)?.unsqueeze(0)?,
            flip_sin_to_cos: p.flip_sin_to_cos,
            time: [
                linear(first, 4 * first, vb.pp("time_embedding.linear_1"))?,
                linear(4 * first, 4 * first, vb.pp("time_embedding.linear_2"))?,
            ],
            conv_in: conv3x3(p.channels, first, vb.pp("conv_in"))?,
            down: levels("down_blocks", p.levels_down(), ("downsamplers.0.conv", 2))?,
            mid: [mid(0)?, mid(1)?],
            mid_attention: Attention::new(p, last, vb.pp("mid_block.attentions.0"))?,
            up: levels("up_blocks", p.levels_up(), ("upsamplers.0.conv", 1))?,
            norm_out: norm(p, first, vb.pp("conv_norm_out"))?,
            conv_out: conv3x3(first, p.channels, vb.pp("conv_out"))?,
        })
    }

    /// `x` `[n, c, h, w]` at the times `t` `[n]`.
    fn forward(&self, x: &Tensor, t: &Tensor, train: bool) -> Result<Tensor> {
        let angles = t.unsqueeze(1)?.broadcast_mul(&self.frequencies)?;
        let (sin, cos) = (angles.sin()?, angles.cos()?);
        let features = if self.flip_sin_to_cos { [cos, sin] } else { [sin, cos] };
        let emb = self.time[0].forward(&Tensor::cat(&features, 1)?)?.silu()?;
        let emb = &self.time[1].forward(&emb)?.silu()?;
        let mut h = self.conv_in.forward(x)?;
        let mut skips = vec![h.clone()];
        for level in &self.down {
            for j in 0..level.resnets.len() {
                h = level.block(j, &h, emb, train)?;
                skips.push(h.clone());
            }
            if let Some(conv) = &level.resample {
                // Without zeros before the first pixel, one follows the last.
                let one_sided = conv.config().padding == 0;
                let x = if one_sided { h.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)? } else { h };
                h = conv.forward(&x)?;
                skips.push(h.clone());
            }
        }
        h = self.mid[0].forward(&h, emb, train)?;
        h = self.mid[1].forward(&self.mid_attention.forward(&h, train)?, emb, train)?;
        for level in &self.up {
            for j in 0..level.resnets.len() {
                let skip = skips.pop().ok_or_else(|| candle_core::Error::Msg("a skip is missing".into()))?;
                h = level.block(j, &Tensor::cat(&[&h, &skip], 1)?, emb, train)?;
            }
            if let Some(conv) = &level.resample {
                let (_, _, height, width) = h.dims4()?;
                h = conv.forward(&h.upsample_nearest2d(2 * height, 2 * width)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward(&h)?.silu()?)
    }
}

/// With weights to be trained.
fn trainable(p: &Preset) -> std::result::Result<(VarMap, UNet), String> {
    let vars = VarMap::new();
    let unet = UNet::new(p, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu)).map_err(text)?;
    p.expect(vars.all_vars().iter().map(|var| var.elem_count()).sum())?;
    Ok((vars, unet))
}

fn images(p: &Preset, n: usize) -> Result<Tensor> {
    Tensor::from_vec(p.images(n), (n, p.channels, 32, 32), &Device::Cpu)
}

fn forward(p: &'static Preset, n: usize) -> std::result::Result<Run, String> {
    let (vars, _) = trainable(p)?;
    let fixed = || -> Result<(UNet, Tensor, Tensor)> {
        // As loaded: without a tape.
        let all = vars.data().lock().map_err(|_| candle_core::Error::Msg("a thread failed".into()))?;
        let tensors = all.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        let unet = UNet::new(p, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))?;
        Ok((unet, images(p, n)?, Tensor::full(500.0_f32, n, &Device::Cpu)?))
    };
    let (unet, x, t) = fixed().map_err(text)?;
    Ok(Box::new(move || timed(|| unet.forward(&x, &t, false).map_err(text))))
}

/// Draw, forward, backward, AdamW; candle has nothing that clips.
fn train(p: &'static Preset, n: usize) -> std::result::Result<Run, String> {
    let (vars, unet) = trainable(p)?;
    let mut optimizer = AdamW::new(vars.all_vars(), ParamsAdamW { lr: 1e-4, ..Default::default() }).map_err(text)?;
    let tensors = || Ok((images(p, n)?, Tensor::new(presets::alpha_bar(), &Device::Cpu)?));
    let (x0, alpha_bar) = tensors().map_err(text)?;
    let mut step = move || -> Result<f32> {
        let t = Tensor::rand(0.0_f32, 1000.0, n, &Device::Cpu)?.to_dtype(DType::U32)?;
        let eps = x0.randn_like(0.0, 1.0)?;
        let a = alpha_bar.index_select(&t, 0)?.reshape((n, 1, 1, 1))?;
        let noise = eps.broadcast_mul(&a.affine(-1.0, 1.0)?.sqrt()?)?;
        let x_t = (x0.broadcast_mul(&a.sqrt()?)? + noise)?;
        let loss = loss::mse(&unet.forward(&x_t, &t.to_dtype(DType::F32)?, true)?, &eps)?;
        optimizer.backward_step(&loss)?;
        loss.to_scalar()
    };
    Ok(Box::new(move || timed(|| step().map_err(text))))
}

/// The first row of pixels of one evaluation with the driver's weights.
pub fn check(p: &Preset, models: &Path) -> std::result::Result<Vec<f32>, String> {
    let row = || {
        let tensors = candle_core::safetensors::load(p.weights(models), &Device::Cpu)?;
        let unet = UNet::new(p, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))?;
        let y = unet.forward(&images(p, 1)?, &Tensor::full(500.0_f32, 1, &Device::Cpu)?, false)?;
        y.get(0)?.get(0)?.get(0)?.to_vec1()
    };
    row().map_err(text)
}
