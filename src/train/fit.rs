//! Training in one call, on data in memory: for examples and experiments. Nothing is saved; for runs that stop and
//! resume there is [`super::train`].

use super::step::{self, Batch};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::loss::{self, Weight, Weighting};
use crate::nn::{Mode, Network, Params, initialise};
use crate::optim::{self, LrSchedule, Moments, UpdateSettings};
use crate::process::{Level, SchedulerConfig};
use crate::rng::{Address, Purpose};
use crate::tape::Grads;
use crate::tensor::{Dtype, Tensor};

/// Settings of [`fit`].
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// Updates.
    pub steps: u64,
    /// Rows of a batch.
    pub batch: usize,
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Updates over which the learning rate rises.
    pub warmup: u64,
    /// How it moves afterwards.
    pub lr_schedule: LrSchedule,
    /// Gradients are scaled down to at most this norm.
    pub grad_clip: f64,
    /// Decay of the moving average.
    pub ema_decay: f64,
    /// Seed of first weights, batches and noise.
    pub seed: u64,
    /// What the error at each level counts.
    pub weight: Weight,
}

impl Default for FitOptions {
    /// What a perceptron on points of the plane wants: about ten seconds on two cores.
    fn default() -> FitOptions {
        FitOptions {
            steps: 2000,
            batch: 256,
            lr: 4e-3,
            warmup: 50,
            lr_schedule: LrSchedule::Cosine,
            grad_clip: 1.0,
            ema_decay: 0.99,
            seed: 0,
            weight: Weight::Simple,
        }
    }
}

/// What [`fit`] returns.
pub struct Fitted {
    /// The averaged weights: those to sample with.
    pub params: Params,
    /// The weighted loss of each step.
    pub losses: Vec<f64>,
}

/// Trains `network` on the rows of `data` and returns the averaged weights.
///
/// Each step draws rows of the data with replacement, a level for each, and noise, and moves the weights against the
/// gradient of the mean of weight·(net_out − target)² (Ho et al. 2020, algorithm 1) by AdamW without weight decay. Equal
/// arguments give equal bits.
///
/// * `data` — x0, `[count, …]`, f32
/// * `scheduler` — the process, and what the network's input, time and output mean
///
/// # Errors
/// [`Error::Shape`] if the data has no rows or does not fit the network; [`Error::Usage`] for a batch of 0 or a process
/// that cannot be; [`Error::NonFinite`] if the loss or a gradient is not finite, with the first op that made such a number.
///
/// # Example
/// ```
/// use tweedie::{data::Toy, nn::{Mlp, MlpConfig}, process::SchedulerConfig, train::{FitOptions, fit}};
///
/// let mlp = Mlp::new(&MlpConfig { width: 32, depth: 1, ..MlpConfig::default() })?;
/// let options = FitOptions { steps: 200, batch: 64, ..FitOptions::default() };
/// let fitted = fit(&mlp, &Toy::Moons.sample(0, 1000)?, &SchedulerConfig::default(), &options)?;
/// assert!(fitted.losses[190..].iter().sum::<f64>() < 0.8 * fitted.losses[..10].iter().sum::<f64>());
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn fit<N: Network>(
    network: &N,
    data: &Tensor,
    scheduler: &SchedulerConfig,
    options: &FitOptions,
) -> Result<Fitted> {
    let process = scheduler.process()?;
    let draw_levels = |step, levels: &mut [Level]| {
        loss::draw_levels(&*process, options.seed, step, levels);
        Ok(())
    };
    fit_levels(network, data, scheduler, draw_levels, options)
}

/// As [`fit`], with levels of the caller's own: of a [`crate::process::Custom`], or of another law than the process's.
///
/// * `draw_levels` — writes the level of each row of a batch, given the step (from 0)
///
/// # Errors
/// As [`fit`]; those of `draw_levels`.
pub fn fit_levels<N: Network>(
    network: &N,
    data: &Tensor,
    scheduler: &SchedulerConfig,
    mut draw_levels: impl FnMut(u64, &mut [Level]) -> Result<()>,
    options: &FitOptions,
) -> Result<Fitted> {
    if options.batch == 0 {
        return Err(Error::Usage("fit: batch = 0: expected at least 1".into()));
    }
    let mut raw = initialise(network.specs(), options.seed)?;
    let mut params = Params::new(network.specs(), raw.tensors().to_vec(), false)?;
    let (mut moments, mut grads) = (Moments::zeros(&raw)?, Grads::new());
    let weighting = Weighting::new(options.weight.clone(), scheduler)?;
    let (mut levels, importance) = (vec![Level::CLEAN; options.batch], vec![1.0; options.batch]);
    let mut losses = Vec::with_capacity(options.steps as usize);
    for index in 0..options.steps {
        draw_levels(index, &mut levels)?;
        let address = Address::new(options.seed, Purpose::TrainNoise).step(index as usize);
        let x0 = draw_rows(data, options.batch, options.seed, index)?;
        let batch = Batch::noised((scheduler, &weighting), x0, (&levels, &importance), address)?;
        let mode = Mode::Training(Address::new(options.seed, Purpose::Dropout).step(index as usize));
        let gradients = |raw: &Params, grads: &mut Grads| {
            step::gradients(raw, grads, || batch.loss(network.net_out(raw, &batch.input, &batch.times, mode)?))
        };
        let outcome = gradients(&raw, &mut grads)?.0;
        let settings = UpdateSettings {
            lr: options.lr_schedule.rate(options.lr, index, options.warmup, options.steps),
            muon: None,
            betas: (0.9, 0.999), // Kingma & Ba 2015, algorithm 1
            adam_eps: 1e-8,
            weight_decay: 0.0,
            grad_clip: options.grad_clip,
            ema_decay: optim::ema_decay(options.ema_decay, index),
        };
        optim::update(&mut raw, &mut params, &mut moments, &grads, &outcome, index + 1, &settings)?;
        let (loss, norm) = outcome.read()?;
        if !loss.is_finite() || !norm.is_finite() {
            let cause = step::explain_non_finite((loss, norm), batch.is_finite(), || gradients(&raw, &mut grads));
            return Err(Error::NonFinite(format!("fit: step {index}: {cause}; try a smaller learning rate")));
        }
        losses.push(loss);
    }
    Ok(Fitted { params, losses })
}

/// `n` rows of `data` with replacement: row i of step s depends on (seed, s, i) alone.
fn draw_rows(data: &Tensor, n: usize, seed: u64, step: u64) -> Result<Tensor> {
    let count = data.shape().first().copied().unwrap_or(0);
    if data.count() == 0 || count == 0 {
        return Err(Error::Shape(format!("fit: data wants [count,…] with no size 0, got {}", data.shape())));
    }
    let row = data.count() / count;
    let mut rows = Tensor::zeros(data.shape().with_rows(n), Dtype::F32, Device::Cpu)?;
    let (from, address) = (data.host::<f32>()?, Address::new(seed, Purpose::Shuffle).step(step as usize));
    for (i, to) in rows.host_mut::<f32>()?.chunks_exact_mut(row).enumerate() {
        to.copy_from_slice(&from[address.sample(i).below(0, count) * row..][..row]);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Toy;
    use crate::denoiser::MlpDenoiser;
    use crate::loss::{ErrorOf, Lambda};
    use crate::nn::{Mlp, MlpConfig};
    use crate::process::{Prediction, ProcessConfig, Spacing, TimeConvention};
    use crate::sampler::{self, Grid, GridKind, Run, SamplerKind, SamplerOptions, StepNoise};

    fn small() -> (Mlp, FitOptions) {
        let mlp = Mlp::new(&MlpConfig { width: 64, depth: 2, ..MlpConfig::default() }).unwrap();
        (mlp, FitOptions { steps: 800, batch: 128, ..FitOptions::default() })
    }

    fn fit_toy(toy: Toy, prediction: Prediction, options: &FitOptions) -> Fitted {
        let scheduler = SchedulerConfig { prediction, ..SchedulerConfig::default() };
        fit(&small().0, &toy.sample(0, 5000).unwrap(), &scheduler, options).unwrap()
    }

    /// Of 800 samples, how many end within three deviations of each of the eight centres.
    fn near_centres(scheduler: &SchedulerConfig, kind: SamplerKind, grid: &GridKind, steps: usize) -> [usize; 8] {
        let (mlp, options) = small();
        let data = Toy::EightGaussians.sample(0, 5000).unwrap();
        let params = fit(&mlp, &data, scheduler, &options).unwrap().params;
        let process = scheduler.process().unwrap();
        let denoiser = MlpDenoiser { mlp: &mlp, params: &params, scheduler };
        let grid = Grid::new(scheduler, &process, grid, steps).unwrap();
        let samples: Vec<u32> = (0..800).collect();
        let mut start = vec![0.0_f32; 1600];
        Address::new(1, Purpose::Start).fill_normal(&mut start);
        start.iter_mut().for_each(|z| *z *= process.prior_std() as f32);
        let mut run = Run::new(&denoiser, StepNoise::Given(&[]), &samples);
        let start = Tensor::from_slice(&start, [800, 2]).unwrap();
        let x0 = sampler::sample(kind, &mut run, start, &grid, &SamplerOptions::default()).unwrap();
        let mut nearby = [0; 8];
        for p in x0.to_vec::<f32>().unwrap().chunks_exact(2) {
            let turn = (p[1].atan2(p[0]) / std::f32::consts::FRAC_PI_4).round().rem_euclid(8.0);
            let (sin, cos) = (turn * std::f32::consts::FRAC_PI_4).sin_cos();
            nearby[turn as usize] += usize::from((p[0] - 1.4 * cos).hypot(p[1] - 1.4 * sin) < 0.3);
        }
        nearby
    }

    #[test]
    fn fitted_networks_sample_the_eight_gaussians_under_three_processes() {
        let own = |continuous, prediction, time_convention| SchedulerConfig {
            continuous: Some(continuous),
            prediction,
            time_convention,
            ..SchedulerConfig::default()
        };
        let edm = ProcessConfig::Edm { sigma_min: 0.002, sigma_max: 80.0, rho: 7.0 };
        let cases = [
            (SchedulerConfig::default(), SamplerKind::Ddim, GridKind::Times(Spacing::Leading), 50),
            (
                own(ProcessConfig::Flow, Prediction::Velocity, TimeConvention::Time),
                SamplerKind::Heun,
                GridKind::Uniform,
                20,
            ),
            (
                own(edm, Prediction::Edm { sigma_data: 1.0 }, TimeConvention::LogSnr),
                SamplerKind::Heun,
                GridKind::Karras,
                18,
            ),
        ];
        for (scheduler, kind, grid, steps) in cases {
            let nearby = near_centres(&scheduler, kind, &grid, steps);
            // Untrained starts of unit variance leave 8·π·0.3²·exp(−1.4²/2)/2π = 13 % so near, 108; each centre's share of
            // all is 100.
            let is_good = nearby.iter().sum::<usize>() > 480 && nearby.iter().all(|n| *n > 40);
            assert!(is_good, "{:?}: {nearby:?}", scheduler.prediction);
        }
    }

    #[test]
    fn equal_arguments_give_equal_bits_and_the_seed_changes_them() {
        let options = FitOptions { steps: 3, ..small().1 };
        let losses = |seed| fit_toy(Toy::Moons, Prediction::V, &FitOptions { seed, ..options.clone() }).losses;
        assert_eq!(losses(0), losses(0));
        assert_ne!(losses(0)[0], losses(1)[0]);
    }

    #[test]
    fn weights_scale_the_loss() {
        let options = FitOptions { steps: 1, ..small().1 };
        let loss = |weight| fit_toy(Toy::Moons, Prediction::X0, &FitOptions { weight, ..options.clone() }).losses[0];
        let half = Weight::Custom { of: ErrorOf::X0, lambda: Lambda::new(|_| 0.5) };
        let (whole, half) = (loss(Weight::Simple), loss(half));
        assert!((half / whole - 0.5).abs() < 1e-6, "{half} of {whole}");
    }

    #[test]
    fn wrong_data_batches_and_numbers_are_named() {
        let (mlp, options) = small();
        let fitted = |data: &Tensor, batch| {
            let options = FitOptions { batch, ..options.clone() };
            let scheduler = SchedulerConfig::default();
            let level = scheduler.process().unwrap().draw(0.5);
            let half = |_, levels: &mut [Level]| {
                levels.fill(level);
                Ok(())
            };
            fit_levels(&mlp, data, &scheduler, half, &options).err().unwrap().to_string()
        };
        let data =
            |value: f32, shape: [usize; 2]| Tensor::from_slice(&vec![value; shape[0] * shape[1]], shape).unwrap();
        assert_eq!(fitted(&data(0.0, [4, 2]), 0), "fit: batch = 0: expected at least 1");
        assert_eq!(fitted(&data(0.0, [0, 2]), 8), "fit: data wants [count,…] with no size 0, got [0,2]");
        assert_eq!(fitted(&data(0.0, [4, 3]), 8), "mlp: x wants [n,2] with n at least 1, got [8,3]");
        let text = fitted(&data(f32::NAN, [4, 2]), 8);
        assert!(text.starts_with("fit: step 0: loss is NaN; the batch itself holds numbers"), "{text}");
        assert!(fitted(&data(1e38, [4, 2]), 8).contains("first non-finite value came from"), "no op was named");
    }
}
