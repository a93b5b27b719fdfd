//! Tables for kernels that go through many tensors in one launch: `kernels/chunks.cuh`.

use super::{CudaBuffer, Geometry, Gpu, size};
use crate::error::{Error, Result};

/// Elements of one block; `kernels/chunks.cuh` has the same number.
const CHUNK: usize = 4096;

/// Threads of a block, also there.
const THREADS: u32 = 256;

/// Where tensors are and how their elements are shared out: a row each of its addresses, its elements, its first chunk.
#[derive(Default)]
pub(crate) struct ChunkTable {
    words: Vec<u64>,
    rows: usize,
    chunks: usize,
}

impl ChunkTable {
    /// Adds a row: buffers of `count` elements each, as many of them as in the other rows.
    pub(crate) fn push<const N: usize>(&mut self, buffers: [&CudaBuffer; N], count: usize) {
        if count == 0 {
            return;
        }
        self.words.extend(buffers.map(CudaBuffer::address));
        self.words.extend([count as u64, self.chunks as u64]);
        self.rows += 1;
        self.chunks += count.div_ceil(CHUNK);
    }

    /// Blocks of the launch.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks
    }

    /// The table on the GPU, its rows, and the launch.
    pub(crate) fn upload(&self, gpu: &Gpu) -> Result<(CudaBuffer, u32, Geometry)> {
        if self.chunks > i32::MAX as usize {
            return Err(Error::Shape(format!("cuda: {} chunks are more than one launch covers", self.chunks)));
        }
        let geometry = Geometry { blocks: [self.chunks as u32, 1, 1], threads: THREADS, shared: 0 };
        Ok((gpu.upload(bytemuck::cast_slice(&self.words))?, size(self.rows)?, geometry))
    }
}
