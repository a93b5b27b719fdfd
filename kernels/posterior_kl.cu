// posterior_kl: L = sum_r w_r·KL(q(y|x_t,x0) || sum_a p_a·q(y|x_t,a)) - c_r·ln p_x0, p_a ~ e^z_a·q_t(x_t|a)   [Austin et al. 2021, eqs. 1, 4, 5]
//
// Layout   logits, dlogits [rows,k] f32; a Row of nine words each; per_row [rows] f64; saved [rows,4] f32; loss, dy [1] f32.
// Kernels  posterior_kl_rows      a warp a row: the largest, the sum of exponentials, then logarithms; in f32 within a lane, lanes in f64
//          posterior_kl_loss      one block; threads add rows in f64, then a fixed tree
//          posterior_kl_backward  a warp a row
// Form     the ratios q/p of src/ops/posterior_kl: 1/t, t = kappa·p/g + floor, (1 + kappa)/t at x0, 1/(1 + d) at x_t.
// Saved    of each row the log-sum-exp, the floor, dL/dz of x_t, and sum_y q(y|x_t,j)·(1 - q/p) of the other j.
// Cost     forward reads the logits (three times, from a cache after the first), backward reads and writes them: memory bound. Rows of weight 0 are
//          not read.
// Exact    no atomics, a fixed order.
// Limits   a warp reads 4 bytes a lane: consecutive, so coalesced for any k.
#include "sums.cuh"

struct Row {
    u32 x_t, x0;
    float weight, auxiliary, kappa, rho, rest, at_x, drift;
};

// The sum over a warp, known to all of it.
__device__ __forceinline__ double shared_sum(double value) { return __shfl_sync(0xffffffffu, warp_sum(value), 0); }

extern "C" __global__ void __launch_bounds__(256)
    posterior_kl_rows(const float* __restrict__ logits, const Row* __restrict__ table, double* __restrict__ per_row, float* __restrict__ saved,
                      u32 rows, u32 k) {
    const u32 index = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31u;
    if (index >= rows) return;  // guard: a whole warp
    const Row row = table[index];
    float* of_row = saved + (size_t)index * 4;
    if (row.weight == 0.0f && row.auxiliary == 0.0f) {
        if (lane == 0) per_row[index] = 0.0;
        if (lane < 4) of_row[lane] = 0.0f;
        return;
    }
    const float* z = logits + (size_t)index * k;
    float top = -__int_as_float(0x7f800000);
    for (u32 y = lane; y < k; y += 32) top = fmaxf(top, z[y]);
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    float part = 0.0f;
    for (u32 y = lane; y < k; y += 32) part += y == row.x_t ? 0.0f : expf(z[y] - top);
    const bool same = row.x_t == row.x0;
    const double kappa = row.kappa, rho = row.rho, g = same ? rho : 1.0;
    // noise tells that x_t came from there rather than from any other by 1 to rho
    const double away = shared_sum(part), here = expf(z[row.x_t] - top) / rho, sum = away + here;
    const double floor = (away + rho * here) / (g * sum);
    double logs = 0.0, misses = 0.0;
    if (row.weight != 0.0f) {
        const float slope = (float)(kappa / (g * sum)), base = (float)floor;
        float log_part = 0.0f, miss_part = 0.0f;
        for (u32 y = lane; y < k; y += 32) {
            if (y == row.x_t || y == row.x0) continue;
            const float t = slope * expf(z[y] - top) + base;
            log_part += logf(t);
            miss_part += (t - 1.0f) / t;
        }
        __syncwarp();
        logs = warp_sum(log_part);
        misses = warp_sum(miss_part);
    }
    if (lane != 0) return;
    const double lse = top + log(sum), cross = row.auxiliary * (same ? log1p(away / here) : lse - z[row.x0]);
    double divergence = 0.0, at_x = row.auxiliary * (same ? -away : here) / sum, others = 0.0;
    if (row.weight != 0.0f) {
        const double d = row.drift * (same ? away : here) / sum, mass = row.rest;
        divergence = -mass * logs - row.at_x * log1p(d);
        if (!same) {
            const double ratio = (1.0 + kappa) / (kappa * expf(z[row.x0] - top) / sum + floor);
            divergence += mass * (1.0 + kappa) * log(ratio);
            misses += 1.0 - ratio;
        }
        // q(x_t|x_t,j) of j = x_t and of any other
        const double between = (1.0 + kappa) * rho, miss = d / (1.0 + d), elsewhere = mass / g;
        at_x += row.weight * ((same ? row.at_x : row.at_x * between) * miss + elsewhere * rho * misses) * here / sum;
        others = (same ? row.at_x / between : row.at_x) * miss + elsewhere * misses;
    }
    per_row[index] = row.weight * divergence + cross;
    of_row[0] = (float)lse;
    of_row[1] = (float)floor;
    of_row[2] = (float)at_x;
    of_row[3] = (float)others;
}

extern "C" __global__ void __launch_bounds__(512) posterior_kl_loss(const double* __restrict__ per_row, float* __restrict__ loss, u32 rows) {
    sum_of_rows(per_row, loss, rows);
}

extern "C" __global__ void __launch_bounds__(256)
    posterior_kl_backward(const float* __restrict__ logits, const Row* __restrict__ table, const float* __restrict__ saved,
                          const float* __restrict__ dy, float* __restrict__ dlogits, u32 rows, u32 k) {
    const u32 index = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31u;
    if (index >= rows) return;  // guard: a whole warp
    const Row row = table[index];
    const float w = row.weight * dy[0], c = row.auxiliary * dy[0];
    const float lse = saved[(size_t)index * 4], floor = saved[(size_t)index * 4 + 1];
    const float at_x = saved[(size_t)index * 4 + 2], base = saved[(size_t)index * 4 + 3];
    const float g = row.x_t == row.x0 ? row.rho : 1.0f;
    const float slope = row.kappa / g, mass = row.kappa * row.rest / g;
    const size_t at = (size_t)index * k;
    for (u32 y = lane; y < k; y += 32) {
        float d = 0.0f;
        if (w != 0.0f || c != 0.0f) {
            const float p = expf(logits[at + y] - lse), t = slope * p + floor;
            const float miss = y == row.x0 ? 1.0f - (1.0f + row.kappa) / t : (t - 1.0f) / t;
            d = y == row.x_t ? at_x * dy[0] : p * (w * (base + mass * miss) + c) - (y == row.x0 ? c : 0.0f);
        }
        dlogits[at + y] = d;
    }
}
