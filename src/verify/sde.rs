//! Stochastic differential equations, Fokker–Planck and time reversal (S3 sections 2.3 and 3.2; items 35–40).

use super::Identity;

pub(super) const IDENTITIES: &[Identity] = &[];
