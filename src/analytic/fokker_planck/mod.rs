//! The Fokker–Planck equation on a grid (items 37 and 38): the density of an SDE without a single sample.
//!
//! For dX = f(X, t) dt + g(t) dW the density obeys ∂p/∂t = −∇·(f p) + (g²/2) Δp. Finite volumes: what leaves a cell
//! through a face enters its neighbour, and no flux passes the ends, so mass is kept to rounding. The flux through a face
//! is central, f·(p₋ + p₊)/2 − (g²/2)(p₊ − p₋)/dx, of second order in dx for every g, also g = 0 (the probability-flow
//! ODE's continuity equation); upwind fluxes are of order 1 and would hide an error of a scheme under test. The price: a
//! density may be slightly negative where it is nearly 0 and cells are wide, |f|·dx > g². In time, Crank and Nicolson's
//! step with coefficients at mid-step, second order and stable for every step; in 2-D the sweeps are composed after
//! Strang.
//!
//! An Anderson reverse SDE is a forward problem in s = T − t with drift −(f − g²·score) at t = T − s: pass that.
//!
//! ```
//! use tweedie::analytic::fokker_planck::{Grid1, Solver1};
//! use tweedie::analytic::gaussian::normal_pdf;
//!
//! // Ornstein and Uhlenbeck, dX = −X dt + √2 dW: N(1, ¼) at t = 0 becomes N(e^{−t}, 1 − ¾e^{−2t}).
//! let mut solver = Solver1::new(Grid1::new(-6.0, 6.0, 600)?, |x| normal_pdf(x, 1.0, 0.5))?;
//! solver.run(|x, _| -x, |_| 2f64.sqrt(), 0.0, 0.5, 100)?;
//! let std = (1.0 - 0.75 * (-1.0f64).exp()).sqrt();
//! assert!(solver.linf_to(|x| normal_pdf(x, (-0.5f64).exp(), std)) < 1e-4);
//! # Ok::<(), tweedie::Error>(())
//! ```

mod line;
mod plane;
mod sweep;
#[cfg(test)]
mod tests;

pub use line::Solver1;
pub use plane::Solver2;

use crate::{Error, Result};

/// Equal cells on an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid1 {
    lo: f64,
    hi: f64,
    cells: usize,
}

impl Grid1 {
    /// `cells` equal cells from `lo` to `hi`, in the unit of x.
    ///
    /// # Errors
    /// [`Error::Usage`] unless lo < hi are finite and there are at least three cells.
    pub fn new(lo: f64, hi: f64, cells: usize) -> Result<Grid1> {
        if !(lo < hi && (hi - lo).is_finite() && cells >= 3) {
            return Err(Error::Usage(format!(
                "grid: finite lo < hi and at least 3 cells, got [{lo}, {hi}] with {cells}; widen it"
            )));
        }
        Ok(Grid1 { lo, hi, cells })
    }

    /// The number of cells.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// The width of a cell.
    pub fn dx(&self) -> f64 {
        (self.hi - self.lo) / self.cells as f64
    }

    /// The middle of cell `i`.
    pub fn centre(&self, i: usize) -> f64 {
        self.lo + (i as f64 + 0.5) * self.dx()
    }

    /// The face between cells `i` and `i + 1`.
    pub fn face(&self, i: usize) -> f64 {
        self.lo + (i as f64 + 1.0) * self.dx()
    }
}

/// Scales a first density to mass 1; an error if it is no density.
fn normalise(density: &mut [f64], cell: f64) -> Result<()> {
    let mass = density.iter().sum::<f64>() * cell;
    if !(mass > 0.0 && mass.is_finite() && density.iter().all(|&p| p >= 0.0)) {
        return Err(Error::Usage(format!(
            "fokker-planck: the first density must be non-negative with a finite mass above 0, got mass {mass}; move the grid \
             over the data"
        )));
    }
    density.iter_mut().for_each(|p| *p /= mass);
    Ok(())
}

/// The mid-times of `steps` equal steps from t0 to t1, and the step.
fn mid_times(t0: f64, t1: f64, steps: usize) -> Result<(impl Iterator<Item = f64>, f64)> {
    if !(t0 < t1 && (t1 - t0).is_finite()) || steps == 0 {
        return Err(Error::Usage(format!(
            "fokker-planck: t0 < t1 and at least one step, got {t0} to {t1} in {steps}; to go back, run s = T − t with the \
             reverse drift"
        )));
    }
    let dt = (t1 - t0) / steps as f64;
    Ok(((0..steps).map(move |k| t0 + (k as f64 + 0.5) * dt), dt))
}

/// g²/2 of a diffusion coefficient at time t.
fn diffusivity(g: f64, t: f64) -> Result<f64> {
    if !g.is_finite() {
        return Err(Error::NonFinite(format!("fokker-planck: diffusion is {g} at t = {t}; pass a finite g(t)")));
    }
    Ok(0.5 * g * g)
}

/// An error if a run has left the finite numbers, as a drift that is not finite makes it.
fn check_finite(density: &[f64], t: f64) -> Result<()> {
    if density.iter().all(|p| p.is_finite()) {
        return Ok(());
    }
    Err(Error::NonFinite(format!(
        "fokker-planck: the density is not finite at t = {t}; check the drift on the whole grid, or take more steps"
    )))
}

/// The largest magnitude; NaN if one is, which `f64::max` would drop.
fn largest(mut differences: impl Iterator<Item = f64>) -> f64 {
    differences.try_fold(0.0f64, |most, d| if d.is_nan() { None } else { Some(most.max(d.abs())) }).unwrap_or(f64::NAN)
}
