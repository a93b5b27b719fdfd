//! The texts of `kernels/` and the names in them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::nvrtc::ROOT;

pub(crate) fn read(folder: &Path, file: &str) -> Result<String, String> {
    fs::read_to_string(folder.join(file)).map_err(|source| format!("cannot read kernels/{file}: {source}"))
}

/// The text of a kernel file with each `#include "x.cuh"` replaced by that file, once: the run-time compiler comes without a file system.
/// `#line` keeps the files and lines that messages name.
pub(crate) fn with_includes(folder: &Path, file: &str, source: &str) -> Result<String, String> {
    let mut seen = BTreeSet::new();
    expand(folder, file, source, &mut seen)
}

fn expand(folder: &Path, file: &str, source: &str, seen: &mut BTreeSet<String>) -> Result<String, String> {
    let mut text = format!("#line 1 \"{ROOT}kernels/{file}\"\n");
    for (line, number) in source.lines().zip(1..) {
        let name = line.trim().strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        match name {
            None => text.push_str(line),
            Some(name) if seen.insert(name.to_string()) => {
                let inner = read(folder, name).map_err(|reason| format!("kernels/{file}({number}): {reason}"))?;
                text.push_str(&expand(folder, name, &inner, seen)?);
                let _ = write!(text, "#line {} \"{ROOT}kernels/{file}\"", number + 1);
            }
            Some(_) => {}
        }
        text.push('\n');
    }
    Ok(text)
}

/// The stems of `root/kernels/*.cu` and their texts, includes put in.
pub(crate) fn kernel_files(root: &Path) -> Result<Vec<(String, String)>, String> {
    let folder = root.join("kernels");
    let expanded = |stem: String| {
        let file = format!("{stem}.cu");
        let text = with_includes(&folder, &file, &read(&folder, &file)?)?;
        Ok((stem, text))
    };
    kernel_stems(&folder)?.into_iter().map(expanded).collect()
}

/// The stems of `folder/*.cu` in alphabetical order; a missing folder has none.
fn kernel_stems(folder: &Path) -> Result<BTreeSet<String>, String> {
    let mut stems = BTreeSet::new();
    if !folder.is_dir() {
        return Ok(stems);
    }
    let entries = fs::read_dir(folder).map_err(|source| format!("cannot list kernels/: {source}"))?;
    for entry in entries {
        let path = entry.map_err(|source| format!("cannot list kernels/: {source}"))?.path();
        if path.extension().is_none_or(|extension| extension != "cu") {
            continue;
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if !is_name(&stem) {
            return Err(format!(
                "kernels/{stem}.cu: a file is named after its op in lower-case letters, digits and _; rename it"
            ));
        }
        stems.insert(stem);
    }
    Ok(stems)
}

/// A lower-case identifier: it also names a Rust module, hence a letter first.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The phases of the kernels `extern "C" __global__ void <op>_<phase>(` in `source`, sorted.
/// Every `__global__` must have that form, or the kernel could not be launched by name.
pub(crate) fn phases(op: &str, source: &str) -> Result<BTreeSet<String>, String> {
    let code = without_comments(source);
    let mut phases = BTreeSet::new();
    for (at, _) in code.match_indices("__global__") {
        let line = code[..at].matches('\n').count() + 1;
        let wrong =
            |what: String| format!("kernels/{op}.cu:{line}: {what}; write extern \"C\" __global__ void {op}_<phase>(");
        if !code[..at].trim_end().ends_with("extern \"C\"") {
            return Err(wrong("a kernel without extern \"C\"".into()));
        }
        let name = kernel_name(&code[at + "__global__".len()..])
            .ok_or_else(|| wrong("expected void, a name and ( after __global__".into()))?;
        let phase = name.strip_prefix(op).and_then(|rest| rest.strip_prefix('_')).unwrap_or_default();
        // The phase becomes a constant beside MODULE, so `3x3` and `module` alone do not do.
        if !is_name(phase) || phase == "module" {
            return Err(wrong(format!(
                "kernel \"{name}\" is not named {op}_<phase>, phase in lower case, not \"module\""
            )));
        }
        phases.insert(phase.to_string());
    }
    Ok(phases)
}

/// The name in ` void [__launch_bounds__(…)] name(`, or in the same with the two words swapped.
fn kernel_name(after: &str) -> Option<&str> {
    let skip_bounds = |text: &'_ str| -> Option<usize> {
        let rest = text.trim_start();
        match rest.strip_prefix("__launch_bounds__") {
            Some(bounds) => bounds.find(')').map(|end| text.len() - bounds.len() + end + 1),
            None => Some(0),
        }
    };
    let after = &after[skip_bounds(after)?..];
    let after = after.trim_start().strip_prefix("void")?;
    let after = after[skip_bounds(after)?..].trim_start();
    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
    (end > 0 && after[end..].trim_start().starts_with('(')).then_some(&after[..end])
}

/// Blanks `//` and `/* */` comments and keeps the line numbers.
fn without_comments(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('/') {
        code.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match rest.as_bytes().get(1) {
            Some(b'/') => rest.find('\n').unwrap_or(rest.len()),
            Some(b'*') => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            _ => {
                code.push('/');
                rest = &rest[1..];
                continue;
            }
        };
        code.push(' ');
        code.extend(rest[..length].chars().filter(|&c| c == '\n'));
        rest = &rest[length..];
    }
    code.push_str(rest);
    code
}
