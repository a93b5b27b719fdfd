//! The model folder: a diffusers pipeline plus `tweedie.json`.
//!
//! ```text
//! model_index.json                            scheduler/scheduler_config.json    tweedie.json
//! unet/config.json                            unet/diffusion_pytorch_model.safetensors   (averaged weights)
//! state/checkpoint.safetensors                (everything a resumed run needs, one file)
//! ```
//!
//! A classifier of noisy images has `classifier/` in place of `unet/`, and a model_index.json that says so; a model of tokens `transformer/`, see
//! [`super::token_folder`].

use super::tensors::write_tensors;
use super::token_folder::TRANSFORMER;
use super::weights::param_entries;
use super::write_atomically;
use crate::error::{Error, Result};
use crate::nn::{ClassifierConfig, ParamSpec, Params, UNetConfig};
use crate::process::{SchedulerConfig, TimeConvention};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Version of `tweedie.json` and of the checkpoint.
pub const FORMAT_VERSION: u32 = 1;

/// Our own fields, which diffusers has no place for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TweedieJson {
    /// Layout version of the folder.
    pub format_version: u32,
    /// What the network's time input means: the name of a [`crate::process::TimeConvention`].
    pub time_convention: String,
    /// Image size `[h, w, c]`.
    pub image_shape: [usize; 3],
    /// Grey levels of the data: pixel values 0 to this became −1 to 1.
    pub max_pixel_value: u32,
    /// Names of the classes; empty for a model without.
    pub class_names: Vec<String>,
    /// Probability with which labels were dropped in training; 0 means that the null class was never trained.
    pub p_uncond: f64,
    /// Name of the data set.
    pub data: String,
    /// Seed of the held-out split.
    pub split_seed: u64,
    /// Whether other programs cannot run this model, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires_tweedie: Option<String>,
}

/// A network as a model folder has it.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkEntry {
    /// Its folder, and its name in model_index.json.
    pub component: &'static str,
    /// Library and class that can read it.
    pub class: [&'static str; 2],
    /// Its config.json.
    pub config: Value,
}

impl NetworkEntry {
    /// A U-Net, as diffusers has it.
    pub fn unet(config: &UNetConfig) -> NetworkEntry {
        NetworkEntry { component: UNET, class: ["diffusers", "UNet2DModel"], config: config.to_json() }
    }

    /// A classifier, which is our own.
    pub fn classifier(config: &ClassifierConfig) -> NetworkEntry {
        NetworkEntry { component: CLASSIFIER, class: ["tweedie", "NoisyClassifier"], config: config.to_json() }
    }
}

const UNET: &str = "unet";
const CLASSIFIER: &str = "classifier";

/// Paths inside a model folder.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    root: PathBuf,
}

impl ModelFolder {
    /// Names a folder, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> ModelFolder {
        ModelFolder { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file or folder inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The averaged weights of a network: `component` is its folder, such as `unet`.
    pub fn weights(&self, component: &str) -> PathBuf {
        self.path(component).join("diffusion_pytorch_model.safetensors")
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.path("state/checkpoint.safetensors")
    }

    /// Whether there is a model already, whole or a run's first checkpoint.
    pub fn holds_model(&self) -> bool {
        self.checkpoint().exists()
            || [UNET, CLASSIFIER, TRANSFORMER].iter().any(|component| self.weights(component).exists())
    }

    /// Removes the networks of a former model that is not of `component`'s kind, once the new one is there.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be removed.
    pub fn remove_others(&self, component: &str) -> Result<()> {
        for other in [UNET, CLASSIFIER, TRANSFORMER].iter().filter(|other| **other != component) {
            let path = self.path(other);
            if path.is_dir() {
                std::fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Makes the folders and writes the descriptions that say which model this is.
    ///
    /// # Errors
    /// [`Error::Io`] if something cannot be written.
    pub fn write_descriptions(
        &self,
        network: &NetworkEntry,
        scheduler: &SchedulerConfig,
        own: &TweedieJson,
    ) -> Result<()> {
        for name in [network.component, "scheduler", "state"] {
            let path = self.path(name);
            std::fs::create_dir_all(&path).map_err(Error::io("create the folder", &path))?;
        }
        let library = if scheduler.is_own() { "tweedie" } else { "diffusers" };
        let is_own = scheduler.is_own() || network.class[0] == "tweedie";
        let index = json!({
            "_class_name": if is_own { "TweediePipeline" } else { "DDPMPipeline" },
            "_diffusers_version": "0.30.0",
            "scheduler": [library, scheduler.class_name],
            network.component: network.class,
        });
        self.write_json("scheduler/scheduler_config.json", &scheduler.to_json())?;
        self.write_json(&format!("{}/config.json", network.component), &network.config)?;
        let own = serde_json::to_value(own).map_err(|e| Error::Model(format!("tweedie.json: {e}")))?;
        self.write_json("tweedie.json", &own)?;
        self.write_json("model_index.json", &index)
    }

    pub(super) fn write_json(&self, name: &str, value: &Value) -> Result<()> {
        let path = self.path(name);
        let text = format!("{value:#}\n");
        write_atomically(&path, |out| out.write_all(text.as_bytes()).map_err(Error::io("write", &path)))
    }

    /// Writes the weights that samplers use.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written; the old ones stay.
    pub fn write_weights(&self, component: &str, specs: &[ParamSpec], params: &Params) -> Result<()> {
        let texts = HashMap::from([("format".to_string(), "pt".to_string())]);
        write_tensors(self.weights(component), param_entries(specs, params.tensors(), "")?, texts)
    }

    /// Reads the descriptions of a diffusion model. `tweedie.json` is absent in folders from elsewhere.
    ///
    /// # Errors
    /// [`Error::Model`] that says which file is missing or malformed and what a model folder is.
    pub fn read_descriptions(&self) -> Result<(UNetConfig, SchedulerConfig, Option<TweedieJson>)> {
        let root = self.root.display();
        if self.is_classifier()? {
            return Err(Error::Model(format!(
                "model \"{root}\": is a classifier of noisy images, which draws nothing; guide another model with it: \
                 --guidance classifier --classifier {root}"
            )));
        }
        let index = self.read_index()?;
        if index["unet"][1] != "UNet2DModel" {
            let got = &index["unet"];
            let hint = if index.get(TRANSFORMER).is_some() { "; it is a model of tokens, not of images" } else { "" };
            return Err(Error::Model(format!(
                "model \"{root}\": model_index.json names unet {got}; expected [\"diffusers\",\"UNet2DModel\"]{hint}"
            )));
        }
        let unet = UNetConfig::from_json(&self.read_json("unet/config.json")?).map_err(|e| self.in_folder(e))?;
        let (scheduler, own) = self.read_scheduler()?;
        Ok((unet, scheduler, own))
    }

    /// Reads the descriptions of a classifier of noisy images.
    ///
    /// # Errors
    /// [`Error::Model`] if the folder holds none, or says which file is missing or malformed.
    pub fn read_classifier(&self) -> Result<(ClassifierConfig, SchedulerConfig, TweedieJson)> {
        let root = self.root.display();
        if !self.is_classifier()? {
            return Err(Error::Model(format!(
                "classifier \"{root}\": holds another model; expected a classifier, as `train --task classifier` writes it"
            )));
        }
        let config = ClassifierConfig::from_json(&self.read_json("classifier/config.json")?);
        let (scheduler, own) = self.read_scheduler()?;
        let Some(own) = own else {
            return Err(Error::Model(format!("classifier \"{root}\": tweedie.json is missing")));
        };
        Ok((config.map_err(|e| self.in_folder(e))?, scheduler, own))
    }

    /// Whether the folder holds a classifier of noisy images.
    ///
    /// # Errors
    /// [`Error::Model`] if there is no model_index.json or it is malformed.
    pub fn is_classifier(&self) -> Result<bool> {
        Ok(self.read_index()?.get(CLASSIFIER).is_some())
    }

    fn in_folder(&self, e: Error) -> Error {
        Error::Model(format!("model \"{}\": {e}", self.root.display()))
    }

    fn read_index(&self) -> Result<Value> {
        if !self.path("model_index.json").is_file() {
            let found = if self.root.is_dir() { "is missing" } else { "cannot be there: the folder does not exist" };
            return Err(Error::Model(format!(
                "model \"{}\": model_index.json {found}; a model is a diffusers pipeline folder, as `train` writes it",
                self.root.display()
            )));
        }
        self.read_json("model_index.json")
    }

    fn read_scheduler(&self) -> Result<(SchedulerConfig, Option<TweedieJson>)> {
        let scheduler = SchedulerConfig::from_json(&self.read_json("scheduler/scheduler_config.json")?)
            .map_err(|e| self.in_folder(e))?;
        let own = if self.path("tweedie.json").is_file() { Some(self.read_own()?) } else { None };
        if let Some(own) = &own
            && own.time_convention != scheduler.time_convention.name()
        {
            let (told, used) = (&own.time_convention, scheduler.time_convention.name());
            let root = self.root.display();
            return Err(Error::Model(format!(
                "model \"{root}\": tweedie.json says that the network was trained with the time convention \"{told}\", the scheduler \
                 would give it \"{used}\""
            )));
        }
        Ok((scheduler, own))
    }

    fn read_own(&self) -> Result<TweedieJson> {
        let path = self.path("tweedie.json");
        let own: TweedieJson = serde_json::from_value(self.read_json("tweedie.json")?)
            .map_err(|e| Error::Model(format!("{}: {e}", path.display())))?;
        if own.format_version > FORMAT_VERSION {
            return Err(Error::Model(format!(
                "{}: format version {} is newer than this program's {FORMAT_VERSION}; use a newer tweedie",
                path.display(),
                own.format_version
            )));
        }
        if let Err(e) = TimeConvention::from_name(&own.time_convention) {
            return Err(Error::Model(format!("{}: {e}", path.display())));
        }
        Ok(own)
    }

    pub(super) fn read_json(&self, name: &str) -> Result<Value> {
        let path = self.path(name);
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        serde_json::from_str(&text).map_err(|e| Error::Model(format!("{}: not valid JSON: {e}", path.display())))
    }
}
