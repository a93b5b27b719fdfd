//! Losses of concrete scores, in f64 and without sampling where they allow it (S3 section 6.2; items 69–73).
//!
//! All are sums over tokens l and values y ≠ x_l, with weights w(x, y) ≥ 0 of a token's value x and its other value y. s is the model's
//! ratio, r the true one p_t(y)/p_t(x), r0 the conditional one p(y|x0)/p(x|x0). In expectation over x_t (and x0) they differ by numbers that do not
//! depend on the model: explicit = implicit + const = denoising + const.

use super::{Graph, Noise, View};
use crate::error::{Error, Result};

/// C(r) = r·(ln r − 1), which makes the score entropy 0 at s = r; 0 at r = 0.
pub fn score_entropy_constant(ratio: f64) -> f64 {
    if ratio == 0.0 { 0.0 } else { ratio * (ratio.ln() - 1.0) }
}

/// s − r·ln s + C(r) ≥ 0, 0 exactly at s = r (Lou, Meng & Ermon 2024, definition 3.1; item 70). Given as ln s, which a network returns and which
/// no s ≤ 0 has.
pub fn score_entropy_term(log_s: f64, ratio: f64) -> f64 {
    let cross = if ratio == 0.0 { 0.0 } else { ratio * log_s };
    log_s.exp() - cross + score_entropy_constant(ratio)
}

/// (s − r)²: concrete score matching (Meng et al. 2022; item 69). s may be negative, and nothing keeps it from it.
pub fn concrete_score_term(s: f64, ratio: f64) -> f64 {
    (s - ratio).powi(2)
}

/// The pairs (l, y ≠ x_l) over the graph's states.
fn neighbours(graph: &dyn Graph, x: &[u32]) -> impl Iterator<Item = (usize, usize)> {
    let (states, x) = (graph.states(), x.to_vec());
    x.into_iter().enumerate().flat_map(move |(l, x)| (0..states).filter(move |y| *y != x as usize).map(move |y| (l, y)))
}

/// A weight of a token's value and its other value.
pub type Weight<'a> = &'a dyn Fn(usize, usize) -> f64;

/// Explicit concrete score matching at one x_t: Σ w·(s − r)².
///
/// * `x` — `[L]`
/// * `s`, `ratios` — `[L, S]`, at least 0 where a ratio is meant
pub fn concrete_score_matching(graph: &dyn Graph, x: &[u32], s: &[f64], ratios: &[f64], weight: Weight) -> f64 {
    let states = graph.states();
    let term = |(l, y): (usize, usize)| {
        let w = weight(x[l] as usize, y);
        if w == 0.0 { 0.0 } else { w * concrete_score_term(s[l * states + y], ratios[l * states + y]) }
    };
    neighbours(graph, x).map(term).sum()
}

/// Explicit score entropy at one x_t: Σ w·(s − r·ln s + C(r)).
///
/// * `x` — `[L]`
/// * `log_s`, `ratios` — `[L, S]`
pub fn score_entropy(graph: &dyn Graph, x: &[u32], log_s: &[f64], ratios: &[f64], weight: Weight) -> f64 {
    let states = graph.states();
    let term = |(l, y): (usize, usize)| {
        let w = weight(x[l] as usize, y);
        if w == 0.0 { 0.0 } else { w * score_entropy_term(log_s[l * states + y], ratios[l * states + y]) }
    };
    neighbours(graph, x).map(term).sum()
}

/// One term of the implicit score entropy: w(x, y)·s(x)_y − w(y, x)·ln s(y)_x. The weight of the second part is swapped (item 71).
///
/// * `log_s` — ln s(x)_y
/// * `log_s_back` — ln s(x with token l set to y)_x, of the model's answer there
pub fn implicit_term(log_s: f64, log_s_back: f64, weight: f64, weight_back: f64) -> f64 {
    let forth = if weight == 0.0 { 0.0 } else { weight * log_s.exp() };
    let back = if weight_back == 0.0 { 0.0 } else { weight_back * log_s_back };
    forth - back
}

/// Implicit score entropy at one x_t: the sum of [`implicit_term`] over all neighbours, which asks the model at each of them.
///
/// * `x` — `[L]`
/// * `log_s_at` — ln s of a sequence, `[L, S]`
///
/// # Errors
/// Those of `log_s_at`.
pub fn implicit_score_entropy(
    graph: &dyn Graph,
    x: &[u32],
    log_s_at: &dyn Fn(&[u32]) -> Result<Vec<f64>>,
    weight: Weight,
) -> Result<f64> {
    let terms = neighbours(graph, x).map(|at| implicit_neighbour(graph, x, at, log_s_at, weight));
    terms.sum()
}

/// The estimator of [`implicit_score_entropy`] from one neighbour: its term times their number. Unbiased where it is drawn uniformly, of
/// larger variance than the sum (item 73).
///
/// * `pick` — which of the L·(S − 1) neighbours, below that number
///
/// # Errors
/// Those of `log_s_at`; [`Error::Usage`] if there are not so many neighbours.
pub fn implicit_one_neighbour(
    graph: &dyn Graph,
    x: &[u32],
    pick: usize,
    log_s_at: &dyn Fn(&[u32]) -> Result<Vec<f64>>,
    weight: Weight,
) -> Result<f64> {
    let count = x.len() * (graph.states() - 1);
    let Some(at) = neighbours(graph, x).nth(pick) else {
        return Err(Error::Usage(format!("implicit score entropy: neighbour {pick} of {count}")));
    };
    Ok(count as f64 * implicit_neighbour(graph, x, at, log_s_at, weight)?)
}

fn implicit_neighbour(
    graph: &dyn Graph,
    x: &[u32],
    (l, y): (usize, usize),
    log_s_at: &dyn Fn(&[u32]) -> Result<Vec<f64>>,
    weight: Weight,
) -> Result<f64> {
    let (states, here) = (graph.states(), x[l] as usize);
    let (forth, back) = (weight(here, y), weight(y, here));
    if forth == 0.0 && back == 0.0 {
        return Ok(0.0);
    }
    let log_s = log_s_at(x)?[l * states + y];
    let mut there = x.to_vec();
    there[l] = y as u32;
    let log_s_back = log_s_at(&there)?[l * states + here];
    Ok(implicit_term(log_s, log_s_back, forth, back))
}

/// Denoising score entropy at one pair (x0, x_t): Σ w·(s − r0·ln s + C(r0)), with r0 from [`Graph::ratio`], exact at any noise (item 72).
///
/// It equals the explicit one but for a constant where every x0 that leads to y leads to x too, or w(x, y) = 0: in a masking graph that is so
/// where x is the mask, the only place at which its reverse rates are not 0.
///
/// The constant C(r0) does not change gradients; with it every term is at least 0, and with w the rate the sum is the integrand of the
/// bound.
///
/// * `x`, `x0` — `[L]`
/// * `log_s` — `[L, S]`
pub fn denoising_score_entropy(
    graph: &dyn Graph,
    (x, x0): (&[u32], &[u32]),
    sigma_bar: f64,
    log_s: &[f64],
    weight: Weight,
) -> f64 {
    let states = graph.states();
    let term = |(l, y): (usize, usize)| {
        let w = weight(x[l] as usize, y);
        if w == 0.0 {
            return 0.0;
        }
        let ratio = graph.ratio(y, x[l] as usize, x0[l] as usize, sigma_bar);
        w * score_entropy_term(log_s[l * states + y], ratio)
    };
    neighbours(graph, x).map(term).sum()
}

/// The bound's integrand at time t in nats: [`denoising_score_entropy`] with w(x, y) = σ(t)·R(x, y), the rate from y into x (item 76). For a
/// masking graph it is the simplified masked loss −(σ/(e^σ̄ − 1))·Σ ln p(x0_l | x) over masked tokens (Sahoo et al. 2024; Shi et al. 2024), which
/// stays finite where all is noise.
///
/// * `x0` — `[L]`
/// * `t` — the time of the view
///
/// # Errors
/// [`Error::NonFinite`] where the model gave no number.
pub fn bound_rate(view: &View<'_>, x0: &[u32], noise: Noise, t: f64) -> Result<f64> {
    let graph = view.graph;
    if let Some(mask) = graph.mask() {
        let masked = (0..x0.len()).filter(|l| view.x[*l] == mask);
        let cross: f64 = masked.map(|l| view.log_clean(l, x0[l] as usize)).sum::<Result<f64>>()?;
        return Ok(-noise.unmask_rate(t) * cross);
    }
    let mut log_s = Vec::with_capacity(x0.len() * graph.states());
    for l in 0..x0.len() {
        log_s.extend(view.ratios(l)?.into_iter().map(f64::ln));
    }
    let sum = denoising_score_entropy(graph, (view.x, x0), view.sigma_bar, &log_s, &|x, y| graph.rate(x, y));
    Ok(noise.rate(t) * sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discrete::{Absorbing, Head, Uniform};

    #[test]
    fn score_entropy_is_positive_but_at_the_ratio_where_it_is_zero() {
        for ratio in [1e-8, 0.3, 1.0, 40.0] {
            // Terms of size r·ln r cancel.
            let at = |factor: f64| score_entropy_term((ratio * factor).ln(), ratio);
            assert!(at(1.0).abs() <= 8.0 * f64::EPSILON * ratio * (1.0 + ratio.ln().abs()), "{ratio}");
            assert!([0.01, 0.9, 1.1, 50.0].iter().all(|factor| at(*factor) > 0.0), "{ratio}");
        }
        // A ratio of 0: s itself, least at s = 0, and no 0·∞.
        assert_eq!((score_entropy_term(f64::NEG_INFINITY, 0.0), score_entropy_term(0.0, 0.0)), (0.0, 1.0));
    }

    #[test]
    fn conditional_ratios_keep_their_digits_where_the_plain_formula_loses_them() {
        let (uniform, absorbing) = (Uniform::new(28).unwrap(), Absorbing::new(27).unwrap());
        for sigma_bar in [1e-12, 1e-7, 0.1, 3.0, 40.0] {
            // e^σ̄ − 1 by its series where that is short, so that nothing cancels.
            let grown = if sigma_bar < 1e-5 { sigma_bar * (1.0 + 0.5 * sigma_bar) } else { f64::exp(sigma_bar) - 1.0 };
            let bound = if sigma_bar < 1e-5 { 1e-9 } else { 1e-13 };
            for (got, want) in [
                (uniform.ratio(3, 5, 3, sigma_bar), 1.0 + 28.0 / grown),
                (uniform.ratio(5, 3, 3, sigma_bar), grown / (grown + 28.0)),
                (uniform.ratio(5, 6, 3, sigma_bar), 1.0),
                (absorbing.ratio(3, 27, 3, sigma_bar), 1.0 / grown),
                (absorbing.ratio(5, 27, 3, sigma_bar), 0.0),
            ] {
                assert!((got - want).abs() <= bound * want.abs(), "{got} against {want} at {sigma_bar}");
            }
        }
        // As written, e^σ̄ − 1 in f64 at 1e-12 is off by 1e-4.
        let naive = 1.0 / (1e-12_f64.exp() - 1.0);
        assert!((naive / absorbing.ratio(3, 27, 3, 1e-12) - 1.0).abs() > 1e-6);
    }

    #[test]
    fn a_masking_graph_s_bound_is_the_masked_cross_entropy() {
        let graph = Absorbing::new(3).unwrap();
        let noise = Noise::LogLinear { eps: 0.0 };
        let (t, x, x0) = (0.35, [3, 1, 3], [2, 1, 0]);
        let sigma_bar = noise.sigma_bar(t);
        let clean: [f64; 12] = [0.2, 0.3, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.7, 0.1, 0.2, 0.0];
        let values = clean.map(f64::ln);
        let view = View { graph: &graph, head: Head::LogClean, x: &x, sigma_bar, values: &values };
        let got = bound_rate(&view, &x0, noise, t).unwrap();
        assert!((got + (0.5_f64.ln() + 0.7_f64.ln()) / t).abs() < 1e-12, "{got}");
        // The same from the ratios, term by term.
        let log_s: Vec<f64> = (0..3).flat_map(|l| view.ratios(l).unwrap()).map(f64::ln).collect();
        let sum = denoising_score_entropy(&graph, (&x, &x0), sigma_bar, &log_s, &|x, y| graph.rate(x, y));
        assert!((noise.rate(t) * sum / got - 1.0).abs() < 1e-12, "{sum}");
    }
}
