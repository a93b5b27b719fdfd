//! Measurements of a trained model, and what it must beat.

mod accuracy;
mod bits;
mod coverage;
mod loss;
mod ngram;

pub use accuracy::{AccuracyOptions, AccuracyPoint, AccuracyReport, classifier_accuracy, plot_accuracy};
pub use bits::{
    Bits, BoundKind, BpdOptions, BpdReport, CurvePoint, DecoderKind, Measured, OdeReport, bits_per_dim_of,
    independent_pixel_bits, ode_bits_per_dim, uniform_bits,
};
pub use coverage::{CoverageReport, coverage, duplicate_rate, expected_coverage};
pub use loss::{LossOptions, LossReport, denoising_loss};
pub use ngram::WittenBell;
