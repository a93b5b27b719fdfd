//! L_hybrid = L_simple + share·L_vlb for networks that choose the variance of their steps (Nichol & Dhariwal 2021, eq. 16; items 20, 30).

use super::weight::Weighting;
use crate::error::Result;
use crate::ops::VarianceTerms;
use crate::process::Level;

impl Weighting {
    /// The scalars of the reverse step from a level, of the chain that [`super::Weight::Vlb`] names; its weight is 1, in nats.
    ///
    /// ln beta-tilde of the last step, where it would be −∞, is that of the step before.
    ///
    /// # Errors
    /// As [`crate::denoiser::x0_coefficients`].
    pub fn variance_terms(&self, at: Level) -> Result<VarianceTerms> {
        let step = self.reverse_step(at);
        let log = |variance: f64| variance.max(LEAST).ln();
        Ok(VarianceTerms {
            log_small: log(step.posterior_variance),
            log_large: log(step.fresh_variance),
            factor: step.x0_share * self.x0_of_output(at)?,
            weight: 1.0,
            is_last: step.to.is_clean(),
        })
    }
}

/// A variance below this is no less than this: its logarithm is finite.
const LEAST: f64 = 1e-20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Weight;
    use crate::ops::learned_variance;
    use crate::process::{Prediction, SchedulerConfig};
    use crate::tensor::Tensor;

    #[test]
    fn with_beta_or_beta_tilde_the_bound_is_the_weight_and_its_constant() {
        let (eps, eps_hat) = (-1.3_f32, 0.4_f32);
        let config = SchedulerConfig { prediction: Prediction::Eps, ..SchedulerConfig::default() };
        for (weight, v) in [(Weight::Vlb, 1.0_f32), (Weight::VlbTilde, -1.0)] {
            let weighting = Weighting::new(weight, &config).unwrap();
            let process = config.process().unwrap();
            for n in [2, 3, 101, 1000] {
                let at = process.discrete().unwrap().level_of(n - 1).unwrap();
                let terms = weighting.variance_terms(at).unwrap();
                let one = |value: f32| Tensor::from_slice(&[value], [1, 1]).unwrap();
                let (out, target, x0) = (one(eps_hat), one(eps), one(0.0));
                let got =
                    learned_variance(&out, &target, &one(v), &x0, &[terms], 0.1).unwrap().to_vec::<f32>().unwrap()[0];
                // item 30: the constant ½(beta-tilde/sigma² − 1 − ln(beta-tilde/sigma²)).
                let log_ratio = if v > 0.0 { terms.log_small - terms.log_large } else { 0.0 };
                let constant = 0.5 * (log_ratio.exp() - 1.0 - log_ratio);
                let want = weighting.of_eps(at).unwrap() * f64::from(eps - eps_hat).powi(2) + constant;
                // f32 inputs and result: a rounding each.
                assert!((f64::from(got) / want - 1.0).abs() < 4.0 * f64::from(f32::EPSILON), "n = {n}: {got} {want}");
            }
            let first = weighting.variance_terms(process.discrete().unwrap().level_of(0).unwrap()).unwrap();
            let second = weighting.variance_terms(process.discrete().unwrap().level_of(1).unwrap()).unwrap();
            assert!(first.is_last && !second.is_last && first.log_small == second.log_small);
        }
    }
}
