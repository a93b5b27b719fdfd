//! One instruction after the other.

use super::block::{Block, Group, Parked, Step, Waiting, Warp};
use crate::alu;
use crate::check::Kind;
use crate::decode::{ALWAYS, BarrierKind, Class, Ins, Logic, Op};
use crate::mma;

impl<const CHECK: bool> Block<'_, CHECK> {
    /// Runs the warp until each lane waits or has ended.
    pub(crate) fn run_groups(&mut self, warp: &mut Warp) -> Step<()> {
        let code = &self.shared.launch.kernel.code[..];
        while let Some(mut group) = warp.take_group() {
            // The group that is furthest behind runs; where it meets another, they join.
            let mut limit = warp.next_pc();
            let (mut issued, mut lanes) = (0u64, 0u64);
            loop {
                if group.pc >= limit {
                    warp.groups.push(group);
                    break;
                }
                let ins = &code[group.pc as usize];
                let mut mask = group.mask;
                if ins.guard.index != ALWAYS {
                    mask &= warp.pred(ins.guard);
                }
                issued += 1;
                lanes += u64::from(mask.count_ones());
                if CHECK {
                    self.counters.opcodes[ins.name as usize] += 1;
                    self.check_registers(warp, ins, group, mask);
                }
                match ins.op {
                    Op::Alu | Op::Move => {
                        if mask != 0 {
                            // SAFETY: `f` was picked for this processor.
                            unsafe { (ins.f)(&mut warp.regs, ins, mask) };
                        }
                    }
                    Op::Branch(target) => {
                        self.tick(warp, group.pc, mask)?;
                        if mask == group.mask {
                            group.pc = target;
                        } else if mask == 0 {
                            group.pc += 1;
                        } else {
                            self.counters.divergent_branches += 1;
                            warp.groups.push(Group { pc: group.pc + 1, mask: group.mask & !mask });
                            warp.groups.push(Group { pc: target, mask });
                            break;
                        }
                        continue;
                    }
                    Op::BranchTable(table) => {
                        self.branch_table(warp, ins, group, mask, table)?;
                        break;
                    }
                    Op::Exit => {
                        warp.live &= !mask;
                        group.mask &= !mask;
                        if group.mask == 0 {
                            break;
                        }
                    }
                    Op::Barrier { .. } => {
                        if mask != 0 && self.arrive(warp, ins, group, mask) {
                            let rest = group.mask & !mask;
                            if rest != 0 {
                                warp.groups.push(Group { pc: group.pc + 1, mask: rest });
                            }
                            break;
                        }
                    }
                    Op::BarrierWarp => {
                        if let Some(parked) = self.meet(warp, ins, group, mask) {
                            warp.parked.push(parked);
                            break;
                        }
                    }
                    _ if mask == 0 => {}
                    _ => self.execute(warp, ins, group.pc, mask)?,
                }
                if CHECK {
                    self.mark_registers(warp, ins, mask);
                }
                group.pc += 1;
                if matches!(ins.op, Op::Exit) {
                    limit = warp.next_pc();
                }
            }
            self.counters.warp_instructions += issued;
            self.counters.lane_instructions += lanes;
        }
        Ok(())
    }

    fn execute(&mut self, warp: &mut Warp, ins: &Ins, pc: u32, mask: u32) -> Step<()> {
        match ins.op {
            Op::SetPredicate(logic) => {
                // SAFETY: `test` was picked for this processor.
                let holds = unsafe { (ins.test)(&warp.regs, ins) };
                let combine = |value| match logic {
                    None => value,
                    Some(logic) => apply(logic, value, warp.pred(ins.preds[2])),
                };
                let (yes, no) = (combine(holds), combine(!holds));
                warp.set_pred(ins.preds[0], yes, mask);
                warp.set_pred(ins.preds[1], no, mask);
            }
            Op::Select { wide } => {
                let pick = warp.pred(ins.preds[2]);
                alu::select(&mut warp.regs, ins, wide, pick, mask);
            }
            Op::Predicate(logic) => {
                let first = warp.pred(ins.preds[1]);
                let value = logic.map_or(first, |logic| apply(logic, first, warp.pred(ins.preds[2])));
                warp.set_pred(ins.preds[0], value, mask);
            }
            Op::PredicateConstant(value) => warp.set_pred(ins.preds[0], if value { !0 } else { 0 }, mask),
            Op::TestClass(class) => {
                let values: [f32; 32] = warp.regs.get(ins.r[0]);
                let holds = (0..32).fold(0, |out, k| out | u32::from(is_class(values[k], class)) << k);
                warp.set_pred(ins.preds[0], holds, mask);
            }
            Op::Pack { bits } => pack(warp, ins, u32::from(bits), mask),
            Op::Unpack { bits } => unpack(warp, ins, u32::from(bits), mask),
            Op::Trap => return self.stop(warp, pc, mask.trailing_zeros(), Kind::Trap, "the kernel trapped".into()),
            Op::Load(access) => self.load(warp, ins, pc, &access, mask)?,
            Op::Store(access) => self.store(warp, ins, pc, &access, mask)?,
            Op::Atomic(access, op, number, returns) => {
                self.atomic(warp, ins, pc, &access, op, number, returns, mask)?;
            }
            Op::CpAsync { to, from } => self.copy_async(warp, ins, pc, &to, &from, mask)?,
            Op::CpCommit => commit(warp, mask),
            Op::CpWait(left) => self.wait(warp, left, mask),
            Op::LdMatrix { from, transposed } => self.load_matrix(warp, ins, pc, &from, transposed, mask)?,
            Op::StMatrix { to, transposed } => self.store_matrix(warp, ins, pc, &to, transposed, mask)?,
            Op::MovMatrix => {
                self.want_all(warp, pc, mask);
                let rows = mma::rows(&warp.regs.get(ins.r[1]), false);
                warp.regs.put(ins.r[0], mma::fragment(&rows, true), mask);
            }
            Op::Mma(shape) => {
                self.want_all(warp, pc, mask);
                mma::product(shape, &mut warp.regs, ins.targets(), ins.sources());
                self.counters.mma_instructions += 1;
                self.counters.mma_flops += shape.flops();
            }
            Op::Shuffle(mode) => self.shuffle(warp, ins, pc, mode, mask),
            Op::Vote(mode) => self.vote(warp, ins, pc, mode, mask),
            Op::Match { all, wide } => self.find_matches(warp, ins, pc, all, wide, mask),
            Op::Reduce(op, signed) => self.reduce(warp, ins, pc, op, signed, mask),
            Op::ActiveMask => warp.regs.put(ins.r[0], [mask; 32], mask),
            _ => {}
        }
        Ok(())
    }

    // ---- control ----

    /// Splits the group by the target each lane picks; an index past the table is the program's error.
    fn branch_table(&mut self, warp: &mut Warp, ins: &Ins, group: Group, mask: u32, table: u32) -> Step<()> {
        let targets = &self.shared.launch.kernel.tables[table as usize];
        let picks: [u32; 32] = warp.regs.get(ins.r[0]);
        if group.mask != mask {
            warp.groups.push(Group { pc: group.pc + 1, mask: group.mask & !mask });
        }
        for lane in lanes(mask) {
            let Some(&pc) = targets.get(picks[lane as usize] as usize) else {
                let text = format!("index {} into a table of {} targets", picks[lane as usize], targets.len());
                return self.stop(warp, group.pc, lane, Kind::OutOfBounds, text);
            };
            match warp.groups.iter_mut().find(|other| other.pc == pc) {
                Some(other) => other.mask |= 1 << lane,
                None => warp.groups.push(Group { pc, mask: 1 << lane }),
            }
        }
        Ok(())
    }

    /// Brings lanes to a block barrier; whether they wait there.
    fn arrive(&mut self, warp: &mut Warp, ins: &Ins, group: Group, mask: u32) -> bool {
        let Op::Barrier { kind, aligned, counted } = ins.op else { return false };
        if CHECK && aligned && mask != warp.live {
            let live = warp.live;
            self.report(warp, group.pc, mask.trailing_zeros(), Kind::DivergentBarrier, || {
                format!("lanes {mask:#010x} of the live {live:#010x} came together")
            });
        }
        let lane = mask.trailing_zeros() as usize;
        let sources = ins.sources();
        let barrier = warp.regs.lane::<u32>(sources[0], lane) & 15;
        let count = if counted { warp.regs.lane(sources[1], lane) } else { 0 };
        if kind == BarrierKind::Arrive {
            self.arrived[barrier as usize] += mask.count_ones();
            return false;
        }
        let reduces = !matches!(kind, BarrierKind::Sync);
        let holds = if reduces { warp.pred(ins.preds[2]) & mask } else { 0 };
        let group = Group { pc: group.pc + 1, mask };
        warp.waiting.push(Waiting { group, barrier, count, kind, holds });
        true
    }

    /// `bar.warp.sync`: passes if all named lanes are here, else they wait for the others.
    fn meet(&mut self, warp: &mut Warp, ins: &Ins, group: Group, mask: u32) -> Option<Parked> {
        let members: u32 = warp.regs.lane(ins.r[0], mask.trailing_zeros() as usize & 31);
        if mask == 0 {
            return None;
        }
        if members & warp.live & !mask == 0 && warp.parked.is_empty() {
            warp.time += 1;
            return None;
        }
        Some(Parked { group: Group { pc: group.pc + 1, mask: group.mask }, members })
    }

    /// `mma.sync` and its kin want the whole warp.
    pub(crate) fn want_all(&mut self, warp: &Warp, pc: u32, mask: u32) {
        if CHECK && mask != !0 {
            self.report(warp, pc, mask.trailing_zeros(), Kind::AbsentLanes, || {
                format!("all 32 lanes must execute it together, and only {mask:#010x} do")
            });
        }
    }

    // ---- registers that nobody wrote ----

    #[inline(always)]
    fn check_registers(&mut self, warp: &Warp, ins: &Ins, group: Group, mask: u32) {
        if ins.guard.index != ALWAYS && group.mask & !warp.preds_ready[ins.guard.index as usize] != 0 {
            let lanes = group.mask & !warp.preds_ready[ins.guard.index as usize];
            self.unready(warp, group.pc, lanes, "the guarding predicate");
        }
        if carries(ins.op) {
            return;
        }
        for (k, &slot) in ins.sources().iter().enumerate() {
            let lanes = mask & !warp.ready[slot as usize];
            if lanes != 0 {
                self.unready(warp, group.pc, lanes, &format!("source {k}"));
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn unready(&mut self, warp: &Warp, pc: u32, lanes: u32, what: &str) {
        self.report(warp, pc, lanes.trailing_zeros(), Kind::UninitialisedRegister, || {
            format!("{what} was never written in lanes {lanes:#010x}")
        });
    }

    #[inline(always)]
    fn mark_registers(&mut self, warp: &mut Warp, ins: &Ins, mask: u32) {
        let known = if !carries(ins.op) {
            mask
        } else if let Op::Select { .. } = ins.op {
            let pick = warp.pred(ins.preds[2]);
            let (a, b) = (warp.ready[ins.r[1] as usize], warp.ready[ins.r[2] as usize]);
            mask & (pick & a | !pick & b)
        } else {
            ins.sources().iter().fold(mask, |known, &slot| known & warp.ready[slot as usize])
        };
        for &slot in ins.targets() {
            let ready = &mut warp.ready[slot as usize];
            *ready = *ready & !mask | known;
        }
    }
}

/// Whether the instruction only carries its sources on: copies that compilers make of values nobody will use are no error.
#[inline(always)]
fn carries(op: Op) -> bool {
    matches!(op, Op::Move | Op::Select { .. } | Op::Pack { .. } | Op::Unpack { .. })
}

fn apply(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

fn is_class(x: f32, class: Class) -> bool {
    match class {
        Class::Finite => x.is_finite(),
        Class::Infinite => x.is_infinite(),
        Class::Number => !x.is_nan(),
        Class::NotANumber => x.is_nan(),
        Class::Normal => x.is_normal(),
        Class::Subnormal => x.is_subnormal(),
    }
}

/// Joins sources of `bits` each, the first lowest; `paired` marks a 64-bit result.
fn pack(warp: &mut Warp, ins: &Ins, bits: u32, mask: u32) {
    let mut out = [0u64; 32];
    for (k, &slot) in ins.sources().iter().enumerate() {
        let part: [u32; 32] = warp.regs.get(slot);
        for lane in 0..32 {
            let value = u64::from(part[lane]) & (!0 >> (64 - bits));
            out[lane] |= value << (k as u32 * bits);
        }
    }
    if ins.paired {
        warp.regs.put(ins.r[0], out, mask);
    } else {
        warp.regs.put(ins.r[0], out.map(|value| value as u32), mask);
    }
}

fn unpack(warp: &mut Warp, ins: &Ins, bits: u32, mask: u32) {
    let source = ins.sources()[0];
    let whole: [u64; 32] = if ins.paired { warp.regs.get(source) } else { warp.regs.get::<u32>(source).map(u64::from) };
    for (k, &slot) in ins.targets().iter().enumerate() {
        warp.regs.put(slot, whole.map(|value| (value >> (k as u32 * bits) & (!0 >> (64 - bits))) as u32), mask);
    }
}

/// `cp.async.commit_group`: what each lane issued since its last one becomes a group.
pub(crate) fn commit(warp: &mut Warp, mask: u32) {
    for copying in warp.copying.iter_mut().filter(|copying| mask >> copying.lane & 1 != 0) {
        copying.group = copying.group.or(Some(warp.committed[copying.lane as usize]));
    }
    for lane in lanes(mask) {
        warp.committed[lane as usize] += 1;
    }
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (lane < 32).then_some(lane)
    })
}

impl Warp {
    /// Takes the group with the lowest pc, joined with all others that stand there.
    pub(crate) fn take_group(&mut self) -> Option<Group> {
        let pc = self.groups.iter().map(|group| group.pc).min()?;
        let mut mask = 0;
        self.groups.retain(|group| {
            mask |= if group.pc == pc { group.mask } else { 0 };
            group.pc != pc
        });
        Some(Group { pc, mask })
    }

    pub(crate) fn next_pc(&self) -> u32 {
        self.groups.iter().map(|group| group.pc).min().unwrap_or(u32::MAX)
    }
}
