//! Floating-point operations of a U-Net, counted from its parameters and the size each of them works at.

use tweedie::nn::{ClassEmbed, UNet};

/// Operations for one image; norms, activations and additions are not counted.
#[derive(Clone, Copy, Default)]
pub(crate) struct UNetFlops {
    /// Convolutions and linear layers, forward.
    products: f64,
    /// Scores and weighted sums of attention, forward.
    attention: f64,
    /// The first convolution, whose input wants no gradient.
    first: f64,
}

impl UNetFlops {
    /// Counts `unet` on images of `h`×`w`.
    pub(crate) fn of(unet: &UNet, [h, w]: [usize; 2]) -> UNetFlops {
        let levels = unet.config().block_out_channels.len();
        let mut flops = UNetFlops::default();
        for spec in unet.specs() {
            let pixels = match level(&spec.name, levels) {
                Some(level) => h.div_ceil(1 << level) * w.div_ceil(1 << level),
                None => 1,
            };
            let is_table = matches!(unet.config().class_embed, ClassEmbed::Table(_));
            if spec.shape.len() < 2 || (is_table && spec.name.starts_with("class_embedding")) {
                continue; // biases, norms, and a table whose rows are looked up
            }
            let count = 2.0 * (spec.shape.count() * pixels) as f64;
            flops.products += count;
            if spec.name == "conv_in.weight" {
                flops.first = count;
            }
            if spec.name.ends_with("to_q.weight") {
                flops.attention += 4.0 * (pixels * pixels * spec.shape[0]) as f64;
            }
        }
        flops
    }

    /// Inference of one image.
    pub(crate) fn forward(&self) -> f64 {
        self.products + self.attention
    }

    /// Forward and backward of one image. Each product has two gradients; attention's backward takes five products for
    /// forward's two, because scores are recomputed.
    pub(crate) fn training(&self) -> f64 {
        3.0 * self.products - self.first + 3.5 * self.attention
    }
}

/// How often the size was halved where the parameter `name` makes its output; `None` for the embeddings, which see one vector.
fn level(name: &str, levels: usize) -> Option<usize> {
    let mut parts = name.split('.');
    let block = parts.next()?;
    let index = parts.next().and_then(|i| i.parse::<usize>().ok());
    if name.contains("time_emb_proj") {
        return None;
    }
    match (block, index) {
        ("conv_in" | "conv_out", _) => Some(0),
        ("mid_block", _) => Some(levels - 1),
        ("down_blocks", Some(i)) => Some(i + usize::from(name.contains("downsamplers"))),
        ("up_blocks", Some(i)) => Some(levels - 1 - i - usize::from(name.contains("upsamplers"))),
        _ => None,
    }
}
