//! The U-Net, schedules and samplers against diffusers' own outputs (`tests/fixtures/make_fixtures.py` made them).

// A fixture that cannot be read fails the test that reads it.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use tweedie::denoiser::{Denoiser, Estimate, NetworkDenoiser, Threshold, eps_coefficients, x0_coefficients};
use tweedie::io::{TensorFile, weights};
use tweedie::nn::{ClassInput, Layout, Mode, UNet, UNetConfig};
use tweedie::pipeline::{Class, Pipeline, SampleOptions};
use tweedie::process::{Level, Prediction, SchedulerConfig};
use tweedie::sampler::{DdimNoise, Grid, Run, StepNoise, ddim, ddpm};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::Tensor;
use tweedie::testing::relative_error;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn json(path: PathBuf) -> serde_json::Value {
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

#[test]
fn unets_match_diffusers_forward_and_in_every_gradient() {
    for name in ["unet_a", "unet_b", "unet_c"] {
        let folder = fixtures().join(name);
        let unet = UNet::new(&UNetConfig::from_json(&json(folder.join("config.json"))).unwrap()).unwrap();
        let file = TensorFile::open(folder.join("diffusion_pytorch_model.safetensors")).unwrap();
        let params = weights::read_params(&file, unet.specs(), "", true).unwrap();
        let parity = TensorFile::open(folder.join("parity.safetensors")).unwrap();
        let x = parity.tensor("x").unwrap().with_grad(true);
        let t = parity.f32s("t").unwrap();
        let labels: Option<Vec<u32>> = parity.i64s("class_labels").ok().map(|l| l.iter().map(|v| *v as u32).collect());
        let numbers = parity.f32s("class_labels").ok();
        let class = labels.as_deref().map(ClassInput::Labels).or(numbers.as_deref().map(ClassInput::Numbers));

        let (y, tape) = Tape::record(|| unet.forward(&params, &x, &t, class, Mode::Inference)).unwrap();
        let forward = relative_error(y.host().unwrap(), &parity.f32s("net_out").unwrap());
        assert!(forward <= 1e-5, "{name}: forward error {forward:.2e}");

        let mut grads = Grads::new();
        tape.backward(&y, parity.tensor("dy").unwrap(), &mut grads).unwrap();
        let dx = relative_error(grads.get(&x).unwrap().host().unwrap(), &parity.f32s("dx").unwrap());
        assert!(dx <= 1e-4, "{name}: dx error {dx:.2e}");
        // The gradient of a key's bias is exactly 0 (softmax ignores it), so errors are relative to a floor: a
        // thousandth of the largest gradient's norm per element.
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let largest = unet.specs().iter().map(|s| norm(&parity.f32s(&format!("grad.{}", s.name)).unwrap()));
        let floor = 1e-3 * largest.fold(0.0, f64::max);
        let mut worst: f64 = 0.0;
        for (spec, tensor) in unet.specs().iter().zip(params.tensors()) {
            let name_in_file = format!("grad.{}", spec.name);
            let want = to_ours(parity.f32s(&name_in_file).unwrap(), &spec.file_shape(), spec.layout);
            let got = grads.get(tensor).unwrap_or_else(|| panic!("{name}: no gradient for {}", spec.name));
            let difference: Vec<f32> = got.host::<f32>().unwrap().iter().zip(&want).map(|(g, w)| g - w).collect();
            let error = norm(&difference) / norm(&want).max(floor);
            assert!(error <= 1e-4, "{name}: gradient of {} is off by {error:.2e}", spec.name);
            worst = worst.max(error);
        }
        println!("{name}: forward {forward:.2e}, dx {dx:.2e}, worst parameter gradient {worst:.2e}");
    }
}

/// The fixtures' stand-in for a network: tanh(0.9·x + 0.001·t).
struct Toy(Prediction);

impl Denoiser for Toy {
    fn denoise(&self, x_t: &Tensor, at: Level) -> tweedie::Result<Estimate> {
        let out: Vec<f64> = x_t.host::<f64>()?.iter().map(|x| (0.9 * x + 0.001 * at.t).tanh()).collect();
        Ok(Estimate {
            x_t: x_t.clone(),
            net_out: Tensor::from_slice(&out, x_t.shape())?,
            x0: x0_coefficients(self.0, at)?,
            eps: eps_coefficients(self.0, at)?,
            clip: None,
            x0_hat: None,
        })
    }
}

#[test]
fn ddim_and_ddpm_trajectories_match_diffusers_schedulers() {
    let file = TensorFile::open(fixtures().join("schedulers.safetensors")).unwrap();
    let list = json(fixtures().join("schedulers.json"));
    let cases = list["cases"].as_array().unwrap();
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let config = SchedulerConfig::from_json(&case["config"]).unwrap();
        let process = config.process().unwrap();
        let steps = case["steps"].as_u64().unwrap() as usize;
        let wide = |name: &str| {
            let shape = file.shape(name).unwrap();
            Tensor::from_slice(&file.f64s(name).unwrap(), shape).unwrap()
        };
        let x_t = wide(&format!("{name}.x_T"));
        let noise: Vec<Tensor> = if file.contains(&format!("{name}.noise")) {
            let all = wide(&format!("{name}.noise"));
            (0..steps).map(|i| all.rows(i, 1).unwrap().view(x_t.shape()).unwrap()).collect()
        } else {
            Vec::new()
        };
        let is_ddpm = case["scheduler"] == "DDPMScheduler";
        let grid = if is_ddpm { Grid::ddpm(&config, &process, steps) } else { Grid::ddim(&config, &process, steps) };
        let grid = grid.unwrap();
        let times: Vec<i64> = grid.steps().iter().map(|s| s.from.t as i64).collect();
        assert_eq!(times, file.i64s(&format!("{name}.timesteps")).unwrap(), "{name}: times");

        let every = case["states_every"].as_u64().unwrap_or(1) as usize;
        let mut states = x_t.to_vec::<f64>().unwrap();
        let denoiser = Threshold { inner: Toy(config.prediction), config: &config };
        let samples: Vec<u32> = (0..x_t.shape()[0] as u32).collect();
        {
            let mut run = Run::new(&denoiser, StepNoise::Given(&noise), &samples).with_callback(|p| {
                if (p.step + 1) % every == 0 {
                    states.extend_from_slice(p.x.host::<f64>()?);
                }
                Ok(())
            });
            if is_ddpm {
                ddpm(&mut run, x_t.clone(), &grid, config.variance, grid.skips_time_zero()).unwrap();
            } else {
                let recompute = case["use_clipped_model_output"].as_bool().unwrap();
                let eta = DdimNoise::Eta(case["eta"].as_f64().unwrap());
                ddim(&mut run, x_t.clone(), &grid, &eta, recompute).unwrap();
            }
            assert_eq!(run.nfe(), steps);
        }
        let want = file.f64s(&format!("{name}.states")).unwrap();
        assert_eq!(states.len(), want.len(), "{name}");
        let largest = want.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        let worst = states.iter().zip(&want).fold(0.0_f64, |m, (g, w)| m.max((g - w).abs())) / largest;
        // Both sides compute in f64.
        assert!(worst <= 1e-10, "{name}: trajectory off by {worst:.2e} of its largest value");
    }
}

#[test]
fn alpha_bar_tables_match_diffusers() {
    let file = TensorFile::open(fixtures().join("schedulers.safetensors")).unwrap();
    for table in json(fixtures().join("schedulers.json"))["alphas_cumprod"].as_array().unwrap() {
        let name = table["name"].as_str().unwrap();
        let process = SchedulerConfig::from_json(&table["config"]).unwrap().process().unwrap();
        let process = process.discrete().unwrap();
        let stored = table["f64"].as_str().map_or_else(|| format!("alphas_cumprod.{name}.f64"), String::from);
        for (k, want) in file.f64s(&stored).unwrap().iter().enumerate() {
            let got = process.alpha_bar(k).unwrap();
            // The last cosine levels lie near 1e-9 and carry the rounding of a thousand factors.
            assert!((got - want).abs() <= 1e-12 * want + 1e-15, "{name} level {k}: {got:e} against {want:e}");
        }
    }
}

#[test]
fn ddim_through_the_unet_matches_diffusers_pipeline() {
    for name in ["unet_a", "unet_b"] {
        let folder = fixtures().join(name);
        let unet = UNet::new(&UNetConfig::from_json(&json(folder.join("config.json"))).unwrap()).unwrap();
        let file = TensorFile::open(folder.join("diffusion_pytorch_model.safetensors")).unwrap();
        let params = weights::read_params(&file, unet.specs(), "", false).unwrap();
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
        let mut run = Run::new(&denoiser, StepNoise::Given(&[]), &samples).with_callback(|p| {
            states.extend_from_slice(p.x.host::<f32>()?);
            Ok(())
        });
        ddim(&mut run, x_t, &grid, &DdimNoise::Eta(0.0), false).unwrap();
        drop(run);
        let error = relative_error(&states, &parity.f32s("ddim.states").unwrap());
        println!("{name}: ten DDIM steps {error:.2e}");
        assert!(error <= 1e-5, "{name}: ten DDIM steps are off by {error:.2e}");
    }
}

/// A class model from elsewhere has no null class: all of its rows are classes.
#[test]
fn every_class_of_an_imported_model_can_be_sampled_and_there_is_no_null_class() {
    let folder = tempfile::tempdir().unwrap();
    for (name, target) in [
        ("config.json", "unet/config.json"),
        ("diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"),
        ("scheduler_config.json", "scheduler/scheduler_config.json"),
    ] {
        let target = folder.path().join(target);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(fixtures().join("unet_b").join(name), target).unwrap();
    }
    let index = r#"{"_class_name":"DDPMPipeline","scheduler":["diffusers","DDIMScheduler"],"unet":["diffusers","UNet2DModel"]}"#;
    std::fs::write(folder.path().join("model_index.json"), index).unwrap();
    let pipeline = Pipeline::load(folder.path()).unwrap();
    let draw = |class| pipeline.sample(&SampleOptions { count: 12, class, steps: 2, ..Default::default() });
    let cycled = draw(Class::Cycle).unwrap().class_labels.unwrap();
    assert_eq!(cycled, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0]);
    assert!(draw(Class::Index(10)).is_ok());
    assert!(draw(Class::Index(11)).err().unwrap().to_string().contains("--class 11: the model has classes 0 to 10"));
    assert!(draw(Class::Null).err().unwrap().to_string().contains("no null class"));
}
