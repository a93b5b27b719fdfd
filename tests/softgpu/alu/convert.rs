//! `cvt`: one general function that follows the manual, and fast ones for the conversions that kernels spend time in.

use super::{Alu, lanes};
use crate::decode::Ins;
use crate::numeric::{BF16, F16, F32, Rounding, TF32, bf16_to_f32, f16_to_f32, f32_to_bf16, flush};
use crate::ptx::Type;
use crate::regs::Regs;

/// From which type to which, and the widths of the registers that hold them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    pub(crate) from: Type,
    pub(crate) to: Type,
    /// Absent: what the manual prescribes when none is written (exact, or towards zero into integers).
    pub(crate) rounding: Option<Rounding>,
    pub(crate) wide_source: bool,
    pub(crate) wide_target: bool,
}

pub(crate) fn conversion(parts: &[&str], from: Type, to: Type, wide_source: bool, wide_target: bool) -> Option<Alu> {
    let usual = wide_source == (from.bits() == 64) && wide_target == (to.bits() == 64);
    let plain = !parts.contains(&"sat") && !parts.contains(&"relu") && !parts.contains(&"ftz");
    if let Some(found) = fast(&parts[1..].join(".")).filter(|_| usual && plain) {
        return Some(found);
    }
    let two = matches!(to, Type::F16x2 | Type::Bf16x2);
    let known = |ty| matches!(ty, Type::S(8..=64) | Type::U(8..=64) | Type::F(16..=64) | Type::Bf16 | Type::Tf32);
    if two {
        return (from == Type::F(32)).then_some(pack_two as fn(&mut Regs, &Ins, u32) as Alu);
    }
    (known(from) && known(to) && from != Type::Tf32).then_some(general as fn(&mut Regs, &Ins, u32) as Alu)
}

fn fast(name: &str) -> Option<Alu> {
    match name {
        "rn.bf16x2.f32" => {
            lanes!(|high: f32, low: f32| -> u32 { u32::from(f32_to_bf16(high)) << 16 | u32::from(f32_to_bf16(low)) })
        }
        "rn.bf16.f32" => lanes!(|a: f32| -> u16 { f32_to_bf16(a) }),
        "f32.bf16" => lanes!(|a: u16| -> f32 { bf16_to_f32(a) }),
        "f32.f16" => lanes!(|a: u16| -> f32 { f16_to_f32(a) }),
        "s64.s32" => lanes!(|a: i32| -> i64 { i64::from(a) }),
        "u64.u32" | "s64.u32" => lanes!(|a: u32| -> u64 { u64::from(a) }),
        "u32.u64" | "s32.s64" | "u32.s64" | "s32.u64" => lanes!(|a: u64| -> u32 { a as u32 }),
        "u32.u16" | "s32.u16" => lanes!(|a: u16| -> u32 { u32::from(a) }),
        "u16.u32" | "u16.s32" | "s16.s32" => lanes!(|a: u32| -> u16 { a as u16 }),
        "rn.f32.s32" => lanes!(|a: i32| -> f32 { a as f32 }),
        "rn.f32.u32" => lanes!(|a: u32| -> f32 { a as f32 }),
        "rzi.s32.f32" => lanes!(|a: f32| -> i32 { a as i32 }),
        "rzi.u32.f32" => lanes!(|a: f32| -> u32 { a as u32 }),
        "rni.s32.f32" => lanes!(|a: f32| -> i32 { a.round_ties_even() as i32 }),
        "rni.f32.f32" => lanes!(|a: f32| -> f32 { a.round_ties_even() }),
        "rmi.f32.f32" => lanes!(|a: f32| -> f32 { a.floor() }),
        "rpi.f32.f32" => lanes!(|a: f32| -> f32 { a.ceil() }),
        "rzi.f32.f32" => lanes!(|a: f32| -> f32 { a.trunc() }),
        "f64.f32" => lanes!(|a: f32| -> f64 { f64::from(a) }),
        "rn.f32.f64" => lanes!(|a: f64| -> f32 { a as f32 }),
        _ => None,
    }
}

/// A number on its way between two types: an integer exactly, or a floating value (f64 holds every format here).
enum Value {
    Integer(i128),
    Float(f64),
}

fn read(bits: u64, ty: Type, ftz: bool) -> Value {
    match ty {
        Type::S(width) => Value::Integer(i128::from((bits << (64 - width)) as i64 >> (64 - width))),
        Type::U(width) | Type::B(width) => Value::Integer(i128::from(bits << (64 - width) >> (64 - width))),
        Type::F(64) => Value::Float(f64::from_bits(bits)),
        Type::F(32) => {
            let value = f32::from_bits(bits as u32);
            Value::Float(f64::from(if ftz { flush(value) } else { value }))
        }
        Type::Bf16 => Value::Float(f64::from(bf16_to_f32(bits as u16))),
        _ => Value::Float(f64::from(f16_to_f32(bits as u16))),
    }
}

/// Integers clamp when they come from a float or under `.sat`, and wrap otherwise; a NaN becomes 0.
fn to_integer(value: Value, signed: bool, width: u8, ins: &Ins, rounding: Option<Rounding>) -> u64 {
    let (low, high) =
        if signed { (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1) } else { (0, (1i128 << width) - 1) };
    let exact = match value {
        Value::Integer(value) if ins.sat => value.clamp(low, high),
        Value::Integer(value) => value,
        // `as` saturates and sends a NaN to 0.
        Value::Float(value) => (rounding.unwrap_or(Rounding::Zero).integer(value) as i128).clamp(low, high),
    };
    if signed { (exact as i64) << (64 - width) >> (64 - width) } else { exact as i64 }.cast_unsigned()
        & if signed { !0 } else { !0 >> (64 - width) }
}

fn to_float(value: Value, to: Type, ins: &Ins, rounding: Option<Rounding>) -> u64 {
    let mode = rounding.unwrap_or_default();
    let is_integral = |value: f64| ins.integral && value.is_finite();
    let value = match value {
        // 64 bits do not fit f64: fold what would be lost into a sticky odd bit, unless f64 is the goal.
        Value::Integer(value) if to != Type::F(64) => sticky(value),
        Value::Integer(value) => return integer_to_f64(value, mode).to_bits(),
        Value::Float(value) if is_integral(value) => mode.integer(value),
        Value::Float(value) => value,
    };
    let value = if ins.relu && !value.is_nan() { value.max(0.0) } else { value };
    let value = if ins.sat { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
    match to {
        Type::F(64) => value.to_bits(),
        Type::F(32) => {
            let bits = F32.round(value, mode);
            u64::from(if ins.ftz { flush(f32::from_bits(bits)).to_bits() } else { bits })
        }
        Type::Bf16 => u64::from(BF16.round(value, mode)),
        // 19 bits at the top of 32.
        Type::Tf32 => u64::from(TF32.round(value, mode)) << 13,
        _ => u64::from(F16.round(value, mode)),
    }
}

fn sticky(value: i128) -> f64 {
    let magnitude = value.unsigned_abs();
    let lost = (128 - magnitude.leading_zeros()).saturating_sub(53);
    let rest = magnitude & ((1 << lost) - 1);
    let kept = (magnitude >> lost | u128::from(rest != 0)) << lost;
    let float = kept as f64;
    if value < 0 { -float } else { float }
}

fn integer_to_f64(value: i128, mode: Rounding) -> f64 {
    let nearest = value as f64;
    let error = value - nearest as i128;
    let towards_zero = value.signum() * error < 0;
    match mode {
        Rounding::Nearest | Rounding::NearestAway => nearest,
        Rounding::Zero if towards_zero => f64::from_bits(nearest.to_bits() - 1),
        Rounding::Down if error < 0 => nearest.next_down(),
        Rounding::Up if error > 0 => nearest.next_up(),
        _ => nearest,
    }
}

fn convert(bits: u64, conversion: &Conversion, ins: &Ins) -> u64 {
    let value = read(bits, conversion.from, ins.ftz);
    match conversion.to {
        Type::S(width) => to_integer(value, true, width, ins, conversion.rounding),
        Type::U(width) | Type::B(width) => to_integer(value, false, width, ins, conversion.rounding),
        to => to_float(value, to, ins, conversion.rounding),
    }
}

fn general(regs: &mut Regs, ins: &Ins, mask: u32) {
    let Some(conversion) = &ins.conversion else { return };
    let source: [u64; 32] =
        if conversion.wide_source { regs.get(ins.r[1]) } else { regs.get::<u32>(ins.r[1]).map(u64::from) };
    let out = source.map(|bits| convert(bits, conversion, ins));
    if conversion.wide_target {
        regs.put(ins.r[0], out, mask);
    } else if conversion.to.bits() == 16 {
        regs.put(ins.r[0], out.map(|bits| bits as u16), mask);
    } else {
        regs.put(ins.r[0], out.map(|bits| bits as u32), mask);
    }
}

/// `cvt.rn.f16x2.f32 d, a, b`: a goes to the upper half.
fn pack_two(regs: &mut Regs, ins: &Ins, mask: u32) {
    let Some(pair) = &ins.conversion else { return };
    let half = if pair.to == Type::Bf16x2 { Type::Bf16 } else { Type::F(16) };
    let conversion = Conversion { to: half, ..*pair };
    let (high, low): ([u32; 32], [u32; 32]) = (regs.get(ins.r[1]), regs.get(ins.r[2]));
    let one = |bits: u32| convert(u64::from(bits), &conversion, ins) as u32;
    regs.put(ins.r[0], std::array::from_fn::<u32, 32, _>(|k| one(high[k]) << 16 | one(low[k])), mask);
}
