// adamw: g = scale·grad;  m = β1·m + (1-β1)·g;  v = β2·v + (1-β2)·g²;
//        p = p·(1 - lr·decay) - lr·(m/(1-β1^step)) / (sqrt(v/(1-β2^step)) + adam_eps);  ema += (1-ema_decay)·(p - ema)
//
// Layout   table [rows,7] u64: addresses of p, grad, m, v and ema of one parameter, its elements, its first chunk; loss [1] f32,
//          norm [1] f64.
// Kernels  adamw_update   all parameters in one launch; a block owns a chunk of one parameter, a thread four elements at a time
// Cost     reads five values and writes four per parameter: 36 bytes; memory bound.
// Exact    each element by itself. scale = clip/norm where the norm is above clip. Where the loss or the norm is not finite nothing is
//          written: the host need not have seen them before it launches this.
// Limits   parameters begin at multiples of 16 bytes, as the allocator makes them; the last up to three elements go one at a time.
#include "chunks.cuh"
#include "sums.cuh"

struct Scalars {
    float keep, rate, beta1, beta2, rest1, rest2, inverse_correction2, adam_eps, scale, ema_rest;
};

__device__ __forceinline__ void update(float& p, float g, float& m, float& v, float& ema, const Scalars& k) {
    g *= k.scale;
    m = k.beta1 * m + k.rest1 * g;
    v = k.beta2 * v + k.rest2 * g * g;
    p = k.keep * p - k.rate * m / (sqrtf(v * k.inverse_correction2) + k.adam_eps);
    ema += k.ema_rest * (p - ema);
}

extern "C" __global__ void __launch_bounds__(256)
    adamw_update(const u64* __restrict__ table, u32 rows, const float* __restrict__ loss, const double* __restrict__ norm, double clip, float keep,
                 float rate, float beta1, float beta2, float rest1, float rest2, float inverse_correction2, float adam_eps, float ema_rest) {
    __shared__ float shared_scale;
    if (threadIdx.x == 0) shared_scale = clip_factor(loss, norm, clip);
    __syncthreads();
    const float scale = shared_scale;
    if (scale != scale) return;  // guard
    const Scalars k = {keep, rate, beta1, beta2, rest1, rest2, inverse_correction2, adam_eps, scale, ema_rest};
    const u64* __restrict__ row = row_of_chunk(table, rows, 7, blockIdx.x);
    float* __restrict__ p_ = reinterpret_cast<float*>(row[0]);
    const float* __restrict__ g_ = reinterpret_cast<const float*>(row[1]);
    float* __restrict__ m_ = reinterpret_cast<float*>(row[2]);
    float* __restrict__ v_ = reinterpret_cast<float*>(row[3]);
    float* __restrict__ ema_ = reinterpret_cast<float*>(row[4]);
    const u64 count = row[5], begin = (blockIdx.x - row[6]) * CHUNK;
    const u64 end = count - begin < CHUNK ? count : begin + CHUNK;
    for (u64 at = begin + 4 * threadIdx.x; at < end; at += 4 * CHUNK_THREADS) {
        const int n = end - at < 4 ? (int)(end - at) : 4;
        float4 p = load4(p_ + at, n, true), m = load4(m_ + at, n, true), v = load4(v_ + at, n, true), ema = load4(ema_ + at, n, true);
        const float4 g = load4(g_ + at, n, true);
        update(p.x, g.x, m.x, v.x, ema.x, k);
        update(p.y, g.y, m.y, v.y, ema.y, k);
        update(p.z, g.z, m.z, v.z, ema.z, k);
        update(p.w, g.w, m.w, v.w, ema.w, k);
        store4(p_ + at, p, n, true);
        store4(m_ + at, m, n, true);
        store4(v_ + at, v, n, true);
        store4(ema_ + at, ema, n, true);
    }
}
