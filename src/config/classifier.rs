//! The settings of a classifier of noisy images: those of the model that it will guide, but for what keeps it from learning few images by
//! heart.

use super::TrainConfig;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::nn::{ClassEmbed, ClassifierConfig};

/// What can be trained.
pub const TASKS: [&str; 2] = ["diffusion", CLASSIFIER];
/// The task of a classifier of noisy images.
pub const CLASSIFIER: &str = "classifier";

impl TrainConfig {
    /// A preset's settings for a classifier of its noisy images.
    ///
    /// # Errors
    /// As [`TrainConfig::preset`].
    pub fn classifier_preset(name: &str) -> Result<TrainConfig> {
        let usual = TrainConfig::preset("digits")?;
        let preset = TrainConfig::preset(name)?;
        Ok(TrainConfig {
            task: CLASSIFIER.into(),
            // What a denoiser's loss counts says nothing of a classifier's.
            weight: usual.weight,
            time_sampling: usual.time_sampling,
            variance_type: usual.variance_type,
            vlb_share: usual.vlb_share,
            // Dhariwal & Nichol 2021, table 12.
            weight_decay: 0.05,
            dropout: 0.2,
            lr_schedule: "cosine".into(),
            ..preset
        })
    }

    /// The network that tells the classes of a data set.
    ///
    /// # Errors
    /// [`Error::Usage`] for data without at least two classes, or sizes that do not fit together.
    pub fn classifier(&self, data: &Dataset) -> Result<ClassifierConfig> {
        let classes = data.num_classes();
        if classes < 2 {
            return Err(Error::Usage(format!(
                "--task classifier: the data set \"{}\" has {}; expected at least two classes",
                self.data,
                if classes == 0 { "no labels" } else { "one class" }
            )));
        }
        let unet = TrainConfig { class_conditional: false, ..self.clone() }.unet(data)?;
        Ok(ClassifierConfig { unet: crate::nn::UNetConfig { class_embed: ClassEmbed::None, ..unet }, classes })
    }

    /// Refuses settings that a classifier has no use for.
    pub(super) fn check_classifier(&self) -> Result<()> {
        let usual = TrainConfig::preset("digits")?;
        for (key, value, usual) in [
            ("weight", &self.weight, &usual.weight),
            ("time_sampling", &self.time_sampling, &usual.time_sampling),
            ("variance_type", &self.variance_type, &usual.variance_type),
        ] {
            if value != usual {
                return Err(Error::Usage(format!(
                    "{key} = \"{value}\": has no meaning for --task classifier; leave it at \"{usual}\""
                )));
            }
        }
        Ok(())
    }
}
