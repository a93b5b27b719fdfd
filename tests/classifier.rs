//! A classifier trained on noised data approaches the exact one: its gradient, and the score that it guides (items 55 and 56).

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::AtomicBool;
use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::denoiser::Denoiser;
use tweedie::denoiser::guidance::{ClassScore, ClassifierGuided, NoisyClassifier, OracleClassifier, Strength};
use tweedie::denoiser::oracle::Oracle;
use tweedie::device::Device;
use tweedie::pipeline::{ClassifierPipeline, Weights};
use tweedie::process::Level;
use tweedie::rng::{Address, Purpose};
use tweedie::tensor::Tensor;
use tweedie::train::{RunOptions, train};

/// Means and standard deviations of two classes of one-pixel images.
const LAWS: [(f64, f64); 2] = [(-0.25, 0.25), (0.3, 0.18)];

fn data() -> Dataset {
    const COUNT: usize = 20_000;
    let mut z = vec![0.0_f32; COUNT];
    Address::new(1, Purpose::Test).fill_normal(&mut z);
    let labels: Vec<u32> = (0..COUNT as u32).map(|i| i % 2).collect();
    let pixel = |(z, y): (&f32, &u32)| {
        let (mean, std) = LAWS[*y as usize];
        ((mean + std * f64::from(*z) + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
    };
    let pixels = z.iter().zip(&labels).map(pixel).collect();
    Dataset::from_pixels("two normals", pixels, [COUNT, 1, 1, 1], labels, 255, 1000).unwrap()
}

/// The data as files, so that whole runs can be made of it.
fn write_idx(folder: &std::path::Path, data: &Dataset) {
    let header = |dims: u8| vec![0, 0, 8, dims];
    let word = |n: usize| (n as u32).to_be_bytes();
    let mut images = header(3);
    [data.len(), 1, 1].iter().for_each(|n| images.extend(word(*n)));
    images.extend((0..data.len()).map(|i| data.image(i)[0]));
    let mut labels = header(1);
    labels.extend(word(data.len()));
    labels.extend((0..data.len()).map(|i| data.label(i).unwrap() as u8));
    std::fs::write(folder.join("train-images-idx3-ubyte"), images).unwrap();
    std::fs::write(folder.join("train-labels-idx1-ubyte"), labels).unwrap();
}

fn trained(folder: &std::path::Path, steps: u64) -> ClassifierPipeline {
    let config = TrainConfig {
        data: folder.to_str().unwrap().into(),
        steps,
        batch: 256,
        lr: 1e-2,
        warmup_steps: 20,
        ema_decay: 0.99,
        weight_decay: 0.0,
        dropout: 0.0,
        process: "vp".into(),
        block_out_channels: vec![16],
        attention_levels: vec![false],
        attention_head_dim: 16,
        norm_num_groups: 1,
        sample_every: 0,
        validate_every: 0,
        ..TrainConfig::classifier_preset("digits").unwrap()
    };
    let out = folder.join(format!("run{steps}"));
    let options = RunOptions { out: out.clone(), resume: false, overwrite: false, device: Device::Cpu };
    train(&config, &options, &AtomicBool::new(false), |_, _| {}).unwrap();
    ClassifierPipeline::load(out, Weights::Ema).unwrap()
}

#[test]
fn a_trained_classifiers_gradient_and_guided_score_approach_the_exact_ones() {
    let folder = tempfile::tempdir().unwrap();
    write_idx(folder.path(), &data());
    let oracle = |classes: &[(f64, f64)]| {
        let means: Vec<Vec<f64>> = classes.iter().map(|(mean, _)| vec![*mean]).collect();
        let stds: Vec<f64> = classes.iter().map(|(_, std)| *std).collect();
        Oracle::isotropic(&vec![1.0 / classes.len() as f64; classes.len()], &means, &stds).unwrap()
    };
    let (class, all) = (oracle(&LAWS[1..]), oracle(&LAWS));
    let exact = OracleClassifier { class: &class, all: &all };
    let error = |steps: u64| -> (f64, f64) {
        let run = trained(folder.path(), steps);
        let process = run.scheduler().process().unwrap();
        let labels = [1; 41];
        let network = NoisyClassifier {
            classifier: run.classifier(),
            params: run.params(),
            scheduler: run.scheduler(),
            labels: &labels,
        };
        let (mut off, mut whole, mut score_off, mut score) = (0.0, 0.0, 0.0, 0.0);
        for at in [0.1, 0.3, 0.5, 0.7].map(|time| process.level(time)) {
            // Where the class lies: there guided samples are, and there its cross-entropy counts. Where the other class is certain no label says
            // how small the probability of this one is.
            let x: Vec<f32> = places(&class, at);
            let x = Tensor::from_slice(&x, [41, 1, 1, 1]).unwrap();
            let (got, want) = (network.gradient(&x, at).unwrap(), exact.gradient(&x, at).unwrap());
            let values = |t: &Tensor| t.to_vec::<f32>().unwrap();
            for (got, want) in values(&got).iter().zip(values(&want)) {
                // In units of the noise, as eps has them.
                off += (at.sigma * f64::from(got - want)).powi(2);
                whole += (at.sigma * f64::from(want)).powi(2);
            }
            let guided = |c: &dyn ClassScore| {
                let strength = Strength::of(2.0);
                let estimate = ClassifierGuided { inner: &all, classifier: c, strength }.denoise(&x, at).unwrap();
                values(&estimate.x0_hat().unwrap())
            };
            let eps = |x0: &f32, x: &f32| (f64::from(*x) - at.alpha * f64::from(*x0)) / at.sigma;
            for ((got, want), x) in guided(&network).iter().zip(guided(&exact)).zip(values(&x)) {
                score_off += (eps(got, &x) - eps(&want, &x)).powi(2);
                score += eps(&want, &x).powi(2);
            }
        }
        ((off / whole).sqrt(), (score_off / score).sqrt())
    };
    let errors: Vec<(f64, f64)> = [20, 200, 2000].map(error).into();
    println!("relative error of gradient and guided score after 20, 200, 2000 steps: {errors:.4?}");
    // Ten times the steps: both errors fall to less than half, twice in a row.
    for pair in errors.windows(2) {
        assert!(pair[0].0 > 2.0 * pair[1].0 && pair[0].1 > 2.0 * pair[1].1, "{errors:?}");
    }
}

/// 41 quantiles of a noisy law.
fn places(law: &Oracle, at: Level) -> Vec<f32> {
    let mut x: Vec<f64> = law.sample(3, 41 * 50, at).unwrap().to_f64s().unwrap();
    x.sort_by(f64::total_cmp);
    x.chunks(50).map(|part| part[25] as f32).collect()
}
