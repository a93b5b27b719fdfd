//! The variational bound of a chain of T steps with predicted clean tokens (D3PM: Austin et al. 2021, eqs. 1 and 4–5), in nats.
//!
//! The model's step is Σ_a p̂(a)·q(x_s | x_t, a) with p̂(a) = p(x0 = a | x_t), of which samplers and ratios are made too. Eq. 4 as printed, with
//! q(x_s, x_t | a)·p̃(a), is the same law for p̂(a) ∝ p̃(a)·q(x_t | a); in a masking graph p̂ and p̃ are one.

use super::{Graph, Noise, View};
use crate::error::Result;

/// q(z | x, x0) of one token for all z, `[S]`: where it was at the noise σ̄_s, being x at the higher σ̄_t. Sums to 1 if x can come from x0.
pub fn token_posterior(graph: &dyn Graph, x: usize, x0: usize, (sigma_s, sigma_t): (f64, f64)) -> Vec<f64> {
    let joint =
        (0..graph.states()).map(|z| graph.transition(x, z, sigma_t - sigma_s) * graph.transition(z, x0, sigma_s));
    let joint: Vec<f64> = joint.collect();
    let sum: f64 = joint.iter().sum();
    joint.into_iter().map(|p| p / sum).collect()
}

/// One step of the bound for all tokens: KL(q(x_s | x_t, x0) ‖ Σ_a p(x0 = a | x_t)·q(x_s | x_t, a)); at `s = 0` with no noise left this is
/// −ln p(x0 | x_t).
///
/// * `view` — of x_t at time `t`
/// * `x0` — `[L]`
/// * `s` — the earlier time
///
/// # Errors
/// [`crate::Error::NonFinite`] where the model gave no number.
pub fn step_divergence(view: &View<'_>, x0: &[u32], noise: Noise, s: f64) -> Result<f64> {
    let graph = view.graph;
    let sigmas = (noise.sigma_bar(s), view.sigma_bar);
    let mut sum = 0.0;
    for (l, x0) in x0.iter().enumerate() {
        let x = view.x[l] as usize;
        if graph.mask().is_some_and(|mask| view.x[l] != mask) {
            continue; // it was the same before: both laws are certain
        }
        let clean = view.clean(l)?;
        let mut model = vec![0.0; graph.states()];
        for a in (0..graph.symbols()).filter(|a| clean[*a] > 0.0) {
            let posterior = token_posterior(graph, x, a, sigmas);
            model.iter_mut().zip(posterior).for_each(|(p, q)| *p += clean[a] * q);
        }
        let truth = token_posterior(graph, x, *x0 as usize, sigmas);
        sum += divergence(&truth, &model);
    }
    Ok(sum)
}

/// Σ p·ln(p/q); infinite where q lacks mass.
fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| if *p > 0.0 { p * (p / q).ln() } else { 0.0 }).sum()
}

/// KL(q(x_T | x0) ‖ π) summed over tokens: what the prior cannot know of x0. Infinite in a masking graph that leaves tokens unmasked.
pub fn prior_divergence(graph: &dyn Graph, x0: &[u32], sigma_bar: f64) -> f64 {
    let prior = graph.prior();
    let law = |x0: usize| -> Vec<f64> { (0..graph.states()).map(|y| graph.transition(y, x0, sigma_bar)).collect() };
    x0.iter().map(|x0| divergence(&law(*x0 as usize), &prior)).sum()
}

/// −Σ ln p(x0_l | x_t) over the tokens: D3PM's auxiliary loss, and L_0 where the data carry noise at t = 0.
///
/// # Errors
/// [`crate::Error::NonFinite`] where the model gave no number.
pub fn cross_entropy(view: &View<'_>, x0: &[u32]) -> Result<f64> {
    let sum: f64 = (0..x0.len()).map(|l| view.log_clean(l, x0[l] as usize)).sum::<Result<f64>>()?;
    Ok(-sum)
}

/// D3PM's hybrid loss of one step: [`step_divergence`] plus `auxiliary` times [`cross_entropy`] (Austin et al. 2021, eq. 5).
///
/// # Errors
/// As [`step_divergence`].
pub fn hybrid(view: &View<'_>, x0: &[u32], noise: Noise, s: f64, auxiliary: f64) -> Result<f64> {
    let bound = step_divergence(view, x0, noise, s)?;
    Ok(if auxiliary == 0.0 { bound } else { bound + auxiliary * cross_entropy(view, x0)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discrete::{Absorbing, Head, Uniform};

    #[test]
    fn posteriors_are_laws_and_the_last_step_is_the_cross_entropy() {
        let graph = Uniform::new(3).unwrap();
        let law = token_posterior(&graph, 1, 2, (0.3, 0.9));
        assert!((law.iter().sum::<f64>() - 1.0).abs() < 1e-15 && law.iter().all(|p| *p > 0.0));
        assert_eq!(token_posterior(&Absorbing::new(2).unwrap(), 0, 0, (0.3, 0.9)), [1.0, 0.0, 0.0]);

        let noise = Noise::LogLinear { eps: 1e-3 };
        let values = [0.2_f64, 0.5, 0.3].map(f64::ln);
        let view =
            View { graph: &graph, head: Head::LogClean, x: &[0], sigma_bar: noise.sigma_bar(0.1), values: &values };
        let last = step_divergence(&view, &[1], noise, 0.0).unwrap();
        assert!((last + 0.5_f64.ln()).abs() < 1e-14, "{last}");
        // In any other step the posteriors overlap: less can be lost.
        let before = step_divergence(&view, &[1], noise, 0.05).unwrap();
        assert!(before > 0.0 && before < last);
        let hybrid = hybrid(&view, &[1], noise, 0.05, 0.1).unwrap();
        assert!((hybrid - before - 0.1 * last).abs() < 1e-14);
    }

    #[test]
    fn a_prior_of_masks_is_infinitely_far_from_tokens_that_survive() {
        let graph = Absorbing::new(3).unwrap();
        assert_eq!(prior_divergence(&graph, &[0, 2], 8.0), f64::INFINITY);
        assert_eq!(prior_divergence(&graph, &[0, 2], f64::INFINITY), 0.0);
        let uniform = Uniform::new(3).unwrap();
        assert!(prior_divergence(&uniform, &[0], 8.0) < 1e-6 && prior_divergence(&uniform, &[0], 0.1) > 0.5);
    }
}
