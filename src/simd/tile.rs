//! The micro-kernel for operands that lie anywhere, for each instruction-set level: a tile of [`MR`] rows by [`NR`] columns of sums.
//!
//! As in [`super::kernel`], the sum over k runs in order, one fused multiply-add after the other, and the portable version is the
//! definition.

use super::kernel::{MR, NR};

/// The operands of a tile: `c[r][j] (+)= Σ_l a[r][l·a_step]·b[l·b_step + j]` for l < `k`.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Number of products.
    pub(super) k: usize,
    /// First value of each row of the left operand.
    pub(super) a: [*const f32; MR],
    /// Elements between its values.
    pub(super) a_step: usize,
    /// First row of the right operand.
    pub(super) b: *const f32,
    /// Elements between its rows.
    pub(super) b_step: usize,
}

/// Adds the products to the sums at `c`, begun at 0 where `from_zero`; the first `columns` of each row are meant, the others unspecified.
///
/// # Safety
/// All values of the operands are readable, [`NR`] of each row of `b`; [`NR`] values are writable at each of `c`, and nothing else reads or
/// writes them meanwhile.
#[inline]
pub(super) unsafe fn multiply(o: &Operands, c: [*mut f32; MR], columns: usize, from_zero: bool) {
    // SAFETY: the caller's promise; the level says which instructions exist.
    unsafe {
        match (super::level(), columns <= NR / 2) {
            #[cfg(target_arch = "x86_64")]
            (super::Level::Avx512, false) => avx512::multiply::<2>(o, c, from_zero),
            #[cfg(target_arch = "x86_64")]
            (super::Level::Avx512, true) => avx512::multiply::<1>(o, c, from_zero),
            #[cfg(target_arch = "x86_64")]
            (super::Level::Avx2, narrow) => avx2::multiply(o, c, if narrow { 1 } else { 2 }, from_zero),
            _ => portable::multiply(o, c, from_zero),
        }
    }
}

mod portable {
    use super::super::kernel::multiply_add;
    use super::{MR, NR, Operands};

    /// # Safety
    /// As [`super::multiply`].
    pub(super) unsafe fn multiply(o: &Operands, c: [*mut f32; MR], from_zero: bool) {
        let mut sums = [[0.0_f32; NR]; MR];
        for r in 0..if from_zero { 0 } else { MR } {
            // SAFETY: the caller's promise.
            sums[r] = unsafe { *c[r].cast() };
        }
        for l in 0..o.k {
            // SAFETY: the caller's promise.
            let b = unsafe { &*o.b.add(l * o.b_step).cast::<[f32; NR]>() };
            for r in 0..MR {
                // SAFETY: the caller's promise.
                let a = unsafe { *o.a[r].add(l * o.a_step) };
                for j in 0..NR {
                    sums[r][j] = multiply_add(a, b[j], sums[r][j]);
                }
            }
        }
        for r in 0..MR {
            // SAFETY: the caller's promise.
            unsafe { *c[r].cast() = sums[r] };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{MR, Operands};
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};

    /// # Safety
    /// As [`super::multiply`], on a processor with AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn multiply<const V: usize>(o: &Operands, c: [*mut f32; MR], from_zero: bool) {
        let mut sums = [[_mm512_setzero_ps(); V]; MR];
        // SAFETY: the caller's promise covers every load and store.
        unsafe {
            if !from_zero {
                for r in 0..MR {
                    for v in 0..V {
                        sums[r][v] = _mm512_loadu_ps(c[r].add(16 * v));
                    }
                }
            }
            let (a, mut at, mut b) = (o.a, 0, o.b);
            for _ in 0..o.k {
                let mut line = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    line[v] = _mm512_loadu_ps(b.add(16 * v));
                }
                for r in 0..MR {
                    let x = _mm512_set1_ps(*a[r].add(at));
                    for v in 0..V {
                        sums[r][v] = _mm512_fmadd_ps(x, line[v], sums[r][v]);
                    }
                }
                at += o.a_step;
                b = b.wrapping_add(o.b_step);
            }
            for r in 0..MR {
                for v in 0..V {
                    _mm512_storeu_ps(c[r].add(16 * v), sums[r][v]);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! Sixteen registers hold 4 rows × 16 columns of sums, so a tile is done in quarters.
    use super::{MR, Operands};
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};

    const ROWS: usize = 4;

    /// # Safety
    /// As [`super::multiply`], on a processor with AVX2 and FMA; `halves` is 1 or 2.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply(o: &Operands, c: [*mut f32; MR], halves: usize, from_zero: bool) {
        for (r0, half) in [(0, 0), (4, 0), (0, 1), (4, 1)].into_iter().take(2 * halves) {
            let at = |r: usize, v: usize| c[r0 + r].wrapping_add(16 * half + 8 * v);
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for r in 0..if from_zero { 0 } else { ROWS } {
                for v in 0..2 {
                    // SAFETY: the caller's promise.
                    sums[r][v] = unsafe { _mm256_loadu_ps(at(r, v)) };
                }
            }
            for l in 0..o.k {
                // SAFETY: the caller's promise covers every load.
                unsafe {
                    let line = o.b.add(l * o.b_step + 16 * half);
                    let line = [_mm256_loadu_ps(line), _mm256_loadu_ps(line.add(8))];
                    for r in 0..ROWS {
                        let x = _mm256_set1_ps(*o.a[r0 + r].add(l * o.a_step));
                        for v in 0..2 {
                            sums[r][v] = _mm256_fmadd_ps(x, line[v], sums[r][v]);
                        }
                    }
                }
            }
            for r in 0..ROWS {
                for v in 0..2 {
                    // SAFETY: the caller's promise.
                    unsafe { _mm256_storeu_ps(at(r, v), sums[r][v]) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Address, Purpose};

    #[test]
    fn vector_kernels_agree_with_the_portable_one_wherever_operands_lie() {
        let (k, stride) = (75, 40);
        let [mut a, mut b, mut c] = [vec![0.0; 90 * MR + 10 * k], vec![0.0; 50 * k], vec![0.0; MR * stride]];
        for (seed, data) in [(1, &mut a), (2, &mut b), (3, &mut c)] {
            Address::new(seed, Purpose::Test).fill_normal(data);
        }
        // Rows of consecutive values, a packed panel, columns of a wide matrix; right-hand sides packed and not.
        for (row, a_step, b_step) in [(90, 1, NR), (1, MR, 45), (1, 10, NR)] {
            let o = Operands { k, a: std::array::from_fn(|r| a[r * row..].as_ptr()), a_step, b: b.as_ptr(), b_step };
            for (columns, from_zero) in [(NR, true), (NR, false), (NR / 2, true), (NR / 2, false)] {
                let run = |level: super::super::Level| {
                    let mut c = c.clone();
                    // SAFETY: the vectors have the promised sizes, and the level was checked.
                    unsafe {
                        let c: [*mut f32; MR] = std::array::from_fn(|r| c[r * stride..].as_mut_ptr());
                        match level {
                            #[cfg(target_arch = "x86_64")]
                            super::super::Level::Avx512 if columns == NR => avx512::multiply::<2>(&o, c, from_zero),
                            #[cfg(target_arch = "x86_64")]
                            super::super::Level::Avx512 => avx512::multiply::<1>(&o, c, from_zero),
                            #[cfg(target_arch = "x86_64")]
                            super::super::Level::Avx2 => avx2::multiply(&o, c, columns / 16, from_zero),
                            _ => portable::multiply(&o, c, from_zero),
                        }
                    }
                    c
                };
                let plain = run(super::super::Level::Portable);
                for level in [super::super::Level::Avx2, super::super::Level::Avx512] {
                    if level > super::super::best_level() {
                        continue;
                    }
                    let got = run(level);
                    for (r, j) in (0..MR * columns).map(|i| (i / columns, i % columns)) {
                        let (got, want) = (got[r * stride + j], plain[r * stride + j]);
                        // 75 products of unit normals.
                        let bound = 4.0 * 75.0_f32 * f32::EPSILON;
                        assert!((got - want).abs() <= bound, "{level:?} {a_step} {b_step}: {r},{j}: {got} {want}");
                    }
                }
            }
        }
    }
}
