//! DDIM (S3 section 4, S2; items 49–52 and 54).

mod marginals;
mod one_model;
mod steps;
mod subsequence;

use super::Identity;

pub(super) const PARTS: [&[Identity]; 4] =
    [marginals::IDENTITIES, steps::IDENTITIES, subsequence::IDENTITIES, one_model::IDENTITIES];
