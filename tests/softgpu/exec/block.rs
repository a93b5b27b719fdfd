//! A block: its warps, its shared and local memory, its barriers.

use super::Shared;
use crate::check::{Finding, Findings, Kind};
use crate::counters::Counters;
use crate::decode::{BarrierKind, Ins, Special};
use crate::memory::POISON;
use crate::regs::Regs;
use crate::shadow::{Cell, Stamp};

/// The launch cannot go on; `Block::error` says why.
pub(crate) struct Stopped;
pub(crate) type Step<T> = Result<T, Stopped>;

/// Warp instructions after which a block counts as stuck.
const PATIENCE: u64 = 1 << 30;

/// Lanes that run together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
}

/// Lanes that wait at a block barrier; they go on behind it.
#[derive(Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) group: Group,
    pub(crate) barrier: u32,
    /// How many threads it waits for; 0: all that live.
    pub(crate) count: u32,
    pub(crate) kind: BarrierKind,
    /// The lanes whose predicate holds, for a barrier that reduces.
    pub(crate) holds: u32,
}

/// Lanes that wait for others of their warp.
#[derive(Clone, Copy)]
pub(crate) struct Parked {
    pub(crate) group: Group,
    pub(crate) members: u32,
}

/// A `cp.async` whose bytes have not arrived.
pub(crate) struct Copying {
    pub(crate) lane: u8,
    /// The lane's number of the group; `None` before the commit.
    pub(crate) group: Option<u32>,
    pub(crate) to: u32,
    pub(crate) bytes: u8,
    pub(crate) data: [u8; 16],
}

pub(crate) struct Warp {
    pub(crate) first_thread: u32,
    pub(crate) regs: Regs,
    /// The lanes in which a register was written.
    pub(crate) ready: Vec<u32>,
    pub(crate) preds: Vec<u32>,
    pub(crate) preds_ready: Vec<u32>,
    pub(crate) live: u32,
    pub(crate) groups: Vec<Group>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) parked: Vec<Parked>,
    pub(crate) copying: Vec<Copying>,
    pub(crate) committed: [u32; 32],
    /// How many `bar.warp.sync` it passed.
    pub(crate) time: u32,
}

/// The allocation an instruction touched last.
#[derive(Clone, Copy)]
pub(crate) struct Cached {
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    pub(crate) data: *mut u8,
    pub(crate) written: *mut u8,
    pub(crate) cells: *const Cell,
}

pub(crate) const NOWHERE: Cached = Cached {
    base: u64::MAX,
    bytes: 0,
    data: std::ptr::null_mut(),
    written: std::ptr::null_mut(),
    cells: std::ptr::null(),
};

pub(crate) struct Block<'a, const CHECK: bool> {
    pub(crate) shared: &'a Shared<'a>,
    warps: Vec<Warp>,
    /// Shared memory in 16-byte units, so that vectors are aligned.
    smem: Vec<[u64; 2]>,
    pub(crate) smem_bytes: u32,
    /// A mark a byte: 0 nobody wrote it, 1 written, 2 a cp.async is on its way.
    pub(crate) smem_marks: Vec<u8>,
    pub(crate) smem_cells: Vec<Cell>,
    lmem: Vec<[u64; 2]>,
    pub(crate) lmem_marks: Vec<u8>,
    pub(crate) lmem_stride: u32,
    pub(crate) cached: Vec<Cached>,
    /// Threads that arrived at a barrier without waiting.
    pub(crate) arrived: [u32; 16],
    pub(crate) time: u32,
    pub(crate) id: [u32; 3],
    pub(crate) index: u32,
    pub(crate) steps: u64,
    pub(crate) counters: Counters,
    pub(crate) findings: Findings,
    pub(crate) error: Option<i32>,
}

impl<'a, const CHECK: bool> Block<'a, CHECK> {
    pub(crate) fn new(shared: &'a Shared<'a>) -> Self {
        let launch = shared.launch;
        let kernel = launch.kernel;
        let threads = launch.block.iter().product::<u32>();
        let smem_bytes = kernel.shared_bytes + launch.dynamic_shared;
        let lmem_stride = kernel.local_bytes.next_multiple_of(16);
        let lmem_bytes = (lmem_stride * threads.next_multiple_of(32)) as usize;
        let marks = |bytes: usize| if CHECK { vec![0; bytes] } else { Vec::new() };
        let cells = if CHECK { smem_bytes.div_ceil(kernel.shared_granule) } else { 0 };
        let mut block = Block {
            shared,
            warps: Vec::new(),
            smem: vec![[0; 2]; (smem_bytes as usize).div_ceil(16)],
            smem_bytes,
            smem_marks: marks(smem_bytes as usize),
            smem_cells: (0..cells).map(|_| Cell::default()).collect(),
            lmem: vec![[0; 2]; lmem_bytes / 16],
            lmem_marks: marks(lmem_bytes),
            lmem_stride,
            cached: vec![NOWHERE; kernel.code.len()],
            arrived: [0; 16],
            time: 0,
            id: [0; 3],
            index: 0,
            steps: 0,
            counters: Counters { opcodes: vec![0; kernel.opcodes.len()], ..Counters::default() },
            findings: Findings::default(),
            error: None,
        };
        for warp in 0..threads.div_ceil(32) {
            block.warps.push(block.new_warp(warp * 32));
        }
        block
    }

    fn new_warp(&self, first_thread: u32) -> Warp {
        let kernel = self.shared.launch.kernel;
        let mut regs = Regs::new(kernel.slots);
        for &(slot, value, wide) in &kernel.constants {
            if wide {
                regs.put(slot, [value; 32], !0);
            } else {
                regs.put(slot, [value as u32; 32], !0);
            }
        }
        Warp {
            first_thread,
            regs,
            ready: vec![0; kernel.slots],
            preds: vec![0; kernel.predicates],
            preds_ready: vec![0; kernel.predicates],
            live: 0,
            groups: Vec::new(),
            waiting: Vec::new(),
            parked: Vec::new(),
            copying: Vec::new(),
            committed: [0; 32],
            time: 0,
        }
    }

    pub(crate) fn smem(&mut self) -> *mut u8 {
        self.smem.as_mut_ptr().cast()
    }

    pub(crate) fn lmem(&mut self) -> *mut u8 {
        self.lmem.as_mut_ptr().cast()
    }

    /// Runs block number `index` of the grid from its start to its end.
    pub(crate) fn run(&mut self, index: u64) -> Step<()> {
        self.reset(index);
        let mut warps = std::mem::take(&mut self.warps);
        let done = self.run_warps(&mut warps);
        self.warps = warps;
        done
    }

    fn reset(&mut self, index: u64) {
        let grid = self.shared.launch.grid.map(u64::from);
        self.id = [index % grid[0], index / grid[0] % grid[1], index / grid[0] / grid[1]].map(|x| x as u32);
        self.index = index as u32;
        self.time = 0;
        self.steps = 0;
        self.arrived = [0; 16];
        if CHECK {
            self.smem.fill([u64::from_le_bytes([POISON; 8]); 2]);
            self.smem_marks.fill(0);
            self.lmem_marks.fill(0);
            self.smem_cells.iter().for_each(Cell::clear);
        }
        let mut warps = std::mem::take(&mut self.warps);
        let threads = self.shared.launch.block.iter().product::<u32>();
        for warp in &mut warps {
            let lanes = (threads - warp.first_thread).min(32);
            warp.live = if lanes == 32 { !0 } else { (1 << lanes) - 1 };
            warp.groups = vec![Group { pc: 0, mask: warp.live }];
            warp.waiting.clear();
            warp.parked.clear();
            warp.copying.clear();
            warp.committed = [0; 32];
            warp.time = 0;
            warp.ready.fill(0);
            warp.preds_ready.fill(0);
            self.fill_specials(warp);
        }
        self.warps = warps;
    }

    fn fill_specials(&self, warp: &mut Warp) {
        let launch = self.shared.launch;
        let kernel = launch.kernel;
        let [bx, by, bz] = launch.block;
        for &(slot, _, _) in &kernel.constants {
            warp.ready[slot as usize] = !0;
        }
        for &(special, slot) in &kernel.specials {
            let values = std::array::from_fn::<u32, 32, _>(|lane| {
                let (thread, lane) = (warp.first_thread + lane as u32, lane as u32);
                match special {
                    Special::Tid(axis) => [thread % bx, thread / bx % by, thread / bx / by][axis as usize],
                    Special::Ntid(axis) => launch.block[axis as usize],
                    Special::Ctaid(axis) => self.id[axis as usize],
                    Special::Nctaid(axis) => launch.grid[axis as usize],
                    Special::Lane => lane,
                    Special::Warp => warp.first_thread / 32,
                    Special::Warps => (bx * by * bz).div_ceil(32),
                    Special::MaskEq => 1 << lane,
                    Special::MaskLt => (1 << lane) - 1,
                    Special::MaskLe => ((2u64 << lane) - 1) as u32,
                    Special::MaskGt => !((2u64 << lane) - 1) as u32,
                    Special::MaskGe => !((1 << lane) - 1),
                    Special::DynamicShared => launch.dynamic_shared,
                    Special::TotalShared => self.smem_bytes,
                    Special::Zero => 0,
                }
            });
            warp.regs.put(slot, values, !0);
            if special == Special::Zero {
                warp.regs.put(slot, [0u64; 32], !0);
            }
            warp.ready[slot as usize] = !0;
        }
    }

    fn run_warps(&mut self, warps: &mut [Warp]) -> Step<()> {
        loop {
            for warp in warps.iter_mut() {
                while !warp.groups.is_empty() {
                    self.run_groups(warp)?;
                    self.unpark(warp)?;
                }
            }
            if warps.iter().all(|warp| warp.live == 0) {
                return Ok(());
            }
            self.release(warps)?;
        }
    }

    /// Lets lanes go on whose partners of a `bar.warp.sync` have all come, or have exited.
    fn unpark(&mut self, warp: &mut Warp) -> Step<()> {
        for i in 0..warp.parked.len() {
            let members = warp.parked[i].members;
            let same = |parked: &&Parked| parked.members == members;
            let here = warp.parked.iter().filter(same).fold(0, |mask, parked| mask | parked.group.mask);
            if members & warp.live & !here == 0 {
                let freed = warp.parked.extract_if(.., |parked| parked.members == members).map(|parked| parked.group);
                warp.groups.extend(freed);
                warp.time += 1;
                return Ok(());
            }
        }
        let stuck = warp.groups.is_empty() && warp.waiting.is_empty() && !warp.parked.is_empty();
        if !stuck {
            return Ok(());
        }
        let parked = warp.parked[0];
        let text = format!(
            "bar.warp.sync waits for lanes {:#010x}, of which {:#010x} came; the others never will",
            parked.members, parked.group.mask
        );
        self.stop(warp, parked.group.pc - 1, parked.group.mask.trailing_zeros(), Kind::Deadlock, text)
    }

    /// Opens every block barrier at which all that it waits for have arrived.
    fn release(&mut self, warps: &mut [Warp]) -> Step<()> {
        let live: u32 = warps.iter().map(|warp| warp.live.count_ones()).sum();
        let mut opened = false;
        for barrier in 0..16 {
            let here = |warp: &Warp| -> Vec<Waiting> {
                warp.waiting.iter().filter(|waiting| waiting.barrier == barrier).copied().collect()
            };
            let all: Vec<Waiting> = warps.iter().flat_map(here).collect();
            let Some(first) = all.first() else { continue };
            let waiting: u32 = all.iter().map(|waiting| waiting.group.mask.count_ones()).sum();
            let wanted = if first.count == 0 { live } else { first.count };
            if waiting + self.arrived[barrier as usize] < wanted {
                continue;
            }
            self.arrived[barrier as usize] = 0;
            self.open(warps, barrier, waiting, all.iter().map(|waiting| waiting.holds.count_ones()).sum());
            opened = true;
        }
        if opened {
            // Also where only some threads met: their order to the others is then not checked.
            self.time += 1;
            self.counters.barriers += 1;
            return Ok(());
        }
        let Some(warp) = warps.iter().find(|warp| warp.live != 0) else { return Ok(()) };
        let Some(waiting) = warps.iter().find_map(|warp| warp.waiting.first()).copied() else {
            return self.stop(warp, 0, 0, Kind::Deadlock, "no lane can go on".into());
        };
        let lane = waiting.group.mask.trailing_zeros();
        let text = format!("barrier {} never opens: the {live} live threads do not all come to it", waiting.barrier);
        self.stop(warp, waiting.group.pc - 1, lane, Kind::Deadlock, text)
    }

    /// Frees the lanes at `barrier` and gives them the result, if it has one.
    fn open(&mut self, warps: &mut [Warp], barrier: u32, threads: u32, holding: u32) {
        let code = &self.shared.launch.kernel.code;
        for warp in warps {
            let freed: Vec<Waiting> = warp.waiting.extract_if(.., |waiting| waiting.barrier == barrier).collect();
            for waiting in freed {
                let (ins, mask): (&Ins, u32) = (&code[waiting.group.pc as usize - 1], waiting.group.mask);
                match waiting.kind {
                    BarrierKind::Popc => {
                        warp.regs.put(ins.r[0], [holding; 32], mask);
                        warp.ready[ins.r[0] as usize] |= mask;
                    }
                    BarrierKind::And => warp.set_pred(ins.preds[0], if holding == threads { mask } else { 0 }, mask),
                    BarrierKind::Or => warp.set_pred(ins.preds[0], if holding > 0 { mask } else { 0 }, mask),
                    BarrierKind::Sync | BarrierKind::Arrive => {}
                }
                warp.groups.push(waiting.group);
            }
        }
    }

    // ---- findings ----

    /// Notes that something is wrong in a lane.
    #[cold]
    #[inline(never)]
    pub(crate) fn report(&mut self, warp: &Warp, pc: u32, lane: u32, kind: Kind, detail: impl FnOnce() -> String) {
        if self.findings.again(pc, kind) {
            return;
        }
        let launch = self.shared.launch;
        let [bx, by, _] = launch.block;
        let thread = warp.first_thread + lane;
        let ins = &launch.kernel.code[pc as usize];
        let finding = Finding {
            kind,
            kernel: launch.kernel.name.clone(),
            place: launch.kernel.place(ins.origin),
            opcode: launch.kernel.opcodes[ins.name as usize].clone(),
            block: self.id,
            thread: [thread % bx, thread / bx % by, thread / bx / by],
            detail: detail(),
            count: 1,
        };
        self.findings.add(pc, finding);
    }

    /// Notes it and ends the launch.
    #[cold]
    pub(crate) fn stop<T>(&mut self, warp: &Warp, pc: u32, lane: u32, kind: Kind, detail: String) -> Step<T> {
        self.report(warp, pc, lane & 31, kind, || detail);
        self.error = kind.error();
        Err(Stopped)
    }

    /// Counts an instruction of a loop, so that an endless one ends.
    #[inline(always)]
    pub(crate) fn tick(&mut self, warp: &Warp, pc: u32, mask: u32) -> Step<()> {
        self.steps += 1;
        if self.steps < PATIENCE {
            return Ok(());
        }
        let text = format!("{PATIENCE} jumps and no end; the loop waits for something that never comes");
        self.stop(warp, pc, mask.trailing_zeros(), Kind::Deadlock, text)
    }

    #[inline(always)]
    pub(crate) fn stamp(&self, warp: &Warp, lane: u32) -> Stamp {
        Stamp::new(self.index, warp.first_thread + lane, self.time, warp.time)
    }
}

impl Warp {
    /// The lanes in which a predicate, perhaps negated, holds.
    #[inline(always)]
    pub(crate) fn pred(&self, pred: crate::decode::Pred) -> u32 {
        let value = self.preds[pred.index as usize];
        if pred.negated { !value } else { value }
    }

    /// Sets a predicate in the lanes of `mask`; nothing where there is none.
    #[inline(always)]
    pub(crate) fn set_pred(&mut self, pred: crate::decode::Pred, value: u32, mask: u32) {
        if pred.index != crate::decode::ALWAYS {
            let place = &mut self.preds[pred.index as usize];
            *place = *place & !mask | value & mask;
            self.preds_ready[pred.index as usize] |= mask;
        }
    }
}
