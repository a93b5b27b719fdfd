//! The façade: load a model folder, draw samples. The programs themselves use it.
//!
//! ```no_run
//! use tweedie::pipeline::{Class, Pipeline, SampleOptions};
//! let pipeline = Pipeline::load("runs/digits")?;
//! let threes = pipeline.sample(&SampleOptions { count: 64, class: Class::Index(3), ..Default::default() })?;
//! println!("{} images in {:.2} s", threes.x0.shape()[0], threes.seconds);
//! # Ok::<(), tweedie::Error>(())
//! ```

mod classifier;
mod guide;
mod interpolate;
mod sample;
mod tokens;

pub use classifier::ClassifierPipeline;
pub use guide::{Guidance, Known};
pub use interpolate::slerp;
pub use sample::{Class, Network, SampleOptions, Samples, encode_network, sample_network};
pub use tokens::{
    TokenNetwork, TokenPipeline, TokenSampleOptions, TokenSamples, joined, pixels, sample_token_network,
    write_token_samples,
};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::io::folder::{ModelFolder, TweedieJson};
use crate::io::tensors::TensorFile;
use crate::io::weights::open_params;
use crate::nn::{ClassEmbed, ClassInput, MAX_SIDE, Mode, ParamSpec, Params, Precision, UNet};
use crate::process::SchedulerConfig;
use crate::tensor::Tensor;
use std::path::Path;

/// Which of the two sets of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// The moving average: what samplers should use.
    #[default]
    Ema,
    /// The last weights of the optimiser.
    Raw,
}

/// Maps the weights of the network in `component`.
fn open_weights(folder: &ModelFolder, component: &str, specs: &[ParamSpec], weights: Weights) -> Result<Params> {
    let has_checkpoint = folder.checkpoint().is_file();
    let (path, prefix) = match weights {
        Weights::Raw if has_checkpoint => (folder.checkpoint(), "raw."),
        // A run killed between its first checkpoint and its first weights has the averages there alone.
        Weights::Ema if has_checkpoint && !folder.weights(component).exists() => (folder.checkpoint(), "ema."),
        _ => (folder.weights(component), ""),
    };
    if !path.is_file() {
        let (root, path) = (folder.root().display(), path.display());
        return Err(Error::Model(format!(
            "model \"{root}\": {path} is missing; the model has no weights (only safetensors files are read)"
        )));
    }
    open_params(&TensorFile::open(path)?.into(), specs, prefix)
}

/// A loaded model.
pub struct Pipeline {
    unet: UNet,
    params: Params,
    scheduler: SchedulerConfig,
    own: Option<TweedieJson>,
    image_shape: [usize; 3],
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("image_shape", &self.image_shape).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Loads a model folder with its averaged weights.
    ///
    /// # Errors
    /// [`Error::Model`] that says what is missing, malformed or not supported.
    pub fn load(folder: impl AsRef<Path>) -> Result<Pipeline> {
        Pipeline::load_weights(folder, Weights::Ema)
    }

    /// Loads a model folder with either set of weights. A folder from elsewhere has one set, which stands for both.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn load_weights(folder: impl AsRef<Path>, weights: Weights) -> Result<Pipeline> {
        let folder = ModelFolder::new(folder.as_ref());
        let (config, scheduler, own) = folder.read_descriptions()?;
        let unet = UNet::new(&config)?;
        let params = open_weights(&folder, "unet", unet.specs(), weights)?;
        let [h, w] = match (&own, config.sample_size) {
            (Some(own), _) => [own.image_shape[0], own.image_shape[1]],
            (None, Some(size)) => size,
            (None, None) => {
                let root = folder.root().display();
                return Err(Error::Model(format!("model \"{root}\": unet/config.json has no sample_size")));
            }
        };
        if let Some(own) = &own {
            let [h, w, c] = own.image_shape;
            if h == 0 || w == 0 || h.max(w) > MAX_SIDE || c != config.in_channels {
                let (root, channels) = (folder.root().display(), config.in_channels);
                return Err(Error::Model(format!(
                    "model \"{root}\": tweedie.json: image_shape = {:?}: expected sides of 1 to {MAX_SIDE} and the \
                     {channels} channels of unet/config.json",
                    own.image_shape
                )));
            }
        }
        Ok(Pipeline { image_shape: [h, w, config.in_channels], unet, params, scheduler, own })
    }

    /// The same model with its weights on `device`: there it samples.
    ///
    /// # Errors
    /// [`Error::Device`] if the device cannot be used or its memory does not suffice.
    pub fn to_device(self, device: Device) -> Result<Pipeline> {
        Ok(Pipeline { params: self.params.to_device(device)?, ..self })
    }

    /// The same model, computing in `precision`; a loaded one computes in f32, whatever it was trained in.
    pub fn with_precision(self, precision: Precision) -> Pipeline {
        Pipeline { unet: self.unet.with_precision(precision), ..self }
    }

    /// The network.
    pub fn unet(&self) -> &UNet {
        &self.unet
    }

    /// The weights it runs with.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The scheduler's settings.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// Our own description, absent for folders from elsewhere.
    pub fn description(&self) -> Option<&TweedieJson> {
        self.own.as_ref()
    }

    /// `[h, w, c]` of its images.
    pub fn image_shape(&self) -> [usize; 3] {
        self.image_shape
    }

    /// Draws samples.
    ///
    /// # Errors
    /// [`Error::Usage`] for options that do not fit the model.
    pub fn sample(&self, options: &SampleOptions) -> Result<Samples> {
        self.sample_with(options, &mut |_, _| {})
    }

    /// Draws samples, calling `progress(evaluations done, evaluations in all)` after each step.
    ///
    /// # Errors
    /// As [`Pipeline::sample`].
    pub fn sample_with(&self, options: &SampleOptions, progress: &mut dyn FnMut(usize, usize)) -> Result<Samples> {
        self.check_class(options)?;
        sample_network(&self.network(), self.image_shape, options, progress)
    }

    fn network(&self) -> Network<'_> {
        Network {
            unet: &self.unet,
            params: &self.params,
            scheduler: &self.scheduler,
            has_null_class: self.own.is_some(),
            p_uncond: self.own.as_ref().map_or(0.0, |own| own.p_uncond),
        }
    }

    /// Finds the x_T from which the deterministic sampler of `options` would come to `x0` `[count,h,w,c]`: its [`Samples::x_t`]. What
    /// `options` say of count, start and noise has no meaning.
    ///
    /// # Errors
    /// [`Error::Usage`] for a sampler that draws noise, or images and options that do not fit the model.
    pub fn encode(
        &self,
        x0: &Tensor,
        options: &SampleOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Samples> {
        let count = x0.shape().first().copied().unwrap_or(0);
        let [h, w, c] = self.image_shape;
        if x0.shape()[..] != [count, h, w, c] || count == 0 {
            let got = x0.shape();
            return Err(Error::Usage(format!(
                "--encode: x0 wants [n,{h},{w},{c}], the images of the model, got {got}"
            )));
        }
        self.check_class(options)?;
        let options = SampleOptions { count, init: None, noise: None, ..options.clone() };
        encode_network(&self.network(), x0, &options, progress)
    }

    fn check_class(&self, options: &SampleOptions) -> Result<()> {
        if let (Class::Index(k), Some(own)) = (options.class, &self.own)
            && own.p_uncond == 1.0
            && !matches!(options.guidance, Guidance::Classifier { .. })
        {
            return Err(Error::Usage(format!(
                "--class {k}: all labels were dropped in training (p_uncond = 1): the model knows no class; use --class none"
            )));
        }
        let is_table = matches!(self.unet.config().class_embed, ClassEmbed::Table(_));
        if let (Class::Null, true, Some(own)) = (options.class, is_table, &self.own)
            && own.p_uncond == 0.0
        {
            return Err(Error::Usage(
                "--class none: the model was trained without label drops (p_uncond = 0), its null class is untrained"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Runs the network once: `x` `[n,h,w,c]`, `t` `[n]` as diffusers passes it, labels where the model wants them. The result is on the
    /// host.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn forward(&self, x: &Tensor, t: &[f32], class: Option<ClassInput<'_>>) -> Result<Tensor> {
        let x = x.to_device(self.params.device())?;
        self.unet.forward(&self.params, &x, t, class, Mode::Inference)?.to_device(Device::Cpu)
    }
}
