//! Linear layer: y = x·Wᵀ + bias (+ residual). A 1×1 convolution is this on `[n, h, w, c]`.
//!
//! Saved    x and the weight (shared, not copied).
//! Cost     2·rows·c_in·c_out flops forward, twice that backward; compute bound from about 64 channels on.
//! Order    both operands are packed (`simd::gemm`); each output sums c_in in order; dweight sums rows in order; dbias in blocks of 64 rows. On a GPU dweight and dbias sum
//!          ranges of rows that depend on the shape alone, and add those in order.
//! Types    x, y and the residual may be bf16 (`bf16.rs`); weight, bias and their gradients are f32, and so are all sums.
//! GELU     `linear_gelu` (`gelu.rs`) applies it in the epilogue.
//! Kernels  `kernels/linear.cu` and `kernels/gemm.cuh`, which `conv2d` uses too.

mod bf16;
#[doc(hidden)]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod gelu;

pub use gelu::linear_gelu;

use super::{narrow, same_device, sum_rows};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Shape, Tensor, TensorId};

/// `y = x·weightᵀ + bias + residual`.
///
/// * `x` — `[…, c_in]`
/// * `weight` — `[c_out, c_in]`
/// * `bias` — `[c_out]`
/// * `residual` — `[…, c_out]`, added to the result
///
/// Returns `[…, c_out]` on the device of `x`. Differentiable in every tensor argument.
///
/// # Errors
/// [`Error::Shape`] if sizes disagree; [`Error::Device`] if the arguments live on different devices.
///
/// # Example
/// ```
/// use tweedie::{ops, tensor::Tensor};
/// let x = Tensor::from_slice(&[1.0_f32, 2.0], [1, 2])?;
/// let weight = Tensor::from_slice(&[3.0_f32, 4.0, 5.0, 6.0], [2, 2])?;
/// let y = ops::linear(&x, &weight, None, None)?;
/// assert_eq!(y.to_vec::<f32>()?, [11.0, 17.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
    let (out_shape, device) = check("linear", x, weight, bias, residual)?;
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).chain(residual).collect();
    let y = match device {
        Device::Cpu => cpu::forward(x, weight, bias, residual, Tensor::empty(out_shape, x.dtype(), Device::Cpu)?)?,
        Device::Cuda(index) => {
            let (c_out, c_in) = (weight.shape()[0], weight.shape()[1]);
            let sizes = cuda::Sizes { rows: x.count() / c_in.max(1), c_in, c_out };
            cuda::forward(index, x, weight, bias, residual, out_shape, sizes)?
        }
    };
    Ok(tape::push(y, &inputs, || {
        Box::new(Linear {
            x: x.clone(),
            weight: weight.clone(),
            bias: bias.and_then(Tensor::grad_slot),
            residual: residual.and_then(Tensor::grad_slot),
        })
    }))
}

/// The shape of the result, and where everything lives.
fn check(
    op: &str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<(Shape, Device)> {
    let (&[c_out, c_in], shape) = (&weight.shape()[..], x.shape()) else {
        return Err(Error::Shape(format!("{op}: weight wants [c_out,c_in], got {}", weight.shape())));
    };
    if shape.is_empty() || shape.last_size() != c_in {
        return Err(Error::Shape(format!("{op}: weight {} wants c_in = {c_in}, but x is {shape}", weight.shape())));
    }
    let out_shape = shape.with_last(c_out);
    if let Some(b) = bias.filter(|b| b.shape()[..] != [c_out]) {
        return Err(Error::Shape(format!("{op}: bias wants [{c_out}], got {}", b.shape())));
    }
    if let Some(r) = residual.filter(|r| r.shape() != out_shape) {
        return Err(Error::Shape(format!("{op}: residual wants {out_shape}, got {}", r.shape())));
    }
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).chain(residual).collect();
    Ok((out_shape, same_device(op, &inputs)?))
}

struct Linear {
    x: Tensor,
    weight: Tensor,
    bias: Option<TensorId>,
    residual: Option<TensorId>,
}

impl Node for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        product_gradients(&self.x, &self.weight, self.bias, &dy, grads)?;
        grads.add(self.residual, dy)
    }
}

/// The gradients of bias, weight and x from that of the product.
fn product_gradients(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<TensorId>,
    dy: &Tensor,
    grads: &mut Grads,
) -> Result<()> {
    let (c_out, rows) = (dy.shape().last_size(), dy.count() / dy.shape().last_size().max(1));
    match dy.device() {
        Device::Cpu => {
            if bias.is_some() {
                grads.add(bias, narrow(&sum_rows(dy, 1, c_out)?, [c_out])?)?;
            }
            if weight.requires_grad() {
                grads.add(weight.grad_slot(), cpu::backward_weight(x, dy, rows)?)?;
            }
            if x.requires_grad() {
                grads.add(x.grad_slot(), cpu::backward_x(x, weight, dy, rows)?)?;
            }
        }
        Device::Cuda(index) => {
            let sizes = cuda::Sizes { rows, c_in: x.shape().last_size(), c_out };
            if bias.is_some() {
                grads.add(bias, cuda::sum_rows(index, dy.cuda()?, [1, rows, c_out], [c_out])?)?;
            }
            if weight.requires_grad() {
                grads.add(weight.grad_slot(), cuda::backward_weight(index, x, dy, weight, sizes)?)?;
            }
            if x.requires_grad() {
                grads.add(x.grad_slot(), cuda::backward_x(index, weight, dy, x, sizes)?)?;
            }
        }
    }
    Ok(())
}
