//! The network's parts (S0; items 78–80).

use super::measure::{largest, table};
use super::{Bound, Identity};
use crate::device::Device;
use crate::error::Result;
use crate::io::folder::{FORMAT_VERSION, ModelFolder, NetworkEntry, TweedieJson};
use crate::nn::{BlockType, Mode, Params, UNet, UNetConfig, initialise};
use crate::ops::time_features;
use crate::process::{BetaCurve, BetaSchedule, Level, Process, SchedulerConfig, TimeConvention, Vp};
use crate::rng::{Address, Purpose};
use crate::tape::{Grads, Tape};
use crate::tensor::Tensor;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 78 S0 shapes",
        claim: "the U-Net keeps every height and width from 1 to 9",
        bound: Bound::AtMost(0.0), // sizes that it does not
        measure: shapes,
    },
    Identity {
        id: "item 78 S0 skips",
        claim: "without what the upward half reads from its skips the output is another",
        bound: Bound::AtLeast(1e-3), // of outputs of order 1; ten thousand roundings in f32
        measure: without_skips,
    },
    Identity {
        id: "item 78 S0 gradient",
        claim: "the largest gradients of parameters are the output's differences",
        // The loss sums 70 products, each off by some 2e-7 independently: 2e-6, which the differences divide by 2e-2 and
        // multiply by 5/3: 2e-4 of gradients above 0.1.
        bound: Bound::AtMost(5e-3),
        measure: gradient,
    },
    Identity {
        id: "item 79 S0 distinct",
        claim: "all whole times to 1e5 have features of their own",
        bound: Bound::AtMost(0.0), // pairs of equal rows
        measure: repeats,
    },
    Identity {
        id: "item 79 S0 length",
        claim: "‖E_t‖² = d/2",
        bound: Bound::AtMost(32.0 * f32::EPSILON as f64), // 32 squares of numbers at most 1, each rounded to half an EPSILON
        measure: length,
    },
    Identity {
        id: "item 79 S0 rotation",
        claim: "E_(t+s) = R(s)·E_t: pairs of features turn by s·θ_k",
        bound: Bound::AtMost(PHASE_ERROR),
        measure: rotation,
    },
    Identity {
        id: "item 79 S0 products",
        claim: "⟨E_t, E_s⟩ depends on t − s only",
        bound: Bound::AtMost(16.0 * PHASE_ERROR), // 16 pairs
        measure: products,
    },
    Identity {
        id: "item 80 time conventions",
        claim: "the network is told n, 1000·t, or 100·ln(alpha/sigma) within ±1000",
        bound: Bound::AtMost(1e-9), // 1000·t and logarithms of numbers down to 1e-4: a few roundings of 1000
        measure: conventions,
    },
    Identity {
        id: "item 80 refused",
        claim: "a model folder whose two descriptions disagree on the time is refused, and so is an unknown name",
        bound: Bound::AtMost(0.0), // wrong verdicts
        measure: refusals,
    },
];

/// Two levels, the deeper one with attention.
fn config() -> UNetConfig {
    UNetConfig {
        in_channels: 2,
        out_channels: 2,
        down_block_types: vec![BlockType::Plain, BlockType::Attention],
        up_block_types: vec![BlockType::Attention, BlockType::Plain],
        block_out_channels: vec![4, 8],
        layers_per_block: 1,
        attention_head_dim: Some(4),
        norm_num_groups: 2,
        ..UNetConfig::default()
    }
}

fn normal_images(seed: u64, shape: [usize; 4]) -> Result<Tensor> {
    let mut values = vec![0.0_f32; shape.iter().product()];
    Address::new(seed, Purpose::Test).fill_normal(&mut values);
    Tensor::from_slice(&values, shape)
}

fn shapes() -> Result<f64> {
    let unet = UNet::new(&config())?;
    let params = initialise(unet.specs(), 78)?;
    let mut wrong = 0;
    for (h, w) in (1..10).flat_map(|h| (1..10).map(move |w| (h, w))) {
        let y = unet.forward(&params, &normal_images(78, [1, h, w, 2])?, &[500.0], None, Mode::Inference)?;
        wrong += usize::from(y.shape()[..] != [1, h, w, 2] || !y.is_finite()?);
    }
    Ok(wrong as f64)
}

fn without_skips() -> Result<f64> {
    let unet = UNet::new(&config())?;
    let params = initialise(unet.specs(), 78)?;
    let x = normal_images(79, [1, 7, 5, 2])?;
    let mut tensors = params.tensors().to_vec();
    // Block j of level i reads [features, skip]; the features are those of the block before, of the level below at first.
    for (i, j, features) in [(0, 0, 8), (0, 1, 8), (1, 0, 8), (1, 1, 4)] {
        for name in ["conv_shortcut", "conv1"] {
            let name = format!("up_blocks.{i}.resnets.{j}.{name}.weight");
            let readers = unet.specs().iter().zip(&mut tensors).filter(|(spec, _)| spec.name == name);
            for (spec, tensor) in readers {
                let rows = tensor.host_mut::<f32>()?.chunks_exact_mut(spec.shape.last_size());
                rows.for_each(|row| row[features..].fill(0.0));
            }
        }
    }
    let cut = Params::new(unet.specs(), tensors, false)?;
    let forward = |params: &Params| unet.forward(params, &x, &[500.0], None, Mode::Inference)?.to_vec::<f32>();
    let (with, without) = (forward(&params)?, forward(&cut)?);
    Ok(largest(with.iter().zip(&without).map(|(a, b)| f64::from(a - b))))
}

fn gradient() -> Result<f64> {
    let unet = UNet::new(&config())?;
    let params = initialise(unet.specs(), 78)?;
    let (x, dy) = (normal_images(80, [1, 7, 5, 2])?, normal_images(81, [1, 7, 5, 2])?);
    let forward = |params: &Params| unet.forward(params, &x, &[500.0], None, Mode::Inference);
    let (y, tape) = Tape::record(|| forward(&params))?;
    let mut grads = Grads::new();
    tape.backward(&y, dy.clone(), &mut grads)?;
    let loss = |index: usize, element: usize, step: f32| -> Result<f64> {
        let mut tensors = params.tensors().to_vec();
        tensors[index].host_mut::<f32>()?[element] += step;
        let y = forward(&Params::new(unet.specs(), tensors, false)?)?;
        Ok(y.host::<f32>()?.iter().zip(dy.host::<f32>()?).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum())
    };
    let mut misses = Vec::new();
    for (index, tensor) in params.tensors().iter().enumerate() {
        let Some(grad) = grads.get(tensor) else { return Ok(f64::NAN) };
        let largest = grad.host::<f32>()?.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
        let Some((element, got)) = largest.filter(|(_, g)| g.abs() > 0.1) else { continue };
        let slope = |h: f32| -> Result<f64> {
            Ok((loss(index, element, h)? - loss(index, element, -h)?) / (2.0 * f64::from(h)))
        };
        // Richardson's extrapolation: error of order h⁴.
        let want = (4.0 * slope(1e-2)? - slope(2e-2)?) / 3.0;
        misses.push(f64::from(*got) / want - 1.0);
    }
    Ok(if misses.len() < 20 { f64::NAN } else { largest(misses) })
}

const DIM: usize = 32;

/// Three phases below 2000, each rounded to half an EPSILON relative, as sine or cosine; the features' own rounding is far below.
const PHASE_ERROR: f64 = 3.0 * 2000.0 * f32::EPSILON as f64;

/// Sines, then cosines, of each time.
fn features(times: &[f32]) -> Result<Vec<f32>> {
    time_features(times, DIM, false, 0.0, Device::Cpu)?.to_vec()
}

fn repeats() -> Result<f64> {
    let times: Vec<f32> = (0..=100_000_u32).map(|t| t as f32).collect();
    let all = features(&times)?;
    let mut rows: Vec<Vec<u32>> = all.chunks_exact(DIM).map(|row| row.iter().map(|v| v.to_bits()).collect()).collect();
    rows.sort_unstable();
    Ok(rows.windows(2).filter(|pair| pair[0] == pair[1]).count() as f64)
}

fn length() -> Result<f64> {
    let all = features(&[0.0, 1.0, 17.5, 999.0, 54_321.0, 100_000.0])?;
    let square = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    Ok(largest(all.chunks_exact(DIM).map(|row| square(row) - DIM as f64 / 2.0)))
}

fn rotation() -> Result<f64> {
    let mut misses = Vec::new();
    for (t, s) in [(0.0, 5.0), (3.0, 1.0), (123.0, 456.0), (999.0, 1.0), (1000.0, 1000.0)] {
        let all: Vec<f64> = features(&[t, s, t + s])?.into_iter().map(f64::from).collect();
        let pair = |row: usize, k: usize| (all[row * DIM + k], all[row * DIM + DIM / 2 + k]);
        for k in 0..DIM / 2 {
            let ((sin_t, cos_t), (sin_s, cos_s), (sin, cos)) = (pair(0, k), pair(1, k), pair(2, k));
            misses.extend([sin_t * cos_s + cos_t * sin_s - sin, cos_t * cos_s - sin_t * sin_s - cos]);
        }
    }
    Ok(largest(misses))
}

fn products() -> Result<f64> {
    let dot = |a: f32, b: f32| -> Result<f64> {
        let all = features(&[a, b])?;
        Ok(all[..DIM].iter().zip(&all[DIM..]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum())
    };
    let mut misses = Vec::new();
    for apart in [1.0, 7.0, 250.0] {
        let first = dot(0.0, apart)?;
        for t in [10.0, 333.0, 1700.0] {
            misses.push(dot(t, t + apart)? - first);
        }
    }
    Ok(largest(misses))
}

fn conventions() -> Result<f64> {
    let table = table(&BetaSchedule::Linear)?;
    let vp = Vp::new(BetaCurve::Linear { min: 0.1, max: 20.0 }, false)?;
    let mut misses = Vec::new();
    for k in [0, 1, 500, 999] {
        misses.push(TimeConvention::DdpmIndex.network_time(table.level_of(k)?) - k as f64);
    }
    for time in [0.001, 0.25, 0.5, 1.0] {
        let at = vp.level(time);
        misses.push(TimeConvention::Time.network_time(at) - 1000.0 * time);
        misses.push(TimeConvention::LogSnr.network_time(at) - 100.0 * (at.alpha / at.sigma).ln());
    }
    for (alpha, sigma, want) in [(1.0, 1e-9, 1000.0), (1e-9, 1.0, -1000.0), (0.6, 0.6, 0.0)] {
        misses.push(TimeConvention::LogSnr.network_time(Level::of(alpha, sigma)) - want);
    }
    Ok(largest(misses))
}

fn description(time_convention: &str) -> TweedieJson {
    TweedieJson {
        format_version: FORMAT_VERSION,
        time_convention: time_convention.into(),
        image_shape: [7, 5, 2],
        max_pixel_value: 255,
        class_names: Vec::new(),
        p_uncond: 0.0,
        data: "none".into(),
        split_seed: 0,
        requires_tweedie: None,
    }
}

fn refusals() -> Result<f64> {
    let path = std::env::temp_dir().join(format!("tweedie-verify-{}", std::process::id()));
    let folder = ModelFolder::new(&path);
    let scheduler = SchedulerConfig::default();
    let mut wrong = 0;
    for (name, is_right) in [("ddpm_index", true), ("time", false), ("log_snr", false), ("seconds", false)] {
        let own = description(name);
        folder.write_descriptions(&NetworkEntry::unet(&config()), &scheduler, &own)?;
        wrong += usize::from(folder.read_descriptions().is_ok() != is_right);
    }
    // Left behind, it would only be overwritten by the next run.
    let _ = std::fs::remove_dir_all(&path);
    Ok(wrong as f64 + f64::from(u8::from(TimeConvention::from_name("seconds").is_ok())))
}
