//! `cargo xtask <command>`: the repository's chores, in plain Rust, the same on every machine.
//!
//! A new command is one function and one row of [`COMMANDS`].

mod chores;
mod nvrtc;
mod step;

use std::fmt;
use std::process::ExitCode;

/// A command of this program.
struct Command {
    name: &'static str,
    /// What may follow the name, as the usage shows it.
    arguments: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<(), Failure>,
}

/// Every command, in the order of the usage text.
const COMMANDS: &[Command] = &[
    Command {
        name: "test",
        arguments: "[ARGS]...",
        about: "run every test; ARGS go to `cargo test --workspace`",
        run: chores::test,
    },
    Command {
        name: "ci",
        arguments: "",
        about: "format, lints, documentation, release build, tests, licences; stop at the first failure",
        run: chores::ci,
    },
    Command {
        name: "kernels",
        arguments: "",
        about: "compile every kernel and write what each takes of a GPU to kernels/resources.txt",
        run: chores::kernels,
    },
    Command {
        name: "nvrtc",
        arguments: "",
        about: "fetch NVRTC, which compiles the kernels, if it is not here, and print where its library is",
        run: chores::nvrtc,
    },
    Command {
        name: "softgpu",
        arguments: "-- PROGRAM [ARGS]...",
        about: "run train, sample, eval or verify on the software GPU and print what each kernel did",
        run: chores::softgpu,
    },
];

/// Why a command did not succeed.
#[derive(Debug)]
enum Failure {
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// A step ran and failed: exit code 1.
    Step(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::Step(text) => f.write_str(text),
        }
    }
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Step(_) => 1,
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            if matches!(failure, Failure::Usage(_)) {
                eprint!("\n{}", usage());
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Runs the command that `arguments` begin with.
fn dispatch(arguments: &[String]) -> Result<(), Failure> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(Failure::Usage("no command given".into()));
    };
    if matches!(name.as_str(), "help" | "-h" | "--help") {
        print!("{}", usage());
        return Ok(());
    }
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => (command.run)(rest),
        None => Err(Failure::Usage(format!("command \"{name}\" is unknown"))),
    }
}

fn usage() -> String {
    let mut text = String::from("usage: cargo xtask <command>\n\ncommands:\n");
    for command in COMMANDS {
        let synopsis = format!("{} {}", command.name, command.arguments);
        text.push_str(&format!("  {:<29} {}\n", synopsis.trim_end(), command.about));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn wrong_command_lines_exit_with_two_and_name_what_is_wrong() {
        for (line, wanted) in [
            ("tset", "\"tset\" is unknown"),
            ("", "no command"),
            ("ci --fast", "takes no argument, got \"--fast\""),
            ("kernels all", "takes no argument, got \"all\""),
            ("nvrtc 13", "takes no argument, got \"13\""),
            ("softgpu --", "wants a program"),
        ] {
            let failure = dispatch(&words(line)).unwrap_err();
            assert_eq!(failure.exit_code(), 2, "{line:?}");
            assert!(failure.to_string().contains(wanted), "{line:?}: {failure}");
        }
    }

    #[test]
    fn usage_lists_every_command() {
        for command in COMMANDS {
            assert!(usage().lines().any(|line| line.trim_start().starts_with(command.name)), "{}", command.name);
        }
    }
}
