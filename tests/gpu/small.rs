//! What the case tables do not say of the smaller ops: bits that must be the CPU's, what is left alone, and memory traffic.

use super::counters::hold_after;
use super::{GPU, can_load_kernels, harness, host, normal};
use tweedie::device::Device;
use tweedie::ops::{self, AdamW, AdamWEntry};
use tweedie::rng::{Address, Purpose};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::Tensor;

fn bits(x: &Tensor) -> Vec<u32> {
    host(x).iter().map(|v| v.to_bits()).collect()
}

#[test]
fn dropout_keeps_on_the_gpu_what_it_keeps_on_the_cpu() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    for row in [1, 3, 64, 1030] {
        let x = normal(1, 3, row);
        let drop = |x: &Tensor| ops::dropout(x, 0.3, Address::new(5, Purpose::Dropout).step(2).sub_index(9)).unwrap();
        assert_eq!(bits(&drop(&x.to_device(GPU).unwrap())), bits(&drop(&x)), "row {row}");
    }
    harness::assert_clean();
}

#[test]
fn time_features_are_within_two_units_of_the_last_place_of_one() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let times: Vec<f32> = (0..=1000).map(|t| t as f32).chain([0.37, -12.5, 999.9, 1e6]).collect();
    for (dim, cos_first) in [(32, true), (9, false)] {
        let make = |device| ops::time_features(&times, dim, cos_first, 0.0, device).unwrap();
        let (got, want) = (host(&make(GPU)), host(&make(Device::Cpu)));
        let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
        assert!(worst <= 2.0 * f32::EPSILON && got.iter().all(|v| v.is_finite()), "{worst:e}");
    }
    harness::assert_clean();
}

#[test]
fn thresholds_are_the_bits_of_the_cpu_and_nan_stays_nan() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    for (row, ratio) in [(1, 0.5), (5, 0.3), (700, 0.995), (2100, 0.9)] {
        let mut x = normal(4, 3, row);
        x.host_mut::<f32>().unwrap().iter_mut().for_each(|v| *v *= 4.0);
        if row == 700 {
            let values = x.host_mut::<f32>().unwrap();
            (values[3], values[4], values[5], values[800]) = (f32::NAN, f32::INFINITY, -0.0, f32::NAN);
        }
        let bound = |x: &Tensor| ops::dynamic_threshold(x.clone(), ratio, 6.0).unwrap();
        let (got, want) = (bound(&x.to_device(GPU).unwrap()), bound(&x));
        for (i, (g, w)) in host(&got).iter().zip(host(&want)).enumerate() {
            assert!(g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(), "row {row}, element {i}: {g}, CPU {w}");
        }
    }
    harness::assert_clean();
}

#[test]
fn an_update_leaves_everything_alone_where_the_norm_is_not_finite_and_shared_memory_apart() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let settings = AdamW {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        adam_eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_clip: 1.0,
        ema_decay: 0.5,
    };
    let there = |seed| normal(seed, 1, 5000).to_device(GPU).unwrap();
    let loss = Tensor::from_slice(&[1.0_f32], [1]).unwrap().to_device(GPU).unwrap();
    let (mut param, mut grad) = (there(1), normal(2, 1, 5000));
    let (mut ema, first, mut m, mut v) = (param.clone(), param.clone(), there(3), there(3));
    let before = bits(&param);
    for bad in [true, false] {
        if bad {
            grad.host_mut::<f32>().unwrap()[4999] = f32::INFINITY;
        } else {
            grad.host_mut::<f32>().unwrap()[4999] = 0.0;
        }
        let grad = grad.to_device(GPU).unwrap();
        let norm = ops::grad_norm([&grad]).unwrap();
        let entry = AdamWEntry { param: &mut param, grad: &grad, m: &mut m, v: &mut v, ema: &mut ema };
        ops::adamw([entry], &settings, &loss, &norm).unwrap();
        assert_eq!(norm.is_finite().unwrap(), !bad);
        assert_eq!(bits(&param) == before && bits(&ema) == before, bad);
        // A copy that was made before is not written to.
        assert_eq!(bits(&first), before);
    }
    assert_ne!(bits(&param), bits(&ema));
    harness::assert_clean();
}

fn image(seed: u64, sizes: [usize; 4]) -> Tensor {
    let row = sizes[1] * sizes[2] * sizes[3];
    normal(seed, sizes[0], row).view(sizes).unwrap().to_device(GPU).unwrap().with_grad(true)
}

/// Gradients of `y`, all ones.
fn backward(body: impl FnOnce() -> tweedie::Result<Tensor>) -> Grads {
    let (y, tape) = Tape::record(body).unwrap();
    let mut grads = Grads::new();
    let ones = Tensor::from_slice(&vec![1.0_f32; y.count()], y.shape()).unwrap();
    tape.backward(&y, ones.to_device(y.device()).unwrap(), &mut grads).unwrap();
    grads
}

#[test]
fn kernels_move_their_inputs_and_outputs_once() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let sizes = [4, 16, 16, 24];
    let (x, y) = (image(1, sizes), image(2, sizes));
    let bytes = 4 * x.count();
    hold_after("pointwise_silu", "4x16x16x24", 2 * bytes, || drop(ops::silu(&x).unwrap()));
    hold_after("pointwise_silu_backward", "4x16x16x24", 3 * bytes, || drop(backward(|| ops::silu(&x))));
    hold_after("pointwise_add", "4x16x16x24", 3 * bytes, || drop(ops::add(&x, &y).unwrap()));
    hold_after("pointwise_affine", "4x16x16x24", 2 * bytes, || drop(ops::affine(&x, 2.0, 1.0).unwrap()));
    // A tensor that is used twice: its second gradient is added to the first.
    hold_after("pointwise_accumulate", "4x16x16x24", 3 * bytes, || {
        drop(backward(|| ops::add(&ops::silu(&x)?, &ops::silu(&x)?)))
    });
    hold_after("concat_join", "4x16x16x24", 4 * bytes, || drop(ops::concat_channels(&x, &y).unwrap()));
    hold_after("concat_part", "4x16x16x24", 4 * bytes, || drop(backward(|| ops::concat_channels(&x, &y))));
    hold_after("concat_part", "4x16x16x24", 2 * bytes / 3, || drop(ops::slice_channels(&x, 8, 8).unwrap()));
    hold_after("concat_widen", "4x16x16x8", bytes + bytes / 3, || drop(backward(|| ops::slice_channels(&x, 8, 8))));
    hold_after("resample_nearest", "4x16x16x24", 5 * bytes, || drop(ops::upsample_nearest(&x, 32, 32).unwrap()));
    hold_after("resample_nearest_backward", "4x16x16x24", 5 * bytes, || {
        drop(backward(|| ops::upsample_nearest(&x, 32, 32)))
    });
    hold_after("resample_mean", "4x16x16x24", bytes + bytes / 4, || drop(ops::mean_pool2(&x).unwrap()));
    hold_after("resample_mean_backward", "4x16x16x24", bytes + bytes / 4, || drop(backward(|| ops::mean_pool2(&x))));
    let address = Address::new(5, Purpose::Dropout);
    hold_after("dropout_forward", "4x16x16x24", 2 * bytes, || drop(ops::dropout(&x, 0.3, address).unwrap()));
    let factors = [0.5; 4];
    hold_after("blend_forward", "4x16x16x24", 3 * bytes, || {
        drop(ops::blend(&x, &factors, Some((&y, &factors))).unwrap())
    });
    hold_after("dynamic_threshold_forward", "4x16x16x24", 2 * bytes, || {
        drop(ops::dynamic_threshold(x.clone(), 0.9, 9.0).unwrap())
    });
    hold_after("weighted_mse_partial", "4x16x16x24", 2 * bytes, || drop(ops::weighted_mse(&x, &y, &[1.0; 4]).unwrap()));
    let loss = || Ok(ops::weighted_mse(&x, &y, &[1.0; 4])?.0);
    hold_after("weighted_mse_backward", "4x16x16x24", 3 * bytes, || drop(backward(loss)));
    hold_after("reduce_partial", "4x16x16x24", 2 * bytes, || drop(ops::grad_norm([&x, &y]).unwrap()));

    let table = normal(3, 64, 512).to_device(GPU).unwrap().with_grad(true);
    let indices: Vec<u32> = (0..48).collect();
    let rows = 48 * 512 * 4;
    hold_after("embed_lookup", "48 of 64x512", 2 * rows, || drop(ops::embed(&table, &indices).unwrap()));
    hold_after("embed_backward", "48 of 64x512", rows + 64 * 512 * 4, || {
        drop(backward(|| ops::embed(&table, &indices)))
    });
    hold_after("fourier_features", "256x128", 4 * (256 * 128 + 256 + 64), || {
        drop(ops::time_features(&[1.5; 256], 128, true, 0.0, GPU).unwrap());
    });

    let settings = AdamW {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        adam_eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_clip: 1.0,
        ema_decay: 0.5,
    };
    let loss = Tensor::from_slice(&[1.0_f32], [1]).unwrap().to_device(GPU).unwrap();
    let [mut param, grad, mut m, mut v, mut ema] = [1, 2, 3, 3, 1].map(|seed| image(seed, sizes));
    let norm = ops::grad_norm([&grad]).unwrap();
    hold_after("adamw_update", "24576 parameters", 9 * bytes, || {
        let entry = AdamWEntry { param: &mut param, grad: &grad, m: &mut m, v: &mut v, ema: &mut ema };
        ops::adamw([entry], &settings, &loss, &norm).unwrap();
    });
    harness::assert_clean();
}
