//! Steps of the samplers on the digits network, and what of them is not the network: the sampler's own arithmetic, its
//! noise and its bookkeeping.
//!
//! `cargo bench --bench sampler [-- --quick]`. The overhead is measured by running the same sampler with a denoiser that
//! returns a ready network output.

#[allow(dead_code, reason = "every bench uses a part of it")]
mod common;
#[allow(dead_code, reason = "every bench uses a part of it")]
#[path = "common/flops.rs"]
mod flops;

use common::{Bench, Row, Work};
use flops::UNetFlops;
use std::time::Instant;
use tweedie::Result;
use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::denoiser::{Denoiser, Estimate, NetworkDenoiser, Threshold, eps_coefficients, x0_coefficients};
use tweedie::nn::{UNet, initialise};
use tweedie::ops::{self, Noise, ReverseStep, StepInputs};
use tweedie::process::{Level, Prediction, SchedulerConfig};
use tweedie::rng::{Address, Purpose};
use tweedie::sampler::{self, Grid, Run, SamplerKind, SamplerOptions, StepNoise};
use tweedie::tensor::Tensor;

const NOTES: &str = "One step of the whole batch. overhead: the step without the network; of step: its share of the step with the \
network.\nreverse_step: the one pass over memory inside it (GB/s beside the memory's; the arrays fit the cache).";

/// Images of a batch.
const BATCH: usize = 64;
/// Steps of a measured run.
const STEPS: usize = 10;

/// A denoiser whose network has answered already.
struct Ready {
    net_out: Tensor,
    prediction: Prediction,
}

impl Denoiser for Ready {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        Ok(Estimate {
            x_t: x_t.clone(),
            net_out: self.net_out.clone(),
            x0: x0_coefficients(self.prediction, at)?,
            eps: eps_coefficients(self.prediction, at)?,
            clip: None,
            x0_hat: None,
        })
    }
}

fn main() -> Result<()> {
    let mut bench = Bench::new("sampler");
    let data = Dataset::load("digits", 0)?;
    let [h, w, c] = data.shape();
    let config = TrainConfig::preset("digits")?;
    let scheduler = config.scheduler()?;
    let unet = UNet::new(&config.unet(&data)?)?;
    let params = initialise(unet.specs(), 0)?;
    let labels: Vec<u32> = (0..BATCH as u32).map(|i| i % 10).collect();
    let mut values = vec![0.0_f32; BATCH * h * w * c];
    Address::new(0, Purpose::Start).fill_normal(&mut values);
    let x = Tensor::from_slice(&values, [BATCH, h, w, c])?;
    let prediction = scheduler.prediction;
    let network = NetworkDenoiser { unet: &unet, params: &params, scheduler: &scheduler, class_labels: Some(&labels) };
    let network = Threshold { inner: network, config: &scheduler };
    let ready = Threshold { inner: Ready { net_out: x.clone(), prediction }, config: &scheduler };
    let flops = BATCH as f64 * UNetFlops::of(&unet, [h, w]).forward();
    for (kind, name) in [(SamplerKind::Ddim, "ddim"), (SamplerKind::Ddpm, "ddpm")] {
        let name = format!("{name} step digits {BATCH}x{h}x{w}x{c}");
        let step = sampler_step(&mut bench, &name, kind, &scheduler, &network, &x, Work::Flops(flops))?;
        if let Some(seconds) = step {
            let extra = vec![(BATCH as f64 / seconds, "images/s a step")];
            bench.push(Row { name: name.clone(), seconds, work: Work::Flops(flops), naive: None, extra });
        }
        let name = format!("{name} overhead");
        if let Some(seconds) = sampler_step(&mut bench, &name, kind, &scheduler, &ready, &x, Work::Uncounted)? {
            let extra = step.map(|step| (100.0 * seconds / step, "% of step")).into_iter().collect();
            bench.push(Row { name, seconds, work: Work::Uncounted, naive: None, extra });
        }
        reverse_step(&mut bench, kind, &x, step)?;
    }
    bench.finish(NOTES)
}

/// Seconds of one of the [`STEPS`] steps of a run.
fn sampler_step(
    bench: &mut Bench,
    name: &str,
    kind: SamplerKind,
    scheduler: &SchedulerConfig,
    denoiser: &dyn Denoiser,
    x: &Tensor,
    work: Work,
) -> Result<Option<f64>> {
    let process = scheduler.process()?;
    let grid = match kind {
        SamplerKind::Ddim => Grid::ddim(scheduler, &process, STEPS)?,
        _ => Grid::ddpm(scheduler, &process, STEPS)?,
    };
    let samples: Vec<u32> = (0..BATCH as u32).collect();
    Ok(bench.measure(name, work, || {
        let mut run = Run::new(denoiser, StepNoise::Drawn(Address::new(0, Purpose::ReverseStep)), &samples);
        let x = x.clone();
        let begin = Instant::now();
        sampler::sample(
            kind,
            &mut run,
            x,
            &grid,
            &SamplerOptions { variance: scheduler.variance, ..Default::default() },
        )?;
        Ok(begin.elapsed() / STEPS as u32)
    }))
}

/// The op alone, with noise for DDPM; `step` is the time of a step with the network.
fn reverse_step(bench: &mut Bench, kind: SamplerKind, x: &Tensor, step: Option<f64>) -> Result<()> {
    let noise = if kind == SamplerKind::Ddpm { 0.1 } else { 0.0 };
    let name = format!("{} reverse_step alone", if noise > 0.0 { "ddpm" } else { "ddim" });
    let scalars = ReverseStep {
        from_x: 1.25,
        from_out: -0.75,
        clip: Some(1.0),
        to_x: 0.9,
        to_x0: 0.1,
        to_out: 0.0,
        to_past: 0.0,
        noise,
    };
    let address = Address::new(0, Purpose::ReverseStep);
    let samples: Vec<u32> = (0..BATCH as u32).collect();
    let work = Work::Bytes(12.0 * x.count() as f64);
    let measured = bench.measure(&name, work, || {
        let begin = Instant::now();
        let next =
            ops::reverse_step(x, x, StepInputs::default(), &scalars, Noise::Drawn { address, samples: &samples })?;
        let time = begin.elapsed();
        drop(next);
        Ok(time)
    });
    if let Some(seconds) = measured {
        let extra = step.map(|step| (100.0 * seconds / step, "% of step")).into_iter().collect();
        bench.push(Row { name, seconds, work, naive: None, extra });
    }
    Ok(())
}
