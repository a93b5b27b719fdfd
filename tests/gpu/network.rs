//! Whole networks on the GPU: against diffusers, and against the CPU in training, sampling and resuming.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::{GPU, can_load_kernels, harness, parity};
use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::denoiser::guidance::Strength;
use tweedie::device::Device;
use tweedie::pipeline::{Class, ClassifierPipeline, Guidance, Pipeline, SampleOptions, Weights};
use tweedie::sampler::{SamplerKind, SamplerOptions};
use tweedie::testing::relative_error;
use tweedie::train::{RunOptions, Trainer, train};

/// Two levels, attention, classes; with `scale_shift` and dropout, so that every op of a step runs.
fn tiny(steps: u64) -> TrainConfig {
    TrainConfig {
        batch: 4,
        steps,
        block_out_channels: vec![8, 12],
        attention_head_dim: 4,
        norm_num_groups: 4,
        dropout: 0.1,
        resnet_time_scale_shift: "scale_shift".into(),
        warmup_steps: 0,
        sample_every: 0,
        validate_every: 0,
        ..TrainConfig::preset("digits").unwrap()
    }
}

#[test]
fn transformers_match_pytorch_forward_and_in_every_gradient() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    parity::assert_transformers_match(GPU);
    harness::assert_clean();
}

#[test]
fn unets_match_diffusers_forward_and_in_every_gradient() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    parity::assert_unets_match(GPU);
    harness::assert_clean();
}

#[test]
fn ddim_through_the_unet_matches_diffusers_pipeline() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    // Ten evaluations, each with the bound that one has: the step carries the errors of those before it on.
    parity::assert_ddim_matches(GPU, 10.0 * 1e-5);
    harness::assert_clean();
}

#[test]
fn five_training_steps_have_the_losses_of_the_cpu() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let data = Dataset::load("digits", 0).unwrap();
    let by_muon = TrainConfig { optimizer: "muon".into(), dropout: 0.0, ..tiny(5) };
    for config in [tiny(5), TrainConfig { prediction_type: "v_prediction".into(), dropout: 0.0, ..tiny(5) }, by_muon] {
        let mut here = Trainer::new(&config, &data, Device::Cpu).unwrap();
        let mut there = Trainer::new(&config, &data, GPU).unwrap();
        assert_eq!(there.device(), GPU);
        for step in 0..5 {
            let (want, got) = (here.train_step().unwrap(), there.train_step().unwrap());
            let error = (got.loss - want.loss).abs() / want.loss;
            assert!(error <= 1e-4, "step {step}: loss {} against {} on the CPU", got.loss, want.loss);
            let error = (got.grad_norm - want.grad_norm).abs() / want.grad_norm;
            assert!(error <= 1e-3, "step {step}: gradient norm {} against {}", got.grad_norm, want.grad_norm);
        }
    }
    harness::assert_clean();
}

#[test]
fn a_classifier_trains_and_steers_as_on_the_cpu() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let data = Dataset::load("digits", 0).unwrap();
    let config = TrainConfig { task: "classifier".into(), ..tiny(2) };
    let mut here = Trainer::new(&config, &data, Device::Cpu).unwrap();
    let mut there = Trainer::new(&config, &data, GPU).unwrap();
    for step in 0..2 {
        let (want, got) = (here.train_step().unwrap(), there.train_step().unwrap());
        assert!((got.loss - want.loss).abs() <= 1e-4 * want.loss, "step {step}: {} against {}", got.loss, want.loss);
        let error = (got.grad_norm - want.grad_norm).abs() / want.grad_norm;
        assert!(error <= 1e-3, "step {step}: gradient norm {} against {}", got.grad_norm, want.grad_norm);
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, guide) = (folder.path().join("model"), folder.path().join("classifier"));
    run(&TrainConfig { class_conditional: false, ..tiny(1) }, &model, Device::Cpu, false);
    run(&config, &guide, Device::Cpu, false);
    let sample = |device: Device| {
        let classifier = ClassifierPipeline::load(&guide, Weights::Ema).unwrap().to_device(device).unwrap();
        let strength = Strength::of(3.0);
        let options = SampleOptions {
            count: 2,
            steps: 2,
            sampler: SamplerKind::Ddim,
            class: Class::Index(3),
            guidance: Guidance::Classifier { classifier: classifier.into(), strength },
            ..SampleOptions::default()
        };
        Pipeline::load(&model).unwrap().to_device(device).unwrap().sample(&options).unwrap().x0.to_vec::<f32>().unwrap()
    };
    let (here, there) = (sample(Device::Cpu), sample(GPU));
    let error = relative_error(&there, &here);
    assert!(error <= 1e-4, "guided samples differ by {error:e}");
    harness::assert_clean();
}

fn run(config: &TrainConfig, out: &Path, device: Device, resume: bool) -> f64 {
    let options = RunOptions { out: out.into(), resume, overwrite: false, device };
    let mut last = f64::NAN;
    train(config, &options, &AtomicBool::new(false), |report, _| last = report.loss).unwrap();
    last
}

#[test]
fn a_checkpoint_of_one_device_resumes_on_the_other_and_samples_on_both() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let want = run(&tiny(4), &out("cpu"), Device::Cpu, false);
    for (name, first, second) in [("there", Device::Cpu, GPU), ("back", GPU, Device::Cpu)] {
        // The learning rate follows the number of steps of the run.
        let half = TrainConfig { lr_schedule: "constant".into(), ..tiny(2) };
        let whole = TrainConfig { steps: 4, ..half.clone() };
        let want = run(&whole, &out(&format!("{name}_cpu")), Device::Cpu, false);
        run(&half, &out(name), first, false);
        let got = run(&whole, &out(name), second, true);
        assert!((got - want).abs() <= 1e-4 * want, "{first} then {second}: loss {got}, on the CPU alone {want}");
    }
    assert!(want.is_finite());

    let options = |sampler| SampleOptions { sampler, steps: 10, count: 5, batch: 3, ..SampleOptions::default() };
    let load = || Pipeline::load(out("cpu")).unwrap();
    let (here, there) = (load(), load().to_device(GPU).unwrap());
    for sampler in [SamplerKind::Ddim, SamplerKind::Ddpm, SamplerKind::Dpmpp2m, SamplerKind::PredictorCorrector] {
        let (want, got) = (here.sample(&options(sampler)).unwrap(), there.sample(&options(sampler)).unwrap());
        let error = relative_error(got.x0.host().unwrap(), want.x0.host().unwrap());
        // The noise is the same to the bit; what differs is rounding, which ten steps carry on.
        assert!(error <= 1e-4, "{}: samples differ by {error:.1e}", sampler.name());
    }
    // rk45 accepts and refuses steps near its tolerance, where a rounding decides: both sides are as near the solution, not to another.
    let fine = SamplerOptions { tolerance: 1e-6, ..SamplerOptions::default() };
    let want = here.sample(&SampleOptions { settings: fine, ..options(SamplerKind::Rk45) }).unwrap();
    let error = |pipeline: &Pipeline| {
        let got = pipeline.sample(&options(SamplerKind::Rk45)).unwrap();
        relative_error(got.x0.host().unwrap(), want.x0.host().unwrap())
    };
    let (on_cpu, on_gpu) = (error(&here), error(&there));
    println!("rk45: {on_cpu:.1e} from a finer solution on the CPU, {on_gpu:.1e} on the GPU");
    assert!(on_gpu <= 2.0 * on_cpu, "rk45: {on_gpu:.1e} from a finer solution, on the CPU {on_cpu:.1e}");
    harness::assert_clean();
}
