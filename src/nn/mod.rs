//! Networks: parameters, layers, the U-Net for images, the classifier that is half of it, the transformer for sequences and the multilayer perceptron for vectors.

mod attn_block;
mod classifier;
mod groups;
mod init;
mod layers;
mod mlp;
mod param;
mod res_block;
mod transformer;
mod transformer_config;
mod unet;
mod unet_blocks;
mod unet_config;

pub use classifier::{Classifier, ClassifierConfig};
pub use init::initialise;
pub use mlp::{Mlp, MlpConfig};
pub use param::{Builder, Init, Layout, ParamId, ParamSpec, Params};
pub use transformer::Transformer;
pub use transformer_config::TransformerConfig;
pub use unet::{ClassInput, UNet};
pub use unet_config::{BlockType, ClassEmbed, MAX_SIDE, UNetConfig};

use crate::error::{Error, Result};
use crate::rng::Address;
use crate::tensor::{Dtype, Tensor};

/// What activations are kept and products are computed in. Weights, their gradients, statistics and sums are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16, on the CPU: half the memory, and twice the rate of products where the processor has AVX-512 BF16.
    Bf16,
}

impl Precision {
    /// Reads `f32` or `bf16`.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name.
    pub fn from_name(name: &str) -> Result<Precision> {
        match name {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            other => Err(Error::Usage(format!("--precision {other}: expected f32 or bf16"))),
        }
    }

    /// The element type of activations.
    pub fn dtype(self) -> Dtype {
        match self {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::Bf16,
        }
    }
}

/// How a forward pass runs.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// No dropout.
    Inference,
    /// Dropout, with masks drawn at this address (seed and step set).
    Training(Address),
}

/// What training and sampling need of a network whose output has the shape of its input.
pub trait Network {
    /// The parameters, in the order of [`Params`].
    fn specs(&self) -> &[ParamSpec];

    /// The raw output for `x_t` `[n, …]` at `times` `[n]`, as the network was trained on them.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if sizes disagree; [`crate::Error::Usage`] if the network wants more than these inputs.
    fn net_out(&self, p: &Params, x_t: &Tensor, times: &[f32], mode: Mode) -> Result<Tensor>;
}
