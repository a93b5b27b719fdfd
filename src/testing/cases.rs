//! Every op's case table, in one list: tests on each device and the benches run it.

use super::Case;
use crate::ops;

/// All fixed rows of all ops.
pub fn all() -> Vec<Case> {
    ops::case_tables().into_iter().flat_map(|(_, cases)| cases).collect()
}
