//! One child process: announced, timed, its failure named.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Failure;

/// A command: cargo at the root of the workspace, or a program where the user is.
pub(crate) struct Step {
    /// `None` for cargo.
    program: Option<PathBuf>,
    arguments: Vec<String>,
    env: Vec<(&'static str, String)>,
}

impl Step {
    /// `line` is split at spaces: no argument of ours holds one.
    pub(crate) fn cargo(line: &str) -> Step {
        Step { program: None, arguments: line.split_whitespace().map(String::from).collect(), env: Vec::new() }
    }

    pub(crate) fn program(path: PathBuf) -> Step {
        Step { program: Some(path), arguments: Vec::new(), env: Vec::new() }
    }

    /// Appends the user's own arguments.
    pub(crate) fn with(mut self, extra: &[String]) -> Step {
        self.arguments.extend_from_slice(extra);
        self
    }

    /// Sets a variable for this step alone.
    pub(crate) fn env(mut self, name: &'static str, value: &str) -> Step {
        self.env.push((name, value.to_string()));
        self
    }

    /// Announces the step, runs it and prints how long it took.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        println!("\n==> {self}");
        let started = Instant::now();
        let mut command = match &self.program {
            Some(path) => Command::new(path),
            None => Command::new(cargo()),
        };
        if self.program.is_none() {
            command.current_dir(root());
        }
        let status = command
            .args(&self.arguments)
            .envs(self.env.iter().map(|(name, value)| (*name, value)))
            .status()
            .map_err(|source| Failure::Step(format!("`{self}` did not start: {source}")))?;
        let seconds = started.elapsed().as_secs_f64();
        if !status.success() {
            return Err(Failure::Step(format!("`{self}` failed after {seconds:.1} s ({status})")));
        }
        println!("    ok in {seconds:.1} s");
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}=\"{value}\" ")?;
        }
        match &self.program {
            Some(path) => write!(f, "{}", path.display())?,
            None => f.write_str("cargo")?,
        }
        self.arguments.iter().try_for_each(|argument| write!(f, " {argument}"))
    }
}

/// Runs `steps` one after the other and stops at the first that fails.
pub(crate) fn run_in_order(steps: &[Step], mut run: impl FnMut(&Step) -> Result<(), Failure>) -> Result<(), Failure> {
    steps.iter().try_for_each(&mut run)
}

/// Whether `cargo <subcommand>` is installed.
pub(crate) fn cargo_has(subcommand: &str) -> bool {
    let mut probe = Command::new(cargo());
    probe.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// The cargo that started us, so that one toolchain does everything.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The workspace: the parent of this package, which `cargo run` tells us, else the current folder.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package.and_then(|path| path.parent().map(PathBuf::from)).unwrap_or_else(|| PathBuf::from("."))
}

/// Where cargo builds: this program is `<target>/<profile>/xtask`.
pub(crate) fn target() -> Result<PathBuf, Failure> {
    let here = std::env::current_exe().ok();
    let target = here.as_deref().and_then(|path| path.parent()?.parent());
    target.map(PathBuf::from).ok_or_else(|| Failure::Step("cannot tell where cargo builds".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_stop_at_the_first_failure() {
        let steps = ["one", "two", "three"].map(Step::cargo);
        let mut seen = Vec::new();
        let result = run_in_order(&steps, |step| {
            seen.push(step.to_string());
            if seen.len() == 2 { Err(Failure::Step(step.to_string())) } else { Ok(()) }
        });
        assert_eq!(result.unwrap_err().to_string(), "cargo two");
        assert_eq!(seen, ["cargo one", "cargo two"]);
    }

    #[test]
    fn a_step_prints_as_the_command_one_would_type() {
        let step = Step::cargo("doc --workspace").env("RUSTDOCFLAGS", "-D warnings").with(&["--open".into()]);
        assert_eq!(step.to_string(), "RUSTDOCFLAGS=\"-D warnings\" cargo doc --workspace --open");
    }

    #[test]
    fn a_subcommand_that_cargo_lacks_is_not_found() {
        assert!(cargo_has("fmt"));
        assert!(!cargo_has("no-such-subcommand"));
    }
}
