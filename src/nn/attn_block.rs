//! The attention block of diffusers' `Attention` as `UNet2DModel` uses it.

use super::layers::{Linear, Norm};
use super::param::{Builder, Params};
use crate::error::Result;
use crate::ops::{self, GroupNorm};
use crate::tape;
use crate::tensor::Tensor;

/// norm → q, k, v → attention → projection, plus the input, over a factor.
pub(crate) struct AttnBlock {
    name: String,
    norm: Option<Norm>,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
    scale_factor: f64,
}

impl AttnBlock {
    /// `groups` is `None` where diffusers has no norm. Heads have `head_dim` channels; where that does not divide
    /// `channels`, the inner width is the next smaller multiple.
    pub(crate) fn new(
        b: &mut Builder,
        name: &str,
        channels: usize,
        head_dim: usize,
        norm: Option<GroupNorm>,
        scale_factor: f64,
    ) -> AttnBlock {
        let heads = channels / head_dim;
        let inner = heads * head_dim;
        AttnBlock {
            name: name.to_string(),
            norm: norm.map(|norm| Norm::new(b, &format!("{name}.group_norm"), channels, norm)),
            q: Linear::new(b, &format!("{name}.to_q"), channels, inner),
            k: Linear::new(b, &format!("{name}.to_k"), channels, inner),
            v: Linear::new(b, &format!("{name}.to_v"), channels, inner),
            out: Linear::new(b, &format!("{name}.to_out.0"), inner, channels),
            heads,
            scale_factor,
        }
    }

    /// `[n,h,w,c]` to `[n,h,w,c]`.
    pub(crate) fn forward(&self, p: &Params, x: &Tensor) -> Result<Tensor> {
        tape::scope(&self.name, || {
            let normed = match &self.norm {
                Some(norm) => norm.forward(p, x, None)?,
                None => x.clone(),
            };
            let [q, k, v] = [&self.q, &self.k, &self.v].map(|layer| layer.forward(p, &normed, None));
            let y = self.out.forward(p, &ops::attention(&q?, &k?, &v?, self.heads)?, Some(x))?;
            if self.scale_factor == 1.0 { Ok(y) } else { ops::affine(&y, (1.0 / self.scale_factor) as f32, 0.0) }
        })
    }
}
