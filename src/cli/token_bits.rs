//! `eval` for models of tokens: the bound in bits per character, byte, word or pixel.

use super::side_by_side::{Standing, held_out_images};
use crate::data::{TextSet, TokenData, TokenizerKind};
use crate::discrete::Bits;
use crate::error::{Error, Result};
use crate::pipeline::TokenPipeline;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Measures the bound of a model of tokens on held-out data: its value, the line to print, and what a table has of it (the metric is `bpc`, or `bpd`
/// where tokens are pixels; the model's folder is left to the caller).
///
/// * `data` — the name of the data, or that of the model's own
///
/// # Errors
/// [`Error::Usage`] for data that does not fit the model.
pub fn token_bits(
    pipeline: &TokenPipeline,
    data: Option<&str>,
    (count, draws, seed): (Option<usize>, usize, u64),
) -> Result<(Value, String, Standing)> {
    let description = pipeline.description();
    let own = &description.own;
    let metric = if own.image_shape.is_some() { "bpd" } else { "bpc" };
    if draws == 0 {
        return Err(Error::Usage("--draws 0: expected at least 1".into()));
    }
    if count == Some(1) {
        return Err(Error::Usage("--count 1: expected at least 2 sequences, for the standard error".into()));
    }
    let spec = data.unwrap_or(&own.data).to_string();
    let held_out = match (&pipeline.description().tokenizer, TokenData::is_text(&spec)) {
        (Some(tokenizer), true) => TokenData::Text(TextSet::load_as(&spec, tokenizer)?),
        (None, false) => TokenData::load(&spec, TokenizerKind::Letters, own.split_seed)?,
        (_, false) if data.is_none() && !Path::new(&spec).exists() && own.image_shape.is_none() => {
            return Err(Error::Usage(format!(
                "--data: the text \"{spec}\" that the model was trained on is not there; name it, or another"
            )));
        }
        (Some(_), false) if !Path::new(&spec).exists() => {
            return Err(Error::Usage(format!("--data {spec}: expected text or the path of a text, got neither")));
        }
        (Some(_), false) => return Err(Error::Usage(format!("--data {spec}: expected a text, got images"))),
        (None, true) => return Err(Error::Usage(format!("--data {spec}: expected images, got a text"))),
    };
    let Bits { bits, standard_error, sequences, prior, last } =
        pipeline.bits(&held_out, count.unwrap_or(usize::MAX), draws, seed)?;
    let has_changed = spec == own.data && own.fingerprint.as_ref().is_some_and(|old| *old != held_out.fingerprint());
    if has_changed {
        eprintln!(
            "note: \"{spec}\" has changed since the model was trained; what is held out now may have been trained on"
        );
    }
    let (unit, graph, symbols) = (description.unit(), pipeline.score().graph.name(), description.scheduler.symbols);
    let per_character = bytes_per_character(&held_out).map(|bytes| bits * bytes);
    let also = per_character.map_or(String::new(), |bits| format!(", {bits:.4} bits/character"));
    let text = format!(
        "{metric}  {bits:.4} ± {standard_error:.4} {unit}{also}  (upper bound of a probability; {graph} graph, {symbols} symbols; {sequences} \
         held-out sequences of {} tokens × {draws} times, seed {seed}; prior {prior:.4}, L_0 {last:.4})",
        own.length,
    );
    let mut value = json!({
        "mean": bits,
        "standard_error": standard_error,
        "unit": unit,
        "prior": prior,
        "last": last,
        "sequences": sequences,
        "length": own.length,
        "symbols": symbols,
        "draws": draws,
        "seed": seed,
    });
    if has_changed {
        value["data_changed"] = json!(true);
    }
    if let Some(bits) = per_character {
        value["bits_per_character"] = json!(bits);
    }
    let on = match own.image_shape {
        Some(_) => held_out_images(&spec, symbols, sequences),
        None => format!("{spec} ({symbols} symbols, {sequences} held-out windows of {})", own.length),
    };
    let (kind, value_of) = (format!("discrete, {graph} graph, {}", own.loss), (bits, standard_error));
    Ok((value, text, Standing { model: PathBuf::new(), kind, metric, unit, value: value_of, on, on_data: spec }))
}

/// Of a text whose tokens are bytes, where characters have more than one: those that begin no character are not counted as one.
fn bytes_per_character(data: &TokenData) -> Option<f64> {
    let TokenData::Text(text) = data else { return None };
    if text.tokenizer().kind() != TokenizerKind::Bytes {
        return None;
    }
    let bytes = text.held_out();
    let characters = bytes.iter().filter(|byte| *byte & 0xc0 != 0x80).count();
    (characters > 0 && characters < bytes.len()).then(|| bytes.len() as f64 / characters as f64)
}
