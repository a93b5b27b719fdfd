//! Measurements of a trained model.

mod loss;

pub use loss::{LossOptions, LossReport, denoising_loss};
