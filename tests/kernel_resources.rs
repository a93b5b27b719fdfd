//! What each kernel takes of each processor, held to the table in `kernels/resources.txt`: a kernel that spills registers, or takes more
//! than its row says, fails. `cargo xtask kernels` writes the table anew.
// A test that fails may panic.
#![allow(clippy::panic)]

#[allow(dead_code)]
#[path = "../build.rs"]
mod build_script;

use build_script::images::{self, Target};
use build_script::nvrtc::Compiler;
use build_script::sources::kernel_files;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// Set to `write`, it makes the test write the table.
const VARIABLE: &str = "TWEEDIE_RESOURCES";

const REFRESH: &str = "if that is meant, run `cargo xtask kernels`, which writes kernels/resources.txt anew";

/// Columns after kernel and processor: of a thread, and of a block for shared memory.
const COLUMNS: [&str; 5] = ["registers", "stack", "spill_stores", "spill_loads", "shared"];

/// Kernel, and processor as `sm_80`.
type Name = (String, String);
type Rows = BTreeMap<Name, [u32; 5]>;

/// The rows in an assembler's log.
fn rows_of_log(log: &str, processor: u32) -> Rows {
    // `96 bytes stack frame, 72 bytes spill stores, 80 bytes spill loads` and `Used 31 registers, used 1 barriers, 132 bytes smem`
    let marks = [" registers", " bytes stack frame", " bytes spill stores", " bytes spill loads", " bytes smem"];
    let mut rows = Rows::new();
    let mut name = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split_once('\'').map(|(kernel, _)| (kernel.to_string(), format!("sm_{processor}")));
        }
        let Some(name) = &name else { continue };
        for (column, mark) in marks.iter().enumerate() {
            let before = line.split_once(mark).and_then(|(before, _)| before.split_whitespace().next_back());
            if let Some(value) = before.and_then(|word| word.parse::<u32>().ok()) {
                // A function that a kernel calls has lines of its own, which count as the kernel's.
                let row = rows.entry(name.clone()).or_default();
                row[column] = value.max(row[column]);
            }
        }
    }
    rows
}

fn table(rows: &Rows, (major, minor): (i32, i32)) -> String {
    let width = rows.keys().map(|(kernel, _)| kernel.len()).max().unwrap_or(0).max("kernel".len());
    let mut text =
        String::from("# What each kernel takes: bytes, but for registers; per thread, but for shared memory.\n");
    let _ = writeln!(text, "# `cargo xtask kernels` writes this file; made with NVRTC {major}.{minor}");
    let mut line = |kernel: &str, processor: &str, values: [String; 5]| {
        let _ = write!(text, "{kernel:<width$}  {processor:<5}");
        for (name, value) in COLUMNS.iter().zip(values) {
            let _ = write!(text, "  {value:>0$}", name.len());
        }
        text.push('\n');
    };
    line("kernel", "arch", COLUMNS.map(String::from));
    for ((kernel, processor), values) in rows {
        line(kernel, processor, values.map(|value| value.to_string()));
    }
    text
}

fn parse(text: &str) -> Rows {
    let mut rows = Rows::new();
    for line in text.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kernel, processor, values @ ..] = &words[..] else { continue };
        let values: Vec<u32> = values.iter().filter_map(|value| value.parse().ok()).collect();
        let values =
            values.try_into().unwrap_or_else(|_| panic!("kernels/resources.txt: cannot read \"{line}\"; {REFRESH}"));
        rows.insert(((*kernel).into(), (*processor).into()), values);
    }
    rows
}

/// What is wrong with `rows` beside the table; only spills are, without one.
fn complaints(rows: &Rows, table: Option<&Rows>) -> Vec<String> {
    let mut found = Vec::new();
    for ((kernel, processor), values) in rows {
        let [.., spill_stores, spill_loads, _] = values;
        if spill_stores + spill_loads > 0 {
            found.push(format!(
                "{kernel} on {processor} spills registers: {spill_stores} bytes stored, {spill_loads} loaded"
            ));
        }
        let Some(table) = table else { continue };
        let Some(row) = table.get(&(kernel.clone(), processor.clone())) else {
            found.push(format!("{kernel} on {processor} has no row"));
            continue;
        };
        for ((name, value), most) in COLUMNS.iter().zip(values).zip(row) {
            if value > most {
                found.push(format!("{kernel} on {processor}: {name} {value}, the table has {most}"));
            }
        }
    }
    let gone = table.into_iter().flat_map(BTreeMap::keys).filter(|name| !rows.contains_key(name));
    found.extend(
        gone.map(|(kernel, processor)| format!("there is a row of {kernel} on {processor}, and no such kernel")),
    );
    found
}

/// How often a file is compiled again, alone, before what differs from the table is believed.
const COMPILATIONS: usize = 5;

#[test]
fn no_kernel_spills_or_takes_more_than_its_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(compiler) = Compiler::find(None).unwrap() else {
        // Past libtest, which shows what a passing test prints to nobody.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"not run: no NVRTC; `cargo xtask test` fetches it, or name its library in TWEEDIE_NVRTC\n",
        );
        return;
    };
    // The build's own folder: what it compiled is not compiled again.
    let out = Path::new(env!("OUT_DIR"));
    let files = kernel_files(root).unwrap();
    let images = images::compile(&compiler, &files, out).unwrap_or_else(|lines| panic!("{}", lines.join("\n")));
    let path = root.join("kernels/resources.txt");
    let known = fs::read_to_string(&path).unwrap_or_default();
    let known_rows = parse(&known);
    let (major, minor) = compiler.version;
    let version = known.lines().nth(1).and_then(|line| line.rsplit_once("NVRTC ")).map(|(_, version)| version);
    let same = version.is_none_or(|version| version == format!("{major}.{minor}"));
    let writes = env::var_os(VARIABLE).is_some_and(|value| value == "write");
    let mut rows = Rows::new();
    for image in &images {
        let Target::Cubin(processor) = image.target else { continue };
        let agrees = |of_image: &Rows| of_image.iter().all(|(name, values)| known_rows.get(name) == Some(values));
        let mut of_image = rows_of_log(&image.log, processor);
        // NVRTC 12.9 gives a kernel other registers now and then, mostly while it compiles two files at once (2 of 24
        // times in attention.cu), rarely alone: what the table says has to come out of one of a few compilations.
        for _ in 0..COMPILATIONS {
            if agrees(&of_image) || !(same || writes) {
                break;
            }
            let (_, source) = files.iter().find(|(stem, _)| *stem == image.stem).unwrap();
            let alone = compiler.compile(&image.stem, source, &image.target.architecture()).unwrap();
            of_image = rows_of_log(&alone.log, processor);
        }
        rows.append(&mut of_image);
    }
    let kernels: BTreeSet<&str> = rows.keys().map(|(kernel, _)| &**kernel).collect();
    assert_eq!(rows.len(), kernels.len() * images::PROCESSORS.len(), "the log lacks kernels: {:?}", rows.keys());

    let new = table(&rows, compiler.version);
    if writes {
        if new != known {
            fs::write(&path, &new).unwrap(); // not touched in vain: a build follows
        }
        let spills = complaints(&rows, None);
        assert!(spills.is_empty(), "{}", spills.join("\n"));
        return;
    }
    if !same {
        eprintln!("only spills were looked for: the table and this NVRTC are of different versions");
    }
    let found = complaints(&rows, same.then_some(&known_rows));
    assert!(found.is_empty(), "{}\n{REFRESH}", found.join("\n"));
}

const LOG: &str = "\
kernels/a.cu(3): warning #177-D: variable \"x\" was declared but never referenced
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_one' for 'sm_90'
ptxas info    : Function properties for a_one
ptxas         .     8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 31 registers, used 1 barriers, 132 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 53.870 ms
ptxas info    : Compiling entry function 'a_two' for 'sm_90'
ptxas info    : Function properties for a_two
    96 bytes stack frame, 72 bytes spill stores, 80 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
";

fn name(kernel: &str) -> Name {
    (kernel.into(), "sm_90".into())
}

#[test]
fn the_log_of_the_assembler_gives_a_row_a_kernel() {
    let rows = rows_of_log(LOG, 90);
    assert_eq!(
        rows.into_iter().collect::<Vec<_>>(),
        [(name("a_one"), [31, 8, 0, 0, 132]), (name("a_two"), [8, 96, 72, 80, 0])]
    );
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let rows = rows_of_log(LOG, 90);
    let text = table(&rows, (12, 9));
    assert_eq!(parse(&text), rows);
    let wanted = "\
kernel  arch   registers  stack  spill_stores  spill_loads  shared
a_one   sm_90         31      8             0            0     132
";
    assert!(text.contains(wanted), "{text}");
}

#[test]
fn spills_and_differences_from_the_table_are_found() {
    let rows = Rows::from([(name("a_one"), [31, 8, 0, 0, 132]), (name("a_two"), [8, 0, 0, 0, 0])]);
    assert_eq!(complaints(&rows, Some(&rows)), Vec::<String>::new());
    let with = |kernel: &str, row: [u32; 5]| {
        let mut changed = rows.clone();
        changed.insert(name(kernel), row);
        changed
    };
    for (now, wanted) in [
        (with("a_one", [32, 8, 0, 0, 132]), "a_one on sm_90: registers 32, the table has 31"),
        (with("a_one", [31, 8, 0, 0, 140]), "a_one on sm_90: shared 140, the table has 132"),
        (with("a_three", [1, 0, 0, 0, 0]), "a_three on sm_90 has no row"),
    ] {
        assert_eq!(complaints(&now, Some(&rows)), [wanted]);
    }
    assert_eq!(complaints(&with("a_one", [30, 0, 0, 0, 0]), Some(&rows)), Vec::<String>::new(), "less is no fault");
    assert!(complaints(&rows, Some(&with("b_one", [0; 5])))[0].contains("a row of b_one on sm_90"));
    // A row in the table does not excuse a spill.
    let spilling = with("a_two", [8, 8, 8, 8, 0]);
    assert_eq!(complaints(&spilling, Some(&spilling)), ["a_two on sm_90 spills registers: 8 bytes stored, 8 loaded"]);
}
