//! What a network of tokens is trained on: the losses by name.

use super::{Graph, Head};
use crate::error::{Error, Result, unknown_name};
use serde::{Deserialize, Serialize};

/// A training loss. Those of ratios train a [`Head::LogRatios`], the others a [`Head::LogClean`]. r is the conditional ratio p(y|x0)/p(x|x0), whose
/// mean given x is the true one: a loss whose least value is at the true ratio keeps it with r in its place (item 72). Only pairs are summed along
/// which noise moves, from y into x: elsewhere no ratio is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Denoising score entropy, each pair at its rate σ(t)·R: the bound itself (Lou, Meng & Ermon 2024, eq. 9).
    Dse,
    /// Implicit score entropy at the same rates: without x0, but with a second evaluation, at one neighbour of each sequence (item 71).
    Ise,
    /// Score entropy with every pair at weight 1.
    Se,
    /// Concrete score matching (s − r)² at the rates over the largest r, which keeps the sum finite (Meng et al. 2022).
    Csm,
    /// The bound of a chain of so many steps and a share of cross-entropy (D3PM: Austin et al. 2021, eq. 5), on either graph.
    D3pm,
    /// The masked bound, of a graph with a mask by its definition: cross-entropy of masked tokens at the rate of uncovering (Sahoo et al. 2024, eq. 10).
    Mdlm,
}

impl Objective {
    /// All names.
    pub const NAMES: [&str; 6] = ["dse", "ise", "se", "csm", "d3pm", "mdlm"];

    /// Reads a name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str) -> Result<Objective> {
        use Objective::{Csm, D3pm, Dse, Ise, Mdlm, Se};
        let found = [Dse, Ise, Se, Csm, D3pm, Mdlm].into_iter().find(|loss| loss.name() == name);
        found.ok_or_else(|| unknown_name("loss", name, &Objective::NAMES))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Objective::NAMES[self as usize]
    }

    /// What a network that is trained on it returns.
    pub fn head(self) -> Head {
        match self {
            Objective::Dse | Objective::Ise | Objective::Se | Objective::Csm => Head::LogRatios,
            Objective::D3pm | Objective::Mdlm => Head::LogClean,
        }
    }

    /// Refuses a graph that it does not fit.
    ///
    /// # Errors
    /// [`Error::Usage`] for the masked bound without a mask.
    pub fn check(self, graph: &dyn Graph) -> Result<()> {
        if self == Objective::Mdlm && graph.mask().is_none() {
            let graph = graph.name();
            return Err(Error::Usage(format!(
                "--loss mdlm: expected a graph with a mask, being its bound by definition, got {graph}; use --graph absorbing, or --loss d3pm"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discrete::{Absorbing, Uniform};

    #[test]
    fn names_are_read_and_the_masked_bound_alone_wants_a_mask() {
        for name in Objective::NAMES {
            let loss = Objective::from_name(name).unwrap();
            assert_eq!(loss.name(), name);
            assert!(loss.check(&Absorbing::new(3).unwrap()).is_ok());
            assert_eq!(loss.check(&Uniform::new(3).unwrap()).is_ok(), loss != Objective::Mdlm, "{name}");
        }
        assert!(Objective::from_name("mlm").unwrap_err().to_string().contains("did you mean \"mdlm\"?"));
    }
}
