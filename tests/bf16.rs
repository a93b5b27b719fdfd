//! Activations and products in bf16: every op against its f64 oracle, the whole network against itself in f32, and bits that depend neither
//! on threads nor on the batch.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers are test code too.

use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::device::Device;
use tweedie::nn::{BlockType, Mode, Params, Precision, UNet, UNetConfig, initialise};
use tweedie::ops::cases::{conv2d, linear};
use tweedie::ops::{self, Conv, case_tables};
use tweedie::rng::{Address, Purpose};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::{Dtype, Shape, Tensor};
use tweedie::testing::{Case, relative_error};
use tweedie::train::Trainer;

fn normal(shape: &[usize], seed: u64) -> Tensor {
    let mut values = vec![0.0_f32; shape.iter().product()];
    Address::new(seed, Purpose::Test).fill_normal(&mut values);
    Tensor::from_slice(&values, Shape::from(shape)).unwrap()
}

// ---- ops ----

/// The inputs of a case that are activations, and how often a value or its gradient is rounded to bf16; `None` for ops that stay f32.
fn activations(case: &Case) -> Option<(Vec<usize>, usize)> {
    let all = || (0..case.inputs.len()).collect();
    match case.op {
        // The result, or the input's gradient.
        "conv2d" => Some(([0, 4].into_iter().filter(|i| *i < case.inputs.len()).collect(), 1)),
        "linear" => Some(([0, 3].into_iter().filter(|i| *i < case.inputs.len()).collect(), 1)),
        // dz is rounded, then dx, whose terms slope·dz may be twice as large as dx itself.
        "group_norm" if case.label.contains('+') => Some((vec![0, 1], 3)),
        "group_norm" => Some((vec![0], 3)),
        "project" => Some((vec![0, 1], 1)),
        // y is rounded before its product with dy is taken off every term of the scores' gradient.
        "attention" => Some((all(), 4)),
        // The inner sum, which may be larger, and the outer one.
        "add" => Some((all(), 3)),
        "affine" | "concat" | "slice" | "upsample" | "mean_pool2" | "dropout" => Some((all(), 1)),
        _ => None,
    }
}

#[test]
fn every_row_of_the_ops_of_a_network_agrees_with_its_oracle_in_bf16() {
    let down = |pad_before| Conv { stride: 2, pad_before, pad_after: [1; 2] };
    let conv = |x, c_out, k, conv| conv2d::case(conv2d::Row { x, c_out, k, conv, extras: true }, 300);
    // More pixels than a round of the weight's gradient, which ends inside an image; more than two panels and blocks of rows.
    let more = [
        conv([2, 40, 30, 3], 9, 3, Conv::same(3)),
        conv([3, 41, 43, 2], 5, 3, down(0)),
        conv([1, 30, 31, 34], 65, 1, Conv::same(1)),
        linear::case(1100, 6, 5, true, 301),
        linear::case(2, 65, 131, true, 302),
    ];
    let tables = case_tables().into_iter().flat_map(|(_, cases)| cases);
    // Of numbers about 1000 bf16 keeps every fourth: their deviations are gone before the op begins.
    let cases: Vec<Case> = tables.filter(|case| !case.label.contains("offset 1000")).chain(more).collect();
    let mut rooms = std::collections::BTreeSet::new();
    let mut failures = Vec::new();
    for case in cases {
        if let Some((activations, roundings)) = activations(&case) {
            rooms.insert(case.op);
            failures.extend(case.check_bf16(&activations, roundings).err());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(rooms.len(), 12, "{rooms:?}");
}

#[test]
fn casts_round_to_nearest_even_and_their_gradient_is_cast_back() {
    // 1 + 2^-8 and 1 + 3·2^-8 lie between two neighbours each.
    let x =
        Tensor::from_slice(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -1e30, f32::INFINITY], [4]).unwrap().with_grad(true);
    let (y, tape) = Tape::record(|| ops::cast(&x, Dtype::Bf16)).unwrap();
    let back = ops::cast(&y, Dtype::F32).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(back, [1.0, 1.0 + 4.0 / 256.0, half::bf16::from_f32(-1e30).to_f32(), f32::INFINITY]);
    let mut grads = Grads::new();
    let dy = ops::cast(&normal(&[4], 1), Dtype::Bf16).unwrap();
    tape.backward(&y, dy.clone(), &mut grads).unwrap();
    assert_eq!(
        grads.get(&x).unwrap().to_vec::<f32>().unwrap(),
        ops::cast(&dy, Dtype::F32).unwrap().to_vec::<f32>().unwrap()
    );
    let wide = Tensor::from_slice(&[1.0_f64], [1]).unwrap();
    assert!(ops::cast(&wide, Dtype::Bf16).unwrap_err().to_string().contains("from F64 to Bf16"));
}

#[test]
fn an_op_with_inputs_of_two_precisions_says_which_it_wants() {
    let x = ops::cast(&normal(&[1, 2, 2, 2], 1), Dtype::Bf16).unwrap();
    let y = normal(&[1, 2, 2, 2], 2);
    for error in [ops::concat_channels(&x, &y).unwrap_err(), ops::add(&x, &y).unwrap_err()] {
        assert!(error.to_string().contains("expected elements of type Bf16, got F32"), "{error}");
    }
}

// ---- networks ----

/// The cifar10 network's blocks in small: two levels, attention, scale-shift or not.
fn network(scale_shift: bool) -> UNetConfig {
    let kinds = [BlockType::Plain, BlockType::Attention];
    UNetConfig {
        in_channels: 3,
        out_channels: 3,
        block_out_channels: vec![32, 64],
        down_block_types: kinds.to_vec(),
        up_block_types: kinds.into_iter().rev().collect(),
        layers_per_block: 1,
        attention_head_dim: Some(32),
        norm_num_groups: 8,
        scale_shift,
        ..UNetConfig::default()
    }
}

/// The output, and the gradients of ⟨output, dy⟩ by x and every parameter.
fn run(unet: &UNet, params: &Params, x: &Tensor, dy: &Tensor) -> (Vec<f32>, Vec<Vec<f32>>) {
    let times: Vec<f32> = (0..x.shape()[0]).map(|i| (137 * i % 1000) as f32).collect();
    let (y, tape) = Tape::record(|| unet.forward(params, x, &times, None, Mode::Inference)).unwrap();
    let mut grads = Grads::new();
    tape.backward(&y, dy.clone(), &mut grads).unwrap();
    let tensors = std::iter::once(x).chain(params.tensors());
    let found = tensors.map(|t| grads.get(t).unwrap().to_vec::<f32>().unwrap()).collect();
    (y.to_vec().unwrap(), found)
}

#[test]
fn a_network_in_bf16_gives_the_output_and_gradients_of_f32_up_to_its_roundings() {
    for (scale_shift, seed) in [(false, 400), (true, 401)] {
        let config = network(scale_shift);
        let plain = UNet::new(&config).unwrap();
        let params = initialise(plain.specs(), seed).unwrap();
        let (x, dy) = (normal(&[2, 10, 12, 3], seed).with_grad(true), normal(&[2, 10, 12, 3], seed + 9));
        let (want, want_grads) = run(&plain, &params, &x, &dy);
        let unet = UNet::new(&config).unwrap().with_precision(Precision::Bf16);
        let (got, got_grads) = run(&unet, &params, &x, &dy);
        // About 40 roundings of activations and weights lie on the way of a value, independent, each of a root mean square of 2^-8/√12
        // relative to the next power of two: together 0.7 %. Norms and residual sums neither shrink nor swell them much; three times that is the bound.
        let error = relative_error(&got, &want);
        println!("output {error:.2e}");
        assert!(error <= 0.02, "scale_shift {scale_shift}: the output is off by {error:.2e}");
        assert!(error >= 1e-4, "scale_shift {scale_shift}: off by {error:.2e} only, so bf16 was not used");
        // All gradients as one vector: twice as many roundings, forward and back.
        let error = relative_error(&got_grads.concat(), &want_grads.concat());
        println!("gradients {error:.2e}");
        assert!(error <= 0.04, "scale_shift {scale_shift}: gradients are off by {error:.2e}");
        for (i, (got, want)) in got_grads.iter().zip(&want_grads).enumerate() {
            let name = if i == 0 { "x" } else { &plain.specs()[i - 1].name };
            // A key's bias shifts all scores of a query alike: its gradient is 0 but for rounding.
            if name.ends_with("to_k.bias") {
                continue;
            }
            let error = relative_error(got, want);
            assert!(error <= 0.15, "scale_shift {scale_shift}: the gradient of {name} is off by {error:.2e}");
        }
    }
}

#[test]
fn bits_depend_neither_on_threads_nor_on_the_batch() {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    let unet = UNet::new(&network(false)).unwrap().with_precision(Precision::Bf16);
    let params = initialise(unet.specs(), 5).unwrap();
    let (x, dy) = (normal(&[5, 13, 11, 3], 6).with_grad(true), normal(&[5, 13, 11, 3], 7));
    let results = [1, 2, 3, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (y, grads) = pool.install(|| run(&unet, &params, &x, &dy));
        (bits(&y), grads.iter().map(|g| bits(g)).collect::<Vec<_>>())
    });
    for (result, threads) in results[1..].iter().zip([2, 3, 5]) {
        assert!(*result == results[0], "{threads} threads change bits");
    }
    let times: Vec<f32> = (0..5).map(|i| (137 * i % 1000) as f32).collect();
    let all = &results[0].0;
    for i in 0..5 {
        // Outside a recording, where packed weights are kept, and twice, so that kept ones are used.
        for _ in 0..2 {
            let one = unet.forward(&params, &x.rows(i, 1).unwrap(), &times[i..=i], None, Mode::Inference).unwrap();
            let one = bits(one.host().unwrap());
            assert!(all[i * one.len()..][..one.len()] == one, "image {i} alone has other bits");
        }
    }
}

#[test]
fn training_in_bf16_lowers_the_loss_as_f32_does() {
    let data = Dataset::load("digits", 0).unwrap();
    let mean_of_last = |precision: &str| {
        let config = TrainConfig {
            batch: 16,
            warmup_steps: 5,
            lr: 2e-3,
            block_out_channels: vec![8, 16],
            attention_head_dim: 8,
            norm_num_groups: 4,
            precision: precision.into(),
            ..TrainConfig::preset("digits").unwrap()
        };
        let mut trainer = Trainer::new(&config, &data, Device::Cpu).unwrap();
        let losses: Vec<f64> = (0..80).map(|_| trainer.train_step().unwrap().loss).collect();
        (losses[0], losses[60..].iter().sum::<f64>() / 20.0)
    };
    let ((first, plain), (first_bf16, bf16)) = (mean_of_last("f32"), mean_of_last("bf16"));
    println!("{first:.5} to {plain:.5}, in bf16 {first_bf16:.5} to {bf16:.5}");
    assert!(first_bf16 != first, "bf16 changed nothing");
    assert!(bf16 < 0.7 * first_bf16, "{first_bf16} to {bf16}");
    // The same seed has the same data, times and noise, so runs differ by bf16 alone. Between seeds the mean of 20 losses of 16 images
    // varies by some 5 %.
    assert!((bf16 / plain - 1.0).abs() < 0.05, "f32 ends at {plain}, bf16 at {bf16}");
}
