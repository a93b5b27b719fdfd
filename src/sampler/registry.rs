//! The samplers by name.

use super::{
    Churn, Corrector, DdimNoise, Grid, Run, ddim, ddpm, dpmpp_2m, edm, euler, euler_ancestral, euler_maruyama, heun,
    predictor_corrector, rk4, rk45,
};
use crate::denoiser::StepTerms;
use crate::error::{Error, Result, unknown_name};
use crate::ops::{self, Noise, ReverseStep, StepInputs};
use crate::process::Variance;
use crate::tensor::Tensor;

/// The samplers by their command-line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerKind {
    /// Ancestral sampling (Ho et al. 2020, algorithm 2).
    Ddpm,
    /// DDIM (Song, Meng & Ermon 2021).
    Ddim,
    /// Euler's method on the probability-flow ODE.
    Euler,
    /// Heun's method on the probability-flow ODE.
    Heun,
    /// The classical Runge–Kutta method on the probability-flow ODE.
    Rk4,
    /// The adaptive method of Dormand and Prince on the probability-flow ODE.
    Rk45,
    /// Euler–Maruyama on the reverse SDE.
    EulerMaruyama,
    /// Ancestral predictor, Langevin corrector.
    PredictorCorrector,
    /// The stochastic sampler of Karras et al. 2022.
    Edm,
    /// DPM-Solver++, second order, multistep.
    Dpmpp2m,
    /// k-diffusion's Euler with ancestral noise.
    EulerAncestral,
}

impl SamplerKind {
    /// All samplers.
    pub const ALL: [SamplerKind; 11] = [
        SamplerKind::Ddpm,
        SamplerKind::Ddim,
        SamplerKind::Euler,
        SamplerKind::Heun,
        SamplerKind::Rk4,
        SamplerKind::Rk45,
        SamplerKind::EulerMaruyama,
        SamplerKind::PredictorCorrector,
        SamplerKind::Edm,
        SamplerKind::Dpmpp2m,
        SamplerKind::EulerAncestral,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            SamplerKind::Ddpm => "ddpm",
            SamplerKind::Ddim => "ddim",
            SamplerKind::Euler => "euler",
            SamplerKind::Heun => "heun",
            SamplerKind::Rk4 => "rk4",
            SamplerKind::Rk45 => "rk45",
            SamplerKind::EulerMaruyama => "euler_maruyama",
            SamplerKind::PredictorCorrector => "predictor_corrector",
            SamplerKind::Edm => "edm",
            SamplerKind::Dpmpp2m => "dpmpp_2m",
            SamplerKind::EulerAncestral => "euler_ancestral",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str) -> Result<SamplerKind> {
        let known = SamplerKind::ALL.map(SamplerKind::name);
        SamplerKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| unknown_name("sampler", name, &known))
    }

    /// Whether x_T alone decides x_0, with these settings.
    pub fn is_deterministic(self, options: &SamplerOptions) -> bool {
        match self {
            SamplerKind::Euler | SamplerKind::Heun | SamplerKind::Rk4 | SamplerKind::Rk45 | SamplerKind::Dpmpp2m => {
                true
            }
            SamplerKind::Ddim => match &options.noise {
                DdimNoise::Eta(eta) => *eta == 0.0,
                DdimNoise::Sigma(list) => list.iter().all(|sigma| *sigma == 0.0),
            },
            SamplerKind::Edm => options.churn.churn == 0.0,
            _ => false,
        }
    }
}

/// What the samplers can be told; each reads its own.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// ddim: fresh noise.
    pub noise: DdimNoise,
    /// ddim: recompute eps_hat from the clipped x0_hat.
    pub recompute_eps: bool,
    /// ddpm: variance of the reverse step.
    pub variance: Variance,
    /// ddpm: noise in the step to clean data too.
    pub noise_at_end: bool,
    /// euler_ancestral: share of ancestral noise.
    pub ancestral_eta: f64,
    /// rk45: bound of the local error.
    pub tolerance: f64,
    /// predictor_corrector: the Langevin part.
    pub corrector: Corrector,
    /// edm: noise added and removed again.
    pub churn: Churn,
}

impl Default for SamplerOptions {
    fn default() -> SamplerOptions {
        SamplerOptions {
            noise: DdimNoise::Eta(0.0),
            recompute_eps: false,
            variance: Variance::FixedSmall,
            noise_at_end: false,
            ancestral_eta: 1.0,
            tolerance: 1e-4,
            corrector: Corrector::default(),
            churn: Churn::default(),
        }
    }
}

/// Runs a sampler from `x` at the grid's first level to its last.
///
/// # Errors
/// Those of the sampler.
pub fn sample(
    kind: SamplerKind,
    run: &mut Run<'_>,
    x: Tensor,
    grid: &Grid,
    options: &SamplerOptions,
) -> Result<Tensor> {
    match kind {
        SamplerKind::Ddpm => ddpm(run, x, grid, options.variance, options.noise_at_end),
        SamplerKind::Ddim => ddim(run, x, grid, &options.noise, options.recompute_eps),
        SamplerKind::Euler => euler(run, x, grid),
        SamplerKind::Heun => heun(run, x, grid),
        SamplerKind::Rk4 => rk4(run, x, grid),
        SamplerKind::Rk45 => rk45(run, x, grid, options.tolerance),
        SamplerKind::EulerMaruyama => euler_maruyama(run, x, grid),
        SamplerKind::PredictorCorrector => predictor_corrector(run, x, grid, &options.corrector),
        SamplerKind::Edm => edm(run, x, grid, &options.churn),
        SamplerKind::Dpmpp2m => dpmpp_2m(run, x, grid),
        SamplerKind::EulerAncestral => euler_ancestral(run, x, grid, options.ancestral_eta),
    }
}

/// Runs a deterministic sampler backwards: from x0 to the x_T that it would have come from, up to the method's error.
///
/// ddim takes eps_hat from the bounded x0_hat, as the other solvers do: with a clipped x0_hat and the raw eps_hat its steps follow no ODE and
/// have no inverse. Decode with `recompute_eps` too.
///
/// Where the grid ends at clean data, x0 is first lifted to the last noisy level with the noise that the denoiser sees in it there.
///
/// # Errors
/// [`Error::Usage`] for a sampler that draws noise, or a grid of one step; those of the sampler.
pub fn encode(
    kind: SamplerKind,
    run: &mut Run<'_>,
    x0: Tensor,
    grid: &Grid,
    options: &SamplerOptions,
) -> Result<Tensor> {
    if !kind.is_deterministic(options) {
        let (name, known) = (kind.name(), "ddim (eta 0), dpmpp_2m, edm (churn 0), euler, heun, rk4, rk45");
        return Err(Error::Usage(format!("--encode: {name} draws noise and has no inverse; use one of {known}")));
    }
    let back = grid.reversed()?;
    let first = back.steps()[0].from;
    let ends_clean = grid.steps().last().is_some_and(|step| step.to.is_clean());
    let mut x = x0;
    if ends_clean {
        let step = ReverseStep { to_x: first.alpha, ..Default::default() };
        let seen = ops::reverse_step(&x, &x, StepInputs::default(), &step, Noise::None)?;
        let estimate = run.denoise(&seen, first)?;
        let terms = estimate.by_denoiser(StepTerms { eps: first.sigma, ..Default::default() }, first);
        x = estimate.step_from(terms, Some((first.alpha, &x)), Noise::None)?;
    }
    let options = SamplerOptions { noise: DdimNoise::Eta(0.0), recompute_eps: true, ..options.clone() };
    sample(kind, run, x, &back, &options)
}
