//! LayerNorm with optional modulation (Ba et al. 2016; the modulation of adaLN, Peebles & Xie 2023).
//!
//! y = (x̂·weight + bias)·(1 + scale) + shift,  x̂ = (x − mean)·rstd,  rstd = 1/√(var + norm_eps), statistics of each token
//!
//! Layout   x, y `[n,…,c]`; weight, bias `[c]`; scale, shift `[n,c]`; mean, rstd one for each row of c.
//! Saved    x (shared), mean, rstd. x̂ is recomputed.
//! Cost     a row stays in the first-level cache between its passes: x read and y written once; backward reads x and dy and writes dx once.
//! Order    a row's sums run by lanes; those over rows in blocks of 64 rows of one sample, blocks added in f64 in order.
//! CUDA     `kernels/layer_norm.cu`.

#[doc(hidden)]
pub mod cases;
mod cpu;
mod cuda;
mod rows;

use super::{Film, same_device};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::Tensor;

/// Normalises each token over its channels, then applies `weight`, the optional `bias` and the optional `film`.
///
/// `y = (x̂·weight + bias)·(1 + scale) + shift`, `x̂ = (x − mean)/√(var + norm_eps)`, biased variance.
///
/// * `x` — `[n, …, c]`
/// * `weight`, `bias` — `[c]`
/// * `film` — `scale` and `shift`, each `[n, c]`: one for each sample
/// * `norm_eps` — stabiliser of the variance
///
/// Returns the shape of `x`, on its device. Differentiable in every tensor argument.
///
/// # Errors
/// [`Error::Shape`] if a shape disagrees; [`Error::Device`] if the arguments live on different devices.
///
/// # Example
/// ```
/// use tweedie::{ops, tensor::Tensor};
/// let x = Tensor::from_slice(&[1.0_f32, 3.0], [1, 2])?;
/// let weight = Tensor::from_slice(&[2.0_f32, 1.0], [2])?;
/// assert_eq!(ops::layer_norm(&x, &weight, None, None, 0.0)?.to_vec::<f32>()?, [-2.0, 1.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn layer_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    film: Option<Film<'_>>,
    norm_eps: f64,
) -> Result<Tensor> {
    let shape = x.shape();
    if shape.len() < 2 || shape.last_size() == 0 {
        return Err(Error::Shape(format!("layer_norm: x wants [n,…,c] with c at least 1, got {shape}")));
    }
    let (n, c) = (shape[0], shape.last_size());
    for (name, t) in [("weight", weight)].into_iter().chain(bias.map(|b| ("bias", b))) {
        if t.shape()[..] != [c] {
            return Err(Error::Shape(format!("layer_norm: {name} wants [{c}], got {}", t.shape())));
        }
    }
    for (name, t) in film.iter().flat_map(|f| [("scale", f.scale), ("shift", f.shift)]) {
        if t.shape()[..] != [n, c] {
            return Err(Error::Shape(format!("layer_norm: {name} wants [{n},{c}], got {}", t.shape())));
        }
    }
    let inputs: Vec<&Tensor> =
        [x, weight].into_iter().chain(bias).chain(film.iter().flat_map(|f| [f.scale, f.shift])).collect();
    let sizes = Sizes { n, rows: shape.count() / (n * c).max(1), c, norm_eps };
    let (y, mean, rstd) = match same_device("layer_norm", &inputs)? {
        Device::Cpu => cpu::forward(x, weight, bias, film, sizes)?,
        Device::Cuda(index) => cuda::forward(index, x, weight, bias, film, sizes)?,
    };
    Ok(tape::push(y, &inputs, || {
        Box::new(LayerNorm {
            x: x.clone(),
            weight: weight.clone(),
            bias: bias.cloned(),
            film: film.map(|f| (f.scale.clone(), f.shift.clone())),
            mean,
            rstd,
            sizes,
        })
    }))
}

/// `rows` are those of one sample.
#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    rows: usize,
    c: usize,
    norm_eps: f64,
}

struct LayerNorm {
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    film: Option<(Tensor, Tensor)>,
    mean: Tensor,
    rstd: Tensor,
    sizes: Sizes,
}

impl Node for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        match dy.device() {
            Device::Cpu => cpu::backward(&self, &dy, grads),
            Device::Cuda(index) => cuda::backward(index, &self, &dy, grads),
        }
    }
}
