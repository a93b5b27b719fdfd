// learned_variance: the bound of a reverse step of variance exp(f·log_large + (1 - f)·log_small), f = (v + 1)/2; and its noise
//                                                                                              [Nichol & Dhariwal 2021, eqs. 15, 16]
//
// Layout   prediction, target, v, x0, dv [n,row] f32; terms [n,5] f32: log_small, log_large, factor, weight, is_last; partial [n,chunks] f64;
//          loss, dy [1] f32. mean, z, next [count] f32.
// Kernels  learned_variance_partial    a block sums the bounds of 4096 elements of one image, times its weight: 16 a thread in f64
//          learned_variance_loss       one block adds the partial sums in f64
//          learned_variance_backward   an element a thread; dy is read on the device
//          learned_variance_step       mean + exp(½·log variance)·z, an element a thread
// Saved    the inputs.
// Cost     forward reads four values an element, backward writes one more: 16 and 20 bytes, and two exponentials; the last step of a chain
//          has two complementary error functions more.
// Exact    no atomics, a fixed order: equal inputs give equal bits.
// Limits   none of sizes; the bound of an element is f32, so that a mass below 1e-12 counts as that.
#include "sums.cuh"

#define PART 4096u
#define LEAST_MASS 1e-12f

struct Bound {
    float value, slope;  // of an element, and its derivative by the logarithm of the variance
};

__device__ __forceinline__ float log_variance(float v, float log_small, float log_large) {
    const float f = 0.5f * (v + 1.0f);
    return f * log_large + (1.0f - f) * log_small;
}

__device__ __forceinline__ float upper(float x) { return 0.5f * erfcf(x * 0.70710678118654752f); }

// x·φ(x), 0 at infinity.
__device__ __forceinline__ float moment(float x) { return fabsf(x) < 1e18f ? x * 0.39894228040143268f * expf(-0.5f * x * x) : 0.0f; }

__device__ __forceinline__ Bound bound_of(const float* __restrict__ terms, float error, float v, float x0, float half_bin) {
    const float log_small = terms[0], log = log_variance(v, log_small, terms[1]), d = terms[2] * error;
    if (terms[4] == 0.0f) {
        const float ratio = expf(log_small - log) + d * d * expf(-log);
        return {0.5f * (log - log_small - 1.0f + ratio), 0.5f * (1.0f - ratio)};
    }
    const float rstd = expf(-0.5f * log), infinity = __int_as_float(0x7f800000);
    const float low = x0 < -1.0f + half_bin ? -infinity : (-half_bin - d) * rstd;
    const float high = x0 > 1.0f - half_bin ? infinity : (half_bin - d) * rstd;
    // Differences of tails on the side where both are small.
    const float mass = low > 0.0f    ? upper(low) - upper(high)
                       : high < 0.0f ? upper(-high) - upper(-low)
                                     : 1.0f - upper(high) - upper(-low);
    const float slope = mass > LEAST_MASS ? 0.5f * (moment(high) - moment(low)) / mass : 0.0f;
    return {-logf(fmaxf(mass, LEAST_MASS)), slope};
}

extern "C" __global__ void __launch_bounds__(256) learned_variance_partial(const float* __restrict__ prediction, const float* __restrict__ target,
                                                                           const float* __restrict__ v, const float* __restrict__ x0,
                                                                           const float* __restrict__ terms, double* __restrict__ partial, u32 row,
                                                                           u32 chunks, float half_bin) {
    __shared__ double warps[8];
    const u32 image = blockIdx.x / chunks, begin = (blockIdx.x - image * chunks) * PART;
    const size_t base = (size_t)image * row;
    const float* own = terms + (size_t)image * 5;
    double sum = 0.0;
    for (u32 i = 0; i < 16; i++) {
        const u64 at = begin + (u64)i * 256 + threadIdx.x;
        if (at < row) sum += bound_of(own, prediction[base + at] - target[base + at], v[base + at], x0[base + at], half_bin).value;
    }
    const double total = block_sum(sum, warps);
    if (threadIdx.x == 0) partial[blockIdx.x] = total * own[3];
}

extern "C" __global__ void __launch_bounds__(512) learned_variance_loss(const double* __restrict__ partial, float* __restrict__ loss, u64 count,
                                                                        double factor) {
    __shared__ double warps[16];
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    const double total = block_sum(sum, warps);
    if (threadIdx.x == 0) loss[0] = (float)(total * factor);
}

extern "C" __global__ void learned_variance_backward(const float* __restrict__ prediction, const float* __restrict__ target,
                                                     const float* __restrict__ v, const float* __restrict__ x0, const float* __restrict__ terms,
                                                     const float* __restrict__ dy, float* __restrict__ dv, u32 n, u32 row, float half_bin,
                                                     float factor) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= row) return;  // guard
    const float scale = factor * dy[0];
    for (u32 image = blockIdx.y; image < n; image += gridDim.y) {
        const size_t i = (size_t)image * row + at;
        const float* own = terms + (size_t)image * 5;
        const Bound bound = bound_of(own, prediction[i] - target[i], v[i], x0[i], half_bin);
        dv[i] = scale * own[3] * 0.5f * (own[1] - own[0]) * bound.slope;
    }
}

extern "C" __global__ void learned_variance_step(const float* __restrict__ mean, const float* __restrict__ v, const float* __restrict__ z,
                                                 float* __restrict__ next, u64 count, float log_small, float log_large) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;  // guard
    next[i] = mean[i] + expf(0.5f * log_variance(v[i], log_small, log_large)) * z[i];
}
