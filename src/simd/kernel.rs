//! The two micro-kernels that every matrix product of the crate is built on, for each instruction-set level.
//!
//! Both work on a tile of [`MR`] rows by [`NR`] columns of f32 sums:
//! * [`rows`]: `tile[r][j] = Σ_k a_r[k]·b[k][j]`, the rows `a_r` broadcast from wherever they lie (never packed), `b` a
//!   packed panel. The sum over k runs in order, one fused multiply-add after the other, so a row's result does
//!   not depend on the rows beside it.
//! * [`outer`]: `tile[r][j] += Σ_k a[k][r]·b[k][j]`, both operands gathered by an offset for each k.
//!
//! The portable versions are the definition; tests hold the others against them.

/// Rows of a tile.
pub(crate) const MR: usize = 8;
/// Columns of a tile: two 16-lane vectors.
pub(crate) const NR: usize = 32;

/// A tile of sums.
pub(crate) type Tile = [[f32; NR]; MR];

/// A run of consecutive k: `len` values that begin `offset` elements after each row's base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Elements from the row's base; may be negative only within the same allocation.
    pub(crate) offset: usize,
    /// Length.
    pub(crate) len: usize,
}

/// `tile[r][j] = Σ_k a_r[k]·b[k][j]` for the first `columns` columns; other columns are unspecified.
///
/// # Safety
/// Each `bases[r] + run.offset .. + run.len` is readable, and `panel` holds `Σ run.len` rows of [`NR`].
#[inline]
pub(crate) unsafe fn rows(bases: &[*const f32; MR], runs: &[Run], panel: *const f32, columns: usize, tile: &mut Tile) {
    // SAFETY: the caller's promise is passed on; the level says which instructions exist.
    unsafe {
        match (super::level(), columns <= NR / 2) {
            #[cfg(target_arch = "x86_64")]
            (super::Level::Avx512, false) => avx512::rows::<2>(bases, runs, panel, tile),
            #[cfg(target_arch = "x86_64")]
            (super::Level::Avx512, true) => avx512::rows::<1>(bases, runs, panel, tile),
            #[cfg(target_arch = "x86_64")]
            (super::Level::Avx2, narrow) => avx2::rows(bases, runs, panel, if narrow { 1 } else { 2 }, tile),
            _ => portable::rows(bases, runs, panel, tile),
        }
    }
}

/// `tile[r][j] += Σ_k a[a_offsets[k] + r]·b[b_offsets[k] + j]` for the first `columns` columns.
///
/// # Safety
/// From each offset, [`MR`] values of `a` and [`NR`] values of `b` are readable (buffers have slack for this).
#[inline]
pub(crate) unsafe fn outer(
    a: *const f32,
    a_offsets: &[usize],
    b: *const f32,
    b_offsets: &[usize],
    columns: usize,
    tile: &mut Tile,
) {
    debug_assert_eq!(a_offsets.len(), b_offsets.len());
    // SAFETY: as in `rows`.
    unsafe {
        match (super::level(), columns <= NR / 2) {
            #[cfg(target_arch = "x86_64")]
            (super::Level::Avx512, false) => avx512::outer::<2>(a, a_offsets, b, b_offsets, tile),
            #[cfg(target_arch = "x86_64")]
            (super::Level::Avx512, true) => avx512::outer::<1>(a, a_offsets, b, b_offsets, tile),
            #[cfg(target_arch = "x86_64")]
            (super::Level::Avx2, narrow) => avx2::outer(a, a_offsets, b, b_offsets, if narrow { 1 } else { 2 }, tile),
            _ => portable::outer(a, a_offsets, b, b_offsets, tile),
        }
    }
}

pub(super) use portable::multiply_add;

mod portable {
    use super::{MR, NR, Run, Tile};

    #[inline(always)]
    pub(in super::super) fn multiply_add(a: f32, b: f32, sum: f32) -> f32 {
        // Fused where the base instruction set has it; elsewhere a fused operation would be a slow library call.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, sum) } else { a * b + sum }
    }

    /// # Safety
    /// As [`super::rows`].
    pub(super) unsafe fn rows(bases: &[*const f32; MR], runs: &[Run], mut panel: *const f32, tile: &mut Tile) {
        let mut sums = [[0.0_f32; NR]; MR];
        for run in runs {
            for k in run.offset..run.offset + run.len {
                // SAFETY: the caller's promise.
                let b = unsafe { &*panel.cast::<[f32; NR]>() };
                for r in 0..MR {
                    // SAFETY: the caller's promise.
                    let a = unsafe { *bases[r].add(k) };
                    for j in 0..NR {
                        sums[r][j] = multiply_add(a, b[j], sums[r][j]);
                    }
                }
                // SAFETY: the panel has a row for each k.
                panel = unsafe { panel.add(NR) };
            }
        }
        *tile = sums;
    }

    /// # Safety
    /// As [`super::outer`].
    pub(super) unsafe fn outer(
        a: *const f32,
        a_offsets: &[usize],
        b: *const f32,
        b_offsets: &[usize],
        tile: &mut Tile,
    ) {
        let mut sums = *tile;
        for (&ka, &kb) in a_offsets.iter().zip(b_offsets) {
            // SAFETY: the caller's promise.
            let (row, b) = unsafe { (&*a.add(ka).cast::<[f32; MR]>(), &*b.add(kb).cast::<[f32; NR]>()) };
            for r in 0..MR {
                for j in 0..NR {
                    sums[r][j] = multiply_add(row[r], b[j], sums[r][j]);
                }
            }
        }
        *tile = sums;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{MR, NR, Run, Tile};
    use std::arch::x86_64::{
        __m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    #[inline(always)]
    unsafe fn store<const V: usize>(sums: &[[__m512; V]; MR], tile: &mut Tile) {
        for r in 0..MR {
            for v in 0..V {
                // SAFETY: 16·V <= NR values of each row.
                unsafe { _mm512_storeu_ps(tile[r].as_mut_ptr().add(16 * v), sums[r][v]) };
            }
        }
    }

    /// # Safety
    /// As [`super::rows`], on a processor with AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn rows<const V: usize>(
        bases: &[*const f32; MR],
        runs: &[Run],
        panel: *const f32,
        tile: &mut Tile,
    ) {
        let mut sums = [[_mm512_setzero_ps(); V]; MR];
        let mut panel = panel;
        for run in runs {
            let a: [*const f32; MR] = std::array::from_fn(|r| bases[r].wrapping_add(run.offset));
            for k in 0..run.len {
                // SAFETY: the caller's promise covers every load.
                unsafe {
                    let mut b = [_mm512_setzero_ps(); V];
                    for v in 0..V {
                        b[v] = _mm512_loadu_ps(panel.add(16 * v));
                    }
                    for r in 0..MR {
                        let x = _mm512_set1_ps(*a[r].add(k));
                        for v in 0..V {
                            sums[r][v] = _mm512_fmadd_ps(x, b[v], sums[r][v]);
                        }
                    }
                    panel = panel.add(NR);
                }
            }
        }
        // SAFETY: as above.
        unsafe { store(&sums, tile) };
    }

    /// # Safety
    /// As [`super::outer`], on a processor with AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn outer<const V: usize>(
        a: *const f32,
        a_offsets: &[usize],
        b: *const f32,
        b_offsets: &[usize],
        tile: &mut Tile,
    ) {
        let mut sums = [[_mm512_setzero_ps(); V]; MR];
        for r in 0..MR {
            for v in 0..V {
                // SAFETY: within the tile's row.
                sums[r][v] = unsafe { _mm512_loadu_ps(tile[r].as_ptr().add(16 * v)) };
            }
        }
        for k in 0..a_offsets.len().min(b_offsets.len()) {
            // SAFETY: the caller's promise covers every load.
            unsafe {
                let row = a.add(*a_offsets.get_unchecked(k));
                let line = b.add(*b_offsets.get_unchecked(k));
                let mut b = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    b[v] = _mm512_loadu_ps(line.add(16 * v));
                }
                for r in 0..MR {
                    let x = _mm512_set1_ps(*row.add(r));
                    for v in 0..V {
                        sums[r][v] = _mm512_fmadd_ps(x, b[v], sums[r][v]);
                    }
                }
            }
        }
        // SAFETY: as above.
        unsafe { store(&sums, tile) };
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! Sixteen registers hold 4 rows × 16 columns of sums, so a tile is done in quarters.
    use super::{MR, NR, Run, Tile};
    use std::arch::x86_64::{
        __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    const ROWS: usize = 4;

    /// # Safety
    /// `line` has 16 readable values, `x(r)` is readable for r < 4.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn step(sums: &mut [[__m256; 2]; ROWS], line: *const f32, x: impl Fn(usize) -> *const f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let b = [_mm256_loadu_ps(line), _mm256_loadu_ps(line.add(8))];
            for r in 0..ROWS {
                let x = _mm256_set1_ps(*x(r));
                for v in 0..2 {
                    sums[r][v] = _mm256_fmadd_ps(x, b[v], sums[r][v]);
                }
            }
        }
    }

    /// # Safety
    /// As [`super::rows`], on a processor with AVX2 and FMA; `halves` is 1 or 2.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn rows(
        bases: &[*const f32; MR],
        runs: &[Run],
        panel: *const f32,
        halves: usize,
        tile: &mut Tile,
    ) {
        for r0 in (0..MR).step_by(ROWS) {
            for half in 0..halves {
                let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
                let mut line = panel.wrapping_add(16 * half);
                for run in runs {
                    for k in run.offset..run.offset + run.len {
                        // SAFETY: the caller's promise covers every load.
                        unsafe { step(&mut sums, line, |r| bases[r0 + r].wrapping_add(k)) };
                        line = line.wrapping_add(NR);
                    }
                }
                for r in 0..ROWS {
                    for v in 0..2 {
                        // SAFETY: within the tile's row.
                        unsafe { _mm256_storeu_ps(tile[r0 + r].as_mut_ptr().add(16 * half + 8 * v), sums[r][v]) };
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`super::outer`], on a processor with AVX2 and FMA; `halves` is 1 or 2.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn outer(
        a: *const f32,
        a_offsets: &[usize],
        b: *const f32,
        b_offsets: &[usize],
        halves: usize,
        tile: &mut Tile,
    ) {
        for r0 in (0..MR).step_by(ROWS) {
            for half in 0..halves {
                let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
                for r in 0..ROWS {
                    for v in 0..2 {
                        // SAFETY: within the tile's row.
                        sums[r][v] = unsafe { _mm256_loadu_ps(tile[r0 + r].as_ptr().add(16 * half + 8 * v)) };
                    }
                }
                for (&ka, &kb) in a_offsets.iter().zip(b_offsets) {
                    let row = a.wrapping_add(ka + r0);
                    // SAFETY: the caller's promise covers every load.
                    unsafe { step(&mut sums, b.wrapping_add(kb + 16 * half), |r| row.wrapping_add(r)) };
                }
                for r in 0..ROWS {
                    for v in 0..2 {
                        // SAFETY: within the tile's row.
                        unsafe { _mm256_storeu_ps(tile[r0 + r].as_mut_ptr().add(16 * half + 8 * v), sums[r][v]) };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Scratch;
    use crate::rng::{Address, Purpose};

    /// Every level that this machine has gives the portable kernel's sums up to the rounding of fused operations.
    #[test]
    fn vector_kernels_agree_with_the_portable_ones() {
        let k = 75;
        let mut a = Scratch::<f32>::take(MR * 200);
        let mut b = Scratch::<f32>::take(NR * 200);
        Address::new(1, Purpose::Test).fill_normal(&mut a);
        Address::new(2, Purpose::Test).fill_normal(&mut b);
        let bases: [*const f32; MR] = std::array::from_fn(|r| a[r * 90..].as_ptr());
        let runs = [Run { offset: 3, len: 40 }, Run { offset: 50, len: 35 }];
        let offsets_a: Vec<usize> = (0..k).map(|i| i * 11).collect();
        let offsets_b: Vec<usize> = (0..k).map(|i| i * 40).collect();
        let mut plain = [[0.0; NR]; MR];
        let mut plain_outer = [[1.0; NR]; MR];
        // SAFETY: all offsets stay inside the scratch buffers.
        unsafe {
            portable::rows(&bases, &runs, b.as_ptr(), &mut plain);
            portable::outer(a.as_ptr(), &offsets_a, b.as_ptr(), &offsets_b, &mut plain_outer);
        }
        // 75 products of unit normals: 4·sqrt(75)·eps absolute, sums of size about sqrt(75).
        let bound = 4.0 * 75.0_f32 * f32::EPSILON;
        let close = |got: &Tile, want: &Tile, columns: usize, what: &str| {
            for r in 0..MR {
                for j in 0..columns {
                    let error = (got[r][j] - want[r][j]).abs();
                    assert!(error <= bound, "{what}: row {r} column {j}: {} against {}", got[r][j], want[r][j]);
                }
            }
        };
        #[cfg(target_arch = "x86_64")]
        for columns in [16, 32] {
            let halves = columns / 16;
            let (mut t, mut o) = ([[0.0; NR]; MR], [[1.0; NR]; MR]);
            if super::super::best_level() >= super::super::Level::Avx2 {
                // SAFETY: the level was checked; offsets as above.
                unsafe {
                    avx2::rows(&bases, &runs, b.as_ptr(), halves, &mut t);
                    avx2::outer(a.as_ptr(), &offsets_a, b.as_ptr(), &offsets_b, halves, &mut o);
                }
                close(&t, &plain, columns, "avx2 rows");
                close(&o, &plain_outer, columns, "avx2 outer");
            }
            if super::super::best_level() >= super::super::Level::Avx512 {
                o = [[1.0; NR]; MR];
                // SAFETY: as above.
                unsafe {
                    if halves == 1 {
                        avx512::rows::<1>(&bases, &runs, b.as_ptr(), &mut t);
                        avx512::outer::<1>(a.as_ptr(), &offsets_a, b.as_ptr(), &offsets_b, &mut o);
                    } else {
                        avx512::rows::<2>(&bases, &runs, b.as_ptr(), &mut t);
                        avx512::outer::<2>(a.as_ptr(), &offsets_a, b.as_ptr(), &offsets_b, &mut o);
                    }
                }
                close(&t, &plain, columns, "avx512 rows");
                close(&o, &plain_outer, columns, "avx512 outer");
            }
        }
    }
}
