//! A step of D3PM's bound in the uniform graph of K states, and a share of cross-entropy, fused with the softmax of the logits
//! (Austin et al. 2021, eqs. 1, 4 and 5): L = Σ_r w_r·KL(q(y | x_t, x0) ‖ p(y | x_t)) − c_r·ln p̂(x0),  p(y | x_t) ∝ Σ_a q(y, x_t | a)·softmax(z)_a.
//!
//! Logits   are those of the clean token before one looks at x_t itself. With it, p̂(a) = p(a | x_t) ∝ e^z_a·q_t(x_t | a), and p(y | x_t) is
//!          Σ_a p̂(a)·q(y | x_t, a). What a little noise makes nearly certain need not be learned: equal logits are the ratios of a uniform law at
//!          any noise.
//! Form     q(y | x, a) = Q(x|y)·(α·[y = a] + β)/Z_a, α = 1 − before, β = before/K, Z_a = q_t(x | a), Q(x|y) the step's. With κ = α/β,
//!          ρ = Z_a≠x/Z_a=x, g = ρ where x0 = x, else 1, and B = (1 − (1 − ρ)·p̂_x)/g, the ratios are q/p(y) = 1/t_y, t_y = κ·p̂_y/g + B, for
//!          y ≠ x, x0, and (1 + κ)/t_x0 at x0 ≠ x. At y = x, where nearly all mass lies, p/q = 1 + d, and d, of the size of a step, has a
//!          closed form without a difference: drift·(1 − p̂_x) where x0 = x, else drift·p̂_x. So no large numbers cancel, forth or back.
//! Back     dz_j = p̂_j·Σ_y q(y | x, j)·(1 − q(y)/p(y)): of the size of a step as well.
//! Limits   Where nothing was touched before, q is certain and the divergence is the cross-entropy: such rows have that alone.
//! Saved    logits (shared), the terms, and of each row the log-sum-exp, B, the gradient at x and what the sum over y comes to elsewhere.
//! Cost     logits are read once forward (again from a cache); once backward, which writes their gradient. Rows of weight 0 are not read.
//! Order    a row's sum runs in sixteen lanes; rows are added in f64 in order.
//! Kernels  `kernels/posterior_kl.cu`.

#[doc(hidden)]
pub mod cases;
mod cpu;
mod cuda;

use crate::device::{Device, Scratch};
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::Tensor;

/// What a step of one token needs to know: where it is, where it came from, and how much noise there is on either side of the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PosteriorTerm {
    /// The noised state, a column of the logits.
    pub x_t: u32,
    /// The clean state, a column of the logits.
    pub x0: u32,
    /// w of the divergence, at least 0.
    pub weight: f64,
    /// c of the cross-entropy, at least 0; a row with neither costs nothing.
    pub auxiliary: f64,
    /// 1 − e^(−σ̄), the share of tokens that a jump has touched, before the step and at x_t: 0 ≤ before < here ≤ 1.
    pub touched: (f64, f64),
}

/// The weighted sum of the rows' divergences and cross-entropies, and each row's part of it.
///
/// * `logits` — `[…, k]`, f32, k at least 2; ln p(x0 = a) as the other tokens tell it, but for a constant
/// * `terms` — one for each row
///
/// Returns `[1]`, f32, and the rows `[rows]` in nats, f64, both on the device of `logits`. The first is differentiable in `logits`.
///
/// # Errors
/// [`Error::Shape`] if there is not one term for each row, or a state is no column; [`Error::Usage`] if a weight is negative or not finite, or the
/// shares touched do not rise within \[0, 1\].
///
/// # Example
/// ```
/// use tweedie::{ops::{PosteriorTerm, posterior_kl}, tensor::Tensor};
/// let logits = Tensor::from_slice(&[0.0_f32, 80.0, 0.0], [1, 3])?;
/// let term = PosteriorTerm { x_t: 2, x0: 1, weight: 100.0, auxiliary: 0.0, touched: (0.5, 0.51) };
/// // Whoever knows the clean token knows the step.
/// let (loss, _) = posterior_kl(&logits, &[term])?;
/// assert!(loss.to_vec::<f32>()?[0].abs() < 1e-5);
/// // Taken for another, it costs.
/// let (loss, _) = posterior_kl(&logits, &[PosteriorTerm { x0: 0, ..term }])?;
/// assert!(loss.to_vec::<f32>()?[0] > 0.1);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn posterior_kl(logits: &Tensor, terms: &[PosteriorTerm]) -> Result<(Tensor, Tensor)> {
    let shape = logits.shape();
    let k = shape.last_size();
    if shape.len() < 2 || k < 2 {
        return Err(Error::Shape(format!("posterior_kl: logits want [rows,k] with k at least 2, got {shape}")));
    }
    let rows = logits.count() / k;
    if terms.len() != rows {
        let got = terms.len();
        return Err(Error::Shape(format!("posterior_kl: {rows} rows of logits want as many terms, got {got}")));
    }
    let mut table = Scratch::<Row>::take(rows);
    for (at, (row, term)) in table.iter_mut().zip(terms).enumerate() {
        check(at, term, k)?;
        *row = Row::new(term, k);
    }
    let (loss, per_row, saved) = match logits.device() {
        Device::Cpu => cpu::forward(logits, &table)?,
        Device::Cuda(index) => cuda::forward(index, logits, &table)?,
    };
    let loss = tape::push(loss, &[logits], || Box::new(PosteriorKl { logits: logits.clone(), rows: table, saved }));
    Ok((loss, per_row))
}

fn check(at: usize, term: &PosteriorTerm, k: usize) -> Result<()> {
    for (name, state) in [("x_t", term.x_t), ("x0", term.x0)] {
        if state as usize >= k {
            return Err(Error::Shape(format!("posterior_kl: {name} = {state} of row {at} is outside {k} columns")));
        }
    }
    for (name, value) in [("weight", term.weight), ("auxiliary", term.auxiliary)] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(Error::Usage(format!(
                "posterior_kl: {name} = {value} of row {at}: expected a finite number of at least 0"
            )));
        }
    }
    let (before, here) = term.touched;
    if !(0.0 <= before && before < here && here <= 1.0) {
        return Err(Error::Usage(format!(
            "posterior_kl: touched = {before} to {here} of row {at}: expected shares that rise within 0 to 1"
        )));
    }
    Ok(())
}

/// A term as the kernels read it: nine words of four bytes. See the head of the file for the letters.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Row {
    x_t: u32,
    x0: u32,
    weight: f32,
    auxiliary: f32,
    kappa: f32,
    rho: f32,
    /// q(y) of a y that is neither x_t nor x0.
    rest: f32,
    /// q(x_t).
    at_x: f32,
    drift: f32,
}

impl Row {
    fn new(term: &PosteriorTerm, k: usize) -> Row {
        let PosteriorTerm { x_t, x0, weight, auxiliary, touched: (before, here) } = *term;
        let states = k as f64;
        let (z_same, z_other) = (1.0 - here + here / states, here / states);
        let rho = z_other / z_same;
        let certain = Row {
            x_t,
            x0,
            weight: 0.0,
            auxiliary: (weight + auxiliary) as f32,
            kappa: 0.0,
            rho: rho as f32,
            rest: 0.0,
            at_x: 1.0,
            drift: 0.0,
        };
        if before == 0.0 {
            return certain;
        }
        let (alpha, beta) = (1.0 - before, before / states);
        // What a step touches of what nothing has touched before, and so the step's matrix.
        let leave = (here - before) / alpha;
        let (stay, hop) = (1.0 - leave + leave / states, leave / states);
        let kappa = alpha / beta;
        // q(y | x_t, a) of a y that is neither, for a ≠ x_t.
        let elsewhere = hop * beta / z_other;
        let is_same = x_t == x0;
        let (rest, at_x) = if is_same {
            (elsewhere * rho, stay * (alpha + beta) / z_same)
        } else {
            (elsewhere, stay * beta / z_other)
        };
        let drift = elsewhere * ((states - 1.0) * (1.0 - here) / z_same + kappa) / at_x;
        Row {
            weight: weight as f32,
            auxiliary: auxiliary as f32,
            kappa: kappa as f32,
            rest: rest as f32,
            at_x: at_x as f32,
            drift: if is_same { -drift } else { drift } as f32,
            ..certain
        }
    }
}

struct PosteriorKl {
    logits: Tensor,
    rows: Scratch<Row>,
    /// `[rows, 4]`, f32: log-sum-exp, B, dL/dz of x_t, and of the other j Σ_y q(y | x_t, j)·(1 − q(y)/p(y)) without the own share of y = j.
    saved: Tensor,
}

impl Node for PosteriorKl {
    fn name(&self) -> &'static str {
        "posterior_kl"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dlogits = match dy.device() {
            Device::Cpu => cpu::backward(&self, dy.host::<f32>()?[0])?,
            Device::Cuda(index) => cuda::backward(index, &self, &dy)?,
        };
        grads.add(self.logits.grad_slot(), dlogits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discrete::{Graph, Head, Noise, Uniform, View, d3pm};

    /// The op against D3PM's loss in f64, which sums posteriors of any graph.
    #[test]
    fn every_pair_of_states_has_the_loss_of_the_graph_in_f64() {
        let noise = Noise::LogLinear { eps: 1e-3 };
        for k in 2..=5_usize {
            let graph = Uniform::new(k).unwrap();
            for (s, t) in [(0.0, 0.001), (0.001, 0.002), (0.3, 0.301), (0.25, 0.75), (0.999, 1.0)] {
                for pair in 0..k * k {
                    let (x, x0) = ((pair / k) as u32, (pair % k) as u32);
                    let z: Vec<f32> = (0..k).map(|y| ((y * 7 + pair * 3) % 11) as f32 * 0.6 - 3.0).collect();
                    // p(a | x_t) ∝ e^z_a·q_t(x_t | a).
                    let reach = |a: usize| graph.transition(x as usize, a, noise.sigma_bar(t)).ln();
                    let joint: Vec<f64> = z.iter().enumerate().map(|(a, z)| f64::from(*z) + reach(a)).collect();
                    let normaliser = joint.iter().map(|v| v.exp()).sum::<f64>().ln();
                    let values: Vec<f64> = joint.iter().map(|v| v - normaliser).collect();
                    let view = View {
                        graph: &graph,
                        head: Head::LogClean,
                        x: &[x],
                        sigma_bar: noise.sigma_bar(t),
                        values: &values,
                    };
                    let (weight, auxiliary) = (1.0 / (t - s), 0.25);
                    let bound = weight * d3pm::step_divergence(&view, &[x0], noise, s).unwrap();
                    let want = bound + auxiliary * d3pm::cross_entropy(&view, &[x0]).unwrap();
                    let touched = (noise.touched(s), noise.touched(t));
                    let logits = Tensor::from_slice(&z, [1, k]).unwrap();
                    let (_, rows) =
                        posterior_kl(&logits, &[PosteriorTerm { x_t: x, x0, weight, auxiliary, touched }]).unwrap();
                    let got = rows.to_vec::<f64>().unwrap()[0];
                    // Each part of the divergence is of the size w·(1 − q(x)) or the whole, and has some ten roundings in f32.
                    let truth = d3pm::token_posterior(
                        &graph,
                        x as usize,
                        x0 as usize,
                        (noise.sigma_bar(s), noise.sigma_bar(t)),
                    );
                    let size = want + weight * (1.0 - truth[x as usize]);
                    let bound = 16.0 * f64::from(f32::EPSILON) * size;
                    assert!((got - want).abs() <= bound, "k {k}, {s} to {t}, {x0} to {x}: {got} against {want}");
                }
            }
        }
    }

    #[test]
    fn the_clean_token_known_costs_nothing_and_gradients_vanish_there() {
        for x_t in [0, 1] {
            let term = PosteriorTerm { x_t, x0: 1, weight: 1000.0, auxiliary: 1.0, touched: (0.4, 0.401) };
            let logits = Tensor::from_slice(&[-200.0_f32, 0.0, -200.0], [1, 3]).unwrap().with_grad(true);
            let ((loss, _), tape) = tape::Tape::record(|| posterior_kl(&logits, &[term])).unwrap();
            // ln and its argument are 1 and 0 but for roundings: 1000·(1 − q(x)), about 1, times some of them.
            assert!(loss.to_vec::<f32>().unwrap()[0].abs() < 16.0 * f32::EPSILON, "{loss:?}");
            let mut grads = Grads::new();
            tape.backward_from_loss(&loss, &mut grads).unwrap();
            let dz = grads.get(&logits).unwrap().to_vec::<f32>().unwrap();
            assert!(dz.iter().all(|d| d.abs() < 16.0 * f32::EPSILON), "{dz:?}");
        }
    }

    #[test]
    fn wrong_sizes_states_weights_and_shares_are_refused() {
        let logits = Tensor::from_slice(&[0.0_f32, 1.0, 2.0], [1, 3]).unwrap();
        let good = PosteriorTerm { x_t: 0, x0: 1, weight: 1.0, auxiliary: 0.0, touched: (0.2, 0.3) };
        let refused = |term: PosteriorTerm| posterior_kl(&logits, &[term]).unwrap_err().to_string();
        assert!(refused(PosteriorTerm { x_t: 3, ..good }).contains("x_t = 3 of row 0 is outside 3 columns"));
        assert!(refused(PosteriorTerm { x0: 7, ..good }).contains("x0 = 7"));
        assert!(refused(PosteriorTerm { weight: -1.0, ..good }).contains("weight = -1"));
        assert!(refused(PosteriorTerm { auxiliary: f64::NAN, ..good }).contains("auxiliary = NaN"));
        for touched in [(0.3, 0.3), (-0.1, 0.3), (0.2, 1.1), (f64::NAN, 0.3)] {
            assert!(refused(PosteriorTerm { touched, ..good }).contains("rise within 0 to 1"), "{touched:?}");
        }
        assert!(posterior_kl(&logits, &[]).unwrap_err().to_string().contains("as many terms, got 0"));
        let one = Tensor::from_slice(&[0.0_f32], [1, 1]).unwrap();
        assert!(posterior_kl(&one, &[good]).unwrap_err().to_string().contains("k at least 2"));
    }
}
