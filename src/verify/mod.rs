//! The theory's identities as measurements: each has an id, a claim, a number measured with this crate's own code, and a bound.
//!
//! Ids begin with `item N` of the inventory in docs/math.md and name the lecture documents' equations: `item 38 S3.eq82`. A formula that the
//! documents print wrong is an identity too: as printed it must miss by at least its bound, and its id ends in `misprint`.
//!
//! ```
//! let outcomes = tweedie::verify::run(&["item 10".to_string()], &mut |_| {})?;
//! assert!(!outcomes.is_empty() && outcomes.iter().all(|o| o.pass));
//! # Ok::<(), tweedie::Error>(())
//! ```

mod basics;
mod chain;
mod ddim;
mod denoising;
mod discrete;
mod guidance;
mod likelihood;
mod losses;
mod measure;
mod network;
mod ode;
mod one_dim;
mod sde;
mod table;
mod ve;
mod vp;
mod vp_posterior;
mod vp_sampling;

use crate::error::{Error, Result, nearest};
use serde::Serialize;
use std::time::Instant;

/// What a measured number must satisfy. A number that is not finite satisfies nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// An error: at most this.
    AtMost(f64),
    /// How far a wrong formula must miss: at least this.
    AtLeast(f64),
}

impl Bound {
    /// Whether `measured` satisfies it.
    pub fn holds(self, measured: f64) -> bool {
        match self {
            Bound::AtMost(bound) => measured.is_finite() && measured <= bound,
            Bound::AtLeast(bound) => measured.is_finite() && measured >= bound,
        }
    }

    fn value(self) -> f64 {
        match self {
            Bound::AtMost(bound) | Bound::AtLeast(bound) => bound,
        }
    }

    fn relation(self) -> &'static str {
        match self {
            Bound::AtMost(_) => "<=",
            Bound::AtLeast(_) => ">=",
        }
    }
}

/// One identity.
pub struct Identity {
    /// `item N`, then the equations, then what tells it from others of the same item.
    pub id: &'static str,
    /// What it says, in one line.
    pub claim: &'static str,
    /// What the measured number must satisfy.
    pub bound: Bound,
    /// Measures it.
    pub measure: fn() -> Result<f64>,
}

/// A measured identity.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The identity's id.
    pub id: &'static str,
    /// Its claim.
    pub claim: &'static str,
    /// The number; not finite where it could not be measured.
    pub measured: f64,
    /// `<=` or `>=`.
    pub relation: &'static str,
    /// The bound.
    pub bound: f64,
    /// Whether the number satisfies it.
    pub pass: bool,
    /// Seconds it took.
    pub seconds: f64,
    /// Why it could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// All identities, by item.
pub fn all() -> Vec<Identity> {
    let parts = [
        basics::IDENTITIES,
        ve::IDENTITIES,
        denoising::IDENTITIES,
        vp::IDENTITIES,
        vp_posterior::IDENTITIES,
        vp_sampling::IDENTITIES,
        ode::IDENTITIES,
        network::IDENTITIES,
    ];
    let parts = parts
        .into_iter()
        .chain(sde::PARTS)
        .chain(ddim::PARTS)
        .chain(losses::PARTS)
        .chain(likelihood::PARTS)
        .chain(guidance::PARTS)
        .chain(discrete::PARTS);
    let mut list: Vec<Identity> = parts.flatten().map(Identity::copy).collect();
    list.sort_by_key(|identity| item_number(identity.id));
    list
}

impl Identity {
    fn copy(&self) -> Identity {
        Identity { ..*self }
    }

    /// Whether a query names it: `item 38`, `38`, an equation `S3.eq82`, or a part of the id that ends at a word's end.
    fn matches(&self, query: &str) -> bool {
        let query = query.trim().to_ascii_lowercase();
        let id = self.id.to_ascii_lowercase();
        if !query.is_empty() && query.bytes().all(|b| b.is_ascii_digit()) {
            return item_number(self.id).to_string() == query;
        }
        let is_boundary = |byte: Option<&u8>| byte.is_none_or(|b| !b.is_ascii_alphanumeric());
        !query.is_empty()
            && id.match_indices(&query).any(|(at, _)| {
                let before = at.checked_sub(1).and_then(|at| id.as_bytes().get(at));
                is_boundary(before) && is_boundary(id.as_bytes().get(at + query.len()))
            })
    }

    /// Measures it. What cannot be measured fails.
    pub fn run(&self) -> Outcome {
        let begin = Instant::now();
        let (measured, error) = match (self.measure)() {
            Ok(measured) => (measured, None),
            Err(e) => (f64::NAN, Some(e.to_string())),
        };
        Outcome {
            id: self.id,
            claim: self.claim,
            measured,
            relation: self.bound.relation(),
            bound: self.bound.value(),
            pass: self.bound.holds(measured),
            seconds: begin.elapsed().as_secs_f64(),
            error,
        }
    }
}

/// N of `item N …`.
fn item_number(id: &str) -> usize {
    id.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
}

/// The identities that the queries name, each once; all for no query. An equation or item that no id names itself stands for the items
/// whose row in docs/math.md names it.
///
/// # Errors
/// [`Error::Usage`] for a query that names none, with the nearest id.
pub fn select(queries: &[String]) -> Result<Vec<Identity>> {
    let list = all();
    let mut items = Vec::new();
    for query in queries {
        if list.iter().any(|identity| identity.matches(query)) {
            continue;
        }
        let found = table::items_of(query);
        if found.is_empty() {
            // Only equations are guessed at: the other words of ids say little alone.
            let words = list.iter().flat_map(|identity| identity.id.split_whitespace()).filter(|w| w.contains(".eq"));
            let hint = nearest(query, words).map(|word| format!(" — did you mean \"{word}\"?")).unwrap_or_default();
            return Err(Error::Usage(format!("verify {query}: no identity has this id; --list shows all{hint}")));
        }
        items.extend(found);
    }
    let is_asked = |identity: &Identity| {
        queries.is_empty() || queries.iter().any(|q| identity.matches(q)) || items.contains(&item_number(identity.id))
    };
    let asked: Vec<Identity> = list.into_iter().filter(is_asked).collect();
    if asked.is_empty() {
        let names = queries.join(", ");
        return Err(Error::Usage(format!(
            "verify {names}: nothing to measure; it is proved by tests alone, see docs/math.md"
        )));
    }
    Ok(asked)
}

/// Measures the identities that the queries name, or all, calling `each` after each.
///
/// # Errors
/// As [`select`].
pub fn run(queries: &[String], each: &mut dyn FnMut(&Outcome)) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for identity in select(queries)? {
        let outcome = identity.run();
        each(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_begin_with_their_item_and_are_found_by_item_equation_and_word() {
        let list = all();
        let mut ids: Vec<&str> = list.iter().map(|identity| identity.id).collect();
        assert!(ids.iter().all(|id| id.starts_with("item ") && item_number(id) < 200), "{ids:?}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), list.len());
        let identity =
            Identity { id: "item 38 S3.eq82 density", claim: "", bound: Bound::AtMost(0.0), measure: || Ok(0.0) };
        for query in ["item 38", "38", "S3.eq82", "s3.EQ82", "density", "item 38 S3.eq82 density"] {
            assert!(identity.matches(query), "{query}");
        }
        for query in ["item 3", "3", "8", "S3.eq8", "S3.eq821", "dens", ""] {
            assert!(!identity.matches(query), "{query}");
        }
        assert!(select(&["item 9999".into()]).is_err());
        // Named by a range, by the table's row, and by its own id.
        for (query, item) in [("S3.eq3", 5), ("S3.eq8", 10), ("s3.eq130", 14), ("S3.eq88", 38), ("item 44", 44)] {
            let found = select(&[query.into()]).unwrap();
            assert!(found.iter().any(|identity| item_number(identity.id) == item), "{query}");
        }
        assert!(select(&["S3.eq999".into()]).is_err());
    }

    #[test]
    fn a_number_that_is_not_finite_satisfies_no_bound() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(!Bound::AtMost(1.0).holds(bad) && !Bound::AtLeast(0.0).holds(bad));
        }
        assert!(Bound::AtMost(1.0).holds(1.0) && !Bound::AtMost(1.0).holds(1.1));
        assert!(Bound::AtLeast(1.0).holds(1.0) && !Bound::AtLeast(1.0).holds(0.9));
    }
}
