//! Diffusion of tokens by command line: training, text in and out, holes, bounds, and what is refused.

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Settings of a transformer of some thousand weights, and no reports.
const SMALL: [&str; 15] = [
    "--batch=4",
    "--set",
    "width=16",
    "--set",
    "depth=1",
    "--set",
    "heads=2",
    "--set",
    "sample_every=0",
    "--set",
    "validate_every=0",
    "--set",
    "warmup_steps=4",
    "--lr",
    "3e-3",
];

/// Text of 27 different characters, the hole's symbol not among them.
fn book() -> String {
    let line = "The quick brown fox jumps over a lazy dog; ";
    line.repeat(40)
}

fn train_text(out: &Path, more: &[&str]) -> Outcome {
    succeed(TRAIN, ["--out", text(out)].iter().chain(&SMALL).chain(more))
}

/// Two models that no test may change: of the text above by characters on the masking graph, and of the digits.
fn models() -> &'static (TempDir, PathBuf, PathBuf) {
    static MODELS: OnceLock<(TempDir, PathBuf, PathBuf)> = OnceLock::new();
    MODELS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (file, of_text, of_digits) =
            (folder.path().join("book.txt"), folder.path().join("text"), folder.path().join("digits"));
        std::fs::write(&file, book()).unwrap();
        let more = ["--data", text(&file), "--tokenizer", "characters", "--length", "32", "--steps", "8"];
        train_text(&of_text, &more);
        train_text(&of_digits, &["--data", "digits", "--graph", "absorbing", "--steps", "3"]);
        (folder, of_text, of_digits)
    })
}

fn of_text() -> &'static Path {
    &models().1
}

fn of_digits() -> &'static Path {
    &models().2
}

fn sample(model: &Path, more: &[&str]) -> String {
    let steps: &[&str] = if more.contains(&"gillespie") { &[] } else { &["--steps", "12"] };
    succeed(SAMPLE, ["--model", text(model)].iter().chain(steps).chain(more)).stdout
}

#[test]
fn every_loss_trains_on_its_graphs_and_says_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    for (graph, losses) in [
        ("absorbing", &["dse", "ise", "se", "csm", "d3pm", "mdlm"][..]),
        ("uniform", &["dse", "ise", "se", "csm", "d3pm"]),
    ] {
        for loss in losses {
            let out = folder.path().join(format!("{graph}-{loss}"));
            let more = ["--data", "text", "--graph", graph, "--loss", loss, "--length", "16", "--steps", "3"];
            train_text(&out, &more);
            let evaluate = ["--model", text(&out), "--metric", "bpc", "--count", "8", "--draws", "2", "--json"];
            let bits = succeed(EVAL, evaluate).json()["bpc"]["mean"].as_f64().unwrap();
            // ln 27 = 4.75 bits is what a network costs that knows nothing; that of few windows at few times varies.
            assert!(bits > 1.0 && bits < 9.0, "{graph} {loss}: {bits}");
        }
    }
    // Clean tokens without a mask are read as ratios by every sampler that does not want one.
    let model = folder.path().join("uniform-d3pm");
    for sampler in ["tau_leaping", "analytic", "d3pm", "gillespie"] {
        let text = sample(&model, &["--sampler", sampler, "--count", "2"]);
        assert!(text.lines().count() == 2 && text.lines().all(|line| line.chars().count() == 16), "{sampler}: {text}");
    }
}

#[test]
fn a_resumed_run_on_tokens_ends_in_the_same_bits_as_a_straight_one_on_any_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let run = ["--data", "text", "--length", "24", "--set", "lr_schedule=constant", "--set", "dropout=0.1"];
    train_text(&whole, &[&run[..], &["--steps", "9", "--threads", "1"]].concat());
    train_text(&parts, &[&run[..], &["--steps", "4", "--threads", "3"]].concat());
    succeed(TRAIN, ["--out", text(&parts), "--resume", "--steps", "9"]);
    assert!(read(checkpoint(&parts)) == read(checkpoint(&whole)), "the checkpoints differ");
    let weights = |folder: &Path| read(folder.join("transformer/diffusion_pytorch_model.safetensors"));
    assert!(weights(&parts) == weights(&whole), "the averaged weights differ");
    assert_eq!(column(&parts, "loss"), column(&whole, "loss"));
    assert!(!whole.join("unet").exists());
}

#[test]
fn a_text_depends_on_seed_and_index_and_not_on_batch_or_threads() {
    let flags = ["--count", "5", "--seed", "3"];
    let all = sample(of_text(), &flags);
    assert_eq!(all.lines().count(), 5);
    assert!(all.lines().all(|line| line.chars().count() == 32 && !line.contains('_')), "{all}");
    for cut in [["--batch", "1", "--threads", "1"], ["--batch", "2", "--threads", "3"]] {
        assert_eq!(sample(of_text(), &[&flags[..], &cut].concat()), all, "{cut:?}");
    }
    assert_eq!(
        sample(of_text(), &["--count", "2", "--seed", "3"]),
        all.lines().take(2).map(|l| format!("{l}\n")).collect::<String>()
    );
    assert_ne!(sample(of_text(), &["--count", "5"]), all);
    // The network is not told the noise: evaluations that change nothing may be left out.
    assert_eq!(sample(of_text(), &[&flags[..], &["--sampler", "d3pm"]].concat()), all);
    for sampler in ["tau_leaping", "analytic", "gillespie"] {
        let other = sample(of_text(), &[&flags[..], &["--sampler", sampler]].concat());
        assert!(other.lines().count() == 5 && other != all, "{sampler}");
    }
}

#[test]
fn holes_are_filled_around_what_is_known_and_files_hold_what_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.txt");
    let asked = "The ____k fox ";
    let printed = sample(of_text(), &["--infill", asked, "--count", "3", "--out", text(&out)]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), printed);
    assert_eq!(printed.lines().count(), 3);
    for line in printed.lines() {
        assert_eq!(line.chars().count(), asked.chars().count(), "{line}");
        assert!(line.chars().zip(asked.chars()).all(|(got, want)| want == '_' || got == want), "{line}");
        assert!(!line.contains('_'), "{line}");
    }
    // With a length the text goes on.
    let longer = sample(of_text(), &["--infill", "The _", "--length", "20", "--count", "1"]);
    assert!(longer.starts_with("The ") && longer.trim_end_matches('\n').chars().count() == 20, "{longer}");
    let json = succeed(SAMPLE, ["--model", text(of_text()), "--count", "2", "--steps", "4", "--json"]).json();
    assert_eq!(json["texts"].as_array().unwrap().len(), 2);
    assert_eq!((json["sampler"].as_str(), json["length"].as_u64()), (Some("cached"), Some(32)));
}

#[test]
fn images_as_tokens_are_drawn_and_measured_beside_those_of_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.png");
    succeed(SAMPLE, ["--model", text(of_digits()), "--steps", "4", "--count", "10", "--out", text(&out)]);
    let picture = tweedie::io::image::read_png(&out).unwrap();
    assert!(picture.width > 80 && picture.channels == 1);
    let args = ["--model", text(of_digits()), "--metric", "bpd", "--count", "6", "--draws", "2", "--json"];
    let bits = succeed(EVAL, args).json()["bpd"].clone();
    // log2 17 = 4.09 bits is the uniform code.
    assert!(bits["mean"].as_f64().unwrap() > 1.0 && bits["symbols"] == 17 && bits["length"] == 64, "{bits}");
    assert_eq!(bits["unit"], "bits/dim");
    // Both kinds of model in one call, on the same images.
    let both = ["--model", text(model()), "--model", text(of_digits()), "--count", "6", "--draws", "2"];
    let shown = succeed(EVAL, both).stdout;
    let table = shown.split("bpd side by side").nth(1).unwrap();
    assert!(table.starts_with(", bits/dim, on digits (17 levels, 6 held-out images):"), "{shown}");
    assert!(
        table.contains("continuous, ddpm, epsilon; chain of") && table.contains("discrete, absorbing graph, mdlm"),
        "{shown}"
    );
    let json = succeed(EVAL, both.iter().chain(&["--json"])).json();
    assert_eq!(json["models"][1]["bpd"]["mean"], bits["mean"]);
    assert!(json["models"][0]["bpd"]["total"]["mean"].as_f64().unwrap() > 0.0, "{json}");
}

#[test]
fn bad_texts_are_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let refuse = |name: &str, bytes: &[u8], more: &[&str], code: i32, parts: &[&str]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let args = ["--data", text(&file), "--out", text(&out)];
        run(TRAIN, args.iter().chain(&SMALL).chain(more)).refuses(code, parts);
        assert!(!out.exists(), "{name}: nothing is written");
    };
    refuse("empty.txt", b"", &[], 1, &["expected characters, got an empty text"]);
    refuse("short.txt", b"too short a text", &[], 1, &["at least one window of 128 tokens"]);
    refuse("latin1.txt", b"caf\xe9 au lait", &["--tokenizer", "characters"], 1, &["byte 0xe9 at offset 3"]);
    let masked = book() + "fill ___ in";
    refuse("masked.txt", masked.as_bytes(), &["--tokenizer", "characters"], 1, &["expected no '_'"]);
    refuse("greek.txt", "\u{3b1}\u{3b2} ".repeat(99).as_bytes(), &[], 1, &["letters a to z", "characters or words"]);
    refuse("class.txt", book().as_bytes(), &["--task", "classifier"], 2, &["expected images with classes, got a text"]);
    refuse("zero.txt", book().as_bytes(), &["--length", "0"], 2, &["--length 0: expected at least 1"]);
    refuse("one.txt", &[b'a'; 400], &["--tokenizer", "characters"], 1, &["2 different symbols, got 1"]);
    refuse("a.txt", book().as_bytes(), &["--tokenizer", "letter"], 2, &["did you mean \"letters\"?"]);
    refuse("b.txt", book().as_bytes(), &["--graph", "absorb"], 2, &["did you mean \"absorbing\"?"]);
    refuse("c.txt", book().as_bytes(), &["--loss", "mdml"], 2, &["did you mean \"mdlm\"?"]);
    refuse(
        "d.txt",
        book().as_bytes(),
        &["--graph", "uniform", "--loss", "mdlm"],
        2,
        &["its bound by definition", "use --graph absorbing, or --loss d3pm"],
    );
    refuse(
        "g.txt",
        book().as_bytes(),
        &["--set", "token_noise=geometric"],
        2,
        &["masks every token", "--graph uniform"],
    );
    refuse("e.txt", book().as_bytes(), &["--preset", "digits"], 2, &["--graph absorbing"]);
    refuse("f.txt", book().as_bytes(), &["--precision", "bf16"], 2, &["f32 alone"]);
    refuse("w.txt", book().as_bytes(), &["--weight", "snr"], 2, &["weight: has no meaning for a run on tokens"]);
    let images = ["--data", "digits", "--tokenizer", "words", "--out", text(&out)];
    run(TRAIN, images).refuses(2, &["tokenizer: has no meaning for images as numbers"]);
    let missing = folder.path().join("no.txt");
    run(TRAIN, ["--data", text(&missing), "--tokenizer", "words", "--out", text(&out)])
        .refuses(2, &["a file of text", "does not exist"]);
    run(TRAIN, ["--data", "digits", "--loss", "dse", "--out", text(&out)]).refuses(2, &["add --graph absorbing"]);
    let both = ["--task", "classifier", "--graph", "absorbing", "--out", text(&out)];
    run(TRAIN, both).refuses(2, &["--task classifier"]);
}

#[test]
fn flags_and_holes_that_do_not_fit_the_model_are_refused_in_a_sentence() {
    let refuse = |model: &Path, more: &[&str], parts: &[&str]| {
        run(SAMPLE, ["--model", text(model)].iter().chain(more)).refuses(2, parts);
    };
    refuse(of_text(), &["--infill", "Zebras _ 7"], &["--infill: ", "'7', 'Z'"]);
    refuse(of_text(), &["--infill", "The fox"], &["expected a hole, got none"]);
    refuse(of_text(), &["--infill", &"_".repeat(33)], &["expected 1 to 32 tokens", "got 33"]);
    refuse(of_text(), &["--length", "0"], &["expected 1 to 32 tokens"]);
    refuse(of_text(), &["--graph", "uniform"], &["trained on the absorbing graph"]);
    refuse(of_text(), &["--sampler", "ddim"], &["draws images", "tau_leaping, analytic"]);
    refuse(of_text(), &["--sampler", "cache"], &["did you mean \"cached\"?"]);
    refuse(of_text(), &["--sampler", "gillespie", "--steps", "9"], &["--steps: gillespie has none"]);
    refuse(of_text(), &["--infill", ""], &["--infill: expected 1 to 32 tokens", "got 0"]);
    refuse(of_text(), &["--eta", "1"], &["--eta: has no meaning for a model of tokens"]);
    refuse(of_text(), &["--class", "3"], &["--class: has no meaning for a model of tokens"]);
    refuse(of_text(), &["--out", "x.png"], &["expected a name ending in .txt"]);
    refuse(of_text(), &["--steps", "0"], &["at least 1"]);
    refuse(of_digits(), &["--infill", "_"], &["whose tokens are pixels"]);
    refuse(of_digits(), &["--length", "9"], &["--length: the model's tokens are pixels"]);
    refuse(model(), &["--sampler", "cached"], &["draws tokens"]);
    refuse(of_digits(), &["--out", "x.txt"], &["expected a name ending in .png"]);
    refuse(model(), &["--infill", "_"], &["--infill: has no meaning for a model of images"]);
    let missing = Path::new("no/such/model");
    run(SAMPLE, ["--model", text(missing), "--infill", "_"]).refuses(1, &["no/such/model", "does not exist"]);
    let refuse = |model: &Path, more: &[&str], code: i32, parts: &[&str]| {
        run(EVAL, ["--model", text(model)].iter().chain(more)).refuses(code, parts);
    };
    refuse(model(), &["--data", "text"], 2, &["--data text: expected images, got a text"]);
    refuse(of_text(), &["--count", "1"], 2, &["--count 1: expected at least 2"]);
    refuse(of_text(), &["--model", text(model())], 2, &["a metric in common", "has bpc;", "has loss, bpd, ode-bpd"]);
    refuse(of_digits(), &["--model", text(model()), "--metric", "loss"], 2, &["use --metric bpd"]);
    refuse(of_text(), &["--metric", "loss"], 2, &["use --metric bpc"]);
    refuse(of_text(), &["--metric", "bpd"], 2, &["use --metric bpc"]);
    refuse(of_digits(), &["--metric", "bpc"], 2, &["use --metric bpd"]);
    refuse(model(), &["--metric", "bpc"], 2, &["a model of images; use --metric loss, bpd, ode-bpd"]);
    refuse(of_text(), &["--data", "digits"], 2, &["--data digits"]);
    refuse(of_text(), &["--data", "text"], 2, &["symbols of the vocabulary"]);
    refuse(of_digits(), &["--data", "text"], 2, &["expected images, got a text"]);
    refuse(of_text(), &["--vlb-steps", "4"], 2, &["--vlb-steps: has no meaning for a model of tokens"]);
    refuse(of_text(), &["--precision", "bf16"], 2, &["f32 alone"]);
    refuse(of_text(), &["--model", text(of_digits()), "--vlb-steps", "4"], 2, &["--vlb-steps: has no meaning"]);
    refuse(model(), &["--model", text(of_digits()), "--plot", "x.png"], 2, &["--plot: writes one file"]);
    refuse(missing, &["--metric", "bpc"], 1, &["no/such/model", "does not exist"]);
}

#[test]
fn a_run_goes_on_only_with_its_own_graph_and_data_and_folders_change_their_kind() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    copy_folder(of_text(), &out);
    let resume = |more: &[&str]| run(TRAIN, ["--out", text(&out), "--resume", "--steps", "9"].iter().chain(more));
    resume(&["--graph", "uniform"]).refuses(2, &["graph = \"absorbing\", now \"uniform\""]);
    resume(&["--loss", "dse"]).refuses(2, &["loss"]);
    // A folder that is replaced by another kind of model keeps nothing of the former.
    run(TRAIN, tiny_args(&out, &["--steps", "1", "--overwrite"])).refuses_nothing();
    assert!(!out.join("transformer").exists() && out.join("unet").exists());
    succeed(
        SAMPLE,
        ["--model", text(&out), "--steps", "2", "--count", "1", "--out", text(&folder.path().join("x.png"))],
    );
}
