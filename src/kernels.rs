//! The kernels: their names and sources, written by build.rs from `kernels/`.

/// The kernels of one `.cu` file.
pub(crate) struct Module {
    /// The op's name.
    pub(crate) stem: &'static str,
    /// The text of the file, its includes put in.
    pub(crate) source: &'static str,
}

/// One kernel.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// The file it is in.
    pub(crate) module: &'static Module,
    /// `<op>_<phase>`.
    pub(crate) name: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
