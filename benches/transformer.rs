//! Forward passes and training steps (forward, cross-entropy, backward, clip, update) of a transformer: time, tokens a second, GFLOP/s and the most
//! memory held in tensors.
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
use std::time::Instant;
use text::{BATCH, Model, conditioned, plain};
use tweedie::Result;
use tweedie::device::{Device, pool_stats, reset_peak, reset_pool_peak};

const NOTES: &str = "MiB: most memory held in tensors and temporaries; training holds weights, their average, two moments \
and gradients.";

fn main() -> Result<()> {
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
    bench.finish(NOTES)
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
    let (steps, is_wanted) = profile::arguments();
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
