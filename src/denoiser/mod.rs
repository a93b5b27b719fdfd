//! Denoisers: D(x_t, t) → x0_hat. Samplers see nothing else.

pub mod guidance;
mod jacobian;
mod network;
pub mod oracle;
mod predict;
mod threshold;

pub use jacobian::Differentiable;
pub use network::{MlpDenoiser, NetworkDenoiser};
pub use predict::{eps_coefficients, loss_weight, target, x0_coefficients};
pub use threshold::Threshold;

use crate::error::Result;
use crate::ops::{self, Noise, ReverseStep, StepInputs};
use crate::process::Level;
use crate::tensor::Tensor;

/// Estimates the clean data from a noisy one.
pub trait Denoiser {
    /// The estimate for `x_t` `[n, …]`, all at one level.
    ///
    /// # Errors
    /// Those of the network or oracle behind it.
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate>;

    /// One estimate `[1, …]` for each row of `x_t`, row i at level `at[i]`: for methods whose step size is each sample's own. One
    /// evaluation of a network, where there is one.
    ///
    /// # Errors
    /// Those of the network or oracle behind it.
    fn denoise_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        at.iter().enumerate().map(|(i, at)| self.denoise(&x_t.rows(i, 1)?, *at)).collect()
    }

    /// Network evaluations that an estimate at this level takes, per sample.
    fn evaluations(&self, _at: Level) -> usize {
        1
    }
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
    /// Where the variance of a reverse step lies between beta-tilde (−1) and beta (1), if the network says so: like `x_t`.
    pub variance: Option<Tensor>,
    /// Whether guidance moved it. Then x0_hat leaves the data's range as a rule, and what clips it must move eps_hat too: a step from a clipped x0_hat and
    /// an eps_hat that is not goes where neither of them points.
    pub is_guided: bool,
}

/// A network's output without what it says of the variance, and that: a second half of the channels, where it has twice those of its input.
///
/// # Errors
/// Those of [`ops::slice_channels`].
pub fn split_variance(net_out: Tensor, channels: usize) -> Result<(Tensor, Option<Tensor>)> {
    if net_out.shape().last_size() != 2 * channels {
        return Ok((net_out, None));
    }
    let half = |start| ops::slice_channels(&net_out, start, channels);
    Ok((half(0)?, Some(half(channels)?)))
}

impl<D: Denoiser + ?Sized> Denoiser for &D {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        (**self).denoise(x_t, at)
    }

    fn denoise_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        (**self).denoise_rows(x_t, at)
    }

    fn evaluations(&self, at: Level) -> usize {
        (**self).evaluations(at)
    }
}

impl<D: Denoiser + ?Sized> Denoiser for Box<D> {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        (**self).denoise(x_t, at)
    }

    fn denoise_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        (**self).denoise_rows(x_t, at)
    }

    fn evaluations(&self, at: Level) -> usize {
        (**self).evaluations(at)
    }
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
    /// The estimate of an exact denoiser: x0_hat itself. `at` must have noise.
    pub fn of_x0(x_t: Tensor, x0_hat: Tensor, at: Level) -> Estimate {
        let eps = (1.0 / at.sigma, -at.alpha / at.sigma);
        Estimate {
            x_t,
            net_out: x0_hat,
            x0: (0.0, 1.0),
            eps,
            clip: None,
            x0_hat: None,
            variance: None,
            is_guided: false,
        }
    }

    /// The same estimate, moved by guidance.
    pub fn guided(self) -> Estimate {
        Estimate { is_guided: true, ..self }
    }

    /// The same step with eps_hat taken from x0_hat: (x_t − alpha·x0_hat)/sigma. This differs from eps_hat where x0_hat was clipped or replaced, and
    /// makes D alone decide the step. `at` must have noise.
    pub fn by_denoiser(&self, terms: StepTerms, at: Level) -> StepTerms {
        if self.clip.is_none() && self.x0_hat.is_none() {
            return terms;
        }
        let share = terms.eps / at.sigma;
        StepTerms { x: terms.x + share, x0: terms.x0 - share * at.alpha, eps: 0.0, noise: terms.noise }
    }

    /// Takes a step.
    ///
    /// # Errors
    /// As [`ops::reverse_step`].
    pub fn step(&self, terms: StepTerms, noise: Noise<'_>) -> Result<Tensor> {
        self.step_from(terms, None, noise)
    }

    /// Takes a step to which an earlier tensor contributes: `past.0`·`past.1`.
    ///
    /// # Errors
    /// As [`ops::reverse_step`].
    pub fn step_from(&self, terms: StepTerms, past: Option<(f64, &Tensor)>, noise: Noise<'_>) -> Result<Tensor> {
        let step = ReverseStep {
            from_x: self.x0.0,
            from_out: self.x0.1,
            clip: self.clip,
            to_x: terms.x + terms.eps * self.eps.0,
            to_x0: terms.x0,
            to_out: terms.eps * self.eps.1,
            to_past: past.map_or(0.0, |(factor, _)| factor),
            noise: terms.noise,
        };
        let inputs = StepInputs { x0_hat: self.x0_hat.as_ref(), past: past.map(|(_, tensor)| tensor) };
        ops::reverse_step(&self.x_t, &self.net_out, inputs, &step, noise)
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
