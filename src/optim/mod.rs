//! The optimiser: AdamW with gradient clipping, the weights' moving average, and learning-rate schedules.

use crate::device::Device;
use crate::error::{Result, unknown_name};
use crate::nn::Params;
use crate::ops::{self, AdamW, AdamWEntry};
use crate::tape::Grads;
use crate::tensor::Tensor;

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrSchedule {
    /// It stays.
    Constant,
    /// Half a cosine down to 0 at the last step.
    Cosine,
}

impl LrSchedule {
    /// Reads a name.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the known names.
    pub fn from_name(name: &str) -> Result<LrSchedule> {
        match name {
            "constant" => Ok(LrSchedule::Constant),
            "cosine" => Ok(LrSchedule::Cosine),
            _ => Err(unknown_name("lr_schedule", name, &["constant", "cosine"])),
        }
    }

    /// The learning rate of update `step` (from 0) of `steps`: rises linearly over `warmup` updates to `peak`.
    pub fn rate(self, peak: f64, step: u64, warmup: u64, steps: u64) -> f64 {
        if step < warmup {
            return peak * (step + 1) as f64 / (warmup + 1) as f64;
        }
        match self {
            LrSchedule::Constant => peak,
            LrSchedule::Cosine => {
                let done = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
                peak * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
            }
        }
    }
}

/// Decay of the moving average at update `step` (from 0): rises to `decay`, so that early averages forget the
/// first, random weights.
pub fn ema_decay(decay: f64, step: u64) -> f64 {
    decay.min((1.0 + step as f64) / (10.0 + step as f64))
}

/// Everything an update needs besides gradients.
#[derive(Clone, Copy, Debug)]
pub struct UpdateSettings {
    /// Learning rate.
    pub lr: f64,
    /// AdamW's decays.
    pub betas: (f64, f64),
    /// AdamW's stabiliser.
    pub adam_eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to at most this norm.
    pub grad_clip: f64,
    /// Decay of the moving average.
    pub ema_decay: f64,
}

/// AdamW's moments for every parameter.
#[derive(Clone)]
pub struct Moments {
    /// First moments.
    pub m: Vec<Tensor>,
    /// Second moments.
    pub v: Vec<Tensor>,
}

impl Moments {
    /// Zeros like `params`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if memory on the device cannot be had.
    pub fn zeros(params: &Params) -> Result<Moments> {
        let zero = |t: &Tensor| Tensor::zeros(t.shape(), t.dtype(), t.device());
        let zeros = || params.tensors().iter().map(zero).collect::<Result<Vec<_>>>();
        Ok(Moments { m: zeros()?, v: zeros()? })
    }
}

/// Norm of all gradients, `[1]` in f64 where the parameters live; a parameter without one counts as 0.
///
/// # Errors
/// As [`ops::grad_norm`].
pub fn global_norm(params: &Params, grads: &Grads) -> Result<Tensor> {
    ops::grad_norm(params.tensors().iter().filter_map(|p| grads.get(p)))
}

/// What an [`update`] goes by, on the device that made it.
#[derive(Clone)]
pub struct Outcome {
    /// The loss, `[1]`.
    pub loss: Tensor,
    /// [`global_norm`], `[1]`.
    pub norm: Tensor,
}

impl Outcome {
    /// Loss and norm as numbers; waits for the device.
    ///
    /// # Errors
    /// Those of the copy.
    pub fn read(&self) -> Result<(f64, f64)> {
        let loss = self.loss.to_device(Device::Cpu)?.host::<f32>()?[0];
        let norm = self.norm.to_device(Device::Cpu)?.host::<f64>()?[0];
        Ok((f64::from(loss), norm))
    }
}

/// One update of all parameters, on their device. `update` counts from 1. Where loss or norm is not finite nothing is changed: whoever
/// calls this reads them afterwards, so that the device need not be waited for in between.
///
/// # Errors
/// As [`ops::adamw`].
pub fn update(
    params: &mut Params,
    ema: &mut Params,
    moments: &mut Moments,
    grads: &Grads,
    outcome: &Outcome,
    update: u64,
    s: &UpdateSettings,
) -> Result<()> {
    let settings = AdamW {
        lr: s.lr,
        beta1: s.betas.0,
        beta2: s.betas.1,
        adam_eps: s.adam_eps,
        weight_decay: s.weight_decay,
        step: update,
        grad_clip: s.grad_clip,
        ema_decay: s.ema_decay,
    };
    let averaged = params.tensors_mut().iter_mut().zip(ema.tensors_mut());
    let entries = averaged.zip(moments.m.iter_mut().zip(&mut moments.v)).filter_map(|((param, ema), (m, v))| {
        let grad = grads.get(param)?;
        Some(AdamWEntry { param, grad, m, v, ema })
    });
    ops::adamw(entries, &settings, &outcome.loss, &outcome.norm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_rate_rises_linearly_and_falls_to_zero() {
        let rate = |step| LrSchedule::Cosine.rate(1.0, step, 9, 109);
        assert!((rate(0) - 0.1).abs() < 1e-12 && (rate(8) - 0.9).abs() < 1e-12 && (rate(9) - 1.0).abs() < 1e-12);
        assert!((rate(59) - 0.5).abs() < 1e-12 && rate(109) < 1e-12);
        assert_eq!(LrSchedule::Constant.rate(1.0, 500, 9, 109), 1.0);
    }

    #[test]
    fn ema_warm_up_begins_low_and_ends_at_the_decay() {
        assert!((ema_decay(0.999, 0) - 0.1).abs() < 1e-12);
        assert_eq!(ema_decay(0.999, 1_000_000), 0.999);
    }
}
