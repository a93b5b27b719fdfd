//! A whole run in one call, for oracles and experiments.

use super::{Grid, Run, SamplerKind, SamplerOptions, StepNoise, sample};
use crate::denoiser::Denoiser;
use crate::error::{Error, Result};
use crate::process::Process;
use crate::rng::{Address, Purpose};
use crate::tensor::{Shape, Tensor};

/// x_T of the first `shape[0]` samples of a seed: N(0, prior_std²·I), `shape` = `[n, …]`, f32 on the host. Row i depends on (seed, i)
/// alone.
///
/// # Errors
/// [`Error::Shape`] for a shape without rows.
pub fn start(process: &dyn Process, seed: u64, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let Some(&n) = shape.first().filter(|n| **n > 0) else {
        return Err(Error::Shape(format!("start: expected [n,…] with n at least 1, got {shape}")));
    };
    let mut values = vec![0.0_f32; shape.count()];
    for (i, row) in values.chunks_exact_mut((shape.count() / n).max(1)).enumerate() {
        Address::new(seed, Purpose::Start).sample(i).fill_normal(row);
    }
    let prior_std = process.prior_std() as f32;
    if prior_std != 1.0 {
        values.iter_mut().for_each(|v| *v *= prior_std);
    }
    Tensor::from_slice(&values, shape)
}

/// Runs a sampler with its usual settings from `x_t` `[n, …]` at the grid's first level to its last. Row i is sample i: its noise
/// depends on (seed, i) alone.
///
/// # Errors
/// Those of the sampler.
///
/// # Example
/// ```
/// use tweedie::{denoiser::oracle::Oracle, process::ProcessConfig, sampler::{self, Grid, SamplerKind}};
///
/// // N(2, ¼) from the exact p_T, by DDIM with the exact denoiser.
/// let oracle = Oracle::gaussian(&[2.0], &[0.25])?;
/// let process = ProcessConfig::Ve { sigma_min: 0.01, sigma_max: 10.0 }.build()?;
/// let levels: Vec<_> = (0..=50).rev().map(|i| process.level(f64::from(i) / 50.0)).collect();
/// let x_t = oracle.sample(0, 4000, levels[0])?;
/// let x = sampler::draw(SamplerKind::Ddim, &oracle, x_t, &Grid::through(&process, &levels)?, 0)?.to_vec::<f64>()?;
/// assert!((x.iter().sum::<f64>() / 4000.0 - 2.0).abs() < 0.04);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn draw(kind: SamplerKind, denoiser: &dyn Denoiser, x_t: Tensor, grid: &Grid, seed: u64) -> Result<Tensor> {
    let samples: Vec<u32> = (0..x_t.shape().first().map_or(0, |n| *n as u32)).collect();
    let noise = StepNoise::Drawn(Address::new(seed, Purpose::ReverseStep));
    sample(kind, &mut Run::new(denoiser, noise, &samples), x_t, grid, &SamplerOptions::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoiser::oracle::Oracle;
    use crate::process::ProcessConfig;

    #[test]
    fn a_row_depends_on_seed_and_index_alone() {
        let oracle = Oracle::gaussian(&[1.0, 0.0], &[1.0, 0.3, 0.3, 0.5]).unwrap();
        let process = ProcessConfig::Ve { sigma_min: 0.1, sigma_max: 5.0 }.build().unwrap();
        let levels: Vec<_> = (0..=8).rev().map(|i| process.level(f64::from(i) / 8.0)).collect();
        let grid = Grid::through(&process, &levels).unwrap();
        let drawn = |seed, n| {
            let x_t = start(&*process, seed, [n, 2]).unwrap();
            draw(SamplerKind::EulerMaruyama, &oracle, x_t, &grid, seed).unwrap().to_vec::<f32>().unwrap()
        };
        assert_eq!(drawn(3, 2), drawn(3, 5)[..4]);
        assert_ne!(drawn(3, 2), drawn(4, 2));
    }

    #[test]
    fn starts_have_the_deviation_of_the_prior() {
        let process = ProcessConfig::Ve { sigma_min: 0.1, sigma_max: 5.0 }.build().unwrap();
        let x = start(&*process, 0, [20_000, 2]).unwrap().to_vec::<f32>().unwrap();
        let square = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 40_000.0;
        // 4.5 standard errors of the mean of 40,000 squares: variance·√(2/n).
        assert!((square / 25.0 - 1.0).abs() < 4.5 * (2.0_f64 / 40_000.0).sqrt(), "{square}");
        assert!(start(&*process, 0, [0, 2]).unwrap_err().to_string().contains("got [0,2]"));
    }
}
