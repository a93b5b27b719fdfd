//! Optimal denoising, Tweedie's formula and the conversions (items 9–14).

use super::{Bound, Identity};
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::process::Level;

pub(super) const IDENTITIES: &[Identity] = &[Identity {
    id: "item 10 S3.eq9",
    claim: "E[X|Y] of a Gaussian is y·var_x/(var_x + var_z)",
    bound: Bound::AtMost(1e-14),
    measure: shrinkage,
}];

fn shrinkage() -> Result<f64> {
    let (var_x, var_z) = (2.25_f64, 0.49_f64);
    let oracle = Oracle::gaussian(&[0.0], &[var_x])?;
    let at = Level::of(1.0, var_z.sqrt());
    let error = |y: f64| (oracle.posterior_mean(&[y], at)[0] - var_x / (var_x + var_z) * y).abs();
    Ok([-3.0, -0.1, 0.0, 1.7, 40.0].into_iter().map(error).fold(0.0, f64::max))
}
