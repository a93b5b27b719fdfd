//! Concatenation and slicing along channels: the skip connections of a U-Net, the halves of a scale-shift.
//!
//! Saved    nothing. Cost: one read and one write of each input. Kernels: `kernels/concat.cu`.

use super::same_device;
use crate::device::Device;
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
        Device::Cuda(index) => cuda::join(index, x, y, a, b)?,
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
        if self.x.is_some() {
            grads.add(self.x, part(&dy, 0, self.a)?)?;
        }
        if self.y.is_some() {
            grads.add(self.y, part(&dy, self.a, self.b)?)?;
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
    Ok(tape::push(part(x, start, len)?, &[x], || Box::new(Slice { x: x.grad_slot(), start, width })))
}

fn part(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => cpu::part(x, start, len),
        Device::Cuda(index) => cuda::part(index, x, start, len),
    }
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
        let dx = match dy.device() {
            Device::Cpu => cpu::widen(&dy, self.start, self.width)?,
            Device::Cuda(index) => cuda::widen(index, &dy, self.start, self.width)?,
        };
        grads.add(self.x, dx)
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

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::concat as kernel;
    use crate::ops::lanes;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 256;

    pub(super) fn join(index: usize, x: &Tensor, y: &Tensor, a: usize, b: usize) -> Result<Tensor> {
        let mut joined = Tensor::empty(x.shape().with_last(a + b), Dtype::F32, Device::Cuda(index))?;
        size(a + b)?;
        let lanes = lanes(&[a, b]);
        let count = joined.count() / lanes;
        let args = args![
            x.cuda_as::<f32>()?,
            y.cuda_as::<f32>()?,
            joined.cuda_mut()?,
            count as u64,
            size(a / lanes)?,
            size(b / lanes)?,
            size(lanes)?
        ];
        let geometry = Geometry::covering(count, THREADS)?;
        // SAFETY: x, y and joined have equal rows of a, b and a + b f32 (checked in `concat_channels`); a thread writes one unit below
        // count and reads its source; order and types are those of `concat_join`.
        unsafe { gpu(index)?.launch(kernel::JOIN, geometry, &args) }?;
        Ok(joined)
    }

    /// Channels `start..start + len` of `x`.
    pub(super) fn part(index: usize, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        let width = x.shape().last_size();
        let mut out = Tensor::empty(x.shape().with_last(len), Dtype::F32, Device::Cuda(index))?;
        let lanes = lanes(&[width, start, len]);
        let count = out.count() / lanes;
        let sizes = [size(width / lanes)?, size(start / lanes)?, size(len / lanes)?];
        let args =
            args![x.cuda_as::<f32>()?, out.cuda_mut()?, count as u64, sizes[0], sizes[1], sizes[2], size(lanes)?];
        let geometry = Geometry::covering(count, THREADS)?;
        // SAFETY: x and out have equal rows of width and len f32, and start + len is at most width (checked where it is made); order and
        // types are those of `concat_part`.
        unsafe { gpu(index)?.launch(kernel::PART, geometry, &args) }?;
        Ok(out)
    }

    /// `x` as channels `start..` of a tensor of `width` channels, zero elsewhere.
    pub(super) fn widen(index: usize, x: &Tensor, start: usize, width: usize) -> Result<Tensor> {
        let len = x.shape().last_size();
        let mut out = Tensor::empty(x.shape().with_last(width), Dtype::F32, Device::Cuda(index))?;
        let lanes = lanes(&[width, start, len]);
        let count = out.count() / lanes;
        let sizes = [size(width / lanes)?, size(start / lanes)?, size(len / lanes)?];
        let args =
            args![x.cuda_as::<f32>()?, out.cuda_mut()?, count as u64, sizes[0], sizes[1], sizes[2], size(lanes)?];
        let geometry = Geometry::covering(count, THREADS)?;
        // SAFETY: x and out have equal rows of len and width f32, and start + len is at most width (checked in `slice_channels`); order
        // and types are those of `concat_widen`.
        unsafe { gpu(index)?.launch(kernel::WIDEN, geometry, &args) }?;
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

    /// Channels `start..start + len` of `width`.
    fn slice(rows: usize, width: usize, start: usize, len: usize) -> Case {
        Case {
            op: "slice",
            label: format!("{rows}x{start}..{} of {width}", start + len),
            inputs: vec![Array::normal([rows, width], 63, 1.0, 0.0)],
            differentiable: vec![true],
            run: Box::new(move |t| slice_channels(&t[0], start, len)),
            oracle: Box::new(move |a| Array {
                shape: [rows, len].into(),
                data: a[0].data.chunks(width).flat_map(|row| row[start..start + len].to_vec()).collect(),
            }),
            terms: 1,
            grad_terms: 1,
        }
    }

    /// Rows: size 1, odd, four channels at a time, one side of which does not divide, more than one block.
    pub fn table() -> Vec<Case> {
        let sizes = [(1, 1, 1), (5, 3, 4), (300, 2, 1), (9, 4, 8), (3, 8, 6), (70, 12, 16)];
        let mut rows: Vec<Case> = sizes.into_iter().map(|(rows, a, b)| case(rows, a, b, 60)).collect();
        rows.extend([slice(7, 5, 1, 3), slice(6, 12, 4, 8), slice(6, 12, 2, 4), slice(90, 32, 16, 16)]);
        rows
    }
}
