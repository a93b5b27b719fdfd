//! NVRTC: CUDA C++ to PTX or to a cubin, without a driver. build.rs compiles this file too, so that kernels are made alike at build
//! time and at run time.
//!
//! The library is opened by hand: `cudarc::nvrtc` panics where it is missing, prefers a `libnvrtc.so` of the loader's to the one that
//! `TWEEDIE_NVRTC` names, and offers no cubins.

use libloading::Library;
use std::env;
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

/// PTX that every GPU from compute capability 8.0 on takes.
pub(crate) const PTX_TARGET: &str = "compute_80";

/// What kernels are compiled with, besides their target.
pub(crate) const OPTIONS: [&str; 2] = ["-lineinfo", "--std=c++17"];

/// The folder that `kernels/` lies in for the compiler, which would write the name of the current one into what it makes.
pub(crate) const ROOT: &str = "/tweedie/";

/// The variable that names the library.
pub(crate) const VARIABLE: &str = "TWEEDIE_NVRTC";

/// Where the loader may find it, the most compatible first: a driver takes no PTX newer than itself.
#[cfg(not(windows))]
const NAMES: [&str; 3] = ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"];
#[cfg(windows)]
const NAMES: [&str; 2] = ["nvrtc64_120_0.dll", "nvrtc64_130_0.dll"];

/// The first that knows all of our targets.
const OLDEST: (i32, i32) = (12, 0);

type Program = *mut c_void;

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($type:ty),*);)*) => {
        struct Functions { $($field: unsafe extern "C" fn($($type),*) -> c_int,)* }

        impl Functions {
            fn of(library: &Library) -> Result<Functions, libloading::Error> {
                // SAFETY: these are the types of nvrtc.h.
                unsafe { Ok(Functions { $($field: *library.get($symbol)?,)* }) }
            }
        }
    };
}
functions! {
    version = "nvrtcVersion" (*mut c_int, *mut c_int);
    create = "nvrtcCreateProgram" (*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    compile = "nvrtcCompileProgram" (Program, c_int, *const *const c_char);
    destroy = "nvrtcDestroyProgram" (*mut Program);
    log_size = "nvrtcGetProgramLogSize" (Program, *mut usize);
    log = "nvrtcGetProgramLog" (Program, *mut c_char);
    ptx_size = "nvrtcGetPTXSize" (Program, *mut usize);
    ptx = "nvrtcGetPTX" (Program, *mut c_char);
    cubin_size = "nvrtcGetCUBINSize" (Program, *mut usize);
    cubin = "nvrtcGetCUBIN" (Program, *mut c_char);
}

/// The library, loaded.
pub(crate) struct Compiler {
    functions: Functions,
    /// What it calls itself: (12, 9).
    pub(crate) version: (i32, i32),
    _library: Library,
}

/// What became of a kernel file.
pub(crate) struct Compiled {
    /// PTX, or a cubin if the target was a processor.
    pub(crate) image: Vec<u8>,
    /// Warnings, and for a processor what each kernel takes of it.
    #[allow(dead_code)] // read by build.rs
    pub(crate) log: String,
}

/// Where a CUDA toolkit puts the library, and `also`.
fn usual_places(also: Option<std::path::PathBuf>) -> Vec<std::path::PathBuf> {
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(std::path::PathBuf::from);
    let toolkits = toolkits.chain(["/usr/local/cuda".into(), "/opt/cuda".into()]);
    let mut folders: Vec<_> = toolkits.map(|toolkit| toolkit.join("lib64")).collect();
    folders.extend(also);
    folders.iter().flat_map(|folder| NAMES.iter().map(|name| folder.join(name))).filter(|path| path.is_file()).collect()
}

impl Compiler {
    /// The library that the environment names, else the loader's, else one in a CUDA toolkit's usual folders or in `also`; `None` if there is none.
    ///
    /// # Errors
    /// A sentence if the one that is named does not do.
    pub(crate) fn find(also: Option<std::path::PathBuf>) -> Result<Option<Compiler>, String> {
        if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            let named = |reason| {
                let path = path.to_string_lossy();
                format!("{VARIABLE}: {path} does not do: {reason}; name a libnvrtc.so.12, or unset it")
            };
            return Compiler::open(path.as_ref()).map(Some).map_err(named);
        }
        let by_name = NAMES.iter().find_map(|name| Compiler::open(name.as_ref()).ok());
        Ok(by_name.or_else(|| usual_places(also).iter().find_map(|path| Compiler::open(path.as_ref()).ok())))
    }

    fn open(path: &std::ffi::OsStr) -> Result<Compiler, String> {
        // SAFETY: NVRTC's initialisers do nothing but set up NVRTC.
        let library = unsafe { Library::new(path) }.map_err(said)?;
        let functions = Functions::of(&library).map_err(said)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two integers to write to.
        unsafe { (functions.version)(&mut major, &mut minor) };
        if (major, minor) < OLDEST {
            return Err(format!("it is NVRTC {major}.{minor}, expected 12.0 or later"));
        }
        Ok(Compiler { functions, version: (major, minor), _library: library })
    }

    /// All that the images of `source` for `target` depend on, in one text.
    pub(crate) fn key(&self, target: &str, source: &str) -> String {
        let (major, minor) = self.version;
        format!("NVRTC {major}.{minor} {} {target}\n{source}", OPTIONS.join(" "))
    }

    /// Compiles the text of `kernels/<stem>.cu` to PTX, for a target such as `compute_80`, or to a cubin, for one such as `sm_80`.
    ///
    /// # Errors
    /// NVRTC's messages.
    pub(crate) fn compile(&self, stem: &str, source: &str, target: &str) -> Result<Compiled, String> {
        let is_cubin = target.starts_with("sm_");
        let program = self.run(stem, source, target).map_err(without_root)?;
        // SAFETY: the functions belong together, and the program was compiled.
        let image = unsafe {
            match is_cubin {
                true => program.text(self.functions.cubin_size, self.functions.cubin),
                false => program.text(self.functions.ptx_size, self.functions.ptx).map(without_zero),
            }
        };
        image
            .map(|image| Compiled { image, log: without_root(program.log()) })
            .ok_or_else(|| format!("NVRTC made no image for {target}"))
    }

    fn run(&self, stem: &str, source: &str, target: &str) -> Result<Running<'_>, String> {
        let c_text = |text: String| CString::new(text).map_err(|_| format!("kernels/{stem}.cu holds a zero byte"));
        let mut options = OPTIONS.map(String::from).to_vec();
        options.push(format!("--gpu-architecture={target}"));
        if target.starts_with("sm_") {
            options.push("--ptxas-options=-v".into());
        }
        let options = options.into_iter().map(c_text).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let (source, name) = (c_text(source.into())?, c_text(format!("{ROOT}kernels/{stem}.cu"))?);
        let mut program = Running { functions: &self.functions, program: null_mut() };
        // SAFETY: texts that end with a zero and live on; no headers.
        let code =
            unsafe { (self.functions.create)(&mut program.program, source.as_ptr(), name.as_ptr(), 0, null(), null()) };
        if code != 0 {
            return Err(format!("NVRTC's error {code} on kernels/{stem}.cu"));
        }
        // SAFETY: as above, and the number of options is theirs.
        match unsafe { (self.functions.compile)(program.program, options.len() as c_int, options.as_ptr()) } {
            0 => Ok(program),
            code => {
                let log = program.log();
                Err(if log.trim().is_empty() { format!("NVRTC's error {code} on kernels/{stem}.cu") } else { log })
            }
        }
    }
}

/// A program of NVRTC's, destroyed at the end.
struct Running<'a> {
    functions: &'a Functions,
    program: Program,
}

type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Fill = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

impl Running<'_> {
    fn log(&self) -> String {
        // SAFETY: the functions belong together.
        let log = unsafe { self.text(self.functions.log_size, self.functions.log) };
        String::from_utf8_lossy(&without_zero(log.unwrap_or_default())).into_owned()
    }

    /// # Safety
    /// `fill` writes as many bytes as `size` says.
    unsafe fn text(&self, size: Size, fill: Fill) -> Option<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: the program is alive.
        if unsafe { size(self.program, &mut bytes) } != 0 || bytes == 0 {
            return None;
        }
        let mut text = vec![0_u8; bytes];
        // SAFETY: the buffer has the bytes that were asked for.
        (unsafe { fill(self.program, text.as_mut_ptr().cast()) } == 0).then_some(text)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: made by `create` and not used again.
            unsafe { (self.functions.destroy)(&mut self.program) };
        }
    }
}

/// Texts come with a zero at the end.
fn without_zero(mut text: Vec<u8>) -> Vec<u8> {
    while text.pop_if(|last| *last == 0).is_some() {}
    text
}

/// What the loader said.
fn said(e: libloading::Error) -> String {
    std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string)
}

fn without_root(log: String) -> String {
    log.replace(ROOT, "")
}
