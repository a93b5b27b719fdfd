//! Sinusoidal time features (Vaswani et al. 2017, sec. 3.5; S0 "positional encoding", item 79).
//!
//! Not differentiable. The frequencies are rounded to f32 and the phase t·freq is taken in f32, as diffusers' `Timesteps` does, so
//! that converted models see the numbers they were trained on.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor};

/// Features of each time: `dim/2` sines and `dim/2` cosines of `t·10000^(−i/(dim/2 − freq_shift))`.
///
/// * `t` — `[n]` times as the network was trained on them (DDPM index, 0 to 999)
/// * `dim` — number of features; an odd one ends in a zero
/// * `cos_first` — diffusers' `flip_sin_to_cos`
/// * `freq_shift` — diffusers' `freq_shift`
///
/// Returns `[n, dim]` on the host.
///
/// # Errors
/// [`Error::Shape`] if `dim/2 − freq_shift` is not positive.
///
/// # Example
/// ```
/// let features = tweedie::ops::time_features(&[0.0], 4, true, 0.0)?;
/// assert_eq!(features.to_vec::<f32>()?, [1.0, 1.0, 0.0, 0.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn time_features(t: &[f32], dim: usize, cos_first: bool, freq_shift: f64) -> Result<Tensor> {
    let half = dim / 2;
    let span = half as f64 - freq_shift;
    if half > 0 && span <= 0.0 {
        return Err(Error::Shape(format!(
            "time features: {dim} features leave no frequencies at freq_shift {freq_shift}"
        )));
    }
    let mut features = Tensor::zeros([t.len(), dim], Dtype::F32, Device::Cpu)?;
    for (row, t) in features.host_mut::<f32>()?.chunks_exact_mut(dim.max(1)).zip(t) {
        for i in 0..half {
            let exponent = -(10_000.0_f64.ln() as f32) * i as f32 / span as f32;
            let phase = f64::from(t * f64::from(exponent).exp() as f32);
            let (sin, cos) = phase.sin_cos();
            let (first, second) = if cos_first { (cos, sin) } else { (sin, cos) };
            row[i] = first as f32;
            row[half + i] = second as f32;
        }
    }
    Ok(features)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squared_length_is_half_the_dimension_for_every_time() {
        for t in [0.0, 1.0, 17.5, 999.0, 100_000.0] {
            let e = time_features(&[t], 32, true, 0.0).unwrap().to_vec::<f32>().unwrap();
            let length: f64 = e.iter().map(|v| f64::from(*v).powi(2)).sum();
            assert!((length - 16.0).abs() < 1e-5, "t {t}: {length}");
        }
    }

    #[test]
    fn products_depend_on_the_difference_of_times_only() {
        let dot = |a: f32, b: f32| -> f64 {
            let e = time_features(&[a, b], 64, false, 0.0).unwrap().to_vec::<f32>().unwrap();
            e[..64].iter().zip(&e[64..]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        // Phases up to 110 in f32: each is off by at most 110·eps, 64 products.
        assert!((dot(3.0, 10.0) - dot(103.0, 110.0)).abs() < 64.0 * 110.0 * 1.2e-7);
        assert!((dot(3.0, 10.0) - dot(3.0, 11.0)).abs() > 1e-2);
    }

    #[test]
    fn an_odd_dimension_ends_in_a_zero() {
        let e = time_features(&[5.0], 5, true, 0.0).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(e[4], 0.0);
        assert!(time_features(&[5.0], 2, true, 1.0).is_err());
    }
}
