//! Discrete diffusion (S3 section 6; items 63–77), against languages small enough to be counted out.

mod bound;
mod chain;
mod infill;
mod language;
mod losses;
mod rates;
mod sampling;

use super::Identity;

pub(super) const PARTS: [&[Identity]; 6] = [
    chain::IDENTITIES,
    rates::IDENTITIES,
    losses::IDENTITIES,
    sampling::IDENTITIES,
    bound::IDENTITIES,
    infill::IDENTITIES,
];
