//! Training: the loop, its checkpoints and its reports; and [`fit`], a run in one call.

mod checkpoint;
mod classifying;
mod denoising;
mod fit;
mod report;
mod step;
mod task;
mod token_batch;
mod tokens;
mod trainer;

pub use fit::{FitOptions, Fitted, fit, fit_levels};
pub use trainer::{StepReport, Trainer};

use crate::config::TrainConfig;
use crate::data::{Dataset, TokenData};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::io::ModelFolder;
use crate::ops::{ConvAccuracy, set_conv_accuracy};
use report::Reporter;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokens::TokenTask;

/// Held-out images of a validation during training, at most.
const VALIDATION_IMAGES: usize = 360;

/// Where a run goes and whether it continues one.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The model folder.
    pub out: PathBuf,
    /// Continue from the folder's checkpoint.
    pub resume: bool,
    /// Replace a model that is already there.
    pub overwrite: bool,
    /// Where to train; not part of the run's settings: it may continue on another.
    pub device: Device,
}

/// What a finished or stopped run reports.
#[derive(Clone, Debug, Serialize)]
pub struct TrainSummary {
    /// The model folder.
    pub model: PathBuf,
    /// Steps done, those before a resume included.
    pub steps: u64,
    /// Steps done by this call.
    pub new_steps: u64,
    /// Whether the run was stopped before its last step.
    pub stopped: bool,
    /// Mean training loss of the last 100 steps of this call.
    pub loss: f64,
    /// Validation loss of the averaged weights, if it was computed.
    pub val_loss: Option<f64>,
    /// What it measures, for example `held-out bound in bits/character`.
    pub measure: String,
    /// Seconds this call took.
    pub seconds: f64,
    /// What was trained, as the setting says.
    pub task: String,
    /// What a batch is made of: images or sequences.
    pub rows: &'static str,
    /// Rows of batches per second, reports and checkpoints included.
    pub rows_per_second: f64,
    /// Parameters of the network.
    pub parameters: usize,
    /// Whether the model is conditioned on classes.
    pub class_conditional: bool,
    /// Most memory held in tensors and temporaries of the device, in bytes.
    pub peak_tensor_bytes: usize,
    /// The device, as `--device` names it.
    pub device: String,
}

/// Reads the settings of the run in `out`, if there is one.
///
/// # Errors
/// [`Error::Io`] or [`Error::Model`] if there is a checkpoint that cannot be read.
pub fn saved_config(out: &std::path::Path) -> Result<Option<TrainConfig>> {
    checkpoint::saved_config(&ModelFolder::new(out))
}

/// Trains until the last step, or until `stop` is set; then the checkpoint is saved and the folder is complete.
///
/// `on_step` is called after each step with its report and the number of steps of the run.
///
/// # Errors
/// [`Error::Usage`] for settings that do not fit the data or the folder; [`Error::NonFinite`] if the loss diverges (the last good
/// checkpoint stays); [`Error::Io`] if the folder cannot be written.
pub fn train(
    config: &TrainConfig,
    options: &RunOptions,
    stop: &AtomicBool,
    on_step: impl FnMut(&StepReport, u64),
) -> Result<TrainSummary> {
    config.validate()?;
    set_conv_accuracy(ConvAccuracy::from_name(&config.conv_accuracy)?);
    let folder = ModelFolder::new(&options.out);
    if config.has_tokens() {
        let data = TokenData::load(&config.data, config.tokenizer()?, config.seed)?;
        let trainer = Trainer::of_task(config, Box::new(TokenTask::new(config, &data)?), options.device)?;
        return run(config, options, stop, on_step, &folder, trainer);
    }
    if TokenData::is_text(&config.data) {
        let data = &config.data;
        return Err(Error::Usage(format!(
            "--data {data}: a text becomes tokens; add --graph absorbing, or --preset text"
        )));
    }
    let dataset = Dataset::load(&config.data, config.seed)?;
    let trainer = Trainer::new(config, &dataset, options.device)?;
    run(config, options, stop, on_step, &folder, trainer)
}

/// The steps that are left, and what they leave.
fn run(
    config: &TrainConfig,
    options: &RunOptions,
    stop: &AtomicBool,
    mut on_step: impl FnMut(&StepReport, u64),
    folder: &ModelFolder,
    mut trainer: Trainer<'_>,
) -> Result<TrainSummary> {
    if options.resume {
        checkpoint::load(folder, &mut trainer)?;
    } else {
        refuse_to_overwrite(folder, options)?;
    }
    if trainer.step() > config.steps {
        let (done, asked) = (trainer.step(), config.steps);
        return Err(Error::Usage(format!("--steps {asked}: the run has done {done} already; ask for more")));
    }
    let begin = Instant::now();
    let first = trainer.step();
    let mut reporter = Reporter::open(folder, &trainer)?;
    // A folder that cannot be written shows itself before the first step, not after the first thousand.
    trainer.task.describe(folder)?;
    checkpoint::save(folder, &trainer)?;
    folder.remove_others(trainer.task.component())?;
    crate::device::reset_peak(options.device);
    let mut saved_at = trainer.step();
    let mut stopped = false;
    while trainer.step() < config.steps {
        if stop.load(Ordering::Relaxed) {
            stopped = true;
            break;
        }
        let mut report = trainer.train_step()?;
        let done = trainer.step();
        reporter.after_step(&mut trainer, &mut report, done == config.steps)?;
        on_step(&report, config.steps);
        if done.is_multiple_of(config.save_every) {
            // First the log: a run killed in between logs these steps again, but a step that is saved is never missing.
            reporter.flush()?;
            checkpoint::save(folder, &trainer)?;
            reporter.plot()?;
            saved_at = done;
        }
    }
    if saved_at != trainer.step() {
        reporter.flush()?;
        checkpoint::save(folder, &trainer)?;
    }
    reporter.finish(&mut trainer, stopped)?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(TrainSummary {
        model: options.out.clone(),
        steps: trainer.step(),
        new_steps: trainer.step() - first,
        stopped,
        loss: reporter.recent_loss(),
        val_loss: reporter.val_loss(),
        measure: trainer.task.measure(),
        seconds,
        rows_per_second: (trainer.step() - first) as f64 * config.batch as f64 / seconds,
        parameters: trainer.parameter_count(),
        class_conditional: trainer.task.is_class_conditional(),
        task: config.task.clone(),
        rows: trainer.task.rows(),
        peak_tensor_bytes: crate::device::peak_bytes(options.device),
        device: options.device.to_string(),
    })
}

fn refuse_to_overwrite(folder: &ModelFolder, options: &RunOptions) -> Result<()> {
    let out = options.out.display();
    if folder.root().is_file() {
        return Err(Error::Usage(format!("--out {out}: is a file; name a folder")));
    }
    if folder.holds_model() && !options.overwrite {
        return Err(Error::Usage(format!(
            "--out {out}: holds a model already; continue it with --resume, replace it with --overwrite, or name another folder"
        )));
    }
    if options.overwrite {
        checkpoint::remove_reports(folder)?;
    }
    Ok(())
}
