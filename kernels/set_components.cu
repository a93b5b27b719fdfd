// set_components: out = x + Aᵀ(k − A·x) along the last axis, A with orthonormal rows
//
// Layout   x, out [pixels,c]; a [m,c]; k [pixels,m] f32; m <= c <= 16.
// Kernels  set_components_forward   a thread owns one pixel
// Cost     reads x (twice, the second time from the cache) and k, writes out; memory bound.
// Exact    sums run over channels in order.
// Limits   a warp's threads read c floats apart: every sector is used by a neighbour.
#include "common.cuh"

extern "C" __global__ void set_components_forward(const float* __restrict__ x, const float* __restrict__ a, const float* __restrict__ k,
                                                  float* __restrict__ out, u64 pixels, u32 c, u32 m) {
    const u64 pixel = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels) return;  // guard
    const float* from = x + pixel * c;
    float missing[16];
#pragma unroll
    for (u32 i = 0; i < 16; ++i) {
        if (i < m) {
            float sum = 0;
            for (u32 j = 0; j < c; ++j) sum += from[j] * a[i * c + j];
            missing[i] = k[pixel * m + i] - sum;
        }
    }
    for (u32 j = 0; j < c; ++j) {
        float value = from[j];
#pragma unroll
        for (u32 i = 0; i < 16; ++i) {
            if (i < m) value += a[i * c + j] * missing[i];
        }
        out[pixel * c + j] = value;
    }
}
