//! What a training run does: presets, a TOML file, `--set key=value` and flags, laid over one another in this order.

mod classifier;
mod loss;
mod optimizer;
mod presets;
mod tables;
mod tokens;
mod unread;

pub use classifier::{CLASSIFIER, TASKS};
pub use presets::{DIGITS_TOKENS, PRESETS, TEXT};

use crate::data::Dataset;
use crate::error::{Error, Result, nearest, unknown_name};
use crate::nn::{BlockType, ClassEmbed, Precision, UNetConfig};
use crate::ops::ConvAccuracy;
use crate::process::{BetaSchedule, Prediction, ProcessConfig, SchedulerConfig, Spacing, TimeConvention, Variance};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tables::read_betas;
use toml::{Table, Value};

/// All settings of a training run. Every field is a key of the TOML file and of `--set`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Name the settings started from.
    pub preset: String,
    /// What is trained: `diffusion`, or `classifier`, which tells classes of noisy images and guides samples.
    #[serde(default = "default_task")]
    pub task: String,
    /// Data set: `digits` or a path.
    pub data: String,
    /// Optimiser steps.
    pub steps: u64,
    /// Images per step.
    pub batch: usize,
    /// `adamw`, or `muon` for the matrices inside a network's blocks, with AdamW for the rest.
    #[serde(default = "optimizer::default_optimizer")]
    pub optimizer: String,
    /// Peak learning rate of AdamW.
    pub lr: f64,
    /// Peak learning rate of Muon, which rises and falls as AdamW's.
    #[serde(default = "optimizer::default_muon_lr")]
    pub muon_lr: f64,
    /// Decay of Muon's momentum.
    #[serde(default = "optimizer::default_muon_momentum")]
    pub muon_momentum: f64,
    /// `constant` or `cosine`.
    pub lr_schedule: String,
    /// Steps over which the learning rate rises.
    pub warmup_steps: u64,
    /// AdamW's first decay.
    pub beta1: f64,
    /// AdamW's second decay.
    pub beta2: f64,
    /// AdamW's stabiliser.
    pub adam_eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm.
    pub grad_clip: f64,
    /// Decay of the weights' moving average.
    pub ema_decay: f64,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Steps between sample grids; 0 for none.
    pub sample_every: u64,
    /// Steps between validation losses; 0 for none.
    pub validate_every: u64,
    /// Whether labels condition the network, if the data set has them.
    pub class_conditional: bool,
    /// Probability that a label is dropped, so that the null class is trained.
    pub p_uncond: f64,
    /// `ddpm` (a table of betas), or a continuous one: `vp`, `sub_vp`, `ve`, `ou`, `edm`, `flow`, `linear_log_snr`.
    #[serde(default = "default_process")]
    pub process: String,
    /// `epsilon`, `sample`, `v_prediction`, `score`, `velocity` or `edm`.
    pub prediction_type: String,
    /// What the network is told of the time: `ddpm_index`, `time`, `log_snr`; empty for the process's own.
    #[serde(default)]
    pub time_convention: String,
    /// `linear`, `scaled_linear`, `squaredcos_cap_v2` or `sigmoid`: betas of ddpm, vp and sub_vp.
    pub beta_schedule: String,
    /// First beta of 1000 steps; a continuous process has 1000 times that per unit of time.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// Text file with a table of betas for ddpm, one for each of its times; empty for none.
    #[serde(default)]
    pub betas: String,
    /// Whether ddpm's or vp's schedule is rescaled to end in pure noise.
    #[serde(default)]
    pub zero_terminal_snr: bool,
    /// Least sigma of ve and edm; 0 for the usual one (0.01 and 0.002).
    #[serde(default)]
    pub sigma_min: f64,
    /// Largest sigma of ve and edm; 0 for the usual one (50 and 80).
    #[serde(default)]
    pub sigma_max: f64,
    /// Exponent of edm's sigmas.
    #[serde(default = "default_rho")]
    pub rho: f64,
    /// Rate of ou; its stationary variance is 1.
    #[serde(default = "default_ou_rate")]
    pub ou_rate: f64,
    /// Log-SNR of linear_log_snr at time 1.
    #[serde(default = "loss::default_log_snr_min")]
    pub log_snr_min: f64,
    /// Log-SNR of linear_log_snr at time 0.
    #[serde(default = "loss::default_log_snr_max")]
    pub log_snr_max: f64,
    /// Standard deviation of the data, for the prediction type edm.
    #[serde(default = "default_sigma_data")]
    pub sigma_data: f64,
    /// What the error at each level counts: `simple`, `vlb`, `vlb-tilde`, `snr`, `min-snr`, `likelihood`, `vlb-continuous`, `table`.
    #[serde(default = "loss::default_weight")]
    pub weight: String,
    /// Bound of the weight min-snr.
    #[serde(default = "loss::default_min_snr_gamma")]
    pub min_snr_gamma: f64,
    /// CSV file of t,lambda for the weight table; empty for none.
    #[serde(default)]
    pub weight_table: String,
    /// What the table multiplies: the squared error of `eps`, `x0` or `score`.
    #[serde(default = "loss::default_weight_of")]
    pub weight_of: String,
    /// How times are drawn: `uniform`, `stratified`, `loss_aware`.
    #[serde(default = "loss::default_time_sampling")]
    pub time_sampling: String,
    /// Least time that is drawn, 0 up to but not 1; -1 for the process's own.
    #[serde(default = "loss::default_t_min")]
    pub t_min: f64,
    /// Variance of a reverse step: `fixed_small`, `fixed_large`, or `learned_range`, of which the network learns the place between the two.
    #[serde(default = "loss::default_variance_type")]
    pub variance_type: String,
    /// What the variational bound of a learned variance counts beside the rest of the loss.
    #[serde(default = "loss::default_vlb_share")]
    pub vlb_share: f64,
    /// Whether samplers clamp x0_hat to [−1, 1].
    pub clip_sample: bool,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level.
    pub layers_per_block: usize,
    /// Which levels have attention, finest first.
    pub attention_levels: Vec<bool>,
    /// Channels of a head; 0 for one head.
    pub attention_head_dim: usize,
    /// Groups of the norms.
    pub norm_num_groups: usize,
    /// Stabiliser of the norms.
    pub norm_eps: f64,
    /// Padding of the strided convolutions, 0 or 1.
    pub downsample_padding: usize,
    /// Cosines before sines in the time features.
    pub flip_sin_to_cos: bool,
    /// Shift of the time frequencies.
    pub freq_shift: f64,
    /// Probability of dropout.
    pub dropout: f64,
    /// `default` or `scale_shift`.
    pub resnet_time_scale_shift: String,
    /// How the CPU computes 3×3 convolutions: `exact`, `default` or `fast`.
    #[serde(default = "default_conv_accuracy")]
    pub conv_accuracy: String,
    /// Whether a residual block's inner values are computed again for its gradients instead of kept: less memory, more time, the
    /// same numbers.
    #[serde(default)]
    pub recompute: bool,
    /// What activations and products are: `f32` or `bf16`; weights, gradients of weights and checkpoints are f32 either way.
    #[serde(default = "default_precision")]
    pub precision: String,
    /// Noise on tokens: `absorbing` or `uniform`; empty for images as numbers. The settings below belong to it.
    #[serde(default)]
    pub graph: String,
    /// How much noise there is at a time: `log_linear`, `cosine` or `geometric`.
    #[serde(default = "tokens::default_token_noise")]
    pub token_noise: String,
    /// `dse`, `ise`, `se`, `csm`, `d3pm` or `mdlm`; empty for mdlm with a mask, else dse.
    #[serde(default)]
    pub loss: String,
    /// How a text becomes tokens: `bytes`, `characters`, `letters` or `words`.
    #[serde(default = "tokens::default_tokenizer")]
    pub tokenizer: String,
    /// Tokens of a window of text; an image has as many as it has values.
    #[serde(default = "tokens::default_length")]
    pub length: usize,
    /// Channels of the transformer.
    #[serde(default = "tokens::default_width")]
    pub width: usize,
    /// Blocks of the transformer.
    #[serde(default = "tokens::default_depth")]
    pub depth: usize,
    /// Heads of its attention.
    #[serde(default = "tokens::default_heads")]
    pub heads: usize,
    /// Hidden channels of its MLPs for each of its channels.
    #[serde(default = "tokens::default_mlp_ratio")]
    pub mlp_ratio: usize,
    /// How far the tokens are that enter each token's first vector; 0 for its own alone, as in SEDD.
    #[serde(default)]
    pub neighbours: usize,
    /// Channels in which it is told the noise; 0 for none with a mask, which needs none, else 128.
    #[serde(default)]
    pub cond_dim: usize,
    /// Base of its rotary frequencies.
    #[serde(default = "tokens::default_rotary_base")]
    pub rotary_base: f64,
    /// Times are drawn as powers of this exponent, and weighed accordingly; at least 1.
    #[serde(default = "tokens::default_time_power")]
    pub time_power: f64,
    /// Steps of the chain of the loss d3pm.
    #[serde(default = "tokens::default_chain_steps")]
    pub chain_steps: u64,
    /// What cross-entropy counts in the loss d3pm beside the bound.
    #[serde(default = "tokens::default_auxiliary")]
    pub auxiliary: f64,
}

// Settings that runs of older versions do not have.
fn default_task() -> String {
    "diffusion".into()
}

fn default_process() -> String {
    "ddpm".into()
}

fn default_conv_accuracy() -> String {
    "default".into()
}

fn default_precision() -> String {
    "f32".into()
}

fn default_rho() -> f64 {
    7.0 // Karras et al. 2022, table 1
}

fn default_ou_rate() -> f64 {
    5.0
}

fn default_sigma_data() -> f64 {
    0.5 // Karras et al. 2022, table 1
}

/// Keys that may change when a run is resumed; all others belong to the run.
const CHANGEABLE: [&str; 7] = ["steps", "lr", "save_every", "sample_every", "validate_every", "grad_clip", "recompute"];

impl TrainConfig {
    /// Lays settings over a base: the file's, then the `key=value` texts, then the flags'.
    ///
    /// # Errors
    /// [`Error::Usage`] that names an unknown key (with the nearest known one), a malformed text or a wrong type.
    pub fn overlay(base: &TrainConfig, file: Option<&Path>, set: &[String], flags: Table) -> Result<TrainConfig> {
        let mut table =
            Table::try_from(base).map_err(|e| Error::Usage(format!("settings cannot be written as TOML: {e}")))?;
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            let layer = text.parse::<Table>();
            let layer = layer.map_err(|e| Error::Usage(format!("--config {}: {e}", path.display())))?;
            lay(&mut table, layer, &format!("--config {}", path.display()))?;
        }
        let mut asked: Vec<String> = flags.keys().cloned().collect();
        for text in set {
            let Some((key, value)) = text.split_once('=') else {
                return Err(Error::Usage(format!("--set {text}: expected key=value, for example --set dropout=0.1")));
            };
            // A bare word is a string.
            let value = format!("v = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
            let value = value.unwrap_or_else(|| Value::String(text[key.len() + 1..].to_string()));
            lay(&mut table, Table::from_iter([(key.trim().to_string(), value)]), "--set")?;
            asked.push(key.trim().to_string());
        }
        lay(&mut table, flags, "flags")?;
        let config: TrainConfig =
            // The setting's name stands on a line of its own.
            table.try_into().map_err(|e| Error::Usage(format!("settings: {}", e.to_string().trim().replace('\n', " "))))?;
        // A file may hold all settings, those of other runs too; what was asked for by name is to have a meaning.
        config.check_asked(asked.iter().map(String::as_str))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the setting, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let bad = |text: String| Err(Error::Usage(text));
        if self.steps == 0 || self.steps > u64::from(u32::MAX) {
            return bad(format!("--steps {}: expected 1 to {}", self.steps, u32::MAX));
        }
        if self.batch == 0 {
            return bad("--batch 0: expected at least 1".into());
        }
        self.check_optimizer()?;
        if self.save_every == 0 {
            return bad("--save-every 0: expected at least 1".into());
        }
        for (key, value) in [("p_uncond", self.p_uncond), ("ema_decay", self.ema_decay)] {
            if !(0.0..=1.0).contains(&value) {
                return bad(format!("{key} = {value}: expected 0 to 1"));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad(format!("dropout = {}: expected at least 0 and below 1", self.dropout));
        }
        if !(self.vlb_share >= 0.0 && self.vlb_share.is_finite()) {
            return bad(format!("vlb_share = {}: expected a number not below 0", self.vlb_share));
        }
        if self.attention_levels.len() != self.block_out_channels.len() {
            let (a, c) = (self.attention_levels.len(), self.block_out_channels.len());
            return bad(format!("attention_levels has {a} entries, block_out_channels {c}; give one for each level"));
        }
        if !["default", "scale_shift"].contains(&self.resnet_time_scale_shift.as_str()) {
            return Err(unknown_name(
                "resnet_time_scale_shift",
                &self.resnet_time_scale_shift,
                &["default", "scale_shift"],
            ));
        }
        for (key, given, readers) in [
            ("zero_terminal_snr", self.zero_terminal_snr, &["ddpm", "vp"][..]),
            ("betas", !self.betas.is_empty(), &["ddpm"]),
        ] {
            if given && !readers.contains(&self.process.as_str()) {
                let (process, readers) = (&self.process, readers.join(" or "));
                return bad(format!("{key}: has no meaning for process = \"{process}\"; use process = {readers}"));
            }
        }
        if !TASKS.contains(&self.task.as_str()) {
            return Err(unknown_name("task", &self.task, &TASKS));
        }
        if self.task == CLASSIFIER {
            self.check_classifier()?;
        }
        ConvAccuracy::from_name(&self.conv_accuracy)?;
        Precision::from_name(&self.precision)?;
        self.check_tokens()?;
        self.scheduler()?.check_trainable()?;
        self.time_sampler()?;
        self.weighting()?.check(self.least_time())
    }

    /// Refuses a resumed run whose settings differ where they may not.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the key and both values.
    pub fn check_resumable(&self, saved: &TrainConfig) -> Result<()> {
        let table = |c: &TrainConfig| Table::try_from(c).unwrap_or_default();
        let (asked, saved) = (table(self), table(saved));
        for (key, value) in &asked {
            if saved.get(key) != Some(value) && !CHANGEABLE.contains(&key.as_str()) {
                let old = saved.get(key).map_or("unset".to_string(), Value::to_string);
                return Err(Error::Usage(format!(
                    "--resume: the run was made with {key} = {old}, now {value} is asked for; resume without it or choose another --out"
                )));
            }
        }
        Ok(())
    }

    /// The scheduler that belongs to the model.
    ///
    /// # Errors
    /// [`Error::Usage`] for unknown names; [`Error::Io`] for a table of betas that cannot be read.
    pub fn scheduler(&self) -> Result<SchedulerConfig> {
        let continuous = self.continuous()?;
        let time_convention = match (self.time_convention.as_str(), &continuous) {
            ("", None) => TimeConvention::DdpmIndex,
            ("", Some(_)) => TimeConvention::Time,
            (name, _) => TimeConvention::from_name(name)?,
        };
        let mut prediction = Prediction::from_name(&self.prediction_type)?;
        if let Prediction::Edm { sigma_data } = &mut prediction {
            *sigma_data = self.sigma_data;
        }
        let trained_betas = if self.betas.is_empty() { None } else { Some(read_betas(Path::new(&self.betas))?) };
        let defaults = SchedulerConfig::default();
        let scheduler = SchedulerConfig {
            beta_schedule: BetaSchedule::from_name(&self.beta_schedule)?,
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            num_train_timesteps: trained_betas.as_ref().map_or(defaults.num_train_timesteps, Vec::len),
            trained_betas,
            prediction,
            variance: Variance::from_name(&self.variance_type)?,
            clip_sample: self.clip_sample,
            rescale_betas_zero_snr: self.zero_terminal_snr && continuous.is_none(),
            // Pure noise is the last time alone: a run must begin there.
            spacing: if self.zero_terminal_snr { Spacing::Trailing } else { defaults.spacing },
            continuous,
            time_convention,
            ..defaults
        };
        Ok(scheduler.with_own_class_if_needed())
    }

    /// The continuous process, unless it is ddpm's table.
    fn continuous(&self) -> Result<Option<ProcessConfig>> {
        let schedule = BetaSchedule::from_name(&self.beta_schedule)?;
        let (beta_min, beta_max) = (1000.0 * self.beta_start, 1000.0 * self.beta_end);
        let or = |value: f64, usual: f64| if value == 0.0 { usual } else { value };
        let sigmas = |min: f64, max: f64| (or(self.sigma_min, min), or(self.sigma_max, max));
        Ok(Some(match self.process.as_str() {
            "ddpm" => return Ok(None),
            "vp" => ProcessConfig::Vp { schedule, beta_min, beta_max, zero_terminal_snr: self.zero_terminal_snr },
            "sub_vp" => ProcessConfig::SubVp { schedule, beta_min, beta_max },
            "ve" => {
                let (sigma_min, sigma_max) = sigmas(0.01, 50.0); // Song et al. 2021, appendix C
                ProcessConfig::Ve { sigma_min, sigma_max }
            }
            "ou" => ProcessConfig::Ou { rate: self.ou_rate, noise: (2.0 * self.ou_rate).sqrt() },
            "edm" => {
                let (sigma_min, sigma_max) = sigmas(0.002, 80.0); // Karras et al. 2022, table 1
                ProcessConfig::Edm { sigma_min, sigma_max, rho: self.rho }
            }
            "flow" => ProcessConfig::Flow,
            "linear_log_snr" => {
                ProcessConfig::LinearLogSnr { log_snr_min: self.log_snr_min, log_snr_max: self.log_snr_max }
            }
            name => {
                let known: Vec<&str> = ["ddpm"].into_iter().chain(ProcessConfig::NAMES).collect();
                return Err(unknown_name("process", name, &known));
            }
        }))
    }

    /// The network for a data set: channels and size as they are, one row per class and one for the null class.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sizes do not fit together.
    pub fn unet(&self, data: &Dataset) -> Result<UNetConfig> {
        let [h, w, c] = data.shape();
        let kind = |attention: &bool| if *attention { BlockType::Attention } else { BlockType::Plain };
        let config = UNetConfig {
            sample_size: Some([h, w]),
            in_channels: c,
            out_channels: if self.variance_type == "learned_range" { 2 * c } else { c },
            down_block_types: self.attention_levels.iter().map(kind).collect(),
            up_block_types: self.attention_levels.iter().rev().map(kind).collect(),
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: self.layers_per_block,
            downsample_padding: self.downsample_padding,
            flip_sin_to_cos: self.flip_sin_to_cos,
            freq_shift: self.freq_shift,
            dropout: self.dropout,
            attention_head_dim: (self.attention_head_dim > 0).then_some(self.attention_head_dim),
            norm_num_groups: self.norm_num_groups,
            norm_eps: self.norm_eps,
            scale_shift: self.resnet_time_scale_shift == "scale_shift",
            class_embed: match data.num_classes() {
                classes if classes > 0 && self.class_conditional => ClassEmbed::Table(classes + 1),
                _ => ClassEmbed::None,
            },
            ..UNetConfig::default()
        };
        config.validate().map_err(|e| Error::Usage(format!("settings: {e}")))?;
        Ok(config)
    }
}

fn lay(table: &mut Table, layer: Table, source: &str) -> Result<()> {
    for (key, value) in layer {
        let Some(slot) = table.get_mut(&key) else {
            let hint = nearest(&key, table.keys().map(String::as_str)).map(|k| format!(" — did you mean \"{k}\"?"));
            return Err(Error::Usage(format!("{source}: \"{key}\" is not a setting{}", hint.unwrap_or_default())));
        };
        // A whole number where a real one is wanted.
        *slot = match (&*slot, value) {
            (Value::Float(_), Value::Integer(i)) => Value::Float(i as f64),
            (_, value) => value,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_laid_in_order_and_unknown_keys_are_named() {
        let base = TrainConfig::preset("digits").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        std::fs::write(&file, "batch = 8\nlr = 1\ndropout = 0.5").unwrap();
        let set = ["dropout=0.25".to_string(), "lr_schedule=constant".to_string()];
        let flags = Table::from_iter([("batch".to_string(), Value::Integer(16))]);
        let config = TrainConfig::overlay(&base, Some(&file), &set, flags).unwrap();
        assert_eq!((config.batch, config.lr, config.dropout), (16, 1.0, 0.25));
        assert_eq!(config.lr_schedule, "constant");
        let error = |text: &str| TrainConfig::overlay(&base, None, &[text.to_string()], Table::new()).unwrap_err();
        assert!(error("dropot=1").to_string().contains("did you mean \"dropout\""));
        assert!(error("dropout").to_string().contains("expected key=value"));
        assert!(error("dropout=1.5").to_string().contains("dropout = 1.5"));
        assert!(error("batch=many").to_string().contains("batch"), "{}", error("batch=many"));
        assert!(error("steps=0").to_string().contains("--steps 0"));
    }

    #[test]
    fn a_resumed_run_may_be_longer_but_not_another() {
        let saved = TrainConfig::preset("digits").unwrap();
        assert!(TrainConfig { steps: 9999, ..saved.clone() }.check_resumable(&saved).is_ok());
        let error = TrainConfig { batch: 3, ..saved.clone() }.check_resumable(&saved).unwrap_err().to_string();
        assert!(error.contains("batch = 64, now 3"), "{error}");
    }

    #[test]
    fn presets_build_their_networks() {
        let digits = Dataset::load("digits", 0).unwrap();
        for name in PRESETS {
            let config = TrainConfig::preset(name).unwrap();
            config.validate().unwrap();
            config.unet(&digits).unwrap();
        }
        assert!(TrainConfig::preset("cifar").unwrap_err().to_string().contains("did you mean \"cifar10\""));
    }
}
