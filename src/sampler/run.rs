//! What all samplers share: the denoiser, the count of its evaluations, the noise by address, and the callback.

use super::{GridStep, Projection};
use crate::denoiser::{Denoiser, Estimate, StepTerms};
use crate::error::{Error, Result};
use crate::ops::{self, Noise, ReverseStep, StepInputs};
use crate::process::Level;
use crate::rng::Address;
use crate::tensor::Tensor;

/// Where the noise of the steps comes from.
pub enum StepNoise<'a> {
    /// Drawn at (seed, sample, step).
    Drawn(Address),
    /// Given: one tensor for each draw, in the order of use, of the shape of x.
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
    /// The estimate x0_hat the step was taken with.
    pub estimate: &'a Estimate,
}

type Callback<'a> = Box<dyn FnMut(&Progress<'_>) -> Result<()> + 'a>;

/// One sampling run over a batch.
pub struct Run<'a> {
    denoiser: &'a dyn Denoiser,
    noise: StepNoise<'a>,
    samples: &'a [u32],
    callback: Option<Callback<'a>>,
    projection: Option<(&'a dyn Projection, Address)>,
    nfe: usize,
    draws: usize,
    projected: usize,
    /// Steps before this part of the run, and of the whole, where it has parts.
    part: Option<(usize, usize)>,
}

impl<'a> Run<'a> {
    /// A run in which image i of the batch is sample `samples[i]`: its noise depends on that index alone.
    pub fn new(denoiser: &'a dyn Denoiser, noise: StepNoise<'a>, samples: &'a [u32]) -> Run<'a> {
        Run { denoiser, noise, samples, callback: None, projection: None, nfe: 0, draws: 0, projected: 0, part: None }
    }

    /// Calls `callback` after each step; its error stops the run.
    pub fn with_callback(mut self, callback: impl FnMut(&Progress<'_>) -> Result<()> + 'a) -> Run<'a> {
        self.callback = Some(Box::new(callback));
        self
    }

    /// Puts in after each step what is known; its noise is drawn at `address` at (sample, number of the step).
    pub fn with_projection(mut self, projection: &'a dyn Projection, address: Address) -> Run<'a> {
        self.projection = Some((projection, address));
        self
    }

    /// Whether something is put in after each step.
    pub fn has_projection(&self) -> bool {
        self.projection.is_some()
    }

    /// Counts the steps that follow from `done` on, of `steps` in all.
    pub(super) fn begin_part(&mut self, done: usize, steps: usize) {
        self.part = Some((done, steps));
    }

    /// Network evaluations so far, per sample.
    pub fn nfe(&self) -> usize {
        self.nfe
    }

    /// D(x_t, t), counted.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn denoise(&mut self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        self.nfe += self.denoiser.evaluations(at);
        self.denoiser.denoise(x_t, at)
    }

    /// One estimate for each row at its own level, counted once.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn denoise_rows(&mut self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        self.nfe += at.iter().map(|at| self.denoiser.evaluations(*at)).max().unwrap_or(0);
        self.denoiser.denoise_rows(x_t, at)
    }

    /// x after a step of these terms; `past.0`·`past.1` is added where there is one. Fresh noise is drawn if the terms have any.
    ///
    /// # Errors
    /// [`Error::Usage`] if given noise runs out; those of the step.
    pub fn advance(&mut self, estimate: &Estimate, terms: StepTerms, past: Option<(f64, &Tensor)>) -> Result<Tensor> {
        let draw = self.draws;
        self.draws += 1;
        estimate.step_from(terms, past, self.noise_at(draw, terms.noise)?)
    }

    /// x after a step of these terms, and fresh noise of the variance that `v` chooses for each element between the two of `logs` (ln
    /// beta-tilde, ln beta).
    ///
    /// # Errors
    /// As [`Run::advance`].
    pub fn advance_learned(
        &mut self,
        estimate: &Estimate,
        terms: StepTerms,
        (v, logs): (&Tensor, (f64, f64)),
    ) -> Result<Tensor> {
        let mean = estimate.step(terms, Noise::None)?;
        // Noise alone: nothing of the mean.
        let z = self.add_noise(&mean, 0.0, 1.0)?;
        ops::learned_step(&mean, v, &z, logs)
    }

    /// factor·x + deviation·z, with fresh noise z.
    ///
    /// # Errors
    /// As [`Run::advance`].
    pub fn add_noise(&mut self, x: &Tensor, factor: f64, deviation: f64) -> Result<Tensor> {
        let draw = self.draws;
        self.draws += 1;
        let step = ReverseStep { to_x: factor, noise: deviation, ..Default::default() };
        ops::reverse_step(x, x, StepInputs::default(), &step, self.noise_at(draw, deviation)?)
    }

    /// Noise number `draw` of the run: a place of its own for every use, whether it is used or not.
    fn noise_at(&self, draw: usize, deviation: f64) -> Result<Noise<'_>> {
        match &self.noise {
            StepNoise::Drawn(address) => Ok(Noise::Drawn { address: address.step(draw), samples: self.samples }),
            StepNoise::Given(list) => match list.get(draw) {
                Some(z) => Ok(Noise::Given(z)),
                None if deviation == 0.0 => Ok(Noise::None),
                None => Err(Error::Usage(format!("step noise: {} tensors given, step {draw} wants one", list.len()))),
            },
        }
    }

    /// Ends step number `step`: puts in what is known, calls the callback, and returns x.
    ///
    /// # Errors
    /// Those of the projection and the callback.
    pub fn finish_step(
        &mut self,
        (step, steps): (usize, usize),
        at: GridStep,
        mut x: Tensor,
        estimate: &Estimate,
    ) -> Result<Tensor> {
        if let Some((projection, address)) = self.projection {
            let address = address.step(self.projected);
            self.projected += 1;
            x = projection.project(x, at.to, &mut |known| self.noised(known, at.to, address))?;
        }
        let (step, steps) = self.part.map_or((step, steps), |(done, all)| (done + step, all));
        if let Some(callback) = &mut self.callback {
            callback(&Progress { step, steps, at, x: &x, estimate })?;
        }
        Ok(x)
    }

    /// Known data at a level.
    fn noised(&self, known: &Tensor, at: Level, address: Address) -> Result<Tensor> {
        if at.is_clean() && at.alpha == 1.0 {
            return Ok(known.clone());
        }
        let step = ReverseStep { to_x: at.alpha, noise: at.sigma, ..Default::default() };
        let noise = Noise::Drawn { address, samples: self.samples };
        ops::reverse_step(known, known, StepInputs::default(), &step, noise)
    }
}
