//! Forward passes, training steps (forward, cross-entropy, backward, clip, update) and sampling of a transformer: time, tokens a second, GFLOP/s and
//! the most memory held in tensors.
//!
//! `cargo bench --bench transformer [-- --quick]`; `-- --profile [--cpu] [--shapes] [--only=TEXT] [--steps=N]` prints each op's
//! share instead. Operations are those of linear layers and attention; the time is that of everything.

#[allow(dead_code, reason = "every bench uses a part of it")]
mod common;
#[allow(dead_code, reason = "every bench uses a part of it")]
#[path = "common/profile.rs"]
mod profile;
#[path = "common/text.rs"]
mod text;

use common::{Bench, Row, Work};
use std::process::ExitCode;
use std::time::Instant;
use text::{BATCH, Model, conditioned, plain};
use tweedie::Result;
use tweedie::device::{Device, pool_stats, reset_peak, reset_pool_peak};
use tweedie::discrete::TokenSampler;
use tweedie::nn::TransformerConfig;

const NOTES: &str = "MiB: most memory held in tensors and temporaries; training holds weights, their average, two moments \
and gradients.";

const USAGE: &str = "\
cargo bench --bench transformer [-- NAME] [--quick | --list]   the work whose name contains NAME
cargo bench --bench transformer -- --profile [--cpu] [--shapes] [--only=TEXT] [--steps=N]   each op's share of a step";

fn main() -> ExitCode {
    common::main(USAGE, run)
}

fn run() -> Result<()> {
    if std::env::args().any(|argument| argument == "--profile") {
        return profiles();
    }
    let mut bench = Bench::new("transformer");
    for (name, config) in [("", plain()), ("modulated ", conditioned())] {
        let mut model = Model::new(&config)?;
        let shape =
            format!("{BATCH}x{} tokens 6 blocks of 384 {:.2} M", config.length, model.parameters() as f64 / 1e6);
        let work = model.flops();
        measure(&mut bench, format!("{name}forward {shape}"), work, || model.forward())?;
        measure(&mut bench, format!("{name}training step {shape}"), 3.0 * work, || model.train_step())?;
    }
    sampling(&mut bench)?;
    bench.finish(NOTES)
}

/// Steps of the plain sampler; and a run to its end of a small network, whose evaluations the cached one takes 63 % of at 256 steps of 256
/// tokens, 23 % at 1000.
fn sampling(bench: &mut Bench) -> Result<()> {
    const STEPS: usize = 4;
    // The mask is no output.
    let masked = TransformerConfig { outputs: plain().tokens - 1, ..plain() };
    let model = Model::new(&masked)?;
    let (length, work) = (plain().length, STEPS as f64 * model.flops());
    let name = format!("{STEPS} sampling steps {BATCH}x{length} tokens 6 blocks of 384");
    measure(bench, name, work, || model.sample(TokenSampler::Ancestral, STEPS).map(|_| ()))?;
    let small = TransformerConfig { width: 64, depth: 2, heads: 2, ..masked };
    let model = Model::new(&small)?;
    for (sampler, steps) in [
        (TokenSampler::Ancestral, 256),
        (TokenSampler::Cached, 256),
        (TokenSampler::Ancestral, 1000),
        (TokenSampler::Cached, 1000),
    ] {
        let evaluations = model.sample(sampler, steps)?;
        let name = format!("{} {steps} steps {BATCH}x{length} tokens 2 blocks of 64", sampler.name());
        let name = format!("{name}, {evaluations:.1} evaluations each");
        measure(bench, name, evaluations * model.flops(), || model.sample(sampler, steps).map(|_| ()))?;
    }
    Ok(())
}

fn measure(bench: &mut Bench, name: String, flops: f64, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    let work = Work::Flops(flops);
    reset_pool_peak();
    let measured = bench.measure(&name, work, || {
        let begin = Instant::now();
        run()?;
        Ok(begin.elapsed())
    });
    if let Some(seconds) = measured {
        let tokens = (BATCH * plain().length) as f64;
        let extra = vec![(tokens / seconds, "tokens/s"), (pool_stats().peak as f64 / f64::from(1 << 20), "MiB")];
        bench.push(Row { name, seconds, work, naive: None, extra });
    }
    Ok(())
}

fn profiles() -> Result<()> {
    let names = ["plain forward", "plain training step", "modulated forward", "modulated training step"];
    let (steps, is_wanted) = profile::arguments(&names)?;
    for (name, config) in [("plain", plain()), ("modulated", conditioned())] {
        let mut model = Model::new(&config)?;
        let [forward, training] = ["forward", "training step"].map(|what| format!("{name} {what}, batch {BATCH}"));
        reset_peak(Device::Cpu);
        if is_wanted(&forward) {
            profile::measure(&forward, steps, || model.forward())?;
        }
        reset_peak(Device::Cpu);
        if is_wanted(&training) {
            profile::measure(&training, steps, || model.train_step())?;
        }
    }
    Ok(())
}
