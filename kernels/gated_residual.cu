// gated_residual: y = x + gate * branch, one gate for each sample and channel
//
// Layout   x, branch, y, dy, dbranch, products [n,rows,c], c fastest; gate [n,c]; all f32.
// Kernels  gated_residual_forward, gated_residual_backward: an element a thread; the latter's products dy * branch are summed over rows by
//          linear_sum_rows
// Saved    branch, gate.
// Cost     forward 12 bytes an element; backward reads two and writes two, and its sums read one again: memory bound.
// Exact    no atomics.
// Limits   4 bytes a thread: consecutive, so coalesced for any c.
#include "index.cuh"

// Where the gate of an element is.
__device__ __forceinline__ size_t gate_of(u64 i, u32 rows, u32 c) {
    const Place at = place(i, c);
    return (size_t)place(at.row, rows).row * c + at.column;
}

extern "C" __global__ void __launch_bounds__(256)
    gated_residual_forward(const float* __restrict__ x, const float* __restrict__ branch, const float* __restrict__ gate, float* __restrict__ y,
                           u64 count, u32 rows, u32 c) {
    const u64 i = thread_index();
    if (i >= count) return;  // guard
    y[i] = x[i] + gate[gate_of(i, rows, c)] * branch[i];
}

extern "C" __global__ void __launch_bounds__(256)
    gated_residual_backward(const float* __restrict__ branch, const float* __restrict__ gate, const float* __restrict__ dy,
                            float* __restrict__ dbranch, float* __restrict__ products, u64 count, u32 rows, u32 c) {
    const u64 i = thread_index();
    if (i >= count) return;  // guard
    dbranch[i] = dy[i] * gate[gate_of(i, rows, c)];
    products[i] = dy[i] * branch[i];
}
