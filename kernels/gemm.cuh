// gemm: C[m,n] = sum over k of A(m,k)·B(k,n), the tiled product under `linear` and `conv2d`
//
// Idea     A block owns BM x BN results and goes through k in steps of BK. Loaders bring the next step from global memory into registers
//          while the block multiplies this one out of shared memory; two buffers, one barrier a step. A thread owns TM x TN results
//          in groups of four, so that it reads shared memory 16 bytes at a time.
// Loaders  say what an operand is; the product does not know. Two families, by the direction in which the memory runs:
//          along k      two lanes take 32 bytes of a row and transpose into the tile: AlongK, Rows, Window
//          along m or n a row of the tile is a run of memory: AlongSide, Columns; conv2d.cu has two more
//          A loader owns fixed rows (or columns) of its tile, so their addresses are worked out once; along k it counts in mixed radix,
//          without a division.
// Tile     [BK][SIDE + 4]: the 4 puts the transposed stores of a warp, 16 rows by 2 lanes, into 32 different banks.
// Order    a result sums k in order, in f32 with fused multiply-adds.
// Limits   counts of rows, columns and k below 2^31; offsets in memory are 64-bit.
// Tried    Large with BK = 16, or with more than 2 of k written out at once: the compiler reads ahead until 128 registers spill.
//          An XOR in the tile's index instead of the 4: eight more registers.
#include "common.cuh"

// Results of a block and of a thread; k of a step, and how many of them are written out in one go.
template <int BM_, int BN_, int TM_, int TN_, int BK_, int UNROLL_>
struct Tile {
    static constexpr int BM = BM_, BN = BN_, TM = TM_, TN = TN_, BK = BK_, UNROLL = UNROLL_;
    static constexpr int THREADS = (BM / TM) * (BN / TN);
};
typedef Tile<128, 128, 8, 8, 8, 2> Large;    // 256 threads: one shared value read for 4 fused multiply-adds
typedef Tile<64, 64, 8, 4, 16, 8> Small;     // 128 threads: four times the blocks of Large
typedef Tile<128, 16, 4, 4, 16, 8> Narrow;   // 128 threads: few columns
typedef Tile<16, 128, 4, 4, 16, 8> Shallow;  // 128 threads: few rows

__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }
__host__ __device__ constexpr int most(int a, int b) { return a > b ? a : b; }

__device__ __forceinline__ float4 zero4() { return make_float4(0.0f, 0.0f, 0.0f, 0.0f); }

__device__ __forceinline__ float4 plus4(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// Up to four values from `p`, `count` > 0 of which exist; all four if VECTOR.
template <bool VECTOR>
__device__ __forceinline__ float4 fetch4(const float* __restrict__ p, int count) {
    return VECTOR ? *reinterpret_cast<const float4*>(p) : load4(p, count, false);
}

// ---- counting ----

// A count in mixed radix, (high·radix_middle + middle)·radix_low + low.
struct Digits {
    int high, middle, low;
};

__device__ __forceinline__ Digits digits(int value, int radix_middle, int radix_low) {
    const u32 low = most(radix_low, 1), middle = most(radix_middle, 1);
    const u32 rest = (u32)value / low;
    return {(int)(rest / middle), (int)(rest % middle), (int)((u32)value % low)};
}

// Adds `step`: no digit carries more than once.
__device__ __forceinline__ void advance(Digits& at, const Digits& step, int radix_middle, int radix_low) {
    at.low += step.low;
    at.middle += step.middle;
    at.high += step.high;
    if (at.low >= radix_low) {
        at.low -= radix_low;
        at.middle++;
    }
    if (at.middle >= radix_middle) {
        at.middle -= radix_middle;
        at.high++;
    }
}

__device__ __forceinline__ void next(Digits& at, int radix_middle, int radix_low) {
    if (++at.low < radix_low) return;  // guard
    at.low = 0;
    if (++at.middle < radix_middle) return;  // guard
    at.middle = 0;
    at.high++;
}

// ---- who brings what ----

// Memory along k: two lanes side by side take 32 bytes of a row, the next two those of the next row.
template <int SIDE, int BK, int THREADS>
struct AlongK {
    static constexpr int PASS = least(THREADS / 2, SIDE);  // rows at a time
    static constexpr int ROWS = SIDE / PASS;               // rows of a thread
    static constexpr int RUNS = THREADS / 2 / PASS;        // pieces of 8 in k at a time
    static constexpr int STEP = least(8 * RUNS, BK);
    static constexpr int LOADS = BK / STEP;

    __device__ static int row(int i) { return (threadIdx.x / 2) % PASS + i * PASS; }
    __device__ static int k() { return (threadIdx.x % 2) * 4 + threadIdx.x / 2 / PASS * 8; }
    // Narrow tiles leave threads over.
    __device__ static bool has_part() { return RUNS * 8 <= BK || k() < BK; }

    __device__ static void store(float (*tile)[SIDE + 4], const float4 (&v)[LOADS][ROWS]) {
        if (!has_part()) return;  // guard
#pragma unroll
        for (int load = 0; load < LOADS; load++) {
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                float* at = &tile[k() + load * STEP][row(i)];
                at[0 * (SIDE + 4)] = v[load][i].x;
                at[1 * (SIDE + 4)] = v[load][i].y;
                at[2 * (SIDE + 4)] = v[load][i].z;
                at[3 * (SIDE + 4)] = v[load][i].w;
            }
        }
    }
};

// Memory along the tile's rows: a thread owns four columns.
template <int SIDE, int BK, int THREADS>
struct AlongSide {
    static constexpr int LANES = SIDE / 4;
    static constexpr int STEP = least(THREADS / LANES, BK);
    static constexpr int LOADS = BK / STEP;

    __device__ static int column() { return threadIdx.x % LANES * 4; }
    __device__ static int k() { return threadIdx.x / LANES; }
    __device__ static bool has_part() { return THREADS / LANES <= BK || k() < BK; }

    __device__ static void store(float (*tile)[SIDE + 4], const float4 (&v)[LOADS]) {
        if (!has_part()) return;  // guard
#pragma unroll
        for (int load = 0; load < LOADS; load++) *reinterpret_cast<float4*>(&tile[k() + load * STEP][column()]) = v[load];
    }
};

// ---- loaders ----
// load() brings the next BK of k into registers, store() puts them into a tile. What lies outside is 0.

// data[row·depth + k], rows first .. first + SIDE.
template <int SIDE, int BK, int THREADS, bool VECTOR>
struct Rows {
    typedef AlongK<SIDE, BK, THREADS> Map;
    const float* row[Map::ROWS];
    int k, depth;
    float4 v[Map::LOADS][Map::ROWS];

    __device__ __forceinline__ Rows(const float* __restrict__ data, int first, int rows, int depth_)
        : k(Map::k()), depth(Map::has_part() ? depth_ : 0) {
#pragma unroll
        for (int i = 0; i < Map::ROWS; i++) {
            const int r = first + Map::row(i);
            row[i] = r < rows ? data + (size_t)r * depth_ : nullptr;
        }
    }
    __device__ __forceinline__ void load() {
#pragma unroll
        for (int load = 0; load < Map::LOADS; load++, k += Map::STEP) {
#pragma unroll
            for (int i = 0; i < Map::ROWS; i++) v[load][i] = row[i] && k < depth ? fetch4<VECTOR>(row[i] + k, depth - k) : zero4();
        }
    }
    __device__ __forceinline__ void store(float (*tile)[SIDE + 4]) const { Map::store(tile, v); }
};

// data[k·columns + column] for begin <= k < end, columns first .. first + SIDE.
template <int SIDE, int BK, int THREADS, bool VECTOR>
struct Columns {
    typedef AlongSide<SIDE, BK, THREADS> Map;
    const float* at;
    int columns, left, k, end;
    float4 v[Map::LOADS];

    __device__ __forceinline__ Columns(const float* __restrict__ data, int first, int columns_, int begin, int end_)
        : at(data + (size_t)(begin + Map::k()) * columns_ + first + Map::column()),
          columns(columns_),
          left(columns_ - first - Map::column()),
          k(begin + Map::k()),
          end(Map::has_part() && left > 0 ? end_ : 0) {}
    __device__ __forceinline__ void load() {
#pragma unroll
        for (int load = 0; load < Map::LOADS; load++, k += Map::STEP, at += (size_t)Map::STEP * columns) {
            v[load] = k < end ? fetch4<VECTOR>(at, left) : zero4();
        }
    }
    __device__ __forceinline__ void store(float (*tile)[SIDE + 4]) const { Map::store(tile, v); }
};

// An operand that is an image [n,h,w,channels] seen through a window: row (image, i, j) of `grid_h` x `grid_w` a image, k = (ty, tx, channel)
// of taps_y x taps_x taps, is data[image, scale·i + shift_y ± ty, scale·j + shift_x ± tx, channel], and 0 outside the image.
struct View {
    int h, w, channels;
    int grid_h, grid_w, taps_y, taps_x;
    int scale, shift_y, shift_x;
};

template <int SIDE, int BK, int THREADS, bool VECTOR, int SIGN>
struct Window {
    typedef AlongK<SIDE, BK, THREADS> Map;
    static constexpr int OUTSIDE = -(1 << 30);
    const float* data;
    View view;
    int start[Map::ROWS], y[Map::ROWS], x[Map::ROWS];  // first pixel of the image; the window's place
    Digits at, step;                                   // tap row, tap column, channel
    float4 v[Map::LOADS][Map::ROWS];

    __device__ __forceinline__ Window(const float* __restrict__ data_, const View& view_, int first, int rows)
        : data(data_),
          view(view_),
          at(digits(Map::k(), view_.taps_x, view_.channels)),
          step(digits(VECTOR ? Map::STEP : Map::STEP - 4, view_.taps_x, view_.channels)) {
#pragma unroll
        for (int i = 0; i < Map::ROWS; i++) {
            const int row = first + Map::row(i);
            const Digits pixel = digits(row, view.grid_h, view.grid_w);
            start[i] = pixel.high * view.h * view.w;
            y[i] = row < rows && Map::has_part() ? pixel.middle * view.scale + view.shift_y : OUTSIDE;
            x[i] = pixel.low * view.scale + view.shift_x;
        }
    }
    __device__ __forceinline__ const float* pixel(int i) const {
        const int py = y[i] + SIGN * at.high, px = x[i] + SIGN * at.middle;
        const bool inside = at.high < view.taps_y && (u32)py < (u32)view.h && (u32)px < (u32)view.w;
        return inside ? data + ((size_t)(u32)(start[i] + py * view.w + px) * view.channels + at.low) : nullptr;
    }
    __device__ __forceinline__ void load() {
#pragma unroll
        for (int load = 0; load < Map::LOADS; load++) {
            if (VECTOR) {
#pragma unroll
                for (int i = 0; i < Map::ROWS; i++) {
                    const float* p = pixel(i);
                    v[load][i] = p ? fetch4<true>(p, 4) : zero4();
                }
            } else {
                float one[Map::ROWS][4];
#pragma unroll
                for (int e = 0; e < 4; e++) {
#pragma unroll
                    for (int i = 0; i < Map::ROWS; i++) {
                        const float* p = pixel(i);
                        one[i][e] = p ? *p : 0.0f;
                    }
                    next(at, view.taps_x, view.channels);
                }
#pragma unroll
                for (int i = 0; i < Map::ROWS; i++) v[load][i] = make_float4(one[i][0], one[i][1], one[i][2], one[i][3]);
            }
            advance(at, step, view.taps_x, view.channels);
        }
    }
    __device__ __forceinline__ void store(float (*tile)[SIDE + 4]) const { Map::store(tile, v); }
};

// ---- results ----

// out[row, column] = sum + bias[column] + per_image[row / pixels, column] + residual[row, column]; what is null is left out.
struct Result {
    float* out;
    const float *bias, *per_image, *residual;
    int rows, columns, pixels;

    __device__ __forceinline__ float4 column(int n) const {
        const bool aligned = columns % 4 == 0;
        return bias && n < columns ? load4(bias + n, columns - n, aligned) : zero4();
    }
    __device__ __forceinline__ size_t offset(int m) const { return (size_t)m * columns; }
    __device__ __forceinline__ void put(int m, int n, size_t row, float4 sum, float4 column) const {
        if (n >= columns) return;  // guard
        const bool aligned = columns % 4 == 0;
        const int count = columns - n;
        sum = plus4(sum, column);
        if (per_image) sum = plus4(sum, load4(per_image + (size_t)((u32)m / (u32)pixels) * columns + n, count, aligned));
        if (residual) sum = plus4(sum, load4(residual + row + n, count, aligned));
        store4(out + row + n, sum, count, aligned);
    }
};

// The same for out[row, column] alone.
__device__ __forceinline__ Result plain_result(float* out, int rows, int columns) {
    return {out, nullptr, nullptr, nullptr, rows, columns, 1};
}

// ---- the product ----

// The block's tile: BM rows from m0 on, BN columns from n0 on. All threads of the block call this.
template <class T, class A, class B, class Out>
__device__ __forceinline__ void multiply(A a, B b, int depth, const Out& out, int m0, int n0) {
    constexpr int BM = T::BM, BN = T::BN, BK = T::BK, TM = T::TM, TN = T::TN;
    __shared__ __align__(16) float tile_a[2][BK][BM + 4];
    __shared__ __align__(16) float tile_b[2][BK][BN + 4];
    // A warp's lanes are a rectangle, so that it reads few different words of either tile.
    constexpr int LANES_N = least(BN / TN, 8), LANES_M = 32 / LANES_N, WARPS_N = BN / TN / LANES_N;
    constexpr int GAP_M = BM / (TM / 4), GAP_N = BN / (TN / 4);  // between the groups of four of a thread
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int m = (warp / WARPS_N * LANES_M + lane / LANES_N) * 4, n = (warp % WARPS_N * LANES_N + lane % LANES_N) * 4;

    float sum[TM][TN];
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) sum[i][j] = 0.0f;
    }
    a.load();
    b.load();
    a.store(tile_a[0]);
    b.store(tile_b[0]);
    __syncthreads();
    for (int k = 0, now = 0; k < depth; k += BK, now ^= 1) {
        const bool more = k + BK < depth;
        if (more) {
            a.load();
            b.load();
        }
#pragma unroll(T::UNROLL)
        for (int kk = 0; kk < BK; kk++) {
            float av[TM], bv[TN];
#pragma unroll
            for (int i = 0; i < TM; i += 4) *reinterpret_cast<float4*>(av + i) = *reinterpret_cast<const float4*>(&tile_a[now][kk][m + i / 4 * GAP_M]);
#pragma unroll
            for (int j = 0; j < TN; j += 4) *reinterpret_cast<float4*>(bv + j) = *reinterpret_cast<const float4*>(&tile_b[now][kk][n + j / 4 * GAP_N]);
#pragma unroll
            for (int i = 0; i < TM; i++) {
#pragma unroll
                for (int j = 0; j < TN; j++) sum[i][j] = __fmaf_rn(av[i], bv[j], sum[i][j]);
            }
        }
        // The other buffer was last read before the last barrier.
        if (more) {
            a.store(tile_a[now ^ 1]);
            b.store(tile_b[now ^ 1]);
        }
        __syncthreads();
    }

    float4 column[TN / 4];
#pragma unroll
    for (int j = 0; j < TN / 4; j++) column[j] = out.column(n0 + n + j * GAP_N);
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int row = m0 + m + i / 4 * GAP_M + i % 4;
        if (row >= out.rows) continue;
        const size_t offset = out.offset(row);
#pragma unroll
        for (int j = 0; j < TN / 4; j++) {
            const float4 v = make_float4(sum[i][4 * j], sum[i][4 * j + 1], sum[i][4 * j + 2], sum[i][4 * j + 3]);
            out.put(row, n0 + n + j * GAP_N, offset, v, column[j]);
        }
    }
}

// The tile of a block: neighbours in the grid share rows, which are then in the cache.
template <class T>
__device__ __forceinline__ int2 tile_origin(u32 block, int columns) {
    const u32 across = ((u32)columns + T::BN - 1) / T::BN;
    return make_int2(block / across * T::BM, block % across * T::BN);
}
