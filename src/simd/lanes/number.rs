//! What a loop over vectors may have in memory: f32, or bf16, which is f32 without its lower 16 bits. Vectors are f32.
//!
//! Rounding is to nearest, ties to even; a NaN stays one. Every level gives the same bits, denormal numbers included: the processor's own
//! conversion, which flushes them, is not used.

use super::{Kernel, Lanes, MAX_LEN, Plain, for_vectors, get, put};
use half::bf16;

/// A type of numbers in memory that vectors can be loaded from.
pub(crate) trait Number: bytemuck::Pod + Send + Sync {
    /// The first values of `from`, which holds at least [`Lanes::LEN`].
    fn load<V: Lanes>(from: &[Self]) -> V;
    /// Fewer values than [`Lanes::LEN`]; the other lanes are 0.
    fn load_part<V: Lanes>(from: &[Self]) -> V;
    /// Writes all lanes to the beginning of `to`.
    fn store<V: Lanes>(value: V, to: &mut [Self]);
    /// As many lanes as `to` has room for.
    fn store_part<V: Lanes>(value: V, to: &mut [Self]);
    /// The value as f32.
    fn widen(self) -> f32;
    /// The nearest value.
    fn narrow(value: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn load<V: Lanes>(from: &[f32]) -> V {
        V::load(from)
    }
    #[inline(always)]
    fn load_part<V: Lanes>(from: &[f32]) -> V {
        V::load_part(from)
    }
    #[inline(always)]
    fn store<V: Lanes>(value: V, to: &mut [f32]) {
        value.store(to);
    }
    #[inline(always)]
    fn store_part<V: Lanes>(value: V, to: &mut [f32]) {
        value.store_part(to);
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> f32 {
        value
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn load<V: Lanes>(from: &[bf16]) -> V {
        V::load_bf16(from)
    }
    #[inline(always)]
    fn load_part<V: Lanes>(from: &[bf16]) -> V {
        let mut all = [bf16::ZERO; MAX_LEN];
        all[..from.len()].copy_from_slice(from);
        V::load_bf16(&all)
    }
    #[inline(always)]
    fn store<V: Lanes>(value: V, to: &mut [bf16]) {
        value.store_bf16(to);
    }
    #[inline(always)]
    fn store_part<V: Lanes>(value: V, to: &mut [bf16]) {
        let mut all = [bf16::ZERO; MAX_LEN];
        value.store_bf16(&mut all);
        let len = to.len();
        to.copy_from_slice(&all[..len]);
    }
    // Without the branches of `half`, so that plain loops are vectorised.
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // The quiet bit, so that a NaN whose lower bits go does not become infinite.
        bf16::from_bits(if value.is_nan() { bits >> 16 | 0x40 } else { rounded } as u16)
    }
}

/// What [`Lanes`] has for bf16.
pub(crate) trait Halves: Sized {
    /// The first values of `from`, which holds at least [`Lanes::LEN`].
    fn load_bf16(from: &[bf16]) -> Self;
    /// Writes all lanes, rounded, to the beginning of `to`.
    fn store_bf16(self, to: &mut [bf16]);
    /// The first values of pairs, and the second ones: of each word the lower and the upper 16 bits.
    fn load_pairs(words: &[u32]) -> [Self; 2];
}

impl Halves for Plain {
    #[inline(always)]
    fn load_bf16(from: &[bf16]) -> Plain {
        Plain(std::array::from_fn(|i| from[i].widen()))
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16]) {
        to[..4].copy_from_slice(&self.0.map(bf16::narrow));
    }
    #[inline(always)]
    fn load_pairs(words: &[u32]) -> [Plain; 2] {
        let part = |mask: u32, shift: u32| Plain(std::array::from_fn(|i| f32::from_bits((words[i] & mask) << shift)));
        [part(0xffff, 16), part(0xffff_0000, 0)]
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::x86::{Avx2, Avx512};
    use super::{Halves, bf16};
    use std::arch::x86_64::*;

    // SAFETY of every block below: the types exist only where their instructions do; loads and stores are checked against the slice.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Halves for Avx512 {
        #[inline(always)]
        fn load_bf16(from: &[bf16]) -> Avx512 {
            unsafe {
                let halves = _mm256_loadu_si256(from[..16].as_ptr().cast());
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves))))
            }
        }
        #[inline(always)]
        fn store_bf16(self, to: &mut [bf16]) {
            unsafe {
                let bits = _mm512_castps_si512(self.0);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
                let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
                let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
                let chosen = _mm512_mask_mov_epi32(rounded, is_nan, quiet);
                let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen));
                _mm256_storeu_si256(to[..16].as_mut_ptr().cast(), halves);
            }
        }
        #[inline(always)]
        fn load_pairs(words: &[u32]) -> [Avx512; 2] {
            unsafe {
                let words = _mm512_loadu_si512(words[..16].as_ptr().cast());
                let high = _mm512_and_si512(words, _mm512_set1_epi32(-65536));
                [_mm512_slli_epi32::<16>(words), high].map(|bits| Avx512(_mm512_castsi512_ps(bits)))
            }
        }
    }

    // SAFETY of every block below: as above.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Halves for Avx2 {
        #[inline(always)]
        fn load_bf16(from: &[bf16]) -> Avx2 {
            unsafe {
                let halves = _mm_loadu_si128(from[..8].as_ptr().cast());
                Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves))))
            }
        }
        #[inline(always)]
        fn store_bf16(self, to: &mut [bf16]) {
            unsafe {
                let bits = _mm256_castps_si256(self.0);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
                let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
                let chosen = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan));
                // Packing works within each half of the register; the permutation puts the quarters in order.
                let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(chosen, chosen));
                _mm_storeu_si128(to[..8].as_mut_ptr().cast(), _mm256_castsi256_si128(packed));
            }
        }
        #[inline(always)]
        fn load_pairs(words: &[u32]) -> [Avx2; 2] {
            unsafe {
                let words = _mm256_loadu_si256(words[..8].as_ptr().cast());
                let high = _mm256_and_si256(words, _mm256_set1_epi32(-65536));
                [_mm256_slli_epi32::<16>(words), high].map(|bits| Avx2(_mm256_castsi256_ps(bits)))
            }
        }
    }
}

/// Rounds f32 to bf16.
pub(crate) struct Narrow<'a>(pub(crate) &'a [f32], pub(crate) &'a mut [bf16]);

impl Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        for_vectors!(V, self.0.len(), |i, len| {
            put(get::<V>(self.0, i, len), self.1, i, len);
        });
    }
}

/// Copies bf16 to f32.
pub(crate) struct Widen<'a>(pub(crate) &'a [bf16], pub(crate) &'a mut [f32]);

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        for_vectors!(V, self.0.len(), |i, len| {
            put(get::<V>(self.0, i, len), self.1, i, len);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::run_at;
    use super::*;
    use crate::simd::{Level, best_level};

    /// Every class of numbers, both sides of each tie, and a part of a vector at the end.
    #[test]
    fn rounding_is_that_of_the_half_crate_at_every_level() {
        let uppers = (0..=0xffff_u32).step_by(7).chain([0x7f7f, 0x7f80, 0x7f81, 0x7fff, 0xff80, 0xffc0, 0, 1]);
        let lowers = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let values: Vec<f32> = uppers.flat_map(|u| lowers.map(|l| f32::from_bits(u << 16 | l))).collect();
        for level in [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter(|l| *l <= best_level()) {
            let mut halves = vec![bf16::ZERO; values.len()];
            run_at(level, Narrow(&values, &mut halves));
            let mut wide = vec![0.0; values.len()];
            run_at(level, Widen(&halves, &mut wide));
            for ((value, half), wide) in values.iter().zip(&halves).zip(wide) {
                let want = bf16::from_f32(*value);
                assert_eq!(half.to_bits(), want.to_bits(), "{level:?}: {value:e} ({:#x})", value.to_bits());
                let same = wide.to_bits() == u32::from(half.to_bits()) << 16;
                assert!(same, "{level:?}: {half} became {wide}");
                let plain = bf16::narrow(*value);
                assert_eq!(plain.to_bits(), want.to_bits(), "{value:e}");
            }
        }
    }
}
