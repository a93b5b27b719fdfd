//! The U-Net, schedules and samplers against diffusers' own outputs (`tests/fixtures/make_fixtures.py` made them).

// A fixture that cannot be read fails the test that reads it.
#![allow(clippy::unwrap_used)]

#[path = "common/parity.rs"]
mod parity;

use parity::{fixtures, json};
use tweedie::denoiser::{Denoiser, Estimate, Threshold, eps_coefficients, x0_coefficients};
use tweedie::device::Device;
use tweedie::io::TensorFile;
use tweedie::pipeline::{Class, Pipeline, SampleOptions};
use tweedie::process::{Level, Prediction, SchedulerConfig};
use tweedie::sampler::{DdimNoise, Grid, Run, StepNoise, ddim, ddpm};
use tweedie::tensor::Tensor;

#[test]
fn unets_match_diffusers_forward_and_in_every_gradient() {
    parity::assert_unets_match(Device::Cpu);
}

#[test]
fn ddim_through_the_unet_matches_diffusers_pipeline() {
    parity::assert_ddim_matches(Device::Cpu, 1e-5);
}

/// The fixtures' stand-in for a network: tanh(0.9·x + 0.001·t), and tanh(x − 0.3) for the variance.
struct Toy(Prediction);

impl Denoiser for Toy {
    fn denoise(&self, x_t: &Tensor, at: Level) -> tweedie::Result<Estimate> {
        let out: Vec<f64> = x_t.host::<f64>()?.iter().map(|x| (0.9 * x + 0.001 * at.t).tanh()).collect();
        let chosen: Vec<f64> = x_t.host::<f64>()?.iter().map(|x| (x - 0.3).tanh()).collect();
        Ok(Estimate {
            x_t: x_t.clone(),
            net_out: Tensor::from_slice(&out, x_t.shape())?,
            x0: x0_coefficients(self.0, at)?,
            eps: eps_coefficients(self.0, at)?,
            clip: None,
            x0_hat: None,
            variance: Some(Tensor::from_slice(&chosen, x_t.shape())?),
            is_guided: false,
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
