//! `sample --interpolate A B`: the start of a strip.

use super::edit::read_picture;
use crate::error::{Error, Result};
use crate::io::image::from_u8;
use crate::pipeline::{Class, Pipeline, SampleOptions, slerp};
use crate::sampler;
use crate::tensor::Tensor;
use std::path::Path;

/// The starts x_T `[count, h, w, c]` of a strip of `options.count` samples from one end to the other. An end is a seed, whose first sample it is, or
/// a PNG, which is encoded by the sampler run backwards.
///
/// # Errors
/// [`Error::Usage`] for a sampler that draws noise, an end that is neither, a picture that does not fit the model, fewer than two samples, or
/// classes that would take turns along the strip.
pub fn interpolation(
    pipeline: &Pipeline,
    ends: &[String],
    options: &SampleOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Tensor> {
    let [a, b] = ends else {
        return Err(Error::Usage(format!("--interpolate: expected two ends, got {}", ends.len())));
    };
    if !options.sampler.is_deterministic(&options.settings) {
        return Err(Error::Usage(format!(
            "--interpolate: {} draws noise, so that x_T does not say what becomes of it; use ddim (eta 0), dpmpp_2m, edm (churn 0), \
             euler, heun, rk4 or rk45",
            options.sampler.name()
        )));
    }
    let [h, w, c] = pipeline.image_shape();
    let process = pipeline.scheduler().process()?;
    let mut end = |text: &str| {
        if let Ok(seed) = text.parse::<u64>() {
            return sampler::start(&*process, seed, [1, h, w, c]);
        }
        let path = Path::new(text);
        if !path.is_file() {
            return Err(Error::Usage(format!("--interpolate {text}: expected a seed, or a PNG that is there")));
        }
        let picture = read_picture(path, "--interpolate", [h, w, c], &[c])?;
        let x0 = Tensor::from_slice(&from_u8(&picture), [1, h, w, c])?;
        let options = SampleOptions { trajectory: false, ..options.clone() };
        Ok(pipeline.encode(&x0, &options, progress)?.x_t)
    };
    slerp(&end(a)?, &end(b)?, options.count)
}

/// The class of a strip if none is said: the null class, where it was trained; classes that take turns would tear the strip.
///
/// # Errors
/// [`Error::Usage`] for a model that knows classes alone.
pub fn strip_class(pipeline: &Pipeline, class: Class) -> Result<Class> {
    let has_classes = pipeline.unet().config().class_embed != crate::nn::ClassEmbed::None;
    match (class, pipeline.description()) {
        (Class::Cycle, Some(own)) if has_classes && own.p_uncond > 0.0 => Ok(Class::Null),
        (Class::Cycle, _) if has_classes => {
            Err(Error::Usage("--interpolate: the model wants a class for the whole strip; add --class K".into()))
        }
        (class, _) => Ok(class),
    }
}
