//! Denoising score entropy (Lou, Meng & Ermon 2024, eqs. 5 and 7) of log-scores:
//! L = Σ_r w_r·Σ_{y ≠ x_t} (e^s_y − r_y·s_y + r_y·(ln r_y − 1)),  r_y = p_{t|0}(y|x0)/p_{t|0}(x_t|x0).
//!
//! Form     with δ = s − ln r a term is r·(e^δ − 1 − δ), never negative, 0 exactly at s = ln r, and computed so: the differences of large
//!          numbers never arise. Near δ = 0 it is a series. Where r = 0 the term is e^s. A row may have another form: [`ScoreForm`].
//! Saved    log-scores (shared), and of each row its states, weight and ratios.
//! Cost     log-scores are read once forward; once backward, which writes their gradient. Rows of weight 0 are not read.
//! Order    a row's sum runs in sixteen lanes; rows are added in f64 in order.
//! Kernels  `kernels/score_entropy.cu`.

#[doc(hidden)]
pub mod cases;
mod cpu;
mod cuda;

use crate::device::{Device, Scratch};
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::Tensor;

/// What a row sums over y ≠ x_t.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScoreForm {
    /// e^s − r·s + r·(ln r − 1), the score entropy; with r = 0 throughout the first half of its implicit form.
    #[default]
    Entropy,
    /// (e^s − r)²: concrete score matching (Meng et al. 2022), with a ratio that cannot be negative.
    Squares,
    /// −r·s: the second half of the implicit form, at a neighbour of the sequence.
    Log,
}

/// What the loss of one token needs to know: where it is, where it came from, and the ratios of the graph that took it there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreTerm {
    /// The noised state; one beyond the columns of the log-scores stands for a state that has none.
    pub x_t: u32,
    /// The clean state, a column of the log-scores.
    pub x0: u32,
    /// w, at least 0; a row of weight 0 costs nothing.
    pub weight: f64,
    /// r of y = x0, at least 0.
    pub ratio_x0: f64,
    /// r of every other y, at least 0.
    pub ratio_rest: f64,
    /// What is summed.
    pub form: ScoreForm,
}

impl ScoreTerm {
    /// The absorbing graph: only a masked token has a term, with r = 1/(e^σ̄ − 1) at x0 and 0 elsewhere.
    ///
    /// `expm1_sigma` is e^σ̄ − 1 > 0 of the total noise σ̄, `rate` the noise rate that weighs the term in the ELBO.
    pub fn absorbing(x_t: u32, x0: u32, mask: u32, expm1_sigma: f64, rate: f64) -> ScoreTerm {
        let weight = if x_t == mask { rate } else { 0.0 };
        ScoreTerm { x_t, x0, weight, ratio_x0: 1.0 / expm1_sigma, ratio_rest: 0.0, form: ScoreForm::Entropy }
    }

    /// The uniform graph of `k` states, whose rates from each state to each other are `rate`/k: r = ρ for every y where x_t = x0; else
    /// 1/ρ at x0 and 1 elsewhere; ρ = (e^σ̄ − 1)/(e^σ̄ − 1 + k).
    pub fn uniform(x_t: u32, x0: u32, k: usize, expm1_sigma: f64, rate: f64) -> ScoreTerm {
        let ratio = expm1_sigma / (expm1_sigma + k as f64);
        let (ratio_x0, ratio_rest) = if x_t == x0 { (ratio, ratio) } else { (1.0 / ratio, 1.0) };
        ScoreTerm { x_t, x0, weight: rate / k as f64, ratio_x0, ratio_rest, form: ScoreForm::Entropy }
    }
}

/// The sum of the rows' weighted score entropies, or what their [`ScoreForm`] says, and each row's.
///
/// * `log_scores` — `[…, k]`, f32: ln of the concrete score p_t(y)/p_t(x_t); the column of x_t is not read
/// * `terms` — one for each row
///
/// Returns `[1]`, f32, and the rows `[rows]`, f64, both on the device of `log_scores`. The first is differentiable in `log_scores`.
///
/// # Errors
/// [`Error::Shape`] if there is not one term for each row, or x0 is no column; [`Error::Usage`] if a weight or a ratio is negative or not finite.
///
/// # Example
/// ```
/// use tweedie::{ops::{ScoreTerm, score_entropy}, tensor::Tensor};
/// // A mask over state 1 of two, of which the network gives state 0 no weight: at the true ratio the loss is 0.
/// let scores = Tensor::from_slice(&[-80.0_f32, 0.5_f32.ln()], [1, 2])?;
/// let (loss, _) = score_entropy(&scores, &[ScoreTerm::absorbing(2, 1, 2, 2.0, 1.0)])?;
/// assert!(loss.to_vec::<f32>()?[0].abs() < 1e-12);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn score_entropy(log_scores: &Tensor, terms: &[ScoreTerm]) -> Result<(Tensor, Tensor)> {
    let shape = log_scores.shape();
    let k = shape.last_size();
    if shape.len() < 2 || k == 0 {
        return Err(Error::Shape(format!("score_entropy: log_scores want [rows,k] with k at least 1, got {shape}")));
    }
    let rows = log_scores.count() / k;
    if terms.len() != rows {
        let got = terms.len();
        return Err(Error::Shape(format!("score_entropy: {rows} rows of log_scores want as many terms, got {got}")));
    }
    let mut table = Scratch::<Row>::take(rows);
    for (at, (row, term)) in table.iter_mut().zip(terms).enumerate() {
        if term.x0 as usize >= k {
            return Err(Error::Shape(format!("score_entropy: x0 = {} of row {at} is outside {k} columns", term.x0)));
        }
        for (name, value) in [("weight", term.weight), ("ratio_x0", term.ratio_x0), ("ratio_rest", term.ratio_rest)] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::Usage(format!(
                    "score_entropy: {name} = {value} of row {at}: expected a finite number of at least 0"
                )));
            }
        }
        *row = Row::new(term);
    }
    let (loss, per_row) = match log_scores.device() {
        Device::Cpu => cpu::forward(log_scores, &table)?,
        Device::Cuda(index) => cuda::forward(index, log_scores, &table)?,
    };
    let loss =
        tape::push(loss, &[log_scores], || Box::new(ScoreEntropy { log_scores: log_scores.clone(), rows: table }));
    Ok((loss, per_row))
}

/// A term as the kernels read it: eight words of four bytes. ln 0 is written as 0 and never used.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Row {
    x_t: u32,
    x0: u32,
    weight: f32,
    ratio_x0: f32,
    ratio_rest: f32,
    log_x0: f32,
    log_rest: f32,
    form: u32,
}

impl Row {
    fn new(term: &ScoreTerm) -> Row {
        let log = |ratio: f64| if ratio > 0.0 { ratio.ln() as f32 } else { 0.0 };
        Row {
            x_t: term.x_t,
            x0: term.x0,
            weight: term.weight as f32,
            ratio_x0: term.ratio_x0 as f32,
            ratio_rest: term.ratio_rest as f32,
            log_x0: log(term.ratio_x0),
            log_rest: log(term.ratio_rest),
            form: term.form as u32,
        }
    }
}

struct ScoreEntropy {
    log_scores: Tensor,
    rows: Scratch<Row>,
}

impl Node for ScoreEntropy {
    fn name(&self) -> &'static str {
        "score_entropy"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dscores = match dy.device() {
            Device::Cpu => cpu::backward(&self.log_scores, &self.rows, dy.host::<f32>()?[0])?,
            Device::Cuda(index) => cuda::backward(index, &self.log_scores, &self.rows, &dy)?,
        };
        grads.add(self.log_scores.grad_slot(), dscores)
    }
}
