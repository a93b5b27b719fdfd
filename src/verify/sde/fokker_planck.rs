//! The Fokker–Planck equation (item 37).

use super::super::measure::{derivative, largest, miss, order_miss, two_bumps, vp};
use super::super::{Bound, Identity};
use crate::analytic::Mixture;
use crate::analytic::fokker_planck::{Grid1, Solver1, Solver2};
use crate::analytic::gaussian::normal_pdf;
use crate::analytic::quadrature::GaussHermite;
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::process::{BetaCurve, Flow};
use crate::process::{Edm, Level, Ou, Process, SubVp, Ve};

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 37 S3.eq72 mass",
        claim: "the density keeps its mass",
        // 700 cells · 400 steps of random roundings of p·EPSILON stay below 1e-13.
        bound: Bound::AtMost(1e-12),
        measure: mass,
    },
    Identity {
        id: "item 37 S3.eq73 S3.eq80 density",
        claim: "solved on a grid, Gaussian data become OU's closed form, with order 2 in dx",
        bound: Bound::AtMost(0.1), // a slope within 0.1 of 2 names the order
        measure: order_in_cells,
    },
    Identity {
        id: "item 37 S3.eq140 S3.eq143 plane",
        claim: "the same in two dimensions on a correlated Gaussian",
        bound: Bound::AtMost(0.1),
        measure: order_in_the_plane,
    },
    Identity {
        id: "item 37 S3.eq74 S3.eq77 generator",
        claim: "d/dt E[φ] = E[φ'·f + ½φ''·g²] for polynomials on the whole line",
        // Moments to degree 4 by an exact rule. Rates up to 72 in a stencil of h = 0.0015: 72⁹·h⁸/630 = 2e-9 of what they have left
        // there, e^(−10); rounding EPSILON·3/h = 1e-12.
        bound: Bound::AtMost(1e-10),
        measure: generator,
    },
    Identity {
        id: "item 37 S3.eq140 trace",
        claim: "∂p/∂t = ½Tr(gᵀ·H·g) for a matrix g that is not symmetric",
        // Densities below 1 whose time derivative the stencil h = 0.01 takes with rounding 2e-14 and truncation below 1e-13.
        bound: Bound::AtMost(1e-11),
        measure: || trace(quadratic),
    },
    Identity {
        id: "item 37 S3.eq140 transposed",
        claim: "½Tr(g·H·gᵀ), the transpose on the other side, is another equation",
        bound: Bound::AtLeast(0.01), // of derivatives of order 0.1
        measure: || trace(|g, hessian| quadratic([g[0], g[2], g[1], g[3]], hessian)),
    },
    Identity {
        id: "item 37 S3.eq141 misprint",
        claim: "Σ∂²/∂x_i² without p, read as applied to 1, leaves no diffusion",
        bound: Bound::AtLeast(0.5), // relative: all of the derivative, 1
        measure: laplacian_of_nothing,
    },
];

fn mass() -> Result<f64> {
    let (_, data) = two_bumps()?;
    let process = vp()?;
    let mut solver = Solver1::new(Grid1::new(-7.0, 7.0, 700)?, |x| data.pdf(x))?;
    solver.run(|x, t| process.drift(t) * x, |t| process.diffusion(t), 0.0, 1.0, 400)?;
    Ok((solver.mass() - 1.0).abs())
}

fn order_in_cells() -> Result<f64> {
    let process = Ou::new(1.0, 1.3)?;
    let (mean, std) = (1.0, 0.5);
    let cells = [100, 200, 400];
    let mut errors = Vec::new();
    for n in cells {
        let mut solver = Solver1::new(Grid1::new(-6.0, 6.0, n)?, |x| normal_pdf(x, mean, std))?;
        // 800 steps: the error in time is a hundredth of the smallest in space.
        solver.run(|x, t| process.drift(t) * x, |t| process.diffusion(t), 0.0, 0.5, 800)?;
        let at = process.level(0.5);
        let spread = (at.alpha * std).hypot(at.sigma);
        errors.push(solver.linf_to(|x| normal_pdf(x, at.alpha * mean, spread)));
    }
    order_miss(&cells, &errors, 2.0)
}

fn order_in_the_plane() -> Result<f64> {
    let process = Ou::new(1.0, 1.3)?;
    let oracle = Oracle::gaussian(&[0.5, -0.7], &[0.8, 0.4, 0.4, 0.5])?;
    let cells = [40, 80, 160];
    let mut errors = Vec::new();
    for n in cells {
        let density = |at: Level| {
            let oracle = &oracle;
            move |x: [f64; 2]| oracle.log_density(&x, at).exp()
        };
        let mut solver = Solver2::new([Grid1::new(-5.5, 5.5, n)?; 2], density(Level::CLEAN))?;
        let drift = |[x, y]: [f64; 2], t: f64| [process.drift(t) * x, process.drift(t) * y];
        solver.run(drift, |t| process.diffusion(t), 0.0, 0.4, n)?;
        errors.push(solver.linf_to(density(process.level(0.4))));
    }
    order_miss(&cells, &errors, 2.0)
}

fn generator() -> Result<f64> {
    let (_, data) = two_bumps()?;
    let rule = GaussHermite::new(8)?;
    let curve = BetaCurve::Linear { min: 0.1, max: 20.0 };
    let list: [Box<dyn Process>; 5] = [
        Box::new(Ou::new(1.5, 0.8)?),
        Box::new(SubVp::new(curve)?),
        Box::new(Ve::new(0.01, 5.0)?),
        Box::new(Edm::new(0.002, 8.0, 7.0)?),
        Box::new(Flow),
    ];
    let mut misses = Vec::new();
    for process in &list {
        for t in [0.1, 0.3, 0.6, 0.9] {
            let law = |t: f64| -> Result<Mixture> { data.noised(process.alpha(t), process.sigma(t)) };
            // φ = x⁴ − x.
            let mean = |t: f64| law(t).map_or(f64::NAN, |law| law.expect(&rule, |x| x.powi(4) - x));
            let slope = derivative(mean, t, 0.005 * t.min(1.0 - t));
            let (f, g) = (process.drift(t), process.diffusion(t));
            let action = |x: f64| (4.0 * x.powi(3) - 1.0) * f * x + 0.5 * 12.0 * x * x * g * g;
            misses.push(miss(slope, law(t)?.expect(&rule, action)));
        }
    }
    Ok(largest(misses))
}

/// A matrix by rows.
pub(super) type Matrix = [f64; 4];

/// g of dX = g dW.
pub(super) const DIFFUSION: Matrix = [1.0, 0.8, 0.0, 0.5];

/// Two bumps in the plane after time t of dX = g dW: covariances grow by g·gᵀ·t.
pub(super) fn spread_plane(t: f64) -> Result<Oracle> {
    let [a, b, c, d] = DIFFUSION;
    let (xx, xy, yy) = (t * (a * a + b * b), t * (a * c + b * d), t * (c * c + d * d));
    let covariances = [[0.5, 0.2, 0.3], [0.4, -0.1, 0.6]].map(|[p, q, r]| vec![p + xx, q + xy, q + xy, r + yy]);
    Oracle::mixture(&[0.3, 0.7], &[vec![-0.8, 0.5], vec![0.6, -0.2]], &covariances)
}

/// Points where the density is not small.
pub(super) const POINTS: [[f64; 2]; 5] = [[0.0, 0.0], [-0.8, 0.5], [1.0, -0.7], [0.3, 0.9], [-1.5, 0.2]];

/// The time derivative of the density of [`spread_plane`] at t = 0.5.
pub(super) fn density_slope(x: [f64; 2]) -> f64 {
    derivative(|t| spread_plane(t).map_or(f64::NAN, |o| o.log_density(&x, Level::CLEAN).exp()), 0.5, 0.01)
}

/// The Hessian of the density itself: p·(H_(ln p) + s·sᵀ).
pub(super) fn density_hessian(oracle: &Oracle, x: [f64; 2]) -> Matrix {
    let (p, s) = (oracle.log_density(&x, Level::CLEAN).exp(), oracle.score(&x, Level::CLEAN));
    let h = oracle.hessian(&x, Level::CLEAN);
    [0, 1, 2, 3].map(|i| p * (h[i] + s[i / 2] * s[i % 2]))
}

/// ½Tr(gᵀ·H·g).
fn quadratic([a, b, c, d]: Matrix, [xx, xy, yx, yy]: Matrix) -> f64 {
    let column = |u: f64, v: f64| u * u * xx + u * v * (xy + yx) + v * v * yy;
    0.5 * (column(a, c) + column(b, d))
}

fn trace(right: impl Fn(Matrix, Matrix) -> f64) -> Result<f64> {
    let oracle = spread_plane(0.5)?;
    Ok(largest(POINTS.map(|x| density_slope(x) - right(DIFFUSION, density_hessian(&oracle, x)))))
}

fn laplacian_of_nothing() -> Result<f64> {
    // g = ρ·I: the slope is ρ²/2·Δp; Δ1 = 0 in its place.
    let (rho, oracle) = (1.3_f64, spread_plane(0.5)?);
    let slope = |x: [f64; 2]| {
        let [xx, _, _, yy] = density_hessian(&oracle, x);
        0.5 * rho * rho * (xx + yy)
    };
    let printed = 0.0;
    let size = largest(POINTS.map(slope));
    Ok(largest(POINTS.map(|x| slope(x) - printed)) / size)
}
