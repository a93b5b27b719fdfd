//! Pointwise ops: SiLU, sum of two tensors, affine map with constants.
//!
//! Saved    SiLU: x (shared); the others nothing.
//! Cost     memory bound: one or two reads, one write.

use super::same_device;
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Tensor, TensorId};

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
        device => return Err(no_kernel("silu", device)),
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
        match dy.device() {
            Device::Cpu => grads.add(self.x.grad_slot(), cpu::silu_backward(&self.x, &dy)?),
            device => Err(no_kernel("silu backward", device)),
        }
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
        Device::Cpu => cpu::add(x, y)?,
        device => return Err(no_kernel("add", device)),
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
        Device::Cpu => cpu::affine(x, factor, constant)?,
        device => return Err(no_kernel("affine", device)),
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
        match dy.device() {
            Device::Cpu => grads.add(self.x, cpu::affine(&dy, self.factor, 0.0)?),
            device => Err(no_kernel("affine backward", device)),
        }
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::simd::sigmoid;
    use crate::tensor::{Dtype, Tensor};
    use crate::vectorise;

    const BLOCK: usize = 16 * 1024;

    /// Fills a tensor like `x` block by block: `work(input blocks, output block)`.
    fn map<const N: usize>(
        inputs: [&Tensor; N],
        work: impl Fn([&[f32]; N], &mut [f32]) + Sync + Send,
    ) -> Result<Tensor> {
        let mut y = Tensor::empty(inputs[0].shape(), Dtype::F32, Device::Cpu)?;
        let mut sources: [&[f32]; N] = [&[]; N];
        for (source, input) in sources.iter_mut().zip(inputs) {
            *source = input.host::<f32>()?;
        }
        let count = y.count();
        let out = DisjointMut::new(y.host_mut::<f32>()?);
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
        map([x], |[x], y| run(x, y))
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
        map([x, dy], |[x, dy], dx| run(x, dy, dx))
    }

    pub(super) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
        map([x, y], |[x, y], sum| {
            for ((x, y), sum) in x.iter().zip(y).zip(sum) {
                *sum = x + y;
            }
        })
    }

    pub(super) fn affine(x: &Tensor, factor: f32, constant: f32) -> Result<Tensor> {
        map([x], |[x], y| {
            for (x, y) in x.iter().zip(y) {
                *y = factor * x + constant;
            }
        })
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

    /// Rows: size 1, odd, more than one block.
    pub fn table() -> Vec<Case> {
        let mut rows: Vec<Case> = [1, 37, 20_001].map(|count| silu_case(count, 50)).into_iter().collect();
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
