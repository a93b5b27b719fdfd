//! Planted violations: every rule finds them at their line, and leaves their lawful neighbours alone.

use std::collections::BTreeSet;

use crate::math;
use crate::rules::{self, Finding};
use crate::source::Source;

/// The lines that `rule` reports for a file with this text.
fn lines(rule: impl Fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<String> {
    rule(&Source::new(path, text)).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn assert_finds(found: &[String], wanted: &[&str]) {
    let matches = found.len() == wanted.len() && found.iter().zip(wanted).all(|(got, want)| got.contains(want));
    assert!(matches, "found {found:#?}, wanted {wanted:#?}");
}

#[test]
fn imports_against_the_levels_are_found() {
    for (path, text, wanted) in [
        ("src/tensor/shape.rs", "use crate::ops::linear;", "shape.rs:1: `tensor` imports `ops`: level 2"),
        ("src/tensor/mod.rs", "\n\nfn f() { crate::nn::Param::new() }", "mod.rs:3: `tensor` imports `nn`"),
        ("src/ops/linear.rs", "use crate::{Result, train::Run, tensor::{Shape, Tensor}};", "`ops` imports `train`"),
        ("src/ops/linear.rs", "use super::super::nn::Param;", "`ops` imports `nn`"),
        ("src/ops/conv2d/cpu.rs", "use super::super::super::nn::Param;", "`ops` imports `nn`"),
        ("src/ops/linear.rs", "mod cpu {\n    use super::super::super::nn;\n}", "linear.rs:2: `ops` imports `nn`"),
        ("src/loss/time.rs", "use crate::sampler::Grid;", "`loss` imports `sampler`: level 7 may not use level 7"),
        ("src/sampler/ddim.rs", "use crate::tape::Tape;", "`sampler` imports `tape`: a sampler sees"),
        ("src/sampler/ddim.rs", "use crate::nn;", "`sampler` imports `nn`: a sampler sees"),
        ("src/sampler/mod.rs", "use crate::data::Dataset;", "`sampler` imports `data`: level 7"),
        ("src/process/vp.rs", "use crate::tensor::Tensor;", "`process` imports `tensor`: `process` is pure f64"),
        ("src/ops/perturb.rs", "use crate::process::Process;", "`process` is for level 6 and up"),
        ("src/nn/unet.rs", "use crate::testing::cases;", "`nn` imports `testing`"),
        ("src/nn/unet.rs", "use crate::Nonsense;", "`nn` imports `Nonsense`: no module of the table"),
        ("src/nn/unet.rs", "use crate::*;", "`nn` imports `*`"),
        ("src/error.rs", "use crate::rng;", "`error` imports `rng`"),
        ("src/plots.rs", "", "src/plots.rs:1: module `plots` has no level"),
        ("src/tensor/mod.rs", "#[cfg(test)]\nmod tests {\n}\nuse crate::nn;", "mod.rs:4: `tensor` imports `nn`"),
    ] {
        assert_finds(&lines(rules::imports, path, text), &[wanted]);
    }
}

#[test]
fn imports_along_the_levels_pass() {
    for (path, text) in [
        ("src/ops/linear.rs", "use crate::{Error, Result, simd, tensor::Tensor};\nuse crate::testing::cases;"),
        ("src/ops/linear.rs", "use super::pointwise;\nmod cpu { use super::super::reduce; }"),
        ("src/ops/conv2d/mod.rs", "mod cpu;\nuse super::linear;"),
        ("src/rng.rs", "use crate::simd::level;\nfn f() { crate::vectorise!(body(x: f32)) }"),
        ("src/process/vp.rs", "use super::Process;\nuse crate::error::Result;"),
        ("src/sampler/ddim.rs", "use crate::{denoiser::Denoiser, process::Process, ops, rng};"),
        ("src/io/mod.rs", "use crate::data::Image;"),
        ("src/tensor/mod.rs", "//! See [`crate::nn`].\n/* use crate::nn; */\nconst HINT: &str = \"crate::nn\";"),
        ("src/tensor/mod.rs", "const RAW: &str = r#\"\" crate::nn \"#; fn f<'a>(quote: char) { quote == '\"' }"),
        ("src/tensor/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::{nn, testing};\n}"),
        ("src/tensor/mod.rs", "#[cfg(test)]\n#[allow(unused)]\nuse crate::{nn, train};"),
        ("src/ops/conv2d/tests.rs", "use crate::nn;"),
        ("src/lib.rs", "pub use crate::train::Run;"),
        ("src/bin/train.rs", "use tweedie::train;"),
    ] {
        assert_finds(&lines(rules::imports, path, text), &[]);
    }
}

#[test]
fn cudarc_and_unsafe_outside_their_places_are_found() {
    let text = "mod cuda {\n    unsafe { cudarc::launch() }\n}\nfn f() { unsafe { cudarc::launch() } }\n";
    assert_finds(&lines(rules::device_calls, "src/ops/linear.rs", text), &["linear.rs:4: cudarc"]);
    assert_finds(&lines(rules::unsafe_code, "src/ops/linear.rs", text), &["linear.rs:4: unsafe"]);
    assert_finds(&lines(rules::device_calls, "tests/gpu.rs", "use cudarc::driver;"), &["tests/gpu.rs:1: cudarc"]);
    assert_finds(&lines(rules::unsafe_code, "src/io/safetensors.rs", "unsafe {}"), &["safetensors.rs:1: unsafe"]);

    for path in ["src/device/cuda.rs", "src/device/cpu.rs", "src/ops/conv2d/cuda.rs"] {
        assert_finds(&lines(rules::device_calls, path, text), &[]);
        assert_finds(&lines(rules::unsafe_code, path, text), &[]);
    }
    assert_finds(&lines(rules::unsafe_code, "src/simd/gemm.rs", text), &[]);
    assert_finds(&lines(rules::unsafe_code, "src/io/mmap.rs", text), &[]);
    assert_finds(&lines(rules::unsafe_code, "src/nn/mod.rs", "#![deny(unsafe_op_in_unsafe_fn)] // unsafe"), &[]);
}

#[test]
fn long_and_unfinished_files_are_found() {
    let found: Vec<String> =
        rules::length("kernels/conv2d.cu", &"x\n".repeat(601)).iter().map(Finding::to_string).collect();
    assert_finds(&found, &["kernels/conv2d.cu:601: 601 lines, at most 600"]);
    assert!(rules::length("kernels/conv2d.cu", &"x\n".repeat(600)).is_empty());

    let text = "fn f() {\n    todo!()\n}\nfn g() { unimplemented !(); }\n#[test]\n#[ignore = \"slow\"]\nfn h() {}\n";
    let wanted = ["rng.rs:2: `todo!`", "rng.rs:4: `unimplemented!`", "rng.rs:6: an ignored test"];
    assert_finds(&lines(rules::unfinished, "src/rng.rs", text), &wanted);
    assert_finds(
        &lines(rules::unfinished, "src/rng.rs", "// todo! \"#[ignore\"\nlet todo = ignore(\"todo!()\");"),
        &[],
    );
}

#[test]
fn long_unnumbered_and_unnamed_examples_are_found() {
    let example = |path: &str, lines| (format!("examples/{path}.rs"), "x\n".repeat(lines));
    let list = [example("01_one", 80), example("03_two", 81), example("03_three", 5)];
    let found = rules::examples(&list, "`01_one` and `03_two`, not 03_three");
    let wanted = [
        "examples/03_two.rs:1: the name should begin with 02_",
        "examples/03_two.rs:81: 81 lines, at most 80",
        "examples/03_three.rs:1: README.md does not name `03_three`",
    ];
    assert_finds(&found.iter().map(Finding::to_string).collect::<Vec<_>>(), &wanted);
}

#[test]
fn kernels_without_their_room_are_found() {
    let files = |paths: &[&str]| -> BTreeSet<String> { paths.iter().map(ToString::to_string).collect() };
    let tree = files(&["kernels/conv2d.cu", "kernels/linear.cu", "kernels/common.cuh", "kernels/adamw.cu"]);
    let rooms = files(&["src/ops/conv2d/mod.rs", "src/ops/linear.rs", "src/nn/adamw.rs"]);
    let found = rules::kernels_without_room(&tree.union(&rooms).cloned().collect());
    assert_finds(&found.iter().map(Finding::to_string).collect::<Vec<_>>(), &["kernels/adamw.cu:1: no op room"]);
}

#[test]
fn rooms_without_their_kernels_are_found() {
    let paths = [
        "src/ops/mod.rs",
        "src/ops/adamw.rs",
        "src/ops/pool/mod.rs",
        "src/ops/pool/cpu.rs",
        "src/ops/conv2d/mod.rs",
        "src/ops/embed.rs",
        "kernels/embed.cu",
        "kernels/conv2d.cu",
    ];
    let found = rules::rooms_without_kernel(&paths.iter().map(ToString::to_string).collect());
    let wanted = [
        "src/ops/adamw.rs:1: no kernels of this name; write kernels/adamw.cu",
        "src/ops/pool/mod.rs:1: no kernels of this name",
    ];
    assert_finds(&texts(found), &wanted);
}

#[test]
fn machine_paths_are_found_and_addresses_are_not() {
    for name in ["root", "work", "home", "Users"] {
        let found = rules::machine_paths("docs/tour.md", &format!("one\nsee \"/{name}/me/data\"\n"));
        assert_finds(&found.iter().map(Finding::to_string).collect::<Vec<_>>(), &["docs/tour.md:2: "]);
        for text in [format!("https://host.org/{name}/page"), format!("../{name}/x"), format!("a/{name}"), name.into()]
        {
            assert!(rules::machine_paths("docs/tour.md", &text).is_empty(), "{text}");
        }
    }
}

/// A crate of one identity and one sampler, with its table of equations.
fn small_crate() -> (Vec<Source>, String) {
    let verify = "//! Run \"item 9 unwritten\".\nconst A: &str = \"item 7 S3.eq5 law\";\n#[cfg(test)]\nmod tests {\n    const B: &str = \"item 7 other\";\n}\n";
    let files = [
        ("src/verify/law.rs", verify),
        ("src/sampler/step.rs", "pub struct Stride;\nfn walk() {}\n"),
        ("tests/walks.rs", "#[test]\nfn walks_end() {}\n"),
    ];
    let sources = files.map(|(path, text)| Source::new(path, text)).into();
    let table = "| id | what | where | proof |\n|---|---|---|---|\n\
        | item 7, 8; S3.eq5 | a law | `sampler::Stride`, `sampler::step` | `item 7 S3.eq5 law`, `walks_end`, `tests/walks.rs` |\n";
    (sources, table.into())
}

fn texts(found: Vec<Finding>) -> Vec<String> {
    found.iter().map(Finding::to_string).collect()
}

#[test]
fn a_complete_table_of_equations_passes() {
    let (sources, table) = small_crate();
    assert_finds(&texts(math::missing_items(&table, &[7..=8])), &[]);
    assert_finds(&texts(math::missing_identities(&table, &sources, &[7..=9])), &[]);
    assert_finds(&texts(math::unknown_names(&table, &sources)), &[]);
    // Ranges of items, and identities of items that are not listed.
    assert_finds(&texts(math::missing_items("| item 3–5, 9; S1 | |", &[3..=5, 9..=9])), &[]);
    assert_finds(&texts(math::missing_identities("", &sources, &[8..=9])), &[]);
}

#[test]
fn rows_identities_and_names_that_are_missing_are_found() {
    let (sources, table) = small_crate();
    let missing = texts(math::missing_items(&table, &[7..=9]));
    assert_finds(&missing, &["docs/math.md:1: item 9 has no row"]);

    let unnamed = table.replace("`item 7 S3.eq5 law`, ", "");
    let found = texts(math::missing_identities(&unnamed, &sources, &[7..=8]));
    assert_finds(&found, &["src/verify/law.rs:2: `item 7 S3.eq5 law` is not in docs/math.md"]);

    for (from, to, wanted) in [
        ("`item 7 S3.eq5 law`", "`item 7 S3.eq6 law`", "docs/math.md:3: no identity has the id `item 7 S3.eq6 law`"),
        ("`item 7 S3.eq5 law`", "`item 7 other`", "no identity has the id `item 7 other`"),
        ("`sampler::Stride`", "`sampler::Strider`", "docs/math.md:3: `sampler::Strider` is nowhere in its module"),
        ("`sampler::Stride`", "`process::Stride`", "`process::Stride` is nowhere"),
        ("`walks_end`", "`walks_never_end`", "docs/math.md:3: `walks_never_end` is no test"),
        ("`tests/walks.rs`", "`tests/walk.rs`", "`tests/walk.rs` is no test"),
    ] {
        assert_finds(&texts(math::unknown_names(&table.replace(from, to), &sources)), &[wanted]);
    }
    // Other tables too: misprints name their identities in a column of their own.
    let found = texts(math::unknown_names("| S3.eq1 | x | y | `item 7 misprint` |", &sources));
    assert_finds(&found, &["docs/math.md:1: no identity has the id `item 7 misprint`"]);
}
