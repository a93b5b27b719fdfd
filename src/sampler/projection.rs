//! What is known of the samples, put in after each step (items 58 and 59): pixels for inpainting, the grey component for colourisation.

use super::{Grid, Run, SamplerKind, SamplerOptions, sample};
use crate::error::{Error, Result};
use crate::ops;
use crate::process::Level;
use crate::sampler::DdimNoise;
use crate::tensor::Tensor;

/// Something known of x0. A run calls it after each step.
pub trait Projection {
    /// x at the level `at`, with what is known of it put in. `noised(x0)` brings known data `[n, …]` to that level: alpha·x0 + sigma·z with fresh
    /// noise, or x0 itself at clean data.
    ///
    /// # Errors
    /// Those of its ops.
    fn project(&self, x: Tensor, at: Level, noised: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Tensor>;
}

/// Known elements of x0 (S3.eq170): at every level they are replaced by noised data, at the end by the data, bit for bit.
///
/// This samples p(unknown | known) only approximately: the known part at a level is drawn without looking at the rest (S3.eq166 and 167). Going
/// back up and down again ([`Resampling`]) brings the two together.
pub struct KnownElements {
    /// `[n, …]` as the samples; what the mask leaves out may hold anything.
    pub x0: Tensor,
    /// `[1, …]` or `[n, …]`: not 0 where `x0` is known.
    pub mask: Tensor,
}

impl Projection for KnownElements {
    fn project(&self, x: Tensor, _at: Level, noised: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        ops::select(&self.mask, &noised(&self.x0)?, &x)
    }
}

/// Known components A·x0 along the last axis, for A with orthonormal rows: as [`KnownElements`] in a rotated basis, in which white noise
/// stays white. With the row (1,1,1)/√3 and √3 times the grey levels it colours a picture (item 59).
pub struct KnownComponents {
    /// `[m, c]`, row-major, orthonormal rows.
    pub rows: Vec<f64>,
    /// A·x0, `[n, …, m]`.
    pub values: Tensor,
}

impl Projection for KnownComponents {
    fn project(&self, x: Tensor, _at: Level, noised: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        ops::set_components(&x, &self.rows, &noised(&self.values)?)
    }
}

/// RePaint's schedule (Lugmayr et al. 2022): each stretch of `jump` steps is taken `times` times, with the noise put back between, so that what
/// is known and what is drawn come to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resampling {
    /// How often each stretch is taken; 1 is plain sampling.
    pub times: usize,
    /// Steps of a stretch.
    pub jump: usize,
}

impl Default for Resampling {
    fn default() -> Resampling {
        Resampling { times: 1, jump: 1 }
    }
}

/// As [`sample`], each stretch of the grid `resampling.times` times.
///
/// # Errors
/// [`Error::Usage`] if a number is 0, or for rk45 and raw sigmas, which know no stretches; those of the sampler.
pub fn sample_again(
    kind: SamplerKind,
    run: &mut Run<'_>,
    mut x: Tensor,
    grid: &Grid,
    options: &SamplerOptions,
    resampling: Resampling,
) -> Result<Tensor> {
    let Resampling { times, jump } = resampling;
    if times == 0 || jump == 0 {
        return Err(Error::Usage(format!("resampling {times} times by {jump} steps: expected at least 1")));
    }
    if times == 1 {
        return sample(kind, run, x, grid, options);
    }
    // These are told of all steps at once.
    if kind == SamplerKind::Rk45 || matches!(options.noise, DdimNoise::Sigma(_)) || options.churn.churn > 0.0 {
        return Err(Error::Usage(
            "resampling: rk45, raw sigmas and churn cannot be cut into stretches; use another sampler, or --eta".into(),
        ));
    }
    let steps = grid.steps().len();
    let stretches = steps.div_ceil(jump);
    let mut done = 0;
    for stretch in 0..stretches {
        let part = grid.part(stretch * jump..steps.min((stretch + 1) * jump));
        let (Some(first), Some(last)) = (part.steps().first(), part.steps().last()) else { continue };
        let (from, to) = (first.from, last.to);
        for time in 0..times {
            run.begin_part(done, times * steps);
            x = sample(kind, run, x, &part, options)?;
            done += part.steps().len();
            if time + 1 < times {
                // q(x_from | x_to): one factor of the forward process.
                let ratio = (from.log_alpha - to.log_alpha).exp();
                x = run.add_noise(&x, ratio, (from.sigma.powi(2) - (ratio * to.sigma).powi(2)).max(0.0).sqrt())?;
            }
        }
    }
    Ok(x)
}
