//! How far whole networks are from f64 at each accuracy of the convolutions, and that programs take the accuracy they are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers are test code too.

mod common;

use common::{SAMPLE, TRAIN, command, succeed, text, tiny_args};
use std::path::Path;
use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::io::TensorFile;
use tweedie::nn::{Mode, Precision, UNet, initialise};
use tweedie::ops::{ConvAccuracy, set_conv_accuracy};

/// |y − want| / |want|.
fn error(y: &[f32], want: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut y.iter().zip(want).map(|(y, want)| f64::from(*y) - want)) / norm(&mut want.iter().copied())
}

// The only test here that sets the accuracy of this process.
#[test]
fn the_cifar10_network_is_within_its_promise_of_f64_at_each_accuracy() {
    // Two evaluations of diffusers' network in torch.float64 with the same weights: see unet_accuracy.py.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/unet_cifar10.safetensors");
    let file = TensorFile::open(path).unwrap();
    let (x, t, want) = (file.tensor("x").unwrap(), file.tensor("t").unwrap(), file.f64s("y").unwrap());
    let config = TrainConfig { class_conditional: false, ..TrainConfig::preset("cifar10").unwrap() };
    let data = Dataset::from_pixels("black", vec![0; 2 * 32 * 32 * 3], [2, 32, 32, 3], Vec::new(), 255, 0).unwrap();
    let unet = UNet::new(&config.unet(&data).unwrap()).unwrap();
    let params = initialise(unet.specs(), 0).unwrap();
    let forward = |unet: &UNet| {
        let y = unet.forward(&params, &x, t.host().unwrap(), None, Mode::Inference).unwrap();
        error(y.host().unwrap(), &want)
    };
    let errors = [ConvAccuracy::Exact, ConvAccuracy::Default, ConvAccuracy::Fast].map(|accuracy| {
        set_conv_accuracy(accuracy);
        forward(&unet)
    });
    set_conv_accuracy(ConvAccuracy::Default);
    println!("errors: {errors:?}");
    // The promise of docs/performance.md.
    for (error, most) in errors.into_iter().zip([5e-6, 5e-6, 2e-5]) {
        assert!(error <= most, "{errors:?}");
    }
    // Larger transforms round more; plain sums, the longest chains, differ from both.
    assert!(errors[2] > errors[1] && errors[0] != errors[1] && errors[0] != errors[2], "{errors:?}");
    // Two hundred roundings to 8 bits, of which each is at most 2⁻⁹, in a random walk: 2⁻⁹·√200.
    let bf16 = forward(&unet.with_precision(Precision::Bf16));
    assert!(bf16 <= 0.028 && bf16 > 1e-4, "{bf16:.2e}");
}

#[test]
fn programs_take_the_accuracy_of_their_flag_and_the_method_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    // Sixteen channels and 8×8 pixels: the least for which the transforms are taken.
    let wide = ["--steps", "2", "--set", "block_out_channels=[16,16]"];
    succeed(TRAIN, tiny_args(folder.path(), &wide));
    let out = folder.path().join("x.safetensors");
    let args =
        ["--model", text(folder.path()), "--sampler", "ddim", "--steps", "2", "--count", "2", "--out", text(&out)];
    let sample = |accuracy: &str, forced: Option<&str>| {
        let mut sample = command(SAMPLE, args.iter().chain(&["--conv-accuracy", accuracy]));
        sample.env_remove("TWEEDIE_CONV").envs(forced.map(|method| ("TWEEDIE_CONV", method)));
        let done = sample.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let file = TensorFile::open(&out).unwrap();
        let images = file.names().into_iter().find_map(|name| file.f64s(&name).ok().filter(|v| v.len() == 2 * 8 * 8));
        images.unwrap()
    };
    let [exact, default, fast] = ["exact", "default", "fast"].map(|accuracy| sample(accuracy, None));
    assert!(exact != default && default != fast && exact != fast, "two accuracies compute alike");
    for other in [&default, &fast] {
        let far = exact.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-4, "{far}");
    }
    assert!(sample("fast", Some("direct")) == exact, "plain sums were forced, and others taken");
    let forced = ["f2", "f4"].map(|method| sample("exact", Some(method)));
    assert!(forced[0] != exact && forced[1] != exact && forced[0] != forced[1], "a forced method was not taken");
}
