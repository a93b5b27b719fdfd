//! How often a classifier of noisy images is right, by noise level.

use super::Bits;
use crate::data::Dataset;
use crate::denoiser::guidance::NoisyClassifier;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::io::plot::{Axes, Series, plot_lines};
use crate::nn::{Classifier, Params};
use crate::ops;
use crate::process::{Level, SchedulerConfig};
use crate::rng::{Address, Purpose};
use crate::tensor::{Dtype, Tensor};
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;

/// Products of the reference, at most: ten seconds of a core.
const AFFORDABLE: f64 = 1e10;

/// How the accuracy is measured.
#[derive(Clone, Debug)]
pub struct AccuracyOptions {
    /// Held-out images used, at most.
    pub images: usize,
    /// Noise levels, at the middles of as many equal parts of the time; each image is seen at each of them.
    pub levels: usize,
    /// Seed of the noise.
    pub seed: u64,
    /// Images per network evaluation; the result does not depend on it.
    pub batch: usize,
    /// Whether the classifier that knows the training images alone is measured beside it.
    pub reference: bool,
}

impl Default for AccuracyOptions {
    fn default() -> AccuracyOptions {
        AccuracyOptions { images: usize::MAX, levels: 20, seed: 0, batch: 60, reference: true }
    }
}

/// One noise level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AccuracyPoint {
    /// 0 (clean) to 1.
    pub time: f64,
    /// ln(alpha²/sigma²).
    pub log_snr: f64,
    /// Share of images whose likeliest class is their own.
    pub accuracy: f64,
    /// Mean of −log p_t(y | x_t), in nats.
    pub cross_entropy: f64,
    /// The accuracy of the exact classifier of the training images: each of them as likely as its density at x_t says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<f64>,
}

/// The measured accuracy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccuracyReport {
    /// From clean to noise.
    pub points: Vec<AccuracyPoint>,
    /// Mean of the levels' accuracies.
    pub accuracy: f64,
    /// Mean of the levels' cross-entropies, in nats.
    pub cross_entropy: f64,
    /// Standard error of the mean cross-entropy over images.
    pub standard_error: f64,
    /// Images used.
    pub images: usize,
    /// Classes.
    pub classes: usize,
    /// Seed of the noise.
    pub seed: u64,
}

/// Measures a classifier on noised held-out images, on the device of `params`.
///
/// # Errors
/// [`Error::Data`] if nothing is held out, or the data has no labels or more classes than the network; those of the network.
pub fn classifier_accuracy(
    classifier: &Classifier,
    params: &Params,
    scheduler: &SchedulerConfig,
    data: &Dataset,
    options: &AccuracyOptions,
) -> Result<AccuracyReport> {
    let images = data.held_out().len().min(options.images);
    let fail = |text: String| Err(Error::Data(format!("data set \"{}\": {text}", data.name())));
    if images == 0 || options.levels == 0 || options.batch == 0 {
        return fail("no held-out images to measure the accuracy on".into());
    }
    let classes = classifier.config().classes;
    if data.num_classes() == 0 || data.num_classes() > classes {
        return fail(format!("expected labels of at most {classes} classes, got {}", data.num_classes()));
    }
    let process = scheduler.process()?;
    let levels: Vec<Level> =
        (0..options.levels).map(|k| process.draw((k as f64 + 0.5) / options.levels as f64)).collect();
    let work = (images * levels.len() * data.train().len() * data.image_len()) as f64;
    let exact = (options.reference && work <= AFFORDABLE).then(|| Exact::of(data));
    let (mut per_image, mut points) = (vec![0.0_f64; images], Vec::new());
    for (k, at) in levels.iter().enumerate() {
        let (mut right, mut entropy, mut exactly_right) = (0, 0.0, 0);
        for first in (0..images).step_by(options.batch) {
            let n = options.batch.min(images - first);
            let (x_t, labels) = noised(data, first..first + n, (k, *at), options)?;
            let x_t = x_t.to_device(params.device())?;
            let network = NoisyClassifier { classifier, params, scheduler, labels: &labels };
            let logits = network.logits(&x_t, &vec![*at; n])?.to_device(Device::Cpu)?;
            let (_, entropies) = ops::cross_entropy(&logits, &labels, &vec![1.0; n])?;
            for ((i, nats), (z, y)) in entropies
                .to_vec::<f64>()?
                .iter()
                .enumerate()
                .zip(logits.host::<f32>()?.chunks_exact(classes).zip(&labels))
            {
                entropy += nats / images as f64;
                per_image[first + i] += nats / levels.len() as f64;
                right += usize::from(likeliest(z) == *y as usize);
            }
            if let Some(exact) = &exact {
                exactly_right += exact.right(x_t.to_device(Device::Cpu)?.host::<f32>()?, &labels, *at);
            }
        }
        points.push(AccuracyPoint {
            time: (k as f64 + 0.5) / levels.len() as f64,
            log_snr: 2.0 * (at.alpha / at.sigma).ln(),
            accuracy: right as f64 / images as f64,
            cross_entropy: entropy,
            reference: exact.is_some().then_some(exactly_right as f64 / images as f64),
        });
    }
    let mean = |of: fn(&AccuracyPoint) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let Bits { mean: cross_entropy, standard_error } = Bits::of(per_image.into_iter());
    Ok(AccuracyReport {
        accuracy: mean(|p| p.accuracy),
        cross_entropy,
        standard_error,
        points,
        images,
        classes,
        seed: options.seed,
    })
}

/// Held-out images `range` at level `k`, and their classes.
fn noised(
    data: &Dataset,
    range: std::ops::Range<usize>,
    (k, at): (usize, Level),
    options: &AccuracyOptions,
) -> Result<(Tensor, Vec<u32>)> {
    let ([h, w, c], n) = (data.shape(), range.len());
    let mut x0 = Tensor::zeros([n, h, w, c], Dtype::F32, Device::Cpu)?;
    let mut labels = Vec::with_capacity(n);
    for (image, out) in range.clone().zip(x0.host_mut::<f32>()?.chunks_exact_mut(h * w * c)) {
        let index = data.held_out()[image] as usize;
        data.copy_image(index, out);
        labels.push(data.label(index).unwrap_or(0));
    }
    let samples: Vec<u32> = range.map(|image| image as u32).collect();
    let address = Address::new(options.seed, Purpose::Eval).step(k);
    Ok((ops::perturb(&x0, &vec![at.alpha; n], &vec![at.sigma; n], address, &samples)?.x_t, labels))
}

fn likeliest<T: PartialOrd>(values: &[T]) -> usize {
    let better = |best: usize, i: usize| if values[i] > values[best] { i } else { best };
    (1..values.len()).fold(0, better)
}

/// p_t(y | x) where the data is the training images and nothing else: Σ_{i of y} N(x; alpha·x_i, sigma²) over the same sum of all (S3.eq154).
struct Exact {
    images: Vec<f32>,
    labels: Vec<usize>,
    classes: usize,
}

impl Exact {
    fn of(data: &Dataset) -> Exact {
        let d = data.image_len();
        let mut images = vec![0.0; data.train().len() * d];
        for (index, out) in data.train().iter().zip(images.chunks_exact_mut(d)) {
            data.copy_image(*index as usize, out);
        }
        let labels = data.train().iter().map(|i| data.label(*i as usize).unwrap_or(0) as usize).collect();
        Exact { images, labels, classes: data.num_classes() }
    }

    /// How many rows of `x` have their own class as the likeliest.
    fn right(&self, x: &[f32], labels: &[u32], at: Level) -> usize {
        let d = self.images.len() / self.labels.len();
        let is_right = |(x, label): (&[f32], &u32)| {
            let logs: Vec<f64> = self
                .images
                .chunks_exact(d)
                .map(|image| {
                    let distance = |(x, x0): (&f32, &f32)| (f64::from(*x) - at.alpha * f64::from(*x0)).powi(2);
                    -x.iter().zip(image).map(distance).sum::<f64>() / (2.0 * at.sigma.powi(2))
                })
                .collect();
            let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut mass = vec![0.0; self.classes];
            logs.iter().zip(&self.labels).for_each(|(log, y)| mass[*y] += (log - top).exp());
            usize::from(likeliest(&mass) == *label as usize)
        };
        x.par_chunks_exact(d).zip(labels).map(is_right).sum()
    }
}

/// Draws the accuracy over the time, beside that of the training images' exact classifier and of guessing.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn plot_accuracy(path: &Path, report: &AccuracyReport) -> Result<()> {
    let points = |of: &dyn Fn(&AccuracyPoint) -> Option<f64>| -> Vec<(f64, f64)> {
        report.points.iter().filter_map(|p| Some((p.time, 100.0 * of(p)?))).collect()
    };
    let line = |name: &str, points| Series { name: name.into(), points, marked: true, ..Series::default() };
    let mut series = vec![line("classifier", points(&|p| Some(p.accuracy)))];
    let reference = points(&|p| p.reference);
    if !reference.is_empty() {
        series.push(line("exact for the training images", reference));
    }
    let guess = 100.0 / report.classes as f64;
    series.push(Series { name: "guessing".into(), points: vec![(0.0, guess), (1.0, guess)], ..Series::default() });
    let axes = Axes {
        title: "Classes of noised held-out images",
        x_label: "time (0 clean, 1 noise)",
        y_label: "right, %",
        ..Axes::default()
    };
    plot_lines(path, &axes, &series)
}
