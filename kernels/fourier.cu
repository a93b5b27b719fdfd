// fourier: sines and cosines of t·frequency, for dim/2 frequencies                                   [S0 "positional encoding", item 79]
//
// Layout   t [n], frequencies [half], features [n,dim] f32; dim is 2·half, or one more: then the last feature is 0.
// Kernels  fourier_features   a thread owns the sine and the cosine of one frequency
// Cost     8 bytes written per thread; about 40 f64 operations, for n·half threads only.
// Exact    the phase is rounded to f32 as the CPU rounds it. Sine and cosine are taken in f64 (rest of a quarter turn, then Taylor's sums
//          to 2e-14), so that what is rounded to f32 is the CPU's number but for rare ties.
// Limits   phases above 2^30, where f32 itself no longer has a place after the point, lose digits.
// Tried    not: sinf beyond 105615 is a function with a stack.
#include "common.cuh"

__device__ __forceinline__ void sin_cos(double phase, double* __restrict__ sine, double* __restrict__ cosine) {
    const double quarters = rint(phase * 0.63661977236758134308);  // 2/π
    // π/2 in two parts, so that the rest keeps its digits.
    double x = fma(quarters, -1.5707963267948965580, phase);
    x = fma(quarters, -6.1232339957367658860e-17, x);
    const double z = x * x;
    double s = 1.6059043836821613e-10;  // 1/13!
    s = fma(s, z, -2.5052108385441720e-8);
    s = fma(s, z, 2.7557319223985893e-6);
    s = fma(s, z, -1.9841269841269841e-4);
    s = fma(s, z, 8.3333333333333332e-3);
    s = fma(s, z, -1.6666666666666666e-1);
    s = fma(s * z, x, x);
    double c = -1.1470745597729725e-11;  // -1/14!
    c = fma(c, z, 2.0876756987868100e-9);
    c = fma(c, z, -2.7557319223985888e-7);
    c = fma(c, z, 2.4801587301587302e-5);
    c = fma(c, z, -1.3888888888888889e-3);
    c = fma(c, z, 4.1666666666666664e-2);
    c = fma(c, z, -0.5);
    c = fma(c, z, 1.0);
    const int quarter = (int)(quarters - 4.0 * floor(quarters * 0.25));
    const double a = (quarter & 1) ? c : s, b = (quarter & 1) ? -s : c;
    *sine = (quarter & 2) ? -a : a;
    *cosine = (quarter & 2) ? -b : b;
}

extern "C" __global__ void fourier_features(const float* __restrict__ t, const float* __restrict__ frequencies, float* __restrict__ features, u32 n,
                                            u32 half, u32 dim, u32 cos_first) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= half + (dim & 1u)) return;  // guard
    for (u32 image = blockIdx.y; image < n; image += gridDim.y) {
        float* __restrict__ row = features + (size_t)image * dim;
        if (i >= half) {
            row[dim - 1] = 0.0f;
            continue;
        }
        double sine, cosine;
        sin_cos((double)__fmul_rn(t[image], frequencies[i]), &sine, &cosine);
        row[i] = (float)(cos_first ? cosine : sine);
        row[half + i] = (float)(cos_first ? sine : cosine);
    }
}
