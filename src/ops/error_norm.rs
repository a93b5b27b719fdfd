//! The size of a solver's local error beside its tolerance: out_i = √mean((e/(tolerance·(1 + max(|z|, |next|))))²) for each row i
//! (Hairer, Nørsett & Wanner 1993, sec. II.4, with one tolerance for absolute and relative).
//!
//! Not differentiable. Cost: three reads. Order: elements in order on the CPU, a fixed tree of 256 sums on the GPU; sums in f64.

use super::same_device;
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor};

/// The error of each row of `error` `[n, …]`; a step with at most 1 is good.
///
/// * `error`, `z`, `next` — `[n, …]`, f32 or f64 (f32 on a GPU): the difference of two orders, the state before and after the step
/// * `tolerance` — absolute and relative, above 0
///
/// Returns `[n]` in f64, on the device of `error`.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Dtype`] if the types differ or are others.
///
/// # Example
/// ```
/// use tweedie::{ops::error_norm, tensor::Tensor};
/// let row = |values: &[f64]| Tensor::from_slice(values, [1, 2]);
/// let size = error_norm(&row(&[0.02, 0.04])?, &row(&[0.0, 1.0])?, &row(&[-1.0, 0.5])?, 0.01)?;
/// assert!((size.to_vec::<f64>()?[0] - 2.5_f64.sqrt()).abs() < 1e-15);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn error_norm(error: &Tensor, z: &Tensor, next: &Tensor, tolerance: f64) -> Result<Tensor> {
    let shape = error.shape();
    if z.shape() != shape || next.shape() != shape {
        let (z, next) = (z.shape(), next.shape());
        return Err(Error::Shape(format!("error_norm: error, z and next want one shape, got {shape}, {z}, {next}")));
    }
    if z.dtype() != error.dtype() || next.dtype() != error.dtype() {
        let types = [error.dtype(), z.dtype(), next.dtype()];
        return Err(Error::Dtype(format!("error_norm: error, z and next want one type, got {types:?}")));
    }
    match (same_device("error_norm", &[error, z, next])?, error.dtype()) {
        (Device::Cpu, Dtype::F64) => cpu::forward::<f64>(error, z, next, tolerance),
        (Device::Cpu, Dtype::F32) => cpu::forward::<f32>(error, z, next, tolerance),
        (Device::Cuda(index), Dtype::F32) => cuda::forward(index, error, z, next, tolerance),
        (device, _) => Err(no_kernel("error_norm", device)),
    }
}

fn rows(x: &Tensor) -> usize {
    x.shape().first().copied().unwrap_or(1)
}

mod cpu {
    use super::rows;
    use crate::error::Result;
    use crate::tensor::{Element, Tensor};

    pub(super) fn forward<T: Element + Into<f64>>(
        error: &Tensor,
        z: &Tensor,
        next: &Tensor,
        tolerance: f64,
    ) -> Result<Tensor> {
        let (n, row) = (rows(error), error.count() / rows(error).max(1));
        let (e, z, next) = (error.host::<T>()?, z.host::<T>()?, next.host::<T>()?);
        let sizes = (0..n).map(|i| {
            let term = |k: usize| {
                let (e, z, next): (f64, f64, f64) = (e[k].into(), z[k].into(), next[k].into());
                (e / (tolerance * (1.0 + z.abs().max(next.abs())))).powi(2)
            };
            ((i * row..(i + 1) * row).map(term).sum::<f64>() / row.max(1) as f64).sqrt()
        });
        Tensor::from_slice(&sizes.collect::<Vec<f64>>(), [n])
    }
}

mod cuda {
    use super::rows;
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::error_norm as kernel;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 256;

    pub(super) fn forward(index: usize, error: &Tensor, z: &Tensor, next: &Tensor, tolerance: f64) -> Result<Tensor> {
        let n = rows(error);
        let row = error.count() / n.max(1);
        let mut out = Tensor::empty([n], Dtype::F64, Device::Cuda(index))?;
        let args = args![error.cuda()?, z.cuda()?, next.cuda()?, out.cuda_mut()?, row as u64, tolerance as f32];
        let geometry = Geometry { blocks: [size(n)?, 1, 1], threads: THREADS, shared: 0 };
        // SAFETY: error, z and next hold n·row f32 (checked in `error_norm`), out n f64; a block reads its row and writes its value; order
        // and types are those of `error_norm_forward`.
        unsafe { gpu(index)?.launch(kernel::FORWARD, geometry, &args) }?;
        Ok(out)
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::error_norm;
    use crate::device::Device;
    use crate::tensor::Tensor;
    use crate::testing::{Array, Case};

    fn case(n: usize, row: usize) -> Case {
        const TOLERANCE: f64 = 0.125;
        Case {
            op: "error_norm",
            label: format!("{n}x{row}"),
            inputs: (0..3).map(|i| Array::normal([n, row], 60 + i, 1.0, 0.0)).collect(),
            differentiable: vec![false; 3],
            // Cases compare f32 tensors on the op's device.
            run: Box::new(|t| {
                let sizes = error_norm(&t[0], &t[1], &t[2], TOLERANCE)?;
                let narrow: Vec<f32> = sizes.to_device(Device::Cpu)?.host::<f64>()?.iter().map(|v| *v as f32).collect();
                Tensor::from_slice(&narrow, sizes.shape())?.to_device(sizes.device())
            }),
            oracle: Box::new(move |a| {
                let mut out = Array::zeros([n]);
                for k in 0..n * row {
                    let size = TOLERANCE * (1.0 + a[1].data[k].abs().max(a[2].data[k].abs()));
                    out.data[k / row] += (a[0].data[k] / size).powi(2) / row as f64;
                }
                out.data.iter_mut().for_each(|v| *v = v.sqrt());
                out
            }),
            terms: 1,
            grad_terms: 1,
        }
    }

    /// Rows: one element, fewer than a block's threads, more.
    pub(crate) fn table() -> Vec<Case> {
        [(1, 1), (3, 37), (2, 700)].map(|(n, row)| case(n, row)).into_iter().collect()
    }
}
