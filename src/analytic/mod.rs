//! The mathematics that proves diffusion formulas without a network: closed laws, quadrature, statistics and
//! Fokker–Planck solvers, in plain f64.
//!
//! A formula of diffusion is an identity between integrals ([`quadrature`]), a law that samples must follow
//! ([`statistics`]), or an equation for the density itself ([`fokker_planck`]); on Gaussian mixtures ([`gaussian`]) all
//! of it is closed. Nothing here knows tensors, devices or networks, so what it says about a sampler or a loss is
//! independent of them.
//!
//! ```
//! use tweedie::analytic::{Cauchy, inverse, statistics};
//! use tweedie::rng::{Address, Purpose};
//!
//! // Cauchy samples by inverse transform: no moment exists, so the check is Kolmogorov and Smirnov's.
//! let law = Cauchy::new(2.0)?;
//! let mut samples = vec![0.0; 1000];
//! inverse::sample_inverse(|u| law.quantile(u), Address::new(1, Purpose::Test), &mut samples);
//! let distance = statistics::ks(&samples, |x| law.cdf(x))?;
//! assert!(distance < statistics::ks_critical(0.001, 1000.0)?);
//! # Ok::<(), tweedie::Error>(())
//! ```

mod bernoulli;
mod cauchy;
pub mod divergence;
pub mod fokker_planck;
pub mod gaussian;
pub mod inverse;
pub mod quadrature;
pub mod sde;
pub mod statistics;

pub use bernoulli::Bernoulli;
pub use cauchy::Cauchy;
pub use gaussian::Mixture;
