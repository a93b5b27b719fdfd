//! Products of bf16 numbers, summed in f32.
//!
//! Operands are words of 32 bits, each a pair of neighbouring k (the first in the lower half), which `VDPBF16PS` multiplies and adds to a
//! sum in one step: twice the rate of f32. A row whose k run along memory is such words as it lies; a right-hand operand is packed into
//! panels of words; sums over pixels ([`accumulate_outer`]) interleave two pixels at a time.
//!
//! Products of two bf16 numbers are exact in f32. Plain code and AVX2 add the two of a pair one after the other, fused; `VDPBF16PS` rounds
//! each addition to nearest too but takes denormal operands and results as 0, so levels differ in the last bits of a sum, and below 1e-37.

mod kernel;
mod outer;
mod rows;
mod weights;

pub(crate) use kernel::PairRun;
pub(crate) use outer::{Line, Outer, accumulate_outer};
pub(crate) use rows::{Output, Rows, multiply_rows};
pub(crate) use weights::{Pairs, backward_weights, forward_weights};

use super::Level;
use std::sync::OnceLock;

/// Whether products take `VDPBF16PS`: where the processor has it, unless `TWEEDIE_SIMD` names a level, `avx512` included.
pub(crate) fn has_dot_products() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        let detected = is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let detected = false;
        let is_forced =
            std::env::var("TWEEDIE_SIMD").is_ok_and(|name| ["portable", "avx2", "avx512"].contains(&&*name));
        detected && !is_forced && super::level() == Level::Avx512
    })
}
