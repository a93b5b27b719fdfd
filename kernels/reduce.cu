// reduce: sqrt(sum of g^2) over all elements of many tensors
//
// Layout   table [rows,3] u64: address of a tensor of f32, its elements, its first chunk; partial [chunks] f64; norm [1] f64.
// Kernels  reduce_partial   a block sums the squares of a chunk of one tensor: 16 in f32 a thread, threads in f64
//          reduce_norm      one block sums the partial sums in f64, and takes the root
// Cost     reads every element once; memory bound.
// Exact    no atomics, a fixed order: equal inputs give equal bits. A number that is not finite makes the norm so.
// Limits   squares are f32, as on the CPU: an element above 1.8e19 makes the norm infinite.
#include "chunks.cuh"
#include "sums.cuh"

extern "C" __global__ void __launch_bounds__(256) reduce_partial(const u64* __restrict__ table, u32 rows, double* __restrict__ partial) {
    __shared__ double warps[8];
    const u64* __restrict__ row = row_of_chunk(table, rows, 3, blockIdx.x);
    const float* __restrict__ x = reinterpret_cast<const float*>(row[0]);
    const u64 count = row[1], begin = (blockIdx.x - row[2]) * CHUNK;
    float4 v[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u64 at = begin + 4 * (i * CHUNK_THREADS + threadIdx.x);
        v[i] = at < count ? load4(x + at, count - at < 4 ? (int)(count - at) : 4, true) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 4; i++) sum += (v[i].x * v[i].x + v[i].y * v[i].y) + (v[i].z * v[i].z + v[i].w * v[i].w);
    const double total = block_sum(sum, warps);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(512) reduce_norm(const double* __restrict__ partial, u64 count, double* __restrict__ norm) {
    __shared__ double warps[16];
    double sum = 0.0;
#pragma unroll 4
    for (u64 i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, warps);
    if (threadIdx.x == 0) norm[0] = sqrt(sum);
}
