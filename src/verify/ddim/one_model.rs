//! One model, every sampler (item 54). The command line's side of it, one trained checkpoint, is a test of the programs.

use super::super::measure::{ks_share, largest, table, two_bumps};
use super::super::{Bound, Identity};
use crate::error::Result;
use crate::process::{BetaSchedule, Level, Process, SchedulerConfig};
use crate::rng::{Address, Purpose};
use crate::sampler::{Grid, GridKind, Run, SamplerKind, SamplerOptions, StepNoise, sample};
use std::sync::Arc;

pub(super) const IDENTITIES: &[Identity] = &[Identity {
    id: "item 54 every sampler",
    claim: "one denoiser, trained once, serves every sampler: each draws the data, Kolmogorov–Smirnov over its 0.01 % point",
    // n = 1000, seed 54; the critical distance is 0.070. Eleven tests at 0.01 % are one at 0.1 %.
    bound: Bound::AtMost(1.0),
    measure: every_sampler,
}];

fn every_sampler() -> Result<f64> {
    const COUNT: usize = 1000;
    let (oracle, data) = two_bumps()?;
    let process: Arc<dyn Process> = Arc::new(table(&BetaSchedule::Linear)?);
    let samples: Vec<u32> = (0..COUNT as u32).collect();
    let start = oracle.sample(54, COUNT, process.level(1.0))?;
    let share = |kind: SamplerKind| -> Result<f64> {
        let steps = if kind == SamplerKind::Rk45 { 2 } else { 150 };
        let grid = Grid::new(&SchedulerConfig::default(), &process, &GridKind::LogSnr, steps)?;
        let noise = StepNoise::Drawn(Address::new(54, Purpose::ReverseStep));
        let mut run = Run::new(&oracle, noise, &samples);
        let x0 = sample(kind, &mut run, start.clone(), &grid, &SamplerOptions::default())?;
        ks_share(x0.host()?, &data.noised(Level::CLEAN.alpha, Level::CLEAN.sigma)?, 0.0001)
    };
    Ok(largest(SamplerKind::ALL.into_iter().map(share).collect::<Result<Vec<_>>>()?))
}
