//! What moves the weights.

use super::TrainConfig;
use crate::error::{Error, Result, unknown_name};
use crate::optim::{LrSchedule, Rule};

pub(super) fn default_optimizer() -> String {
    "adamw".into()
}

pub(super) fn default_muon_lr() -> f64 {
    0.02 // Jordan et al. 2024
}

pub(super) fn default_muon_momentum() -> f64 {
    0.95
}

impl TrainConfig {
    /// Refuses settings that no optimiser has a meaning for.
    pub(super) fn check_optimizer(&self) -> Result<()> {
        let bad = |text: String| Err(Error::Usage(text));
        if !Rule::NAMES.contains(&self.optimizer.as_str()) {
            return Err(unknown_name("optimizer", &self.optimizer, &Rule::NAMES));
        }
        LrSchedule::from_name(&self.lr_schedule)?;
        for (key, value) in [("--lr", self.lr), ("muon_lr", self.muon_lr)] {
            if !(value > 0.0 && value.is_finite()) {
                return bad(format!("{key} {value}: expected a number above 0"));
            }
        }
        for (key, value) in [("beta1", self.beta1), ("beta2", self.beta2), ("muon_momentum", self.muon_momentum)] {
            if !(0.0..1.0).contains(&value) {
                return bad(format!("{key} = {value}: expected at least 0 and below 1"));
            }
        }
        if !(self.grad_clip > 0.0 && self.adam_eps >= 0.0 && self.weight_decay >= 0.0) {
            return bad("grad_clip must be above 0, adam_eps and weight_decay not below 0".into());
        }
        Ok(())
    }
}
