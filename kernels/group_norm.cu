// group_norm: y = silu((xhat * weight + bias) * (1 + scale) + shift),   xhat = (x - mean) * rstd,   rstd = 1/sqrt(var + norm_eps)
//
// Layout   x, y [n,pixels,c], c fastest; weight, bias [c]; scale, shift [n,c] (both null for none); mean, rstd [n,g]. All f32.
//          With dz the gradient before SiLU, dz_sum and dzx_sum [n,c] are the sums of dz and dz·xhat over the pixels of an image.
// Kernels  A block owns a tile, `width` channels of a chunk of pixels; a thread owns four neighbouring channels (one where c % 4 != 0)
//          of every rows-th pixel of it.
//          group_norm_whole            forward of a small image: the tile is all pixels of some groups
//          group_norm_partial          (mean, M2) of each channel of each tile
//          group_norm_merge            partials -> mean, rstd; a block per (image, group)
//          group_norm_forward          y
//          group_norm_backward_whole   dz_sum, dzx_sum, dscale, dx of a small image
//          group_norm_backward_sums    (sum of dz, sum of dz·xhat) of each channel of each tile
//          group_norm_backward_merge   partials -> dz_sum, dzx_sum, dscale, and the group's two coefficients of dx
//          group_norm_backward_dx      dx = slope·dz + constant + linear·xhat
//          group_norm_backward_weight  dweight, dbias: sums over images
// Saved    mean, rstd. xhat and silu' are recomputed: 8 bytes per group kept instead of 4 per element.
// Cost     different bytes are x + y; forward reads x twice (statistics, then y; the second time from the cache for small images): 12
//          bytes per element; backward reads x and dy twice and writes dx: 20. Partials are 8 bytes per channel and chunk: at most 1/32
//          of x. Memory bound.
// Exact    no atomics, every sum in a fixed order that n does not change. Statistics are (count, mean, M2), joined by Chan's formula;
//          a mean far above the deviation costs no digits of the variance.
// Limits   c % 4 != 0 loses the 16-byte accesses, not the result.
#include "common.cuh"

const u32 THREADS = 256;
const u32 BATCH = 8;      // pixels that a thread loads before it uses them
const u32 MOST = 256;     // channels of a tile, at most
const u32 MERGERS = 128;  // threads that merge partials

// ---- tiles ----

// The tile of a block, and a thread's share of it.
struct Share {
    u32 image, chunk;
    u32 first, channels, width;  // the tile's channels: the first, how many there are, how many a full tile has
    u32 column;                  // the thread's first channel, counted from `first`
    u32 pixels;                  // of the tile
    u32 row, rows;               // the thread's pixels are row, row + rows, …
    u32 items;                   // how many they are; 0 for a thread without channels
    size_t at;                   // of its first value
    size_t stride;               // from one of its pixels to the next
};

template <u32 V>
__device__ __forceinline__ Share share_of(u32 pixels, u32 c, u32 chunk, u32 width) {
    Share s;
    const u32 strips = (c + width - 1) / width, chunks = (pixels + chunk - 1) / chunk, lanes = width / V;
    s.chunk = blockIdx.x / strips % chunks;
    s.image = blockIdx.x / strips / chunks;
    s.first = blockIdx.x % strips * width;
    s.width = width;
    s.channels = min(width, c - s.first);
    s.column = threadIdx.x % lanes * V;
    s.pixels = min(chunk, pixels - s.chunk * chunk);
    s.row = threadIdx.x / lanes;
    s.rows = THREADS / lanes;
    const bool works = s.row < s.rows && s.column < s.channels && s.row < s.pixels;
    s.items = works ? (s.pixels - s.row + s.rows - 1) / s.rows : 0;
    s.at = ((size_t)s.image * pixels + s.chunk * chunk + s.row) * c + s.first + s.column;
    s.stride = (size_t)s.rows * c;
    return s;
}

template <u32 V>
__device__ __forceinline__ void load(const float* __restrict__ p, float (&v)[V]) {
    if constexpr (V == 4) {
        const float4 q = *reinterpret_cast<const float4*>(p);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    } else {
        v[0] = *p;
    }
}

template <u32 V>
__device__ __forceinline__ void store(float* __restrict__ p, const float (&v)[V]) {
    if constexpr (V == 4) {
        *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
        *p = v[0];
    }
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

// The sum over the MERGERS threads of a block, for all of them.
__device__ __forceinline__ float block_sum(float v, float* warps) {
    v = warp_sum(v);
    __syncthreads();  // the last sum was read
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0.0f;
    for (u32 i = 0; i < MERGERS / 32; i++) sum += warps[i];
    return sum;
}

// Two numbers of each row and channel of a tile, on their way to one thread a channel.
struct Rows {
    float a[THREADS * 4], b[THREADS * 4];
};

template <u32 V>
__device__ __forceinline__ void put(Rows& rows, const Share& s, const float (&a)[V], const float (&b)[V]) {
    if (s.row < s.rows) {
        store<V>(rows.a + s.row * s.width + s.column, a);
        store<V>(rows.b + s.row * s.width + s.column, b);
    }
    __syncthreads();
}

// ---- statistics ----

// Mean and squared distances of a thread's pixels: of a batch in two passes over registers, then joined to those before.
template <u32 V>
__device__ __forceinline__ void thread_statistics(const float* __restrict__ x, const Share& s, float (&mean)[V], float (&m2)[V]) {
#pragma unroll
    for (u32 j = 0; j < V; j++) mean[j] = m2[j] = 0.0f;
    const float* from = x + s.at;
    for (u32 done = 0; done < s.items; done += BATCH, from += s.stride * BATCH) {
        const u32 more = min(BATCH, s.items - done);
        float v[BATCH][V];
#pragma unroll
        for (u32 i = 0; i < BATCH; i++) {
#pragma unroll
            for (u32 j = 0; j < V; j++) v[i][j] = 0.0f;
            if (i < more) load<V>(from + s.stride * i, v[i]);
        }
        const float one = 1.0f / more, part = (float)more / (done + more);
#pragma unroll
        for (u32 j = 0; j < V; j++) {
            float centre = 0.0f, squares = 0.0f;
#pragma unroll
            for (u32 i = 0; i < BATCH; i++) centre += v[i][j];
            centre *= one;
#pragma unroll
            for (u32 i = 0; i < BATCH; i++) {
                const float d = i < more ? v[i][j] - centre : 0.0f;
                squares += d * d;
            }
            const float distance = centre - mean[j];
            mean[j] += distance * part;
            m2[j] += squares + distance * distance * part * done;
        }
    }
}

// (mean, M2) of the tile's channel threadIdx.x, for the threads below `channels`.
template <u32 V>
__device__ __forceinline__ float2 tile_statistics(const float* __restrict__ x, const Share& s, Rows& rows) {
    float mean[V], m2[V];
    thread_statistics<V>(x, s, mean, m2);
    put<V>(rows, s, mean, m2);
    if (threadIdx.x >= s.channels) return make_float2(0.0f, 0.0f);  // no barrier follows in here
    const u32 each = s.pixels / s.rows, extra = s.pixels % s.rows;
    const float start = rows.a[threadIdx.x];
    float away = 0.0f, sum = 0.0f;
    for (u32 r = 0; r < min(s.rows, s.pixels); r++) away += (each + (r < extra)) * (rows.a[r * s.width + threadIdx.x] - start);
    const float centre = start + away / s.pixels;
    for (u32 r = 0; r < min(s.rows, s.pixels); r++) {
        const float d = rows.a[r * s.width + threadIdx.x] - centre;
        sum += rows.b[r * s.width + threadIdx.x] + (each + (r < extra)) * d * d;
    }
    return make_float2(centre, sum);
}

__device__ __forceinline__ float rstd_of(float m2, float count, float norm_eps) {
    return 1.0f / sqrtf(m2 / count + norm_eps);
}

extern "C" __global__ void __launch_bounds__(256, 2) group_norm_partial(const float* __restrict__ x, float2* __restrict__ partial, u32 pixels, u32 c,
                                                                     u32 chunk, u32 width) {
    __shared__ Rows rows;
    const bool wide = c % 4 == 0;
    const Share s = wide ? share_of<4>(pixels, c, chunk, width) : share_of<1>(pixels, c, chunk, width);
    const float2 result = wide ? tile_statistics<4>(x, s, rows) : tile_statistics<1>(x, s, rows);
    if (threadIdx.x >= s.channels) return;  // guard
    const u32 chunks = (pixels + chunk - 1) / chunk;
    partial[((size_t)s.image * chunks + s.chunk) * c + s.first + threadIdx.x] = result;
}

extern "C" __global__ void __launch_bounds__(128) group_norm_merge(const float2* __restrict__ partial, float* __restrict__ mean,
                                                                   float* __restrict__ rstd, u32 pixels, u32 c, u32 groups, u32 chunk,
                                                                   float norm_eps) {
    __shared__ float warps[MERGERS / 32];
    const u32 image = blockIdx.x / groups, group = blockIdx.x % groups, per_group = c / groups;
    const u32 chunks = (pixels + chunk - 1) / chunk, entries = chunks * per_group;
    const float2* from = partial + (size_t)image * chunks * c + group * per_group;
    const float total = (float)pixels * per_group, last = pixels - (chunks - 1) * chunk;
    const float start = from->x;
    float away = 0.0f, squares = 0.0f;
    for (u32 i = threadIdx.x; i < entries; i += MERGERS) {
        const float count = i / per_group == chunks - 1 ? last : chunk;
        away += count * (from[(size_t)(i / per_group) * c + i % per_group].x - start);
    }
    const float centre = start + block_sum(away, warps) / total;
    for (u32 i = threadIdx.x; i < entries; i += MERGERS) {
        const float count = i / per_group == chunks - 1 ? last : chunk;
        const float2 part = from[(size_t)(i / per_group) * c + i % per_group];
        squares += part.y + count * (part.x - centre) * (part.x - centre);
    }
    squares = block_sum(squares, warps);
    if (threadIdx.x > 0) return;  // guard
    mean[blockIdx.x] = centre;
    rstd[blockIdx.x] = rstd_of(squares, total, norm_eps);
}

// ---- y ----

// What z = (x - mean)·slope + centre takes, for a thread's channels; slope = rstd·weight·(1 + scale).
template <u32 V>
struct Affine {
    float mean[V], rstd[V], slope[V], centre[V];
};

// The parameters of the channels of one image; `scale` and `shift` may be null.
struct Parameters {
    const float *weight, *bias, *scale, *shift;
    __device__ __forceinline__ float gain(size_t image, u32 c, u32 channel) const {
        return weight[channel] * (scale ? 1.0f + scale[image * c + channel] : 1.0f);
    }
};

// `mean` and `rstd` are those of the groups from the one of channel `origin` on.
template <u32 V>
__device__ __forceinline__ void affine_of(Affine<V>& k, const Share& s, const Parameters& p, const float* mean, const float* rstd, u32 c,
                                          u32 per_group, u32 origin) {
#pragma unroll
    for (u32 j = 0; j < V; j++) k.mean[j] = k.rstd[j] = k.slope[j] = k.centre[j] = 0.0f;
    if (s.items == 0) return;  // guard
    const u32 channel = s.first + s.column;
    float weight[V], bias[V], scale[V], shift[V];
    load<V>(p.weight + channel, weight);
    load<V>(p.bias + channel, bias);
#pragma unroll
    for (u32 j = 0; j < V; j++) scale[j] = shift[j] = 0.0f;
    if (p.scale) {
        load<V>(p.scale + (size_t)s.image * c + channel, scale);
        load<V>(p.shift + (size_t)s.image * c + channel, shift);
    }
#pragma unroll
    for (u32 j = 0; j < V; j++) {
        const u32 group = (channel + j - origin) / per_group;
        const float gain = 1.0f + scale[j];
        k.mean[j] = mean[group];
        k.rstd[j] = rstd[group];
        k.slope[j] = k.rstd[j] * (weight[j] * gain);
        k.centre[j] = bias[j] * gain + shift[j];
    }
}

__device__ __forceinline__ float sigmoid(float z) {
    return 1.0f / (1.0f + expf(-z));
}

template <u32 V>
__device__ __forceinline__ void apply(const float* __restrict__ x, float* __restrict__ y, const Share& s, const Affine<V>& k, u32 silu) {
    size_t at = s.at;
#pragma unroll 4
    for (u32 i = 0; i < s.items; i++, at += s.stride) {
        float v[V];
        load<V>(x + at, v);
#pragma unroll
        for (u32 j = 0; j < V; j++) {
            const float z = (v[j] - k.mean[j]) * k.slope[j] + k.centre[j];
            v[j] = silu ? z * sigmoid(z) : z;
        }
        store<V>(y + at, v);
    }
}

template <u32 V>
__device__ __forceinline__ void forward_tile(const float* __restrict__ x, float* __restrict__ y, const Parameters& p, const float* mean,
                                             const float* rstd, u32 pixels, u32 c, u32 per_group, u32 chunk, u32 width, u32 silu) {
    const Share s = share_of<V>(pixels, c, chunk, width);
    const size_t groups = c / per_group;
    Affine<V> k;
    affine_of<V>(k, s, p, mean + s.image * groups, rstd + s.image * groups, c, per_group, 0);
    apply<V>(x, y, s, k, silu);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    group_norm_forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                       const float* __restrict__ scale, const float* __restrict__ shift, const float* __restrict__ mean,
                       const float* __restrict__ rstd, float* __restrict__ y, u32 pixels, u32 c, u32 groups, u32 chunk, u32 width, u32 silu) {
    const Parameters p = {weight, bias, scale, shift};
    if (c % 4 == 0) {
        forward_tile<4>(x, y, p, mean, rstd, pixels, c, c / groups, chunk, width, silu);
    } else {
        forward_tile<1>(x, y, p, mean, rstd, pixels, c, c / groups, chunk, width, silu);
    }
}

// ---- small images, forward ----

// Two numbers of each channel of a tile, then of each group.
struct Channels {
    float a[MOST], b[MOST], group_a[MOST], group_b[MOST];
};

template <u32 V>
__device__ __forceinline__ void whole_tile(const float* __restrict__ x, const Parameters& p, float* __restrict__ mean, float* __restrict__ rstd,
                                           float* __restrict__ y, Rows& rows, Channels& all, u32 pixels, u32 c, u32 groups, u32 width, u32 silu,
                                           float norm_eps) {
    const Share s = share_of<V>(pixels, c, pixels, width);
    const u32 per_group = c / groups, lane = threadIdx.x % 32;
    const float2 own = tile_statistics<V>(x, s, rows);
    if (threadIdx.x < s.channels) {
        all.a[threadIdx.x] = own.x;
        all.b[threadIdx.x] = own.y;
    }
    __syncthreads();
    for (u32 g = threadIdx.x / 32; g < s.channels / per_group; g += THREADS / 32) {
        const float start = all.a[g * per_group];
        float away = 0.0f, squares = 0.0f;
        for (u32 i = lane; i < per_group; i += 32) away += all.a[g * per_group + i] - start;
        const float centre = start + warp_sum(away) / per_group;
        for (u32 i = lane; i < per_group; i += 32) {
            const float d = all.a[g * per_group + i] - centre;
            squares += all.b[g * per_group + i] + pixels * d * d;
        }
        squares = warp_sum(squares);
        if (lane == 0) {
            const size_t at = (size_t)s.image * groups + s.first / per_group + g;
            mean[at] = all.group_a[g] = centre;
            rstd[at] = all.group_b[g] = rstd_of(squares, (float)pixels * per_group, norm_eps);
        }
    }
    __syncthreads();
    Affine<V> k;
    affine_of<V>(k, s, p, all.group_a, all.group_b, c, per_group, s.first);
    apply<V>(x, y, s, k, silu);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    group_norm_whole(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                     const float* __restrict__ scale, const float* __restrict__ shift, float* __restrict__ mean, float* __restrict__ rstd,
                     float* __restrict__ y, u32 pixels, u32 c, u32 groups, u32 width, u32 silu, float norm_eps) {
    __shared__ Rows rows;
    __shared__ Channels all;
    const Parameters p = {weight, bias, scale, shift};
    if (c % 4 == 0) {
        whole_tile<4>(x, p, mean, rstd, y, rows, all, pixels, c, groups, width, silu, norm_eps);
    } else {
        whole_tile<1>(x, p, mean, rstd, y, rows, all, pixels, c, groups, width, silu, norm_eps);
    }
}

// ---- backward ----

// dy times the derivative of SiLU at z.
__device__ __forceinline__ float dz_of(float dy, float z, u32 silu) {
    if (!silu) return dy;
    const float g = sigmoid(z);
    return dy * (g * (1.0f + z * (1.0f - g)));
}

// (sum of dz, sum of dz·xhat) of the tile's channel threadIdx.x, for the threads below `channels`.
template <u32 V>
__device__ __forceinline__ float2 tile_sums(const float* __restrict__ x, const float* __restrict__ dy, const Share& s, const Affine<V>& k,
                                            Rows& rows, u32 silu) {
    float dz[V], dzx[V];
#pragma unroll
    for (u32 j = 0; j < V; j++) dz[j] = dzx[j] = 0.0f;
    size_t at = s.at;
#pragma unroll 4
    for (u32 i = 0; i < s.items; i++, at += s.stride) {
        float v[V], d[V];
        load<V>(x + at, v);
        load<V>(dy + at, d);
#pragma unroll
        for (u32 j = 0; j < V; j++) {
            const float away = v[j] - k.mean[j], one = dz_of(d[j], away * k.slope[j] + k.centre[j], silu);
            dz[j] += one;
            dzx[j] += one * away;
        }
    }
#pragma unroll
    for (u32 j = 0; j < V; j++) dzx[j] *= k.rstd[j];
    put<V>(rows, s, dz, dzx);
    float2 sum = make_float2(0.0f, 0.0f);
    if (threadIdx.x >= s.channels) return sum;  // no barrier follows in here
    for (u32 r = 0; r < min(s.rows, s.pixels); r++) {
        sum.x += rows.a[r * s.width + threadIdx.x];
        sum.y += rows.b[r * s.width + threadIdx.x];
    }
    return sum;
}

// dx = slope·dz + constant + linear·xhat; `coefficients` hold (constant, linear) of the groups from that of channel `origin` on.
template <u32 V>
__device__ __forceinline__ void dx_tile(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx, const Share& s,
                                        const Affine<V>& k, const float* constants, const float* linears, u32 per_group, u32 origin, u32 silu) {
    float constant[V], linear[V];
#pragma unroll
    for (u32 j = 0; j < V; j++) {
        const u32 group = (s.first + s.column + j - origin) / per_group;
        constant[j] = s.items > 0 ? constants[group] : 0.0f;
        linear[j] = s.items > 0 ? linears[group] * k.rstd[j] : 0.0f;
    }
    size_t at = s.at;
#pragma unroll 4
    for (u32 i = 0; i < s.items; i++, at += s.stride) {
        float v[V], d[V];
        load<V>(x + at, v);
        load<V>(dy + at, d);
#pragma unroll
        for (u32 j = 0; j < V; j++) {
            const float away = v[j] - k.mean[j];
            v[j] = k.slope[j] * dz_of(d[j], away * k.slope[j] + k.centre[j], silu) + (linear[j] * away + constant[j]);
        }
        store<V>(dx + at, v);
    }
}

// Writes the sums of one image and channel, and the gradient of its scale; that of its shift is dz_sum itself.
__device__ __forceinline__ void finish(const Parameters& p, float2 sum, float* __restrict__ dz_sum, float* __restrict__ dzx_sum,
                                       float* __restrict__ dscale, size_t image, u32 c, u32 channel) {
    dz_sum[image * c + channel] = sum.x;
    dzx_sum[image * c + channel] = sum.y;
    if (dscale) dscale[image * c + channel] = sum.y * p.weight[channel] + sum.x * p.bias[channel];
}

template <u32 V>
__device__ __forceinline__ float2 sums_of_tile(const float* __restrict__ x, const float* __restrict__ dy, const Parameters& p, const float* mean,
                                               const float* rstd, Rows& rows, const Share& s, u32 c, u32 groups, u32 silu) {
    Affine<V> k;
    affine_of<V>(k, s, p, mean + (size_t)s.image * groups, rstd + (size_t)s.image * groups, c, c / groups, 0);
    return tile_sums<V>(x, dy, s, k, rows, silu);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    group_norm_backward_sums(const float* __restrict__ x, const float* __restrict__ dy, const float* __restrict__ weight,
                             const float* __restrict__ bias, const float* __restrict__ scale, const float* __restrict__ shift,
                             const float* __restrict__ mean, const float* __restrict__ rstd, float2* __restrict__ partial, u32 pixels, u32 c,
                             u32 groups, u32 chunk, u32 width, u32 silu) {
    __shared__ Rows rows;
    const Parameters p = {weight, bias, scale, shift};
    const bool wide = c % 4 == 0;
    const Share s = wide ? share_of<4>(pixels, c, chunk, width) : share_of<1>(pixels, c, chunk, width);
    const float2 sum = wide ? sums_of_tile<4>(x, dy, p, mean, rstd, rows, s, c, groups, silu)
                            : sums_of_tile<1>(x, dy, p, mean, rstd, rows, s, c, groups, silu);
    if (threadIdx.x >= s.channels) return;  // guard
    const u32 chunks = (pixels + chunk - 1) / chunk;
    partial[((size_t)s.image * chunks + s.chunk) * c + s.first + threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(128)
    group_norm_backward_merge(const float2* __restrict__ partial, const float* __restrict__ weight, const float* __restrict__ bias,
                              const float* __restrict__ scale, const float* __restrict__ rstd, float* __restrict__ dz_sum,
                              float* __restrict__ dzx_sum, float* __restrict__ dscale, float* __restrict__ constants,
                              float* __restrict__ linears, u32 pixels, u32 c, u32 groups, u32 chunks) {
    __shared__ float2 parts[MERGERS];
    __shared__ float warps[MERGERS / 32];
    const Parameters p = {weight, bias, scale, nullptr};
    const u32 per_group = c / groups, wide = min(per_group, MERGERS), split = MERGERS / wide;
    const u32 column = threadIdx.x % wide, part = threadIdx.x / wide;
    const size_t image = blockIdx.x / groups;
    const u32 first = blockIdx.x % groups * per_group;
    float total = 0.0f, total_x = 0.0f;
    for (u32 from = 0; from < per_group; from += wide) {
        const u32 channel = first + from + column;
        const bool works = from + column < per_group && part < split;
        float2 sum = make_float2(0.0f, 0.0f);
        for (u32 i = part; works && i < chunks; i += split) {
            const float2 more = partial[(image * chunks + i) * c + channel];
            sum.x += more.x;
            sum.y += more.y;
        }
        parts[threadIdx.x] = sum;
        __syncthreads();
        if (works && part == 0) {
            for (u32 i = 1; i < split; i++) {
                sum.x += parts[i * wide + column].x;
                sum.y += parts[i * wide + column].y;
            }
            finish(p, sum, dz_sum, dzx_sum, dscale, image, c, channel);
            const float gain = p.gain(image, c, channel);
            total += gain * sum.x;
            total_x += gain * sum.y;
        }
        __syncthreads();
    }
    total = block_sum(total, warps);
    total_x = block_sum(total_x, warps);
    if (threadIdx.x > 0) return;  // guard
    const float over = -rstd[blockIdx.x] / ((float)pixels * per_group);
    constants[blockIdx.x] = over * total;
    linears[blockIdx.x] = over * total_x;
}

template <u32 V>
__device__ __forceinline__ void dx_of_tile(const float* __restrict__ x, const float* __restrict__ dy, const Parameters& p, const float* mean,
                                           const float* rstd, const float* constants, const float* linears, float* __restrict__ dx, u32 pixels,
                                           u32 c, u32 groups, u32 chunk, u32 width, u32 silu) {
    const Share s = share_of<V>(pixels, c, chunk, width);
    const size_t group = (size_t)s.image * groups;
    Affine<V> k;
    affine_of<V>(k, s, p, mean + group, rstd + group, c, c / groups, 0);
    dx_tile<V>(x, dy, dx, s, k, constants + group, linears + group, c / groups, 0, silu);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    group_norm_backward_dx(const float* __restrict__ x, const float* __restrict__ dy, const float* __restrict__ weight,
                           const float* __restrict__ bias, const float* __restrict__ scale, const float* __restrict__ shift,
                           const float* __restrict__ mean, const float* __restrict__ rstd, const float* __restrict__ constants,
                           const float* __restrict__ linears, float* __restrict__ dx, u32 pixels, u32 c, u32 groups, u32 chunk, u32 width,
                           u32 silu) {
    const Parameters p = {weight, bias, scale, shift};
    if (c % 4 == 0) {
        dx_of_tile<4>(x, dy, p, mean, rstd, constants, linears, dx, pixels, c, groups, chunk, width, silu);
    } else {
        dx_of_tile<1>(x, dy, p, mean, rstd, constants, linears, dx, pixels, c, groups, chunk, width, silu);
    }
}

// ---- small images, backward ----

template <u32 V>
__device__ __forceinline__ void backward_whole_tile(const float* __restrict__ x, const float* __restrict__ dy, const Parameters& p,
                                                    const float* mean, const float* rstd, float* __restrict__ dz_sum,
                                                    float* __restrict__ dzx_sum, float* __restrict__ dscale, float* __restrict__ dx, Rows& rows,
                                                    Channels& all, u32 pixels, u32 c, u32 groups, u32 width, u32 silu) {
    const Share s = share_of<V>(pixels, c, pixels, width);
    const u32 per_group = c / groups, lane = threadIdx.x % 32;
    mean += (size_t)s.image * groups;
    rstd += (size_t)s.image * groups;
    Affine<V> k;
    affine_of<V>(k, s, p, mean, rstd, c, per_group, 0);
    const float2 sum = tile_sums<V>(x, dy, s, k, rows, silu);
    if (threadIdx.x < s.channels) {
        const u32 channel = s.first + threadIdx.x;
        const float gain = p.gain(s.image, c, channel);
        finish(p, sum, dz_sum, dzx_sum, dscale, s.image, c, channel);
        all.a[threadIdx.x] = gain * sum.x;
        all.b[threadIdx.x] = gain * sum.y;
    }
    __syncthreads();
    for (u32 g = threadIdx.x / 32; g < s.channels / per_group; g += THREADS / 32) {
        float total = 0.0f, total_x = 0.0f;
        for (u32 i = lane; i < per_group; i += 32) {
            total += all.a[g * per_group + i];
            total_x += all.b[g * per_group + i];
        }
        const float over = -rstd[s.first / per_group + g] / ((float)pixels * per_group);
        total = over * warp_sum(total);
        total_x = over * warp_sum(total_x);
        if (lane == 0) {
            all.group_a[g] = total;
            all.group_b[g] = total_x;
        }
    }
    __syncthreads();
    if (dx) dx_tile<V>(x, dy, dx, s, k, all.group_a, all.group_b, per_group, s.first, silu);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    group_norm_backward_whole(const float* __restrict__ x, const float* __restrict__ dy, const float* __restrict__ weight,
                              const float* __restrict__ bias, const float* __restrict__ scale, const float* __restrict__ shift,
                              const float* __restrict__ mean, const float* __restrict__ rstd, float* __restrict__ dz_sum,
                              float* __restrict__ dzx_sum, float* __restrict__ dscale, float* __restrict__ dx, u32 pixels, u32 c, u32 groups,
                              u32 width, u32 silu) {
    __shared__ Rows rows;
    __shared__ Channels all;
    const Parameters p = {weight, bias, scale, shift};
    if (c % 4 == 0) {
        backward_whole_tile<4>(x, dy, p, mean, rstd, dz_sum, dzx_sum, dscale, dx, rows, all, pixels, c, groups, width, silu);
    } else {
        backward_whole_tile<1>(x, dy, p, mean, rstd, dz_sum, dzx_sum, dscale, dx, rows, all, pixels, c, groups, width, silu);
    }
}

// ---- parameters ----

// A block sums eight channels, one sector of memory, over all images: 32 threads a channel, then those in order.
extern "C" __global__ void __launch_bounds__(256, 2)
    group_norm_backward_weight(const float* __restrict__ dz_sum, const float* __restrict__ dzx_sum, const float* __restrict__ scale,
                               float* __restrict__ dweight, float* __restrict__ dbias, u32 n, u32 c) {
    __shared__ float2 parts[THREADS];
    const u32 channel = blockIdx.x * 8 + threadIdx.x % 8;
    float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 4
    for (u32 image = threadIdx.x / 8; channel < c && image < n; image += THREADS / 8) {
        const size_t at = (size_t)image * c + channel;
        const float gain = scale ? 1.0f + scale[at] : 1.0f;
        sum.x += dzx_sum[at] * gain;
        sum.y += dz_sum[at] * gain;
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= 8 || channel >= c) return;  // guard
    for (u32 i = 1; i < THREADS / 8; i++) {
        sum.x += parts[i * 8 + threadIdx.x].x;
        sum.y += parts[i * 8 + threadIdx.x].y;
    }
    dweight[channel] = sum.x;
    dbias[channel] = sum.y;
}
