//! Our side: each item through the library's public functions.

use super::text::{Model, plain};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};
use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::device::Device;
use tweedie::io::folder::{FORMAT_VERSION, ModelFolder, NetworkEntry, TweedieJson};
use tweedie::nn::{Mode, Precision, UNet, initialise};
use tweedie::ops::set_conv_accuracy;
use tweedie::ops::{
    self, AdamW, AdamWEntry, Conv, ConvAccuracy, ConvExtras, GroupNorm, Noise, ReverseStep, StepInputs,
};
use tweedie::pipeline::Pipeline;
use tweedie::rng::{Address, Purpose};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::{Shape, Tensor};
use tweedie::train::Trainer;
use tweedie::{Error, Result};

/// Does the work once and returns the time that counts.
pub(crate) type Run = Box<dyn FnMut() -> Result<Duration>>;

/// The networks, on images of 32×32 with 3 channels and with 1.
pub(crate) const PRESETS: [&str; 2] = ["cifar10", "small"];

/// Suffixes of items' names.
const PRECISIONS: [(&str, Precision); 2] = [("", Precision::F32), ("_bf16", Precision::Bf16)];

/// As the name without it, with F(4×4) convolutions.
const FAST: &str = "_fast";

/// What of an op is timed.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    /// All gradients.
    Backward,
    /// Of the convolution's input alone.
    InputGrad,
    /// Of its weight and bias.
    WeightGrad,
}

/// A piece of work with a name that all sides know.
pub(crate) struct Item {
    name: String,
    make: Box<dyn Fn() -> Result<Run>>,
}

impl Item {
    fn new(name: impl Into<String>, make: impl Fn() -> Result<Run> + 'static) -> Item {
        Item { name: name.into(), make: Box::new(make) }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the other side calls it, and the only variant of theirs that ours stands beside, if it is in bf16.
    pub(crate) fn theirs(&self) -> (&str, Option<&str>) {
        if let Some(name) = self.name.strip_suffix(FAST) {
            return (name, None);
        }
        self.name.strip_suffix("_bf16").map_or((&self.name, None), |name| (name, Some("bf16")))
    }

    /// Makes its tensors.
    pub(crate) fn prepare(&self) -> Result<Run> {
        (self.make)()
    }
}

/// Everything that is compared, in the order of the table.
pub(crate) fn all() -> Vec<Item> {
    let mut items = Vec::new();
    for (suffix, p) in PRECISIONS {
        for n in [1, 4, 16] {
            let name = format!("unet_cifar10_forward_{n}{suffix}");
            items.push(Item::new(name, move || unet_forward("cifar10", [n, 32, 32, 3], p)));
        }
        let mut add = |name: &str, make: fn(Precision) -> Result<Run>| {
            items.push(Item::new(format!("{name}{suffix}"), move || make(p)));
        };
        add("unet_cifar10_train_8", |p| train_step("cifar10", [8, 32, 32, 3], p));
        add("unet_small_forward_64", |p| unet_forward("small", [64, 32, 32, 1], p));
        add("unet_small_train_64", |p| train_step("small", [64, 32, 32, 1], p));
    }
    for n in [1, 4, 16] {
        let name = format!("unet_cifar10_forward_{n}{FAST}");
        items.push(Item::new(name, move || fast(unet_forward("cifar10", [n, 32, 32, 3], Precision::F32)?)));
    }
    items.push(Item::new(format!("unet_cifar10_train_8{FAST}"), || {
        fast(train_step("cifar10", [8, 32, 32, 3], Precision::F32)?)
    }));
    for (kind, train) in [("forward", false), ("train", true)] {
        items.push(Item::new(format!("transformer_{kind}_16"), move || transformer(train)));
    }
    let convs = [
        ("conv_128", [16, 32, 128, 128, 1]),
        ("conv_256", [16, 16, 256, 256, 1]),
        ("conv_512_256", [16, 16, 512, 256, 1]),
        ("conv_stride2_128", [16, 32, 128, 128, 2]),
    ];
    let passes = [
        ("forward", Pass::Forward),
        ("input_grad", Pass::InputGrad),
        ("weight_grad", Pass::WeightGrad),
        ("both_grads", Pass::Backward),
    ];
    for ((name, sizes), (suffix, p)) in convs.into_iter().flat_map(|conv| PRECISIONS.map(|p| (conv, p))) {
        let item = |(kind, pass)| Item::new(format!("{name}_{kind}{suffix}"), move || conv(sizes, pass, p));
        items.extend(passes.map(item));
    }
    for (kind, pass) in [("forward", Pass::Forward), ("backward", Pass::Backward)] {
        items.push(Item::new(format!("attention_{kind}"), move || attention(pass)));
        for (suffix, p) in PRECISIONS {
            items.push(Item::new(format!("linear_{kind}{suffix}"), move || linear(pass, p)));
        }
        items.push(Item::new(format!("group_norm_{kind}"), move || group_norm(pass)));
    }
    items.push(Item::new("adamw", adamw));
    items.push(Item::new("clip", clip));
    for (name, shape) in [("16x32", [16, 32, 32, 3]), ("64x256", [64, 256, 256, 3])] {
        for (suffix, noise) in [("", 0.0), ("_noise", 0.1)] {
            items.push(Item::new(format!("reverse_step_{name}{suffix}"), move || reverse_step(shape, noise)));
        }
    }
    items
}

/// The same with F(4×4), which is of the whole process: set for the time of a run.
fn fast(mut run: Run) -> Result<Run> {
    Ok(Box::new(move || {
        set_conv_accuracy(ConvAccuracy::Fast);
        let time = run();
        set_conv_accuracy(ConvAccuracy::Default);
        time
    }))
}

/// Times `work`; what it returns is freed after the clock was read.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let begin = Instant::now();
    let kept = black_box(work()?);
    let time = begin.elapsed();
    drop(kept);
    Ok(time)
}

/// Standard normals times `scale`.
fn normal(shape: impl Into<Shape>, seed: u64, scale: f32) -> Result<Tensor> {
    let shape = shape.into();
    let mut values = vec![0.0; shape.count()];
    Address::new(seed, Purpose::Test).fill_normal(&mut values);
    values.iter_mut().for_each(|v| *v *= scale);
    Tensor::from_slice(&values, shape)
}

/// One pass of an op whose output is `forward`'s.
fn pass_of(pass: Pass, forward: impl Fn() -> Result<Tensor> + 'static) -> Result<Run> {
    if pass == Pass::Forward {
        return Ok(Box::new(move || timed(&forward)));
    }
    let y = forward()?;
    let dy = ops::cast(&normal(y.shape(), 99, 1.0)?, y.dtype())?;
    let mut grads = Grads::new();
    Ok(Box::new(move || {
        grads.clear();
        let (y, tape) = Tape::record(&forward)?;
        timed(|| tape.backward(&y, dy.clone(), &mut grads))
    }))
}

// ---- networks ----

/// A data set of random pixels without labels.
fn noise_images(shape: [usize; 4]) -> Result<Dataset> {
    let address = Address::new(0, Purpose::Test);
    let pixels = (0..shape.iter().product()).map(|i| address.below(i, 256) as u8).collect();
    Dataset::from_pixels("noise", pixels, shape, vec![], 255, 0)
}

/// A preset for a data set's images.
fn settings(preset: &str, batch: usize) -> Result<TrainConfig> {
    Ok(TrainConfig { batch, class_conditional: false, ..TrainConfig::preset(preset)? })
}

fn channels(preset: &str) -> usize {
    if preset == "cifar10" { 3 } else { 1 }
}

/// Writes a folder for each preset, as `train` would at its first step.
pub(crate) fn write_models(root: &Path) -> Result<()> {
    for preset in PRESETS {
        let c = channels(preset);
        let config = settings(preset, 1)?;
        let unet = UNet::new(&config.unet(&noise_images([2, 32, 32, c])?)?)?;
        let scheduler = config.scheduler()?;
        let own = TweedieJson {
            format_version: FORMAT_VERSION,
            time_convention: scheduler.time_convention.name().into(),
            image_shape: [32, 32, c],
            max_pixel_value: 255,
            class_names: vec![],
            p_uncond: 0.0,
            data: "noise".into(),
            split_seed: 0,
            requires_tweedie: None,
        };
        let folder = ModelFolder::new(root.join(preset));
        folder.write_descriptions(&NetworkEntry::unet(unet.config()), &scheduler, &own)?;
        folder.write_weights("unet", unet.specs(), &initialise(unet.specs(), 0)?)?;
    }
    Ok(())
}

/// Images `[n, h, w, c]` that the other side makes too.
fn wave([n, h, w, c]: [usize; 4]) -> Result<Tensor> {
    let value = |at: usize| {
        let (l, k, j, i) = (at / c % w, at / (c * w) % h, at % c, at / (c * w * h));
        (0.5 * i as f64 + 0.37 * j as f64 + 0.11 * k as f64 + 0.07 * l as f64).sin() as f32
    };
    Tensor::from_slice(&(0..n * h * w * c).map(value).collect::<Vec<f32>>(), [n, h, w, c])
}

/// The first channel of the first row of pixels of one evaluation.
pub(crate) fn first_row(folder: &Path) -> Result<Vec<f32>> {
    let pipeline = Pipeline::load(folder)?;
    let [h, w, c] = pipeline.image_shape();
    let y = pipeline.forward(&wave([1, h, w, c])?, &[500.0], None)?;
    Ok(y.host::<f32>()?.iter().step_by(c).take(w).copied().collect())
}

fn unet_forward(preset: &str, shape: [usize; 4], precision: Precision) -> Result<Run> {
    let config = settings(preset, 1)?.unet(&noise_images([2, shape[1], shape[2], shape[3]])?)?;
    let unet = UNet::new(&config)?.with_precision(precision);
    let params = initialise(unet.specs(), 0)?;
    let (x, times) = (wave(shape)?, vec![500.0; shape[0]]);
    Ok(Box::new(move || timed(|| unet.forward(&params, &x, &times, None, Mode::Inference))))
}

/// Draw, forward, backward, clip, update and average.
pub(crate) fn train_step(preset: &str, shape: [usize; 4], precision: Precision) -> Result<Run> {
    let [n, h, w, c] = shape;
    // Some are held out. The trainer borrows them for as long as the program runs: some hundred KiB.
    let data: &'static Dataset = Box::leak(Box::new(noise_images([2 * n, h, w, c])?));
    let name = if precision == Precision::Bf16 { "bf16" } else { "f32" };
    let config = TrainConfig { precision: name.into(), ..settings(preset, n)? };
    let mut trainer = Trainer::new(&config, data, Device::Cpu)?;
    Ok(Box::new(move || timed(|| trainer.train_step())))
}

/// 16 sequences of 256 tokens through the character model of the transformer's bench, or a training step on them.
fn transformer(train: bool) -> Result<Run> {
    let mut model = Model::new(&plain())?;
    Ok(Box::new(move || timed(|| if train { model.train_step() } else { model.forward() })))
}

// ---- single operations ----

fn conv([n, size, c_in, c_out, stride]: [usize; 5], pass: Pass, precision: Precision) -> Result<Run> {
    let (of_input, of_weight) = (pass != Pass::WeightGrad, pass != Pass::InputGrad);
    let x = ops::cast(&normal([n, size, size, c_in], 1, 1.0)?, precision.dtype())?.with_grad(of_input);
    let scale = 1.0 / ((9 * c_in) as f32).sqrt();
    let weight = normal([c_out, 3, 3, c_in], 2, scale)?.with_grad(of_weight);
    let bias = normal([c_out], 3, 1.0)?.with_grad(of_weight);
    let conv = Conv { stride, ..Conv::same(3) };
    pass_of(pass, move || ops::conv2d(&x, &weight, Some(&bias), conv, ConvExtras::default()))
}

fn attention(pass: Pass) -> Result<Run> {
    let [q, k, v] = [1, 2, 3].map(|seed| normal([16, 256, 256], seed, 1.0).map(|x| x.with_grad(true)));
    let (q, k, v) = (q?, k?, v?);
    pass_of(pass, move || ops::attention(&q, &k, &v, 1))
}

fn linear(pass: Pass, precision: Precision) -> Result<Run> {
    let x = ops::cast(&normal([4096, 512], 1, 1.0)?, precision.dtype())?.with_grad(true);
    let weight = normal([2048, 512], 2, 0.04)?.with_grad(true);
    let bias = normal([2048], 3, 1.0)?.with_grad(true);
    pass_of(pass, move || ops::linear(&x, &weight, Some(&bias), None))
}

fn group_norm(pass: Pass) -> Result<Run> {
    let x = normal([16, 32, 32, 128], 1, 1.0)?.with_grad(true);
    let (weight, bias) = (normal([128], 2, 1.0)?.with_grad(true), normal([128], 3, 1.0)?.with_grad(true));
    let norm = GroupNorm { groups: 32, norm_eps: 1e-5, silu: true };
    pass_of(pass, move || ops::group_norm(&x, &weight, &bias, None, norm))
}

/// Normals in the shapes of the large network's parameters.
fn like_parameters(seed: u64) -> Result<Vec<Tensor>> {
    let unet = UNet::new(&settings("cifar10", 1)?.unet(&noise_images([2, 32, 32, 3])?)?)?;
    unet.specs().iter().map(|spec| normal(spec.shape, seed, 1.0)).collect()
}

fn adamw() -> Result<Run> {
    let (mut params, mut ema, grads) = (like_parameters(1)?, like_parameters(1)?, like_parameters(2)?);
    let zeros = || -> Result<Vec<Tensor>> {
        grads.iter().map(|t| Tensor::from_slice(&vec![0.0_f32; t.count()], t.shape())).collect()
    };
    let (mut m, mut v) = (zeros()?, zeros()?);
    // Nothing to clip.
    let (loss, norm) = (Tensor::from_slice(&[1.0_f32], [1])?, Tensor::from_slice(&[1.0_f64], [1])?);
    let mut step = 0;
    Ok(Box::new(move || {
        step += 1;
        let settings = AdamW {
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            adam_eps: 1e-8,
            weight_decay: 0.01,
            step,
            grad_clip: 1.0,
            ema_decay: 0.999,
        };
        let averaged = params.iter_mut().zip(&mut ema);
        let entries = averaged.zip(&grads).zip(m.iter_mut().zip(&mut v));
        let entries = entries.map(|(((param, ema), grad), (m, v))| AdamWEntry { param, grad, m, v, ema });
        timed(|| ops::adamw(entries, &settings, &loss, &norm))
    }))
}

/// The norm alone: gradients are scaled inside [`adamw`], without a pass of its own.
fn clip() -> Result<Run> {
    let grads = like_parameters(1)?;
    Ok(Box::new(move || {
        timed(|| match ops::grad_norm(&grads)?.host::<f64>()? {
            [norm] if norm.is_finite() => Ok(()),
            other => Err(Error::NonFinite(format!("norm {other:?}"))),
        })
    }))
}

/// A clipped ancestral step in the middle of a run.
fn reverse_step(shape: [usize; 4], noise: f64) -> Result<Run> {
    let (x_t, net_out) = (normal(shape, 1, 1.0)?, normal(shape, 2, 1.0)?);
    let samples: Vec<u32> = (0..shape[0] as u32).collect();
    let step = ReverseStep {
        from_x: 1.25,
        from_out: -0.75,
        clip: Some(1.0),
        to_x: 0.9,
        to_x0: 0.1,
        noise,
        ..Default::default()
    };
    let address = Address::new(0, Purpose::ReverseStep);
    Ok(Box::new(move || {
        let drawn = Noise::Drawn { address, samples: &samples };
        timed(|| ops::reverse_step(&x_t, &net_out, StepInputs::default(), &step, drawn))
    }))
}
