//! The micro-kernel: a tile of `M` rows by [`NR`] columns of f32 sums of products of bf16 pairs; `M` is a multiple of four and at most 12,
//! so that its sums fit the registers.

use super::super::kernel::NR;
use super::super::lanes::{Kernel, Lanes, dispatch};

/// Consecutive pairs of k: `len` of them, from pair `a` of each row and row `b` of the panel.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct PairRun {
    /// First pair of the rows.
    pub(crate) a: usize,
    /// First row of the panel.
    pub(crate) b: usize,
    /// Pairs.
    pub(crate) len: usize,
}

/// `tile[r][j] (+)= Σ_k a_r[STEP·k]·b[k][j]`, each product a pair's two; begun at 0 where `from_zero`. Columns from `columns` on are
/// unspecified.
///
/// # Safety
/// For every run, pairs `a .. a + len` of each row, [`STEP`](pairs) words apart, and rows `b .. b + len` of the panel, of [`NR`] words, are
/// readable.
#[inline]
pub(super) unsafe fn pairs<const M: usize, const STEP: usize>(
    rows: &[*const u32; M],
    runs: &[PairRun],
    panel: *const u32,
    columns: usize,
    from_zero: bool,
    tile: &mut [[f32; NR]; M],
) {
    #[cfg(target_arch = "x86_64")]
    if super::has_dot_products() {
        // SAFETY: the processor has the instruction; the rest is the caller's promise.
        return unsafe {
            if columns <= NR / 2 {
                avx512::pairs::<1, M, STEP>(rows, runs, panel, from_zero, tile)
            } else {
                avx512::pairs::<2, M, STEP>(rows, runs, panel, from_zero, tile)
            }
        };
    }
    dispatch(Widened::<M, STEP> { rows, runs, panel, columns, from_zero, tile });
}

/// [`pairs`] with f32 products, at every level: the definition.
struct Widened<'a, const M: usize, const STEP: usize> {
    rows: &'a [*const u32; M],
    runs: &'a [PairRun],
    panel: *const u32,
    columns: usize,
    from_zero: bool,
    tile: &'a mut [[f32; NR]; M],
}

impl<const M: usize, const STEP: usize> Kernel for Widened<'_, M, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        // Sixteen registers hold 4 rows of two vectors of sums.
        const ROWS: usize = 4;
        let Widened { rows, runs, panel, columns, from_zero, tile } = self;
        for r0 in (0..M).step_by(ROWS) {
            for j0 in (0..columns).step_by(2 * V::LEN) {
                let mut sums = [[V::splat(0.0); 2]; ROWS];
                for r in 0..if from_zero { 0 } else { ROWS } {
                    for v in 0..2 {
                        sums[r][v] = V::load(&tile[r0 + r][j0 + v * V::LEN..]);
                    }
                }
                for run in runs {
                    for k in 0..run.len {
                        for v in 0..2 {
                            let at = panel.wrapping_add((run.b + k) * NR + j0 + v * V::LEN);
                            // SAFETY: a row of the panel has NR words, a multiple of two vectors.
                            let [low, high] = V::load_pairs(unsafe { std::slice::from_raw_parts(at, V::LEN) });
                            for r in 0..ROWS {
                                // SAFETY: the promise of `pairs`.
                                let word = unsafe { *rows[r0 + r].wrapping_add((run.a + k) * STEP) };
                                let (x, y) = (f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000));
                                sums[r][v] = V::splat(y).mul_add(high, V::splat(x).mul_add(low, sums[r][v]));
                            }
                        }
                    }
                }
                for r in 0..ROWS {
                    for v in 0..2 {
                        sums[r][v].store(&mut tile[r0 + r][j0 + v * V::LEN..]);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{NR, PairRun};
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };

    /// # Safety
    /// As [`super::pairs`], on a processor with AVX-512 F and BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn pairs<const V: usize, const M: usize, const STEP: usize>(
        rows: &[*const u32; M],
        runs: &[PairRun],
        panel: *const u32,
        from_zero: bool,
        tile: &mut [[f32; NR]; M],
    ) {
        #[inline(always)]
        fn as_pairs(words: __m512i) -> __m512bh {
            // SAFETY: both are 512 bits without a meaning of their own.
            unsafe { std::mem::transmute(words) }
        }
        let mut sums = [[_mm512_setzero_ps(); V]; M];
        for r in 0..if from_zero { 0 } else { M } {
            for v in 0..V {
                // SAFETY: 16·V <= NR values of each row.
                sums[r][v] = unsafe { _mm512_loadu_ps(tile[r].as_ptr().add(16 * v)) };
            }
        }
        for run in runs {
            let a: [*const u32; M] = std::array::from_fn(|r| rows[r].wrapping_add(run.a * STEP));
            let mut b = panel.wrapping_add(run.b * NR);
            for k in 0..run.len {
                // SAFETY: the caller's promise covers every load.
                unsafe {
                    let mut line = [as_pairs(_mm512_set1_epi32(0)); V];
                    for v in 0..V {
                        line[v] = as_pairs(_mm512_loadu_si512(b.add(16 * v).cast()));
                    }
                    for r in 0..M {
                        let x = as_pairs(_mm512_set1_epi32(*a[r].add(k * STEP) as i32));
                        for v in 0..V {
                            sums[r][v] = _mm512_dpbf16_ps(sums[r][v], x, line[v]);
                        }
                    }
                    b = b.add(NR);
                }
            }
        }
        for r in 0..M {
            for v in 0..V {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(tile[r].as_mut_ptr().add(16 * v), sums[r][v]) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Scratch;
    use crate::rng::{Address, Purpose};
    use crate::simd::lanes::{Narrow, Number};
    use crate::simd::{Level, best_level};
    use half::bf16;

    fn words(count: usize, seed: u64) -> Scratch<u32> {
        let mut noise = vec![0.0; 2 * count];
        Address::new(seed, Purpose::Test).fill_normal(&mut noise);
        let mut words = Scratch::take(count);
        dispatch(Narrow(&noise, bytemuck::cast_slice_mut(&mut words)));
        words
    }

    /// Rows where they lie and rows packed, both widths, begun at 0 and not, against f64 for every level of this machine.
    #[test]
    fn kernels_of_every_level_agree_with_f64() {
        check::<8, 1>();
        check::<12, 1>();
        check::<8, 8>();
    }

    fn check<const M: usize, const STEP: usize>() {
        let (a, b) = (words(M * 200, 1), words(NR * 90, 2));
        let runs = [PairRun { a: 3, b: 40, len: 40 }, PairRun { a: 50, b: 0, len: 35 }];
        let start = |r: usize| if STEP == 1 { r * 90 } else { r };
        let rows: [*const u32; M] = std::array::from_fn(|r| a[start(r)..].as_ptr());
        let parts = |word: u32| [word as u16, (word >> 16) as u16].map(|half| f64::from(bf16::from_bits(half).widen()));
        for (columns, from_zero) in [(16, true), (32, true), (32, false)] {
            let close = |tile: &[[f32; NR]; M], what: &str| {
                for (r, j) in (0..M * columns).map(|i| (i / columns, i % columns)) {
                    let (mut sum, mut size) = (if from_zero { 0.0 } else { 1.5 }, 1.5);
                    for (ka, kb) in runs.iter().flat_map(|run| (0..run.len).map(|k| (run.a + k, run.b + k))) {
                        let (x, y) = (parts(a[start(r) + ka * STEP]), parts(b[kb * NR + j]));
                        sum += x[0] * y[0] + x[1] * y[1];
                        size += (x[0] * y[0]).abs() + (x[1] * y[1]).abs();
                    }
                    // 150 exact products, each sum rounded once.
                    let bound = 151.0 * f64::from(f32::EPSILON) * size;
                    let error = (f64::from(tile[r][j]) - sum).abs();
                    assert!(
                        error <= bound,
                        "{what}, {M} rows, step {STEP}: row {r} column {j}: {} against {sum}",
                        tile[r][j]
                    );
                }
            };
            let panel = b.as_ptr();
            for level in [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter(|l| *l <= best_level()) {
                let mut tile = [[1.5; NR]; M];
                let kernel =
                    Widened::<M, STEP> { rows: &rows, runs: &runs, panel, columns, from_zero, tile: &mut tile };
                super::super::super::lanes::run_at(level, kernel);
                close(&tile, &format!("{level:?}"));
            }
            #[cfg(target_arch = "x86_64")]
            if best_level() == Level::Avx512 && is_x86_feature_detected!("avx512bf16") {
                let mut tile = [[1.5; NR]; M];
                // SAFETY: the instruction is there; all runs stay inside the buffers.
                unsafe {
                    match columns {
                        16 => avx512::pairs::<1, M, STEP>(&rows, &runs, panel, from_zero, &mut tile),
                        _ => avx512::pairs::<2, M, STEP>(&rows, &runs, panel, from_zero, &mut tile),
                    }
                }
                close(&tile, "VDPBF16PS");
            }
        }
    }
}
