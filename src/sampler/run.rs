//! What all samplers share: the denoiser, the count of its evaluations, the noise by address, and the callback.

use super::GridStep;
use crate::denoiser::{Denoiser, Estimate, StepTerms};
use crate::error::{Error, Result};
use crate::ops::Noise;
use crate::process::Level;
use crate::rng::Address;
use crate::tensor::Tensor;

/// Where the noise of the steps comes from.
pub enum StepNoise<'a> {
    /// Drawn at (seed, sample, step).
    Drawn(Address),
    /// Given: one tensor for each step, of the shape of x.
    Given(&'a [Tensor]),
}

/// What a callback sees after each step.
pub struct Progress<'a> {
    /// Index of the step, 0 the noisiest.
    pub step: usize,
    /// Number of steps.
    pub steps: usize,
    /// The levels of the step.
    pub at: GridStep,
    /// x after the step.
    pub x: &'a Tensor,
    /// The estimate the step was taken with.
    pub estimate: &'a Estimate,
}

type Callback<'a> = Box<dyn FnMut(&Progress<'_>) -> Result<()> + 'a>;

/// One sampling run over a batch.
pub struct Run<'a> {
    denoiser: &'a dyn Denoiser,
    noise: StepNoise<'a>,
    samples: &'a [u32],
    callback: Option<Callback<'a>>,
    nfe: usize,
}

impl<'a> Run<'a> {
    /// A run in which image i of the batch is sample `samples[i]`: its noise depends on that index alone.
    pub fn new(denoiser: &'a dyn Denoiser, noise: StepNoise<'a>, samples: &'a [u32]) -> Run<'a> {
        Run { denoiser, noise, samples, callback: None, nfe: 0 }
    }

    /// Calls `callback` after each step; its error stops the run.
    pub fn with_callback(mut self, callback: impl FnMut(&Progress<'_>) -> Result<()> + 'a) -> Run<'a> {
        self.callback = Some(Box::new(callback));
        self
    }

    /// Network evaluations so far.
    pub fn nfe(&self) -> usize {
        self.nfe
    }

    /// D(x_t, t), counted.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn denoise(&mut self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        self.nfe += 1;
        self.denoiser.denoise(x_t, at)
    }

    /// Takes step number `step` and calls the callback.
    ///
    /// # Errors
    /// [`Error::Usage`] if given noise has no tensor for this step; those of the step and the callback.
    pub fn step(
        &mut self,
        estimate: &Estimate,
        terms: StepTerms,
        (step, steps): (usize, usize),
        at: GridStep,
    ) -> Result<Tensor> {
        let noise = match &self.noise {
            StepNoise::Drawn(address) => Noise::Drawn { address: address.step(step), samples: self.samples },
            StepNoise::Given(list) => match list.get(step) {
                Some(z) => Noise::Given(z),
                None if terms.noise == 0.0 => Noise::None,
                None => {
                    return Err(Error::Usage(format!(
                        "step noise: {} tensors given, step {step} wants one",
                        list.len()
                    )));
                }
            },
        };
        let x = estimate.step(terms, noise)?;
        if let Some(callback) = &mut self.callback {
            callback(&Progress { step, steps, at, x: &x, estimate })?;
        }
        Ok(x)
    }
}
