//! Sampling with a network: batches, classes, starts and noise by address.

use super::guide::{Guidance, Known, Prepared};
use crate::denoiser::{NetworkDenoiser, Threshold};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{ClassEmbed, Params, UNet};
use crate::process::{Level, Process, SchedulerConfig, Spacing, Variance};
use crate::rng::{Address, Purpose};
use crate::sampler::{self, Grid, GridKind, Resampling, Run, SamplerKind, SamplerOptions, StepNoise};
use crate::tensor::Tensor;
use std::sync::Arc;
use std::time::Instant;

/// Which class each sample has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Sample i has class i modulo their number; a model without classes ignores it.
    #[default]
    Cycle,
    /// All have this one.
    Index(usize),
    /// The null class.
    Null,
}

/// What to sample.
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// The sampler.
    pub sampler: SamplerKind,
    /// Steps; at most T for spacings of DDPM's times. rk45 chooses its own.
    pub steps: usize,
    /// How the levels are chosen; the sampler's usual way if not said.
    pub spacing: Option<GridKind>,
    /// DDPM's variance; the scheduler's own if not said.
    pub variance: Option<Variance>,
    /// What the sampler can be told beside that.
    pub settings: SamplerOptions,
    /// Images.
    pub count: usize,
    /// Classes.
    pub class: Class,
    /// Seed of start and noise.
    pub seed: u64,
    /// Images per network evaluation; the result does not depend on it.
    pub batch: usize,
    /// The start x_T `[count,h,w,c]` instead of noise by address.
    pub init: Option<Tensor>,
    /// The noise of each step, `[count,h,w,c]` each, instead of noise by address.
    pub noise: Option<Vec<Tensor>>,
    /// Keep every x_t and x0_hat.
    pub trajectory: bool,
    /// What pulls the samples towards their classes.
    pub guidance: Guidance,
    /// What is known of the samples.
    pub known: Option<Known>,
    /// How often stretches of steps are taken again, so that what is known and what is drawn agree.
    pub resampling: Resampling,
}

impl Default for SampleOptions {
    fn default() -> SampleOptions {
        SampleOptions {
            sampler: SamplerKind::Ddpm,
            steps: 50,
            spacing: None,
            variance: None,
            settings: SamplerOptions::default(),
            count: 16,
            class: Class::Cycle,
            seed: 0,
            batch: 64,
            init: None,
            noise: None,
            trajectory: false,
            guidance: Guidance::None,
            known: None,
            resampling: Resampling::default(),
        }
    }
}

/// Finished samples.
pub struct Samples {
    /// `[count,h,w,c]` in about [−1, 1].
    pub x0: Tensor,
    /// The start, `[count,h,w,c]`.
    pub x_t: Tensor,
    /// Class of each, for a class-conditional model (its last class is the null class), or one that a classifier guides.
    pub class_labels: Option<Vec<u32>>,
    /// Every state `[count,h,w,c]`, noisiest first, if asked for.
    pub states: Vec<Tensor>,
    /// Every estimate x0_hat, noisiest first, if asked for.
    pub x0_hats: Vec<Tensor>,
    /// Network evaluations per sample.
    pub nfe: usize,
    /// Seconds, loading not included.
    pub seconds: f64,
}

/// A network to sample from.
#[derive(Clone, Copy)]
pub struct Network<'a> {
    /// The network.
    pub unet: &'a UNet,
    /// Its weights.
    pub params: &'a Params,
    /// Its schedule and bounds.
    pub scheduler: &'a SchedulerConfig,
    /// Whether the last row of its class table is the null class, as in models that `train` writes.
    pub has_null_class: bool,
    /// How often the null class stood for a label in training.
    pub p_uncond: f64,
}

/// The grid that a sampler runs on if nothing is said: diffusers' for ddpm and ddim; on DDPM's table equal
/// steps of log-SNR for euler_maruyama, and the times from the last in equal steps for the others; equal steps of time for continuous
/// processes.
fn grid(network: &Network<'_>, process: &Arc<dyn Process>, options: &SampleOptions) -> Result<Grid> {
    let scheduler = network.scheduler;
    // rk45 sees the ends alone.
    let steps = if options.sampler == SamplerKind::Rk45 { 2 } else { options.steps };
    match (&options.spacing, options.sampler, process.discrete()) {
        (Some(GridKind::Tau(tau)), ..) => Grid::new(scheduler, process, &GridKind::Tau(tau.clone()), tau.len()),
        (Some(kind), ..) => Grid::new(scheduler, process, kind, steps),
        (None, SamplerKind::Ddpm, Some(_)) => Grid::ddpm(scheduler, process, steps),
        (None, SamplerKind::Ddim, Some(_)) => Grid::ddim(scheduler, process, steps),
        (None, SamplerKind::Rk45, _) | (None, _, None) => Grid::new(scheduler, process, &GridKind::Uniform, steps),
        // Its steps must be short where the table is steep.
        (None, SamplerKind::EulerMaruyama, Some(_)) => Grid::new(scheduler, process, &GridKind::LogSnr, steps),
        (None, _, Some(_)) => Grid::new(scheduler, process, &GridKind::Times(Spacing::Trailing), steps),
    }
}

/// Draws samples of `[h, w, c]` from a network; see [`super::Pipeline::sample_with`].
///
/// # Errors
/// [`Error::Usage`] for options that do not fit the model.
pub fn sample_network(
    network: &Network<'_>,
    [h, w, c]: [usize; 3],
    options: &SampleOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Samples> {
    let count = options.count;
    check_size(options, [h, w, c])?;
    check_variance(network, options)?;
    let labels = class_labels(network, options)?;
    let process = network.scheduler.process()?;
    let grid = grid(network, &process, options)?;
    let x_t = start(options, [count, h, w, c], &*process)?;
    check_noise(options, grid.steps().len(), x_t.shape())?;
    if let Some(known) = &options.known {
        known.check([h, w, c])?;
    }
    run_batches(network, options, labels, x_t, false, &grid, progress)
}

/// Runs a deterministic sampler backwards from the images `x0` `[count,h,w,c]`; see [`super::Pipeline::encode`].
///
/// # Errors
/// [`Error::Usage`] for a sampler that draws noise, or options that do not fit the model.
pub fn encode_network(
    network: &Network<'_>,
    x0: &Tensor,
    options: &SampleOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Samples> {
    let [_, h, w, c] = x0.shape().nhwc().unwrap_or_default();
    check_size(options, [h, w, c])?;
    let labels = class_labels(network, options)?;
    let process = network.scheduler.process()?;
    let grid = grid(network, &process, options)?;
    let x0_given = x0.clone();
    let mut samples = run_batches(network, options, labels, x0_given, true, &grid, progress)?;
    // What came out is x_T, what went in is x0.
    std::mem::swap(&mut samples.x0, &mut samples.x_t);
    Ok(samples)
}

/// Runs the sampler over `start`, a batch at a time, on the device of the weights; the results are on the host.
fn run_batches(
    network: &Network<'_>,
    options: &SampleOptions,
    labels: Option<Vec<u32>>,
    start: Tensor,
    backwards: bool,
    grid: &Grid,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Samples> {
    let begin = Instant::now();
    let device = network.params.device();
    let count = start.shape().first().copied().unwrap_or(0);
    let variance = options.variance.unwrap_or(network.scheduler.variance);
    // As diffusers has it.
    let noise_at_end = options.settings.noise_at_end || grid.skips_time_zero();
    let settings = SamplerOptions { variance, noise_at_end, ..options.settings.clone() };
    let batches = count.div_ceil(options.batch);
    let (mut parts, mut nfe) = (Vec::new(), 0);
    let mut trajectory: Vec<Vec<(Tensor, Tensor)>> = Vec::new();
    let targets = targets(options, count)?;
    let guide = Prepared::new(network, options, labels.as_deref(), &targets)?;
    for b in 0..batches {
        let first = b * options.batch;
        let n = options.batch.min(count - first);
        let samples: Vec<u32> = (first as u32..(first + n) as u32).collect();
        let doubled = guide.labels_of_both(first, n);
        let inner = NetworkDenoiser {
            unet: network.unet,
            params: network.params,
            scheduler: network.scheduler,
            class_labels: labels.as_deref().map(|l| &l[first..first + n]),
        };
        let denoiser = Threshold { inner: guide.denoiser(inner, &doubled, first, n), config: network.scheduler };
        let known = options.known.as_ref().map(|known| known.projection(n, device)).transpose()?;
        let given = match &options.noise {
            Some(list) => Some(list.iter().map(|z| z.rows(first, n)?.to_device(device)).collect::<Result<Vec<_>>>()?),
            None => None,
        };
        let noise = match &given {
            Some(list) => StepNoise::Given(list),
            None => StepNoise::Drawn(Address::new(options.seed, Purpose::ReverseStep)),
        };
        let mut states = Vec::new();
        let mut run = Run::new(&denoiser, noise, &samples).with_callback(|p| {
            if options.trajectory {
                states.push((p.x.to_device(Device::Cpu)?, p.estimate.x0_hat()?.to_device(Device::Cpu)?));
            }
            progress(b * p.steps + p.step + 1, batches * p.steps);
            Ok(())
        });
        if let Some(known) = &known {
            run = run.with_projection(&**known, Address::new(options.seed, Purpose::Known));
        }
        let x = start.rows(first, n)?.to_device(device)?;
        let x = match backwards {
            false => sampler::sample_again(options.sampler, &mut run, x, grid, &settings, options.resampling)?,
            true => sampler::encode(options.sampler, &mut run, x, grid, &settings)?,
        };
        // A grid may end before clean data; what is known is known all the same.
        let x = match &known {
            Some(known) => known.project(x, Level::CLEAN, &mut |known| Ok(known.clone()))?,
            None => x,
        };
        parts.push(x.to_device(Device::Cpu)?);
        // rk45 takes as many steps as the hardest sample wants.
        nfe = nfe.max(run.nfe());
        drop(run);
        trajectory.push(states);
    }
    let join = |tensors: &[Tensor]| Tensor::stack_rows(tensors, start.shape());
    let x0 = join(&parts)?;
    let seconds = begin.elapsed().as_secs_f64();
    let (mut states, mut x0_hats) = (Vec::new(), Vec::new());
    if options.trajectory {
        states.push(start.clone());
        for step in 0..trajectory.first().map_or(0, Vec::len) {
            let (x, x0): (Vec<_>, Vec<_>) = trajectory.iter().map(|states| states[step].clone()).unzip();
            states.push(join(&x)?);
            x0_hats.push(join(&x0)?);
        }
    }
    if !x0.is_finite()? {
        return Err(Error::NonFinite(
            "sample: the result holds numbers that are not finite; are the weights sound?".into(),
        ));
    }
    let class_labels = labels.or((!targets.is_empty()).then_some(targets));
    Ok(Samples { x0, x_t: start, class_labels, states, x0_hats, nfe, seconds })
}

/// Refuses counts whose images alone would take more than 8 GiB.
fn check_size(options: &SampleOptions, [h, w, c]: [usize; 3]) -> Result<()> {
    const MOST: usize = 1 << 31;
    for (flag, value) in [("--count", options.count), ("--batch", options.batch)] {
        if value == 0 {
            return Err(Error::Usage(format!("{flag} 0: expected at least 1")));
        }
    }
    let most = MOST / (h * w * c).max(1);
    if options.count > most {
        let count = options.count;
        return Err(Error::Usage(format!("--count {count}: expected at most {most} images of {h}x{w}x{c} at a time")));
    }
    Ok(())
}

/// Refuses a learned variance of a network that has none to say; samplers but ddpm have no use for one.
fn check_variance(network: &Network<'_>, options: &SampleOptions) -> Result<()> {
    let variance = options.variance.unwrap_or(network.scheduler.variance);
    let (c_in, c_out) = (network.unet.config().in_channels, network.unet.config().out_channels);
    if options.sampler == SamplerKind::Ddpm && variance == Variance::LearnedRange && c_out != 2 * c_in {
        return Err(Error::Usage(format!(
            "--variance learned: the network predicts no variance (out_channels = {c_out}, expected {}); use --variance small or large",
            2 * c_in
        )));
    }
    Ok(())
}

/// The class that a classifier shall find in each sample; none without a classifier.
fn targets(options: &SampleOptions, count: usize) -> Result<Vec<u32>> {
    let Guidance::Classifier { classifier, .. } = &options.guidance else { return Ok(Vec::new()) };
    let classes = classifier.classes();
    match options.class {
        Class::Cycle => Ok((0..count).map(|i| (i % classes) as u32).collect()),
        Class::Index(k) if k < classes => Ok(vec![k as u32; count]),
        Class::Index(k) => Err(Error::Usage(format!("--class {k}: the classifier has classes 0 to {}", classes - 1))),
        Class::Null => Err(Error::Usage(
            "--class none: gives a classifier nothing to guide towards; name a class or leave --class out".into(),
        )),
    }
}

fn class_labels(network: &Network<'_>, options: &SampleOptions) -> Result<Option<Vec<u32>>> {
    let rows = match network.unet.config().class_embed {
        ClassEmbed::Table(rows) => rows,
        ClassEmbed::None => {
            return match options.class {
                // The classifier's, not the network's.
                Class::Index(_) if matches!(options.guidance, Guidance::Classifier { .. }) => Ok(None),
                Class::Cycle | Class::Null => Ok(None),
                Class::Index(k) => {
                    Err(Error::Usage(format!("--class {k}: the model has no classes; leave --class out")))
                }
            };
        }
        ClassEmbed::Timestep | ClassEmbed::Identity => {
            return Err(Error::Usage(
                "sample: models with class_embed_type cannot be sampled here; use eval --forward".into(),
            ));
        }
    };
    let classes = if network.has_null_class { rows - 1 } else { rows };
    let label = |i: usize| match options.class {
        // A model whose labels were all dropped knows the null class alone.
        Class::Cycle | Class::Index(_) if network.has_null_class && network.p_uncond == 1.0 => Ok(classes as u32),
        Class::Cycle => Ok((i % classes.max(1)) as u32),
        Class::Null if network.has_null_class => Ok(classes as u32),
        Class::Null => Err(Error::Usage("--class none: the model has no null class".into())),
        Class::Index(k) if k < classes => Ok(k as u32),
        Class::Index(k) => {
            let numbers =
                if classes > 0 { format!("classes 0 to {}", classes - 1) } else { "no numbered classes".into() };
            let null = if network.has_null_class { ", and none for the null class" } else { "" };
            Err(Error::Usage(format!("--class {k}: the model has {numbers}{null}")))
        }
    };
    (0..options.count).map(label).collect::<Result<Vec<_>>>().map(Some)
}

fn start(options: &SampleOptions, shape: [usize; 4], process: &dyn Process) -> Result<Tensor> {
    if let Some(init) = &options.init {
        if init.shape()[..] != shape {
            let (want, got) = (crate::tensor::Shape::from(shape), init.shape());
            return Err(Error::Usage(format!("--init: x_T wants {want} (--count images of the model), got {got}")));
        }
        return Ok(init.clone());
    }
    sampler::start(process, options.seed, shape)
}

fn check_noise(options: &SampleOptions, steps: usize, shape: crate::tensor::Shape) -> Result<()> {
    let Some(list) = &options.noise else { return Ok(()) };
    if options.sampler.is_deterministic(&options.settings) && options.sampler != SamplerKind::Ddim {
        let name = options.sampler.name();
        return Err(Error::Usage(format!("--noise: {name} adds no noise; leave it out")));
    }
    if list.len() < steps {
        let (got, want) = (list.len(), steps);
        return Err(Error::Usage(format!(
            "--noise: {want} steps want z_0000 to z_{:04}, the file has {got}",
            want - 1
        )));
    }
    match list.iter().position(|z| z.shape() != shape) {
        None => Ok(()),
        Some(i) => {
            let got = list[i].shape();
            Err(Error::Usage(format!("--noise: z_{i:04} wants {shape} (--count images of the model), got {got}")))
        }
    }
}
