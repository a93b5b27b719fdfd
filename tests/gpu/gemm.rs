//! The products under `linear` and `conv2d`: sizes too large for a table with finite differences, and what the kernels move.

use super::counters::{Of, hold};
use super::{GPU, can_load_kernels, harness};
use tweedie::device::Device;
use tweedie::ops::{Conv, ConvExtras, conv2d, linear};
use tweedie::rng::{Address, Purpose};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::Tensor;
use tweedie::testing::{compare, tolerance};

fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let mut values = vec![0.0_f32; shape.iter().product()];
    Address::new(seed, Purpose::Test).fill_normal(&mut values);
    Tensor::from_slice(&values, shape).unwrap().with_grad(true)
}

fn host(x: &Tensor) -> Vec<f32> {
    x.to_device(Device::Cpu).unwrap().to_vec().unwrap()
}

/// The result and the gradients of the inputs that have one, on the host, for a given dy.
fn results(inputs: &[Tensor], device: Device, op: &dyn Fn(&[Tensor]) -> Tensor) -> Vec<Vec<f32>> {
    let there = |x: &Tensor| x.to_device(device).unwrap().with_grad(x.requires_grad());
    let inputs: Vec<Tensor> = inputs.iter().map(there).collect();
    let mut grads = Grads::new();
    let (y, tape) = Tape::record(|| Ok(op(&inputs))).unwrap();
    let dy = normal(99, &y.shape()).to_device(device).unwrap();
    tape.backward(&y, dy, &mut grads).unwrap();
    let gradients = inputs.iter().filter(|x| x.requires_grad()).map(|x| host(grads.get(x).unwrap()));
    [host(&y)].into_iter().chain(gradients).collect()
}

/// Runs `op` forward and backward on both sides and compares; `terms` bounds the terms of any sum. Says which kernels ran.
fn agree(name: &str, inputs: &[Tensor], terms: usize, op: &dyn Fn(&[Tensor]) -> Tensor) -> Vec<String> {
    harness::reset();
    let (got, want) = (results(inputs, GPU, op), results(inputs, Device::Cpu, op));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let want: Vec<f64> = want.iter().map(|v| f64::from(*v)).collect();
        // Both sides round.
        compare(&format!("{name}: {i}"), got, &want, 2.0 * tolerance(terms)).unwrap();
    }
    harness::assert_clean();
    harness::report()["kernels"].as_object().unwrap().keys().cloned().collect()
}

#[track_caller]
fn assert_ran(kernels: &[String], wanted: &str) {
    assert!(kernels.iter().any(|kernel| kernel == wanted), "{wanted} is not among {kernels:?}");
}

#[test]
fn large_tiles_agree_with_the_cpu() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    // Gradients of few channels from many, and of the weight, are work without large tiles: only x has one, where it has large tiles.
    for (rows, c_in, c_out, kernel) in [(1531, 20, 1012, "linear_forward"), (1531, 1012, 4, "linear_backward_x")] {
        let x = normal(1, &[rows, c_in]).with_grad(kernel == "linear_backward_x");
        let inputs = [x, normal(2, &[c_out, c_in]).with_grad(false), normal(3, &[c_out]), normal(4, &[rows, c_out])];
        let op = |t: &[Tensor]| linear(&t[0], &t[1], Some(&t[2]), Some(&t[3])).unwrap();
        assert_ran(&agree(kernel, &inputs, rows, &op), kernel);
    }
    let conv = |stride, before, after| Conv { stride, pad_before: before, pad_after: [after; 2] };
    let rows = [
        (conv(1, 1, 1), [2, 27, 29, 4], [1012, 3, 3], "conv2d_forward"),
        (conv(1, 1, 1), [2, 27, 29, 1012], [4, 1, 2], "conv2d_backward_x"),
        (conv(2, 0, 1), [2, 27, 29, 1012], [4, 2, 1], "conv2d_backward_x"),
    ];
    for (conv, shape, [c_out, kh, kw], kernel) in rows {
        let [n, h, w, c_in] = shape;
        let out = |size: usize, k: usize| (size + conv.pad_before + conv.pad_after[0] - k) / conv.stride + 1;
        let y = [n, out(h, kh), out(w, kw), c_out];
        let x = normal(1, &shape).with_grad(kernel == "conv2d_backward_x");
        let weight = normal(2, &[c_out, kh, kw, c_in]).with_grad(false);
        let inputs = [x, weight, normal(3, &[c_out]), normal(4, &[n, c_out]), normal(5, &y)];
        let op = |t: &[Tensor]| {
            let extras = ConvExtras { per_image: Some(&t[3]), residual: Some(&t[4]) };
            conv2d(&t[0], &t[1], Some(&t[2]), conv, extras).unwrap()
        };
        assert_ran(&agree(kernel, &inputs, kh * kw * c_in + y[0] * y[1] * y[2], &op), kernel);
    }
}

#[test]
fn more_images_than_a_grid_has_rows_are_convolved() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let n = 65_537;
    let inputs = [
        normal(1, &[n, 2, 1, 4]),
        normal(2, &[4, 1, 2, 4]).with_grad(false),
        normal(3, &[4]),
        normal(4, &[n, 4]),
        normal(5, &[n, 3, 2, 4]),
    ];
    let conv = Conv { stride: 1, pad_before: 1, pad_after: [0, 1] };
    agree("many images", &inputs, 4 * n, &|t| {
        conv2d(&t[0], &t[1], Some(&t[2]), conv, ConvExtras { per_image: Some(&t[3]), residual: Some(&t[4]) }).unwrap()
    });
}

#[test]
fn products_move_their_inputs_and_outputs_once() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let (rows, c_in, c_out) = (1024, 64, 96);
    let inputs = [normal(1, &[rows, c_in]), normal(2, &[c_out, c_in]), normal(3, &[c_out]), normal(4, &[rows, c_out])];
    agree("linear", &inputs, rows, &|t| linear(&t[0], &t[1], Some(&t[2]), Some(&t[3])).unwrap());
    let (x, y, weight) = (rows * c_in, rows * c_out, c_out * c_in);
    let what = format!("{rows}x{c_in} to {c_out}");
    hold("linear_forward_small", &what, 4 * (x + weight + c_out + 2 * y), Of::All);
    hold("linear_backward_x_small", &what, 4 * (x + weight + y), Of::All);
    // Four ranges of 256 rows; then those of dweight and the eight of dbias are added.
    hold("linear_backward_weight_small", &what, 4 * (x + y + 4 * weight), Of::All);
    hold("linear_sum_rows", &what, 4 * (5 * weight + y + 2 * 8 * c_out + c_out), Of::All);

    for (conv, size_out, c_in, c_out, tile) in [
        (Conv::same(3), 16, 32, 40, "_small"),
        (Conv { stride: 2, pad_before: 1, pad_after: [1; 2] }, 8, 32, 40, "_small"),
        (Conv::same(3), 16, 72, 136, ""),
    ] {
        let inputs = [
            normal(1, &[2, 16, 16, c_in]),
            normal(2, &[c_out, 3, 3, c_in]),
            normal(3, &[c_out]),
            normal(4, &[2, c_out]),
            normal(5, &[2, size_out, size_out, c_out]),
        ];
        agree("conv2d", &inputs, 9 * c_out, &|t| {
            conv2d(&t[0], &t[1], Some(&t[2]), conv, ConvExtras { per_image: Some(&t[3]), residual: Some(&t[4]) })
                .unwrap()
        });
        let what = format!("2x16x16x{c_in} to {c_out}, stride {}", conv.stride);
        let (x, y, weight) = (512 * c_in, 2 * size_out * size_out * c_out, 9 * c_out * c_in);
        hold("conv2d_forward_small", &what, 4 * (x + weight + c_out + 2 * c_out + 2 * y), Of::All);
        hold("conv2d_backward_x_small", &what, 4 * (x + weight + y), Of::All);
        let chunks = (2 * size_out * size_out).div_ceil(256);
        hold(&format!("conv2d_backward_weight{tile}"), &what, 4 * (x + y + chunks * weight), Of::All);
    }

    // Few output channels: the narrow tiles.
    for (c_in, c_out) in [(8, 8), (32, 16), (64, 8)] {
        let inputs = [normal(1, &[2, 16, 16, c_in]), normal(2, &[c_out, 3, 3, c_in]), normal(3, &[c_out])];
        agree("conv2d", &inputs, 9 * c_out, &|t| {
            conv2d(&t[0], &t[1], Some(&t[2]), Conv::same(3), ConvExtras::default()).unwrap()
        });
        let what = format!("2x16x16x{c_in} to {c_out}");
        let (x, y, weight) = (512 * c_in, 512 * c_out, 9 * c_out * c_in);
        hold("conv2d_forward_narrow", &what, 4 * (x + weight + c_out + y), Of::All);
        hold("conv2d_backward_weight_shallow", &what, 4 * (x + y + 2 * weight), Of::All);
    }
}
