//! The house's rules, held by reading the sources: who imports whom, what stands where, what may not be left behind.
//!
//! `tidy/rules.rs` has the rules and their tables, `tidy/math.rs` those of docs/math.md, `tidy/planted.rs` the proof that each can fail.

#[path = "tidy/math.rs"]
mod math;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use rules::Finding;
use source::Source;

/// The folders and files in which Rust is written.
const RUST: &[&str] = &["src", "tests", "benches", "examples", "xtask", "build", "build.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Adds the files at or below `path`, relative to the repository and with `/`, leaving out what builds and runs write.
fn walk(path: &str, files: &mut BTreeSet<String>) -> io::Result<()> {
    let full = root().join(path);
    if full.is_file() {
        files.insert(path.to_string());
    } else if full.is_dir() {
        for entry in fs::read_dir(full)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !matches!(name.as_str(), "target" | ".git" | "runs" | "out" | "__pycache__") {
                walk(&if path.is_empty() { name } else { format!("{path}/{name}") }, files)?;
            }
        }
    }
    Ok(())
}

fn files_below(paths: &[&str]) -> io::Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    paths.iter().try_for_each(|path| walk(path, &mut files))?;
    Ok(files)
}

/// The Rust files at or below `paths`.
fn sources(paths: &[&str]) -> io::Result<Vec<Source>> {
    let rust = files_below(paths)?.into_iter().filter(|path| path.ends_with(".rs"));
    rust.map(|path| fs::read_to_string(root().join(&path)).map(|text| Source::new(&path, &text))).collect()
}

/// The files that git tracks or would add; all files where there is no git, as in an unpacked release.
fn tracked() -> io::Result<BTreeSet<String>> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    match git.output() {
        Ok(list) if list.status.success() => {
            let list = String::from_utf8_lossy(&list.stdout).into_owned();
            Ok(list.split_terminator('\0').map(String::from).collect())
        }
        _ => files_below(&[""]),
    }
}

/// Fails with every finding on its own line.
#[track_caller]
fn hold(findings: impl IntoIterator<Item = Finding>) {
    let lines: Vec<String> = findings.into_iter().map(|finding| format!("  {finding}")).collect();
    assert!(lines.is_empty(), "{} places break this rule:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn modules_import_only_what_the_table_allows() -> io::Result<()> {
    let sources = sources(&["src"])?;
    assert!(sources.iter().any(|source| source.path == "src/rng.rs"), "the walk found no sources");
    hold(sources.iter().flat_map(rules::imports));
    Ok(())
}

#[test]
fn cudarc_is_named_only_on_the_device_side() -> io::Result<()> {
    hold(sources(RUST)?.iter().flat_map(rules::device_calls));
    Ok(())
}

#[test]
fn unsafe_stands_only_where_it_is_expected() -> io::Result<()> {
    hold(sources(&["src"])?.iter().flat_map(rules::unsafe_code));
    Ok(())
}

#[test]
fn files_are_short_and_finished() -> io::Result<()> {
    let files = files_below(&["src", "kernels"])?;
    let texts = files.iter().filter_map(|path| Some((path, fs::read_to_string(root().join(path)).ok()?)));
    hold(texts.flat_map(|(path, text)| rules::length(path, &text)));
    hold(sources(RUST)?.iter().flat_map(rules::unfinished));
    Ok(())
}

#[test]
fn examples_are_short_numbered_and_in_the_readme() -> io::Result<()> {
    let paths = files_below(&["examples"])?.into_iter().filter(|path| path.ends_with(".rs"));
    let texts = paths.map(|path| Ok((path.clone(), fs::read_to_string(root().join(path))?)));
    let examples = texts.collect::<io::Result<Vec<_>>>()?;
    assert!(!examples.is_empty(), "the walk found no examples");
    hold(rules::examples(&examples, &fs::read_to_string(root().join("README.md"))?));
    Ok(())
}

#[test]
fn every_kernel_file_has_its_op_room() -> io::Result<()> {
    hold(rules::kernels_without_room(&files_below(&["kernels", "src/ops"])?));
    Ok(())
}

#[test]
fn every_op_room_has_its_kernel_file() -> io::Result<()> {
    hold(rules::rooms_without_kernel(&files_below(&["kernels", "src/ops"])?));
    Ok(())
}

#[test]
fn the_table_of_equations_is_complete_and_names_what_exists() -> io::Result<()> {
    let sources = sources(&["src", "tests"])?;
    let text = fs::read_to_string(root().join(math::PATH))?;
    hold(math::missing_items(&text, math::ITEMS));
    hold(math::missing_identities(&text, &sources, math::ITEMS));
    hold(math::unknown_names(&text, &sources));
    Ok(())
}

#[test]
fn no_tracked_file_names_a_path_of_one_machine() -> io::Result<()> {
    let files = tracked()?;
    assert!(files.contains("Cargo.toml"), "the list of tracked files lacks Cargo.toml");
    // A file that is not UTF-8 is no text; one that git lists and the tree lacks is about to go.
    let texts = files.iter().filter_map(|path| Some((path, fs::read_to_string(root().join(path)).ok()?)));
    hold(texts.flat_map(|(path, text)| rules::machine_paths(path, &text)));
    Ok(())
}
