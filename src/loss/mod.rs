//! The denoising loss: what the error at each level counts, how times are drawn, labels dropped, and what the network's error means in
//! terms of eps.

mod history;
mod lambda;
mod learned_variance;
pub mod score_matching;
mod time;
mod weight;

pub use history::LossHistory;
pub use lambda::Lambda;
pub use time::{DrawnTimes, TimeSampler, TimeSampling};
pub use weight::{ErrorOf, WEIGHTS, Weight, Weighting};

use crate::denoiser::eps_coefficients;
use crate::error::Result;
use crate::process::{Level, Prediction, Process};
use crate::rng::{Address, Purpose};

/// The level of each image of a training batch: uniform over the process's times (Ho et al. 2020, algorithm 1; item 21),
/// addressed by (seed, step, image).
pub fn draw_levels(process: &dyn Process, seed: u64, step: u64, levels: &mut [Level]) {
    let address = Address::new(seed, Purpose::Time).step(step as usize);
    for (i, level) in levels.iter_mut().enumerate() {
        *level = process.draw(address.sample(i).uniform(0));
    }
}

/// Replaces each label by `null_label` with probability `p_uncond` (Ho & Salimans 2022, algorithm 1; item 61).
pub fn drop_labels(labels: &mut [u32], null_label: u32, p_uncond: f64, seed: u64, step: u64) {
    let address = Address::new(seed, Purpose::LabelDrop).step(step as usize);
    for (i, label) in labels.iter_mut().enumerate() {
        if address.sample(i).uniform(0) < p_uncond {
            *label = null_label;
        }
    }
}

/// Factor from the squared error of the network's output to that of eps_hat, at one level.
///
/// # Errors
/// As [`eps_coefficients`].
pub fn eps_loss_factor(prediction: Prediction, at: Level) -> Result<f64> {
    Ok(eps_coefficients(prediction, at)?.1.powi(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::SchedulerConfig;

    #[test]
    fn times_are_uniform_by_chi_square() {
        // 40 000 draws in 20 bins, seed 2: chi² has 19 degrees of freedom; 43.8 is its 99.9 % point.
        let process = SchedulerConfig::default().process().unwrap();
        let mut bins = [0.0_f64; 20];
        let mut levels = vec![Level::CLEAN; 400];
        for step in 0..100 {
            draw_levels(&*process, 2, step, &mut levels);
            levels.iter().for_each(|l| bins[l.t as usize / 50] += 1.0);
        }
        let chi: f64 = bins.iter().map(|b| (b - 2000.0).powi(2) / 2000.0).sum();
        assert!(chi < 43.8, "chi² = {chi}");
    }

    #[test]
    fn labels_are_dropped_as_often_as_asked() {
        // 10 000 draws at p = 0.1: standard deviation 30, bound 4.5 of them; p = 0 and 1 are exact.
        let count = |p: f64| -> usize {
            (0..100)
                .map(|step| {
                    let mut labels = [3; 100];
                    drop_labels(&mut labels, 10, p, 5, step);
                    labels.iter().filter(|l| **l == 10).count()
                })
                .sum()
        };
        assert!(count(0.1).abs_diff(1000) < 135, "{}", count(0.1));
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
    }
}
