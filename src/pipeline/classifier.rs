//! A classifier of noisy images, loaded from its folder.

use super::{Weights, open_weights};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::io::folder::{ModelFolder, TweedieJson};
use crate::nn::{Classifier, Params, Precision};
use crate::process::SchedulerConfig;
use std::path::Path;

/// A loaded classifier.
pub struct ClassifierPipeline {
    classifier: Classifier,
    params: Params,
    scheduler: SchedulerConfig,
    own: TweedieJson,
}

impl std::fmt::Debug for ClassifierPipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClassifierPipeline").field("classes", &self.classes()).finish_non_exhaustive()
    }
}

impl ClassifierPipeline {
    /// Loads a folder that `train --task classifier` wrote.
    ///
    /// # Errors
    /// [`Error::Model`] that says what is missing, malformed or of another kind.
    pub fn load(folder: impl AsRef<Path>, weights: Weights) -> Result<ClassifierPipeline> {
        let folder = ModelFolder::new(folder.as_ref());
        let (config, scheduler, own) = folder.read_classifier()?;
        let classifier = Classifier::new(&config)?;
        let params = open_weights(&folder, "classifier", classifier.specs(), weights)?;
        if own.image_shape[2] != config.unet.in_channels || own.image_shape.contains(&0) {
            return Err(Error::Model(format!(
                "classifier \"{}\": tweedie.json: image_shape = {:?}: expected sides of at least 1 and {} channels",
                folder.root().display(),
                own.image_shape,
                config.unet.in_channels
            )));
        }
        Ok(ClassifierPipeline { classifier, params, scheduler, own })
    }

    /// The same with its weights on `device`.
    ///
    /// # Errors
    /// [`Error::Device`] if the device cannot be used or its memory does not suffice.
    pub fn to_device(self, device: Device) -> Result<ClassifierPipeline> {
        Ok(ClassifierPipeline { params: self.params.to_device(device)?, ..self })
    }

    /// The same, computing in `precision`.
    pub fn with_precision(self, precision: Precision) -> ClassifierPipeline {
        ClassifierPipeline { classifier: self.classifier.with_precision(precision), ..self }
    }

    /// The network.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// The weights it runs with.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What its input and its time mean.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// What the folder says beside that.
    pub fn description(&self) -> &TweedieJson {
        &self.own
    }

    /// How many classes it tells.
    pub fn classes(&self) -> usize {
        self.classifier.config().classes
    }
}
