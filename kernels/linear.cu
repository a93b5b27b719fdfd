// linear: y = x·Wᵀ + bias (+ residual)
//
// Layout   x [rows,c_in], weight [c_out,c_in], bias [c_out], y, dy, residual [rows,c_out]; all f32. What is not given is null.
// Kernels  linear_forward           y[r,j]  = sum over i of x[r,i]·weight[j,i], and the additions in the same pass
//          linear_backward_x        dx[r,i] = sum over j of dy[r,j]·weight[j,i]
//          linear_backward_weight   dw[j,i] = sum over r of dy[r,j]·x[r,i]; a block takes a tile and one of `chunks` ranges of rows
//          linear_sum_rows          sums over rows, of a range a block: dbias, and dw from its ranges
//          linear_gelu_forward, linear_gelu_backward: gelu(x) = x·sigmoid(x·(c1 + c3·x²)) and its gradient, four elements a thread
//          Each product for large tiles, _small and _scalar (channels that do not divide by 4, small tiles); each sum too.
// Cost     2·rows·c_in·c_out flops each; reads its operands from memory once as long as the cache holds a row of tiles.
// Exact    no atomics: the ranges of rows depend on the shape alone and are added in order.
// Limits   rows, c_in and c_out below 2^31.
#include "gemm.cuh"

template <class T, bool VECTOR>
__device__ __forceinline__ void forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                                        const float* __restrict__ residual, float* __restrict__ y, int rows, int c_in, int c_out) {
    const int2 at = tile_origin<T>(blockIdx.x, c_out);
    const Rows<T::BM, T::BK, T::THREADS, VECTOR> a(x, at.x, rows, c_in);
    const Rows<T::BN, T::BK, T::THREADS, VECTOR> b(weight, at.y, c_out, c_in);
    const Result out = {y, bias, nullptr, residual, rows, c_out, 1};
    multiply<T>(a, b, c_in, out, at.x, at.y);
}

template <class T, bool VECTOR>
__device__ __forceinline__ void backward_x(const float* __restrict__ weight, const float* __restrict__ dy, float* __restrict__ dx, int rows,
                                           int c_in, int c_out) {
    const int2 at = tile_origin<T>(blockIdx.x, c_in);
    const Rows<T::BM, T::BK, T::THREADS, VECTOR> a(dy, at.x, rows, c_out);
    const Columns<T::BN, T::BK, T::THREADS, VECTOR> b(weight, at.y, c_in, 0, c_out);
    multiply<T>(a, b, c_out, plain_result(dx, rows, c_in), at.x, at.y);
}

// `out` is [chunks, c_out, c_in]; a chunk sums `len` rows.
template <class T, bool VECTOR>
__device__ __forceinline__ void backward_weight(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int rows,
                                                int c_in, int c_out, int chunks, int len) {
    const int2 at = tile_origin<T>(blockIdx.x / chunks, c_in);
    const int chunk = blockIdx.x % chunks, begin = chunk * len, end = least(rows, begin + len);
    const Columns<T::BM, T::BK, T::THREADS, VECTOR> a(dy, at.x, c_out, begin, end);
    const Columns<T::BN, T::BK, T::THREADS, VECTOR> b(x, at.y, c_in, begin, end);
    multiply<T>(a, b, end - begin, plain_result(out + (size_t)chunk * c_out * c_in, c_out, c_in), at.x, at.y);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    linear_forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                   const float* __restrict__ residual, float* __restrict__ y, int rows, int c_in, int c_out) {
    forward<Large, true>(x, weight, bias, residual, y, rows, c_in, c_out);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    linear_forward_small(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                         const float* __restrict__ residual, float* __restrict__ y, int rows, int c_in, int c_out) {
    forward<Small, true>(x, weight, bias, residual, y, rows, c_in, c_out);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    linear_forward_scalar(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                          const float* __restrict__ residual, float* __restrict__ y, int rows, int c_in, int c_out) {
    forward<Small, false>(x, weight, bias, residual, y, rows, c_in, c_out);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    linear_backward_x(const float* __restrict__ weight, const float* __restrict__ dy, float* __restrict__ dx, int rows, int c_in, int c_out) {
    backward_x<Large, true>(weight, dy, dx, rows, c_in, c_out);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    linear_backward_x_small(const float* __restrict__ weight, const float* __restrict__ dy, float* __restrict__ dx, int rows, int c_in,
                            int c_out) {
    backward_x<Small, true>(weight, dy, dx, rows, c_in, c_out);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    linear_backward_x_scalar(const float* __restrict__ weight, const float* __restrict__ dy, float* __restrict__ dx, int rows, int c_in,
                             int c_out) {
    backward_x<Small, false>(weight, dy, dx, rows, c_in, c_out);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    linear_backward_weight(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int rows, int c_in, int c_out,
                           int chunks, int len) {
    backward_weight<Large, true>(x, dy, out, rows, c_in, c_out, chunks, len);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    linear_backward_weight_small(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int rows, int c_in,
                                 int c_out, int chunks, int len) {
    backward_weight<Small, true>(x, dy, out, rows, c_in, c_out, chunks, len);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    linear_backward_weight_scalar(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int rows, int c_in,
                                  int c_out, int chunks, int len) {
    backward_weight<Small, false>(x, dy, out, rows, c_in, c_out, chunks, len);
}

// ---- sums over rows ----

// in [parts, rows, c] -> out [parts, chunks, c], each chunk the sum of `len` rows. `lanes` threads (a power of two up to 32) stand side by
// side, each with WIDE columns; the block, a power of two up to 256, reads threads / lanes rows at a time, and the sums of those are added in
// a fixed tree.
template <int WIDE>
__device__ __forceinline__ void sum_rows(const float* __restrict__ in, float* __restrict__ out, u32 rows, u32 c, u32 chunks, u32 len, u32 lanes) {
    __shared__ __align__(16) float part_sums[256 * WIDE];
    const u32 across = (c + lanes * WIDE - 1) / (lanes * WIDE);
    const u32 group = blockIdx.x % across, chunk = blockIdx.x / across % chunks, part = blockIdx.x / across / chunks;
    const u32 lines = blockDim.x / lanes, line = threadIdx.x / lanes;
    const u32 column = (group * lanes + threadIdx.x % lanes) * WIDE;
    const u32 begin = chunk * len, end = min(rows, begin + len);
    float sum[WIDE];
#pragma unroll
    for (int i = 0; i < WIDE; i++) sum[i] = 0.0f;
    if (column < c) {
        const float* at = in + ((size_t)part * rows + begin + line) * c + column;
#pragma unroll 4
        for (u32 row = begin + line; row < end; row += lines, at += (size_t)lines * c) {
            if (WIDE == 4) {
                const float4 v = *reinterpret_cast<const float4*>(at);
                sum[0] += v.x;
                sum[1 % WIDE] += v.y;
                sum[2 % WIDE] += v.z;
                sum[3 % WIDE] += v.w;
            } else {
                sum[0] += *at;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < WIDE; i++) part_sums[i * 256 + threadIdx.x] = sum[i];
    for (u32 half = blockDim.x / 2; half >= lanes; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
#pragma unroll
            for (int i = 0; i < WIDE; i++) part_sums[i * 256 + threadIdx.x] += part_sums[i * 256 + threadIdx.x + half];
        }
    }
    if (threadIdx.x >= lanes || column >= c) return;  // guard
    float* to = out + ((size_t)part * chunks + chunk) * c + column;
    if (WIDE == 4) {
        *reinterpret_cast<float4*>(to) = make_float4(part_sums[threadIdx.x], part_sums[256 % (256 * WIDE) + threadIdx.x],
                                                     part_sums[512 % (256 * WIDE) + threadIdx.x], part_sums[768 % (256 * WIDE) + threadIdx.x]);
    } else {
        *to = part_sums[threadIdx.x];
    }
}

extern "C" __global__ void __launch_bounds__(256)
    linear_sum_rows(const float* __restrict__ in, float* __restrict__ out, u32 rows, u32 c, u32 chunks, u32 len, u32 lanes) {
    sum_rows<4>(in, out, rows, c, chunks, len, lanes);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_sum_rows_scalar(const float* __restrict__ in, float* __restrict__ out, u32 rows, u32 c, u32 chunks, u32 len, u32 lanes) {
    sum_rows<1>(in, out, rows, c, chunks, len, lanes);
}

// ---- GELU in its tanh form: what `simd`'s `gelu` has ----

#define GELU_LINEAR 1.5957691f  // 2·sqrt(2/pi)
#define GELU_CUBIC 0.07135481f  // 0.044715 times that

__device__ __forceinline__ float gelu_gate(float x) { return 1.0f / (1.0f + expf(-x * (GELU_LINEAR + GELU_CUBIC * x * x))); }

__device__ __forceinline__ float gelu_slope(float x) {
    const float g = gelu_gate(x);
    return g + x * (GELU_LINEAR + 3.0f * GELU_CUBIC * x * x) * g * (1.0f - g);
}

extern "C" __global__ void linear_gelu_forward(const float* __restrict__ x, float* __restrict__ y, u64 count) {
    const u64 at = 4 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= count) return;  // guard
    const int n = count - at < 4 ? (int)(count - at) : 4;
    const float4 v = load4(x + at, n, true);
    store4(y + at, make_float4(v.x * gelu_gate(v.x), v.y * gelu_gate(v.y), v.z * gelu_gate(v.z), v.w * gelu_gate(v.w)), n, true);
}

extern "C" __global__ void linear_gelu_backward(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx, u64 count) {
    const u64 at = 4 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= count) return;  // guard
    const int n = count - at < 4 ? (int)(count - at) : 4;
    const float4 v = load4(x + at, n, true), g = load4(dy + at, n, true);
    store4(dx + at, make_float4(g.x * gelu_slope(v.x), g.y * gelu_slope(v.y), g.z * gelu_slope(v.z), g.w * gelu_slope(v.w)), n, true);
}
