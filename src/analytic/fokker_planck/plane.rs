//! The solver in two dimensions.

use super::sweep::Sweep;
use super::{Grid1, check_finite, diffusivity, mid_times, normalise};
use crate::Result;

/// A density on a rectangle, advanced by ∂p/∂t = −∇·(f p) + (g²/2) Δp with no flux through the edges.
///
/// A step is Strang's composition of Crank–Nicolson sweeps: half a step along x, a step along y, half a step along x.
#[derive(Clone, Debug)]
pub struct Solver2 {
    grids: [Grid1; 2],
    /// Cell (i, j) at `j·cells_x + i`.
    density: Vec<f64>,
    along_x: Sweep,
    along_y: Sweep,
    column: Vec<f64>,
}

impl Solver2 {
    /// Starts from the density `p0([x, y])` on the rectangle of `grids` = (x, y), taken at the cells' middles and scaled to
    /// mass 1. It must be smooth over a cell.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) if `p0` is negative or NaN somewhere, or its mass is not positive and finite.
    pub fn new(grids: [Grid1; 2], p0: impl Fn([f64; 2]) -> f64) -> Result<Solver2> {
        let [x, y] = grids;
        let mut density: Vec<f64> =
            (0..x.cells() * y.cells()).map(|at| p0([x.centre(at % x.cells()), y.centre(at / x.cells())])).collect();
        normalise(&mut density, x.dx() * y.dx())?;
        let (along_x, along_y) = (Sweep::new(x.cells()), Sweep::new(y.cells()));
        Ok(Solver2 { grids, density, along_x, along_y, column: vec![0.0; y.cells()] })
    }

    /// Advances from time `t0` to `t1` in `steps` equal steps: error O(dx²) + O(dy²) + O(dt²).
    ///
    /// * `drift` — f([x, y], t), called at the inner faces and the steps' middles
    /// * `diffusion` — g(t), the coefficient of dW in both directions, and not its square
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) unless t0 < t1 and `steps` ≥ 1;
    /// [`Error::NonFinite`](crate::Error::NonFinite) if g or the density is not finite.
    pub fn run(
        &mut self,
        drift: impl Fn([f64; 2], f64) -> [f64; 2],
        diffusion: impl Fn(f64) -> f64,
        t0: f64,
        t1: f64,
        steps: usize,
    ) -> Result<()> {
        let (times, dt) = mid_times(t0, t1, steps)?;
        for t in times {
            let spread = diffusivity(diffusion(t), t)?;
            self.sweep_x(&drift, t, 0.5 * dt, spread);
            self.sweep_y(&drift, t, dt, spread);
            self.sweep_x(&drift, t, 0.5 * dt, spread);
        }
        check_finite(&self.density, t1)
    }

    fn sweep_x(&mut self, drift: &impl Fn([f64; 2], f64) -> [f64; 2], t: f64, dt: f64, spread: f64) {
        let [x, y] = self.grids;
        for (j, row) in self.density.chunks_exact_mut(x.cells()).enumerate() {
            for (i, value) in self.along_x.drift.iter_mut().enumerate() {
                *value = drift([x.face(i), y.centre(j)], t)[0];
            }
            self.along_x.step(row, x.dx(), dt, spread);
        }
    }

    fn sweep_y(&mut self, drift: &impl Fn([f64; 2], f64) -> [f64; 2], t: f64, dt: f64, spread: f64) {
        let [x, y] = self.grids;
        for i in 0..x.cells() {
            for (j, value) in self.along_y.drift.iter_mut().enumerate() {
                *value = drift([x.centre(i), y.face(j)], t)[1];
            }
            for (j, value) in self.column.iter_mut().enumerate() {
                *value = self.density[j * x.cells() + i];
            }
            self.along_y.step(&mut self.column, y.dx(), dt, spread);
            for (j, &value) in self.column.iter().enumerate() {
                self.density[j * x.cells() + i] = value;
            }
        }
    }

    /// The grids of x and y.
    pub fn grids(&self) -> [Grid1; 2] {
        self.grids
    }

    /// The mean density of every cell, per unit of area: cell (i, j) at `j·cells_x + i`.
    pub fn density(&self) -> &[f64] {
        &self.density
    }

    /// ∫ p dx dy: 1 to rounding, whatever the drift.
    pub fn mass(&self) -> f64 {
        self.expectation(|_| 1.0)
    }

    /// The mean of x and of y.
    pub fn mean(&self) -> [f64; 2] {
        [self.expectation(|[x, _]| x), self.expectation(|[_, y]| y)]
    }

    /// The covariance matrix, rows first.
    pub fn covariance(&self) -> [[f64; 2]; 2] {
        let mean = self.mean();
        let entry = |a: usize, b: usize| self.expectation(|at| (at[a] - mean[a]) * (at[b] - mean[b]));
        [[entry(0, 0), entry(0, 1)], [entry(1, 0), entry(1, 1)]]
    }

    /// The expectation of phi by the cells' middles.
    pub fn expectation(&self, phi: impl Fn([f64; 2]) -> f64) -> f64 {
        self.points().map(|(at, p)| phi(at) * p).sum::<f64>() * self.cell()
    }

    /// The distance ∫ |p − pdf| dx dy, in [0, 2] for two densities.
    pub fn l1_to(&self, pdf: impl Fn([f64; 2]) -> f64) -> f64 {
        self.points().map(|(at, p)| (p - pdf(at)).abs()).sum::<f64>() * self.cell()
    }

    /// The distance max |p − pdf| over the cells' middles, per unit of area; NaN if one of them is.
    pub fn linf_to(&self, pdf: impl Fn([f64; 2]) -> f64) -> f64 {
        super::largest(self.points().map(|(at, p)| p - pdf(at)))
    }

    fn cell(&self) -> f64 {
        self.grids[0].dx() * self.grids[1].dx()
    }

    fn points(&self) -> impl Iterator<Item = ([f64; 2], f64)> + '_ {
        let [x, y] = self.grids;
        let at = move |k: usize| [x.centre(k % x.cells()), y.centre(k / x.cells())];
        self.density.iter().enumerate().map(move |(k, &p)| (at(k), p))
    }
}
