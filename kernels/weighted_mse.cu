// weighted_mse: L = sum_i w_i·mean_e (prediction - target)² / n;  dprediction = dL·2·w_i/(n·row)·(prediction - target)      [Ho et al. 2020, eq. 14]
//
// Layout   prediction, target [n,row] f32; weights [n] f32; partial [n,chunks] f64; per_image [n] f64; loss, dy [1] f32.
// Kernels  weighted_mse_partial    a block sums the squares of 4096 elements of one image: 16 in f32 a thread, threads in f64
//          weighted_mse_loss       one block; a warp adds the partial sums of an image, then the block those of its warps, all in f64
//          weighted_mse_backward   four elements a thread; dy is read on the device
// Saved    prediction, target, weights.
// Cost     forward reads both once; backward reads both and writes one: 8 and 12 bytes per element, memory bound.
// Exact    no atomics, a fixed order: equal inputs give equal bits.
// Limits   rows that do not divide by 4 lose the 16-byte accesses, not the result.
#include "sums.cuh"

#define PART 4096u

extern "C" __global__ void __launch_bounds__(256) weighted_mse_partial(const float* __restrict__ prediction, const float* __restrict__ target,
                                                                       double* __restrict__ partial, u32 row, u32 chunks) {
    __shared__ double warps[8];
    const u32 image = blockIdx.x / chunks, begin = (blockIdx.x - image * chunks) * PART;
    const bool aligned = (row & 3u) == 0;
    const size_t base = (size_t)image * row;
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u64 at = begin + 4ull * (i * 256 + threadIdx.x);
        const int count = at < row ? (row - at < 4 ? (int)(row - at) : 4) : 0;
        const float4 p = load4(prediction + base + at, count, aligned), t = load4(target + base + at, count, aligned);
        const float4 d = make_float4(p.x - t.x, p.y - t.y, p.z - t.z, p.w - t.w);
        sum += (d.x * d.x + d.y * d.y) + (d.z * d.z + d.w * d.w);
    }
    const double total = block_sum(sum, warps);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(512) weighted_mse_loss(const double* __restrict__ partial, const float* __restrict__ weights,
                                                                    double* __restrict__ per_image, float* __restrict__ loss, u32 n, u32 row,
                                                                    u32 chunks) {
    __shared__ double warps[16];
    const u32 lane = threadIdx.x & 31u;
    double weighted = 0.0;  // of lane 0
    for (u32 image = threadIdx.x >> 5; image < n; image += blockDim.x >> 5) {
        double sum = 0.0;
        for (u32 chunk = lane; chunk < chunks; chunk += 32) sum += partial[(size_t)image * chunks + chunk];
        sum = warp_sum(sum);
        if (lane == 0) {
            per_image[image] = sum / row;
            weighted += sum / row * weights[image];
        }
    }
    weighted = block_sum(lane == 0 ? weighted : 0.0, warps);
    if (threadIdx.x == 0) loss[0] = (float)(weighted / n);
}

extern "C" __global__ void weighted_mse_backward(const float* __restrict__ prediction, const float* __restrict__ target, const float* __restrict__ weights,
                                                 const float* __restrict__ dy, float* __restrict__ dprediction, u32 n, u32 row, float factor) {
    const u64 at = 4ull * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= row) return;  // guard
    const int count = row - at < 4 ? (int)(row - at) : 4;
    const bool aligned = (row & 3u) == 0;
    const float scale = factor * dy[0];
    for (u32 image = blockIdx.y; image < n; image += gridDim.y) {
        const size_t base = (size_t)image * row + at;
        const float k = scale * weights[image];
        const float4 p = load4(prediction + base, count, aligned), t = load4(target + base, count, aligned);
        store4(dprediction + base, make_float4(k * (p.x - t.x), k * (p.y - t.y), k * (p.z - t.z), k * (p.w - t.w)), count, aligned);
    }
}
