//! What every training step does, whatever the network and the data: take the gradients of a loss, and say where a number that
//! is not finite came from; and batches of noised tensors.

use crate::denoiser;
use crate::error::{Error, Result};
use crate::loss::Weighting;
use crate::nn::Params;
use crate::ops::{self, Perturbed, VarianceTerms};
use crate::optim::{self, Outcome};
use crate::process::{Level, SchedulerConfig};
use crate::rng::Address;
use crate::tape::{self, Grads, Tape};
use crate::tensor::Tensor;

/// A batch on its way through a step.
pub(super) struct Batch {
    x0: Tensor,
    /// x_t as the network sees it.
    pub(super) input: Tensor,
    target: Tensor,
    pub(super) times: Vec<f32>,
    /// Factor of each row's squared error.
    pub(super) weights: Vec<f32>,
    /// The bound of each row's step and half the distance of two levels of the data, for a network that chooses its variance.
    bounds: Option<(Vec<VarianceTerms>, f64)>,
}

impl Batch {
    /// Noises each row of `x0` `[n, …]` to its own level, with the noise of samples 0 to n − 1 at `address`. A row's error counts
    /// what its level does, times `importance`.
    pub(super) fn noised(
        (scheduler, weighting): (&SchedulerConfig, &Weighting),
        x0: Tensor,
        (levels, importance): (&[Level], &[f64]),
        address: Address,
    ) -> Result<Batch> {
        let of_levels = |f: &dyn Fn(&Level) -> f64| levels.iter().map(f).collect::<Vec<f64>>();
        let (noised, times) = network_input(scheduler, &x0, levels, address)?;
        let (alpha, sigma) = (of_levels(&|l| l.alpha), of_levels(&|l| l.sigma));
        let target = denoiser::target(scheduler.prediction, &x0, &noised.eps, &alpha, &sigma)?;
        let weigh = |(at, importance): (&Level, &f64)| Ok((weighting.of_output(*at)? * importance) as f32);
        let weights = levels.iter().zip(importance).map(weigh).collect::<Result<_>>()?;
        Ok(Batch { x0, input: noised.x_t, target, times, weights, bounds: None })
    }

    /// Adds `share` of the variational bound to the loss, which teaches the second half of the network's output (Nichol & Dhariwal 2021, eq. 16).
    /// Each row is an estimate of the whole sum over T steps, in nats per dimension.
    pub(super) fn with_bounds(
        mut self,
        weighting: &Weighting,
        (levels, importance): (&[Level], &[f64]),
        (share, half_bin): (f64, f64),
    ) -> Result<Batch> {
        let terms = levels.iter().zip(importance).map(|(at, importance)| {
            let weight = share * weighting.steps() * importance;
            Ok(VarianceTerms { weight, ..weighting.variance_terms(*at)? })
        });
        self.bounds = Some((terms.collect::<Result<_>>()?, half_bin));
        Ok(self)
    }

    /// The loss of an output, and the unweighted squared error of each row.
    pub(super) fn loss(&self, net_out: Tensor) -> Result<(Tensor, Tensor)> {
        let Some((terms, half_bin)) = &self.bounds else {
            return ops::weighted_mse(&net_out, &self.target, &self.weights);
        };
        let (net_out, variance) = denoiser::split_variance(net_out, self.x0.shape().last_size())?;
        let (simple, errors) = ops::weighted_mse(&net_out, &self.target, &self.weights)?;
        let variance = variance.ok_or_else(|| {
            Error::Shape("learned variance: the network's output wants twice the channels of its input".into())
        })?;
        let bound = ops::learned_variance(&net_out, &self.target, &variance, &self.x0, terms, *half_bin)?;
        Ok((ops::add(&simple, &bound)?, errors))
    }

    /// Whether what was drawn is finite.
    pub(super) fn is_finite(&self) -> Result<bool> {
        self.x0.is_finite()
    }
}

/// Each row of `x0` at its own level as the network sees it, with the noise of samples 0 to n − 1 at `address`; and the times that it is told.
pub(super) fn network_input(
    scheduler: &SchedulerConfig,
    x0: &Tensor,
    levels: &[Level],
    address: Address,
) -> Result<(Perturbed, Vec<f32>)> {
    let samples: Vec<u32> = (0..levels.len() as u32).collect();
    // The network's input is x_t scaled, so the scale goes into both factors.
    let scaled =
        |of: fn(&Level) -> f64| -> Vec<f64> { levels.iter().map(|l| scheduler.input_scale(*l) * of(l)).collect() };
    let noised = ops::perturb(x0, &scaled(|l| l.alpha), &scaled(|l| l.sigma), address, &samples)?;
    let times = levels.iter().map(|l| scheduler.time_convention.network_time(*l) as f32).collect();
    Ok((noised, times))
}

/// Fills `grads` with those of `loss`, which returns it and a number for each row; returns the loss and the norm of the gradients,
/// and those numbers, which the device may still be at work on.
pub(super) fn gradients(
    params: &Params,
    grads: &mut Grads,
    loss: impl FnOnce() -> Result<(Tensor, Tensor)>,
) -> Result<(Outcome, Tensor)> {
    grads.clear();
    let ((loss, rows), tape) = Tape::record(loss)?;
    tape.backward_from_loss(&loss, grads)?;
    let norm = optim::global_norm(params, grads)?;
    Ok((Outcome { loss, norm }, rows))
}

/// Where the first number that is not finite came from, as a sentence part; `again` runs the step once more while every
/// number is checked.
pub(super) fn explain_non_finite<T>(
    (loss, norm): (f64, f64),
    batch_is_finite: Result<bool>,
    again: impl FnOnce() -> Result<T>,
) -> String {
    let what = if loss.is_finite() { format!("gradient norm is {norm}") } else { format!("loss is {loss}") };
    let cause = match batch_is_finite {
        Ok(false) => Some("the batch itself holds numbers that are not finite".to_string()),
        _ => tape::find_non_finite(|| again().map(|_| ())).ok().flatten(),
    };
    format!("{what}; {}", cause.unwrap_or_else(|| "no single op made it; the sum overflowed".into()))
}
