// perturb: x_t = alpha·x0 + sigma·eps with addressed noise                                          [S0 "Claim", S3.eq23]
//
// Layout   x0, x_t, eps [n,row] f32; alpha, sigma [n]; samples [n].
// Kernels  perturb_forward   a thread owns four consecutive elements of one image: one Philox block
// Cost     reads x0 once, writes x_t and eps once: 12 bytes per element; noise in registers.
// Exact    eps is the CPU's to the bit.
// Limits   rows that do not divide by 4 lose the 16-byte accesses, not the result.
#include "common.cuh"

extern "C" __global__ void perturb_forward(const float* __restrict__ x0, const float* __restrict__ alpha, const float* __restrict__ sigma,
                                           const u32* __restrict__ samples, float* __restrict__ x_t, float* __restrict__ eps, u32 n, u32 row,
                                           u32 seed_low, u32 seed_high, u32 step, u32 last) {
    const u32 block = blockIdx.x * blockDim.x + threadIdx.x;
    if (block * 4ull >= row) return;  // guard
    const Address at = {seed_low, seed_high, step, last};
    const int count = min(4u, row - block * 4);
    const bool aligned = (row & 3u) == 0;
    for (u32 image = blockIdx.y; image < n; image += gridDim.y) {
        const size_t base = (size_t)image * row + (size_t)block * 4;
        const float4 z = normals(at, samples[image], block);
        const float4 x = load4(x0 + base, count, aligned);
        const float a = alpha[image], s = sigma[image];
        const float4 y = make_float4(a * x.x + s * z.x, a * x.y + s * z.y, a * x.z + s * z.z, a * x.w + s * z.w);
        store4(eps + base, z, count, aligned);
        store4(x_t + base, y, count, aligned);
    }
}
