//! Infilling and hard constraints: what each token may be (item 77).
//!
//! In the absorbing graph a known token is one that is not masked from the start, and conditioning on it is exact when one token is
//! uncovered at a time. In a graph without a mask the known tokens are held, which is biased at any number of steps.

use super::Graph;
use crate::error::{Error, Result};

/// Which symbols each of `L` tokens may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    /// For each token nothing, or whether each of the K symbols is allowed.
    allowed: Vec<Option<Vec<bool>>>,
    known: Vec<Option<u32>>,
}

impl Constraint {
    /// Fills the holes around known tokens: `None` is a hole.
    ///
    /// * `known` — `[L]`, each below `symbols`
    ///
    /// # Errors
    /// [`Error::Usage`] for a token that is no symbol.
    pub fn infill(known: Vec<Option<u32>>, symbols: usize) -> Result<Constraint> {
        let sets = known.iter().map(|token| token.map(|token| vec![token]));
        Constraint::sets(sets.collect(), symbols)
    }

    /// Restricts tokens to sets of symbols: `None` leaves a token free, a set of one makes it known.
    ///
    /// * `sets` — `[L]`, each with symbols below `symbols`, at least one
    ///
    /// # Errors
    /// [`Error::Usage`] for a token that is no symbol, or an empty set.
    pub fn sets(sets: Vec<Option<Vec<u32>>>, symbols: usize) -> Result<Constraint> {
        let (mut allowed, mut known) = (Vec::new(), Vec::new());
        for (l, set) in sets.into_iter().enumerate() {
            let Some(set) = set else {
                allowed.push(None);
                known.push(None);
                continue;
            };
            if let Some(bad) = set.iter().find(|token| **token as usize >= symbols) {
                let text = format!("constraint: expected symbols below {symbols}, got {bad} at token {l}");
                return Err(Error::Usage(text));
            }
            let Some(first) = set.first() else {
                return Err(Error::Usage(format!(
                    "constraint: no symbol is allowed at token {l}; leave it free instead"
                )));
            };
            known.push(set.iter().all(|token| token == first).then_some(*first));
            allowed.push(Some((0..symbols as u32).map(|token| set.contains(&token)).collect()));
        }
        Ok(Constraint { allowed, known })
    }

    /// L.
    pub fn length(&self) -> usize {
        self.known.len()
    }

    /// The one value that token `l` may take, where there is one.
    pub fn known(&self, l: usize) -> Option<u32> {
        self.known[l]
    }

    /// Puts the known tokens into `x`, `[L]`, and gives other values to tokens whose own are not allowed: the first allowed symbol, unless
    /// the token is masked.
    pub fn project(&self, x: &mut [u32], graph: &dyn Graph) {
        for (l, token) in x.iter_mut().enumerate() {
            let Some(allowed) = &self.allowed[l] else { continue };
            let is_open = graph.mask() == Some(*token) && self.known[l].is_none();
            if !is_open && !allowed.get(*token as usize).is_some_and(|is_allowed| *is_allowed) {
                *token = allowed.iter().position(|is_allowed| *is_allowed).unwrap_or(0) as u32;
            }
        }
    }

    /// Takes the weight from the symbols that token `l` may not be. `weights` are `[S]`; that of a mask stays.
    pub fn restrict(&self, l: usize, weights: &mut [f64]) {
        let Some(allowed) = &self.allowed[l] else { return };
        let banned = weights.iter_mut().zip(allowed).filter(|(_, is_allowed)| !**is_allowed);
        banned.for_each(|(weight, _)| *weight = 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discrete::{Absorbing, Uniform};

    #[test]
    fn known_tokens_are_put_in_and_sets_restrict_what_is_drawn() {
        let sets = vec![Some(vec![2]), None, Some(vec![0, 2])];
        let constraint = Constraint::sets(sets, 3).unwrap();
        assert_eq!((constraint.known(0), constraint.known(1), constraint.known(2)), (Some(2), None, None));
        let masking = Absorbing::new(3).unwrap();
        let mut x = [3, 3, 3];
        constraint.project(&mut x, &masking);
        assert_eq!(x, [2, 3, 3]);
        let mut x = [0, 1, 1];
        constraint.project(&mut x, &Uniform::new(3).unwrap());
        assert_eq!(x, [2, 1, 0]);
        let mut weights = [0.2, 0.3, 0.4, 0.1];
        constraint.restrict(2, &mut weights);
        assert_eq!(weights, [0.2, 0.0, 0.4, 0.1]);
        assert!(Constraint::infill(vec![Some(3)], 3).unwrap_err().to_string().contains("got 3 at token 0"));
        assert!(Constraint::sets(vec![Some(vec![])], 3).is_err());
    }
}
