//! The variance-preserving chain and DDPM (S3 section 2.2, S0, S1; items 15–24).

use super::Identity;

pub(super) const IDENTITIES: &[Identity] = &[];
