//! Files: whole or not at all, pictures, plots and the metrics log.

pub mod atomic;
pub mod folder;
pub mod image;
pub mod metrics;
pub mod mmap;
pub mod plot;
mod plot_axis;
mod plot_canvas;
mod plot_panels;
pub mod tensors;
pub mod token_folder;
pub mod weights;

pub use atomic::write_atomically;
pub use folder::ModelFolder;
pub use mmap::Bytes;
pub use tensors::TensorFile;
