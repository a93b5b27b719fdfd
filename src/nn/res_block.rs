//! The residual block of diffusers' `ResnetBlock2D`.

use super::Mode;
use super::layers::{Conv2d, Linear, Norm};
use super::param::{Builder, Params};
use super::unet_config::UNetConfig;
use crate::error::Result;
use crate::ops::{self, Conv, ConvExtras, Film, GroupNorm, Joined};
use crate::tape;
use crate::tensor::Tensor;

/// norm → SiLU → conv (+ time) → norm (· time) → SiLU → dropout → conv, plus the (projected) input, over a factor.
pub(crate) struct ResBlock {
    name: String,
    norm1: Norm,
    conv1: Conv2d,
    time: Linear,
    norm2: Norm,
    conv2: Conv2d,
    shortcut: Option<Linear1x1>,
    scale_shift: bool,
    c_out: usize,
    dropout: f64,
    /// Index among the network's blocks: the sub-index of dropout masks.
    index: usize,
    scale_factor: f64,
}

/// A 1×1 convolution, which is a linear layer on channels, under a convolution's parameter layout.
struct Linear1x1(Conv2d);

impl ResBlock {
    pub(crate) fn new(
        b: &mut Builder,
        name: &str,
        (c_in, c_out): (usize, usize),
        config: &UNetConfig,
        index: usize,
        scale_factor: f64,
    ) -> ResBlock {
        let norm = GroupNorm { groups: config.norm_num_groups, norm_eps: config.norm_eps, silu: true };
        let time_out = if config.scale_shift { 2 * c_out } else { c_out };
        ResBlock {
            name: name.to_string(),
            norm1: Norm::new(b, &format!("{name}.norm1"), c_in, norm),
            conv1: Conv2d::new(b, &format!("{name}.conv1"), c_in, c_out, 3),
            time: Linear::new(b, &format!("{name}.time_emb_proj"), config.time_embed_dim(), time_out),
            norm2: Norm::new(b, &format!("{name}.norm2"), c_out, norm),
            conv2: Conv2d::new(b, &format!("{name}.conv2"), c_out, c_out, 3),
            shortcut: (c_in != c_out)
                .then(|| Linear1x1(Conv2d::new(b, &format!("{name}.conv_shortcut"), c_in, c_out, 1))),
            scale_shift: config.scale_shift,
            c_out,
            dropout: config.dropout,
            index,
            scale_factor,
        }
    }

    /// `x` `[n,h,w,c_in]`, as one tensor or two, `emb` = SiLU of the time embedding `[n, time_embed_dim]`; returns `[n,h,w,c_out]`.
    pub(crate) fn forward(&self, p: &Params, x: Joined<'_>, emb: &Tensor, mode: Mode) -> Result<Tensor> {
        tape::scope(&self.name, || {
            let time = self.time.forward(p, emb, None)?;
            let per_image = (!self.scale_shift).then_some(&time);
            let h = self.norm1.forward(p, x, None)?;
            let h = self.conv1.forward(p, &h, Conv::same(3), ConvExtras { per_image, residual: None })?;
            let h = if self.scale_shift {
                let scale = ops::slice_channels(&time, 0, self.c_out)?;
                let shift = ops::slice_channels(&time, self.c_out, self.c_out)?;
                self.norm2.forward(p, &h, Some(Film { scale: &scale, shift: &shift }))?
            } else {
                self.norm2.forward(p, &h, None)?
            };
            let h = match mode {
                Mode::Training(address) => ops::dropout(&h, self.dropout, address.sub_index(self.index))?,
                Mode::Inference => h,
            };
            let shortcut = match &self.shortcut {
                Some(Linear1x1(conv)) => conv.project(p, x)?,
                None => x.concat()?,
            };
            let residual = Some(&shortcut);
            let y = self.conv2.forward(p, &h, Conv::same(3), ConvExtras { per_image: None, residual })?;
            if self.scale_factor == 1.0 { Ok(y) } else { ops::affine(&y, (1.0 / self.scale_factor) as f32, 0.0) }
        })
    }
}
