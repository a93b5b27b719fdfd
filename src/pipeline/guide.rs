//! Guidance and known parts of samples, made ready for the batches of a run.

use super::sample::{Network, SampleOptions};
use super::{ClassifierPipeline, Pipeline};
use crate::denoiser::guidance::{ClassifierFree, ClassifierGuided, Guided, NoisyClassifier, Strength, Two};
use crate::denoiser::{Denoiser, NetworkDenoiser};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::ClassEmbed;
use crate::process::SchedulerConfig;
use crate::sampler::{KnownComponents, KnownElements, Projection};
use crate::tensor::Tensor;
use std::sync::Arc;

/// What pulls samples towards their classes, or towards what a model does better than a weaker one.
#[derive(Clone, Debug, Default)]
pub enum Guidance {
    /// Nothing.
    #[default]
    None,
    /// The same network without its class, left behind (items 60 and 61).
    ClassifierFree {
        /// w, and where.
        strength: Strength,
        /// As [`Guided::rescale`].
        rescale: f64,
    },
    /// A classifier of noisy images, whose gradient is added: the model itself need not know of classes (items 55 and 56).
    Classifier {
        /// The classifier.
        classifier: Arc<ClassifierPipeline>,
        /// w, and where.
        strength: Strength,
    },
    /// A weaker model, left behind.
    Auto {
        /// The weaker model.
        guide: Arc<Pipeline>,
        /// w, and where.
        strength: Strength,
        /// As [`Guided::rescale`].
        rescale: f64,
    },
}

/// What is known of all samples.
#[derive(Clone, Debug)]
pub enum Known {
    /// Pixels.
    Elements {
        /// `[1, h, w, c]` in [−1, 1].
        x0: Tensor,
        /// `[1, h, w, c]`: 1 where `x0` is known, 0 where it is to be filled.
        mask: Tensor,
    },
    /// Components along the channels.
    Components {
        /// `[m, c]`, row-major, orthonormal.
        rows: Vec<f64>,
        /// `[1, h, w, m]`.
        values: Tensor,
    },
}

impl Known {
    /// The grey levels `[1, h, w, 1]` in [−1, 1] of pictures of `channels` channels: the mean of each pixel's channels.
    pub fn grey(levels: &Tensor, channels: usize) -> Result<Known> {
        let share = (channels as f64).sqrt();
        let values = crate::ops::affine(levels, share as f32, 0.0)?;
        Ok(Known::Components { rows: vec![1.0 / share; channels], values })
    }

    /// Refuses what does not fit images of `[h, w, c]`.
    pub(super) fn check(&self, [h, w, c]: [usize; 3]) -> Result<()> {
        let (want, got) = match self {
            Known::Elements { x0, mask } if mask.shape() != x0.shape() => {
                let (x0, mask) = (x0.shape(), mask.shape());
                return Err(Error::Usage(format!("known pixels {x0} and their mask {mask}: expected one shape")));
            }
            Known::Elements { x0, .. } => ([1, h, w, c], x0.shape()),
            Known::Components { rows, values } => {
                let m = rows.len() / c.max(1);
                ([1, h, w, m], values.shape())
            }
        };
        match got[..] == want {
            true => Ok(()),
            false => Err(Error::Usage(format!("known part: the model wants {want:?}, got {got}"))),
        }
    }

    /// The projection for a batch of `n`.
    pub(super) fn projection(&self, n: usize, device: Device) -> Result<Box<dyn Projection>> {
        let repeated = |x: &Tensor| Tensor::stack_rows(&vec![x.clone(); n], x.shape().with_rows(n))?.to_device(device);
        Ok(match self {
            Known::Elements { x0, mask } => {
                Box::new(KnownElements { x0: repeated(x0)?, mask: mask.to_device(device)? })
            }
            Known::Components { rows, values } => {
                Box::new(KnownComponents { rows: rows.clone(), values: repeated(values)? })
            }
        })
    }
}

/// The guidance of a run, checked against the network.
pub(super) struct Prepared<'a> {
    guidance: &'a Guidance,
    /// Classes that the network is told.
    labels: Option<&'a [u32]>,
    /// Classes that a classifier shall find.
    targets: &'a [u32],
    null: u32,
}

impl<'a> Prepared<'a> {
    /// # Errors
    /// [`Error::Usage`] for guidance that the network was not trained for.
    pub(super) fn new(
        network: &Network<'_>,
        options: &'a SampleOptions,
        labels: Option<&'a [u32]>,
        targets: &'a [u32],
    ) -> Result<Prepared<'a>> {
        let mut null = 0;
        match &options.guidance {
            Guidance::None => {}
            Guidance::ClassifierFree { strength, rescale } => {
                check(strength, *rescale)?;
                null = null_class(network, labels)?;
            }
            Guidance::Classifier { classifier, strength } => {
                strength.check()?;
                check_classifier(network, classifier)?;
            }
            Guidance::Auto { guide, strength, rescale } => {
                check(strength, *rescale)?;
                check_guide(network, guide)?;
            }
        }
        Ok(Prepared { guidance: &options.guidance, labels, targets, null })
    }

    /// The classes of a batch, then the null class as often, where both are asked for.
    pub(super) fn labels_of_both(&self, first: usize, n: usize) -> Vec<u32> {
        match (self.guidance, self.labels) {
            (Guidance::ClassifierFree { .. }, Some(labels)) => {
                labels[first..first + n].iter().copied().chain(std::iter::repeat_n(self.null, n)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The guided denoiser of a batch.
    pub(super) fn denoiser<'b>(
        &self,
        inner: NetworkDenoiser<'b>,
        doubled: &'b [u32],
        first: usize,
        n: usize,
    ) -> Box<dyn Denoiser + 'b>
    where
        'a: 'b,
    {
        match self.guidance {
            Guidance::None => Box::new(inner),
            Guidance::ClassifierFree { strength, rescale } => {
                let pair = ClassifierFree::new(&inner, doubled);
                Box::new(Guided { pair, strength: *strength, rescale: *rescale })
            }
            Guidance::Classifier { classifier, strength } => {
                let classifier = NoisyClassifier {
                    classifier: classifier.classifier(),
                    params: classifier.params(),
                    scheduler: classifier.scheduler(),
                    labels: &self.targets[first..first + n],
                };
                Box::new(ClassifierGuided { inner, classifier, strength: *strength })
            }
            Guidance::Auto { guide, strength, rescale } => {
                let away = NetworkDenoiser {
                    unet: guide.unet(),
                    params: guide.params(),
                    scheduler: guide.scheduler(),
                    class_labels: self.labels.filter(|_| has_classes(guide)).map(|l| &l[first..first + n]),
                };
                Box::new(Guided { pair: Two { towards: inner, away }, strength: *strength, rescale: *rescale })
            }
        }
    }
}

fn check(strength: &Strength, rescale: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&rescale) {
        return Err(Error::Usage(format!("--guidance-rescale {rescale}: expected 0 (none) to 1")));
    }
    strength.check()
}

fn has_classes(pipeline: &Pipeline) -> bool {
    matches!(pipeline.unet().config().class_embed, ClassEmbed::Table(_))
}

/// The null class, which must have been trained, and must not be what is asked for.
fn null_class(network: &Network<'_>, labels: Option<&[u32]>) -> Result<u32> {
    let ClassEmbed::Table(rows) = network.unet.config().class_embed else {
        return Err(Error::Usage(
            "--guidance-scale: the model has no classes; train one with labels, or guide it with --classifier or --guide"
                .into(),
        ));
    };
    if !network.has_null_class || network.p_uncond == 0.0 {
        return Err(Error::Usage(
            "--guidance-scale: the model was trained without label drops (p_uncond = 0), so that it knows nothing of \
             images without a class; train one with --set p_uncond=0.1, or guide it with --guide"
                .into(),
        ));
    }
    if network.p_uncond >= 1.0 {
        return Err(Error::Usage(
            "--guidance-scale: all labels were dropped in training (p_uncond = 1): the model knows no class".into(),
        ));
    }
    let null = rows as u32 - 1;
    match labels {
        Some(labels) if labels.contains(&null) => Err(Error::Usage(
            "--guidance-scale: --class none has nothing to guide towards; name a class or leave --class out".into(),
        )),
        _ => Ok(null),
    }
}

/// A weaker model must speak of the same images and classes.
fn check_guide(network: &Network<'_>, guide: &Pipeline) -> Result<()> {
    let (own, other) = (network.unet.config(), guide.unet().config());
    let classes = |config: &crate::nn::UNetConfig| match config.class_embed {
        ClassEmbed::Table(rows) => Some(rows),
        _ => None,
    };
    if own.in_channels != other.in_channels {
        let (own, other) = (own.in_channels, other.in_channels);
        return Err(Error::Usage(format!("--guide: the model has images of {own} channels, the guide of {other}")));
    }
    if !same_process(network.scheduler, guide.scheduler())? {
        return Err(Error::Usage("--guide: the guide was trained with another process than the model".into()));
    }
    if classes(other).is_some() && classes(own) != classes(other) {
        return Err(Error::Usage("--guide: the guide has other classes than the model".into()));
    }
    if guide.params().device() != network.params.device() {
        return Err(Error::Device("--guide: the guide is on another device than the model".into()));
    }
    Ok(())
}

/// A classifier must have seen the images as the model sees them.
fn check_classifier(network: &Network<'_>, classifier: &ClassifierPipeline) -> Result<()> {
    let (c, own) = (network.unet.config().in_channels, classifier.description());
    if own.image_shape[2] != c {
        let other = own.image_shape[2];
        return Err(Error::Usage(format!(
            "--classifier: the model has images of {c} channels, the classifier of {other}"
        )));
    }
    if !same_process(network.scheduler, classifier.scheduler())? {
        return Err(Error::Usage(
            "--classifier: the classifier was trained with another process than the model; train one with the model's preset \
             and settings, and --task classifier"
                .into(),
        ));
    }
    let (told, other) = (network.scheduler.time_convention.name(), classifier.scheduler().time_convention.name());
    if told != other {
        return Err(Error::Usage(format!(
            "--classifier: the classifier was trained with the time convention {other}, the model with {told}; train one with \
             --set time_convention={told}"
        )));
    }
    if let ClassEmbed::Table(rows) = network.unet.config().class_embed {
        let classes = rows - usize::from(network.has_null_class);
        if classes != classifier.classes() {
            let other = classifier.classes();
            return Err(Error::Usage(format!("--classifier: the model has {classes} classes, the classifier {other}")));
        }
    }
    if classifier.params().device() != network.params.device() {
        return Err(Error::Device("--classifier: the classifier is on another device than the model".into()));
    }
    Ok(())
}

/// Whether both noise images alike.
fn same_process(a: &SchedulerConfig, b: &SchedulerConfig) -> Result<bool> {
    let (a, b) = (a.process()?, b.process()?);
    let close = |time: f64| {
        let (a, b) = (a.level(time), b.level(time));
        (a.alpha - b.alpha).abs() <= 1e-6 && (a.sigma - b.sigma).abs() <= 1e-6 * a.sigma.max(1.0)
    };
    Ok([0.1, 0.3, 0.5, 0.7, 0.9].into_iter().all(close))
}
