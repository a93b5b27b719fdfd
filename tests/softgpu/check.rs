//! What is wrong with a kernel, said once a place and counted.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    OutOfBounds,
    Misaligned,
    UninitialisedGlobal,
    UninitialisedShared,
    UninitialisedLocal,
    UninitialisedRegister,
    SharedRace,
    GlobalRace,
    DivergentBarrier,
    Deadlock,
    AbsentLanes,
    CopyInFlight,
    Trap,
    /// The host read, freed or overwrote what a stream still needed, or copied what nobody wrote.
    Host,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "out of bounds",
            Kind::Misaligned => "misaligned",
            Kind::UninitialisedGlobal => "uninitialised global memory",
            Kind::UninitialisedShared => "uninitialised shared memory",
            Kind::UninitialisedLocal => "uninitialised local memory",
            Kind::UninitialisedRegister => "uninitialised register",
            Kind::SharedRace => "shared-memory race",
            Kind::GlobalRace => "global-memory race",
            Kind::DivergentBarrier => "divergent barrier",
            Kind::Deadlock => "deadlock",
            Kind::AbsentLanes => "absent lanes",
            Kind::CopyInFlight => "cp.async in flight",
            Kind::Trap => "trap",
            Kind::Host => "host",
        }
    }

    /// The CUDA error that ends the launch, for what would end it on a GPU.
    pub(crate) fn error(self) -> Option<i32> {
        match self {
            Kind::OutOfBounds => Some(700),
            Kind::Misaligned => Some(716),
            Kind::Trap => Some(719),
            Kind::Deadlock => Some(702),
            _ => None,
        }
    }
}

/// The first of its kind at its place.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) kernel: String,
    /// `file.cu:12`
    pub(crate) place: String,
    pub(crate) opcode: String,
    pub(crate) block: [u32; 3],
    pub(crate) thread: [u32; 3],
    pub(crate) detail: String,
    pub(crate) count: u64,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.kernel.is_empty() {
            write!(f, "{}: {}", self.kind.name(), self.detail)?;
        } else {
            let Finding { kernel, place, opcode, block, thread, .. } = self;
            write!(f, "{}: {kernel} at {place} ({opcode}), ", self.kind.name())?;
            write!(f, "block {block:?}, thread {thread:?}: {}", self.detail)?;
        }
        if self.count > 1 { write!(f, " ({} times)", self.count) } else { Ok(()) }
    }
}

/// Findings by instruction and kind; of each, the one in the lowest block and thread is kept.
#[derive(Default)]
pub(crate) struct Findings(BTreeMap<(u32, Kind), Finding>);

impl Findings {
    pub(crate) fn add(&mut self, pc: u32, finding: Finding) {
        let order = |finding: &Finding| {
            let [bx, by, bz] = finding.block;
            let [tx, ty, tz] = finding.thread;
            (bz, by, bx, tz, ty, tx)
        };
        match self.0.entry((pc, finding.kind)) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(finding);
            }
            std::collections::btree_map::Entry::Occupied(mut place) => {
                let count = place.get().count + finding.count;
                if order(&finding) < order(place.get()) {
                    place.insert(finding);
                }
                place.get_mut().count = count;
            }
        }
    }

    /// Counts one more of a kind that was found at this place often enough to know its lowest thread.
    pub(crate) fn again(&mut self, pc: u32, kind: Kind) -> bool {
        let known = self.0.get_mut(&(pc, kind)).filter(|finding| finding.count > 64);
        known.is_some_and(|finding| {
            finding.count += 1;
            true
        })
    }

    pub(crate) fn merge(&mut self, other: Findings) {
        for ((pc, _), finding) in other.0 {
            self.add(pc, finding);
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Finding> {
        self.0.into_values().collect()
    }
}
