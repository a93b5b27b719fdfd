// Kernels with one mistake each, and sound ones beside them: tests/softgpu_ptx.rs holds what the software GPU says of each.
// bugs.ptx is NVRTC's translation (make_ptx.py); the line numbers here are part of the expectations.

extern "C" __global__ void global_past_end(float* out) { out[threadIdx.x] = 1.0f; }

extern "C" __global__ void global_misaligned(char* out) { *(float2*)(out + 4) = make_float2(1.0f, 2.0f); }

extern "C" __global__ void global_unwritten(float* out, const float* in) { out[threadIdx.x] = in[threadIdx.x] + 1.0f; }

extern "C" __global__ void shared_past_end(float* out) {
    __shared__ float tile[64];
    tile[threadIdx.x + 32] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x + 32];
}

extern "C" __global__ void shared_unwritten(float* out) {
    __shared__ float tile[64];
    if (threadIdx.x < 32) tile[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void local_unwritten(float* out, int n) {
    float own[16];
    for (int i = 0; i < n; i++) own[(i * 7) % 16] = i;
    out[threadIdx.x] = own[threadIdx.x % 16];
}

// The sum of 64 values; without its first barrier if asked.
__device__ void sum64(float* out, bool first_barrier) {
    __shared__ float tile[64];
    tile[threadIdx.x] = threadIdx.x;
    if (first_barrier) __syncthreads();
    for (int half = 32; half; half >>= 1) {
        if (threadIdx.x < half) tile[threadIdx.x] += tile[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) *out = tile[0];
}
extern "C" __global__ void sum_sound(float* out) { sum64(out, true); }
extern "C" __global__ void sum_racing(float* out) { sum64(out, false); }

// Each lane passes its value to its neighbour through shared memory; lanes of a warp need __syncwarp too.
__device__ void pass_on(int* out, bool sync) {
    __shared__ int tile[32];
    tile[threadIdx.x] = threadIdx.x;
    if (sync) __syncwarp();
    out[threadIdx.x] = tile[(threadIdx.x + 1) % 32];
}
extern "C" __global__ void warp_sound(int* out) { pass_on(out, true); }
extern "C" __global__ void warp_racing(int* out) { pass_on(out, false); }

// A tile that is overwritten while other warps may still read it.
extern "C" __global__ void reuse_racing(int* out) {
    __shared__ int tile[64];
    for (int i = 0; i < 2; i++) {
        tile[threadIdx.x] = threadIdx.x + i;
        __syncthreads();
        out[threadIdx.x] = tile[63 - threadIdx.x];
    }
}

extern "C" __global__ void blocks_racing(int* out) { out[threadIdx.x] = blockIdx.x; }

extern "C" __global__ void threads_racing(int* out) {
    out[threadIdx.x] = threadIdx.x;
    out[64 + threadIdx.x] = out[63 - threadIdx.x];
}

extern "C" __global__ void count_sound(int* out, const int* in) { atomicAdd(out + in[threadIdx.x] % 8, 1); }
extern "C" __global__ void count_racing(int* out, const int* in) { out[in[threadIdx.x] % 8] += 1; }

extern "C" __global__ void barrier_diverged(float* out) {
    if (threadIdx.x % 32 < 16) {
        out[threadIdx.x] = 1.0f;
        __syncthreads();
    } else {
        out[threadIdx.x] = 2.0f;
    }
}

extern "C" __global__ void barrier_missed(float* out) {
    if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;");
    else asm volatile("bar.sync 2, 64;");
    out[threadIdx.x] = 1.0f;
}

extern "C" __global__ void shuffle_absent(float* out) {
    float v = threadIdx.x;
    if (threadIdx.x % 32 < 20) v = __shfl_xor_sync(0xffffffffu, v, 16);
    out[threadIdx.x] = v;
}

__device__ void copy_async(int* out, const int* in, bool wait) {
    __shared__ int tile[128];
    unsigned to = (unsigned)__cvta_generic_to_shared(tile + 4 * threadIdx.x);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + 4 * threadIdx.x) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (wait) asm volatile("cp.async.wait_group 0;" ::: "memory");
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = tile[4 * threadIdx.x + i];
}
extern "C" __global__ void copy_sound(int* out, const int* in) { copy_async(out, in, true); }
extern "C" __global__ void copy_early(int* out, const int* in) { copy_async(out, in, false); }

extern "C" __global__ void trapped(int* out) {
    if (threadIdx.x == 7) __trap();
    out[threadIdx.x] = 1;
}

extern "C" __global__ void add_one(float* out, const float* in, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i] + 1.0f;
}

// Access patterns for the counters: 4-byte elements `stride` apart, from global memory through a shared column.
extern "C" __global__ void strided(float* out, const float* in, int stride, int pitch) {
    extern __shared__ float tile[];
    tile[threadIdx.x * pitch] = in[threadIdx.x * stride];
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x * pitch];
}
