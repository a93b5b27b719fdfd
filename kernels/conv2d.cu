// conv2d: y = conv(x, weight) + bias (+ per-image vector) (+ residual), as implicit products: nothing is unfolded in memory
//
// Layout   x, dx [n,h,w,c_in], weight, dw [c_out,kh,kw,c_in], y, dy, residual [n,h_out,w_out,c_out], per_image [n,c_out], bias [c_out];
//          all f32. What is not given is null.
// Kernels  conv2d_forward           row = output pixel, column = c_out, k = (ky, kx, c_in): a window of x times rows of the weight
//          conv2d_backward_x        row = input pixel, column = c_in, k = (tap, c_out): a window of dy, taps backwards. Pixels fall into
//                                   stride x stride classes by their residues: those of one class see the same taps, so no product is
//                                   with a zero that the stride put there
//          conv2d_backward_weight   row = c_out, column = (ky, kx, c_in), k = output pixel; a block takes a tile and one of `chunks` ranges
//                                   of pixels, which linear_sum_rows adds
//          Each for large tiles, _small and _scalar (channels that do not divide by 4, small tiles); forward_narrow and
//          backward_weight_shallow (_scalar: dy one value at a time) for up to 16 output channels. dbias and dper_image are linear_sum_rows; a 1x1 convolution is linear.
// Cost     2·kh·kw·c_in·c_out flops per output pixel each; inputs and outputs once from memory, the taps' overlap from the cache.
// Exact    no atomics: ranges of pixels depend on the shape alone and are added in order.
// Limits   n·h·w, n·h_out·w_out, kh·kw·c_in, kh·kw·c_out below 2^31.
#include "gemm.cuh"

#define CONV_SIZES int n, int h, int w, int c_in, int c_out, int kh, int kw, int h_out, int w_out, int stride, int pad
#define CONV {n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, pad}

struct Conv {
    int n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, pad;
};

// ---- forward ----

template <class T, bool VECTOR>
__device__ __forceinline__ void forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                                        const float* __restrict__ per_image, const float* __restrict__ residual, float* __restrict__ y,
                                        const Conv s) {
    const int2 at = tile_origin<T>(blockIdx.x, s.c_out);
    const int rows = s.n * s.h_out * s.w_out, depth = s.kh * s.kw * s.c_in;
    const View view = {s.h, s.w, s.c_in, s.h_out, s.w_out, s.kh, s.kw, s.stride, -s.pad, -s.pad};
    const Window<T::BM, T::BK, T::THREADS, VECTOR, 1> a(x, view, at.x, rows);
    const Rows<T::BN, T::BK, T::THREADS, VECTOR> b(weight, at.y, s.c_out, depth);
    const Result out = {y, bias, per_image, residual, rows, s.c_out, s.h_out * s.w_out};
    multiply<T>(a, b, depth, out, at.x, at.y);
}

// ---- backward to x ----

// The weight as [k,c_in] for one class of pixels, k = (ty, tx, c_out): weight[c_out, first_y + stride·ty, first_x + stride·tx, c_in].
template <int SIDE, int BK, int THREADS, bool VECTOR>
struct ClassWeight {
    typedef AlongSide<SIDE, BK, THREADS> Map;
    const float* data;
    Conv s;
    int first_y, first_x, taps_x, left, k, end;
    Digits at, step;
    float4 v[Map::LOADS];

    __device__ __forceinline__ ClassWeight(const float* __restrict__ weight, const Conv& s_, int first_y_, int first_x_, int taps_x_, int depth,
                                           int first)
        : data(weight + first + Map::column()),
          s(s_),
          first_y(first_y_),
          first_x(first_x_),
          taps_x(taps_x_),
          left(s_.c_in - first - Map::column()),
          k(Map::k()),
          end(Map::has_part() && left > 0 ? depth : 0),
          at(digits(Map::k(), taps_x_, s_.c_out)),
          step(digits(Map::STEP, taps_x_, s_.c_out)) {}
    __device__ __forceinline__ void load() {
#pragma unroll
        for (int load = 0; load < Map::LOADS; load++, k += Map::STEP) {
            const int tap = (at.low * s.kh + first_y + s.stride * at.high) * s.kw + first_x + s.stride * at.middle;
            v[load] = k < end ? fetch4<VECTOR>(data + (size_t)tap * s.c_in, left) : zero4();
            advance(at, step, taps_x, s.c_out);
        }
    }
    __device__ __forceinline__ void store(float (*tile)[SIDE + 4]) const { Map::store(tile, v); }
};

// dx of one class: row (image, i, j) is pixel (image, stride·i + residue_y, stride·j + residue_x).
struct ClassResult {
    float* dx;
    int rows, columns, h, w, class_h, class_w, stride, residue_y, residue_x;

    __device__ __forceinline__ float4 column(int) const { return zero4(); }
    __device__ __forceinline__ size_t offset(int m) const {
        if (stride == 1) return (size_t)m * columns;
        const Digits at = digits(m, class_h, class_w);
        return (size_t)((at.high * h + at.middle * stride + residue_y) * w + at.low * stride + residue_x) * columns;
    }
    __device__ __forceinline__ void put(int, int n, size_t row, float4 sum, float4) const {
        if (n < columns) store4(dx + row + n, sum, columns - n, columns % 4 == 0);
    }
};

// The first `blocks` blocks are those of class 0, and so on.
template <class T, bool VECTOR>
__device__ __forceinline__ void backward_x(const float* __restrict__ weight, const float* __restrict__ dy, float* __restrict__ dx, int blocks,
                                           const Conv s) {
    const int classes_x = least(s.stride, s.w), residue_y = blockIdx.x / blocks / classes_x, residue_x = blockIdx.x / blocks % classes_x;
    const int2 at = tile_origin<T>(blockIdx.x % blocks, s.c_in);
    const int class_h = (s.h - residue_y + s.stride - 1) / s.stride, class_w = (s.w - residue_x + s.stride - 1) / s.stride;
    const int first_y = (residue_y + s.pad) % s.stride, first_x = (residue_x + s.pad) % s.stride;
    const int taps_y = (s.kh - first_y + s.stride - 1) / s.stride, taps_x = (s.kw - first_x + s.stride - 1) / s.stride;
    const int rows = s.n * class_h * class_w, depth = taps_y * taps_x * s.c_out;
    const View view = {s.h_out, s.w_out, s.c_out, class_h, class_w, taps_y, taps_x, 1, (residue_y + s.pad) / s.stride, (residue_x + s.pad) / s.stride};
    const Window<T::BM, T::BK, T::THREADS, VECTOR, -1> a(dy, view, at.x, rows);
    const ClassWeight<T::BN, T::BK, T::THREADS, VECTOR> b(weight, s, first_y, first_x, taps_x, depth, at.y);
    const ClassResult out = {dx, rows, s.c_in, s.h, s.w, class_h, class_w, s.stride, residue_y, residue_x};
    multiply<T>(a, b, depth, out, at.x, at.y);
}

// ---- backward to the weight ----

// x as [output pixel, (ky, kx, c_in)], pixels begin .. end, columns first .. first + SIDE.
template <int SIDE, int BK, int THREADS, bool VECTOR>
struct Unfolded {
    typedef AlongSide<SIDE, BK, THREADS> Map;
    static constexpr int TAPS = VECTOR ? 1 : 4;
    const float* data;
    Conv s;
    int k, end;
    int ky[TAPS], kx[TAPS], channel[TAPS];  // of the thread's columns; ky = -1 where there is none
    Digits at, step;                        // image, row, column of the output pixel
    float4 v[Map::LOADS];

    __device__ __forceinline__ Unfolded(const float* __restrict__ x, const Conv& s_, int first, int begin, int end_)
        : data(x),
          s(s_),
          k(begin + Map::k()),
          end(Map::has_part() ? end_ : 0),
          at(digits(begin + Map::k(), s_.h_out, s_.w_out)),
          step(digits(Map::STEP, s_.h_out, s_.w_out)) {
        Digits tap = digits(first + Map::column(), s.kw, s.c_in);
#pragma unroll
        for (int i = 0; i < TAPS; i++) {
            ky[i] = tap.high < s.kh ? tap.high : -1;
            kx[i] = tap.middle;
            channel[i] = tap.low;
            next(tap, s.kw, s.c_in);
        }
    }
    __device__ __forceinline__ const float* value(int i) const {
        const int y = at.middle * s.stride - s.pad + ky[i], x = at.low * s.stride - s.pad + kx[i];
        const bool inside = k < end && ky[i] >= 0 && (u32)y < (u32)s.h && (u32)x < (u32)s.w;
        return inside ? data + ((size_t)(u32)((at.high * s.h + y) * s.w + x) * s.c_in + channel[i]) : nullptr;
    }
    __device__ __forceinline__ void load() {
#pragma unroll
        for (int load = 0; load < Map::LOADS; load++, k += Map::STEP) {
            if (VECTOR) {
                const float* p = value(0);
                v[load] = p ? fetch4<true>(p, 4) : zero4();
            } else {
                float one[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float* p = value(i % TAPS);
                    one[i] = p ? *p : 0.0f;
                }
                v[load] = make_float4(one[0], one[1], one[2], one[3]);
            }
            advance(at, step, s.h_out, s.w_out);
        }
    }
    __device__ __forceinline__ void store(float (*tile)[SIDE + 4]) const { Map::store(tile, v); }
};

// `out` is [chunks, c_out, kh, kw, c_in]; a chunk sums `len` output pixels.
template <class T, bool VECTOR_DY, bool VECTOR_X>
__device__ __forceinline__ void backward_weight(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int chunks,
                                                int len, const Conv s) {
    const int columns = s.kh * s.kw * s.c_in, pixels = s.n * s.h_out * s.w_out;
    const int2 at = tile_origin<T>(blockIdx.x / chunks, columns);
    const int chunk = blockIdx.x % chunks, begin = chunk * len, end = least(pixels, begin + len);
    const Columns<T::BM, T::BK, T::THREADS, VECTOR_DY> a(dy, at.x, s.c_out, begin, end);
    const Unfolded<T::BN, T::BK, T::THREADS, VECTOR_X> b(x, s, at.y, begin, end);
    multiply<T>(a, b, end - begin, plain_result(out + (size_t)chunk * s.c_out * columns, s.c_out, columns), at.x, at.y);
}

// ---- kernels ----

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                   const float* __restrict__ per_image, const float* __restrict__ residual, float* __restrict__ y, CONV_SIZES) {
    forward<Large, true>(x, weight, bias, per_image, residual, y, CONV);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    conv2d_forward_small(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                         const float* __restrict__ per_image, const float* __restrict__ residual, float* __restrict__ y, CONV_SIZES) {
    forward<Small, true>(x, weight, bias, per_image, residual, y, CONV);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    conv2d_forward_scalar(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                          const float* __restrict__ per_image, const float* __restrict__ residual, float* __restrict__ y, CONV_SIZES) {
    forward<Small, false>(x, weight, bias, per_image, residual, y, CONV);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    conv2d_forward_narrow(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                          const float* __restrict__ per_image, const float* __restrict__ residual, float* __restrict__ y, CONV_SIZES) {
    forward<Narrow, true>(x, weight, bias, per_image, residual, y, CONV);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_backward_x(const float* __restrict__ weight, const float* __restrict__ dy, float* __restrict__ dx, int blocks, CONV_SIZES) {
    backward_x<Large, true>(weight, dy, dx, blocks, CONV);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    conv2d_backward_x_small(const float* __restrict__ weight, const float* __restrict__ dy, float* __restrict__ dx, int blocks, CONV_SIZES) {
    backward_x<Small, true>(weight, dy, dx, blocks, CONV);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    conv2d_backward_x_scalar(const float* __restrict__ weight, const float* __restrict__ dy, float* __restrict__ dx, int blocks, CONV_SIZES) {
    backward_x<Small, false>(weight, dy, dx, blocks, CONV);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_backward_weight(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int chunks, int len, CONV_SIZES) {
    backward_weight<Large, true, true>(x, dy, out, chunks, len, CONV);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    conv2d_backward_weight_small(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int chunks, int len,
                                 CONV_SIZES) {
    backward_weight<Small, true, true>(x, dy, out, chunks, len, CONV);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    conv2d_backward_weight_scalar(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int chunks, int len,
                                  CONV_SIZES) {
    backward_weight<Small, false, false>(x, dy, out, chunks, len, CONV);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    conv2d_backward_weight_shallow(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int chunks, int len,
                                   CONV_SIZES) {
    backward_weight<Shallow, true, true>(x, dy, out, chunks, len, CONV);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    conv2d_backward_weight_shallow_scalar(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, int chunks,
                                          int len, CONV_SIZES) {
    backward_weight<Shallow, false, true>(x, dy, out, chunks, len, CONV);
}
