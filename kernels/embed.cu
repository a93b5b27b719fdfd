// embed: y_i = weight[index_i]; the gradient of a row of the table is the sum of dy over its uses
//
// Layout   weight, dweight [k,d]; y, dy [count,d] f32; indices [count]; starts [k+1] and order [count] for the backward: the uses of row r
//          are order[starts[r]] … order[starts[r+1] - 1].
// Kernels  embed_lookup, embed_backward: a thread owns four features of a row of what it writes
// Cost     one read and one write of each row used.
// Exact    a row sums its uses in their order: the CPU's bits; no atomics.
// Limits   where d does not divide by 4, a thread owns one feature: `lanes` is 4 or 1, and d is in units of it. A row with very many uses is
//          the work of d threads.
// Tried    not: looking for a row's uses in the indices costs k·count reads; sorting them on the host costs k + count.
#include "index.cuh"

template <typename T>
__device__ __forceinline__ void lookup(const float* __restrict__ weight, const u32* __restrict__ indices, float* __restrict__ y, u64 count, u32 d) {
    const u64 i = thread_index();
    if (i >= count) return;  // guard
    const Place at = place(i, d);
    reinterpret_cast<T*>(y)[i] = reinterpret_cast<const T*>(weight)[(u64)indices[at.row] * d + at.column];
}

extern "C" __global__ void embed_lookup(const float* __restrict__ weight, const u32* __restrict__ indices, float* __restrict__ y, u64 count, u32 d, u32 lanes) {
    if (lanes == 4) {
        lookup<float4>(weight, indices, y, count, d);
    } else {
        lookup<float>(weight, indices, y, count, d);
    }
}

template <typename T>
__device__ __forceinline__ void sum_uses(const float* __restrict__ dy, const u32* __restrict__ starts, const u32* __restrict__ order,
                                         float* __restrict__ dweight, u64 count, u32 d) {
    const u64 i = thread_index();
    if (i >= count) return;  // guard
    const Place at = place(i, d);
    const u32 last = starts[at.row + 1];
    T sum = zero<T>();
#pragma unroll 4
    for (u32 use = starts[at.row]; use < last; use++) {
        sum = plus(sum, reinterpret_cast<const T*>(dy)[(u64)order[use] * d + at.column]);
    }
    reinterpret_cast<T*>(dweight)[i] = sum;
}

extern "C" __global__ void embed_backward(const float* __restrict__ dy, const u32* __restrict__ starts, const u32* __restrict__ order,
                                          float* __restrict__ dweight, u64 count, u32 d, u32 lanes) {
    if (lanes == 4) {
        sum_uses<float4>(dy, starts, order, dweight, count, d);
    } else {
        sum_uses<float>(dy, starts, order, dweight, count, d);
    }
}
