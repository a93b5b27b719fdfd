//! Networks: parameters, layers and the U-Net.

mod attn_block;
mod init;
mod layers;
mod param;
mod res_block;
mod unet;
mod unet_config;

pub use init::initialise;
pub use param::{Builder, Init, Layout, ParamId, ParamSpec, Params};
pub use unet::{ClassInput, UNet};
pub use unet_config::{BlockType, ClassEmbed, MAX_SIDE, UNetConfig};

use crate::rng::Address;

/// How a forward pass runs.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// No dropout.
    Inference,
    /// Dropout, with masks drawn at this address (seed and step set).
    Training(Address),
}
