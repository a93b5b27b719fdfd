//! The samplers that take equal steps of time, all tokens of a sequence at once.

use super::engine::{Setting, Walk};
use crate::discrete::categorical::unit;
use crate::discrete::{Noise, View};
use crate::error::{Error, Result};
use crate::rng::Address;

/// How a step from one time to an earlier one changes a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Rates of the beginning, for the whole step: p(y) = h·σ·R(x, y)·ratio_y, and the rest stays. Where the rest would be negative the
    /// others are scaled to 1.
    Euler,
    /// p(y) ∝ (exp(−Δσ̄·R)·ratios)_y · exp(Δσ̄·R)(x, y).
    Analytic,
    /// p(z) = Σ_a p(x0 = a | x)·q(z | x, a).
    Ancestral,
}

/// A step: from time `from` down to `to`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// The noisier time.
    pub from: f64,
    /// The other one.
    pub to: f64,
}

impl Span {
    /// The probability that a masked token is uncovered: (touched(from) − touched(to))/touched(from).
    pub fn unmask(&self, noise: Noise) -> f64 {
        let (from, to) = (noise.touched(self.from), noise.touched(self.to));
        (from - to) / from
    }
}

impl Rule {
    /// The law of token `l` after the step, `[S]`; it sums to 1.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the model gave no number, or the graph has no finite rate there.
    pub fn law(self, view: &View<'_>, noise: Noise, l: usize, span: Span) -> Result<Vec<f64>> {
        let (graph, x) = (view.graph, view.x[l] as usize);
        match graph.mask() {
            // What is not masked stays.
            Some(mask) if view.x[l] != mask => Ok(one_hot(x, graph.states())),
            Some(mask) => {
                let moved = match self {
                    Rule::Euler => ((span.from - span.to) * noise.unmask_rate(span.from)).min(1.0),
                    _ => span.unmask(noise),
                };
                match self {
                    // With a finite noise the rule as it is printed; where all is noise its ratios are 0, and this is their limit.
                    Rule::Analytic if view.sigma_bar < f64::INFINITY => analytic(view, noise, l, span),
                    Rule::Euler if view.sigma_bar < f64::INFINITY => euler(view, noise, l, span),
                    _ => {
                        let mut law = view.clean(l)?;
                        law.iter_mut().for_each(|q| *q *= moved);
                        law[mask as usize] = 1.0 - moved;
                        Ok(law)
                    }
                }
            }
            None => match self {
                Rule::Euler => euler(view, noise, l, span),
                Rule::Analytic => analytic(view, noise, l, span),
                Rule::Ancestral => ancestral(view, noise, l, span),
            },
        }
    }
}

fn one_hot(x: usize, states: usize) -> Vec<f64> {
    (0..states).map(|y| if y == x { 1.0 } else { 0.0 }).collect()
}

fn normalised(mut law: Vec<f64>) -> Result<Vec<f64>> {
    let sum: f64 = law.iter().sum();
    if !(sum > 0.0 && sum < f64::INFINITY) {
        let hint = "start at a time with finite noise";
        return Err(Error::NonFinite(format!("sampler: expected a law, got weights {law:?}; {hint}")));
    }
    law.iter_mut().for_each(|p| *p /= sum);
    Ok(law)
}

fn euler(view: &View<'_>, noise: Noise, l: usize, span: Span) -> Result<Vec<f64>> {
    let (graph, x) = (view.graph, view.x[l] as usize);
    let scale = (span.from - span.to) * noise.rate(span.from);
    let mut law = view.ratios(l)?;
    law.iter_mut().enumerate().for_each(|(y, p)| *p *= if y == x { 0.0 } else { scale * graph.rate(x, y) });
    law[x] = (1.0 - law.iter().sum::<f64>()).max(0.0);
    normalised(law)
}

fn analytic(view: &View<'_>, noise: Noise, l: usize, span: Span) -> Result<Vec<f64>> {
    let (graph, x) = (view.graph, view.x[l] as usize);
    let step = view.sigma_bar - noise.sigma_bar(span.to);
    let mut law = view.ratios(l)?;
    if let Some(mask) = graph.mask() {
        // The mask's share is what the ratios leave: Σ_y ratio_y·(e^σ̄ − 1) = 1.
        let uncovered: f64 = law.iter().enumerate().filter(|(y, _)| *y != mask as usize).map(|(_, s)| s).sum();
        law.iter_mut().for_each(|s| *s *= step.exp());
        law[mask as usize] = 1.0 - step.exp_m1() * uncovered;
    } else {
        graph.spread(-step, &mut law);
    }
    // An inexact model may ask for negative ones.
    law.iter_mut().enumerate().for_each(|(y, w)| *w = w.max(0.0) * graph.transition(x, y, step));
    normalised(law)
}

fn ancestral(view: &View<'_>, noise: Noise, l: usize, span: Span) -> Result<Vec<f64>> {
    let (graph, x) = (view.graph, view.x[l] as usize);
    let (before, step) = (noise.sigma_bar(span.to), view.sigma_bar - noise.sigma_bar(span.to));
    let mut law = view.clean(l)?;
    // Σ_a p(a|x)·q(z|x, a) = q(x|z)·Σ_a q(z|a)·p(a|x)/q(x|a).
    law.iter_mut().enumerate().for_each(|(a, q)| *q /= graph.transition(x, a, view.sigma_bar));
    graph.spread(before, &mut law);
    law.iter_mut().enumerate().for_each(|(z, w)| *w *= graph.transition(x, z, step));
    normalised(law)
}

/// Whether masked token `l` is uncovered in a step: a draw that does not ask the model, so that the cached sampler can take it first.
pub(super) fn is_due(address: Address, l: usize, unmask: f64) -> bool {
    unit(address.sub_index(1).word(l)) <= unmask
}

/// A sequence that takes the steps of a [`Rule`].
pub(super) struct GridWalk<'a> {
    setting: Setting<'a>,
    rule: Rule,
    x: Vec<u32>,
    address: Address,
    step: usize,
}

impl<'a> GridWalk<'a> {
    pub(super) fn new(setting: Setting<'a>, rule: Rule, x: Vec<u32>, address: Address) -> GridWalk<'a> {
        GridWalk { setting, rule, x, address, step: 0 }
    }

    /// The step's rule and times; after the last, what is left of the noise is taken out by Bayes' rule.
    fn plan(&self) -> Option<(Rule, f64, f64)> {
        let Setting { noise, options, .. } = &self.setting;
        if self.step < options.steps {
            return Some((self.rule, self.setting.time(self.step), self.setting.time(self.step + 1)));
        }
        let is_left = options.denoise && self.step == options.steps && noise.sigma_bar(options.t_min) > 0.0;
        is_left.then_some((Rule::Ancestral, options.t_min, f64::NEG_INFINITY))
    }
}

/// The law of token `l` with all noise taken out at once: p(x0 | x).
pub(super) fn clean_law(view: &View<'_>, l: usize) -> Result<Vec<f64>> {
    view.clean(l)
}

impl Walk for GridWalk<'_> {
    fn next(&mut self) -> Result<Option<f64>> {
        Ok(self.plan().map(|(_, from, _)| from))
    }

    fn tokens(&self) -> &[u32] {
        &self.x
    }

    fn advance(&mut self, view: &View<'_>) -> Result<()> {
        let Some((rule, from, to)) = self.plan() else { return Ok(()) };
        let (noise, graph, address) = (self.setting.noise, self.setting.graph, self.address.step(self.step));
        let is_last = to == f64::NEG_INFINITY;
        for l in (0..view.x.len()).filter(|l| self.setting.is_free(*l)) {
            let mask = graph.mask();
            if mask.is_some_and(|mask| view.x[l] != mask) {
                continue;
            }
            let mut law = if is_last {
                clean_law(view, l)?
            } else if rule == Rule::Ancestral && mask.is_some() {
                if !is_due(address, l, Span { from, to }.unmask(noise)) {
                    continue;
                }
                clean_law(view, l)?
            } else {
                rule.law(view, noise, l, Span { from, to })?
            };
            self.x[l] = self.setting.draw(l, address.word(l), &mut law)?;
        }
        self.step += 1;
        Ok(())
    }
}
