//! Weights of the loss: what the squared error at each level counts, and where a weight is unbounded (S3.eq59–62, eq114–117,
//! eq122; items 30, 33, 45, 46).
//!
//! The errors of eps, x0 and the score at one level differ by known factors, ‖eps − eps_hat‖² = SNR·‖x0 − x0_hat‖² =
//! sigma²·‖score error‖², so one weight may be stated on any of them. Here each is kept on both eps and x0, for near clean data the first is
//! regular, in pure noise the second; the network's own error takes the regular one.

use super::lambda::Lambda;
use crate::denoiser::{eps_coefficients, loss_weight, x0_coefficients};
use crate::error::{Error, Result, unknown_name};
use crate::process::{Level, Prediction, Process, SchedulerConfig};
use std::sync::Arc;

/// Which error a weight multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorOf {
    /// ‖eps − eps_hat‖².
    Eps,
    /// ‖x0 − x0_hat‖².
    X0,
    /// ‖∇ log p_{t|0} − score‖², the score itself and not sigma times it.
    Score,
}

impl ErrorOf {
    /// All names.
    pub const NAMES: [&str; 3] = ["eps", "x0", "score"];

    /// Reads a name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names.
    pub fn from_name(name: &str) -> Result<ErrorOf> {
        match name {
            "eps" => Ok(ErrorOf::Eps),
            "x0" => Ok(ErrorOf::X0),
            "score" => Ok(ErrorOf::Score),
            _ => Err(unknown_name("weight_of", name, &ErrorOf::NAMES)),
        }
    }
}

/// What the squared error of each level counts. The mean over the drawn times of the weighted error is the loss.
#[derive(Clone, Debug, Default)]
pub enum Weight {
    /// 1 on the error of what the network predicts (L_simple of Ho et al. 2020 for eps; v of processes that do not preserve variance is
    /// scaled down by alpha² + sigma²).
    #[default]
    Simple,
    /// The weight of KL(q ‖ p) of one reverse step with variance beta (S3.eq62): beta/(2(1−beta)(1−alpha_bar)) on the eps error. The chain is
    /// DDPM's table, or T equal steps of a continuous process; the step that would begin below time 0 begins there.
    Vlb,
    /// The same with beta-tilde, (SNR_s − SNR_t)/2 on the x0 error. The last step, where beta-tilde is 0, has the variance of the one before
    /// (Nichol & Dhariwal 2021, sec. 3.1), so that it is the weight of L_0.
    VlbTilde,
    /// SNR on the x0 error, 1 on the eps error, whatever the network predicts.
    Snr,
    /// min(SNR, gamma) on the x0 error (Hang et al. 2023, eq. 8).
    MinSnr {
        /// The bound.
        gamma: f64,
    },
    /// g² on the score error, per unit of the SDE's time (Song, Durkan et al. 2021, theorem 1; S3.eq116).
    Likelihood,
    /// −½·d log SNR/dt on the eps error (Kingma et al. 2021, eq. 17): the VLB of infinitely many steps. It is half of g² on the score error.
    VlbContinuous,
    /// One's own lambda(t).
    Custom {
        /// What it multiplies.
        of: ErrorOf,
        /// The weight of a level.
        lambda: Lambda,
    },
}

/// Names of the settings; `table` reads [`Lambda`] from a file.
pub const WEIGHTS: [&str; 8] =
    ["simple", "vlb", "vlb-tilde", "snr", "min-snr", "likelihood", "vlb-continuous", "table"];

impl Weight {
    /// Its name in settings; `table` for any function.
    pub fn name(&self) -> &'static str {
        match self {
            Weight::Simple => WEIGHTS[0],
            Weight::Vlb => WEIGHTS[1],
            Weight::VlbTilde => WEIGHTS[2],
            Weight::Snr => WEIGHTS[3],
            Weight::MinSnr { .. } => WEIGHTS[4],
            Weight::Likelihood => WEIGHTS[5],
            Weight::VlbContinuous => WEIGHTS[6],
            Weight::Custom { .. } => WEIGHTS[7],
        }
    }
}

/// A weight, read for one process and one kind of output.
#[derive(Clone, Debug)]
pub struct Weighting {
    weight: Weight,
    prediction: Prediction,
    process: Arc<dyn Process>,
    /// 1/T.
    step: f64,
}

/// One weight on both errors.
#[derive(Clone, Copy)]
struct Factors {
    eps: f64,
    x0: f64,
}

impl Factors {
    fn of(weight: f64, of: ErrorOf, at: Level) -> Factors {
        let snr = (2.0 * at.half_log_snr()).exp();
        match of {
            ErrorOf::Eps => Factors { eps: weight, x0: weight * snr },
            ErrorOf::X0 => Factors { eps: weight / snr, x0: weight },
            ErrorOf::Score => {
                let eps = weight / at.sigma.powi(2);
                Factors { eps, x0: eps * snr }
            }
        }
    }
}

/// A step of the chain that the VLB is of.
pub(super) struct ReverseStep {
    /// Where it ends.
    pub(super) to: Level,
    /// The share of the variance at its begin that was added since its end.
    fresh: f64,
    /// x0's share of its mean.
    pub(super) x0_share: f64,
    /// Var[x_t | x_s]: beta of DDPM's table.
    pub(super) fresh_variance: f64,
    /// Var[x_s | x_t, x0]: beta-tilde; of the last step that of the step before, and beta where there is none.
    pub(super) posterior_variance: f64,
}

/// 1 − (alpha_t·sigma_s/(alpha_s·sigma_t))², through half_log_snr, so that close levels keep their digits.
fn fresh(from: Level, to: Level) -> f64 {
    if to.is_clean() { 1.0 } else { -(2.0 * (from.half_log_snr() - to.half_log_snr())).exp_m1() }
}

impl Weighting {
    /// The weight for the process and the output that a scheduler describes; T is its table's, or `num_train_timesteps`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a gamma that is not above 0; as [`SchedulerConfig::process`].
    pub fn new(weight: Weight, scheduler: &SchedulerConfig) -> Result<Weighting> {
        if let Weight::MinSnr { gamma } = weight
            && !(gamma > 0.0 && gamma.is_finite())
        {
            return Err(Error::Usage(format!("min_snr_gamma = {gamma}: expected a number above 0")));
        }
        let process = scheduler.process()?;
        let steps = process.discrete().map_or(scheduler.num_train_timesteps, |table| table.steps());
        Ok(Weighting { weight, prediction: scheduler.prediction, process, step: 1.0 / steps.max(1) as f64 })
    }

    /// The weight.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// What ‖eps − eps_hat‖² counts at a level; infinite where only the x0 error has a finite weight.
    ///
    /// # Errors
    /// As [`eps_coefficients`], for [`Weight::Simple`], which is stated on the network's output.
    pub fn of_eps(&self, at: Level) -> Result<f64> {
        match self.factors(at) {
            Some(factors) => Ok(factors.eps),
            None => Ok(loss_weight(self.prediction, at) / eps_coefficients(self.prediction, at)?.1.powi(2)),
        }
    }

    /// What the squared error of the network's output counts at a level.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if a function of one's own gives a number below 0 or not finite, with the level.
    pub fn of_output(&self, at: Level) -> Result<f64> {
        // Clean data is met at t = 0 alone, and weights that were let there have a limit.
        let at = if at.is_clean() { self.process.level(LEAST) } else { at };
        let Some(factors) = self.factors(at) else { return Ok(loss_weight(self.prediction, at)) };
        let is_on_eps = match self.prediction {
            Prediction::Eps | Prediction::Score => true,
            Prediction::X0 => false,
            Prediction::V | Prediction::Velocity | Prediction::Edm { .. } => at.alpha >= at.sigma,
        };
        let weight = match is_on_eps {
            true => factors.eps * eps_coefficients(self.prediction, at)?.1.powi(2),
            false => factors.x0 * x0_coefficients(self.prediction, at)?.1.powi(2),
        };
        if weight.is_finite() && weight >= 0.0 {
            return Ok(weight);
        }
        let (name, t) = (self.weight.name(), at.time);
        Err(Error::NonFinite(format!(
            "weight {name}: it is {weight} at time {t}: expected a finite number, not below 0; choose another weight or t_min"
        )))
    }

    /// Nothing for [`Weight::Simple`].
    fn factors(&self, at: Level) -> Option<Factors> {
        let score = |weight: f64| match at.alpha == 0.0 {
            // alpha²g² = −2·alpha·alpha' there, which vanishes with alpha.
            true => Factors { eps: f64::INFINITY, x0: 0.0 },
            false => Factors::of(weight, ErrorOf::Score, at),
        };
        Some(match &self.weight {
            Weight::Simple => return None,
            Weight::Vlb => self.chain(at, |step| step.fresh_variance),
            Weight::VlbTilde => self.chain(at, |step| step.posterior_variance),
            Weight::Snr => Factors::of(1.0, ErrorOf::Eps, at),
            Weight::MinSnr { gamma } => {
                let snr = (2.0 * at.half_log_snr()).exp();
                Factors { eps: (gamma / snr).min(1.0), x0: snr.min(*gamma) }
            }
            Weight::Likelihood => score(at.diffusion.powi(2)),
            Weight::VlbContinuous => score(0.5 * at.diffusion.powi(2)),
            Weight::Custom { of, lambda } => Factors::of(lambda.at(at), *of, at),
        })
    }

    /// The reverse step from a level, to one T-th of the time earlier, clean data at the earliest.
    pub(super) fn reverse_step(&self, at: Level) -> ReverseStep {
        let to = self.step_end(at.time);
        let fresh = fresh(at, to);
        let fresh_variance = at.sigma.powi(2) * fresh;
        // The step whose beta-tilde is taken: the last one has none of its own.
        let time = at.time.max((2.0 * self.step).min(1.0));
        let from = if time > at.time { self.process.level(time) } else { at };
        let posterior = self.step_end(time).sigma.powi(2) * self::fresh(from, self.step_end(time));
        let posterior_variance = if posterior > 0.0 { posterior } else { fresh_variance };
        ReverseStep { to, fresh, x0_share: to.alpha * fresh, fresh_variance, posterior_variance }
    }

    fn step_end(&self, time: f64) -> Level {
        self.process.level((time - self.step).max(0.0))
    }

    /// T.
    pub fn steps(&self) -> f64 {
        1.0 / self.step
    }

    /// The share of the network's output in x0_hat.
    pub(super) fn x0_of_output(&self, at: Level) -> Result<f64> {
        Ok(x0_coefficients(self.prediction, at)?.1)
    }

    /// B²/(2·variance) on the x0 error, with B = alpha_s·fresh the share of x0 in the mean of a reverse step.
    fn chain(&self, at: Level, variance: fn(&ReverseStep) -> f64) -> Factors {
        let step = self.reverse_step(at);
        if step.fresh == 0.0 {
            return Factors { eps: 0.0, x0: 0.0 };
        }
        let rate = step.fresh.powi(2) / (2.0 * variance(&step));
        // alpha_s/alpha_t through logarithms: alpha itself may be 0 in floating point.
        let ratio = (2.0 * (step.to.log_alpha - at.log_alpha)).exp();
        Factors { eps: rate * at.sigma.powi(2) * ratio, x0: rate * step.to.alpha.powi(2) }
    }

    /// Refuses t_min = 0 where the weight is unbounded there.
    ///
    /// The rule: a weight is unbounded if the process has clean data at time 0 and what the error of the network's own output counts grows
    /// more than tenfold from t = 1e-6 to t = 1e-12. A bounded one has a limit there, all powers of 1/t from the sixth root on are found. The
    /// expected loss then is infinite too, for data with a density (S3.eq117, Remark 9).
    ///
    /// # Errors
    /// [`Error::Usage`] with what to do; as [`Weighting::of_output`].
    pub fn check(&self, t_min: Option<f64>) -> Result<()> {
        let first = t_min.unwrap_or_else(|| self.process.min_time());
        if self.is_unbounded()? && first == 0.0 {
            let (weight, process) = (self.weight.name(), self.process.name());
            let output = self.prediction.name();
            return Err(Error::Usage(format!(
                "t_min = 0: the weight {weight} on {output} is unbounded at time 0 of the process \"{process}\", and so is the loss; \
                 set t_min to 1e-5 or more, or choose another weight"
            )));
        }
        // A function of one's own is asked everywhere before the first step.
        const CHECKS: usize = 256;
        for i in 0..CHECKS {
            let time = first + (1.0 - first) * (i as f64 + 0.5) / CHECKS as f64;
            self.of_output(self.process.level(time.max(LEAST)))?;
        }
        Ok(())
    }

    /// Whether the weight of the network's own error has no bound near time 0: see [`Weighting::check`].
    ///
    /// # Errors
    /// As [`Weighting::of_output`].
    pub fn is_unbounded(&self) -> Result<bool> {
        if self.process.discrete().is_some() || self.process.sigma(0.0) > 0.0 {
            return Ok(false);
        }
        let near = self.of_output(self.process.level(LEAST))?;
        Ok(near > 10.0 * self.of_output(self.process.level(LEAST.sqrt()))?)
    }
}

/// The time that stands for 0 where a limit is wanted.
const LEAST: f64 = 1e-12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{BetaSchedule, ProcessConfig, TimeConvention};

    fn scheduler(continuous: ProcessConfig, prediction: Prediction) -> SchedulerConfig {
        let time_convention = TimeConvention::Time;
        SchedulerConfig { continuous: Some(continuous), prediction, time_convention, ..SchedulerConfig::default() }
    }

    fn weights() -> Vec<Weight> {
        let custom = |of| Weight::Custom { of, lambda: Lambda::new(|at| 1.0 + at.time) };
        let named = [
            Weight::Vlb,
            Weight::VlbTilde,
            Weight::Snr,
            Weight::MinSnr { gamma: 5.0 },
            Weight::Likelihood,
            Weight::VlbContinuous,
        ];
        named.into_iter().chain([ErrorOf::Eps, ErrorOf::X0, ErrorOf::Score].map(custom)).collect()
    }

    fn processes() -> Vec<ProcessConfig> {
        let linear = BetaSchedule::Linear;
        vec![
            ProcessConfig::Vp { schedule: linear.clone(), beta_min: 0.1, beta_max: 20.0, zero_terminal_snr: false },
            ProcessConfig::SubVp { schedule: linear, beta_min: 0.1, beta_max: 20.0 },
            ProcessConfig::Ve { sigma_min: 0.01, sigma_max: 50.0 },
            ProcessConfig::Ou { rate: 5.0, noise: 10.0_f64.sqrt() },
            ProcessConfig::Edm { sigma_min: 0.002, sigma_max: 80.0, rho: 7.0 },
            ProcessConfig::Flow,
            ProcessConfig::LinearLogSnr { log_snr_min: -8.0, log_snr_max: 7.0 },
        ]
    }

    const PREDICTIONS: [Prediction; 6] = [
        Prediction::Eps,
        Prediction::X0,
        Prediction::V,
        Prediction::Score,
        Prediction::Velocity,
        Prediction::Edm { sigma_data: 0.5 },
    ];

    #[test]
    fn one_weight_is_one_loss_whatever_the_network_predicts() {
        for (process, weight) in
            processes().into_iter().flat_map(|p| weights().into_iter().map(move |w| (p.clone(), w)))
        {
            for time in [0.003, 0.2, 0.5, 0.97] {
                for prediction in PREDICTIONS {
                    let scheduler = scheduler(process.clone(), prediction);
                    let weighting = Weighting::new(weight.clone(), &scheduler).unwrap();
                    let at = weighting.process.level(time);
                    // An output that is off by 1 puts eps_hat off by its coefficient.
                    let eps_error = eps_coefficients(prediction, at).unwrap().1;
                    let (got, want) =
                        (weighting.of_output(at).unwrap(), weighting.of_eps(at).unwrap() * eps_error.powi(2));
                    // Ten roundings, and those of alpha and sigma in the exponent of up to 2·10.
                    assert!(
                        (got / want - 1.0).abs() < 1e-12,
                        "{process:?} {weight:?} {prediction:?} {time}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn weights_of_ddpm_are_those_of_the_papers() {
        let betas = BetaSchedule::Linear.betas(1000, 1e-4, 0.02);
        let of_eps = |weight: Weight, n: usize| {
            let weighting = Weighting::new(weight, &SchedulerConfig::default()).unwrap();
            let at = weighting.process.discrete().unwrap().level_of(n - 1).unwrap();
            weighting.of_eps(at).unwrap()
        };
        let alpha_bar = |n: usize| betas[..n].iter().map(|b| (-b).ln_1p()).sum::<f64>().exp();
        for n in [2, 3, 100, 1000] {
            let (beta, bar, before) = (betas[n - 1], alpha_bar(n), alpha_bar(n - 1));
            let vlb = beta / (2.0 * (1.0 - beta) * (1.0 - bar));
            let tilde = beta / (2.0 * (1.0 - beta) * (1.0 - before));
            let min_snr = (5.0 * (1.0 - bar) / bar).min(1.0);
            // 1 − alpha_bar of the sum loses digits where it is small: 1e-16/2e-4, relative.
            for (got, want) in [
                (of_eps(Weight::Vlb, n), vlb),
                (of_eps(Weight::VlbTilde, n), tilde),
                (of_eps(Weight::Snr, n), 1.0),
                (of_eps(Weight::MinSnr { gamma: 5.0 }, n), min_snr),
            ] {
                assert!((got / want - 1.0).abs() < 2e-12, "n = {n}: {got} against {want}");
            }
        }
        // n = 1: beta, and beta-tilde of n = 2.
        let tilde_2 = betas[1] * betas[0] / (1.0 - alpha_bar(2));
        let first = |variance: f64| betas[0] / (2.0 * (1.0 - betas[0]) * variance);
        assert!((of_eps(Weight::Vlb, 1) / first(betas[0]) - 1.0).abs() < 2e-12);
        assert!((of_eps(Weight::VlbTilde, 1) / first(tilde_2) - 1.0).abs() < 2e-12);
    }

    #[test]
    fn simple_is_the_plain_error_of_every_output() {
        let weighting = |process, prediction| Weighting::new(Weight::Simple, &scheduler(process, prediction)).unwrap();
        for (process, prediction) in processes().into_iter().flat_map(|p| PREDICTIONS.map(|o| (p.clone(), o))) {
            let weighting = weighting(process, prediction);
            for time in [0.0_f64, 0.4, 0.99] {
                let at = weighting.process.level(time.max(weighting.process.min_time()));
                assert_eq!(weighting.of_output(at).unwrap(), loss_weight(prediction, at));
            }
        }
    }

    #[test]
    fn times_of_clean_data_are_refused_where_the_weight_is_unbounded() {
        use Prediction::{Eps, V, X0};
        let vp = || processes().swap_remove(0);
        let score = |lambda: fn(Level) -> f64| Weight::Custom { of: ErrorOf::Score, lambda: Lambda::new(lambda) };
        for (process, weight, prediction, is_unbounded) in [
            (vp(), Weight::Simple, X0, false),
            (vp(), Weight::Snr, Eps, false),
            (vp(), Weight::Snr, X0, true),
            (vp(), Weight::MinSnr { gamma: 5.0 }, X0, false),
            (vp(), Weight::Vlb, Eps, false),
            (vp(), Weight::VlbTilde, V, false),
            (vp(), Weight::Likelihood, Eps, true),
            (vp(), Weight::VlbContinuous, V, true),
            (ProcessConfig::Flow, Weight::VlbContinuous, Prediction::Velocity, true),
            (ProcessConfig::Ve { sigma_min: 0.01, sigma_max: 50.0 }, Weight::Likelihood, Eps, false),
            (ProcessConfig::LinearLogSnr { log_snr_min: -8.0, log_snr_max: 7.0 }, Weight::VlbContinuous, Eps, false),
            (vp(), score(|_| 1.0), Eps, true),
            (vp(), score(|at| at.sigma.powi(2)), Eps, false),
        ] {
            let weighting = Weighting::new(weight.clone(), &scheduler(process.clone(), prediction)).unwrap();
            assert_eq!(weighting.is_unbounded().unwrap(), is_unbounded, "{process:?} {weight:?} {prediction:?}");
            assert!(weighting.check(Some(1e-5)).is_ok());
            match weighting.check(Some(0.0)) {
                Err(e) => assert!(is_unbounded && e.to_string().starts_with("t_min = 0: the weight "), "{e}"),
                Ok(()) => assert!(!is_unbounded, "{process:?} {weight:?} {prediction:?}"),
            }
            assert!(weighting.of_output(Level { alpha: 1.0, sigma: 0.0, ..Level::CLEAN }).unwrap().is_finite());
        }
        // A table has no time 0.
        let table = Weighting::new(Weight::Likelihood, &SchedulerConfig::default()).unwrap();
        assert!(table.check(Some(0.0)).is_ok());
    }

    #[test]
    fn pure_noise_has_a_finite_weight_where_x0_can_be_told() {
        let config = SchedulerConfig { rescale_betas_zero_snr: true, prediction: Prediction::V, ..Default::default() };
        for weight in weights() {
            let weighting = Weighting::new(weight.clone(), &config).unwrap();
            let last = weighting.process.level(1.0);
            assert_eq!(last.alpha, 0.0);
            // A weight of the eps error counts nothing where eps says nothing of x0.
            let weight_of_last = weighting.of_output(last);
            let is_on_eps = matches!(&weight, Weight::Custom { of: ErrorOf::X0, .. });
            assert!(weight_of_last.as_ref().is_ok_and(|w| (*w > 0.0) >= is_on_eps), "{weight:?}: {weight_of_last:?}");
        }
    }

    #[test]
    fn numbers_that_are_no_weight_are_refused() {
        let gamma = Weighting::new(Weight::MinSnr { gamma: 0.0 }, &SchedulerConfig::default()).unwrap_err();
        assert_eq!(gamma.to_string(), "min_snr_gamma = 0: expected a number above 0");
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            let weight = Weight::Custom { of: ErrorOf::Eps, lambda: Lambda::new(move |_| value) };
            let weighting = Weighting::new(weight, &SchedulerConfig::default()).unwrap();
            assert!(weighting.check(None).unwrap_err().to_string().contains("expected a finite number"), "{value}");
        }
    }
}
