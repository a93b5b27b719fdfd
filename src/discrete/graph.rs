//! Noise in continuous time: dp/dt = σ(t)·R·p with a rate matrix R whose columns sum to 0 (S3 section 6.2; Campbell et al. 2022; item 66).
//!
//! R(y, x) is the rate from x into y. Sequences have one such process for each token, independent of the others, so nothing of size S^L is
//! ever made: two sequences that differ in more than one token have rate 0 (item 75).

use crate::error::{Error, Result, unknown_name};
use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// What one token does under noise. States are `0..S`: the K symbols, and the mask K where there is one.
pub trait Graph: Send + Sync {
    /// `uniform`, `absorbing` or `custom`.
    fn name(&self) -> &'static str;

    /// K: how many symbols data has.
    fn symbols(&self) -> usize;

    /// S: K, or K + 1 with a mask.
    fn states(&self) -> usize {
        self.symbols() + usize::from(self.mask().is_some())
    }

    /// The state that never occurs in data and that nothing leaves.
    fn mask(&self) -> Option<u32>;

    /// R(y, x): the rate from x into y; on the diagonal minus the sum of the column's others.
    fn rate(&self, y: usize, x: usize) -> f64;

    /// exp(σ̄R)(y, x): the probability of y after noise σ̄ ≥ 0, infinity included.
    fn transition(&self, y: usize, x: usize, sigma_bar: f64) -> f64;

    /// p(y | x0)/p(x | x0) at σ̄ > 0, without cancellation at small σ̄ (Lou, Meng & Ermon 2024's `esigm1` form; item 72).
    fn ratio(&self, y: usize, x: usize, x0: usize, sigma_bar: f64) -> f64 {
        self.transition(y, x0, sigma_bar) / self.transition(x, x0, sigma_bar)
    }

    /// values ← exp(σ̄R)·values, `[S]`; a negative σ̄ takes noise out.
    fn spread(&self, sigma_bar: f64, values: &mut [f64]);

    /// π: the law of a token under endless noise, `[S]`.
    fn prior(&self) -> Vec<f64>;

    /// Upper bound, over the clean token, of the reverse rate at which one token leaves its state, per unit of σ̄. It rises as σ̄ falls, so
    /// its value at the lower end bounds an interval (thinning; item 74).
    fn reverse_rate_bound(&self, sigma_bar: f64) -> f64 {
        let states = self.states();
        let most_likely = |y: usize, x: usize| {
            // States that this x0 cannot reach give no bound: x was not drawn from it.
            let reached = (0..self.symbols()).filter(|x0| self.transition(x, *x0, sigma_bar) > 0.0);
            reached.map(|x0| self.ratio(y, x, x0, sigma_bar)).fold(0.0, f64::max)
        };
        let leaving = |x: usize| {
            let others = (0..states).filter(|y| *y != x && self.rate(x, *y) > 0.0);
            others.map(|y| self.rate(x, y) * most_likely(y, x)).sum::<f64>()
        };
        (0..states).map(leaving).fold(0.0, f64::max)
    }
}

/// The graphs by their command-line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraphKind {
    /// [`Uniform`].
    Uniform,
    /// [`Absorbing`].
    Absorbing,
}

impl GraphKind {
    /// All names.
    pub const NAMES: [&str; 2] = ["uniform", "absorbing"];

    /// Reads a name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str) -> Result<GraphKind> {
        let found = [GraphKind::Uniform, GraphKind::Absorbing].into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| unknown_name("graph", name, &GraphKind::NAMES))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        GraphKind::NAMES[self as usize]
    }

    /// The graph on `symbols` symbols; the mask comes on top of them.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than 2 symbols.
    pub fn build(self, symbols: usize) -> Result<Box<dyn Graph>> {
        match self {
            GraphKind::Uniform => Ok(Box::new(Uniform::new(symbols)?)),
            GraphKind::Absorbing => Ok(Box::new(Absorbing::new(symbols)?)),
        }
    }
}

fn check_symbols(name: &str, symbols: usize) -> Result<()> {
    if symbols < 2 {
        let text = format!("{name} graph: expected at least 2 symbols, got {symbols}; there is nothing to learn");
        return Err(Error::Usage(text));
    }
    Ok(())
}

/// R = 11ᵀ/K − I: at rate 1 a token is replaced by one of K, itself included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uniform {
    symbols: usize,
}

impl Uniform {
    /// # Errors
    /// [`Error::Usage`] for fewer than 2 symbols.
    pub fn new(symbols: usize) -> Result<Uniform> {
        check_symbols("uniform", symbols)?;
        Ok(Uniform { symbols })
    }
}

impl Graph for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }

    fn symbols(&self) -> usize {
        self.symbols
    }

    fn mask(&self) -> Option<u32> {
        None
    }

    fn rate(&self, y: usize, x: usize) -> f64 {
        let moved = 1.0 / self.symbols as f64;
        if y == x { moved - 1.0 } else { moved }
    }

    fn transition(&self, y: usize, x: usize, sigma_bar: f64) -> f64 {
        let moved = -(-sigma_bar).exp_m1() / self.symbols as f64;
        if y == x { (-sigma_bar).exp() + moved } else { moved }
    }

    fn ratio(&self, y: usize, x: usize, x0: usize, sigma_bar: f64) -> f64 {
        let symbols = self.symbols as f64;
        match (y == x0, x == x0) {
            (true, false) => 1.0 + symbols / sigma_bar.exp_m1(),
            // 1 − K/(e^σ̄ − 1 + K), written without the difference.
            (false, true) => 1.0 / (1.0 + symbols / sigma_bar.exp_m1()),
            _ => 1.0,
        }
    }

    fn spread(&self, sigma_bar: f64, values: &mut [f64]) {
        let mean = values.iter().sum::<f64>() / self.symbols as f64;
        let (kept, moved) = ((-sigma_bar).exp(), -(-sigma_bar).exp_m1() * mean);
        values.iter_mut().for_each(|value| *value = kept * *value + moved);
    }

    fn prior(&self) -> Vec<f64> {
        vec![1.0 / self.symbols as f64; self.symbols]
    }

    fn reverse_rate_bound(&self, sigma_bar: f64) -> f64 {
        // One y may be x0, the K − 2 others are as likely as x.
        let symbols = self.symbols as f64;
        (symbols - 1.0 + symbols / sigma_bar.exp_m1()) / symbols
    }
}

/// R = e_M·1ᵀ − I: at rate 1 a token turns into the mask M = K, and stays one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Absorbing {
    symbols: usize,
}

impl Absorbing {
    /// * `symbols` — K without the mask, at least 2
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than 2 symbols.
    pub fn new(symbols: usize) -> Result<Absorbing> {
        check_symbols("absorbing", symbols)?;
        Ok(Absorbing { symbols })
    }
}

impl Graph for Absorbing {
    fn name(&self) -> &'static str {
        "absorbing"
    }

    fn symbols(&self) -> usize {
        self.symbols
    }

    fn mask(&self) -> Option<u32> {
        Some(self.symbols as u32)
    }

    fn rate(&self, y: usize, x: usize) -> f64 {
        match (y == self.symbols, x == self.symbols) {
            (_, true) => 0.0,
            (true, false) => 1.0,
            (false, false) if y == x => -1.0,
            (false, false) => 0.0,
        }
    }

    fn transition(&self, y: usize, x: usize, sigma_bar: f64) -> f64 {
        match (y == self.symbols, x == self.symbols) {
            (true, true) => 1.0,
            (false, true) => 0.0,
            (true, false) => -(-sigma_bar).exp_m1(),
            (false, false) if y == x => (-sigma_bar).exp(),
            (false, false) => 0.0,
        }
    }

    fn ratio(&self, y: usize, x: usize, x0: usize, sigma_bar: f64) -> f64 {
        match (y, x) {
            _ if y == x => 1.0,
            (y, x) if x == self.symbols && y == x0 => sigma_bar.exp_m1().recip(),
            (y, x) if y == self.symbols && x == x0 => sigma_bar.exp_m1(),
            _ if x == self.symbols || x == x0 => 0.0,
            _ => f64::NAN, // x was not reached from x0
        }
    }

    fn spread(&self, sigma_bar: f64, values: &mut [f64]) {
        let Some((mask, symbols)) = values.split_last_mut() else { return };
        let masked = -(-sigma_bar).exp_m1();
        *mask += masked * symbols.iter().sum::<f64>();
        symbols.iter_mut().for_each(|value| *value *= (-sigma_bar).exp());
    }

    fn prior(&self) -> Vec<f64> {
        (0..=self.symbols).map(|y| if y == self.symbols { 1.0 } else { 0.0 }).collect()
    }

    fn reverse_rate_bound(&self, sigma_bar: f64) -> f64 {
        sigma_bar.exp_m1().recip()
    }
}

/// How many exponentials [`Custom`] keeps: a step of a sampler asks for two or three.
const KEPT: usize = 4;

/// A rate matrix of one's own over K symbols, without a mask. Exponentials cost K³ each, and the last few are kept.
#[derive(Debug)]
pub struct Custom {
    rates: DMatrix<f64>,
    prior: Vec<f64>,
    kept: Mutex<Vec<(f64, Arc<DMatrix<f64>>)>>,
}

impl Custom {
    /// The largest K.
    pub const MAX_SYMBOLS: usize = 64;

    /// * `rates` — `[K, K]`, entry (y, x) the rate from x into y; K from 2 to 64
    ///
    /// # Errors
    /// [`Error::Usage`] if it is not square or of another size, a rate is negative or not finite, a column does not sum to 0, or the process
    /// does not forget its start.
    pub fn new(rates: DMatrix<f64>) -> Result<Custom> {
        let fail = |text: String| Err(Error::Usage(format!("rate matrix: {text}")));
        let (rows, columns) = rates.shape();
        if rows != columns || rows > Custom::MAX_SYMBOLS {
            let most = Custom::MAX_SYMBOLS;
            return fail(format!(
                "expected a square matrix of at most {most} symbols, got {rows} rows, {columns} columns"
            ));
        }
        check_symbols("custom", rows)?;
        for (x, column) in rates.column_iter().enumerate() {
            let bad = column.iter().enumerate().find(|(y, r)| !r.is_finite() || (*y != x && **r < 0.0));
            if let Some((y, rate)) = bad {
                return fail(format!("expected rates of at least 0 off the diagonal, got {rate} from {x} into {y}"));
            }
            let (sum, scale) = (column.sum(), column.abs().sum());
            if !(sum.abs() <= 1e-9 * scale) {
                return fail(format!(
                    "expected columns that sum to 0, got {sum} in column {x}; rows may stand for columns"
                ));
            }
        }
        // One step of 1/(2·the fastest rate) is a chain with the same π, and every state may stay: it is never periodic.
        let fastest = rates.diagonal().abs().max();
        if !(fastest > 0.0) {
            return fail("all rates are 0: nothing ever changes".into());
        }
        let step = DMatrix::identity(rows, rows) + &rates * (0.5 / fastest);
        let prior = match super::MatrixTransition::new(step) {
            Ok(chain) => super::Transition::stationary(&chain),
            Err(_) => return fail("the start is never forgotten: some symbols cannot be reached from others".into()),
        };
        Ok(Custom { rates, prior, kept: Mutex::new(Vec::new()) })
    }

    /// exp(σ̄R) `[K, K]`, for any finite σ̄.
    pub fn exponential(&self, sigma_bar: f64) -> Arc<DMatrix<f64>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, matrix)) = kept.iter().find(|(at, _)| *at == sigma_bar) {
            return Arc::clone(matrix);
        }
        let matrix = Arc::new((&self.rates * sigma_bar).exp());
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((sigma_bar, Arc::clone(&matrix)));
        matrix
    }
}

impl Graph for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn symbols(&self) -> usize {
        self.rates.nrows()
    }

    fn mask(&self) -> Option<u32> {
        None
    }

    fn rate(&self, y: usize, x: usize) -> f64 {
        self.rates[(y, x)]
    }

    fn transition(&self, y: usize, x: usize, sigma_bar: f64) -> f64 {
        if sigma_bar == f64::INFINITY { self.prior[y] } else { self.exponential(sigma_bar)[(y, x)].max(0.0) }
    }

    fn spread(&self, sigma_bar: f64, values: &mut [f64]) {
        let before = values.to_vec();
        if sigma_bar == f64::INFINITY {
            let mass: f64 = before.iter().sum();
            values.iter_mut().zip(&self.prior).for_each(|(value, prior)| *value = mass * prior);
            return;
        }
        let matrix = self.exponential(sigma_bar);
        for (y, value) in values.iter_mut().enumerate() {
            *value = before.iter().enumerate().map(|(x, v)| matrix[(y, x)] * v).sum();
        }
    }

    fn prior(&self) -> Vec<f64> {
        self.prior.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Custom {
        // A ring with a drift: not symmetric, π not uniform.
        Custom::new(DMatrix::from_row_slice(3, 3, &[-1.0, 0.2, 0.9, 0.7, -0.5, 0.1, 0.3, 0.3, -1.0])).unwrap()
    }

    #[test]
    fn spreading_applies_the_transition_and_a_negative_noise_undoes_it() {
        let graphs: [Box<dyn Graph>; 3] =
            [Box::new(Uniform::new(3).unwrap()), Box::new(Absorbing::new(3).unwrap()), Box::new(own())];
        for graph in graphs {
            let states = graph.states();
            let start: Vec<f64> = (0..states).map(|y| 0.1 + 0.3 * y as f64).collect();
            for sigma_bar in [0.0, 0.4, 3.0, f64::INFINITY] {
                let mut spread = start.clone();
                graph.spread(sigma_bar, &mut spread);
                for y in 0..states {
                    let want: f64 = (0..states).map(|x| graph.transition(y, x, sigma_bar) * start[x]).sum();
                    assert!((spread[y] - want).abs() < 1e-13, "{} at {sigma_bar}: {spread:?}", graph.name());
                }
                if sigma_bar < f64::INFINITY {
                    graph.spread(-sigma_bar, &mut spread);
                    // e^3 = 20 times the rounding of the way there.
                    assert!(spread.iter().zip(&start).all(|(a, b)| (a - b).abs() < 1e-12), "{}", graph.name());
                }
            }
        }
    }

    #[test]
    fn bounds_of_the_reverse_rate_are_reached_by_a_clean_token_and_rise_as_noise_falls() {
        let graphs: [Box<dyn Graph>; 3] =
            [Box::new(Uniform::new(4).unwrap()), Box::new(Absorbing::new(4).unwrap()), Box::new(own())];
        for graph in graphs {
            let mut before = 0.0;
            for sigma_bar in [5.0, 1.0, 0.3, 0.01] {
                let bound = graph.reverse_rate_bound(sigma_bar);
                assert!(bound > before, "{}: {bound} at {sigma_bar}", graph.name());
                before = bound;
                let (states, mut largest) = (graph.states(), 0.0_f64);
                for x in 0..states {
                    for x0 in (0..graph.symbols()).filter(|x0| graph.transition(x, *x0, sigma_bar) > 0.0) {
                        let others = (0..states).filter(|y| *y != x && graph.rate(x, *y) > 0.0);
                        let rate = others.map(|y| graph.rate(x, y) * graph.ratio(y, x, x0, sigma_bar)).sum();
                        largest = largest.max(rate);
                    }
                }
                assert!(largest <= bound * (1.0 + 1e-12), "{}: {largest} above {bound}", graph.name());
                if graph.name() != "custom" {
                    assert!((largest / bound - 1.0).abs() < 1e-12, "{}: {largest} below {bound}", graph.name());
                }
            }
        }
    }

    #[test]
    fn graphs_are_built_by_name_with_the_states_they_need() {
        for (name, states) in [("uniform", 5), ("absorbing", 6)] {
            let graph = GraphKind::from_name(name).unwrap().build(5).unwrap();
            assert_eq!((graph.name(), graph.states(), graph.mask().is_some()), (name, states, states == 6));
        }
        let text = GraphKind::from_name("absorb").unwrap_err().to_string();
        assert!(text.contains("known: uniform, absorbing"), "{text}");
        assert!(GraphKind::Uniform.build(1).is_err());
    }

    #[test]
    fn matrices_that_are_no_rates_or_never_mix_are_refused() {
        let text = |values: &[f64]| Custom::new(DMatrix::from_row_slice(2, 2, values)).unwrap_err().to_string();
        assert!(text(&[-1.0, -0.5, 1.0, 0.5]).contains("got -0.5 from 1 into 0"));
        assert!(text(&[-1.0, 0.5, 0.9, -0.5]).contains("sum to 0"));
        assert!(text(&[0.0; 4]).contains("nothing ever changes"));
        let parts = [-1.0, 1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 1.0, -1.0];
        assert!(Custom::new(DMatrix::from_row_slice(4, 4, &parts)).unwrap_err().to_string().contains("forgotten"));
        assert!(Uniform::new(1).is_err() && Absorbing::new(1).is_err());
        assert!(Custom::new(DMatrix::from_element(1, 1, 0.0)).is_err());
    }
}
