//! The state of a run and one training step.

use super::classifying::Classifying;
use super::denoising::Denoising;
use super::step;
use super::task::Task;
use crate::config::{CLASSIFIER, TrainConfig};
use crate::data::Dataset;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Mode, Params, initialise};
use crate::optim::{self, LrSchedule, Moments, Outcome, Rule, UpdateSettings};
use crate::rng::{Address, Purpose};
use crate::tape::{Grads, profile};
use crate::tensor::Tensor;
use serde::Serialize;
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
    /// Rows of the batch, images or sequences, per second of this step.
    pub rows_per_second: f64,
    /// Validation loss of the averaged weights, on the steps where it is computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// A sample, on the steps where text is drawn.
    #[serde(skip)]
    pub text: Option<String>,
}

/// Weights, averages, moments and counters: everything that a checkpoint holds; and the task, with its network and data.
pub struct Trainer<'a> {
    pub(super) config: TrainConfig,
    pub(super) task: Box<dyn Task + 'a>,
    pub(super) raw: Params,
    pub(super) ema: Params,
    pub(super) moments: Moments,
    pub(super) step: u64,
    lr_schedule: LrSchedule,
    grads: Grads,
    last_loss: Option<f64>,
}

impl<'a> Trainer<'a> {
    /// A run at step 0 on images, its weights on `device`: everything of a step but the batch happens there.
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
        let task: Box<dyn Task> = match config.task.as_str() {
            CLASSIFIER => Box::new(Classifying::new(config, dataset)?),
            _ => Box::new(Denoising::new(config, dataset)?),
        };
        Trainer::of_task(config, task, device)
    }

    /// A run at step 0 of any task.
    pub(super) fn of_task(config: &TrainConfig, task: Box<dyn Task + 'a>, device: Device) -> Result<Trainer<'a>> {
        let raw = initialise(task.specs(), config.seed)?.to_device(device)?;
        let ema = Params::new(task.specs(), raw.tensors().to_vec(), false)?;
        let moments = Moments::with_rules(&raw, Rule::of_optimizer(&config.optimizer, task.specs())?)?;
        Ok(Trainer {
            config: config.clone(),
            task,
            raw,
            ema,
            moments,
            step: 0,
            lr_schedule: LrSchedule::from_name(&config.lr_schedule)?,
            grads: Grads::new(),
            last_loss: None,
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

    /// Draws a batch, and moves weights, moments and averages one step.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the loss or a gradient is not finite: nothing is changed, and the text names the first op
    /// that made such a number.
    pub fn train_step(&mut self) -> Result<StepReport> {
        let begin = Instant::now();
        self.task.draw(self.step, self.device())?;
        profile::lap("batch");
        let (outcome, rows) = self.gradients()?;
        profile::lap("gradient norm");
        let c = &self.config;
        let lr = self.lr_schedule.rate(c.lr, self.step, c.warmup_steps, c.steps);
        let settings = UpdateSettings {
            lr,
            muon: Some((c.muon_lr * lr / c.lr, c.muon_momentum)),
            betas: (c.beta1, c.beta2),
            adam_eps: c.adam_eps,
            weight_decay: c.weight_decay,
            grad_clip: c.grad_clip,
            ema_decay: optim::ema_decay(c.ema_decay, self.step),
        };
        let update = self.step + 1;
        optim::update(&mut self.raw, &mut self.ema, &mut self.moments, &self.grads, &outcome, update, &settings)?;
        profile::lap("optimizer");
        // The first look at what the device did: nothing was changed if these are not finite.
        let (loss, norm) = outcome.read()?;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(self.explain_non_finite(loss, norm));
        }
        self.grads.clear();
        self.last_loss = Some(loss);
        self.task.record(&rows)?;
        let seconds = begin.elapsed().as_secs_f64();
        let report = StepReport {
            step: self.step,
            loss,
            grad_norm: norm,
            lr,
            step_seconds: seconds,
            rows_per_second: self.config.batch as f64 / seconds,
            val_loss: None,
            text: None,
        };
        self.step += 1;
        Ok(report)
    }

    /// Fills `self.grads` with those of the batch that was drawn; returns the loss and the norm of the gradients, and what the task
    /// says of each row.
    fn gradients(&mut self) -> Result<(Outcome, Tensor)> {
        let mode = Mode::Training(Address::new(self.config.seed, Purpose::Dropout).step(self.step as usize));
        step::gradients(&self.raw, &mut self.grads, || self.task.loss(&self.raw, mode))
    }

    /// Runs the step again while every number is checked.
    fn explain_non_finite(&mut self, loss: f64, norm: f64) -> Error {
        let cause = step::explain_non_finite((loss, norm), self.task.batch_is_finite(), || self.gradients());
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
        let index = trainer.task.specs().iter().position(|s| s.name == "mid_block.attentions.0.to_q.weight").unwrap();
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
        trainer.task.draw(0, Device::Cpu).unwrap();
        let (first, _) = trainer.gradients().unwrap().0.read().unwrap();
        assert!(trainer.raw.tensors().iter().all(|p| trainer.grads.get(p).is_some()));
        for _ in 0..20 {
            trainer.train_step().unwrap();
        }
        trainer.task.draw(0, Device::Cpu).unwrap();
        let (last, _) = trainer.gradients().unwrap().0.read().unwrap();
        assert!(last < 0.8 * first, "{first} -> {last}");
    }
}
