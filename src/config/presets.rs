//! The presets: settings to start from.

use super::{
    TrainConfig, default_conv_accuracy, default_ou_rate, default_precision, default_process, default_rho,
    default_sigma_data, default_task, loss, tokens,
};
use crate::error::{Result, unknown_name};

/// The presets by name.
pub const PRESETS: [&str; 7] = ["digits", "small", "flags", "cifar10", "digits-likelihood", TEXT, DIGITS_TOKENS];

/// The preset of texts, and that of images as tokens.
pub const TEXT: &str = "text";
/// See [`TEXT`].
pub const DIGITS_TOKENS: &str = "digits-tokens";

impl TrainConfig {
    /// A preset's settings.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the known names and the nearest one.
    pub fn preset(name: &str) -> Result<TrainConfig> {
        let digits = TrainConfig {
            preset: "digits".into(),
            task: default_task(),
            data: "digits".into(),
            steps: 1000,
            batch: 64,
            lr: 1e-3,
            lr_schedule: "cosine".into(),
            warmup_steps: 100,
            beta1: 0.9,
            beta2: 0.99,
            adam_eps: 1e-8,
            weight_decay: 0.0,
            grad_clip: 1.0,
            ema_decay: 0.995,
            seed: 0,
            save_every: 250,
            sample_every: 250,
            validate_every: 125,
            class_conditional: true,
            p_uncond: 0.1,
            process: default_process(),
            prediction_type: "epsilon".into(),
            time_convention: String::new(),
            beta_schedule: "squaredcos_cap_v2".into(),
            beta_start: 1e-4,
            beta_end: 0.02,
            betas: String::new(),
            zero_terminal_snr: false,
            sigma_min: 0.0,
            sigma_max: 0.0,
            rho: default_rho(),
            ou_rate: default_ou_rate(),
            log_snr_min: loss::default_log_snr_min(),
            log_snr_max: loss::default_log_snr_max(),
            sigma_data: default_sigma_data(),
            weight: loss::default_weight(),
            min_snr_gamma: loss::default_min_snr_gamma(),
            weight_table: String::new(),
            weight_of: loss::default_weight_of(),
            time_sampling: loss::default_time_sampling(),
            t_min: loss::default_t_min(),
            variance_type: loss::default_variance_type(),
            vlb_share: loss::default_vlb_share(),
            clip_sample: true,
            block_out_channels: vec![32, 64],
            layers_per_block: 1,
            attention_levels: vec![false, true],
            attention_head_dim: 32,
            norm_num_groups: 8,
            norm_eps: 1e-5,
            downsample_padding: 1,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            dropout: 0.0,
            resnet_time_scale_shift: "default".into(),
            conv_accuracy: default_conv_accuracy(),
            recompute: false,
            precision: default_precision(),
            graph: String::new(),
            token_noise: tokens::default_token_noise(),
            loss: String::new(),
            tokenizer: tokens::default_tokenizer(),
            length: tokens::default_length(),
            width: tokens::default_width(),
            depth: tokens::default_depth(),
            heads: tokens::default_heads(),
            mlp_ratio: tokens::default_mlp_ratio(),
            neighbours: 0,
            cond_dim: 0,
            rotary_base: tokens::default_rotary_base(),
            time_power: tokens::default_time_power(),
            chain_steps: tokens::default_chain_steps(),
            auxiliary: tokens::default_auxiliary(),
        };
        match name {
            "digits" => Ok(digits),
            "small" => Ok(TrainConfig {
                preset: "small".into(),
                steps: 10_000,
                lr: 5e-4,
                warmup_steps: 500,
                beta2: 0.999,
                ema_decay: 0.999,
                save_every: 1000,
                sample_every: 1000,
                validate_every: 1000,
                block_out_channels: vec![32, 64, 64],
                attention_levels: vec![false, false, true],
                attention_head_dim: 0,
                ..digits
            }),
            // Few images: the average is short and dropout keeps the network from learning them by heart for longer.
            "flags" => Ok(TrainConfig {
                preset: "flags".into(),
                data: "flags".into(),
                steps: 4000,
                batch: 32,
                ema_decay: 0.999,
                save_every: 1000,
                sample_every: 1000,
                validate_every: 500,
                class_conditional: false,
                block_out_channels: vec![32, 64],
                dropout: 0.1,
                ..digits
            }),
            // google/ddpm-cifar10-32, trained as Ho et al. 2020, appendix B.
            "cifar10" => Ok(TrainConfig {
                preset: "cifar10".into(),
                steps: 800_000,
                batch: 8,
                lr: 2e-4,
                lr_schedule: "constant".into(),
                warmup_steps: 5000,
                beta2: 0.999,
                ema_decay: 0.9999,
                save_every: 1000,
                sample_every: 5000,
                validate_every: 5000,
                class_conditional: false,
                beta_schedule: "linear".into(),
                block_out_channels: vec![128, 256, 256, 256],
                layers_per_block: 2,
                attention_levels: vec![false, true, false, false],
                attention_head_dim: 0,
                norm_num_groups: 32,
                norm_eps: 1e-6,
                downsample_padding: 0,
                flip_sin_to_cos: false,
                freq_shift: 1.0,
                dropout: 0.1,
                ..digits
            }),
            // Trained for bits per dimension: every log-SNR counts as it does in the likelihood.
            "digits-likelihood" => Ok(TrainConfig {
                preset: "digits-likelihood".into(),
                steps: 3000,
                warmup_steps: 100,
                beta2: 0.999,
                grad_clip: 10.0,
                ema_decay: 0.998,
                save_every: 500,
                sample_every: 1500,
                validate_every: 250,
                class_conditional: false,
                process: "linear_log_snr".into(),
                prediction_type: "v_prediction".into(),
                weight: "vlb-continuous".into(),
                time_sampling: "stratified".into(),
                block_out_channels: vec![48, 96],
                dropout: 0.1,
                ..digits
            }),
            // A masked model of characters: ten minutes on two cores for the embedded text.
            TEXT => Ok(TrainConfig {
                preset: TEXT.into(),
                data: "text".into(),
                steps: 3800,
                batch: 8,
                lr: 1e-3,
                warmup_steps: 200,
                grad_clip: 1.5,
                ema_decay: 0.995,
                save_every: 600,
                sample_every: 1800,
                validate_every: 300,
                class_conditional: false,
                time_sampling: "stratified".into(),
                graph: "absorbing".into(),
                rotary_base: 100.0,
                time_power: 2.0,
                ..digits
            }),
            // The digits' 17 levels as symbols, 64 a sequence.
            DIGITS_TOKENS => Ok(TrainConfig {
                preset: DIGITS_TOKENS.into(),
                steps: 1500,
                batch: 32,
                lr: 1e-3,
                grad_clip: 1.5,
                ema_decay: 0.998,
                save_every: 500,
                sample_every: 1000,
                validate_every: 250,
                class_conditional: false,
                time_sampling: "stratified".into(),
                dropout: 0.1,
                graph: "absorbing".into(),
                width: 128,
                time_power: 2.0,
                ..digits
            }),
            _ => Err(unknown_name("preset", name, &PRESETS)),
        }
    }
}
