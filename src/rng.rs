//! Noise by address: every random number is a function of (seed, sample, step, purpose, element), never of a
//! stream position. So a sample's noise does not depend on batch size, thread count or device.
//!
//! Integers come from Philox4x32-10 (Salmon et al. 2011): key = seed, counter = (element/4, sample, step,
//! purpose and sub-step). Normals come from Box and Muller's map with our own logarithm and sine/cosine polynomials
//! (coefficients of the Cephes library's single-precision functions) in explicit fused multiply-adds, so that every
//! device makes the same bits.

use crate::simd::{NormalStream as Stream, fill_normals as simd_normals, fill_uniforms as simd_uniforms};

/// What a random number is for. Two purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights.
    Init = 1,
    /// The order of the training images.
    Shuffle = 2,
    /// The held-out split.
    Split = 3,
    /// The time of each training image.
    Time = 4,
    /// The noise of each training image.
    TrainNoise = 5,
    /// Which labels are dropped for classifier-free guidance.
    LabelDrop = 6,
    /// Dropout masks.
    Dropout = 7,
    /// The start x_T of a sample.
    Start = 8,
    /// The noise of one reverse step.
    ReverseStep = 9,
    /// Times and noise of an evaluation.
    Eval = 10,
    /// Tests and benchmarks.
    Test = 11,
    /// Samples of a known distribution.
    Oracle = 12,
    /// Toy data made by formula.
    Toy = 13,
    /// The noise of simulated paths of an SDE.
    Path = 14,
    /// The noise of what is known of a sample.
    Known = 15,
    /// Levels, noise, probes and dequantisation of a likelihood.
    Likelihood = 16,
}

/// Where a block of random numbers lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The run's seed: the Philox key.
    pub seed: u64,
    /// Index of the sample (or parameter).
    pub sample: u32,
    /// Loop index or optimiser step.
    pub step: u32,
    /// What the numbers are for.
    pub purpose: Purpose,
    /// A further index within the purpose, for example the layer of a dropout mask; below 2^24.
    pub sub: u32,
}

impl Address {
    /// The address with sample, step and sub-step 0.
    pub fn new(seed: u64, purpose: Purpose) -> Address {
        Address { seed, sample: 0, step: 0, purpose, sub: 0 }
    }

    /// The same address at another sample.
    pub fn sample(self, sample: usize) -> Address {
        Address { sample: sample as u32, ..self }
    }

    /// The same address at another step.
    pub fn step(self, step: usize) -> Address {
        Address { step: step as u32, ..self }
    }

    /// The same address at another sub-index.
    pub fn sub_index(self, sub: usize) -> Address {
        Address { sub: sub as u32, ..self }
    }

    fn last_counter(self) -> u32 {
        debug_assert!(self.sub < 1 << 24, "sub-index {} does not fit 24 bits", self.sub);
        (self.sub << 8) | self.purpose as u32
    }

    /// What a kernel is told of the address: both halves of the seed, the step, and the counter's last word.
    pub(crate) fn words(self) -> [u32; 4] {
        [self.seed as u32, (self.seed >> 32) as u32, self.step, self.last_counter()]
    }

    /// Four random 32-bit integers: those of elements `4·block .. 4·block + 4`.
    pub fn bits(self, block: u32) -> [u32; 4] {
        philox4x32([block, self.sample, self.step, self.last_counter()], self.seed)
    }

    /// 64 random bits; its own element index, two integers each.
    pub fn word(self, element: usize) -> u64 {
        let bits = self.bits((element / 2) as u32);
        let pair = 2 * (element % 2);
        (u64::from(bits[pair]) << 32) | u64::from(bits[pair + 1])
    }

    /// A uniform number in [0, 1) with 53 bits: the upper ones of the element's [`Address::word`].
    pub fn uniform(self, element: usize) -> f64 {
        (self.word(element) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A uniform integer in `0..bound` (Lemire's multiply-shift on 64 bits; bias below 2^-32 for bounds below 2^32).
    pub fn below(self, element: usize, bound: usize) -> usize {
        ((u128::from(self.word(element)) * bound as u128) >> 64) as usize
    }

    /// Fills `out` with standard normals: element `i` of the address goes to `out[i]`.
    pub fn fill_normal(self, out: &mut [f32]) {
        self.fill_normal_from(0, out);
    }

    /// Fills `out` with the standard normals of elements `first..first + out.len()`; `first` must be a multiple of 4.
    pub fn fill_normal_from(self, first: usize, out: &mut [f32]) {
        debug_assert!(first.is_multiple_of(4), "element {first} does not begin a block of four");
        fill_normals(self, first, out);
    }

    /// Fills `out` with uniforms in [0, 1) of 24 bits each: element `i` of the address goes to `out[i]`.
    pub fn fill_uniform(self, out: &mut [f32]) {
        self.fill_uniform_from(0, out);
    }

    /// Fills `out` with the uniforms of elements `first..first + out.len()`; `first` must be a multiple of 4.
    pub fn fill_uniform_from(self, first: usize, out: &mut [f32]) {
        debug_assert!(first.is_multiple_of(4), "element {first} does not begin a block of four");
        let [low, high, step, last] = self.words();
        let stream = Stream { counter: [self.sample, step, last], key: [low, high] };
        let block = (first / 4) as u32;
        let done = simd_uniforms(stream, block, out);
        for (at, chunk) in out[done..].chunks_mut(4).enumerate() {
            let bits = self.bits(block.wrapping_add((done / 4 + at) as u32));
            chunk.iter_mut().zip(bits).for_each(|(value, word)| *value = uniform_of(word));
        }
    }
}

/// The upper 24 bits as a number in [0, 1).
fn uniform_of(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

fn fill_normals(address: Address, first: usize, out: &mut [f32]) {
    let [low, high, step, last] = address.words();
    let stream = Stream { counter: [address.sample, step, last], key: [low, high] };
    let done = simd_normals(stream, (first / 4) as u32, out);
    let (first, out) = (first + done, &mut out[done..]);
    if out.is_empty() {
        return;
    }
    crate::vectorise!(fill_normals_body(address: Address, first: usize, out: &mut [f32]))
}

/// Blocks of four numbers that are computed side by side, one a lane.
const LANES: usize = 16;

#[inline(always)]
fn fill_normals_body(address: Address, first: usize, out: &mut [f32]) {
    let mut block = (first / 4) as u32;
    let mut chunks = out.chunks_exact_mut(4 * LANES);
    for chunk in &mut chunks {
        let normals = normal_lanes(address, block);
        for lane in 0..LANES {
            for word in 0..4 {
                chunk[4 * lane + word] = normals[word][lane];
            }
        }
        block = block.wrapping_add(LANES as u32);
    }
    let rest = chunks.into_remainder();
    if !rest.is_empty() {
        let normals = normal_lanes(address, block);
        for (i, value) in rest.iter_mut().enumerate() {
            *value = normals[i % 4][i / 4];
        }
    }
}

/// Standard normals of `LANES` consecutive blocks: `[word][lane]`. Words 0, 1 and words 2, 3 are Box–Muller pairs.
#[inline(always)]
pub(crate) fn normal_lanes(address: Address, block: u32) -> [[f32; LANES]; 4] {
    let mut counter = [[0; LANES]; 4];
    for lane in 0..LANES {
        counter[0][lane] = block.wrapping_add(lane as u32);
        counter[1][lane] = address.sample;
        counter[2][lane] = address.step;
        counter[3][lane] = address.last_counter();
    }
    let bits = philox_lanes(counter, address.seed);
    let mut normals = [[0.0; LANES]; 4];
    for pair in [0, 2] {
        for lane in 0..LANES {
            let (a, b) = box_muller(bits[pair][lane], bits[pair + 1][lane]);
            normals[pair][lane] = a;
            normals[pair + 1][lane] = b;
        }
    }
    normals
}

const PHILOX_M0: u64 = 0xD251_1F53; // Salmon et al. 2011, table 2
const PHILOX_M1: u64 = 0xCD9E_8D57;
const PHILOX_W0: u32 = 0x9E37_79B9;
const PHILOX_W1: u32 = 0xBB67_AE85;

/// Philox4x32-10 of one counter.
pub fn philox4x32(counter: [u32; 4], key: u64) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let p0 = PHILOX_M0 * u64::from(c0);
        let p1 = PHILOX_M1 * u64::from(c2);
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(PHILOX_W0);
        k1 = k1.wrapping_add(PHILOX_W1);
    }
    [c0, c1, c2, c3]
}

#[inline(always)]
fn philox_lanes(mut c: [[u32; LANES]; 4], key: u64) -> [[u32; LANES]; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        for lane in 0..LANES {
            let p0 = PHILOX_M0 * u64::from(c[0][lane]);
            let p1 = PHILOX_M1 * u64::from(c[2][lane]);
            c[0][lane] = (p1 >> 32) as u32 ^ c[1][lane] ^ k0;
            c[1][lane] = p1 as u32;
            c[2][lane] = (p0 >> 32) as u32 ^ c[3][lane] ^ k1;
            c[3][lane] = p0 as u32;
        }
        k0 = k0.wrapping_add(PHILOX_W0);
        k1 = k1.wrapping_add(PHILOX_W1);
    }
    c
}

/// Two independent standard normals from two 32-bit integers.
#[inline(always)]
fn box_muller(a: u32, b: u32) -> (f32, f32) {
    const TWO_TO_MINUS_32: f32 = 1.0 / 4_294_967_296.0;
    // u lies in (0, 1]: 2^-33 at the lower end keeps the logarithm finite.
    let u = (a as f32).mul_add(TWO_TO_MINUS_32, 0.5 * TWO_TO_MINUS_32);
    let radius = (-2.0 * ln_unit(u)).max(0.0).sqrt();
    let (sin, cos) = sin_cos_turn(b);
    (radius * cos, radius * sin)
}

/// Coefficients of the Cephes library's logf, sinf and cosf, highest power first; `simd::normals` uses them too.
pub(crate) const LN: [f32; 9] = [
    7.037_683_6e-2,
    -1.151_461e-1,
    1.167_699_9e-1,
    -1.242_014_1e-1,
    1.424_932_3e-1,
    -1.666_805_8e-1,
    2.000_071_5e-1,
    -2.499_999_4e-1,
    3.333_333e-1,
];
pub(crate) const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
pub(crate) const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];

#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut p = coefficients[0];
    for c in &coefficients[1..] {
        p = p.mul_add(x, *c);
    }
    p
}

/// Natural logarithm of a number in [2^-33, 1]; absolute error below 2e-7 relative to the result.
#[inline(always)]
fn ln_unit(u: f32) -> f32 {
    // Split u = m·2^e with m in [sqrt(1/2), sqrt(2)).
    let bits = u.to_bits();
    let shifted = bits.wrapping_sub(0x3F35_04F3);
    let exponent = (shifted as i32) >> 23;
    let m = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(0x3F35_04F3));
    let x = m - 1.0;
    let z = x * x;
    let p = polynomial(x, LN);
    let e = exponent as f32;
    // ln 2 in two parts, so that e·ln 2 loses no bits.
    let low = e.mul_add(-2.121_944_4e-4, (p * x).mul_add(z, -0.5 * z));
    e.mul_add(355.0 / 512.0, x + low)
}

/// Sine and cosine of 2π·b/2^32.
#[inline(always)]
fn sin_cos_turn(b: u32) -> (f32, f32) {
    // The nearest quarter turn, and the signed rest in (-1/8, 1/8] of a turn.
    let quarter = b.wrapping_add(1 << 29) >> 30;
    let rest = b.wrapping_sub(quarter << 30) as i32;
    let x = rest as f32 * (std::f32::consts::TAU / 4_294_967_296.0);
    let z = x * x;
    let s = polynomial(z, SIN);
    let sin = (s * z).mul_add(x, x);
    let c = polynomial(z, COS);
    let cos = (c * z).mul_add(z, (-0.5_f32).mul_add(z, 1.0));
    let swap = quarter & 1 == 1;
    let (sin, cos) = if swap { (cos, -sin) } else { (sin, cos) };
    if quarter & 2 == 2 { (-sin, -cos) } else { (sin, cos) }
}

/// A seeded permutation of `0..order.len()` into `order` (Fisher and Yates), without allocating.
pub fn permutation(address: Address, order: &mut [u32]) {
    for (i, slot) in order.iter_mut().enumerate() {
        *slot = i as u32;
    }
    for i in (1..order.len()).rev() {
        order.swap(i, address.below(i, i + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_authors_known_answers() {
        // Random123, kat_vectors, philox4x32 10 rounds.
        assert_eq!(philox4x32([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox4x32(counter, 0x299f_31d0_a409_3822), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn normals_match_box_muller_in_f64() {
        let address = Address::new(7, Purpose::Test).sample(3).step(5);
        let mut z = vec![0.0; 4099];
        address.fill_normal(&mut z);
        for (i, &value) in z.iter().enumerate() {
            let bits = address.bits((i / 4) as u32);
            let pair = i % 4 / 2 * 2;
            let u = (f64::from(bits[pair]) + 0.5) / 4_294_967_296.0;
            let (sin, cos) = (std::f64::consts::TAU * f64::from(bits[pair + 1]) / 4_294_967_296.0).sin_cos();
            let want = (-2.0 * u.ln()).sqrt() * if i % 2 == 0 { cos } else { sin };
            // u carries 24 bits, so near u = 1 the radius sqrt(-2 ln u) is known to sqrt(2^-24) only.
            let bound = 1e-6 * (1.0 + want.abs()) + if u > 0.999 { 3e-4 } else { 0.0 };
            assert!((f64::from(value) - want).abs() <= bound, "element {i}: {value} against {want}");
        }
    }

    #[test]
    fn normals_have_the_moments_of_a_standard_normal() {
        // n = 400 000, seed 1: standard errors 1/sqrt(n), sqrt(2/n), sqrt(96/n); bounds at 4.5 of them.
        let mut z = vec![0.0; 400_000];
        Address::new(1, Purpose::Test).fill_normal(&mut z);
        let n = z.len() as f64;
        let moment = |k: i32| z.iter().map(|v| f64::from(*v).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 4.5 / n.sqrt(), "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 4.5 * (2.0 / n).sqrt(), "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 4.5 * (96.0 / n).sqrt(), "fourth moment {}", moment(4));
    }

    #[test]
    fn a_part_of_the_noise_equals_the_same_part_of_the_whole() {
        let address = Address::new(9, Purpose::TrainNoise);
        let (mut whole, mut part) = (vec![0.0; 300], vec![0.0; 77]);
        address.fill_normal(&mut whole);
        address.fill_normal_from(100, &mut part);
        assert_eq!(whole[100..177], part[..]);
    }

    #[test]
    fn vector_levels_make_the_same_normals_as_plain_code() {
        // Rows: rests of every kind, block indices and keys that wrap around, many values.
        let far = 4 * (u32::MAX as usize - 20);
        for (seed, first, len) in [(11, 0, 1000), (u64::MAX - 5, far, 203), (3, 8, 63), (4, 0, 64), (5, 0, 1 << 20)] {
            let address = Address::new(seed, Purpose::Start).sample(2).step(70_000).sub_index(9);
            let (mut fast, mut plain) = (vec![0.0_f32; len], vec![0.0_f32; len]);
            address.fill_normal_from(first, &mut fast);
            fill_normals_body(address, first, &mut plain);
            let differs = (0..len).find(|&i| fast[i].to_bits() != plain[i].to_bits());
            assert_eq!(differs, None, "seed {seed}, element {first} and on");
        }
    }

    #[test]
    fn vector_levels_make_the_same_uniforms_as_plain_code() {
        let far = 4 * (u32::MAX as usize - 20);
        for (seed, first, len) in [(11, 0, 1000), (u64::MAX - 5, far, 203), (3, 8, 63), (4, 0, 64), (5, 0, 1)] {
            let address = Address::new(seed, Purpose::Dropout).sample(2).step(70_000).sub_index(9);
            let mut values = vec![0.0_f32; len];
            address.fill_uniform_from(first, &mut values);
            for (i, value) in values.iter().enumerate() {
                let want = uniform_of(address.bits((first / 4 + i / 4) as u32)[i % 4]);
                assert_eq!(value.to_bits(), want.to_bits(), "seed {seed}, element {first} and {i}");
            }
        }
    }

    #[test]
    fn permutations_hold_every_index_once_and_differ_by_epoch() {
        let (mut a, mut b) = (vec![0; 1000], vec![0; 1000]);
        permutation(Address::new(3, Purpose::Shuffle).step(0), &mut a);
        permutation(Address::new(3, Purpose::Shuffle).step(1), &mut b);
        assert_ne!(a, b);
        a.sort_unstable();
        assert!(a.iter().enumerate().all(|(i, v)| i as u32 == *v));
    }
}
