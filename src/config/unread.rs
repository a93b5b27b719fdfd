//! Settings that someone asked for and that the run would not read: silence would let them believe in an effect.

use super::TrainConfig;
use crate::data::{TokenData, is_missing};
use crate::discrete::Objective;
use crate::error::{Error, Result};

/// Read by runs on tokens alone; `graph` makes a run one, and `loss` says so itself.
const OF_TOKENS: [&str; 13] = [
    "token_noise",
    "tokenizer",
    "length",
    "width",
    "depth",
    "heads",
    "mlp_ratio",
    "neighbours",
    "cond_dim",
    "rotary_base",
    "time_power",
    "chain_steps",
    "auxiliary",
];

/// Read by runs on images as numbers alone: process, prediction, weight and the U-Net.
const OF_IMAGES: [&str; 36] = [
    "class_conditional",
    "p_uncond",
    "process",
    "prediction_type",
    "time_convention",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "betas",
    "zero_terminal_snr",
    "sigma_min",
    "sigma_max",
    "rho",
    "ou_rate",
    "log_snr_min",
    "log_snr_max",
    "sigma_data",
    "weight",
    "min_snr_gamma",
    "weight_table",
    "weight_of",
    "variance_type",
    "vlb_share",
    "clip_sample",
    "block_out_channels",
    "layers_per_block",
    "attention_levels",
    "attention_head_dim",
    "norm_num_groups",
    "norm_eps",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "resnet_time_scale_shift",
    "conv_accuracy",
    "recompute",
];

/// Read with a text, not with images as tokens.
const OF_TEXT: [&str; 2] = ["tokenizer", "length"];

/// Read by the loss d3pm alone.
const OF_D3PM: [&str; 2] = ["chain_steps", "auxiliary"];

const OF_MUON: [&str; 2] = ["muon_lr", "muon_momentum"];

impl TrainConfig {
    /// Refuses a setting that was asked for by itself and has no meaning for this run.
    ///
    /// # Errors
    /// [`Error::Usage`] that names it and what it is for.
    pub(super) fn check_asked<'a>(&self, mut asked: impl Iterator<Item = &'a str>) -> Result<()> {
        let has_tokens = self.has_tokens();
        let is_text = TokenData::is_text(&self.data);
        if is_missing(&self.data) {
            return Ok(()); // what is wrong shows where it is opened
        }
        let is_d3pm = has_tokens && self.objective().is_ok_and(|loss| loss == Objective::D3pm);
        let wrong = |key: &str| -> Option<&'static str> {
            let is_in = |list: &[&str], is_read: bool| !is_read && list.contains(&key);
            if is_in(&OF_IMAGES, !has_tokens) {
                return Some("a run on tokens");
            }
            // A text without a graph is refused where it is opened, with what to do.
            if is_in(&OF_TOKENS, has_tokens || is_text) {
                return Some("images as numbers; it is one of tokens (--graph)");
            }
            if has_tokens && is_in(&OF_TEXT, is_text) {
                return Some("images as tokens; it is one of a text");
            }
            if has_tokens && is_in(&OF_D3PM, is_d3pm) {
                return Some("this loss; it is one of d3pm");
            }
            is_in(&OF_MUON, self.optimizer == "muon").then_some("optimizer = \"adamw\"; it is one of muon")
        };
        let found = asked.find_map(|key| wrong(key).map(|why| (key, why)));
        let Some((key, why)) = found else { return Ok(()) };
        Err(Error::Usage(format!("{key}: has no meaning for {why}; leave it out")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_would_not_be_read_is_refused_where_it_is_asked_for() {
        let refused = |preset: &str, set: &str| {
            let base = TrainConfig::preset(preset).unwrap();
            TrainConfig::overlay(&base, None, &[set.to_string()], toml::Table::new()).err().map(|e| e.to_string())
        };
        for (preset, set, why) in [
            ("digits", "length=64", "images as numbers"),
            ("digits", "muon_lr=0.1", "adamw"),
            ("text", "weight=snr", "a run on tokens"),
            ("text", "recompute=true", "a run on tokens"),
            ("digits-tokens", "tokenizer=words", "images as tokens"),
            ("text", "auxiliary=0.1", "d3pm"),
        ] {
            let error = refused(preset, set).expect(set);
            assert!(error.starts_with(set.split('=').next().unwrap()) && error.contains(why), "{error}");
        }
        for (preset, set) in
            [("digits", "weight=snr"), ("text", "length=64"), ("text", "muon_lr=0.01"), ("digits-tokens", "width=32")]
        {
            assert_eq!(refused(preset, set), None, "{preset} {set}");
        }
    }

    #[test]
    fn every_name_in_the_lists_is_a_setting() {
        let table = toml::Table::try_from(TrainConfig::preset("digits").unwrap()).unwrap();
        let names = OF_TOKENS.iter().chain(&OF_IMAGES).chain(&OF_TEXT).chain(&OF_D3PM).chain(&OF_MUON);
        names.for_each(|name| assert!(table.contains_key(*name), "{name}"));
    }
}
