//! Discrete diffusion: noise on symbols instead of numbers (S3 section 6; items 63–77).
//!
//! A sequence is `L` tokens `0..K`, and `K` itself is the mask where the graph has one. Each token is noised alone: by a chain in discrete time
//! ([`Transition`]), or at the rates σ(t)·R of a [`Graph`] under a [`Noise`] schedule. Columns are sources: entry (y, x) leads from x to y.
//! Samplers and bounds see a [`ConcreteScore`], which a network implements, and so does [`Enumeration`]: small languages counted out,
//! with which all of this is proved.

mod categorical;
mod constraint;
pub mod d3pm;
mod elbo;
mod graph;
pub mod loss;
mod network;
mod noise;
mod objective;
mod oracle;
mod sampler;
mod score;
mod transition;

pub use categorical::categorical;
pub use constraint::Constraint;
pub use elbo::{Bits, BoundOptions, bits_per_token, corrupt};
pub use graph::{Absorbing, Custom, Graph, GraphKind, Uniform};
pub use network::NetworkScore;
pub use noise::Noise;
pub use objective::Objective;
pub use oracle::{Enumeration, entropy};
pub use sampler::{
    Rule, Sampled, Span, TokenSampler, TokenSamplerOptions, expected_evaluations, expected_share, sample_tokens,
};
pub use score::{ConcreteScore, Head, Tokens, View, check_model};
pub use transition::{AbsorbingTransition, MatrixTransition, Transition, UniformTransition};
