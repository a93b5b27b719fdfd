//! Measurements of a trained model.

mod coverage;
mod loss;

pub use coverage::{CoverageReport, coverage, duplicate_rate, expected_coverage};
pub use loss::{LossOptions, LossReport, denoising_loss};
