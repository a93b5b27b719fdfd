//! The micro-kernel for two packed operands, for each instruction-set level: a tile of [`MR`] rows by [`NR`] columns of sums.
//!
//! As in [`super::kernel`], the sum over k runs in order, one fused multiply-add after the other, and the portable version is the
//! definition.

use super::kernel::{MR, NR};

/// `c[r][j] (+)= Σ_k a[k][r]·b[k][j]` for packed panels `a` of [`MR`] and `b` of [`NR`] values for each k; begun at 0 where
/// `from_zero`, else at what `c` holds. Each row of `c` has room for [`NR`] values.
#[inline]
pub(crate) fn packed(a: &[f32], b: &[f32], c: [&mut [f32]; MR], from_zero: bool) {
    let k = a.len() / MR;
    assert!(b.len() >= k * NR && c.iter().all(|row| row.len() >= NR), "panels or tile are too short");
    // SAFETY: the lengths were checked; the level says which instructions exist.
    unsafe {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.map(|row| row.as_mut_ptr()));
        match super::level() {
            #[cfg(target_arch = "x86_64")]
            super::Level::Avx512 => avx512::packed(k, a, b, c, from_zero),
            #[cfg(target_arch = "x86_64")]
            super::Level::Avx2 => avx2::packed(k, a, b, c, from_zero),
            _ => portable::packed(k, a, b, c, from_zero),
        }
    }
}

mod portable {
    use super::super::kernel::multiply_add;
    use super::{MR, NR};

    /// # Safety
    /// `a` has `k` rows of [`MR`], `b` of [`NR`], each of `c` room for [`NR`] values.
    pub(super) unsafe fn packed(k: usize, a: *const f32, b: *const f32, c: [*mut f32; MR], from_zero: bool) {
        let mut sums = [[0.0_f32; NR]; MR];
        for r in 0..if from_zero { 0 } else { MR } {
            // SAFETY: the caller's promise.
            sums[r] = unsafe { *c[r].cast() };
        }
        for l in 0..k {
            // SAFETY: the caller's promise.
            let (a, b) = unsafe { (&*a.add(l * MR).cast::<[f32; MR]>(), &*b.add(l * NR).cast::<[f32; NR]>()) };
            for r in 0..MR {
                for j in 0..NR {
                    sums[r][j] = multiply_add(a[r], b[j], sums[r][j]);
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
    use super::{MR, NR};
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};

    /// # Safety
    /// As [`super::portable::packed`], on a processor with AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn packed(k: usize, a: *const f32, b: *const f32, c: [*mut f32; MR], from_zero: bool) {
        let mut sums = [[_mm512_setzero_ps(); 2]; MR];
        // SAFETY: the caller's promise covers every load and store.
        unsafe {
            if !from_zero {
                for r in 0..MR {
                    for v in 0..2 {
                        sums[r][v] = _mm512_loadu_ps(c[r].add(16 * v));
                    }
                }
            }
            let (mut a, mut b) = (a, b);
            for _ in 0..k {
                let line = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16))];
                for r in 0..MR {
                    let x = _mm512_set1_ps(*a.add(r));
                    for v in 0..2 {
                        sums[r][v] = _mm512_fmadd_ps(x, line[v], sums[r][v]);
                    }
                }
                a = a.add(MR);
                b = b.add(NR);
            }
            for r in 0..MR {
                for v in 0..2 {
                    _mm512_storeu_ps(c[r].add(16 * v), sums[r][v]);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! Sixteen registers hold 4 rows × 16 columns of sums, so a tile is done in quarters.
    use super::{MR, NR};
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};

    const ROWS: usize = 4;

    /// # Safety
    /// As [`super::portable::packed`], on a processor with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn packed(k: usize, a: *const f32, b: *const f32, c: [*mut f32; MR], from_zero: bool) {
        for (r0, half) in [(0, 0), (0, 1), (4, 0), (4, 1)] {
            let at = |r: usize, v: usize| c[r0 + r].wrapping_add(16 * half + 8 * v);
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for r in 0..if from_zero { 0 } else { ROWS } {
                for v in 0..2 {
                    // SAFETY: the caller's promise.
                    sums[r][v] = unsafe { _mm256_loadu_ps(at(r, v)) };
                }
            }
            for l in 0..k {
                let row = a.wrapping_add(l * MR + r0);
                let line = b.wrapping_add(l * NR + 16 * half);
                // SAFETY: the caller's promise covers every load.
                unsafe {
                    let line = [_mm256_loadu_ps(line), _mm256_loadu_ps(line.add(8))];
                    for r in 0..ROWS {
                        let x = _mm256_set1_ps(*row.add(r));
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
    fn vector_kernels_agree_with_the_portable_one_on_packed_panels() {
        let (k, stride) = (75, 40);
        let [mut a, mut b, mut c] = [vec![0.0; MR * k], vec![0.0; NR * k], vec![0.0; MR * stride]];
        for (seed, data) in [(1, &mut a), (2, &mut b), (3, &mut c)] {
            Address::new(seed, Purpose::Test).fill_normal(data);
        }
        for from_zero in [true, false] {
            let run = |level: super::super::Level| {
                let mut c = c.clone();
                // SAFETY: the vectors have the promised sizes, and the level was checked.
                unsafe {
                    let (a, b) = (a.as_ptr(), b.as_ptr());
                    let c: [*mut f32; MR] = std::array::from_fn(|r| c[r * stride..].as_mut_ptr());
                    match level {
                        #[cfg(target_arch = "x86_64")]
                        super::super::Level::Avx512 => avx512::packed(k, a, b, c, from_zero),
                        #[cfg(target_arch = "x86_64")]
                        super::super::Level::Avx2 => avx2::packed(k, a, b, c, from_zero),
                        _ => portable::packed(k, a, b, c, from_zero),
                    }
                }
                c
            };
            let plain = run(super::super::Level::Portable);
            for level in [super::super::Level::Avx2, super::super::Level::Avx512] {
                if level > super::super::best_level() {
                    continue;
                }
                for (i, (got, want)) in run(level).iter().zip(&plain).enumerate() {
                    // 75 products of unit normals.
                    let error = (got - want).abs();
                    assert!(error <= 4.0 * 75.0_f32 * f32::EPSILON, "{level:?} at {i}: {got} against {want}");
                }
            }
        }
    }
}
