//! The U-Net: diffusers' `UNet2DModel`, weight for weight (item 78).
//!
//! Any height and width from 1: on the way up, features are resized by nearest neighbour to the skip's exact size,
//! which equals doubling wherever the sizes divide.

use super::attn_block::AttnBlock;
use super::layers::{Conv2d, Norm, TimeEmbedding};
use super::param::{Builder, Init, Layout, ParamId, ParamSpec, Params};
use super::res_block::ResBlock;
use super::unet_config::{BlockType, ClassEmbed, UNetConfig};
use super::{Mode, Network, Precision};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::{self, Conv, ConvExtras, GroupNorm, Joined};
use crate::tape;
use crate::tensor::{Dtype, Tensor};
use std::sync::Arc;

/// What conditions each image.
#[derive(Clone, Copy)]
pub enum ClassInput<'a> {
    /// Rows of the class table, `[n]`.
    Labels(&'a [u32]),
    /// Numbers, for `class_embed_type` "timestep", `[n]`.
    Numbers(&'a [f32]),
    /// Vectors `[n, time_embed_dim]`, for `class_embed_type` "identity".
    Vectors(&'a Tensor),
}

enum ClassEmbedding {
    None,
    Table(ParamId),
    Timestep(TimeEmbedding),
    Identity,
}

/// A residual block and its attention where it has one. Shared with the tape, which may run it again.
struct Block {
    residual: ResBlock,
    attention: Option<AttnBlock>,
}

/// Blocks, and the resampling that follows them.
struct Level {
    blocks: Vec<Arc<Block>>,
    resample: Option<(String, Conv2d)>,
}

/// The network; its weights are kept in [`Params`].
pub struct UNet {
    config: UNetConfig,
    specs: Vec<ParamSpec>,
    conv_in: Conv2d,
    time: TimeEmbedding,
    class: ClassEmbedding,
    down: Vec<Level>,
    mid: Option<[Arc<Block>; 2]>,
    up: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv2d,
    recompute: bool,
    precision: Precision,
}

impl UNet {
    /// Builds the layers that `config` describes.
    ///
    /// # Errors
    /// [`Error::Model`] as [`UNetConfig::validate`].
    pub fn new(config: &UNetConfig) -> Result<UNet> {
        config.validate()?;
        let b = &mut Builder::new();
        let channels = &config.block_out_channels;
        let embed = config.time_embed_dim();
        let conv_in = Conv2d::new(b, "conv_in", config.in_channels, channels[0], 3);
        let time = TimeEmbedding::new(b, "time_embedding", channels[0], embed);
        let class = match config.class_embed {
            ClassEmbed::None => ClassEmbedding::None,
            ClassEmbed::Table(rows) => ClassEmbedding::Table(b.add(
                "class_embedding.weight".into(),
                [rows, embed],
                Layout::Plain,
                Init::Normal,
            )),
            ClassEmbed::Timestep => {
                ClassEmbedding::Timestep(TimeEmbedding::new(b, "class_embedding", channels[0], embed))
            }
            ClassEmbed::Identity => ClassEmbedding::Identity,
        };
        let mut index = 0;
        let down = build_down(b, config, &mut index);
        let mid = config.has_mid_block.then(|| build_mid(b, config, &mut index));
        let up = build_up(b, config, &mut index);
        let norm = GroupNorm { groups: config.norm_num_groups, norm_eps: config.norm_eps, silu: true };
        let norm_out = Norm::new(b, "conv_norm_out", channels[0], norm);
        let conv_out = Conv2d::new(b, "conv_out", channels[0], config.out_channels, 3);
        let specs = std::mem::take(b).finish();
        Ok(UNet {
            config: config.clone(),
            specs,
            conv_in,
            time,
            class,
            down,
            mid,
            up,
            norm_out,
            conv_out,
            recompute: false,
            precision: Precision::F32,
        })
    }

    /// Whether training keeps only each block's input and result, and computes what lies between again for the gradients: less memory, more
    /// time, the same bits.
    pub fn with_recompute(self, recompute: bool) -> UNet {
        UNet { recompute, ..self }
    }

    /// The same network, computing in `precision`; a new one computes in f32.
    pub fn with_precision(self, precision: Precision) -> UNet {
        UNet { precision, ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The parameters, in the order of [`Params`].
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Runs the network.
    ///
    /// * `x` — `[n, h, w, in_channels]`, any h, w ≥ 1
    /// * `t` — `[n]`, times as the network was trained on them (DDPM index)
    /// * `class` — what the configuration's class conditioning wants, or `None` without one
    ///
    /// Returns `[n, h, w, out_channels]`, f32 in each precision. Differentiable in x and the parameters.
    ///
    /// # Errors
    /// [`Error::Shape`] if sizes disagree; [`Error::Usage`] if class labels are missing, out of range or not wanted.
    pub fn forward(
        &self,
        p: &Params,
        x: &Tensor,
        t: &[f32],
        class: Option<ClassInput<'_>>,
        mode: Mode,
    ) -> Result<Tensor> {
        let Some([n, h, w, c]) = x.shape().nhwc() else {
            return Err(Error::Shape(format!("unet: x wants [n,h,w,{}], got {}", self.config.in_channels, x.shape())));
        };
        if c != self.config.in_channels || n == 0 || h == 0 || w == 0 {
            let wants = self.config.in_channels;
            return Err(Error::Shape(format!("unet: x wants [n,h,w,{wants}] with no size 0, got {}", x.shape())));
        }
        if t.len() != n {
            return Err(Error::Shape(format!("unet: {n} images want {n} times, got {}", t.len())));
        }
        let emb = tape::scope("time_embedding", || self.embedding(p, t, class, x.device()))?;
        let centred = if self.config.center_input_sample { Some(ops::affine(x, 2.0, -1.0)?) } else { None };
        let x = &ops::cast(centred.as_ref().unwrap_or(x), self.precision.dtype())?;
        let mut h = tape::scope("conv_in", || self.conv_in.forward(p, x, Conv::same(3), ConvExtras::default()))?;
        let shared = (self.recompute && tape::is_recording()).then(|| Arc::new(p.clone()));
        let run = |block: &Arc<Block>, x: Joined<'_>| match &shared {
            None => block.forward(p, x, &emb, mode),
            Some(shared) => block.forward_recomputed(shared, x, &emb, mode),
        };
        let mut skips = vec![h.clone()];
        for level in &self.down {
            for block in &level.blocks {
                h = run(block, (&h).into())?;
                skips.push(h.clone());
            }
            if let Some((name, conv)) = &level.resample {
                let stride = self.downsampling(&h);
                h = tape::scope(name, || conv.forward(p, &h, stride, ConvExtras::default()))?;
                skips.push(h.clone());
            }
        }
        for block in self.mid.iter().flatten() {
            h = run(block, (&h).into())?;
        }
        for level in &self.up {
            for block in &level.blocks {
                let skip = skips.pop();
                h = match (&skip, h.device()) {
                    (None, _) => run(block, (&h).into())?,
                    (Some(skip), Device::Cpu) => run(block, (&h, skip).into())?,
                    // The kernels read one tensor: joined here, it is joined once.
                    (Some(skip), _) => {
                        let joined = tape::scope("skip", || ops::concat_channels(&h, skip))?;
                        run(block, (&joined).into())?
                    }
                };
            }
            if let (Some((name, conv)), Some(skip)) = (&level.resample, skips.last()) {
                let (rows, columns) = (skip.shape()[1], skip.shape()[2]);
                h = tape::scope(name, || {
                    let wide = ops::upsample_nearest(&h, rows, columns)?;
                    conv.forward(p, &wide, Conv::same(3), ConvExtras::default())
                })?;
            }
        }
        h = tape::scope("conv_norm_out", || self.norm_out.forward(p, &h, None))?;
        let y = tape::scope("conv_out", || self.conv_out.forward(p, &h, Conv::same(3), ConvExtras::default()))?;
        ops::cast(&y, Dtype::F32)
    }

    /// SiLU of the sum of time and class embeddings: every residual block begins with it.
    fn embedding(&self, p: &Params, t: &[f32], class: Option<ClassInput<'_>>, device: Device) -> Result<Tensor> {
        let n = t.len();
        let features = |values: &[f32]| {
            let config = &self.config;
            ops::time_features(values, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift, device)
        };
        let emb = self.time.forward(p, &features(t)?)?;
        let extra = match (&self.class, class) {
            (ClassEmbedding::None, None) => None,
            (ClassEmbedding::Table(weight), Some(ClassInput::Labels(labels))) if labels.len() == n => {
                let rows = p.get(*weight).shape()[0];
                if let Some(bad) = labels.iter().find(|l| **l as usize >= rows) {
                    return Err(Error::Usage(format!("class label {bad}: the model has rows 0 to {}", rows - 1)));
                }
                Some(ops::embed(p.get(*weight), labels)?)
            }
            (ClassEmbedding::Timestep(layers), Some(ClassInput::Numbers(values))) if values.len() == n => {
                Some(layers.forward(p, &features(values)?)?)
            }
            (ClassEmbedding::Identity, Some(ClassInput::Vectors(vectors))) if vectors.shape() == emb.shape() => {
                Some(vectors.clone())
            }
            (ClassEmbedding::None, Some(_)) => {
                return Err(Error::Usage("class labels were given, but the model has no class conditioning".into()));
            }
            (_, given) => {
                let what = match self.config.class_embed {
                    ClassEmbed::Table(rows) => format!("{n} labels from 0 to {}", rows - 1),
                    ClassEmbed::Timestep => format!("{n} numbers"),
                    _ => format!("vectors [{n},{}]", self.config.time_embed_dim()),
                };
                let got = if given.is_some() { "another number or kind" } else { "none" };
                return Err(Error::Usage(format!("class_labels: the model wants {what}, got {got}")));
            }
        };
        ops::silu(&match extra {
            Some(extra) => ops::add(&emb, &extra)?,
            None => emb,
        })
    }

    /// Stride 2 with diffusers' padding; an axis of size 1 gets one more zero, so that one pixel stays.
    fn downsampling(&self, x: &Tensor) -> Conv {
        let pad_before = self.config.downsample_padding;
        let after = |size: usize| if pad_before == 0 && size == 1 { 2 } else { 1 };
        Conv { stride: 2, pad_before, pad_after: [after(x.shape()[1]), after(x.shape()[2])] }
    }
}

impl Network for UNet {
    fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Without classes: a class-conditional network says that it wants them.
    fn net_out(&self, p: &Params, x_t: &Tensor, times: &[f32], mode: Mode) -> Result<Tensor> {
        self.forward(p, x_t, times, None, mode)
    }
}

impl Block {
    fn forward(&self, p: &Params, x: Joined<'_>, emb: &Tensor, mode: Mode) -> Result<Tensor> {
        let h = self.residual.forward(p, x, emb, mode)?;
        match &self.attention {
            Some(attention) => attention.forward(p, &h),
            None => Ok(h),
        }
    }

    /// The same, of which the tape keeps x and emb alone.
    fn forward_recomputed(
        self: &Arc<Block>,
        p: &Arc<Params>,
        x: Joined<'_>,
        emb: &Tensor,
        mode: Mode,
    ) -> Result<Tensor> {
        let (block, p) = (self.clone(), p.clone());
        let inputs = [emb, x.first].into_iter().chain(x.second).cloned().collect();
        tape::recompute(inputs, move |t| block.forward(&p, Joined { first: &t[1], second: t.get(2) }, &t[0], mode))
    }
}

/// A level's attention block, where it has one.
fn attention(b: &mut Builder, name: &str, kind: BlockType, channels: usize, config: &UNetConfig) -> Option<AttnBlock> {
    let norm = GroupNorm { groups: config.norm_num_groups, norm_eps: config.norm_eps, silu: false };
    let head_dim = config.attention_head_dim.unwrap_or(channels);
    (kind == BlockType::Attention).then(|| AttnBlock::new(b, name, channels, head_dim, Some(norm), 1.0))
}

fn build_down(b: &mut Builder, config: &UNetConfig, index: &mut usize) -> Vec<Level> {
    let channels = &config.block_out_channels;
    let mut c_in = channels[0];
    let mut levels = Vec::new();
    for (i, (&c_out, &kind)) in channels.iter().zip(&config.down_block_types).enumerate() {
        let name = format!("down_blocks.{i}");
        let mut blocks = Vec::new();
        for j in 0..config.layers_per_block {
            let residual = ResBlock::new(b, &format!("{name}.resnets.{j}"), (c_in, c_out), config, *index, 1.0);
            let attention = attention(b, &format!("{name}.attentions.{j}"), kind, c_out, config);
            blocks.push(Arc::new(Block { residual, attention }));
            c_in = c_out;
            *index += 1;
        }
        let resample = (i + 1 < channels.len()).then(|| {
            let name = format!("{name}.downsamplers.0.conv");
            let conv = Conv2d::new(b, &name, c_out, c_out, 3);
            (name, conv)
        });
        levels.push(Level { blocks, resample });
    }
    levels
}

fn build_mid(b: &mut Builder, config: &UNetConfig, index: &mut usize) -> [Arc<Block>; 2] {
    let c = config.block_out_channels[config.block_out_channels.len() - 1];
    let factor = config.mid_block_scale_factor;
    // diffusers leaves the norm out where the time embedding is a scale-shift and no group count is said.
    let groups = config.attn_norm_num_groups.or((!config.scale_shift).then_some(config.norm_num_groups));
    let norm = groups.map(|groups| GroupNorm { groups, norm_eps: config.norm_eps, silu: false });
    let head_dim = config.attention_head_dim.unwrap_or(c);
    let first = ResBlock::new(b, "mid_block.resnets.0", (c, c), config, *index, factor);
    let attention =
        config.add_attention.then(|| AttnBlock::new(b, "mid_block.attentions.0", c, head_dim, norm, factor));
    let second = ResBlock::new(b, "mid_block.resnets.1", (c, c), config, *index + 1, factor);
    *index += 2;
    [(first, attention), (second, None)].map(|(residual, attention)| Arc::new(Block { residual, attention }))
}

fn build_up(b: &mut Builder, config: &UNetConfig, index: &mut usize) -> Vec<Level> {
    let reversed: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
    let last = reversed.len() - 1;
    let mut previous = reversed[0];
    let mut levels = Vec::new();
    for (i, (&c_out, &kind)) in reversed.iter().zip(&config.up_block_types).enumerate() {
        let name = format!("up_blocks.{i}");
        let below = reversed[(i + 1).min(last)];
        let mut blocks = Vec::new();
        for j in 0..=config.layers_per_block {
            let skip = if j == config.layers_per_block { below } else { c_out };
            let c_in = skip + if j == 0 { previous } else { c_out };
            let residual = ResBlock::new(b, &format!("{name}.resnets.{j}"), (c_in, c_out), config, *index, 1.0);
            let attention = attention(b, &format!("{name}.attentions.{j}"), kind, c_out, config);
            blocks.push(Arc::new(Block { residual, attention }));
            *index += 1;
        }
        previous = c_out;
        let resample = (i < last).then(|| {
            let name = format!("{name}.upsamplers.0.conv");
            let conv = Conv2d::new(b, &name, c_out, c_out, 3);
            (name, conv)
        });
        levels.push(Level { blocks, resample });
    }
    levels
}
