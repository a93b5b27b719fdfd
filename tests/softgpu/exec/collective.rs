//! Instructions in which lanes read each other: shuffles, votes, matches, reductions.

use super::atomics::combine;
use super::block::{Block, Warp};
use super::step::lanes;
use crate::check::Kind;
use crate::decode::{AtomicOp, Ins, Number, ShuffleMode, VoteMode};

impl<const CHECK: bool> Block<'_, CHECK> {
    /// The lanes that the mask in `slot` names; reports if some of them are not here, or if one here is not named.
    fn members(&mut self, warp: &Warp, pc: u32, slot: u32, mask: u32) -> u32 {
        let members: u32 = warp.regs.lane(slot, mask.trailing_zeros() as usize & 31);
        if CHECK {
            let absent = members & warp.live & !mask;
            if absent != 0 || mask & !members != 0 {
                self.report(warp, pc, mask.trailing_zeros(), Kind::AbsentLanes, || {
                    format!("names lanes {members:#010x}, and {mask:#010x} are here")
                });
            }
        }
        members
    }

    /// The lane that each lane reads: `c` holds the clamp, and above it the mask of the segment.
    pub(crate) fn shuffle(&mut self, warp: &mut Warp, ins: &Ins, pc: u32, mode: ShuffleMode, mask: u32) {
        let sources = ins.sources();
        self.members(warp, pc, sources[3], mask);
        let [values, by, clamps]: [[u32; 32]; 3] = std::array::from_fn(|k| warp.regs.get(sources[k]));
        let (mut out, mut valid) = (values, 0);
        for lane in lanes(mask) {
            let k = lane as usize;
            let (by, clamp, segment) = (by[k] & 31, clamps[k] & 31, clamps[k] >> 8 & 31);
            let last = (lane & segment) | (clamp & !segment);
            let (from, fits) = match mode {
                ShuffleMode::Up => (lane.wrapping_sub(by), lane as i32 - by as i32 >= last as i32),
                ShuffleMode::Down => (lane + by, lane + by <= last),
                ShuffleMode::Butterfly => (lane ^ by, lane ^ by <= last),
                ShuffleMode::Index => {
                    let from = (lane & segment) | (by & !segment);
                    (from, from <= last)
                }
            };
            if !fits {
                continue;
            }
            valid |= 1 << lane;
            out[k] = values[from as usize & 31];
            if CHECK && mask >> (from & 31) & 1 == 0 {
                self.report(warp, pc, lane, Kind::AbsentLanes, || format!("reads lane {from}, which is not here"));
            }
        }
        warp.regs.put(ins.r[0], out, mask);
        warp.set_pred(ins.preds[0], valid, mask);
    }

    pub(crate) fn vote(&mut self, warp: &mut Warp, ins: &Ins, pc: u32, mode: VoteMode, mask: u32) {
        self.members(warp, pc, ins.sources()[0], mask);
        let holds = warp.pred(ins.preds[2]) & mask;
        let answer = match mode {
            VoteMode::All => holds == mask,
            VoteMode::Any => holds != 0,
            VoteMode::Uniform => holds == mask || holds == 0,
            VoteMode::Ballot => {
                warp.regs.put(ins.r[0], [holds; 32], mask);
                return;
            }
        };
        warp.set_pred(ins.preds[0], if answer { !0 } else { 0 }, mask);
    }

    pub(crate) fn find_matches(&mut self, warp: &mut Warp, ins: &Ins, pc: u32, all: bool, wide: bool, mask: u32) {
        let sources = ins.sources();
        self.members(warp, pc, sources[1], mask);
        let values: [u64; 32] =
            if wide { warp.regs.get(sources[0]) } else { warp.regs.get::<u32>(sources[0]).map(u64::from) };
        let equal = |lane: u32| lanes(mask).filter(move |&other| values[other as usize] == values[lane as usize]);
        let mut out = std::array::from_fn(|lane| equal(lane as u32).fold(0u32, |found, other| found | 1 << other));
        if all {
            let same = mask != 0 && out[mask.trailing_zeros() as usize] == mask;
            out = [if same { mask } else { 0 }; 32];
            warp.set_pred(ins.preds[0], if same { !0 } else { 0 }, mask);
        }
        warp.regs.put(ins.r[0], out, mask);
    }

    pub(crate) fn reduce(&mut self, warp: &mut Warp, ins: &Ins, pc: u32, op: AtomicOp, signed: bool, mask: u32) {
        let sources = ins.sources();
        self.members(warp, pc, sources[1], mask);
        let values: [u32; 32] = warp.regs.get(sources[0]);
        let number = if signed { Number::Signed } else { Number::Unsigned };
        let found = lanes(mask).map(|lane| u64::from(values[lane as usize]));
        let sum = found.reduce(|sum, value| combine(op, number, false, sum, value, 0)).unwrap_or_default();
        warp.regs.put(ins.r[0], [sum as u32; 32], mask);
    }
}
