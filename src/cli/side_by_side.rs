//! Several models under one metric, as a table.

use super::has_tokens;
use crate::error::{Error, Result};
use crate::io::ModelFolder;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What one model measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Its folder.
    pub model: PathBuf,
    /// What kind of model it is, for example `discrete, absorbing graph`.
    pub kind: String,
    /// The metric's name.
    pub metric: &'static str,
    /// Its unit; empty for none.
    pub unit: &'static str,
    /// Mean and standard error.
    pub value: (f64, f64),
    /// What it was measured on. Numbers compare where this is the same.
    pub on: String,
    /// The data's name in it.
    pub on_data: String,
}

/// How [`Standing::on`] names held-out images, whether they are numbers or tokens to a model.
pub fn held_out_images(data: &str, levels: usize, images: usize) -> String {
    format!("{data} ({levels} levels, {images} held-out images)")
}

/// What kind of model it is, and what it can be measured by, its usual metric first.
fn metrics_of(model: &Path) -> Result<(&'static str, &'static [&'static str])> {
    let folder = ModelFolder::new(model);
    if has_tokens(model)? {
        let is_text = folder.read_token_descriptions()?.own.image_shape.is_none();
        return Ok(if is_text { ("a model of text", &["bpc"]) } else { ("a model of images as tokens", &["bpd"]) });
    }
    let is_classifier = folder.is_classifier()?;
    Ok(if is_classifier { ("a classifier", &["accuracy"]) } else { ("a model of images", &["loss", "bpd", "ode-bpd"]) })
}

/// The metrics that are measured: those `asked`, which every model must have, or the usual ones; of models of different kinds, what they share.
///
/// # Errors
/// [`Error::Usage`] that names a model without a metric that was asked for, or what each has where they share none; [`Error::Model`] for a
/// folder that is none of a model.
pub fn metrics_of_all(models: &[PathBuf], asked: &[String]) -> Result<Vec<String>> {
    let of_each = models.iter().map(|model| metrics_of(model)).collect::<Result<Vec<_>>>()?;
    for (model, (kind, known)) in models.iter().zip(&of_each) {
        if let Some(other) = asked.iter().find(|name| !known.contains(&name.as_str())) {
            let (model, known) = (model.display(), known.join(", "));
            return Err(Error::Usage(format!(
                "--metric {other}: has no meaning for {model}, {kind}; use --metric {known}"
            )));
        }
    }
    if !asked.is_empty() || of_each.iter().all(|one| *one == of_each[0]) {
        return Ok(asked.to_vec());
    }
    let shared = |name: &&&str| of_each.iter().all(|(_, known)| known.contains(*name));
    if let Some(name) = of_each[0].1.iter().find(shared) {
        return Ok(vec![name.to_string()]);
    }
    let has = |(model, (_, known)): (&PathBuf, &(_, &[&str]))| format!("{} has {}", model.display(), known.join(", "));
    let list = models.iter().zip(&of_each).map(has).collect::<Vec<_>>().join("; ");
    Err(Error::Usage(format!("--model: expected models with a metric in common; {list}")))
}

/// A table for each metric that more than one model has, in the order in which they were first measured; empty if there is none.
pub fn side_by_side(standings: &[Standing]) -> String {
    let mut text = String::new();
    let is_first = |i: usize| !standings[..i].iter().any(|earlier| earlier.metric == standings[i].metric);
    for first in (0..standings.len()).filter(|i| is_first(*i)).map(|i| &standings[i]) {
        let rows: Vec<&Standing> = standings.iter().filter(|s| s.metric == first.metric).collect();
        if rows.len() > 1 {
            table(&mut text, &rows);
        }
    }
    text
}

fn shown(model: &Path) -> String {
    model.display().to_string()
}

fn table(text: &mut String, rows: &[&Standing]) {
    let first = rows[0];
    let is_same = rows.iter().all(|row| (&row.on, row.unit) == (&first.on, first.unit));
    let width = rows.iter().map(|row| shown(&row.model).chars().count()).max().unwrap_or(0);
    let unit = if first.unit.is_empty() { String::new() } else { format!(", {}", first.unit) };
    // Writing to a string does not fail.
    let _ = match is_same {
        true => writeln!(text, "{} side by side{unit}, on {}:", first.metric, first.on),
        false => writeln!(text, "{} side by side; NOT comparable, since measured on different things:", first.metric),
    };
    for row in rows {
        let (mean, error) = row.value;
        let own = if is_same { String::new() } else { format!("  {} on {}", row.unit, row.on) };
        let _ = writeln!(text, "  {:width$}  {mean:9.4} ± {error:.4}  {}{own}", shown(&row.model), row.kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(model: &str, metric: &'static str, mean: f64, on: &str) -> Standing {
        let (model, kind, value) = (PathBuf::from(model), "continuous".into(), (mean, 0.01));
        Standing { model, kind, metric, unit: "bits/dim", value, on: on.into(), on_data: on.into() }
    }

    #[test]
    fn metrics_of_several_models_stand_together_and_what_does_not_compare_says_so() {
        let rows = [
            standing("runs/a", "bpd", 1.5, "digits"),
            standing("runs/a", "ode-bpd", 1.4, "digits"),
            standing("runs/longer", "bpd", 12.25, "digits"),
        ];
        let want = "bpd side by side, bits/dim, on digits:\n  runs/a          1.5000 ± 0.0100  continuous\n  \
                    runs/longer    12.2500 ± 0.0100  continuous\n";
        assert_eq!(side_by_side(&rows), want);
        assert_eq!(side_by_side(&rows[..2]), "");
        let other = side_by_side(&[rows[0].clone(), standing("runs/b", "bpd", 2.0, "flags")]);
        assert!(other.starts_with("bpd side by side; NOT comparable"), "{other}");
        assert!(other.contains("bits/dim on digits") && other.contains("bits/dim on flags"), "{other}");
    }
}
