// What every kernel may use. No header of the CUDA toolkit: the run-time compiler comes without them.
//
// Numbers   addressed noise: Philox4x32-10 and Box–Muller as src/rng.rs has them, operation by operation, with the rounding of each
//           spelled out (__fmaf_rn and its kin), so that the compiler fuses nothing and both sides make the same bits.
// Indices   size_t where a product of sizes may pass 2^31.

typedef unsigned int u32;
typedef unsigned long long u64;

// ---- Philox4x32-10 (Salmon et al. 2011) ----

// Where a block of four random numbers lives: tweedie::rng::Address without its sample.
struct Address {
    u32 seed_low, seed_high;
    u32 step;
    u32 last;  // (sub << 8) | purpose
};

__device__ __forceinline__ uint4 philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

__device__ __forceinline__ uint4 random_bits(Address at, u32 sample, u32 block) {
    return philox(block, sample, at.step, at.last, at.seed_low, at.seed_high);
}

// ---- normals: coefficients of the Cephes library's single-precision functions ----

// ln u for u in [2^-33, 1].
__device__ __forceinline__ float ln_unit(float u) {
    const u32 shifted = __float_as_uint(u) - 0x3F3504F3u;
    const float e = __int2float_rn((int)shifted >> 23);
    const float x = __fadd_rn(__uint_as_float((shifted & 0x007FFFFFu) + 0x3F3504F3u), -1.0f);
    const float z = __fmul_rn(x, x);
    float p = 7.0376836e-2f;
    p = __fmaf_rn(p, x, -1.151461e-1f);
    p = __fmaf_rn(p, x, 1.1676999e-1f);
    p = __fmaf_rn(p, x, -1.2420141e-1f);
    p = __fmaf_rn(p, x, 1.4249323e-1f);
    p = __fmaf_rn(p, x, -1.6668058e-1f);
    p = __fmaf_rn(p, x, 2.0000715e-1f);
    p = __fmaf_rn(p, x, -2.4999994e-1f);
    p = __fmaf_rn(p, x, 3.333333e-1f);
    // ln 2 in two parts, so that e·ln 2 loses no bits.
    const float low = __fmaf_rn(e, -2.1219444e-4f, __fmaf_rn(__fmul_rn(p, x), z, __fmul_rn(-0.5f, z)));
    return __fmaf_rn(e, 0.693359375f, __fadd_rn(x, low));
}

// Sine and cosine of 2π·b/2^32.
__device__ __forceinline__ float2 sin_cos_turn(u32 b) {
    const u32 quarter = (b + (1u << 29)) >> 30;
    const float x = __fmul_rn(__int2float_rn((int)(b - (quarter << 30))), 1.4629180792671596e-9f);  // 2π/2^32
    const float z = __fmul_rn(x, x);
    float s = -1.9515296e-4f;
    s = __fmaf_rn(s, z, 8.332161e-3f);
    s = __fmaf_rn(s, z, -1.6666655e-1f);
    const float sine = __fmaf_rn(__fmul_rn(s, z), x, x);
    float c = 2.4433157e-5f;
    c = __fmaf_rn(c, z, -1.3887316e-3f);
    c = __fmaf_rn(c, z, 4.1666646e-2f);
    const float cosine = __fmaf_rn(__fmul_rn(c, z), z, __fmaf_rn(-0.5f, z, 1.0f));
    const bool swap = quarter & 1u;
    const float a = swap ? cosine : sine, d = swap ? -sine : cosine;
    return (quarter & 2u) ? make_float2(-a, -d) : make_float2(a, d);
}

// Two standard normals from two integers.
__device__ __forceinline__ float2 box_muller(u32 a, u32 b) {
    const float u = __fmaf_rn(__uint2float_rn(a), 2.3283064365386963e-10f, 1.1641532182693481e-10f);  // 2^-32, 2^-33
    const float radius = __fsqrt_rn(fmaxf(__fmul_rn(-2.0f, ln_unit(u)), 0.0f));
    const float2 turn = sin_cos_turn(b);
    return make_float2(__fmul_rn(radius, turn.y), __fmul_rn(radius, turn.x));
}

// The standard normals of elements 4·block … 4·block + 3.
__device__ __forceinline__ float4 normals(Address at, u32 sample, u32 block) {
    const uint4 bits = random_bits(at, sample, block);
    const float2 first = box_muller(bits.x, bits.y), second = box_muller(bits.z, bits.w);
    return make_float4(first.x, first.y, second.x, second.y);
}

// ---- four values at a time ----

// Loads up to four values from `p`, `count` of which exist; the others are 0.
__device__ __forceinline__ float4 load4(const float* __restrict__ p, int count, bool aligned) {
    if (aligned && count >= 4) return *reinterpret_cast<const float4*>(p);
    return make_float4(count > 0 ? p[0] : 0.0f, count > 1 ? p[1] : 0.0f, count > 2 ? p[2] : 0.0f, count > 3 ? p[3] : 0.0f);
}

__device__ __forceinline__ void store4(float* __restrict__ p, float4 v, int count, bool aligned) {
    if (aligned && count >= 4) {
        *reinterpret_cast<float4*>(p) = v;
        return;
    }
    if (count > 0) p[0] = v.x;
    if (count > 1) p[1] = v.y;
    if (count > 2) p[2] = v.z;
    if (count > 3) p[3] = v.w;
}
