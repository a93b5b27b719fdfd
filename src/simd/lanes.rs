//! Vectors of f32 lanes, one type for each instruction-set level, for loops that plain code cannot say: fused
//! multiply-adds, estimated reciprocals, scaling by a power of two.
//!
//! A loop is a [`Kernel`], written once over [`Lanes`]; [`dispatch`] compiles it for every level and runs the copy for
//! [`super::level`]. The vector types are private here: only a dispatched kernel can have one, on a processor that has
//! its instructions.

mod number;

use super::Level;
pub(crate) use number::{Narrow, Number, Widen};

/// A vector of [`Lanes::LEN`] values.
pub(crate) trait Lanes: Copy + number::Halves {
    /// Values of one vector.
    const LEN: usize;
    /// `value` in every lane.
    fn splat(value: f32) -> Self;
    /// The first values of `from`, which holds at least [`Lanes::LEN`].
    fn load(from: &[f32]) -> Self;
    /// Writes all lanes to the beginning of `to`.
    fn store(self, to: &mut [f32]);
    /// self + b.
    fn add(self, b: Self) -> Self;
    /// self − b.
    fn sub(self, b: Self) -> Self;
    /// self·b.
    fn mul(self, b: Self) -> Self;
    /// self·b + c, fused where the level has it.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// c − self·b, fused where the level has it.
    fn neg_mul_add(self, b: Self, c: Self) -> Self;
    /// At most `limit`; a NaN stays.
    fn at_most(self, limit: Self) -> Self;
    /// At least `limit`; a NaN stays.
    fn at_least(self, limit: Self) -> Self;
    /// The nearest whole number, for |self| below 2^22.
    fn round(self) -> Self;
    /// self·2^n for whole n from −126 to 127.
    fn times_two_to(self, n: Self) -> Self;
    /// 1/self for normal numbers below 2^126: relative error below 2e-7.
    fn reciprocal(self) -> Self;

    /// The values at `from`.
    ///
    /// # Safety
    /// [`Lanes::LEN`] values are readable there.
    #[inline(always)]
    unsafe fn load_at(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self::load(unsafe { std::slice::from_raw_parts(from, Self::LEN) })
    }

    /// Writes all lanes to `to`.
    ///
    /// # Safety
    /// [`Lanes::LEN`] values are writable there, and nothing else reads or writes them meanwhile.
    #[inline(always)]
    unsafe fn store_at(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        self.store(unsafe { std::slice::from_raw_parts_mut(to, Self::LEN) })
    }

    /// self·factor.
    #[inline(always)]
    fn times(self, factor: f32) -> Self {
        self.mul(Self::splat(factor))
    }

    /// self·factor + sum, as [`Lanes::mul_add`].
    #[inline(always)]
    fn times_plus(self, factor: f32, sum: Self) -> Self {
        self.mul_add(Self::splat(factor), sum)
    }

    /// Fewer values than [`Lanes::LEN`]; the other lanes are 0.
    #[inline(always)]
    fn load_part(from: &[f32]) -> Self {
        let mut all = [0.0; MAX_LEN];
        all[..from.len()].copy_from_slice(from);
        Self::load(&all)
    }

    /// As many lanes as `to` has room for.
    #[inline(always)]
    fn store_part(self, to: &mut [f32]) {
        let mut all = [0.0; MAX_LEN];
        self.store(&mut all);
        let len = to.len();
        to.copy_from_slice(&all[..len]);
    }

    /// The sum of all lanes, halves first.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut all = [0.0; MAX_LEN];
        self.store(&mut all);
        // The same tree for every length: lanes that a shorter vector lacks are 0.
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                all[i] += all[i + half];
            }
        }
        all[0]
    }

    /// The largest lane; none may be NaN.
    #[inline(always)]
    fn maximum(self) -> f32 {
        let mut all = [f32::NEG_INFINITY; MAX_LEN];
        self.store(&mut all);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                all[i] = if all[i + half] > all[i] { all[i + half] } else { all[i] };
            }
        }
        all[0]
    }

    /// e^self: relative error below 3e-7, the argument clamped to [−87.3, 87]; never 0 or infinite. NaN stays NaN.
    #[inline(always)]
    fn exp(self) -> Self {
        let x = self.at_most(Self::splat(87.0)).at_least(Self::splat(-87.3));
        let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts (Cody and Waite), so that the remainder keeps its bits.
        let r = n.neg_mul_add(Self::splat(0.693_359_4), x);
        let r = n.neg_mul_add(Self::splat(-2.121_944_4e-4), r);
        let mut p = Self::splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0] {
            p = p.mul_add(r, Self::splat(c));
        }
        p.times_two_to(n)
    }

    /// 2^self for self up to 126: relative error below 2e-7 from −126 on, below that at most 2^−126. NaN stays NaN.
    #[inline(always)]
    fn two_to(self) -> Self {
        let x = self.at_least(Self::splat(-126.0));
        let n = x.sub(Self::splat(0.5)).round();
        power_of_fraction(x.sub(n)).times_two_to(n)
    }

    /// 1/(1 + e^−self): relative error below 5e-7 + 1e-7·|self| for self from −86.9 on, the second from rounding
    /// self·log₂e; at least 1.6e-38. NaN stays NaN.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let exponent = self.times(-std::f32::consts::LOG2_E).at_most(Self::splat(125.5));
        exponent.two_to().add(Self::splat(1.0)).reciprocal()
    }
}

/// 2^f for f from 0 to 1: the polynomial of degree 5 with value 1 at 0 whose largest relative error is least, 9.4e-8 as rounded.
#[inline(always)]
fn power_of_fraction<V: Lanes>(f: V) -> V {
    let mut p = V::splat(1.867_13e-3);
    for c in [9.017_031e-3, 5.579_991e-2, 0.240_164_44, 0.693_151_3, 1.0] {
        p = p.mul_add(f, V::splat(c));
    }
    p
}

/// Values of the widest vector.
pub(crate) const MAX_LEN: usize = 16;

/// A loop over vectors.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// Runs the loop. Must be `#[inline(always)]`, so that it is compiled with the level's instructions.
    fn run<V: Lanes>(self) -> Self::Output;
}

/// Runs a kernel with the vectors of [`super::level`].
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    run_at(super::level(), kernel)
}

pub(super) fn run_at<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        // SAFETY: callers pass a level that this processor has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::run_avx2(kernel) },
        _ => kernel.run::<Plain>(),
    }
}

/// Runs a block for every vector of `count` values: `i` is where it begins and `len` how many values it has, which is
/// `V::LEN`, known to the compiler, for all but the last. A macro, because a closure would not get the level's instructions.
macro_rules! for_vectors {
    ($V:ty, $count:expr, |$i:ident, $len:ident| $body:block) => {{
        let count: usize = $count;
        let whole = count - count % <$V>::LEN;
        let mut at = 0;
        while at < whole {
            let ($i, $len) = (at, <$V>::LEN);
            $body
            at += <$V>::LEN;
        }
        if whole < count {
            let ($i, $len) = (whole, count - whole);
            $body
        }
    }};
}
pub(crate) use for_vectors;

/// Runs a block for every few neighbouring vectors of `count` values, which may then be kept in registers through a loop over rows:
/// `i` is where they begin, `K` how many they are (a constant: 4, 2 or 1), `len` the values of each, `V::LEN` but for the last.
macro_rules! for_columns {
    ($V:ty, $count:expr, |$i:ident, $K:ident, $len:ident| $body:block) => {{
        let count: usize = $count;
        let mut at = 0;
        while at + 4 * <$V>::LEN <= count {
            const $K: usize = 4;
            let ($i, $len) = (at, <$V>::LEN);
            $body
            at += 4 * <$V>::LEN;
        }
        if at + 2 * <$V>::LEN <= count {
            const $K: usize = 2;
            let ($i, $len) = (at, <$V>::LEN);
            $body
            at += 2 * <$V>::LEN;
        }
        if at + <$V>::LEN <= count {
            const $K: usize = 1;
            let ($i, $len) = (at, <$V>::LEN);
            $body
            at += <$V>::LEN;
        }
        if at < count {
            const $K: usize = 1;
            let ($i, $len) = (at, count - at);
            $body
        }
    }};
}
pub(crate) use for_columns;

/// `K` vectors of `len` values, those of `from` from index `at`.
#[inline(always)]
pub(crate) fn get_columns<V: Lanes, const K: usize>(from: &[impl Number], at: usize, len: usize) -> [V; K] {
    let from = &from[at..at + K * len];
    let mut values = [V::splat(0.0); K];
    for k in 0..K {
        values[k] = get(from, k * len, len);
    }
    values
}

/// Writes the first `len` lanes of each to `to` from index `at`.
#[inline(always)]
pub(crate) fn put_columns<V: Lanes, const K: usize>(values: [V; K], to: &mut [impl Number], at: usize, len: usize) {
    let to = &mut to[at..at + K * len];
    for k in 0..K {
        put(values[k], to, k * len, len);
    }
}

/// `len` values of `from` from index `at`.
#[inline(always)]
pub(crate) fn get<V: Lanes>(from: &[impl Number], at: usize, len: usize) -> V {
    let from = &from[at..at + len];
    if len == V::LEN { Number::load(from) } else { Number::load_part(from) }
}

/// Writes the first `len` lanes to `to` from index `at`.
#[inline(always)]
pub(crate) fn put<V: Lanes>(value: V, to: &mut [impl Number], at: usize, len: usize) {
    let to = &mut to[at..at + len];
    if len == V::LEN { Number::store(value, to) } else { Number::store_part(value, to) }
}

/// Adding 1.5·2^23 rounds to the nearest integer and leaves it in the low bits of the mantissa.
const MAGIC: f32 = 12_582_912.0;

/// Four lanes in plain code.
#[derive(Clone, Copy)]
struct Plain([f32; 4]);

impl Plain {
    #[inline(always)]
    fn map(self, b: Plain, f: impl Fn(f32, f32) -> f32) -> Plain {
        Plain(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

impl Lanes for Plain {
    const LEN: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Plain {
        Plain([value; 4])
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Plain {
        Plain(std::array::from_fn(|i| from[i]))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..4].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn add(self, b: Plain) -> Plain {
        self.map(b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, b: Plain) -> Plain {
        self.map(b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, b: Plain) -> Plain {
        self.map(b, |a, b| a * b)
    }
    #[inline(always)]
    fn mul_add(self, b: Plain, c: Plain) -> Plain {
        Plain(std::array::from_fn(|i| super::kernel::multiply_add(self.0[i], b.0[i], c.0[i])))
    }
    #[inline(always)]
    fn neg_mul_add(self, b: Plain, c: Plain) -> Plain {
        Plain(std::array::from_fn(|i| super::kernel::multiply_add(-self.0[i], b.0[i], c.0[i])))
    }
    #[inline(always)]
    fn at_most(self, limit: Plain) -> Plain {
        self.map(limit, |a, b| if a > b { b } else { a })
    }
    #[inline(always)]
    fn at_least(self, limit: Plain) -> Plain {
        self.map(limit, |a, b| if a < b { b } else { a })
    }
    #[inline(always)]
    fn round(self) -> Plain {
        self.add(Plain::splat(MAGIC)).sub(Plain::splat(MAGIC))
    }
    #[inline(always)]
    fn times_two_to(self, n: Plain) -> Plain {
        let shifted = n.add(Plain::splat(MAGIC));
        self.mul(Plain(shifted.0.map(|v| f32::from_bits(v.to_bits().wrapping_add(127) << 23))))
    }
    #[inline(always)]
    fn reciprocal(self) -> Plain {
        Plain::splat(1.0).map(self, |a, b| a / b)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Lanes};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx512>()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx2>()
    }

    /// Sixteen lanes. Exists only inside [`run_avx512`], so its instructions do.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(pub(super) __m512);

    // SAFETY of every block below: see the type; loads and stores are checked against the slice.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Lanes for Avx512 {
        const LEN: usize = 16;

        #[inline(always)]
        fn splat(value: f32) -> Avx512 {
            Avx512(unsafe { _mm512_set1_ps(value) })
        }
        #[inline(always)]
        fn load(from: &[f32]) -> Avx512 {
            Avx512(unsafe { _mm512_loadu_ps(from[..16].as_ptr()) })
        }
        #[inline(always)]
        fn load_part(from: &[f32]) -> Avx512 {
            let mask = (1u32 << from.len().min(16)) - 1;
            Avx512(unsafe { _mm512_maskz_loadu_ps(mask as u16, from.as_ptr()) })
        }
        #[inline(always)]
        fn store(self, to: &mut [f32]) {
            unsafe { _mm512_storeu_ps(to[..16].as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn store_part(self, to: &mut [f32]) {
            let mask = (1u32 << to.len().min(16)) - 1;
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask as u16, self.0) }
        }
        #[inline(always)]
        fn add(self, b: Avx512) -> Avx512 {
            Avx512(unsafe { _mm512_add_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn sub(self, b: Avx512) -> Avx512 {
            Avx512(unsafe { _mm512_sub_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn mul(self, b: Avx512) -> Avx512 {
            Avx512(unsafe { _mm512_mul_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn mul_add(self, b: Avx512, c: Avx512) -> Avx512 {
            Avx512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        fn neg_mul_add(self, b: Avx512, c: Avx512) -> Avx512 {
            Avx512(unsafe { _mm512_fnmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        fn at_most(self, limit: Avx512) -> Avx512 {
            // Of a NaN and a number these instructions return the second.
            Avx512(unsafe { _mm512_min_ps(limit.0, self.0) })
        }
        #[inline(always)]
        fn at_least(self, limit: Avx512) -> Avx512 {
            Avx512(unsafe { _mm512_max_ps(limit.0, self.0) })
        }
        #[inline(always)]
        fn round(self) -> Avx512 {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            Avx512(unsafe { _mm512_roundscale_ps::<NEAREST>(self.0) })
        }
        #[inline(always)]
        fn times_two_to(self, n: Avx512) -> Avx512 {
            Avx512(unsafe { _mm512_scalef_ps(self.0, n.0) })
        }
        #[inline(always)]
        fn two_to(self) -> Avx512 {
            const BELOW: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
            // self − ⌊self⌋, which is 0 at ±∞; the scaling rounds its exponent down by itself.
            let f = Avx512(unsafe { _mm512_reduce_ps::<BELOW>(self.0) });
            super::power_of_fraction(f).times_two_to(self)
        }
        #[inline(always)]
        fn reciprocal(self) -> Avx512 {
            unsafe {
                // 14 bits, and one step of Newton's method doubles them.
                let y = _mm512_rcp14_ps(self.0);
                Avx512(_mm512_fmadd_ps(_mm512_fnmadd_ps(self.0, y, _mm512_set1_ps(1.0)), y, y))
            }
        }
    }

    /// Eight lanes. Exists only inside [`run_avx2`], so its instructions do.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(pub(super) __m256);

    // SAFETY of every block below: see the type; loads and stores are checked against the slice.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Lanes for Avx2 {
        const LEN: usize = 8;

        #[inline(always)]
        fn splat(value: f32) -> Avx2 {
            Avx2(unsafe { _mm256_set1_ps(value) })
        }
        #[inline(always)]
        fn load(from: &[f32]) -> Avx2 {
            Avx2(unsafe { _mm256_loadu_ps(from[..8].as_ptr()) })
        }
        #[inline(always)]
        fn store(self, to: &mut [f32]) {
            unsafe { _mm256_storeu_ps(to[..8].as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn add(self, b: Avx2) -> Avx2 {
            Avx2(unsafe { _mm256_add_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn sub(self, b: Avx2) -> Avx2 {
            Avx2(unsafe { _mm256_sub_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn mul(self, b: Avx2) -> Avx2 {
            Avx2(unsafe { _mm256_mul_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn mul_add(self, b: Avx2, c: Avx2) -> Avx2 {
            Avx2(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        fn neg_mul_add(self, b: Avx2, c: Avx2) -> Avx2 {
            Avx2(unsafe { _mm256_fnmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        fn at_most(self, limit: Avx2) -> Avx2 {
            Avx2(unsafe { _mm256_min_ps(limit.0, self.0) })
        }
        #[inline(always)]
        fn at_least(self, limit: Avx2) -> Avx2 {
            Avx2(unsafe { _mm256_max_ps(limit.0, self.0) })
        }
        #[inline(always)]
        fn round(self) -> Avx2 {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            Avx2(unsafe { _mm256_round_ps::<NEAREST>(self.0) })
        }
        #[inline(always)]
        fn times_two_to(self, n: Avx2) -> Avx2 {
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), _mm256_set1_epi32(127));
                Avx2(_mm256_mul_ps(self.0, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))))
            }
        }
        #[inline(always)]
        fn reciprocal(self) -> Avx2 {
            Avx2(unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), self.0) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Function {
        Exp,
        Sigmoid,
        TwoTo,
    }

    struct Map<'a>(&'a [f32], &'a mut [f32], Function);

    impl Kernel for Map<'_> {
        type Output = ();
        #[inline(always)]
        fn run<V: Lanes>(self) {
            let Map(x, y, function) = self;
            for_vectors!(V, x.len(), |i, len| {
                let v = get::<V>(x, i, len);
                let value = match function {
                    Function::Exp => v.exp(),
                    Function::Sigmoid => v.sigmoid(),
                    Function::TwoTo => v.two_to(),
                };
                put(value, y, i, len);
            });
        }
    }

    fn levels() -> impl Iterator<Item = Level> {
        [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter(|l| *l <= super::super::best_level())
    }

    fn map(level: Level, x: &[f32], function: Function) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        run_at(level, Map(x, &mut y, function));
        y
    }

    #[test]
    fn exp_sigmoid_and_powers_of_two_keep_their_stated_errors_at_every_level() {
        // An odd count, so that the last vector is a part.
        let x: Vec<f32> = (-86_899..86_898).map(|i| i as f32 * 1e-3).collect();
        for level in levels() {
            for (function, bound, growth) in
                [(Function::Exp, 3e-7, 0.0), (Function::Sigmoid, 5e-7, 1e-7), (Function::TwoTo, 2e-7, 0.0)]
            {
                let y = map(level, &x, function);
                for (x, y) in x.iter().zip(&y) {
                    let x = f64::from(*x);
                    let want = match function {
                        Function::Exp => x.exp(),
                        Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
                        Function::TwoTo => x.exp2(),
                    };
                    let error = (f64::from(*y) / want - 1.0).abs();
                    assert!(error <= bound + growth * x.abs(), "{level:?} {function:?} at {x}: {y:e} against {want:e}");
                }
            }
        }
    }

    #[test]
    fn far_arguments_stay_finite_and_nan_stays_at_every_level() {
        for level in levels() {
            let far = [1e30, -1e30, f32::NAN, 0.0, f32::INFINITY, f32::NEG_INFINITY];
            let e = map(level, &far, Function::Exp);
            assert!(e[0].is_finite() && e[1] > 0.0 && e[2].is_nan() && e[3] == 1.0, "{level:?}: {e:?}");
            assert!(e[4].is_finite() && e[5] > 0.0, "{level:?}: {e:?}");
            let s = map(level, &far, Function::Sigmoid);
            assert!(s[0] == 1.0 && s[1] >= 0.0 && s[1] < 1e-37 && s[2].is_nan() && s[3] == 0.5, "{level:?}: {s:?}");
            assert!(s[4] == 1.0 && s[5] >= 0.0 && s[5] < 1e-37, "{level:?}: {s:?}");
            let t = map(level, &[-1e30, f32::NEG_INFINITY, -126.5, f32::NAN, 0.0], Function::TwoTo);
            assert!(t[..3].iter().all(|t| (0.0..=f32::MIN_POSITIVE).contains(t)), "{level:?}: {t:?}");
            assert!(t[3].is_nan() && t[4] == 1.0, "{level:?}: {t:?}");
        }
    }
}
