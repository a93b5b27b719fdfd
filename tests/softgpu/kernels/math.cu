// The functions of CUDA's mathematics that kernels use, each as NVRTC writes it out: out[i + n * k] is function k of x[i].
// tests/softgpu_ptx.rs compares them with the same functions in f64.

__constant__ float weights[4] = {0.5f, -1.25f, 2.0f, 1e-3f};
__device__ int calls = 41;

extern "C" __global__ void math_f32(float* out, const float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i], a = fabsf(v);
    float y[] = {expf(v),      logf(a),     sinf(v),       cosf(v),         tanhf(v),           erff(v),
                 sqrtf(a),     rsqrtf(a),   powf(a, 1.7f), fmodf(v, 0.75f), exp2f(v),           log1pf(a),
                 expm1f(v),    rintf(v),    floorf(v),     v / 3.7f,        sinf(v * 30000.0f), cbrtf(v),
                 __expf(v),    atan2f(v, 2.0f), roundf(v), 1.0f / v,        weights[i % 4] * v, (float)(i / 7)};
    for (int k = 0; k < sizeof(y) / sizeof(y[0]); k++) out[i + n * k] = y[k];
}

extern "C" __global__ void math_f64(double* out, const double* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    double v = x[i], a = fabs(v);
    double y[] = {exp(v), log(a), sqrt(a), v / 3.7, 1.0 / v, tanh(v), pow(a, 1.7), floor(v), (double)(long long)v, erf(v)};
    for (int k = 0; k < sizeof(y) / sizeof(y[0]); k++) out[i + n * k] = y[k];
}

// A device function that is called, not inlined.
__device__ __noinline__ float horner(float x, const float* c, int n) {
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum = fmaf(sum, x, c[i]);
    return sum;
}
extern "C" __global__ void math_called(float* out, const float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = horner(x[i], x, 3) + horner(x[i], x + 1, 2) + calls;
}
