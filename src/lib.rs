//! A diffusion engine from scratch: tensors, tape, kernels, networks, processes and samplers.

pub mod device;
pub mod error;
pub mod ops;
pub mod rng;
pub mod simd;
pub mod tape;
pub mod tensor;
#[doc(hidden)]
pub mod testing;

pub use error::{Error, Result};
