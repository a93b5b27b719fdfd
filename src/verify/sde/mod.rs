//! Stochastic differential equations, Fokker–Planck and time reversal (S3 sections 2.3 and 3.2; items 35–40).

mod fokker_planck;
mod ito;
mod kernels;
mod reverse;
pub(super) mod reverse_samples;

use super::Identity;

pub(super) const PARTS: [&[Identity]; 5] =
    [kernels::IDENTITIES, ito::IDENTITIES, fokker_planck::IDENTITIES, reverse::IDENTITIES, reverse_samples::IDENTITIES];
