//! The CUDA driver: a context and one stream for each GPU, its memory, and kernels compiled at first use.
//!
//! All work of a GPU runs on one stream, in order; memory is allocated and freed in that order too. libcuda and libnvrtc are
//! loaded at run time, and asked for before the first call that would panic without them.

use crate::error::{Error, Result};
use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The kernels of one `.cu` file.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// The op's name.
    pub(crate) stem: &'static str,
    /// The text of the file.
    pub(crate) text: &'static str,
}

/// One argument of a kernel.
pub(crate) enum Arg<'a> {
    /// Memory on the GPU; null for none.
    Buffer(Option<&'a CudaBuffer>),
    U32(u32),
    F32(f32),
}

/// Blocks of a launch, and threads of a block.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: u32,
}

/// One GPU.
pub(crate) struct Gpu {
    index: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
}

/// Memory on a GPU.
#[derive(Debug)]
pub struct CudaBuffer {
    slice: CudaSlice<u8>,
    index: usize,
}

/// The GPU of an index; its context is made at first use and lives as long as the program.
pub(crate) fn gpu(index: usize) -> Result<Arc<Gpu>> {
    static GPUS: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());
    let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.index == index) {
        return Ok(gpu.clone());
    }
    let gpu = Arc::new(Gpu::open(index)?);
    gpus.push(gpu.clone());
    Ok(gpu)
}

/// Whether an NVIDIA driver is there.
pub(crate) fn has_driver() -> bool {
    // SAFETY: only asks the loader whether libcuda can be opened; no CUDA function is called.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// Whether kernels can be compiled here.
pub(super) fn has_compiler() -> bool {
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

fn failed(index: usize, what: &str) -> impl FnOnce(DriverError) -> Error {
    let what = format!("cuda:{index}: {what}");
    move |e| {
        let name = e.error_name().map_or_else(|_| format!("{e:?}"), |name| name.to_string_lossy().into_owned());
        Error::Device(format!("{what}: the driver says {name}"))
    }
}

impl Gpu {
    fn open(index: usize) -> Result<Gpu> {
        if !has_driver() {
            return Err(Error::Device(
                "--device cuda: no NVIDIA driver found (libcuda did not load); use --device cpu".into(),
            ));
        }
        let count = CudaContext::device_count().map_err(failed(index, "counting the GPUs"))?;
        if index >= count.max(0) as usize {
            return Err(Error::Device(format!(
                "--device cuda:{index}: the machine has {count} GPUs, counted from 0; use --device cpu or another index"
            )));
        }
        let context = CudaContext::new(index).map_err(failed(index, "opening the GPU"))?;
        // SAFETY: all work runs on one stream in order, so no buffer needs events to wait for another stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed(index, "making a stream"))?;
        Ok(Gpu { index, context, stream, modules: Mutex::new(HashMap::new()) })
    }

    /// Memory whose content is unspecified.
    pub(crate) fn take(&self, bytes: usize) -> Result<CudaBuffer> {
        // SAFETY: ops write every element of the tensors they take.
        let slice = unsafe { self.stream.alloc::<u8>(bytes.max(1)) };
        let slice = slice.map_err(|e| match self.context.mem_get_info() {
            Ok((free, total)) => {
                let mib = |bytes: usize| bytes.div_ceil(1 << 20);
                Error::Device(format!(
                    "cuda:{}: {} MiB asked for, {} of {} MiB free; use a smaller --batch",
                    self.index,
                    mib(bytes),
                    mib(free),
                    mib(total)
                ))
            }
            Err(_) => failed(self.index, "allocating memory")(e),
        })?;
        Ok(CudaBuffer { slice, index: self.index })
    }

    /// Copies from the host.
    pub(crate) fn upload(&self, bytes: &[u8]) -> Result<CudaBuffer> {
        let mut buffer = self.take(bytes.len())?;
        if !bytes.is_empty() {
            let mut target = buffer.slice.slice_mut(..bytes.len());
            self.stream.memcpy_htod(bytes, &mut target).map_err(failed(self.index, "copying to the GPU"))?;
        }
        Ok(buffer)
    }

    /// Copies to the host, and waits for it.
    pub(crate) fn download(&self, buffer: &CudaBuffer, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let from = buffer.slice.slice(..out.len());
        self.stream.memcpy_dtoh(&from, out).map_err(failed(self.index, "copying from the GPU"))?;
        self.stream.synchronize().map_err(failed(self.index, "waiting for the GPU"))
    }

    /// Copies `bytes` within the GPU.
    pub(crate) fn copy(
        &self,
        from: &CudaBuffer,
        at: usize,
        to: &mut CudaBuffer,
        to_at: usize,
        bytes: usize,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let from = from.slice.slice(at..at + bytes);
        let mut to = to.slice.slice_mut(to_at..to_at + bytes);
        self.stream.memcpy_dtod(&from, &mut to).map_err(failed(self.index, "copying on the GPU"))
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// `args` must be those of the kernel in number, order and type, and every buffer as large as the kernel's accesses.
    pub(crate) unsafe fn launch(
        &self,
        source: Source,
        name: &'static str,
        geometry: Geometry,
        args: &[Arg<'_>],
    ) -> Result<()> {
        let function = self.function(source, name)?;
        let [x, y, z] = geometry.blocks;
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (geometry.threads, 1, 1), shared_mem_bytes: 0 };
        let pointers: Vec<CUdeviceptr> = args
            .iter()
            .map(|arg| match arg {
                Arg::Buffer(Some(buffer)) => buffer.slice.device_ptr(&self.stream).0,
                _ => 0,
            })
            .collect();
        let mut builder = self.stream.launch_builder(&function);
        for (arg, pointer) in args.iter().zip(&pointers) {
            match arg {
                Arg::Buffer(_) => builder.arg(pointer),
                Arg::U32(value) => builder.arg(value),
                Arg::F32(value) => builder.arg(value),
            };
        }
        // SAFETY: the caller vouches for the arguments.
        unsafe { builder.launch(config) }.map(|_| ()).map_err(failed(self.index, name))
    }

    fn function(&self, source: Source, name: &str) -> Result<CudaFunction> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match modules.get(source.stem) {
            Some(module) => module.clone(),
            None => {
                let ptx = compile(source)?;
                let module = self.context.load_module(ptx).map_err(failed(self.index, source.stem))?;
                modules.insert(source.stem, module.clone());
                module
            }
        };
        module.load_function(name).map_err(failed(self.index, name))
    }
}

/// PTX of a kernel file, for every GPU from compute capability 8.0 on.
fn compile(source: Source) -> Result<Ptx> {
    let stem = source.stem;
    if !has_compiler() {
        return Err(Error::Device(format!(
            "{stem}: kernels are compiled by NVRTC, and libnvrtc.so.12 did not load; install it (CUDA toolkit, or pip install \
             nvidia-cuda-nvrtc-cu12) or name the file in TWEEDIE_NVRTC"
        )));
    }
    let common = format!("#line 1 \"kernels/common.cuh\"\n{}\n", crate::kernels::COMMON);
    // The compiler comes without a file system: the one include is put in by hand, and lines are counted from the kernel's own.
    let text = source.text.replacen("#include \"common.cuh\"", &format!("{common}#line 1 \"kernels/{stem}.cu\""), 1);
    let options = CompileOptions {
        arch: Some("compute_80"),
        options: vec!["-lineinfo".into(), "--std=c++17".into()],
        ..Default::default()
    };
    compile_ptx_with_opts(text, options).map_err(|e| {
        let log = match &e {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            other => format!("{other:?}"),
        };
        Error::Device(format!("{stem}: NVRTC refused the kernel: {}", log.trim().replace('\n', "; ")))
    })
}

impl CudaBuffer {
    /// Index of the GPU.
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}
