//! Networks: parameters, layers, the U-Net for images and the multilayer perceptron for vectors.

mod attn_block;
mod init;
mod layers;
mod mlp;
mod param;
mod res_block;
mod unet;
mod unet_config;

pub use init::initialise;
pub use mlp::{Mlp, MlpConfig};
pub use param::{Builder, Init, Layout, ParamId, ParamSpec, Params};
pub use unet::{ClassInput, UNet};
pub use unet_config::{BlockType, ClassEmbed, MAX_SIDE, UNetConfig};

use crate::error::Result;
use crate::rng::Address;
use crate::tensor::Tensor;

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
