//! Concatenation and slicing along channels: the skip connections of a U-Net, the halves of a scale-shift.
//!
//! Saved    nothing. Cost: one read and one write of each input.

use super::same_device;
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Tensor, TensorId};

/// Joins `x` `[…, a]` and `y` `[…, b]` to `[…, a + b]`. Differentiable in both.
///
/// # Errors
/// [`Error::Shape`] if any axis but the last differs; [`Error::Device`] if the arguments live on different devices.
///
/// # Example
/// ```
/// use tweedie::{ops::concat_channels, tensor::Tensor};
/// let (x, y) = (Tensor::from_slice(&[1.0_f32, 2.0], [2, 1])?, Tensor::from_slice(&[3.0_f32, 4.0], [2, 1])?);
/// assert_eq!(concat_channels(&x, &y)?.to_vec::<f32>()?, [1.0, 3.0, 2.0, 4.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn concat_channels(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (a, b) = (x.shape().last_size(), y.shape().last_size());
    if x.shape().with_last(b) != y.shape() || x.shape().is_empty() {
        return Err(Error::Shape(format!("concat: {} and {} differ before the last axis", x.shape(), y.shape())));
    }
    let joined = match same_device("concat", &[x, y])? {
        Device::Cpu => cpu::join(x, y, a, b)?,
        device => return Err(no_kernel("concat", device)),
    };
    Ok(tape::push(joined, &[x, y], || Box::new(Concat { x: x.grad_slot(), y: y.grad_slot(), a, b })))
}

struct Concat {
    x: Option<TensorId>,
    y: Option<TensorId>,
    a: usize,
    b: usize,
}

impl Node for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        if dy.device() != Device::Cpu {
            return Err(no_kernel("concat backward", dy.device()));
        }
        if self.x.is_some() {
            grads.add(self.x, cpu::part(&dy, 0, self.a)?)?;
        }
        if self.y.is_some() {
            grads.add(self.y, cpu::part(&dy, self.a, self.b)?)?;
        }
        Ok(())
    }
}

/// Channels `start..start + len` of `x` `[…, c]`: `[…, len]`. Differentiable.
///
/// # Errors
/// [`Error::Shape`] if the range leaves the channels.
pub fn slice_channels(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    let width = x.shape().last_size();
    if start + len > width || x.shape().is_empty() {
        return Err(Error::Shape(format!("slice: channels {start}..{} leave {}", start + len, x.shape())));
    }
    let part = match x.device() {
        Device::Cpu => cpu::part(x, start, len)?,
        device => return Err(no_kernel("slice", device)),
    };
    Ok(tape::push(part, &[x], || Box::new(Slice { x: x.grad_slot(), start, width })))
}

struct Slice {
    x: Option<TensorId>,
    start: usize,
    width: usize,
}

impl Node for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        match dy.device() {
            Device::Cpu => grads.add(self.x, cpu::widen(&dy, self.start, self.width)?),
            device => Err(no_kernel("slice backward", device)),
        }
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::tensor::{Dtype, Tensor};

    const ROWS: usize = 256;

    pub(super) fn join(x: &Tensor, y: &Tensor, a: usize, b: usize) -> Result<Tensor> {
        let mut joined = Tensor::empty(x.shape().with_last(a + b), Dtype::F32, Device::Cpu)?;
        let rows = joined.count() / (a + b).max(1);
        let (x, y) = (x.host::<f32>()?, y.host::<f32>()?);
        let out = DisjointMut::new(joined.host_mut::<f32>()?);
        for_each_block(rows.div_ceil(ROWS), 4 * ROWS * (a + b), |block| {
            for row in block * ROWS..rows.min((block + 1) * ROWS) {
                let line = out.slice(row * (a + b), a + b);
                line[..a].copy_from_slice(&x[row * a..][..a]);
                line[a..].copy_from_slice(&y[row * b..][..b]);
            }
        });
        Ok(joined)
    }

    /// Channels `start..start + len` of `x`.
    pub(super) fn part(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        let width = x.shape().last_size();
        let mut out = Tensor::empty(x.shape().with_last(len), Dtype::F32, Device::Cpu)?;
        let rows = x.count() / width.max(1);
        let x = x.host::<f32>()?;
        let target = DisjointMut::new(out.host_mut::<f32>()?);
        for_each_block(rows.div_ceil(ROWS), 4 * ROWS * len, |block| {
            for row in block * ROWS..rows.min((block + 1) * ROWS) {
                target.slice(row * len, len).copy_from_slice(&x[row * width + start..][..len]);
            }
        });
        Ok(out)
    }

    /// `x` as channels `start..` of a tensor of `width` channels, zero elsewhere.
    pub(super) fn widen(x: &Tensor, start: usize, width: usize) -> Result<Tensor> {
        let len = x.shape().last_size();
        let mut out = Tensor::zeros(x.shape().with_last(width), Dtype::F32, Device::Cpu)?;
        for (line, part) in out.host_mut::<f32>()?.chunks_exact_mut(width).zip(x.host::<f32>()?.chunks_exact(len)) {
            line[start..start + len].copy_from_slice(part);
        }
        Ok(out)
    }
}

#[doc(hidden)]
pub mod cases {
    use super::{concat_channels, slice_channels};
    use crate::testing::{Array, Case};

    /// One row.
    pub fn case(rows: usize, a: usize, b: usize, seed: u64) -> Case {
        Case {
            op: "concat",
            label: format!("{rows}x({a}+{b})"),
            inputs: vec![Array::normal([rows, a], seed, 1.0, 0.0), Array::normal([rows, b], seed + 1, 1.0, 0.0)],
            differentiable: vec![true, true],
            run: Box::new(|t| concat_channels(&t[0], &t[1])),
            oracle: Box::new(move |i| {
                let data =
                    (0..rows).flat_map(|r| [&i[0].data[r * a..][..a], &i[1].data[r * b..][..b]].concat()).collect();
                Array { shape: [rows, a + b].into(), data }
            }),
            terms: 1,
            grad_terms: 1,
        }
    }

    /// Rows: size 1, odd, more than one block.
    pub fn table() -> Vec<Case> {
        let mut rows: Vec<Case> =
            [(1, 1, 1), (5, 3, 4), (300, 2, 1)].into_iter().map(|(rows, a, b)| case(rows, a, b, 60)).collect();
        rows.push(Case {
            op: "slice",
            label: "the middle of five channels".into(),
            inputs: vec![Array::normal([7, 5], 63, 1.0, 0.0)],
            differentiable: vec![true],
            run: Box::new(|t| slice_channels(&t[0], 1, 3)),
            oracle: Box::new(|a| Array {
                shape: [7, 3].into(),
                data: a[0].data.chunks(5).flat_map(|row| row[1..4].to_vec()).collect(),
            }),
            terms: 1,
            grad_terms: 1,
        });
        rows
    }
}
