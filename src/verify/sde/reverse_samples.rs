//! Anderson's reverse SDE by its samples (items 38 and 40).

use super::super::measure::{equal_times, ks_share, ks_two_share, largest, two_bumps, vp};
use super::super::{Bound, Identity};
use crate::analytic::Mixture;
use crate::error::Result;
use crate::process::Level;
use crate::rng::{Address, Purpose};
use crate::sampler::{Run, StepNoise, euler_maruyama};
use std::sync::OnceLock;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 38 S3.eq82 samples",
        claim: "Euler–Maruyama on the reverse SDE samples the data: Kolmogorov–Smirnov over its 0.1 % point",
        // n = 4000, seed 82; the critical distance is 0.031. 475 steps of O(Δt) = 0.002 add less than a tenth of that.
        bound: Bound::AtMost(1.0),
        measure: || largest_share(|samples, law, _| ks_share(samples, law, 0.001)),
    },
    Identity {
        id: "item 40 S3.eq84 S3.eq146 samples",
        claim: "reverse and forward samples have one law at five times: two-sample Kolmogorov–Smirnov over its 0.02 % point",
        // n = 4000 each, seeds 82 and 84; five tests at 0.02 % are one at 0.1 %.
        bound: Bound::AtMost(1.0),
        measure: || {
            largest_share(|samples, _, at| {
                let forward = two_bumps()?.0.sample(84, samples.len(), at)?.to_vec::<f64>()?;
                ks_two_share(samples, &forward, 0.0002)
            })
        },
    },
    Identity {
        id: "item 40 S3.eq84 shifted",
        claim: "samples of one time do not have the law of another: samples of time 0.24 against the law of 0.05",
        bound: Bound::AtLeast(2.0), // twice the 0.1 % point
        measure: other_time,
    },
];

const SAMPLES: usize = 4000;

/// A level, and the samples there.
pub(in crate::verify) type Reached = Vec<(Level, Vec<f64>)>;

static REACHED: OnceLock<Reached> = OnceLock::new();

/// What the reverse SDE has reached after 100, 200, 300, 400 and 475 of 475 steps from time 1 to 0.05; run once.
pub(in crate::verify) fn reached() -> Result<&'static Reached> {
    if let Some(known) = REACHED.get() {
        return Ok(known);
    }
    let (oracle, _) = two_bumps()?;
    let process = vp()?;
    let start = oracle.sample(82, SAMPLES, process.level(1.0))?;
    let samples: Vec<u32> = (0..SAMPLES as u32).collect();
    let mut made = Vec::new();
    let noise = StepNoise::Drawn(Address::new(82, Purpose::ReverseStep));
    let mut run = Run::new(&oracle, noise, &samples).with_callback(|progress| {
        if (progress.step + 1).is_multiple_of(100) || progress.step + 1 == progress.steps {
            made.push((progress.at.to, progress.x.to_vec()?));
        }
        Ok(())
    });
    euler_maruyama(&mut run, start, &equal_times(&process, 0.05, 475)?)?;
    drop(run);
    Ok(REACHED.get_or_init(|| made))
}

fn law(at: Level) -> Result<Mixture> {
    two_bumps()?.1.noised(at.alpha, at.sigma)
}

fn largest_share(share: impl Fn(&[f64], &Mixture, Level) -> Result<f64>) -> Result<f64> {
    let reached = reached()?;
    let shares = reached.iter().map(|(at, samples)| share(samples, &law(*at)?, *at));
    Ok(largest(shares.collect::<Result<Vec<_>>>()?))
}

fn other_time() -> Result<f64> {
    match reached()?.as_slice() {
        [.., (_, samples), (next, _)] => ks_share(samples, &law(*next)?, 0.001),
        _ => Ok(f64::NAN),
    }
}
