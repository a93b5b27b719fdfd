//! The losses through the programs: weights, how times are drawn, where they begin, and variances that the network chooses.

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use serde_json::json;
use std::path::Path;
use tempfile::TempDir;

fn losses(folder: &Path) -> Vec<f64> {
    column(folder, "loss").into_iter().map(|(_, bits)| f64::from_bits(bits)).collect()
}

/// Trains the tiny network for five steps.
fn train(more: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    train_tiny(folder.path(), &[&["--steps", "5"], more].concat());
    folder
}

#[test]
fn every_weight_trains_resumes_and_belongs_to_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("lambda.csv");
    std::fs::write(&table, "t,lambda\n0,0.5\n1,2\n").unwrap();
    let table = format!("weight_table={}", text(&table));
    let plain = losses(train(&[]).path());
    assert_eq!(losses(train(&["--weight", "simple"]).path()), plain);
    for process in ["ddpm", "vp", "linear_log_snr"] {
        let process = format!("process={process}");
        for weight in ["vlb", "vlb-tilde", "snr", "min-snr", "likelihood", "vlb-continuous", "table"] {
            let own = ["--set", &table, "--set", "weight_of=x0"];
            let own = if weight == "table" { &own[..] } else { &[] };
            let model = train(&[&["--weight", weight, "--set", &process, "--set", "prediction_type=v"], own].concat());
            succeed(TRAIN, ["--out", text(model.path()), "--resume", "--steps", "6"]);
            let losses = losses(model.path());
            assert!(losses.len() == 6 && losses.iter().all(|l| l.is_finite() && *l > 0.0), "{weight}: {losses:?}");
            if own.is_empty() {
                let changed = run(TRAIN, ["--out", text(model.path()), "--resume", "--weight", "simple"]);
                changed.refuses(2, &[&format!("weight = \"{weight}\", now \"simple\"")]);
            }
        }
    }
}

#[test]
fn runs_that_draw_times_by_the_loss_resume_on_other_threads_in_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    // 256 images a step fill the hundred parts of the times, ten losses each, after about eight steps.
    let flags = |steps: &'static str, threads: &'static str| {
        let network = "block_out_channels=[8,8]";
        let more = ["--set", "norm_num_groups=4", "--set", "attention_head_dim=4", "--set", "sample_every=0"];
        let own = ["--set", network, "--set", "time_sampling=loss_aware", "--set", "lr_schedule=constant"];
        let run = ["--batch", "256", "--set", "validate_every=0", "--steps", steps, "--threads", threads];
        [&more[..], &own, &run].concat()
    };
    let outs = ["whole", "parts"].map(|name| folder.path().join(name));
    let [whole, parts] = [&outs[0], &outs[1]].map(|out| text(out));
    succeed(TRAIN, [&["--out", whole][..], &flags("16", "2")].concat());
    succeed(TRAIN, [&["--out", parts][..], &flags("13", "1")].concat());
    let counts = tweedie::io::TensorFile::open(checkpoint(&outs[1])).unwrap().i64s("times.counts").unwrap();
    assert!(counts.iter().all(|c| *c == 10), "too few draws to drive the times: {counts:?}");
    succeed(TRAIN, ["--out", parts, "--resume", "--steps", "16", "--threads", "2"]);
    assert_eq!(losses(&outs[1]), losses(&outs[0]));
    assert!(read(checkpoint(&outs[1])) == read(checkpoint(&outs[0])), "the checkpoints differ");
}

#[test]
fn a_network_that_chooses_its_variance_trains_resumes_samples_and_is_evaluated() {
    let model = train(&["--set", "variance_type=learned_range"]);
    let path = model.path();
    succeed(TRAIN, ["--out", text(path), "--resume", "--steps", "8"]);
    assert!(losses(path).iter().all(|l| l.is_finite()));
    let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&read(path.join(name))).unwrap() };
    assert_eq!(json("unet/config.json")["out_channels"], json!(2));
    assert_eq!(json("scheduler/scheduler_config.json")["variance_type"], json!("learned_range"));
    assert_eq!(json("model_index.json")["_class_name"], json!("DDPMPipeline"));
    let out = tempfile::tempdir().unwrap();
    let draw = |name: &str, flags: &[&str]| {
        let file = out.path().join(name);
        let args = ["--model", text(path), "--out", text(&file), "--count", "3", "--steps", "5"];
        succeed(SAMPLE, [&args[..], flags].concat());
        read_f32s(&file, "x0")
    };
    let learned = draw("learned.safetensors", &[]);
    assert_eq!(draw("asked.safetensors", &["--variance", "learned", "--batch", "2"]), learned);
    for (flags, name) in
        [(["--variance", "small"], "small"), (["--variance", "large"], "large"), (["--sampler", "heun"], "heun")]
    {
        let other = draw(&format!("{name}.safetensors"), &flags);
        assert!(other.iter().all(|v| v.is_finite()) && other != learned, "{name}");
    }
    succeed(EVAL, ["--model", text(path), "--metric", "loss", "--count", "4"]);
    let file = out.path().join("x.png");
    let asked = ["--model", text(crate::model()), "--out", text(&file), "--variance", "learned"];
    run(SAMPLE, asked).refuses(2, &["--variance learned", "out_channels = 1, expected 2", "small or large"]);
}

#[test]
fn losses_that_cannot_be_are_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("lambda.csv");
    std::fs::write(&table, "0,1\n1,many\n").unwrap();
    let table = format!("weight_table={}", text(&table));
    let vp = ["--set", "process=vp", "--set", "t_min=0"];
    let rows: &[(&[&str], &[&str])] = &[
        (&["--weight", "min-snrr"], &["weight \"min-snrr\" is unknown", "did you mean \"min-snr\""]),
        (&["--weight", "min-snr", "--set", "min_snr_gamma=0"], &["min_snr_gamma = 0", "above 0"]),
        (&["--weight", "table"], &["weight = \"table\"", "weight_table=FILE"]),
        (&["--weight", "table", "--set", &table], &["weight_table = ", "line 2 is \"1,many\"", "t,lambda"]),
        (&["--set", &table], &["weight_table", "weight = \"simple\"", "--weight table"]),
        (&["--set", "time_sampling=stratfied"], &["time_sampling", "did you mean \"stratified\""]),
        (&["--set", "t_min=1"], &["t_min = 1", "below 1"]),
        (&[&vp[..], &["--weight", "likelihood"]].concat(), &["t_min = 0", "likelihood", "unbounded", "\"vp\"", "1e-5"]),
        (&[&vp[..], &["--weight", "snr", "--set", "prediction_type=sample"]].concat(), &["t_min = 0", "snr on sample"]),
        (&["--set", "variance_type=learnt_range"], &["variance_type", "did you mean \"learned_range\""]),
        (&["--set", "vlb_share=-1"], &["vlb_share = -1", "not below 0"]),
        (
            &["--set", "process=linear_log_snr", "--set", "log_snr_min=8"],
            &["log_snr_min = 8, log_snr_max = 7", "min < max"],
        ),
    ];
    for (flags, parts) in rows {
        let out = folder.path().join("run");
        run(TRAIN, [&["--out", text(&out)], *flags].concat()).refuses(2, parts);
        assert!(!out.exists(), "{flags:?} leaves a folder");
    }
}
