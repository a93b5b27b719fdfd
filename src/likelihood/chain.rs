//! The terms of the variational bound along a chain of levels, as numbers: exact weights for any variance, and the constants that the
//! lecture documents drop (items 29, 30 and 53).

use crate::analytic::divergence::variance_part;
use crate::error::{Error, Result};
use crate::process::{Discrete, Level, Process, Variance};
use crate::sampler::GridStep;

/// From x_t to x_s, one step of the reverse chain: both q(x_s|x_t, x0) and p(x_s|x_t) are Gaussians whose means differ by a multiple of x0 −
/// x0_hat.
///
/// q is any of DDIM's family (Song, Meng & Ermon 2021, eq. 7): mean alpha_s·x0 + √(sigma_s² − q_variance)·eps with eps = (x_t −
/// alpha_t·x0)/sigma_t, variance `q_variance`. At `q_variance` = beta-tilde it is DDPM's posterior. p has x0_hat for x0, and any variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    step: GridStep,
}

impl Transition {
    /// The step from level t down to level s, which has noise too: the step to clean data belongs to the decoder, and its KL would
    /// diverge.
    ///
    /// # Errors
    /// [`Error::Usage`] if s is clean or not below t.
    pub fn new(from: Level, to: Level) -> Result<Transition> {
        if to.is_clean() || !(to.half_log_snr() > from.half_log_snr()) {
            let (t, s) = (from.half_log_snr(), to.half_log_snr());
            return Err(Error::Usage(format!(
                "vlb: a step from half_log_snr {t} to {s}: expected a rise to a level with noise; the step to clean data is L_0"
            )));
        }
        Ok(Transition { step: GridStep { from, to } })
    }

    /// Where the step begins, t.
    pub fn from(&self) -> Level {
        self.step.from
    }

    /// Where it ends, s.
    pub fn to(&self) -> Level {
        self.step.to
    }

    /// Var[x_t | x_s]: DDPM's beta for neighbouring levels.
    pub fn beta(&self) -> f64 {
        self.step.from.sigma.powi(2) * self.step.fresh()
    }

    /// Var[x_s | x_t, x0]: DDPM's beta-tilde.
    pub fn beta_tilde(&self) -> f64 {
        self.step.to.sigma.powi(2) * self.step.fresh()
    }

    /// ∂mean/∂x0 of q(x_s|x_t, x0) at this `q_variance`, from 0 to sigma_s².
    pub fn x0_factor(&self, q_variance: f64) -> f64 {
        let (from, to) = (self.step.from, self.step.to);
        let kept = to.sigma.powi(2) - q_variance;
        // alpha_s·(1 − (alpha_t/alpha_s)·√kept/sigma_t), the quotient through logarithms: close levels keep their digits. At
        // beta-tilde kept/sigma_s² is (alpha_t·sigma_s/(alpha_s·sigma_t))², and the factor alpha_s·fresh.
        if q_variance == self.beta_tilde() {
            return to.alpha * self.step.fresh();
        }
        let log_ratio = from.log_alpha - to.log_alpha + 0.5 * kept.max(0.0).ln() - from.sigma.ln();
        -to.alpha * log_ratio.exp_m1()
    }

    /// w in KL = w·‖x0 − x0_hat‖² + constant: x0_factor²/(2·variance).
    pub fn x0_weight(&self, q_variance: f64, variance: f64) -> f64 {
        self.x0_factor(q_variance).powi(2) / (2.0 * variance)
    }

    /// w in KL = w·‖eps − eps_hat‖² + constant. With q_variance = beta-tilde it is beta²/(2·variance·(1 − beta)·(1 − alpha_bar)) (S3.eq62);
    /// with q_variance = variance = sigma_t² it is DDIM's gamma_t (item 53).
    pub fn eps_weight(&self, q_variance: f64, variance: f64) -> f64 {
        self.x0_weight(q_variance, variance) * self.step.from.nsr().powi(2)
    }

    /// The rest of the KL, for each dimension, in nats: ½(q/p − 1 − ln(q/p)) of the two variances. 0 where they agree.
    pub fn constant(&self, q_variance: f64, variance: f64) -> f64 {
        0.5 * variance_part(q_variance / variance)
    }
}

/// L_T = KL(N(alpha·x0, sigma²·I) ‖ N(0, prior_std²·I)), in nats for the whole of `x0`. There is no model in it.
///
/// # Example
/// ```
/// use tweedie::{likelihood::terminal_kl, process::Level};
/// // Pure noise is the prior itself.
/// assert_eq!(terminal_kl([0.3, -1.0], Level::of(0.0, 1.0), 1.0), 0.0);
/// ```
pub fn terminal_kl(x0: impl IntoIterator<Item = f64>, at: Level, prior_std: f64) -> f64 {
    let prior = prior_std * prior_std;
    let spread = 0.5 * variance_part(at.sigma.powi(2) / prior);
    x0.into_iter().map(|x| spread + 0.5 * (at.alpha * x).powi(2) / prior).sum()
}

/// The variance of p(x_s | x_t).
#[derive(Clone, Debug, PartialEq)]
pub enum ReverseVariance {
    /// beta = Var[x_t | x_s] (S3.eq24).
    Beta,
    /// beta-tilde = Var[x_s | x_t, x0] (S0, S1). The first step's is 0: its decoder has beta, as DDPM's has.
    BetaTilde,
    /// DDIM's eta²·beta-tilde, for q and p alike (Song, Meng & Ermon 2021, eq. 16); eta above 0. The decoder has beta.
    Ddim {
        /// 1 is DDPM's posterior.
        eta: f64,
    },
    /// A variance for every level, the cleanest first: the first is the decoder's, number i that of the step from level i to level i − 1.
    Given(Vec<f64>),
}

impl TryFrom<Variance> for ReverseVariance {
    type Error = Error;

    /// # Errors
    /// [`Error::Usage`] for a learned variance, which is another one for every element of every step.
    fn try_from(variance: Variance) -> Result<ReverseVariance> {
        match variance {
            Variance::FixedSmall => Ok(ReverseVariance::BetaTilde),
            Variance::FixedLarge => Ok(ReverseVariance::Beta),
            Variance::LearnedRange => Err(Error::Usage(
                "vlb: a learned variance (learned_range) has no bound here; say --variance small or large".into(),
            )),
        }
    }
}

/// One step of a chain with its two variances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) transition: Transition,
    q_variance: f64,
    variance: f64,
}

impl Link {
    /// The factor of ‖x0 − x0_hat‖² in its KL.
    pub(super) fn weight(&self) -> f64 {
        self.transition.x0_weight(self.q_variance, self.variance)
    }

    /// The rest of its KL, for each dimension.
    pub(super) fn constant(&self) -> f64 {
        self.transition.constant(self.q_variance, self.variance)
    }
}

/// The chain x_T → … → x_1 whose bound is taken: all levels of a table, a sub-sequence of them, or levels along any process.
#[derive(Clone, Debug)]
pub struct Chain {
    levels: Vec<Level>,
    links: Vec<Link>,
    decoder_variance: f64,
    prior_std: f64,
}

impl Chain {
    /// A chain through `levels`, the cleanest first, which ends at N(0, prior_std²·I).
    ///
    /// # Errors
    /// [`Error::Usage`] for no level, levels that do not get noisier, an eta outside (0, 1], or variances that are not above 0 or not one a level.
    pub fn new(levels: &[Level], variance: &ReverseVariance, prior_std: f64) -> Result<Chain> {
        let Some(first) = levels.first() else {
            return Err(Error::Usage("vlb: a chain of no levels; give at least one".into()));
        };
        if let ReverseVariance::Given(list) = variance
            && (list.len() != levels.len() || list.iter().any(|v| !(*v > 0.0 && v.is_finite())))
        {
            let (n, v) = (levels.len(), list.len());
            return Err(Error::Usage(format!("vlb: {v} variances for {n} levels: expected one a level, above 0")));
        }
        if let ReverseVariance::Ddim { eta } = variance
            && !(*eta > 0.0 && *eta <= 1.0)
        {
            return Err(Error::Usage(format!(
                "vlb: eta = {eta}: expected above 0, up to 1; at 0 the chain is deterministic and has no bound, use the ODE"
            )));
        }
        if first.is_clean() {
            return Err(Error::Usage("vlb: the first level is clean; the chain begins at a level with noise".into()));
        }
        let link = |(i, pair): (usize, &[Level])| {
            let transition = Transition::new(pair[1], pair[0])?;
            let tilde = transition.beta_tilde();
            let (q_variance, variance) = match variance {
                ReverseVariance::Beta => (tilde, transition.beta()),
                ReverseVariance::BetaTilde => (tilde, tilde),
                ReverseVariance::Ddim { eta } => (eta * eta * tilde, eta * eta * tilde),
                ReverseVariance::Given(list) => (tilde, list[i + 1]),
            };
            Ok(Link { transition, q_variance, variance })
        };
        let links = levels.windows(2).enumerate().map(link).collect::<Result<Vec<_>>>()?;
        let decoder_variance = match variance {
            ReverseVariance::Given(list) => list[0],
            _ => first.sigma.powi(2),
        };
        Ok(Chain { levels: levels.to_vec(), links, decoder_variance, prior_std })
    }

    /// All T levels of a table: DDPM's own bound.
    ///
    /// # Errors
    /// As [`Chain::new`].
    pub fn of_table(table: &Discrete, variance: &ReverseVariance) -> Result<Chain> {
        let levels = (0..table.steps()).map(|k| table.level_of(k)).collect::<Result<Vec<_>>>()?;
        Chain::new(&levels, variance, table.prior_std())
    }

    /// `steps` levels at equal times, from the process's least time to 1.
    ///
    /// # Errors
    /// As [`Chain::new`].
    pub fn along(process: &dyn Process, steps: usize, variance: &ReverseVariance) -> Result<Chain> {
        let first = process.min_time();
        let part = |i: usize| if steps > 1 { i as f64 / (steps - 1) as f64 } else { 1.0 };
        let levels: Vec<Level> = (0..steps).map(|i| process.level(first + part(i) * (1.0 - first))).collect();
        Chain::new(&levels, variance, process.prior_std())
    }

    /// The levels, the cleanest first.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Where L_0's decoder looks: the first level.
    pub fn first(&self) -> Level {
        self.levels[0]
    }

    /// Variance of the Gaussian behind L_0's decoder.
    pub fn decoder_variance(&self) -> f64 {
        self.decoder_variance
    }

    /// Standard deviation of p(x_T).
    pub fn prior_std(&self) -> f64 {
        self.prior_std
    }

    /// The time of each step's level t, and the part of its KL that the variances alone make, for each dimension in nats.
    pub fn constants(&self) -> Vec<(f64, f64)> {
        self.links.iter().map(|link| (link.transition.from().time, link.constant())).collect()
    }

    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    /// L_T in nats of one point; no function of the model.
    pub fn terminal(&self, x0: impl IntoIterator<Item = f64>) -> f64 {
        terminal_kl(x0, self.levels[self.levels.len() - 1], self.prior_std)
    }

    /// Σ L_{t−1} for each dimension, in nats, of a model whose mean squared error of x0_hat a dimension is `error` at each level: exact
    /// wherever that is known.
    pub fn diffusion(&self, error: impl Fn(Level) -> f64) -> f64 {
        self.links.iter().map(|link| link.weight() * error(link.transition.from()) + link.constant()).sum()
    }

    /// L_0 for each dimension with a Gaussian decoder, in nats of a density, for the mean squared error of x0_hat at the first level.
    pub fn gaussian_l0(&self, error: f64) -> f64 {
        let variance = self.decoder_variance;
        0.5 * ((std::f64::consts::TAU * variance).ln() + error / variance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Flow, SchedulerConfig};

    #[test]
    fn chains_that_have_no_bound_are_refused() {
        let level = |sigma: f64| Level::of((1.0 - sigma * sigma).sqrt(), sigma);
        let text = |levels: &[Level], variance| Chain::new(levels, &variance, 1.0).unwrap_err().to_string();
        assert!(text(&[], ReverseVariance::Beta).contains("no levels"));
        assert!(text(&[Level::CLEAN, level(0.5)], ReverseVariance::Beta).contains("the first level is clean"));
        assert!(text(&[level(0.5), level(0.5)], ReverseVariance::Beta).contains("expected a rise"));
        assert!(text(&[level(0.5)], ReverseVariance::Ddim { eta: 0.0 }).contains("use the ODE"));
        assert!(text(&[level(0.5)], ReverseVariance::Given(vec![0.1, 0.2])).contains("2 variances for 1 levels"));
        assert!(text(&[level(0.5)], ReverseVariance::Given(vec![0.0])).contains("above 0"));
    }

    #[test]
    fn x0_factors_of_the_family_meet_ddpms_at_beta_tilde() {
        let process = SchedulerConfig::default().process().unwrap();
        let table = process.discrete().unwrap();
        for k in [1, 10, 500, 999] {
            let transition = Transition::new(table.level_of(k).unwrap(), table.level_of(k - 1).unwrap()).unwrap();
            let tilde = transition.beta_tilde();
            // One branch is a product, the other 1 − e^{log of a ratio}: the logarithm's error is EPSILON times ln sigma, a few.
            let near = transition.x0_factor(tilde * (1.0 + 1e-15));
            assert!((near / transition.x0_factor(tilde) - 1.0).abs() < 1e-10, "{k}");
        }
    }

    #[test]
    fn a_chain_that_begins_at_pure_noise_is_finite() {
        let chain = Chain::along(&Flow, 50, &ReverseVariance::BetaTilde).unwrap();
        let total = chain.diffusion(|at| at.sigma.powi(2) / (at.alpha.powi(2) + at.sigma.powi(2)));
        assert!(total.is_finite() && total > 0.0, "{total}");
        assert_eq!(chain.terminal([0.5, -0.5]), 0.0);
    }
}
