//! The settings of a run on tokens.

use super::TrainConfig;
use crate::data::{TokenData, TokenizerKind};
use crate::discrete::{GraphKind, Noise, Objective};
use crate::error::{Error, Result};
use crate::io::token_folder::TokenScheduler;
use crate::nn::TransformerConfig;

/// Channels of the embedded noise level where the graph wants one and the settings do not say.
const COND_DIM: usize = 128;
/// Beyond this a block's attention does it better.
const MOST_NEIGHBOURS: usize = 15;

impl TrainConfig {
    /// Whether the run is one on tokens: it has a graph.
    pub fn has_tokens(&self) -> bool {
        !self.graph.is_empty()
    }

    /// How a text becomes tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown name.
    pub fn tokenizer(&self) -> Result<TokenizerKind> {
        TokenizerKind::from_name(&self.tokenizer)
    }

    /// The loss: the one that is set, or what the graph is usually trained on, masked cross-entropy where there is a mask, else score entropy.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown name.
    pub fn objective(&self) -> Result<Objective> {
        match (self.loss.as_str(), GraphKind::from_name(&self.graph)?) {
            ("", GraphKind::Absorbing) => Ok(Objective::Mdlm),
            ("", GraphKind::Uniform) => Ok(Objective::Dse),
            (name, _) => Objective::from_name(name),
        }
    }

    /// Graph and noise on `symbols` symbols, and what the network returns.
    ///
    /// # Errors
    /// [`Error::Usage`] for unknown names, fewer than 2 symbols, or a loss that does not fit the graph.
    pub fn token_scheduler(&self, symbols: usize) -> Result<TokenScheduler> {
        let kind = GraphKind::from_name(&self.graph)?;
        let graph = kind.build(symbols)?;
        let noise = Noise::from_name(&self.token_noise, graph.mask().is_some())?;
        // A token that is not masked at t = 1 contradicts a prior of masks alone: the bound would be infinite.
        if graph.mask().is_some() && noise.survival(1.0) > 0.0 {
            let (name, graph) = (noise.name(), graph.name());
            return Err(Error::Usage(format!(
                "token_noise = \"{name}\": expected noise that masks every token by t = 1 on the {graph} graph; use log_linear or cosine, or --graph uniform"
            )));
        }
        let objective = self.objective()?;
        objective.check(&*graph)?;
        Ok(TokenScheduler { graph: kind, symbols, noise, head: objective.head() })
    }

    /// The network for sequences of `length` tokens; those of an image have places.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sizes do not fit together.
    pub fn transformer(
        &self,
        scheduler: &TokenScheduler,
        length: usize,
        image: Option<[usize; 3]>,
    ) -> Result<TransformerConfig> {
        let states = scheduler.build_graph()?.states();
        let cond_dim = match (self.cond_dim, scheduler.graph) {
            (0, GraphKind::Absorbing) => None,
            (0, GraphKind::Uniform) => Some(COND_DIM),
            (cond_dim, _) => Some(cond_dim),
        };
        let config = TransformerConfig {
            tokens: states,
            outputs: scheduler.symbols,
            length,
            width: self.width,
            depth: self.depth,
            heads: self.heads,
            mlp_ratio: self.mlp_ratio,
            cond_dim,
            dropout: self.dropout,
            rotary_base: self.rotary_base,
            position_embed: image.is_some(),
            neighbours: self.neighbour_distances(image),
            ..TransformerConfig::default()
        };
        config.validate().map_err(|e| Error::Usage(format!("settings: {e}")))?;
        Ok(config)
    }

    /// Tokens at most `neighbours` away; in an image along each axis.
    fn neighbour_distances(&self, image: Option<[usize; 3]>) -> Vec<i32> {
        let reach = self.neighbours as i32;
        let others = |distance: &i32| *distance != 0;
        match image {
            None => (-reach..=reach).filter(others).collect(),
            Some([_, w, c]) => {
                let (row, pixel) = ((w * c) as i32, c as i32);
                let places = (-reach..=reach).flat_map(|y| (-reach..=reach).map(move |x| y * row + x * pixel));
                places.filter(others).collect()
            }
        }
    }

    /// The times that training draws: away from 0, where the weights of most losses grow without bound.
    pub fn token_times(&self) -> Result<(f64, f64)> {
        let least = self.least_time().unwrap_or(1e-3);
        if !(0.0..0.5).contains(&least) {
            return Err(Error::Usage(format!("t_min = {least}: expected at least 0 and below 0.5, or -1 for 0.001")));
        }
        Ok((least, 1.0))
    }

    /// Checks the settings of tokens, and that a run without them has none of theirs.
    pub(super) fn check_tokens(&self) -> Result<()> {
        let bad = |text: String| Err(Error::Usage(text));
        if !self.has_tokens() {
            if !self.loss.is_empty() {
                let loss = &self.loss;
                return bad(format!("--loss {loss}: is one of tokens; add --graph absorbing or --graph uniform"));
            }
            return Ok(());
        }
        if self.task != "diffusion" && TokenData::is_text(&self.data) {
            return bad(format!(
                "--task {}: expected images with classes, got a text, --data {}",
                self.task, self.data
            ));
        }
        if self.task != "diffusion" {
            return bad(format!("--graph {}: has no meaning for --task {}", self.graph, self.task));
        }
        self.tokenizer()?;
        if self.neighbours > MOST_NEIGHBOURS {
            return bad(format!("neighbours = {}: expected at most {MOST_NEIGHBOURS}", self.neighbours));
        }
        if self.length == 0 {
            return bad("--length 0: expected at least 1".into());
        }
        let (symbols, length) = (2, self.length);
        let scheduler = self.token_scheduler(symbols)?;
        self.transformer(&scheduler, length, None)?;
        self.token_times()?;
        if !(self.time_power >= 1.0 && self.time_power.is_finite()) {
            return bad(format!("time_power = {}: expected at least 1", self.time_power));
        }
        if self.chain_steps == 0 {
            return bad("chain_steps = 0: expected at least 1".into());
        }
        if !(self.auxiliary >= 0.0 && self.auxiliary.is_finite()) {
            return bad(format!("auxiliary = {}: expected a number not below 0", self.auxiliary));
        }
        if self.precision != "f32" {
            return bad(format!("--precision {}: the transformer computes in f32 alone", self.precision));
        }
        if !["uniform", "stratified"].contains(&self.time_sampling.as_str()) {
            let given = &self.time_sampling;
            return bad(format!("time_sampling = {given}: expected uniform or stratified for a run on tokens"));
        }
        Ok(())
    }
}

// Settings that runs of older versions do not have.
pub(super) fn default_token_noise() -> String {
    "log_linear".into()
}

pub(super) fn default_tokenizer() -> String {
    "letters".into()
}

pub(super) fn default_length() -> usize {
    128
}

pub(super) fn default_width() -> usize {
    256
}

pub(super) fn default_depth() -> usize {
    4
}

pub(super) fn default_heads() -> usize {
    4
}

pub(super) fn default_mlp_ratio() -> usize {
    4
}

pub(super) fn default_rotary_base() -> f64 {
    10_000.0 // Su et al. 2021
}

pub(super) fn default_time_power() -> f64 {
    1.0
}

pub(super) fn default_chain_steps() -> u64 {
    1000 // Austin et al. 2021, section 6
}

pub(super) fn default_auxiliary() -> f64 {
    1e-3 // Austin et al. 2021, appendix B
}
