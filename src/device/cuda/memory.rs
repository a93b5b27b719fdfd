//! A GPU's memory: allocated and freed in the stream's order from the driver's pool, which keeps what is freed; filled through pinned
//! host memory.

use super::{Gpu, Pool, failed};
use crate::error::{Error, Result};
use cudarc::driver::result::{self, mem_pool};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError, PinnedHostSlice, sys,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

/// Bytes held in buffers of all GPUs, and the most since the last [`reset_peak`].
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

pub(in crate::device) fn peak_bytes() -> usize {
    PEAK.load(Ordering::Relaxed)
}

pub(in crate::device) fn reset_peak() {
    PEAK.store(LIVE.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Memory on a GPU.
#[derive(Debug)]
pub struct CudaBuffer {
    slice: CudaSlice<u8>,
    index: usize,
}

impl CudaBuffer {
    /// Index of the GPU.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The address on the GPU, for tables that kernels read: whoever launches such a kernel keeps the buffer until then.
    pub(crate) fn address(&self) -> u64 {
        self.slice.device_ptr(self.slice.stream()).0
    }

    pub(super) fn slice(&self) -> &CudaSlice<u8> {
        &self.slice
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        LIVE.fetch_sub(self.slice.len(), Ordering::Relaxed);
    }
}

/// Makes the driver keep freed memory for the next allocation, which it would otherwise give back at every synchronisation.
pub(super) fn keep_freed_memory(context: &Arc<CudaContext>) -> std::result::Result<Option<Pool>, DriverError> {
    if !context.has_async_alloc() {
        return Ok(None);
    }
    let mut threshold = u64::MAX;
    // SAFETY: the device is the context's, the pool its own, and the attribute's value a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())?;
        Ok(Some(Pool(pool)))
    }
}

/// Bytes of one piece of pinned memory; longer copies go in pieces.
const PIECE: usize = 4 << 20;

/// Pieces in turn, so that the host fills one while the GPU still reads the other.
const PIECES: usize = 2;

/// Pinned host memory on the way to a GPU.
#[derive(Default)]
pub(super) struct Staging {
    pieces: Vec<Piece>,
    next: usize,
}

struct Piece {
    memory: PinnedHostSlice<u8>,
    /// When the GPU has read what was put in last.
    read: CudaEvent,
}

impl Staging {
    /// Copies `bytes` into the memory at `target`, in the stream's order; returns once `bytes` may change again.
    fn send(
        &mut self,
        stream: &Arc<CudaStream>,
        bytes: &[u8],
        target: sys::CUdeviceptr,
    ) -> std::result::Result<(), DriverError> {
        let context = stream.context();
        for (part, at) in bytes.chunks(PIECE).zip((0..).step_by(PIECE)) {
            if self.pieces.len() < PIECES {
                // SAFETY: it is written before it is read.
                let memory = unsafe { context.alloc_pinned::<u8>(PIECE) }?;
                self.pieces.push(Piece { memory, read: context.new_event(None)? });
                self.next = self.pieces.len() - 1;
            }
            let piece = &mut self.pieces[self.next];
            self.next = (self.next + 1) % PIECES;
            piece.read.synchronize()?;
            let staged = &mut piece.memory.as_mut_slice()?[..part.len()];
            staged.copy_from_slice(part);
            // SAFETY: the caller's target holds all of `bytes`; the piece is not written again before `read` has come.
            unsafe { result::memcpy_htod_async(target + at as u64, staged, stream.cu_stream()) }?;
            piece.read.record(stream)?;
        }
        Ok(())
    }
}

impl Gpu {
    /// Memory whose content is unspecified.
    pub(crate) fn take(&self, bytes: usize) -> Result<CudaBuffer> {
        let bytes = bytes.max(1);
        let slice = self.allocate(bytes).or_else(|_| {
            // What the pool keeps may be in pieces too small: give it back and ask once more.
            self.release_freed_memory()?;
            self.allocate(bytes).map_err(|e| self.out_of_memory(bytes, e))
        })?;
        let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(live, Ordering::Relaxed);
        Ok(CudaBuffer { slice, index: self.index })
    }

    fn allocate(&self, bytes: usize) -> std::result::Result<CudaSlice<u8>, DriverError> {
        // SAFETY: ops write every element of the tensors they take.
        unsafe { self.stream.alloc::<u8>(bytes) }
    }

    fn release_freed_memory(&self) -> Result<()> {
        self.synchronise()?;
        match &self.pool {
            // SAFETY: the pool is the device's own.
            Some(pool) => unsafe { mem_pool::trim_to(pool.0, 0) }.map_err(failed(self.index, "freeing memory")),
            None => Ok(()),
        }
    }

    fn out_of_memory(&self, bytes: usize, error: DriverError) -> Error {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        match self.context.mem_get_info() {
            Ok((free, total)) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::Device(format!(
                "cuda:{}: out of memory: {} MiB asked for, {} MiB held in tensors, {} of {} MiB free; use a smaller --batch",
                self.index,
                mib(bytes),
                mib(LIVE.load(Ordering::Relaxed)),
                free >> 20,
                total >> 20
            )),
            _ => failed(self.index, "allocating memory")(error),
        }
    }

    /// Memory filled with zeros.
    pub(crate) fn zeros(&self, bytes: usize) -> Result<CudaBuffer> {
        let mut buffer = self.take(bytes)?;
        self.stream.memset_zeros(&mut buffer.slice).map_err(failed(self.index, "clearing memory"))?;
        Ok(buffer)
    }

    /// Copies from the host; `bytes` may change when this returns.
    pub(crate) fn upload(&self, bytes: &[u8]) -> Result<CudaBuffer> {
        let mut buffer = self.take(bytes.len())?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let target = buffer.slice.device_ptr_mut(&self.stream).0;
        staging.send(&self.stream, bytes, target).map_err(failed(self.index, "copying to the GPU"))?;
        Ok(buffer)
    }

    /// Copies to the host, and waits for it.
    pub(crate) fn download(&self, buffer: &CudaBuffer, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let from = buffer.slice.slice(..out.len());
        self.stream.memcpy_dtoh(&from, out).map_err(failed(self.index, "copying from the GPU"))?;
        self.synchronise()
    }

    /// Copies `bytes` within the GPU.
    pub(crate) fn copy(
        &self,
        from: &CudaBuffer,
        at: usize,
        to: &mut CudaBuffer,
        to_at: usize,
        bytes: usize,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let from = from.slice.slice(at..at + bytes);
        let mut to = to.slice.slice_mut(to_at..to_at + bytes);
        self.stream.memcpy_dtod(&from, &mut to).map_err(failed(self.index, "copying on the GPU"))
    }
}
