//! The probability-flow ODE and the order of its solvers (item 41).

use super::measure::{equal_log_snr, ks_share, ks_two_share, largest, order_miss, rms, two_bumps, vp};
use super::sde::reverse_samples::reached;
use super::{Bound, Identity};
use crate::analytic::fokker_planck::{Grid1, Solver1};
use crate::error::Result;
use crate::process::{Process, Ve};
use crate::sampler::{Run, SamplerKind, SamplerOptions, StepNoise, encode, heun, sample};
use std::sync::{Arc, OnceLock};

// Slopes: within 0.1 of 1 and 2 and within 0.2 of 4 a whole number is named, and the method's terms of the next order may still show.
pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 41 reference",
        claim: "the reference of the orders: rk4 with 5120 steps equals rk45 at tolerance 1e-13",
        // rk4's error falls 16-fold from step to step: 4096 times below the one at 640 steps. Both round off to 1e-13 or so.
        bound: Bound::AtMost(1e-12),
        measure: reference_check,
    },
    order_of("item 41 euler", "Euler's method in the angle has order 1", 0.1, || order(SamplerKind::Euler, 1.0)),
    order_of("item 41 ddim", "DDIM with eta 0 has order 1", 0.1, || order(SamplerKind::Ddim, 1.0)),
    order_of("item 41 heun", "Heun's method has order 2", 0.1, || order(SamplerKind::Heun, 2.0)),
    order_of("item 41 edm", "the sampler of Karras et al. without churn has order 2", 0.1, || {
        order(SamplerKind::Edm, 2.0)
    }),
    order_of("item 41 dpmpp_2m", "DPM-Solver++ (2M) has order 2", 0.1, || order(SamplerKind::Dpmpp2m, 2.0)),
    order_of("item 41 rk4", "the classical Runge–Kutta method has order 4", 0.2, || order(SamplerKind::Rk4, 4.0)),
    Identity {
        id: "item 41 rk45",
        claim: "rk45's error is below a hundred times its tolerance",
        // About a hundred steps at most, each with a local error below the tolerance times 1 + |x|.
        bound: Bound::AtMost(100.0),
        measure: tolerance,
    },
    order_of("item 41 round trip euler", "encoding and decoding by Euler's method errs with order 1", 0.1, || {
        round_trip(SamplerKind::Euler, 1.0)
    }),
    // A step back undoes a step's error term h^(p+1) where p is even: the round trip gains one order.
    order_of(
        "item 41 round trip heun",
        "encoding and decoding by Heun's method errs with order 3, one more",
        0.2,
        || round_trip(SamplerKind::Heun, 3.0),
    ),
    order_of("item 41 round trip rk4", "encoding and decoding by rk4 errs with order 5, one more", 0.3, || {
        round_trip(SamplerKind::Rk4, 5.0)
    }),
    order_of("item 50 S3.eq153 invertible", "encoding and decoding by DDIM with eta 0 errs with order 1", 0.1, || {
        round_trip(SamplerKind::Ddim, 1.0)
    }),
    order_of("item 51 S3.eq153 order", "DDIM with eta 0 has order 1 on the VE process too", 0.1, || {
        order_on(&(Arc::new(Ve::new(0.05, 20.0)?) as Arc<dyn Process>), SamplerKind::Ddim, 1.0)
    }),
    Identity {
        id: "item 41 density",
        claim: "the flow f − ½g²·∇ log p carries the data's density to the SDE's",
        bound: Bound::AtMost(1e-3), // of at most 2; as for item 38
        measure: || flow(0.5),
    },
    Identity {
        id: "item 41 without the half",
        claim: "the flow f − g²·∇ log p does not",
        bound: Bound::AtLeast(0.1),
        measure: || flow(1.0),
    },
    Identity {
        id: "item 41 S3 section 4 samples",
        claim: "ODE samples have the SDE's law and the SDE samples' law: Kolmogorov–Smirnov over its 0.05 % point",
        // n = 4000 each, seeds 411 and 82; two tests. 100 steps of Heun and 475 of Euler–Maruyama err by less than a tenth of it.
        bound: Bound::AtMost(1.0),
        measure: marginals,
    },
];

const fn order_of(id: &'static str, claim: &'static str, within: f64, measure: fn() -> Result<f64>) -> Identity {
    Identity { id, claim, bound: Bound::AtMost(within), measure }
}

const LAST: f64 = 0.01;
const ROWS: usize = 32;
const STEPS: [usize; 4] = [80, 160, 320, 640];

/// What a sampler makes of 32 points of p_1 down to time 0.01, with equal steps of half_log_snr.
fn end_of(process: &Arc<dyn Process>, kind: SamplerKind, steps: usize, tolerance: f64) -> Result<Vec<f64>> {
    let (oracle, _) = two_bumps()?;
    let start = oracle.sample(41, ROWS, process.level(1.0))?;
    let samples: Vec<u32> = (0..ROWS as u32).collect();
    let mut run = Run::new(&oracle, StepNoise::Given(&[]), &samples);
    let options = SamplerOptions { tolerance, ..SamplerOptions::default() };
    sample(kind, &mut run, start, &equal_log_snr(process, LAST, steps)?, &options)?.to_vec()
}

static REFERENCE: OnceLock<Vec<f64>> = OnceLock::new();

/// The end points to about 1e-13; made once.
fn reference() -> Result<&'static [f64]> {
    if let Some(known) = REFERENCE.get() {
        return Ok(known);
    }
    let made = end_of(&vp()?, SamplerKind::Rk4, 5120, 1e-5)?;
    Ok(REFERENCE.get_or_init(|| made))
}

fn reference_check() -> Result<f64> {
    let other = end_of(&vp()?, SamplerKind::Rk45, 2, 1e-13)?;
    Ok(largest(reference()?.iter().zip(&other).map(|(a, b)| a - b)))
}

fn order(kind: SamplerKind, want: f64) -> Result<f64> {
    let process = vp()?;
    let error = |steps: usize| -> Result<f64> { Ok(rms(&end_of(&process, kind, steps, 1e-5)?, reference()?)) };
    let errors = STEPS.into_iter().map(error).collect::<Result<Vec<_>>>()?;
    order_miss(&STEPS, &errors, want)
}

/// The same on another process, against rk45.
fn order_on(process: &Arc<dyn Process>, kind: SamplerKind, want: f64) -> Result<f64> {
    let reference = end_of(process, SamplerKind::Rk45, 2, 1e-12)?;
    let error = |steps: usize| -> Result<f64> { Ok(rms(&end_of(process, kind, steps, 1e-5)?, &reference)) };
    let errors = STEPS.into_iter().map(error).collect::<Result<Vec<_>>>()?;
    order_miss(&STEPS, &errors, want)
}

fn tolerance() -> Result<f64> {
    let process = vp()?;
    let share = |tolerance: f64| -> Result<f64> {
        let got = end_of(&process, SamplerKind::Rk45, 2, tolerance)?;
        Ok(largest(reference()?.iter().zip(&got).map(|(a, b)| a - b)) / tolerance)
    };
    Ok(largest([1e-3, 1e-5, 1e-7, 1e-9].into_iter().map(share).collect::<Result<Vec<_>>>()?))
}

fn round_trip(kind: SamplerKind, want: f64) -> Result<f64> {
    let (oracle, _) = two_bumps()?;
    let process = vp()?;
    let x0 = oracle.sample(43, ROWS, process.level(LAST))?;
    let samples: Vec<u32> = (0..ROWS as u32).collect();
    let options = SamplerOptions::default();
    let steps = [40, 80, 160, 320];
    let error = |steps: usize| -> Result<f64> {
        let grid = equal_log_snr(&process, LAST, steps)?;
        let mut run = Run::new(&oracle, StepNoise::Given(&[]), &samples);
        let x_t = encode(kind, &mut run, x0.clone(), &grid, &options)?;
        let back = sample(kind, &mut run, x_t, &grid, &options)?;
        Ok(rms(back.host()?, x0.host()?))
    };
    let errors = steps.into_iter().map(error).collect::<Result<Vec<_>>>()?;
    order_miss(&steps, &errors, want)
}

/// ∫|p − p_t| of the density carried from the data by f − share·g²·∇ log p.
fn flow(share: f64) -> Result<f64> {
    let (_, data) = two_bumps()?;
    let process = vp()?;
    let law = |t: f64| data.noised(process.alpha(t), process.sigma(t));
    let mut solver = Solver1::new(Grid1::new(-7.0, 7.0, 700)?, |x| data.pdf(x))?;
    let drift = |x: f64, t: f64| {
        let score = law(t).map_or(f64::NAN, |law| law.score(x));
        process.drift(t) * x - share * process.diffusion(t).powi(2) * score
    };
    solver.run(drift, |_| 0.0, 0.0, 0.3, 400)?;
    let want = law(0.3)?;
    Ok(solver.l1_to(|x| want.pdf(x)))
}

fn marginals() -> Result<f64> {
    let Some((at, sde)) = reached()?.last() else { return Ok(f64::NAN) };
    let (oracle, data) = two_bumps()?;
    let process = vp()?;
    let samples: Vec<u32> = (0..sde.len() as u32).collect();
    let start = oracle.sample(411, sde.len(), process.level(1.0))?;
    let mut run = Run::new(&oracle, StepNoise::Given(&[]), &samples);
    let ode = heun(&mut run, start, &equal_log_snr(&process, at.time, 100)?)?.to_vec::<f64>()?;
    let law = data.noised(at.alpha, at.sigma)?;
    Ok(largest([ks_share(&ode, &law, 0.0005)?, ks_two_share(&ode, sde, 0.0005)?]))
}
