//! `atom` and `red`: lane after lane; on global memory also against the blocks that other threads of the host run.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::access::Writing;
use super::block::{Block, Step, Warp};
use super::step::lanes;
use crate::check::Kind;
use crate::decode::{Access, AtomicOp, Ins, Number};
use crate::numeric::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::ptx::Space;

impl<const CHECK: bool> Block<'_, CHECK> {
    pub(crate) fn atomic(
        &mut self,
        warp: &mut Warp,
        ins: &Ins,
        pc: u32,
        access: &Access,
        op: AtomicOp,
        number: Number,
        returns: bool,
        mask: u32,
    ) -> Step<()> {
        let addresses = self.addresses(warp, access);
        let (bytes, wide) = (u32::from(access.width), access.wide_registers);
        let sources = ins.sources();
        let mut touched = ([(Space::Global, 0); 32], 0);
        for lane in lanes(mask) {
            let place = self.place(warp, pc, lane, access.space, addresses[lane as usize], bytes)?;
            if !matches!(place.space, Space::Global | Space::Shared) {
                return self.stop(warp, pc, lane, Kind::OutOfBounds, "an atomic on memory that nobody shares".into());
            }
            if CHECK {
                // SAFETY: `place` covers the access.
                let known = unsafe { std::slice::from_raw_parts(place.marks, bytes as usize) }.iter().all(|&m| m == 1);
                if !known && op != AtomicOp::Exchange {
                    let kind = if place.space == Space::Shared {
                        Kind::UninitialisedShared
                    } else {
                        Kind::UninitialisedGlobal
                    };
                    self.report(warp, pc, lane, kind, || format!("updates the value at {:#x}", place.address));
                }
                self.note_write(warp, pc, lane, &place, bytes, Writing::Update);
                touched.0[touched.1] = (place.space, place.address);
                touched.1 += 1;
                self.counters.atomics += 1;
            }
            let value = |slot: u32| {
                if wide {
                    warp.regs.lane::<u64>(slot, lane as usize)
                } else {
                    u64::from(warp.regs.lane::<u32>(slot, lane as usize))
                }
            };
            let (first, second) = (value(sources[0]), if sources.len() > 2 { value(sources[1]) } else { 0 });
            let next = |old| combine(op, number, wide, old, first, second);
            let old = if wide {
                // SAFETY: aligned, inside the allocation, and used by atomics alone while the launch lasts.
                let cell = unsafe { AtomicU64::from_ptr(place.data.cast()) };
                cell.fetch_update(SeqCst, SeqCst, |old| Some(next(old))).unwrap_or_default()
            } else {
                // SAFETY: as above.
                let cell = unsafe { AtomicU32::from_ptr(place.data.cast()) };
                u64::from(
                    cell.fetch_update(SeqCst, SeqCst, |old| Some(next(u64::from(old)) as u32)).unwrap_or_default(),
                )
            };
            match (returns, wide) {
                (false, _) => {}
                (true, true) => warp.regs.set_lane(ins.r[0], lane as usize, old),
                (true, false) => warp.regs.set_lane(ins.r[0], lane as usize, old as u32),
            }
        }
        if CHECK {
            self.count(&touched.0[..touched.1], bytes);
        }
        Ok(())
    }
}

/// The value that replaces `old`. Increment and decrement wrap at `a`; a compare-and-swap stores `b` where it finds `a`.
pub(crate) fn combine(op: AtomicOp, number: Number, wide: bool, old: u64, a: u64, b: u64) -> u64 {
    let signed = |x: u64| if wide { x.cast_signed() } else { i64::from(x as u32 as i32) };
    let is_less = match number {
        Number::Signed => signed(a) < signed(old),
        _ => a < old,
    };
    match op {
        AtomicOp::Add => add(number, old, a),
        AtomicOp::Min if is_less => a,
        AtomicOp::Min => old,
        AtomicOp::Max if is_less => old,
        AtomicOp::Max => a,
        AtomicOp::And => old & a,
        AtomicOp::Or => old | a,
        AtomicOp::Xor => old ^ a,
        AtomicOp::Exchange => a,
        AtomicOp::CompareSwap => {
            if old == a {
                b
            } else {
                old
            }
        }
        AtomicOp::Increment => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        AtomicOp::Decrement => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
    }
}

fn add(number: Number, old: u64, a: u64) -> u64 {
    let halves = |f: fn(u16, u16) -> u16| {
        let (low, high) = (f(old as u16, a as u16), f((old >> 16) as u16, (a >> 16) as u16));
        u64::from(low) | u64::from(high) << 16
    };
    match number {
        Number::Unsigned | Number::Signed => old.wrapping_add(a),
        Number::F32 => u64::from((f32::from_bits(old as u32) + f32::from_bits(a as u32)).to_bits()),
        Number::F64 => (f64::from_bits(old) + f64::from_bits(a)).to_bits(),
        Number::F16x2 => halves(|x, y| f32_to_f16(f16_to_f32(x) + f16_to_f32(y))),
        Number::Bf16x2 => halves(|x, y| f32_to_bf16(bf16_to_f32(x) + bf16_to_f32(y))),
    }
}
