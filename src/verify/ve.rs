//! The variance-exploding chain and its reversal with a known score (S3 section 2.1; items 5–8).

use super::Identity;

pub(super) const IDENTITIES: &[Identity] = &[];
