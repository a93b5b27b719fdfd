// blend: out_i = a_i·x_i + b_i·y_i, a factor for each image; y may be null
//
// Layout   x, y, out [n,row] f32; a, b [n].
// Kernels  blend_forward   a thread owns four consecutive elements of one image
// Cost     reads each input once, writes the output once; memory bound.
// Exact    each element by itself; one product may be fused with the sum.
// Limits   rows that do not divide by 4 lose the 16-byte accesses, not the result.
#include "common.cuh"

extern "C" __global__ void blend_forward(const float* __restrict__ x, const float* __restrict__ a, const float* __restrict__ y, const float* __restrict__ b,
                                         float* __restrict__ out, u32 n, u32 row) {
    const u64 at = 4ull * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= row) return;  // guard
    const int count = row - at < 4 ? (int)(row - at) : 4;
    const bool aligned = (row & 3u) == 0;
    for (u32 image = blockIdx.y; image < n; image += gridDim.y) {
        const size_t base = (size_t)image * row + at;
        const float4 v = load4(x + base, count, aligned);
        const float s = a[image];
        float4 sum = make_float4(s * v.x, s * v.y, s * v.z, s * v.w);
        if (y) {
            const float4 u = load4(y + base, count, aligned);
            const float t = b[image];
            sum = make_float4(sum.x + t * u.x, sum.y + t * u.y, sum.z + t * u.z, sum.w + t * u.w);
        }
        store4(out + base, sum, count, aligned);
    }
}
