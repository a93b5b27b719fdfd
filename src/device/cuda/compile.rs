//! Kernels on their way to a GPU: what the build embedded, else what NVRTC makes of their sources at first use.

use super::cache::Cache;
use super::nvrtc::{Compiler, PTX_TARGET};
use super::{Gpu, failed};
use crate::error::{Error, Result};
use crate::kernels::{self, Module};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaModule, DriverError};
use cudarc::nvrtc::Ptx;
use std::sync::{Arc, OnceLock};

/// Whether kernels can be loaded here: they are embedded, or NVRTC is there.
pub(in crate::device) fn can_load() -> bool {
    kernels::COMPILED || matches!(compiler(), Ok(Some(_)))
}

/// NVRTC, looked for once.
fn compiler() -> &'static std::result::Result<Option<Compiler>, String> {
    static FOUND: OnceLock<std::result::Result<Option<Compiler>, String>> = OnceLock::new();
    FOUND.get_or_init(|| Compiler::find(None))
}

/// The oldest compute capability that kernels are written for.
const OLDEST: (i32, i32) = (8, 0);

impl Gpu {
    /// Loads the kernels of one file: code for this very processor if it is embedded, else PTX, which the driver compiles. A driver that is
    /// older than the PTX gets code for its processor from NVRTC.
    pub(super) fn load(&self, module: &Module) -> Result<Arc<CudaModule>> {
        let (index, stem) = (self.index, module.stem);
        let capability = self.context.compute_capability().map_err(failed(index, "asking for its kind"))?;
        let (major, minor) = capability;
        if capability < OLDEST {
            return Err(Error::Device(format!(
                "cuda:{index}: compute capability {major}.{minor}, expected 8.0 or later; use --device cpu"
            )));
        }
        let cache = Cache::of_user();
        let attempts: [&dyn Fn() -> Result<Option<Ptx>>; 3] = [
            &|| Ok(cubin(module.cubins, capability).map(|bytes| Ptx::from_binary(bytes.to_vec()))),
            &|| match module.ptx {
                Some(ptx) => Ok(Some(Ptx::from_src(ptx))),
                None => {
                    let ptx = String::from_utf8_lossy(&compiled(&cache, module, PTX_TARGET)?).into_owned();
                    Ok(Some(Ptx::from_src(ptx)))
                }
            },
            &|| compiled(&cache, module, &format!("sm_{major}{minor}")).map(|image| Some(Ptx::from_binary(image))),
        ];
        first_accepted(&attempts, |image| self.context.load_module(image), |e| failed(index, stem)(e))
    }
}

/// The first image that `load` takes. One for another processor or of a newer toolkit may be refused; the last refusal is reported.
fn first_accepted<I, M>(
    attempts: &[&dyn Fn() -> Result<Option<I>>],
    mut load: impl FnMut(I) -> std::result::Result<M, DriverError>,
    name: impl Fn(DriverError) -> Error,
) -> Result<M> {
    const REFUSALS: [CUresult; 2] =
        [CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION];
    let mut refused = None;
    for attempt in attempts {
        let image = match (attempt(), &refused) {
            (Ok(None), _) => continue,
            (Ok(Some(image)), _) => image,
            (Err(none), None) => return Err(none),
            // Another image was there, so its refusal is the reason.
            (Err(_), Some(_)) => break,
        };
        match load(image) {
            Err(e) if REFUSALS.contains(&e.0) => refused = Some(e),
            result => return result.map_err(name),
        }
    }
    Err(refused.map_or_else(|| Error::Device("no image of the kernel".into()), name))
}

/// The code for a processor: that of its own generation, and the newest part of that which it knows.
fn cubin<'a>(cubins: &[(u32, &'a [u8])], (major, minor): (i32, i32)) -> Option<&'a [u8]> {
    let mut known = cubins.iter().rev();
    let fits = |&&(processor, _): &&(u32, &[u8])| {
        processor / 10 == major.unsigned_abs() && processor % 10 <= minor.unsigned_abs()
    };
    known.find(fits).map(|&(_, image)| image)
}

/// A kernel file compiled now, or on this machine before.
fn compiled(cache: &Cache, module: &Module, target: &str) -> Result<Vec<u8>> {
    let stem = module.stem;
    let compiler = match compiler() {
        Ok(Some(compiler)) => compiler,
        Ok(None) => {
            return Err(Error::Device(format!(
                "{stem}: this build embeds no compiled kernels, and NVRTC, which compiles them, was not found (libnvrtc.so.12 did not load); \
                 install it (a CUDA toolkit; or pip install nvidia-cuda-nvrtc-cu12, and name its file in TWEEDIE_NVRTC)"
            )));
        }
        Err(reason) => return Err(Error::Device(format!("{stem}: {reason}"))),
    };
    let key = compiler.key(target, module.source);
    if let Some(image) = cache.read(stem, &key) {
        return Ok(image);
    }
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| eprintln!("compiling kernels for this GPU, which takes a while at their first use"));
    let made = compiler.compile(stem, module.source, target).map_err(|log| {
        Error::Device(format!("{stem}: NVRTC refused the kernel: {}", log.trim().replace('\n', "; ")))
    })?;
    cache.write(stem, &key, &made.image);
    Ok(made.image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_gets_the_newest_code_of_its_own_generation() {
        let images: [(u32, &[u8]); 4] = [(80, b"80"), (86, b"86"), (89, b"89"), (90, b"90")];
        for (capability, wanted) in [
            ((8, 0), Some(&b"80"[..])),
            ((8, 6), Some(b"86")),
            ((8, 7), Some(b"86")),
            ((8, 9), Some(b"89")),
            ((9, 0), Some(b"90")),
            ((10, 0), None),
            ((12, 1), None),
        ] {
            assert_eq!(cubin(&images, capability), wanted, "{capability:?}");
        }
        assert_eq!(cubin(&[(86, b"86")], (8, 0)), None, "newer code than the processor");
        assert_eq!(cubin(&[], (8, 0)), None);
    }

    type Attempt<'a> = &'a dyn Fn() -> Result<Option<CUresult>>;

    /// What becomes of images that the driver answers as they say.
    fn load(attempts: &[Attempt<'_>]) -> std::result::Result<usize, String> {
        let mut loads = 0;
        let answer = |code: CUresult| {
            loads += 1;
            code.result().map(|()| loads)
        };
        first_accepted(attempts, answer, |e| Error::Device(format!("{:?}", e.0))).map_err(|e| e.to_string())
    }

    #[test]
    fn a_refused_image_makes_way_for_the_next_and_a_broken_one_does_not() {
        let taken: Attempt<'_> = &|| Ok(Some(CUresult::CUDA_SUCCESS));
        let foreign: Attempt<'_> = &|| Ok(Some(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU));
        let newer: Attempt<'_> = &|| Ok(Some(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION));
        let broken: Attempt<'_> = &|| Ok(Some(CUresult::CUDA_ERROR_INVALID_PTX));
        let absent: Attempt<'_> = &|| Ok(None);
        let no_compiler: Attempt<'_> = &|| Err(Error::Device("no NVRTC".into()));
        assert_eq!(load(&[foreign, newer, taken]), Ok(3));
        assert_eq!(load(&[absent, taken, no_compiler]), Ok(1));
        assert!(load(&[foreign, broken, taken]).unwrap_err().contains("INVALID_PTX"));
        assert!(load(&[absent, no_compiler, taken]).unwrap_err().contains("no NVRTC"));
        // Without NVRTC the driver's refusal is what the user can do something about.
        assert!(load(&[foreign, newer, no_compiler]).unwrap_err().contains("UNSUPPORTED_PTX_VERSION"));
    }

    #[test]
    fn a_kernel_is_compiled_once_and_then_found_in_the_cache() {
        let Ok(Some(compiler)) = compiler() else {
            // Past libtest, which shows what a passing test prints to nobody.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"not run: no NVRTC; name its library in TWEEDIE_NVRTC\n",
            );
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache(Some(folder.path().into()));
        let module = &kernels::perturb::MODULE;
        let ptx = compiled(&cache, module, PTX_TARGET).unwrap();
        assert!(String::from_utf8(ptx.clone()).unwrap().contains(".entry perturb_forward"));
        let key = compiler.key(PTX_TARGET, module.source);
        assert_eq!(cache.read("perturb", &key), Some(ptx));
        cache.write("perturb", &key, b"from the cache");
        assert_eq!(compiled(&cache, module, PTX_TARGET).unwrap(), b"from the cache");
        // Another target is another key.
        assert!(compiled(&cache, module, "sm_80").unwrap().starts_with(b"\x7fELF"));
    }

    #[test]
    fn a_kernel_that_nvrtc_refuses_is_named_with_its_line() {
        if matches!(compiler(), Ok(Some(_))) {
            let source = "#line 1 \"/tweedie/kernels/bad.cu\"\n\nint f() { return nothing; }";
            let bad = Module { stem: "bad", source, ptx: None, cubins: &[] };
            let text = compiled(&Cache(None), &bad, PTX_TARGET).unwrap_err().to_string();
            assert!(text.contains("bad: NVRTC refused the kernel: kernels/bad.cu(2): error"), "{text}");
        }
    }
}
