//! Kernels on their way to a GPU: compiled at first use by NVRTC.

use super::{Gpu, failed};
use crate::error::{Error, Result};
use crate::kernels::Module;
use cudarc::driver::CudaModule;
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};
use std::sync::{Arc, OnceLock};

/// Whether kernels can be compiled here.
pub(in crate::device) fn has_compiler() -> bool {
    static NAMED: OnceLock<Option<libloading::Library>> = OnceLock::new();
    // A library that is loaded already is found by its name, wherever its file is.
    NAMED.get_or_init(|| {
        let path = std::env::var_os("TWEEDIE_NVRTC")?;
        // SAFETY: NVRTC's initialisers do nothing but set up NVRTC; it stays loaded as long as the program runs.
        unsafe { libloading::Library::new(path) }.ok()
    });
    // SAFETY: only asks the loader whether libnvrtc can be opened.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

impl Gpu {
    /// Loads the kernels of one file.
    pub(super) fn load(&self, module: &Module) -> Result<Arc<CudaModule>> {
        let ptx = compile(module)?;
        self.context.load_module(ptx).map_err(failed(self.index, module.stem))
    }
}

/// PTX of a kernel file, for every GPU from compute capability 8.0 on.
fn compile(module: &Module) -> Result<Ptx> {
    let stem = module.stem;
    if !has_compiler() {
        return Err(Error::Device(format!(
            "{stem}: kernels are compiled by NVRTC, and libnvrtc.so.12 did not load; install it (CUDA toolkit, or pip install \
             nvidia-cuda-nvrtc-cu12) or name the file in TWEEDIE_NVRTC"
        )));
    }
    let options = CompileOptions {
        arch: Some("compute_80"),
        options: vec!["-lineinfo".into(), "--std=c++17".into()],
        ..Default::default()
    };
    compile_ptx_with_opts(module.source, options).map_err(|e| {
        let log = match &e {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            other => format!("{other:?}"),
        };
        Error::Device(format!("{stem}: NVRTC refused the kernel: {}", log.trim().replace('\n', "; ")))
    })
}
