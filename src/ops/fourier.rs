//! Sinusoidal time features (Vaswani et al. 2017, sec. 3.5; S0 "positional encoding", item 79).
//!
//! Not differentiable. The frequencies are rounded to f32 and the phase t·freq is taken in f32, as diffusers' `Timesteps` does, so
//! that converted models see the numbers they were trained on. Kernel: `kernels/fourier.cu`.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Features of each time: `dim/2` sines and `dim/2` cosines of `t·10000^(−i/(dim/2 − freq_shift))`.
///
/// * `t` — `[n]` times as the network was trained on them (DDPM index, 0 to 999)
/// * `dim` — number of features; an odd one ends in a zero
/// * `cos_first` — diffusers' `flip_sin_to_cos`
/// * `freq_shift` — diffusers' `freq_shift`
/// * `device` — where the features are made
///
/// Returns `[n, dim]`.
///
/// # Errors
/// [`Error::Shape`] if `dim/2 − freq_shift` is not positive.
///
/// # Example
/// ```
/// use tweedie::device::Device;
/// let features = tweedie::ops::time_features(&[0.0], 4, true, 0.0, Device::Cpu)?;
/// assert_eq!(features.to_vec::<f32>()?, [1.0, 1.0, 0.0, 0.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn time_features(t: &[f32], dim: usize, cos_first: bool, freq_shift: f64, device: Device) -> Result<Tensor> {
    let half = dim / 2;
    let span = half as f64 - freq_shift;
    if half > 0 && span <= 0.0 {
        return Err(Error::Shape(format!(
            "time features: {dim} features leave no frequencies at freq_shift {freq_shift}"
        )));
    }
    match device {
        Device::Cpu => cpu::features(t, dim, cos_first, span),
        Device::Cuda(index) => cuda::features(index, t, dim, cos_first, span),
    }
}

/// The `i`-th frequency, rounded to f32 at every step as diffusers does.
fn frequency(i: usize, span: f64) -> f32 {
    let exponent = -(10_000.0_f64.ln() as f32) * i as f32 / span as f32;
    f64::from(exponent).exp() as f32
}

mod cpu {
    use super::frequency;
    use crate::device::Device;
    use crate::error::Result;
    use crate::tensor::{Dtype, Tensor};

    pub(super) fn features(t: &[f32], dim: usize, cos_first: bool, span: f64) -> Result<Tensor> {
        let half = dim / 2;
        let mut features = Tensor::zeros([t.len(), dim], Dtype::F32, Device::Cpu)?;
        for (row, t) in features.host_mut::<f32>()?.chunks_exact_mut(dim.max(1)).zip(t) {
            for i in 0..half {
                let (sin, cos) = f64::from(t * frequency(i, span)).sin_cos();
                let (first, second) = if cos_first { (cos, sin) } else { (sin, cos) };
                row[i] = first as f32;
                row[half + i] = second as f32;
            }
        }
        Ok(features)
    }
}

mod cuda {
    use super::frequency;
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::fourier as kernel;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 64;

    pub(super) fn features(index: usize, t: &[f32], dim: usize, cos_first: bool, span: f64) -> Result<Tensor> {
        let gpu = gpu(index)?;
        let half = dim / 2;
        let mut features = Tensor::empty([t.len(), dim], Dtype::F32, Device::Cuda(index))?;
        let frequencies: Vec<f32> = (0..half).map(|i| frequency(i, span)).collect();
        let (t_there, f_there) =
            (gpu.upload(bytemuck::cast_slice(t))?, gpu.upload(bytemuck::cast_slice(&frequencies))?);
        let args = args![
            &t_there,
            &f_there,
            features.cuda_mut()?,
            size(t.len())?,
            size(half)?,
            size(dim)?,
            u32::from(cos_first)
        ];
        let geometry = Geometry::per_image(t.len(), dim.div_ceil(2), THREADS)?;
        // SAFETY: features hold t.len() rows of dim f32, t and frequencies t.len() and dim/2; a thread writes two features, or the last,
        // of its rows; order and types are those of `fourier_features`.
        unsafe { gpu.launch(kernel::FEATURES, geometry, &args) }?;
        Ok(features)
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::time_features;
    use crate::device::Device;
    use crate::testing::{Array, Case};

    fn case(t: &[f64], dim: usize, cos_first: bool, freq_shift: f64) -> Case {
        let n = t.len();
        Case {
            op: "fourier",
            label: format!("{n} times, {dim} features, shift {freq_shift}"),
            inputs: vec![Array { shape: [n].into(), data: t.to_vec() }],
            differentiable: vec![false],
            run: Box::new(move |t| {
                let times = t[0].to_device(Device::Cpu)?.to_vec::<f32>()?;
                time_features(&times, dim, cos_first, freq_shift, t[0].device())
            }),
            oracle: Box::new(move |a| {
                let half = dim / 2;
                let mut y = Array::zeros([n, dim]);
                for (row, t) in y.data.chunks_exact_mut(dim).zip(&a[0].data) {
                    for i in 0..half {
                        // Frequency and phase are f32 numbers by definition: phases up to 1000 lose up to 3e-5 in them.
                        let exponent = -(10_000.0_f64.ln() as f32) * i as f32 / (half as f64 - freq_shift) as f32;
                        let phase = f64::from(*t as f32 * f64::from(exponent).exp() as f32);
                        let pair = if cos_first { [phase.cos(), phase.sin()] } else { [phase.sin(), phase.cos()] };
                        (row[i], row[half + i]) = (pair[0], pair[1]);
                    }
                }
                y
            }),
            terms: 1,
            grad_terms: 1,
        }
    }

    /// Rows: one feature, odd dimensions, both orders, a shift, all quarters of a turn, more than a thread block.
    pub(crate) fn table() -> Vec<Case> {
        let times: Vec<f64> = (0..40).map(|i| f64::from(i) * 25.625).collect();
        vec![
            case(&[3.0], 1, true, 0.0),
            case(&[0.0, 999.0], 7, false, 0.0),
            case(&[-2.5, 0.125, 1e5], 8, true, 1.0),
            case(&times, 10, false, 0.0),
            case(&times[35..], 140, true, 0.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squared_length_is_half_the_dimension_for_every_time() {
        for t in [0.0, 1.0, 17.5, 999.0, 100_000.0] {
            let e = time_features(&[t], 32, true, 0.0, Device::Cpu).unwrap().to_vec::<f32>().unwrap();
            let length: f64 = e.iter().map(|v| f64::from(*v).powi(2)).sum();
            assert!((length - 16.0).abs() < 1e-5, "t {t}: {length}");
        }
    }

    #[test]
    fn products_depend_on_the_difference_of_times_only() {
        let dot = |a: f32, b: f32| -> f64 {
            let e = time_features(&[a, b], 64, false, 0.0, Device::Cpu).unwrap().to_vec::<f32>().unwrap();
            e[..64].iter().zip(&e[64..]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        // Phases up to 110 in f32: each is off by at most 110·eps, 64 products.
        assert!((dot(3.0, 10.0) - dot(103.0, 110.0)).abs() < 64.0 * 110.0 * 1.2e-7);
        assert!((dot(3.0, 10.0) - dot(3.0, 11.0)).abs() > 1e-2);
    }

    #[test]
    fn an_odd_dimension_ends_in_a_zero() {
        let e = time_features(&[5.0], 5, true, 0.0, Device::Cpu).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(e[4], 0.0);
        assert!(time_features(&[5.0], 2, true, 1.0, Device::Cpu).is_err());
    }
}
