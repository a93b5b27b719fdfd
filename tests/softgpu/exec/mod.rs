//! Runs a kernel: blocks over the host's threads, warps of a block in turn between barriers, 32 lanes an instruction.
//!
//! Lanes that diverge run lowest program counter first, and join when their counters meet.

mod access;
mod async_copy;
mod atomics;
mod block;
mod collective;
mod matrix;
mod step;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::check::{Finding, Findings};
use crate::counters::Counters;
use crate::decode::Kernel;
use crate::memory::{Allocation, Memory};
use crate::shadow::Cell;
use block::Block;

pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) memory: &'a Memory,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: u32,
    pub(crate) params: &'a [u8],
    pub(crate) check: bool,
    pub(crate) threads: usize,
}

pub(crate) struct Outcome {
    pub(crate) counters: Counters,
    pub(crate) findings: Vec<Finding>,
    /// The CUDA error that ended the launch.
    pub(crate) error: Option<i32>,
}

/// What the blocks of a launch share.
pub(crate) struct Shared<'a> {
    launch: &'a Launch<'a>,
    /// A block failed: the others stop.
    stop: AtomicBool,
    /// Accesses to each allocation by granule.
    cells: Mutex<HashMap<u64, Box<[Cell]>>>,
}

impl Shared<'_> {
    /// The cells of an allocation, for as long as the launch lasts.
    fn cells(&self, allocation: &Allocation) -> *const Cell {
        let Ok(mut cells) = self.cells.lock() else { return std::ptr::null() };
        let count = allocation.bytes.div_ceil(u64::from(self.launch.kernel.global_granule));
        let own = cells.entry(allocation.base).or_insert_with(|| (0..count).map(|_| Cell::default()).collect());
        own.as_ptr()
    }
}

pub(crate) fn launch(launch: &Launch) -> Outcome {
    let blocks = launch.grid.iter().map(|&n| u64::from(n)).product::<u64>();
    let next = AtomicU64::new(0);
    let shared = Shared { launch, stop: AtomicBool::new(false), cells: Mutex::new(HashMap::new()) };
    let sums = Mutex::new((Counters { launches: 1, ..Counters::default() }, Findings::default(), None::<i32>));
    let work = || {
        let (counters, findings, error) = if launch.check {
            run_blocks::<true>(&shared, &next, blocks)
        } else {
            run_blocks::<false>(&shared, &next, blocks)
        };
        if let Ok(mut sums) = sums.lock() {
            sums.0.add(&counters);
            sums.1.merge(findings);
            sums.2 = sums.2.or(error);
        }
    };
    let threads = launch.threads.min(usize::try_from(blocks).unwrap_or(usize::MAX));
    if threads <= 1 {
        work();
    } else {
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    }
    match sums.into_inner() {
        Ok((counters, findings, error)) => Outcome { counters, findings: findings.into_vec(), error },
        Err(_) => Outcome { counters: Counters::default(), findings: Vec::new(), error: Some(999) },
    }
}

fn run_blocks<const CHECK: bool>(shared: &Shared, next: &AtomicU64, blocks: u64) -> (Counters, Findings, Option<i32>) {
    let mut block = Block::<CHECK>::new(shared);
    loop {
        let index = next.fetch_add(1, Relaxed);
        if index >= blocks || shared.stop.load(Relaxed) {
            break;
        }
        if block.run(index).is_err() {
            shared.stop.store(true, Relaxed);
            break;
        }
    }
    (block.counters, block.findings, block.error)
}
