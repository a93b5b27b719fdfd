//! Dropout with addressed masks: element e of image i is kept if its uniform number is at least p.
//!
//! Types    f32 or bf16, as its inputs are.
//! Saved    nothing: the mask is drawn again from its address. Cost: one read, one write. Kernel: `kernels/dropout.cu`.

use super::with_activation;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::rng::Address;
use crate::tape::{self, Grads, Node};
use crate::tensor::{Tensor, TensorId};

/// Zeroes each element of `x` `[n, …]` with probability `p` and multiplies the rest by `1/(1 − p)`. Differentiable.
///
/// `address` names step and layer; the image index becomes its sample. `p = 0` returns `x` itself.
///
/// # Errors
/// [`Error::Usage`] if `p` is outside [0, 1).
///
/// # Example
/// ```
/// use tweedie::{ops::dropout, rng::{Address, Purpose}, tensor::Tensor};
/// let x = Tensor::from_slice(&[1.0_f32; 1000], [1, 1000])?;
/// let kept = dropout(&x, 0.25, Address::new(0, Purpose::Dropout))?.to_vec::<f32>()?;
/// assert!(kept.iter().all(|v| *v == 0.0 || *v == 1.0 / 0.75));
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn dropout(x: &Tensor, p: f64, address: Address) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::Usage(format!("dropout: probability {p} is outside [0, 1)")));
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    Ok(tape::push(mask(x, p as f32, address)?, &[x], || Box::new(Dropout { x: x.grad_slot(), p: p as f32, address })))
}

fn mask(x: &Tensor, p: f32, address: Address) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => with_activation!(x.dtype(), T => cpu::mask::<T>(x, p, address)),
        Device::Cuda(index) => cuda::mask(index, x, p, address),
    }
}

struct Dropout {
    x: Option<TensorId>,
    p: f32,
    address: Address,
}

impl Node for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(self.x, mask(&dy, self.p, self.address)?)
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::ops::Activation;
    use crate::rng::Address;
    use crate::simd::{Kernel, Lanes, dispatch};
    use crate::tensor::Tensor;

    /// Values whose masks are drawn at once: they stay in the first-level cache.
    const BLOCK: usize = 2048;

    pub(super) fn mask<T: Activation>(x: &Tensor, p: f32, address: Address) -> Result<Tensor> {
        let n = x.shape().first().copied().unwrap_or(1);
        let row = x.count() / n.max(1);
        let mut y = Tensor::empty(x.shape(), T::DTYPE, Device::Cpu)?;
        let x = x.host::<T>()?;
        let out = DisjointMut::new(y.host_mut::<T>()?);
        let blocks = row.div_ceil(BLOCK);
        for_each_block(n * blocks, 8 * BLOCK.min(row), |job| {
            let (image, start) = (job / blocks, job % blocks * BLOCK);
            let len = BLOCK.min(row - start);
            let mut uniform = [0.0; BLOCK];
            let uniform = &mut uniform[..len];
            address.sample(image).fill_uniform_from(start, uniform);
            let at = image * row + start;
            dispatch(Select { x: &x[at..at + len], uniform, p, y: out.slice(at, len) });
        });
        Ok(y)
    }

    /// y = x/(1 − p), 0 where the uniform number is below p.
    struct Select<'a, T> {
        x: &'a [T],
        uniform: &'a [f32],
        p: f32,
        y: &'a mut [T],
    }

    impl<T: Activation> Kernel for Select<'_, T> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self) {
            let gain = 1.0 / (1.0 - self.p);
            for ((y, x), u) in self.y.iter_mut().zip(self.x).zip(self.uniform) {
                *y = T::narrow(if *u < self.p { 0.0 } else { gain * x.widen() });
            }
        }
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::dropout as kernel;
    use crate::rng::Address;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 128;

    pub(super) fn mask(index: usize, x: &Tensor, p: f32, address: Address) -> Result<Tensor> {
        let n = x.shape().first().copied().unwrap_or(1);
        let row = x.count() / n.max(1);
        let mut y = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
        let [seed_low, seed_high, step, last] = address.words();
        let (n_, row_, gain) = (size(n)?, size(row)?, 1.0 / (1.0 - p));
        let args = args![x.cuda_as::<f32>()?, y.cuda_mut()?, n_, row_, p, gain, seed_low, seed_high, step, last];
        let geometry = Geometry::per_image(n, row.div_ceil(4), THREADS)?;
        // SAFETY: x and y hold n·row f32; a thread touches elements below row of its images alone; order and types are those of
        // `dropout_forward`.
        unsafe { gpu(index)?.launch(kernel::FORWARD, geometry, &args) }?;
        Ok(y)
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::dropout;
    use crate::rng::{Address, Purpose};
    use crate::testing::{Array, Case};

    /// Rows: one small, one odd, one aligned, one of more than a thread block, one of several blocks of the CPU; more images than a grid
    /// has in y.
    pub(crate) fn table() -> Vec<Case> {
        [(1, 4, 0.5), (3, 37, 0.1), (2, 64, 0.3), (2, 1030, 0.9), (2, 5003, 0.2), (1, 1, 0.5), (65_540, 1, 0.5)]
            .into_iter()
            .map(|(n, row, p)| {
                let address = Address::new(4, Purpose::Dropout).step(7).sub_index(2);
                Case {
                    op: "dropout",
                    label: format!("{n}x{row} p {p}"),
                    inputs: vec![Array::normal([n, row], 90, 1.0, 0.0)],
                    differentiable: vec![true],
                    run: Box::new(move |t| dropout(&t[0], p, address)),
                    oracle: Box::new(move |a| {
                        let mut y = a[0].clone();
                        for (k, v) in y.data.iter_mut().enumerate() {
                            let word = address.sample(k / row).bits((k % row / 4) as u32)[k % row % 4];
                            let uniform = f64::from(word >> 8) / f64::from(1 << 24);
                            *v = if uniform < f64::from(p as f32) { 0.0 } else { *v / (1.0 - p) };
                        }
                        y
                    }),
                    terms: 1,
                    grad_terms: 1,
                }
            })
            .collect()
    }
}
