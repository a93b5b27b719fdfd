//! The point nearest to x among those whose components A·x are given: out = x + Aᵀ(k − A·x) for A with orthonormal rows, along the last axis.
//!
//! Colourisation keeps the grey component of every pixel so (item 59: A = (1,1,1)/√3). Not differentiable: all are data. Sums run over
//! channels in order. Cost: one read of x and k, one write. Kernel: `kernels/set_components.cu`.

use super::same_device;
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor};

/// Most channels.
const MOST: usize = 16;

/// `x` with its components along the rows of `a` replaced by `k`.
///
/// * `x` — `[…, c]` with c at most 16, f32 or f64
/// * `a` — `[m, c]`, row-major, orthonormal rows
/// * `k` — `[…, m]`, of the type of x
///
/// Returns a tensor like `x` with A·out = k.
///
/// # Errors
/// [`Error::Shape`] if shapes do not match; [`Error::Usage`] if the rows are not orthonormal to 1e-6; [`Error::Dtype`] for types other than f32
/// and f64.
///
/// # Example
/// ```
/// use tweedie::{ops::set_components, tensor::Tensor};
/// let (x, k) = (Tensor::from_slice(&[3.0_f64, 4.0], [1, 2])?, Tensor::from_slice(&[7.0_f64], [1, 1])?);
/// assert_eq!(set_components(&x, &[0.0, 1.0], &k)?.to_vec::<f64>()?, [3.0, 7.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn set_components(x: &Tensor, a: &[f64], k: &Tensor) -> Result<Tensor> {
    let (c, m) = (x.shape().last_size(), k.shape().last_size());
    let pixels = x.count() / c.max(1);
    if c == 0 || c > MOST || m == 0 || m > c || a.len() != m * c || k.count() != pixels * m {
        let (x, k, len) = (x.shape(), k.shape(), a.len());
        return Err(Error::Shape(format!(
            "set_components: x {x}, k {k}, {len} coefficients: expected […,c], […,m] and m·c with m <= c <= {MOST}"
        )));
    }
    for (i, j) in (0..m * m).map(|at| (at / m, at % m)) {
        let product: f64 = (0..c).map(|channel| a[i * c + channel] * a[j * c + channel]).sum();
        if !((product - f64::from(u8::from(i == j))).abs() <= 1e-6) {
            return Err(Error::Usage(format!(
                "set_components: rows {i} and {j} have the product {product}: expected orthonormal rows"
            )));
        }
    }
    if k.dtype() != x.dtype() {
        return Err(Error::Dtype(format!("set_components: x is {:?} and k {:?}; expected one", x.dtype(), k.dtype())));
    }
    let device = same_device("set_components", &[x, k])?;
    match (device, x.dtype()) {
        (Device::Cpu, Dtype::F32) => cpu::set_components::<f32>(x, a, k),
        (Device::Cpu, Dtype::F64) => cpu::set_components::<f64>(x, a, k),
        (Device::Cpu, dtype) => Err(Error::Dtype(format!("set_components: wants f32 or f64, got {dtype:?}"))),
        (Device::Cuda(index), Dtype::F32) => cuda::set_components(index, x, a, k),
        (device, _) => Err(no_kernel("set_components", device)),
    }
}

mod cpu {
    use super::MOST;
    use crate::device::{DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::ops::Real;
    use crate::tensor::Tensor;

    /// Pixels of a job.
    const BLOCK: usize = 1024;

    pub(super) fn set_components<T: Real>(x: &Tensor, a: &[f64], k: &Tensor) -> Result<Tensor> {
        let (c, m) = (x.shape().last_size(), k.shape().last_size());
        let a: Vec<T> = a.iter().map(|a| T::of(*a)).collect();
        let mut out = x.clone();
        let k = k.host::<T>()?;
        let pixels = k.len() / m;
        let target = DisjointMut::new(out.host_mut::<T>()?);
        for_each_block(pixels.div_ceil(BLOCK), 4 * BLOCK.min(pixels) * m * c, |block| {
            for pixel in block * BLOCK..pixels.min((block + 1) * BLOCK) {
                let x = target.slice(pixel * c, c);
                let mut missing = [T::zeroed(); MOST];
                for (i, missing) in missing[..m].iter_mut().enumerate() {
                    let mut sum = T::zeroed();
                    x.iter().zip(&a[i * c..]).for_each(|(x, a)| sum += *x * *a);
                    *missing = k[pixel * m + i] - sum;
                }
                for (i, missing) in missing[..m].iter().enumerate() {
                    x.iter_mut().zip(&a[i * c..]).for_each(|(x, a)| *x += *a * *missing);
                }
            }
        });
        Ok(out)
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::set_components as kernel;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 128;

    pub(super) fn set_components(index: usize, x: &Tensor, a: &[f64], k: &Tensor) -> Result<Tensor> {
        let gpu = gpu(index)?;
        let (c, m) = (x.shape().last_size(), k.shape().last_size());
        let pixels = x.count() / c;
        let mut out = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
        let narrow: Vec<f32> = a.iter().map(|v| *v as f32).collect();
        let a = gpu.upload(bytemuck::cast_slice(&narrow))?;
        let args =
            args![x.cuda_as::<f32>()?, &a, k.cuda_as::<f32>()?, out.cuda_mut()?, pixels as u64, size(c)?, size(m)?];
        // SAFETY: x and out hold pixels·c f32, k pixels·m and a m·c with m <= c <= 16 (checked in `set_components`); a thread touches its own
        // pixel; order and types are those of `set_components_forward`.
        unsafe { gpu.launch(kernel::FORWARD, Geometry::covering(pixels, THREADS)?, &args) }?;
        Ok(out)
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::set_components;
    use crate::testing::{Array, Case};

    /// Orthonormal rows: the cosine basis, whose first row is the mean's.
    fn rows(m: usize, c: usize) -> Vec<f64> {
        let row = |i: usize, j: usize| {
            let scale = if i == 0 { 1.0 } else { 2.0 };
            (scale / c as f64).sqrt() * (std::f64::consts::PI * i as f64 * (j as f64 + 0.5) / c as f64).cos()
        };
        (0..m * c).map(|at| row(at / c, at % c)).collect()
    }

    fn case(pixels: usize, c: usize, m: usize) -> Case {
        let (a, a_too) = (rows(m, c), rows(m, c));
        Case {
            op: "set_components",
            label: format!("{pixels} pixels of {c}, {m} given"),
            inputs: vec![Array::normal([1, pixels, c], 230, 1.0, 0.0), Array::normal([1, pixels, m], 231, 1.0, 0.0)],
            differentiable: vec![false; 2],
            run: Box::new(move |t| set_components(&t[0], &a, &t[1])),
            oracle: Box::new(move |i| {
                let mut out = i[0].clone();
                for (at, value) in out.data.iter_mut().enumerate() {
                    let (pixel, j) = (at / c, at % c);
                    for r in 0..m {
                        let now: f64 = (0..c).map(|l| a_too[r * c + l] * i[0].data[pixel * c + l]).sum();
                        *value += a_too[r * c + j] * (i[1].data[pixel * m + r] - now);
                    }
                }
                out
            }),
            terms: 2 * c + 2,
            grad_terms: 1,
        }
    }

    /// One channel, colours, all components given, the most channels; less and more than a block of threads and of the CPU.
    pub(crate) fn table() -> Vec<Case> {
        vec![case(1, 1, 1), case(5, 3, 1), case(130, 3, 2), case(40, 3, 3), case(1100, 4, 1), case(33, 16, 5)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_components_are_met_and_rows_that_are_not_orthonormal_are_refused() {
        let third = 1.0 / 3.0_f64.sqrt();
        let x = Tensor::from_slice(&[0.9_f64, -0.3, 0.2], [1, 3]).unwrap();
        let k = Tensor::from_slice(&[-0.4_f64], [1, 1]).unwrap();
        let out = set_components(&x, &[third; 3], &k).unwrap().to_vec::<f64>().unwrap();
        assert!((third * out.iter().sum::<f64>() + 0.4).abs() < 1e-15);
        // The colour differences stay.
        assert!((out[0] - out[1] - 1.2).abs() < 1e-15 && (out[1] - out[2] + 0.5).abs() < 1e-15);
        let error = set_components(&x, &[1.0; 3], &k).unwrap_err().to_string();
        assert!(error.contains("expected orthonormal rows"), "{error}");
        assert!(set_components(&x, &[third; 2], &k).unwrap_err().to_string().contains("2 coefficients"));
    }
}
