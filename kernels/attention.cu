// attention: y = softmax(q·k^T / sqrt(d))·v for each image and head                            (Vaswani et al. 2017, eq. 1)
//
// Layout   q, k, v, y and their gradients [n,t,heads·d], a head's channels together; lse, dot [n,heads,t]. All f32.
// Kernels  attention_forward_<D>          y and lse; a block owns 64 queries of a head and goes through the keys in tiles of 64
//          attention_backward_dot         dot = sum of dy·y over a head's channels, a few lanes a row
//          attention_backward_query_<D>   dq; a block owns 64 queries
//          attention_backward_key_<D>     dk, dv; a block owns 64 keys and goes through the queries
//          attention_split, attention_join  q, k, v of one tensor and back, rotated by position: an element of each a thread
//          D is how many channels of the result a block has: 16, 32, 64, 128, 256, the least that holds d. Beyond 256 several blocks share
//          the channels, and each forms the scores of all of them again.
// Method   Online softmax (Milakov & Gimelshein 2018; tiled as in Dao et al. 2022): a row's maximum and sum follow the keys, what was
//          summed before is scaled. Scores of a tile are 64 x 64 dot products: tokens are staged 32 channels at a time, a thread has 8
//          (or 4) rows x 4 columns. Probabilities then go through shared memory and weigh rows of values. Backward forms them again.
// Saved    lse, in base 2: log2 of the sum of 2^(score·log2 e); 4 bytes a row.
// Cost     forward 4·t²·d flops a head, backward 10·t²·d + 4·t²·d for scores formed twice; reads q once and k, v once for every 64
//          queries, from the cache for the t of images. 22 to 35 KiB of shared memory.
// Exact    no atomics; each sum runs over tiles in order. A NaN reaches all that depends on it: maxima drop it, sums do not.
// Limits   d % 4 != 0 loses the 16-byte accesses, not the result.
// Tried    loads of both sides of a product at once: 230 to 255 registers where 110 to 168 do, so two blocks on a processor, not three.
//          128 columns of queries with 168 registers: spills.
#include "common.cuh"

const u32 TILE = 64;                // tokens of a tile
const u32 DEPTH = 32;               // channels of tokens staged at a time
const u32 PITCH = DEPTH + 4;        // of staged tokens: eight rows, 4 banks apart, are all 32 banks
const u32 KEYS = TILE + 4;          // of probabilities, likewise
const u32 PAIR = 2 * TILE * PITCH;  // two tiles of tokens, or 64 rows of probabilities
const float LOG2_E = 1.4426950408889634f;

// One head of one image.
struct Head {
    u32 t, d;
    size_t base, stride;  // of its first channel; from a token to the next
    bool aligned;
};

// What a block has: a head, a tile of tokens, and channels of the result.
struct Place {
    Head head;
    size_t rows;  // of lse and dot
    u32 first, piece;
};

template <u32 D>
__device__ __forceinline__ Place place_of(u32 t, u32 d, u32 heads) {
    const u32 pieces = (d + D - 1) / D, tiles = (t + TILE - 1) / TILE;
    const u32 index = blockIdx.x / pieces / tiles;
    Place p;
    p.piece = blockIdx.x % pieces * D;
    p.first = blockIdx.x / pieces % tiles * TILE;
    p.rows = (size_t)index * t;
    p.head.t = t;
    p.head.d = d;
    p.head.stride = (size_t)heads * d;
    p.head.base = index / heads * (t * p.head.stride) + (size_t)(index % heads) * d;
    p.head.aligned = d % 4 == 0;
    return p;
}

// A thread's rows of a tile: the two halves of a warp are 4 rows and so 16 banks apart.
__device__ __forceinline__ u32 row_of(u32 i) {
    return threadIdx.x / 16 * 4 + i % 4 + i / 4 * 32;
}

// ---- staging ----

// Copies up to four channels from `channel` on of a token into shared memory; 0 where there are none.
__device__ __forceinline__ void stage4(float* to, const float* __restrict__ from, const Head& h, u32 token, u32 channel) {
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (token < h.t && channel < h.d) v = load4(from + h.base + token * h.stride + channel, min(4u, h.d - channel), h.aligned);
    *reinterpret_cast<float4*>(to) = v;
}

template <u32 THREADS>
__device__ __forceinline__ void stage_tokens(float* to, const float* __restrict__ from, const Head& h, u32 first, u32 channel) {
#pragma unroll
    for (u32 k = threadIdx.x; k < TILE * DEPTH / 4; k += THREADS) {
        const u32 row = k / (DEPTH / 4), quad = k % (DEPTH / 4);
        stage4(to + row * PITCH + quad * 4, from, h, first + row, channel + quad * 4);
    }
}

// ---- products of tokens ----

// s[i][j] = a[row_of(i)]·b[column + 16·j], tokens counted from the first of each tile.
template <u32 ROWS>
__device__ __forceinline__ void product(float (&s)[ROWS][4], const float* __restrict__ a, u32 first_a, const float* __restrict__ b, u32 first_b,
                                        const Head& h, float* pair) {
    const u32 column = threadIdx.x % 16;
    float *left = pair, *right = pair + TILE * PITCH;
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) s[i][j] = 0.0f;
    }
    for (u32 from = 0; from < h.d; from += DEPTH) {
        __syncthreads();  // what was there was read
#pragma unroll 1
        for (u32 side = 0; side < 2; side++) {  // in turn: both at once take registers that the sums need
            stage_tokens<1024 / ROWS>(side ? right : left, side ? b : a, h, side ? first_b : first_a, from);
        }
        __syncthreads();
        const u32 quads = (min(DEPTH, h.d - from) + 3) / 4;
#pragma unroll 1
        for (u32 q = 0; q < quads; q++) {
            float4 y[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++) y[j] = *reinterpret_cast<const float4*>(right + (column + 16 * j) * PITCH + 4 * q);
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) {
                const float4 x = *reinterpret_cast<const float4*>(left + row_of(i) * PITCH + 4 * q);
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    s[i][j] = fmaf(x.x, y[j].x, s[i][j]);
                    s[i][j] = fmaf(x.y, y[j].y, s[i][j]);
                    s[i][j] = fmaf(x.z, y[j].z, s[i][j]);
                    s[i][j] = fmaf(x.w, y[j].w, s[i][j]);
                }
            }
        }
    }
}

// Hands the weights of a tile to the whole block, in place of the staged tokens.
template <u32 ROWS>
__device__ __forceinline__ void stash(const float (&s)[ROWS][4], float* weights) {
    __syncthreads();  // what was there was read
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) weights[row_of(i) * KEYS + threadIdx.x % 16 + 16 * j] = s[i][j];
    }
}

// ---- weighted sums of tokens ----

// The columns of a thread among D: runs of `Columns<D>::RUN`, one in every 16 runs.
template <u32 D>
struct Columns {
    static const u32 COUNT = D / 16, RUN = COUNT < 4 ? COUNT : 4;
    static const u32 PART = D > 64 ? 4096 / D : TILE;  // tokens staged at a time: at most 16 KiB
    __device__ static __forceinline__ u32 of(u32 i) { return i / RUN * 16 * RUN + threadIdx.x % 16 * RUN + i % RUN; }
};

// sum[i][..] += sum over the tile's tokens of weights[row_of(i)][token]·b[token][column of the thread].
template <u32 ROWS, u32 D>
__device__ __forceinline__ void accumulate(float (&sum)[ROWS][D / 16], const float* __restrict__ b, u32 first, const Place& p,
                                           const float* weights, float* values) {
    typedef Columns<D> C;
    for (u32 part = 0; part < TILE && first + part < p.head.t; part += C::PART) {
        __syncthreads();  // the weights are there, and the last values were read
#pragma unroll 4
        for (u32 k = threadIdx.x; k < C::PART * D / 4; k += 1024 / ROWS) {
            stage4(values + k * 4, b, p.head, first + part + k / (D / 4), p.piece + k % (D / 4) * 4);
        }
        __syncthreads();
        const u32 tokens = min(C::PART, p.head.t - first - part);
        // The weights of tokens that do not exist are 0.
#pragma unroll 1
        for (u32 token = 0; token < tokens; token += 4) {
            float v[4][C::COUNT];
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                const float* row = values + (token + e) * D;
#pragma unroll
                for (u32 c = 0; c < C::COUNT; c += C::RUN) {
                    if constexpr (C::RUN == 4) {
                        const float4 four = *reinterpret_cast<const float4*>(row + C::of(c));
                        v[e][c] = four.x, v[e][c + 1] = four.y, v[e][c + 2] = four.z, v[e][c + 3] = four.w;
                    } else if constexpr (C::RUN == 2) {
                        const float2 two = *reinterpret_cast<const float2*>(row + C::of(c));
                        v[e][c] = two.x, v[e][c + 1] = two.y;
                    } else {
                        v[e][c] = row[C::of(c)];
                    }
                }
            }
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) {
                const float4 w = *reinterpret_cast<const float4*>(weights + row_of(i) * KEYS + part + token);
#pragma unroll
                for (u32 c = 0; c < C::COUNT; c++) {
                    sum[i][c] = fmaf(w.x, v[0][c], sum[i][c]);
                    sum[i][c] = fmaf(w.y, v[1][c], sum[i][c]);
                    sum[i][c] = fmaf(w.z, v[2][c], sum[i][c]);
                    sum[i][c] = fmaf(w.w, v[3][c], sum[i][c]);
                }
            }
        }
    }
}

template <u32 ROWS, u32 D>
__device__ __forceinline__ void clear(float (&sum)[ROWS][D / 16]) {
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
        for (u32 c = 0; c < D / 16; c++) sum[i][c] = 0.0f;
    }
}

// Stores of two and four values, spelled out: the compiler joins them with the scalar stores beside them, and takes them apart.
__device__ __forceinline__ void store_run(float* p, float a, float b) {
    asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "f"(a), "f"(b) : "memory");
}
__device__ __forceinline__ void store_run(float* p, float a, float b, float c, float d) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

// Writes a row of sums times `factor`.
template <u32 D>
__device__ __forceinline__ void write(float* __restrict__ to, const Place& p, u32 row, const float (&sum)[D / 16], float factor) {
    typedef Columns<D> C;
    if (p.first + row >= p.head.t) return;  // guard
    float* at = to + p.head.base + (p.first + row) * p.head.stride + p.piece;
    float v[C::COUNT];
#pragma unroll
    for (u32 c = 0; c < C::COUNT; c++) v[c] = sum[c] * factor;
#pragma unroll
    for (u32 c = 0; c < C::COUNT; c += C::RUN) {
        const u32 column = C::of(c), channel = p.piece + column;
        if (C::RUN == 4 && p.head.aligned) {
            if (channel < p.head.d) store_run(at + column, v[c], v[c + 1], v[c + 2], v[c + 3]);
        } else if (C::RUN == 2 && p.head.aligned) {
            if (channel < p.head.d) store_run(at + column, v[c], v[c + 1]);
        } else {
#pragma unroll
            for (u32 e = 0; e < C::RUN; e++) {
                if (channel + e < p.head.d) at[column + e] = v[c + e];
            }
        }
    }
}

// ---- forward ----

template <u32 ROWS, u32 D>
__device__ __forceinline__ void forward(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                                        float* __restrict__ y, float* __restrict__ lse, u32 t, u32 d, u32 heads, float scale) {
    __shared__ __align__(16) float pair[PAIR];
    __shared__ __align__(16) float values[Columns<D>::PART * D];
    const Place p = place_of<D>(t, d, heads);
    const u32 column = threadIdx.x % 16;
    float sum[ROWS][D / 16], top[ROWS], total[ROWS];
    clear<ROWS, D>(sum);
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) {
        top[i] = -3.402823466e38f;  // finite: -inf less -inf is NaN
        total[i] = 0.0f;
    }
    for (u32 first = 0; first < t; first += TILE) {
        float s[ROWS][4];
        product<ROWS>(s, q, p.first, k, first, p.head, pair);
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) {
            float best = top[i];
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                s[i][j] = first + column + 16 * j < t ? s[i][j] * (scale * LOG2_E) : __int_as_float(0xff800000);
                best = s[i][j] > best ? s[i][j] : best;
            }
#pragma unroll
            for (u32 offset = 8; offset > 0; offset /= 2) {
                const float other = __shfl_xor_sync(0xffffffffu, best, offset);
                best = other > best ? other : best;
            }
            const float keep = exp2f(top[i] - best);
            top[i] = best;
            total[i] *= keep;
#pragma unroll
            for (u32 c = 0; c < D / 16; c++) sum[i][c] *= keep;
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                s[i][j] = exp2f(s[i][j] - best);
                total[i] += s[i][j];  // of the thread's columns; joined at the end
            }
        }
        stash<ROWS>(s, pair);
        accumulate<ROWS, D>(sum, v, first, p, pair, values);
    }
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
        for (u32 offset = 8; offset > 0; offset /= 2) total[i] += __shfl_xor_sync(0xffffffffu, total[i], offset);
        const u32 row = row_of(i);
        write<D>(y, p, row, sum[i], 1.0f / total[i]);
        if (p.piece == 0 && column == 0 && p.first + row < t) lse[p.rows + p.first + row] = top[i] + log2f(total[i]);
    }
}

// ---- backward ----

template <u32 ROWS, u32 D>
__device__ __forceinline__ void backward_query(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                                               const float* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
                                               float* __restrict__ dq, u32 t, u32 d, u32 heads, float scale) {
    __shared__ __align__(16) float pair[PAIR];
    __shared__ __align__(16) float values[Columns<D>::PART * D];
    const Place p = place_of<D>(t, d, heads);
    __shared__ float logs[TILE], means[TILE];
    float sum[ROWS][D / 16];
    clear<ROWS, D>(sum);
    if (threadIdx.x < TILE) {  // the first product's barriers follow
        const u32 row = p.first + threadIdx.x;
        logs[threadIdx.x] = row < t ? lse[p.rows + row] : 0.0f;
        means[threadIdx.x] = row < t ? dot[p.rows + row] : 0.0f;
    }
    for (u32 first = 0; first < t; first += TILE) {
        float s[ROWS][4], ds[ROWS][4];
        product<ROWS>(s, q, p.first, k, first, p.head, pair);
        product<ROWS>(ds, dy, p.first, v, first, p.head, pair);
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) {
            const float log = logs[row_of(i)], mean = means[row_of(i)];
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                const bool is_key = first + threadIdx.x % 16 + 16 * j < t;
                ds[i][j] = is_key ? exp2f(s[i][j] * (scale * LOG2_E) - log) * (ds[i][j] - mean) : 0.0f;
            }
        }
        stash<ROWS>(ds, pair);
        accumulate<ROWS, D>(sum, k, first, p, pair, values);
    }
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) write<D>(dq, p, row_of(i), sum[i], scale);
}

template <u32 ROWS, u32 D>
__device__ __forceinline__ void backward_key(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                                             const float* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
                                             float* __restrict__ dk, float* __restrict__ dv, u32 t, u32 d, u32 heads, float scale) {
    __shared__ __align__(16) float pair[PAIR];
    __shared__ __align__(16) float values[Columns<D>::PART * D];
    const Place p = place_of<D>(t, d, heads);
    float sum_k[ROWS][D / 16], sum_v[ROWS][D / 16];
    clear<ROWS, D>(sum_k);
    clear<ROWS, D>(sum_v);
    for (u32 first = 0; first < t; first += TILE) {
        float s[ROWS][4], ds[ROWS][4];
        product<ROWS>(s, k, p.first, q, first, p.head, pair);
        product<ROWS>(ds, v, p.first, dy, first, p.head, pair);
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            const u32 query = first + threadIdx.x % 16 + 16 * j;
            const float log = query < t ? lse[p.rows + query] : 0.0f, mean = query < t ? dot[p.rows + query] : 0.0f;
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) {
                s[i][j] = query < t ? exp2f(s[i][j] * (scale * LOG2_E) - log) : 0.0f;
                ds[i][j] = query < t ? s[i][j] * (ds[i][j] - mean) : 0.0f;
            }
        }
        stash<ROWS>(s, pair);
        accumulate<ROWS, D>(sum_v, dy, first, p, pair, values);
        stash<ROWS>(ds, pair);
        accumulate<ROWS, D>(sum_k, q, first, p, pair, values);
    }
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) {
        write<D>(dk, p, row_of(i), sum_k[i], scale);
        write<D>(dv, p, row_of(i), sum_v[i], 1.0f);
    }
}

// Rows lie as in dot, so that it is written without gaps; `lanes` threads, a power of two up to 32, share a row.
extern "C" __global__ void __launch_bounds__(256)
    attention_backward_dot(const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dot, u32 t, u32 d, u32 heads,
                           u32 lanes) {
    const u32 each = 256 / lanes, blocks = (t + each - 1) / each, index = blockIdx.x / blocks;
    const u32 token = blockIdx.x % blocks * each + threadIdx.x / lanes;
    const bool aligned = d % 4 == 0;
    const size_t at = (((size_t)(index / heads) * t + token) * heads + index % heads) * d;
    float sum = 0.0f;
    for (u32 channel = threadIdx.x % lanes * 4; token < t && channel < d; channel += lanes * 4) {
        const int count = min(4u, d - channel);
        const float4 a = load4(dy + at + channel, count, aligned), b = load4(y + at + channel, count, aligned);
        sum += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
    }
    for (u32 offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (token < t && threadIdx.x % lanes == 0) dot[(size_t)index * t + token] = sum;
}

// ---- one kernel for each width: 8 rows a thread where the sums leave registers for it, else 4 ----

#define FORWARD                                                                                                                      \
    const float *__restrict__ q, const float *__restrict__ k, const float *__restrict__ v, float *__restrict__ y, float *__restrict__ lse, u32 t, \
        u32 d, u32 heads, float scale

extern "C" __global__ void __launch_bounds__(128, 3) attention_forward_16(FORWARD) {
    forward<8, 16>(q, k, v, y, lse, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(128, 3) attention_forward_32(FORWARD) {
    forward<8, 32>(q, k, v, y, lse, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(128, 3) attention_forward_64(FORWARD) {
    forward<8, 64>(q, k, v, y, lse, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(128, 2) attention_forward_128(FORWARD) {
    forward<8, 128>(q, k, v, y, lse, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(256) attention_forward_256(FORWARD) {
    forward<4, 256>(q, k, v, y, lse, t, d, heads, scale);
}

#define BACKWARD                                                                                                                     \
    const float *__restrict__ q, const float *__restrict__ k, const float *__restrict__ v, const float *__restrict__ dy,             \
        const float *__restrict__ lse, const float *__restrict__ dot

extern "C" __global__ void __launch_bounds__(128, 3) attention_backward_query_16(BACKWARD, float* __restrict__ dq, u32 t, u32 d, u32 heads, float scale) {
    backward_query<8, 16>(q, k, v, dy, lse, dot, dq, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(128, 3) attention_backward_query_32(BACKWARD, float* __restrict__ dq, u32 t, u32 d, u32 heads, float scale) {
    backward_query<8, 32>(q, k, v, dy, lse, dot, dq, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(128, 3) attention_backward_query_64(BACKWARD, float* __restrict__ dq, u32 t, u32 d, u32 heads, float scale) {
    backward_query<8, 64>(q, k, v, dy, lse, dot, dq, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_backward_query_128(BACKWARD, float* __restrict__ dq, u32 t, u32 d, u32 heads, float scale) {
    backward_query<8, 128>(q, k, v, dy, lse, dot, dq, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(256)
    attention_backward_query_256(BACKWARD, float* __restrict__ dq, u32 t, u32 d, u32 heads, float scale) {
    backward_query<4, 256>(q, k, v, dy, lse, dot, dq, t, d, heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    attention_backward_key_16(BACKWARD, float* __restrict__ dk, float* __restrict__ dv, u32 t, u32 d, u32 heads, float scale) {
    backward_key<8, 16>(q, k, v, dy, lse, dot, dk, dv, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    attention_backward_key_32(BACKWARD, float* __restrict__ dk, float* __restrict__ dv, u32 t, u32 d, u32 heads, float scale) {
    backward_key<8, 32>(q, k, v, dy, lse, dot, dk, dv, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_backward_key_64(BACKWARD, float* __restrict__ dk, float* __restrict__ dv, u32 t, u32 d, u32 heads, float scale) {
    backward_key<8, 64>(q, k, v, dy, lse, dot, dk, dv, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(256)
    attention_backward_key_128(BACKWARD, float* __restrict__ dk, float* __restrict__ dv, u32 t, u32 d, u32 heads, float scale) {
    backward_key<4, 128>(q, k, v, dy, lse, dot, dk, dv, t, d, heads, scale);
}
extern "C" __global__ void __launch_bounds__(256)
    attention_backward_key_256(BACKWARD, float* __restrict__ dk, float* __restrict__ dv, u32 t, u32 d, u32 heads, float scale) {
    backward_key<4, 256>(q, k, v, dy, lse, dot, dk, dv, t, d, heads, scale);
}

// ---- queries, keys and values side by side, with rotary positions ----

// Channel i of a head is rotated with channel i ± d/2: value of the pair's member `i` after turning by the token's angle, or back.
__device__ __forceinline__ float turned(float own, float partner, const float* __restrict__ table, u32 i, u32 half, bool back) {
    const bool second = i >= half;
    const u32 pair = second ? i - half : i;
    const float cosine = table[pair], sine = back ? -table[half + pair] : table[half + pair];
    return second ? own * cosine + partner * sine : own * cosine - partner * sine;
}

// Which head's channel element i of [n,t,heads·d] is, and where its token begins in [n,t,3·heads·d].
struct Channel {
    u64 token;
    u32 column, inner, position;
};

__device__ __forceinline__ Channel channel(u64 i, u32 t, u32 d, u32 heads) {
    const u32 c = heads * d;
    const u64 token = i / c;
    const u32 column = (u32)(i - token * c);
    return {token, column, column % d, (u32)(token % t)};
}

// qkv [n,t,3·heads·d] -> q, k, v [n,t,heads·d], q and k turned by table [>= t, d] (cosines, then sines), unless it is null.
extern "C" __global__ void __launch_bounds__(256)
    attention_split(const float* __restrict__ qkv, const float* __restrict__ table, float* __restrict__ q, float* __restrict__ k,
                    float* __restrict__ v, u64 count, u32 t, u32 d, u32 heads) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;  // guard
    const Channel at = channel(i, t, d, heads);
    const u32 c = heads * d, half = d / 2;
    const float* from = qkv + at.token * 3 * c + at.column;
    float of_q = from[0], of_k = from[c];
    if (table) {
        const int partner = at.inner >= half ? -(int)half : (int)half;
        const float* row = table + (size_t)at.position * d;
        of_q = turned(of_q, from[partner], row, at.inner, half, false);
        of_k = turned(of_k, from[(int)c + partner], row, at.inner, half, false);
    }
    q[i] = of_q;
    k[i] = of_k;
    v[i] = from[2 * c];
}

// dq, dk, dv -> dqkv, the first two turned back.
extern "C" __global__ void __launch_bounds__(256)
    attention_join(const float* __restrict__ dq, const float* __restrict__ dk, const float* __restrict__ dv, const float* __restrict__ table,
                   float* __restrict__ dqkv, u64 count, u32 t, u32 d, u32 heads) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;  // guard
    const Channel at = channel(i, t, d, heads);
    const u32 c = heads * d, half = d / 2;
    float of_q = dq[i], of_k = dk[i];
    if (table) {
        const u64 partner = at.inner >= half ? i - half : i + half;
        const float* row = table + (size_t)at.position * d;
        of_q = turned(of_q, dq[partner], row, at.inner, half, true);
        of_k = turned(of_k, dk[partner], row, at.inner, half, true);
    }
    float* to = dqkv + at.token * 3 * c + at.column;
    to[0] = of_q;
    to[c] = of_k;
    to[2 * c] = dv[i];
}
