//! Denoisers: D(x_t, t) → x0_hat. Samplers see nothing else.

mod network;
mod predict;
mod threshold;

pub use network::NetworkDenoiser;
pub use predict::{eps_coefficients, target, x0_coefficients};
pub use threshold::Threshold;

use crate::error::Result;
use crate::ops::{self, Noise, ReverseStep};
use crate::process::Level;
use crate::tensor::Tensor;

/// Estimates the clean data from a noisy one.
pub trait Denoiser {
    /// The estimate for `x_t` `[n, …]`, all at one level.
    ///
    /// # Errors
    /// Those of the network or oracle behind it.
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate>;
}

/// x0_hat and eps_hat as linear functions of x_t and the network's output, so that a sampler's whole step is one pass
/// over memory; x0_hat may be clipped, or replaced by a tensor where that is not enough.
#[derive(Clone)]
pub struct Estimate {
    /// The noisy input.
    pub x_t: Tensor,
    /// The network's output, or any tensor that the coefficients refer to.
    pub net_out: Tensor,
    /// x0_hat = `.0`·x_t + `.1`·net_out.
    pub x0: (f64, f64),
    /// eps_hat = `.0`·x_t + `.1`·net_out, before clipping.
    pub eps: (f64, f64),
    /// x0_hat is clamped to ±this.
    pub clip: Option<f64>,
    /// x0_hat itself, where it was changed otherwise.
    pub x0_hat: Option<Tensor>,
}

/// A step of a sampler in its own terms: next = x·x_t + x0·x0_hat + eps·eps_hat + noise·z.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTerms {
    /// Factor of x_t.
    pub x: f64,
    /// Factor of x0_hat.
    pub x0: f64,
    /// Factor of eps_hat.
    pub eps: f64,
    /// Standard deviation of the fresh noise.
    pub noise: f64,
}

impl Estimate {
    /// Takes a step.
    ///
    /// # Errors
    /// As [`ops::reverse_step`].
    pub fn step(&self, terms: StepTerms, noise: Noise<'_>) -> Result<Tensor> {
        let step = ReverseStep {
            from_x: self.x0.0,
            from_out: self.x0.1,
            clip: self.clip,
            to_x: terms.x + terms.eps * self.eps.0,
            to_x0: terms.x0,
            to_out: terms.eps * self.eps.1,
            noise: terms.noise,
        };
        ops::reverse_step(&self.x_t, &self.net_out, self.x0_hat.as_ref(), &step, noise)
    }

    /// x0_hat as a tensor.
    ///
    /// # Errors
    /// As [`ops::reverse_step`].
    pub fn x0_hat(&self) -> Result<Tensor> {
        match &self.x0_hat {
            Some(x0_hat) => Ok(x0_hat.clone()),
            None => self.step(StepTerms { x0: 1.0, ..Default::default() }, Noise::None),
        }
    }
}
