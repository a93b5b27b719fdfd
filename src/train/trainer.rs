//! The state of a run and one training step.

use super::step::Batch;
use crate::config::TrainConfig;
use crate::data::{Dataset, Loader};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::loss::{self, DrawnTimes, TimeSampler, Weighting};
use crate::nn::{ClassEmbed, ClassInput, Mode, Params, Precision, UNet, initialise};
use crate::optim::{self, LrSchedule, Moments, Outcome, UpdateSettings};
use crate::process::{Process, SchedulerConfig, Variance};
use crate::rng::{Address, Purpose};
use crate::tape::{Grads, profile};
use crate::tensor::{Dtype, Tensor};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Index of the step, from 0.
    pub step: u64,
    /// Mean squared error of the network's prediction, weighted as the run's settings say.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Seconds this step took.
    pub step_seconds: f64,
    /// Images per second of this step.
    pub images_per_second: f64,
    /// Validation loss of the averaged weights, on the steps where it is computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

/// Network, weights, averages, moments and counters: everything that a checkpoint holds, and the data.
pub struct Trainer<'a> {
    pub(super) config: TrainConfig,
    pub(super) dataset: &'a Dataset,
    pub(super) unet: UNet,
    pub(super) raw: Params,
    pub(super) ema: Params,
    pub(super) moments: Moments,
    pub(super) step: u64,
    pub(super) scheduler: SchedulerConfig,
    pub(super) process: Arc<dyn Process>,
    /// With the history that it draws by.
    pub(super) times: TimeSampler,
    weighting: Weighting,
    /// Of the data set, so that a checkpoint need not read it again.
    pub(super) fingerprint: String,
    lr_schedule: LrSchedule,
    loader: Loader<'a>,
    grads: Grads,
    last_loss: Option<f64>,
    // Reused by every step.
    drawn: DrawnTimes,
    labels: Vec<u32>,
}

impl<'a> Trainer<'a> {
    /// A run at step 0, its weights on `device`: everything of a step but the batch happens there.
    ///
    /// # Errors
    /// [`Error::Usage`] and [`Error::Data`] for settings that do not fit the data; [`Error::Device`] if the device cannot be used.
    pub fn new(config: &TrainConfig, dataset: &'a Dataset, device: Device) -> Result<Trainer<'a>> {
        if config.batch > dataset.train().len() {
            let (batch, count) = (config.batch, dataset.train().len());
            return Err(Error::Usage(format!(
                "--batch {batch}: the data set \"{}\" has {count} training images; choose at most that",
                config.data
            )));
        }
        let precision = Precision::from_name(&config.precision)?;
        let unet = UNet::new(&config.unet(dataset)?)?.with_recompute(config.recompute).with_precision(precision);
        let raw = initialise(unet.specs(), config.seed)?.to_device(device)?;
        let ema = Params::new(unet.specs(), raw.tensors().to_vec(), false)?;
        let moments = Moments::zeros(&raw)?;
        let scheduler = config.scheduler()?;
        let process = scheduler.process()?;
        Ok(Trainer {
            config: config.clone(),
            dataset,
            unet,
            raw,
            ema,
            moments,
            step: 0,
            scheduler,
            process,
            fingerprint: dataset.fingerprint(),
            lr_schedule: LrSchedule::from_name(&config.lr_schedule)?,
            loader: Loader::new(dataset, config.seed, config.batch)?,
            grads: Grads::new(),
            last_loss: None,
            times: config.time_sampler()?,
            weighting: config.weighting()?,
            drawn: DrawnTimes::default(),
            labels: vec![0; config.batch],
        })
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.raw.device()
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Scalars in the network.
    pub fn parameter_count(&self) -> usize {
        self.raw.count()
    }

    /// Whether labels condition the network.
    pub fn is_class_conditional(&self) -> bool {
        self.unet.config().class_embed != ClassEmbed::None
    }

    /// The label of the null class, for a class-conditional network.
    pub fn null_class(&self) -> Option<u32> {
        match self.unet.config().class_embed {
            ClassEmbed::Table(rows) => Some(rows as u32 - 1),
            _ => None,
        }
    }

    /// Draws a batch, and moves weights, moments and averages one step.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the loss or a gradient is not finite: nothing is changed, and the text names the first op
    /// that made such a number.
    pub fn train_step(&mut self) -> Result<StepReport> {
        let begin = Instant::now();
        let batch = self.draw_batch()?;
        profile::lap("batch");
        let (outcome, errors) = self.gradients(&batch)?;
        profile::lap("gradient norm");
        let c = &self.config;
        let lr = self.lr_schedule.rate(c.lr, self.step, c.warmup_steps, c.steps);
        let settings = UpdateSettings {
            lr,
            betas: (c.beta1, c.beta2),
            adam_eps: c.adam_eps,
            weight_decay: c.weight_decay,
            grad_clip: c.grad_clip,
            ema_decay: optim::ema_decay(c.ema_decay, self.step),
        };
        let update = self.step + 1;
        optim::update(&mut self.raw, &mut self.ema, &mut self.moments, &self.grads, &outcome, update, &settings)?;
        profile::lap("adamw");
        // The first look at what the device did: nothing was changed if these are not finite.
        let (loss, norm) = outcome.read()?;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(self.explain_non_finite(&batch, loss, norm));
        }
        self.grads.clear();
        self.last_loss = Some(loss);
        self.record_losses(&batch, &errors)?;
        let seconds = begin.elapsed().as_secs_f64();
        let report = StepReport {
            step: self.step,
            loss,
            grad_norm: norm,
            lr,
            step_seconds: seconds,
            images_per_second: self.config.batch as f64 / seconds,
            val_loss: None,
        };
        self.step += 1;
        Ok(report)
    }

    fn draw_batch(&mut self) -> Result<Batch> {
        let (seed, step, n) = (self.config.seed, self.step, self.config.batch);
        let [h, w, c] = self.dataset.shape();
        let mut x0 = Tensor::zeros([n, h, w, c], Dtype::F32, Device::Cpu)?;
        if let Some(null) = self.null_class() {
            self.loader.fill(step, x0.host_mut()?, &mut self.labels)?;
            loss::drop_labels(&mut self.labels, null, self.config.p_uncond, seed, step);
        } else {
            self.loader.fill(step, x0.host_mut()?, &mut [])?;
        }
        self.times.redraw(seed, step, n, &mut self.drawn);
        let address = Address::new(seed, Purpose::TrainNoise).step(step as usize);
        let drawn = (&self.drawn.levels[..], &self.drawn.importance[..]);
        let batch = Batch::noised((&self.scheduler, &self.weighting), x0.to_device(self.device())?, drawn, address)?;
        if self.scheduler.variance != Variance::LearnedRange {
            return Ok(batch);
        }
        // Levels 0 to the largest value lie evenly on [−1, 1].
        let half_bin = 1.0 / f64::from(self.dataset.max_value());
        batch.with_bounds(&self.weighting, drawn, (self.config.vlb_share, half_bin))
    }

    /// Tells the times where the loss was large: the weighted errors of the batch that was drawn last, before their importance.
    fn record_losses(&mut self, batch: &Batch, errors: &Tensor) -> Result<()> {
        if self.times.is_loss_aware() {
            let errors = errors.to_device(Device::Cpu)?.to_vec::<f64>()?;
            let weights = batch.weights.iter().zip(&self.drawn.importance);
            let losses =
                errors.iter().zip(weights).map(|(error, (weight, importance))| error * f64::from(*weight) / importance);
            self.times.record(&self.drawn, &losses.collect::<Vec<f64>>());
        }
        Ok(())
    }

    /// Fills `self.grads`; returns the loss and the norm of the gradients, and the error of each image.
    fn gradients(&mut self, batch: &Batch) -> Result<(Outcome, Tensor)> {
        let mode = Mode::Training(Address::new(self.config.seed, Purpose::Dropout).step(self.step as usize));
        let labels = self.is_class_conditional().then_some(ClassInput::Labels(&self.labels));
        let net_out = || self.unet.forward(&self.raw, &batch.input, &batch.times, labels, mode);
        batch.gradients(&self.raw, &mut self.grads, net_out)
    }

    /// Runs the step again while every number is checked.
    fn explain_non_finite(&mut self, batch: &Batch, loss: f64, norm: f64) -> Error {
        let cause = batch.explain_non_finite(loss, norm, || self.gradients(batch));
        let last = self.last_loss.map_or("no finite loss before it".into(), |l| format!("last finite loss {l:.4}"));
        self.grads.clear();
        Error::NonFinite(format!(
            "step {}: {cause}; {last}; the last checkpoint is intact, try --resume with a smaller --lr",
            self.step
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> TrainConfig {
        TrainConfig {
            batch: 4,
            block_out_channels: vec![8, 8],
            attention_head_dim: 4,
            norm_num_groups: 4,
            ..TrainConfig::preset("digits").unwrap()
        }
    }

    #[test]
    fn a_weight_that_is_not_finite_stops_the_step_names_the_op_and_changes_nothing() {
        let data = Dataset::load("digits", 0).unwrap();
        let mut trainer = Trainer::new(&tiny(), &data, Device::Cpu).unwrap();
        trainer.train_step().unwrap();
        let index = trainer.unet.specs().iter().position(|s| s.name == "mid_block.attentions.0.to_q.weight").unwrap();
        trainer.raw.tensors_mut()[index].host_mut::<f32>().unwrap()[0] = f32::NAN;
        let before: Vec<Vec<f32>> = trainer.ema.tensors().iter().map(|t| t.to_vec().unwrap()).collect();
        let error = trainer.train_step().unwrap_err().to_string();
        assert!(
            error
                .starts_with("step 1: loss is NaN; first non-finite value came from linear at mid_block.attentions.0;"),
            "{error}"
        );
        assert!(error.contains("last finite loss"), "{error}");
        let after: Vec<Vec<f32>> = trainer.ema.tensors().iter().map(|t| t.to_vec().unwrap()).collect();
        assert!(before == after && trainer.step() == 1);
    }

    #[test]
    fn every_parameter_has_a_gradient_and_twenty_steps_lower_the_loss() {
        let data = Dataset::load("digits", 0).unwrap();
        let mut trainer =
            Trainer::new(&TrainConfig { batch: 16, warmup_steps: 0, ..tiny() }, &data, Device::Cpu).unwrap();
        let batch = trainer.draw_batch().unwrap();
        let (first, _) = trainer.gradients(&batch).unwrap().0.read().unwrap();
        assert!(trainer.raw.tensors().iter().all(|p| trainer.grads.get(p).is_some()));
        for _ in 0..20 {
            trainer.train_step().unwrap();
        }
        let (last, _) = trainer.gradients(&batch).unwrap().0.read().unwrap();
        assert!(last < 0.8 * first, "{first} -> {last}");
    }
}
