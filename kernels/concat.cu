// concat: [x, y] along channels; a range of channels; a range of channels of a tensor that is 0 elsewhere
//
// Layout   x [rows,a], y [rows,b], joined [rows,a+b]; part [rows,len], whole [rows,width]. All f32.
// Kernels  concat_join, concat_part (also a join's gradients), concat_widen (a part's gradient): a thread owns four channels of the output
// Cost     reads its inputs once, writes its output once.
// Exact    copies.
// Limits   where a size or offset does not divide by 4, a thread owns one channel: `lanes` is 4 or 1, and all sizes are in units of it.
#include "index.cuh"

template <typename T>
__device__ __forceinline__ void join(const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ joined, u64 count, u32 a, u32 b) {
    const u64 i = thread_index();
    if (i >= count) return;  // guard
    const Place at = place(i, a + b);
    const T* from = at.column < a ? reinterpret_cast<const T*>(x) + at.row * a + at.column : reinterpret_cast<const T*>(y) + at.row * b + (at.column - a);
    reinterpret_cast<T*>(joined)[i] = *from;
}

extern "C" __global__ void concat_join(const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ joined, u64 count, u32 a, u32 b,
                                       u32 lanes) {
    if (lanes == 4) {
        join<float4>(x, y, joined, count, a, b);
    } else {
        join<float>(x, y, joined, count, a, b);
    }
}

template <typename T>
__device__ __forceinline__ void part(const float* __restrict__ whole, float* __restrict__ out, u64 count, u32 width, u32 start, u32 len) {
    const u64 i = thread_index();
    if (i >= count) return;  // guard
    const Place at = place(i, len);
    reinterpret_cast<T*>(out)[i] = reinterpret_cast<const T*>(whole)[at.row * width + start + at.column];
}

extern "C" __global__ void concat_part(const float* __restrict__ whole, float* __restrict__ out, u64 count, u32 width, u32 start, u32 len, u32 lanes) {
    if (lanes == 4) {
        part<float4>(whole, out, count, width, start, len);
    } else {
        part<float>(whole, out, count, width, start, len);
    }
}

template <typename T>
__device__ __forceinline__ void widen(const float* __restrict__ narrow, float* __restrict__ whole, u64 count, u32 width, u32 start, u32 len) {
    const u64 i = thread_index();
    if (i >= count) return;  // guard
    const Place at = place(i, width);
    const u32 column = at.column - start;  // wraps around before the range
    reinterpret_cast<T*>(whole)[i] = column < len ? reinterpret_cast<const T*>(narrow)[at.row * len + column] : zero<T>();
}

extern "C" __global__ void concat_widen(const float* __restrict__ narrow, float* __restrict__ whole, u64 count, u32 width, u32 start, u32 len, u32 lanes) {
    if (lanes == 4) {
        widen<float4>(narrow, whole, count, width, start, len);
    } else {
        widen<float>(narrow, whole, count, width, start, len);
    }
}
