//! GroupNorm with optional scale-shift and SiLU, fused (Wu & He 2018; scale-shift as in Dhariwal & Nichol 2021).
//!
//! y = silu((x̂·weight + bias)·(1 + scale) + shift),  x̂ = (x − mean)·rstd,  rstd = 1/√(var + norm_eps)
//!
//! Layout   x, y `[n,h,w,c]`; weight, bias `[c]`; scale, shift `[n,c]`; mean, rstd `[n,g]`.
//! Saved    x (shared), mean, rstd. x̂ and silu' are recomputed.
//! Cost     an image after the other, which the second-level cache keeps between its two passes: x read and y written once;
//!          backward reads x and dy and writes dx once, dx holding dz in between; on the CPU dx is dy's memory if nobody else has it.
//! Order    statistics of blocks of 16 to 128 pixels, which depend on c alone (mean first, then squared distances), merged in order by
//!          Chan's formula.
//! Parts    x may be two tensors side by side along channels, as a skip connection has them: the CPU reads both where they lie, and gives each its
//!          gradient; the bits are those of the joined tensor. On a GPU they are joined first.
//! Types    x and y may be bf16; statistics, sums, weights and their gradients are f32. Backward rounds dz to bf16 where SiLU follows.
//! CUDA     `kernels/group_norm.cu`; its blocks of pixels depend on the size of an image alone.

#[doc(hidden)]
pub mod cases;
mod cpu;
mod cuda;
mod rows;

use super::{Joined, concat_channels, image_shape, same_device, with_activation};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::Tensor;

/// A scale and a shift for each image and channel, from the time embedding.
#[derive(Clone, Copy)]
pub struct Film<'a> {
    /// `[n, c]`; 0 leaves the value.
    pub scale: &'a Tensor,
    /// `[n, c]`.
    pub shift: &'a Tensor,
}

/// The settings of a group norm.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    /// Number of groups; must divide the channels.
    pub groups: usize,
    /// Stabiliser of the variance.
    pub norm_eps: f64,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Normalises each group of channels over space, then applies `weight`, `bias`, the optional `film`, and SiLU.
///
/// `y = silu((x̂·weight + bias)·(1 + scale) + shift)`, `x̂ = (x − mean)/√(var + norm_eps)`, biased variance.
///
/// * `x` — `[n, h, w, c]`, or two tensors that together have `c` channels: they are read where they lie
/// * `weight`, `bias` — `[c]`
/// * `film` — `scale` and `shift`, each `[n, c]`
/// * `norm` — groups, stabiliser, and whether SiLU is applied
///
/// Returns `[n, h, w, c]` on the device of `x`. Differentiable in every tensor argument.
///
/// # Errors
/// [`Error::Shape`] if a shape disagrees or `groups` does not divide `c`; [`Error::Device`] if the arguments
/// live on different devices.
///
/// # Example
/// ```
/// use tweedie::{ops::{group_norm, GroupNorm}, tensor::Tensor};
/// let x = Tensor::from_slice(&[1.0_f32, 3.0], [1, 2, 1, 1])?;
/// let (weight, bias) = (Tensor::from_slice(&[2.0_f32], [1])?, Tensor::from_slice(&[1.0_f32], [1])?);
/// let y = group_norm(&x, &weight, &bias, None, GroupNorm { groups: 1, norm_eps: 0.0, silu: false })?;
/// assert_eq!(y.to_vec::<f32>()?, [-1.0, 3.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn group_norm<'a>(
    x: impl Into<Joined<'a>>,
    weight: &Tensor,
    bias: &Tensor,
    film: Option<Film<'_>>,
    norm: GroupNorm,
) -> Result<Tensor> {
    let x = x.into();
    let [n, h, w, _] = image_shape("group_norm", x.first)?;
    let c = x.channels("group_norm")?;
    if let (Some(second), Device::Cuda(_)) = (x.second, x.first.device()) {
        return group_norm(&concat_channels(x.first, second)?, weight, bias, film, norm);
    }
    if norm.groups == 0 || c % norm.groups != 0 {
        return Err(Error::Shape(format!("group_norm: {c} channels do not divide into {} groups", norm.groups)));
    }
    for (name, t) in [("weight", weight), ("bias", bias)] {
        if t.shape()[..] != [c] {
            return Err(Error::Shape(format!("group_norm: {name} wants [{c}], got {}", t.shape())));
        }
    }
    for (name, t) in film.iter().flat_map(|f| [("scale", f.scale), ("shift", f.shift)]) {
        if t.shape()[..] != [n, c] {
            return Err(Error::Shape(format!("group_norm: {name} wants [{n},{c}], got {}", t.shape())));
        }
    }
    let inputs: Vec<&Tensor> =
        x.tensors().chain([weight, bias]).chain(film.iter().flat_map(|f| [f.scale, f.shift])).collect();
    let sizes = Sizes { n, pixels: h * w, c, norm };
    let (y, mean, rstd) = match same_device("group_norm", &inputs)? {
        Device::Cpu => with_activation!(x.first.dtype(), T => cpu::forward::<T>(x, weight, bias, film, sizes))?,
        Device::Cuda(index) => cuda::forward(index, x.first, weight, bias, film, sizes)?,
    };
    Ok(tape::push(y, &inputs, || {
        Box::new(GroupNormNode {
            x: x.first.clone(),
            x2: x.second.cloned(),
            weight: weight.clone(),
            bias: bias.clone(),
            film: film.map(|f| (f.scale.clone(), f.shift.clone())),
            mean,
            rstd,
            sizes,
        })
    }))
}

#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    pixels: usize,
    c: usize,
    norm: GroupNorm,
}

struct GroupNormNode {
    x: Tensor,
    /// Further channels, on the CPU.
    x2: Option<Tensor>,
    weight: Tensor,
    bias: Tensor,
    film: Option<(Tensor, Tensor)>,
    mean: Tensor,
    rstd: Tensor,
    sizes: Sizes,
}

impl Node for GroupNormNode {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        match dy.device() {
            Device::Cpu => with_activation!(dy.dtype(), T => cpu::backward::<T>(*self, dy, grads)),
            Device::Cuda(index) => cuda::backward(index, &self, &dy, grads),
        }
    }
}
