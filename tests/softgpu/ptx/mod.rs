//! Reading PTX.

pub(crate) mod inline;
pub(crate) mod lexer;
pub(crate) mod module;
pub(crate) mod parser;

pub(crate) use inline::inlined;
pub(crate) use module::{Function, Module, Operand, Origin, Space, Statement, Type, Variable};
pub(crate) use parser::parse;

/// What is wrong with a PTX text, and on which of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PtxError {
    pub(crate) line: u32,
    pub(crate) what: String,
}

impl PtxError {
    pub(crate) fn new(line: u32, what: impl Into<String>) -> Self {
        PtxError { line, what: what.into() }
    }
}

impl std::fmt::Display for PtxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ptx line {}: {}", self.line, self.what)
    }
}

/// The bits of a number as written, for a place of this type: `12`, `-0x1fU`, `0f3F800000`, `0d3FF0000000000000`, `1.5`.
pub(crate) fn number(text: &str, ty: Type) -> Option<u64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let lower = digits.to_ascii_lowercase();
    let is_float = matches!(ty, Type::F(_) | Type::Bf16);
    if let Some(hex) = lower.strip_prefix("0f").filter(|hex| hex.len() == 8) {
        let value = f32::from_bits(u32::from_str_radix(hex, 16).ok()?);
        let value = if negative { -value } else { value };
        return Some(if ty == Type::F(64) { f64::from(value).to_bits() } else { u64::from(value.to_bits()) });
    }
    if let Some(hex) = lower.strip_prefix("0d").filter(|hex| hex.len() == 16) {
        let value = f64::from_bits(u64::from_str_radix(hex, 16).ok()?);
        let value = if negative { -value } else { value };
        return Some(if ty == Type::F(32) { u64::from((value as f32).to_bits()) } else { value.to_bits() });
    }
    let plain = lower.trim_end_matches('u');
    let integer = if let Some(hex) = plain.strip_prefix("0x") {
        u64::from_str_radix(hex, 16).ok()
    } else if let Some(binary) = plain.strip_prefix("0b") {
        u64::from_str_radix(binary, 2).ok()
    } else if plain.len() > 1 && plain.starts_with('0') && plain.bytes().all(|digit| digit.is_ascii_digit()) {
        u64::from_str_radix(plain, 8).ok()
    } else {
        plain.parse().ok()
    };
    match integer {
        Some(value) if !is_float => Some(if negative { value.wrapping_neg() } else { value }),
        _ => {
            let value: f64 = plain.parse().ok()?;
            let value = if negative { -value } else { value };
            match ty {
                Type::F(32) => Some(u64::from((value as f32).to_bits())),
                Type::F(64) => Some(value.to_bits()),
                _ => None,
            }
        }
    }
}
