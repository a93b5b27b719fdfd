// Many tensors in one launch: their elements are cut into chunks, a block each, and a table on the GPU says where the tensors are.
#include "common.cuh"

#define CHUNK 4096u         // src/device/cuda/chunks.rs has the same number
#define CHUNK_THREADS 256u  // four times four elements a thread

// The tensor that chunk `chunk` belongs to: the last whose first chunk is not beyond it. `rows` rows of `columns` words; the last word of
// a row is its tensor's first chunk.
__device__ __forceinline__ const u64* __restrict__ row_of_chunk(const u64* __restrict__ table, u32 rows, u32 columns, u64 chunk) {
    u32 low = 0, high = rows;  // low <= wanted < high
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (table[(size_t)middle * columns + columns - 1] <= chunk) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return table + (size_t)low * columns;
}
