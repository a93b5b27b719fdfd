// Where an element lies. Divisions by sizes known at run time only, in 32 bits wherever the number fits: a 64-bit one is a loop of its own.
#include "common.cuh"

// i = row·width + column.
struct Place {
    u64 row;
    u32 column;
};

__device__ __forceinline__ Place place(u64 i, u32 width) {
    if (i >> 32) {
        const u64 row = i / width;
        return {row, (u32)(i - row * width)};
    }
    const u32 row = (u32)i / width;
    return {row, (u32)i - row * width};
}

// The index of this thread in a grid of one dimension.
__device__ __forceinline__ u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// ---- one value or four, so that a kernel is written once ----

__device__ __forceinline__ float plus(float a, float b) { return a + b; }
__device__ __forceinline__ float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ __forceinline__ float times(float a, float b) { return a * b; }
__device__ __forceinline__ float4 times(float a, float4 b) { return make_float4(a * b.x, a * b.y, a * b.z, a * b.w); }

template <typename T>
__device__ __forceinline__ T zero();
template <>
__device__ __forceinline__ float zero<float>() {
    return 0.0f;
}
template <>
__device__ __forceinline__ float4 zero<float4>() {
    return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}
