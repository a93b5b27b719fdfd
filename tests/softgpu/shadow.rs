//! Races: every granule of memory remembers who wrote and who read it last, and when, as far as barriers tell time.
//!
//! Two accesses by different threads, one of them a write, are ordered if a block barrier lies between them, or, inside a
//! warp, a `bar.warp.sync`. Nothing orders two blocks of a launch, except that atomics do not race with each other.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Who and when: block (20 bits), thread (10), barriers passed by the block (16) and by the warp (15), flags (3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(pub(crate) u64);

/// In a read: others read as well, in another block, warp or lane. In a write: `MANY_LANES` marks an atomic.
const MANY_BLOCKS: u64 = 4;
const MANY_WARPS: u64 = 2;
const MANY_LANES: u64 = 1;
const ATOMIC: u64 = 1;

impl Stamp {
    pub(crate) fn new(block: u32, thread: u32, block_time: u32, warp_time: u32) -> Self {
        let block = (u64::from(block) + 1) & 0xf_ffff;
        Stamp(
            block.max(1) << 44
                | u64::from(thread & 0x3ff) << 34
                | u64::from(block_time & 0xffff) << 18
                | u64::from(warp_time & 0x7fff) << 3,
        )
    }

    pub(crate) fn atomic(self) -> Self {
        Stamp(self.0 | ATOMIC)
    }

    fn block(self) -> u64 {
        self.0 >> 44
    }

    fn thread(self) -> u64 {
        self.0 >> 34 & 0x3ff
    }

    fn warp(self) -> u64 {
        self.thread() / 32
    }

    fn block_time(self) -> u64 {
        self.0 >> 18 & 0xffff
    }

    fn warp_time(self) -> u64 {
        self.0 >> 3 & 0x7fff
    }

    /// Whether `earlier` surely happened before what stands here now.
    fn follows(self, earlier: Stamp) -> bool {
        earlier.block() == self.block()
            && (earlier.thread() == self.thread()
                || earlier.block_time() != self.block_time()
                || earlier.warp() == self.warp() && earlier.warp_time() != self.warp_time())
    }

    /// What is known of a cell's readers once `self` has read it too.
    fn joined(self, others: Stamp) -> Stamp {
        let mut flags = others.0 & 7;
        if others.block() != self.block() {
            flags = MANY_BLOCKS;
        } else if others.block_time() != self.block_time() {
            flags &= MANY_BLOCKS;
        } else if others.warp() != self.warp() {
            flags |= MANY_WARPS;
        } else if others.warp_time() != self.warp_time() {
            flags &= !MANY_LANES;
        } else if others.thread() != self.thread() {
            flags |= MANY_LANES;
        }
        Stamp(self.0 | flags)
    }

    /// Whether a write here races with the reads that `readers` stands for.
    fn races_with_reads(self, readers: Stamp) -> bool {
        let flags = readers.0 & 7;
        if flags & MANY_BLOCKS != 0 || readers.block() != self.block() {
            return true;
        }
        if readers.block_time() != self.block_time() {
            return false;
        }
        if flags & MANY_WARPS != 0 || readers.warp() != self.warp() {
            return true;
        }
        readers.warp_time() == self.warp_time() && (flags & MANY_LANES != 0 || readers.thread() != self.thread())
    }

    /// In words, for a report.
    pub(crate) fn describe(self) -> String {
        format!("block {}, thread {}", self.block() - 1, self.thread())
    }
}

/// The other side of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    WrittenBy(Stamp),
    ReadBy(Stamp),
}

#[derive(Default)]
pub(crate) struct Cell {
    write: AtomicU64,
    read: AtomicU64,
}

impl Cell {
    /// Notes a read; says whether it was the cell's first, and what it races with.
    #[inline]
    pub(crate) fn read(&self, now: Stamp, strong: bool) -> (bool, Option<Conflict>) {
        let written = self.write.load(Relaxed);
        let mut before = self.read.load(Relaxed);
        if before == 0 {
            // Blocks run side by side: of two that come at once, one is the first.
            before = self.read.swap(now.0, Relaxed);
        }
        let first = before == 0;
        if !first && before != now.0 {
            self.read.store(now.joined(Stamp(before)).0, Relaxed);
        }
        let races = written != 0 && !now.follows(Stamp(written)) && !(strong && written & ATOMIC != 0);
        (first, races.then_some(Conflict::WrittenBy(Stamp(written))))
    }

    /// Notes a write likewise. `same` says that it leaves the value as it was: two threads may agree on a value.
    #[inline]
    pub(crate) fn write(&self, now: Stamp, same: bool) -> (bool, Option<Conflict>) {
        let before = self.write.swap(now.0, Relaxed);
        let readers = self.read.load(Relaxed);
        let both_atomic = before & now.0 & ATOMIC != 0;
        let conflict = if before != 0 && !same && !both_atomic && !now.follows(Stamp(before)) {
            Some(Conflict::WrittenBy(Stamp(before)))
        } else if readers != 0 && !same && now.0 & ATOMIC == 0 && now.races_with_reads(Stamp(readers)) {
            Some(Conflict::ReadBy(Stamp(readers)))
        } else {
            None
        };
        (before == 0, conflict)
    }

    /// Notes an atomic read-modify-write: it races with plain writes, and with plain reads.
    #[inline]
    pub(crate) fn update(&self, now: Stamp) -> (bool, Option<Conflict>) {
        let readers = self.read.load(Relaxed);
        let (first, conflict) = self.write(now.atomic(), false);
        let racing = readers != 0 && now.races_with_reads(Stamp(readers));
        (first, conflict.or(racing.then_some(Conflict::ReadBy(Stamp(readers)))))
    }

    pub(crate) fn clear(&self) {
        self.write.store(0, Relaxed);
        self.read.store(0, Relaxed);
    }
}
