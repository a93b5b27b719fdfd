//! A matmul that Triton compiled: its author and ours share no misreading of the fragment layouts.

use cudarc::driver::{CudaSlice, LaunchConfig, PushKernelArg};

use crate::harness::{assert_clean, gpu, kernel_text, report};

const M: usize = 128;
const N: usize = 192;
const K: usize = 160;

/// Numbers in (−1, 1) that bf16 holds, by a small congruential generator.
fn numbers(count: usize, mut seed: u32) -> Vec<half::bf16> {
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        half::bf16::from_f32((seed >> 8) as f32 / 8_388_608.0 - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn a_matmul_by_triton_is_right_and_clean() {
    let gpu = gpu();
    let (a, b) = (numbers(M * K, 1), numbers(K * N, 2));
    let bits = |values: &[half::bf16]| values.iter().map(|value| value.to_bits()).collect::<Vec<u16>>();
    let kernel = gpu.function(&kernel_text("matmul.ptx"), "matmul");
    let left: CudaSlice<u16> = gpu.stream.clone_htod(&bits(&a)).unwrap();
    let right: CudaSlice<u16> = gpu.stream.clone_htod(&bits(&b)).unwrap();
    let mut out: CudaSlice<f32> = gpu.stream.alloc_zeros(M * N).unwrap();
    let grid = ((M / 64) as u32, (N / 64) as u32, 1);
    let config = LaunchConfig { grid_dim: grid, block_dim: (128, 1, 1), shared_mem_bytes: 16384 };
    // Two pointers at the end are scratch memory and profiling, unused.
    let (n, k, none) = (N as i32, K as i32, 0u64);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&left).arg(&right).arg(&mut out).arg(&n).arg(&k).arg(&none).arg(&none);
    // SAFETY: the shapes are multiples of the tiles, 64 × 64 × 32.
    unsafe { launch.launch(config) }.unwrap();
    let found = gpu.stream.clone_dtoh(&out).unwrap();
    for row in 0..M {
        for column in 0..N {
            let exact: f64 =
                (0..K).map(|i| f64::from(a[row * K + i].to_f32()) * f64::from(b[i * N + column].to_f32())).sum();
            let error = (f64::from(found[row * N + column]) - exact).abs();
            // K exact products below 1 summed in f32.
            assert!(error <= K as f64 * f64::from(f32::EPSILON), "[{row}, {column}]: error {error}");
        }
    }
    assert_clean();
    let counters = &report()["kernels"]["matmul"]["last"];
    assert_eq!(counters["mma_flops"], 2 * M * N * K);
    assert_eq!(counters["shared_waves"], counters["ideal_waves"], "Triton's swizzle has no bank conflicts");
}
