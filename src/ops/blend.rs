//! A sum of two tensors with factors of each image: out_i = a_i·x_i + b_i·y_i. Training targets, and inputs scaled to their levels, are such.
//!
//! Not differentiable: x and y are data. Cost: one read of each input, one write. Kernel: `kernels/blend.cu`.

use super::same_device;
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor};

/// `a_i·x_i`, and `b_i·y_i` on top of it where `y` is given, for each image i.
///
/// * `x`, `y` — `[n, …]`, of one shape, f32 or f64
/// * `a`, `b` — `[n]`
///
/// Returns a tensor like `x`.
///
/// # Errors
/// [`Error::Shape`] if shapes differ or a list does not have one factor per image; [`Error::Dtype`] for types other than f32 and f64.
///
/// # Example
/// ```
/// use tweedie::{ops::blend, tensor::Tensor};
/// let (x, y) = (Tensor::from_slice(&[1.0_f64, 2.0], [2, 1])?, Tensor::from_slice(&[10.0_f64, 20.0], [2, 1])?);
/// assert_eq!(blend(&x, &[2.0, 3.0], Some((&y, &[0.5, -1.0])))?.to_vec::<f64>()?, [7.0, -14.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn blend(x: &Tensor, a: &[f64], y: Option<(&Tensor, &[f64])>) -> Result<Tensor> {
    let n = x.shape().first().copied().unwrap_or(0);
    let (other, b) = y.unwrap_or((x, a));
    if other.shape() != x.shape() || [a.len(), b.len()] != [n; 2] {
        let (x, y, a, b) = (x.shape(), other.shape(), a.len(), b.len());
        return Err(Error::Shape(format!("blend: x {x}, y {y}, {a} and {b} factors do not match; give one per image")));
    }
    let device = same_device("blend", &[x, other])?;
    match (device, x.dtype()) {
        (Device::Cpu, Dtype::F32) => cpu::blend::<f32>(x, a, y),
        (Device::Cpu, Dtype::F64) => cpu::blend::<f64>(x, a, y),
        (Device::Cpu, dtype) => Err(Error::Dtype(format!("blend: wants f32 or f64, got {dtype:?}"))),
        (Device::Cuda(index), Dtype::F32) => cuda::blend(index, x, a, y),
        (device, _) => Err(no_kernel("blend", device)),
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::ops::Real;
    use crate::tensor::Tensor;

    const BLOCK: usize = 4096;

    pub(super) fn blend<T: Real>(x: &Tensor, a: &[f64], y: Option<(&Tensor, &[f64])>) -> Result<Tensor> {
        let row = x.count() / a.len().max(1);
        let mut out = Tensor::empty(x.shape(), T::DTYPE, Device::Cpu)?;
        let x = x.host::<T>()?;
        let y = y.map(|(y, b)| Ok::<_, crate::Error>((y.host::<T>()?, b))).transpose()?;
        let target = DisjointMut::new(out.host_mut::<T>()?);
        let blocks = row.div_ceil(BLOCK);
        for_each_block(a.len() * blocks, 4 * BLOCK.min(row), |job| {
            let (image, start) = (job / blocks, job % blocks * BLOCK);
            let (at, len) = (image * row + start, BLOCK.min(row - start));
            let (to, x, a) = (target.slice(at, len), &x[at..at + len], T::of(a[image]));
            match y {
                None => to.iter_mut().zip(x).for_each(|(to, x)| *to = a * *x),
                Some((y, b)) => {
                    let b = T::of(b[image]);
                    let pairs = x.iter().zip(&y[at..at + len]);
                    to.iter_mut().zip(pairs).for_each(|(to, (x, y))| *to = a * *x + b * *y);
                }
            }
        });
        Ok(out)
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Arg, Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::blend as kernel;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 128;

    pub(super) fn blend(index: usize, x: &Tensor, a: &[f64], y: Option<(&Tensor, &[f64])>) -> Result<Tensor> {
        let gpu = gpu(index)?;
        let n = a.len();
        let row = x.count() / n.max(1);
        let mut out = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
        let upload = |list: &[f64]| {
            let narrow: Vec<f32> = list.iter().map(|v| *v as f32).collect();
            gpu.upload(bytemuck::cast_slice(&narrow))
        };
        let (a, b) = (upload(a)?, y.map(|(_, b)| upload(b)).transpose()?);
        let y = y.map(|(y, _)| y.cuda_as::<f32>()).transpose()?;
        let args = args![
            x.cuda_as::<f32>()?,
            &a,
            Arg::Buffer(y),
            Arg::Buffer(b.as_ref()),
            out.cuda_mut()?,
            size(n)?,
            size(row)?
        ];
        let geometry = Geometry::per_image(n, row.div_ceil(4), THREADS)?;
        // SAFETY: x, y and out hold n·row f32, the factors n each (checked in `blend`), and y is null where b is; a thread touches elements
        // below row of its images alone; order and types are those of `blend_forward`.
        unsafe { gpu.launch(kernel::FORWARD, geometry, &args) }?;
        Ok(out)
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::blend;
    use crate::testing::{Array, Case};

    fn case(n: usize, row: usize, with_y: bool) -> Case {
        let a: Vec<f64> = (0..n).map(|i| 0.5 * i as f64 - 1.0).collect();
        let b: Vec<f64> = (0..n).map(|i| 2.0 - 0.25 * i as f64).collect();
        let (a_too, b_too) = (a.clone(), b.clone());
        Case {
            op: "blend",
            label: format!("{n}x{row}, y {with_y}"),
            inputs: vec![Array::normal([n, row], 210, 1.0, 0.0), Array::normal([n, row], 211, 1.0, 0.0)],
            differentiable: vec![false, false],
            run: Box::new(move |t| blend(&t[0], &a, with_y.then_some((&t[1], &b[..])))),
            oracle: Box::new(move |i| {
                let mut out = i[0].clone();
                for (k, v) in out.data.iter_mut().enumerate() {
                    let y = if with_y { b_too[k / row] * i[1].data[k] } else { 0.0 };
                    *v = a_too[k / row] * *v + y;
                }
                out
            }),
            terms: 2,
            grad_terms: 1,
        }
    }

    /// Rows: size 1, odd, aligned, more than a thread block, with and without y.
    pub(crate) fn table() -> Vec<Case> {
        vec![
            case(1, 1, true),
            case(3, 7, true),
            case(3, 7, false),
            case(2, 64, false),
            case(5, 1028, true),
            case(2, 5001, true),
            case(65_540, 1, true),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_f64_are_exact_and_wrong_shapes_are_named() {
        let x = Tensor::from_slice(&[3.0_f64, 5.0], [2, 1]).unwrap();
        let y = Tensor::from_slice(&[0.1_f64, 0.2], [2, 1]).unwrap();
        let got = blend(&x, &[0.3, 0.7], Some((&y, &[1.1, -0.9]))).unwrap().to_vec::<f64>().unwrap();
        assert_eq!(got, [0.3 * 3.0 + 1.1 * 0.1, 0.7 * 5.0 - 0.9 * 0.2]);
        assert!(blend(&x, &[0.3], None).unwrap_err().to_string().contains("1 and 1 factors do not match"));
        assert!(blend(&x, &[0.3, 0.7], Some((&y, &[1.0]))).is_err());
    }
}
