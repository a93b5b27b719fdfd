//! A trained classifier of noisy images as what guides.

use super::ClassScore;
use crate::error::{Error, Result};
use crate::nn::{Classifier, Mode, Params};
use crate::ops;
use crate::process::{Level, SchedulerConfig};
use crate::tape::{Grads, Tape};
use crate::tensor::Tensor;

/// A [`Classifier`], the weights to run it with, and the class that each image shall have (S3.eq157).
pub struct NoisyClassifier<'a> {
    /// The network.
    pub classifier: &'a Classifier,
    /// Raw or averaged weights.
    pub params: &'a Params,
    /// What its input and its time mean.
    pub scheduler: &'a SchedulerConfig,
    /// Class of each image.
    pub labels: &'a [u32],
}

impl NoisyClassifier<'_> {
    /// The logits `[n, classes]` of `x_t` `[n, h, w, c]`, row i at level `at[i]`.
    ///
    /// # Errors
    /// Those of the network.
    pub fn logits(&self, x_t: &Tensor, at: &[Level]) -> Result<Tensor> {
        self.forward(&ops::blend(x_t, &self.scales(at), None)?, at)
    }

    fn scales(&self, at: &[Level]) -> Vec<f64> {
        at.iter().map(|at| self.scheduler.input_scale(*at)).collect()
    }

    fn forward(&self, input: &Tensor, at: &[Level]) -> Result<Tensor> {
        let times: Vec<f32> = at.iter().map(|at| self.scheduler.time_convention.network_time(*at) as f32).collect();
        self.classifier.forward(self.params, input, &times, Mode::Inference)
    }

    /// ∇ log p_t(y | x_t) of all rows by one pass back through the tape: rows do not see one another.
    fn all_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Tensor> {
        if self.labels.len() != at.len() {
            let (labels, rows) = (self.labels.len(), at.len());
            return Err(Error::Shape(format!("classifier: {rows} images want as many classes, got {labels}")));
        }
        let scales = self.scales(at);
        // A tensor of its own: x_t itself may be followed elsewhere.
        let input = ops::blend(x_t, &scales, None)?.with_grad(true);
        // −1 each: the loss is the sum of log p(y | x_t).
        let weights = vec![-1.0; at.len()];
        let (sum, tape) =
            Tape::record(|| Ok(ops::cross_entropy(&self.forward(&input, at)?, self.labels, &weights)?.0))?;
        let mut grads = Grads::new();
        tape.backward_from_loss(&sum, &mut grads)?;
        match grads.take(input.id()) {
            Some(gradient) => ops::blend(&gradient, &scales, None),
            None => Tensor::zeros(x_t.shape(), x_t.dtype(), x_t.device()),
        }
    }
}

impl ClassScore for NoisyClassifier<'_> {
    fn gradient(&self, x_t: &Tensor, at: Level) -> Result<Tensor> {
        self.all_rows(x_t, &vec![at; x_t.shape().first().copied().unwrap_or(0)])
    }

    fn gradient_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Tensor>> {
        let gradient = self.all_rows(x_t, at)?;
        (0..at.len()).map(|i| gradient.rows(i, 1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{ClassifierConfig, initialise};
    use crate::process::{ProcessConfig, TimeConvention};
    use crate::testing::{self, small_unet};

    fn normals(seed: u64, shape: &[usize]) -> Tensor {
        testing::normals(seed, shape).unwrap()
    }

    #[test]
    fn gradients_match_differences_of_the_log_probability_row_by_row() {
        let unet = small_unet(2);
        let classifier = Classifier::new(&ClassifierConfig { unet, classes: 3 }).unwrap();
        let params = initialise(classifier.specs(), 5).unwrap();
        let ve = ProcessConfig::Ve { sigma_min: 0.02, sigma_max: 20.0 };
        for continuous in [None, Some(ve)] {
            let convention = match continuous {
                None => TimeConvention::DdpmIndex,
                Some(_) => TimeConvention::LogSnr,
            };
            let scheduler = SchedulerConfig { continuous, time_convention: convention, ..Default::default() };
            let process = scheduler.process().unwrap();
            let at = [process.level(0.3), process.level(0.8)];
            let labels = [2, 0];
            let guide =
                NoisyClassifier { classifier: &classifier, params: &params, scheduler: &scheduler, labels: &labels };
            let (x, u) = (normals(1, &[2, 6, 5, 2]), normals(2, &[2, 6, 5, 2]));
            let log_p = |step: f32| -> Vec<f64> {
                let moved = ops::blend(&x, &[1.0; 2], Some((&u, &[f64::from(step); 2]))).unwrap();
                let logits = guide.logits(&moved, &at).unwrap().to_vec::<f32>().unwrap();
                let row = |(z, y): (&[f32], &u32)| {
                    let top = f64::from(z.iter().copied().fold(f32::MIN, f32::max));
                    let sum: f64 = z.iter().map(|z| (f64::from(*z) - top).exp()).sum();
                    f64::from(z[*y as usize]) - top - sum.ln()
                };
                logits.chunks(3).zip(&labels).map(row).collect()
            };
            const STEP: f32 = 1.0 / 64.0;
            let (after, before) = (log_p(STEP), log_p(-STEP));
            let rows = guide.gradient_rows(&x, &at).unwrap();
            for (i, row) in rows.iter().enumerate() {
                let (g, u) = (row.host::<f32>().unwrap(), &u.host::<f32>().unwrap()[i * 60..][..60]);
                let got: f64 = g.iter().zip(u).map(|(g, u)| f64::from(*g) * f64::from(*u)).sum();
                let want = (after[i] - before[i]) / (2.0 * f64::from(STEP));
                // h²/6 of the third derivative and EPSILON/h of log p, as for the denoisers' products.
                assert!((got - want).abs() < 1e-3 * want.abs().max(1.0), "row {i}: {got}, differences say {want}");
                assert!(got.abs() > 1e-3, "row {i}: nothing to compare");
            }
        }
        let scheduler = SchedulerConfig::default();
        let level = scheduler.process().unwrap().level(0.5);
        let guide = NoisyClassifier { classifier: &classifier, params: &params, scheduler: &scheduler, labels: &[1] };
        assert!(guide.gradient(&normals(1, &[2, 6, 5, 2]), level).is_err());
    }
}
