//! The optimisers, AdamW and Muon, with gradient clipping, the weights' moving average, and learning-rate schedules.

use crate::device::Device;
use crate::error::{Result, unknown_name};
use crate::nn::{ParamSpec, Params};
use crate::ops::{self, AdamW, AdamWEntry, Muon, MuonEntry};
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
    /// Learning rate of AdamW.
    pub lr: f64,
    /// Learning rate of Muon and the decay of its momentum, where it moves anything.
    pub muon: Option<(f64, f64)>,
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

/// What moves a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// [`ops::adamw`].
    AdamW,
    /// [`ops::muon`].
    Muon,
}

impl Rule {
    /// Names of optimisers.
    pub const NAMES: [&str; 2] = ["adamw", "muon"];

    /// What the optimiser `name` does with each parameter. `muon` moves the matrices inside a network's blocks; embeddings, the first and the last
    /// layer, biases and norms are AdamW's there too, as its authors have it.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the known names.
    pub fn of_optimizer(name: &str, specs: &[ParamSpec]) -> Result<Vec<Rule>> {
        let is_muon = match name {
            "adamw" => false,
            "muon" => true,
            _ => return Err(unknown_name("optimizer", name, &Rule::NAMES)),
        };
        let rule = |spec: &ParamSpec| match is_muon && spec.shape.len() >= 2 && spec.name.contains("block") {
            true => Rule::Muon,
            false => Rule::AdamW,
        };
        Ok(specs.iter().map(rule).collect())
    }
}

/// What an optimiser keeps of every parameter.
#[derive(Clone)]
pub struct Moments {
    /// First moments.
    pub m: Vec<Tensor>,
    /// Second moments; they stay 0 where there is no need of them.
    pub v: Vec<Tensor>,
    /// What moves it.
    pub rules: Vec<Rule>,
}

impl Moments {
    /// Zeros like `params`, which AdamW moves.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if memory on the device cannot be had.
    pub fn zeros(params: &Params) -> Result<Moments> {
        Moments::with_rules(params, vec![Rule::AdamW; params.tensors().len()])
    }

    /// Zeros like `params`, with a rule for each.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if memory on the device cannot be had.
    pub fn with_rules(params: &Params, rules: Vec<Rule>) -> Result<Moments> {
        let zero = |t: &Tensor| Tensor::zeros(t.shape(), t.dtype(), t.device());
        let zeros = || params.tensors().iter().map(zero).collect::<Result<Vec<_>>>();
        Ok(Moments { m: zeros()?, v: zeros()?, rules })
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
/// As [`ops::adamw`] and [`ops::muon`].
pub fn update(
    params: &mut Params,
    ema: &mut Params,
    moments: &mut Moments,
    grads: &Grads,
    outcome: &Outcome,
    update: u64,
    s: &UpdateSettings,
) -> Result<()> {
    let adamw = AdamW {
        lr: s.lr,
        beta1: s.betas.0,
        beta2: s.betas.1,
        adam_eps: s.adam_eps,
        weight_decay: s.weight_decay,
        step: update,
        grad_clip: s.grad_clip,
        ema_decay: s.ema_decay,
    };
    let (lr, momentum) = s.muon.unwrap_or_default();
    let muon = Muon { lr, momentum, weight_decay: s.weight_decay, grad_clip: s.grad_clip, ema_decay: s.ema_decay };
    let Moments { m, v, rules } = moments;
    let averaged = params.tensors_mut().iter_mut().zip(ema.tensors_mut());
    let entries = averaged.zip(m.iter_mut().zip(v)).zip(&*rules).filter(|(_, rule)| **rule == Rule::AdamW);
    let entries = entries.filter_map(|(((param, ema), (m, v)), _)| {
        let grad = grads.get(param)?;
        Some(AdamWEntry { param, grad, m, v, ema })
    });
    ops::adamw(entries, &adamw, &outcome.loss, &outcome.norm)?;
    let averaged = params.tensors_mut().iter_mut().zip(ema.tensors_mut());
    let entries = averaged.zip(m).zip(&*rules).filter(|(_, rule)| **rule == Rule::Muon);
    let entries = entries.filter_map(|(((param, ema), m), _)| {
        let grad = grads.get(param)?;
        Some(MuonEntry { param, grad, m, ema })
    });
    ops::muon(entries, &muon, &outcome.loss, &outcome.norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Transformer, TransformerConfig};

    #[test]
    fn learning_rate_rises_linearly_and_falls_to_zero() {
        let rate = |step| LrSchedule::Cosine.rate(1.0, step, 9, 109);
        assert!((rate(0) - 0.1).abs() < 1e-12 && (rate(8) - 0.9).abs() < 1e-12 && (rate(9) - 1.0).abs() < 1e-12);
        assert!((rate(59) - 0.5).abs() < 1e-12 && rate(109) < 1e-12);
        assert_eq!(LrSchedule::Constant.rate(1.0, 500, 9, 109), 1.0);
    }

    #[test]
    fn muon_moves_the_matrices_inside_blocks_and_adamw_all_else() {
        let net = Transformer::new(&TransformerConfig { cond_dim: Some(4), ..TransformerConfig::default() }).unwrap();
        let rules = Rule::of_optimizer("muon", net.specs()).unwrap();
        let mut counts = [0; 2];
        for (spec, rule) in net.specs().iter().zip(&rules) {
            let is_inside =
                ["attn_qkv", "attn_out", "mlp.0", "mlp.2", "adaLN_modulation"].iter().any(|n| spec.name.contains(n));
            let is_matrix = is_inside && spec.name.starts_with("blocks.") && spec.name.ends_with(".weight");
            assert_eq!(*rule == Rule::Muon, is_matrix, "{}", spec.name);
            counts[usize::from(is_matrix)] += 1;
        }
        assert!(counts[0] > 0 && counts[1] > 0);
        assert!(Rule::of_optimizer("adamw", net.specs()).unwrap().iter().all(|rule| *rule == Rule::AdamW));
        assert!(Rule::of_optimizer("muom", net.specs()).unwrap_err().to_string().contains("did you mean \"muon\"?"));
    }

    #[test]
    fn ema_warm_up_begins_low_and_ends_at_the_decay() {
        assert!((ema_decay(0.999, 0) - 0.1).abs() < 1e-12);
        assert_eq!(ema_decay(0.999, 1_000_000), 0.999);
    }
}
