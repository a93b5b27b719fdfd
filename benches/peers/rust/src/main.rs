//! The Rust frameworks' side of `cargo bench --bench peers`: the same work, timed here, started by the driver line by line.
//!
//! `cargo build --release --manifest-path benches/peers/rust/Cargo.toml`, then the bench finds it. It answers `list`,
//! `run ITEM:FRAMEWORK COUNT WARM` and, started with `--models DIR`, `check PRESET:FRAMEWORK`.
//!
//! candle and burn, each with single operations and with the U-Net as its users would write it. burn has two backends for CPUs that it does
//! not call deprecated: flex, which is all Rust and is measured here, and CubeCL's, which compiles kernels by a vendored LLVM. Both
//! frameworks multiply matrices by the crate `gemm`, with AVX-512: burn's feature `x86-v4` turns that on for both. Backward times of single
//! operations hold the product with the gradient of the output and its sum, which start the tape.

mod on_burn;
mod on_candle;
mod presets;
mod unet_burn;
mod unet_candle;

use presets::{CIFAR10, Preset, SMALL};
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Does the work once and returns the time that counts.
pub type Run = Box<dyn FnMut() -> Result<Duration, String>>;
/// An item's name and how it is made.
pub type Item = (&'static str, fn() -> Result<Run, String>);

/// Times `work`; what it returns is freed after the clock was read.
pub fn timed<T>(work: impl FnOnce() -> Result<T, String>) -> Result<Duration, String> {
    let begin = Instant::now();
    let kept = std::hint::black_box(work()?);
    let time = begin.elapsed();
    drop(kept);
    Ok(time)
}

struct Framework {
    name: &'static str,
    title: &'static str,
    items: Vec<Item>,
    /// The first row of pixels of one evaluation with the weights in the folder.
    check: fn(&Preset, &Path) -> Result<Vec<f32>, String>,
}

fn frameworks() -> [Framework; 2] {
    [
        Framework {
            name: "candle",
            title: "candle 0.11.1",
            items: [on_candle::items(), unet_candle::items()].concat(),
            check: unet_candle::check,
        },
        Framework {
            name: "burn",
            title: "burn 0.22.1 (flex)",
            items: [on_burn::items(), unet_burn::items()].concat(),
            check: unet_burn::check,
        },
    ]
}

/// `ITEM:FRAMEWORK`.
fn find(name: &str) -> Result<(&str, Framework), String> {
    let unknown = || format!("unknown: {name}");
    let (item, variant) = name.split_once(':').ok_or_else(unknown)?;
    let framework = frameworks().into_iter().find(|framework| framework.name == variant);
    Ok((item, framework.ok_or_else(unknown)?))
}

/// The item that is ready, under its full name.
type Ready = Option<(String, Run)>;

fn run(words: &[&str], ready: &mut Ready) -> Result<String, String> {
    let [_, name, count, warm] = words else { return Err("run wants ITEM:FRAMEWORK COUNT WARM".into()) };
    let number = |text: &str| text.parse::<usize>().map_err(|e| e.to_string());
    let (count, warm) = (number(count)?, number(warm)?);
    if ready.as_ref().is_none_or(|(ready, _)| ready != name) {
        *ready = None; // freed before the next is made
        let (item, framework) = find(name)?;
        let make = framework.items.into_iter().find(|(name, _)| *name == item);
        let (_, make) = make.ok_or_else(|| format!("unknown item {name}"))?;
        let mut work = make()?;
        work()?;
        *ready = Some((name.to_string(), work));
    }
    let Some((_, work)) = ready else { return Err("nothing is ready".into()) };
    for _ in 0..warm {
        work()?;
    }
    let times: Result<Vec<String>, String> =
        (0..count).map(|_| Ok(format!("{:.6}", work()?.as_secs_f64() * 1e3))).collect();
    Ok(times?.join(" "))
}

fn check(words: &[&str], models: Option<&Path>) -> Result<String, String> {
    let [_, name] = words else { return Err("check wants PRESET:FRAMEWORK".into()) };
    let (preset, framework) = find(name)?;
    let preset = [CIFAR10, SMALL].into_iter().find(|p| p.name == preset).ok_or("unknown preset")?;
    let row = (framework.check)(&preset, models.ok_or("check wants --models DIR")?)?;
    Ok(row.iter().map(|value| format!("{value:e}")).collect::<Vec<_>>().join(" "))
}

fn list() -> String {
    let names = |f: Framework| f.items.into_iter().map(move |(item, _)| format!("{item}:{}", f.name));
    frameworks().into_iter().flat_map(names).collect::<Vec<_>>().join(" ")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let models = match arguments.as_slice() {
        [flag, folder] if flag == "--models" => Some(PathBuf::from(folder)),
        _ => None,
    };
    println!("ready {}", frameworks().map(|framework| framework.title).join(" and "));
    let mut ready = None;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        // burn reports by panics: the driver leaves out such an item and goes on.
        let reply = catch_unwind(AssertUnwindSafe(|| match words.first() {
            Some(&"list") => Ok(list()),
            Some(&"run") => run(&words, &mut ready),
            Some(&"check") => check(&words, models.as_deref()),
            other => Err(format!("unknown request {other:?}")),
        }));
        let reply = reply.unwrap_or_else(|_| Err("it panicked; its message stands above".into()));
        println!("{}", reply.unwrap_or_else(|error| format!("error {}", error.replace('\n', " "))));
        let _ = std::io::stdout().flush();
    }
}
