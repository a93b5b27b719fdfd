// layer_norm: y = (xhat * weight + bias) * (1 + scale) + shift,   xhat = (x - mean) * rstd, statistics of each row
//
// Layout   x, y, dy, dx [n,rows,c], c fastest; weight, bias [c]; scale, shift [n,c]; mean, rstd [n·rows]; all f32. What is not given is null.
// Kernels  layer_norm_forward       a warp a row: mean, then squared distances, then y; the row comes from the caches after the first pass
//          layer_norm_backward_dx   a warp a row
//          layer_norm_backward_sums a thread a channel: sums of dy and of dy·xhat over a chunk of one sample's rows; [n,chunks,2,c]
//          layer_norm_backward_parameters  from those, added over chunks: dweight, dbias, dscale, dshift; a thread a channel
// Saved    mean, rstd. xhat is recomputed.
// Cost     forward reads x and writes y once; backward reads x and dy twice and writes dx: memory bound.
// Exact    no atomics; chunks and samples are added in order.
// Limits   a warp reads 4 bytes a lane: consecutive, so coalesced for any c.
#include "common.cuh"

#define WARPS 8u  // rows of a block

__device__ __forceinline__ float warp_total(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

extern "C" __global__ void __launch_bounds__(256)
    layer_norm_forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias, const float* __restrict__ scale,
                       const float* __restrict__ shift, float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, u32 all_rows,
                       u32 rows, u32 c, float norm_eps) {
    const u32 row = blockIdx.x * WARPS + (threadIdx.x >> 5), lane = threadIdx.x & 31u;
    if (row >= all_rows) return;  // guard: a whole warp
    const float* from = x + (size_t)row * c;
    float sum = 0.0f;
    for (u32 i = lane; i < c; i += 32) sum += from[i];
    const float centre = warp_total(sum) / c;
    float squares = 0.0f;
    for (u32 i = lane; i < c; i += 32) {
        const float d = from[i] - centre;
        squares += d * d;
    }
    const float factor = 1.0f / sqrtf(warp_total(squares) / c + norm_eps);
    const size_t film = (size_t)(row / rows) * c;
    for (u32 i = lane; i < c; i += 32) {
        float v = (from[i] - centre) * factor * weight[i];
        if (bias) v += bias[i];
        if (scale) v = v * (1.0f + scale[film + i]) + shift[film + i];
        y[(size_t)row * c + i] = v;
    }
    if (lane == 0) {
        mean[row] = centre;
        rstd[row] = factor;
    }
}

extern "C" __global__ void __launch_bounds__(256)
    layer_norm_backward_dx(const float* __restrict__ x, const float* __restrict__ dy, const float* __restrict__ weight,
                           const float* __restrict__ scale, const float* __restrict__ mean, const float* __restrict__ rstd, float* __restrict__ dx,
                           u32 all_rows, u32 rows, u32 c) {
    const u32 row = blockIdx.x * WARPS + (threadIdx.x >> 5), lane = threadIdx.x & 31u;
    if (row >= all_rows) return;  // guard: a whole warp
    const size_t at = (size_t)row * c, film = (size_t)(row / rows) * c;
    const float centre = mean[row], factor = rstd[row];
    float sum = 0.0f, sum_x = 0.0f;
    for (u32 i = lane; i < c; i += 32) {
        const float slope = scale ? weight[i] * (1.0f + scale[film + i]) : weight[i];
        const float g = dy[at + i] * slope;
        sum += g;
        sum_x += g * ((x[at + i] - centre) * factor);
    }
    const float mean_g = warp_total(sum) / c, mean_gx = warp_total(sum_x) / c;
    for (u32 i = lane; i < c; i += 32) {
        const float slope = scale ? weight[i] * (1.0f + scale[film + i]) : weight[i];
        dx[at + i] = factor * (dy[at + i] * slope - mean_g - (x[at + i] - centre) * factor * mean_gx);
    }
}

extern "C" __global__ void __launch_bounds__(128)
    layer_norm_backward_sums(const float* __restrict__ x, const float* __restrict__ dy, const float* __restrict__ mean,
                             const float* __restrict__ rstd, float* __restrict__ partial, u32 rows, u32 c, u32 chunks, u32 len) {
    const u32 across = (c + 127) / 128, column = blockIdx.x % across * 128 + threadIdx.x;
    if (column >= c) return;  // guard
    const u32 chunk = blockIdx.x / across % chunks, sample = blockIdx.x / across / chunks;
    const u32 end = min(rows, (chunk + 1) * len);
    float sum = 0.0f, sum_x = 0.0f;
    for (u32 r = chunk * len; r < end; r++) {
        const size_t row = (size_t)sample * rows + r;
        const float d = dy[row * c + column];
        sum += d;
        sum_x += d * ((x[row * c + column] - mean[row]) * rstd[row]);
    }
    float* to = partial + ((size_t)sample * chunks + chunk) * 2 * c + column;
    to[0] = sum;
    to[c] = sum_x;
}

// Outputs that nobody wants are null; dscale and dshift are null without a modulation.
extern "C" __global__ void __launch_bounds__(128)
    layer_norm_backward_parameters(const float* __restrict__ partial, const float* __restrict__ weight, const float* __restrict__ bias,
                                   const float* __restrict__ scale, float* __restrict__ dweight, float* __restrict__ dbias,
                                   float* __restrict__ dscale, float* __restrict__ dshift, u32 n, u32 c, u32 chunks) {
    const u32 column = blockIdx.x * 128 + threadIdx.x;
    if (column >= c) return;  // guard
    double of_weight = 0.0, of_bias = 0.0;
    for (u32 sample = 0; sample < n; sample++) {
        double sum = 0.0, sum_x = 0.0;
        for (u32 chunk = 0; chunk < chunks; chunk++) {
            const float* from = partial + ((size_t)sample * chunks + chunk) * 2 * c + column;
            sum += from[0];
            sum_x += from[c];
        }
        const size_t at = (size_t)sample * c + column;
        const double factor = scale ? 1.0 + scale[at] : 1.0;
        of_weight += sum_x * factor;
        of_bias += sum * factor;
        if (dscale) {
            dscale[at] = (float)(sum_x * weight[column] + (bias ? sum * bias[column] : 0.0));
            dshift[at] = (float)sum;
        }
    }
    dweight[column] = (float)of_weight;
    if (dbias) dbias[column] = (float)of_bias;
}
