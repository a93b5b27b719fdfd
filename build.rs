//! Turns `kernels/*.cu` into constants of the types in `src/kernels.rs`, written to `OUT_DIR/kernels.rs`:
//!
//! ```text
//! pub(crate) mod conv2d {
//!     pub(crate) static MODULE: Module = Module { stem: "conv2d", source: /* conv2d.cu, includes put in */ };
//!     pub(crate) const BACKWARD_WEIGHT: Kernel = Kernel { module: &MODULE, name: "conv2d_backward_weight" };
//! }
//! ```
//!
//! A misspelt kernel name is then a Rust compile error. `tests/kernel_names.rs` tests this file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels"); // the folder: new and removed files count
    // Integration tests, and nothing else, find the software GPU (tests/softgpu), which is built as an example.
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-link-arg-tests=-Wl,-rpath,$ORIGIN/../examples");
    }
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            println!("cargo::error={text}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<(), String> {
    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set; run cargo build")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; run cargo build")?);
    let text = kernel_module(&root, &out)?;
    write(&out.join("kernels.rs"), &text)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|source| format!("cannot write {}: {source}", path.display()))
}

/// The text of `kernels.rs` for the kernels below `root/kernels`; their sources, includes put in, are written to `out`.
pub(crate) fn kernel_module(root: &Path, out: &Path) -> Result<String, String> {
    let folder = root.join("kernels");
    let mut text = String::from("// Written by build.rs from kernels/.\n");
    for stem in kernel_stems(&folder)? {
        let file = format!("{stem}.cu");
        let source = read(&folder, &file)?;
        let names = phases(&stem, &source)?;
        write(&out.join(&file), &with_includes(&folder, &file, &source)?)?;
        let _ = write!(text, "\n/// The kernels of `kernels/{file}`.\n#[allow(dead_code)]\npub(crate) mod {stem} {{\n");
        let _ = writeln!(text, "    use super::{{Kernel, Module}};");
        let _ = writeln!(text, "    /// The file.\n    pub(crate) static MODULE: Module = Module {{");
        let _ = writeln!(text, "        stem: \"{stem}\",");
        let _ = writeln!(text, "        source: include_str!(concat!(env!(\"OUT_DIR\"), \"/{file}\")),\n    }};");
        for phase in names {
            let (constant, name) = (phase.to_uppercase(), format!("{stem}_{phase}"));
            let _ = writeln!(text, "    /// The kernel `{name}`.");
            let _ = writeln!(
                text,
                "    pub(crate) const {constant}: Kernel = Kernel {{ module: &MODULE, name: \"{name}\" }};"
            );
        }
        text.push_str("}\n");
    }
    Ok(text)
}

fn read(folder: &Path, file: &str) -> Result<String, String> {
    fs::read_to_string(folder.join(file)).map_err(|source| format!("cannot read kernels/{file}: {source}"))
}

/// The text of a kernel file with each `#include "x.cuh"` replaced by that file, once: the run-time compiler comes without a file system.
/// `#line` keeps the files and lines that messages name.
pub(crate) fn with_includes(folder: &Path, file: &str, source: &str) -> Result<String, String> {
    let mut seen = BTreeSet::new();
    expand(folder, file, source, &mut seen)
}

fn expand(folder: &Path, file: &str, source: &str, seen: &mut BTreeSet<String>) -> Result<String, String> {
    let mut text = format!("#line 1 \"kernels/{file}\"\n");
    for (line, number) in source.lines().zip(1..) {
        let name = line.trim().strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        match name {
            None => text.push_str(line),
            Some(name) if seen.insert(name.to_string()) => {
                let inner = read(folder, name).map_err(|reason| format!("kernels/{file}({number}): {reason}"))?;
                text.push_str(&expand(folder, name, &inner, seen)?);
                let _ = write!(text, "#line {} \"kernels/{file}\"", number + 1);
            }
            Some(_) => {}
        }
        text.push('\n');
    }
    Ok(text)
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
