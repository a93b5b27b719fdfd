//! The samplers of masking graphs that evaluate only where a token is uncovered: on a grid of times, or at the exact ones.

use super::engine::{Setting, Walk};
use super::grid::{Span, clean_law, is_due};
use crate::discrete::categorical::unit;
use crate::discrete::{Noise, View};
use crate::error::Result;
use crate::rng::Address;

/// The expected share of steps in which a sequence of `length` masked tokens changes, under log-linear noise that ends all masked:
/// 1 − (1 − 1/steps)^length.
pub fn expected_share(steps: usize, length: usize) -> f64 {
    -(length as f64 * (-1.0 / steps as f64).ln_1p()).exp_m1()
}

/// The expected number of evaluations of a cached sampler under any noise, for so many masked tokens: Σ over its steps of 1 − (1 − p)^tokens, where
/// p is the share of the noise of t = 1 that a step takes, and the last one for what is left at t = 0.
pub fn expected_evaluations(noise: Noise, steps: usize, tokens: usize) -> f64 {
    let touched = |step: usize| noise.touched(1.0 - step as f64 / steps as f64) / noise.touched(1.0);
    let taken = (0..steps).map(|step| touched(step) - touched(step + 1)).chain([touched(steps)]);
    taken.map(|p| -(tokens as f64 * (-p).ln_1p()).exp_m1()).sum()
}

/// Ancestral sampling that asks the model only in steps that uncover a token: without the time, its answer is otherwise the last one.
pub(super) struct Cached<'a> {
    setting: Setting<'a>,
    x: Vec<u32>,
    address: Address,
    step: usize,
    /// The tokens to be drawn in this step.
    due: Vec<usize>,
}

impl<'a> Cached<'a> {
    pub(super) fn new(setting: Setting<'a>, x: Vec<u32>, address: Address) -> Cached<'a> {
        Cached { setting, x, address, step: 0, due: Vec::new() }
    }

    fn masked(&self) -> impl Iterator<Item = usize> + '_ {
        let mask = self.setting.graph.mask();
        (0..self.x.len()).filter(move |l| mask == Some(self.x[*l]) && self.setting.is_free(*l))
    }
}

impl Walk for Cached<'_> {
    fn next(&mut self) -> Result<Option<f64>> {
        let Setting { noise, options, .. } = self.setting;
        while self.step < options.steps {
            let span = Span { from: self.setting.time(self.step), to: self.setting.time(self.step + 1) };
            let (unmask, address) = (span.unmask(noise), self.address.step(self.step));
            self.due = self.masked().filter(|l| is_due(address, *l, unmask)).collect();
            if !self.due.is_empty() {
                return Ok(Some(span.from));
            }
            self.step += 1;
        }
        let is_left = options.denoise && self.step == options.steps && noise.sigma_bar(options.t_min) > 0.0;
        self.due = if is_left { self.masked().collect() } else { Vec::new() };
        Ok((!self.due.is_empty()).then_some(options.t_min))
    }

    fn tokens(&self) -> &[u32] {
        &self.x
    }

    fn advance(&mut self, view: &View<'_>) -> Result<()> {
        let address = self.address.step(self.step);
        for l in std::mem::take(&mut self.due) {
            self.x[l] = self.setting.draw(l, address.word(l), &mut clean_law(view, l)?)?;
        }
        self.step += 1;
        Ok(())
    }
}

/// Exact jumps of a masking graph. A token masked at time 1 is still masked at t with probability touched(t)/touched(1), whatever the
/// others do: so each has its time from one uniform, and they are uncovered in that order, one evaluation each.
pub(super) struct Unmasking<'a> {
    setting: Setting<'a>,
    mask: u32,
    x: Vec<u32>,
    address: Address,
    /// (time, token), the next at the end.
    jumps: Vec<(f64, usize)>,
    is_closed: bool,
}

impl<'a> Unmasking<'a> {
    pub(super) fn new(setting: Setting<'a>, mask: u32, x: Vec<u32>, address: Address) -> Unmasking<'a> {
        let Setting { noise, options, .. } = setting;
        let (first, last) = (noise.touched(1.0), noise.touched(options.t_min));
        let touched = |l: usize| unit(address.sub_index(1).word(l)) * first;
        let masked = (0..x.len()).filter(|l| x[*l] == mask && setting.is_free(*l));
        let mut jumps: Vec<(f64, usize)> = masked.map(|l| (touched(l), l)).filter(|(share, _)| *share > last).collect();
        jumps.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        jumps.iter_mut().for_each(|(share, _)| *share = noise.time_of_touched(*share));
        Unmasking { setting, mask, x, address, jumps, is_closed: false }
    }
}

impl Walk for Unmasking<'_> {
    fn next(&mut self) -> Result<Option<f64>> {
        let options = self.setting.options;
        if let Some((time, _)) = self.jumps.last() {
            return Ok(Some(*time));
        }
        let is_left = options.denoise && !self.is_closed && self.x.contains(&self.mask);
        Ok(is_left.then_some(options.t_min))
    }

    fn tokens(&self) -> &[u32] {
        &self.x
    }

    fn advance(&mut self, view: &View<'_>) -> Result<()> {
        let due = match self.jumps.pop() {
            Some((_, l)) => vec![l],
            None => {
                self.is_closed = true;
                (0..self.x.len()).filter(|l| self.x[*l] == self.mask && self.setting.is_free(*l)).collect()
            }
        };
        for l in due {
            self.x[l] = self.setting.draw(l, self.address.word(l), &mut clean_law(view, l)?)?;
        }
        Ok(())
    }
}
