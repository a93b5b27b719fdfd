//! One Crank–Nicolson step along one line of cells.

/// Buffers of a sweep along lines of `cells` cells.
#[derive(Clone, Debug)]
pub(super) struct Sweep {
    /// The drift at the inner faces, set by the caller: `cells − 1` numbers.
    pub(super) drift: Vec<f64>,
    /// The density at mid-step, and in the elimination its right-hand side.
    middle: Vec<f64>,
    /// The superdiagonal divided by the pivots.
    upper: Vec<f64>,
}

impl Sweep {
    pub(super) fn new(cells: usize) -> Sweep {
        Sweep { drift: vec![0.0; cells - 1], middle: vec![0.0; cells], upper: vec![0.0; cells] }
    }

    /// Advances the line `p` of cells of width `dx` by `dt`, with `self.drift` and diffusivity g²/2 held constant.
    ///
    /// With A p the difference of the fluxes, (1 − dt/2·A) p_mid = p gives the mid-step density, and p + dt·A p_mid is
    /// Crank and Nicolson's result. The last line adds each flux to one cell and takes it from the other, so that mass is
    /// kept to the rounding of p, not to that of the linear solve.
    pub(super) fn step(&mut self, p: &mut [f64], dx: f64, dt: f64, diffusivity: f64) {
        self.solve_middle(p, dx, dt, diffusivity);
        let (scale, slope) = (dt / dx, diffusivity / dx);
        for (i, drift) in self.drift.iter().enumerate() {
            let (left, right) = (self.middle[i], self.middle[i + 1]);
            let moved = scale * (0.5 * drift * (left + right) - slope * (right - left));
            p[i] -= moved;
            p[i + 1] += moved;
        }
    }

    /// Thomas' elimination. The flux through face i is a_i·p_i + b_i·p_{i+1} with a, b = f/2 ± (g²/2)/dx.
    fn solve_middle(&mut self, p: &[f64], dx: f64, dt: f64, diffusivity: f64) {
        let (r, slope) = (0.5 * dt / dx, diffusivity / dx);
        let last = p.len() - 1;
        let mut before = None; // (a, b) of the face to the left
        for i in 0..=last {
            let face = (i < last).then(|| (0.5 * self.drift[i] + slope, 0.5 * self.drift[i] - slope));
            let (out, into) = (face.map_or(0.0, |(a, _)| a), before.map_or(0.0, |(_, b)| b));
            let mut pivot = 1.0 + r * (out - into);
            let mut value = p[i];
            if let Some((a, _)) = before {
                pivot += r * a * self.upper[i - 1];
                value += r * a * self.middle[i - 1];
            }
            self.upper[i] = face.map_or(0.0, |(_, b)| r * b / pivot);
            self.middle[i] = value / pivot;
            before = face;
        }
        for i in (0..last).rev() {
            self.middle[i] -= self.upper[i] * self.middle[i + 1];
        }
    }
}
