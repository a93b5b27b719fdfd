//! CUDA's mathematical functions as NVRTC writes them out, against the same in f64: long sequences of real instructions, with
//! tables in constant memory, arrays in local memory and calls.

use cudarc::driver::{CudaSlice, PushKernelArg};

use crate::harness::{assert_clean, gpu, kernel_text, lines};

/// Name, function, error in units in the last place (CUDA C++ programming guide, table of maximum errors, and one more).
type Row = (&'static str, fn(f64) -> f64, f64);

const F32: &[Row] = &[
    ("expf", f64::exp, 3.0),
    ("logf", |x| x.abs().ln(), 2.0),
    ("sinf", f64::sin, 3.0),
    ("cosf", f64::cos, 3.0),
    ("tanhf", f64::tanh, 3.0),
    ("erff", erf, 3.0),
    ("sqrtf", |x| x.abs().sqrt(), 1.0),
    ("rsqrtf", |x| 1.0 / x.abs().sqrt(), 3.0),
    ("powf", |x| x.abs().powf(f64::from(1.7f32)), 9.0),
    ("fmodf", |x| x % 0.75, 1.0),
    ("exp2f", f64::exp2, 3.0),
    ("log1pf", |x| x.abs().ln_1p(), 2.0),
    ("expm1f", f64::exp_m1, 2.0),
    ("rintf", f64::round_ties_even, 0.0),
    ("floorf", f64::floor, 0.0),
    ("division", |x| x / f64::from(3.7f32), 1.0),
    ("sinf of a large argument", |x| f64::from(x as f32 * 30000.0).sin(), 3.0),
    ("cbrtf", f64::cbrt, 2.0),
    ("__expf", f64::exp, 24.0), // 2 + |1.173 x|, and |x| < 17
    ("atan2f", |x| x.atan2(2.0), 4.0),
    ("roundf", f64::round, 0.0),
    ("reciprocal", |x| 1.0 / x, 1.0),
];

const F64: &[Row] = &[
    ("exp", f64::exp, 2.0),
    ("log", |x| x.abs().ln(), 2.0),
    ("sqrt", |x| x.abs().sqrt(), 0.0),
    ("division", |x| x / 3.7, 0.0),
    ("reciprocal", |x| 1.0 / x, 0.0),
    ("tanh", f64::tanh, 3.0),
    ("pow", |x| x.abs().powf(1.7), 3.0),
    ("floor", f64::floor, 0.0),
    ("to integer and back", f64::trunc, 0.0),
    ("erf", erf, 1e5), // the oracle below is good to 1e-11
];

/// The series for small arguments, the continued fraction for large ones.
fn erf(x: f64) -> f64 {
    let square = x * x;
    if x.abs() < 3.0 {
        let mut term = x;
        let mut sum = x;
        for n in 1..80 {
            term *= -square / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 2.0 / std::f64::consts::PI.sqrt() * sum;
    }
    let fraction = (1..60).rev().fold(0.0, |rest, n| f64::from(n) / 2.0 / (x.abs() + rest));
    (1.0 - (-square).exp() / std::f64::consts::PI.sqrt() / (x.abs() + fraction)).copysign(x)
}

/// Arguments in (−17, 17), none of them 0.
fn arguments(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 - 255.5) / 15.1).collect()
}

#[test]
fn single_precision_functions_keep_cudas_error_bounds() {
    let gpu = gpu();
    let x = arguments(512);
    let kernel = gpu.function(&kernel_text("math.ptx"), "math_f32");
    let input: CudaSlice<f32> = gpu.stream.clone_htod(&x).unwrap();
    let mut out: CudaSlice<f32> = gpu.stream.alloc_zeros(512 * 24).unwrap();
    // SAFETY: 512 threads on 512 elements of 24 functions.
    unsafe { gpu.stream.launch_builder(&kernel).arg(&mut out).arg(&input).arg(&512i32).launch(lines(4, 128)) }.unwrap();
    let found = gpu.stream.clone_dtoh(&out).unwrap();
    for (k, (name, function, bound)) in F32.iter().enumerate() {
        for (i, &x) in x.iter().enumerate() {
            let (found, exact) = (found[i + 512 * k], function(f64::from(x)));
            let ulp = f64::from((exact as f32).abs().next_up() - (exact as f32).abs());
            let error = (f64::from(found) - exact).abs();
            assert!(error <= (bound + 0.5) * ulp, "{name}({x}) is {exact}, found {found}: {} ulp", error / ulp);
        }
    }
    let weights = [0.5, -1.25, 2.0, 1e-3f32];
    assert!((0..512).all(|i| found[i + 512 * 22] == weights[i % 4] * x[i]), "a table in constant memory");
    assert!((0..512).all(|i| found[i + 512 * 23] == (i / 7) as f32), "an integer division");
    assert_clean();
}

#[test]
fn double_precision_functions_and_calls_are_right() {
    let gpu = gpu();
    let x: Vec<f64> = arguments(512).into_iter().map(f64::from).collect();
    let kernel = gpu.function(&kernel_text("math.ptx"), "math_f64");
    let input: CudaSlice<f64> = gpu.stream.clone_htod(&x).unwrap();
    let mut out: CudaSlice<f64> = gpu.stream.alloc_zeros(512 * 10).unwrap();
    // SAFETY: 512 threads on 512 elements of 10 functions.
    unsafe { gpu.stream.launch_builder(&kernel).arg(&mut out).arg(&input).arg(&512i32).launch(lines(4, 128)) }.unwrap();
    let found = gpu.stream.clone_dtoh(&out).unwrap();
    for (k, (name, function, bound)) in F64.iter().enumerate() {
        for (i, &x) in x.iter().enumerate() {
            let (found, exact) = (found[i + 512 * k], function(x));
            let ulp = exact.abs().next_up() - exact.abs();
            let error = (found - exact).abs();
            assert!(error <= (bound + 0.5) * ulp, "{name}({x}) is {exact}, found {found}: {} ulp", error / ulp);
        }
    }
    let kernel = gpu.function(&kernel_text("math.ptx"), "math_called");
    let x = [2.0f32, 3.0, 4.0, 5.0];
    let input: CudaSlice<f32> = gpu.stream.clone_htod(&x).unwrap();
    let mut out: CudaSlice<f32> = gpu.stream.alloc_zeros(4).unwrap();
    // SAFETY: 4 threads on 4 elements.
    unsafe { gpu.stream.launch_builder(&kernel).arg(&mut out).arg(&input).arg(&4i32).launch(lines(1, 32)) }.unwrap();
    // horner(x, {2, 3, 4}) + horner(x, {3, 4}) + 41
    let wanted = x.map(|x| (2.0 * x + 3.0) * x + 4.0 + 3.0 * x + 4.0 + 41.0);
    assert_eq!(gpu.stream.clone_dtoh(&out).unwrap(), wanted);
    assert_clean();
}
