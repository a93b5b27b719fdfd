//! Every identity of the theory holds, and every misprinted formula fails (`cargo run --release --bin verify` shows the numbers).

use tweedie::verify;

#[test]
fn every_identity_holds_and_every_misprint_fails() -> Result<(), tweedie::Error> {
    let outcomes = verify::run(&[], &mut |_| {})?;
    let failed: Vec<String> = outcomes.iter().filter(|o| !o.pass).map(tweedie::cli::identity_line).collect();
    assert!(failed.is_empty(), "{} identities fail:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}
