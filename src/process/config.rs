//! A continuous process as settings: a name and its numbers, as they stand in a model folder.

use super::vp::BetaCurve;
use super::{BetaSchedule, Edm, Flow, LinearLogSnr, Ou, Process, SubVp, Ve, Vp};
use crate::error::{Error, Result, unknown_name};
use serde_json::{Value, json};
use std::sync::Arc;

/// A continuous process. The discrete one of DDPM is [`super::SchedulerConfig`]'s own table.
#[derive(Clone, Debug, PartialEq)]
pub enum ProcessConfig {
    /// Variance preserving.
    Vp {
        /// Which curve β follows.
        schedule: BetaSchedule,
        /// β(0), per unit of time (unused by the cosine).
        beta_min: f64,
        /// β(1).
        beta_max: f64,
        /// Whether alpha is rescaled to end at 0.
        zero_terminal_snr: bool,
    },
    /// VP's drift, less noise.
    SubVp {
        /// Which curve β follows.
        schedule: BetaSchedule,
        /// β(0), per unit of time.
        beta_min: f64,
        /// β(1).
        beta_max: f64,
    },
    /// Variance exploding, geometric sigmas.
    Ve {
        /// sigma(0).
        sigma_min: f64,
        /// sigma(1).
        sigma_max: f64,
    },
    /// Ornstein–Uhlenbeck.
    Ou {
        /// Rate of the drift towards 0.
        rate: f64,
        /// Diffusion.
        noise: f64,
    },
    /// Karras et al. 2022.
    Edm {
        /// sigma(0).
        sigma_min: f64,
        /// sigma(1).
        sigma_max: f64,
        /// Exponent of their eq. 5.
        rho: f64,
    },
    /// Flow matching along straight lines.
    Flow,
    /// Variance preserving, log-SNR a straight line.
    LinearLogSnr {
        /// ln(alpha²/sigma²) at time 1.
        log_snr_min: f64,
        /// At time 0.
        log_snr_max: f64,
    },
}

fn curve(schedule: &BetaSchedule, min: f64, max: f64) -> BetaCurve {
    match schedule {
        BetaSchedule::Linear => BetaCurve::Linear { min, max },
        BetaSchedule::ScaledLinear => BetaCurve::ScaledLinear { min, max },
        BetaSchedule::Cosine => BetaCurve::Cosine,
        BetaSchedule::Sigmoid => BetaCurve::Sigmoid { min, max },
    }
}

impl ProcessConfig {
    /// The names of continuous processes.
    pub const NAMES: [&str; 7] = ["vp", "sub_vp", "ve", "ou", "edm", "flow", "linear_log_snr"];

    /// The name.
    pub fn name(&self) -> &'static str {
        match self {
            ProcessConfig::Vp { .. } => "vp",
            ProcessConfig::SubVp { .. } => "sub_vp",
            ProcessConfig::Ve { .. } => "ve",
            ProcessConfig::Ou { .. } => "ou",
            ProcessConfig::Edm { .. } => "edm",
            ProcessConfig::Flow => "flow",
            ProcessConfig::LinearLogSnr { .. } => "linear_log_snr",
        }
    }

    /// The process.
    ///
    /// # Errors
    /// [`Error::Usage`] for numbers out of range.
    pub fn build(&self) -> Result<Arc<dyn Process>> {
        Ok(match self {
            ProcessConfig::Vp { schedule, beta_min, beta_max, zero_terminal_snr } => {
                Arc::new(Vp::new(curve(schedule, *beta_min, *beta_max), *zero_terminal_snr)?)
            }
            ProcessConfig::SubVp { schedule, beta_min, beta_max } => {
                Arc::new(SubVp::new(curve(schedule, *beta_min, *beta_max))?)
            }
            ProcessConfig::Ve { sigma_min, sigma_max } => Arc::new(Ve::new(*sigma_min, *sigma_max)?),
            ProcessConfig::Ou { rate, noise } => Arc::new(Ou::new(*rate, *noise)?),
            ProcessConfig::Edm { sigma_min, sigma_max, rho } => Arc::new(Edm::new(*sigma_min, *sigma_max, *rho)?),
            ProcessConfig::Flow => Arc::new(Flow),
            ProcessConfig::LinearLogSnr { log_snr_min, log_snr_max } => {
                Arc::new(LinearLogSnr::new(*log_snr_min, *log_snr_max)?)
            }
        })
    }

    /// As it stands in a model folder.
    pub fn to_json(&self) -> Value {
        match self {
            ProcessConfig::Vp { schedule, beta_min, beta_max, zero_terminal_snr } => json!({
                "name": "vp", "beta_schedule": schedule.name(), "beta_min": beta_min, "beta_max": beta_max,
                "zero_terminal_snr": zero_terminal_snr,
            }),
            ProcessConfig::SubVp { schedule, beta_min, beta_max } => json!({
                "name": "sub_vp", "beta_schedule": schedule.name(), "beta_min": beta_min, "beta_max": beta_max,
            }),
            ProcessConfig::Ve { sigma_min, sigma_max } => {
                json!({"name": "ve", "sigma_min": sigma_min, "sigma_max": sigma_max})
            }
            ProcessConfig::Ou { rate, noise } => json!({"name": "ou", "rate": rate, "noise": noise}),
            ProcessConfig::Edm { sigma_min, sigma_max, rho } => {
                json!({"name": "edm", "sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho})
            }
            ProcessConfig::Flow => json!({"name": "flow"}),
            ProcessConfig::LinearLogSnr { log_snr_min, log_snr_max } => {
                json!({"name": "linear_log_snr", "log_snr_min": log_snr_min, "log_snr_max": log_snr_max})
            }
        }
    }

    /// Reads what [`ProcessConfig::to_json`] wrote.
    ///
    /// # Errors
    /// [`Error::Model`] that names the field which is missing, unknown or malformed.
    pub fn from_json(value: &Value) -> Result<ProcessConfig> {
        let number = |field: &str| {
            value[field]
                .as_f64()
                .ok_or_else(|| Error::Model(format!("process: {field} = {} is not a number", value[field])))
        };
        let schedule = || {
            BetaSchedule::from_name(value["beta_schedule"].as_str().unwrap_or_default())
                .map_err(|e| Error::Model(format!("process: {e}")))
        };
        let name = value["name"].as_str().unwrap_or_default();
        let config = match name {
            "vp" => ProcessConfig::Vp {
                schedule: schedule()?,
                beta_min: number("beta_min")?,
                beta_max: number("beta_max")?,
                zero_terminal_snr: value["zero_terminal_snr"].as_bool().unwrap_or(false),
            },
            "sub_vp" => ProcessConfig::SubVp {
                schedule: schedule()?,
                beta_min: number("beta_min")?,
                beta_max: number("beta_max")?,
            },
            "ve" => ProcessConfig::Ve { sigma_min: number("sigma_min")?, sigma_max: number("sigma_max")? },
            "ou" => ProcessConfig::Ou { rate: number("rate")?, noise: number("noise")? },
            "edm" => ProcessConfig::Edm {
                sigma_min: number("sigma_min")?,
                sigma_max: number("sigma_max")?,
                rho: number("rho")?,
            },
            "flow" => ProcessConfig::Flow,
            "linear_log_snr" => {
                ProcessConfig::LinearLogSnr { log_snr_min: number("log_snr_min")?, log_snr_max: number("log_snr_max")? }
            }
            _ => {
                let unknown = unknown_name("process", name, &ProcessConfig::NAMES);
                return Err(Error::Model(unknown.to_string()));
            }
        };
        config.build().map_err(|e| Error::Model(e.to_string()))?;
        Ok(config)
    }
}
