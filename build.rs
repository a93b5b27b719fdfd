//! Turns `kernels/*.cu` into constants, written to `OUT_DIR/kernels.rs`:
//!
//! ```text
//! pub const COMMON: &str = /* the text of common.cuh */;
//! pub mod conv2d {
//!     pub const SOURCE: &str = /* the text of conv2d.cu */;
//!     pub const BACKWARD_WEIGHT: &str = "conv2d_backward_weight";
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
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; run cargo build")?).join("kernels.rs");
    let text = kernel_module(&root)?;
    fs::write(&out, text).map_err(|source| format!("cannot write {}: {source}", out.display()))
}

/// The text of `kernels.rs` for the kernels below `root/kernels`.
pub(crate) fn kernel_module(root: &Path) -> Result<String, String> {
    let mut text = String::from("// Written by build.rs from kernels/.\n");
    let common = if root.join("kernels/common.cuh").is_file() { include("common.cuh") } else { "\"\"".into() };
    let _ = write!(text, "\n/// The helpers every kernel includes.\n#[allow(dead_code, unreachable_pub)]\n");
    let _ = writeln!(text, "pub const COMMON: &str = {common};");
    for stem in kernel_stems(&root.join("kernels"))? {
        let file = format!("kernels/{stem}.cu");
        let source = fs::read_to_string(root.join(&file)).map_err(|source| format!("cannot read {file}: {source}"))?;
        let _ =
            write!(text, "\n/// The kernels of `{file}`.\n#[allow(dead_code, unreachable_pub)]\npub mod {stem} {{\n");
        let _ = writeln!(
            text,
            "    /// The text of the file.\n    pub const SOURCE: &str = {};",
            include(&format!("{stem}.cu"))
        );
        for phase in phases(&stem, &source)? {
            let _ = writeln!(text, "    /// The kernel `{stem}_{phase}`.");
            let _ = writeln!(text, "    pub const {}: &str = \"{stem}_{phase}\";", phase.to_uppercase());
        }
        text.push_str("}\n");
    }
    Ok(text)
}

/// The expression that embeds a file of `kernels/`; relative to the package, so that no machine's path is compiled in.
fn include(name: &str) -> String {
    format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/kernels/{name}\"))")
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
        // The phase becomes a constant beside SOURCE, so `3x3` and `source` alone do not do.
        if !is_name(phase) || phase == "source" {
            return Err(wrong(format!(
                "kernel \"{name}\" is not named {op}_<phase>, phase in lower case, not \"source\""
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
