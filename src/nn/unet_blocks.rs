//! The blocks of the U-Net and of networks that share its way down.

use super::Mode;
use super::attn_block::AttnBlock;
use super::layers::Conv2d;
use super::param::{Builder, Params};
use super::res_block::ResBlock;
use super::unet_config::{BlockType, UNetConfig};
use crate::error::Result;
use crate::ops::{Conv, ConvExtras, GroupNorm, Joined};
use crate::tape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// A residual block and its attention where it has one. Shared with the tape, which may run it again.
pub(super) struct Block {
    residual: ResBlock,
    attention: Option<AttnBlock>,
}

/// Blocks, and the resampling that follows them.
pub(super) struct Level {
    pub(super) blocks: Vec<Arc<Block>>,
    pub(super) resample: Option<(String, Conv2d)>,
}

/// A pass through blocks: what all of them read.
pub(super) struct Walk<'a> {
    p: &'a Params,
    /// SiLU of the embedding of time and class, `[n, time_embed_dim]`.
    emb: &'a Tensor,
    mode: Mode,
    /// Where blocks are computed again for their gradients.
    shared: Option<Params>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(p: &'a Params, emb: &'a Tensor, mode: Mode, recompute: bool) -> Walk<'a> {
        let shared = (recompute && tape::is_recording()).then(|| p.clone());
        Walk { p, emb, mode, shared }
    }

    pub(super) fn block(&self, block: &Arc<Block>, x: Joined<'_>) -> Result<Tensor> {
        match &self.shared {
            None => block.forward(self.p, x, self.emb, self.mode),
            Some(shared) => block.forward_recomputed(shared, x, self.emb, self.mode),
        }
    }

    /// Through the levels of the way down; `keep` sees what each step leaves.
    pub(super) fn down(
        &self,
        levels: &[Level],
        padding: usize,
        h: Tensor,
        mut keep: impl FnMut(&Tensor),
    ) -> Result<Tensor> {
        let mut h = h;
        for level in levels {
            for block in &level.blocks {
                h = self.block(block, (&h).into())?;
                keep(&h);
            }
            if let Some((name, conv)) = &level.resample {
                let stride = downsampling(&h, padding);
                h = tape::scope(name, || conv.forward(self.p, &h, stride, ConvExtras::default()))?;
                keep(&h);
            }
        }
        Ok(h)
    }
}

/// Stride 2 with diffusers' padding; an axis of size 1 gets one more zero, so that one pixel stays.
fn downsampling(x: &Tensor, pad_before: usize) -> Conv {
    let after = |size: usize| if pad_before == 0 && size == 1 { 2 } else { 1 };
    Conv { stride: 2, pad_before, pad_after: [after(x.shape()[1]), after(x.shape()[2])] }
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
    fn forward_recomputed(self: &Arc<Block>, p: &Params, x: Joined<'_>, emb: &Tensor, mode: Mode) -> Result<Tensor> {
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

pub(super) fn build_down(b: &mut Builder, config: &UNetConfig, index: &mut usize) -> Vec<Level> {
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

pub(super) fn build_mid(b: &mut Builder, config: &UNetConfig, index: &mut usize) -> [Arc<Block>; 2] {
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

pub(super) fn build_up(b: &mut Builder, config: &UNetConfig, index: &mut usize) -> Vec<Level> {
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
