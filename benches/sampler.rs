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
use rayon::prelude::*;
use std::process::ExitCode;
use std::time::Instant;
use tweedie::Result;
use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::denoiser::{Denoiser, Estimate, NetworkDenoiser, Threshold, eps_coefficients, x0_coefficients};
use tweedie::nn::{UNet, UNetConfig, initialise};
use tweedie::ops::{self, Noise, ReverseStep, StepInputs};
use tweedie::process::{Level, Prediction, SchedulerConfig};
use tweedie::rng::{Address, Purpose};
use tweedie::sampler::{self, Grid, GridKind, Run, SamplerKind, SamplerOptions, StepNoise};
use tweedie::tensor::Tensor;

const NOTES: &str = "step: one step of the whole batch with its network. overhead: the same without the network; of step: its share of a step.\n\
reverse_step: the one pass over memory inside it, beside a copy of as many bytes by as many threads (of copy: its share of the copy's GB/s).";

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
            variance: None,
            is_guided: false,
        })
    }
}

/// A batch and the preset whose network it goes through.
struct Case {
    preset: &'static str,
    shape: [usize; 4],
}

const CASES: [Case; 2] =
    [Case { preset: "digits", shape: [64, 8, 8, 1] }, Case { preset: "small", shape: [16, 32, 32, 3] }];

const USAGE: &str = "cargo bench --bench sampler [-- NAME] [--quick | --list]   the steps whose name contains NAME";

fn main() -> ExitCode {
    common::main(USAGE, run)
}

fn run() -> Result<()> {
    let mut bench = Bench::new("sampler");
    for case in &CASES {
        samplers(&mut bench, case)?;
    }
    for shape in [[16, 32, 32, 3], [64, 256, 256, 3]] {
        reverse_step(&mut bench, shape)?;
    }
    bench.finish(NOTES)
}

fn normal(shape: [usize; 4]) -> Result<Tensor> {
    let mut values = vec![0.0_f32; shape.iter().product()];
    Address::new(0, Purpose::Start).fill_normal(&mut values);
    Tensor::from_slice(&values, shape)
}

/// Every sampler's step without its network, beside a DDIM step with it.
fn samplers(bench: &mut Bench, case: &Case) -> Result<()> {
    let [n, h, w, c] = case.shape;
    let data = Dataset::load("digits", 0)?;
    let config = TrainConfig { class_conditional: false, ..TrainConfig::preset(case.preset)? };
    let scheduler = config.scheduler()?;
    let unet = UNetConfig { in_channels: c, out_channels: c, sample_size: Some([h, w]), ..config.unet(&data)? };
    let unet = UNet::new(&unet)?;
    let params = initialise(unet.specs(), 0)?;
    let x = normal(case.shape)?;
    let network = NetworkDenoiser { unet: &unet, params: &params, scheduler: &scheduler, class_labels: None };
    let network = Threshold { inner: network, config: &scheduler };
    let ready = Ready { net_out: x.clone(), prediction: scheduler.prediction };
    let ready = Threshold { inner: ready, config: &scheduler };
    let flops = n as f64 * UNetFlops::of(&unet, [h, w]).forward();
    let size = format!("{} {n}x{h}x{w}x{c}", case.preset);
    let name = format!("ddim step {size}");
    let step = sampler_step(bench, &name, SamplerKind::Ddim, &scheduler, &network, &x, Work::Flops(flops))?;
    if let Some(seconds) = step {
        let extra = vec![(n as f64 / seconds, "images/s a step")];
        bench.push(Row { name, seconds, work: Work::Flops(flops), naive: None, extra });
    }
    for kind in SamplerKind::ALL.into_iter().filter(|kind| *kind != SamplerKind::Rk45) {
        let name = format!("{} overhead {size}", kind.name());
        if let Some(seconds) = sampler_step(bench, &name, kind, &scheduler, &ready, &x, Work::Uncounted)? {
            let extra = step.map(|step| (100.0 * seconds / step, "% of step")).into_iter().collect();
            bench.push(Row { name, seconds, work: Work::Uncounted, naive: None, extra });
        }
    }
    Ok(())
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
    let grid = Grid::new(scheduler, &process, &GridKind::LogSnr, STEPS)?;
    let samples: Vec<u32> = (0..x.shape()[0] as u32).collect();
    Ok(bench.measure(name, work, || {
        let mut run = Run::new(denoiser, StepNoise::Drawn(Address::new(0, Purpose::ReverseStep)), &samples);
        let x = x.clone();
        let begin = Instant::now();
        sampler::sample(kind, &mut run, x, &grid, &SamplerOptions::default())?;
        Ok(begin.elapsed() / STEPS as u32)
    }))
}

/// The op alone, without and with noise, beside a copy of the same traffic: two arrays read and one written.
fn reverse_step(bench: &mut Bench, shape: [usize; 4]) -> Result<()> {
    let [n, h, w, c] = shape;
    let (x, out) = (normal(shape)?, normal(shape)?);
    let work = Work::Bytes(12.0 * x.count() as f64);
    let name = format!("copy {n}x{h}x{w}x{c} 12 bytes each");
    let (from, mut to) = (vec![1.0_f32; x.count() * 3 / 2], vec![0.0_f32; x.count() * 3 / 2]);
    let copy = bench.measure(&name, work, || {
        let begin = Instant::now();
        let part = from.len().div_ceil(rayon::current_num_threads()).max(1 << 14);
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        Ok(begin.elapsed())
    });
    if let Some(seconds) = copy {
        bench.push(Row { name, seconds, work, naive: None, extra: vec![] });
    }
    let address = Address::new(0, Purpose::ReverseStep);
    let samples: Vec<u32> = (0..n as u32).collect();
    for (noise, words) in [(0.0, ""), (0.1, " with noise")] {
        let scalars = ReverseStep {
            from_x: 1.25,
            from_out: -0.75,
            clip: Some(1.0),
            to_x: 0.9,
            to_x0: 0.1,
            noise,
            ..Default::default()
        };
        let name = format!("reverse_step {n}x{h}x{w}x{c}{words}");
        let measured = bench.measure(&name, work, || {
            let begin = Instant::now();
            let drawn = Noise::Drawn { address, samples: &samples };
            let next = ops::reverse_step(&x, &out, StepInputs::default(), &scalars, drawn)?;
            let time = begin.elapsed();
            drop(next);
            Ok(time)
        });
        if let Some(seconds) = measured {
            let extra = copy.map(|copy| (100.0 * copy / seconds, "% of copy")).into_iter().collect();
            bench.push(Row { name, seconds, work, naive: None, extra });
        }
    }
    Ok(())
}
