//! Products with a denoiser's Jacobian, for the divergence of the probability-flow ODE (item 48) and for gradients of what x0_hat is put
//! to.

use super::oracle::Oracle;
use super::{Denoiser, Estimate};
use crate::error::{Error, Result};
use crate::process::Level;
use crate::tensor::Tensor;

/// A denoiser that can be differentiated with respect to x_t.
pub trait Differentiable: Denoiser {
    /// The estimates for `x_t` `[n, …]`, row i at level `at[i]`, as [`Denoiser::denoise_rows`] has them; and for each row vᵀ·∂net_out/∂x_t
    /// `[n, …]`, where net_out is what the estimate's coefficients refer to. One evaluation of a network forwards and one backwards.
    ///
    /// * `v` — like `x_t`
    ///
    /// # Errors
    /// Those of the network or oracle behind it; [`Error::Shape`] if `v` is not like `x_t`.
    fn vjp_rows(&self, x_t: &Tensor, at: &[Level], v: &Tensor) -> Result<(Vec<Estimate>, Tensor)>;
}

impl<D: Differentiable + ?Sized> Differentiable for &D {
    fn vjp_rows(&self, x_t: &Tensor, at: &[Level], v: &Tensor) -> Result<(Vec<Estimate>, Tensor)> {
        (**self).vjp_rows(x_t, at, v)
    }
}

/// Tweedie's formula to second order: ∂x0_hat/∂x_t = alpha/sigma²·Cov[x0 | x_t] (S3.eq128), which is symmetric.
impl Differentiable for Oracle {
    fn vjp_rows(&self, x_t: &Tensor, at: &[Level], v: &Tensor) -> Result<(Vec<Estimate>, Tensor)> {
        if v.shape() != x_t.shape() || v.dtype() != x_t.dtype() {
            let (x, v) = (x_t.shape(), v.shape());
            return Err(Error::Shape(format!("oracle: a vector {v} for x_t {x}: expected the same shape and type")));
        }
        let estimates = self.denoise_rows(x_t, at)?;
        let (x, v, d) = (x_t.to_f64s()?, v.to_f64s()?, self.dim());
        let mut product = vec![0.0; x.len()];
        for (i, at) in at.iter().enumerate() {
            let (x, v) = (&x[i * d..(i + 1) * d], &v[i * d..(i + 1) * d]);
            let covariance = self.posterior_covariance(x, *at);
            let factor = at.alpha / at.sigma.powi(2);
            for (out, row) in product[i * d..].iter_mut().zip(covariance.chunks_exact(d)) {
                *out = factor * row.iter().zip(v).map(|(c, v)| c * v).sum::<f64>();
            }
        }
        let product = Tensor::from_f64s(&product, x_t.shape(), x_t.dtype())?;
        Ok((estimates, product.to_device(x_t.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MlpDenoiser, NetworkDenoiser};
    use super::*;
    use crate::nn::{Mlp, MlpConfig, UNet, initialise};
    use crate::process::{Prediction, ProcessConfig, SchedulerConfig, TimeConvention};
    use crate::testing::{self, small_unet};

    fn normals(seed: u64, shape: &[usize]) -> Tensor {
        testing::normals(seed, shape).unwrap()
    }

    /// vᵀ·J·u from both sides: u against the product, and v against a central difference along u.
    fn assert_matches_differences(denoiser: &dyn Differentiable, x: &Tensor, at: &[Level], tolerance: f64) {
        let (v, u) = (normals(2, &x.shape()), normals(3, &x.shape()));
        let (_, product) = denoiser.vjp_rows(x, at, &v).unwrap();
        let row = x.count() / at.len();
        let moved = |step: f32| {
            let values: Vec<f32> =
                x.host::<f32>().unwrap().iter().zip(u.host::<f32>().unwrap()).map(|(x, u)| x + step * u).collect();
            let estimates = denoiser.denoise_rows(&Tensor::from_slice(&values, x.shape()).unwrap(), at).unwrap();
            let outputs = estimates.iter().flat_map(|e| e.net_out.to_vec::<f32>().unwrap());
            outputs.map(f64::from).collect::<Vec<f64>>()
        };
        const STEP: f32 = 1.0 / 128.0;
        let (after, before) = (moved(STEP), moved(-STEP));
        let (product, v, u) = (product.host::<f32>().unwrap(), v.host::<f32>().unwrap(), u.host::<f32>().unwrap());
        for i in 0..at.len() {
            let part = i * row..(i + 1) * row;
            let got: f64 = part.clone().map(|k| f64::from(product[k]) * f64::from(u[k])).sum();
            let slope = |k: usize| (after[k] - before[k]) / (2.0 * f64::from(STEP));
            let want: f64 = part.map(|k| f64::from(v[k]) * slope(k)).sum();
            assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "row {i}: {got} against {want}");
        }
    }

    #[test]
    fn products_of_networks_match_differences_row_by_row_on_processes_that_scale_their_input() {
        // The differences err by h²/6 of the third derivative, about 1e-5 of the slope, and by EPSILON/h of each output, 2e-5 in sum.
        let ve = ProcessConfig::Ve { sigma_min: 0.02, sigma_max: 20.0 };
        for continuous in [None, Some(ve)] {
            let convention = match continuous {
                None => TimeConvention::DdpmIndex,
                Some(_) => TimeConvention::LogSnr,
            };
            let scheduler = SchedulerConfig { continuous, time_convention: convention, ..Default::default() };
            let process = scheduler.process().unwrap();
            let at: Vec<Level> = [0.3, 0.9].map(|time| process.level(time)).to_vec();
            let config = small_unet(1);
            let unet = UNet::new(&config).unwrap();
            let params = initialise(unet.specs(), 5).unwrap();
            let x = normals(1, &[2, 8, 8, 1]);
            let network = NetworkDenoiser { unet: &unet, params: &params, scheduler: &scheduler, class_labels: None };
            assert_matches_differences(&network, &x, &at, 1e-3);
        }
    }

    #[test]
    fn the_oracles_product_is_its_posterior_covariance() {
        let oracle = Oracle::mixture(
            &[0.4, 0.6],
            &[vec![-1.0, 0.2], vec![0.8, 0.5]],
            &[vec![0.3, 0.1, 0.1, 0.2], vec![0.2, -0.1, -0.1, 0.4]],
        )
        .unwrap();
        let x = normals(1, &[3, 2]);
        let at = [Level::of(0.9, 0.5), Level::of(0.5, 0.9), Level::of(1.0, 3.0)];
        assert_matches_differences(&oracle, &x, &at, 1e-3);
        let v = Tensor::from_slice(&[1.0_f32, 2.0], [1, 2]).unwrap();
        let refused = oracle.vjp_rows(&x, &at, &v).err().unwrap();
        assert!(refused.to_string().contains("same shape"), "{refused}");
    }

    #[test]
    fn products_of_a_perceptron_match_differences() {
        let config = MlpConfig { dim: 2, ..MlpConfig::default() };
        let mlp = Mlp::new(&config).unwrap();
        let params = initialise(mlp.specs(), 5).unwrap();
        let scheduler = SchedulerConfig { prediction: Prediction::V, ..Default::default() };
        let process = scheduler.process().unwrap();
        let at: Vec<Level> = [0.1, 0.5].map(|time| process.level(time)).to_vec();
        let denoiser = MlpDenoiser { mlp: &mlp, params: &params, scheduler: &scheduler };
        assert_matches_differences(&denoiser, &normals(1, &[2, 2]), &at, 1e-3);
    }
}
