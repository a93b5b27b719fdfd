//! The caching allocator of host memory: buffers go back to a free list when dropped, so that a steady-state
//! training step asks the system for nothing.
//!
//! Sizes are rounded up to eight classes per power of two (at most 12.5 % waste). A request takes a free buffer of
//! its class, else a larger one of at most 1.25 times the size, else new memory. Every buffer is 64-byte
//! aligned and has [`SLACK`] readable bytes behind its end, so that vector code may read (never write) past a row.
//!
//! New memory is cut from regions of 32 MiB for which the system is asked to use pages of 2 MiB: with pages of 4 KiB the
//! processor spends a tenth of a matrix product, and more of a pass over memory, on finding them.

use super::cpu::{DisjointMut, for_each_block};
use std::alloc::{Layout, handle_alloc_error};
use std::any::Any;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const ALIGN: usize = 64;

/// Readable bytes behind every buffer: one 8×32 tile of f32 may begin at the last element.
pub(crate) const SLACK: usize = 256;

/// What the pool holds, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolStats {
    /// In use now.
    pub live: usize,
    /// The largest `live` since the start or the last [`reset_pool_peak`].
    pub peak: usize,
    /// Taken from the system: in use and free.
    pub held: usize,
    /// Allocations asked of the system so far.
    pub allocations: u64,
}

struct Pool {
    free: BTreeMap<usize, Vec<usize>>,
    stats: PoolStats,
    region: Region,
}

/// Zeroed memory that nobody has taken yet: its first and last address.
struct Region {
    next: usize,
    end: usize,
}

impl Region {
    const BYTES: usize = 32 << 20;
    const PAGE: usize = 2 << 20;
    /// Between two buffers, so that equal places of equal tensors do not compete for one set of the first-level cache.
    const SKEW: usize = 5 * ALIGN;

    /// Cuts off `class` bytes, a multiple of 64; null where there is no memory.
    fn take(&mut self, class: usize) -> *mut u8 {
        let bytes = class + Region::SKEW;
        if bytes > Region::BYTES / 4 {
            // A region of its own leaves the rest of this one for others.
            return Region::new(bytes.next_multiple_of(Region::PAGE))
                .map_or(std::ptr::null_mut(), |r| r.next as *mut u8);
        }
        if bytes > self.end - self.next {
            let Some(region) = Region::new(Region::BYTES) else { return std::ptr::null_mut() };
            *self = region;
        }
        let start = self.next;
        self.next += bytes;
        start as *mut u8
    }

    /// Fresh zeroed memory, never given back.
    fn new(bytes: usize) -> Option<Region> {
        let mut map = memmap2::MmapMut::map_anon(bytes + Region::PAGE).ok()?;
        let next = (map.as_mut_ptr() as usize).next_multiple_of(Region::PAGE);
        // Only a wish: where the system has no such pages, small ones serve.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        std::mem::forget(map);
        Some(Region { next, end: next + bytes })
    }
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: BTreeMap::new(),
    stats: PoolStats { live: 0, peak: 0, held: 0, allocations: 0 },
    region: Region { next: 0, end: 0 },
});

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    // A poisoned lock still guards a consistent pool: no code between lock and unlock can leave it half changed.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pool's counters.
pub fn pool_stats() -> PoolStats {
    pool().stats
}

/// Starts a new measurement of the peak.
pub fn reset_pool_peak() {
    let mut pool = pool();
    pool.stats.peak = pool.stats.live;
}

fn size_class(bytes: usize) -> usize {
    let bytes = (bytes + SLACK).max(512);
    let step = (1usize << (usize::BITS - 1 - bytes.leading_zeros())) / 8;
    bytes.div_ceil(step) * step
}

fn layout(class: usize) -> Layout {
    Layout::from_size_align(class, ALIGN).unwrap_or(Layout::new::<u8>())
}

/// Host memory that goes back to the pool when dropped. Made [`HostBuffer::from_origin`], it takes memory only when its bytes are wanted.
#[derive(Debug)]
pub struct HostBuffer {
    memory: OnceLock<Memory>,
    bytes: usize,
    origin: Option<Origin>,
    derived: Mutex<Option<Derived>>,
}

/// A piece of the pool.
#[derive(Debug)]
struct Memory {
    ptr: NonNull<u8>,
    class: usize,
}

/// Reads the bytes from number `.0` on into `.1`. Called from several threads; must not go parallel itself.
type Read = dyn Fn(usize, &mut [u8]) + Send + Sync;

/// Where a buffer's bytes can be read: a file, say.
pub struct Origin {
    /// Reads begin at multiples of so many bytes, a multiple of 64.
    pub piece: usize,
    /// How.
    pub read: Box<Read>,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Origin in pieces of {}", self.piece)
    }
}

/// Says what was derived from a buffer: a name and sizes.
pub type DerivedKey = (&'static str, [usize; 2]);

/// A value computed from a buffer's bytes.
#[derive(Debug)]
struct Derived {
    key: DerivedKey,
    value: Arc<dyn Any + Send + Sync>,
}

// SAFETY: it is owned exclusively, like Vec<u8>.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

impl Memory {
    fn take(bytes: usize) -> Memory {
        let class = size_class(bytes);
        let mut guard = pool();
        let pool = &mut *guard;
        let found = pool.free.range_mut(class..=class + class / 4).find(|(_, list)| !list.is_empty());
        let (class, ptr) = match found.and_then(|(size, list)| list.pop().map(|p| (*size, p))) {
            Some((size, address)) => (size, address as *mut u8),
            None => {
                pool.stats.held += class;
                pool.stats.allocations += 1;
                (class, pool.region.take(class))
            }
        };
        pool.stats.live += class;
        pool.stats.peak = pool.stats.peak.max(pool.stats.live);
        drop(guard);
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout(class)) };
        Memory { ptr, class }
    }

    fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.class);
        // SAFETY: `ptr` owns `class` initialised bytes.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), len) }
    }

    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.class);
        // SAFETY: as above, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut pool = pool();
        pool.stats.live -= self.class;
        pool.free.entry(self.class).or_default().push(self.ptr.as_ptr() as usize);
    }
}

impl HostBuffer {
    /// Takes `bytes` bytes; the content is unspecified (all bits set where debug assertions are on).
    pub fn take(bytes: usize) -> HostBuffer {
        let mut memory = Memory::take(bytes);
        if cfg!(debug_assertions) {
            memory.bytes_mut(bytes).fill(0xFF);
        }
        HostBuffer { memory: OnceLock::from(memory), bytes, origin: None, derived: Mutex::new(None) }
    }

    /// `bytes` bytes that are read from `origin` when they are first wanted. What is [derived](HostBuffer::derived) before that is made
    /// from a copy that is dropped again.
    pub fn from_origin(bytes: usize, origin: Origin) -> HostBuffer {
        HostBuffer { memory: OnceLock::new(), bytes, origin: Some(origin), derived: Mutex::new(None) }
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // Read by this thread alone: while others wait for it, it must not wait for them.
        let memory = self.memory.get_or_init(|| {
            let mut memory = Memory::take(self.bytes);
            if let Some(origin) = &self.origin {
                (origin.read)(0, memory.bytes_mut(self.bytes));
            }
            memory
        });
        memory.bytes(self.bytes)
    }

    /// What `make` computes from these bytes, kept until they are borrowed for writing or the buffer is dropped. One value is kept, that of
    /// the last key. `make` may run in two threads at a time; both results are the same.
    pub fn derived<T: Any + Send + Sync>(&self, key: DerivedKey, make: impl FnOnce(&[u8]) -> T) -> Arc<T> {
        let slot = || self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = slot().as_ref().filter(|kept| kept.key == key).map(|kept| kept.value.clone());
        if let Some(value) = kept.and_then(|value| value.downcast::<T>().ok()) {
            return value;
        }
        // Not under the lock: `make` runs in parallel, and a thread that waits for others may take up work that comes here.
        let value = Arc::new(match &self.origin {
            Some(origin) if self.memory.get().is_none() => make(&self.copy(origin)),
            _ => make(self.as_slice()),
        });
        *slot() = Some(Derived { key, value: value.clone() });
        value
    }

    fn copy(&self, origin: &Origin) -> Scratch<u8> {
        let mut copy = Scratch::<u8>::take(self.bytes);
        let piece = origin.piece.max(ALIGN);
        let to = DisjointMut::new(&mut copy);
        for_each_block(self.bytes.div_ceil(piece), piece, |block| {
            let at = block * piece;
            (origin.read)(at, to.slice(at, piece.min(self.bytes - at)));
        });
        copy
    }

    /// The bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // What was derived from the old bytes must not meet the new ones. Writing needs this exclusive borrow, so nothing can come between.
        *self.derived.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        self.as_slice();
        self.origin = None;
        self.memory.get_mut().map_or(&mut [], |memory| memory.bytes_mut(self.bytes))
    }
}

/// A typed temporary from the pool, for packed panels and partial sums.
#[derive(Debug)]
pub struct Scratch<T> {
    buffer: HostBuffer,
    element: std::marker::PhantomData<T>,
}

impl<T: bytemuck::Pod> Scratch<T> {
    /// Takes `len` elements; the content is unspecified.
    pub fn take(len: usize) -> Scratch<T> {
        Scratch { buffer: HostBuffer::take(len * size_of::<T>()), element: std::marker::PhantomData }
    }

    /// Takes `len` elements, all zero.
    pub fn zeroed(len: usize) -> Scratch<T> {
        let mut scratch = Scratch::take(len);
        scratch.buffer.as_mut_slice().fill(0);
        scratch
    }
}

impl<T: bytemuck::Pod> std::ops::Deref for Scratch<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(self.buffer.as_slice())
    }
}

impl<T: bytemuck::Pod> std::ops::DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.buffer.as_mut_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let odd_size = 1_234_567;
        let first = HostBuffer::take(odd_size);
        let address = first.as_slice().as_ptr() as usize;
        assert_eq!(address % ALIGN, 0);
        drop(first);
        // Another test may take it in between, so look for it among several takes.
        let again: Vec<HostBuffer> = (0..8).map(|_| HostBuffer::take(odd_size)).collect();
        assert!(again.iter().any(|b| b.as_slice().as_ptr() as usize == address));
    }

    #[test]
    fn a_derived_value_is_kept_until_the_buffer_is_written() {
        let mut buffer = HostBuffer::take(8);
        buffer.as_mut_slice().fill(1);
        let sum = |buffer: &HostBuffer, name| {
            *buffer.derived((name, [0; 2]), |bytes| bytes.iter().map(|b| u32::from(*b)).sum::<u32>())
        };
        assert_eq!(sum(&buffer, "sum"), 8);
        assert_eq!(*buffer.derived(("sum", [0; 2]), |_| 0_u32), 8, "it was computed again");
        assert_eq!(*buffer.derived(("sum", [1, 0]), |_| 5_u32), 5, "another key met the old value");
        assert_eq!(sum(&buffer, "sum"), 8);
        buffer.as_mut_slice()[0] = 3;
        assert_eq!(sum(&buffer, "sum"), 10, "an old value met new bytes");
    }

    #[test]
    fn bytes_from_an_origin_are_read_when_they_are_wanted() {
        let origin = || Origin {
            piece: 128,
            read: Box::new(|at, to| to.iter_mut().enumerate().for_each(|(i, b)| *b = ((at + i) % 251) as u8)),
        };
        let want: Vec<u8> = (0..100_000).map(|i: usize| (i % 251) as u8).collect();
        let buffer = HostBuffer::from_origin(want.len(), origin());
        assert!(*buffer.derived(("copy", [0; 2]), <[u8]>::to_vec) == want);
        assert!(buffer.memory.get().is_none(), "what was derived left the bytes behind");
        assert!(buffer.as_slice() == want);
        let mut written = HostBuffer::from_origin(want.len(), origin());
        written.as_mut_slice()[7] = 99;
        assert!(written.as_slice()[7] == 99 && written.as_slice()[8..] == want[8..]);
        assert_eq!(*written.derived(("seventh", [0; 2]), |bytes| bytes[7]), 99);
    }

    #[test]
    fn size_classes_waste_at_most_an_eighth_and_leave_slack() {
        for bytes in (0..100_000).step_by(37).chain([1 << 20, (1 << 30) + 1]) {
            let class = size_class(bytes);
            assert!(class >= bytes + SLACK && class.is_multiple_of(64), "{bytes} -> {class}");
            assert!(class <= ((bytes + SLACK) * 9).div_ceil(8).max(512) + 64, "{bytes} -> {class}");
        }
    }
}
