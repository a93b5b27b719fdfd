//! What a sampler or a bound sees: a model of sequences that tells, for each token, how likely its other values are (items 68 and 75).

use super::Graph;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// `n` sequences of `L` tokens, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    values: Vec<u32>,
    length: usize,
}

impl Tokens {
    /// * `values` — `[n, L]`
    /// * `length` — L, at least 1
    ///
    /// # Errors
    /// [`Error::Shape`] if L is 0 or does not divide the number of values.
    pub fn new(values: Vec<u32>, length: usize) -> Result<Tokens> {
        if length == 0 || !values.len().is_multiple_of(length) {
            let text = format!("tokens: expected rows of {length} tokens, at least 1, got {} tokens", values.len());
            return Err(Error::Shape(text));
        }
        Ok(Tokens { values, length })
    }

    /// n.
    pub fn rows(&self) -> usize {
        self.values.len() / self.length
    }

    /// L.
    pub fn length(&self) -> usize {
        self.length
    }

    /// All tokens `[n, L]`.
    pub fn values(&self) -> &[u32] {
        &self.values
    }

    /// Sequence `i`, `[L]`.
    ///
    /// # Panics
    /// If there are not so many, like a slice.
    pub fn row(&self, i: usize) -> &[u32] {
        &self.values[i * self.length..][..self.length]
    }

    /// Each sequence.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        self.values.chunks_exact(self.length)
    }
}

/// What the numbers of a [`ConcreteScore`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// ln p_t(x with token l set to y) − ln p_t(x): 0 at y = x_l (Lou, Meng & Ermon 2024).
    LogRatios,
    /// ln p(x0_l = y | x_t), normalised over the K symbols; that of the mask is −∞ (Austin et al. 2021; Sahoo et al. 2024).
    LogClean,
}

/// A model of noisy sequences: a network, or the enumeration of a small language.
pub trait ConcreteScore {
    /// What it returns.
    fn head(&self) -> Head;

    /// S, the size of its last axis: the graph's states, a mask included.
    fn states(&self) -> usize;

    /// Whether σ̄ does not reach it, so that what it said of a sequence stays true at other times.
    fn is_time_free(&self) -> bool;

    /// Evaluates `n` sequences, each at its own noise. A row's numbers do not depend on the other rows.
    ///
    /// * `tokens` — `[n, L]`, each below S
    /// * `sigma_bar` — `[n]`, above 0; infinite where nothing is left of the data
    /// * `out` — `[n, L, S]`, to be written; see [`Head`]
    ///
    /// # Errors
    /// Those of the network or oracle behind it.
    fn evaluate(&self, tokens: &Tokens, sigma_bar: &[f64], out: &mut [f64]) -> Result<()>;
}

/// What a model said of one sequence, read as ratios or as probabilities of clean tokens whatever its head.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The noise that acts.
    pub graph: &'a dyn Graph,
    /// What `values` are.
    pub head: Head,
    /// The noisy sequence, `[L]`.
    pub x: &'a [u32],
    /// Its total noise.
    pub sigma_bar: f64,
    /// `[L, S]`.
    pub values: &'a [f64],
}

impl View<'_> {
    fn row(&self, l: usize) -> &[f64] {
        let states = self.graph.states();
        &self.values[l * states..][..states]
    }

    fn is_masked(&self, l: usize) -> bool {
        self.graph.mask() == Some(self.x[l])
    }

    /// p_t(y)/p_t(x) for the S values y of token l. Where data keeps a mask's graph from moving, at tokens that are not masked, the
    /// probabilities of clean tokens tell nothing and nothing is wanted: 1 for the token itself, else 0.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the model gave no number.
    pub fn ratios(&self, l: usize) -> Result<Vec<f64>> {
        let x = self.x[l] as usize;
        let mut ratios: Vec<f64> = self.row(l).iter().map(|value| value.exp()).collect();
        if self.head == Head::LogClean {
            match self.graph.mask() {
                Some(mask) if self.is_masked(l) => {
                    ratios[mask as usize] = 0.0;
                    ratios.iter_mut().for_each(|ratio| *ratio /= self.sigma_bar.exp_m1());
                }
                Some(_) => ratios.fill(0.0),
                None => {
                    let weigh = |(a, q): (usize, &mut f64)| *q /= self.graph.transition(x, a, self.sigma_bar);
                    ratios.iter_mut().enumerate().for_each(weigh);
                    self.graph.spread(self.sigma_bar, &mut ratios);
                }
            }
        }
        ratios[x] = 1.0;
        self.checked(ratios, l)
    }

    /// p(x0_l = a | x_t) for the S values a of token l; 0 for the mask. A token of a masking graph that is not masked is certain.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the model gave no number, or ratios of 0 throughout.
    pub fn clean(&self, l: usize) -> Result<Vec<f64>> {
        let (x, states) = (self.x[l] as usize, self.graph.states());
        let row = self.row(l);
        if self.graph.mask().is_some() && !self.is_masked(l) {
            return Ok((0..states).map(|a| if a == x { 1.0 } else { 0.0 }).collect());
        }
        let mut clean: Vec<f64> = match (self.head, self.graph.mask()) {
            (Head::LogClean, _) => row.iter().map(|value| value.exp()).collect(),
            // Masked: p(x0 = a | x) is the ratio but for a factor, which may be as small as 0.
            (Head::LogRatios, Some(mask)) => {
                let others = || row.iter().enumerate().filter(|(y, _)| *y != mask as usize);
                let most = others().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
                let mut clean = vec![0.0; states];
                others().for_each(|(y, value)| clean[y] = (value - most).exp());
                clean
            }
            (Head::LogRatios, None) => {
                let mut clean: Vec<f64> = row.iter().map(|value| value.exp()).collect();
                clean[x] = 1.0;
                self.graph.spread(-self.sigma_bar, &mut clean);
                let weigh = |(a, w): (usize, &mut f64)| *w = w.max(0.0) * self.graph.transition(x, a, self.sigma_bar);
                clean.iter_mut().enumerate().for_each(weigh);
                clean
            }
        };
        if let Some(mask) = self.graph.mask() {
            clean[mask as usize] = 0.0;
        }
        let sum: f64 = clean.iter().sum();
        clean.iter_mut().for_each(|q| *q /= sum);
        self.checked(clean, l)
    }

    /// ln p(x0_l = a | x_t), as [`View::clean`] has it but without its underflow.
    ///
    /// # Errors
    /// As [`View::clean`].
    pub fn log_clean(&self, l: usize, a: usize) -> Result<f64> {
        match (self.head, self.graph.mask()) {
            (Head::LogClean, mask) if mask.is_none() || self.is_masked(l) => Ok(self.row(l)[a]),
            _ => Ok(self.clean(l)?[a].ln()),
        }
    }

    fn checked(&self, values: Vec<f64>, l: usize) -> Result<Vec<f64>> {
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(Error::NonFinite(format!(
            "concrete score: expected finite ratios at token {l} with sigma-bar {}, got {values:?}; the sequence may be impossible, or all noise",
            self.sigma_bar
        )))
    }
}

/// Checks that a model and a graph have the same states.
///
/// # Errors
/// [`Error::Usage`] if not.
pub fn check_model(model: &dyn ConcreteScore, graph: &dyn Graph) -> Result<()> {
    let (got, want) = (model.states(), graph.states());
    if got != want {
        let hint = "a checkpoint goes with the graph it was trained with";
        let text = format!("--graph {}: the graph has {want} states, the model {got}; {hint}", graph.name());
        return Err(Error::Usage(text));
    }
    Ok(())
}
