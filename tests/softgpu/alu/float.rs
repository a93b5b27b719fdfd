//! f32 and f64. Approximations are computed in f64 and rounded once: closer to the truth than the hardware's, which promises
//! only an error bound, so results are compared under a tolerance.

use super::{Alu, floats, lanes};
use crate::numeric::{Rounding, fma_f32};

pub(crate) fn find(parts: &[&str]) -> Option<Alu> {
    match *parts.last()? {
        "f32" => {
            let directed = Rounding::find(parts).is_some_and(|mode| mode != Rounding::Nearest);
            if directed { directed_f32(parts[0]) } else { f32_ops(parts) }
        }
        "f64" => {
            let directed = Rounding::find(parts).is_some_and(|mode| mode != Rounding::Nearest);
            if directed { None } else { f64_ops(parts) }
        }
        _ => None,
    }
}

fn f32_ops(parts: &[&str]) -> Option<Alu> {
    let (nan, xorsign) = (parts.contains(&"NaN"), parts.contains(&"xorsign"));
    match parts[0] {
        "add" => floats!(|a, b| { a + b }),
        "sub" => floats!(|a, b| { a - b }),
        "mul" => floats!(|a, b| { a * b }),
        "fma" | "mad" => floats!(|a, b, c| { a.mul_add(b, c) }),
        "div" => floats!(|a, b| { a / b }),
        "rcp" => floats!(|a| { 1.0 / a }),
        "sqrt" => floats!(|a| { a.sqrt() }),
        "rsqrt" => floats!(|a| { (1.0 / f64::from(a).sqrt()) as f32 }),
        "neg" => floats!(|a| { -a }),
        "abs" => floats!(|a| { a.abs() }),
        "copysign" => floats!(|a, b| { b.copysign(a) }),
        "min" if xorsign => floats!(|a, b| { xor_sign(min(a.abs(), b.abs()), a, b) }),
        "max" if xorsign => floats!(|a, b| { xor_sign(max(a.abs(), b.abs()), a, b) }),
        "min" if nan => {
            floats!(|a, b| { if a.is_nan() || b.is_nan() { f32::from_bits(0x7fff_ffff) } else { min(a, b) } })
        }
        "max" if nan => {
            floats!(|a, b| { if a.is_nan() || b.is_nan() { f32::from_bits(0x7fff_ffff) } else { max(a, b) } })
        }
        "min" => floats!(|a, b| { min(a, b) }),
        "max" => floats!(|a, b| { max(a, b) }),
        "ex2" => floats!(|a| { f64::from(a).exp2() as f32 }),
        "lg2" => floats!(|a| { f64::from(a).log2() as f32 }),
        "sin" => floats!(|a| { f64::from(a).sin() as f32 }),
        "cos" => floats!(|a| { f64::from(a).cos() as f32 }),
        "tanh" => floats!(|a| { f64::from(a).tanh() as f32 }),
        _ => None,
    }
}

/// −0 is below +0, and a NaN loses to a number.
#[inline(always)]
fn min(a: f32, b: f32) -> f32 {
    let equal = if a.is_sign_negative() { a } else { b };
    if b.is_nan() || a < b {
        a
    } else if a == b {
        equal
    } else {
        b
    }
}

#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    let equal = if a.is_sign_negative() { b } else { a };
    if b.is_nan() || a > b {
        a
    } else if a == b {
        equal
    } else {
        b
    }
}

#[inline(always)]
fn xor_sign(magnitude: f32, a: f32, b: f32) -> f32 {
    f32::from_bits(magnitude.to_bits() | (a.to_bits() ^ b.to_bits()) & 0x8000_0000)
}

fn directed_f32(op: &str) -> Option<Alu> {
    // One function per opcode; the mode is the instruction's.
    macro_rules! rounded {
        (|$($x:ident),+| $body:expr) => {{
            #[allow(unused_assignments)]
            fn body(regs: &mut crate::regs::Regs, ins: &crate::decode::Ins, mask: u32) {
                let mut at = 1;
                $(let $x: [f32; 32] = regs.get(ins.r[at]); at += 1;)+
                let out = std::array::from_fn(|lane| {
                    $(let $x = if ins.ftz { crate::numeric::flush($x[lane]) } else { $x[lane] };)+
                    let value: f32 = $body(ins.rounding);
                    let value = if ins.ftz { crate::numeric::flush(value) } else { value };
                    if ins.sat { crate::numeric::saturate(value) } else { value }
                });
                regs.put(ins.r[0], out, mask);
            }
            Some(body as Alu)
        }};
    }
    match op {
        "add" => rounded!(|a, b| |mode| fma_f32(a, 1.0, b, mode)),
        "sub" => rounded!(|a, b| |mode| fma_f32(a, 1.0, -b, mode)),
        "mul" => rounded!(|a, b| |mode| product(a, b, mode)),
        "fma" | "mad" => rounded!(|a, b, c| |mode| fma_f32(a, b, c, mode)),
        "div" => rounded!(|a, b| |mode| quotient(a, b, mode)),
        "rcp" => rounded!(|a| |mode| quotient(1.0, a, mode)),
        "sqrt" => rounded!(|a| |mode| root(a, mode)),
        _ => None,
    }
}

/// Exact in f64; not `fma_f32(a, b, 0)`, whose sum turns −0 into +0.
fn product(a: f32, b: f32, mode: Rounding) -> f32 {
    f32::from_bits(crate::numeric::F32.round(f64::from(a) * f64::from(b), mode))
}

/// A quotient of two f32 is never within an f64's rounding error of an f32 unless it is one: directed rounding needs only
/// the side, which the remainder tells.
fn quotient(a: f32, b: f32, mode: Rounding) -> f32 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    beside(q, q.mul_add(-b, a) / b, mode)
}

fn root(a: f32, mode: Rounding) -> f32 {
    let a = f64::from(a);
    let q = a.sqrt();
    beside(q, q.mul_add(-q, a), mode)
}

/// Rounds the number that lies next to `q` on the side of `rest`.
fn beside(q: f64, rest: f64, mode: Rounding) -> f32 {
    let nudged = if rest == 0.0 || !q.is_finite() || q == 0.0 || !rest.is_finite() {
        q
    } else {
        f64::from_bits(if (rest > 0.0) == (q > 0.0) { q.to_bits() + 1 } else { q.to_bits() - 1 })
    };
    f32::from_bits(crate::numeric::F32.round(nudged, mode))
}

fn f64_ops(parts: &[&str]) -> Option<Alu> {
    match parts[0] {
        "add" => lanes!(|a: f64, b: f64| -> f64 { a + b }),
        "sub" => lanes!(|a: f64, b: f64| -> f64 { a - b }),
        "mul" => lanes!(|a: f64, b: f64| -> f64 { a * b }),
        "fma" | "mad" => lanes!(|a: f64, b: f64, c: f64| -> f64 { a.mul_add(b, c) }),
        "div" => lanes!(|a: f64, b: f64| -> f64 { a / b }),
        "rcp" => lanes!(|a: f64| -> f64 { 1.0 / a }),
        "sqrt" => lanes!(|a: f64| -> f64 { a.sqrt() }),
        "rsqrt" => lanes!(|a: f64| -> f64 { 1.0 / a.sqrt() }),
        "neg" => lanes!(|a: f64| -> f64 { -a }),
        "abs" => lanes!(|a: f64| -> f64 { a.abs() }),
        "copysign" => lanes!(|a: f64, b: f64| -> f64 { b.copysign(a) }),
        "min" => lanes!(|a: f64, b: f64| -> f64 { a.min(b) }),
        "max" => lanes!(|a: f64, b: f64| -> f64 { a.max(b) }),
        _ => None,
    }
}
