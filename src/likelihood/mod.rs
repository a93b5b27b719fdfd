//! How probable held-out data are under a model: the variational bound of the reverse chain, and the density of the probability-flow
//! ODE (S0, S1, S3.eq31–62, S4; items 25–34, 48 and 53).
//!
//! −log p(x0) ≤ L_T + Σ L_{t−1} + L_0, a bound on the code length of the data ([`vlb`]):
//!
//! - L_T = KL(q(x_T|x0) ‖ p(x_T)) has no parameters ([`terminal_kl`]);
//! - L_{t−1} = KL(q(x_{t−1}|x_t, x0) ‖ p(x_{t−1}|x_t)) is a weighted squared error of x0_hat and a constant ([`Transition`]);
//! - L_0 = −log p(x0|x_1) is a categorical law over pixel levels, or a density for data that are real numbers ([`Decoder`]).
//!
//! [`ode_log_density`] follows the ODE from the data to the prior and integrates the divergence on the way. It gives a *density*. Pixels
//! are dequantised for it, x0 + bin·(U − ½) with U uniform; the density times the volume of a bin is then, by Jensen's inequality, on
//! average at most the log of the mass that the density has in the bin. So bits of the ODE and of the bound are beside each other for
//! the same images, but one is of a density and the other of a probability.
//!
//! All is in nats; [`bits_per_dim`] converts.

mod chain;
mod decoder;
mod linear;
mod ode;
mod vlb;

pub use chain::{Chain, ReverseVariance, Transition, terminal_kl};
pub use decoder::{Decoder, PixelLevels};
pub use linear::{LinearChain, LinearStep};
pub use ode::{OdeDensity, OdeOptions, Trace, gaussian_log_prior, ode_log_density};
pub use vlb::{Bound, Route, Term, VlbOptions, vlb};

/// Bits for each of `dim` numbers, of nats for all of them.
pub fn bits_per_dim(nats: f64, dim: usize) -> f64 {
    nats / (dim as f64 * std::f64::consts::LN_2)
}
