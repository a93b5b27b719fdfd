//! Integers, bits, and moves.

use super::{Alu, lanes};

pub(crate) fn find(parts: &[&str]) -> Option<Alu> {
    let ty = *parts.last()?;
    if parts.contains(&"sat") || parts.contains(&"cc") || parts.contains(&"relu") {
        return match (parts[0], ty) {
            ("add", "s32") if parts.contains(&"sat") => lanes!(|a: i32, b: i32| -> i32 { a.saturating_add(b) }),
            ("sub", "s32") if parts.contains(&"sat") => lanes!(|a: i32, b: i32| -> i32 { a.saturating_sub(b) }),
            _ => None,
        };
    }
    move_or_bits(parts[0], ty)
        .or_else(|| sums(parts[0], ty))
        .or_else(|| products(parts))
        .or_else(|| choices(parts[0], ty))
        .or_else(|| fields(parts, ty))
}

fn move_or_bits(op: &str, ty: &str) -> Option<Alu> {
    match (op, ty) {
        ("mov", "b16" | "u16" | "s16" | "f16" | "bf16") => lanes!(|a: u16| -> u16 { a }),
        ("mov", "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2") => lanes!(|a: u32| -> u32 { a }),
        ("mov", "b64" | "u64" | "s64" | "f64") => lanes!(|a: u64| -> u64 { a }),
        ("and", "b16") => lanes!(|a: u16, b: u16| -> u16 { a & b }),
        ("and", "b32") => lanes!(|a: u32, b: u32| -> u32 { a & b }),
        ("and", "b64") => lanes!(|a: u64, b: u64| -> u64 { a & b }),
        ("or", "b16") => lanes!(|a: u16, b: u16| -> u16 { a | b }),
        ("or", "b32") => lanes!(|a: u32, b: u32| -> u32 { a | b }),
        ("or", "b64") => lanes!(|a: u64, b: u64| -> u64 { a | b }),
        ("xor", "b16") => lanes!(|a: u16, b: u16| -> u16 { a ^ b }),
        ("xor", "b32") => lanes!(|a: u32, b: u32| -> u32 { a ^ b }),
        ("xor", "b64") => lanes!(|a: u64, b: u64| -> u64 { a ^ b }),
        ("not", "b16") => lanes!(|a: u16| -> u16 { !a }),
        ("not", "b32") => lanes!(|a: u32| -> u32 { !a }),
        ("not", "b64") => lanes!(|a: u64| -> u64 { !a }),
        ("cnot", "b16") => lanes!(|a: u16| -> u16 { u16::from(a == 0) }),
        ("cnot", "b32") => lanes!(|a: u32| -> u32 { u32::from(a == 0) }),
        ("cnot", "b64") => lanes!(|a: u64| -> u64 { u64::from(a == 0) }),
        // A shift by the width or more leaves nothing, or the sign.
        ("shl", "b16") => lanes!(|a: u16, b: u32| -> u16 { if b > 15 { 0 } else { a << b } }),
        ("shl", "b32") => lanes!(|a: u32, b: u32| -> u32 { if b > 31 { 0 } else { a << b } }),
        ("shl", "b64") => lanes!(|a: u64, b: u32| -> u64 { if b > 63 { 0 } else { a << b } }),
        ("shr", "b16" | "u16") => lanes!(|a: u16, b: u32| -> u16 { if b > 15 { 0 } else { a >> b } }),
        ("shr", "b32" | "u32") => lanes!(|a: u32, b: u32| -> u32 { if b > 31 { 0 } else { a >> b } }),
        ("shr", "b64" | "u64") => lanes!(|a: u64, b: u32| -> u64 { if b > 63 { 0 } else { a >> b } }),
        ("shr", "s16") => lanes!(|a: i16, b: u32| -> i16 { a >> b.min(15) }),
        ("shr", "s32") => lanes!(|a: i32, b: u32| -> i32 { a >> b.min(31) }),
        ("shr", "s64") => lanes!(|a: i64, b: u32| -> i64 { a >> b.min(63) }),
        ("popc", "b32") => lanes!(|a: u32| -> u32 { a.count_ones() }),
        ("popc", "b64") => lanes!(|a: u64| -> u32 { a.count_ones() }),
        ("clz", "b32") => lanes!(|a: u32| -> u32 { a.leading_zeros() }),
        ("clz", "b64") => lanes!(|a: u64| -> u32 { a.leading_zeros() }),
        ("brev", "b32") => lanes!(|a: u32| -> u32 { a.reverse_bits() }),
        ("brev", "b64") => lanes!(|a: u64| -> u64 { a.reverse_bits() }),
        _ => None,
    }
}

fn sums(op: &str, ty: &str) -> Option<Alu> {
    match (op, ty) {
        ("add", "s16" | "u16") => lanes!(|a: u16, b: u16| -> u16 { a.wrapping_add(b) }),
        ("add", "s32" | "u32") => lanes!(|a: u32, b: u32| -> u32 { a.wrapping_add(b) }),
        ("add", "s64" | "u64") => lanes!(|a: u64, b: u64| -> u64 { a.wrapping_add(b) }),
        ("sub", "s16" | "u16") => lanes!(|a: u16, b: u16| -> u16 { a.wrapping_sub(b) }),
        ("sub", "s32" | "u32") => lanes!(|a: u32, b: u32| -> u32 { a.wrapping_sub(b) }),
        ("sub", "s64" | "u64") => lanes!(|a: u64, b: u64| -> u64 { a.wrapping_sub(b) }),
        ("neg", "s16") => lanes!(|a: i16| -> i16 { a.wrapping_neg() }),
        ("neg", "s32") => lanes!(|a: i32| -> i32 { a.wrapping_neg() }),
        ("neg", "s64") => lanes!(|a: i64| -> i64 { a.wrapping_neg() }),
        ("abs", "s16") => lanes!(|a: i16| -> i16 { a.wrapping_abs() }),
        ("abs", "s32") => lanes!(|a: i32| -> i32 { a.wrapping_abs() }),
        ("abs", "s64") => lanes!(|a: i64| -> i64 { a.wrapping_abs() }),
        ("sad", "s32") => lanes!(|a: i32, b: i32, c: u32| -> u32 { a.abs_diff(b).wrapping_add(c) }),
        ("sad", "u32") => lanes!(|a: u32, b: u32, c: u32| -> u32 { a.abs_diff(b).wrapping_add(c) }),
        _ => None,
    }
}

fn products(parts: &[&str]) -> Option<Alu> {
    let ty = *parts.last()?;
    let half = parts.iter().copied().find(|part| matches!(*part, "lo" | "hi" | "wide")).unwrap_or("");
    match (parts[0], half, ty) {
        ("mul", "lo", "s16" | "u16") => lanes!(|a: u16, b: u16| -> u16 { a.wrapping_mul(b) }),
        ("mul", "lo", "s32" | "u32") => lanes!(|a: u32, b: u32| -> u32 { a.wrapping_mul(b) }),
        ("mul", "lo", "s64" | "u64") => lanes!(|a: u64, b: u64| -> u64 { a.wrapping_mul(b) }),
        ("mul", "hi", "s16") => lanes!(|a: i16, b: i16| -> i16 { ((i32::from(a) * i32::from(b)) >> 16) as i16 }),
        ("mul", "hi", "u16") => lanes!(|a: u16, b: u16| -> u16 { ((u32::from(a) * u32::from(b)) >> 16) as u16 }),
        ("mul", "hi", "s32") => lanes!(|a: i32, b: i32| -> i32 { ((i64::from(a) * i64::from(b)) >> 32) as i32 }),
        ("mul", "hi", "u32") => lanes!(|a: u32, b: u32| -> u32 { ((u64::from(a) * u64::from(b)) >> 32) as u32 }),
        ("mul", "hi", "s64") => lanes!(|a: i64, b: i64| -> i64 { ((i128::from(a) * i128::from(b)) >> 64) as i64 }),
        ("mul", "hi", "u64") => lanes!(|a: u64, b: u64| -> u64 { ((u128::from(a) * u128::from(b)) >> 64) as u64 }),
        ("mul", "wide", "s16") => lanes!(|a: i16, b: i16| -> i32 { i32::from(a) * i32::from(b) }),
        ("mul", "wide", "u16") => lanes!(|a: u16, b: u16| -> u32 { u32::from(a) * u32::from(b) }),
        ("mul", "wide", "s32") => lanes!(|a: i32, b: i32| -> i64 { i64::from(a) * i64::from(b) }),
        ("mul", "wide", "u32") => lanes!(|a: u32, b: u32| -> u64 { u64::from(a) * u64::from(b) }),
        ("mad", "lo", "s16" | "u16") => lanes!(|a: u16, b: u16, c: u16| -> u16 { a.wrapping_mul(b).wrapping_add(c) }),
        ("mad", "lo", "s32" | "u32") => lanes!(|a: u32, b: u32, c: u32| -> u32 { a.wrapping_mul(b).wrapping_add(c) }),
        ("mad", "lo", "s64" | "u64") => lanes!(|a: u64, b: u64, c: u64| -> u64 { a.wrapping_mul(b).wrapping_add(c) }),
        ("mad", "hi", "s32") => {
            lanes!(|a: i32, b: i32, c: i32| -> i32 { (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c) })
        }
        ("mad", "hi", "u32") => {
            lanes!(|a: u32, b: u32, c: u32| -> u32 { (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c) })
        }
        ("mad", "hi", "u64") => {
            lanes!(|a: u64, b: u64, c: u64| -> u64 { (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c) })
        }
        ("mad", "wide", "s16") => {
            lanes!(|a: i16, b: i16, c: i32| -> i32 { (i32::from(a) * i32::from(b)).wrapping_add(c) })
        }
        ("mad", "wide", "u16") => {
            lanes!(|a: u16, b: u16, c: u32| -> u32 { (u32::from(a) * u32::from(b)).wrapping_add(c) })
        }
        ("mad", "wide", "s32") => {
            lanes!(|a: i32, b: i32, c: i64| -> i64 { (i64::from(a) * i64::from(b)).wrapping_add(c) })
        }
        ("mad", "wide", "u32") => {
            lanes!(|a: u32, b: u32, c: u64| -> u64 { (u64::from(a) * u64::from(b)).wrapping_add(c) })
        }
        ("mul24", "lo", "s32") => lanes!(|a: i32, b: i32| -> i32 { (a << 8 >> 8).wrapping_mul(b << 8 >> 8) }),
        ("mul24", "lo", "u32") => lanes!(|a: u32, b: u32| -> u32 { (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff) }),
        ("mul24", "hi", "s32") => {
            lanes!(|a: i32, b: i32| -> i32 { ((i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)) >> 16) as i32 })
        }
        ("mul24", "hi", "u32") => {
            lanes!(|a: u32, b: u32| -> u32 { ((u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) >> 16) as u32 })
        }
        ("mad24", "lo", "s32") => {
            lanes!(|a: i32, b: i32, c: i32| -> i32 { (a << 8 >> 8).wrapping_mul(b << 8 >> 8).wrapping_add(c) })
        }
        ("mad24", "lo", "u32") => {
            lanes!(|a: u32, b: u32, c: u32| -> u32 { (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff).wrapping_add(c) })
        }
        _ => None,
    }
}

/// Division by zero gives all ones and leaves the remainder whole, as the hardware's sequence does.
fn choices(op: &str, ty: &str) -> Option<Alu> {
    match (op, ty) {
        ("div", "s16") => lanes!(|a: i16, b: i16| -> i16 { if b == 0 { -1 } else { a.wrapping_div(b) } }),
        ("div", "u16") => lanes!(|a: u16, b: u16| -> u16 { a.checked_div(b).unwrap_or(!0) }),
        ("div", "s32") => lanes!(|a: i32, b: i32| -> i32 { if b == 0 { -1 } else { a.wrapping_div(b) } }),
        ("div", "u32") => lanes!(|a: u32, b: u32| -> u32 { a.checked_div(b).unwrap_or(!0) }),
        ("div", "s64") => lanes!(|a: i64, b: i64| -> i64 { if b == 0 { -1 } else { a.wrapping_div(b) } }),
        ("div", "u64") => lanes!(|a: u64, b: u64| -> u64 { a.checked_div(b).unwrap_or(!0) }),
        ("rem", "s16") => lanes!(|a: i16, b: i16| -> i16 { if b == 0 { a } else { a.wrapping_rem(b) } }),
        ("rem", "u16") => lanes!(|a: u16, b: u16| -> u16 { a.checked_rem(b).unwrap_or(a) }),
        ("rem", "s32") => lanes!(|a: i32, b: i32| -> i32 { if b == 0 { a } else { a.wrapping_rem(b) } }),
        ("rem", "u32") => lanes!(|a: u32, b: u32| -> u32 { a.checked_rem(b).unwrap_or(a) }),
        ("rem", "s64") => lanes!(|a: i64, b: i64| -> i64 { if b == 0 { a } else { a.wrapping_rem(b) } }),
        ("rem", "u64") => lanes!(|a: u64, b: u64| -> u64 { a.checked_rem(b).unwrap_or(a) }),
        ("min", "s16") => lanes!(|a: i16, b: i16| -> i16 { a.min(b) }),
        ("min", "u16") => lanes!(|a: u16, b: u16| -> u16 { a.min(b) }),
        ("min", "s32") => lanes!(|a: i32, b: i32| -> i32 { a.min(b) }),
        ("min", "u32") => lanes!(|a: u32, b: u32| -> u32 { a.min(b) }),
        ("min", "s64") => lanes!(|a: i64, b: i64| -> i64 { a.min(b) }),
        ("min", "u64") => lanes!(|a: u64, b: u64| -> u64 { a.min(b) }),
        ("max", "s16") => lanes!(|a: i16, b: i16| -> i16 { a.max(b) }),
        ("max", "u16") => lanes!(|a: u16, b: u16| -> u16 { a.max(b) }),
        ("max", "s32") => lanes!(|a: i32, b: i32| -> i32 { a.max(b) }),
        ("max", "u32") => lanes!(|a: u32, b: u32| -> u32 { a.max(b) }),
        ("max", "s64") => lanes!(|a: i64, b: i64| -> i64 { a.max(b) }),
        ("max", "u64") => lanes!(|a: u64, b: u64| -> u64 { a.max(b) }),
        _ => None,
    }
}

fn fields(parts: &[&str], ty: &str) -> Option<Alu> {
    let wrap = parts.contains(&"wrap");
    match (parts[0], ty) {
        ("bfe", "u32") => lanes!(|a: u32, pos: u32, len: u32| -> u32 { extract_u(u64::from(a), pos, len) as u32 }),
        ("bfe", "u64") => lanes!(|a: u64, pos: u32, len: u32| -> u64 { extract_u(a, pos, len) }),
        ("bfe", "s32") => lanes!(|a: i32, pos: u32, len: u32| -> i32 { extract_s(i64::from(a), 32, pos, len) as i32 }),
        ("bfe", "s64") => lanes!(|a: i64, pos: u32, len: u32| -> i64 { extract_s(a, 64, pos, len) }),
        ("bfi", "b32") => {
            lanes!(|a: u32, b: u32, pos: u32, len: u32| -> u32 { insert(u64::from(a), u64::from(b), pos, len) as u32 })
        }
        ("bfi", "b64") => lanes!(|a: u64, b: u64, pos: u32, len: u32| -> u64 { insert(a, b, pos, len) }),
        ("bmsk", "b32") if wrap => lanes!(|pos: u32, len: u32| -> u32 { insert(!0, 0, pos & 31, len & 31) as u32 }),
        ("bmsk", "b32") => lanes!(|pos: u32, len: u32| -> u32 { insert(!0, 0, pos, len) as u32 }),
        ("bfind", "u32") => bfind(parts, |a| a),
        ("bfind", "s32") => bfind(parts, |a| if (a as i32) < 0 { !a } else { a }),
        ("prmt", "b32") if parts.len() == 2 => {
            lanes!(|a: u32, b: u32, select: u32| -> u32 { permute(a, b, select) })
        }
        ("lop3", "b32") => lanes!(|a: u32, b: u32, c: u32, table: u32| -> u32 { logic3(a, b, c, table) }),
        // c:a pairs are written low word first.
        ("shf", "b32") if parts.contains(&"l") && wrap => {
            lanes!(|lo: u32, hi: u32, by: u32| -> u32 { ((join(lo, hi) << (by & 31)) >> 32) as u32 })
        }
        ("shf", "b32") if parts.contains(&"l") => {
            lanes!(|lo: u32, hi: u32, by: u32| -> u32 { ((u128::from(join(lo, hi)) << by.min(32)) >> 32) as u32 })
        }
        ("shf", "b32") if wrap => lanes!(|lo: u32, hi: u32, by: u32| -> u32 { (join(lo, hi) >> (by & 31)) as u32 }),
        ("shf", "b32") => lanes!(|lo: u32, hi: u32, by: u32| -> u32 { (join(lo, hi) >> by.min(32)) as u32 }),
        ("dp4a", _) => dot4(parts),
        _ => None,
    }
}

#[inline(always)]
fn join(lo: u32, hi: u32) -> u64 {
    u64::from(lo) | u64::from(hi) << 32
}

#[inline(always)]
fn low_bits(len: u32) -> u64 {
    if len > 63 { !0 } else { (1 << len) - 1 }
}

#[inline(always)]
fn extract_u(a: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if pos > 63 { 0 } else { a >> pos & low_bits(len) }
}

/// Bits beyond the top, and an empty field's, repeat the sign as the manual's pseudo-code has it.
#[inline(always)]
fn extract_s(a: i64, width: u32, pos: u32, len: u32) -> i64 {
    let (pos, len) = (pos & 255, len & 255);
    if len == 0 {
        return 0;
    }
    let shifted = a >> pos.min(63);
    let bits = len.min(width.saturating_sub(pos)).max(1);
    shifted << (64 - bits) >> (64 - bits)
}

#[inline(always)]
fn insert(a: u64, b: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if pos > 63 {
        return b;
    }
    let field = low_bits(len) << pos;
    b & !field | a << pos & field
}

fn bfind(parts: &[&str], magnitude: fn(u32) -> u32) -> Option<Alu> {
    // Two signs times two result forms; a function pointer would not vectorise, and this one need not.
    let shift = parts.contains(&"shiftamt");
    match (shift, magnitude(!0) == 0) {
        (false, false) => {
            lanes!(|a: u32| -> u32 { 31u32.wrapping_sub(a.leading_zeros()) | if a == 0 { !0 } else { 0 } })
        }
        (true, false) => lanes!(|a: u32| -> u32 { if a == 0 { !0 } else { a.leading_zeros() } }),
        (false, true) => lanes!(|a: i32| -> u32 {
            let a = (a ^ a >> 31) as u32;
            if a == 0 { !0 } else { 31 - a.leading_zeros() }
        }),
        (true, true) => lanes!(|a: i32| -> u32 {
            let a = (a ^ a >> 31) as u32;
            if a == 0 { !0 } else { a.leading_zeros() }
        }),
    }
}

/// Each nibble of `select` names a byte of b:a, or with its top bit that byte's sign.
#[inline(always)]
fn permute(a: u32, b: u32, select: u32) -> u32 {
    let bytes = join(a, b);
    let mut out = 0;
    for i in 0..4 {
        let pick = select >> (4 * i) & 15;
        let byte = (bytes >> (8 * (pick & 7))) as u8;
        let byte = if pick & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        out |= u32::from(byte) << (8 * i);
    }
    out
}

#[inline(always)]
fn logic3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut out = 0;
    for row in 0..8 {
        if table >> row & 1 != 0 {
            let pick = |x: u32, bit: u32| if row >> bit & 1 != 0 { x } else { !x };
            out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    out
}

fn dot4(parts: &[&str]) -> Option<Alu> {
    let signed = |part: &str| part == "s32";
    match (signed(parts[1]), signed(parts[2])) {
        (false, false) => lanes!(|a: u32, b: u32, c: u32| -> u32 {
            (0..4).fold(c, |sum, i| sum.wrapping_add((a >> (8 * i) & 255) * (b >> (8 * i) & 255)))
        }),
        (true, true) => lanes!(|a: i32, b: i32, c: i32| -> i32 {
            (0..4).fold(c, |sum, i| sum.wrapping_add((a << (24 - 8 * i) >> 24) * (b << (24 - 8 * i) >> 24)))
        }),
        (true, false) => lanes!(|a: i32, b: i32, c: i32| -> i32 {
            (0..4).fold(c, |sum, i| sum.wrapping_add((a << (24 - 8 * i) >> 24) * (b >> (8 * i) & 255)))
        }),
        (false, true) => lanes!(|a: i32, b: i32, c: i32| -> i32 {
            (0..4).fold(c, |sum, i| sum.wrapping_add((a >> (8 * i) & 255) * (b << (24 - 8 * i) >> 24)))
        }),
    }
}
