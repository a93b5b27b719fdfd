//! How the times of a batch are drawn: uniformly, stratified, or where the loss is large (items 21, 46).
//!
//! Every way leaves the expected loss as it is: what is drawn more often counts less.

use super::history::LossHistory;
use crate::error::{Error, Result, unknown_name};
use crate::process::{Level, Process};
use crate::rng::{Address, Purpose};
use std::sync::Arc;

/// How times are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeSampling {
    /// Each image its own uniform number (Ho et al. 2020, algorithm 1).
    #[default]
    Uniform,
    /// Equal steps over the batch from one uniform offset (Kingma et al. 2021, appendix I.1): uniform for each image, and less noise in the mean.
    Stratified,
    /// In proportion to the root mean square of the last losses at each time (Nichol & Dhariwal 2021, sec. 3.3).
    LossAware,
}

impl TimeSampling {
    /// All names.
    pub const NAMES: [&str; 3] = ["uniform", "stratified", "loss_aware"];

    /// Reads a name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names.
    pub fn from_name(name: &str) -> Result<TimeSampling> {
        match name {
            "uniform" => Ok(TimeSampling::Uniform),
            "stratified" => Ok(TimeSampling::Stratified),
            "loss_aware" => Ok(TimeSampling::LossAware),
            _ => Err(unknown_name("time_sampling", name, &TimeSampling::NAMES)),
        }
    }
}

/// The drawn times of one batch.
#[derive(Clone, Debug, Default)]
pub struct DrawnTimes {
    /// The level of each image.
    pub levels: Vec<Level>,
    /// What the loss of each image is multiplied with, so that its mean stays that of uniform times: 1 but for loss-aware times.
    pub importance: Vec<f64>,
    /// The part of the times that each lies in; empty but for loss-aware times.
    bins: Vec<usize>,
}

/// Draws the times of training batches.
#[derive(Clone, Debug)]
pub struct TimeSampler {
    process: Arc<dyn Process>,
    sampling: TimeSampling,
    t_min: Option<f64>,
    history: LossHistory,
}

impl TimeSampler {
    /// A sampler without history.
    ///
    /// * `t_min` — the least time, 0 up to but not 1; the process's own if not said. Of DDPM's table, level k lies at time (k+1)/T
    ///
    /// # Errors
    /// [`Error::Usage`] for a t_min out of range.
    pub fn new(process: Arc<dyn Process>, sampling: TimeSampling, t_min: Option<f64>) -> Result<TimeSampler> {
        if let Some(t) = t_min
            && !(0.0..1.0).contains(&t)
        {
            return Err(Error::Usage(format!("t_min = {t}: expected at least 0 and below 1")));
        }
        Ok(TimeSampler { process, sampling, t_min, history: LossHistory::default() })
    }

    /// The times of `n` images at a step: [`TimeSampler::redraw`] into new memory.
    pub fn draw(&self, seed: u64, step: u64, n: usize) -> DrawnTimes {
        let mut drawn = DrawnTimes::default();
        self.redraw(seed, step, n, &mut drawn);
        drawn
    }

    /// Replaces `drawn` by the times of `n` images at a step. Those of uniform times depend on (seed, step, image) alone, stratified ones on `n` too, loss-aware
    /// ones on the history.
    pub fn redraw(&self, seed: u64, step: u64, n: usize, drawn: &mut DrawnTimes) {
        let address = Address::new(seed, Purpose::Time).step(step as usize);
        drawn.levels.clear();
        drawn.bins.clear();
        drawn.importance.clear();
        drawn.importance.resize(n, 1.0);
        let shares = self.is_loss_aware().then(|| self.history.shares());
        let offset = address.sample(0).uniform(0);
        for i in 0..n {
            let own = address.sample(i);
            let u = match (&shares, self.sampling) {
                (Some(shares), _) => {
                    let bin = pick(shares, own.uniform(0));
                    drawn.bins.push(bin);
                    drawn.importance[i] = 1.0 / (shares.len() as f64 * shares[bin]);
                    (bin as f64 + own.uniform(1)) / shares.len() as f64
                }
                (None, TimeSampling::Stratified) => (offset + i as f64 / n as f64).fract(),
                _ => own.uniform(0),
            };
            drawn.levels.push(self.level(u));
        }
    }

    /// The level of a uniform number.
    fn level(&self, u: f64) -> Level {
        match (self.t_min, self.process.discrete()) {
            (None, _) => self.process.draw(u),
            (Some(first), None) => self.process.level(first + u * (1.0 - first)),
            (Some(first), Some(table)) => {
                let steps = table.steps();
                // Rounding must not cost the level that lies at t_min.
                let below = ((first * steps as f64 - 1e-9).ceil().max(1.0) as usize - 1).min(steps - 1);
                let part = below as f64 + u * (steps - below) as f64;
                self.process.draw((part + 1e-9) / steps as f64)
            }
        }
    }

    /// Remembers the weighted loss of each image of a batch, before its importance.
    pub fn record(&mut self, drawn: &DrawnTimes, losses: &[f64]) {
        for (bin, loss) in drawn.bins.iter().zip(losses) {
            self.history.push(*bin, *loss);
        }
    }

    /// Whether the losses of each image are wanted.
    pub fn is_loss_aware(&self) -> bool {
        self.sampling == TimeSampling::LossAware
    }

    /// What a checkpoint must hold to continue.
    pub fn history(&self) -> &LossHistory {
        &self.history
    }

    /// Continues with a history.
    pub fn set_history(&mut self, history: LossHistory) {
        self.history = history;
    }
}

/// The first part whose cumulative share exceeds `u`.
fn pick(shares: &[f64], mut u: f64) -> usize {
    for (i, share) in shares.iter().enumerate() {
        u -= share;
        if u < 0.0 {
            return i;
        }
    }
    // Rounding may leave a last bit beyond the last part.
    shares.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{ProcessConfig, SchedulerConfig};

    fn flow() -> Arc<dyn Process> {
        ProcessConfig::Flow.build().unwrap()
    }

    fn table() -> Arc<dyn Process> {
        SchedulerConfig::default().process().unwrap()
    }

    fn sampler(process: Arc<dyn Process>, sampling: TimeSampling, t_min: Option<f64>) -> TimeSampler {
        TimeSampler::new(process, sampling, t_min).unwrap()
    }

    #[test]
    fn stratified_times_lie_one_in_each_part_and_are_uniform_over_steps() {
        let sampler = sampler(flow(), TimeSampling::Stratified, Some(0.0));
        let mut first = [0.0_f64; 10];
        for step in 0..1000 {
            let drawn = sampler.draw(3, step, 8);
            let mut times: Vec<f64> = drawn.levels.iter().map(|at| at.time).collect();
            first[(10.0 * times[0]) as usize] += 1.0;
            times.sort_by(f64::total_cmp);
            for (i, t) in times.iter().enumerate() {
                assert!((t * 8.0) as usize == i, "step {step}: {times:?}");
            }
            assert_eq!(drawn.importance, [1.0; 8]);
        }
        // 9 degrees of freedom: 27.9 is the 99.9 % point, seed 3.
        let chi: f64 = first.iter().map(|count| (count - 100.0).powi(2) / 100.0).sum();
        assert!(chi < 27.9, "chi² = {chi}");
    }

    #[test]
    fn uniform_times_are_those_of_each_image_alone() {
        let sampler = sampler(table(), TimeSampling::Uniform, None);
        assert_eq!(sampler.draw(5, 7, 12).levels[..4], sampler.draw(5, 7, 4).levels);
        let mut levels = vec![Level::CLEAN; 12];
        crate::loss::draw_levels(&*table(), 5, 7, &mut levels);
        assert_eq!(sampler.draw(5, 7, 12).levels, levels);
    }

    #[test]
    fn no_time_lies_below_t_min_and_the_least_is_met() {
        let times = |process, t_min| -> Vec<f64> {
            let sampler = sampler(process, TimeSampling::Uniform, Some(t_min));
            (0..200).flat_map(|step| sampler.draw(1, step, 50).levels).map(|at| at.time).collect()
        };
        let least = |times: &[f64]| times.iter().copied().fold(1.0, f64::min);
        // 10 000 draws of 100 levels, 901 to 1000: each is met but for e^{−100}.
        let drawn = times(table(), 0.901);
        assert!((least(&drawn) - 0.901).abs() < 1e-12 && drawn.contains(&1.0));
        assert!((least(&times(table(), 0.0)) - 0.001).abs() < 1e-3);
        let drawn = times(flow(), 0.25);
        assert!(least(&drawn) >= 0.25 && least(&drawn) < 0.2512, "{}", least(&drawn));
        for bad in [-0.1, 1.0, f64::NAN] {
            let error = TimeSampler::new(flow(), TimeSampling::Uniform, Some(bad)).unwrap_err().to_string();
            assert!(error.contains("expected at least 0 and below 1"), "{error}");
        }
    }

    #[test]
    fn loss_aware_times_follow_the_loss_and_leave_its_mean() {
        // A loss of t⁴, known at each level.
        let loss = |at: &Level| at.time.powi(4);
        let mut sampler = sampler(flow(), TimeSampling::LossAware, Some(0.0));
        let (mut late, mut sum, mut squares, mut n) = (0.0, 0.0, 0.0, 0.0);
        for step in 0..600 {
            let drawn = sampler.draw(9, step, 50);
            let losses: Vec<f64> = drawn.levels.iter().map(loss).collect();
            if step >= 300 {
                for ((at, loss), importance) in drawn.levels.iter().zip(&losses).zip(&drawn.importance) {
                    late += f64::from(u8::from(at.time > 0.5));
                    (sum, squares, n) = (sum + loss * importance, squares + (loss * importance).powi(2), n + 1.0);
                }
            }
            sampler.record(&drawn, &losses);
        }
        // Each of 100 parts has been drawn ten times by then: 15 000 uniform draws leave one short in e^{−100}.
        assert!(sampler.history().counts().iter().all(|c| *c == 10));
        // ∫_½¹ t⁴ over ∫₀¹ t⁴ = 31/32 of the draws, against ½: and the deviation of the mean is a thousandth.
        assert!((late / n - 31.0_f64 / 32.0).abs() < 0.01, "{}", late / n);
        let (mean, error) = (sum / n, ((squares / n - (sum / n).powi(2)) / n).sqrt());
        assert!((mean - 0.2).abs() < 4.5 * error, "{mean} ± {error}");
        // Uniform times leave a standard error of √(1/9 − 1/25)/√n.
        assert!(error < 0.2 * ((1.0 / 9.0 - 0.04) / n).sqrt(), "{error}");
    }

    #[test]
    fn a_history_drops_its_oldest_and_is_uniform_until_it_is_full() {
        let mut history = LossHistory::default();
        for i in 0..12 {
            history.push(3, f64::from(i));
        }
        let row = 3 * LossHistory::KEPT;
        assert_eq!(history.losses()[row..row + 10], [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert_eq!(history.shares(), [0.01; LossHistory::BINS]);
        (0..LossHistory::BINS).flat_map(|bin| [bin; 10]).for_each(|bin| history.push(bin, 1.0));
        (0..10).for_each(|_| history.push(7, 9.0));
        let shares = history.shares();
        // 9 of 108, less the uniform thousandth; sums of 100 numbers.
        assert!((shares[7] - (0.999 * 9.0 / 108.0 + 1e-5)).abs() < 1e-14, "{}", shares[7]);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-14);
        let back = LossHistory::from_parts(history.losses().to_vec(), history.counts().to_vec()).unwrap();
        assert_eq!(back, history);
        assert!(LossHistory::from_parts(vec![0.0; 3], vec![0; 100]).is_err());
    }
}
