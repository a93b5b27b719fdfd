//! DDIM (S3 section 4, S2; items 49–52 and 54).

use super::Identity;

pub(super) const IDENTITIES: &[Identity] = &[];
