//! Anderson's reverse SDE by its density (items 38 and 40).

use super::super::measure::{derivative, largest, order_miss, two_bumps, vp};
use super::super::{Bound, Identity};
use super::fokker_planck::{DIFFUSION, Matrix, POINTS, density_hessian, density_slope, spread_plane};
use crate::analytic::fokker_planck::{Grid1, Solver1, Solver2};
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::process::{Level, Ou, Process};
use std::cell::Cell;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 38 S3.eq82 S3.eq86 density",
        claim: "Fokker–Planck of the reverse SDE, run from p_T, returns p_0 of a mixture",
        // ∫|p − p_0|, at most 2. dx = 0.02 and dt = 1/600 leave dx²/24·p'' and dt²-terms: below 1e-3 for bumps of width 0.4.
        bound: Bound::AtMost(1e-3),
        measure: || line(0.0, 4, |score, _| score),
    },
    Identity {
        id: "item 38 S3.eq85 order",
        claim: "it does so with order 2 in cells and steps",
        bound: Bound::AtMost(0.1), // a slope within 0.1 of 2 names the order
        measure: line_order,
    },
    Identity {
        id: "item 38 S3.eq146 plane",
        claim: "the same in two dimensions on a correlated Gaussian",
        // dx = 0.1 for a smallest width of √0.2: dx²/(8·0.2) = 6e-3 in the curvature, so a hundredth in all.
        bound: Bound::AtMost(1e-2),
        measure: || plane(|score, _| score),
    },
    Identity {
        id: "item 38 S3.eq82 without the score",
        claim: "without g²·∇ log p the reverse SDE does not return p_0",
        bound: Bound::AtLeast(0.5), // of at most 2: the bumps are not seen at all
        measure: || line(0.0, 4, |_, _| 0.0),
    },
    Identity {
        id: "item 38 S3.eq83 misprint",
        claim: "with g²·∇p for g²·∇ log p, as printed, it does not return p_0",
        bound: Bound::AtLeast(0.5),
        measure: || line(0.0, 4, |score, density| score * density),
    },
    Identity {
        id: "item 38 S3.eq145 misprint",
        claim: "with g²·∇p for g²·∇ log p, as printed, the plane's Gaussian is not returned",
        bound: Bound::AtLeast(0.1), // ten times the error of the right formula
        measure: || plane(|score, density| score * density),
    },
    Identity {
        id: "item 38 S3.eq87 S3.eq91 equation",
        claim: "p_t solves the reverse equation: its right side is ∂p/∂t",
        // Closed derivatives of sizes up to 50 at ten roundings; the stencil's rounding EPSILON·p/h = 1e-13.
        bound: Bound::AtMost(1e-11),
        measure: || reverse_equation(|slope_in_time, _| slope_in_time),
    },
    Identity {
        id: "item 38 S3.eq92 misprint",
        claim: "it is not ∂p/∂x, as printed",
        bound: Bound::AtLeast(0.1), // of derivatives of order 1
        measure: || reverse_equation(|_, slope_in_space| slope_in_space),
    },
    Identity {
        id: "item 38 S3.eq127 S3.eq144 matrix",
        claim: "for a matrix g the reverse drift is f − g·gᵀ·∇ log p",
        bound: Bound::AtMost(1e-11), // as for item 37's trace
        measure: || matrix(product(DIFFUSION, transposed(DIFFUSION))),
    },
    Identity {
        id: "item 38 S3.eq127 S3.eq144 misprint",
        claim: "for a matrix g, g²·∇ log p, as printed, is wrong",
        bound: Bound::AtLeast(0.01), // of derivatives of order 0.1
        measure: || matrix(product(DIFFUSION, DIFFUSION)),
    },
    Identity {
        id: "item 40 S3.eq84 S3.eq146 density",
        claim: "the reverse SDE has the forward SDE's density at every time",
        bound: Bound::AtMost(1e-3), // as for the data themselves
        measure: densities,
    },
];

/// ∫|p − p_time| of the reverse SDE run from p_1 down to `time`, on 175·`size` cells; `pull(∇ log p, p)` stands for the score.
fn line(time: f64, size: usize, pull: fn(f64, f64) -> f64) -> Result<f64> {
    let (_, data) = two_bumps()?;
    let process = vp()?;
    let law = |t: f64| data.noised(process.alpha(t), process.sigma(t));
    let last = law(1.0)?;
    let mut solver = Solver1::new(Grid1::new(-7.0, 7.0, 175 * size)?, |x| last.pdf(x))?;
    // s = 1 − t runs forwards.
    let drift = |x: f64, s: f64| {
        let t = 1.0 - s;
        let push = law(t).map_or(f64::NAN, |law| pull(law.score(x), law.pdf(x)));
        process.diffusion(t).powi(2) * push - process.drift(t) * x
    };
    solver.run(drift, |s| process.diffusion(1.0 - s), 0.0, 1.0 - time, 150 * size)?;
    let want = law(time)?;
    Ok(solver.l1_to(|x| want.pdf(x)))
}

fn line_order() -> Result<f64> {
    let sizes = [2, 4, 8];
    let errors = sizes.map(|size| line(0.0, size, |score, _| score).unwrap_or(f64::NAN));
    order_miss(&sizes, &errors, 2.0)
}

fn densities() -> Result<f64> {
    Ok(largest([0.9, 0.6, 0.3, 0.1].map(|time| line(time, 4, |score, _| score).unwrap_or(f64::NAN))))
}

/// A Gaussian's score at a time: its value at 0 and its two columns, read off the oracle; the solver asks for one time at a run.
struct LinearScore<'a> {
    oracle: &'a Oracle,
    process: &'a dyn Process,
    known: Cell<(f64, [f64; 6])>,
}

impl LinearScore<'_> {
    fn at(&self, [x, y]: [f64; 2], t: f64) -> [f64; 2] {
        if self.known.get().0 != t {
            let at = self.process.level(t);
            let score = |x: [f64; 2]| self.oracle.score(&x, at);
            let (zero, first, second) = (score([0.0, 0.0]), score([1.0, 0.0]), score([0.0, 1.0]));
            let columns = [first[0] - zero[0], first[1] - zero[1], second[0] - zero[0], second[1] - zero[1]];
            let [a, b, c, d] = columns;
            self.known.set((t, [zero[0], zero[1], a, b, c, d]));
        }
        let [u, v, a, b, c, d] = self.known.get().1;
        [u + a * x + c * y, v + b * x + d * y]
    }
}

/// The same as [`line`] in the plane, down to the data.
fn plane(pull: fn(f64, f64) -> f64) -> Result<f64> {
    let oracle = Oracle::gaussian(&[0.5, -0.7], &[0.8, 0.4, 0.4, 0.5])?;
    let process = Ou::new(1.0, 1.3)?;
    let score = LinearScore { oracle: &oracle, process: &process, known: Cell::new((f64::NAN, [0.0; 6])) };
    let density = |x: [f64; 2], at: Level| oracle.log_density(&x, at).exp();
    let last = process.level(1.0);
    let mut solver = Solver2::new([Grid1::new(-5.0, 5.0, 100)?; 2], |x| density(x, last))?;
    let needs_density = pull(1.0, 2.0) != pull(1.0, 1.0);
    let drift = |x: [f64; 2], s: f64| {
        let t = 1.0 - s;
        let p = if needs_density { density(x, process.level(t)) } else { 1.0 };
        let [u, v] = score.at(x, t).map(|score| process.diffusion(t).powi(2) * pull(score, p));
        [u - process.drift(t) * x[0], v - process.drift(t) * x[1]]
    };
    solver.run(drift, |s| process.diffusion(1.0 - s), 0.0, 1.0, 50)?;
    Ok(solver.l1_to(|x| density(x, Level::CLEAN)))
}

/// The right side of eq. 88 at several times and places, less what `left(∂p/∂t, ∂p/∂x)` takes it to be.
fn reverse_equation(left: fn(f64, f64) -> f64) -> Result<f64> {
    let (oracle, _) = two_bumps()?;
    let process = vp()?;
    let density = |x: f64, t: f64| oracle.log_density(&[x], process.level(t)).exp();
    let miss_of = |t: f64, x: f64| {
        let at = process.level(t);
        let (p, s, h) = (density(x, t), oracle.score(&[x], at)[0], oracle.hessian(&[x], at)[0]);
        let (slope, bend) = (p * s, p * (h + s * s));
        let g2 = at.diffusion.powi(2);
        // −∂x((f·x − g²·s)·p) − g²/2·∂²p/∂x².
        let flux = (at.drift - g2 * h) * p + (at.drift * x - g2 * s) * slope;
        let right = -flux - 0.5 * g2 * bend;
        right - left(derivative(|t| density(x, t), t, 0.01 * t), slope)
    };
    Ok(largest([0.1, 0.2, 0.4].into_iter().flat_map(|t| [-1.5, -0.4, 0.1, 1.2].map(|x| miss_of(t, x)))))
}

fn transposed([a, b, c, d]: Matrix) -> Matrix {
    [a, c, b, d]
}

fn product([a, b, c, d]: Matrix, [p, q, r, s]: Matrix) -> Matrix {
    [a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s]
}

/// The reverse equation of dX = g dW with the drift −`pull`·∇ log p: ∇·(pull·∇p) − ½Tr(gᵀHg) less ∂p/∂t.
fn matrix(pull: Matrix) -> Result<f64> {
    let oracle = spread_plane(0.5)?;
    let trace = |matrix: Matrix, hessian: Matrix| matrix.iter().zip(hessian).map(|(m, h)| m * h).sum::<f64>();
    let forward = product(DIFFUSION, transposed(DIFFUSION));
    Ok(largest(POINTS.map(|x| {
        let hessian = density_hessian(&oracle, x);
        trace(pull, hessian) - 0.5 * trace(forward, hessian) - density_slope(x)
    })))
}
