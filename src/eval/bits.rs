//! Bits per dimension of held-out images: the variational bound, and beside it the density of the probability-flow ODE (items 34 and 48).

use crate::data::Dataset;
use crate::denoiser::{NetworkDenoiser, Threshold};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::likelihood::{
    Bound, Chain, Decoder, OdeOptions, PixelLevels, ReverseVariance, Route, VlbOptions, bits_per_dim,
    gaussian_log_prior, ode_log_density, vlb,
};
use crate::nn::{ClassEmbed, Params, UNet};
use crate::process::{Process, SchedulerConfig};
use crate::rng::{Address, Purpose};
use crate::tensor::{Dtype, Tensor};
use serde::Serialize;
use std::f64::consts::LN_2;

/// A network, and the images it is measured on.
#[derive(Clone, Copy)]
pub struct Measured<'a> {
    /// The network.
    pub unet: &'a UNet,
    /// Its weights; work is done on their device.
    pub params: &'a Params,
    /// What its input, its time and its output mean.
    pub scheduler: &'a SchedulerConfig,
    /// The images: those held out are measured.
    pub data: &'a Dataset,
    /// The null class's number, to measure every image without its class; each is told its own label if not said.
    pub null_class: Option<u32>,
    /// Held-out images used, at most.
    pub images: usize,
    /// Images of one evaluation; the result does not depend on it.
    pub batch: usize,
    /// Seed of levels, noise, probes and dequantisation.
    pub seed: u64,
}

/// Which bound is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundKind {
    /// That of the table's chain, or of continuous time where the process is continuous.
    Own,
    /// Of continuous time.
    Continuous,
    /// Of a chain with this many equal steps of time, for a continuous process.
    Steps(usize),
}

/// p(x0 | x_1), by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderKind {
    /// [`Decoder::Discretised`].
    Discretised,
    /// [`Decoder::Posterior`].
    Posterior,
}

/// How the bound is measured.
#[derive(Clone, Debug)]
pub struct BpdOptions {
    /// Which one.
    pub bound: BoundKind,
    /// Of the chain's steps.
    pub variance: ReverseVariance,
    /// By default discretised for a chain, posterior in continuous time.
    pub decoder: Option<DecoderKind>,
    /// Levels of each image.
    pub draws: usize,
    /// Draws of x_1 for L_0.
    pub decoder_draws: usize,
}

/// A mean over images with its standard error, in bits per dimension.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bits {
    /// The mean.
    pub mean: f64,
    /// Its standard error; 0 for a single image.
    pub standard_error: f64,
}

/// A part of the time and what Σ L_{t−1} has there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// The middle of the part, 0 (clean) to 1.
    pub time: f64,
    /// Bits per dimension; those of all parts sum to [`BpdReport::diffusion`].
    pub bits: f64,
}

/// The measured bound.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BpdReport {
    /// L_T + Σ L_{t−1} + L_0.
    pub total: Bits,
    /// L_T.
    pub terminal: Bits,
    /// Σ L_{t−1}.
    pub diffusion: Bits,
    /// The part of it that the variances alone make.
    pub constant: f64,
    /// L_0.
    pub decoder: Bits,
    /// `chain of T levels` or `continuous time`.
    pub bound: String,
    /// `discretised` or `posterior`.
    pub decoder_name: &'static str,
    /// Pixel levels of the data.
    pub pixel_levels: usize,
    /// What the network was told: `true label`, `null class`, or `none` for a model without classes.
    pub class: String,
    /// Images used.
    pub images: usize,
    /// Levels for each.
    pub draws: usize,
    /// The seed.
    pub seed: u64,
    /// Where along the time Σ L_{t−1} lies.
    pub curve: Vec<CurvePoint>,
}

/// The measured density.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OdeReport {
    /// −log2 of the density times the volume of a bin, for each dimension.
    pub total: Bits,
    /// What the number is of.
    pub quantity: &'static str,
    /// How images became real numbers.
    pub dequantisation: String,
    /// How the trace was taken.
    pub trace: String,
    /// The solver's tolerance.
    pub tolerance: f64,
    /// Pixel levels of the data.
    pub pixel_levels: usize,
    /// As in [`BpdReport`].
    pub class: String,
    /// Images used.
    pub images: usize,
    /// Evaluations of the network for an image, forwards and backwards: the mean.
    pub evaluations: f64,
    /// The seed.
    pub seed: u64,
}

/// Parts of the time in [`BpdReport::curve`].
const PARTS: usize = 50;

/// Measures the variational bound.
///
/// The chain is the one that samplers run: x0_hat is clipped where the scheduler's settings say so.
///
/// # Errors
/// [`Error::Data`] if nothing is held out or labels are missing; [`Error::Usage`] for a bound that the process does not have; those of
/// [`vlb`].
pub fn bits_per_dim_of(
    m: &Measured<'_>,
    options: &BpdOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<BpdReport> {
    let process = m.scheduler.process()?;
    let chain = chain_of(&*process, options)?;
    let route = chain.as_ref().map_or(Route::Continuous(&*process), Route::Chain);
    let kind = options.decoder.unwrap_or(match chain {
        Some(_) => DecoderKind::Discretised,
        None => DecoderKind::Posterior,
    });
    let levels = m.pixel_levels()?;
    let (decoder, decoder_name) = match kind {
        DecoderKind::Discretised => (Decoder::Discretised(levels), "discretised"),
        DecoderKind::Posterior => (Decoder::Posterior(levels), "posterior"),
    };
    let settings = VlbOptions { draws: options.draws, decoder_draws: options.decoder_draws, seed: m.seed };
    let mut bounds = Vec::new();
    m.each_batch(progress, |inner, x0, samples| {
        let denoiser = Threshold { inner, config: m.scheduler };
        bounds.extend(vlb(&denoiser, route, decoder, x0, samples, &settings)?);
        Ok(())
    })?;
    let d = m.data.image_len();
    let bits = |of: fn(&Bound) -> f64| Bits::of(bounds.iter().map(|b| bits_per_dim(of(b), d)));
    Ok(BpdReport {
        total: bits(Bound::total),
        terminal: bits(|b| b.terminal),
        diffusion: bits(|b| b.diffusion),
        constant: bounds.first().map_or(0.0, |b| bits_per_dim(b.constant, d)),
        decoder: bits(|b| b.decoder),
        bound: match &chain {
            Some(chain) => format!("chain of {} levels", chain.levels().len()),
            None => "continuous time".into(),
        },
        decoder_name,
        pixel_levels: levels.count(),
        class: m.class_name(),
        images: bounds.len(),
        draws: bounds.first().map_or(0, |b| b.terms.len()),
        seed: m.seed,
        curve: curve(&bounds, chain.as_ref(), d),
    })
}

/// The chain that is asked for; none for continuous time.
fn chain_of(process: &dyn Process, options: &BpdOptions) -> Result<Option<Chain>> {
    match (process.discrete(), options.bound) {
        (Some(table), BoundKind::Own) => Ok(Some(Chain::of_table(table, &options.variance)?)),
        (Some(table), BoundKind::Steps(n)) if n == table.steps() => {
            Ok(Some(Chain::of_table(table, &options.variance)?))
        }
        (Some(table), BoundKind::Steps(n)) => {
            let steps = table.steps();
            Err(Error::Usage(format!(
                "--vlb-steps {n}: the model's process is a table of {steps} levels; leave it out"
            )))
        }
        (Some(table), BoundKind::Continuous) => {
            let steps = table.steps();
            Err(Error::Usage(format!(
                "--vlb-steps continuous: the model's process is a table of {steps} levels, it has no continuous one; leave it out"
            )))
        }
        (None, BoundKind::Steps(0 | 1)) => Err(Error::Usage("--vlb-steps: expected at least 2, or continuous".into())),
        (None, BoundKind::Steps(n)) => Ok(Some(Chain::along(process, n, &options.variance)?)),
        (None, _) => Ok(None),
    }
}

/// Σ L_{t−1} over equal parts of the time.
fn curve(bounds: &[Bound], chain: Option<&Chain>, d: usize) -> Vec<CurvePoint> {
    let mut nats = vec![0.0; PARTS];
    let part = |time: f64| ((time * PARTS as f64) as usize).min(PARTS - 1);
    for term in bounds.iter().flat_map(|b| &b.terms) {
        nats[part(term.time)] += term.nats / bounds.len() as f64;
    }
    for (time, constant) in chain.map(Chain::constants).unwrap_or_default() {
        nats[part(time)] += constant * d as f64;
    }
    let point =
        |(i, nats): (usize, f64)| CurvePoint { time: (i as f64 + 0.5) / PARTS as f64, bits: bits_per_dim(nats, d) };
    nats.into_iter().enumerate().map(point).collect()
}

/// Measures the density of the probability-flow ODE at dequantised images.
///
/// A pixel becomes u = x0 + bin·(U − ½), U uniform; the ODE starts from alpha·u at the process's least time, and its prior is N(0,
/// prior_std²·I). The network is used as it is: nothing is clipped, for the flow of a clipped one has no Jacobian everywhere. DDPM's table is
/// interpolated between its levels, as solvers do that sample from it.
///
/// # Errors
/// As [`bits_per_dim_of`]; those of [`ode_log_density`].
pub fn ode_bits_per_dim(
    m: &Measured<'_>,
    options: &OdeOptions<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<OdeReport> {
    let process = m.scheduler.process()?;
    let first = process.level(process.min_time());
    let levels = m.pixel_levels()?;
    let prior = gaussian_log_prior(process.prior_std());
    let (mut nats, mut evaluations) = (Vec::new(), 0);
    let d = m.data.image_len();
    // Of u in bins: the densities per unit of x and per bin of u.
    let volume = first.log_alpha + levels.width().ln();
    m.each_batch(progress, |inner, x0, samples| {
        let x = m.dequantised(x0, samples, levels.width(), first.alpha)?;
        for found in ode_log_density(&inner, &*process, &x, samples, &prior, options)? {
            nats.push(-found.log_density - d as f64 * volume);
            evaluations += found.evaluations;
        }
        Ok(())
    })?;
    Ok(OdeReport {
        total: Bits::of(nats.iter().map(|v| bits_per_dim(*v, d))),
        quantity: "density at the least time, times the volume of a bin",
        dequantisation: format!("uniform, x0 + {}·(U − 1/2)", levels.width()),
        trace: trace_name(options),
        tolerance: options.tolerance,
        pixel_levels: levels.count(),
        class: m.class_name(),
        images: nats.len(),
        evaluations: evaluations as f64 / nats.len() as f64,
        seed: m.seed,
    })
}

fn trace_name(options: &OdeOptions<'_>) -> String {
    use crate::likelihood::Trace;
    match options.trace {
        Trace::Exact => "exact".into(),
        Trace::Rademacher { probes, .. } => format!("{probes} Rademacher"),
        Trace::Gaussian { probes, .. } => format!("{probes} Gaussian"),
        Trace::Given(list) => format!("{} given", list.len()),
    }
}

impl Bits {
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Bits {
        let values: Vec<f64> = values.collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Bits { mean, standard_error: (variance / n).sqrt() }
    }
}

impl Measured<'_> {
    fn pixel_levels(&self) -> Result<PixelLevels> {
        PixelLevels::new(self.data.max_value() as usize + 1)
    }

    fn class_name(&self) -> String {
        match (self.unet.config().class_embed == ClassEmbed::None, self.null_class) {
            (true, _) => "none".into(),
            (false, None) => "true label".into(),
            (false, Some(_)) => "null class".into(),
        }
    }

    /// Runs `body` on each batch: the denoiser with the batch's classes, its images and their indices among the held-out ones.
    fn each_batch(
        &self,
        progress: &mut dyn FnMut(usize, usize),
        mut body: impl FnMut(NetworkDenoiser<'_>, &Tensor, &[u32]) -> Result<()>,
    ) -> Result<()> {
        let images = self.data.held_out().len().min(self.images);
        if images == 0 || self.batch == 0 {
            let name = self.data.name();
            return Err(Error::Data(format!("data set \"{name}\": no held-out images to measure the likelihood on")));
        }
        let is_conditional = self.unet.config().class_embed != ClassEmbed::None;
        let [h, w, c] = self.data.shape();
        let all: Vec<u32> = (0..images as u32).collect();
        for samples in all.chunks(self.batch) {
            let mut x0 = Tensor::zeros([samples.len(), h, w, c], Dtype::F32, Device::Cpu)?;
            let mut labels = Vec::new();
            for (sample, out) in samples.iter().zip(x0.host_mut::<f32>()?.chunks_exact_mut(h * w * c)) {
                let index = self.data.held_out()[*sample as usize] as usize;
                self.data.copy_image(index, out);
                if is_conditional {
                    labels.push(self.null_class.or_else(|| self.data.label(index)).ok_or_else(|| {
                        let name = self.data.name();
                        Error::Data(format!("data set \"{name}\": the model wants class labels, it has none"))
                    })?);
                }
            }
            let denoiser = NetworkDenoiser {
                unet: self.unet,
                params: self.params,
                scheduler: self.scheduler,
                class_labels: is_conditional.then_some(&labels[..]),
            };
            body(denoiser, &x0.to_device(self.params.device())?, samples)?;
            progress(samples.last().map_or(0, |last| *last as usize + 1), images);
        }
        Ok(())
    }

    /// alpha·(x0 + width·(U − ½)); U is addressed by the image.
    fn dequantised(&self, x0: &Tensor, samples: &[u32], width: f64, alpha: f64) -> Result<Tensor> {
        let mut x = x0.to_device(Device::Cpu)?.to_vec::<f32>()?;
        for (row, sample) in x.chunks_exact_mut(self.data.image_len()).zip(samples) {
            let address = Address::new(self.seed, Purpose::Likelihood).sample(*sample as usize).sub_index(3);
            for (k, value) in row.iter_mut().enumerate() {
                *value = (alpha * (f64::from(*value) + width * (address.uniform(k) - 0.5))) as f32;
            }
        }
        Tensor::from_slice(&x, x0.shape())?.to_device(x0.device())
    }
}

/// The bits of each dimension under the uniform law on `levels` pixel levels: what a model has to beat.
pub fn uniform_bits(levels: PixelLevels) -> f64 {
    (levels.count() as f64).log2()
}

/// The bits of each dimension of the held-out images under independent pixels, each with the shares of its values among the training
/// images and one more count for every level (Laplace's rule).
///
/// # Errors
/// [`Error::Data`] if nothing is held out.
///
/// # Example
/// ```
/// use tweedie::{data::Dataset, eval, likelihood::PixelLevels};
/// let digits = Dataset::load("digits", 0)?;
/// assert_eq!(format!("{:.3}", eval::uniform_bits(PixelLevels::new(17)?)), "4.087");
/// assert_eq!(format!("{:.3}", eval::independent_pixel_bits(&digits)?.mean), "2.391");
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn independent_pixel_bits(data: &Dataset) -> Result<Bits> {
    if data.held_out().is_empty() {
        return Err(Error::Data(format!("data set \"{}\": no held-out images to measure", data.name())));
    }
    let (levels, d) = (data.max_value() as usize + 1, data.image_len());
    let mut counts = vec![1_u32; levels * d];
    for index in data.train() {
        for (k, pixel) in data.image(*index as usize).iter().enumerate() {
            counts[k * levels + usize::from(*pixel)] += 1;
        }
    }
    let total = (data.train().len() + levels) as f64;
    let bits = |index: &u32| {
        let pixels = data.image(*index as usize).iter().enumerate();
        let nats = pixels.map(|(k, pixel)| -(f64::from(counts[k * levels + usize::from(*pixel)]) / total).ln());
        nats.sum::<f64>() / (d as f64 * LN_2)
    };
    Ok(Bits::of(data.held_out().iter().map(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baselines_of_the_digits_are_the_known_numbers() {
        let digits = Dataset::load("digits", 0).unwrap();
        let levels = PixelLevels::new(17).unwrap();
        assert!((uniform_bits(levels) - 4.0875).abs() < 5e-5);
        // Counted once by another program: 2.391.
        let independent = independent_pixel_bits(&digits).unwrap();
        assert!((independent.mean - 2.391).abs() < 5e-4, "{}", independent.mean);
    }

    #[test]
    fn means_carry_the_standard_error_of_independent_images() {
        let bits = Bits::of([1.0, 2.0, 3.0, 6.0].into_iter());
        assert_eq!(bits.mean, 3.0);
        assert!((bits.standard_error - (14.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!(Bits::of([2.0].into_iter()).standard_error, 0.0);
    }
}
