//! A vector of f32 lanes for loops that the compiler does not vectorise by itself: one generic body, a type for each level.
//!
//! The methods are inlined into functions that enable the type's instructions; called anywhere else they would be slow.

/// A vector of [`Lanes::COUNT`] values.
pub(super) trait Lanes: Copy {
    /// Lanes, at most 16.
    const COUNT: usize;

    /// # Safety
    /// [`Lanes::COUNT`] values are readable at `at`, and the processor has the type's instructions (so for all methods).
    unsafe fn load(at: *const f32) -> Self;

    /// # Safety
    /// [`Lanes::COUNT`] values are writable at `at`.
    unsafe fn store(self, at: *mut f32);

    /// # Safety
    /// The processor has the type's instructions.
    unsafe fn add(self, other: Self) -> Self;

    /// # Safety
    /// As [`Lanes::add`].
    unsafe fn sub(self, other: Self) -> Self;

    /// `factor·self`.
    ///
    /// # Safety
    /// As [`Lanes::add`].
    unsafe fn times(self, factor: f32) -> Self;

    /// `factor·self + sum`, rounded once where the level has fused operations.
    ///
    /// # Safety
    /// As [`Lanes::add`].
    unsafe fn times_plus(self, factor: f32, sum: Self) -> Self;
}

/// Lanes in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Plain, f: impl Fn(f32, f32) -> f32) -> Plain {
        Plain(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    const COUNT: usize = 8;

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Plain {
        // SAFETY: the caller's promise.
        Plain(unsafe { at.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[f32; 8]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Plain) -> Plain {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Plain) -> Plain {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn times(self, factor: f32) -> Plain {
        self.zip(self, |a, _| a * factor)
    }

    #[inline(always)]
    unsafe fn times_plus(self, factor: f32, sum: Plain) -> Plain {
        self.zip(sum, |a, b| super::super::kernel::multiply_add(a, factor, b))
    }
}

/// The same methods for a vector type of the processor.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($type:ident, $count:literal, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $fma:ident, $set:ident) => {
        impl Lanes for std::arch::x86_64::$type {
            const COUNT: usize = $count;

            #[inline(always)]
            unsafe fn load(at: *const f32) -> Self {
                // SAFETY: the caller's promise, here and below.
                unsafe { std::arch::x86_64::$load(at) }
            }

            #[inline(always)]
            unsafe fn store(self, at: *mut f32) {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$store(at, self) }
            }

            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$add(self, other) }
            }

            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$sub(self, other) }
            }

            #[inline(always)]
            unsafe fn times(self, factor: f32) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$mul(std::arch::x86_64::$set(factor), self) }
            }

            #[inline(always)]
            unsafe fn times_plus(self, factor: f32, sum: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$fma(std::arch::x86_64::$set(factor), self, sum) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes!(
    __m256,
    8,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps,
    _mm256_set1_ps
);
#[cfg(target_arch = "x86_64")]
lanes!(
    __m512,
    16,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    _mm512_set1_ps
);
