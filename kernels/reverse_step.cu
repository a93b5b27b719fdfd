// reverse_step: next = to_x·x + to_x0·x0_hat + to_out·out + to_past·past + noise·z,  x0_hat = clip(from_x·x + from_out·out)
//
// Layout   all tensors [n,row] f32; samples [n]. x0_hat, past and given noise are null where there is none.
// Kernels  reverse_step_forward   a thread owns four consecutive elements of one image: one Philox block
// Cost     one read of each input, one write: 12 bytes per element for x, out and next; noise in registers.
// Exact    drawn noise is the CPU's to the bit; sums may be fused.
// Limits   rows that do not divide by 4 lose the 16-byte accesses, not the result.
#include "common.cuh"

__device__ __forceinline__ float clipped(float raw, float clip) {
    // Comparisons instead of fminf and fmaxf keep a NaN a NaN.
    raw = raw > clip ? clip : raw;
    return raw < -clip ? -clip : raw;
}

extern "C" __global__ void reverse_step_forward(const float* __restrict__ x_t, const float* __restrict__ net_out,
                                                const float* __restrict__ x0_hat, const float* __restrict__ past,
                                                const float* __restrict__ given, const u32* __restrict__ samples, float* __restrict__ next,
                                                u32 n, u32 row, float from_x, float from_out, float clip, float to_x, float to_x0, float to_out,
                                                float to_past, float noise, u32 seed_low, u32 seed_high, u32 step, u32 last) {
    const u32 block = blockIdx.x * blockDim.x + threadIdx.x;
    if (block * 4ull >= row) return;  // guard
    const int count = min(4u, row - block * 4);
    const bool aligned = (row & 3u) == 0;
    for (u32 image = blockIdx.y; image < n; image += gridDim.y) {
        const size_t base = (size_t)image * row + (size_t)block * 4;
        const float4 x = load4(x_t + base, count, aligned);
        const float4 out = load4(net_out + base, count, aligned);
        float4 y = make_float4(to_x * x.x + to_out * out.x, to_x * x.y + to_out * out.y, to_x * x.z + to_out * out.z, to_x * x.w + to_out * out.w);
        if (to_x0 != 0.0f) {
            float4 x0;
            if (x0_hat) {
                x0 = load4(x0_hat + base, count, aligned);
            } else {
                x0 = make_float4(clipped(from_x * x.x + from_out * out.x, clip), clipped(from_x * x.y + from_out * out.y, clip),
                                 clipped(from_x * x.z + from_out * out.z, clip), clipped(from_x * x.w + from_out * out.w, clip));
            }
            y = make_float4(y.x + to_x0 * x0.x, y.y + to_x0 * x0.y, y.z + to_x0 * x0.z, y.w + to_x0 * x0.w);
        }
        if (past) {
            const float4 p = load4(past + base, count, aligned);
            y = make_float4(y.x + to_past * p.x, y.y + to_past * p.y, y.z + to_past * p.z, y.w + to_past * p.w);
        }
        if (noise != 0.0f) {
            const Address at = {seed_low, seed_high, step, last};
            const float4 z = given ? load4(given + base, count, aligned) : normals(at, samples[image], block);
            y = make_float4(y.x + noise * z.x, y.y + noise * z.y, y.z + noise * z.z, y.w + noise * z.w);
        }
        store4(next + base, y, count, aligned);
    }
}
