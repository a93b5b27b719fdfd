//! Ops on the software GPU against the same ops on the CPU: real kernels, as the build
//! compiled them or NVRTC does now, with every memory access checked.
//!
//! `cargo xtask test` fetches NVRTC where there is none; plain `cargo test` says that these could not run.
#![cfg(target_os = "linux")]
// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

#[path = "gpu/counters.rs"]
mod counters;
#[path = "gpu/gemm.rs"]
mod gemm;
#[path = "softgpu/tests/harness.rs"]
mod harness;
#[path = "gpu/network.rs"]
mod network;
#[path = "gpu/norm.rs"]
mod norm;
#[path = "common/parity.rs"]
mod parity;
#[path = "gpu/small.rs"]
mod small;

use tweedie::device::Device;
use tweedie::ops::{self, Noise, ReverseStep, StepInputs};
use tweedie::rng::{Address, Purpose};
use tweedie::tensor::{Dtype, Tensor};

const GPU: Device = Device::Cuda(0);

/// Whether kernels can be loaded here; says so if not.
fn can_load_kernels() -> bool {
    let can = tweedie::device::can_load_kernels();
    if !can {
        // Past libtest, which shows what a passing test prints to nobody.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"not run: no NVRTC; `cargo xtask test` fetches it, or name its library in TWEEDIE_NVRTC\n",
        );
        assert!(std::env::var_os("TWEEDIE_NVRTC").is_none(), "TWEEDIE_NVRTC does not name a library that loads");
    }
    can
}

/// Runs the case table of a room on the GPU, forward and backward, against its f64 oracle.
fn hold(room: &str) {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let tables = ops::case_tables();
    let (_, cases) = tables.iter().find(|(stem, _)| *stem == room).unwrap_or_else(|| panic!("no table for {room}"));
    let failures: Vec<String> = cases.iter().filter_map(|case| case.check(GPU).err()).collect();
    assert!(failures.is_empty(), "{} of {} rows fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
    harness::assert_clean();
}

/// A test for each room, so that a failure names it and one can be run alone.
macro_rules! rooms {
    ($($room:ident),* $(,)?) => {
        mod agrees_with_its_oracle_on_the_gpu {
            $(#[test]
            fn $room() {
                super::hold(stringify!($room));
            })*
        }

        #[test]
        fn every_room_with_a_table_is_run_on_the_gpu() {
            let run = [$(stringify!($room)),*];
            let tables = ops::case_tables();
            let missing: Vec<&str> = tables.iter().map(|(stem, _)| *stem).filter(|stem| !run.contains(stem)).collect();
            assert!(missing.is_empty(), "add to the list: {missing:?}");
        }
    };
}
rooms!(
    error_norm,
    pointwise,
    concat,
    resample,
    embed,
    dropout,
    fourier,
    weighted_mse,
    learned_variance,
    reduce,
    adamw,
    muon,
    blend,
    dynamic_threshold,
    select,
    set_components,
    perturb,
    reverse_step,
    linear,
    conv2d,
    group_norm,
    layer_norm,
    gated_residual,
    cross_entropy,
    score_entropy,
    posterior_kl,
    attention,
    attention_pool,
);

fn normal(seed: u64, n: usize, row: usize) -> Tensor {
    let mut values = vec![0.0_f32; n * row];
    Address::new(seed, Purpose::Test).fill_normal(&mut values);
    Tensor::from_slice(&values, [n, row]).unwrap()
}

fn host(x: &Tensor) -> Vec<f32> {
    x.to_device(Device::Cpu).unwrap().to_vec().unwrap()
}

#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor, tolerance: f32, what: &str) {
    for (i, (g, w)) in host(got).iter().zip(host(want)).enumerate() {
        assert!((g - w).abs() <= tolerance * w.abs().max(1.0), "{what}: element {i}: {g:e}, the CPU has {w:e}");
    }
}

/// Rows on each side of the kernels' branches: one value, less than a block of four, unaligned, aligned, more than a thread block.
const ROWS: [usize; 6] = [1, 3, 64, 77, 512, 1030];

#[test]
fn perturb_makes_the_noise_of_the_cpu_to_the_bit() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    for row in ROWS {
        let x0 = normal(1, 3, row);
        let address = Address::new(0x1234_5678_9abc_def0, Purpose::TrainNoise).step(7).sub_index(5);
        let (alpha, sigma, samples) = ([0.9, 0.3, 0.0], [0.1, 0.8, 1.0], [4, 0, 1_000_000]);
        let want = ops::perturb(&x0, &alpha, &sigma, address, &samples).unwrap();
        let got = ops::perturb(&x0.to_device(GPU).unwrap(), &alpha, &sigma, address, &samples).unwrap();
        assert_eq!(got.eps.device(), GPU);
        let bits = |x: &Tensor| host(x).iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(&got.eps), bits(&want.eps), "row {row}");
        // One product may be fused with the sum.
        assert_close(&got.x_t, &want.x_t, 4.0 * f32::EPSILON, &format!("row {row}"));
    }
    harness::assert_clean();
}

#[test]
fn reverse_steps_agree_with_the_cpu_in_every_branch() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    for row in ROWS {
        let [x, out, x0, past, z] = [1, 2, 3, 4, 5].map(|seed| normal(seed, 2, row));
        let there = [&x, &out, &x0, &past, &z].map(|t| t.to_device(GPU).unwrap());
        let address = Address::new(9, Purpose::ReverseStep).step(3);
        for clip in [None, Some(0.8)] {
            for (with_x0, with_past) in [(false, false), (true, false), (false, true), (true, true)] {
                for kind in 0..3 {
                    let step = ReverseStep {
                        from_x: 1.25,
                        from_out: -0.75,
                        clip,
                        to_x: 0.3,
                        to_x0: 0.5,
                        to_out: 0.2,
                        to_past: 0.7,
                        noise: 0.4,
                    };
                    let run = |[x, out, x0, past, z]: [&Tensor; 5]| {
                        let inputs = StepInputs { x0_hat: with_x0.then_some(x0), past: with_past.then_some(past) };
                        let noise = match kind {
                            0 => Noise::None,
                            1 => Noise::Given(z),
                            _ => Noise::Drawn { address, samples: &[6, 2] },
                        };
                        ops::reverse_step(x, out, inputs, &step, noise).unwrap()
                    };
                    let [a, b, c, d, e] = &there;
                    // Five products and sums of numbers below 8, fused or not.
                    let what = format!("row {row}, clip {clip:?}, x0 {with_x0}, past {with_past}, noise {kind}");
                    assert_close(&run([a, b, c, d, e]), &run([&x, &out, &x0, &past, &z]), 16.0 * f32::EPSILON, &what);
                }
            }
        }
    }
    harness::assert_clean();
}

#[test]
fn tensors_go_to_the_gpu_and_back_in_parts() {
    let _gpu = harness::gpu();
    let x = normal(3, 5, 7);
    let there = x.to_device(GPU).unwrap();
    assert!(there.host::<f32>().unwrap_err().to_string().contains("lives on cuda:0"));
    let parts = [there.rows(0, 2).unwrap(), there.rows(2, 3).unwrap()];
    let joined = Tensor::stack_rows(&parts, x.shape()).unwrap();
    assert_eq!(host(&joined), host(&x));
    assert!(there.is_finite().unwrap());
    harness::assert_clean();
}

#[test]
fn copies_go_through_pinned_memory_in_order_and_the_source_may_change_at_once() {
    let _gpu = harness::gpu();
    // Three pieces of 4 MiB and a part, so that the first piece is filled again.
    let count = 3 * (1 << 20) + 12_345;
    let mut x = Tensor::from_slice(&(0..count).map(|i| i as f32).collect::<Vec<_>>(), [count]).unwrap();
    let there = x.to_device(GPU).unwrap();
    x.host_mut::<f32>().unwrap().fill(-1.0);
    let small: Vec<Tensor> =
        (0..9).map(|i| Tensor::from_slice(&[i as f32], [1]).unwrap().to_device(GPU).unwrap()).collect();
    assert!(host(&there).iter().enumerate().all(|(i, v)| *v == i as f32));
    assert!(small.iter().enumerate().all(|(i, t)| host(t) == [i as f32]));
    harness::assert_clean();
}

#[test]
fn memory_that_does_not_suffice_is_an_error_with_what_was_asked_held_and_free() {
    let _gpu = harness::gpu();
    let held = Tensor::zeros([5 << 20], Dtype::F32, GPU).unwrap();
    let error = Tensor::zeros([3, 1 << 30], Dtype::F32, GPU).unwrap_err().to_string();
    assert!(error.starts_with("cuda:0: out of memory: 12288 MiB asked for, "), "{error}");
    assert!(error.contains(" MiB held in tensors, ") && error.ends_with("use a smaller --batch"), "{error}");
    // What was there before still works.
    assert!(host(&held).iter().all(|v| *v == 0.0));
    harness::assert_clean();
}
