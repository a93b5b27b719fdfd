//! `setp` and `set`: a comparison gives one bit a lane.

use super::both;
use crate::decode::Ins;
use crate::numeric::{bf16_to_f32, f16_to_f32, flush};
use crate::regs::Regs;

/// The lanes in which the comparison of `ins.r[1]` with `ins.r[2]` holds.
pub(crate) type Test = unsafe fn(&Regs, &Ins) -> u32;

macro_rules! compare {
    ($t:ty, |$a:ident, $b:ident| $body:expr) => {{
        #[inline(always)]
        fn body(regs: &Regs, ins: &Ins) -> u32 {
            let (x, y): ([$t; 32], [$t; 32]) = (regs.get(ins.r[1]), regs.get(ins.r[2]));
            let mut out = 0;
            for lane in 0..32 {
                let ($a, $b) = (x[lane], y[lane]);
                out |= u32::from($body) << lane;
            }
            out
        }
        Some(both!(body, (regs: &Regs, ins: &Ins) -> u32))
    }};
}

macro_rules! ordered {
    ($op:expr, $t:ty) => {
        match $op {
            "eq" => compare!($t, |a, b| a == b),
            "ne" => compare!($t, |a, b| a != b),
            "lt" | "lo" => compare!($t, |a, b| a < b),
            "le" | "ls" => compare!($t, |a, b| a <= b),
            "gt" | "hi" => compare!($t, |a, b| a > b),
            "ge" | "hs" => compare!($t, |a, b| a >= b),
            _ => None,
        }
    };
}

/// Comparisons that end in u hold when an operand is a NaN; the others then do not, `ne` included.
macro_rules! floating {
    ($op:expr, $t:ty, |$x:ident| $value:expr) => {{
        #[inline(always)]
        fn value(ins: &Ins, $x: $t) -> f64 {
            let value: f32 = $value;
            f64::from(if ins.ftz { flush(value) } else { value })
        }
        floating!(@$op, $t, value)
    }};
    (@$op:expr, $t:ty, $value:ident) => {
        match $op {
            "eq" => float_test!($t, $value, |a, b| a == b),
            "ne" => float_test!($t, $value, |a, b| a != b && !a.is_nan() && !b.is_nan()),
            "lt" => float_test!($t, $value, |a, b| a < b),
            "le" => float_test!($t, $value, |a, b| a <= b),
            "gt" => float_test!($t, $value, |a, b| a > b),
            "ge" => float_test!($t, $value, |a, b| a >= b),
            "equ" => float_test!($t, $value, |a, b| a == b || a.is_nan() || b.is_nan()),
            "neu" => float_test!($t, $value, |a, b| a != b),
            "ltu" => float_test!($t, $value, |a, b| !(a >= b)),
            "leu" => float_test!($t, $value, |a, b| !(a > b)),
            "gtu" => float_test!($t, $value, |a, b| !(a <= b)),
            "geu" => float_test!($t, $value, |a, b| !(a < b)),
            "num" => float_test!($t, $value, |a, b| !a.is_nan() && !b.is_nan()),
            "nan" => float_test!($t, $value, |a, b| a.is_nan() || b.is_nan()),
            _ => None,
        }
    };
}

macro_rules! float_test {
    ($t:ty, $value:ident, |$a:ident, $b:ident| $body:expr) => {{
        #[inline(always)]
        fn body(regs: &Regs, ins: &Ins) -> u32 {
            let (x, y): ([$t; 32], [$t; 32]) = (regs.get(ins.r[1]), regs.get(ins.r[2]));
            let mut out = 0;
            for lane in 0..32 {
                let ($a, $b) = ($value(ins, x[lane]), $value(ins, y[lane]));
                out |= u32::from($body) << lane;
            }
            out
        }
        Some(both!(body, (regs: &Regs, ins: &Ins) -> u32))
    }};
}

/// The comparison `op` on operands of type `ty`.
pub(crate) fn test(op: &str, ty: &str) -> Option<Test> {
    match ty {
        "s16" => ordered!(op, i16),
        "u16" | "b16" => ordered!(op, u16),
        "s32" => ordered!(op, i32),
        "u32" | "b32" => ordered!(op, u32),
        "s64" => ordered!(op, i64),
        "u64" | "b64" => ordered!(op, u64),
        "f32" => floating!(op, f32, |x| x),
        "f16" => floating!(op, u16, |x| f16_to_f32(x)),
        "bf16" => floating!(op, u16, |x| bf16_to_f32(x)),
        "f64" => {
            #[inline(always)]
            fn value(_: &Ins, x: f64) -> f64 {
                x
            }
            floating!(@op, f64, value)
        }
        _ => None,
    }
}
