// select: out = mask ? a : b, one mask for all images
//
// Layout   mask [row]; a, b, out [n,row] f32.
// Kernels  select_forward   a thread owns four consecutive elements of one image
// Cost     reads each input once, writes the output once; memory bound.
// Exact    each element is a copy.
// Limits   rows that do not divide by 4 lose the 16-byte accesses, not the result.
#include "common.cuh"

extern "C" __global__ void select_forward(const float* __restrict__ mask, const float* __restrict__ a, const float* __restrict__ b,
                                          float* __restrict__ out, u32 n, u32 row) {
    const u64 at = 4ull * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= row) return;  // guard
    const int count = row - at < 4 ? (int)(row - at) : 4;
    const bool aligned = (row & 3u) == 0;
    const float4 m = load4(mask + at, count, aligned);
    for (u32 image = blockIdx.y; image < n; image += gridDim.y) {
        const size_t base = (size_t)image * row + at;
        const float4 v = load4(a + base, count, aligned), u = load4(b + base, count, aligned);
        store4(out + base,
               make_float4(m.x != 0 ? v.x : u.x, m.y != 0 ? v.y : u.y, m.z != 0 ? v.z : u.z, m.w != 0 ? v.w : u.w), count,
               aligned);
    }
}
