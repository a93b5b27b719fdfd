//! What guided samplers sample (item 56): the class at w = 1; for other w neither the tilted law nor one law for SDE and ODE.

use super::super::measure::{equal_log_snr, equal_times, largest, rms, vp};
use super::super::{Bound, Identity};
use super::class::{labelled, pair};
use crate::analytic::fokker_planck::{Grid1, Solver1};
use crate::analytic::{Mixture, statistics};
use crate::denoiser::guidance::{ClassifierGuided, OracleClassifier, Strength};
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::process::{Level, Process};
use crate::rng::{Address, Purpose};
use crate::sampler::{Run, StepNoise, euler_maruyama, heun, rk45};
use crate::tensor::Tensor;
use std::sync::Arc;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 56 S3.eq159 class by the SDE",
        claim: "at w = 1 the guided reverse SDE samples each class: Kolmogorov–Smirnov over its 0.05 % point",
        // n = 4000; two classes at 0.05 % are one test at 0.1 %. 400 steps add less than a tenth of the critical distance.
        bound: Bound::AtMost(1.0),
        measure: || classes(sde_samples),
    },
    Identity {
        id: "item 56 S3.eq159 class by the ODE",
        claim: "at w = 1 the guided probability-flow ODE samples each class",
        bound: Bound::AtMost(1.0),
        measure: || classes(ode_samples),
    },
    Identity {
        id: "item 56 S3.eq161 SDE's own law",
        claim: "at w = 2 the guided SDE's samples follow the guided Fokker–Planck equation",
        bound: Bound::AtMost(1.0), // of the 0.1 % point at n = 4000
        measure: || {
            let cdf = distribution(&by_fokker_planck()?);
            ks_share(&sde_samples(&[2.0, 0.0])?, |x| cdf.at(x))
        },
    },
    Identity {
        id: "item 56 S3.eq161 ODE's own law",
        claim: "at w = 2 the guided ODE's samples follow the flow of p_T's quantiles, which cannot cross",
        bound: Bound::AtMost(1.0),
        measure: || {
            let cdf = by_flow()?;
            ks_share(&ode_samples(&[2.0, 0.0])?, |x| cdf.at(x))
        },
    },
    Identity {
        id: "item 56 S3.eq161 SDE is not tilted",
        claim: "at w = 2 the guided SDE does not sample p(x)·p(y | x)²: distance of the distribution functions",
        bound: Bound::AtLeast(0.05),
        measure: || {
            let cdf = distribution(&by_fokker_planck()?);
            distance(&cdf, &tilted_law()?)
        },
    },
    Identity {
        id: "item 56 S3.eq161 ODE is not tilted",
        claim: "nor does the guided ODE",
        bound: Bound::AtLeast(0.05),
        measure: || distance(&by_flow()?, &tilted_law()?),
    },
    Identity {
        id: "item 56 S3.eq161 SDE is not the ODE",
        claim: "and they differ from each other",
        bound: Bound::AtLeast(0.05),
        measure: || distance(&by_flow()?, &distribution(&by_fokker_planck()?)),
    },
    Identity {
        id: "item 56 Langevin",
        claim: "Langevin dynamics with the guided score at one time has the tilted law of that time: ∫|p − q| after 30 units",
        // dx = 0.02 leaves dx²/24·q'': a tenth of this; the slowest mode has died down to e^−30/τ with τ about 2.
        bound: Bound::AtMost(1e-3),
        measure: langevin,
    },
    Identity {
        id: "item 56 affine",
        claim: "Gaussian data and log p(y | x) affine in x: the guided ODE is exact, N(mu + w·lambda·v, v)",
        bound: Bound::AtMost(1e-6), // rk45 at 1e-9
        measure: affine,
    },
];

const SAMPLES: usize = 4000;
/// The last time: the class still differs from its law at 0 by less than a hundredth of its deviation.
const LAST: f64 = 1e-3;

/// Samples at w = `scale[0]`; `scale[1]` other than 0 takes the other class.
type Sampler = fn(&[f64; 2]) -> Result<Vec<f64>>;

struct Classes {
    class: Oracle,
    all: Oracle,
}

fn setting(other: bool) -> Result<Classes> {
    let ([class, all], _) = labelled()?;
    let class = if other { Oracle::isotropic(&[1.0], &[vec![-1.0]], &[0.5])? } else { class };
    Ok(Classes { class, all })
}

impl Classes {
    fn guided(&self, scale: f64) -> ClassifierGuided<&Oracle, OracleClassifier<'_>> {
        let classifier = OracleClassifier { class: &self.class, all: &self.all };
        ClassifierGuided { inner: &self.all, classifier, strength: Strength::of(scale) }
    }
}

/// From the law of time 1, which is nearly that of every class.
fn sde_samples(&[scale, other]: &[f64; 2]) -> Result<Vec<f64>> {
    let (process, setting) = (vp()?, setting(other != 0.0)?);
    let samples: Vec<u32> = (0..SAMPLES as u32).collect();
    let denoiser = setting.guided(scale);
    let mut run = Run::new(&denoiser, StepNoise::Drawn(Address::new(561, Purpose::ReverseStep)), &samples);
    let start = start_law(&setting, scale).sample(561, SAMPLES, process.level(1.0))?;
    euler_maruyama(&mut run, start, &equal_log_snr(&process, LAST, 400)?)?.to_vec()
}

/// At w = 1 the class's own law of time 1, so that nothing but the guidance is measured; else everything's.
fn start_law(setting: &Classes, scale: f64) -> &Oracle {
    if scale == 1.0 { &setting.class } else { &setting.all }
}

fn ode_samples(&[scale, other]: &[f64; 2]) -> Result<Vec<f64>> {
    let (process, setting) = (vp()?, setting(other != 0.0)?);
    let denoiser = setting.guided(scale);
    let mut run = Run::new(&denoiser, StepNoise::Given(&[]), &[]);
    let start = start_law(&setting, scale).sample(562, SAMPLES, process.level(1.0))?;
    heun(&mut run, start, &equal_log_snr(&process, LAST, 60)?)?.to_vec()
}

fn classes(sampler: Sampler) -> Result<f64> {
    let mut shares = Vec::new();
    for (other, mean) in [(0.0, 1.0), (1.0, -1.0)] {
        let law = Mixture::new(&[1.0], &[mean], &[0.5])?.noised(vp()?.alpha(LAST), vp()?.sigma(LAST))?;
        let critical = statistics::ks_critical(0.0005, SAMPLES as f64)?;
        shares.push(statistics::ks(&sampler(&[1.0, other])?, |x| law.cdf(x))? / critical);
    }
    Ok(largest(shares))
}

fn ks_share(samples: &[f64], cdf: impl Fn(f64) -> f64) -> Result<f64> {
    Ok(statistics::ks(samples, cdf)? / statistics::ks_critical(0.001, samples.len() as f64)?)
}

/// A distribution function by its values at ascending points.
struct Distribution {
    x: Vec<f64>,
    value: Vec<f64>,
}

impl Distribution {
    fn at(&self, x: f64) -> f64 {
        let i = self.x.partition_point(|point| *point < x);
        match (i.checked_sub(1), self.x.get(i)) {
            (None, _) => self.value[0],
            (_, None) => self.value[self.value.len() - 1],
            (Some(before), Some(after)) => {
                let part = (x - self.x[before]) / (after - self.x[before]);
                self.value[before] + part * (self.value[i] - self.value[before])
            }
        }
    }
}

fn distribution(solver: &Solver1) -> Distribution {
    let grid = solver.grid();
    let mut sum = 0.0;
    let value = solver.density().iter().map(|density| {
        sum += density * grid.dx();
        sum
    });
    Distribution { value: value.collect(), x: (1..=grid.cells()).map(|i| grid.face(i)).collect() }
}

/// The guided reverse SDE's density, from everything's law at time 1.
fn by_fokker_planck() -> Result<Solver1> {
    let (process, (_, laws)) = (vp()?, labelled()?);
    let at = |t: f64, law: &Mixture| law.noised(process.alpha(t), process.sigma(t));
    let last = at(1.0, &laws[1])?;
    let mut solver = Solver1::new(Grid1::new(-7.0, 7.0, 1400)?, |x| last.pdf(x))?;
    // s = 1 − t runs forwards.
    let drift = |x: f64, s: f64| {
        let t = 1.0 - s;
        let score = |law: &Mixture| at(t, law).map_or(f64::NAN, |law| law.score(x));
        let guided = 2.0 * score(&laws[0]) - score(&laws[1]);
        process.diffusion(t).powi(2) * guided - process.drift(t) * x
    };
    solver.run(drift, |s| process.diffusion(1.0 - s), 0.0, 1.0 - LAST, 1200)?;
    Ok(solver)
}

/// The guided ODE's law: a line's flow keeps the order of points, so quantiles move with it.
fn by_flow() -> Result<Distribution> {
    const POINTS: usize = 401;
    let process = vp()?;
    let at = process.level(1.0);
    let (_, laws) = labelled()?;
    let start = laws[1].noised(at.alpha, at.sigma)?;
    let value: Vec<f64> = (0..POINTS).map(|i| (i as f64 + 0.5) / POINTS as f64).collect();
    let x = value.iter().map(|u| start.quantile(*u)).collect::<Result<Vec<_>>>()?;
    // Not through the classifier, whose samples are held against this.
    let denoiser = pair(2.0)?;
    let mut run = Run::new(&denoiser, StepNoise::Given(&[]), &[]);
    let x = rk45(&mut run, Tensor::from_slice(&x, [POINTS, 1])?, &equal_times(&process, LAST, 2)?, 1e-7)?.to_vec()?;
    Ok(Distribution { x, value })
}

/// The distribution function of p_t(x)·p_t(y | x)² at the last time, which is p(x | y)²/p(x) up to a factor.
fn tilted_law() -> Result<Distribution> {
    let (process, (_, laws)) = (vp()?, labelled()?);
    let [class, all] = [&laws[0], &laws[1]].map(|law| law.noised(process.alpha(LAST), process.sigma(LAST)));
    let (class, all) = (class?, all?);
    let grid = Grid1::new(-7.0, 7.0, 1400)?;
    let solver = Solver1::new(grid, |x| (2.0 * class.log_pdf(x) - all.log_pdf(x)).exp())?;
    Ok(distribution(&solver))
}

fn distance(a: &Distribution, b: &Distribution) -> Result<f64> {
    Ok(largest(a.x.iter().chain(&b.x).map(|x| a.at(*x) - b.at(*x))))
}

fn langevin() -> Result<f64> {
    let (process, (_, laws)) = (vp()?, labelled()?);
    let at = process.level(0.2);
    let [class, all] = [&laws[0], &laws[1]].map(|law| law.noised(at.alpha, at.sigma));
    let (class, all) = (class?, all?);
    let mut solver = Solver1::new(Grid1::new(-6.0, 6.0, 600)?, |x| all.pdf(x))?;
    let drift = |x: f64, _: f64| 3.0 * class.score(x) - 2.0 * all.score(x);
    solver.run(drift, |_| 2.0_f64.sqrt(), 0.0, 30.0, 3000)?;
    let grid = solver.grid();
    let tilted = Solver1::new(grid, |x| (3.0 * class.log_pdf(x) - 2.0 * all.log_pdf(x)).exp())?;
    Ok(solver.density().iter().zip(tilted.density()).map(|(p, q)| (p - q).abs()).sum::<f64>() * grid.dx())
}

/// N(mu, v) tilted by e^(lambda·x): the class is N(mu + lambda·v, v), and w times the tilt N(mu + w·lambda·v, v).
fn affine() -> Result<f64> {
    let (mu, v, lambda, scale): (f64, f64, f64, f64) = (0.3, 0.6, 0.8, 2.5);
    let gaussian = |mean: f64| Oracle::gaussian(&[mean], &[v]);
    let (all, class, want) = (gaussian(mu)?, gaussian(mu + lambda * v)?, mu + scale * lambda * v);
    let process: Arc<dyn Process> = vp()?;
    let classifier = OracleClassifier { class: &class, all: &all };
    let guided = ClassifierGuided { inner: &all, classifier, strength: Strength::of(scale) };
    // Points of the tilted law of time 1 at 0, ±1 and ±2 deviations must come to those of time LAST.
    let points = |at: Level| -> Vec<f64> {
        let deviation = (at.alpha.powi(2) * v + at.sigma.powi(2)).sqrt();
        [-2.0, -1.0, 0.0, 1.0, 2.0].map(|z| at.alpha * want + z * deviation).to_vec()
    };
    let mut run = Run::new(&guided, StepNoise::Given(&[]), &[]);
    let start = Tensor::from_slice(&points(process.level(1.0)), [5, 1])?;
    let end = rk45(&mut run, start, &equal_times(&process, LAST, 2)?, 1e-9)?.to_vec::<f64>()?;
    Ok(rms(&end, &points(process.level(LAST))))
}
