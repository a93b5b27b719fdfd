//! Which levels a run visits: diffusers' three spacings (item 52).

use crate::error::{Error, Result};
use crate::process::{Discrete, Level, SchedulerConfig, Spacing};

/// One step of a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GridStep {
    /// Where the step begins: the network is evaluated here.
    pub from: Level,
    /// Where it ends.
    pub to: Level,
}

/// The steps of a run, noisiest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    steps: Vec<GridStep>,
}

impl Grid {
    /// The steps, noisiest first.
    pub fn steps(&self) -> &[GridStep] {
        &self.steps
    }

    /// DDPM's grid: every step ends where the next begins, the last at clean data.
    ///
    /// # Errors
    /// [`Error::Usage`] if `steps` is 0 or above T.
    pub fn ddpm(config: &SchedulerConfig, process: &Discrete, steps: usize) -> Result<Grid> {
        let times = times(config, process, steps)?;
        let level = |k: &usize| process.level(*k);
        let mut list = Vec::with_capacity(steps);
        for (i, k) in times.iter().enumerate() {
            let to = times.get(i + 1).map_or(Ok(Level::CLEAN), level)?;
            list.push(GridStep { from: level(k)?, to });
        }
        Ok(Grid { steps: list })
    }

    /// DDIM's grid as diffusers steps it: each step goes ⌊T/n⌋ times down; below time 0 it ends at clean data, or at level
    /// 0 where `set_alpha_to_one` is false.
    ///
    /// # Errors
    /// [`Error::Usage`] if `steps` is 0 or above T.
    pub fn ddim(config: &SchedulerConfig, process: &Discrete, steps: usize) -> Result<Grid> {
        let stride = process.steps() / steps.max(1);
        let end = if config.set_alpha_to_one { Level::CLEAN } else { process.level(0)? };
        let times = times(config, process, steps)?;
        let steps = times.into_iter().map(|k| {
            let to = if k >= stride { process.level(k - stride)? } else { end };
            Ok(GridStep { from: process.level(k)?, to })
        });
        Ok(Grid { steps: steps.collect::<Result<_>>()? })
    }
}

/// The times of a run, descending. Halves are rounded to even, as numpy does.
fn times(config: &SchedulerConfig, process: &Discrete, n: usize) -> Result<Vec<usize>> {
    let total = process.steps();
    if n == 0 || n > total {
        return Err(Error::Usage(format!("--steps {n}: the model has {total} times; choose 1 to {total}")));
    }
    let times: Vec<usize> = match config.spacing {
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
        let config = SchedulerConfig { spacing, ..Default::default() };
        times(&config, &config.process().unwrap(), n).unwrap()
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
