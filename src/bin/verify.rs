//! Measures the theory's identities.

use clap::Parser;
use std::process::ExitCode;
use tweedie::{Error, Result, cli, verify};

/// Measure the identities of diffusion theory, each beside its bound. Exit code 1 if any fails.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  verify
  verify S3.eq82
  verify \"item 38\" \"item 41\"
  verify --list
  verify --json > identities.json"
)]
struct Args {
    /// Items ("item 38" or 38), equations (S3.eq82) or words of an id; all if none
    ids: Vec<String>,
    /// Show ids and claims, measure nothing
    #[arg(long)]
    list: bool,
    /// Threads, 0 for all cores; the result does not depend on it
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print a JSON array of {id, claim, measured, relation, bound, pass, seconds}
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut all_pass = true;
    let result = cli::with_threads(args.threads, || {
        all_pass = run(&args)?;
        Ok(())
    });
    match cli::exit(result) {
        ExitCode::SUCCESS if !all_pass => ExitCode::FAILURE,
        code => code,
    }
}

/// Whether all that was asked for passed.
fn run(args: &Args) -> Result<bool> {
    if args.list {
        let identities = verify::select(&args.ids)?;
        if args.json {
            let list: Vec<_> = identities.iter().map(|i| serde_json::json!({"id": i.id, "claim": i.claim})).collect();
            cli::print_line(&serde_json::Value::from(list).to_string());
        } else {
            identities.iter().for_each(|identity| cli::print_line(&format!("{:<46} {}", identity.id, identity.claim)));
        }
        return Ok(true);
    }
    let bar = cli::progress_bar(verify::select(&args.ids)?.len() as u64);
    let outcomes = verify::run(&args.ids, &mut |outcome| {
        bar.inc(1);
        if !args.json {
            bar.suspend(|| cli::print_line(&cli::identity_line(outcome)));
        }
    })?;
    bar.finish_and_clear();
    let failed = outcomes.iter().filter(|outcome| !outcome.pass).count();
    if args.json {
        let text = serde_json::to_string_pretty(&outcomes).map_err(|e| Error::Model(format!("identities: {e}")))?;
        cli::print_line(&text);
    } else {
        let seconds: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
        cli::print_line(&format!("{} identities, {failed} failed, {seconds:.1} s", outcomes.len()));
    }
    Ok(failed == 0)
}
