//! The 1×1 convolution of one or two tensors, y = [x₁ x₂]·weightᵀ + bias: the shortcut beside a residual block that reads a skip connection.
//!
//! Saved    x₁, x₂ and the weight (shared).
//! Cost     2·c_in·c_out flops a pixel forward, twice that backward, as the convolution of the joined tensor. The second tensor's product is
//!          added to the first's where it lies, which reads and writes y once more.
//! Order    each tensor's channels in order, then (first + second) + bias; dweight as `linear`.
//! Others   one tensor, bf16, and any on a GPU go to `conv2d`, joined.

use super::super::conv2d::{Conv, conv2d};
use super::super::kept;
use super::super::{narrow, same_device, sum_rows};
use super::{Joined, concat_channels};
use crate::device::{Device, Scratch};
use crate::error::{Error, Result};
use crate::simd::gemm::{Matrix, Prepared, multiply, multiply_prepared};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Dtype, Tensor, TensorId};

/// Maps the channels of each pixel.
///
/// * `x` — `[n, h, w, c_in]`, or two tensors that together have `c_in` channels: they are read where they lie
/// * `weight` — `[c_out, 1, 1, c_in]`
/// * `bias` — `[c_out]`
///
/// Returns `[n, h, w, c_out]` on the device of `x`. Differentiable in every tensor argument.
///
/// # Errors
/// [`Error::Shape`] if sizes disagree; [`Error::Device`] if the arguments live on different devices.
///
/// # Example
/// ```
/// use tweedie::{ops::project, tensor::Tensor};
/// let (x, skip) = (Tensor::from_slice(&[1.0_f32], [1, 1, 1, 1])?, Tensor::from_slice(&[2.0_f32], [1, 1, 1, 1])?);
/// let weight = Tensor::from_slice(&[10.0_f32, 100.0], [1, 1, 1, 2])?;
/// assert_eq!(project((&x, &skip), &weight, None)?.to_vec::<f32>()?, [210.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn project<'a>(x: impl Into<Joined<'a>>, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let x = x.into();
    let (first, second) = match (x.second, x.first.device(), x.first.dtype()) {
        (Some(second), Device::Cpu, Dtype::F32) => (x.first, second),
        (Some(second), ..) => {
            return conv2d(&concat_channels(x.first, second)?, weight, bias, Conv::same(1), Default::default());
        }
        (None, ..) => return conv2d(x.first, weight, bias, Conv::same(1), Default::default()),
    };
    let c_in = x.channels("project")?;
    let Some([c_out, 1, 1, wants]) = weight.shape().nhwc() else {
        return Err(Error::Shape(format!("project: weight wants [c_out,1,1,c_in], got {}", weight.shape())));
    };
    if wants != c_in {
        let (shape, a, b) = (weight.shape(), first.shape(), second.shape());
        return Err(Error::Shape(format!("project: weight {shape} wants c_in = {wants}, but {a} and {b} have {c_in}")));
    }
    if let Some(b) = bias.filter(|b| b.shape()[..] != [c_out]) {
        return Err(Error::Shape(format!("project: bias wants [{c_out}], got {}", b.shape())));
    }
    let inputs: Vec<&Tensor> = [first, second, weight].into_iter().chain(bias).collect();
    same_device("project", &inputs)?;
    let y = forward([first, second], weight, bias, [c_in, c_out])?;
    Ok(tape::push(y, &inputs, || {
        Box::new(Project {
            x: [first.clone(), second.clone()],
            weight: weight.clone(),
            bias: bias.and_then(Tensor::grad_slot),
        })
    }))
}

struct Project {
    x: [Tensor; 2],
    weight: Tensor,
    bias: Option<TensorId>,
}

impl Node for Project {
    fn name(&self) -> &'static str {
        "project"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let c_out = dy.shape().last_size();
        if self.bias.is_some() {
            grads.add(self.bias, narrow(&sum_rows(&dy, 1, c_out)?, [c_out])?)?;
        }
        if self.weight.requires_grad() {
            grads.add(self.weight.grad_slot(), self.backward_weight(&dy)?)?;
        }
        let mut at = 0;
        for x in &self.x {
            if x.requires_grad() {
                grads.add(x.grad_slot(), backward_x(x, &self.weight, &dy, at)?)?;
            }
            at += x.shape().last_size();
        }
        Ok(())
    }
}

fn forward(x: [&Tensor; 2], weight: &Tensor, bias: Option<&Tensor>, [c_in, c_out]: [usize; 2]) -> Result<Tensor> {
    let a = x[0].shape().last_size();
    let pack = |w: &[f32]| [(0, a), (a, c_in - a)].map(|(at, c)| Prepared::new(columns(w, at, c_in), [c_out, c]));
    let packed = kept(weight, ("project", [c_in, a]), pack)?;
    let bias = bias.map(Tensor::host::<f32>).transpose()?;
    let mut y = Tensor::empty(x[0].shape().with_last(c_out), Dtype::F32, Device::Cpu)?;
    let count = y.count() / c_out.max(1);
    let mut part = Scratch::<f32>::take(y.count());
    multiply_prepared(&mut part, count, x[0].host()?, &packed[0], |_, _, _| {});
    multiply_prepared(y.host_mut()?, count, x[1].host()?, &packed[1], |r, j, line| {
        line.iter_mut().zip(&part[r * c_out + j..]).for_each(|(y, p)| *y += p);
        if let Some(b) = bias {
            line.iter_mut().zip(&b[j..]).for_each(|(y, b)| *y += b);
        }
    });
    Ok(y)
}

/// The rows of a weight, from input channel `at` on.
fn columns(w: &[f32], at: usize, c_in: usize) -> Matrix<'_> {
    Matrix::lines(&w[at.min(w.len())..], c_in)
}

/// The gradient of one of the tensors, whose first channel among all is `at`.
fn backward_x(x: &Tensor, weight: &Tensor, dy: &Tensor, at: usize) -> Result<Tensor> {
    let (c, c_out, w) = (x.shape().last_size(), dy.shape().last_size(), weight.host::<f32>()?);
    let mut dx = Tensor::empty(x.shape(), Dtype::F32, Device::Cpu)?;
    let (count, w) = (dx.count() / c.max(1), Matrix::by_k(&w[at.min(w.len())..], weight.shape().last_size()));
    multiply(dx.host_mut()?, [count, c, c_out], Matrix::lines(dy.host()?, c_out), w, |_, _, _| {});
    Ok(dx)
}

impl Project {
    fn backward_weight(&self, dy: &Tensor) -> Result<Tensor> {
        let (c_out, c_in) = (dy.shape().last_size(), self.weight.shape().last_size());
        let (pixels, dy) = (dy.count() / c_out.max(1), dy.host::<f32>()?);
        let mut dweight = Tensor::empty(self.weight.shape(), Dtype::F32, Device::Cpu)?;
        let mut at = 0;
        for x in &self.x {
            let c = x.shape().last_size();
            // A product's rows lie one after the other; those of dweight have the other tensor's between them.
            let mut part = Scratch::<f32>::take(c_out * c);
            let (dy, x) = (Matrix::by_k(dy, c_out), Matrix::by_k(x.host()?, c));
            multiply(&mut part, [c_out, c, pixels], dy, x, |_, _, _| {});
            for (line, part) in dweight.host_mut::<f32>()?.chunks_exact_mut(c_in).zip(part.chunks_exact(c)) {
                line[at..at + c].copy_from_slice(part);
            }
            at += c;
        }
        Ok(dweight)
    }
}
