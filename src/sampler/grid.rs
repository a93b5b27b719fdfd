//! Which levels a run visits: diffusers' three spacings, and those of the literature (item 52).

use super::tau::{check_tau, quadratic_tau};
use crate::denoiser::StepTerms;
use crate::error::{Error, Result, unknown_name};
use crate::process::{Discrete, Level, Process, SchedulerConfig, Spacing};
use std::sync::Arc;

/// One step of a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GridStep {
    /// Where the step begins: the network is evaluated here.
    pub from: Level,
    /// Where it ends.
    pub to: Level,
}

impl GridStep {
    /// The share of the variance at `from` that was added since `to`: 1 − (alpha_from·sigma_to/(alpha_to·sigma_from))², taken through
    /// half_log_snr, so that close levels keep their digits.
    pub fn fresh(&self) -> f64 {
        (-(2.0 * (self.from.half_log_snr() - self.to.half_log_snr())).exp_m1()).max(0.0)
    }

    /// A draw from q(x_to | x_from, x0_hat) with this deviation of the noise: the posterior mean (alpha_from/alpha_to)·(sigma_to/sigma_from)²·x +
    /// alpha_to·fresh·x0_hat.
    pub(super) fn posterior(&self, noise: f64) -> StepTerms {
        let (from, to) = (self.from, self.to);
        StepTerms {
            x: (from.log_alpha - to.log_alpha).exp() * (to.sigma / from.sigma).powi(2),
            x0: to.alpha * self.fresh(),
            eps: 0.0,
            noise,
        }
    }
}

/// How a run's levels are chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum GridKind {
    /// A spacing of DDPM's times (Lin et al. 2024, table 2).
    Times(Spacing),
    /// Equal steps of time.
    Uniform,
    /// Times along a parabola, dense near clean data.
    Quadratic,
    /// Equal steps of nsr^(1/7) (Karras et al. 2022, eq. 5).
    Karras,
    /// Equal steps of half_log_snr (Lu et al. 2022).
    LogSnr,
    /// A sub-sequence of DDPM's times 1 to T, ascending.
    Tau(Vec<usize>),
}

impl GridKind {
    /// All names; a sub-sequence of the user's own has none.
    pub const NAMES: [&str; 7] = ["leading", "trailing", "linspace", "uniform", "quadratic", "karras", "log_snr"];

    /// Reads a name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str) -> Result<GridKind> {
        match name {
            "uniform" => Ok(GridKind::Uniform),
            "quadratic" => Ok(GridKind::Quadratic),
            "karras" => Ok(GridKind::Karras),
            "log_snr" => Ok(GridKind::LogSnr),
            _ => match Spacing::from_name(name) {
                Ok(spacing) => Ok(GridKind::Times(spacing)),
                Err(_) => Err(unknown_name("spacing", name, &GridKind::NAMES)),
            },
        }
    }
}

/// The steps of a run, noisiest first, and the process they lie on.
#[derive(Clone, Debug)]
pub struct Grid {
    steps: Vec<GridStep>,
    process: Arc<dyn Process>,
}

impl Grid {
    /// The steps, noisiest first.
    pub fn steps(&self) -> &[GridStep] {
        &self.steps
    }

    /// Some of its steps.
    pub(super) fn part(&self, steps: std::ops::Range<usize>) -> Grid {
        Grid { steps: self.steps[steps].to_vec(), process: self.process.clone() }
    }

    /// Whether the step to clean data begins after time 0 of a table: there diffusers' DDPM adds noise even so.
    pub fn skips_time_zero(&self) -> bool {
        self.process.discrete().is_some() && self.steps.last().is_some_and(|s| s.to.is_clean() && s.from.t > 0.0)
    }

    /// Steps through these levels, in this order.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than two levels.
    pub fn through(process: &Arc<dyn Process>, levels: &[Level]) -> Result<Grid> {
        if levels.len() < 2 {
            return Err(Error::Usage("grid: expected at least one step".into()));
        }
        let steps = levels.windows(2).map(|pair| GridStep { from: pair[0], to: pair[1] }).collect();
        Ok(Grid { steps, process: process.clone() })
    }

    /// A grid of `steps` steps from time 1 to clean data.
    ///
    /// # Errors
    /// [`Error::Usage`] if `steps` is 0, or above T for DDPM's times; for DDPM's times on a continuous process; for a bad sub-sequence.
    pub fn new(config: &SchedulerConfig, process: &Arc<dyn Process>, kind: &GridKind, steps: usize) -> Result<Grid> {
        if steps == 0 && process.discrete().is_none() {
            return Err(Error::Usage("--steps 0: expected at least 1".into()));
        }
        let mut levels = match (kind, process.discrete()) {
            (GridKind::Times(spacing), Some(table)) => of_times(table, &times(config, *spacing, table, steps)?)?,
            (GridKind::Tau(tau), Some(table)) => {
                check_tau(tau, table.steps())?;
                of_tau(table, tau)?
            }
            (GridKind::Quadratic, Some(table)) => {
                check_steps(table.steps(), steps)?;
                of_tau(table, &quadratic_tau(table.steps(), steps))?
            }
            (GridKind::Times(_) | GridKind::Tau(_), None) => {
                let name = process.name();
                return Err(Error::Usage(format!(
                    "spacing: the process \"{name}\" has no table of times; use uniform, quadratic, karras or log_snr"
                )));
            }
            (GridKind::Uniform | GridKind::Karras | GridKind::LogSnr, _) if steps == 0 => {
                return Err(Error::Usage("--steps 0: expected at least 1".into()));
            }
            (GridKind::Uniform, _) => along(&**process, steps, |part| part),
            (GridKind::Quadratic, None) => along(&**process, steps, |part| part * part),
            (GridKind::Karras, _) => by_snr(&**process, steps, |half_log_snr| (-half_log_snr / 7.0).exp()),
            (GridKind::LogSnr, _) => by_snr(&**process, steps, |half_log_snr| -half_log_snr),
        };
        levels.push(Level::CLEAN);
        Grid::through(process, &levels)
    }

    /// DDPM's grid: every step ends where the next begins, the last at clean data.
    ///
    /// # Errors
    /// [`Error::Usage`] if `steps` is 0 or above T; as [`Grid::new`].
    pub fn ddpm(config: &SchedulerConfig, process: &Arc<dyn Process>, steps: usize) -> Result<Grid> {
        Grid::new(config, process, &GridKind::Times(config.spacing), steps)
    }

    /// DDIM's grid as diffusers steps it: each step goes ⌊T/n⌋ times down; below time 0 it ends at clean data, or at level
    /// 0 where `set_alpha_to_one` is false.
    ///
    /// # Errors
    /// As [`Grid::ddpm`].
    pub fn ddim(config: &SchedulerConfig, process: &Arc<dyn Process>, steps: usize) -> Result<Grid> {
        let Some(table) = process.discrete() else {
            return Grid::ddpm(config, process, steps);
        };
        let stride = table.steps() / steps.max(1);
        let end = if config.set_alpha_to_one { Level::CLEAN } else { table.level_of(0)? };
        let steps = times(config, config.spacing, table, steps)?.into_iter().map(|k| {
            let to = if k >= stride { table.level_of(k - stride)? } else { end };
            Ok(GridStep { from: table.level_of(k)?, to })
        });
        Ok(Grid { steps: steps.collect::<Result<_>>()?, process: process.clone() })
    }

    /// The same levels from clean to noisy, for encoding; the step to clean data is left out.
    ///
    /// # Errors
    /// [`Error::Usage`] if that was the only one.
    pub fn reversed(&self) -> Result<Grid> {
        let noisy = self.steps.iter().rev().filter(|step| !step.to.is_clean());
        let steps: Vec<GridStep> = noisy.map(|step| GridStep { from: step.to, to: step.from }).collect();
        if steps.is_empty() {
            return Err(Error::Usage("encode: one step alone cannot be reversed; use --steps 2 or more".into()));
        }
        Ok(Grid { steps, process: self.process.clone() })
    }

    /// The process's level of a half_log_snr.
    pub fn level_at(&self, half_log_snr: f64) -> Level {
        self.process.level_at(half_log_snr)
    }

    /// The process's level of an angle atan(sigma/alpha).
    pub fn level_at_angle(&self, angle: f64) -> Level {
        self.process.level_at(-angle.tan().ln())
    }
}

/// `steps` levels from time 1 to the least time; `shape` maps the share of the way that is left.
fn along(process: &dyn Process, steps: usize, shape: fn(f64) -> f64) -> Vec<Level> {
    let last = process.min_time();
    let part = |i: usize| if steps > 1 { 1.0 - i as f64 / (steps - 1) as f64 } else { 1.0 };
    (0..steps).map(|i| process.level(last + (1.0 - last) * shape(part(i)))).collect()
}

/// `steps` levels with equal steps of a falling function of half_log_snr. Where time 1 is pure noise, it is followed by equal steps from
/// time 0.999.
fn by_snr(process: &dyn Process, steps: usize, coordinate: fn(f64) -> f64) -> Vec<Level> {
    let at = |time: f64| process.half_log_snr(time);
    let mut levels = vec![process.level(1.0)];
    let first = if at(1.0).is_finite() { 1.0 } else { 0.999 };
    let (begin, end) = (coordinate(at(first)), coordinate(at(process.min_time())));
    // The inverse of the coordinate by the process's own inverse: bisection on a falling function of time.
    let time_of = |value: f64| {
        let (mut low, mut high) = (process.min_time(), first);
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if coordinate(at(middle)) > value { high = middle } else { low = middle }
        }
        0.5 * (low + high)
    };
    let skip = usize::from(first == 1.0);
    let count = steps - 1 + skip;
    for i in skip..count {
        let part = if count > 1 { i as f64 / (count - 1) as f64 } else { 0.0 };
        let is_last = i + 1 == count && count > 1;
        levels.push(process.level(if is_last { process.min_time() } else { time_of(begin + part * (end - begin)) }));
    }
    levels
}

fn of_times(table: &Discrete, times: &[usize]) -> Result<Vec<Level>> {
    times.iter().map(|k| table.level_of(*k)).collect()
}

/// Ascending times from 1 as descending levels from 0.
fn of_tau(table: &Discrete, tau: &[usize]) -> Result<Vec<Level>> {
    tau.iter().rev().map(|n| table.level_of(n - 1)).collect()
}

fn check_steps(total: usize, n: usize) -> Result<()> {
    if n == 0 || n > total {
        return Err(Error::Usage(format!("--steps {n}: the model has {total} times; choose 1 to {total}")));
    }
    Ok(())
}

/// The times of a run, descending. Halves are rounded to even, as numpy does.
fn times(config: &SchedulerConfig, spacing: Spacing, table: &Discrete, n: usize) -> Result<Vec<usize>> {
    let total = table.steps();
    check_steps(total, n)?;
    let times: Vec<usize> = match spacing {
        Spacing::Leading => (0..n).rev().map(|i| i * (total / n) + config.steps_offset).collect(),
        Spacing::Trailing => {
            let stride = total as f64 / n as f64;
            (0..n).map(|i| (total as f64 - i as f64 * stride).round_ties_even() as usize - 1).collect()
        }
        Spacing::Linspace => {
            let stride = if n > 1 { (total - 1) as f64 / (n - 1) as f64 } else { 0.0 };
            (0..n).rev().map(|i| (i as f64 * stride).round_ties_even() as usize).collect()
        }
    };
    match times.iter().find(|k| **k >= total) {
        None => Ok(times),
        Some(k) => Err(Error::Usage(format!(
            "--steps {n}: with steps_offset {} the first time is {k}, beyond the last, {}; use fewer steps",
            config.steps_offset,
            total - 1
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times_of(spacing: Spacing, n: usize) -> Vec<usize> {
        let config = SchedulerConfig::default();
        let process = config.process().unwrap();
        times(&config, spacing, process.discrete().unwrap(), n).unwrap()
    }

    #[test]
    fn spacings_are_those_of_the_papers_table() {
        // Lin et al. 2024, table 2, for T = 1000 and 10 steps, counted from 0.
        assert_eq!(times_of(Spacing::Leading, 10), [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]);
        assert_eq!(times_of(Spacing::Trailing, 10), [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]);
        assert_eq!(times_of(Spacing::Linspace, 10), [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]);
    }

    #[test]
    fn every_number_of_steps_gives_that_many_descending_times() {
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            for n in 1..=1000 {
                let times = times_of(spacing, n);
                assert_eq!(times.len(), n);
                assert!(times.windows(2).all(|w| w[0] > w[1]) && times[0] < 1000, "{spacing:?} {n}");
            }
        }
    }

    #[test]
    fn zero_steps_and_more_than_the_model_has_are_refused() {
        let config = SchedulerConfig::default();
        let process = config.process().unwrap();
        for n in [0, 1001] {
            let text = Grid::ddim(&config, &process, n).unwrap_err().to_string();
            assert!(text.contains("choose 1 to 1000"), "{text}");
        }
        let offset = SchedulerConfig { steps_offset: 1, ..config };
        assert!(Grid::ddim(&offset, &process, 1000).unwrap_err().to_string().contains("beyond the last"));
    }
}
