//! The ops: one room each, with its CPU side, its place for CUDA, its oracle and its case table.

mod adamw;
mod attention;
mod attention_pool;
mod blend;
mod concat;
mod conv2d;
mod cross_entropy;
mod dropout;
mod dynamic_threshold;
mod embed;
mod error_norm;
mod fourier;
mod gated_residual;
mod group_norm;
mod layer_norm;
mod learned_variance;
mod linear;
mod muon;
mod perturb;
mod pointwise;
mod posterior_kl;
mod reduce;
mod resample;
mod reverse_step;
mod score_entropy;
mod select;
mod set_components;
mod weighted_mse;

pub use adamw::{AdamW, AdamWEntry, adamw};
pub use attention::{attention, rotary_table, self_attention};
pub use attention_pool::attention_pool;
pub use blend::blend;
pub use concat::{Joined, concat_channels, project, slice_channels};
pub use conv2d::{
    CONV_ACCURACIES, Conv, ConvAccuracy, ConvExtras, conv_accuracy, conv2d, forced_conv_method, set_conv_accuracy,
};
pub use cross_entropy::cross_entropy;
pub use dropout::dropout;
pub use dynamic_threshold::dynamic_threshold;
pub use embed::{embed, embed_sequences};
pub use error_norm::error_norm;
pub use fourier::time_features;
pub use gated_residual::gated_residual;
pub use group_norm::{Film, GroupNorm, group_norm};
pub use layer_norm::layer_norm;
pub use learned_variance::{VarianceTerms, learned_step, learned_variance};
pub use linear::{linear, linear_gelu};
pub use muon::{Muon, MuonEntry, muon};
pub use perturb::{Perturbed, perturb};
pub use pointwise::{add, affine, cast, silu};
pub use posterior_kl::{PosteriorTerm, posterior_kl};
pub use reduce::grad_norm;
pub use resample::{mean_pool2, upsample_nearest};
pub use reverse_step::{Noise, ReverseStep, StepInputs, reverse_step};
pub use score_entropy::{ScoreForm, ScoreTerm, score_entropy};
pub use select::select;
pub use set_components::set_components;
pub use weighted_mse::weighted_mse;

use crate::device::DerivedKey;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use std::any::Any;
use std::sync::Arc;

/// Checks that all tensors of an op live on one device.
fn same_device(op: &str, tensors: &[&Tensor]) -> Result<crate::device::Device> {
    let device = tensors[0].device();
    match tensors.iter().find(|t| t.device() != device) {
        None => Ok(device),
        Some(t) => Err(Error::Device(format!("{op}: arguments live on {device} and {}; move them to one", t.device()))),
    }
}

/// `[n, h, w, c]` or an error that shows the shape.
fn image_shape(op: &str, x: &Tensor) -> Result<[usize; 4]> {
    x.shape().nhwc().ok_or_else(|| Error::Shape(format!("{op}: x wants [n,h,w,c], got {}", x.shape())))
}

/// Values that a thread of a copying kernel moves at once: 4 where every size and offset divides by it, else 1.
fn lanes(sizes: &[usize]) -> usize {
    if sizes.iter().all(|size| size.is_multiple_of(4)) { 4 } else { 1 }
}

/// A number of the ops that samplers and oracles use too: f32, or f64. Scalars and noise are brought to it first.
trait Real:
    crate::tensor::Element
    + Default
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
{
    fn of(value: f64) -> Self;
    fn of_f32(value: f32) -> Self;
}
impl Real for f32 {
    #[inline(always)]
    fn of(value: f64) -> f32 {
        value as f32
    }
    #[inline(always)]
    fn of_f32(value: f32) -> f32 {
        value
    }
}
impl Real for f64 {
    #[inline(always)]
    fn of(value: f64) -> f64 {
        value
    }
    #[inline(always)]
    fn of_f32(value: f32) -> f64 {
        f64::from(value)
    }
}

/// A number that activations are made of.
trait Activation: crate::simd::Number + crate::tensor::Element {}
impl Activation for f32 {}
impl Activation for half::bf16 {}

/// Evaluates an expression with `T` the element type of activations: bf16, or f32 (of which the host's slices say so, if it is neither).
macro_rules! with_activation {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            crate::tensor::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
use with_activation;

/// Sums over the rows of each of `parts` equal parts of `x` (`[parts·rows, c]`): `[parts, c]`.
///
/// f32 sums within blocks of 64 rows, blocks added in f64 in order.
fn sum_rows(x: &Tensor, parts: usize, c: usize) -> Result<crate::device::Scratch<f64>> {
    with_activation!(x.dtype(), T => Ok(sum_rows_of(x.host::<T>()?, parts, c)))
}

fn sum_rows_of<T: Activation>(x: &[T], parts: usize, c: usize) -> crate::device::Scratch<f64> {
    use crate::device::{DisjointMut, for_each_block};
    const BLOCK: usize = 64;
    let rows = x.len() / (parts * c).max(1);
    let blocks = rows.div_ceil(BLOCK);
    let mut partial = crate::device::Scratch::<f32>::take(parts * blocks * c);
    let out = DisjointMut::new(&mut partial);
    for_each_block(parts * blocks, BLOCK * c, |job| {
        let (part, block) = (job / blocks, job % blocks);
        let (first, end) = (block * BLOCK, rows.min((block + 1) * BLOCK));
        let rows = &x[(part * rows + first) * c..][..(end - first) * c];
        crate::simd::dispatch(crate::simd::RowSums { rows, sums: out.slice(job * c, c) });
    });
    let mut sums = crate::device::Scratch::<f64>::zeroed(parts * c);
    for part in 0..parts {
        for block in 0..blocks {
            let line = &partial[(part * blocks + block) * c..][..c];
            for (s, v) in sums[part * c..].iter_mut().zip(line) {
                *s += f64::from(*v);
            }
        }
    }
    sums
}

/// What `make` computes from a weight's values. Inference asks for it again with the same weight, so it is kept there; a training step, which
/// records, writes the weight before the next one.
fn kept<T: Any + Send + Sync>(weight: &Tensor, key: DerivedKey, make: impl FnOnce(&[f32]) -> T) -> Result<Arc<T>> {
    if crate::tape::is_recording() { Ok(Arc::new(make(weight.host()?))) } else { weight.derived(key, make) }
}

/// f64 sums as an f32 tensor.
fn narrow(values: &[f64], shape: impl Into<crate::tensor::Shape>) -> Result<Tensor> {
    let mut tensor = Tensor::empty(shape, crate::tensor::Dtype::F32, crate::device::Device::Cpu)?;
    for (out, value) in tensor.host_mut::<f32>()?.iter_mut().zip(values) {
        *out = *value as f32;
    }
    Ok(tensor)
}

/// The fixed case tables of the rooms, by stem.
#[doc(hidden)]
pub fn case_tables() -> Vec<(&'static str, Vec<crate::testing::Case>)> {
    vec![
        ("linear", linear::cases::table()),
        ("conv2d", conv2d::cases::table()),
        ("group_norm", group_norm::cases::table()),
        ("layer_norm", layer_norm::cases::table()),
        ("attention", attention::cases::table()),
        ("attention_pool", attention_pool::cases::table()),
        ("pointwise", pointwise::cases::table()),
        ("concat", concat::cases::table()),
        ("resample", resample::cases::table()),
        ("embed", embed::cases::table()),
        ("dropout", dropout::cases::table()),
        ("fourier", fourier::cases::table()),
        ("gated_residual", gated_residual::cases::table()),
        ("cross_entropy", cross_entropy::cases::table()),
        ("score_entropy", score_entropy::cases::table()),
        ("posterior_kl", posterior_kl::cases::table()),
        ("weighted_mse", weighted_mse::cases::table()),
        ("learned_variance", learned_variance::cases::table()),
        ("error_norm", error_norm::cases::table()),
        ("reduce", reduce::cases::table()),
        ("blend", blend::cases::table()),
        ("dynamic_threshold", dynamic_threshold::cases::table()),
        ("select", select::cases::table()),
        ("set_components", set_components::cases::table()),
        ("perturb", perturb::cases::table()),
        ("reverse_step", reverse_step::cases::table()),
        ("adamw", adamw::cases::table()),
        ("muon", muon::cases::table()),
    ]
}

/// Rooms' case makers, for drawn sizes and for benches.
#[doc(hidden)]
pub mod cases {
    pub use super::{
        attention::cases as attention, attention_pool::cases as attention_pool, concat::cases as concat,
        conv2d::cases as conv2d, cross_entropy::cases as cross_entropy, embed::cases as embed,
        gated_residual::cases as gated_residual, group_norm::cases as group_norm, layer_norm::cases as layer_norm,
        linear::cases as linear, pointwise::cases as pointwise, posterior_kl::cases as posterior_kl,
        resample::cases as resample, score_entropy::cases as score_entropy, weighted_mse::cases as weighted_mse,
    };
}
