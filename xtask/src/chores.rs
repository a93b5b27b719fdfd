//! What each command does.

use crate::step::{self, Step};
use crate::{Failure, nvrtc};
use std::path::{Path, PathBuf};

/// Set to run the tests without those of the kernels.
const WITHOUT_KERNELS: &str = "TWEEDIE_WITHOUT_KERNELS";

/// NVRTC for what this machine builds and tests; `None` where its kernels are not to be tested.
fn find_nvrtc() -> Result<Option<PathBuf>, Failure> {
    let unwanted = std::env::var_os(WITHOUT_KERNELS).is_some_and(|value| !value.is_empty());
    if unwanted || !cfg!(target_os = "linux") {
        println!("\n==> no kernel is compiled or tested");
        return Ok(None);
    }
    let without = |reason| {
        format!("no NVRTC, so no kernel could be tested: {reason}; or set {WITHOUT_KERNELS}=1 to leave them out")
    };
    nvrtc::find(&step::root()).map(Some).map_err(|reason| Failure::Step(without(reason)))
}

/// Every build of one command gets the same, or build.rs would run again and all be built again.
fn with_nvrtc(step: Step, library: Option<&Path>) -> Step {
    match library {
        Some(library) => step.env(nvrtc::VARIABLE, &library.to_string_lossy()),
        None => step,
    }
}

/// `cargo xtask test [ARGS]...`: all tests, with NVRTC fetched for those of the kernels; without arguments also the library's own tests, the
/// ops with their drawn sizes and the networks on the vector levels that this processor would not choose by itself.
pub(crate) fn test(extra: &[String]) -> Result<(), Failure> {
    let nvrtc = find_nvrtc()?;
    with_nvrtc(Step::cargo("test --workspace").with(extra), nvrtc.as_deref()).run()?;
    if extra.is_empty() {
        for level in ["portable", "avx2", "avx512"] {
            println!("\n==> TWEEDIE_SIMD={level}");
            let step = Step::cargo(
                "test --lib --test ops --test bf16 --test diffusers_parity --test gradients --test conv_accuracy",
            )
            .env("TWEEDIE_SIMD", level);
            with_nvrtc(step, nvrtc.as_deref()).run()?;
        }
    }
    Ok(())
}

/// `cargo xtask kernels`: compiles every kernel and writes what each takes of a processor to `kernels/resources.txt`.
pub(crate) fn kernels(extra: &[String]) -> Result<(), Failure> {
    if let Some(first) = extra.first() {
        return Err(Failure::Usage(format!("kernels takes no argument, got \"{first}\"")));
    }
    let library = nvrtc::find(&step::root()).map_err(|reason| Failure::Step(format!("no NVRTC: {reason}")))?;
    let write = Step::cargo("test --test kernel_resources").env("TWEEDIE_RESOURCES", "write");
    with_nvrtc(write, Some(&library)).run()
}

/// `cargo xtask nvrtc`: prints the library's path, alone on stdout.
pub(crate) fn nvrtc(extra: &[String]) -> Result<(), Failure> {
    if let Some(first) = extra.first() {
        return Err(Failure::Usage(format!("nvrtc takes no argument, got \"{first}\"")));
    }
    let library = nvrtc::find(&step::root()).map_err(|reason| Failure::Step(format!("no NVRTC: {reason}")))?;
    println!("{}", library.display());
    Ok(())
}

/// `cargo xtask softgpu -- PROGRAM [ARGS]...`: runs a program of ours on the software GPU, which prints what each kernel did.
pub(crate) fn softgpu(arguments: &[String]) -> Result<(), Failure> {
    let arguments = match arguments {
        [first, rest @ ..] if first == "--" => rest,
        all => all,
    };
    let Some((program, rest)) = arguments.split_first() else {
        return Err(Failure::Usage(
            "softgpu wants a program, as in: cargo xtask softgpu -- train --device cuda --steps 5".into(),
        ));
    };
    if !cfg!(target_os = "linux") {
        return Err(Failure::Step("the software GPU runs on Linux alone".into()));
    }
    let build = Step::cargo("build --release --example cuda --bin").with(std::slice::from_ref(program));
    with_nvrtc(build, find_nvrtc()?.as_deref()).run()?;
    let folder = step::target()?.join("release");
    let mut libraries = vec![folder.join("examples")];
    libraries.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
    let libraries = std::env::join_paths(libraries).map_err(|e| Failure::Step(e.to_string()))?;
    Step::program(folder.join(program))
        .with(rest)
        .env("LD_LIBRARY_PATH", &libraries.to_string_lossy())
        .env("SOFTGPU_COUNTERS", "1")
        .run()
}

/// `cargo xtask ci`
pub(crate) fn ci(extra: &[String]) -> Result<(), Failure> {
    if let Some(first) = extra.first() {
        return Err(Failure::Usage(format!("ci takes no argument, got \"{first}\"")));
    }
    let nvrtc = find_nvrtc()?;
    let steps: Vec<Step> = ci_steps().into_iter().map(|step| with_nvrtc(step, nvrtc.as_deref())).collect();
    step::run_in_order(&steps, Step::run)?;
    // Licences come last: the checks above must not depend on a tool that few machines have.
    if step::cargo_has("deny") {
        Step::cargo("deny check licenses bans sources").run()
    } else {
        println!(
            "\n==> cargo deny: not installed, so licences and sources were not checked (cargo install cargo-deny)"
        );
        Ok(())
    }
}

fn ci_steps() -> Vec<Step> {
    vec![
        Step::cargo("fmt --all -- --check"),
        Step::cargo("clippy --workspace --all-targets -- -D warnings"),
        Step::cargo("doc --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings"),
        Step::cargo("build --release --bins"),
        Step::cargo("xtask test"),
    ]
}
