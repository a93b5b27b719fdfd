//! A diffusion engine from scratch: tensors, tape, kernels, networks, processes and samplers.

pub mod error;
pub mod rng;
pub mod simd;

pub use error::{Error, Result};
