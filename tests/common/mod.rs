//! What the tests of the programs share: running them, a tiny network, IDX files, and reading what a run leaves.
//! Each test binary compiles this file and uses a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tweedie::io::TensorFile;
use tweedie::io::tensors::{Entry, write_tensors};

pub(crate) const TRAIN: &str = env!("CARGO_BIN_EXE_train");
pub(crate) const SAMPLE: &str = env!("CARGO_BIN_EXE_sample");
pub(crate) const EVAL: &str = env!("CARGO_BIN_EXE_eval");

/// Settings of a network of 19 thousand weights that trains a step in milliseconds, and no reports.
pub(crate) const TINY: [&str; 13] = [
    "--batch=8",
    "--set",
    "block_out_channels=[8,8]",
    "--set",
    "norm_num_groups=4",
    "--set",
    "attention_head_dim=4",
    "--set",
    "sample_every=0",
    "--set",
    "validate_every=0",
    "--set",
    "warmup_steps=4",
];

/// What a program left: its exit code and its texts.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Outcome {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("programs write UTF-8");
        Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The one object on stdout that `--json` asks for.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.stdout.lines().count(), 1, "expected one line of JSON, got {:?}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Asserts that the program failed as it should: this exit code, no panic, nothing on stdout, and every part of the
    /// message in the one line that reports it.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "wrong exit code: {self:?}");
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("RUST_BACKTRACE"), "a panic: {self:?}");
        assert_eq!(self.stdout, "", "an error belongs on stderr");
        let errors: Vec<&str> = self.stderr.lines().skip_while(|line| !line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "expected one line that begins with \"error: \" at the end: {}", self.stderr);
        for part in parts {
            assert!(errors[0].contains(part), "\"{part}\" is not in the message: {}", errors[0]);
        }
    }

    /// As [`Outcome::refuses`] for what the parser of the command line refuses: it adds the usage on lines of their own.
    #[track_caller]
    pub(crate) fn refuses_the_flags(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(2), "wrong exit code: {self:?}");
        assert!(self.stderr.starts_with("error: ") && !self.stderr.contains("panicked"), "{self:?}");
        assert_eq!(self.stdout, "", "an error belongs on stderr");
        for part in parts {
            assert!(self.stderr.contains(part), "\"{part}\" is not in the message: {}", self.stderr);
        }
    }

    /// Asserts that the program succeeded.
    #[track_caller]
    pub(crate) fn refuses_nothing(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
    }
}

pub(crate) fn command(program: &str, args: impl IntoIterator<Item = impl AsRef<str>>) -> Command {
    let mut command = Command::new(program);
    command.args(args.into_iter().map(|arg| arg.as_ref().to_string()));
    command
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, args: impl IntoIterator<Item = impl AsRef<str>>) -> Outcome {
    let mut command = command(program, args);
    Outcome::of(command.output().unwrap_or_else(|e| panic!("{program} does not start: {e}")))
}

/// Runs a program that must succeed.
#[track_caller]
pub(crate) fn succeed(program: &str, args: impl IntoIterator<Item = impl AsRef<str>>) -> Outcome {
    let outcome = run(program, args);
    assert_eq!(outcome.code, Some(0), "{program}: {}", outcome.stderr);
    outcome
}

/// The arguments that train the tiny network in `out`, and `more`.
pub(crate) fn tiny_args<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["--out", text(out)];
    args.extend(TINY);
    args.extend(more);
    args
}

/// Trains the tiny network in `out`.
#[track_caller]
pub(crate) fn train_tiny(out: &Path, more: &[&str]) -> Outcome {
    succeed(TRAIN, tiny_args(out, more))
}

/// A model of 30 steps, trained once a test binary, that no test may change.
pub(crate) fn model() -> &'static Path {
    static MODEL: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = MODEL.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        train_tiny(folder.path(), &["--steps", "30", "--save-every", "10", "--lr", "3e-3"]);
        folder
    });
    folder.path()
}

/// A copy of [`model`] that may be spoilt.
pub(crate) fn model_copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    copy_folder(model(), copy.path());
    copy
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) fn checkpoint(folder: &Path) -> PathBuf {
    folder.join("state/checkpoint.safetensors")
}

pub(crate) fn weights(folder: &Path) -> PathBuf {
    folder.join("unet/diffusion_pytorch_model.safetensors")
}

#[track_caller]
pub(crate) fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// One column of a run's metrics as (step, its bits).
#[track_caller]
pub(crate) fn column(folder: &Path, name: &str) -> Vec<(u64, u64)> {
    let points = tweedie::io::metrics::read_column(folder.join("metrics.jsonl"), name).unwrap();
    points.into_iter().map(|(step, value)| (step, value.to_bits())).collect()
}

/// The steps done by the checkpoint in `folder`, which must be whole.
#[track_caller]
pub(crate) fn saved_steps(folder: &Path) -> u64 {
    let file = TensorFile::open(checkpoint(folder)).unwrap();
    let header: serde_json::Value = serde_json::from_str(file.text("tweedie").unwrap()).unwrap();
    header["step"].as_u64().unwrap()
}

/// f32 tensors on their way into a file: name, values, shape.
pub(crate) type Named = (String, Vec<f32>, Vec<usize>);

pub(crate) fn write_f32s(path: &Path, tensors: &[Named]) {
    let entries = tensors.iter().map(|(name, values, shape)| Entry::f32s(name.clone(), values, shape)).collect();
    write_tensors(path, entries, HashMap::new()).unwrap();
}

pub(crate) fn read_f32s(path: &Path, name: &str) -> Vec<f32> {
    TensorFile::open(path).unwrap().f32s(name).unwrap()
}

/// Writes `train-images-idx3-ubyte` and its labels: `n` images of 8x8 in 3 classes, whose pixels depend on `salt`.
pub(crate) fn write_idx(folder: &Path, n: u32, salt: u32) {
    std::fs::create_dir_all(folder).unwrap();
    let mut images = vec![0, 0, 8, 3];
    for size in [n, 8, 8] {
        images.extend(size.to_be_bytes());
    }
    images.extend((0..n * 64).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 24) as u8));
    let mut labels = vec![0, 0, 8, 1];
    labels.extend(n.to_be_bytes());
    labels.extend((0..n).map(|i| (i % 3) as u8));
    std::fs::write(folder.join("train-images-idx3-ubyte"), images).unwrap();
    std::fs::write(folder.join("train-labels-idx1-ubyte"), labels).unwrap();
}
