//! The U-Net: diffusers' `UNet2DModel`, weight for weight (item 78).
//!
//! Any height and width from 1: on the way up, features are resized by nearest neighbour to the skip's exact size,
//! which equals doubling wherever the sizes divide.

use super::groups::in_groups;
use super::layers::{Conv2d, Norm, TimeEmbedding};
use super::param::{Builder, Init, Layout, ParamId, ParamSpec, Params};
use super::unet_blocks::{Block, Level, Walk, build_down, build_mid, build_up};
use super::unet_config::{ClassEmbed, UNetConfig};
use super::{Mode, Network, Precision};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::{self, Conv, ConvExtras, GroupNorm};
use crate::tape;
use crate::tensor::{Dtype, Tensor};
use std::ops::Range;
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

impl ClassInput<'_> {
    /// Runs `body` with what conditions the images of `rows`.
    fn with_rows<T>(self, rows: Range<usize>, body: impl FnOnce(ClassInput<'_>) -> Result<T>) -> Result<T> {
        match self {
            ClassInput::Labels(labels) => body(ClassInput::Labels(&labels[rows])),
            ClassInput::Numbers(values) => body(ClassInput::Numbers(&values[rows])),
            ClassInput::Vectors(vectors) => body(ClassInput::Vectors(&vectors.rows(rows.start, rows.len())?)),
        }
    }
}

enum ClassEmbedding {
    None,
    Table(ParamId),
    Timestep(TimeEmbedding),
    Identity,
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
        in_groups(n, x.device(), mode, |rows| {
            // What is no class of these images is refused there, in a sentence about all of them.
            if rows.len() == n || !self.takes(class, n) {
                return self.forward_group(p, x, t, class, mode);
            }
            let x = x.rows(rows.start, rows.len())?;
            let run = |class: Option<ClassInput<'_>>| self.forward_group(p, &x, &t[rows.clone()], class, mode);
            match class {
                Some(class) => class.with_rows(rows.clone(), |class| run(Some(class))),
                None => run(None),
            }
        })
    }

    /// Whether `class` is what the configuration wants for `n` images.
    fn takes(&self, class: Option<ClassInput<'_>>, n: usize) -> bool {
        match (&self.class, class) {
            (ClassEmbedding::None, None) => true,
            (ClassEmbedding::Table(_), Some(ClassInput::Labels(labels))) => labels.len() == n,
            (ClassEmbedding::Timestep(_), Some(ClassInput::Numbers(values))) => values.len() == n,
            (ClassEmbedding::Identity, Some(ClassInput::Vectors(vectors))) => {
                vectors.shape()[..] == [n, self.config.time_embed_dim()]
            }
            _ => false,
        }
    }

    /// [`UNet::forward`] of images that go through each layer together.
    fn forward_group(
        &self,
        p: &Params,
        x: &Tensor,
        t: &[f32],
        class: Option<ClassInput<'_>>,
        mode: Mode,
    ) -> Result<Tensor> {
        let emb = tape::scope("time_embedding", || self.embedding(p, t, class, x.device()))?;
        let centred = if self.config.center_input_sample { Some(ops::affine(x, 2.0, -1.0)?) } else { None };
        let x = &ops::cast(centred.as_ref().unwrap_or(x), self.precision.dtype())?;
        let mut h = tape::scope("conv_in", || self.conv_in.forward(p, x, Conv::same(3), ConvExtras::default()))?;
        let walk = Walk::new(p, &emb, mode, self.recompute);
        let mut skips = vec![h.clone()];
        h = walk.down(&self.down, self.config.downsample_padding, h, |h| skips.push(h.clone()))?;
        for block in self.mid.iter().flatten() {
            h = walk.block(block, (&h).into())?;
        }
        for level in &self.up {
            for block in &level.blocks {
                let skip = skips.pop();
                h = match (&skip, h.device()) {
                    (None, _) => walk.block(block, (&h).into())?,
                    (Some(skip), Device::Cpu) => walk.block(block, (&h, skip).into())?,
                    // The kernels read one tensor: joined here, it is joined once.
                    (Some(skip), _) => {
                        let joined = tape::scope("skip", || ops::concat_channels(&h, skip))?;
                        walk.block(block, (&joined).into())?
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
        let takes = self.takes(class, n);
        let extra = match (&self.class, class) {
            (ClassEmbedding::None, None) => None,
            (ClassEmbedding::Table(weight), Some(ClassInput::Labels(labels))) if takes => {
                let rows = p.get(*weight).shape()[0];
                if let Some(bad) = labels.iter().find(|l| **l as usize >= rows) {
                    return Err(Error::Usage(format!("class label {bad}: the model has rows 0 to {}", rows - 1)));
                }
                Some(ops::embed(p.get(*weight), labels)?)
            }
            (ClassEmbedding::Timestep(layers), Some(ClassInput::Numbers(values))) if takes => {
                Some(layers.forward(p, &features(values)?)?)
            }
            (ClassEmbedding::Identity, Some(ClassInput::Vectors(vectors))) if takes => Some(vectors.clone()),
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
