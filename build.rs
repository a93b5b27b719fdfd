//! Turns `kernels/*.cu` into constants of the types in `src/kernels.rs`, written to `OUT_DIR/kernels.rs`:
//!
//! ```text
//! pub(crate) mod conv2d {
//!     pub(crate) static MODULE: Module = Module { stem: "conv2d", source: /* conv2d.cu, includes put in */, ptx: …, cubins: … };
//!     pub(crate) const BACKWARD_WEIGHT: Kernel = Kernel { module: &MODULE, name: "conv2d_backward_weight" };
//! }
//! ```
//!
//! A misspelt kernel name is then a Rust compile error. Where NVRTC is here, the kernels are compiled and embedded too, and what it has
//! to say of them fails the build. `tests/kernel_names.rs` and `tests/kernel_resources.rs` test this file and `build/`.

#[path = "build/images.rs"]
pub(crate) mod images;
#[path = "src/device/cuda/nvrtc.rs"]
pub(crate) mod nvrtc;
#[path = "build/sources.rs"]
pub(crate) mod sources;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use images::{PROCESSORS, Target};
use nvrtc::Compiler;
use sources::{kernel_files, phases};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels"); // the folder: new and removed files count
    println!("cargo::rerun-if-env-changed={}", nvrtc::VARIABLE);
    // Integration tests, and nothing else, find the software GPU (tests/softgpu), which is built as an example.
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-link-arg-tests=-Wl,-rpath,$ORIGIN/../examples");
    }
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(lines) => {
            for line in lines {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The error is one line a mistake.
fn generate() -> Result<(), Vec<String>> {
    let one = |reason: String| vec![reason];
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).ok_or(format!("{name} is not set; run cargo build"));
    let (root, out) = (folder("CARGO_MANIFEST_DIR").map_err(one)?, folder("OUT_DIR").map_err(one)?);
    let compiler = Compiler::find(Some(root.join("target/nvrtc/nvidia/cuda_nvrtc/lib"))).map_err(one)?;
    let text = kernel_module(&root, &out, compiler.is_some()).map_err(one)?;
    if let Some(compiler) = compiler {
        let images = images::compile(&compiler, &kernel_files(&root).map_err(one)?, &out)?;
        for warning in images::warnings(&images) {
            println!("cargo::warning={warning}");
        }
    }
    write(&out.join("kernels.rs"), &text).map_err(one)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|source| format!("cannot write {}: {source}", path.display()))
}

/// The text of `kernels.rs` for the kernels below `root/kernels`; their sources, includes put in, are written to `out`. With `compiled`
/// it takes their images from there too.
pub(crate) fn kernel_module(root: &Path, out: &Path, compiled: bool) -> Result<String, String> {
    let mut text = String::from("// Written by build.rs from kernels/.\n");
    let _ = writeln!(text, "\n/// Whether the kernels are compiled.\npub(crate) const COMPILED: bool = {compiled};");
    for (stem, expanded) in kernel_files(root)? {
        let names = phases(&stem, &sources::read(&root.join("kernels"), &format!("{stem}.cu"))?)?;
        write(&out.join(format!("{stem}.cu")), &expanded)?;
        let _ =
            write!(text, "\n/// The kernels of `kernels/{stem}.cu`.\n#[allow(dead_code)]\npub(crate) mod {stem} {{\n");
        let _ = writeln!(text, "    use super::{{Kernel, Module}};");
        let _ = writeln!(text, "    /// The file.\n    pub(crate) static MODULE: Module = Module {{");
        let _ =
            writeln!(text, "        stem: \"{stem}\",\n        source: {},", included("str", &format!("{stem}.cu")));
        text.push_str(&module_images(&stem, compiled));
        for phase in names {
            let (constant, name) = (phase.to_uppercase(), format!("{stem}_{phase}"));
            let _ = writeln!(text, "    /// The kernel `{name}`.");
            let _ = writeln!(
                text,
                "    pub(crate) const {constant}: Kernel = Kernel {{ module: &MODULE, name: \"{name}\" }};"
            );
        }
        text.push_str("}\n");
    }
    Ok(text)
}

/// The fields `ptx` and `cubins`, and the end of the module's constant.
fn module_images(stem: &str, compiled: bool) -> String {
    if !compiled {
        return "        ptx: None,\n        cubins: &[],\n    };\n".into();
    }
    let mut text = format!("        ptx: Some({}),\n        cubins: &[\n", included("str", &Target::Ptx.file(stem)));
    for processor in PROCESSORS {
        let file = Target::Cubin(processor).file(stem);
        let _ = writeln!(text, "            ({processor}, {}),", included("bytes", &file));
    }
    text + "        ],\n    };\n"
}

fn included(kind: &str, file: &str) -> String {
    format!("include_{kind}!(concat!(env!(\"OUT_DIR\"), \"/{file}\"))")
}
