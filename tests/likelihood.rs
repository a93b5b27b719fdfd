//! `eval --metric bpd` and `--metric ode-bpd` as programs: what they print and draw, on every process, and what they refuse.

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use serde_json::Value;
use std::path::Path;

/// Both likelihoods of some held-out digits.
fn both(model: &Path, more: &[&str]) -> Outcome {
    let plot = tempfile::tempdir().unwrap();
    let plot = plot.path().join("terms.png");
    let args = ["--model", text(model), "--metric", "bpd", "--metric", "ode-bpd", "--plot", text(&plot)];
    let outcome = run(EVAL, args.iter().chain(more));
    if outcome.code == Some(0) {
        assert!(read(&plot).starts_with(b"\x89PNG"), "the terms over t are drawn");
    }
    outcome
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn parts_sum_to_the_whole_and_the_curve_to_its_part() {
    let report = both(model(), &["--count", "5", "--draws", "6", "--json"]).json();
    let bpd = &report["bpd"];
    let mean = |part: &str| number(&bpd[part]["mean"]);
    let sum = mean("terminal") + mean("diffusion") + mean("decoder");
    assert!((mean("total") - sum).abs() < 1e-12 * sum, "{bpd}");
    let curve: f64 = bpd["curve"].as_array().unwrap().iter().map(|point| number(&point["bits"])).sum();
    assert!((curve - mean("diffusion")).abs() < 1e-12 * sum, "{bpd}");
    assert!(number(&bpd["total"]["standard_error"]) > 0.0);
    // DDPM's L_T of T = 1000 linear: 2e-5 bits/dim; thirty steps of training leave more than the uniform code's 4.09 bits.
    assert!(mean("terminal") < 1e-4 && mean("total") > 4.0, "{bpd}");
    assert_eq!((bpd["bound"].as_str(), bpd["pixel_levels"].as_u64()), (Some("chain of 1000 levels"), Some(17)));
    assert_eq!((bpd["class"].as_str(), bpd["draws"].as_u64()), (Some("true label"), Some(6)));
    let ode = &report["ode_bpd"];
    assert!(ode["quantity"].as_str().unwrap().contains("density"), "{ode}");
    assert!(ode["dequantisation"].as_str().unwrap().contains("uniform, x0 + 0.125"), "{ode}");
    assert!(number(&ode["total"]["mean"]).is_finite() && number(&ode["evaluations"]) > 7.0);
}

#[test]
fn results_do_not_depend_on_threads_but_on_the_seed_and_the_class() {
    let of = |flags: &[&str]| both(model(), &[flags, &["--draws", "3", "--json"]].concat()).json();
    let one = of(&["--count", "3", "--threads", "1"]);
    assert_eq!(one, of(&["--count", "3", "--threads", "2"]));
    assert_ne!(one["bpd"], of(&["--count", "3", "--seed", "1"])["bpd"]);
    let null = of(&["--count", "3", "--class", "none"]);
    assert_eq!(null["bpd"]["class"], "null class");
    assert_ne!(null["bpd"]["total"], one["bpd"]["total"]);
    let printed = both(model(), &["--count", "3", "--draws", "3"]).stdout;
    for part in ["bits/dim  (upper bound of a probability", "L_T", "L_{t-1}", "L_0", "(a density, not a probability"] {
        assert!(printed.contains(part), "\"{part}\" is not in {printed}");
    }
}

#[test]
fn every_process_has_both_likelihoods() {
    let rows = [
        ("vp", "v_prediction", "log_snr"),
        ("sub_vp", "epsilon", "time"),
        ("ve", "edm", "log_snr"),
        ("ou", "epsilon", "time"),
        ("edm", "edm", "log_snr"),
        ("flow", "velocity", "time"),
    ];
    for (process, prediction, time) in rows {
        let folder = tempfile::tempdir().unwrap();
        let set =
            [format!("process={process}"), format!("prediction_type={prediction}"), format!("time_convention={time}")];
        let flags: Vec<&str> = set.iter().flat_map(|s| ["--set", s]).collect();
        train_tiny(folder.path(), &[&["--steps", "2"], &flags[..]].concat());
        let report = both(folder.path(), &["--count", "2", "--draws", "2", "--tolerance", "1e-2", "--json"]).json();
        assert_eq!(report["bpd"]["bound"], "continuous time", "{process}");
        assert_eq!(report["bpd"]["decoder_name"], "posterior", "{process}");
        for metric in ["bpd", "ode_bpd"] {
            assert!(number(&report[metric]["total"]["mean"]).is_finite(), "{process}: {report}");
        }
        let chain = ["--vlb-steps", "30", "--variance", "large", "--decoder", "discretised"];
        let chain = both(
            folder.path(),
            &[&["--count", "1", "--draws", "2", "--tolerance", "1e-1", "--json"], &chain[..]].concat(),
        );
        assert_eq!(chain.json()["bpd"]["bound"], "chain of 30 levels", "{process}");
    }
}

#[test]
fn what_has_no_likelihood_is_refused_in_a_sentence() {
    let eval = |more: &[&str]| run(EVAL, ["--model", text(model())].iter().chain(more));
    let bpd = |more: &[&str]| eval(&[&["--metric", "bpd"], more].concat());
    eval(&["--metric", "ode-bdp"]).refuses(2, &["metric \"ode-bdp\" is unknown", "did you mean \"ode-bpd\""]);
    bpd(&["--vlb-steps", "continuous"]).refuses(2, &["a table of 1000 levels", "has no continuous one"]);
    bpd(&["--vlb-steps", "50"]).refuses(2, &["--vlb-steps 50", "a table of 1000 levels"]);
    bpd(&["--vlb-steps", "many"]).refuses(2, &["--vlb-steps many: expected a number of steps, or continuous"]);
    bpd(&["--decoder", "posteror"]).refuses(2, &["decoder \"posteror\" is unknown", "did you mean \"posterior\""]);
    bpd(&["--draws", "0"]).refuses(2, &["--draws 0", "at least 1"]);
    bpd(&["--class", "3"]).refuses(2, &["--class 3: expected true (own labels) or none"]);
    let ode = |more: &[&str]| eval(&[&["--metric", "ode-bpd", "--count", "1"], more].concat());
    ode(&["--probes", "0"]).refuses(2, &["--probes 0: expected at least 1"]);
    ode(&["--probes", "some"]).refuses(2, &["--probes some: expected a number of vectors, or exact"]);
    ode(&["--probe", "uniform"]).refuses(2, &["probe \"uniform\" is unknown", "rademacher"]);
    ode(&["--tolerance", "2"]).refuses(2, &["--tolerance 2: expected 1e-13 to 1"]);

    // Images of the right size with 256 levels instead of 17.
    let folder = tempfile::tempdir().unwrap();
    write_idx(folder.path(), 20, 1);
    bpd(&["--data", text(folder.path())]).refuses(2, &["256 pixel levels, the model was trained on 17"]);
}

#[test]
fn a_model_that_cannot_reach_its_prior_is_refused_by_name() {
    // Zero terminal SNR leaves nothing of the data at time 1, where an eps network says nothing of x0.
    let folder = tempfile::tempdir().unwrap();
    let set = ["--set", "zero_terminal_snr=true", "--set", "prediction_type=v_prediction"];
    train_tiny(folder.path(), &[&["--steps", "2"], &set[..]].concat());
    both(folder.path(), &["--count", "1", "--draws", "2", "--tolerance", "1e-2"]).refuses_nothing();
    let scheduler = folder.path().join("scheduler/scheduler_config.json");
    let mut value: Value = serde_json::from_slice(&read(&scheduler)).unwrap();
    value["prediction_type"] = "epsilon".into();
    std::fs::write(&scheduler, value.to_string()).unwrap();
    let args = ["--model", text(folder.path()), "--metric", "ode-bpd", "--count", "1"];
    run(EVAL, args).refuses(2, &["is pure noise (alpha = 0), from which x0 cannot be computed; use v_prediction"]);
}
