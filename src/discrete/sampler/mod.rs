//! Samplers of sequences (item 74). Each follows one sequence; the engine beside them gathers the sequences that want an evaluation into full
//! batches. So a sample depends on its seed and index alone, and an evaluation that a sequence does not need costs nothing.

mod engine;
mod grid;
mod jumps;
mod masked;

pub use engine::{Sampled, TokenSampler, TokenSamplerOptions, sample_tokens};
pub use grid::{Rule, Span};
pub use masked::{expected_evaluations, expected_share};

#[cfg(test)]
mod tests;
