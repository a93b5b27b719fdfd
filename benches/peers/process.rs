//! What belongs to whole processes: the time from their start to the first evaluation, and the memory of training.

use crate::peer::{self, Peer};
use crate::record::{Record, Row};
use crate::{Options, cores, items};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use tweedie::nn::Precision;
use tweedie::{Error, Result};

const STARTUP: &str = "startup";
const MEMORY: &str = "train_memory";
/// What is measured here.
pub(crate) const NAMES: [&str; 2] = [STARTUP, MEMORY];

/// Asks this program to train in a process of its own and to print its memory.
pub(crate) const MEMORY_FLAG: &str = "--report-training-memory";

/// Measures both against PyTorch, each side's processes in turn.
pub(crate) fn measure(
    wanted: &dyn Fn(&str) -> bool,
    peers: &mut [Peer],
    models: &Path,
    options: &Options,
    record: &mut Record,
) -> Result<()> {
    let title = peers.iter().find(|peer| peer.is_python()).map(|peer| peer.title().to_string());
    let threads = rayon::current_num_threads();
    let theirs = |flag: &str| {
        let mut command = peer::python_command(models, threads);
        command.arg(flag);
        command
    };
    if wanted(STARTUP) {
        let mut ours = Command::new(env!("CARGO_BIN_EXE_sample"));
        ours.arg("--model").arg(models.join("cifar10")).args(["--sampler", "ddim", "--steps", "1", "--count", "1"]);
        ours.args(["--device", "cpu", "--threads", &threads.to_string(), "--out"]).arg(models.join("one.png"));
        compare(STARTUP, "ms", &title, &mut ours, &mut theirs("--startup"), options, record)?;
    }
    if wanted(MEMORY) {
        let mut ours = Command::new(std::env::current_exe().map_err(Error::io("find", "this program"))?);
        ours.arg(MEMORY_FLAG);
        compare(MEMORY, "MiB", &title, &mut ours, &mut theirs("--memory"), options, record)?;
    }
    Ok(())
}

fn compare(
    name: &str,
    unit: &'static str,
    title: &Option<String>,
    ours: &mut Command,
    theirs: &mut Command,
    options: &Options,
    record: &mut Record,
) -> Result<()> {
    // Memory does not vary as times do.
    let rounds = if options.prepare || unit == "MiB" { 1 } else { options.rounds };
    let (mut our_values, mut their_values, mut free) = (Vec::new(), Vec::new(), true);
    for round in 0..=rounds {
        if round == 0 && unit == "MiB" {
            continue; // the first start, which fills the file cache, matters to times alone
        }
        free &= unit == "MiB" || cores::wait_until_free();
        let values = (value(ours, unit)?, title.is_some().then(|| value(theirs, unit)).transpose()?);
        if round > 0 {
            our_values.push(values.0);
            their_values.extend(values.1);
        }
    }
    if options.prepare {
        return Ok(());
    }
    let side = title.as_ref().map(|title| (title.as_str(), "eager", their_values.as_slice()));
    record.push(Row::of(name, unit, &our_values, side), free);
    Ok(())
}

/// Milliseconds that the process takes, or the number that it prints.
fn value(command: &mut Command, unit: &str) -> Result<f64> {
    let begin = Instant::now();
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.map_err(Error::io("run", command.get_program()))?;
    let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let program = command.get_program().display();
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Device(format!("{program} ended with {}: {said}", output.status)));
    }
    if unit == "ms" {
        return Ok(milliseconds);
    }
    text.trim().parse().map_err(|_| Error::Device(format!("expected {unit}, the process printed {text}")))
}

/// Three training steps of the large network, then the peak of this process's resident memory in MiB.
pub(crate) fn train_and_report() -> Result<()> {
    let mut step = items::train_step("cifar10", [8, 32, 32, 3], Precision::F32)?;
    for _ in 0..3 {
        step()?;
    }
    let path = "/proc/self/status";
    let status = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
    let kib: f64 = peak.and_then(|text| text.trim().parse().ok()).unwrap_or(f64::NAN);
    println!("{}", kib / 1024.0);
    Ok(())
}
