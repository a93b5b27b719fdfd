//! The network's parts (S0; items 78–80).

use super::Identity;

pub(super) const IDENTITIES: &[Identity] = &[];
