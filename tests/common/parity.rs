//! The U-Nets of `tests/fixtures`, run on any device, against diffusers' outputs. Each test binary compiles this file and uses a part of it.
// A fixture that cannot be read fails the test that reads it.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::sync::Arc;
use tweedie::denoiser::{NetworkDenoiser, Threshold};
use tweedie::device::Device;
use tweedie::io::{TensorFile, weights};
use tweedie::nn::{ClassInput, Layout, Mode, ParamSpec, Params, Transformer, TransformerConfig, UNet, UNetConfig};
use tweedie::process::SchedulerConfig;
use tweedie::sampler::{DdimNoise, Grid, Run, StepNoise, ddim};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::Tensor;
use tweedie::testing::relative_error;

/// The elements, wherever they are.
pub(crate) fn host(x: &Tensor) -> Vec<f32> {
    x.to_device(Device::Cpu).unwrap().to_vec().unwrap()
}

pub(crate) fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(crate) fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Values in PyTorch's order of axes, in ours.
fn to_ours(values: Vec<f32>, shape: &[usize], layout: Layout) -> Vec<f32> {
    if layout == Layout::Plain {
        return values;
    }
    let (i, taps) = (shape[1], shape[2] * shape[3]);
    let mut out = values.clone();
    for (k, v) in values.iter().enumerate() {
        let (o, c, tap) = (k / (i * taps), k / taps % i, k % taps);
        out[(o * taps + tap) * i + c] = *v;
    }
    out
}

/// Asserts that the fixtures' networks, run on `device`, have diffusers' outputs and gradients.
pub(crate) fn assert_unets_match(device: Device) {
    for name in ["unet_a", "unet_b", "unet_c"] {
        let folder = fixtures().join(name);
        let unet = UNet::new(&UNetConfig::from_json(&json(folder.join("config.json"))).unwrap()).unwrap();
        let file = Arc::new(TensorFile::open(folder.join("diffusion_pytorch_model.safetensors")).unwrap());
        let params = weights::read_params(&file, unet.specs(), "", true).unwrap().to_device(device).unwrap();
        let parity = TensorFile::open(folder.join("parity.safetensors")).unwrap();
        let on_device = |name: &str| parity.tensor(name).unwrap().to_device(device).unwrap();
        let x = on_device("x").with_grad(true);
        let t = parity.f32s("t").unwrap();
        let labels: Option<Vec<u32>> = parity.i64s("class_labels").ok().map(|l| l.iter().map(|v| *v as u32).collect());
        let numbers = parity.f32s("class_labels").ok();
        let class = labels.as_deref().map(ClassInput::Labels).or(numbers.as_deref().map(ClassInput::Numbers));

        let (y, tape) = Tape::record(|| unet.forward(&params, &x, &t, class, Mode::Inference)).unwrap();
        let forward = relative_error(&host(&y), &parity.f32s("net_out").unwrap());
        assert!(forward <= 1e-5, "{name}: forward error {forward:.2e}");

        let mut grads = Grads::new();
        tape.backward(&y, on_device("dy"), &mut grads).unwrap();
        let dx = relative_error(&host(grads.get(&x).unwrap()), &parity.f32s("dx").unwrap());
        assert!(dx <= 1e-4, "{name}: dx error {dx:.2e}");
        let worst = assert_gradients_match(name, unet.specs(), &params, &grads, &parity);
        println!("{name} on {device}: forward {forward:.2e}, dx {dx:.2e}, worst parameter gradient {worst:.2e}");
    }
}

/// Asserts that the gradients of all parameters are those of the file; returns the largest relative error.
fn assert_gradients_match(name: &str, specs: &[ParamSpec], params: &Params, grads: &Grads, parity: &TensorFile) -> f64 {
    // The gradient of a key's bias is exactly 0 (softmax ignores it), so errors are relative to a floor: a
    // thousandth of the largest gradient's norm per element.
    let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let largest = specs.iter().map(|s| norm(&parity.f32s(&format!("grad.{}", s.name)).unwrap()));
    let floor = 1e-3 * largest.fold(0.0, f64::max);
    let mut worst: f64 = 0.0;
    for (spec, tensor) in specs.iter().zip(params.tensors()) {
        let name_in_file = format!("grad.{}", spec.name);
        let want = to_ours(parity.f32s(&name_in_file).unwrap(), &spec.file_shape(), spec.layout);
        let got = grads.get(tensor).unwrap_or_else(|| panic!("{name}: no gradient for {}", spec.name));
        let difference: Vec<f32> = host(got).iter().zip(&want).map(|(g, w)| g - w).collect();
        let error = norm(&difference) / norm(&want).max(floor);
        assert!(error <= 1e-4, "{name}: gradient of {} is off by {error:.2e}", spec.name);
        worst = worst.max(error);
    }
    worst
}

/// Asserts that the fixtures' transformers, run on `device`, have PyTorch's outputs and gradients.
pub(crate) fn assert_transformers_match(device: Device) {
    for name in ["transformer_a", "transformer_b"] {
        let folder = fixtures().join(name);
        let config = json(folder.join("config.json"));
        let size = |field: &str| config[field].as_u64().map(|size| size as usize);
        let net = Transformer::new(&TransformerConfig {
            tokens: size("tokens").unwrap(),
            outputs: size("outputs").unwrap(),
            length: size("length").unwrap(),
            width: size("width").unwrap(),
            depth: size("depth").unwrap(),
            heads: size("heads").unwrap(),
            mlp_ratio: size("mlp_ratio").unwrap(),
            cond_dim: size("cond_dim"),
            ..TransformerConfig::default()
        })
        .unwrap();
        let file = Arc::new(TensorFile::open(folder.join("weights.safetensors")).unwrap());
        let params = weights::read_params(&file, net.specs(), "", true).unwrap().to_device(device).unwrap();
        let parity = TensorFile::open(folder.join("parity.safetensors")).unwrap();
        let tokens: Vec<u32> = parity.i64s("tokens").unwrap().iter().map(|v| *v as u32).collect();
        let levels = parity.f32s("levels").unwrap();
        let levels = net.config().cond_dim.map(|_| &levels[..]);
        let (y, tape) = Tape::record(|| net.forward(&params, &tokens, 2, levels, Mode::Inference)).unwrap();
        // PyTorch's own float32 run is within 4e-7 forward and 9e-7 backward.
        let forward = relative_error(&host(&y), &parity.f32s("logits").unwrap());
        assert!(forward <= 2e-6, "{name}: forward error {forward:.2e}");
        let mut grads = Grads::new();
        tape.backward(&y, parity.tensor("dy").unwrap().to_device(device).unwrap(), &mut grads).unwrap();
        let worst = assert_gradients_match(name, net.specs(), &params, &grads, &parity);
        println!("{name} on {device}: forward {forward:.2e}, worst parameter gradient {worst:.2e}");
    }
}

/// Asserts that ten DDIM steps through the fixtures' networks, run on `device`, follow diffusers' pipeline.
pub(crate) fn assert_ddim_matches(device: Device, tolerance: f64) {
    for name in ["unet_a", "unet_b"] {
        let folder = fixtures().join(name);
        let unet = UNet::new(&UNetConfig::from_json(&json(folder.join("config.json"))).unwrap()).unwrap();
        let file = Arc::new(TensorFile::open(folder.join("diffusion_pytorch_model.safetensors")).unwrap());
        let params = weights::open_params(&file, unet.specs(), "").unwrap().to_device(device).unwrap();
        let parity = TensorFile::open(folder.join("parity.safetensors")).unwrap();
        let config = SchedulerConfig::from_json(&json(folder.join("scheduler_config.json"))).unwrap();
        let labels: Option<Vec<u32>> = parity.i64s("class_labels").ok().map(|l| l.iter().map(|v| *v as u32).collect());
        let inner =
            NetworkDenoiser { unet: &unet, params: &params, scheduler: &config, class_labels: labels.as_deref() };
        let denoiser = Threshold { inner, config: &config };
        let x_t = parity.tensor("ddim.x_T").unwrap();
        let samples: Vec<u32> = (0..x_t.shape()[0] as u32).collect();
        let grid = Grid::ddim(&config, &config.process().unwrap(), 10).unwrap();
        let mut states = x_t.to_vec::<f32>().unwrap();
        let x_t = x_t.to_device(device).unwrap();
        let mut run = Run::new(&denoiser, StepNoise::Given(&[]), &samples).with_callback(|p| {
            states.extend(host(p.x));
            Ok(())
        });
        ddim(&mut run, x_t, &grid, &DdimNoise::Eta(0.0), false).unwrap();
        drop(run);
        let error = relative_error(&states, &parity.f32s("ddim.states").unwrap());
        println!("{name} on {device}: ten DDIM steps {error:.2e}");
        assert!(error <= tolerance, "{name}: ten DDIM steps are off by {error:.2e}");
    }
}
