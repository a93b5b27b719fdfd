//! Discrete variance-preserving schedules (Ho et al. 2020; Nichol & Dhariwal 2021): betas in f64, and alpha_bar through
//! summed logarithms, so that 1 − alpha_bar keeps its digits at both ends (items 15 and 17).

use super::{Level, Process};
use crate::error::{Error, Result, unknown_name};

/// How betas are made.
#[derive(Clone, Debug, PartialEq)]
pub enum BetaSchedule {
    /// beta from start to end in equal steps (Ho et al. 2020, sec. 4).
    Linear,
    /// √beta in equal steps (latent diffusion).
    ScaledLinear,
    /// alpha_bar as a squared cosine, betas capped at 0.999 (Nichol & Dhariwal 2021, eq. 17).
    Cosine,
    /// beta as a logistic curve over [−6, 6] from start to end (Xu et al. 2022, GeoDiff).
    Sigmoid,
}

impl BetaSchedule {
    const KNOWN: [&str; 4] = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"];

    /// Reads diffusers' name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str) -> Result<BetaSchedule> {
        match name {
            "linear" => Ok(BetaSchedule::Linear),
            "scaled_linear" => Ok(BetaSchedule::ScaledLinear),
            "squaredcos_cap_v2" | "cosine" => Ok(BetaSchedule::Cosine),
            "sigmoid" => Ok(BetaSchedule::Sigmoid),
            _ => Err(unknown_name("beta_schedule", name, &BetaSchedule::KNOWN)),
        }
    }

    /// diffusers' name.
    pub fn name(&self) -> &'static str {
        match self {
            BetaSchedule::Linear => "linear",
            BetaSchedule::ScaledLinear => "scaled_linear",
            BetaSchedule::Cosine => "squaredcos_cap_v2",
            BetaSchedule::Sigmoid => "sigmoid",
        }
    }

    /// `steps` betas.
    pub fn betas(&self, steps: usize, start: f64, end: f64) -> Vec<f64> {
        let linspace =
            |a: f64, b: f64, i: usize| if steps > 1 { a + (b - a) * i as f64 / (steps - 1) as f64 } else { a };
        match self {
            BetaSchedule::Linear => (0..steps).map(|i| linspace(start, end, i)).collect(),
            BetaSchedule::ScaledLinear => (0..steps).map(|i| linspace(start.sqrt(), end.sqrt(), i).powi(2)).collect(),
            BetaSchedule::Cosine => {
                let f = |u: f64| ((u + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                let at = |i: usize| f(i as f64 / steps as f64);
                (0..steps).map(|i| (1.0 - at(i + 1) / at(i)).min(0.999)).collect()
            }
            BetaSchedule::Sigmoid => {
                (0..steps).map(|i| start + (end - start) / (1.0 + (-linspace(-6.0, 6.0, i)).exp())).collect()
            }
        }
    }
}

/// A discrete variance-preserving process: T levels, k = 0 the cleanest.
#[derive(Clone, Debug)]
pub struct Discrete {
    /// ln alpha_bar of each level.
    log_alpha_bar: Vec<f64>,
}

impl Discrete {
    /// The process of a table of betas; with `zero_terminal_snr`, √alpha_bar is shifted and scaled so that the
    /// last level is pure noise (Lin et al. 2024, algorithm 1).
    ///
    /// # Errors
    /// [`Error::Usage`] if there are none, or one lies outside (0, 1).
    pub fn from_betas(betas: &[f64], zero_terminal_snr: bool) -> Result<Discrete> {
        if betas.is_empty() {
            return Err(Error::Usage("betas: expected at least one, got none".into()));
        }
        if let Some((k, beta)) = betas.iter().enumerate().find(|(_, b)| !(**b > 0.0 && **b < 1.0)) {
            return Err(Error::Usage(format!("betas: beta {k} is {beta}; every beta must lie between 0 and 1")));
        }
        let mut sum = 0.0;
        let mut log_alpha_bar: Vec<f64> = betas
            .iter()
            .map(|beta| {
                sum += (-beta).ln_1p();
                sum
            })
            .collect();
        if zero_terminal_snr && betas.len() == 1 {
            return Err(Error::Usage("betas: zero terminal SNR wants at least two, got one".into()));
        }
        if zero_terminal_snr {
            let root = |log: f64| (0.5 * log).exp();
            let (first, last) = (root(log_alpha_bar[0]), root(log_alpha_bar[betas.len() - 1]));
            if !(first - last > 0.0) {
                return Err(Error::Usage(
                    "betas: too small for zero terminal SNR, the first and the last level are one".into(),
                ));
            }
            for log in &mut log_alpha_bar {
                *log = 2.0 * ((root(*log) - last) * first / (first - last)).ln();
            }
        }
        Ok(Discrete { log_alpha_bar })
    }

    /// Number of levels T.
    pub fn steps(&self) -> usize {
        self.log_alpha_bar.len()
    }

    /// Level k (0 the cleanest).
    ///
    /// # Errors
    /// [`Error::Usage`] if k is T or more.
    pub fn level_of(&self, k: usize) -> Result<Level> {
        let Some(&log) = self.log_alpha_bar.get(k) else {
            let last = self.steps() - 1;
            return Err(Error::Usage(format!("time {k}: the process has levels 0 to {last}")));
        };
        let time = (k + 1) as f64 / self.steps() as f64;
        let drift = self.slope(k);
        let (alpha, sigma) = ((0.5 * log).exp(), (-log.exp_m1()).sqrt());
        Ok(Level { t: k as f64, time, alpha, sigma, log_alpha: 0.5 * log, drift, diffusion: (-2.0 * drift).sqrt() })
    }

    /// ln alpha of level k; level −1 is clean.
    fn log_alpha_of(&self, k: isize) -> f64 {
        usize::try_from(k).map_or(0.0, |k| 0.5 * self.log_alpha_bar[k.min(self.steps() - 1)])
    }

    /// d ln alpha/dt between levels k − 1 and k.
    fn slope(&self, k: usize) -> f64 {
        (self.log_alpha_of(k as isize) - self.log_alpha_of(k as isize - 1)) * self.steps() as f64
    }

    /// The segment ending at level k in which a time lies, and how far into it, 0 to 1.
    fn segment(&self, time: f64) -> (usize, f64) {
        let position = (time.clamp(0.0, 1.0) * self.steps() as f64).min(self.steps() as f64);
        let k = (position.ceil() as usize).max(1) - 1;
        (k, position - k as f64)
    }

    /// alpha_bar of level k, for tables.
    ///
    /// # Errors
    /// As [`Discrete::level_of`].
    pub fn alpha_bar(&self, k: usize) -> Result<f64> {
        Ok((2.0 * self.level_of(k)?.log_alpha).exp())
    }
}

/// Between the levels, ln alpha is linear in time, and level k lies at time (k+1)/T; in a last segment that ends in pure noise,
/// alpha is.
impl Process for Discrete {
    fn name(&self) -> &'static str {
        "ddpm"
    }

    fn log_alpha(&self, time: f64) -> f64 {
        let (k, part) = self.segment(time);
        let (from, to) = (self.log_alpha_of(k as isize - 1), self.log_alpha_of(k as isize));
        if to == f64::NEG_INFINITY {
            return from + (-part).ln_1p();
        }
        from + part * (to - from)
    }

    fn sigma(&self, time: f64) -> f64 {
        (-(2.0 * self.log_alpha(time)).exp_m1()).sqrt()
    }

    fn drift(&self, time: f64) -> f64 {
        let (k, part) = self.segment(time);
        let slope = self.slope(k);
        if slope == f64::NEG_INFINITY { -(self.steps() as f64) / (1.0 - part) } else { slope }
    }

    fn diffusion(&self, time: f64) -> f64 {
        (-2.0 * self.drift(time)).sqrt()
    }

    fn prior_std(&self) -> f64 {
        1.0
    }

    fn min_time(&self) -> f64 {
        1.0 / self.steps() as f64
    }

    fn level(&self, time: f64) -> Level {
        let position = time * self.steps() as f64;
        let k = position.round();
        // A time of the table is its level, to the last bit.
        if k >= 1.0
            && (position - k).abs() < 1e-9 * k
            && let Ok(level) = self.level_of(k as usize - 1)
        {
            return level;
        }
        let log_alpha = self.log_alpha(time);
        Level {
            t: (position - 1.0).max(0.0),
            time,
            alpha: log_alpha.exp(),
            sigma: self.sigma(time),
            log_alpha,
            drift: self.drift(time),
            diffusion: self.diffusion(time),
        }
    }

    /// Uniform over the table's levels (Ho et al. 2020, algorithm 1).
    fn draw(&self, u: f64) -> Level {
        let k = ((u * self.steps() as f64) as usize).min(self.steps() - 1);
        self.level_of(k).unwrap_or(Level::CLEAN)
    }

    fn discrete(&self) -> Option<&Discrete> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ddpm() -> Discrete {
        // Ho et al. 2020, sec. 4.
        Discrete::from_betas(&BetaSchedule::Linear.betas(1000, 1e-4, 0.02), false).unwrap()
    }

    #[test]
    fn linear_schedule_ends_at_the_known_alpha_bar() {
        // item 17
        assert!((ddpm().alpha_bar(999).unwrap() / 4.035_829_765_337_66e-5 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn alpha_and_sigma_of_every_level_lie_on_the_unit_circle() {
        let process = ddpm();
        for k in 0..1000 {
            let level = process.level_of(k).unwrap();
            assert!((level.alpha.powi(2) + level.sigma.powi(2) - 1.0).abs() < 1e-15, "level {k}");
        }
        // The first level keeps all digits of sigma² = beta.
        assert!((process.level_of(0).unwrap().sigma.powi(2) / 1e-4 - 1.0).abs() < 1e-14);
    }

    #[test]
    fn closed_form_jump_equals_the_product_of_single_steps() {
        // item 17: x_k = √(1−beta)·x_{k−1} + √beta·z, iterated on (mean factor, variance).
        let betas = BetaSchedule::Linear.betas(1000, 1e-4, 0.02);
        let (mut factor, mut variance) = (1.0_f64, 0.0_f64);
        let process = ddpm();
        for (k, beta) in betas.iter().enumerate() {
            factor *= (1.0 - beta).sqrt();
            variance = (1.0 - beta) * variance + beta;
            let level = process.level_of(k).unwrap();
            assert!(
                (level.alpha - factor).abs() < 1e-12 && (level.sigma.powi(2) - variance).abs() < 1e-12,
                "level {k}"
            );
        }
    }

    #[test]
    fn zero_terminal_snr_makes_the_last_level_pure_noise_and_keeps_the_first() {
        let betas = BetaSchedule::ScaledLinear.betas(1000, 0.000_85, 0.012);
        let process = Discrete::from_betas(&betas, true).unwrap();
        let last = process.level_of(999).unwrap();
        assert_eq!((last.alpha, last.sigma), (0.0, 1.0));
        assert!((process.alpha_bar(0).unwrap() - (1.0 - 0.000_85)).abs() < 1e-12);
    }

    #[test]
    fn betas_outside_zero_and_one_are_rejected_by_index() {
        for bad in [vec![0.1, 0.0], vec![0.1, 1.0], vec![0.1, f64::NAN]] {
            assert!(Discrete::from_betas(&bad, false).unwrap_err().to_string().contains("beta 1 is"));
        }
        assert!(Discrete::from_betas(&[], false).is_err());
        assert!(ddpm().level_of(1000).unwrap_err().to_string().contains("levels 0 to 999"));
    }
}
