// pointwise: silu(x) = x/(1 + e^-x) and its gradient, x + y, sum += term, factor·x + constant
//
// Layout   contiguous f32, any shape; count elements.
// Kernels  pointwise_silu, pointwise_silu_backward, pointwise_add, pointwise_accumulate, pointwise_affine: four elements a thread
// Saved    silu: x.
// Cost     each input read once, the output written once; memory bound.
// Exact    each element by itself; the exponential is within 2 units in the last place.
// Limits   the last up to three elements go one at a time.
#include "index.cuh"

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }

__device__ __forceinline__ float silu_slope(float x) {
    const float g = sigmoid(x);
    return g * (1.0f + x * (1.0f - g));
}

// How many of the four elements from `at` on exist.
__device__ __forceinline__ int rest(u64 at, u64 count) { return count - at < 4 ? (int)(count - at) : 4; }

extern "C" __global__ void pointwise_silu(const float* __restrict__ x, float* __restrict__ y, u64 count) {
    const u64 at = 4 * thread_index();
    if (at >= count) return;  // guard
    const int n = rest(at, count);
    const float4 v = load4(x + at, n, true);
    store4(y + at, make_float4(silu(v.x), silu(v.y), silu(v.z), silu(v.w)), n, true);
}

extern "C" __global__ void pointwise_silu_backward(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx, u64 count) {
    const u64 at = 4 * thread_index();
    if (at >= count) return;  // guard
    const int n = rest(at, count);
    const float4 v = load4(x + at, n, true), g = load4(dy + at, n, true);
    store4(dx + at, make_float4(g.x * silu_slope(v.x), g.y * silu_slope(v.y), g.z * silu_slope(v.z), g.w * silu_slope(v.w)), n, true);
}

extern "C" __global__ void pointwise_add(const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ sum, u64 count) {
    const u64 at = 4 * thread_index();
    if (at >= count) return;  // guard
    const int n = rest(at, count);
    store4(sum + at, plus(load4(x + at, n, true), load4(y + at, n, true)), n, true);
}

extern "C" __global__ void pointwise_accumulate(float* __restrict__ sum, const float* __restrict__ term, u64 count) {
    const u64 at = 4 * thread_index();
    if (at >= count) return;  // guard
    const int n = rest(at, count);
    store4(sum + at, plus(load4(sum + at, n, true), load4(term + at, n, true)), n, true);
}

extern "C" __global__ void pointwise_affine(const float* __restrict__ x, float* __restrict__ y, u64 count, float factor, float constant) {
    const u64 at = 4 * thread_index();
    if (at >= count) return;  // guard
    const int n = rest(at, count);
    const float4 v = load4(x + at, n, true);
    const float4 scaled = make_float4(factor * v.x + constant, factor * v.y + constant, factor * v.z + constant, factor * v.w + constant);
    store4(y + at, scaled, n, true);
}
