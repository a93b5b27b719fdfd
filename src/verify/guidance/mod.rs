//! Guidance, inpainting and colourisation (S3 section 5; items 55–62).

mod class;
mod known;
mod laws;

use super::Identity;

pub(super) const PARTS: [&[Identity]; 3] = [class::IDENTITIES, laws::IDENTITIES, known::IDENTITIES];
