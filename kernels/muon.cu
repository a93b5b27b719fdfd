// muon: g = scale·grad;  m += (1-β)·(g - m);  u = g + β·(m - g);  x = u/(‖u‖ + small);  then products of `linear.cu`, and x = (a + b·A + c·A²)·x;
//       p = p·(1 - lr·decay) - rate·x;  ema += (1-ema_decay)·(p - ema)
//
// Layout   grad, m, u, x, p, ema [count] f32; loss [1] f32, norm [1] f64, of all gradients; size [1] f64, of u.
// Kernels  muon_direction   m and u
//          muon_scaled      x = u/(size + small), in place
//          muon_polynomial  out = a + b·A + c·out, where out is A² and a is on the diagonal
//          muon_update      p and its average
//          A thread owns four consecutive elements.
// Cost     reads and writes of a few values a parameter, beside the products.
// Exact    each element by itself. scale = clip/norm where the norm is above clip. Where the loss or the norm is not finite m, p and the
//          average are left as they are.
// Limits   tensors begin at multiples of 16 bytes, as the allocator makes them; the last up to three elements go one at a time.
#include "sums.cuh"

__device__ __forceinline__ u64 first_of_four() { return 4ull * ((u64)blockIdx.x * blockDim.x + threadIdx.x); }

__device__ __forceinline__ float direction(float g, float& m, float beta, float rest) {
    m += rest * (g - m);
    return g + beta * (m - g);
}

extern "C" __global__ void __launch_bounds__(256)
    muon_direction(const float* __restrict__ grad, float* __restrict__ m_, float* __restrict__ u_, u64 count, const float* __restrict__ loss,
                   const double* __restrict__ norm, double clip, float beta, float rest) {
    const u64 at = first_of_four();
    if (at >= count) return;  // guard
    const int n = count - at < 4 ? (int)(count - at) : 4;
    const float scale = clip_factor(loss, norm, clip);
    float4 u = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (scale == scale) {
        const float4 g = load4(grad + at, n, true);
        float4 m = load4(m_ + at, n, true);
        u = make_float4(direction(scale * g.x, m.x, beta, rest), direction(scale * g.y, m.y, beta, rest),
                        direction(scale * g.z, m.z, beta, rest), direction(scale * g.w, m.w, beta, rest));
        store4(m_ + at, m, n, true);
    }
    store4(u_ + at, u, n, true);
}

extern "C" __global__ void __launch_bounds__(256) muon_scaled(float* __restrict__ x_, u64 count, const double* __restrict__ size, double small) {
    const u64 at = first_of_four();
    if (at >= count) return;  // guard
    const int n = count - at < 4 ? (int)(count - at) : 4;
    const float factor = (float)(1.0 / (size[0] + small));
    const float4 x = load4(x_ + at, n, true);
    store4(x_ + at, make_float4(factor * x.x, factor * x.y, factor * x.z, factor * x.w), n, true);
}

extern "C" __global__ void __launch_bounds__(256)
    muon_polynomial(const float* __restrict__ gram, float* __restrict__ out, u64 count, u32 n, float a, float b, float c) {
    const u64 at = first_of_four();
    if (at >= count) return;  // guard
    const int four = count - at < 4 ? (int)(count - at) : 4;
    const float4 x = load4(gram + at, four, true), y = load4(out + at, four, true);
    // An element is of the diagonal where its place divides by n + 1: there are n·n of them.
    const u64 d = n + 1ull;
    store4(out + at,
           make_float4(b * x.x + c * y.x + (at % d == 0 ? a : 0.0f), b * x.y + c * y.y + ((at + 1) % d == 0 ? a : 0.0f),
                       b * x.z + c * y.z + ((at + 2) % d == 0 ? a : 0.0f), b * x.w + c * y.w + ((at + 3) % d == 0 ? a : 0.0f)),
           four, true);
}

extern "C" __global__ void __launch_bounds__(256)
    muon_update(float* __restrict__ p_, const float* __restrict__ x_, float* __restrict__ ema_, u64 count, const float* __restrict__ loss,
                const double* __restrict__ norm, float keep, float rate, float ema_rest) {
    const u64 at = first_of_four();
    if (at >= count || !is_finite(loss[0]) || !is_finite(norm[0])) return;  // guard
    const int n = count - at < 4 ? (int)(count - at) : 4;
    const float4 x = load4(x_ + at, n, true);
    float4 p = load4(p_ + at, n, true), ema = load4(ema_ + at, n, true);
    p = make_float4(keep * p.x - rate * x.x, keep * p.y - rate * x.y, keep * p.z - rate * x.z, keep * p.w - rate * x.w);
    ema = make_float4(ema.x + ema_rest * (p.x - ema.x), ema.y + ema_rest * (p.y - ema.y), ema.z + ema_rest * (p.z - ema.z),
                      ema.w + ema_rest * (p.w - ema.w));
    store4(p_ + at, p, n, true);
    store4(ema_ + at, ema, n, true);
}
