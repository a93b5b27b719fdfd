//! diffusers' `scheduler_config.json` for `DDPMScheduler` and `DDIMScheduler`, field by field; and our own
//! `TweedieScheduler`, which adds what those two have no place for: a continuous process and its time convention.

use super::schedule::{BetaSchedule, Discrete};
use super::{Level, Process, ProcessConfig, TimeConvention};
use crate::error::{Error, Result, unknown_name};
use serde_json::{Value, json};
use std::sync::Arc;

/// What the network's output stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Prediction {
    /// The noise eps.
    Eps,
    /// The clean data x0.
    X0,
    /// v = alpha·eps − sigma·x0 (Salimans & Ho 2022, appendix D).
    V,
    /// sigma·∇ log p_t = −eps: the score, scaled to be of one size at all levels (Song et al. 2021's `scale_by_sigma`; S3.eq113 with the plus sign).
    Score,
    /// eps − x0, the velocity of flow matching (Liu et al. 2023).
    Velocity,
    /// F of Karras et al. 2022, eq. 7, for data of standard deviation `sigma_data`: bounded at both ends.
    Edm {
        /// Standard deviation of the data.
        sigma_data: f64,
    },
}

/// Standard deviation of image data in [−1, 1] (Karras et al. 2022, table 1).
const SIGMA_DATA: f64 = 0.5;

impl Prediction {
    /// All names: diffusers' for the first three.
    pub const NAMES: [&str; 6] = ["epsilon", "sample", "v_prediction", "score", "velocity", "edm"];

    /// Reads a name, diffusers' or `eps`, `x0`, `v`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names.
    pub fn from_name(name: &str) -> Result<Prediction> {
        match name {
            "epsilon" | "eps" => Ok(Prediction::Eps),
            "sample" | "x0" => Ok(Prediction::X0),
            "v_prediction" | "v" => Ok(Prediction::V),
            "score" => Ok(Prediction::Score),
            "velocity" => Ok(Prediction::Velocity),
            "edm" => Ok(Prediction::Edm { sigma_data: SIGMA_DATA }),
            _ => {
                let known: Vec<&str> = Prediction::NAMES.into_iter().chain(["eps", "x0", "v"]).collect();
                Err(unknown_name("prediction_type", name, &known))
            }
        }
    }

    /// diffusers' name.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Eps => "epsilon",
            Prediction::X0 => "sample",
            Prediction::V => "v_prediction",
            Prediction::Score => "score",
            Prediction::Velocity => "velocity",
            Prediction::Edm { .. } => "edm",
        }
    }

    /// Whether diffusers' DDPM and DDIM schedulers know it.
    pub fn is_diffusers(self) -> bool {
        matches!(self, Prediction::Eps | Prediction::X0 | Prediction::V)
    }

    /// Whether x0 can be computed where nothing of it is left (alpha = 0).
    pub fn is_finite_at_pure_noise(self) -> bool {
        !matches!(self, Prediction::Eps | Prediction::Score)
    }
}

/// Which of the T times a shorter run visits (Lin et al. 2024, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Multiples of ⌊T/n⌋, plus an offset.
    Leading,
    /// From T down in equal steps.
    Trailing,
    /// Both ends included.
    Linspace,
}

impl Spacing {
    /// Reads diffusers' name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names.
    pub fn from_name(name: &str) -> Result<Spacing> {
        match name {
            "leading" => Ok(Spacing::Leading),
            "trailing" => Ok(Spacing::Trailing),
            "linspace" => Ok(Spacing::Linspace),
            _ => Err(unknown_name("timestep_spacing", name, &["leading", "trailing", "linspace"])),
        }
    }

    /// diffusers' name.
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Leading => "leading",
            Spacing::Trailing => "trailing",
            Spacing::Linspace => "linspace",
        }
    }
}

/// Variance of DDPM's reverse step (item 20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variance {
    /// beta-tilde, the posterior's variance.
    FixedSmall,
    /// beta.
    FixedLarge,
    /// Between the two, chosen by the network for each element: the second half of its output channels (Nichol & Dhariwal 2021, eq. 15).
    LearnedRange,
}

impl Variance {
    /// All names, diffusers'.
    pub const NAMES: [&str; 3] = ["fixed_small", "fixed_large", "learned_range"];

    /// Reads diffusers' name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names.
    pub fn from_name(name: &str) -> Result<Variance> {
        match name {
            "fixed_small" | "fixed_small_log" => Ok(Variance::FixedSmall),
            "fixed_large" | "fixed_large_log" => Ok(Variance::FixedLarge),
            "learned_range" => Ok(Variance::LearnedRange),
            _ => Err(unknown_name("variance_type", name, &Variance::NAMES)),
        }
    }

    /// diffusers' name.
    pub fn name(self) -> &'static str {
        match self {
            Variance::FixedSmall => "fixed_small",
            Variance::FixedLarge => "fixed_large",
            Variance::LearnedRange => "learned_range",
        }
    }
}

/// A scheduler's settings; the defaults are diffusers' own, which saved files may leave out.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// `DDPMScheduler` or `DDIMScheduler`: the sampler that the folder's author meant.
    pub class_name: String,
    /// T.
    pub num_train_timesteps: usize,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// How betas are made.
    pub beta_schedule: BetaSchedule,
    /// A table of betas instead.
    pub trained_betas: Option<Vec<f64>>,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Whether x0_hat is clamped to ±`clip_sample_range`.
    pub clip_sample: bool,
    /// The bound.
    pub clip_sample_range: f64,
    /// Dynamic thresholding (Saharia et al. 2022, sec. 2.3); wins over clipping.
    pub thresholding: bool,
    /// Its quantile.
    pub dynamic_thresholding_ratio: f64,
    /// Its upper bound.
    pub sample_max_value: f64,
    /// Variance of DDPM's step.
    pub variance: Variance,
    /// Which times a shorter run visits.
    pub spacing: Spacing,
    /// Added to leading times.
    pub steps_offset: usize,
    /// DDIM's last step ends at alpha_bar 1 (else at level 0's).
    pub set_alpha_to_one: bool,
    /// Whether the schedule is rescaled to zero terminal SNR.
    pub rescale_betas_zero_snr: bool,
    /// A continuous process instead of the table of betas.
    pub continuous: Option<ProcessConfig>,
    /// What the network's time input means.
    pub time_convention: TimeConvention,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            class_name: "DDPMScheduler".into(),
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction: Prediction::Eps,
            clip_sample: true,
            clip_sample_range: 1.0,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            variance: Variance::FixedSmall,
            spacing: Spacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
            rescale_betas_zero_snr: false,
            continuous: None,
            time_convention: TimeConvention::DdpmIndex,
        }
    }
}

/// A forged file cannot fill the memory with levels.
const MAX_TIMESTEPS: usize = 1_000_000;

/// The scheduler of models that diffusers' schedulers cannot describe.
pub(super) const OWN_CLASS: &str = "TweedieScheduler";

const CLASSES: [&str; 3] = ["DDPMScheduler", "DDIMScheduler", OWN_CLASS];

const KNOWN: [&str; 19] = [
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "variance_type",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "rescale_betas_zero_snr",
    "process",
    "time_convention",
    "sigma_data",
];

impl SchedulerConfig {
    /// Reads a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Model`] that names the field which is unknown, malformed or not supported.
    pub fn from_json(value: &Value) -> Result<SchedulerConfig> {
        let Some(map) = value.as_object() else {
            return Err(Error::Model("scheduler config: expected a JSON object".into()));
        };
        if let Some(key) = map.keys().find(|k| !k.starts_with('_') && !KNOWN.contains(&k.as_str())) {
            return Err(Error::Model(format!("scheduler config: field \"{key}\" is not supported")));
        }
        let d = SchedulerConfig::default();
        let wrong = |field: &str, wants: &str| {
            Error::Model(format!(
                "scheduler config: {field} = {} is not {wants}",
                map.get(field).unwrap_or(&Value::Null)
            ))
        };
        let number = |field: &str, default: f64| match map.get(field) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| wrong(field, "a number")),
        };
        let flag = |field: &str, default: bool| match map.get(field) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| wrong(field, "true or false")),
        };
        let size = |field: &str, default: usize| match map.get(field) {
            None => Ok(default),
            Some(v) => v.as_u64().map(|n| n as usize).ok_or_else(|| wrong(field, "a whole number")),
        };
        let name = |field: &str, default: &'static str| match map.get(field) {
            None => Ok(default.to_string()),
            Some(v) => v.as_str().map(String::from).ok_or_else(|| wrong(field, "a name")),
        };
        let in_model = |e: Error| Error::Model(format!("scheduler config: {e}"));
        let variance = Variance::from_name(&name("variance_type", "fixed_small")?);
        let supported = "supported; known: fixed_small, fixed_large, learned_range";
        let variance = variance.map_err(|_| wrong("variance_type", supported))?;
        let trained_betas = match map.get("trained_betas") {
            None | Some(Value::Null) => None,
            Some(v) => {
                let list = v.as_array().and_then(|l| l.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
                Some(list.ok_or_else(|| wrong("trained_betas", "a list of numbers or null"))?)
            }
        };
        let continuous = match map.get("process") {
            None | Some(Value::Null) => None,
            Some(v) => Some(ProcessConfig::from_json(v).map_err(in_model)?),
        };
        let time_convention = TimeConvention::from_name(&name("time_convention", "ddpm_index")?).map_err(in_model)?;
        let mut prediction = Prediction::from_name(&name("prediction_type", "epsilon")?).map_err(in_model)?;
        if let Prediction::Edm { sigma_data } = &mut prediction {
            *sigma_data = number("sigma_data", SIGMA_DATA)?;
        }
        let config = SchedulerConfig {
            class_name: name("_class_name", "DDPMScheduler")?,
            num_train_timesteps: size("num_train_timesteps", d.num_train_timesteps)?,
            beta_start: number("beta_start", d.beta_start)?,
            beta_end: number("beta_end", d.beta_end)?,
            beta_schedule: BetaSchedule::from_name(&name("beta_schedule", "linear")?).map_err(in_model)?,
            trained_betas,
            prediction,
            clip_sample: flag("clip_sample", d.clip_sample)?,
            clip_sample_range: number("clip_sample_range", d.clip_sample_range)?,
            thresholding: flag("thresholding", d.thresholding)?,
            dynamic_thresholding_ratio: number("dynamic_thresholding_ratio", d.dynamic_thresholding_ratio)?,
            sample_max_value: number("sample_max_value", d.sample_max_value)?,
            variance,
            spacing: Spacing::from_name(&name("timestep_spacing", "leading")?).map_err(in_model)?,
            steps_offset: size("steps_offset", d.steps_offset)?,
            set_alpha_to_one: flag("set_alpha_to_one", d.set_alpha_to_one)?,
            rescale_betas_zero_snr: flag("rescale_betas_zero_snr", d.rescale_betas_zero_snr)?,
            continuous,
            time_convention,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        let bad = |text: String| Err(Error::Model(format!("scheduler config: {text}")));
        if !CLASSES.contains(&self.class_name.as_str()) {
            let (class, known) = (&self.class_name, CLASSES.join("\", \""));
            return bad(format!("_class_name = \"{class}\" is not supported; expected \"{known}\""));
        }
        if !(self.clip_sample_range > 0.0 && self.sample_max_value > 0.0) {
            let (range, top) = (self.clip_sample_range, self.sample_max_value);
            return bad(format!("clip_sample_range = {range} and sample_max_value = {top}: both must be above 0"));
        }
        if !(0.0..=1.0).contains(&self.dynamic_thresholding_ratio) {
            let ratio = self.dynamic_thresholding_ratio;
            return bad(format!("dynamic_thresholding_ratio = {ratio}: expected 0 to 1"));
        }
        self.process().map(|_| ()).map_err(|e| match e {
            Error::Usage(text) => Error::Model(format!("scheduler config: {text}")),
            other => other,
        })
    }

    /// The scheduler that belongs to these settings: [`SchedulerConfig::class_name`] where diffusers can describe them, our own
    /// where it cannot.
    pub fn with_own_class_if_needed(mut self) -> SchedulerConfig {
        let is_plain = self.continuous.is_none()
            && self.prediction.is_diffusers()
            && self.time_convention == TimeConvention::DdpmIndex;
        if !is_plain {
            self.class_name = OWN_CLASS.into();
        }
        self
    }

    /// Whether only tweedie can run a model with this scheduler.
    pub fn is_own(&self) -> bool {
        self.class_name == OWN_CLASS
    }

    /// What x_t is multiplied with before the network sees it, so that its input has about unit variance where alpha² + sigma²
    /// is far from 1 (Karras et al. 2022, c_in).
    pub fn input_scale(&self, at: Level) -> f64 {
        let sigma_data = match (self.prediction, &self.continuous) {
            (Prediction::Edm { sigma_data }, _) => sigma_data,
            (_, Some(ProcessConfig::Ve { .. } | ProcessConfig::Edm { .. })) => SIGMA_DATA,
            _ => return 1.0,
        };
        1.0 / (at.alpha * sigma_data).hypot(at.sigma)
    }

    /// The file that diffusers' scheduler of this class reads.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "_class_name": self.class_name,
            "num_train_timesteps": self.num_train_timesteps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": self.beta_schedule.name(),
            "trained_betas": self.trained_betas,
            "prediction_type": self.prediction.name(),
            "clip_sample": self.clip_sample,
            "clip_sample_range": self.clip_sample_range,
            "thresholding": self.thresholding,
            "dynamic_thresholding_ratio": self.dynamic_thresholding_ratio,
            "sample_max_value": self.sample_max_value,
            "timestep_spacing": self.spacing.name(),
            "steps_offset": self.steps_offset,
            "rescale_betas_zero_snr": self.rescale_betas_zero_snr,
        });
        if let Prediction::Edm { sigma_data } = self.prediction {
            value["sigma_data"] = json!(sigma_data);
        }
        if self.is_own() {
            value["time_convention"] = json!(self.time_convention.name());
            value["process"] = self.continuous.as_ref().map_or(Value::Null, ProcessConfig::to_json);
        }
        if self.class_name == "DDIMScheduler" {
            value["set_alpha_to_one"] = json!(self.set_alpha_to_one);
        } else {
            value["variance_type"] = json!(self.variance.name());
        }
        value
    }

    /// The process these settings describe.
    ///
    /// # Errors
    /// [`Error::Model`] if there are no steps or more than a million, or a beta lies outside (0, 1); [`Error::Usage`] if the
    /// network's time does not fit the process.
    pub fn process(&self) -> Result<Arc<dyn Process>> {
        let process: Arc<dyn Process> = match &self.continuous {
            None => Arc::new(self.table()?),
            Some(config) => config.build()?,
        };
        let is_table = self.continuous.is_none();
        let convention = self.time_convention;
        if (convention == TimeConvention::DdpmIndex && !is_table) || (convention == TimeConvention::Time && is_table) {
            let (got, name) = (convention.name(), process.name());
            let want = if is_table { "ddpm_index or log_snr" } else { "time or log_snr" };
            return Err(Error::Usage(format!("time_convention = \"{got}\": the process \"{name}\" wants {want}")));
        }
        if let Prediction::Edm { sigma_data } = self.prediction
            && !(sigma_data > 0.0 && sigma_data.is_finite())
        {
            return Err(Error::Usage(format!("sigma_data = {sigma_data}: expected a number above 0")));
        }
        Ok(process)
    }

    /// Refuses to train a network whose output says nothing of x0 at the last time. A model of others may be such, and be run on
    /// times that leave the last one out.
    ///
    /// # Errors
    /// [`Error::Usage`] with what to use; as [`SchedulerConfig::process`].
    pub fn check_trainable(&self) -> Result<()> {
        let process = self.process()?;
        // Below this, errors of eps in f32 (1e-7) are as large as x0.
        if process.alpha(1.0) < 1e-7 && !self.prediction.is_finite_at_pure_noise() {
            let (got, name, alpha) = (self.prediction.name(), process.name(), process.alpha(1.0));
            return Err(Error::Usage(format!(
                "prediction_type = \"{got}\": the process \"{name}\" ends in pure noise (alpha = {alpha:.1e}), from which x0 cannot be \
                 computed; use v_prediction, sample, velocity or edm, or smaller betas"
            )));
        }
        Ok(())
    }

    /// The table of a process of discrete levels.
    fn table(&self) -> Result<Discrete> {
        if !(1..=MAX_TIMESTEPS).contains(&self.num_train_timesteps) {
            let t = self.num_train_timesteps;
            return Err(Error::Model(format!(
                "scheduler config: num_train_timesteps = {t}: expected 1 to {MAX_TIMESTEPS}"
            )));
        }
        let made;
        let betas = match &self.trained_betas {
            Some(betas) => betas,
            None => {
                made = self.beta_schedule.betas(self.num_train_timesteps, self.beta_start, self.beta_end);
                &made
            }
        };
        if betas.len() != self.num_train_timesteps {
            let (n, t) = (betas.len(), self.num_train_timesteps);
            return Err(Error::Model(format!(
                "scheduler config: trained_betas has {n} entries, num_train_timesteps is {t}"
            )));
        }
        Discrete::from_betas(betas, self.rescale_betas_zero_snr)
            .map_err(|e| Error::Model(format!("scheduler config: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_their_own_file() {
        for class in ["DDPMScheduler", "DDIMScheduler"] {
            let config = SchedulerConfig { class_name: class.into(), prediction: Prediction::V, ..Default::default() };
            assert_eq!(SchedulerConfig::from_json(&config.to_json()).unwrap(), config);
        }
        for variance in [Variance::FixedLarge, Variance::LearnedRange] {
            let config = SchedulerConfig { variance, ..Default::default() };
            assert_eq!(SchedulerConfig::from_json(&config.to_json()).unwrap(), config);
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        for (field, value, part) in [
            ("solver_order", json!(2), "field \"solver_order\" is not supported"),
            ("variance_type", json!("learned"), "variance_type = \"learned\""),
            ("beta_schedule", json!("linera"), "did you mean \"linear\""),
            ("clip_sample", json!("yes"), "clip_sample = \"yes\" is not true or false"),
            ("beta_end", json!(1.5), "between 0 and 1"),
            ("_class_name", json!("EulerDiscreteScheduler"), "_class_name = \"EulerDiscreteScheduler\""),
            ("clip_sample_range", json!(0.0), "clip_sample_range = 0"),
            ("dynamic_thresholding_ratio", json!(1.5), "dynamic_thresholding_ratio = 1.5"),
            ("num_train_timesteps", json!(0), "num_train_timesteps = 0: expected 1 to 1000000"),
        ] {
            let mut config = SchedulerConfig::default().to_json();
            config[field] = value;
            let error = SchedulerConfig::from_json(&config).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
