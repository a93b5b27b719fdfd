//! Samplers: each is a function that reads like its paper, on the same [`Run`]. All see a denoiser and the process's scalars, never
//! which process it is.
//!
//! The solvers of the probability-flow ODE use the one coordinate in which it is finite at both ends: the angle
//! φ = atan(sigma/alpha), where z = x/√(alpha² + sigma²) moves with dz/dφ = cos φ·eps_hat − sin φ·x0_hat (Salimans & Ho 2022, appendix D; Lu
//! & Song 2025). A step that ends at clean data is taken to x0_hat by all of them.

mod ddim;
mod ddpm;
pub(crate) mod dormand_prince;
mod dpmpp_2m;
mod draw;
mod edm;
mod euler_ancestral;
mod euler_maruyama;
mod grid;
mod ode;
mod predictor_corrector;
mod projection;
mod registry;
mod rk45;
mod run;
mod tau;

pub use ddim::{DdimNoise, ddim};
pub use ddpm::ddpm;
pub use dpmpp_2m::dpmpp_2m;
pub use draw::{draw, start};
pub use edm::{Churn, edm};
pub use euler_ancestral::euler_ancestral;
pub use euler_maruyama::euler_maruyama;
pub use grid::{Grid, GridKind, GridStep};
pub use ode::{euler, heun, rk4};
pub use predictor_corrector::{Corrector, predictor_corrector};
pub use projection::{KnownComponents, KnownElements, Projection, Resampling, sample_again};
pub use registry::{SamplerKind, SamplerOptions, encode, sample};
pub use rk45::rk45;
pub use run::{Progress, Run, StepNoise};
pub use tau::{check_tau, parse_tau, quadratic_tau};
