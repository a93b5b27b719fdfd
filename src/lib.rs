//! A diffusion engine from scratch: tensors, an autograd tape, kernels, the U-Net, schedules and samplers, with no
//! machine-learning framework below it.
//!
//! Begin with [`pipeline::Pipeline`], which loads a model folder and draws samples, and [`train::train`], which makes
//! one. Images are `[n, h, w, c]` in [−1, 1]; x_t = alpha·x0 + sigma·eps throughout.
//!
//! ```
//! use tweedie::{ops, tape::{Grads, Tape}, tensor::Tensor};
//!
//! // d/dx Σ silu(2x) at x = 0 is 2·½ = 1.
//! let x = Tensor::from_slice(&[0.0_f32], [1])?.with_grad(true);
//! let (y, tape) = Tape::record(|| ops::silu(&ops::affine(&x, 2.0, 0.0)?))?;
//! let mut grads = Grads::new();
//! tape.backward_from_loss(&y, &mut grads)?;
//! assert_eq!(grads.get(&x).map(|g| g.to_vec::<f32>()).transpose()?, Some(vec![1.0]));
//! # Ok::<(), tweedie::Error>(())
//! ```

pub mod analytic;
pub mod cli;
pub mod config;
pub mod data;
pub mod denoiser;
pub mod device;
pub mod discrete;
pub mod error;
pub mod eval;
pub mod io;
pub(crate) mod kernels;
pub mod likelihood;
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
pub mod verify;

pub use error::{Error, Result};

/// The README's code is compiled too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
