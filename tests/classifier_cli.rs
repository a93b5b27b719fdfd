//! `train --task classifier`, `eval --metric accuracy`, `sample --guidance classifier` and `--interpolate`: what they do and what they refuse.

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;
use tweedie::io::image::{Picture, read_png, write_png};

fn trained(cell: &'static OnceLock<(TempDir, PathBuf)>, more: &[&str]) -> &'static Path {
    let (_, path) = cell.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        train_tiny(&out, more);
        (folder, out)
    });
    path
}

/// A classifier of the process of [`model`], trained for long enough to tell something.
fn classifier() -> &'static Path {
    static RUN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    trained(&RUN, &["--task", "classifier", "--steps", "300", "--lr", "1e-2", "--set", "warmup_steps=10"])
}

/// A model that knows no classes.
fn unconditional() -> &'static Path {
    static RUN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    trained(&RUN, &["--set", "class_conditional=false", "--steps", "30", "--lr", "3e-3"])
}

#[track_caller]
fn sample(model: &Path, more: &[&str]) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.safetensors");
    let mut usual = vec!["--model", text(model), "--out", text(&out)];
    if !more.contains(&"--steps") {
        usual.extend(["--steps", "4"]);
    }
    succeed(SAMPLE, usual.iter().chain(more));
    read_f32s(&out, "x0")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_classifier_resumes_to_the_same_bits_and_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let constant = ["--task", "classifier", "--set", "lr_schedule=constant"];
    train_tiny(&whole, &[&constant[..], &["--steps", "6"]].concat());
    train_tiny(&parts, &[&constant[..], &["--steps", "3"]].concat());
    train_tiny(&parts, &["--task", "classifier", "--resume", "--steps", "6", "--set", "lr_schedule=constant"]);
    assert!(read(checkpoint(&whole)) == read(checkpoint(&parts)), "a resumed run has other bits");
    assert!(whole.join("classifier/config.json").is_file() && !whole.join("unet").exists());

    let plot = folder.path().join("plot.png");
    let args = ["--model", text(classifier()), "--count", "50", "--plot", text(&plot), "--json"];
    let report = succeed(EVAL, args).json();
    let points = report["accuracy"]["points"].as_array().unwrap().clone();
    assert_eq!(points.len(), 20);
    // Three hundred steps are enough to tell clean digits better than noise.
    let accuracy = |i: usize| points[i]["accuracy"].as_f64().unwrap();
    assert!(accuracy(0) > 0.3 && accuracy(0) > accuracy(19), "{} and {}", accuracy(0), accuracy(19));
    assert!(points[0]["reference"].as_f64().unwrap() > 0.8);
    assert!(read_png(&plot).unwrap().width > 100);
    // Raw weights are others.
    let raw = succeed(EVAL, args.iter().chain(&["--weights", "raw"])).json();
    assert_ne!(raw["accuracy"]["cross_entropy"], report["accuracy"]["cross_entropy"]);
}

#[test]
fn a_classifier_steers_models_with_and_without_classes_in_every_kind_of_sampler() {
    let guide = ["--classifier", text(classifier()), "--class", "3"];
    let with = |more: &[&'static str]| [&guide[..], &["--count", "3"], more].concat();
    for sampler in ["ddpm", "ddim", "heun", "euler_maruyama"] {
        // In few steps of the SDE every value ends at the bound of clipping.
        let steps = if sampler == "euler_maruyama" { "100" } else { "4" };
        let plain = sample(unconditional(), &["--count", "3", "--sampler", sampler, "--steps", steps]);
        let guided = |w: &'static str| {
            sample(unconditional(), &with(&["--sampler", sampler, "--steps", steps, "--guidance-scale", w]))
        };
        assert_eq!(bits(&guided("0")), bits(&plain), "{sampler}: a scale of 0 is the plain model");
        let (one, four) = (guided("1"), guided("4"));
        let moved = |x: &[f32]| x.iter().zip(&plain).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        assert!(moved(&one) > 1e-6 && moved(&four) > moved(&one), "{sampler}: {} and {}", moved(&one), moved(&four));
    }
    let ddim = |more: &[&'static str]| sample(unconditional(), &with(&[&["--sampler", "ddim"], more].concat()));
    let one = ddim(&["--guidance-scale", "1"]);
    // Bayes' rule is what a classifier means if nothing else is said; the name of the guidance adds nothing to its folder.
    assert_eq!(bits(&ddim(&[])), bits(&one));
    assert_eq!(bits(&ddim(&["--guidance", "classifier"])), bits(&one));
    assert_eq!(bits(&ddim(&["--batch", "2", "--threads", "1"])), bits(&one));
    let plain = sample(unconditional(), &["--count", "3", "--sampler", "ddim"]);
    assert_eq!(bits(&ddim(&["--guidance-interval", "1e9:"])), bits(&plain));
    // Classes take turns where none is said: sample 1 is of class 1.
    let turns = ["--classifier", text(classifier()), "--count", "3", "--sampler", "ddim"];
    let of_1 = ["--classifier", text(classifier()), "--count", "3", "--sampler", "ddim", "--class", "1"];
    assert_eq!(bits(&sample(unconditional(), &turns)[64..128]), bits(&sample(unconditional(), &of_1)[64..128]));
    // A model that knows the class is pulled further.
    let known = sample(model(), &["--count", "3", "--sampler", "ddim", "--class", "3"]);
    assert_ne!(bits(&sample(model(), &with(&["--sampler", "ddim"]))), bits(&known));
}

#[test]
fn classifiers_that_do_not_fit_are_refused_and_nothing_is_written() {
    static VP: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    static LOG_SNR: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let other = |cell, set: &'static str| trained(cell, &["--task", "classifier", "--steps", "1", "--set", set]);
    let vp = other(&VP, "process=vp");
    let log_snr = other(&LOG_SNR, "time_convention=log_snr");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("no.png");
    let own = text(classifier());
    let cases: [(&[&str], &str, i32); 10] = [
        (&["--classifier", text(vp)], "was trained with another process than the model", 2),
        (&["--classifier", text(log_snr)], "trained with the time convention log_snr, the model with ddpm_index", 2),
        (&["--classifier", text(model())], "holds another model; expected a classifier", 1),
        (&["--classifier", own, "--class", "10"], "the classifier has classes 0 to 9", 2),
        (&["--classifier", own, "--class", "none"], "nothing to guide towards", 2),
        (&["--classifier", own, "--guidance-scale", "inf"], "expected a finite number", 2),
        (
            &["--classifier", own, "--guidance", "classifier_free", "--guidance-scale", "2"],
            "belongs to --guidance classifier",
            2,
        ),
        (&["--guidance", "classifier", "--guidance-scale", "2"], "add --classifier DIR", 2),
        (&["--classifier", own, "--guidance-rescale", "0.5"], "--guidance-rescale: has no meaning", 2),
        (&["--classifier", own, "--guide", own], "choose one", 2),
    ];
    let usual = ["--model", text(unconditional()), "--steps", "2", "--count", "2", "--out", text(&out)];
    for (more, want, code) in cases {
        run(SAMPLE, usual.iter().chain(more)).refuses(code, &[want]);
        assert!(!out.exists(), "{more:?} wrote a file");
    }
    run(SAMPLE, ["--model", own, "--out", text(&out)])
        .refuses(1, &["is a classifier of noisy images, which draws nothing"]);
    run(EVAL, ["--model", own, "--metric", "bpd"]).refuses(2, &["a classifier; use --metric accuracy"]);
    run(EVAL, ["--model", text(model()), "--metric", "accuracy"]).refuses(2, &["a model of images; use --metric loss"]);
    let target = folder.path().join("run");
    let train = |more: &[&str]| run(TRAIN, tiny_args(&target, more));
    train(&["--task", "clasifier"]).refuses(2, &["did you mean \"classifier\""]);
    train(&["--task", "classifier", "--weight", "min-snr"]).refuses(2, &["has no meaning for --task classifier"]);
    train(&["--task", "classifier", "--data", "flags"]).refuses(2, &["has no labels; expected at least two classes"]);
    assert!(!target.join("model_index.json").exists());
}

#[test]
fn a_strip_leads_from_one_seed_or_picture_to_the_other() {
    let first = |seed: &str| sample(model(), &["--count", "1", "--seed", seed, "--class", "none", "--sampler", "heun"]);
    let strip = sample(model(), &["--interpolate", "3", "17", "--count", "5"]);
    assert_eq!(strip.len(), 5 * 64);
    assert_eq!(bits(&strip[..64]), bits(&first("3")));
    assert_eq!(bits(&strip[256..]), bits(&first("17")));
    let apart = |i: usize, k: usize| {
        strip[64 * i..][..64].iter().zip(&strip[64 * k..][..64]).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    assert!(apart(0, 4) > apart(0, 1), "neighbours are nearer than the ends");

    // A picture's end is what --encode and --init make of it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digit.png");
    let pixels: Vec<u8> = (0..64).map(|i| (i * 37 % 256) as u8).collect();
    let values: Vec<f32> = pixels.iter().map(|p| f32::from(*p) / 127.5 - 1.0).collect();
    write_png(&path, &Picture { width: 8, height: 8, channels: 1, pixels }).unwrap();
    let x0 = folder.path().join("x0.safetensors");
    write_f32s(&x0, &[("x0".into(), values, vec![1, 8, 8, 1])]);
    let latents = folder.path().join("latents.safetensors");
    let usual = ["--model", text(model()), "--steps", "4", "--sampler", "heun", "--class", "none"];
    succeed(SAMPLE, usual.iter().chain(&["--encode", text(&x0), "--out", text(&latents)]));
    let back = sample(model(), &["--sampler", "heun", "--class", "none", "--count", "1", "--init", text(&latents)]);
    let strip = sample(model(), &["--interpolate", text(&path), "17", "--count", "3"]);
    assert_eq!(bits(&strip[..64]), bits(&back));
    // One row of pictures.
    let sheet = folder.path().join("strip.png");
    succeed(
        SAMPLE,
        ["--model", text(model()), "--steps", "2", "--interpolate", "3", "17", "--count", "5", "--out", text(&sheet)],
    );
    let sheet = read_png(&sheet).unwrap();
    assert!(sheet.width > 4 * sheet.height, "{}x{}", sheet.width, sheet.height);

    let out = folder.path().join("no.png");
    let refuse = |more: &[&str], want: &str| {
        let usual = ["--model", text(model()), "--steps", "2", "--out", text(&out)];
        run(SAMPLE, usual.iter().chain(more)).refuses(2, &[want]);
        assert!(!out.exists());
    };
    refuse(&["--interpolate", "3", "17", "--sampler", "ddpm"], "ddpm draws noise");
    refuse(&["--interpolate", "3", "nothing.png"], "expected a seed, or a PNG that is there");
    refuse(&["--interpolate", "3", "17", "--count", "1"], "a strip has at least its 2 ends");
}
