//! Likelihood (S0, S1, S2, S3 sections 2.2 and 3.1, S4; items 25–32, 34, 48 and 53).

mod bound;
mod divergence;
mod family;
mod ode;
mod report;
mod weights;

use super::Identity;

pub(super) const PARTS: [&[Identity]; 6] = [
    bound::IDENTITIES,
    divergence::IDENTITIES,
    weights::IDENTITIES,
    report::IDENTITIES,
    ode::IDENTITIES,
    family::IDENTITIES,
];
