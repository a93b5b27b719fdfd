//! Pointwise ops: SiLU, sum of two tensors, affine map with constants, casts between f32 and bf16.
//!
//! Saved    SiLU: x (shared); the others nothing.
//! Types    sum and affine map take f32 and bf16, SiLU f32 alone (it stands in the time embedding; elsewhere it is part of group_norm).
//! Cost     memory bound: one or two reads, one write.
//! Kernels  `kernels/pointwise.cu`; the sums of two tensors are launched from `tape`, which adds gradients with them.

use super::{same_device, with_activation};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Dtype, Tensor, TensorId};

/// `x/(1 + e^−x)`, element by element. Differentiable.
///
/// # Errors
/// [`Error::Device`] if there is no kernel for the device of `x`.
///
/// # Example
/// ```
/// use tweedie::{ops::silu, tensor::Tensor};
/// assert_eq!(silu(&Tensor::from_slice(&[0.0_f32], [1])?)?.to_vec::<f32>()?, [0.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn silu(x: &Tensor) -> Result<Tensor> {
    let y = match x.device() {
        Device::Cpu => cpu::silu(x)?,
        Device::Cuda(index) => cuda::silu(index, x)?,
    };
    Ok(tape::push(y, &[x], || Box::new(Silu { x: x.clone() })))
}

struct Silu {
    x: Tensor,
}

impl Node for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dx = match dy.device() {
            Device::Cpu => cpu::silu_backward(&self.x, &dy)?,
            Device::Cuda(index) => cuda::silu_backward(index, &self.x, &dy)?,
        };
        grads.add(self.x.grad_slot(), dx)
    }
}

/// `x + y` for equal shapes. Differentiable in both.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Device`] if the arguments live on different devices.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.shape() != y.shape() {
        return Err(Error::Shape(format!("add: shapes {} and {} differ", x.shape(), y.shape())));
    }
    let sum = match same_device("add", &[x, y])? {
        Device::Cpu => with_activation!(x.dtype(), T => cpu::add::<T>(x, y))?,
        Device::Cuda(index) => tape::cuda::add(index, x, y)?,
    };
    Ok(tape::push(sum, &[x, y], || Box::new(Add { x: x.grad_slot(), y: y.grad_slot() })))
}

struct Add {
    x: Option<TensorId>,
    y: Option<TensorId>,
}

impl Node for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(self.x, dy.clone())?;
        grads.add(self.y, dy)
    }
}

/// `factor·x + constant`, element by element. Differentiable in `x`.
///
/// # Errors
/// [`Error::Device`] if there is no kernel for the device of `x`.
pub fn affine(x: &Tensor, factor: f32, constant: f32) -> Result<Tensor> {
    let y = match x.device() {
        Device::Cpu => with_activation!(x.dtype(), T => cpu::affine::<T>(x, factor, constant))?,
        Device::Cuda(index) => cuda::affine(index, x, factor, constant)?,
    };
    Ok(tape::push(y, &[x], || Box::new(Affine { x: x.grad_slot(), factor })))
}

struct Affine {
    x: Option<TensorId>,
    factor: f32,
}

impl Node for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dx = match dy.device() {
            Device::Cpu => with_activation!(dy.dtype(), T => cpu::affine::<T>(&dy, self.factor, 0.0))?,
            Device::Cuda(index) => cuda::affine(index, &dy, self.factor, 0.0)?,
        };
        grads.add(self.x, dx)
    }
}

/// `x` as f32 or bf16, rounded to the nearest (ties to even): `x` itself where it is that already. Differentiable; the gradient is cast back.
///
/// # Errors
/// [`Error::Dtype`] from or to f64; [`Error::Device`] on a GPU, which computes in f32 alone.
///
/// # Example
/// ```
/// use tweedie::{ops::cast, tensor::{Dtype, Tensor}};
/// let x = Tensor::from_slice(&[1.0_f32, 1.003], [2])?;
/// let y = cast(&cast(&x, Dtype::Bf16)?, Dtype::F32)?;
/// assert_eq!(y.to_vec::<f32>()?, [1.0, 1.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn cast(x: &Tensor, dtype: Dtype) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    let y = converted(x, dtype)?;
    Ok(tape::push(y, &[x], || Box::new(Cast { x: x.grad_slot(), dtype: x.dtype() })))
}

fn converted(x: &Tensor, dtype: Dtype) -> Result<Tensor> {
    if x.device() != Device::Cpu {
        let device = x.device();
        return Err(Error::Device(format!("cast: {device} computes in f32 only; use precision f32 or the CPU")));
    }
    match (x.dtype(), dtype) {
        (Dtype::F32, Dtype::Bf16) => cpu::narrow(x),
        (Dtype::Bf16, Dtype::F32) => cpu::widen(x),
        (from, to) => Err(Error::Dtype(format!("cast: from {from:?} to {to:?}; expected f32 and bf16"))),
    }
}

struct Cast {
    x: Option<TensorId>,
    dtype: Dtype,
}

impl Node for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(self.x, converted(&dy, self.dtype)?)
    }
}

pub(super) use cpu::{narrow, widen};

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::ops::Activation;
    use crate::simd::{Narrow, Widen, dispatch, sigmoid};
    use crate::tensor::{Element, Tensor};
    use crate::vectorise;

    const BLOCK: usize = 16 * 1024;

    /// Fills a tensor of the inputs' shape block by block: `work(input blocks, output block)`.
    fn map<const N: usize, T: Element, U: Element>(
        inputs: [&Tensor; N],
        work: impl Fn([&[T]; N], &mut [U]) + Sync + Send,
    ) -> Result<Tensor> {
        let mut y = Tensor::empty(inputs[0].shape(), U::DTYPE, Device::Cpu)?;
        let mut sources: [&[T]; N] = [&[]; N];
        for (source, input) in sources.iter_mut().zip(inputs) {
            *source = input.host::<T>()?;
        }
        let count = y.count();
        let out = DisjointMut::new(y.host_mut::<U>()?);
        for_each_block(count.div_ceil(BLOCK), 8 * BLOCK, |block| {
            let (start, len) = (block * BLOCK, BLOCK.min(count - block * BLOCK));
            work(sources.map(|s| &s[start..start + len]), out.slice(start, len));
        });
        Ok(y)
    }

    pub(super) fn silu(x: &Tensor) -> Result<Tensor> {
        #[inline(always)]
        fn body(x: &[f32], y: &mut [f32]) {
            for (x, y) in x.iter().zip(y) {
                *y = x * sigmoid(*x);
            }
        }
        fn run(x: &[f32], y: &mut [f32]) {
            vectorise!(body(x: &[f32], y: &mut [f32]))
        }
        map([x], |[x]: [&[f32]; 1], y| run(x, y))
    }

    pub(super) fn silu_backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        #[inline(always)]
        fn body(x: &[f32], dy: &[f32], dx: &mut [f32]) {
            for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
                let g = sigmoid(*x);
                *dx = dy * g * (1.0 + x * (1.0 - g));
            }
        }
        fn run(x: &[f32], dy: &[f32], dx: &mut [f32]) {
            vectorise!(body(x: &[f32], dy: &[f32], dx: &mut [f32]))
        }
        map([x, dy], |[x, dy]: [&[f32]; 2], dx| run(x, dy, dx))
    }

    pub(super) fn add<T: Activation>(x: &Tensor, y: &Tensor) -> Result<Tensor> {
        map([x, y], |[x, y]: [&[T]; 2], sum| {
            for ((x, y), sum) in x.iter().zip(y).zip(sum) {
                *sum = T::narrow(x.widen() + y.widen());
            }
        })
    }

    pub(super) fn affine<T: Activation>(x: &Tensor, factor: f32, constant: f32) -> Result<Tensor> {
        map([x], |[x]: [&[T]; 1], y: &mut [T]| {
            for (x, y) in x.iter().zip(y) {
                *y = T::narrow(factor * x.widen() + constant);
            }
        })
    }

    pub(in super::super) fn narrow(x: &Tensor) -> Result<Tensor> {
        map([x], |[x], y| dispatch(Narrow(x, y)))
    }

    pub(in super::super) fn widen(x: &Tensor) -> Result<Tensor> {
        map([x], |[x], y| dispatch(Widen(x, y)))
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu};
    use crate::error::Result;
    use crate::kernels::pointwise as kernel;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 256;

    pub(super) fn silu(index: usize, x: &Tensor) -> Result<Tensor> {
        let mut y = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
        let count = y.count();
        let args = args![x.cuda_as::<f32>()?, y.cuda_mut()?, count as u64];
        let geometry = Geometry::covering(count.div_ceil(4), THREADS)?;
        // SAFETY: x and y hold count f32 and a thread touches elements below it; order and types are those of `pointwise_silu`.
        unsafe { gpu(index)?.launch(kernel::SILU, geometry, &args) }?;
        Ok(y)
    }

    pub(super) fn silu_backward(index: usize, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let mut dx = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
        let count = dx.count();
        let args = args![x.cuda_as::<f32>()?, dy.cuda_as::<f32>()?, dx.cuda_mut()?, count as u64];
        let geometry = Geometry::covering(count.div_ceil(4), THREADS)?;
        // SAFETY: x, dy (the gradient of an output of x's shape) and dx hold count f32 and a thread touches elements below it; order and
        // types are those of `pointwise_silu_backward`.
        unsafe { gpu(index)?.launch(kernel::SILU_BACKWARD, geometry, &args) }?;
        Ok(dx)
    }

    pub(super) fn affine(index: usize, x: &Tensor, factor: f32, constant: f32) -> Result<Tensor> {
        let mut y = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
        let count = y.count();
        let args = args![x.cuda_as::<f32>()?, y.cuda_mut()?, count as u64, factor, constant];
        let geometry = Geometry::covering(count.div_ceil(4), THREADS)?;
        // SAFETY: x and y hold count f32 and a thread touches elements below it; order and types are those of `pointwise_affine`.
        unsafe { gpu(index)?.launch(kernel::AFFINE, geometry, &args) }?;
        Ok(y)
    }
}

#[doc(hidden)]
pub mod cases {
    use super::{add, affine, silu};
    use crate::testing::{Array, Case};

    /// SiLU of `count` values.
    pub fn silu_case(count: usize, seed: u64) -> Case {
        Case {
            op: "silu",
            label: format!("{count}"),
            inputs: vec![Array::normal([count], seed, 3.0, 0.0)],
            differentiable: vec![true],
            run: Box::new(|t| silu(&t[0])),
            oracle: Box::new(|a| Array {
                shape: a[0].shape,
                data: a[0].data.iter().map(|x| x / (1.0 + (-x).exp())).collect(),
            }),
            terms: 1,
            grad_terms: 1,
        }
    }

    /// Rows: size 1, odd, even, one and more than one block.
    pub fn table() -> Vec<Case> {
        let mut rows: Vec<Case> = [1, 37, 1024, 20_001].map(|count| silu_case(count, 50)).into_iter().collect();
        rows.push(Case {
            op: "add",
            label: "an input used twice, and a sum".into(),
            inputs: vec![Array::normal([3, 7], 51, 1.0, 0.0), Array::normal([3, 7], 52, 1.0, 0.0)],
            differentiable: vec![true, true],
            run: Box::new(|t| add(&add(&t[0], &t[1])?, &t[0])),
            oracle: Box::new(|a| {
                let data = a[0].data.iter().zip(&a[1].data).map(|(x, y)| 2.0 * x + y).collect();
                Array { shape: a[0].shape, data }
            }),
            terms: 3,
            grad_terms: 3,
        });
        rows.push(Case {
            op: "affine",
            label: "2x - 1".into(),
            inputs: vec![Array::normal([2, 5], 53, 1.0, 0.0)],
            differentiable: vec![true],
            run: Box::new(|t| affine(&t[0], 2.0, -1.0)),
            oracle: Box::new(|a| Array { shape: a[0].shape, data: a[0].data.iter().map(|x| 2.0 * x - 1.0).collect() }),
            terms: 2,
            grad_terms: 1,
        });
        rows
    }
}
