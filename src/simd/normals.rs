//! Standard normals and uniforms of consecutive Philox blocks with AVX-512: the same operations on the same numbers in the same
//! order as the plain code of [`crate::rng`], so the same bits.
//!
//! A counter's word lies in the low half of a 64-bit lane, where the 32×32→64-bit multiplication reads it: the low half of a
//! product is the next word as it stands, and no lane ever moves. What gathers in the high halves is never read.
//! Cost: 2 to 3 cycles a normal, about half of them Philox's rounds.

/// The words of a Philox counter that all blocks of a call share, and the key.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    /// Counter words 1 to 3.
    pub(crate) counter: [u32; 3],
    /// The key.
    pub(crate) key: [u32; 2],
}

/// Normals made at once: those of 16 blocks.
const CHUNK: usize = 64;

/// Fills the front of `out` with the normals of blocks `first, first + 1, …`; returns how many values it filled, a
/// multiple of 64 and 0 where the level in use is below AVX-512.
pub(crate) fn fill_normals(stream: Stream, first: u32, out: &mut [f32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if super::level() == super::Level::Avx512 {
        let whole = out.len() - out.len() % CHUNK;
        // SAFETY: the level is in use only on a processor that has it.
        unsafe { avx512::fill(stream, first, &mut out[..whole]) };
        return whole;
    }
    let _ = (stream, first, out);
    0
}

/// As [`fill_normals`], with uniforms in [0, 1) of 24 bits.
pub(crate) fn fill_uniforms(stream: Stream, first: u32, out: &mut [f32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if super::level() == super::Level::Avx512 {
        let whole = out.len() - out.len() % CHUNK;
        // SAFETY: the level is in use only on a processor that has it.
        unsafe { avx512::fill_uniforms(stream, first, &mut out[..whole]) };
        return whole;
    }
    let _ = (stream, first, out);
    0
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{CHUNK, Stream};
    use std::arch::x86_64::*;

    const M0: i64 = 0xD251_1F53; // Salmon et al. 2011, table 2
    const M1: i64 = 0xCD9E_8D57;
    const W0: u32 = 0x9E37_79B9;
    const W1: u32 = 0xBB67_AE85;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) fn fill(stream: Stream, first: u32, out: &mut [f32]) {
        let mut block = first;
        for chunk in out.chunks_exact_mut(CHUNK) {
            // Two halves of eight blocks side by side: the rounds of one half wait for their products.
            let [a, b] = philox(stream, block);
            // SAFETY: a chunk has room for four vectors.
            unsafe {
                box_muller(a, chunk.as_mut_ptr());
                box_muller(b, chunk.as_mut_ptr().add(CHUNK / 2));
            }
            block = block.wrapping_add(CHUNK as u32 / 4);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) fn fill_uniforms(stream: Stream, first: u32, out: &mut [f32]) {
        let mut block = first;
        for chunk in out.chunks_exact_mut(CHUNK) {
            let [a, b] = philox(stream, block);
            // SAFETY: a chunk has room for four vectors.
            unsafe {
                uniforms(a, chunk.as_mut_ptr());
                uniforms(b, chunk.as_mut_ptr().add(CHUNK / 2));
            }
            block = block.wrapping_add(CHUNK as u32 / 4);
        }
    }

    /// The words of eight blocks to 32 uniforms in the order of blocks and words.
    ///
    /// # Safety
    /// `out` has room for 32 values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn uniforms(words: [__m512i; 4], out: *mut f32) {
        const ODD: u16 = 0xAAAA;
        let even = uniform(join(words[0], words[2], ODD));
        let odd = uniform(join(words[1], words[3], ODD));
        // SAFETY: the caller's promise.
        unsafe {
            _mm512_storeu_ps(out, _mm512_unpacklo_ps(even, odd));
            _mm512_storeu_ps(out.add(16), _mm512_unpackhi_ps(even, odd));
        }
    }

    /// The upper 24 bits of each word as a number in [0, 1).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    fn uniform(words: __m512i) -> __m512 {
        let scale = _mm512_set1_ps(1.0 / (1u32 << 24) as f32);
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32::<8>(words)), scale)
    }

    /// The ten rounds of blocks `first..first + 8` and `first + 8..first + 16`; the low halves of the lanes hold the words. The two
    /// lanes of a 128-bit part are blocks four apart, which is the order [`box_muller`] writes them in.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    fn philox(stream: Stream, first: u32) -> [[__m512i; 4]; 2] {
        let lane = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        let first = _mm512_add_epi32(lane, _mm512_set1_epi64(i64::from(first)));
        let word = |i: usize| _mm512_set1_epi64(i64::from(stream.counter[i]));
        let mut a = [first, word(0), word(1), word(2)];
        let mut b = [_mm512_add_epi32(first, _mm512_set1_epi64(8)), word(0), word(1), word(2)];
        let [mut k0, mut k1] = stream.key;
        for _ in 0..10 {
            let (key0, key1) = (_mm512_set1_epi64(i64::from(k0)), _mm512_set1_epi64(i64::from(k1)));
            a = round(a, key0, key1);
            b = round(b, key0, key1);
            k0 = k0.wrapping_add(W0);
            k1 = k1.wrapping_add(W1);
        }
        [a, b]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    fn round(c: [__m512i; 4], key0: __m512i, key1: __m512i) -> [__m512i; 4] {
        const XOR3: i32 = 0x96;
        let p0 = _mm512_mul_epu32(c[0], _mm512_set1_epi64(M0));
        let p1 = _mm512_mul_epu32(c[2], _mm512_set1_epi64(M1));
        [
            _mm512_ternarylogic_epi64::<XOR3>(_mm512_srli_epi64::<32>(p1), c[1], key0),
            p1,
            _mm512_ternarylogic_epi64::<XOR3>(_mm512_srli_epi64::<32>(p0), c[3], key1),
            p0,
        ]
    }

    /// Words 0, 1 and words 2, 3 of eight blocks to 32 normals in the order of blocks and words.
    ///
    /// # Safety
    /// `out` has room for 32 values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn box_muller(words: [__m512i; 4], out: *mut f32) {
        // Both pairs of a block in one 64-bit lane: words 0 and 1 below, words 2 and 3 above.
        const ODD: u16 = 0xAAAA;
        let a = join(words[0], words[2], ODD);
        let b = join(words[1], words[3], ODD);
        let (even, odd) = pair(a, b);
        // SAFETY: the caller's promise.
        unsafe {
            _mm512_storeu_ps(out, _mm512_unpacklo_ps(even, odd));
            _mm512_storeu_ps(out.add(16), _mm512_unpackhi_ps(even, odd));
        }
    }

    /// The low halves of `low` with the low halves of `high` moved above them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    fn join(low: __m512i, high: __m512i, odd: u16) -> __m512i {
        _mm512_mask_shuffle_epi32::<{ _MM_PERM_CCAA }>(low, odd, high)
    }

    /// `rng::box_muller` of sixteen pairs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    fn pair(a: __m512i, b: __m512i) -> (__m512, __m512) {
        const TWO_TO_MINUS_32: f32 = 1.0 / 4_294_967_296.0;
        let half = _mm512_set1_ps(0.5 * TWO_TO_MINUS_32);
        let u = _mm512_fmadd_ps(_mm512_cvtepu32_ps(a), _mm512_set1_ps(TWO_TO_MINUS_32), half);
        let square = _mm512_mul_ps(_mm512_set1_ps(-2.0), ln_unit(u));
        let radius = _mm512_sqrt_ps(_mm512_max_ps(square, _mm512_setzero_ps()));
        let (sin, cos) = sin_cos_turn(b);
        (_mm512_mul_ps(radius, cos), _mm512_mul_ps(radius, sin))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    fn polynomial<const N: usize>(x: __m512, coefficients: [f32; N]) -> __m512 {
        let mut p = _mm512_set1_ps(coefficients[0]);
        for c in &coefficients[1..] {
            p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(*c));
        }
        p
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    fn ln_unit(u: __m512) -> __m512 {
        let root_half = _mm512_set1_epi32(0x3F35_04F3);
        let shifted = _mm512_sub_epi32(_mm512_castps_si512(u), root_half);
        let exponent = _mm512_cvtepi32_ps(_mm512_srai_epi32::<23>(shifted));
        let mantissa = _mm512_and_si512(shifted, _mm512_set1_epi32(0x007F_FFFF));
        let x = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_add_epi32(mantissa, root_half)), _mm512_set1_ps(1.0));
        let z = _mm512_mul_ps(x, x);
        let p = polynomial(x, crate::rng::LN);
        let small = _mm512_fmadd_ps(_mm512_mul_ps(p, x), z, _mm512_mul_ps(_mm512_set1_ps(-0.5), z));
        let low = _mm512_fmadd_ps(exponent, _mm512_set1_ps(-2.121_944_4e-4), small);
        _mm512_fmadd_ps(exponent, _mm512_set1_ps(355.0 / 512.0), _mm512_add_ps(x, low))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    fn sin_cos_turn(b: __m512i) -> (__m512, __m512) {
        const SIGN: i32 = 1 << 31;
        let quarter = _mm512_srli_epi32::<30>(_mm512_add_epi32(b, _mm512_set1_epi32(1 << 29)));
        let rest = _mm512_sub_epi32(b, _mm512_slli_epi32::<30>(quarter));
        let turn = _mm512_set1_ps(std::f32::consts::TAU / 4_294_967_296.0);
        let x = _mm512_mul_ps(_mm512_cvtepi32_ps(rest), turn);
        let z = _mm512_mul_ps(x, x);
        let s = polynomial(z, crate::rng::SIN);
        let sin = _mm512_fmadd_ps(_mm512_mul_ps(s, z), x, x);
        let c = polynomial(z, crate::rng::COS);
        let one = _mm512_fmadd_ps(_mm512_set1_ps(-0.5), z, _mm512_set1_ps(1.0));
        let cos = _mm512_fmadd_ps(_mm512_mul_ps(c, z), z, one);
        // Quarters 1 and 3 swap the two; the sine is negative in 2 and 3, the cosine in 1 and 2.
        let swap = _mm512_test_epi32_mask(quarter, _mm512_set1_epi32(1));
        let sign = |q: __m512i| _mm512_and_si512(_mm512_slli_epi32::<30>(q), _mm512_set1_epi32(SIGN));
        let flip = |v: __m512, s: __m512i| _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), s));
        let sin_sign = sign(quarter);
        let cos_sign = sign(_mm512_add_epi32(quarter, _mm512_set1_epi32(1)));
        (flip(_mm512_mask_blend_ps(swap, sin, cos), sin_sign), flip(_mm512_mask_blend_ps(swap, cos, sin), cos_sign))
    }
}
