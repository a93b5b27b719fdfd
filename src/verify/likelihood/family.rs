//! DDIM's family has DDPM's loss with other weights (S2; item 53).

use super::super::measure::{largest, normals};
use super::super::vp::{level, linear};
use super::super::vp_posterior::beta;
use super::super::{Bound, Identity};
use crate::analytic::divergence::kl_isotropic;
use crate::error::Result;
use crate::likelihood::{Chain, Decoder, ReverseVariance, Transition};
use crate::process::Level;
use crate::sampler::quadratic_tau;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 53 S2 gamma_t",
        claim: "KL of q_σ(x_{t−1}|x_t, x_0) and its twin with eps_θ = γ_t·‖eps − eps_θ‖², relative, for any σ and sub-sequence",
        // The factor of eps is 1e-2 of terms of size 1 for close levels: 1e-14, squared and over σ².
        bound: Bound::AtMost(1e-10),
        measure: || kl_miss(|gamma, _| gamma),
    },
    Identity {
        id: "item 53 S2 closed form",
        claim: "γ_t = (√ᾱ_{t−1} − √(1−ᾱ_{t−1}−σ²)·√ᾱ_t/√(1−ᾱ_t))²·(1−ᾱ_t)/(2σ²ᾱ_t), relative",
        bound: Bound::AtMost(1e-9), // the printed difference cancels to 1e-5 of its terms at close levels, then is squared
        measure: || {
            over_cases(|case| Ok(case.transition.eps_weight(case.variance, case.variance) / case.closed_form() - 1.0))
        },
    },
    Identity {
        id: "item 53 S2 beta-tilde",
        claim: "σ² = β̃ gives DDPM's weight β/(2(1−β)(1−ᾱ_{t−1})), relative",
        bound: Bound::AtMost(1e-10), // as for item 30
        measure: ddpm_weight,
    },
    Identity {
        id: "item 53 S2 first step",
        claim: "γ_1 = (1−ᾱ_1)/(2σ_1²ᾱ_1), from −ln p_θ(x_0|x_1): its excess over that of the true eps, relative",
        bound: Bound::AtMost(1e-10), // differences of nats of size 10, of an excess of 1
        measure: first_step,
    },
    Identity {
        id: "item 53 S2 bound",
        claim: "J_σ of a sub-sequence with eta = ½ is Σ γ_τ·E‖eps − eps_θ‖², without constants, relative",
        bound: Bound::AtMost(1e-12), // 19 terms above 0
        measure: subsequence,
    },
    Identity {
        id: "item 53 S2 gamma_t misprint",
        claim: "1/(2dσ²ᾱ_t), which drops the squared factor, over γ_t at t = 500, σ² = β̃, d = 1",
        bound: Bound::AtLeast(1e4), // theory: about 1e5
        measure: || {
            let table = linear()?;
            let transition = Transition::new(level(&table, 500)?, level(&table, 499)?)?;
            let variance = transition.beta_tilde();
            let printed = 1.0 / (2.0 * variance * transition.from().alpha.powi(2));
            Ok(printed / transition.eps_weight(variance, variance))
        },
    },
    Identity {
        id: "item 53 S2 dimension misprint",
        claim: "γ_t/d for γ_t: the KL has no 1/d, relative",
        bound: Bound::AtLeast(0.5), // d = 3
        measure: || kl_miss(|gamma, d| gamma / d as f64),
    },
    Identity {
        id: "item 53 S2 start misprint",
        claim: "E[log q(x_T|x_0)] without its /p_θ(x_T): the miss of L_T, in nats a dimension",
        bound: Bound::AtLeast(1.0), // −h(N(0, 1)) = −1.42 against 2e-5
        measure: || {
            let table = linear()?;
            let last = level(&table, 1000)?;
            let chain = Chain::of_table(&table, &ReverseVariance::BetaTilde)?;
            let printed = -0.5 * ((std::f64::consts::TAU * last.sigma.powi(2)).ln() + 1.0);
            Ok((printed - chain.terminal([1.0])).abs())
        },
    },
    Identity {
        id: "item 53 S2 complement misprint",
        claim: "KL(q(x_t|x_0) ‖ p_θ(x_0|x_t)) for −log p_θ(x_0|x_t): it is least at x0_hat = √ᾱ_t·x_0, not at x_0: the relative miss at t = 500",
        bound: Bound::AtLeast(0.1), // 1 − √ᾱ_500 = 0.72
        measure: complement,
    },
];

const DIM: usize = 3;

/// One step and a variance of its q.
struct Case {
    transition: Transition,
    variance: f64,
}

impl Case {
    /// γ_t as the theory's list has it.
    fn closed_form(&self) -> f64 {
        let (from, to) = (self.transition.from(), self.transition.to());
        let kept = (to.sigma.powi(2) - self.variance).max(0.0).sqrt();
        let factor = to.alpha - kept * from.alpha / from.sigma;
        factor.powi(2) * from.sigma.powi(2) / (2.0 * self.variance * from.alpha.powi(2))
    }
}

/// Close and far levels, and variances from a hundredth of beta-tilde to the whole of 1 − ᾱ.
fn cases() -> Result<Vec<Case>> {
    let table = linear()?;
    let mut cases = Vec::new();
    for (n, before) in [(2, 1), (101, 100), (101, 1), (500, 499), (500, 200), (1000, 999), (1000, 500), (1000, 1)] {
        let transition = Transition::new(level(&table, n)?, level(&table, before)?)?;
        let most = transition.to().sigma.powi(2);
        for variance in [0.01 * transition.beta_tilde(), transition.beta_tilde(), 0.5 * most, most] {
            cases.push(Case { transition, variance });
        }
    }
    Ok(cases)
}

fn over_cases(measure: impl Fn(&Case) -> Result<f64>) -> Result<f64> {
    Ok(largest(cases()?.iter().map(measure).collect::<Result<Vec<f64>>>()?))
}

/// The largest relative miss of `change(γ_t, d)`·‖eps − eps_θ‖² against the KL of the two Gaussians, their means written out (S3.eq148).
fn kl_miss(change: fn(f64, usize) -> f64) -> Result<f64> {
    over_cases(|case| {
        let (from, to) = (case.transition.from(), case.transition.to());
        let z = normals(53, 3 * DIM);
        let (x_t, eps, eps_hat) = (&z[..DIM], &z[DIM..2 * DIM], &z[2 * DIM..]);
        let kept = (to.sigma.powi(2) - case.variance).max(0.0).sqrt();
        let mean = |eps: &[f64]| -> Vec<f64> {
            let of = |(x, eps): (&f64, &f64)| to.alpha * (x - from.sigma * eps) / from.alpha + kept * eps;
            x_t.iter().zip(eps).map(of).collect()
        };
        let square: f64 = eps.iter().zip(eps_hat).map(|(a, b)| (a - b).powi(2)).sum();
        let gamma = case.transition.eps_weight(case.variance, case.variance);
        Ok(change(gamma, DIM) * square / kl_isotropic(&mean(eps), case.variance, &mean(eps_hat), case.variance)? - 1.0)
    })
}

fn ddpm_weight() -> Result<f64> {
    let table = linear()?;
    let mut misses = Vec::new();
    for n in [2, 3, 10, 101, 500, 1000] {
        let (from, to, beta) = (level(&table, n)?, level(&table, n - 1)?, beta(n)?);
        let case = Case { transition: Transition::new(from, to)?, variance: 0.0 };
        let tilde = case.transition.beta_tilde();
        let want = beta / (2.0 * (1.0 - beta) * to.sigma.powi(2));
        misses.push(case.transition.eps_weight(tilde, tilde) / want - 1.0);
    }
    Ok(largest(misses))
}

fn first_step() -> Result<f64> {
    let first: Level = level(&linear()?, 1)?;
    let z = normals(531, 3 * DIM);
    let (x0, eps, eps_hat) = (&z[..DIM], &z[DIM..2 * DIM], &z[2 * DIM..]);
    let x_1: Vec<f64> = x0.iter().zip(eps).map(|(x, eps)| first.alpha * x + first.sigma * eps).collect();
    let square: f64 = eps.iter().zip(eps_hat).map(|(a, b)| (a - b).powi(2)).sum();
    let mut misses = Vec::new();
    for variance in [1e-4, 1e-2, 0.5] {
        let nll = |eps: &[f64]| {
            let x0_hat: Vec<f64> = x_1.iter().zip(eps).map(|(x, eps)| (x - first.sigma * eps) / first.alpha).collect();
            Decoder::Gaussian.nll(x0, &x_1, &x0_hat, first, variance)
        };
        let gamma = first.sigma.powi(2) / (2.0 * variance * first.alpha.powi(2));
        misses.push((nll(eps_hat)? - nll(eps)?) / (gamma * square) - 1.0);
    }
    Ok(largest(misses))
}

fn subsequence() -> Result<f64> {
    let table = linear()?;
    let tau = quadratic_tau(1000, 20);
    let levels = tau.iter().map(|n| level(&table, *n)).collect::<Result<Vec<Level>>>()?;
    let chain = Chain::new(&levels, &ReverseVariance::Ddim { eta: 0.5 }, 1.0)?;
    // eps_θ misses by a tenth at every level: x0_hat by (σ/α)/10.
    let got = chain.diffusion(|at| 0.01 * at.nsr().powi(2));
    let mut want = 0.0;
    for pair in levels.windows(2) {
        let transition = Transition::new(pair[1], pair[0])?;
        want += 0.01 * Case { variance: 0.25 * transition.beta_tilde(), transition }.closed_form();
    }
    Ok((got / want - 1.0).abs())
}

fn complement() -> Result<f64> {
    let (at, x0) = (level(&linear()?, 500)?, 1.3);
    let kl = |x0_hat: f64| kl_isotropic(&[at.alpha * x0], at.sigma.powi(2), &[x0_hat], at.sigma.powi(2));
    // Quadratic in x0_hat: its vertex by three values.
    let (low, middle, high) = (kl(-1.0)?, kl(0.0)?, kl(1.0)?);
    let vertex = 0.5 * (low - high) / (low - 2.0 * middle + high);
    Ok((vertex / x0 - 1.0).abs())
}
