// dynamic_threshold: s = the quantile of |x| of an image, in [1, top]; y = clamp(x, -s, s)/s                     [Saharia et al. 2022, sec. 2.3]
//
// Layout   x, y [n,row] f32.
// Kernels  dynamic_threshold_forward   a block owns an image. The order statistic is found digit by digit in the bits of |x|, which sort as
//                                      the numbers do (NaN last): a histogram of the next 11 bits of those that begin with the bits
//                                      known so far, then the bin of the wanted rank. Three digits, and a pass for the next larger value.
// Cost     five reads of x, four of which the caches serve, and one write; a sampler's step does it once.
// Exact    counts are integers, so their order does not matter; quantile, clamp and quotient are the CPU's operations: the same bits.
// Barriers find_rank ends with one, behind which `bins` may be cleared; `found`, `larger` and `bound` are next written behind others.
// Limits   one block for each image, however large.
// Tried    not: histograms of each warp, against many equal leading digits.
#include "common.cuh"

#define THREADS 512
#define BINS 2048  // of 11 bits, four a thread; 11 + 11 + 10 = 32, the sign of |x| being 0

__device__ __forceinline__ u32 size_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// The bin of rank `rank` (from 0) in `bins`, and what is left of the rank in it, to `found`. All threads take part.
__device__ __forceinline__ void find_rank(const u32* __restrict__ bins, u32 rank, u32* __restrict__ warps, u32* __restrict__ found) {
    const u32 lane = threadIdx.x & 31u, warp = threadIdx.x >> 5, first = threadIdx.x * 4;
    const uint4 four = reinterpret_cast<const uint4*>(bins)[threadIdx.x];
    const u32 own = (four.x + four.y) + (four.z + four.w);
    u32 below = own;  // inclusive sums over the warp
#pragma unroll
    for (int offset = 1; offset < 32; offset <<= 1) {
        const u32 other = __shfl_up_sync(0xffffffffu, below, offset);
        if (lane >= offset) below += other;
    }
    if (lane == 31) warps[warp] = below;
    __syncthreads();
    below -= own;
    for (u32 i = 0; i < warp; i++) below += warps[i];
    if (rank >= below && rank - below < own) {  // one thread's
        u32 left = rank - below, bin = first;
        while (left >= bins[bin]) left -= bins[bin++];
        found[0] = bin;
        found[1] = left;
        found[2] = bins[bin];
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS)
    dynamic_threshold_forward(const float* __restrict__ x, float* __restrict__ y, u32 n, u32 row, u32 low, double part, double top) {
    __shared__ __align__(16) u32 bins[BINS];
    __shared__ u32 warps[THREADS / 32];
    __shared__ u32 found[3];
    __shared__ u32 larger;
    __shared__ float bound;
    for (u32 image = blockIdx.x; image < n; image += gridDim.x) {
        const float* __restrict__ source = x + (size_t)image * row;
        u32 prefix = 0, rank = low, equal = 0;
        for (u32 digit = 0; digit < 3; digit++) {
            // Bits 31 … 21, 20 … 10, 9 … 0.
            const u32 down = digit == 0 ? 21 : digit == 1 ? 10 : 0, width = digit == 2 ? 10 : 11;
            for (u32 i = threadIdx.x; i < BINS; i += THREADS) bins[i] = 0;
            __syncthreads();
            for (u64 i = threadIdx.x; i < row; i += THREADS) {
                const u32 bits = size_bits(source[i]);
                const bool belongs = digit == 0 || bits >> (down + width) == prefix;
                if (belongs) atomicAdd(&bins[(bits >> down) & ((1u << width) - 1)], 1u);
            }
            __syncthreads();
            find_rank(bins, rank, warps, found);
            prefix = (prefix << width) | found[0];
            rank = found[1];
            equal = found[2];
        }
        // `prefix` is the value of rank `low`; the next is the same, or the smallest above it, or there is none.
        if (threadIdx.x == 0) larger = 0xffffffffu;
        __syncthreads();
        if (rank + 1 >= equal) {
            u32 least = 0xffffffffu;
            for (u64 i = threadIdx.x; i < row; i += THREADS) {
                const u32 bits = size_bits(source[i]);
                if (bits > prefix && bits < least) least = bits;
            }
            if (least != 0xffffffffu) atomicMin(&larger, least);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            const double a = __uint_as_float(prefix), b = larger == 0xffffffffu ? a : (double)__uint_as_float(larger);
            const double quantile = __dadd_rn(a, __dmul_rn(part, __dadd_rn(b, -a)));
            bound = (float)fmax(fmin(quantile, top), 1.0);
        }
        __syncthreads();
        const float s = bound;
        for (u64 i = threadIdx.x; i < row; i += THREADS) {
            float v = source[i];
            // Comparisons instead of fminf and fmaxf keep a NaN a NaN.
            v = v < -s ? -s : v;
            v = v > s ? s : v;
            y[(size_t)image * row + i] = v / s;
        }
    }
}
