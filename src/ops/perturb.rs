//! The forward jump x_t = alpha·x0 + sigma·eps with addressed noise (S0 "Claim", items 15 and 17).
//!
//! Not differentiable: x0 is data. Cost: one read, two writes; the noise is made in registers.

use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::rng::Address;
use crate::tensor::{Dtype, Tensor};

/// What [`perturb`] returns.
pub struct Perturbed {
    /// `alpha·x0 + sigma·eps`, shape of x0.
    pub x_t: Tensor,
    /// The standard normal noise, shape of x0.
    pub eps: Tensor,
}

/// Noises each image of `x0` `[n, …]` (f32 or f64) to its own level.
///
/// * `alpha`, `sigma` — `[n]`, the level of each image
/// * `address` — where the noise comes from; image i uses sample `samples[i]`
///
/// # Errors
/// [`Error::Shape`] if the lists do not have one entry per image.
///
/// # Example
/// ```
/// use tweedie::{ops::perturb, rng::{Address, Purpose}, tensor::Tensor};
/// let x0 = Tensor::from_slice(&[3.0_f64, -3.0], [1, 2])?;
/// let p = perturb(&x0, &[0.6], &[0.8], Address::new(0, Purpose::TrainNoise), &[0])?;
/// let (x_t, eps) = (p.x_t.to_vec::<f64>()?, p.eps.to_vec::<f64>()?);
/// assert_eq!(x_t[1], 0.6 * -3.0 + 0.8 * eps[1]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn perturb(x0: &Tensor, alpha: &[f64], sigma: &[f64], address: Address, samples: &[u32]) -> Result<Perturbed> {
    let n = x0.shape().first().copied().unwrap_or(0);
    if [alpha.len(), sigma.len(), samples.len()] != [n; 3] {
        let (a, s, k) = (alpha.len(), sigma.len(), samples.len());
        return Err(Error::Shape(format!(
            "perturb: {n} images want {n} alphas, sigmas and samples, got {a}, {s}, {k}"
        )));
    }
    match (x0.device(), x0.dtype()) {
        (Device::Cpu, Dtype::F32) => cpu::perturb::<f32>(x0, alpha, sigma, address, samples),
        (Device::Cpu, Dtype::F64) => cpu::perturb::<f64>(x0, alpha, sigma, address, samples),
        (Device::Cpu, dtype) => Err(Error::Dtype(format!("perturb: wants f32 or f64, got {dtype:?}"))),
        (Device::Cuda(index), Dtype::F32) => cuda::perturb(index, x0, alpha, sigma, address, samples),
        (device, _) => Err(no_kernel("perturb", device)),
    }
}

mod cpu {
    use super::Perturbed;
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::ops::Real;
    use crate::rng::Address;
    use crate::tensor::Tensor;

    // Noise is drawn in f32 and widened, so that both types see the same numbers.
    const BLOCK: usize = 4096;

    pub(super) fn perturb<T: Real>(
        x0: &Tensor,
        alpha: &[f64],
        sigma: &[f64],
        address: Address,
        samples: &[u32],
    ) -> Result<Perturbed> {
        let row = x0.count() / samples.len().max(1);
        let mut x_t = Tensor::empty(x0.shape(), T::DTYPE, Device::Cpu)?;
        let mut eps = Tensor::empty(x0.shape(), T::DTYPE, Device::Cpu)?;
        let x0 = x0.host::<T>()?;
        let (out_x, out_eps) = (DisjointMut::new(x_t.host_mut::<T>()?), DisjointMut::new(eps.host_mut::<T>()?));
        let blocks = row.div_ceil(BLOCK);
        for_each_block(samples.len() * blocks, 50 * BLOCK.min(row), |job| {
            let (image, start) = (job / blocks, job % blocks * BLOCK);
            let len = BLOCK.min(row - start);
            let at = image * row + start;
            let mut z = [0.0_f32; BLOCK];
            address.sample(samples[image] as usize).fill_normal_from(start, &mut z[..len]);
            let (x_t, eps) = (out_x.slice(at, len), out_eps.slice(at, len));
            for i in 0..len {
                eps[i] = T::of_f32(z[i]);
                x_t[i] = T::of(alpha[image]) * x0[at + i] + T::of(sigma[image]) * eps[i];
            }
        });
        Ok(Perturbed { x_t, eps })
    }
}

mod cuda {
    use super::Perturbed;
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::perturb as kernel;
    use crate::rng::Address;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 128;

    pub(super) fn perturb(
        index: usize,
        x0: &Tensor,
        alpha: &[f64],
        sigma: &[f64],
        address: Address,
        samples: &[u32],
    ) -> Result<Perturbed> {
        let gpu = gpu(index)?;
        let n = samples.len();
        let row = x0.count() / n.max(1);
        let mut x_t = Tensor::empty(x0.shape(), Dtype::F32, Device::Cuda(index))?;
        let mut eps = Tensor::empty(x0.shape(), Dtype::F32, Device::Cuda(index))?;
        let narrow = |list: &[f64]| list.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let alpha = gpu.upload(bytemuck::cast_slice(&narrow(alpha)))?;
        let sigma = gpu.upload(bytemuck::cast_slice(&narrow(sigma)))?;
        let indices = gpu.upload(bytemuck::cast_slice(samples))?;
        let [seed_low, seed_high, step, last] = address.words();
        let (x, noise) = (x_t.cuda_mut()?, eps.cuda_mut()?);
        let args = args![
            x0.cuda()?,
            &alpha,
            &sigma,
            &indices,
            x,
            noise,
            size(n)?,
            size(row)?,
            seed_low,
            seed_high,
            step,
            last
        ];
        let geometry = Geometry::per_image(n, row.div_ceil(4), THREADS)?;
        // SAFETY: x0, x_t and eps hold n·row f32, the lists n each (checked in `perturb`); a thread touches elements below row of its
        // images alone; order and types are those of `perturb_forward`.
        unsafe { gpu.launch(kernel::FORWARD, geometry, &args) }?;
        Ok(Perturbed { x_t, eps })
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::perturb;
    use crate::rng::{Address, Purpose};
    use crate::tensor::Tensor;
    use crate::testing::{Array, Case};

    /// x_t, and eps after it.
    fn case(n: usize, row: usize) -> Case {
        let address = Address::new(0x1234_5678_9abc_def0, Purpose::TrainNoise).step(7).sub_index(5);
        let alpha: Vec<f64> = (0..n).map(|i| 0.9 - 0.4 * i as f64).collect();
        let sigma: Vec<f64> = (0..n).map(|i| 0.1 + 0.7 * i as f64).collect();
        let samples: Vec<u32> = (0..n as u32).map(|i| 1_000_003 * i + 4).collect();
        let (alpha_too, sigma_too, samples_too) = (alpha.clone(), sigma.clone(), samples.clone());
        Case {
            op: "perturb",
            label: format!("{n}x{row}"),
            inputs: vec![Array::normal([n, row], 230, 1.0, 0.0)],
            differentiable: vec![false],
            run: Box::new(move |t| {
                let p = perturb(&t[0], &alpha, &sigma, address, &samples)?;
                Tensor::stack_rows(&[p.x_t, p.eps], [2, n, row])
            }),
            oracle: Box::new(move |a| {
                let mut eps = vec![0.0_f32; n * row];
                for (image, eps) in eps.chunks_exact_mut(row).enumerate() {
                    address.sample(samples_too[image] as usize).fill_normal(eps);
                }
                let eps: Vec<f64> = eps.into_iter().map(f64::from).collect();
                let noised = a[0].data.iter().zip(&eps).enumerate();
                let x_t = noised.map(|(k, (x0, eps))| alpha_too[k / row] * x0 + sigma_too[k / row] * eps);
                Array { shape: [2, n, row].into(), data: x_t.chain(eps.iter().copied()).collect() }
            }),
            terms: 2,
            grad_terms: 1,
        }
    }

    /// Rows: one value, less than four, aligned, not aligned, more than a thread block.
    pub(crate) fn table() -> Vec<Case> {
        vec![case(1, 1), case(3, 3), case(2, 64), case(3, 77), case(2, 1030)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn noise_of_an_image_depends_on_its_sample_alone() {
        let address = Address::new(3, Purpose::TrainNoise).step(9);
        let x0 = Tensor::from_slice(&vec![0.5_f32; 2 * 5000], [2, 5000]).unwrap();
        let both = perturb(&x0, &[0.6, 0.8], &[0.8, 0.6], address, &[4, 7]).unwrap();
        let second = perturb(&x0.rows(1, 1).unwrap(), &[0.8], &[0.6], address, &[7]).unwrap();
        assert_eq!(both.x_t.to_vec::<f32>().unwrap()[5000..], second.x_t.to_vec::<f32>().unwrap());
        let mut want = vec![0.0; 5000];
        address.sample(7).fill_normal(&mut want);
        assert_eq!(second.eps.to_vec::<f32>().unwrap(), want);
    }

    #[test]
    fn x_t_is_alpha_x0_plus_sigma_eps_in_both_precisions() {
        let address = Address::new(3, Purpose::TrainNoise);
        let values: Vec<f64> = (0..10).map(|i| f64::from(i) / 4.0 - 1.0).collect();
        let x64 = Tensor::from_slice(&values, [1, 10]).unwrap();
        let x32 = Tensor::from_slice(&values.iter().map(|v| *v as f32).collect::<Vec<_>>(), [1, 10]).unwrap();
        let p64 = perturb(&x64, &[0.3], &[0.9], address, &[0]).unwrap();
        let p32 = perturb(&x32, &[0.3], &[0.9], address, &[0]).unwrap();
        for i in 0..10 {
            let eps = p64.eps.host::<f64>().unwrap()[i];
            let want = 0.3 * values[i] + 0.9 * eps;
            assert!((p64.x_t.host::<f64>().unwrap()[i] - want).abs() < 1e-15);
            assert_eq!(f64::from(p32.eps.host::<f32>().unwrap()[i]), eps);
            assert!((f64::from(p32.x_t.host::<f32>().unwrap()[i]) - want).abs() < 1e-6);
        }
        assert!(perturb(&x32, &[0.3, 0.3], &[0.9], address, &[0]).is_err());
    }
}
