//! CPU vector code: instruction-set detection, micro-kernels, packing and the blocked products built on them.
//!
//! The level is found once at run time, so a build without `target-cpu` flags reaches full speed.
//! `TWEEDIE_SIMD=portable|avx2|avx512` forces a lower level (`avx512`: without its bf16 products), which is how every path is tested on one machine. On AArch64
//! vectors and fused multiply-adds are part of the base instruction set, so plain code is compiled to them.

mod gelu;
pub(crate) mod gemm;
mod kernel;
mod lanes;
mod math;
mod normals;
mod pack;
pub(crate) mod pairs;
mod product;
mod sums;
mod tile;
mod winograd;

pub(crate) use gelu::{BiasGelu, GeluBackward};
pub(crate) use kernel::Run;
pub(crate) use lanes::{
    Kernel, Lanes, Narrow, Number, Widen, dispatch, for_columns, for_vectors, get, get_columns, put, put_columns,
};
pub use math::{exp, ln, sigmoid};
pub(crate) use normals::{Stream as NormalStream, fill_normals, fill_uniforms};
pub(crate) use pack::{Packed, transpose_lines};
pub(crate) use product::{Gather, accumulate_outer, multiply_gathered};
pub(crate) use sums::RowSums;
pub(crate) use winograd::{Channels, Epilogue, Scheme, WEIGHT_ROWS, Window, accumulate_points, multiply_points};

use std::sync::OnceLock;

/// An instruction-set level. A higher one is used only where the processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, vectorised by the compiler with the target's base instructions.
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// The level in use: the best one of this processor, or the lower one that `TWEEDIE_SIMD` names.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let best = best_level();
        match std::env::var("TWEEDIE_SIMD").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => best.min(Level::Avx2),
            _ => best,
        }
    })
}

/// The highest level that this processor can run.
pub fn best_level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
        {
            return Level::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// Compiles one plain loop body for every instruction-set level and calls the copy for [`level`].
///
/// The body must be an `#[inline(always)]` function: it is inlined into a wrapper that has the wider
/// instructions enabled, and the compiler vectorises it there.
#[macro_export]
#[doc(hidden)]
macro_rules! vectorise {
    ($body:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
        fn avx512($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
        match $crate::simd::level() {
            // SAFETY: `level` returns these only on a processor that has the features the wrapper enables.
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
            _ => $body($($arg),*),
        }
    }};
}
