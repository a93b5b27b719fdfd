//! NVRTC, which compiles the kernels for the tests: the machine's own, or a wheel from PyPI unpacked below `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Its PTX is accepted by every driver since CUDA 12.9.
const WHEEL: &str = "nvidia-cuda-nvrtc-cu12==12.9.86";

/// The variable that names the library to the tests.
pub(crate) const VARIABLE: &str = "TWEEDIE_NVRTC";

/// The library: what [`VARIABLE`] names, or what was unpacked before, or a CUDA toolkit's, or a fresh wheel; the reason if there is none.
pub(crate) fn find(root: &Path) -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let folder = root.join("target/nvrtc");
    let library = folder.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
    if library.is_file() {
        return Ok(library);
    }
    if let Some(installed) = installed() {
        return Ok(installed);
    }
    if !cfg!(target_os = "linux") {
        return Err("kernels are tested on Linux alone".into());
    }
    eprintln!("\n==> pip install {WHEEL} (90 MB, once, into target/nvrtc)");
    for python in ["python3", "python"] {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"];
        let done = Command::new(python).args(pip).arg(&folder).arg(WHEEL).status();
        if done.is_ok_and(|status| status.success()) && library.is_file() {
            return Ok(library);
        }
    }
    Err(format!("pip did not install {WHEEL}; install it yourself and name its libnvrtc.so.12 in {VARIABLE}"))
}

/// That of a CUDA toolkit on this machine.
fn installed() -> Option<PathBuf> {
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let folders = toolkits.chain(["/usr/local/cuda".into(), "/opt/cuda".into()]).map(|toolkit| toolkit.join("lib64"));
    let names = ["libnvrtc.so.12", "libnvrtc.so.13"];
    folders.flat_map(|folder| names.map(|name| folder.join(name))).find(|path| path.is_file())
}
