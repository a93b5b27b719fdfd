//! The driver: what libcuda keeps, and its C interface.

mod abi;
mod calls;
mod graphs;
mod loading;
mod queue;
pub(crate) mod report;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::check::{Finding, Kind};
use crate::counters::Counters;
use crate::memory::Memory;
use loading::Loaded;
use queue::{Event, Stream};

/// CUresult.
pub(crate) type Code = i32;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const INVALID_DEVICE: Code = 101;
pub(crate) const NO_BINARY_FOR_GPU: Code = 209;
pub(crate) const INVALID_PTX: Code = 218;
pub(crate) const FILE_NOT_FOUND: Code = 301;
pub(crate) const INVALID_HANDLE: Code = 400;
pub(crate) const NOT_FOUND: Code = 500;
pub(crate) const NOT_READY: Code = 600;
pub(crate) const LAUNCH_OUT_OF_RESOURCES: Code = 701;

/// A GPU's limits for shared memory: what a block may have without asking, and with.
pub(crate) const SHARED_DEFAULT: u32 = 48 << 10;
pub(crate) const SHARED_OPT_IN: u32 = 163 << 10;

/// A kernel as `cuModuleGetFunction` gives it.
pub(crate) struct Handle {
    pub(crate) module: Arc<Loaded>,
    pub(crate) kernel: usize,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
    pub(crate) dynamic_limit: u32,
}

pub(crate) struct Gpu {
    pub(crate) memory: Memory,
    pub(crate) streams: BTreeMap<usize, Stream>,
    pub(crate) events: HashMap<usize, Event>,
    pub(crate) modules: HashMap<usize, Arc<Loaded>>,
    pub(crate) functions: HashMap<usize, Handle>,
    pub(crate) graphs: HashMap<usize, Vec<queue::Work>>,
    /// Pinned host memory: start and length.
    pub(crate) pinned: BTreeMap<usize, usize>,
    pub(crate) next: usize,
    /// An error of a kernel stays until the process ends, as on a GPU, or until `softgpu_reset`.
    pub(crate) error: Option<Code>,
    pub(crate) findings: Vec<Finding>,
    /// By kernel: the sum over its launches, the last launch, and the opcodes that the numbers of both go by.
    pub(crate) counters: BTreeMap<String, (Counters, Counters, Vec<String>)>,
    /// Why the last module did not load.
    pub(crate) message: String,
    pub(crate) check: bool,
    pub(crate) threads: usize,
}

static GPU: LazyLock<Mutex<Gpu>> = LazyLock::new(|| Mutex::new(Gpu::new()));

pub(crate) fn gpu() -> MutexGuard<'static, Gpu> {
    GPU.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| !value.is_empty() && value != "0")
}

/// `8589934592`, `64M`, `8G`.
fn parse_bytes(text: &str) -> Option<u64> {
    let shift = match text.as_bytes().last()? {
        b'K' | b'k' => 10,
        b'M' | b'm' => 20,
        b'G' | b'g' => 30,
        _ => 0,
    };
    let digits = if shift > 0 { &text[..text.len() - 1] } else { text };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

impl Gpu {
    fn new() -> Self {
        let setting = std::env::var("SOFTGPU_MEMORY").ok();
        let total = setting.as_deref().and_then(parse_bytes).unwrap_or(8 << 30);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = std::env::var("SOFTGPU_THREADS").ok().and_then(|text| text.parse().ok()).unwrap_or(processors);
        report::print_at_exit();
        let mut own = Gpu {
            memory: Memory::new(total),
            streams: BTreeMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            pinned: BTreeMap::new(),
            next: 0x1000,
            error: None,
            findings: Vec::new(),
            counters: BTreeMap::new(),
            message: String::new(),
            check: !is_set("SOFTGPU_FAST"),
            threads,
        };
        own.streams.insert(0, Stream::new(true));
        own
    }

    /// A number that stands for something new.
    pub(crate) fn handle(&mut self) -> usize {
        self.next += 16;
        self.next
    }

    pub(crate) fn is_pinned(&self, at: usize, bytes: usize) -> bool {
        self.pinned.range(..=at).next_back().is_some_and(|(start, length)| at + bytes <= start + length)
    }

    /// Prints a finding and keeps it.
    pub(crate) fn find(&mut self, finding: Finding) {
        eprintln!("[softgpu] {finding}");
        self.findings.push(finding);
    }

    /// Something wrong on the host's side.
    pub(crate) fn find_host(&mut self, detail: String) {
        if !self.check {
            return;
        }
        self.find(Finding {
            kind: Kind::Host,
            kernel: String::new(),
            place: String::new(),
            opcode: String::new(),
            block: [0; 3],
            thread: [0; 3],
            detail,
            count: 1,
        });
    }
}
