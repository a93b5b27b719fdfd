//! The exact weight of every L_{t−1}, its constant, and the decoder's bins (items 30 and 31).

use super::super::measure::{largest, miss, normals};
use super::super::vp::{level, linear};
use super::super::vp_posterior::beta;
use super::super::{Bound, Identity};
use crate::analytic::divergence::kl_isotropic;
use crate::analytic::gaussian::{log_normal_interval, normal_pdf};
use crate::analytic::quadrature::GaussLegendre;
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::likelihood::{Chain, Decoder, PixelLevels, ReverseVariance, Transition, bits_per_dim};
use crate::process::Level;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 30 S3.eq59-62 weight",
        claim: "KL of the two Gaussians = w·‖eps − eps_θ‖² + (d/2)(β̃/σ² − 1 − ln(β̃/σ²)), relative, for σ² = β, β̃ and others",
        // The means' difference β/√(1−ᾱ)·(eps − eps_θ) is 1e-2 of means of size 1 at n = 2: 1e-14; squared over σ² of 1e-4.
        bound: Bound::AtMost(1e-10),
        measure: || kl_miss(|_, weight| weight, true),
    },
    Identity {
        id: "item 30 S3.eq62 beta",
        claim: "with σ² = β the weight is β/(2(1−β)(1−ᾱ_t)), relative",
        bound: Bound::AtMost(1e-11), // fresh = β/(1−ᾱ) through logarithms: EPSILON·1/β
        measure: || weight_miss(Transition::beta, |beta, from, _| beta / (2.0 * (1.0 - beta) * from.sigma.powi(2))),
    },
    Identity {
        id: "item 30 S1 beta-tilde",
        claim: "with σ² = β̃ it is β/(2(1−β)(1−ᾱ_{t−1})), relative",
        bound: Bound::AtMost(1e-11), // as above
        measure: || weight_miss(Transition::beta_tilde, |beta, _, to| beta / (2.0 * (1.0 - beta) * to.sigma.powi(2))),
    },
    Identity {
        id: "item 30 S3.eq61 any variance",
        claim: "for any σ² it is β²/(2σ²(1−β)(1−ᾱ_t)), relative",
        bound: Bound::AtMost(1e-11), // as above
        measure: any_variance,
    },
    Identity {
        id: "item 30 constant",
        claim: "σ² = β: the constant is .121 nat at n = 2 and .337 nat in all, per dimension, in half units of the last digit",
        bound: Bound::AtMost(1.0),
        measure: || {
            let table = linear()?;
            let chain = Chain::of_table(&table, &ReverseVariance::Beta)?;
            let constants = chain.constants();
            let all: f64 = constants.iter().map(|(_, c)| c).sum();
            Ok(largest([(constants[0].1 - 0.121) / 5e-4, (all - 0.337) / 5e-4]))
        },
    },
    Identity {
        id: "item 30 beta-tilde constant",
        claim: "and 0 with σ² = β̃",
        bound: Bound::AtMost(0.0), // variance_part(1)
        measure: || {
            let chain = Chain::of_table(&linear()?, &ReverseVariance::BetaTilde)?;
            Ok(largest(chain.constants().into_iter().map(|(_, c)| c)))
        },
    },
    Identity {
        id: "item 30 first step",
        claim: "the step to clean data has no weight at β̃_1 = 0: it is refused, as every step that does not rise (verdicts)",
        bound: Bound::AtMost(0.0), // wrong verdicts
        measure: || {
            let table = linear()?;
            let (first, second) = (level(&table, 1)?, level(&table, 2)?);
            let verdicts = [(first, Level::CLEAN), (first, first), (first, second)];
            let accepted = verdicts.into_iter().filter(|(from, to)| Transition::new(*from, *to).is_ok()).count();
            Ok((accepted + usize::from(Transition::new(second, first).is_err())) as f64)
        },
    },
    Identity {
        id: "item 30 S3.eq59-62 constant misprint",
        claim: "without the constant, as printed, for σ² = β: the relative miss at its worst",
        bound: Bound::AtLeast(1e-2), // at n = 2 the constant is .121 nat a dimension beside a weighted square of 5
        measure: || kl_miss(|_, weight| weight, false),
    },
    Identity {
        id: "item 30 S1 loss misprint",
        claim: "1/(2‖Σ_θ‖²) for 1/(2σ²): σ⁴ in place of σ², the relative miss",
        bound: Bound::AtLeast(0.9), // 1/σ² is 50 and more
        measure: || kl_miss(|variance, weight| weight / variance, true),
    },
    Identity {
        id: "item 30 S3.eq123 sum from 1 misprint",
        claim: "summed from n = 1, which is L_0's: what the extra term adds for N(0, 1) data and the exact eps, in nats a dimension",
        // β²/(2β(1−β)(1−ᾱ_1)) = ½ of E(eps − eps*)² = ᾱ_1, nearly 1.
        bound: Bound::AtLeast(0.4),
        measure: || {
            let first = level(&linear()?, 1)?;
            let weight = beta(1)?.powi(2) / (2.0 * first.sigma.powi(4) * first.alpha.powi(2));
            Ok(weight * first.alpha.powi(2))
        },
    },
    Identity {
        id: "item 31 S3.eq52 bins",
        claim: "probabilities of all levels, edge bins included, sum to 1: 17 and 256 levels, both decoders, any mean and deviation",
        bound: Bound::AtMost(1e-12), // 256 probabilities, each to a few EPSILON of its log
        measure: bins,
    },
    Identity {
        id: "item 31 without the edges",
        claim: "with edge bins that end at ±(1 + half a bin) mass is lost",
        bound: Bound::AtLeast(0.1), // a mean at the edge with a deviation of many bins loses half
        measure: || {
            let levels = PixelLevels::new(256)?;
            let bin = |i: usize| {
                let (centre, half) = (levels.value(i), 0.5 * levels.width());
                log_normal_interval((centre - half - 1.0) / 0.3, (centre + half - 1.0) / 0.3).exp()
            };
            Ok(1.0 - (0..256).map(bin).sum::<f64>())
        },
    },
    Identity {
        id: "item 31 S3.eq53 17 levels",
        claim: "\"L_0 is negligible\" holds for 17 levels at DDPM's first level, where a bin is 12 deviations wide: bits/dim",
        // Half a bin is 6.25 deviations, of a decoder and of a mean that is off by one too: 2·P(√2·Z > 6.25) = 1e-5 of nats.
        bound: Bound::AtMost(2e-5),
        measure: || decoder_bits(17),
    },
    Identity {
        id: "item 31 S3.eq53 8 bits misprint",
        claim: "and does not for 8-bit data, where a bin is less than a deviation: bits/dim",
        // log2(σ√(2πe)/bin) = 2.4 for a mean as uncertain as x_1, less what data of deviation ½ tell, nothing.
        bound: Bound::AtLeast(1.0),
        measure: || decoder_bits(256),
    },
];

const TIMES: [usize; 6] = [2, 3, 10, 101, 500, 1000];
const DIM: usize = 5;

/// The largest relative miss of the KL of the documents' two means at each of several variances; `change` alters the weight.
fn kl_miss(change: fn(f64, f64) -> f64, with_constant: bool) -> Result<f64> {
    let table = linear()?;
    let mut misses = Vec::new();
    for n in TIMES {
        let (from, to, beta) = (level(&table, n)?, level(&table, n - 1)?, beta(n)?);
        let transition = Transition::new(from, to)?;
        let tilde = transition.beta_tilde();
        let z = normals(30 + n as u64, 3 * DIM);
        let (x_t, eps, eps_hat) = (&z[..DIM], &z[DIM..2 * DIM], &z[2 * DIM..]);
        let mean = |eps: &[f64]| -> Vec<f64> {
            let pairs = x_t.iter().zip(eps);
            pairs.map(|(x, eps)| (x - beta / from.sigma * eps) / (1.0 - beta).sqrt()).collect()
        };
        let square: f64 = eps.iter().zip(eps_hat).map(|(a, b)| (a - b).powi(2)).sum();
        for variance in [beta, tilde, 0.5 * tilde, 2.0 * beta] {
            let kl = kl_isotropic(&mean(eps), tilde, &mean(eps_hat), variance)?;
            let weight = change(variance, transition.eps_weight(tilde, variance));
            let constant = if with_constant { DIM as f64 * transition.constant(tilde, variance) } else { 0.0 };
            misses.push((weight * square + constant) / kl - 1.0);
        }
    }
    Ok(largest(misses))
}

/// The largest relative miss of a weight against its formula in (β, level t, level t − 1).
fn weight_miss(variance: fn(&Transition) -> f64, want: fn(f64, Level, Level) -> f64) -> Result<f64> {
    let table = linear()?;
    let mut misses = Vec::new();
    for n in 2..=1000 {
        let (from, to) = (level(&table, n)?, level(&table, n - 1)?);
        let transition = Transition::new(from, to)?;
        let variance = variance(&transition);
        misses.push(transition.eps_weight(transition.beta_tilde(), variance) / want(beta(n)?, from, to) - 1.0);
    }
    Ok(largest(misses))
}

fn any_variance() -> Result<f64> {
    let table = linear()?;
    let mut misses = Vec::new();
    for n in TIMES {
        let (from, to, beta) = (level(&table, n)?, level(&table, n - 1)?, beta(n)?);
        let transition = Transition::new(from, to)?;
        for variance in [1e-5, 1e-3, 0.7] {
            let want = beta * beta / (2.0 * variance * (1.0 - beta) * from.sigma.powi(2));
            misses.push(transition.eps_weight(transition.beta_tilde(), variance) / want - 1.0);
        }
    }
    Ok(largest(misses))
}

fn bins() -> Result<f64> {
    let mut misses = Vec::new();
    for count in [17, 256] {
        let levels = PixelLevels::new(count)?;
        for decoder in [Decoder::Discretised(levels), Decoder::Posterior(levels)] {
            for mean in [-1.7, -1.0, -0.3, 0.0, 0.123, 0.9999, 1.0, 2.5] {
                for std in [1e-3_f64, 1e-2, 0.1, 3.0] {
                    let at = Level::of((1.0 - 0.01 * std * std).sqrt(), std);
                    let total: f64 = decoder.probabilities(mean, mean, at, std * std).iter().sum();
                    misses.push(miss(total, 1.0));
                }
            }
        }
    }
    Ok(largest(misses))
}

/// E L_0 in bits/dim of the discretised decoder at DDPM's first level: pixels are N(0, ½²) rounded to `count` levels, x0_hat the exact one
/// of that Gaussian.
fn decoder_bits(count: usize) -> Result<f64> {
    let levels = PixelLevels::new(count)?;
    let (first, data) = (level(&linear()?, 1)?, Oracle::gaussian(&[0.0], &[0.25])?);
    let decoder = Decoder::Discretised(levels);
    let rule = GaussLegendre::new(20)?;
    let mut nats = 0.0;
    for i in 0..count {
        let (x0, bin) = (levels.value(i), levels.bin(i));
        let mass = log_normal_interval(2.0 * bin.0, 2.0 * bin.1).exp();
        let of_eps = |eps: f64| {
            let x_1 = first.alpha * x0 + first.sigma * eps;
            let x0_hat = data.posterior_mean(&[x_1], first);
            normal_pdf(eps, 0.0, 1.0)
                * decoder.nll(&[x0], &[x_1], &x0_hat, first, first.sigma.powi(2)).unwrap_or(f64::NAN)
        };
        nats += mass * rule.composite(of_eps, -9.0, 9.0, 20);
    }
    Ok(bits_per_dim(nats, 1))
}
