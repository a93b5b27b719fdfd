// dropout: y = x/(1 - p) where the element's uniform number is at least p, else 0
//
// Layout   x, y [n,row] f32; element e of image i has the uniform number of sample i, element e.
// Kernels  dropout_forward (also the backward, on dy): a thread owns four consecutive elements of one image, one Philox block
// Saved    nothing: the mask is drawn again.
// Cost     one read, one write: 8 bytes per element, and a Philox block for four.
// Exact    the mask is the CPU's to the bit.
// Limits   rows that do not divide by 4 lose the 16-byte accesses, not the result.
#include "common.cuh"

__device__ __forceinline__ float masked(float x, u32 word, float p, float gain) {
    const float uniform = __fmul_rn(__uint2float_rn(word >> 8), 5.9604644775390625e-8f);  // 2^-24: both steps are exact
    return uniform < p ? 0.0f : gain * x;
}

extern "C" __global__ void dropout_forward(const float* __restrict__ x, float* __restrict__ y, u32 n, u32 row, float p, float gain, u32 seed_low,
                                           u32 seed_high, u32 step, u32 last) {
    const u32 block = blockIdx.x * blockDim.x + threadIdx.x;
    if (block * 4ull >= row) return;  // guard
    const Address at = {seed_low, seed_high, step, last};
    const int count = min(4u, row - block * 4);
    const bool aligned = (row & 3u) == 0;
    for (u32 image = blockIdx.y; image < n; image += gridDim.y) {
        const size_t base = (size_t)image * row + (size_t)block * 4;
        const uint4 bits = random_bits(at, image, block);
        const float4 v = load4(x + base, count, aligned);
        const float4 kept = make_float4(masked(v.x, bits.x, p, gain), masked(v.y, bits.y, p, gain), masked(v.z, bits.z, p, gain), masked(v.w, bits.w, p, gain));
        store4(y + base, kept, count, aligned);
    }
}
