//! The engine: which sampler, with what settings, and the packing of many sequences into few evaluations.

use super::grid::{GridWalk, Rule};
use super::jumps::Thinning;
use super::masked::{Cached, Unmasking};
use crate::discrete::{ConcreteScore, Constraint, Graph, Noise, Tokens, View, categorical, check_model};
use crate::error::{Error, Result, unknown_name};
use crate::rng::{Address, Purpose};

/// The samplers by their command-line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSampler {
    /// Tau-leaping: rates held over a step, tokens independent; error O(h) (Campbell et al. 2022; Lou, Meng & Ermon 2024).
    Euler,
    /// Bayes' rule for each token over a step, from ratios (Lou, Meng & Ermon 2024, theorem 4.2).
    Analytic,
    /// The same from the probabilities of clean tokens (D3PM: Austin et al. 2021, eq. 4).
    Ancestral,
    /// [`TokenSampler::Ancestral`] in a masking graph with a time-free model, without the evaluations that change nothing (Sahoo et al. 2024).
    Cached,
    /// One jump at a time, with no error of a step size: closed unmasking times where there is a mask, else thinning (Gillespie 1977).
    Gillespie,
}

impl TokenSampler {
    /// All samplers.
    pub const ALL: [TokenSampler; 5] = [
        TokenSampler::Euler,
        TokenSampler::Analytic,
        TokenSampler::Ancestral,
        TokenSampler::Cached,
        TokenSampler::Gillespie,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            TokenSampler::Euler => "tau_leaping",
            TokenSampler::Analytic => "analytic",
            TokenSampler::Ancestral => "d3pm",
            TokenSampler::Cached => "cached",
            TokenSampler::Gillespie => "gillespie",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str) -> Result<TokenSampler> {
        let known = TokenSampler::ALL.map(TokenSampler::name);
        let found = TokenSampler::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| unknown_name("sampler", name, &known))
    }
}

/// What a run over sequences is told.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenSamplerOptions {
    /// Equal steps of t from 1 down to `t_min`; of no meaning to gillespie.
    pub steps: usize,
    /// Where the reverse process stops, in [0, 1).
    pub t_min: f64,
    /// Whether noise that is left at `t_min` is taken out in one step of Bayes' rule for each token.
    pub denoise: bool,
    /// The seed.
    pub seed: u64,
    /// The most sequences in one evaluation.
    pub batch: usize,
    /// What tokens may be.
    pub constraint: Option<Constraint>,
}

impl Default for TokenSamplerOptions {
    fn default() -> TokenSamplerOptions {
        TokenSamplerOptions { steps: 256, t_min: 0.0, denoise: true, seed: 0, batch: 16, constraint: None }
    }
}

/// What came out, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// `[n, L]`.
    pub tokens: Tokens,
    /// Evaluations of each sequence.
    pub evaluations: Vec<usize>,
    /// Calls of the model.
    pub batches: usize,
}

/// What all walks of a run share.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) graph: &'a dyn Graph,
    pub(super) noise: Noise,
    pub(super) options: &'a TokenSamplerOptions,
}

impl Setting<'_> {
    /// Time after `step` of the steps.
    pub(super) fn time(&self, step: usize) -> f64 {
        let (t_min, steps) = (self.options.t_min, self.options.steps);
        if step >= steps { t_min } else { 1.0 - (1.0 - t_min) * step as f64 / steps as f64 }
    }

    /// Whether token `l` may change at all.
    pub(super) fn is_free(&self, l: usize) -> bool {
        self.options.constraint.as_ref().is_none_or(|constraint| constraint.known(l).is_none())
    }

    /// Draws token `l` from weights over the S states, as far as the constraint allows.
    pub(super) fn draw(&self, l: usize, word: u64, weights: &mut [f64]) -> Result<u32> {
        if let Some(constraint) = &self.options.constraint {
            constraint.restrict(l, weights);
        }
        match categorical(word, weights) {
            Some(token) => Ok(token as u32),
            None => Err(Error::NonFinite(format!(
                "sampler: expected probabilities with a positive sum at token {l}, got {weights:?}; the constraint may rule out all that the model knows"
            ))),
        }
    }
}

/// One sequence on its way.
pub(super) trait Walk {
    /// Takes all moves that need no evaluation; then the time at which the model is wanted, or `None` at the end.
    fn next(&mut self) -> Result<Option<f64>>;

    /// The sequence as it is.
    fn tokens(&self) -> &[u32];

    /// Takes the moves that an evaluation at the time that `next` gave allows.
    fn advance(&mut self, view: &View<'_>) -> Result<()>;
}

/// Draws sequences.
///
/// * `model` — with the states of `graph`
/// * `start` — `[n, L]` at t = 1, or `None` for draws from the prior π, of `length` tokens
/// * `samples` — index of each sequence: its randomness depends on the seed and that alone
/// * `watch` — called with the index of a sequence in the run, and its tokens, after each of its moves
///
/// # Errors
/// [`Error::Usage`] if model and graph disagree or a setting is out of range; those of the model.
pub fn sample_tokens(
    kind: TokenSampler,
    model: &dyn ConcreteScore,
    (graph, noise): (&dyn Graph, Noise),
    length: usize,
    samples: &[u32],
    start: Option<&Tokens>,
    options: &TokenSamplerOptions,
    watch: &mut dyn FnMut(usize, &[u32]) -> Result<()>,
) -> Result<Sampled> {
    check(kind, model, graph, noise, length, options)?;
    let setting = Setting { graph, noise, options };
    if let Some(start) = start
        && (start.rows() != samples.len() || start.length() != length)
    {
        let (rows, length_got, n) = (start.rows(), start.length(), samples.len());
        return Err(Error::Shape(format!("start: expected {n} rows of {length} tokens, got {rows} of {length_got}")));
    }
    let begin = |row: usize| -> Result<Box<dyn Walk + '_>> {
        let x = match start {
            Some(start) => start.row(row).to_vec(),
            None => draw_prior(graph, length, Address::new(options.seed, Purpose::Start).sample(samples[row] as usize)),
        };
        let mut x = x;
        if let Some(constraint) = &options.constraint {
            constraint.project(&mut x, graph);
        }
        let address = Address::new(options.seed, Purpose::ReverseStep).sample(samples[row] as usize);
        Ok(match (kind, graph.mask()) {
            (TokenSampler::Euler, _) => Box::new(GridWalk::new(setting, Rule::Euler, x, address)),
            (TokenSampler::Analytic, _) => Box::new(GridWalk::new(setting, Rule::Analytic, x, address)),
            (TokenSampler::Ancestral, _) => Box::new(GridWalk::new(setting, Rule::Ancestral, x, address)),
            (TokenSampler::Cached, _) => Box::new(Cached::new(setting, x, address)),
            (TokenSampler::Gillespie, Some(mask)) => Box::new(Unmasking::new(setting, mask, x, address)),
            (TokenSampler::Gillespie, None) => Box::new(Thinning::new(setting, x, address)?),
        })
    };
    drive(model, setting, length, samples.len(), &begin, watch)
}

fn check(
    kind: TokenSampler,
    model: &dyn ConcreteScore,
    graph: &dyn Graph,
    noise: Noise,
    length: usize,
    options: &TokenSamplerOptions,
) -> Result<()> {
    noise.check()?;
    check_model(model, graph)?;
    let fail = |text: String| Err(Error::Usage(text));
    if options.steps == 0 || options.batch == 0 || length == 0 {
        let TokenSamplerOptions { steps, batch, .. } = options;
        return fail(format!(
            "sampler: expected steps, batch and length of at least 1, got {steps}, {batch}, {length}"
        ));
    }
    if !(0.0..1.0).contains(&options.t_min) {
        return fail(format!("sampler: expected t_min in [0, 1), got {}", options.t_min));
    }
    if let Some(constraint) = &options.constraint
        && constraint.length() != length
    {
        return fail(format!("constraint: expected {length} tokens, got {}", constraint.length()));
    }
    if kind == TokenSampler::Cached && !(model.is_time_free() && graph.mask().is_some()) {
        let text =
            "cached sampler: expected a graph with a mask and a model that is not told the time; use d3pm or analytic";
        return fail(text.into());
    }
    Ok(())
}

/// x_T `[L]` from π.
fn draw_prior(graph: &dyn Graph, length: usize, address: Address) -> Vec<u32> {
    let prior = graph.prior();
    (0..length).map(|l| categorical(address.word(l), &prior).unwrap_or(0) as u32).collect()
}

/// A walk and the row of the result that it fills.
type Slot<'a> = (usize, Box<dyn Walk + 'a>);

/// Keeps up to `batch` walks under way, and evaluates together all that wait. A walk that ends makes room for the next one.
fn drive<'a>(
    model: &dyn ConcreteScore,
    setting: Setting<'_>,
    length: usize,
    rows: usize,
    begin: &dyn Fn(usize) -> Result<Box<dyn Walk + 'a>>,
    watch: &mut dyn FnMut(usize, &[u32]) -> Result<()>,
) -> Result<Sampled> {
    let row_len = length * setting.graph.states();
    let (mut result, mut evaluations, mut batches) = (vec![0; rows * length], vec![0; rows], 0);
    let (mut slots, mut started): (Vec<Slot<'a>>, usize) = (Vec::new(), 0);
    let mut values = Vec::new();
    loop {
        let (mut waiting, mut times): (Vec<Slot<'a>>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut queue = std::mem::take(&mut slots).into_iter();
        while waiting.len() < setting.options.batch {
            let (row, mut walk) = match queue.next() {
                Some(slot) => slot,
                None if started < rows => {
                    started += 1;
                    (started - 1, begin(started - 1)?)
                }
                None => break,
            };
            match walk.next()? {
                Some(time) => {
                    waiting.push((row, walk));
                    times.push(time);
                }
                None => result[row * length..][..length].copy_from_slice(walk.tokens()),
            }
        }
        if waiting.is_empty() {
            let tokens = Tokens::new(result, length)?;
            return Ok(Sampled { tokens, evaluations, batches });
        }
        let tokens = waiting.iter().flat_map(|(_, walk)| walk.tokens().iter().copied()).collect();
        let sigma_bar: Vec<f64> = times.iter().map(|t| setting.noise.sigma_bar(*t)).collect();
        values.resize(waiting.len() * row_len, 0.0);
        model.evaluate(&Tokens::new(tokens, length)?, &sigma_bar, &mut values)?;
        batches += 1;
        for (i, (row, walk)) in waiting.iter_mut().enumerate() {
            evaluations[*row] += 1;
            let x = walk.tokens().to_vec();
            let values = &values[i * row_len..][..row_len];
            let view = View { graph: setting.graph, head: model.head(), x: &x, sigma_bar: sigma_bar[i], values };
            walk.advance(&view)?;
            watch(*row, walk.tokens())?;
        }
        slots = waiting;
    }
}
