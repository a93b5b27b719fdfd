//! Another framework in a process of its own, which answers a line for a line.

use crate::items;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tweedie::{Error, Result};

const HOW: &str = "pip install torch diffusers, and name that Python in PYTHON";

/// The process and what it offers.
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    title: String,
    /// Items and variants.
    offers: Vec<(String, String)>,
    is_python: bool,
}

/// The interpreter.
fn python() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".into())
}

/// PyTorch's side as a command, for `models` and so many threads.
pub(crate) fn python_command(models: &Path, threads: usize) -> Command {
    let mut command = Command::new(python());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/torch_peers.py");
    command.arg(script).arg("--models").arg(models).args(["--threads", &threads.to_string()]);
    command
}

impl Peer {
    /// PyTorch and diffusers, if they can be imported.
    pub(crate) fn python(models: &Path, threads: usize) -> Option<Peer> {
        let probe = Command::new(python()).args(["-c", "import torch, diffusers"]).stderr(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            println!("PyTorch takes no part: {} cannot import torch and diffusers; {HOW}", python());
            return None;
        }
        Peer::start(&mut python_command(models, threads), true)
    }

    /// candle and burn, if their crate was built.
    pub(crate) fn rust(models: &Path, threads: usize) -> Option<Peer> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/rust");
        let built = folder.join("target/release/rust-peers");
        let program = std::env::var_os("RUST_PEERS").map_or(built, PathBuf::from);
        if !program.is_file() {
            println!(
                "candle and burn take no part: cargo build --release --manifest-path benches/peers/rust/Cargo.toml"
            );
            return None;
        }
        let mut command = Command::new(program);
        command.arg("--models").arg(models).env("RAYON_NUM_THREADS", threads.to_string());
        Peer::start(&mut command, false)
    }

    fn start(command: &mut Command, is_python: bool) -> Option<Peer> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let (input, output) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        let mut peer = Peer { child, input, output, title: String::new(), offers: Vec::new(), is_python };
        let begin = || -> Result<(String, String)> {
            let title = peer.read()?;
            Ok((title, peer.ask("list")?))
        };
        match { begin }() {
            Ok((title, list)) => {
                peer.title = title.trim_start_matches("ready ").replace(',', " and");
                let pairs = list.split_whitespace().filter_map(|pair| pair.split_once(':'));
                peer.offers = pairs.map(|(item, variant)| (item.into(), variant.into())).collect();
                Some(peer)
            }
            Err(error) => {
                println!("{} did not start: {error}", if is_python { "PyTorch" } else { "candle and burn" });
                None
            }
        }
    }

    /// Names and versions.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// Whether it is PyTorch.
    pub(crate) fn is_python(&self) -> bool {
        self.is_python
    }

    /// How it can do an item; nothing if it cannot.
    pub(crate) fn variants(&self, item: &str) -> Vec<String> {
        self.offers.iter().filter(|(name, _)| name == item).map(|(_, variant)| variant.clone()).collect()
    }

    /// The requests for an evaluation of a network, one for each framework.
    fn checks(&self, preset: &str) -> Vec<String> {
        if self.is_python {
            return vec![format!("check {preset}")];
        }
        let frameworks: BTreeSet<&str> = self.offers.iter().map(|(_, variant)| variant.as_str()).collect();
        frameworks.into_iter().map(|framework| format!("check {preset}:{framework}")).collect()
    }

    /// Milliseconds of `count` runs, after `warm` that do not count.
    pub(crate) fn run(&mut self, item: &str, variant: &str, count: usize, warm: usize) -> Result<Vec<f64>> {
        let reply = self.ask(&format!("run {item}:{variant} {count} {warm}"))?;
        let times: Vec<f64> = reply.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if times.len() == count { Ok(times) } else { Err(odd(&reply)) }
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}").map_err(Error::io("write to", "the peer"))?;
        self.read()
    }

    fn read(&mut self) -> Result<String> {
        let mut reply = String::new();
        self.output.read_line(&mut reply).map_err(Error::io("read from", "the peer"))?;
        match (reply.trim_end(), reply.strip_prefix("error ")) {
            (_, Some(reason)) => Err(Error::Device(reason.trim_end().into())),
            ("", _) => {
                Err(Error::Device("the peer ended without an answer; what it said, if anything, stands above".into()))
            }
            (reply, _) => Ok(reply.into()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn odd(reply: &str) -> Error {
    Error::Device(format!("the peer's answer is not understood: {reply}"))
}

/// Refuses to compare the times of networks that do not compute the same.
pub(crate) fn compare_networks(peer: &mut Peer, models: &Path) -> Result<()> {
    let of = |preset| peer.checks(preset).into_iter().map(move |request| (preset, request));
    let requests: Vec<(&str, String)> = items::PRESETS.into_iter().flat_map(of).collect();
    for (preset, request) in requests {
        let ours = items::first_row(&models.join(preset))?;
        let reply = peer.ask(&request)?;
        let theirs: Vec<f32> = reply.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let most = ours.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        // Sums of some thousand terms in f32 and in another order, through some forty layers.
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * most;
        if ours.len() != theirs.len() || !ours.iter().zip(&theirs).all(is_close) {
            return Err(Error::NonFinite(format!("{request}: ours gives {ours:?}, theirs {theirs:?}")));
        }
    }
    Ok(())
}
