//! GELU(x·Wᵀ + bias): the activation stands in the product's epilogue, where a line of results is in the cache.
//!
//! Saved    x, the weight (shared), and what GELU was applied to; nothing of the latter where nothing is recorded.
//! Form     the tanh form, which SEDD's and MDLM's transformers have (`simd`'s `gelu`).
//! CUDA     the product, then `linear_gelu_*`.

use super::{check, cpu, cuda, product_gradients};
use crate::device::Device;
use crate::error::Result;
use crate::tape::{self, Grads, Node};
use crate::tensor::{Tensor, TensorId};

/// `y = gelu(x·weightᵀ + bias)`, `gelu(z) = ½·z·(1 + tanh(√(2/π)·(z + 0.044715·z³)))`.
///
/// * `x` — `[…, c_in]`, f32
/// * `weight` — `[c_out, c_in]`
/// * `bias` — `[c_out]`
///
/// Returns `[…, c_out]` on the device of `x`. Differentiable in every tensor argument.
///
/// # Errors
/// [`crate::Error::Shape`] if sizes disagree; [`crate::Error::Device`] if the arguments live on different devices;
/// [`crate::Error::Dtype`] if `x` is not f32.
///
/// # Example
/// ```
/// use tweedie::{ops, tensor::Tensor};
/// let x = Tensor::from_slice(&[1.0_f32, 2.0], [1, 2])?;
/// let weight = Tensor::from_slice(&[0.0_f32, 0.0, 3.0, 4.0], [2, 2])?;
/// let y = ops::linear_gelu(&x, &weight, None)?.to_vec::<f32>()?;
/// assert_eq!(y, [0.0, 11.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn linear_gelu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (shape, device) = check("linear_gelu", x, weight, bias, None)?;
    let (c_out, c_in) = (weight.shape()[0], weight.shape()[1]);
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let keep = tape::is_recording() && inputs.iter().any(|t| t.requires_grad());
    let (y, before) = match device {
        Device::Cpu => cpu::forward_gelu(x, weight, bias, shape, keep)?,
        Device::Cuda(index) => {
            let sizes = cuda::Sizes { rows: x.count() / c_in.max(1), c_in, c_out };
            let before = cuda::forward(index, x, weight, bias, None, shape, sizes)?;
            (cuda::gelu(index, &before)?, keep.then_some(before))
        }
    };
    // Where it was not kept, no node is built either.
    let before = before.unwrap_or_else(|| y.clone());
    Ok(tape::push(y, &inputs, || {
        Box::new(LinearGelu { x: x.clone(), weight: weight.clone(), bias: bias.and_then(Tensor::grad_slot), before })
    }))
}

struct LinearGelu {
    x: Tensor,
    weight: Tensor,
    bias: Option<TensorId>,
    before: Tensor,
}

impl Node for LinearGelu {
    fn name(&self) -> &'static str {
        "linear_gelu"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let LinearGelu { x, weight, bias, before } = *self;
        let dbefore = match dy.device() {
            Device::Cpu => cpu::gelu_backward(&before, &dy)?,
            Device::Cuda(index) => cuda::gelu_backward(index, &before, &dy)?,
        };
        drop((before, dy));
        product_gradients(&x, &weight, bias, &dbefore, grads)
    }
}
