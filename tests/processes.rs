//! Training with every process and parameterisation, and sampling one model with every sampler, through the programs.

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use serde_json::json;
use std::path::Path;
use tempfile::TempDir;
use tweedie::sampler::SamplerKind;

/// Every process with every output that fits it.
const MODELS: &[(&str, &[&str])] = &[
    ("ddpm", &["epsilon", "sample", "v_prediction", "score", "velocity", "edm"]),
    ("vp", &["epsilon", "v_prediction", "score"]),
    ("sub_vp", &["epsilon", "sample"]),
    ("ve", &["epsilon", "score", "edm", "v_prediction"]),
    ("ou", &["epsilon", "velocity"]),
    ("edm", &["edm", "epsilon"]),
    ("flow", &["velocity", "v_prediction", "sample", "edm"]),
    ("linear_log_snr", &["epsilon", "v_prediction"]),
];

fn train_with(process: &str, prediction: &str, more: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (process, prediction) = (format!("process={process}"), format!("prediction_type={prediction}"));
    let flags = ["--steps", "3", "--set", &process, "--set", &prediction];
    train_tiny(folder.path(), &[&flags[..], more].concat());
    folder
}

fn sample(model: &Path, out: &Path, more: &[&str]) -> Outcome {
    run(SAMPLE, [&["--model", text(model), "--out", text(out)], more].concat())
}

#[test]
fn every_process_trains_with_every_output_resumes_and_samples() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x.safetensors");
    for (process, predictions) in MODELS {
        for prediction in *predictions {
            let model = train_with(process, prediction, &[]);
            // The resumed run knows its own process.
            succeed(TRAIN, ["--out", text(model.path()), "--resume", "--steps", "5"]);
            let scheduler: serde_json::Value =
                serde_json::from_slice(&read(model.path().join("scheduler/scheduler_config.json"))).unwrap();
            assert_eq!(scheduler["prediction_type"], json!(prediction));
            for sampler in ["ddim", "heun", "euler_maruyama"] {
                let flags = ["--sampler", sampler, "--steps", "4", "--count", "3"];
                let outcome = sample(model.path(), &file, &flags);
                assert_eq!(outcome.code, Some(0), "{process} {prediction} {sampler}: {}", outcome.stderr);
                assert!(read_f32s(&file, "x0").iter().all(|v| v.is_finite() && v.abs() <= 1.0), "{process} {sampler}");
            }
            succeed(EVAL, ["--model", text(model.path()), "--metric", "loss", "--count", "4"]);
        }
    }
}

#[test]
fn one_model_is_sampled_by_every_sampler_on_every_grid() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x.safetensors");
    let continuous = train_with("vp", "v_prediction", &["--set", "time_convention=log_snr"]);
    for kind in SamplerKind::ALL {
        for (model, spacings) in [
            (model(), &["leading", "trailing", "linspace", "uniform", "quadratic", "karras", "log_snr"][..]),
            (continuous.path(), &["uniform", "quadratic", "karras", "log_snr"]),
        ] {
            for steps in ["1", "2", "5"] {
                for spacing in spacings {
                    let on_grid = ["--steps", steps, "--spacing", spacing];
                    let own = ["--tolerance", "0.1"];
                    let grid = if kind == SamplerKind::Rk45 { &own[..] } else { &on_grid };
                    let flags = [&["--sampler", kind.name(), "--count", "2"], grid].concat();
                    let outcome = sample(model, &file, &flags);
                    assert_eq!(outcome.code, Some(0), "{} {grid:?}: {}", kind.name(), outcome.stderr);
                    if kind == SamplerKind::Rk45 {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn every_sampler_gives_a_sample_the_same_bytes_at_any_batch_and_thread_count() {
    let out = tempfile::tempdir().unwrap();
    let [all, cut] = ["all.safetensors", "cut.safetensors"].map(|name| out.path().join(name));
    for kind in SamplerKind::ALL {
        let own = match kind {
            SamplerKind::Rk45 => &["--tolerance", "0.01"][..],
            SamplerKind::Edm => &["--steps", "3", "--churn", "2"],
            _ => &["--steps", "3"],
        };
        let flags = [&["--sampler", kind.name(), "--count", "5"], own].concat();
        succeed(SAMPLE, [&["--model", text(model()), "--out", text(&all)], &flags[..]].concat());
        let cut_flags = [&flags[..], &["--batch", "2", "--threads", "1"]].concat();
        succeed(SAMPLE, [&["--model", text(model()), "--out", text(&cut)], &cut_flags[..]].concat());
        assert!(read(&all) == read(&cut), "{}", kind.name());
    }
}

#[test]
fn a_model_that_diffusers_cannot_describe_says_so_and_others_stay_diffusers_folders() {
    let index = |model: &TempDir| -> serde_json::Value {
        serde_json::from_slice(&read(model.path().join("model_index.json"))).unwrap()
    };
    let own = index(&train_with("flow", "velocity", &[]));
    assert_eq!(
        (&own["_class_name"], &own["scheduler"]),
        (&json!("TweediePipeline"), &json!(["tweedie", "TweedieScheduler"]))
    );
    let shared = index(&train_with("ddpm", "v_prediction", &["--set", "zero_terminal_snr=true"]));
    assert_eq!(
        (&shared["_class_name"], &shared["scheduler"]),
        (&json!("DDPMPipeline"), &json!(["diffusers", "DDPMScheduler"]))
    );
}

#[test]
fn a_network_is_not_told_another_time_than_it_was_trained_with() {
    let model = train_with("vp", "epsilon", &[]);
    let out = model.path().join("x.png");
    sample(model.path(), &out, &["--time-convention", "time", "--steps", "2"]).refuses_nothing();
    let asked = ["--time-convention", "log_snr", "--steps", "2"];
    sample(model.path(), &out, &asked).refuses(2, &["--time-convention log_snr", "trained with time"]);
    let asked = ["--time-convention", "logsnr"];
    sample(model.path(), &out, &asked)
        .refuses(2, &["time_convention \"logsnr\" is unknown", "did you mean \"log_snr\""]);
    let resume = ["--out", text(model.path()), "--resume", "--steps", "9", "--set", "time_convention=log_snr"];
    run(TRAIN, resume).refuses(2, &["time_convention", "log_snr"]);
    // The network's own note and the scheduler's disagree.
    let path = model.path().join("scheduler/scheduler_config.json");
    let mut scheduler: serde_json::Value = serde_json::from_slice(&read(&path)).unwrap();
    scheduler["time_convention"] = json!("log_snr");
    std::fs::write(&path, scheduler.to_string()).unwrap();
    sample(model.path(), &out, &["--steps", "2"])
        .refuses(1, &["trained with the time convention \"time\"", "would give it \"log_snr\""]);
}

#[test]
fn settings_of_processes_that_cannot_be_are_named_with_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("betas.txt");
    let rows: &[(&[&str], &[&str])] = &[
        (
            &["process=vpp"],
            &["process \"vpp\" is unknown", "known: ddpm, vp, sub_vp, ve, ou, edm, flow", "did you mean \"vp\""],
        ),
        (&["process=flow"], &["prediction_type = \"epsilon\"", "\"flow\" ends in pure noise", "use v_prediction"]),
        (&["zero_terminal_snr=true"], &["\"ddpm\" ends in pure noise"]),
        (&["process=ve", "sigma_max=0.001"], &["sigma from 0.01 to 0.001"]),
        (&["process=edm", "rho=0"], &["rho = 0: expected at least 1"]),
        (&["process=ou", "ou_rate=-1"], &["rate = -1"]),
        (&["process=vp", "beta_schedule=linear", "beta_start=0"], &["beta from 0 to 20"]),
        (&["process=vp", "time_convention=ddpm_index"], &["\"vp\" wants time or log_snr"]),
        (&["time_convention=time"], &["\"ddpm\" wants ddpm_index or log_snr"]),
        (&["process=vp", "beta_schedule=linear", "beta_end=20"], &["ends in pure noise"]),
        (&["process=ve", "sigma_max=1e300"], &["<= 1000000"]),
        (
            &["process=ve", "zero_terminal_snr=true"],
            &["zero_terminal_snr", "no meaning for process = \"ve\"", "ddpm or vp"],
        ),
        (&["process=edm", "betas=x.txt"], &["betas: has no meaning"]),
        (&["prediction_type=edm", "sigma_data=0"], &["sigma_data = 0"]),
        (&["prediction_type=velocty"], &["\"velocty\" is unknown", "did you mean \"velocity\""]),
        (&["beta_schedule=sigmoidal"], &["did you mean \"sigmoid\""]),
    ];
    for (settings, parts) in rows {
        let set: Vec<&str> = settings.iter().flat_map(|s| ["--set", *s]).collect();
        run(TRAIN, tiny_args(&folder.path().join("run"), &set)).refuses(2, parts);
    }
    let setting = format!("betas={}", text(&table));
    for (content, part) in [("0.1 1.5", "entry 2 is 1.5"), ("0.1 x", "entry 2 is \"x\""), ("", "the file has none")] {
        std::fs::write(&table, content).unwrap();
        let outcome = run(TRAIN, tiny_args(&folder.path().join("run"), &["--set", &setting]));
        outcome.refuses(2, &[part]);
    }
    std::fs::write(&table, "0.1 0.2 0.3\n0.4").unwrap();
    train_tiny(&folder.path().join("run"), &["--steps", "2", "--set", &setting]);
    let out = folder.path().join("x.png");
    sample(&folder.path().join("run"), &out, &["--steps", "5"]).refuses(2, &["choose 1 to 4"]);
}

#[test]
fn flags_of_samplers_and_grids_are_checked_with_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.png");
    let tau = folder.path().join("tau.txt");
    for (content, part) in [
        ("1 5 5 1000", "entry 3 repeats 5"),
        ("1 5 4 1000", "times must increase"),
        ("1 5 1001", "beyond the last time, 1000"),
        ("0 1000", "times run from 1 to 1000"),
        ("1 500", "it must be 1000"),
        ("1 a", "entry 2 is \"a\""),
        ("", "at least one time"),
    ] {
        std::fs::write(&tau, content).unwrap();
        sample(model(), &out, &["--tau", text(&tau)]).refuses(2, &[part]);
    }
    std::fs::write(&tau, "1 20\n300 1000\n").unwrap();
    let outcome = succeed(SAMPLE, ["--model", text(model()), "--out", text(&out), "--tau", text(&tau), "--json"]);
    assert_eq!(outcome.json()["nfe"], 4);
    let rows: &[(&[&str], &[&str])] = &[
        (&["--spacing", "kerras"], &["spacing \"kerras\" is unknown", "did you mean \"karras\""]),
        (&["--sampler", "ddim", "--raw-sigma", "1.5"], &["raw sigma 1.5", "expected 0 to"]),
        (&["--sampler", "ddim", "--raw-sigma", "-0.1"], &["raw sigma -0.1"]),
        (&["--sampler", "ddim", "--raw-sigma", "0.1", "--steps", "1"], &["raw sigma 0.1", "expected 0 to 0"]),
        (&["--sampler", "ddim", "--raw-sigma", "none"], &["--raw-sigma none", "a number, or a text file"]),
        (&["--sampler", "heun", "--eta", "1"], &["--eta", "use --sampler ddim or euler_ancestral"]),
        (&["--sampler", "ddim", "--variance", "large"], &["--variance", "use --sampler ddpm"]),
        (&["--variance", "huge"], &["--variance huge", "small (beta-tilde), large (beta) or learned"]),
        (&["--sampler", "rk45", "--steps", "9"], &["rk45", "--tolerance"]),
        (&["--sampler", "rk45", "--tolerance", "0"], &["--tolerance 0"]),
        (&["--sampler", "edm", "--churn", "-1"], &["--churn -1"]),
        (&["--sampler", "predictor_corrector", "--corrector-snr", "2"], &["--corrector-snr 2"]),
    ];
    for (flags, parts) in rows {
        sample(model(), &out, flags).refuses(2, parts);
    }
    let continuous = train_with("vp", "epsilon", &[]);
    let flags = ["--spacing", "leading"];
    sample(continuous.path(), &out, &flags).refuses(2, &["\"vp\" has no table of times", "use uniform"]);
}

#[test]
fn encoded_images_come_back_when_sampled_from_their_latents() {
    let folder = tempfile::tempdir().unwrap();
    let [images, latents, again] = ["i", "l", "a"].map(|name| folder.path().join(format!("{name}.safetensors")));
    let distance = |a: &[f32], b: &[f32]| {
        (a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
    };
    let model = tempfile::tempdir().unwrap();
    train_tiny(model.path(), &["--steps", "60", "--lr", "3e-3"]);
    let run_with = |flags: &[&str]| succeed(SAMPLE, [&["--model", text(model.path()), "--class", "3"], flags].concat());
    run_with(&["--sampler", "ddim", "--steps", "20", "--count", "4", "--out", text(&images)]);
    let mut errors = Vec::new();
    for steps in ["10", "80"] {
        let flags = ["--sampler", "ddim", "--recompute-eps", "--steps", steps];
        run_with(&[&flags[..], &["--encode", text(&images), "--out", text(&latents)]].concat());
        run_with(&[&flags[..], &["--init", text(&latents), "--count", "4", "--out", text(&again)]].concat());
        errors.push(distance(&read_f32s(&images, "x0"), &read_f32s(&again, "x0")));
    }
    // Of first order, but for the lift from clean data to the first level, which both have.
    assert!(errors[1] < 0.5 * errors[0], "{errors:?}");
    let flags = ["--sampler", "heun", "--encode", text(&images), "--batch", "0"];
    sample(model.path(), &again, &flags).refuses(2, &["--batch 0"]);
    let outcome = sample(model.path(), &again, &["--sampler", "ddpm", "--encode", text(&images)]);
    outcome.refuses(2, &["ddpm draws noise and has no inverse", "ddim (eta 0)"]);
}

#[test]
fn a_reader_that_has_seen_enough_ends_verify_quietly() {
    use std::io::Read;
    let mut child = command(env!("CARGO_BIN_EXE_verify"), ["--list"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before anything is read.
    drop(child.stdout.take());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert_eq!(text, "");
}
