// cross_entropy: L = sum_r w_r·(log sum_k e^z_rk - z_r,target),   dz = dL·w_r·(softmax(z) - onehot(target))
//
// Layout   logits, dlogits [rows,k] f32; targets [rows]; weights, lse [rows] f32; per_row [rows] f64; loss, dy [1] f32.
// Kernels  cross_entropy_rows      a warp a row: the largest, then the sum of exponentials in f32, the logarithm in f64
//          cross_entropy_loss      one block; threads add rows in f64, then a fixed tree
//          cross_entropy_backward  a warp a row
// Saved    lse.
// Cost     forward reads the logits (twice, the second time from a cache), backward reads and writes them: memory bound. Rows of weight 0 are not
//          read.
// Exact    no atomics, a fixed order.
// Limits   a warp reads 4 bytes a lane: consecutive, so coalesced for any k.
#include "sums.cuh"

extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_rows(const float* __restrict__ logits, const u32* __restrict__ targets, const float* __restrict__ weights,
                       double* __restrict__ per_row, float* __restrict__ lse, u32 rows, u32 k) {
    const u32 row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31u;
    if (row >= rows) return;  // guard: a whole warp
    if (weights[row] == 0.0f) {
        if (lane == 0) {
            per_row[row] = 0.0;
            lse[row] = 0.0f;
        }
        return;
    }
    const float* z = logits + (size_t)row * k;
    float top = -__int_as_float(0x7f800000);
    for (u32 i = lane; i < k; i += 32) top = fmaxf(top, z[i]);
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    float sum = 0.0f;
    for (u32 i = lane; i < k; i += 32) sum += expf(z[i] - top);
    const double total = warp_sum(sum);
    if (lane == 0) {
        const double rest = log(total);
        per_row[row] = ((double)top - z[targets[row]]) + rest;
        lse[row] = (float)(top + rest);
    }
}

extern "C" __global__ void __launch_bounds__(512)
    cross_entropy_loss(const double* __restrict__ per_row, const float* __restrict__ weights, float* __restrict__ loss, u32 rows) {
    __shared__ double warps[16];
    double sum = 0.0;
    for (u32 row = threadIdx.x; row < rows; row += 512) sum += per_row[row] * weights[row];
    sum = block_sum(sum, warps);
    if (threadIdx.x == 0) loss[0] = (float)sum;
}

extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_backward(const float* __restrict__ logits, const u32* __restrict__ targets, const float* __restrict__ weights,
                           const float* __restrict__ lse, const float* __restrict__ dy, float* __restrict__ dlogits, u32 rows, u32 k) {
    const u32 row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31u;
    if (row >= rows) return;  // guard: a whole warp
    const float factor = weights[row] * dy[0], log = lse[row];
    const u32 target = targets[row];
    const size_t at = (size_t)row * k;
    for (u32 i = lane; i < k; i += 32) {
        float d = 0.0f;
        if (factor != 0.0f) d = factor * expf(logits[at + i] - log) - (i == target ? factor : 0.0f);
        dlogits[at + i] = d;
    }
}
