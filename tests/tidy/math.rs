//! The rules of docs/math.md: every item has a row, every identity is named, and every name exists.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::rules::Finding;
use crate::source::{Source, leading_word, words};

/// The table of equations.
pub(crate) const PATH: &str = "docs/math.md";

/// The items of the theory's inventory that this crate has: each wants a row, and each of its identities a name there.
pub(crate) const ITEMS: &[RangeInclusive<usize>] = &[1..=80];

fn is_listed(item: usize, items: &[RangeInclusive<usize>]) -> bool {
    items.iter().any(|range| range.contains(&item))
}

/// A line of the table, counted from 1, and its cells.
fn rows(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    let is_row = |(_, line): &(usize, &str)| line.starts_with("| item ");
    text.lines()
        .enumerate()
        .filter(is_row)
        .map(|(at, line)| (at + 1, line.trim_matches('|').split('|').map(str::trim).collect()))
}

/// The items of a first cell: `item 3`, `item 1, 2; S3.eq1`, `item 5–8; S3.eq2`.
fn items_of(cell: &str) -> Vec<usize> {
    let list = cell.trim_start_matches("item ").split(';').next().unwrap_or("");
    let numbers = |part: &str| -> Option<RangeInclusive<usize>> {
        let (first, last) = part.split_once(['–', '-']).unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(numbers).flatten().collect()
}

/// The texts between backticks.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Items without a row.
pub(crate) fn missing_items(text: &str, items: &[RangeInclusive<usize>]) -> Vec<Finding> {
    let known: BTreeSet<usize> = rows(text).flat_map(|(_, cells)| items_of(cells[0])).collect();
    let missing = items.iter().cloned().flatten().filter(|item| !known.contains(item));
    missing
        .map(|item| Finding::at(PATH, 1, format!("item {item} has no row; say where it lives and what proves it")))
        .collect()
}

/// The ids of the identities, each with its file and line.
fn identities(sources: &[Source]) -> Vec<(&Source, usize, &str)> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("src/verify/")) {
        for (at, _) in source.text.match_indices("\"item ") {
            let line_start = source.text[..at].rfind('\n').map_or(0, |end| end + 1);
            let is_comment = source.text[line_start..at].trim_start().starts_with("//");
            let id = source.text[at + 1..].split('"').next().unwrap_or("");
            if !is_comment && !source.is_test(at) {
                found.push((source, source.line(at), id));
            }
        }
    }
    found
}

/// Identities of the listed items that the table does not name.
pub(crate) fn missing_identities(text: &str, sources: &[Source], items: &[RangeInclusive<usize>]) -> Vec<Finding> {
    let named: BTreeSet<&str> = text.lines().flat_map(names).collect();
    let item = |id: &str| id.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    let missing = identities(sources)
        .into_iter()
        .filter(|(_, _, id)| item(id).is_some_and(|item| is_listed(item, items)) && !named.contains(id));
    missing.map(|(source, line, id)| Finding::at(&source.path, line, format!("`{id}` is not in {PATH}"))).collect()
}

/// Names that stand for nothing: an identity that no file of `verify` has, a place in the code that is not there, a proof that is no
/// function and no file.
pub(crate) fn unknown_names(text: &str, sources: &[Source]) -> Vec<Finding> {
    let ids: BTreeSet<&str> = identities(sources).into_iter().map(|(_, _, id)| id).collect();
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let unknown = names(line).filter(|name| is_identity(name) && !ids.contains(name));
        findings.extend(unknown.map(|name| Finding::at(PATH, at + 1, format!("no identity has the id `{name}`"))));
    }
    for (line, cells) in rows(text) {
        let places = cells.get(2).into_iter().flat_map(|cell| names(cell)).filter(|name| !is_place(name, sources));
        findings.extend(places.map(|name| Finding::at(PATH, line, format!("`{name}` is nowhere in its module"))));
        let proofs = cells.get(3).into_iter().flat_map(|cell| names(cell));
        let unknown = proofs.filter(|name| !is_identity(name) && !is_proof(name, sources));
        findings.extend(unknown.map(|name| Finding::at(PATH, line, format!("`{name}` is no test, function or file"))));
    }
    findings
}

fn is_identity(name: &str) -> bool {
    name.strip_prefix("item ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether one file of the first segment's module has all other segments, in its path or as words of its code.
fn is_place(name: &str, sources: &[Source]) -> bool {
    let mut segments = name.split("::");
    let module = segments.next().unwrap_or("");
    let rest: Vec<&str> = segments.collect();
    sources.iter().filter(|source| source.module() == Some(module)).any(|source| {
        let stem = source.path.trim_end_matches(".rs");
        rest.iter().all(|segment| stem.split('/').any(|part| part == *segment) || !source.words(segment).is_empty())
    })
}

/// Whether it is a file, a `module::item`, a function, or a word of a test's text.
fn is_proof(name: &str, sources: &[Source]) -> bool {
    let is_function = |source: &Source| {
        source.words("fn").iter().any(|at| leading_word(source.code[at + "fn".len()..].trim_start()) == name)
    };
    if name.contains('/') {
        return sources.iter().any(|source| source.path == name);
    }
    if let Some((owner, item)) = name.split_once("::") {
        return sources.iter().any(|source| !source.words(owner).is_empty() && !source.words(item).is_empty());
    }
    sources.iter().any(|source| {
        is_function(source) || (source.path.starts_with("tests/") && !words(&source.text, name).is_empty())
    })
}
