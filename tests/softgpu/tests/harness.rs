//! A session with the software GPU: one test at a time, from a clean slate.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use serde_json::Value;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

pub(crate) struct Gpu {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    _turn: MutexGuard<'static, ()>,
}

/// A function that the software GPU has beside CUDA's.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: the library is loaded already; this gives its handle again.
    let found = unsafe { dlsym(dlopen(c"libcuda.so".as_ptr(), 2), name.as_ptr()) };
    assert!(!found.is_null(), "libcuda.so is not the software GPU: take the real driver out of LD_LIBRARY_PATH");
    found
}

pub(crate) fn gpu() -> Gpu {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: it only tries to load the library.
    let present = unsafe { cudarc::driver::sys::is_culib_present() };
    assert!(present, "the software GPU is not built; run `cargo build --example cuda` first, or plain `cargo test`");
    reset();
    let context = CudaContext::new(0).unwrap();
    Gpu { stream: context.default_stream(), context, _turn: turn }
}

/// Forgets findings, counters and a kernel's error.
pub(crate) fn reset() {
    // SAFETY: the function's type is this.
    let reset: extern "C" fn() = unsafe { std::mem::transmute(symbol(c"softgpu_reset")) };
    reset();
}

fn text(name: &CStr) -> String {
    // SAFETY: the function's type is this, and it writes no more than it is told to.
    unsafe {
        let give: unsafe extern "C" fn(*mut c_char, usize) -> usize = std::mem::transmute(symbol(name));
        let mut buffer = vec![0u8; give(std::ptr::null_mut(), 0)];
        give(buffer.as_mut_ptr().cast(), buffer.len());
        CStr::from_bytes_until_nul(&buffer).unwrap().to_str().unwrap().to_string()
    }
}

pub(crate) fn report() -> Value {
    serde_json::from_str(&text(c"softgpu_report_json")).unwrap()
}

/// Why the last module did not load.
pub(crate) fn message() -> String {
    text(c"softgpu_message")
}

/// The kinds of what was found, in the order of discovery.
pub(crate) fn findings() -> Vec<String> {
    let report = report();
    let list = report["findings"].as_array().unwrap();
    list.iter().map(|finding| finding["kind"].as_str().unwrap().to_string()).collect()
}

#[track_caller]
pub(crate) fn assert_clean() {
    assert_eq!(findings(), Vec::<String>::new(), "{:#}", report()["findings"]);
}

/// A grid of `blocks` with `threads` each.
pub(crate) fn lines(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

pub(crate) fn kernel_text(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/softgpu/kernels").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Gpu {
    pub(crate) fn function(&self, ptx: &str, name: &str) -> CudaFunction {
        let module =
            self.context.load_module(Ptx::from_src(ptx)).unwrap_or_else(|error| panic!("{error}: {}", message()));
        module.load_function(name).unwrap()
    }

    /// A kernel of `kernels/bugs.ptx`.
    pub(crate) fn planted(&self, name: &str) -> CudaFunction {
        self.function(&kernel_text("bugs.ptx"), name)
    }

    /// Runs `kernel(out, in)` and returns `count` words of out.
    pub(crate) fn run(&self, kernel: &CudaFunction, config: LaunchConfig, input: &[u32], count: usize) -> Vec<u32> {
        let input: CudaSlice<u32> = self.stream.clone_htod(input).unwrap();
        let mut out: CudaSlice<u32> = self.stream.alloc_zeros(count).unwrap();
        // SAFETY: the software GPU checks what the kernel does.
        unsafe { self.stream.launch_builder(kernel).arg(&mut out).arg(&input).launch(config) }.unwrap();
        self.stream.clone_dtoh(&out).unwrap()
    }
}
