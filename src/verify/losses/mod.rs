//! The losses: weights, score matching, and how times are drawn (S1 and S3 sections 2.4 and 3.3; items 33 and 42–47).

mod score_matching;
mod times;
mod weights;

use super::Identity;

pub(super) const PARTS: [&[Identity]; 3] = [weights::IDENTITIES, score_matching::IDENTITIES, times::IDENTITIES];
