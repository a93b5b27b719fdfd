//! Exact jumps of a graph without a mask, by thinning (Lewis & Shedler 1979; Gillespie 1977).
//!
//! Time is counted in σ̄. Candidates come at a constant rate that no reverse rate passes: L times the graph's bound at the lower end of an
//! interval, because the bound rises as σ̄ falls. A candidate picks a token at random, the model gives that token's rates, and the
//! jump happens with the probability of their sum over the bound. Nothing is approximated; intervals only save candidates.

use super::engine::{Setting, Walk};
use super::grid::clean_law;
use crate::discrete::View;
use crate::discrete::categorical::unit;
use crate::error::{Error, Result};
use crate::rng::Address;

/// Each interval ends at this part of the σ̄ at which it begins: the bound is at most 1/0.8 of what it is at its beginning.
const SHRINK: f64 = 0.8;

/// The lower end of σ̄: below it a token that is not clean has a rate of about K/σ̄ and would jump with certainty.
const FLOOR: f64 = 1e-6;

pub(super) struct Thinning<'a> {
    setting: Setting<'a>,
    x: Vec<u32>,
    address: Address,
    sigma_bar: f64,
    /// σ̄ at which the process stops.
    last: f64,
    bound: f64,
    /// Where the present interval ends.
    lower: f64,
    candidate: usize,
    is_closed: bool,
}

impl<'a> Thinning<'a> {
    pub(super) fn new(setting: Setting<'a>, x: Vec<u32>, address: Address) -> Result<Thinning<'a>> {
        let sigma_bar = setting.noise.sigma_bar(1.0);
        if sigma_bar == f64::INFINITY {
            let (noise, graph) = (setting.noise.name(), setting.graph.name());
            return Err(Error::Usage(format!(
                "gillespie: expected finite noise at t = 1 for the {graph} graph, got {noise} noise with eps = 0; take eps = 1e-3"
            )));
        }
        let last = setting.noise.sigma_bar(setting.options.t_min).max(FLOOR);
        let mut walk = Thinning {
            setting,
            x,
            address,
            sigma_bar,
            last,
            bound: 0.0,
            lower: sigma_bar,
            candidate: 0,
            is_closed: false,
        };
        walk.open_interval();
        Ok(walk)
    }

    fn open_interval(&mut self) {
        self.lower = (self.sigma_bar * SHRINK).max(self.last);
        self.bound = self.setting.graph.reverse_rate_bound(self.lower);
    }

    fn here(&self) -> Address {
        self.address.step(self.candidate)
    }

    /// The time at this σ̄, for the engine, which asks the schedule back.
    fn time(&self) -> f64 {
        self.setting.noise.time_of_touched(-(-self.sigma_bar).exp_m1())
    }
}

impl Walk for Thinning<'_> {
    fn next(&mut self) -> Result<Option<f64>> {
        while self.sigma_bar > self.last {
            let wait = -unit(self.here().word(0)).ln() / (self.bound * self.x.len() as f64);
            if self.sigma_bar - wait > self.lower {
                self.sigma_bar -= wait;
                return Ok(Some(self.time()));
            }
            // No candidate in this interval; waiting has no memory, so the next one begins anew.
            self.candidate += 1;
            self.sigma_bar = self.lower;
            if self.sigma_bar > self.last {
                self.open_interval();
            }
        }
        Ok((self.setting.options.denoise && !self.is_closed).then(|| self.time()))
    }

    fn tokens(&self) -> &[u32] {
        &self.x
    }

    fn advance(&mut self, view: &View<'_>) -> Result<()> {
        let (graph, address) = (self.setting.graph, self.here());
        if self.sigma_bar <= self.last {
            self.is_closed = true;
            for l in (0..self.x.len()).filter(|l| self.setting.is_free(*l)) {
                self.x[l] = self.setting.draw(l, address.sub_index(1).word(l), &mut clean_law(view, l)?)?;
            }
            return Ok(());
        }
        let l = address.sub_index(2).below(0, self.x.len());
        if self.setting.is_free(l) {
            let x = self.x[l] as usize;
            let mut law = view.ratios(l)?;
            law.iter_mut().enumerate().for_each(|(y, s)| *s *= if y == x { 0.0 } else { graph.rate(x, y) });
            // What is left of the bound is no jump. Rates of an inexact model beyond the bound are scaled down to it.
            law[x] = (self.bound - law.iter().sum::<f64>()).max(0.0);
            self.x[l] = self.setting.draw(l, address.word(1), &mut law)?;
        }
        self.candidate += 1;
        Ok(())
    }
}
