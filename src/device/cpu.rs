//! Threads on the host: work is cut into fixed blocks, each of which writes its own part of the output.

use super::pool::Scratch;
use rayon::prelude::*;
use std::marker::PhantomData;

/// Runs `work` for every block index in parallel. What a block computes must not depend on which thread runs it.
///
/// `flops` is the approximate work of one block: small ones are joined so that a task is worth its scheduling.
pub fn for_each_block(blocks: usize, flops: usize, work: impl Fn(usize) + Sync + Send) {
    // About 20 microseconds of work a task at 50 GFLOP/s.
    const FLOPS_PER_TASK: usize = 1_000_000;
    let joined = (FLOPS_PER_TASK / flops.max(1)).max(1);
    if blocks <= joined {
        (0..blocks).for_each(work);
    } else {
        (0..blocks).into_par_iter().with_min_len(joined).for_each(work);
    }
}

/// As [`for_each_block`], with `len` values of working memory for each block, of unspecified content.
///
/// One buffer for all threads is taken beforehand: how much memory a step takes must not depend on how many blocks happened to run at a time.
/// `work` must not go parallel itself: its thread could take up another block, which has the same memory.
pub fn for_each_block_with(blocks: usize, flops: usize, len: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) {
    let mut memory = Scratch::<f32>::take(rayon::current_num_threads() * len);
    let memory = DisjointMut::new(&mut memory);
    for_each_block(blocks, flops, |block| {
        // A thread outside the pool works alone.
        let thread = rayon::current_thread_index().unwrap_or(0);
        work(block, memory.slice(thread * len, len));
    });
}

/// Lists of tensors are walked so many at a time: enough to fill the threads, few enough for the stack.
pub const PARTS: usize = 64;

/// Cuts several arrays of `counts` elements, at most [`PARTS`], into blocks of `block` and runs `work(number of the block among
/// all, array, first element, elements)` for each, all in one parallel region.
///
/// # Panics
/// If there are more arrays.
pub fn for_each_part(
    counts: &[usize],
    block: usize,
    flops: usize,
    work: impl Fn(usize, usize, usize, usize) + Sync + Send,
) {
    // Blocks up to the end of each array.
    let (mut ends, mut total) = ([0; PARTS], 0);
    for (end, count) in ends.iter_mut().zip(counts) {
        total += count.div_ceil(block);
        *end = total;
    }
    let ends = &ends[..counts.len()];
    for_each_block(total, flops, |index| {
        let array = ends.partition_point(|end| *end <= index);
        let start = (index - if array == 0 { 0 } else { ends[array - 1] }) * block;
        work(index, array, start, block.min(counts[array] - start));
    });
}

/// A mutable slice that several threads write at disjoint places.
#[derive(Clone, Copy)]
pub struct DisjointMut<'a, T> {
    ptr: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose caller promises disjoint ranges.
unsafe impl<T: Send> Send for DisjointMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    /// Wraps a slice for writing in parallel.
    pub fn new(slice: &'a mut [T]) -> DisjointMut<'a, T> {
        DisjointMut { ptr: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// The elements from `start` on.
    ///
    /// # Panics
    /// If that leaves the slice, as [`DisjointMut::slice`].
    pub fn from(&self, start: usize) -> DisjointMut<'a, T> {
        assert!(start <= self.len, "element {start} leaves a slice of {}", self.len);
        // SAFETY: in bounds by the assertion.
        DisjointMut { ptr: unsafe { self.ptr.add(start) }, len: self.len - start, owner: PhantomData }
    }

    /// The elements `start..start + len`, writable.
    ///
    /// The block structure of every caller gives each range to exactly one block; bounds are checked here.
    ///
    /// # Panics
    /// If the range leaves the slice: a defect of an op, never of a user's input.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "block {start}+{len} leaves a slice of {}", self.len);
        // SAFETY: in bounds by the assertion; callers cut the work so that no two blocks touch one range.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}
