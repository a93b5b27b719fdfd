//! Linear layer: y = x·Wᵀ + bias (+ residual). A 1×1 convolution is this on `[n, h, w, c]`.
//!
//! Saved    x and the weight (shared, not copied).
//! Cost     2·rows·c_in·c_out flops forward, twice that backward; compute bound from about 64 channels on.
//! Order    each output sums c_in in order; dweight sums rows in order; dbias in blocks of 64 rows.

use super::{narrow, same_device, sum_rows};
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Dtype, Tensor, TensorId};

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
        Device::Cpu => cpu::forward(x, weight, bias, residual, Tensor::empty(out_shape, Dtype::F32, Device::Cpu)?)?,
        device => return Err(no_kernel("linear", device)),
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
                    grads.add(self.bias, narrow(&sum_rows(dy.host()?, 1, c_out), [c_out])?)?;
                }
                if self.weight.requires_grad() {
                    grads.add(self.weight.grad_slot(), cpu::backward_weight(&self.x, &dy, rows)?)?;
                }
                if self.x.requires_grad() {
                    grads.add(self.x.grad_slot(), cpu::backward_x(&self.x, &self.weight, &dy, rows)?)?;
                }
            }
            device => return Err(no_kernel("linear backward", device)),
        }
        grads.add(self.residual, dy)
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, Scratch};
    use crate::error::Result;
    use crate::simd::{Gather, Packed, Run, accumulate_outer, multiply_rows};
    use crate::tensor::{Dtype, Tensor};

    pub(super) fn forward(
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
        mut y: Tensor,
    ) -> Result<Tensor> {
        let (c_in, c_out) = (weight.shape()[1], weight.shape()[0]);
        let (x, w) = (x.host::<f32>()?, weight.host::<f32>()?);
        let bias = bias.map(Tensor::host::<f32>).transpose()?;
        let residual = residual.map(Tensor::host::<f32>).transpose()?;
        let packed = Packed::from_columns(c_in, c_out, |j| &w[j * c_in..(j + 1) * c_in]);
        let out = DisjointMut::new(y.host_mut::<f32>()?);
        let runs = [Run { offset: 0, len: c_in }];
        multiply_rows(x.len() / c_in, Gather { data: x, base: |r| r * c_in, runs: &runs }, &packed, |r, j, sums| {
            let line = out.slice(r * c_out + j, sums.len());
            line.copy_from_slice(sums);
            if let Some(b) = bias {
                line.iter_mut().zip(&b[j..]).for_each(|(y, b)| *y += b);
            }
            if let Some(e) = residual {
                line.iter_mut().zip(&e[r * c_out + j..]).for_each(|(y, e)| *y += e);
            }
        });
        Ok(y)
    }

    pub(super) fn backward_x(x: &Tensor, weight: &Tensor, dy: &Tensor, rows: usize) -> Result<Tensor> {
        let (c_in, c_out) = (weight.shape()[1], weight.shape()[0]);
        let w = weight.host::<f32>()?;
        let packed = Packed::from_rows(c_out, c_in, |k| &w[k * c_in..(k + 1) * c_in]);
        let mut dx = Tensor::empty(x.shape(), Dtype::F32, Device::Cpu)?;
        let out = DisjointMut::new(dx.host_mut::<f32>()?);
        let runs = [Run { offset: 0, len: c_out }];
        multiply_rows(rows, Gather { data: dy.host()?, base: |r| r * c_out, runs: &runs }, &packed, |r, j, sums| {
            out.slice(r * c_in + j, sums.len()).copy_from_slice(sums);
        });
        Ok(dx)
    }

    pub(super) fn backward_weight(x: &Tensor, dy: &Tensor, rows: usize) -> Result<Tensor> {
        let (c_in, c_out) = (x.shape().last_size(), dy.shape().last_size());
        let mut dweight = Tensor::zeros([c_out, c_in], Dtype::F32, Device::Cpu)?;
        let (mut a, mut b) = (Scratch::<usize>::take(rows), Scratch::<usize>::take(rows));
        for r in 0..rows {
            (a[r], b[r]) = (r * c_out, r * c_in);
        }
        let (dy, x) = (dy.host::<f32>()?, x.host::<f32>()?);
        accumulate_outer(dweight.host_mut::<f32>()?, c_out, c_in, &[0], (dy, &a), (x, &b), true);
        Ok(dweight)
    }
}

#[doc(hidden)]
pub mod cases {
    use super::linear;
    use crate::testing::{Array, Case};

    /// One row: `rows` of `c_in` to `c_out`.
    pub fn case(rows: usize, c_in: usize, c_out: usize, residual: bool, seed: u64) -> Case {
        let mut inputs = vec![
            Array::normal([rows, c_in], seed, 1.0, 0.0),
            Array::normal([c_out, c_in], seed + 1, 1.0, 0.0),
            Array::normal([c_out], seed + 2, 1.0, 0.0),
        ];
        if residual {
            inputs.push(Array::normal([rows, c_out], seed + 3, 1.0, 0.0));
        }
        Case {
            op: "linear",
            label: format!("{rows}x{c_in}->{c_out} residual {residual}"),
            differentiable: vec![true; inputs.len()],
            inputs,
            run: Box::new(|t| linear(&t[0], &t[1], Some(&t[2]), t.get(3))),
            oracle: Box::new(oracle),
            terms: c_in + 2,
            grad_terms: rows.max(c_out),
        }
    }

    fn oracle(a: &[Array]) -> Array {
        let (rows, c_in, c_out) = (a[0].shape[0], a[0].shape[1], a[1].shape[0]);
        let mut y = Array::zeros([rows, c_out]);
        for r in 0..rows {
            for j in 0..c_out {
                let mut sum = a[2].data[j] + a.get(3).map_or(0.0, |e| e.data[r * c_out + j]);
                for i in 0..c_in {
                    sum += a[0].data[r * c_in + i] * a[1].data[j * c_in + i];
                }
                y.data[r * c_out + j] = sum;
            }
        }
        y
    }

    /// Rows on both sides of each tile.
    pub fn table() -> Vec<Case> {
        [(1, 1, 1, false), (8, 32, 32, true), (9, 33, 17, true), (65, 5, 70, false), (300, 16, 3, true)]
            .into_iter()
            .map(|(rows, c_in, c_out, residual)| case(rows, c_in, c_out, residual, 10))
            .collect()
    }
}
