//! Noise in discrete time: p_(t+1) = P·p_t with column-stochastic P (S3 section 6.1; Austin et al. 2021; items 63–65).

use crate::error::{Error, Result};
use nalgebra::{DMatrix, DVector};

/// A chain on states `0..S`: entry (y, x) is the probability of y after x, so columns sum to 1.
pub trait Transition {
    /// S: the number of states, a mask included.
    fn states(&self) -> usize;

    /// P^steps(y, x): the probability of y after `steps` steps from x.
    fn power(&self, y: usize, x: usize, steps: u64) -> f64;

    /// The law π that every start tends to, `[S]`.
    fn stationary(&self) -> Vec<f64>;

    /// The largest total-variation distance between the laws of two starts after `steps` steps: |λ₂|^steps in closed form.
    fn memory(&self, steps: u64) -> f64;

    /// p after `steps` steps, `[S]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `p` does not have S entries.
    fn push(&self, p: &[f64], steps: u64) -> Result<Vec<f64>> {
        let states = self.states();
        if p.len() != states {
            return Err(Error::Shape(format!("transition: expected a law of {states} states, got {}", p.len())));
        }
        Ok((0..states).map(|y| (0..states).map(|x| self.power(y, x, steps) * p[x]).sum()).collect())
    }
}

fn check_symbols(what: &str, symbols: usize) -> Result<()> {
    if symbols < 2 {
        return Err(Error::Usage(format!(
            "{what}: expected at least 2 symbols, got {symbols}; there is nothing to learn"
        )));
    }
    Ok(())
}

fn check_eps(what: &str, eps: f64) -> Result<()> {
    if eps == 0.0 {
        return Err(Error::Usage(format!(
            "{what}: with eps = 0 nothing ever changes and no law is reached; take eps > 0"
        )));
    }
    if !(eps > 0.0 && eps <= 1.0) {
        return Err(Error::Usage(format!("{what}: expected eps in (0, 1], got {eps}")));
    }
    Ok(())
}

/// Keeps a token with probability 1 − eps, else moves it to one of the K − 1 others (item 64).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UniformTransition {
    symbols: usize,
    /// 1 − λ = eps·K/(K − 1).
    loss: f64,
}

impl UniformTransition {
    /// * `symbols` — K, at least 2
    /// * `eps` — probability of a change per step, in (0, 1]
    ///
    /// # Errors
    /// [`Error::Usage`] outside these ranges, and for K = 2 with eps = 1, which swaps two states for ever.
    pub fn new(symbols: usize, eps: f64) -> Result<UniformTransition> {
        check_symbols("uniform transition", symbols)?;
        check_eps("uniform transition", eps)?;
        let loss = eps * symbols as f64 / (symbols - 1) as f64;
        if loss >= 2.0 {
            return Err(Error::Usage(
                "uniform transition: 2 symbols with eps = 1 swap in every step and never mix; take eps below 1".into(),
            ));
        }
        Ok(UniformTransition { symbols, loss })
    }

    /// λ = 1 − eps·K/(K − 1): the eigenvalue of everything but π.
    pub fn eigenvalue(&self) -> f64 {
        1.0 - self.loss
    }

    /// 1 − λ^steps, without cancellation where λ is near 1.
    fn mixed(&self, steps: u64) -> f64 {
        match self.eigenvalue() {
            lambda if lambda > 0.0 => -(steps as f64 * (-self.loss).ln_1p()).exp_m1(),
            lambda => 1.0 - signed_power(lambda, steps),
        }
    }
}

/// λ^steps for any sign of λ.
fn signed_power(lambda: f64, steps: u64) -> f64 {
    let size = lambda.abs().powf(steps as f64);
    if lambda < 0.0 && steps % 2 == 1 { -size } else { size }
}

impl Transition for UniformTransition {
    fn states(&self) -> usize {
        self.symbols
    }

    fn power(&self, y: usize, x: usize, steps: u64) -> f64 {
        let mixed = self.mixed(steps);
        let moved = mixed / self.symbols as f64;
        if y == x { 1.0 - mixed + moved } else { moved }
    }

    fn stationary(&self) -> Vec<f64> {
        vec![1.0 / self.symbols as f64; self.symbols]
    }

    fn memory(&self, steps: u64) -> f64 {
        signed_power(self.eigenvalue(), steps).abs()
    }
}

/// Masks a token with probability eps; a mask stays (item 65). States `0..K`, and K for the mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AbsorbingTransition {
    symbols: usize,
    eps: f64,
}

impl AbsorbingTransition {
    /// * `symbols` — K without the mask, at least 2
    /// * `eps` — probability of a mask per step, in (0, 1]
    ///
    /// # Errors
    /// [`Error::Usage`] outside these ranges.
    pub fn new(symbols: usize, eps: f64) -> Result<AbsorbingTransition> {
        check_symbols("absorbing transition", symbols)?;
        check_eps("absorbing transition", eps)?;
        Ok(AbsorbingTransition { symbols, eps })
    }

    /// (1 − eps)^steps: the probability that a token is still there.
    pub fn survival(&self, steps: u64) -> f64 {
        (1.0 - self.eps).powf(steps as f64)
    }
}

impl Transition for AbsorbingTransition {
    fn states(&self) -> usize {
        self.symbols + 1
    }

    fn power(&self, y: usize, x: usize, steps: u64) -> f64 {
        let mask = self.symbols;
        match (y == mask, x == mask) {
            (true, true) => 1.0,
            (false, true) => 0.0,
            (true, false) if steps == 0 => 0.0, // 0·ln 0 at eps = 1
            (true, false) => -(steps as f64 * (-self.eps).ln_1p()).exp_m1(),
            (false, false) if y == x => self.survival(steps),
            (false, false) => 0.0,
        }
    }

    fn stationary(&self) -> Vec<f64> {
        (0..=self.symbols).map(|y| if y == self.symbols { 1.0 } else { 0.0 }).collect()
    }

    fn memory(&self, steps: u64) -> f64 {
        self.survival(steps)
    }
}

/// A transition matrix of one's own, for few states: powers cost S³·log₂(steps).
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixTransition {
    matrix: DMatrix<f64>,
    stationary: Vec<f64>,
}

/// Columns may miss 1 by this much per state: they are written as decimals.
const COLUMN_SLACK: f64 = 1e-9;

/// 2^40 steps: a chain that remembers its start so long is periodic, or splits into parts.
const SQUARINGS: u32 = 40;

impl MatrixTransition {
    /// * `matrix` — `[S, S]`, entry (y, x) the probability of y after x; S at least 2
    ///
    /// # Errors
    /// [`Error::Usage`] if it is not square, has a negative entry or a column that does not sum to 1, or if two starts still differ after
    /// 2^40 steps: such a chain has no law that it tends to.
    pub fn new(matrix: DMatrix<f64>) -> Result<MatrixTransition> {
        let fail = |text: String| Err(Error::Usage(format!("transition matrix: {text}")));
        let (rows, columns) = matrix.shape();
        if rows != columns {
            return fail(format!("expected a square matrix, got {rows} rows and {columns} columns"));
        }
        check_symbols("transition matrix", rows)?;
        for (x, column) in matrix.column_iter().enumerate() {
            if let Some(bad) = column.iter().find(|p| !(**p >= 0.0)) {
                return fail(format!("expected probabilities, got {bad} in column {x}"));
            }
            let sum = column.sum();
            if !((sum - 1.0).abs() <= COLUMN_SLACK * rows as f64) {
                return fail(format!(
                    "expected columns that sum to 1, got {sum} in column {x}; rows may stand for columns"
                ));
            }
        }
        let mut square = normalised(matrix.clone());
        for _ in 0..SQUARINGS {
            square = normalised(&square * &square);
        }
        let memory = memory_of(&square);
        if !(memory < 0.5) {
            return fail(format!(
                "after 2^{SQUARINGS} steps two starts still differ by {memory:.3} in total variation; a periodic or split chain never mixes"
            ));
        }
        let stationary = square.column_mean().iter().copied().collect();
        Ok(MatrixTransition { matrix: normalised(matrix), stationary })
    }

    /// P^steps, by squaring.
    pub fn matrix_power(&self, steps: u64) -> DMatrix<f64> {
        let states = self.matrix.nrows();
        let (mut result, mut square) = (DMatrix::identity(states, states), self.matrix.clone());
        let mut rest = steps;
        while rest > 0 {
            if rest & 1 == 1 {
                result = normalised(&result * &square);
            }
            square = normalised(&square * &square);
            rest >>= 1;
        }
        result
    }
}

/// Columns made to sum to 1: squaring doubles what they miss.
fn normalised(mut matrix: DMatrix<f64>) -> DMatrix<f64> {
    for mut column in matrix.column_iter_mut() {
        let sum = column.sum();
        column /= sum;
    }
    matrix
}

/// The largest total-variation distance between two columns.
fn memory_of(matrix: &DMatrix<f64>) -> f64 {
    let columns: Vec<DVector<f64>> = matrix.column_iter().map(|c| c.into_owned()).collect();
    let distance = |a: &DVector<f64>, b: &DVector<f64>| 0.5 * (a - b).abs().sum();
    columns.iter().flat_map(|a| columns.iter().map(move |b| distance(a, b))).fold(0.0, f64::max)
}

impl Transition for MatrixTransition {
    fn states(&self) -> usize {
        self.matrix.nrows()
    }

    fn power(&self, y: usize, x: usize, steps: u64) -> f64 {
        self.matrix_power(steps)[(y, x)]
    }

    fn stationary(&self) -> Vec<f64> {
        self.stationary.clone()
    }

    fn memory(&self, steps: u64) -> f64 {
        memory_of(&self.matrix_power(steps))
    }

    fn push(&self, p: &[f64], steps: u64) -> Result<Vec<f64>> {
        if p.len() != self.states() {
            let text = format!("transition: expected a law of {} states, got {}", self.states(), p.len());
            return Err(Error::Shape(text));
        }
        Ok((self.matrix_power(steps) * DVector::from_column_slice(p)).iter().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_never_mix_are_rejected_with_a_reason() {
        let text = |e: Error| e.to_string();
        assert!(text(UniformTransition::new(2, 1.0).unwrap_err()).contains("never mix"));
        assert!(UniformTransition::new(3, 1.0).is_ok() && UniformTransition::new(2, 0.999).is_ok());
        for eps in [0.0, -0.1, 1.5, f64::NAN] {
            assert!(UniformTransition::new(3, eps).is_err() && AbsorbingTransition::new(3, eps).is_err(), "{eps}");
        }
        assert!(text(UniformTransition::new(1, 0.5).unwrap_err()).contains("at least 2 symbols, got 1"));
        assert!(text(AbsorbingTransition::new(1, 0.5).unwrap_err()).contains("at least 2 symbols, got 1"));

        // A swap, a cycle of three, two parts that never meet, and a matrix with rows for columns.
        let swap = DMatrix::from_row_slice(2, 2, &[0.0, 1.0, 1.0, 0.0]);
        let cycle = DMatrix::from_row_slice(3, 3, &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        for periodic in [swap, cycle, DMatrix::identity(2, 2)] {
            assert!(text(MatrixTransition::new(periodic).unwrap_err()).contains("never mixes"));
        }
        let rows = DMatrix::from_row_slice(2, 2, &[0.9, 0.1, 0.5, 0.5]);
        assert!(text(MatrixTransition::new(rows.clone()).unwrap_err()).contains("rows may stand for columns"));
        let own = MatrixTransition::new(rows.transpose()).unwrap();
        assert!((own.stationary()[0] - 5.0 / 6.0).abs() < 1e-12);
        // λ₂ = 0.4: the trace less 1.
        assert!((own.memory(3) - 0.4_f64.powi(3)).abs() < 1e-15);
    }

    #[test]
    fn powers_keep_their_digits_where_steps_are_tiny_and_eigenvalues_negative() {
        let slow = UniformTransition::new(4, 1e-14).unwrap();
        // eps·steps/(K − 1) to first order.
        assert!((slow.power(1, 0, 3) / 1e-14 - 1.0).abs() < 1e-12);
        let fast = UniformTransition::new(3, 0.9).unwrap(); // λ = −0.35
        assert!((fast.power(0, 0, 3) - (1.0 / 3.0 - 2.0 / 3.0 * 0.35_f64.powi(3))).abs() < 1e-15);
        let once = AbsorbingTransition::new(2, 1.0).unwrap();
        assert_eq!((once.power(2, 0, 0), once.power(2, 0, 1), once.power(0, 0, 0)), (0.0, 1.0, 1.0));
    }
}
