// resample: nearest neighbour to any size, y[oy,ox] = x[floor(oy·h/h_out), floor(ox·w/w_out)]; the mean of 2x2 pixels
//
// Layout   x [n,h,w,c], y [n,h_out,w_out,c], f32.
// Kernels  resample_nearest, resample_nearest_backward, resample_mean, resample_mean_backward: a thread owns four channels of a pixel of
//          what it writes, and goes through rows of pixels in strides of the grid, for which its column's arithmetic is the same
// Cost     reads its input once, writes its output once.
// Exact    the backward of nearest sums in the order of the output's pixels, as the CPU does; no atomics.
// Limits   where c does not divide by 4, a thread owns one channel: `lanes` is 4 or 1, and c is in units of it.
#include "index.cuh"

// floor(i·from/to)
__device__ __forceinline__ u32 scaled(u32 i, u32 from, u32 to) {
    const u64 product = (u64)i * from;
    return (product >> 32) ? (u32)(product / to) : (u32)product / to;
}

// ceil(i·from/to): the first position of the other side that belongs to i.
__device__ __forceinline__ u32 first_of(u32 i, u32 from, u32 to) {
    const u64 product = (u64)i * from + (to - 1);
    return (product >> 32) ? (u32)(product / to) : (u32)product / to;
}

template <typename T>
__device__ __forceinline__ void nearest(const float* __restrict__ x, float* __restrict__ y, u64 rows, u32 h, u32 w, u32 c, u32 h_out, u32 w_out) {
    const u64 i = thread_index();
    if (i >= (u64)w_out * c) return;  // guard
    const Place at = place(i, c);
    const u64 source = (u64)scaled((u32)at.row, w, w_out) * c + at.column;
    for (u64 row = blockIdx.y; row < rows; row += gridDim.y) {
        const Place line = place(row, h_out);
        const u64 from = line.row * h + scaled(line.column, h, h_out);
        reinterpret_cast<T*>(y)[row * w_out * c + i] = reinterpret_cast<const T*>(x)[from * w * c + source];
    }
}

extern "C" __global__ void resample_nearest(const float* __restrict__ x, float* __restrict__ y, u64 rows, u32 h, u32 w, u32 c, u32 h_out, u32 w_out,
                                            u32 lanes) {
    if (lanes == 4) {
        nearest<float4>(x, y, rows, h, w, c, h_out, w_out);
    } else {
        nearest<float>(x, y, rows, h, w, c, h_out, w_out);
    }
}

template <typename T>
__device__ __forceinline__ void nearest_backward(const float* __restrict__ dy, float* __restrict__ dx, u64 rows, u32 h, u32 w, u32 c, u32 h_out, u32 w_out) {
    const u64 i = thread_index();
    if (i >= (u64)w * c) return;  // guard
    const Place at = place(i, c);
    const u32 first_x = first_of((u32)at.row, w_out, w), last_x = first_of((u32)at.row + 1, w_out, w);
    for (u64 row = blockIdx.y; row < rows; row += gridDim.y) {
        const Place line = place(row, h);
        const u32 last_y = first_of(line.column + 1, h_out, h);
        T sum = zero<T>();
        for (u32 oy = first_of(line.column, h_out, h); oy < last_y; oy++) {
            const T* from = reinterpret_cast<const T*>(dy) + (line.row * h_out + oy) * w_out * c + at.column;
            for (u32 ox = first_x; ox < last_x; ox++) sum = plus(sum, from[(u64)ox * c]);
        }
        reinterpret_cast<T*>(dx)[row * w * c + i] = sum;
    }
}

extern "C" __global__ void resample_nearest_backward(const float* __restrict__ dy, float* __restrict__ dx, u64 rows, u32 h, u32 w, u32 c, u32 h_out,
                                                     u32 w_out, u32 lanes) {
    if (lanes == 4) {
        nearest_backward<float4>(dy, dx, rows, h, w, c, h_out, w_out);
    } else {
        nearest_backward<float>(dy, dx, rows, h, w, c, h_out, w_out);
    }
}

template <typename T>
__device__ __forceinline__ void mean(const float* __restrict__ x, float* __restrict__ y, u64 rows, u32 h, u32 w, u32 c, u32 h_out, u32 w_out) {
    const u64 i = thread_index();
    if (i >= (u64)w_out * c) return;  // guard
    const Place at = place(i, c);
    const u64 line_size = (u64)w * c, source = (2 * at.row) * c + at.column;
    for (u64 row = blockIdx.y; row < rows; row += gridDim.y) {
        const Place line = place(row, h_out);
        const T* from = reinterpret_cast<const T*>(x) + (line.row * h + 2 * line.column) * line_size + source;
        const T top = plus(from[0], from[c]), bottom = plus(from[line_size], from[line_size + c]);
        reinterpret_cast<T*>(y)[row * w_out * c + i] = times(0.25f, plus(top, bottom));
    }
}

extern "C" __global__ void resample_mean(const float* __restrict__ x, float* __restrict__ y, u64 rows, u32 h, u32 w, u32 c, u32 h_out, u32 w_out,
                                         u32 lanes) {
    if (lanes == 4) {
        mean<float4>(x, y, rows, h, w, c, h_out, w_out);
    } else {
        mean<float>(x, y, rows, h, w, c, h_out, w_out);
    }
}

template <typename T>
__device__ __forceinline__ void mean_backward(const float* __restrict__ dy, float* __restrict__ dx, u64 rows, u32 h, u32 w, u32 c, u32 h_out, u32 w_out) {
    const u64 i = thread_index();
    if (i >= (u64)w * c) return;  // guard
    const Place at = place(i, c);
    const u64 column = at.row / 2;
    for (u64 row = blockIdx.y; row < rows; row += gridDim.y) {
        const Place line = place(row, h);
        const u32 oy = line.column / 2;
        T value = zero<T>();  // an odd last row or column is in no mean
        if (oy < h_out && column < w_out) {
            value = times(0.25f, reinterpret_cast<const T*>(dy)[((line.row * h_out + oy) * w_out + column) * c + at.column]);
        }
        reinterpret_cast<T*>(dx)[row * w * c + i] = value;
    }
}

extern "C" __global__ void resample_mean_backward(const float* __restrict__ dy, float* __restrict__ dx, u64 rows, u32 h, u32 w, u32 c, u32 h_out, u32 w_out,
                                                  u32 lanes) {
    if (lanes == 4) {
        mean_backward<float4>(dy, dx, rows, h, w, c, h_out, w_out);
    } else {
        mean_backward<float>(dy, dx, rows, h, w, c, h_out, w_out);
    }
}
