// attention_pool: y = softmax_t(q·k_t/sqrt(d))·v_t,   dv = p·dy,  ds = p·(dy·v - sum p·dy·v)/sqrt(d),  dq = sum ds·k,  dk = ds·q
//
// Layout   q, y, dq, dy [n,heads·d]; k, v, dk, dv [n,t,heads·d]; p, ds [n,heads,t]; all f32.
// Kernels  attention_pool_forward, attention_pool_backward: a block of four warps has a head of an image. For the scores a warp has a place and its
//          lanes the channels; for the sums over places a thread has a channel.
// Saved    p.
// Cost     k and v are read once forward and twice backward, the second time from a cache: memory bound.
// Exact    no atomics; sums over channels by lanes and a fixed tree in f64, over places in order in f32.
// Limits   none: t and d may be any.
#include "sums.cuh"

// Where a block's head lies.
struct Head {
    u32 t, d, stride;
    size_t row, map, scores;
};

__device__ __forceinline__ Head head_of(u32 t, u32 heads, u32 d) {
    const u32 image = blockIdx.x / heads, head = blockIdx.x % heads;
    const size_t row = (size_t)image * heads * d + head * d;
    return {t, d, heads * d, row, (size_t)image * t * heads * d + head * d, (size_t)blockIdx.x * t};
}

// a·b_t for each place t, into `out`: a warp a place.
__device__ __forceinline__ void dots(Head at, const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ out, float scale) {
    const u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u;
    for (u32 place = warp; place < at.t; place += 4) {
        const float* row = b + at.map + (size_t)place * at.stride;
        double sum = 0.0;
        for (u32 i = lane; i < at.d; i += 32) sum += (double)a[at.row + i] * row[i];
        sum = warp_sum(sum);
        if (lane == 0) out[at.scores + place] = (float)(sum * scale);
    }
}

// The sum over a block, known to all its threads: each adds those of the four warps.
__device__ __forceinline__ double shared_sum(double value, double* __restrict__ warps) {
    value = warp_sum(value);
    if ((threadIdx.x & 31u) == 0) warps[threadIdx.x >> 5] = value;
    __syncthreads();
    const double all = ((warps[0] + warps[1]) + warps[2]) + warps[3];
    __syncthreads();
    return all;
}

extern "C" __global__ void __launch_bounds__(128)
    attention_pool_forward(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v, float* p, float* __restrict__ y,
                           u32 t, u32 heads, u32 d) {
    __shared__ double sums[4];
    __shared__ float tops[4];
    const Head at = head_of(t, heads, d);
    dots(at, q, k, p, rsqrtf((float)d));
    __syncthreads();
    float top = -__int_as_float(0x7f800000);
    for (u32 i = threadIdx.x; i < t; i += 128) top = fmaxf(top, p[at.scores + i]);
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    if ((threadIdx.x & 31u) == 0) tops[threadIdx.x >> 5] = top;
    __syncthreads();
    top = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
    double total = 0.0;
    for (u32 i = threadIdx.x; i < t; i += 128) {
        const float e = expf(p[at.scores + i] - top);
        p[at.scores + i] = e;
        total += e;
    }
    total = shared_sum(total, sums);
    for (u32 i = threadIdx.x; i < t; i += 128) p[at.scores + i] = (float)(p[at.scores + i] / total);
    __syncthreads();
    for (u32 i = threadIdx.x; i < d; i += 128) {
        float sum = 0.0f;
        for (u32 place = 0; place < t; place++) sum += p[at.scores + place] * v[at.map + (size_t)place * at.stride + i];
        y[at.row + i] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(128)
    attention_pool_backward(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v, const float* __restrict__ p,
                            const float* __restrict__ dy, float* ds, float* __restrict__ dq, float* __restrict__ dk, float* __restrict__ dv, u32 t,
                            u32 heads, u32 d) {
    __shared__ double sums[4];
    const Head at = head_of(t, heads, d);
    dots(at, dy, v, ds, 1.0f);
    __syncthreads();
    double mean = 0.0;
    for (u32 i = threadIdx.x; i < t; i += 128) mean += (double)p[at.scores + i] * ds[at.scores + i];
    mean = shared_sum(mean, sums);
    const float scale = rsqrtf((float)d);
    for (u32 i = threadIdx.x; i < t; i += 128) ds[at.scores + i] = p[at.scores + i] * (float)(ds[at.scores + i] - mean) * scale;
    __syncthreads();
    for (u32 i = threadIdx.x; i < d; i += 128) {
        const float query = q[at.row + i], along = dy[at.row + i];
        float sum = 0.0f;
        for (u32 place = 0; place < t; place++) {
            const size_t here = at.map + (size_t)place * at.stride + i;
            const float slope = ds[at.scores + place];
            sum += slope * k[here];
            dk[here] = slope * query;
            dv[here] = p[at.scores + place] * along;
        }
        dq[at.row + i] = sum;
    }
}
