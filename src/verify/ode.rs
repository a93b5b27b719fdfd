//! The probability-flow ODE and the order of its solvers (item 41).

use super::Identity;

pub(super) const IDENTITIES: &[Identity] = &[];
