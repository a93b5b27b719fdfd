//! A run that is stopped, killed or moved to other threads ends in the same bits as one that was left alone, and no
//! accident loses a checkpoint.

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tweedie::io::TensorFile;

/// Both weight files and the loss of every step, to the bit.
#[track_caller]
fn assert_same_run(got: &Path, want: &Path, steps: u64) {
    assert!(read(checkpoint(got)) == read(checkpoint(want)), "the checkpoints differ");
    assert!(read(weights(got)) == read(weights(want)), "the averaged weights differ");
    for name in ["loss", "grad_norm", "lr"] {
        let (got, want) = (column(got, name), column(want, name));
        assert!(got.iter().map(|(step, _)| *step).eq(0..steps), "steps are missing or twice: {got:?}");
        assert_eq!(got, want, "{name}");
    }
}

fn start(args: &[&str]) -> Child {
    let mut command = command(TRAIN, args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = command("kill", [name, &child.id().to_string()]).status().unwrap();
    assert!(status.success(), "kill {name}");
}

/// Waits until `is_so` or half a minute has passed.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(30), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The checkpoint's steps once there is one. Files are replaced by renaming, so a reader always sees a whole one.
fn steps_so_far(folder: &Path) -> u64 {
    if checkpoint(folder).exists() { saved_steps(folder) } else { 0 }
}

#[test]
fn a_resumed_run_ends_in_the_same_bits_as_a_straight_one() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let constant = ["--set", "lr_schedule=constant", "--set", "dropout=0.1"];
    let with = |more: [&'static str; 2]| [&constant[..], &more].concat();
    train_tiny(&whole, &with(["--steps", "12"]));
    train_tiny(&parts, &with(["--steps", "5"]));
    assert_eq!(saved_steps(&parts), 5);
    assert_eq!(column(&parts, "loss"), column(&whole, "loss")[..5]);
    // The settings are the run's own; only what changes is said.
    succeed(TRAIN, ["--out", text(&parts), "--resume", "--steps", "12"]);
    assert_same_run(&parts, &whole, 12);
    // Resuming a finished run changes nothing.
    succeed(TRAIN, ["--out", text(&parts), "--resume"]);
    assert_same_run(&parts, &whole, 12);
}

/// All tensors of a checkpoint, to the bit; its settings are left out.
fn saved_bits(folder: &Path) -> Vec<(String, Vec<u32>)> {
    let file = TensorFile::open(checkpoint(folder)).unwrap();
    let bits = |name: String| {
        let values = file.f32s(&name).unwrap();
        (name, values.iter().map(|v| v.to_bits()).collect())
    };
    file.names().into_iter().map(bits).collect()
}

#[test]
fn blocks_that_are_computed_again_make_the_same_bits_in_less_memory() {
    let folder = tempfile::tempdir().unwrap();
    // Dropout, so that masks are drawn twice; enough blocks that what one of them computes is a part of the memory.
    let flags = ["--steps", "6", "--set", "dropout=0.3", "--set", "layers_per_block=3", "--json"];
    let run = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let summary = train_tiny(&out, &[&flags[..], more].concat()).json();
        (out, summary["peak_tensor_bytes"].as_u64().unwrap())
    };
    let (kept, most) = run("kept", &[]);
    let (again, least) = run("again", &["--recompute"]);
    assert!(saved_bits(&again) == saved_bits(&kept), "weights, moments or averages differ");
    for name in ["loss", "grad_norm"] {
        assert_eq!(column(&again, name), column(&kept, name), "{name}");
    }
    assert!(least < most, "computing again took {least} bytes, keeping {most}");
}

#[test]
fn one_two_and_three_threads_make_the_same_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let outs = ["1", "2", "3"].map(|threads| {
        let out = folder.path().join(threads);
        train_tiny(&out, &["--steps", "6", "--threads", threads]);
        out
    });
    assert_same_run(&outs[1], &outs[0], 6);
    assert_same_run(&outs[2], &outs[0], 6);
}

#[test]
fn a_run_by_muon_resumes_on_other_threads_in_the_same_bits_and_keeps_its_optimizer() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts, plain) = (folder.path().join("whole"), folder.path().join("parts"), folder.path().join("plain"));
    let with = |optimizer, steps, threads| {
        ["--set", "lr_schedule=constant", "--set", optimizer, "--steps", steps, "--threads", threads]
    };
    train_tiny(&whole, &with("optimizer=muon", "6", "2"));
    train_tiny(&parts, &with("optimizer=muon", "3", "1"));
    succeed(TRAIN, ["--out", text(&parts), "--resume", "--steps", "6", "--threads", "3"]);
    assert_same_run(&parts, &whole, 6);
    train_tiny(&plain, &with("optimizer=adamw", "6", "2"));
    assert_ne!(column(&plain, "loss"), column(&whole, "loss"), "muon changed nothing");
}

#[test]
fn a_run_in_bf16_resumes_on_other_threads_in_the_same_bits_and_keeps_its_precision() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let with = |steps, threads| {
        ["--set", "lr_schedule=constant", "--precision", "bf16", "--steps", steps, "--threads", threads]
    };
    train_tiny(&whole, &with("6", "2"));
    train_tiny(&parts, &with("3", "1"));
    // Nothing is said of the precision: it belongs to the run.
    succeed(TRAIN, ["--out", text(&parts), "--resume", "--steps", "6", "--threads", "3"]);
    assert_same_run(&parts, &whole, 6);
    let plain = folder.path().join("plain");
    train_tiny(&plain, &["--set", "lr_schedule=constant", "--steps", "6"]);
    assert_ne!(column(&plain, "loss"), column(&whole, "loss"), "bf16 changed nothing");
}

#[test]
fn threads_may_change_when_a_run_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let constant = |steps, threads| ["--set", "lr_schedule=constant", "--steps", steps, "--threads", threads];
    train_tiny(&whole, &constant("6", "2"));
    train_tiny(&parts, &constant("3", "1"));
    succeed(TRAIN, ["--out", text(&parts), "--resume", "--steps", "6", "--threads", "3"]);
    assert_same_run(&parts, &whole, 6);
}

/// Steps of the runs that are interrupted: enough that a signal surely comes before the last.
const LONG: u64 = 400;

/// The arguments of an interrupted run; its learning rate falls by the cosine schedule.
fn long<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    tiny_args(out, &[&["--steps", "400", "--save-every", "3"], more].concat())
}

/// The run that nobody interrupts.
fn undisturbed() -> &'static Path {
    static WHOLE: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let folder = WHOLE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        // How often a run saves is no part of its mathematics, but the checkpoint tells it.
        succeed(TRAIN, long(folder.path(), &[]));
        folder
    });
    folder.path()
}

#[test]
fn ctrl_c_saves_says_how_to_continue_and_the_resumed_run_has_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("stopped");
    let child = start(&long(&out, &["--json"]));
    wait_until("six steps", || steps_so_far(&out) >= 6);
    signal(&child, "-INT");
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let advice = format!("continue with: cargo run --release --bin train -- --out {} --resume", out.display());
    assert!(outcome.stderr.contains("stopping after this step") && outcome.stderr.contains(&advice), "{outcome:?}");
    let (report, saved) = (outcome.json(), saved_steps(&out));
    assert_eq!((report["stopped"].as_bool(), report["steps"].as_u64()), (Some(true), Some(saved)));
    assert!((6..LONG).contains(&saved), "stopped after {saved} steps");
    assert_eq!(column(&out, "loss").len() as u64, saved, "every step that was saved is logged, and no other");
    succeed(EVAL, ["--model", text(&out), "--count", "2"]);
    succeed(TRAIN, ["--out", text(&out), "--resume"]);
    assert_same_run(&out, undisturbed(), LONG);
}

#[test]
fn a_run_killed_at_any_moment_leaves_a_whole_model_and_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("killed");
    let mut saved = 0;
    // The run goes on from each kill to the next; the delays fall on steps, saves and renames alike.
    for (round, delay) in [0, 2, 5, 9, 14, 21, 33, 47].into_iter().enumerate() {
        let args = if round == 0 { long(&out, &[]) } else { vec!["--out", text(&out), "--resume"] };
        let mut child = start(&args);
        // Beyond the checkpoint that the resumed run began with.
        wait_until("a checkpoint of its own", || steps_so_far(&out) > saved);
        std::thread::sleep(Duration::from_millis(delay));
        signal(&child, "-KILL");
        assert!(!child.wait().unwrap().success(), "round {round}: the run was over before it was killed");
        let now = saved_steps(&out);
        assert!(now > saved && now < LONG && now.is_multiple_of(3), "round {round}: {saved} steps, then {now}");
        let logged = column(&out, "loss");
        let steps: Vec<u64> = logged.iter().map(|(step, _)| *step).collect();
        assert!(steps.iter().copied().eq(0..steps.len() as u64), "round {round}: {steps:?}");
        assert!(steps.len() as u64 >= now, "round {round}: {now} steps are saved, only {} are logged", steps.len());
        for weights in ["ema", "raw"] {
            let png = folder.path().join("x.png");
            let sample = ["--steps", "1", "--count", "2", "--weights", weights, "--out", text(&png)];
            succeed(SAMPLE, ["--model", text(&out)].iter().chain(&sample));
        }
        saved = now;
    }
    succeed(TRAIN, ["--out", text(&out), "--resume"]);
    assert_same_run(&out, undisturbed(), LONG);
    let left: Vec<_> = ["state", "unet"].iter().flat_map(|d| std::fs::read_dir(out.join(d)).unwrap()).collect();
    assert_eq!(left.len(), 3, "a finished run leaves checkpoint, config and weights, no temporary: {left:?}");
}

#[test]
fn a_run_killed_between_its_first_checkpoint_and_its_first_weights_can_be_sampled() {
    let folder = model_copy();
    std::fs::remove_file(weights(folder.path())).unwrap();
    let (png, want) = (folder.path().join("x.safetensors"), folder.path().join("want.safetensors"));
    let sample = |model: &Path, out: &Path| {
        succeed(SAMPLE, ["--model", text(model), "--steps", "2", "--count", "2", "--out", text(out)]);
        read(out)
    };
    assert!(sample(folder.path(), &png) == sample(model(), &want), "the checkpoint holds the same averaged weights");
}

#[test]
fn resuming_another_architecture_is_refused_and_names_the_setting() {
    let folder = model_copy();
    let before = read(checkpoint(folder.path()));
    let resume = |more: &[&str]| run(TRAIN, [&["--out", text(folder.path()), "--resume"], more].concat());
    let parts = ["--resume: ", "block_out_channels = [8, 8]", "[8, 16]", "choose another --out"];
    resume(&["--set", "block_out_channels=[8,16]"]).refuses(2, &parts);
    resume(&["--batch", "9"]).refuses(2, &["batch = 8", "now 9"]);
    resume(&["--seed", "1"]).refuses(2, &["seed = 0", "now 1"]);
    resume(&["--preset", "small"]).refuses(2, &["--resume: the run was made with ", "is asked for"]);
    assert!(read(checkpoint(folder.path())) == before);
}

#[test]
fn resuming_on_other_data_is_refused_even_under_the_same_path() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    write_idx(&data, 40, 0);
    train_tiny(&out, &["--steps", "2", "--data", text(&data), "--set", "lr_schedule=constant"]);
    let before = read(checkpoint(&out));
    let resume = |more: &[&str]| run(TRAIN, [&["--out", text(&out), "--resume", "--steps", "4"], more].concat());

    write_idx(&data, 40, 1 << 24);
    let parts = ["--resume: the data", text(&data), "is not what the run was trained on (fingerprint "];
    resume(&[]).refuses(2, &parts);
    // Another shape is other data too, not another network.
    write_idx(&data, 60, 0);
    resume(&[]).refuses(2, &parts);
    let labels = data.join("train-labels-idx1-ubyte");
    std::fs::remove_file(&labels).unwrap();
    resume(&[]).refuses(2, &parts);
    resume(&["--data", "digits"]).refuses(2, &["data = ", text(&data), "\"digits\""]);
    assert!(read(checkpoint(&out)) == before);

    write_idx(&data, 40, 0);
    assert_eq!(resume(&[]).code, Some(0), "the data is back");
    assert_eq!(saved_steps(&out), 4);
}

#[test]
fn resuming_without_a_checkpoint_or_below_the_steps_done_is_refused() {
    let folder = model_copy();
    let resume = |out: &Path, more: &[&str]| run(TRAIN, [&["--out", text(out), "--resume"], more].concat());
    resume(folder.path(), &["--steps", "29"]).refuses(2, &["--steps 29", "has done 30 already", "ask for more"]);
    let empty = folder.path().join("empty");
    let parts = ["--resume: ", text(&empty), "has no checkpoint", "train without --resume"];
    resume(&empty, &[]).refuses(2, &parts);
    assert!(!empty.exists(), "a refused run leaves nothing");
}

#[test]
fn resuming_from_a_damaged_checkpoint_is_refused_and_leaves_it_alone() {
    let folder = model_copy();
    let path = checkpoint(folder.path());
    let whole = read(&path);
    let args = ["--out", text(folder.path()), "--resume", "--steps", "40"];
    for length in [0, 7, 300, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        run(TRAIN, args).refuses(1, &["state/checkpoint.safetensors: not a whole safetensors file", "copy or write"]);
        assert_eq!(read(&path).len(), length);
    }
    // A safetensors file, but no checkpoint.
    std::fs::copy(weights(folder.path()), &path).unwrap();
    run(TRAIN, args).refuses(1, &["is not a checkpoint of tweedie"]);
    succeed(SAMPLE, ["--model", text(folder.path()), "--steps", "1", "--out", text(&folder.path().join("x.png"))]);
}

#[test]
fn a_save_that_fails_leaves_the_former_checkpoint_and_exits_with_one() {
    let folder = model_copy();
    let out = folder.path();
    let (old_checkpoint, old_weights) = (read(checkpoint(out)), read(weights(out)));
    let unharmed = || {
        assert!(read(checkpoint(out)) == old_checkpoint && read(weights(out)) == old_weights, "a file has changed");
        succeed(SAMPLE, ["--model", text(out), "--steps", "1", "--out", text(&out.join("x.png"))]);
    };
    let resume = ["--out", text(out), "--resume", "--steps", "40"];

    // Files stop growing at half the checkpoint, as on a full disk; metrics and the averaged weights still fit.
    let blocks = old_checkpoint.len() / 2 / 1024;
    assert!(old_weights.len() < blocks * 1024);
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let limited = run("bash", ["-c", &script, "bash", TRAIN].iter().chain(&resume));
    limited.refuses(1, &["cannot write ", "state/", "checkpoint.safetensors", "File too large"]);
    unharmed();

    // Something else has the temporary's name.
    std::fs::create_dir(out.join("state/.checkpoint.safetensors.tmp")).unwrap();
    run(TRAIN, resume).refuses(1, &["cannot ", "checkpoint.safetensors"]);
    unharmed();
    std::fs::remove_dir(out.join("state/.checkpoint.safetensors.tmp")).unwrap();

    succeed(TRAIN, resume);
    assert_eq!(saved_steps(out), 40);
}

#[test]
fn a_model_is_replaced_only_when_overwrite_says_so() {
    let folder = model_copy();
    let out = folder.path();
    let before = read(checkpoint(out));
    let again = tiny_args(out, &["--steps", "2", "--seed", "5"]);
    let parts = ["--out ", text(out), "holds a model already", "--resume", "--overwrite", "name another folder"];
    run(TRAIN, &again).refuses(2, &parts);
    assert!(read(checkpoint(out)) == before);
    // Settings that cannot work are found before the old model goes.
    for wrong in ["--data=nonsense", "--batch=5000", "--set=norm_num_groups=3", "--lr=0"] {
        let wrong = run(TRAIN, ["--out", text(out), "--overwrite", wrong]);
        wrong.refuses(2, &[]);
        assert!(read(checkpoint(out)) == before, "{wrong:?}");
    }
    succeed(TRAIN, again.iter().chain(&["--overwrite"]));
    assert_eq!(saved_steps(out), 2);
    assert_eq!(column(out, "loss").len(), 2, "nothing of the old run is left in the log");
    run(TRAIN, ["--out", text(out), "--resume", "--overwrite"]).refuses_the_flags(&["--resume", "--overwrite"]);
}
