//! Arithmetic on 32 lanes: one function per opcode and type, found when a kernel is decoded.
//!
//! `ins.r[0]` is the destination, `ins.r[1..]` the sources. Each function is compiled for the plain instruction set and
//! for AVX2 with FMA; [`find`] picks.

mod compare;
mod convert;
mod float;
mod half;
mod int;

pub(crate) use compare::{Test, test};
pub(crate) use convert::{Conversion, conversion};

use crate::decode::Ins;
use crate::regs::{Lane, Regs};

/// Computes `ins` for the lanes of `mask`. Unsafe only because it may need instructions that [`wide_lanes`] has checked.
pub(crate) type Alu = unsafe fn(&mut Regs, &Ins, mask: u32);

/// Whether this processor runs the wide versions.
pub(crate) fn wide_lanes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Both versions of `body`, and the choice between them.
macro_rules! both {
    ($body:ident, ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn wide($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
        #[cfg(not(target_arch = "x86_64"))]
        unsafe fn wide($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
        unsafe fn plain($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
        if $crate::alu::wide_lanes() { wide as unsafe fn($($ty),*) $(-> $ret)? } else { plain }
    }};
}

/// `lanes!(|a: u32, b: u32| -> u32 { a & b })`: the function that does this in every lane.
macro_rules! lanes {
    (|$($x:ident: $t:ty),+| -> $o:ty { $($body:tt)+ }) => {{
        #[inline(always)]
        #[allow(unused_assignments)]
        fn body(regs: &mut $crate::regs::Regs, ins: &$crate::decode::Ins, mask: u32) {
            let mut at = 1;
            $(let $x: [$t; 32] = regs.get(ins.r[at]); at += 1;)+
            let mut out = [<$o>::default(); 32];
            for lane in 0..32 {
                $(let $x = $x[lane];)+
                out[lane] = { $($body)+ };
            }
            regs.put(ins.r[0], out, mask);
        }
        Some($crate::alu::both!(body, (regs: &mut $crate::regs::Regs, ins: &$crate::decode::Ins, mask: u32)))
    }};
}

/// [`lanes!`] on f32, with `.ftz` and `.sat` where the opcode has them.
macro_rules! floats {
    (|$($x:ident),+| { $($body:tt)+ }) => {{
        #[inline(always)]
        #[allow(unused_assignments)]
        fn body(regs: &mut $crate::regs::Regs, ins: &$crate::decode::Ins, mask: u32) {
            let mut at = 1;
            $(let mut $x: [f32; 32] = regs.get(ins.r[at]); at += 1;)+
            if ins.ftz {
                $(for lane in 0..32 { $x[lane] = $crate::numeric::flush($x[lane]); })+
            }
            let mut out = [0f32; 32];
            for lane in 0..32 {
                $(let $x = $x[lane];)+
                out[lane] = { $($body)+ };
            }
            if ins.ftz {
                for value in &mut out { *value = $crate::numeric::flush(*value); }
            }
            if ins.sat {
                for value in &mut out { *value = $crate::numeric::saturate(*value); }
            }
            regs.put(ins.r[0], out, mask);
        }
        Some($crate::alu::both!(body, (regs: &mut $crate::regs::Regs, ins: &$crate::decode::Ins, mask: u32)))
    }};
}

pub(crate) use both;
use {floats, lanes};

/// `selp`: a where the bit of `pick` is set, else b.
#[inline(always)]
fn select_lanes<T: Lane>(regs: &mut Regs, ins: &Ins, pick: u32, mask: u32) {
    let (a, mut out): ([T; 32], [T; 32]) = (regs.get(ins.r[1]), regs.get(ins.r[2]));
    for lane in 0..32 {
        out[lane] = if pick >> lane & 1 != 0 { a[lane] } else { out[lane] };
    }
    regs.put(ins.r[0], out, mask);
}

#[inline(always)]
fn select_narrow(regs: &mut Regs, ins: &Ins, pick: u32, mask: u32) {
    select_lanes::<u32>(regs, ins, pick, mask);
}

#[inline(always)]
fn select_wide(regs: &mut Regs, ins: &Ins, pick: u32, mask: u32) {
    select_lanes::<u64>(regs, ins, pick, mask);
}

/// Computes `selp` on 32 bits, or on 64.
pub(crate) fn select(regs: &mut Regs, ins: &Ins, wide: bool, pick: u32, mask: u32) {
    let f = if wide {
        both!(select_wide, (regs: &mut Regs, ins: &Ins, pick: u32, mask: u32))
    } else {
        both!(select_narrow, (regs: &mut Regs, ins: &Ins, pick: u32, mask: u32))
    };
    // SAFETY: `both` picked for this processor.
    unsafe { f(regs, ins, pick, mask) }
}

/// The function of an opcode, given as the parts between its dots.
pub(crate) fn find(parts: &[&str]) -> Option<Alu> {
    int::find(parts).or_else(|| float::find(parts)).or_else(|| half::find(parts))
}
