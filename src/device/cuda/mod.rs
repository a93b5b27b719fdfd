//! The CUDA driver: a context and one stream for each GPU, its memory, and its kernels.
//!
//! All work of a GPU runs on one stream, in order; memory is allocated and freed in that order too, so a buffer may be dropped while a
//! kernel that uses it has yet to run. libcuda and libnvrtc are loaded at run time, and libcuda is asked for before the first
//! call, which would panic without it.

mod cache;
mod chunks;
mod compile;
mod memory;
mod nvrtc;

pub(crate) use chunks::ChunkTable;
pub use memory::CudaBuffer;

use crate::error::{Error, Result};
use crate::kernels::Kernel;
use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg,
};
use memory::Staging;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) use compile::can_load;
pub(super) use memory::{peak_bytes, reset_peak};

/// One argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// Memory on the GPU; null for none.
    Buffer(Option<&'a CudaBuffer>),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl<'a> From<&'a CudaBuffer> for Arg<'a> {
    fn from(buffer: &'a CudaBuffer) -> Arg<'a> {
        Arg::Buffer(Some(buffer))
    }
}

impl<'a> From<&'a mut CudaBuffer> for Arg<'a> {
    fn from(buffer: &'a mut CudaBuffer) -> Arg<'a> {
        Arg::Buffer(Some(buffer))
    }
}

impl<'a> From<Option<&'a CudaBuffer>> for Arg<'a> {
    fn from(buffer: Option<&'a CudaBuffer>) -> Arg<'a> {
        Arg::Buffer(buffer)
    }
}

impl From<u32> for Arg<'_> {
    fn from(value: u32) -> Self {
        Arg::U32(value)
    }
}

impl From<u64> for Arg<'_> {
    fn from(value: u64) -> Self {
        Arg::U64(value)
    }
}

impl From<f32> for Arg<'_> {
    fn from(value: f32) -> Self {
        Arg::F32(value)
    }
}

impl From<f64> for Arg<'_> {
    fn from(value: f64) -> Self {
        Arg::F64(value)
    }
}

/// The arguments of a launch, in the kernel's order: `args![x.cuda()?, y.cuda_mut()?, rows, 0.5_f32]`.
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        [$($crate::device::cuda::Arg::from($arg)),*]
    };
}
pub(crate) use args;

/// A size as kernels take it.
///
/// # Errors
/// [`Error::Shape`] above 2³² − 1; products of sizes are 64-bit in the kernels.
pub(crate) fn size(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Shape(format!("cuda: an axis of {n} elements; expected at most {}", u32::MAX)))
}

/// Blocks of a launch, threads of a block, and bytes of shared memory beyond what the kernel declares (48 KiB in all).
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared: u32,
}

impl Geometry {
    /// Enough blocks of `threads` for `count` threads in all, in a row.
    ///
    /// # Errors
    /// [`Error::Shape`] for more blocks than a grid may have.
    pub(crate) fn covering(count: usize, threads: u32) -> Result<Geometry> {
        let blocks = count.div_ceil(threads as usize);
        if blocks > i32::MAX as usize {
            return Err(Error::Shape(format!("cuda: {count} elements are more than one launch covers")));
        }
        Ok(Geometry { blocks: [blocks as u32, 1, 1], threads, shared: 0 })
    }

    /// Enough blocks in x for the `work` items of one image, and images in y: kernels go through them in strides of the grid, because y
    /// is limited.
    ///
    /// # Errors
    /// As [`Geometry::covering`].
    pub(crate) fn per_image(n: usize, work: usize, threads: u32) -> Result<Geometry> {
        const MOST: usize = 65_535;
        let mut geometry = Geometry::covering(work, threads)?;
        geometry.blocks[1] = n.min(MOST) as u32;
        Ok(geometry)
    }
}

/// One GPU.
pub(crate) struct Gpu {
    index: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    functions: Mutex<HashMap<&'static str, CudaFunction>>,
    staging: Mutex<Staging>,
    /// The driver's pool, where it has one.
    pool: Option<Pool>,
}

/// The driver's stream-ordered memory pool.
struct Pool(sys::CUmemoryPool);

// SAFETY: a handle; the driver's functions on it may be called from any thread.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

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
    unsafe { sys::is_culib_present() }
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
                "--device cuda:{index}: GPUs on this machine, counted from 0: {count}; use --device cpu or another index"
            )));
        }
        let context = CudaContext::new(index).map_err(failed(index, "opening the GPU"))?;
        // SAFETY: all work runs on one stream in order, so no buffer needs events to wait for another stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed(index, "making a stream"))?;
        let pool = memory::keep_freed_memory(&context).map_err(failed(index, "setting up its memory"))?;
        let staging = Mutex::new(Staging::default());
        let (modules, functions) = (Mutex::default(), Mutex::default());
        Ok(Gpu { index, context, stream, modules, functions, staging, pool })
    }

    /// Waits until all work is done.
    pub(crate) fn synchronise(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed(self.index, "waiting for the GPU"))
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// `args` must be those of the kernel in number, order and type, and every buffer as large as the kernel's accesses.
    pub(crate) unsafe fn launch(&self, kernel: Kernel, geometry: Geometry, args: &[Arg<'_>]) -> Result<()> {
        if geometry.blocks.contains(&0) {
            return Ok(()); // nothing to do, which CUDA calls an error
        }
        let function = self.function(kernel)?;
        let [x, y, z] = geometry.blocks;
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (geometry.threads, 1, 1),
            shared_mem_bytes: geometry.shared,
        };
        let pointers: Vec<CUdeviceptr> = args
            .iter()
            .map(|arg| match arg {
                Arg::Buffer(Some(buffer)) => buffer.slice().device_ptr(&self.stream).0,
                _ => 0,
            })
            .collect();
        let mut builder = self.stream.launch_builder(&function);
        for (arg, pointer) in args.iter().zip(&pointers) {
            match arg {
                Arg::Buffer(_) => builder.arg(pointer),
                Arg::U32(value) => builder.arg(value),
                Arg::U64(value) => builder.arg(value),
                Arg::F32(value) => builder.arg(value),
                Arg::F64(value) => builder.arg(value),
            };
        }
        // SAFETY: the caller vouches for the arguments.
        unsafe { builder.launch(config) }.map(|_| ()).map_err(failed(self.index, kernel.name))
    }

    /// Loads one kernel: what keeps it from running keeps all.
    pub(super) fn check_kernels(&self) -> Result<()> {
        self.function(crate::kernels::reverse_step::FORWARD).map(|_| ())
    }

    fn function(&self, kernel: Kernel) -> Result<CudaFunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(kernel.name) {
            return Ok(function.clone());
        }
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let stem = kernel.module.stem;
        let module = match modules.get(stem) {
            Some(module) => module.clone(),
            None => {
                let module = self.load(kernel.module)?;
                modules.insert(stem, module.clone());
                module
            }
        };
        let function = module.load_function(kernel.name).map_err(failed(self.index, kernel.name))?;
        functions.insert(kernel.name, function.clone());
        Ok(function)
    }
}
