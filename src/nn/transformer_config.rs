//! The sizes of a transformer, checked field by field.

use crate::error::{Error, Result};

// Far beyond any such network that has been trained: a slip of the pen must not ask for all memory.
const MAX_TOKENS: usize = 1 << 20;
const MAX_LENGTH: usize = 1 << 16;
const MAX_WIDTH: usize = 1 << 14;
const MAX_DEPTH: usize = 1 << 8;

/// Sizes of a [`super::Transformer`].
#[derive(Clone, Debug, PartialEq)]
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
}

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
        }
    }
}

impl TransformerConfig {
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
            (TransformerConfig { norm_eps: f64::NAN, ..base() }, "norm_eps = NaN: expected a number above 0"),
        ] {
            let text = config.validate().unwrap_err().to_string();
            assert!(text.starts_with("transformer config: ") && text.contains(part), "{text}");
        }
    }
}
