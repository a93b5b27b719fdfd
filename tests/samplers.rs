//! Every sampler on every schedule and any number of steps, with an exact f64 denoiser: finite at both ends, each sample on its own, as
//! many evaluations as documented, and no encoding by samplers that draw noise.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers are test code too.

use std::sync::Arc;
use tweedie::denoiser::guidance::{Guided, Strength, Two};
use tweedie::denoiser::oracle::Oracle;
use tweedie::denoiser::{Denoiser, Estimate, Threshold};
use tweedie::process::{
    BetaCurve, BetaSchedule, Discrete, Edm, Flow, Level, LinearLogSnr, Ou, Process, SchedulerConfig, Spacing, SubVp,
    Variance, Ve, Vp,
};
use tweedie::rng::{Address, Purpose};
use tweedie::sampler::{
    Churn, DdimNoise, Grid, GridKind, Run, SamplerKind, SamplerOptions, StepNoise, ddpm, encode, predictor_corrector,
    rk45, sample,
};
use tweedie::tensor::Tensor;

const ROWS: usize = 3;

fn oracle() -> Oracle {
    Oracle::isotropic(&[0.4, 0.6], &[vec![-1.2, 0.3], vec![0.9, -0.5]], &[0.4, 0.5]).unwrap()
}

/// A schedule and the spacings that it knows.
struct Row {
    name: &'static str,
    process: Arc<dyn Process>,
    spacings: Vec<GridKind>,
}

fn rows() -> Vec<Row> {
    let table = |name, schedule: BetaSchedule, zero_terminal_snr| {
        // Small enough that T steps are quick, and that the last betas are large.
        let betas = schedule.betas(50, 2e-3, 0.3);
        let process = Arc::new(Discrete::from_betas(&betas, zero_terminal_snr).unwrap()) as Arc<dyn Process>;
        let spacings = vec![GridKind::Times(Spacing::Trailing), GridKind::Times(Spacing::Linspace), GridKind::LogSnr];
        Row { name, process, spacings }
    };
    let continuous = |name, process: Arc<dyn Process>| {
        let spacings = vec![GridKind::Uniform, GridKind::LogSnr, GridKind::Karras, GridKind::Quadratic];
        Row { name, process, spacings }
    };
    let curve = BetaCurve::Linear { min: 0.1, max: 20.0 };
    vec![
        table("linear", BetaSchedule::Linear, false),
        table("scaled_linear", BetaSchedule::ScaledLinear, false),
        table("cosine", BetaSchedule::Cosine, false),
        table("sigmoid", BetaSchedule::Sigmoid, false),
        table("linear, zero terminal SNR", BetaSchedule::Linear, true),
        table("cosine, zero terminal SNR", BetaSchedule::Cosine, true),
        continuous("vp", Arc::new(Vp::new(curve, false).unwrap())),
        continuous("vp cosine", Arc::new(Vp::new(BetaCurve::Cosine, false).unwrap())),
        continuous("vp, zero terminal SNR", Arc::new(Vp::new(curve, true).unwrap())),
        continuous("sub_vp", Arc::new(SubVp::new(curve).unwrap())),
        continuous("ve", Arc::new(Ve::new(0.01, 50.0).unwrap())),
        continuous("ou", Arc::new(Ou::new(5.0, 10.0_f64.sqrt()).unwrap())),
        continuous("edm", Arc::new(Edm::new(0.002, 80.0, 7.0).unwrap())),
        continuous("flow", Arc::new(Flow)),
        continuous("linear_log_snr", Arc::new(LinearLogSnr::new(-8.0, 7.0).unwrap())),
    ]
}

/// The plain settings, and those that take another way through a sampler.
fn settings() -> Vec<(SamplerKind, SamplerOptions)> {
    let plain = SamplerOptions::default();
    let eta = |eta| SamplerOptions { noise: DdimNoise::Eta(eta), ..plain.clone() };
    let churn = Churn { churn: 20.0, min: 0.0, max: f64::INFINITY, noise: 1.003 };
    let mut list: Vec<_> = SamplerKind::ALL.iter().map(|kind| (*kind, plain.clone())).collect();
    list.push((SamplerKind::Ddim, eta(1.0)));
    list.push((SamplerKind::Ddim, SamplerOptions { recompute_eps: true, ..eta(0.5) }));
    list.push((SamplerKind::Edm, SamplerOptions { churn, ..plain }));
    list
}

/// Standard normals times the process's prior.
fn start(process: &dyn Process, n: usize) -> Tensor {
    let mut z = vec![0.0_f32; 2 * n];
    Address::new(5, Purpose::Start).fill_normal(&mut z);
    let x: Vec<f64> = z.into_iter().map(|z| process.prior_std() * f64::from(z)).collect();
    Tensor::from_slice(&x, [n, 2]).unwrap()
}

fn drawn() -> StepNoise<'static> {
    StepNoise::Drawn(Address::new(9, Purpose::ReverseStep))
}

fn grid(row: &Row, kind: &GridKind, steps: usize) -> Grid {
    Grid::new(&SchedulerConfig::default(), &row.process, kind, steps).unwrap()
}

#[track_caller]
fn assert_finite(x: &Tensor, what: &str) {
    // No bound: two explicit steps through large rates may go far.
    let values = x.to_vec::<f64>().unwrap();
    assert!(values.iter().all(|v| v.is_finite()), "{what}: {values:?}");
}

#[test]
fn every_sampler_is_finite_on_every_schedule_for_any_number_of_steps() {
    let (oracle, samples) = (oracle(), [0, 1, 2]);
    for row in rows() {
        let total = row.process.discrete().map_or(50, Discrete::steps);
        for (kind, options) in settings() {
            for steps in [1, 2, 3, 11, 14, total] {
                for spacing in &row.spacings {
                    let what = format!("{kind:?} on {} with {steps} steps, {spacing:?}", row.name);
                    let mut run = Run::new(&oracle, drawn(), &samples);
                    let x = start(&*row.process, ROWS);
                    let x0 = sample(kind, &mut run, x, &grid(&row, spacing, steps), &options);
                    assert_finite(&x0.unwrap_or_else(|e| panic!("{what}: {e}")), &what);
                }
            }
        }
    }
}

#[test]
fn all_thousand_steps_of_ddpms_table_are_finite() {
    let (oracle, samples) = (oracle(), [0]);
    for zero_terminal_snr in [false, true] {
        for schedule in [BetaSchedule::Linear, BetaSchedule::Cosine] {
            let table = Discrete::from_betas(&schedule.betas(1000, 1e-4, 0.02), zero_terminal_snr).unwrap();
            let row = Row { name: "ddpm", process: Arc::new(table), spacings: Vec::new() };
            for (kind, options) in settings().into_iter().filter(|(kind, _)| *kind != SamplerKind::Rk45) {
                let mut run = Run::new(&oracle, drawn(), &samples);
                let grid = grid(&row, &GridKind::Times(Spacing::Trailing), 1000);
                let x0 = sample(kind, &mut run, start(&*row.process, 1), &grid, &options).unwrap();
                assert_finite(&x0, &format!("{kind:?} {schedule:?} {zero_terminal_snr}"));
            }
        }
    }
}

fn bits(x: &Tensor) -> Vec<u64> {
    x.to_vec::<f64>().unwrap().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_sample_is_the_same_bits_alone_and_in_a_batch() {
    let oracle = oracle();
    for row in rows() {
        let grid = grid(&row, &row.spacings[0], 6);
        let x = start(&*row.process, ROWS);
        for (kind, options) in settings() {
            let of = |x: Tensor, samples: &[u32]| {
                let mut run = Run::new(&oracle, drawn(), samples);
                bits(&match kind {
                    SamplerKind::Rk45 => rk45(&mut run, x, &grid, options.tolerance).unwrap(),
                    SamplerKind::PredictorCorrector => {
                        predictor_corrector(&mut run, x, &grid, &options.corrector).unwrap()
                    }
                    _ => sample(kind, &mut run, x, &grid, &options).unwrap(),
                })
            };
            // Sample indices are not positions: 7, 3 and 12.
            let samples = [7, 3, 12];
            let whole = of(x.clone(), &samples);
            let alone: Vec<u64> = (0..ROWS).flat_map(|i| of(x.rows(i, 1).unwrap(), &samples[i..=i])).collect();
            assert_eq!(whole, alone, "{kind:?} on {}", row.name);
        }
    }
}

#[test]
fn evaluations_are_as_many_as_documented() {
    let oracle = oracle();
    let process: Arc<dyn Process> = Arc::new(Vp::new(BetaCurve::Linear { min: 0.1, max: 20.0 }, false).unwrap());
    let row = Row { name: "vp", process, spacings: vec![] };
    let steps = 7;
    // nsr falls fourfold a step: no step of edm's is Euler's.
    let grid = grid(&row, &GridKind::LogSnr, steps);
    for kind in SamplerKind::ALL {
        let want = match kind {
            // The step to clean data takes one.
            SamplerKind::Heun | SamplerKind::Edm | SamplerKind::PredictorCorrector => 2 * steps - 1,
            SamplerKind::Rk4 => 4 * (steps - 1) + 1,
            SamplerKind::Rk45 => {
                let mut run = Run::new(&oracle, drawn(), &[0]);
                rk45(&mut run, start(&*row.process, 1), &grid, 1e-5).unwrap();
                // One at the start, six for each attempt, one at the end; at least the 20th part of the way at first.
                assert!(run.nfe() > 8 && (run.nfe() - 2).is_multiple_of(6), "rk45: {}", run.nfe());
                continue;
            }
            _ => steps,
        };
        let mut run = Run::new(&oracle, drawn(), &[0]);
        sample(kind, &mut run, start(&*row.process, 1), &grid, &SamplerOptions::default()).unwrap();
        assert_eq!(run.nfe(), want, "{kind:?}");
    }
}

#[test]
fn samplers_that_draw_noise_do_not_encode_and_the_others_return() {
    let oracle = oracle();
    for row in rows() {
        let x0 = oracle.sample(1, ROWS, Level::CLEAN).unwrap();
        let grid = grid(&row, &row.spacings[0], 40);
        for (kind, options) in settings() {
            let mut run = Run::new(&oracle, drawn(), &[0, 1, 2]);
            let what = format!("{kind:?} on {}", row.name);
            let encoded = encode(kind, &mut run, x0.clone(), &grid, &options);
            if kind.is_deterministic(&options) {
                assert_finite(&encoded.unwrap_or_else(|e| panic!("{what}: {e}")), &what);
            } else {
                let text = encoded.unwrap_err().to_string();
                assert!(
                    text.contains("draws noise and has no inverse") && text.contains(kind.name()),
                    "{what}: {text}"
                );
            }
        }
    }
}

#[test]
fn the_corrector_is_a_langevin_step_of_the_documented_size() {
    // On Gaussian data x' = x + e·score + √(2e)·z with e = 2(r·sigma)² is linear: x' = x·(1 − e/V) + √(2e)·z, V the variance at
    // the level.
    let (variance, snr) = (0.36, 0.3);
    let oracle = Oracle::gaussian(&[0.0], &[variance]).unwrap();
    let process: Arc<dyn Process> = Arc::new(Vp::new(BetaCurve::Linear { min: 0.1, max: 20.0 }, false).unwrap());
    let (from, to) = (process.level(0.6), process.level(0.4));
    let grid = Grid::through(&process, &[from, to]).unwrap();
    let column = |values: &[f64]| Tensor::from_slice(values, [values.len(), 1]).unwrap();
    let run_with = |steps: usize, noise: &[Tensor]| {
        let mut run = Run::new(&oracle, StepNoise::Given(noise), &[0, 1]);
        let corrector = tweedie::sampler::Corrector { steps, snr };
        predictor_corrector(&mut run, column(&[1.0, 0.0]), &grid, &corrector).unwrap().to_vec::<f64>().unwrap()
    };
    let zero = column(&[0.0, 0.0]);
    let predicted = run_with(0, std::slice::from_ref(&zero))[0];
    // Row 0 begins at 1 and draws nothing, row 1 begins at 0 and draws 1 in the first corrector step.
    let corrected = run_with(2, &[zero.clone(), column(&[0.0, 1.0]), zero]);
    let e = 2.0 * (snr * to.sigma).powi(2);
    let keep = 1.0 - e / (to.alpha.powi(2) * variance + to.sigma.powi(2));
    assert!((corrected[0] - predicted * keep * keep).abs() < 1e-14, "{} {}", corrected[0], predicted);
    assert!((corrected[1] - (2.0 * e).sqrt() * keep).abs() < 1e-14, "{}", corrected[1]);
}

#[test]
fn steps_of_no_length_and_steps_over_most_of_the_noise_stay_bounded() {
    // The same level twice, and a table whose first sigma/alpha is 20000 left in three steps.
    let oracle = oracle();
    let betas = BetaSchedule::Cosine.betas(1000, 1e-4, 0.02);
    let process: Arc<dyn Process> = Arc::new(Discrete::from_betas(&betas, false).unwrap());
    let level = |time: f64| process.level(time);
    let repeated = [level(0.9), level(0.9), level(0.5), level(0.5), level(0.2), Level::CLEAN];
    let coarse = [level(1.0), level(0.66), level(0.33), Level::CLEAN];
    for levels in [&repeated[..], &coarse] {
        let grid = Grid::through(&process, levels).unwrap();
        for kind in [SamplerKind::Dpmpp2m, SamplerKind::Edm, SamplerKind::Heun, SamplerKind::Ddim, SamplerKind::Rk4] {
            let mut run = Run::new(&oracle, StepNoise::Drawn(Address::new(1, Purpose::ReverseStep)), &[0, 1, 2]);
            let x = oracle.sample(3, ROWS, levels[0]).unwrap();
            let got = sample(kind, &mut run, x, &grid, &SamplerOptions::default()).unwrap().to_vec::<f64>().unwrap();
            // Six deviations beyond the farther mean.
            assert!(got.iter().all(|v| v.abs() < 1.2 + 6.0 * 0.5), "{kind:?}: {got:?}");
        }
    }
}

/// The oracle, which says the same of every element's variance.
struct Chosen {
    oracle: Oracle,
    v: f64,
}

impl Denoiser for Chosen {
    fn denoise(&self, x_t: &Tensor, at: Level) -> tweedie::Result<Estimate> {
        let v = Tensor::from_slice(&vec![self.v; x_t.count()], x_t.shape())?;
        Ok(Estimate { variance: Some(v), ..self.oracle.denoise(x_t, at)? })
    }
}

#[test]
fn learned_variances_at_their_ends_are_beta_tilde_and_beta() {
    let samples = [0, 1, 2];
    for row in rows().iter().filter(|row| ["linear", "vp", "linear_log_snr"].contains(&row.name)) {
        let grid = grid(row, &GridKind::Uniform, 12);
        let run = |denoiser: &dyn Denoiser, variance| {
            let x = start(&*row.process, ROWS);
            ddpm(&mut Run::new(denoiser, drawn(), &samples), x, &grid, variance, false)?.to_vec::<f64>()
        };
        for (v, fixed) in [(-1.0, Variance::FixedSmall), (1.0, Variance::FixedLarge)] {
            let learned = run(&Chosen { oracle: oracle(), v }, Variance::LearnedRange).unwrap();
            let fixed = run(&oracle(), fixed).unwrap();
            for (a, b) in learned.iter().zip(&fixed) {
                // A logarithm and an exponential more, of numbers of order ten, over twelve steps.
                assert!((a - b).abs() < 1e-12 * b.abs().max(1.0), "{} at v = {v}: {a} against {b}", row.name);
            }
        }
        let error = run(&oracle(), Variance::LearnedRange).unwrap_err().to_string();
        assert!(error.contains("says nothing of a variance"), "{error}");
    }
}

#[test]
fn ddim_takes_eps_from_the_clipped_estimate_where_guidance_moved_it_and_nowhere_else() {
    let class = Oracle::isotropic(&[1.0], &[vec![0.9, -0.5]], &[0.5]).unwrap();
    let (config, all) = (SchedulerConfig::default(), oracle());
    let process = config.process().unwrap();
    let grid = Grid::new(&config, &process, &GridKind::Times(Spacing::Trailing), 20).unwrap();
    let x_t = tweedie::sampler::start(&*process, 4, [ROWS, 2]).unwrap();
    let x_t = tweedie::ops::cast(&x_t, tweedie::tensor::Dtype::F32).unwrap();
    let run = |scale: f64, recompute_eps: bool| {
        let pair = Two { towards: &class, away: &all };
        let guided = Guided { pair, strength: Strength::of(scale), rescale: 0.0 };
        let denoiser = Threshold { inner: guided, config: &config };
        let samples: Vec<u32> = (0..ROWS as u32).collect();
        let options = SamplerOptions { recompute_eps, ..SamplerOptions::default() };
        let mut run = Run::new(&denoiser, StepNoise::Given(&[]), &samples);
        sample(SamplerKind::Ddim, &mut run, x_t.clone(), &grid, &options).unwrap().to_f64s().unwrap()
    };
    assert_eq!(run(4.0, false), run(4.0, true));
    // At w = 1 nothing is moved, and clipping alone leaves eps_hat raw, as diffusers has it.
    assert_ne!(run(1.0, false), run(1.0, true));
}
