//! The task of a classifier of noisy images: the U-Net's way down that tells the class at any noise level (item 55; S3.eq157).

use super::step;
use super::task::{Curves, Shown, Task};
use crate::config::TrainConfig;
use crate::data::{Dataset, Loader};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::eval::{AccuracyOptions, classifier_accuracy, plot_accuracy};
use crate::io::folder::{FORMAT_VERSION, ModelFolder, NetworkEntry, TweedieJson};
use crate::loss::{DrawnTimes, TimeSampler};
use crate::nn::{Classifier, Mode, ParamSpec, Params, Precision};
use crate::ops;
use crate::process::SchedulerConfig;
use crate::rng::{Address, Purpose};
use crate::tensor::{Dtype, Tensor};

/// Noise levels of a validation and of the plot.
const VALIDATION_LEVELS: usize = 8;
const PLOT_LEVELS: usize = 20;

pub(super) struct Classifying<'a> {
    config: TrainConfig,
    dataset: &'a Dataset,
    classifier: Classifier,
    scheduler: SchedulerConfig,
    times: TimeSampler,
    fingerprint: String,
    loader: Loader<'a>,
    /// x_t of the batch as the network sees it.
    input: Option<Tensor>,
    // Reused by every step.
    network_times: Vec<f32>,
    drawn: DrawnTimes,
    labels: Vec<u32>,
    weights: Vec<f32>,
}

impl<'a> Classifying<'a> {
    pub(super) fn new(config: &TrainConfig, dataset: &'a Dataset) -> Result<Classifying<'a>> {
        let precision = Precision::from_name(&config.precision)?;
        let classifier = Classifier::new(&config.classifier(dataset)?)?;
        Ok(Classifying {
            config: config.clone(),
            dataset,
            classifier: classifier.with_recompute(config.recompute).with_precision(precision),
            scheduler: config.scheduler()?,
            times: config.time_sampler()?,
            fingerprint: dataset.fingerprint(),
            loader: Loader::new(dataset, config.seed, config.batch)?,
            input: None,
            network_times: vec![0.0; config.batch],
            drawn: DrawnTimes::default(),
            labels: vec![0; config.batch],
            weights: vec![1.0 / config.batch as f32; config.batch],
        })
    }

    fn input(&self) -> Result<&Tensor> {
        self.input.as_ref().ok_or_else(|| Error::Usage("training: no batch was drawn".into()))
    }
}

impl Task for Classifying<'_> {
    fn specs(&self) -> &[ParamSpec] {
        self.classifier.specs()
    }

    fn component(&self) -> &'static str {
        "classifier"
    }

    fn network(&self) -> serde_json::Value {
        self.classifier.config().to_json()
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn rows(&self) -> &'static str {
        "images"
    }

    fn curves(&self) -> Curves {
        Curves {
            title: "Cross-entropy of noisy images",
            training: "training, nats".into(),
            validation: "held out, nats (averaged weights)".into(),
        }
    }

    fn describe(&self, folder: &ModelFolder) -> Result<()> {
        let own = TweedieJson {
            format_version: FORMAT_VERSION,
            time_convention: self.scheduler.time_convention.name().into(),
            image_shape: self.dataset.shape(),
            max_pixel_value: self.dataset.max_value(),
            class_names: self.dataset.class_names().to_vec(),
            p_uncond: 0.0,
            data: self.config.data.clone(),
            split_seed: self.config.seed,
            requires_tweedie: Some("a classifier of noisy images: diffusers has none".into()),
        };
        folder.write_descriptions(&NetworkEntry::classifier(self.classifier.config()), &self.scheduler, &own)
    }

    fn draw(&mut self, index: u64, device: Device) -> Result<()> {
        self.input = None;
        let (seed, n) = (self.config.seed, self.config.batch);
        let [h, w, c] = self.dataset.shape();
        let mut x0 = Tensor::zeros([n, h, w, c], Dtype::F32, Device::Cpu)?;
        self.loader.fill(index, x0.host_mut()?, &mut self.labels)?;
        self.times.redraw(seed, index, n, &mut self.drawn);
        let address = Address::new(seed, Purpose::TrainNoise).step(index as usize);
        let (noised, times) =
            step::network_input(&self.scheduler, &x0.to_device(device)?, &self.drawn.levels, address)?;
        (self.input, self.network_times) = (Some(noised.x_t), times);
        Ok(())
    }

    fn batch_is_finite(&self) -> Result<bool> {
        self.input()?.is_finite()
    }

    fn loss(&self, params: &Params, mode: Mode) -> Result<(Tensor, Tensor)> {
        let logits = self.classifier.forward(params, self.input()?, &self.network_times, mode)?;
        ops::cross_entropy(&logits, &self.labels, &self.weights)
    }

    fn validation_loss(&self, averaged: &Params) -> Result<Option<f64>> {
        if self.dataset.held_out().is_empty() {
            return Ok(None);
        }
        let options = AccuracyOptions {
            images: super::VALIDATION_IMAGES,
            levels: VALIDATION_LEVELS,
            reference: false,
            ..AccuracyOptions::default()
        };
        let report = classifier_accuracy(&self.classifier, averaged, &self.scheduler, self.dataset, &options)?;
        Ok(Some(report.cross_entropy))
    }

    /// The accuracy by noise level.
    fn show(&self, folder: &ModelFolder, done: u64, weights: Shown<'_>) -> Result<Option<String>> {
        if self.dataset.held_out().is_empty() {
            return Ok(None);
        }
        let options =
            AccuracyOptions { images: super::VALIDATION_IMAGES, levels: PLOT_LEVELS, ..AccuracyOptions::default() };
        let (classifier, scheduler) = (&self.classifier, &self.scheduler);
        let report = classifier_accuracy(classifier, weights.averaged, scheduler, self.dataset, &options)?;
        plot_accuracy(&folder.path(&format!("samples/step_{done:06}_accuracy.png")), &report)?;
        Ok(None)
    }
}
