//! A choice between two tensors by a mask: out_i = a_i where the mask is not 0, b_i elsewhere. Inpainting keeps the known pixels so.
//!
//! Not differentiable: all are data. Cost: one read of each input, one write. Kernel: `kernels/select.cu`.

use super::same_device;
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor};

/// `a` where `mask` is not 0, bit for bit, and `b` elsewhere.
///
/// * `mask` — `[m]` for some m that divides the others' number of elements: it repeats, so that one mask serves all images of a batch
/// * `a`, `b` — of one shape, f32 or f64 as the mask
///
/// Returns a tensor like `b`. What is not chosen may hold anything, a NaN too.
///
/// # Errors
/// [`Error::Shape`] if shapes differ or the mask does not fit; [`Error::Dtype`] for types other than f32 and f64, or two of them.
///
/// # Example
/// ```
/// use tweedie::{ops::select, tensor::Tensor};
/// let (a, b) = (Tensor::from_slice(&[1.0_f64, 2.0], [1, 2])?, Tensor::from_slice(&[8.0_f64, 9.0], [1, 2])?);
/// let mask = Tensor::from_slice(&[0.0_f64, 1.0], [2])?;
/// assert_eq!(select(&mask, &a, &b)?.to_vec::<f64>()?, [8.0, 2.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn select(mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.shape() != b.shape() || mask.count() == 0 || !a.count().is_multiple_of(mask.count()) {
        let (mask, a, b) = (mask.shape(), a.shape(), b.shape());
        return Err(Error::Shape(format!(
            "select: mask {mask}, a {a}, b {b}: expected one shape, and a mask of one row of it"
        )));
    }
    if [mask.dtype(), a.dtype()] != [b.dtype(); 2] {
        let types = [mask.dtype(), a.dtype(), b.dtype()];
        return Err(Error::Dtype(format!("select: mask, a and b have the types {types:?}; expected one")));
    }
    let device = same_device("select", &[mask, a, b])?;
    match (device, b.dtype()) {
        (Device::Cpu, Dtype::F32) => cpu::select::<f32>(mask, a, b),
        (Device::Cpu, Dtype::F64) => cpu::select::<f64>(mask, a, b),
        (Device::Cpu, dtype) => Err(Error::Dtype(format!("select: wants f32 or f64, got {dtype:?}"))),
        (Device::Cuda(index), Dtype::F32) => cuda::select(index, mask, a, b),
        (device, _) => Err(no_kernel("select", device)),
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::tensor::{Element, Tensor};

    const BLOCK: usize = 4096;

    pub(super) fn select<T: Element + PartialEq>(mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let mut out = Tensor::empty(b.shape(), T::DTYPE, Device::Cpu)?;
        let (mask, a, b) = (mask.host::<T>()?, a.host::<T>()?, b.host::<T>()?);
        let (row, target) = (mask.len(), DisjointMut::new(out.host_mut::<T>()?));
        let blocks = row.div_ceil(BLOCK);
        for_each_block(b.len() / row * blocks, 4 * BLOCK.min(row), |job| {
            let start = job % blocks * BLOCK;
            let (at, len) = (job / blocks * row + start, BLOCK.min(row - start));
            let chosen = mask[start..start + len].iter().zip(a[at..at + len].iter().zip(&b[at..at + len]));
            for (to, (mask, (a, b))) in target.slice(at, len).iter_mut().zip(chosen) {
                *to = if *mask != T::zeroed() { *a } else { *b };
            }
        });
        Ok(out)
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::select as kernel;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 128;

    pub(super) fn select(index: usize, mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let mut out = Tensor::empty(b.shape(), Dtype::F32, Device::Cuda(index))?;
        let row = mask.count();
        let n = b.count() / row;
        let args = args![
            mask.cuda_as::<f32>()?,
            a.cuda_as::<f32>()?,
            b.cuda_as::<f32>()?,
            out.cuda_mut()?,
            size(n)?,
            size(row)?
        ];
        let geometry = Geometry::per_image(n, row.div_ceil(4), THREADS)?;
        // SAFETY: a, b and out hold n·row f32, the mask row of them (checked in `select`); a thread touches elements below row of its images
        // alone; order and types are those of `select_forward`.
        unsafe { gpu(index)?.launch(kernel::FORWARD, geometry, &args) }?;
        Ok(out)
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::select;
    use crate::testing::{Array, Case};

    fn case(n: usize, row: usize) -> Case {
        let mut mask = Array::normal([row], 220, 1.0, 0.0);
        mask.data.iter_mut().for_each(|v| *v = f64::from(u8::from(*v > 0.3)));
        Case {
            op: "select",
            label: format!("{n}x{row}"),
            inputs: vec![mask, Array::normal([n, row], 221, 1.0, 0.0), Array::normal([n, row], 222, 1.0, 0.0)],
            differentiable: vec![false; 3],
            run: Box::new(|t| select(&t[0], &t[1], &t[2])),
            oracle: Box::new(move |i| {
                let mut out = i[2].clone();
                for (k, v) in out.data.iter_mut().enumerate().filter(|(k, _)| i[0].data[k % row] != 0.0) {
                    *v = i[1].data[k];
                }
                out
            }),
            terms: 1,
            grad_terms: 1,
        }
    }

    /// Rows: size 1, odd, aligned, more than a block of threads and of the CPU, more images than a grid is high.
    pub(crate) fn table() -> Vec<Case> {
        vec![case(1, 1), case(3, 7), case(2, 64), case(5, 1028), case(2, 5001), case(65_540, 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_chosen_may_be_nan_and_what_does_not_fit_is_named() {
        let tensor = |values: &[f32]| Tensor::from_slice(values, [values.len()]).unwrap();
        let (a, b) = (tensor(&[f32::NAN, 2.0]), tensor(&[3.0, f32::INFINITY]));
        assert_eq!(select(&tensor(&[0.0, 1.0]), &a, &b).unwrap().to_vec::<f32>().unwrap(), [3.0, 2.0]);
        assert!(select(&tensor(&[1.0; 3]), &a, &b).unwrap_err().to_string().contains("mask of one row"));
        let wide = Tensor::from_slice(&[1.0_f64, 0.0], [2]).unwrap();
        assert!(select(&wide, &a, &b).unwrap_err().to_string().contains("expected one"));
    }
}
