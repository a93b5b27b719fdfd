//! The machine's limits, measured on all threads: fused multiply-adds a second and bytes moved a second.

use rayon::prelude::*;
use std::fmt;
use std::hint::black_box;
use std::time::Instant;
use tweedie::simd::{Level, level};

/// Independent sums: enough to hide the latency of two units, few enough for AVX2's sixteen registers.
const CHAINS: usize = 12;

/// The limits.
#[derive(Clone, Copy)]
pub(crate) struct Peak {
    /// 10⁹ floating-point operations a second.
    pub(crate) gflops: f64,
    /// 10⁹ bytes read plus written a second by a copy.
    pub(crate) copy_gb: f64,
    /// The same by an update in place, which spares the processor reading what it overwrites.
    pub(crate) update_gb: f64,
}

impl Peak {
    /// Nothing was measured.
    pub(crate) const UNKNOWN: Peak = Peak { gflops: f64::NAN, copy_gb: f64::NAN, update_gb: f64::NAN };

    /// The better of two measurements, each number for itself.
    pub(crate) fn max(self, other: Peak) -> Peak {
        Peak {
            gflops: self.gflops.max(other.gflops),
            copy_gb: self.copy_gb.max(other.copy_gb),
            update_gb: self.update_gb.max(other.update_gb),
        }
    }

    /// What a memory-bound kernel is held against: the better of copy and update.
    pub(crate) fn memory_gb(self) -> f64 {
        self.copy_gb.max(self.update_gb)
    }
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peak { gflops, copy_gb, update_gb } = self;
        write!(f, "peak: {gflops:.1} GFLOP/s fused multiply-add; memory {copy_gb:.1} GB/s copied, ")?;
        write!(f, "{update_gb:.1} GB/s updated in place (read + written)")
    }
}

/// Measures both; `briefly` where the numbers are not read.
pub(crate) fn measure(briefly: bool) -> Peak {
    let (rounds, mib): (usize, usize) = if briefly { (1, 4) } else { (40, 128) };
    let (copy_gb, update_gb) = memory_gb(rounds.div_ceil(4), mib << 20);
    Peak { gflops: gflops(rounds), copy_gb, update_gb }
}

/// The best of `rounds` rounds of about 5 ms: short, so that on a shared machine some round runs undisturbed.
fn gflops(rounds: usize) -> f64 {
    const STEPS: u64 = 1_000_000;
    let lanes = match level() {
        Level::Avx512 => 16,
        Level::Avx2 => 8,
        Level::Portable => 4,
    };
    let flops = 2.0 * (STEPS * CHAINS as u64 * lanes) as f64 * rayon::current_num_threads() as f64;
    let best = (0..rounds).map(|_| {
        let begin = Instant::now();
        rayon::broadcast(|_| black_box(multiply_adds(STEPS)));
        flops / begin.elapsed().as_secs_f64() / 1e9
    });
    best.fold(0.0, f64::max)
}

/// `steps` multiply-adds on every lane of [`CHAINS`] vectors of the level in use.
fn multiply_adds(steps: u64) -> f32 {
    match level() {
        // SAFETY: `level` returns this only on a processor with AVX-512 F.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::avx512(steps) },
        // SAFETY: `level` returns this only on a processor with AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2(steps) },
        _ => portable(steps),
    }
}

/// Factor and term with the fixed point 1: the sums stay normal numbers for ever.
fn constants() -> (f32, f32) {
    black_box((0.999, 0.001))
}

fn portable(steps: u64) -> f32 {
    let (factor, term) = constants();
    let mut sums = [[1.5_f32; 4]; CHAINS];
    for _ in 0..steps {
        for sum in &mut sums {
            for lane in sum {
                *lane = if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                    lane.mul_add(factor, term)
                } else {
                    *lane * factor + term
                };
            }
        }
    }
    sums.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, constants};
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps,
        _mm512_set1_ps,
    };

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(steps: u64) -> f32 {
        let (factor, term) = constants();
        let (factor, term) = (_mm512_set1_ps(factor), _mm512_set1_ps(term));
        let mut sums = [_mm512_set1_ps(1.5); CHAINS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, term);
            }
        }
        sums.iter().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(steps: u64) -> f32 {
        let (factor, term) = constants();
        let (factor, term) = (_mm256_set1_ps(factor), _mm256_set1_ps(term));
        let mut sums = [_mm256_set1_ps(1.5); CHAINS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, term);
            }
        }
        let mut total = sums[0];
        for sum in &sums[1..] {
            total = _mm256_add_ps(total, *sum);
        }
        _mm256_cvtss_f32(total)
    }
}

/// The best of `rounds` copies of `bytes` bytes and the best of as many updates of them, cut evenly among the threads.
fn memory_gb(rounds: usize, bytes: usize) -> (f64, f64) {
    let source = vec![1.0_f32; bytes / 4];
    let mut target = vec![0.0_f32; bytes / 4];
    let chunk = source.len().div_ceil(rayon::current_num_threads());
    let factor = black_box(1.0);
    let (mut copy, mut update) = (0.0_f64, 0.0_f64);
    let rate = |begin: Instant| 2.0 * bytes as f64 / begin.elapsed().as_secs_f64() / 1e9;
    for _ in 0..rounds {
        let begin = Instant::now();
        target.par_chunks_mut(chunk).zip(source.par_chunks(chunk)).for_each(|(to, from)| to.copy_from_slice(from));
        copy = copy.max(rate(begin));
        let begin = Instant::now();
        target.par_chunks_mut(chunk).for_each(|part| part.iter_mut().for_each(|v| *v *= factor));
        update = update.max(rate(begin));
        black_box(&mut target);
    }
    (copy, update)
}
