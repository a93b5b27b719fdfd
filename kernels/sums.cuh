// Sums over a block, in a fixed order: within a warp by halves, then the warps in turn.
#include "common.cuh"

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_down_sync(0xffffffffu, value, offset);
    return value;
}

// The sum of `value` over a block of whole warps, known to thread 0; `warps` holds a number for each warp, and may be used again after a
// barrier. Every thread of the block takes part.
__device__ __forceinline__ double block_sum(double value, double* __restrict__ warps) {
    value = warp_sum(value);
    if ((threadIdx.x & 31u) == 0) warps[threadIdx.x >> 5] = value;
    __syncthreads();
    double sum = 0.0;
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < blockDim.x >> 5; i++) sum += warps[i];
    }
    return sum;
}

__device__ __forceinline__ bool is_finite(double v) { return fabs(v) < __longlong_as_double(0x7ff0000000000000ll); }

// The sum of `rows` numbers by one block of 512 threads, into `out`.
__device__ __forceinline__ void sum_of_rows(const double* __restrict__ per_row, float* __restrict__ out, u32 rows) {
    __shared__ double warps[16];
    double sum = 0.0;
    for (u32 row = threadIdx.x; row < rows; row += 512) sum += per_row[row];
    sum = block_sum(sum, warps);
    if (threadIdx.x == 0) out[0] = (float)sum;
}

// What gradients are multiplied by so that their norm is at most `clip`; NaN, where loss or norm is not finite, says that nothing is to be done.
__device__ __forceinline__ float clip_factor(const float* __restrict__ loss, const double* __restrict__ norm, double clip) {
    const double n = norm[0];
    if (!is_finite(loss[0]) || !is_finite(n)) return __int_as_float(0x7fffffff);
    return n > clip ? (float)(clip / n) : 1.0f;
}
