//! The configuration of diffusers' `UNet2DModel`, field by field. Fields that begin with `_` are tolerated; any other
//! unknown field, and any value that is not supported, is an error that names it.

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

/// A block with or without attention after each residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// `DownBlock2D`, `UpBlock2D`.
    Plain,
    /// `AttnDownBlock2D`, `AttnUpBlock2D`.
    Attention,
}

/// How class labels enter the time embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassEmbed {
    /// They do not.
    None,
    /// A table of this many rows.
    Table(usize),
    /// The label is a number, embedded as a time is.
    Timestep,
    /// The label is a vector of the embedding's size.
    Identity,
}

/// diffusers' `UNet2DModel` configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Image size `[h, w]` the model is made for, if said.
    pub sample_size: Option<[usize; 2]>,
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Whether the input becomes 2x − 1.
    pub center_input_sample: bool,
    /// Size of the time embedding; four times the first of `block_out_channels` if not said.
    pub time_embedding_dim: Option<usize>,
    /// Shift of the time frequencies.
    pub freq_shift: f64,
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
    /// Blocks on the way down.
    pub down_block_types: Vec<BlockType>,
    /// Whether there is a middle block.
    pub has_mid_block: bool,
    /// Blocks on the way up.
    pub up_block_types: Vec<BlockType>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Divisor of the middle block's sums.
    pub mid_block_scale_factor: f64,
    /// 0 pads right and below only, 1 pads all sides.
    pub downsample_padding: usize,
    /// Probability of dropout in residual blocks.
    pub dropout: f64,
    /// Channels of a head; one head if not said.
    pub attention_head_dim: Option<usize>,
    /// Groups of the norms.
    pub norm_num_groups: usize,
    /// Groups of the middle attention's norm, if different.
    pub attn_norm_num_groups: Option<usize>,
    /// Stabiliser of the norms.
    pub norm_eps: f64,
    /// Time embedding as scale and shift of the second norm instead of a sum.
    pub scale_shift: bool,
    /// Whether the middle block has attention.
    pub add_attention: bool,
    /// Class conditioning.
    pub class_embed: ClassEmbed,
}

// Far beyond any network that has been trained: see `check_limits`.
const MAX_CHANNELS: usize = 1 << 16;
const MAX_CLASSES: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 8;
const MAX_LEVELS: usize = 16;
/// Pixels of an image's side, at most.
pub const MAX_SIDE: usize = 1 << 14;

const KNOWN: [&str; 27] = [
    "sample_size",
    "in_channels",
    "out_channels",
    "center_input_sample",
    "time_embedding_type",
    "time_embedding_dim",
    "freq_shift",
    "flip_sin_to_cos",
    "down_block_types",
    "mid_block_type",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "mid_block_scale_factor",
    "downsample_padding",
    "downsample_type",
    "upsample_type",
    "dropout",
    "act_fn",
    "attention_head_dim",
    "norm_num_groups",
    "attn_norm_num_groups",
    "norm_eps",
    "resnet_time_scale_shift",
    "add_attention",
    "class_embed_type",
    "num_class_embeds",
];

impl Default for UNetConfig {
    /// diffusers' defaults, which many saved configurations leave out.
    fn default() -> UNetConfig {
        use BlockType::{Attention, Plain};
        UNetConfig {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: vec![Plain, Attention, Attention, Attention],
            has_mid_block: true,
            up_block_types: vec![Attention, Attention, Attention, Plain],
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            dropout: 0.0,
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            scale_shift: false,
            add_attention: true,
            class_embed: ClassEmbed::None,
        }
    }
}

impl UNetConfig {
    /// Size of the time embedding.
    pub fn time_embed_dim(&self) -> usize {
        self.time_embedding_dim.unwrap_or(self.block_out_channels[0].saturating_mul(4))
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Model`] that names the field which is unknown, malformed or not supported.
    pub fn from_json(value: &Value) -> Result<UNetConfig> {
        let Some(map) = value.as_object() else {
            return Err(Error::Model("unet config: expected a JSON object".into()));
        };
        for key in map.keys().filter(|k| !k.starts_with('_')) {
            // `num_train_timesteps` belongs to a time embedding that is not supported; null says it is not used.
            let unused = key == "num_train_timesteps" && map[key].is_null();
            if !KNOWN.contains(&key.as_str()) && !unused {
                let hint = crate::error::nearest(key, KNOWN).map(|k| format!(" — did you mean \"{k}\"?"));
                let hint = hint.unwrap_or_default();
                return Err(Error::Model(format!("unet config: field \"{key}\" is not supported{hint}")));
            }
        }
        let r = Reader(map);
        r.expect("time_embedding_type", &["positional"])?;
        r.expect("downsample_type", &["conv"])?;
        r.expect("upsample_type", &["conv"])?;
        r.expect("act_fn", &["silu", "swish"])?;
        r.expect("resnet_time_scale_shift", &["default", "scale_shift"])?;
        let d = UNetConfig::default();
        let has_mid_block = match map.get("mid_block_type") {
            None => true,
            Some(Value::Null) => false,
            Some(Value::String(s)) if s == "UNetMidBlock2D" => true,
            Some(other) => return Err(not_supported("mid_block_type", other, "\"UNetMidBlock2D\" or null")),
        };
        let table = r.optional_size("num_class_embeds")?.flatten();
        let class_embed = match (map.get("class_embed_type"), table) {
            (None | Some(Value::Null), None) => ClassEmbed::None,
            (None | Some(Value::Null), Some(rows)) => ClassEmbed::Table(rows),
            (Some(Value::String(s)), _) if s == "timestep" => ClassEmbed::Timestep,
            (Some(Value::String(s)), _) if s == "identity" => ClassEmbed::Identity,
            (Some(other), _) => {
                return Err(not_supported("class_embed_type", other, "null, \"timestep\" or \"identity\""));
            }
        };
        let config = UNetConfig {
            sample_size: r.sample_size()?,
            in_channels: r.size("in_channels", d.in_channels)?,
            out_channels: r.size("out_channels", d.out_channels)?,
            center_input_sample: r.flag("center_input_sample", d.center_input_sample)?,
            time_embedding_dim: r.optional_size("time_embedding_dim")?.flatten(),
            freq_shift: r.number("freq_shift", d.freq_shift)?,
            flip_sin_to_cos: r.flag("flip_sin_to_cos", d.flip_sin_to_cos)?,
            down_block_types: r.blocks("down_block_types", "DownBlock2D")?.unwrap_or(d.down_block_types),
            has_mid_block,
            up_block_types: r.blocks("up_block_types", "UpBlock2D")?.unwrap_or(d.up_block_types),
            block_out_channels: r.sizes("block_out_channels")?.unwrap_or(d.block_out_channels),
            layers_per_block: r.size("layers_per_block", d.layers_per_block)?,
            mid_block_scale_factor: r.number("mid_block_scale_factor", d.mid_block_scale_factor)?,
            downsample_padding: r.size("downsample_padding", d.downsample_padding)?,
            dropout: r.number("dropout", d.dropout)?,
            attention_head_dim: r.optional_size("attention_head_dim")?.unwrap_or(d.attention_head_dim),
            norm_num_groups: r.size("norm_num_groups", d.norm_num_groups)?,
            attn_norm_num_groups: r.optional_size("attn_norm_num_groups")?.flatten(),
            norm_eps: r.number("norm_eps", d.norm_eps)?,
            scale_shift: map.get("resnet_time_scale_shift").and_then(Value::as_str) == Some("scale_shift"),
            add_attention: r.flag("add_attention", d.add_attention)?,
            class_embed,
        };
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` that diffusers reads.
    pub fn to_json(&self) -> Value {
        let names = |blocks: &[BlockType], plain: &str| -> Vec<String> {
            let name = |b: &BlockType| if *b == BlockType::Attention { format!("Attn{plain}") } else { plain.into() };
            blocks.iter().map(name).collect()
        };
        let (class_embed_type, num_class_embeds) = match self.class_embed {
            ClassEmbed::None => (Value::Null, Value::Null),
            ClassEmbed::Table(rows) => (Value::Null, json!(rows)),
            ClassEmbed::Timestep => (json!("timestep"), Value::Null),
            ClassEmbed::Identity => (json!("identity"), Value::Null),
        };
        let sample_size = match self.sample_size {
            Some([h, w]) if h == w => json!(h),
            other => json!(other),
        };
        json!({
            "_class_name": "UNet2DModel",
            "sample_size": sample_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "center_input_sample": self.center_input_sample,
            "time_embedding_type": "positional",
            "time_embedding_dim": self.time_embedding_dim,
            // diffusers wants an integer where it is one.
            "freq_shift": if self.freq_shift.fract() == 0.0 { json!(self.freq_shift as i64) } else { json!(self.freq_shift) },
            "flip_sin_to_cos": self.flip_sin_to_cos,
            "down_block_types": names(&self.down_block_types, "DownBlock2D"),
            "mid_block_type": if self.has_mid_block { json!("UNetMidBlock2D") } else { Value::Null },
            "up_block_types": names(&self.up_block_types, "UpBlock2D"),
            "block_out_channels": self.block_out_channels,
            "layers_per_block": self.layers_per_block,
            "mid_block_scale_factor": self.mid_block_scale_factor,
            "downsample_padding": self.downsample_padding,
            "downsample_type": "conv",
            "upsample_type": "conv",
            "dropout": self.dropout,
            "act_fn": "silu",
            "attention_head_dim": self.attention_head_dim,
            "norm_num_groups": self.norm_num_groups,
            "attn_norm_num_groups": self.attn_norm_num_groups,
            "norm_eps": self.norm_eps,
            "resnet_time_scale_shift": if self.scale_shift { "scale_shift" } else { "default" },
            "add_attention": self.add_attention,
            "class_embed_type": class_embed_type,
            "num_class_embeds": num_class_embeds,
        })
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Model`] with the field and the reason.
    pub fn validate(&self) -> Result<()> {
        let bad = |text: String| Err(Error::Model(format!("unet config: {text}")));
        let levels = self.block_out_channels.len();
        if levels == 0 || self.down_block_types.len() != levels || self.up_block_types.len() != levels {
            let (d, u) = (self.down_block_types.len(), self.up_block_types.len());
            return bad(format!("block_out_channels has {levels} levels, down_block_types {d}, up_block_types {u}"));
        }
        self.check_limits()?;
        let groups = self.norm_num_groups;
        if let Some(c) = self.block_out_channels.iter().find(|c| **c == 0 || groups == 0 || **c % groups != 0) {
            return bad(format!("norm_num_groups = {groups} does not divide {c} channels of block_out_channels"));
        }
        let deepest = self.block_out_channels[levels - 1];
        if let Some(g) = self.attn_norm_num_groups.filter(|g| *g == 0 || !deepest.is_multiple_of(*g)) {
            return bad(format!("attn_norm_num_groups = {g} does not divide {deepest} channels"));
        }
        // The smallest level that has attention, the middle one included.
        let kinds = self.down_block_types.iter().chain(self.up_block_types.iter().rev());
        let with_attention = kinds.zip(self.block_out_channels.iter().cycle());
        let middle = (self.has_mid_block && self.add_attention).then_some(deepest);
        let smallest =
            with_attention.filter(|(kind, _)| **kind == BlockType::Attention).map(|(_, c)| *c).chain(middle).min();
        if let (Some(d), Some(c)) = (self.attention_head_dim, smallest)
            && (d == 0 || d > c)
        {
            return bad(format!(
                "attention_head_dim = {d} must lie between 1 and the {c} channels of a level with attention"
            ));
        }
        if self.downsample_padding > 1 {
            return bad(format!("downsample_padding = {} is not supported; 0 or 1", self.downsample_padding));
        }
        if !(0.0..1.0).contains(&self.dropout) || !(self.mid_block_scale_factor > 0.0) || !(self.norm_eps >= 0.0) {
            return bad("dropout must lie in [0,1), mid_block_scale_factor above 0, norm_eps not below 0".into());
        }
        let half = self.block_out_channels[0] / 2;
        if half as f64 <= self.freq_shift {
            return bad(format!("freq_shift = {} leaves no time frequencies out of {half}", self.freq_shift));
        }
        Ok(())
    }
}

impl UNetConfig {
    /// Refuses sizes that no network has: products of those below fit a `usize`, and a forged file cannot fill the memory.
    fn check_limits(&self) -> Result<()> {
        let class_rows = if let ClassEmbed::Table(rows) = self.class_embed { rows } else { 1 };
        let deepest = self.block_out_channels.iter().max().copied().unwrap_or(0);
        for (field, value, least, most) in [
            ("block_out_channels", deepest, 1, MAX_CHANNELS),
            ("in_channels", self.in_channels, 1, MAX_CHANNELS),
            ("out_channels", self.out_channels, 1, MAX_CHANNELS),
            ("time_embedding_dim", self.time_embed_dim(), 1, 4 * MAX_CHANNELS),
            ("num_class_embeds", class_rows, 1, MAX_CLASSES),
            ("layers_per_block", self.layers_per_block, 1, MAX_LAYERS),
            ("the number of levels", self.block_out_channels.len(), 1, MAX_LEVELS),
        ] {
            if value < least || value > most {
                return Err(Error::Model(format!("unet config: {field} = {value}: expected {least} to {most}")));
            }
        }
        match self.sample_size {
            Some([h, w]) if h == 0 || w == 0 || h.max(w) > MAX_SIDE => {
                Err(Error::Model(format!("unet config: sample_size = {h}x{w}: expected sides of 1 to {MAX_SIDE}")))
            }
            _ => Ok(()),
        }
    }
}

fn not_supported(field: &str, value: &Value, known: &str) -> Error {
    Error::Model(format!("unet config: {field} = {value} is not supported; expected {known}"))
}

struct Reader<'a>(&'a Map<String, Value>);

impl Reader<'_> {
    fn expect(&self, field: &str, known: &[&str]) -> Result<()> {
        match self.0.get(field) {
            None => Ok(()),
            Some(Value::String(s)) if known.contains(&s.as_str()) => Ok(()),
            Some(other) => Err(not_supported(field, other, &format!("\"{}\"", known.join("\" or \"")))),
        }
    }

    fn size(&self, field: &str, default: usize) -> Result<usize> {
        match self.0.get(field) {
            None => Ok(default),
            Some(v) => to_size(v).ok_or_else(|| not_supported(field, v, "a whole number")),
        }
    }

    /// `None` if absent, `Some(None)` if null.
    fn optional_size(&self, field: &str) -> Result<Option<Option<usize>>> {
        match self.0.get(field) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(v) => {
                to_size(v).map(|n| Some(Some(n))).ok_or_else(|| not_supported(field, v, "a whole number or null"))
            }
        }
    }

    fn number(&self, field: &str, default: f64) -> Result<f64> {
        match self.0.get(field) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| not_supported(field, v, "a number")),
        }
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.0.get(field) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| not_supported(field, v, "true or false")),
        }
    }

    fn sizes(&self, field: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.0.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(to_size).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| not_supported(field, value, "a list of whole numbers"))
    }

    fn blocks(&self, field: &str, plain: &str) -> Result<Option<Vec<BlockType>>> {
        let Some(value) = self.0.get(field) else { return Ok(None) };
        let known = format!("a list of \"{plain}\" and \"Attn{plain}\"");
        let Some(list) = value.as_array() else { return Err(not_supported(field, value, &known)) };
        let block = |v: &Value| match v.as_str() {
            Some(s) if s == plain => Ok(BlockType::Plain),
            Some(s) if s.strip_prefix("Attn") == Some(plain) => Ok(BlockType::Attention),
            _ => Err(not_supported(field, v, &known)),
        };
        list.iter().map(block).collect::<Result<Vec<_>>>().map(Some)
    }

    fn sample_size(&self) -> Result<Option<[usize; 2]>> {
        match self.0.get("sample_size") {
            None | Some(Value::Null) => Ok(None),
            Some(v) => {
                let pair = v.as_array().map(|list| list.iter().map(to_size).collect::<Option<Vec<_>>>());
                match (to_size(v), pair) {
                    (Some(size), _) => Ok(Some([size, size])),
                    (None, Some(Some(list))) if list.len() == 2 => Ok(Some([list[0], list[1]])),
                    _ => Err(not_supported("sample_size", v, "a whole number or a pair")),
                }
            }
        }
    }
}

fn to_size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_its_own_file() {
        let config =
            UNetConfig { sample_size: Some([8, 12]), class_embed: ClassEmbed::Table(11), ..UNetConfig::default() };
        assert_eq!(UNetConfig::from_json(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn a_head_may_be_wider_than_a_level_without_attention() {
        use BlockType::{Attention, Plain};
        let config = UNetConfig {
            block_out_channels: vec![4, 16],
            down_block_types: vec![Plain, Attention],
            up_block_types: vec![Attention, Plain],
            norm_num_groups: 4,
            ..UNetConfig::default()
        };
        config.validate().unwrap();
        let finest = UNetConfig { up_block_types: vec![Attention, Attention], ..config };
        let error = finest.validate().unwrap_err().to_string();
        assert!(error.contains("attention_head_dim = 8 must lie between 1 and the 4 channels"), "{error}");
    }

    #[test]
    fn unknown_fields_are_named_and_underscored_ones_tolerated() {
        let mut value = UNetConfig::default().to_json();
        value["_diffusers_version"] = json!("0.1");
        assert!(UNetConfig::from_json(&value).is_ok());
        value["norm_num_group"] = json!(4);
        let error = UNetConfig::from_json(&value).unwrap_err().to_string();
        assert_eq!(error, "unet config: field \"norm_num_group\" is not supported — did you mean \"norm_num_groups\"?");
    }

    #[test]
    fn unsupported_values_are_named_with_what_is_supported() {
        for (field, value, part) in [
            ("act_fn", json!("gelu"), "act_fn = \"gelu\""),
            ("time_embedding_type", json!("fourier"), "time_embedding_type"),
            ("class_embed_type", json!("projection"), "class_embed_type"),
            ("down_block_types", json!(["SkipDownBlock2D"]), "SkipDownBlock2D"),
            ("norm_num_groups", json!(5), "norm_num_groups = 5"),
            ("attention_head_dim", json!(0), "attention_head_dim = 0"),
            ("sample_size", json!("big"), "sample_size"),
        ] {
            let mut config = UNetConfig::default().to_json();
            config[field] = value;
            let error = UNetConfig::from_json(&config).unwrap_err().to_string();
            assert!(error.contains(part), "{field}: {error}");
        }
    }
}
