//! The loss that settings describe: its weight, and how times are drawn.

use super::TrainConfig;
use crate::error::{Error, Result, unknown_name};
use crate::loss::{ErrorOf, Lambda, TimeSampler, TimeSampling, WEIGHTS, Weight, Weighting};
use std::path::Path;

impl TrainConfig {
    /// What the error at each level counts.
    ///
    /// # Errors
    /// [`Error::Usage`] for unknown names, or a table without its weight and the other way round; [`Error::Io`] for a table that
    /// cannot be read.
    pub fn weighting(&self) -> Result<Weighting> {
        let has_table = !self.weight_table.is_empty();
        let weight = match self.weight.as_str() {
            "simple" => Weight::Simple,
            "vlb" => Weight::Vlb,
            "vlb-tilde" => Weight::VlbTilde,
            "snr" => Weight::Snr,
            "min-snr" => Weight::MinSnr { gamma: self.min_snr_gamma },
            "likelihood" => Weight::Likelihood,
            "vlb-continuous" => Weight::VlbContinuous,
            "table" if has_table => Weight::Custom {
                of: ErrorOf::from_name(&self.weight_of)?,
                lambda: Lambda::read(Path::new(&self.weight_table))?,
            },
            "table" => {
                return Err(Error::Usage(
                    "weight = \"table\": expected a file of t,lambda; name it with --set weight_table=FILE".into(),
                ));
            }
            name => return Err(unknown_name("weight", name, &WEIGHTS)),
        };
        if has_table && self.weight != "table" {
            return Err(Error::Usage(format!(
                "weight_table: has no meaning for weight = \"{}\"; use --weight table",
                self.weight
            )));
        }
        Weighting::new(weight, &self.scheduler()?)
    }

    /// Draws the times of batches.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown name or a `t_min` out of range.
    pub fn time_sampler(&self) -> Result<TimeSampler> {
        let sampling = TimeSampling::from_name(&self.time_sampling)?;
        TimeSampler::new(self.scheduler()?.process()?, sampling, self.least_time())
    }

    /// The least time that is drawn, if it is not the process's own. What is neither is refused where times are drawn, a NaN too.
    pub(super) fn least_time(&self) -> Option<f64> {
        (self.t_min != default_t_min()).then_some(self.t_min)
    }
}

// Settings that runs of older versions do not have.
pub(super) fn default_log_snr_min() -> f64 {
    -8.0
}

pub(super) fn default_log_snr_max() -> f64 {
    7.0
}

pub(super) fn default_weight() -> String {
    "simple".into()
}

pub(super) fn default_min_snr_gamma() -> f64 {
    5.0 // Hang et al. 2023, sec. 4
}

pub(super) fn default_weight_of() -> String {
    "eps".into()
}

pub(super) fn default_time_sampling() -> String {
    "uniform".into()
}

pub(super) fn default_t_min() -> f64 {
    -1.0
}

pub(super) fn default_variance_type() -> String {
    "fixed_small".into()
}

pub(super) fn default_vlb_share() -> f64 {
    1e-3 // Nichol & Dhariwal 2021, sec. 3.1
}
