//! The transformer against PyTorch's functions (`tests/fixtures/make_transformer.py` made the references), and against itself on other threads.

// A fixture that cannot be read fails the test that reads it.
#![allow(clippy::unwrap_used)]

#[path = "common/parity.rs"]
mod parity;

use tweedie::device::Device;
use tweedie::nn::{Mode, Params, Transformer, TransformerConfig};
use tweedie::ops;
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::Tensor;
use tweedie::testing::Array;

#[test]
fn transformers_match_pytorch_forward_and_in_every_gradient() {
    parity::assert_transformers_match(Device::Cpu);
}

/// Logits, those of a pass that is not recorded, and every gradient of a modulated network on `n` sequences of 70 tokens, computed by `threads` threads.
fn bits(threads: usize, n: usize) -> Vec<Vec<u32>> {
    let config =
        TransformerConfig { length: 70, width: 48, depth: 2, heads: 3, cond_dim: Some(8), ..Default::default() };
    let net = Transformer::new(&config).unwrap();
    // Away from the first values, of which many are 0 and let nothing through.
    let values = net.specs().iter().enumerate().map(|(i, spec)| {
        Tensor::from_slice(&Array::normal(spec.shape, i as u64, 0.1, 0.1).to_f32(), spec.shape).unwrap()
    });
    let params = Params::new(net.specs(), values.collect(), true).unwrap();
    let tokens: Vec<u32> = (0..70 * n).map(|i| (i * i % 28) as u32).collect();
    let levels: Vec<f32> = (0..n).map(|i| 0.3 * i as f32).collect();
    let run = || {
        let unrecorded = net.forward(&params, &tokens, n, Some(&levels), Mode::Inference).unwrap();
        let mut grads = Grads::new();
        let record = || {
            let logits = net.forward(&params, &tokens, n, Some(&levels), Mode::Inference)?;
            Ok((ops::cross_entropy(&logits, &tokens, &vec![0.01; tokens.len()])?.0, logits))
        };
        let ((loss, logits), tape) = Tape::record(record).unwrap();
        tape.backward_from_loss(&loss, &mut grads).unwrap();
        let all = [&logits, &unrecorded].into_iter().chain(params.tensors().iter().map(|p| grads.get(p).unwrap()));
        all.map(|t| t.to_vec::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()).collect()
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
}

#[test]
fn logits_and_gradients_have_the_same_bits_for_any_number_of_threads() {
    // As many as threads share out outside a recording.
    let one = bits(1, 13);
    assert!(one[0] == one[1], "the recording changes bits");
    assert!(one == bits(2, 13), "two threads change bits");
    assert!(one == bits(3, 13), "three threads change bits");
    // A sample's logits do not depend on how many others are in its batch.
    assert!(one[0][..3 * 70 * 28] == bits(2, 3)[0], "the batch changes bits");
}
