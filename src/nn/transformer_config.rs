//! The sizes of a transformer, checked field by field.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

// Far beyond any such network that has been trained: a slip of the pen must not ask for all memory.
const MAX_TOKENS: usize = 1 << 20;
const MAX_LENGTH: usize = 1 << 16;
const MAX_WIDTH: usize = 1 << 14;
const MAX_DEPTH: usize = 1 << 8;

/// Sizes of a [`super::Transformer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// Symbols that the input may hold, a mask among them where the graph has one; 1 to 2^20.
    pub tokens: usize,
    /// Logits or log-scores of each position; 1 to 2^20.
    pub outputs: usize,
    /// The longest sequence; 1 to 65536.
    pub length: usize,
    /// Channels of a token; 1 to 16384.
    pub width: usize,
    /// Blocks of attention and MLP; 1 to 256.
    pub depth: usize,
    /// Heads of attention; must divide `width` into heads of an even number of channels.
    pub heads: usize,
    /// Hidden channels of the MLP for each channel of a token; 1 to 16.
    pub mlp_ratio: usize,
    /// Channels of the embedded noise level, which modulates every norm and gates every branch; `None` for a network that is not told it, as
    /// the absorbing graph allows: it has neither modulations nor gates.
    pub cond_dim: Option<usize>,
    /// Probability of dropout after attention and MLP; in [0, 1).
    pub dropout: f64,
    /// Base of the rotary frequencies; above 1.
    pub rotary_base: f64,
    /// Stabiliser of the norms' variance; above 0.
    pub norm_eps: f64,
    /// Whether each position has a vector of its own besides the rotations, which tell distances alone: for images as sequences, whose places
    /// mean something.
    pub position_embed: bool,
    /// Distances, before and after, at which other tokens of the sequence enter a token's first vector, by tables of their own: what an n-gram
    /// reads is there before the first block. Not 0; at most 1024 of them. Empty as in SEDD.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<i32>,
}

/// How `config.json` names the class.
const CLASS: &str = "Transformer";

impl Default for TransformerConfig {
    /// A character model of 27 symbols and a mask: 6 blocks of width 384, 256 tokens, 10.7 M parameters.
    fn default() -> TransformerConfig {
        TransformerConfig {
            tokens: 28,
            outputs: 28,
            length: 256,
            width: 384,
            depth: 6,
            heads: 6,
            mlp_ratio: 4,
            cond_dim: None,
            dropout: 0.0,
            rotary_base: 10000.0,
            norm_eps: 1e-5,
            position_embed: false,
            neighbours: Vec::new(),
        }
    }
}

impl TransformerConfig {
    /// The fields as `config.json` has them.
    pub fn to_json(&self) -> Value {
        let mut fields = json!({ "_class_name": CLASS });
        if let (Some(map), Ok(Value::Object(own))) = (fields.as_object_mut(), serde_json::to_value(self)) {
            map.extend(own);
        }
        fields
    }

    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`Error::Model`] for another class, or a field that is missing, unknown or out of range.
    pub fn from_json(json: &Value) -> Result<TransformerConfig> {
        let bad = |text: String| Error::Model(format!("transformer/config.json: {text}"));
        let mut fields = json.clone();
        let class = fields.as_object_mut().and_then(|map| map.shift_remove("_class_name"));
        if class != Some(json!(CLASS)) {
            let got = class.unwrap_or(Value::Null);
            return Err(bad(format!("expected _class_name \"{CLASS}\", got {got}")));
        }
        let config: TransformerConfig = serde_json::from_value(fields).map_err(|e| bad(e.to_string()))?;
        config.validate().map_err(|e| bad(e.to_string()))?;
        Ok(config)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the field, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let cond_dim = self.cond_dim.map(|cond_dim| ("cond_dim", cond_dim, 1, MAX_WIDTH));
        let sizes = [
            ("tokens", self.tokens, 1, MAX_TOKENS),
            ("outputs", self.outputs, 1, MAX_TOKENS),
            ("length", self.length, 1, MAX_LENGTH),
            ("width", self.width, 1, MAX_WIDTH),
            ("depth", self.depth, 1, MAX_DEPTH),
            ("heads", self.heads, 1, MAX_WIDTH),
            ("mlp_ratio", self.mlp_ratio, 1, 16),
        ];
        for (field, value, least, most) in sizes.into_iter().chain(cond_dim) {
            if !(least..=most).contains(&value) {
                return Err(Error::Usage(format!("transformer config: {field} = {value}: expected {least} to {most}")));
            }
        }
        if self.neighbours.len() > 1024 || self.neighbours.contains(&0) {
            let neighbours = &self.neighbours;
            return Err(Error::Usage(format!(
                "transformer config: neighbours = {neighbours:?}: expected at most 1024 distances that are not 0"
            )));
        }
        if !self.width.is_multiple_of(2 * self.heads) {
            let (width, heads) = (self.width, self.heads);
            return Err(Error::Usage(format!(
                "transformer config: heads = {heads}: width {width} does not divide into heads of an even number of channels"
            )));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let dropout = self.dropout;
            return Err(Error::Usage(format!("transformer config: dropout = {dropout}: expected 0 or more, below 1")));
        }
        for (field, value, least) in [("rotary_base", self.rotary_base, 1.0), ("norm_eps", self.norm_eps, 0.0)] {
            if !(value > least && value.is_finite()) {
                return Err(Error::Usage(format!(
                    "transformer config: {field} = {value}: expected a number above {least}"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_gives_every_field_back_and_strange_files_are_refused() {
        for cond_dim in [None, Some(64)] {
            let config = TransformerConfig {
                cond_dim,
                width: 48,
                position_embed: true,
                neighbours: vec![-1, 8],
                ..Default::default()
            };
            let json = config.to_json();
            assert_eq!((json["_class_name"].as_str(), json["width"].as_u64()), (Some("Transformer"), Some(48)));
            assert_eq!(TransformerConfig::from_json(&json).unwrap(), config);
        }
        let spoilt = |key: &str, value: Value| {
            let mut json = TransformerConfig::default().to_json();
            json[key] = value;
            TransformerConfig::from_json(&json).unwrap_err().to_string()
        };
        assert!(spoilt("_class_name", json!("UNet2DModel")).contains("expected _class_name \"Transformer\""));
        assert!(spoilt("heads", json!(5)).contains("heads = 5"));
        assert!(spoilt("colour", json!(1)).contains("colour"));
        assert!(TransformerConfig::from_json(&json!({ "_class_name": "Transformer" })).is_err());
    }

    #[test]
    fn every_field_out_of_range_is_named() {
        let base = TransformerConfig::default;
        base().validate().unwrap();
        for (config, part) in [
            (TransformerConfig { tokens: 0, ..base() }, "tokens = 0: expected 1 to 1048576"),
            (TransformerConfig { outputs: 0, ..base() }, "outputs = 0"),
            (TransformerConfig { length: 1 << 20, ..base() }, "length = 1048576: expected 1 to 65536"),
            (TransformerConfig { width: 0, ..base() }, "width = 0"),
            (TransformerConfig { depth: 257, ..base() }, "depth = 257: expected 1 to 256"),
            (TransformerConfig { heads: 0, ..base() }, "heads = 0"),
            (TransformerConfig { heads: 5, ..base() }, "heads = 5: width 384 does not divide"),
            (TransformerConfig { width: 18, heads: 6, ..base() }, "heads = 6: width 18 does not divide"),
            (TransformerConfig { mlp_ratio: 17, ..base() }, "mlp_ratio = 17: expected 1 to 16"),
            (TransformerConfig { cond_dim: Some(0), ..base() }, "cond_dim = 0: expected 1 to 16384"),
            (TransformerConfig { dropout: 1.0, ..base() }, "dropout = 1: expected 0 or more, below 1"),
            (TransformerConfig { rotary_base: 1.0, ..base() }, "rotary_base = 1: expected a number above 1"),
            (TransformerConfig { neighbours: vec![-1, 0], ..base() }, "neighbours = [-1, 0]"),
            (TransformerConfig { norm_eps: f64::NAN, ..base() }, "norm_eps = NaN: expected a number above 0"),
        ] {
            let text = config.validate().unwrap_err().to_string();
            assert!(text.starts_with("transformer config: ") && text.contains(part), "{text}");
        }
    }
}
