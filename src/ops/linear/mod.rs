//! Linear layer: y = x·Wᵀ + bias (+ residual). A 1×1 convolution is this on `[n, h, w, c]`.
//!
//! Saved    x and the weight (shared, not copied).
//! Cost     2·rows·c_in·c_out flops forward, twice that backward; compute bound from about 64 channels on.
//! Order    both operands are packed (`simd::gemm`); each output sums c_in in order; dweight sums rows in order; dbias in blocks of 64 rows. On a GPU dweight and dbias sum
//!          ranges of rows that depend on the shape alone, and add those in order.
//! Types    x, y and the residual may be bf16 (`bf16.rs`); weight, bias and their gradients are f32, and so are all sums.
//! Kernels  `kernels/linear.cu` and `kernels/gemm.cuh`, which `conv2d` uses too.

mod bf16;
#[doc(hidden)]
pub mod cases;
mod cpu;
pub(super) mod cuda;

use super::{narrow, same_device, sum_rows};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Tensor, TensorId};

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
    let (&[c_out, c_in], shape) = (&weight.shape()[..], x.shape()) else {
        return Err(Error::Shape(format!("linear: weight wants [c_out,c_in], got {}", weight.shape())));
    };
    if shape.is_empty() || shape.last_size() != c_in {
        return Err(Error::Shape(format!("linear: weight {} wants c_in = {c_in}, but x is {shape}", weight.shape())));
    }
    let out_shape = shape.with_last(c_out);
    if let Some(b) = bias.filter(|b| b.shape()[..] != [c_out]) {
        return Err(Error::Shape(format!("linear: bias wants [{c_out}], got {}", b.shape())));
    }
    if let Some(r) = residual.filter(|r| r.shape() != out_shape) {
        return Err(Error::Shape(format!("linear: residual wants {out_shape}, got {}", r.shape())));
    }
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).chain(residual).collect();
    let y = match same_device("linear", &inputs)? {
        Device::Cpu => cpu::forward(x, weight, bias, residual, Tensor::empty(out_shape, x.dtype(), Device::Cpu)?)?,
        Device::Cuda(index) => {
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
        let (c_out, rows) = (dy.shape().last_size(), dy.count() / dy.shape().last_size().max(1));
        match dy.device() {
            Device::Cpu => {
                if self.bias.is_some() {
                    grads.add(self.bias, narrow(&sum_rows(&dy, 1, c_out)?, [c_out])?)?;
                }
                if self.weight.requires_grad() {
                    grads.add(self.weight.grad_slot(), cpu::backward_weight(&self.x, &dy, rows)?)?;
                }
                if self.x.requires_grad() {
                    grads.add(self.x.grad_slot(), cpu::backward_x(&self.x, &self.weight, &dy, rows)?)?;
                }
            }
            Device::Cuda(index) => {
                let sizes = cuda::Sizes { rows, c_in: self.x.shape().last_size(), c_out };
                if self.bias.is_some() {
                    grads.add(self.bias, cuda::sum_rows(index, dy.cuda()?, [1, rows, c_out], [c_out])?)?;
                }
                if self.weight.requires_grad() {
                    grads.add(
                        self.weight.grad_slot(),
                        cuda::backward_weight(index, &self.x, &dy, &self.weight, sizes)?,
                    )?;
                }
                if self.x.requires_grad() {
                    grads.add(self.x.grad_slot(), cuda::backward_x(index, &self.weight, &dy, &self.x, sizes)?)?;
                }
            }
        }
        grads.add(self.residual, dy)
    }
}
