//! Samplers: each is a function that reads like its paper, on the same [`Run`].

mod ddim;
mod ddpm;
mod grid;
mod run;

pub use ddim::ddim;
pub use ddpm::ddpm;
pub use grid::{Grid, GridStep};
pub use run::{Progress, Run, StepNoise};

use crate::error::{Result, unknown_name};

/// The samplers by their command-line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerKind {
    /// Ancestral sampling (Ho et al. 2020, algorithm 2).
    Ddpm,
    /// DDIM (Song, Meng & Ermon 2021).
    Ddim,
}

impl SamplerKind {
    /// All names.
    pub const NAMES: [&str; 2] = ["ddim", "ddpm"];

    /// Reads a name.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str) -> Result<SamplerKind> {
        match name {
            "ddpm" => Ok(SamplerKind::Ddpm),
            "ddim" => Ok(SamplerKind::Ddim),
            _ => Err(unknown_name("sampler", name, &SamplerKind::NAMES)),
        }
    }
}
