//! Device memory: allocations at addresses that are never given out twice, each byte with a mark that says whether it was written.
//!
//! The generic address space has windows for the other spaces; global memory lies above them all.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::BTreeMap;

pub(crate) const PARAM_WINDOW: u64 = 0x0100_0000;
pub(crate) const SHARED_WINDOW: u64 = 0x0200_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x0300_0000;
pub(crate) const WINDOW_BYTES: u64 = 0x0100_0000;
const GLOBAL_START: u64 = 0x7_0000_0000;

/// What fresh memory holds: a NaN in every floating format, so that a result made of it shows.
pub(crate) const POISON: u8 = 0xff;

/// A GPU aligns allocations so, and the gap behind each catches what runs over its end.
const ALIGN: u64 = 512;

pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    pub(crate) data: *mut u8,
    /// One mark a byte: 1 if it was written.
    pub(crate) written: *mut u8,
    layout: Layout,
}

// SAFETY: the pointers are the allocation's own; kernels that race on what they point to are reported.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: both came from `alloc` with this layout.
        unsafe {
            dealloc(self.data, self.layout);
            dealloc(self.written, self.layout);
        }
    }
}

pub(crate) struct Memory {
    allocations: BTreeMap<u64, Allocation>,
    next: u64,
    pub(crate) live: u64,
    pub(crate) peak: u64,
    pub(crate) total: u64,
}

impl Memory {
    pub(crate) fn new(total: u64) -> Self {
        Memory { allocations: BTreeMap::new(), next: GLOBAL_START, live: 0, peak: 0, total }
    }

    /// The address of fresh memory; `None` if the device has not that much left.
    pub(crate) fn allocate(&mut self, bytes: u64) -> Option<u64> {
        if bytes == 0 || bytes > self.total - self.live {
            return None;
        }
        let layout = Layout::from_size_align(usize::try_from(bytes).ok()?, ALIGN as usize).ok()?;
        // SAFETY: the layout is not empty.
        let (data, written) = unsafe { (alloc(layout), alloc_zeroed(layout)) };
        if data.is_null() || written.is_null() {
            return None;
        }
        // SAFETY: `data` has this many bytes.
        unsafe { data.write_bytes(POISON, layout.size()) };
        let base = self.next;
        self.next = (base + bytes + ALIGN).next_multiple_of(ALIGN);
        self.allocations.insert(base, Allocation { base, bytes, data, written, layout });
        self.live += bytes;
        self.peak = self.peak.max(self.live);
        Some(base)
    }

    /// Whether `base` was an allocation.
    pub(crate) fn free(&mut self, base: u64) -> bool {
        let found = self.allocations.remove(&base);
        self.live -= found.as_ref().map_or(0, |allocation| allocation.bytes);
        found.is_some()
    }

    pub(crate) fn find(&self, address: u64, bytes: u64) -> Option<&Allocation> {
        let allocation = self.allocations.range(..=address).next_back()?.1;
        (address - allocation.base).checked_add(bytes).filter(|&end| end <= allocation.bytes).map(|_| allocation)
    }

    /// Where a bad address lies, in words.
    pub(crate) fn describe(&self, address: u64) -> String {
        match self.allocations.range(..=address).next_back() {
            Some((&base, found)) if address - base < found.bytes + (1 << 20) => {
                let past = address as i64 - (base + found.bytes) as i64;
                let side = if past < 0 { "before" } else { "past" };
                format!("{} bytes {side} the end of the {}-byte allocation at {base:#x}", past.abs(), found.bytes)
            }
            _ => "no allocation is near".into(),
        }
    }

    /// The bytes and marks of a range.
    pub(crate) fn range(&self, address: u64, bytes: usize) -> Option<(*mut u8, *mut u8)> {
        let allocation = self.find(address, bytes as u64)?;
        let at = (address - allocation.base) as usize;
        // SAFETY: `find` checked the range.
        Some(unsafe { (allocation.data.add(at), allocation.written.add(at)) })
    }

    pub(crate) fn write(&self, address: u64, source: &[u8]) -> bool {
        let Some((data, written)) = self.range(address, source.len()) else { return false };
        // SAFETY: `range` checked the length; host memory does not overlap it.
        unsafe {
            data.copy_from_nonoverlapping(source.as_ptr(), source.len());
            written.write_bytes(1, source.len());
        }
        true
    }
}
