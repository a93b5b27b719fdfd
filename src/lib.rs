//! A diffusion engine from scratch: tensors, tape, kernels, networks, processes and samplers.

pub mod cli;
pub mod config;
pub mod data;
pub mod denoiser;
pub mod device;
pub mod error;
pub mod eval;
pub mod io;
pub mod loss;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod pipeline;
pub mod process;
pub mod rng;
pub mod sampler;
pub mod simd;
pub mod tape;
pub mod tensor;
#[doc(hidden)]
pub mod testing;
pub mod train;

pub use error::{Error, Result};
