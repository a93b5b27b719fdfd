//! The kernels: their names, sources and images, written by build.rs from `kernels/`.

/// The kernels of one `.cu` file.
pub(crate) struct Module {
    /// The op's name.
    pub(crate) stem: &'static str,
    /// The text of the file, its includes put in.
    pub(crate) source: &'static str,
    /// The file as PTX, where NVRTC was there when the library was built.
    pub(crate) ptx: Option<&'static str>,
    /// The file for processors, by major·10 + minor of their compute capability, in rising order.
    pub(crate) cubins: &'static [(u32, &'static [u8])],
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
