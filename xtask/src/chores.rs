//! What each command does.

use crate::step::{self, Step};
use crate::{Failure, nvrtc};

/// `cargo xtask test [ARGS]...`: all tests, with NVRTC fetched for those of the kernels; without arguments also the ops and the network on the vector levels that this
/// processor would not choose by itself.
pub(crate) fn test(extra: &[String]) -> Result<(), Failure> {
    let all = Step::cargo("test --workspace").with(extra);
    match nvrtc::find(&step::root()) {
        Ok(library) => all.env(nvrtc::VARIABLE, &library.to_string_lossy()).run()?,
        Err(reason) => {
            println!("\n==> no NVRTC, so no kernel is tested: {reason}");
            all.run()?;
        }
    }
    if extra.is_empty() {
        for level in ["portable", "avx2"] {
            println!("\n==> TWEEDIE_SIMD={level}");
            Step::cargo("test --test ops --test diffusers_parity").env("TWEEDIE_SIMD", level).run()?;
        }
    }
    Ok(())
}

/// `cargo xtask ci`
pub(crate) fn ci(extra: &[String]) -> Result<(), Failure> {
    if let Some(first) = extra.first() {
        return Err(Failure::Usage(format!("ci takes no argument, got \"{first}\"")));
    }
    step::run_in_order(&ci_steps(), Step::run)?;
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
