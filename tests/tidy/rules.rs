//! The rules. Each is a function of a file; what it finds names the line and what to do.

use std::collections::BTreeSet;
use std::fmt;

use crate::source::{Source, leading_word};

/// Who may import whom (docs/design.md, section 2): a module imports the levels below its own.
/// `process` stands beside the levels: see [`may_import`].
const LEVELS: &[(u8, &[&str])] = &[
    (0, &["error", "rng", "kernels"]), // `kernels`: names, sources and images, written by build.rs
    (1, &["device", "simd", "analytic"]),
    (2, &["tensor"]),
    (3, &["tape"]),
    (4, &["ops"]),
    (5, &["nn", "optim"]),
    (6, &["denoiser"]),
    (7, &["loss", "sampler", "discrete"]),
    (8, &["data", "io", "likelihood", "eval"]),
    (9, &["config", "pipeline", "train", "verify", "cli", "testing"]),
];

/// `process` is pure f64: it imports only `error`, and the levels from this one up may import it.
const PROCESS_FROM: u8 = 6;

/// Imports allowed beyond the levels: (who, whom).
const ALSO: &[(&str, &str)] = &[
    ("rng", "error"),
    ("rng", "simd"), // upwards: the normals are filled by vectorised loops, and `simd` itself imports nothing
    ("simd", "device"), // packed panels and partial sums come from the pool, tiles run on its threads
    ("optim", "nn"), // an optimiser walks the parameters
    ("data", "io"),
    ("io", "data"),
    ("eval", "data"),
    ("eval", "io"),
    ("eval", "likelihood"),
    ("ops", "testing"), // every room registers its oracle and case table there
    ("pipeline", "config"),
    ("cli", "pipeline"),
    ("cli", "verify"),
    ("verify", "config"),
    ("train", "config"),
    ("train", "pipeline"),
];

/// What a sampler never sees, although it lies below: samplers are proved without a network.
const NOT_IN_SAMPLERS: &[&str] = &["tape", "optim", "loss", "nn"];

/// Names at the crate's root that are not modules, and the module each comes from.
const ROOT_ITEMS: &[(&str, &str)] = &[("Error", "error"), ("Result", "error"), ("vectorise", "simd")];

/// Files outside the folders of [`unsafe_code`] that hold `unsafe` all the same: disjoint writes around a micro-kernel,
/// where no safe split of the output exists. Each entry carries its reason.
const UNSAFE_FILES: &[&str] = &[];

/// A longer file reads better as two.
const MAX_LINES: usize = 600;

/// A longer example is no example.
const MAX_EXAMPLE_LINES: usize = 80;

/// A broken rule.
pub(crate) struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

impl Finding {
    /// A finding in a file that is not Rust.
    pub(crate) fn at(path: &str, line: usize, what: String) -> Finding {
        Finding { path: path.into(), line, what }
    }
}

fn finding(source: &Source, at: usize, what: String) -> Finding {
    Finding { path: source.path.clone(), line: source.line(at), what }
}

// ---- who imports whom ----

/// Imports in `src/` that the table forbids. Code for tests alone is exempt, and so are the programs, which may use all.
pub(crate) fn imports(source: &Source) -> Vec<Finding> {
    let Some(module) = source.module().filter(|&module| module != "bin") else { return Vec::new() };
    if level(module).is_none() && module != "process" {
        let what = format!("module `{module}` has no level; give it one in docs/design.md and in tests/tidy/rules.rs");
        return vec![finding(source, 0, what)];
    }
    let judge = |(at, name): (usize, &str)| {
        let reason = may_import(module, name).err()?;
        (!source.is_test(at)).then(|| finding(source, at, format!("`{module}` imports `{name}`: {reason}")))
    };
    root_paths(source).into_iter().filter_map(judge).collect()
}

fn level(module: &str) -> Option<u8> {
    LEVELS.iter().find(|(_, modules)| modules.contains(&module)).map(|&(level, _)| level)
}

/// Whether `from` may use `name`, a module or an item at the crate's root; the reason if not.
fn may_import(from: &str, name: &str) -> Result<(), String> {
    let to = ROOT_ITEMS.iter().find(|(item, _)| *item == name).map_or(name, |&(_, module)| module);
    if from == to || ALSO.contains(&(from, to)) {
        return Ok(());
    }
    if from == "sampler" && NOT_IN_SAMPLERS.contains(&to) {
        return Err("a sampler sees a denoiser and the process's scalars; pass what it needs through `Denoiser`".into());
    }
    if from == "process" {
        let pure = "`process` is pure f64 and imports only `error`; move the code to a level that may import both";
        return if to == "error" { Ok(()) } else { Err(pure.into()) };
    }
    let own = level(from).unwrap_or(0);
    if to == "process" {
        let early =
            format!("`process` is for level {PROCESS_FROM} and up, `{from}` is at {own}; pass the scalars as f64");
        return if own >= PROCESS_FROM { Ok(()) } else { Err(early) };
    }
    match level(to) {
        Some(other) if other < own => Ok(()),
        Some(other) => {
            Err(format!("level {own} may not use level {other}; move the shared part down, or pass it as an argument"))
        }
        None => {
            Err("no module of the table; import it from its module, or give it a row in tests/tidy/rules.rs".into())
        }
    }
}

/// Every name that the code takes from the crate's root, through `crate::` or enough `super::`s, with its offset.
fn root_paths(source: &Source) -> Vec<(usize, &str)> {
    let code = &source.code;
    let mut found = Vec::new();
    for at in source.words("crate") {
        if let Some(rest) = code[at + "crate".len()..].trim_start().strip_prefix("::") {
            found.extend(path_heads(rest).into_iter().map(|name| (at, name)));
        }
    }
    for at in source.words("super") {
        let before = code[..at].trim_end();
        if before.strip_suffix("::").is_some_and(|path| path.trim_end().ends_with("super")) {
            continue; // counted from the first of the chain
        }
        let (mut rest, mut supers) = (&code[at..], 0);
        while let Some(path) = rest.strip_prefix("super").and_then(|path| path.trim_start().strip_prefix("::")) {
            (rest, supers) = (path.trim_start(), supers + 1);
        }
        if supers > 0 && supers == source.depth(at) {
            found.extend(path_heads(rest).into_iter().map(|name| (at, name)));
        }
    }
    found
}

/// The first names of a path or of a group of paths: `a`, `b` for `{a::x, b::{y, z}}`.
fn path_heads(path: &str) -> Vec<&str> {
    let path = path.trim_start();
    let Some(group) = path.strip_prefix('{') else {
        return vec![if path.starts_with('*') { "*" } else { leading_word(path) }];
    };
    let (mut heads, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                heads.push(leading_word(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads.retain(|&name| !name.is_empty() && name != "self");
    heads
}

// ---- what stands where ----

/// `cudarc` outside `src/device/`, the `cuda` parts of rooms, and the tests of the software GPU.
pub(crate) fn device_calls(source: &Source) -> Vec<Finding> {
    if ["src/device/", "tests/softgpu"].iter().any(|free| source.path.starts_with(free)) {
        return Vec::new();
    }
    let outside = source.words("cudarc").into_iter().filter(|&at| !source.is_cuda(at));
    let what = "cudarc is named only in src/device/ and the `cuda` part of a room; move this line there";
    outside.map(|at| finding(source, at, what.into())).collect()
}

/// `unsafe` in `src/` outside `simd/`, `device/`, `io/mmap.rs`, the `cuda` parts and [`UNSAFE_FILES`].
pub(crate) fn unsafe_code(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    let free = path.starts_with("src/simd/") || path.starts_with("src/device/") || path == "src/io/mmap.rs";
    if free || UNSAFE_FILES.contains(&path) || !path.starts_with("src/") {
        return Vec::new();
    }
    let outside = source.words("unsafe").into_iter().filter(|&at| !source.is_cuda(at));
    let what = "unsafe is for src/simd/, src/device/, src/io/mmap.rs and `cuda` parts; call a safe helper from there";
    outside.map(|at| finding(source, at, what.into())).collect()
}

/// A file of `src/` or `kernels/` past [`MAX_LINES`].
pub(crate) fn length(path: &str, text: &str) -> Vec<Finding> {
    let lines = text.lines().count();
    if lines <= MAX_LINES {
        return Vec::new();
    }
    let what = format!("{lines} lines, at most {MAX_LINES}; split it where the reader would pause");
    vec![Finding { path: path.into(), line: MAX_LINES + 1, what }]
}

/// Examples that are too long, whose names do not begin with the numbers 01, 02, … in turn, or that the README does not
/// name. `examples` are paths and texts in the order of their paths.
pub(crate) fn examples(examples: &[(String, String)], readme: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, (path, text)) in examples.iter().enumerate() {
        let mut add = |line, what| findings.push(Finding { path: path.clone(), line, what });
        let stem = path.trim_start_matches("examples/").trim_end_matches(".rs");
        let number = format!("{:02}_", i + 1);
        if !stem.starts_with(&number) {
            add(1, format!("the name should begin with {number}; number the examples without gaps"));
        }
        let lines = text.lines().count();
        if lines > MAX_EXAMPLE_LINES {
            add(
                MAX_EXAMPLE_LINES + 1,
                format!("{lines} lines, at most {MAX_EXAMPLE_LINES}; move what is not the point to the library"),
            );
        }
        if !readme.contains(&format!("`{stem}`")) {
            add(1, format!("README.md does not name `{stem}`; give it a row under Examples"));
        }
    }
    findings
}

/// Work left undone: `todo!`, `unimplemented!`, ignored tests.
pub(crate) fn unfinished(source: &Source) -> Vec<Finding> {
    let marks = ["todo", "unimplemented"].into_iter().flat_map(|name| {
        let is_macro = move |at: &usize| source.code[at + name.len()..].trim_start().starts_with('!');
        source.words(name).into_iter().filter(is_macro).map(move |at| (at, format!("`{name}!`")))
    });
    let is_attribute = |at: &usize| source.code[..*at].trim_end().ends_with("#[");
    let ignored = source.words("ignore").into_iter().filter(is_attribute).map(|at| (at, "an ignored test".into()));
    marks.chain(ignored).map(|(at, what)| finding(source, at, format!("{what}; finish it or take it out"))).collect()
}

/// Kernel files without an op room of the same stem. `files` are the paths of the tree.
pub(crate) fn kernels_without_room(files: &BTreeSet<String>) -> Vec<Finding> {
    let stems = files.iter().filter_map(|path| path.strip_prefix("kernels/")?.strip_suffix(".cu"));
    let alone = |stem: &&str| {
        *stem != "common"
            && !files.contains(&format!("src/ops/{stem}.rs"))
            && !files.contains(&format!("src/ops/{stem}/mod.rs"))
    };
    let report = |stem: &str| Finding {
        path: format!("kernels/{stem}.cu"),
        line: 1,
        what: format!(
            "no op room of this name; write src/ops/{stem}.rs or src/ops/{stem}/mod.rs, or rename the kernel"
        ),
    };
    stems.filter(alone).map(report).collect()
}

/// Op rooms without kernels of the same stem: nothing falls back to the host. `files` are the paths of the tree.
pub(crate) fn rooms_without_kernel(files: &BTreeSet<String>) -> Vec<Finding> {
    let room = |path: &str| -> Option<String> {
        let inside = path.strip_prefix("src/ops/")?.strip_suffix(".rs")?;
        let stem = inside.strip_suffix("/mod").unwrap_or(inside);
        (stem != "mod" && !stem.contains('/')).then(|| stem.to_string())
    };
    let judge = |path: &String| {
        let stem = room(path)?;
        let what = format!("no kernels of this name; write kernels/{stem}.cu");
        (!files.contains(&format!("kernels/{stem}.cu"))).then(|| Finding { path: path.clone(), line: 1, what })
    };
    files.iter().filter_map(judge).collect()
}

/// Paths that only the machine of one developer has: folders at the root in which people keep their work.
pub(crate) fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for folder in ["root", "work", "home", "Users"].map(|name| format!("/{name}/")) {
            // `https://host/home/` and `../work/` are no paths from the root.
            let from_root = |at: usize| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '}' | '$' | '~'))
            };
            if line.match_indices(&folder).any(|(at, _)| from_root(at)) {
                let what = format!("`{folder}` is a path of one machine; write it relative to the repository");
                findings.push(Finding { path: path.into(), line: number + 1, what });
            }
        }
    }
    findings
}
