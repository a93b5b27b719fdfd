//! group_norm and attention beyond their case tables: NaN, one image in many blocks, bits of a batch, counters against floors.

use super::counters::{Of, hold};
use super::{GPU, can_load_kernels, harness, host};
use tweedie::Result;
use tweedie::device::Device;
use tweedie::ops::{Film, GroupNorm, attention, group_norm};
use tweedie::rng::{Address, Purpose};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::{Shape, Tensor};
use tweedie::testing::{compare, tolerance};

fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0_f32; count];
    Address::new(seed, Purpose::Test).fill_normal(&mut values);
    values
}

fn normal(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    Tensor::from_slice(&values(seed, shape.count()), shape).unwrap()
}

/// The op's result and the gradients of its inputs on a device; `inputs` and `dy` are on the host.
fn run(device: Device, inputs: &[Tensor], dy: &Tensor, op: impl Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Vec<f32>> {
    let there: Vec<Tensor> = inputs.iter().map(|t| t.to_device(device).unwrap().with_grad(true)).collect();
    let (y, tape) = Tape::record(|| op(&there)).unwrap();
    let mut grads = Grads::new();
    tape.backward(&y, dy.to_device(device).unwrap(), &mut grads).unwrap();
    std::iter::once(&y).chain(there.iter().map(|t| grads.get(t).unwrap())).map(host).collect()
}

fn norm_inputs(shape: [usize; 4]) -> Vec<Tensor> {
    let [n, .., c] = shape;
    vec![normal(1, shape), normal(2, [c]), normal(3, [c]), normal(4, [n, c]), normal(5, [n, c])]
}

fn norm_of(groups: usize) -> impl Fn(&[Tensor]) -> Result<Tensor> {
    let norm = GroupNorm { groups, norm_eps: 1e-5, silu: true };
    move |t| group_norm(&t[0], &t[1], &t[2], Some(Film { scale: &t[3], shift: &t[4] }), norm)
}

fn attention_of(heads: usize) -> impl Fn(&[Tensor]) -> Result<Tensor> {
    move |t| attention(&t[0], &t[1], &t[2], heads)
}

/// The tensor with a NaN at one place.
fn spoilt(t: &Tensor, at: usize) -> Tensor {
    let mut values = t.to_vec::<f32>().unwrap();
    values[at] = f32::NAN;
    Tensor::from_slice(&values, t.shape()).unwrap()
}

fn are_nan(values: &[f32]) -> Vec<bool> {
    values.iter().map(|v| v.is_nan()).collect()
}

/// A NaN in any input, and in dy, makes NaN of the same values as on the CPU.
fn hold_nan(inputs: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor>, what: &str) {
    let dy = normal(9, inputs[0].shape());
    for i in 0..=inputs.len() {
        let (mut bad, mut bad_dy) = (inputs.to_vec(), dy.clone());
        let target = if i < inputs.len() { &mut bad[i] } else { &mut bad_dy };
        *target = spoilt(target, target.count() - 2);
        let [got, want] = [GPU, Device::Cpu].map(|device| run(device, &bad, &bad_dy, &op));
        assert!(want.iter().flatten().any(|v| v.is_nan()));
        for (j, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(are_nan(got), are_nan(want), "{what}: NaN in input {i}, result {j}");
        }
    }
}

#[test]
fn nan_in_any_input_reaches_what_it_reaches_on_the_cpu() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    for (shape, groups) in [([2, 3, 3, 8], 2), ([2, 3, 3, 6], 2), ([2, 2, 3, 514], 2)] {
        hold_nan(&norm_inputs(shape), norm_of(groups), &format!("group_norm {shape:?}"));
    }
    for (t, heads, d) in [(5, 2, 4), (66, 1, 40), (3, 1, 260)] {
        let inputs: Vec<Tensor> = (0..3).map(|i| normal(i, [2, t, heads * d])).collect();
        hold_nan(&inputs, attention_of(heads), &format!("attention t {t} d {d}"));
    }
    harness::assert_clean();
}

#[test]
fn an_image_has_the_same_bits_in_every_batch() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let first = |t: &Tensor, n: usize| if t.shape()[0] == n { t.rows(0, 1).unwrap() } else { t.clone() };
    let tokens: Vec<Tensor> = (0..3).map(|i| normal(i, [3, 70, 40])).collect();
    let check = |inputs: &[Tensor], per_image: &[usize], op: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        let dy = normal(9, inputs[0].shape());
        let all = run(GPU, inputs, &dy, op);
        let one: Vec<Tensor> = inputs.iter().map(|t| first(t, 3)).collect();
        let alone = run(GPU, &one, &first(&dy, 3), op);
        for &i in per_image {
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&all[i][..alone[i].len()]), bits(&alone[i]), "result {i}");
        }
    };
    check(&tokens, &[0, 1, 2, 3], &attention_of(2));
    check(&norm_inputs([3, 5, 5, 16]), &[0, 1, 4, 5], &norm_of(4));
    check(&norm_inputs([3, 10, 9, 260]), &[0, 1, 4, 5], &norm_of(1));
    harness::assert_clean();
}

#[test]
fn group_norm_moves_its_inputs_and_outputs_once() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    // One kernel a pass for small images.
    let (shape, elements) = ([2, 16, 16, 64], 2 * 16 * 16 * 64);
    run(GPU, &norm_inputs(shape), &normal(9, shape), norm_of(8));
    hold("group_norm_whole", "2x16x16x64", 8 * elements, Of::Last);
    hold("group_norm_backward_whole", "2x16x16x64", 12 * elements, Of::Last);
    harness::assert_clean();
}

#[test]
fn group_norm_of_an_image_in_many_blocks_agrees_with_the_cpu_and_its_kernels_move_little() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    // More than 256 chunks of what a block loads at once, so that each goes on for a second time.
    let shape = [1, 129, 128, 128];
    let (inputs, dy, bytes) = (norm_inputs(shape), normal(9, shape), 4 * 129 * 128 * 128);
    let [got, want] = [GPU, Device::Cpu].map(|device| run(device, &inputs, &dy, norm_of(32)));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let want: Vec<f64> = want.iter().map(|v| f64::from(*v)).collect();
        // A value of dweight is a sum over the pixels, and both sides round.
        compare(&format!("result {i}"), got, &want, 2.0 * tolerance(129 * 128)).unwrap();
    }
    hold("group_norm_partial", "1x129x128x128", bytes, Of::Last);
    hold("group_norm_forward", "1x129x128x128", 2 * bytes, Of::Last);
    hold("group_norm_backward_sums", "1x129x128x128", 2 * bytes, Of::Last);
    hold("group_norm_backward_dx", "1x129x128x128", 3 * bytes, Of::Last);
    harness::assert_clean();
}

#[test]
fn attention_moves_its_inputs_and_outputs_once() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    for d in [8, 32, 64, 128] {
        let (t, heads) = (130, 2);
        let inputs: Vec<Tensor> = (0..3).map(|i| normal(i, [1, t, heads * d])).collect();
        run(GPU, &inputs, &normal(9, inputs[0].shape()), attention_of(heads));
        let what = format!("1x{t}, {heads} heads of {d}");
        let (tensor, row, width) = (4 * t * heads * d, 4 * t * heads, d.max(16));
        hold(&format!("attention_forward_{width}"), &what, 4 * tensor + row, Of::Last);
        hold("attention_backward_dot", &what, 2 * tensor + row, Of::Last);
        hold(&format!("attention_backward_query_{width}"), &what, 5 * tensor + 2 * row, Of::Last);
        hold(&format!("attention_backward_key_{width}"), &what, 6 * tensor + 2 * row, Of::Last);
    }
    harness::assert_clean();
}
