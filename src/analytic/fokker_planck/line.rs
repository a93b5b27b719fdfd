//! The solver in one dimension.

use super::sweep::Sweep;
use super::{Grid1, check_finite, diffusivity, mid_times, normalise};
use crate::Result;

/// A density on a line, advanced by ∂p/∂t = −∂(f p)/∂x + (g²/2) ∂²p/∂x² with no flux through the ends.
#[derive(Clone, Debug)]
pub struct Solver1 {
    grid: Grid1,
    density: Vec<f64>,
    sweep: Sweep,
}

impl Solver1 {
    /// Starts from the density `p0`, taken at the cells' middles and scaled to mass 1 on the grid.
    ///
    /// `p0` must be smooth over a cell: Crank and Nicolson's step does not damp the waves of a jump.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) if `p0` is negative or NaN somewhere, or its mass is not positive and finite.
    pub fn new(grid: Grid1, p0: impl Fn(f64) -> f64) -> Result<Solver1> {
        let mut density: Vec<f64> = (0..grid.cells()).map(|i| p0(grid.centre(i))).collect();
        normalise(&mut density, grid.dx())?;
        Ok(Solver1 { grid, density, sweep: Sweep::new(grid.cells()) })
    }

    /// Advances from time `t0` to `t1` in `steps` equal steps: error O(dx²) + O(dt²).
    ///
    /// * `drift` — f(x, t), called at the inner faces and the steps' middles
    /// * `diffusion` — g(t), the coefficient of dW and not its square
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) unless t0 < t1 and `steps` ≥ 1;
    /// [`Error::NonFinite`](crate::Error::NonFinite) if g or the density is not finite.
    pub fn run(
        &mut self,
        drift: impl Fn(f64, f64) -> f64,
        diffusion: impl Fn(f64) -> f64,
        t0: f64,
        t1: f64,
        steps: usize,
    ) -> Result<()> {
        let (times, dt) = mid_times(t0, t1, steps)?;
        for t in times {
            let spread = diffusivity(diffusion(t), t)?;
            for (i, value) in self.sweep.drift.iter_mut().enumerate() {
                *value = drift(self.grid.face(i), t);
            }
            self.sweep.step(&mut self.density, self.grid.dx(), dt, spread);
        }
        check_finite(&self.density, t1)
    }

    /// The grid.
    pub fn grid(&self) -> Grid1 {
        self.grid
    }

    /// The mean density of every cell, per unit of x.
    pub fn density(&self) -> &[f64] {
        &self.density
    }

    /// ∫ p dx: 1 to rounding, whatever the drift.
    pub fn mass(&self) -> f64 {
        self.expectation(|_| 1.0)
    }

    /// The mean ∫ x p dx.
    pub fn mean(&self) -> f64 {
        self.expectation(|x| x)
    }

    /// The variance ∫ (x − mean)² p dx.
    pub fn variance(&self) -> f64 {
        let mean = self.mean();
        self.expectation(|x| (x - mean) * (x - mean))
    }

    /// The expectation ∫ phi(x) p dx by the cells' middles.
    pub fn expectation(&self, phi: impl Fn(f64) -> f64) -> f64 {
        self.points().map(|(x, p)| phi(x) * p).sum::<f64>() * self.grid.dx()
    }

    /// The distance ∫ |p − pdf| dx, in [0, 2] for two densities.
    pub fn l1_to(&self, pdf: impl Fn(f64) -> f64) -> f64 {
        self.points().map(|(x, p)| (p - pdf(x)).abs()).sum::<f64>() * self.grid.dx()
    }

    /// The distance max |p − pdf| over the cells' middles, per unit of x; NaN if one of them is.
    pub fn linf_to(&self, pdf: impl Fn(f64) -> f64) -> f64 {
        super::largest(self.points().map(|(x, p)| p - pdf(x)))
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.density.iter().enumerate().map(|(i, &p)| (self.grid.centre(i), p))
    }
}
