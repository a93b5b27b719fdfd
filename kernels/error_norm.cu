// error_norm: out_i = sqrt(mean over the row of (e / (tolerance·(1 + max(|z|, |next|))))²)
//
// Layout   e, z, next [n,row] f32; out [n] f64.
// Kernels  error_norm_forward   a block owns one row
// Cost     reads three values an element: 12 bytes.
// Exact    the quotient in f32, squares and sums in f64 in a fixed order; no atomics.
// Limits   one block a row: rows are images, and few.
#include "common.cuh"

constexpr u32 THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) error_norm_forward(const float* __restrict__ e, const float* __restrict__ z,
                                                                         const float* __restrict__ next, double* __restrict__ out, u64 row,
                                                                         float tolerance) {
    __shared__ double sums[THREADS];
    const size_t base = (size_t)blockIdx.x * row;
    double sum = 0.0;
    for (size_t i = threadIdx.x; i < row; i += THREADS) {
        const float size = tolerance * (1.0f + fmaxf(fabsf(z[base + i]), fabsf(next[base + i])));
        const double ratio = e[base + i] / size;  // a NaN among the slopes is a NaN in e
        sum += ratio * ratio;
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = sqrt(sums[0] / (double)row);
}
