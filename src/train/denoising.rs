//! The task of a diffusion model of images: a U-Net that says what was noise.

use super::step::Batch;
use super::task::{Curves, Shown, Task};
use crate::config::TrainConfig;
use crate::data::{Dataset, Loader};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::eval::{LossOptions, denoising_loss};
use crate::io::folder::{FORMAT_VERSION, ModelFolder, NetworkEntry, TweedieJson};
use crate::io::image;
use crate::io::tensors::{Entry, TensorFile};
use crate::loss::{self, DrawnTimes, LossHistory, TimeSampler, Weighting};
use crate::nn::{ClassEmbed, ClassInput, Mode, ParamSpec, Params, Precision, UNet};
use crate::pipeline::{self, SampleOptions};
use crate::process::{Process, SchedulerConfig, Variance};
use crate::rng::{Address, Purpose};
use crate::tensor::{Dtype, Tensor};
use std::sync::Arc;

/// Images of a sample grid: ten columns, one for each class where there are ten.
const COLUMNS: usize = 10;
const ROWS: usize = 4;
/// What loss-aware times are drawn by.
const HISTORY: &str = "times.losses";
const HISTORY_COUNTS: &str = "times.counts";

pub(super) struct Denoising<'a> {
    config: TrainConfig,
    dataset: &'a Dataset,
    unet: UNet,
    scheduler: SchedulerConfig,
    process: Arc<dyn Process>,
    /// With the history that it draws by.
    times: TimeSampler,
    weighting: Weighting,
    /// Of the data set, so that a checkpoint need not read it again.
    fingerprint: String,
    loader: Loader<'a>,
    batch: Option<Batch>,
    // Reused by every step.
    drawn: DrawnTimes,
    labels: Vec<u32>,
}

impl<'a> Denoising<'a> {
    pub(super) fn new(config: &TrainConfig, dataset: &'a Dataset) -> Result<Denoising<'a>> {
        let precision = Precision::from_name(&config.precision)?;
        let unet = UNet::new(&config.unet(dataset)?)?.with_recompute(config.recompute).with_precision(precision);
        let scheduler = config.scheduler()?;
        Ok(Denoising {
            config: config.clone(),
            dataset,
            unet,
            process: scheduler.process()?,
            scheduler,
            times: config.time_sampler()?,
            weighting: config.weighting()?,
            fingerprint: dataset.fingerprint(),
            loader: Loader::new(dataset, config.seed, config.batch)?,
            batch: None,
            drawn: DrawnTimes::default(),
            labels: vec![0; config.batch],
        })
    }

    /// The label of the null class, for a class-conditional network.
    fn null_class(&self) -> Option<u32> {
        match self.unet.config().class_embed {
            ClassEmbed::Table(rows) => Some(rows as u32 - 1),
            _ => None,
        }
    }

    fn batch(&self) -> Result<&Batch> {
        self.batch.as_ref().ok_or_else(|| Error::Usage("training: no batch was drawn".into()))
    }
}

impl Task for Denoising<'_> {
    fn specs(&self) -> &[ParamSpec] {
        self.unet.specs()
    }

    fn component(&self) -> &'static str {
        "unet"
    }

    fn network(&self) -> serde_json::Value {
        self.unet.config().to_json()
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn rows(&self) -> &'static str {
        "images"
    }

    fn is_class_conditional(&self) -> bool {
        self.unet.config().class_embed != ClassEmbed::None
    }

    fn curves(&self) -> Curves {
        Curves {
            title: "Denoising loss",
            training: format!("training: weight {}, {}", self.config.weight, self.scheduler.prediction.name()),
            validation: "held out: error of eps (averaged weights)".into(),
        }
    }

    fn describe(&self, folder: &ModelFolder) -> Result<()> {
        let shape = self.dataset.shape();
        let divisor = 1 << (self.unet.config().block_out_channels.len() - 1);
        let odd = !shape[0].is_multiple_of(divisor) || !shape[1].is_multiple_of(divisor);
        let has_classes = self.is_class_conditional();
        let own = TweedieJson {
            format_version: FORMAT_VERSION,
            time_convention: self.scheduler.time_convention.name().into(),
            image_shape: shape,
            max_pixel_value: self.dataset.max_value(),
            class_names: if has_classes { self.dataset.class_names().to_vec() } else { Vec::new() },
            p_uncond: if has_classes { self.config.p_uncond } else { 0.0 },
            data: self.config.data.clone(),
            split_seed: self.config.seed,
            requires_tweedie: match odd {
                true => {
                    let [h, w, _] = shape;
                    Some(format!(
                        "{h}x{w} images do not divide by {divisor}: diffusers cannot join the skips, tweedie resizes to them"
                    ))
                }
                false if self.scheduler.is_own() => Some(format!(
                    "process {}, prediction {}, time convention {}: diffusers' DDPM has none of its own for them",
                    self.process.name(),
                    self.scheduler.prediction.name(),
                    self.scheduler.time_convention.name()
                )),
                false => None,
            },
        };
        folder.write_descriptions(&NetworkEntry::unet(self.unet.config()), &self.scheduler, &own)
    }

    fn draw(&mut self, step: u64, device: Device) -> Result<()> {
        self.batch = None;
        let (seed, n) = (self.config.seed, self.config.batch);
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
        let mut batch = Batch::noised((&self.scheduler, &self.weighting), x0.to_device(device)?, drawn, address)?;
        if self.scheduler.variance == Variance::LearnedRange {
            // Levels 0 to the largest value lie evenly on [−1, 1].
            let half_bin = 1.0 / f64::from(self.dataset.max_value());
            batch = batch.with_bounds(&self.weighting, drawn, (self.config.vlb_share, half_bin))?;
        }
        self.batch = Some(batch);
        Ok(())
    }

    fn batch_is_finite(&self) -> Result<bool> {
        self.batch()?.is_finite()
    }

    fn loss(&self, params: &Params, mode: Mode) -> Result<(Tensor, Tensor)> {
        let batch = self.batch()?;
        let labels = self.is_class_conditional().then_some(ClassInput::Labels(&self.labels));
        batch.loss(self.unet.forward(params, &batch.input, &batch.times, labels, mode)?)
    }

    /// Tells the times where the loss was large: the weighted errors of the batch, before their importance.
    fn record(&mut self, errors: &Tensor) -> Result<()> {
        if self.times.is_loss_aware() {
            let errors = errors.to_device(Device::Cpu)?.to_vec::<f64>()?;
            let weights = self.batch()?.weights.iter().zip(&self.drawn.importance);
            let losses: Vec<f64> =
                errors.iter().zip(weights).map(|(error, (weight, i))| error * f64::from(*weight) / i).collect();
            self.times.record(&self.drawn, &losses);
        }
        Ok(())
    }

    fn state(&self) -> Vec<Entry<'_>> {
        if !self.times.is_loss_aware() {
            return Vec::new();
        }
        let history = self.times.history();
        let shape = [LossHistory::BINS, LossHistory::KEPT];
        vec![Entry::f32s(HISTORY, history.losses(), &shape), Entry::i64s(HISTORY_COUNTS, history.counts())]
    }

    fn restore(&mut self, checkpoint: &TensorFile) -> Result<()> {
        if self.times.is_loss_aware() {
            let history = LossHistory::from_parts(checkpoint.f32s(HISTORY)?, checkpoint.i64s(HISTORY_COUNTS)?);
            let path = checkpoint.path().display();
            self.times.set_history(history.map_err(|e| Error::Model(format!("{path}: {e}")))?);
        }
        Ok(())
    }

    fn validation_loss(&self, averaged: &Params) -> Result<Option<f64>> {
        if self.dataset.held_out().is_empty() {
            return Ok(None);
        }
        let options = LossOptions { images: super::VALIDATION_IMAGES, draws: 2, ..LossOptions::default() };
        Ok(Some(denoising_loss(&self.unet, averaged, &self.scheduler, self.dataset, &options)?.mean))
    }

    /// Grids from averaged and raw weights, one column per class.
    fn show(&self, folder: &ModelFolder, done: u64, weights: Shown<'_>) -> Result<Option<String>> {
        let options = SampleOptions { steps: 25, count: COLUMNS * ROWS, ..SampleOptions::default() };
        for (name, params) in [("ema", weights.averaged), ("raw", weights.raw)] {
            let network = pipeline::Network {
                unet: &self.unet,
                params,
                scheduler: &self.scheduler,
                has_null_class: true,
                p_uncond: self.config.p_uncond,
            };
            let samples = pipeline::sample_network(&network, self.dataset.shape(), &options, &mut |_, _| {})?;
            let [h, w, c] = self.dataset.shape();
            let shape = [options.count, h, w, c];
            let sheet = image::grid(samples.x0.host()?, shape, COLUMNS, image::auto_scale(h, w), 2)?;
            image::write_png(folder.path(&format!("samples/step_{done:06}_{name}.png")), &sheet)?;
        }
        Ok(None)
    }
}
