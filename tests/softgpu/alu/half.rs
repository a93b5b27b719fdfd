//! f16, bf16 and their pairs: each operation is computed exactly, or to odd, in f64 and rounded once.

use super::Alu;
use crate::decode::Ins;
use crate::numeric::{BF16, F16, Format, Rounding, add_to_odd, bf16_to_f32, f16_to_f32};
use crate::regs::Regs;

pub(crate) fn find(parts: &[&str]) -> Option<Alu> {
    match *parts.last()? {
        "f16" => one::<false>(parts),
        "bf16" => one::<true>(parts),
        "f16x2" => two::<false>(parts),
        "bf16x2" => two::<true>(parts),
        _ => None,
    }
}

fn widen<const B: bool>(bits: u32) -> f64 {
    f64::from(if B { bf16_to_f32(bits as u16) } else { f16_to_f32(bits as u16) })
}

fn format<const B: bool>() -> Format {
    if B { BF16 } else { F16 }
}

/// What an opcode does to the exact values of its operands; the result is rounded afterwards.
type Exact = fn(f64, f64, f64) -> f64;

/// What an opcode does to the bits of its operands, when rounding could spoil a NaN's payload or a sign.
type Bits = fn(u32, u32) -> u32;

fn exact(op: &str, nan: bool) -> Option<Exact> {
    Some(match op {
        "add" => |a, b, _| add_to_odd(a, b),
        "sub" => |a, b, _| add_to_odd(a, -b),
        "mul" => |a, b, _| a * b,
        "fma" => |a, b, c| add_to_odd(a * b, c),
        "min" if nan => |a, b, _| if a.is_nan() || b.is_nan() { f64::NAN } else { min(a, b) },
        "max" if nan => |a, b, _| if a.is_nan() || b.is_nan() { f64::NAN } else { -min(-a, -b) },
        "min" => |a, b, _| min(a, b),
        "max" => |a, b, _| -min(-a, -b),
        "ex2" => |a, _, _| a.exp2(),
        "tanh" => |a, _, _| a.tanh(),
        _ => return None,
    })
}

/// −0 is below +0, and a NaN loses to a number.
fn min(a: f64, b: f64) -> f64 {
    let equal = if a.is_sign_negative() { a } else { b };
    if b.is_nan() || a < b {
        a
    } else if a == b {
        equal
    } else {
        b
    }
}

fn bits(op: &str) -> Option<Bits> {
    Some(match op {
        "neg" => |a, _| a ^ 0x8000,
        "abs" => |a, _| a & 0x7fff,
        _ => return None,
    })
}

fn finish<const B: bool>(value: f64, ins: &Ins) -> u32 {
    let value = if ins.relu && !value.is_nan() { value.max(0.0) } else { value };
    let value = if ins.sat { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
    format::<B>().round(value, Rounding::Nearest)
}

/// A half-precision subnormal counts as zero under `.ftz`.
fn flushed<const B: bool>(bits: u32, ins: &Ins) -> u32 {
    let exponent = if B { 0x7f80 } else { 0x7c00 };
    if ins.ftz && bits & exponent == 0 { bits & 0x8000 } else { bits & 0xffff }
}

fn apply<const B: bool>(f: Exact, ins: &Ins, a: u32, b: u32, c: u32) -> u32 {
    let widen = |bits| widen::<B>(flushed::<B>(bits, ins));
    flushed::<B>(finish::<B>(f(widen(a), widen(b), widen(c)), ins), ins)
}

/// The sources of `ins`; those it lacks are zero.
fn sources(regs: &Regs, ins: &Ins) -> [[u32; 32]; 3] {
    let mut found = [[0u32; 32]; 3];
    for (k, source) in found.iter_mut().take(ins.sources().len()).enumerate() {
        *source = regs.get(ins.r[1 + k]);
    }
    found
}

macro_rules! by_name {
    ($width:ident, $B:ident, $parts:expr, $($name:literal),+) => {{
        let nan = $parts.contains(&"NaN");
        match ($parts[0], nan) {
            $(($name, false) if exact($name, false).is_some() => Some((|regs: &mut Regs, ins: &Ins, mask: u32| {
                if let Some(f) = exact($name, false) { $width::<$B>(f, regs, ins, mask) }
            }) as fn(&mut Regs, &Ins, u32) as Alu),
            ($name, true) if exact($name, true).is_some() => Some((|regs: &mut Regs, ins: &Ins, mask: u32| {
                if let Some(f) = exact($name, true) { $width::<$B>(f, regs, ins, mask) }
            }) as fn(&mut Regs, &Ins, u32) as Alu),)+
            ("neg", _) => Some((|regs: &mut Regs, ins: &Ins, mask: u32| negate("neg", regs, ins, mask)) as fn(&mut Regs, &Ins, u32) as Alu),
            ("abs", _) => Some((|regs: &mut Regs, ins: &Ins, mask: u32| negate("abs", regs, ins, mask)) as fn(&mut Regs, &Ins, u32) as Alu),
            _ => None,
        }
    }};
}

fn one<const B: bool>(parts: &[&str]) -> Option<Alu> {
    by_name!(single, B, parts, "add", "sub", "mul", "fma", "min", "max", "ex2", "tanh")
}

fn two<const B: bool>(parts: &[&str]) -> Option<Alu> {
    by_name!(pair, B, parts, "add", "sub", "mul", "fma", "min", "max", "ex2", "tanh")
}

fn single<const B: bool>(f: Exact, regs: &mut Regs, ins: &Ins, mask: u32) {
    let [a, b, c] = sources(regs, ins);
    regs.put(ins.r[0], std::array::from_fn::<u32, 32, _>(|k| apply::<B>(f, ins, a[k], b[k], c[k])), mask);
}

fn pair<const B: bool>(f: Exact, regs: &mut Regs, ins: &Ins, mask: u32) {
    let [a, b, c] = sources(regs, ins);
    let out = std::array::from_fn::<u32, 32, _>(|k| {
        let (low, high) =
            (apply::<B>(f, ins, a[k], b[k], c[k]), apply::<B>(f, ins, a[k] >> 16, b[k] >> 16, c[k] >> 16));
        low | high << 16
    });
    regs.put(ins.r[0], out, mask);
}

/// `neg` and `abs` touch only signs, in both halves of a pair.
fn negate(op: &str, regs: &mut Regs, ins: &Ins, mask: u32) {
    let Some(f) = bits(op) else { return };
    let a: [u32; 32] = regs.get(ins.r[1]);
    regs.put(ins.r[0], a.map(|a| f(a & 0xffff, 0) | if ins.paired { f(a >> 16, 0) << 16 } else { 0 }), mask);
}
