//! Concatenation and slicing along channels: the skip connections of a U-Net, the halves of a scale-shift.
//!
//! Joined   what reads a skip connection takes two tensors as one: `group_norm`, and [`project`], the 1×1 convolution beside it. On the CPU they
//!          read both where they lie, and no joined tensor is made or kept.
//! Types    f32 or bf16, as its inputs are.
//! Saved    nothing. Cost: one read and one write of each input. Kernels: `kernels/concat.cu`.

#[doc(hidden)]
pub mod cases;
mod project;

pub use project::project;

use super::{same_device, with_activation};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Tensor, TensorId};

/// One tensor, or two that an op reads as if they lay side by side along the last axis.
#[derive(Clone, Copy)]
pub struct Joined<'a> {
    /// The first channels, or all.
    pub first: &'a Tensor,
    /// The rest.
    pub second: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for Joined<'a> {
    fn from(first: &'a Tensor) -> Joined<'a> {
        Joined { first, second: None }
    }
}

impl<'a> From<(&'a Tensor, &'a Tensor)> for Joined<'a> {
    fn from((first, second): (&'a Tensor, &'a Tensor)) -> Joined<'a> {
        Joined { first, second: Some(second) }
    }
}

impl<'a> Joined<'a> {
    /// The tensors, one or two.
    pub(super) fn tensors(self) -> impl Iterator<Item = &'a Tensor> {
        [self.first].into_iter().chain(self.second)
    }

    /// Channels of both; the other axes must agree.
    pub(super) fn channels(self, op: &str) -> Result<usize> {
        let (x, c) = (self.first.shape(), self.first.shape().last_size());
        let Some(second) = self.second else { return Ok(c) };
        let (y, more) = (second.shape(), second.shape().last_size());
        if x.with_last(more) != y || x.is_empty() {
            return Err(Error::Shape(format!("{op}: {x} and {y} differ before the last axis")));
        }
        Ok(c + more)
    }

    /// As one tensor: a copy where there are two.
    ///
    /// # Errors
    /// As [`concat_channels`].
    pub fn concat(self) -> Result<Tensor> {
        match self.second {
            Some(second) => concat_channels(self.first, second),
            None => Ok(self.first.clone()),
        }
    }
}

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
    Joined::from((x, y)).channels("concat")?;
    let joined = match same_device("concat", &[x, y])? {
        Device::Cpu => with_activation!(x.dtype(), T => cpu::join::<T>(x, y, a, b))?,
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
        Device::Cpu => with_activation!(x.dtype(), T => cpu::part::<T>(x, start, len)),
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
            Device::Cpu => with_activation!(dy.dtype(), T => cpu::widen::<T>(&dy, self.start, self.width))?,
            Device::Cuda(index) => cuda::widen(index, &dy, self.start, self.width)?,
        };
        grads.add(self.x, dx)
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::ops::Activation;
    use crate::tensor::Tensor;

    const ROWS: usize = 256;

    pub(super) fn join<T: Activation>(x: &Tensor, y: &Tensor, a: usize, b: usize) -> Result<Tensor> {
        let mut joined = Tensor::empty(x.shape().with_last(a + b), T::DTYPE, Device::Cpu)?;
        let rows = joined.count() / (a + b).max(1);
        let (x, y) = (x.host::<T>()?, y.host::<T>()?);
        let out = DisjointMut::new(joined.host_mut::<T>()?);
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
    pub(super) fn part<T: Activation>(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        let width = x.shape().last_size();
        let mut out = Tensor::empty(x.shape().with_last(len), T::DTYPE, Device::Cpu)?;
        let rows = x.count() / width.max(1);
        let x = x.host::<T>()?;
        let target = DisjointMut::new(out.host_mut::<T>()?);
        for_each_block(rows.div_ceil(ROWS), 4 * ROWS * len, |block| {
            for row in block * ROWS..rows.min((block + 1) * ROWS) {
                target.slice(row * len, len).copy_from_slice(&x[row * width + start..][..len]);
            }
        });
        Ok(out)
    }

    /// `x` as channels `start..` of a tensor of `width` channels, zero elsewhere.
    pub(super) fn widen<T: Activation>(x: &Tensor, start: usize, width: usize) -> Result<Tensor> {
        let len = x.shape().last_size();
        let mut out = Tensor::zeros(x.shape().with_last(width), T::DTYPE, Device::Cpu)?;
        for (line, part) in out.host_mut::<T>()?.chunks_exact_mut(width).zip(x.host::<T>()?.chunks_exact(len)) {
            line[start..start + len].copy_from_slice(part);
        }
        Ok(out)
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::{Kernel, concat as kernel};
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
        let out = Tensor::empty(x.shape().with_last(len), Dtype::F32, Device::Cuda(index))?;
        // SAFETY: `concat_part` reads channels start.. of rows of `x`, start + len is at most their width (checked where it is made), and
        // writes rows of len.
        unsafe { copy(index, kernel::PART, x, out, [x.shape().last_size(), start, len]) }
    }

    /// `x` as channels `start..` of a tensor of `width` channels, zero elsewhere.
    pub(super) fn widen(index: usize, x: &Tensor, start: usize, width: usize) -> Result<Tensor> {
        let out = Tensor::empty(x.shape().with_last(width), Dtype::F32, Device::Cuda(index))?;
        // SAFETY: `concat_widen` reads rows of `x` and writes rows of width, of which start and those of `x` are at most all (checked in
        // `slice_channels`).
        unsafe { copy(index, kernel::WIDEN, x, out, [width, start, x.shape().last_size()]) }
    }

    /// Launches a kernel that fills `out` from `x`, a thread for each unit of `out`, with the sizes (width, start, len) of the wider rows, where the
    /// others begin in them, and how long those are.
    ///
    /// # Safety
    /// The kernel takes (x, out, units of out, width, start, len, values of a unit) and stays in f32 tensors of such rows.
    unsafe fn copy(index: usize, kernel: Kernel, x: &Tensor, mut out: Tensor, sizes: [usize; 3]) -> Result<Tensor> {
        let lanes = lanes(&sizes);
        let count = out.count() / lanes;
        let [width, start, len] = sizes.map(|channels| size(channels / lanes));
        let args = args![x.cuda_as::<f32>()?, out.cuda_mut()?, count as u64, width?, start?, len?, size(lanes)?];
        // SAFETY: the caller's promise; a thread writes one unit below count.
        unsafe { gpu(index)?.launch(kernel, Geometry::covering(count, THREADS)?, &args) }?;
        Ok(out)
    }
}
