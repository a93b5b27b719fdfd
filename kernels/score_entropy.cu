// score_entropy: L = sum_r w_r·sum_{y != x_t} (e^s_y - r_y·s_y + r_y·(ln r_y - 1))                    [Lou, Meng & Ermon 2024, eqs. 5 and 7]
//
// Layout   scores, dscores [rows,k] f32; a Row of eight words each; per_row [rows] f64; loss, dy [1] f32.
// Kernels  score_entropy_rows      a warp a row, in f32 within a lane, lanes in f64
//          score_entropy_loss      one block; threads add rows in f64, then a fixed tree
//          score_entropy_backward  a warp a row: ds = dL·w·slope, 0 at x_t
// Form     r·(e^d - 1 - d), d = s - ln r, by its series near 0; e^s where r = 0: src/ops/score_entropy. Rows of other forms: (e^s - r)^2, -r·s.
// Saved    the rows.
// Cost     scores read once forward; read and written once backward: memory bound. Rows of weight 0 are not read.
// Exact    no atomics, a fixed order.
// Limits   a warp reads 4 bytes a lane: consecutive, so coalesced for any k.
#include "sums.cuh"

struct Row {
    u32 x_t, x0;
    float weight, ratio_x0, ratio_rest, log_x0, log_rest;
    u32 form;
};
const u32 SQUARES = 1, LOG = 2;

// e^d - 1 - d
__device__ __forceinline__ float excess(float d) {
    float series = 1.0f / 362880.0f;
    series = series * d + 1.0f / 40320.0f;
    series = series * d + 1.0f / 5040.0f;
    series = series * d + 1.0f / 720.0f;
    series = series * d + 1.0f / 120.0f;
    series = series * d + 1.0f / 24.0f;
    series = series * d + 1.0f / 6.0f;
    series = series * d + 0.5f;
    return fabsf(d) < 0.5f ? d * d * series : expf(d) - 1.0f - d;
}

__device__ __forceinline__ float term(u32 form, float s, float ratio, float log) {
    if (form == LOG) return -ratio * s;
    if (form == SQUARES) {
        const float error = expf(s) - ratio;
        return error * error;
    }
    return ratio > 0.0f ? ratio * excess(s - log) : expf(s);
}

// its derivative by s
__device__ __forceinline__ float slope(u32 form, float s, float ratio) {
    if (form == LOG) return -ratio;
    const float score = expf(s), error = score - ratio;
    return form == SQUARES ? 2.0f * error * score : error;
}

extern "C" __global__ void __launch_bounds__(256)
    score_entropy_rows(const float* __restrict__ scores, const Row* __restrict__ table, double* __restrict__ per_row, u32 rows, u32 k) {
    const u32 index = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31u;
    if (index >= rows) return;  // guard: a whole warp
    const Row row = table[index];
    if (row.weight == 0.0f) {
        if (lane == 0) per_row[index] = 0.0;
        return;
    }
    float sum = 0.0f;
    for (u32 y = lane; y < k; y += 32) {
        if (y == row.x_t) continue;
        const float s = scores[(size_t)index * k + y];
        const float ratio = y == row.x0 ? row.ratio_x0 : row.ratio_rest, log = y == row.x0 ? row.log_x0 : row.log_rest;
        sum += term(row.form, s, ratio, log);
    }
    const double total = warp_sum(sum);
    if (lane == 0) per_row[index] = row.weight * total;
}

extern "C" __global__ void __launch_bounds__(512) score_entropy_loss(const double* __restrict__ per_row, float* __restrict__ loss, u32 rows) {
    sum_of_rows(per_row, loss, rows);
}

extern "C" __global__ void __launch_bounds__(256)
    score_entropy_backward(const float* __restrict__ scores, const Row* __restrict__ table, const float* __restrict__ dy,
                           float* __restrict__ dscores, u32 rows, u32 k) {
    const u32 index = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31u;
    if (index >= rows) return;  // guard: a whole warp
    const Row row = table[index];
    const float factor = row.weight * dy[0];
    for (u32 y = lane; y < k; y += 32) {
        const size_t at = (size_t)index * k + y;
        float d = 0.0f;
        if (factor != 0.0f && y != row.x_t) d = factor * slope(row.form, scores[at], y == row.x0 ? row.ratio_x0 : row.ratio_rest);
        dscores[at] = d;
    }
}
