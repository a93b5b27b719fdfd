//! The solvers against closed forms, and the formulas of items 37, 38, 40 and 41 against the solvers.

use super::*;
use crate::analytic::Mixture;
use crate::analytic::gaussian::normal_pdf;
use crate::analytic::quadrature::GaussHermite;
use crate::analytic::statistics::fit_order;

// ---- a VP process with mixture data: everything in closed form ----

const BETA_MIN: f64 = 0.1; // Song et al. 2021: beta(t) = 0.1 + 19.9 t on [0, 1]
const BETA_MAX: f64 = 20.0;

fn beta(t: f64) -> f64 {
    BETA_MIN + (BETA_MAX - BETA_MIN) * t
}

fn data() -> Mixture {
    Mixture::new(&[0.3, 0.7], &[-1.5, 1.0], &[0.4, 0.5]).unwrap()
}

/// p_t: alpha = exp(−½∫beta), sigma² = 1 − alpha².
fn vp_law(t: f64) -> Mixture {
    let integral = BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t * t;
    data().noised((-0.5 * integral).exp(), (-(-integral).exp_m1()).sqrt()).unwrap()
}

/// A forward problem in s = 1 − t from p_1 to t = `end`, with this drift in terms of (x, t, p_t).
fn run_reverse(end: f64, cells: usize, steps: usize, drift: impl Fn(f64, f64, &Mixture) -> f64) -> Solver1 {
    let mut solver = Solver1::new(Grid1::new(-7.0, 7.0, cells).unwrap(), |x| vp_law(1.0).pdf(x)).unwrap();
    // The law of a time is the same for every x: make it once a step.
    let cache = std::cell::RefCell::new((f64::NAN, data()));
    let in_s = |x: f64, s: f64| {
        let t = 1.0 - s;
        let mut cache = cache.borrow_mut();
        if cache.0 != t {
            *cache = (t, vp_law(t));
        }
        drift(x, t, &cache.1)
    };
    solver.run(in_s, |s| beta(1.0 - s).sqrt(), 0.0, 1.0 - end, steps).unwrap();
    solver
}

/// Anderson's reverse drift −(f − g²·score) with f = −½·beta·x and g² = beta.
fn anderson(x: f64, t: f64, law: &Mixture) -> f64 {
    beta(t) * (0.5 * x + law.score(x))
}

// ---- the solver in one dimension ----

/// Error at t = 0.7 of dX = −X dt + √2·c dW from N(1, 0.6²): mean e^{−t}, variance c² + (0.36 − c²)e^{−2t}.
fn ou_error(cells: usize, steps: usize) -> f64 {
    let (c, t) = (0.8, 0.7f64);
    let mut solver = Solver1::new(Grid1::new(-7.0, 7.0, cells).unwrap(), |x| normal_pdf(x, 1.0, 0.6)).unwrap();
    solver.run(|x, _| -x, |_| c * 2f64.sqrt(), 0.0, t, steps).unwrap();
    let std = (c * c + (0.36 - c * c) * (-2.0 * t).exp()).sqrt();
    solver.linf_to(|x| normal_pdf(x, (-t).exp(), std))
}

#[test]
fn ou_density_converges_with_order_two_in_the_cells() {
    // 2000 steps: the error in time is below 1e-7, a hundredth of the smallest here.
    let cells = [100, 200, 400];
    let errors = cells.map(|cells| ou_error(cells, 2000));
    let order = fit_order(&cells.map(|cells| 14.0 / cells as f64), &errors).unwrap();
    assert!((order - 2.0).abs() < 0.1, "order {order}, errors {errors:?}");
    assert!(errors[2] < 1e-3, "{errors:?}");
}

#[test]
fn density_converges_with_order_two_in_the_steps_of_a_process_that_changes_in_time() {
    // The error in time alone: against the same grid at 64 times the steps. VP from 0 to 1, beta growing 200-fold.
    let at = |steps: usize| {
        let mut solver = Solver1::new(Grid1::new(-7.0, 7.0, 280).unwrap(), |x| data().pdf(x)).unwrap();
        solver.run(|x, t| -0.5 * beta(t) * x, |t| beta(t).sqrt(), 0.0, 0.5, steps).unwrap();
        solver
    };
    let fine = at(2560);
    let steps = [40, 80, 160];
    let errors = steps.map(|steps| largest(at(steps).density().iter().zip(fine.density()).map(|(p, q)| p - q)));
    let order = fit_order(&steps.map(|steps| 0.5 / steps as f64), &errors).unwrap();
    assert!((order - 2.0).abs() < 0.1, "order {order}, errors {errors:?}");
}

#[test]
fn mass_is_kept_to_rounding_whatever_the_drift() {
    // Every step moves amounts from cell to cell: 1400 cells · 500 steps of random roundings of p·EPSILON stay below 1e-13.
    let mut solver = Solver1::new(Grid1::new(-7.0, 7.0, 1400).unwrap(), |x| data().pdf(x)).unwrap();
    solver.run(|x, t| 3.0 * (2.0 * x + 9.0 * t).sin() - x * x * x / 10.0, |t| 1.0 + t, 0.0, 1.0, 500).unwrap();
    assert!((solver.mass() - 1.0).abs() <= 1e-12, "{:e}", solver.mass() - 1.0);
    let reverse = run_reverse(0.02, 1400, 1000, anderson);
    assert!((reverse.mass() - 1.0).abs() <= 1e-12, "{:e}", reverse.mass() - 1.0);
}

#[test]
fn nothing_leaves_through_the_walls() {
    // A constant drift against the wall: the stationary density is c·e^{2fx/g²} on [0, 1], not zero at the wall.
    let mut solver = Solver1::new(Grid1::new(0.0, 1.0, 200).unwrap(), |_| 1.0).unwrap();
    solver.run(|_, _| 2.0, |_| 1.0, 0.0, 4.0, 2000).unwrap();
    // Slowest decay e^{−(π² + f²)t/2} = 1e-12. Central fluxes step by (1 + q)/(1 − q) a cell with q = f·dx/g² = 0.01 where
    // e^{2q} is right: 2q³/3 off a cell, 1.3e-4 over the 200, at a height of 4; halved again by the scaling.
    let error = solver.linf_to(|x| 4.0 * (4.0 * x).exp() / (4f64.exp() - 1.0));
    assert!(error < 4e-4, "{error}");
    assert!((solver.mass() - 1.0).abs() <= 1e-12);
}

// ---- item 37: the generator ----

#[test]
fn expectations_change_by_the_generator() {
    // d/dt E[phi] = E[phi'·f + ½·phi''·g²], phi = x³ − x: both sides exact by Gauss–Hermite (degree 4); the time derivative
    // by a central difference with h = 1e-4, error h²/6 times a third derivative below 1e3, rounding EPSILON/h.
    let rule = GaussHermite::new(8).unwrap();
    let phi = |x: f64| x * x * x - x;
    for t in [0.05, 0.2, 0.4] {
        let slope = (vp_law(t + 1e-4).expect(&rule, phi) - vp_law(t - 1e-4).expect(&rule, phi)) / 2e-4;
        let generator = |x: f64| (3.0 * x * x - 1.0) * (-0.5 * beta(t) * x) + 0.5 * 6.0 * x * beta(t);
        let want = vp_law(t).expect(&rule, generator);
        assert!((slope - want).abs() < 2e-6, "t = {t}: {slope} against {want}");
        let without_half = vp_law(t).expect(&rule, |x| generator(x) + 3.0 * x * beta(t));
        assert!((slope - without_half).abs() > 0.1, "t = {t}: the factor ½ must matter");
    }
}

#[test]
fn the_solvers_expectations_change_by_the_generator() {
    // The same for the grid's own density and a drift without closed form. Summing the fluxes by parts gives the identity
    // up to dx² = 2.5e-5 times numbers of size 1 to 4 (1.3 found); halving h changes the result by 1e-6 only.
    let (drift, g, h) = (|x: f64| x - x * x * x, 0.9, 1e-3);
    let mut solver = Solver1::new(Grid1::new(-5.0, 5.0, 2000).unwrap(), |x| normal_pdf(x, 0.5, 0.4)).unwrap();
    solver.run(|x, _| drift(x), |_| g, 0.0, 0.3 - h, 300).unwrap();
    let phi = |x: f64| x * x;
    let before = solver.expectation(phi);
    solver.run(|x, _| drift(x), |_| g, 0.3 - h, 0.3, 1).unwrap();
    let generator = solver.expectation(|x| 2.0 * x * drift(x) + g * g);
    solver.run(|x, _| drift(x), |_| g, 0.3, 0.3 + h, 1).unwrap();
    let slope = (solver.expectation(phi) - before) / (2.0 * h);
    assert!((slope - generator).abs() < 1e-4, "{slope} against {generator}");
}

// ---- items 38, 40, 41: reverse time ----

#[test]
fn reverse_sde_with_the_score_returns_the_data() {
    // Item 38 (S3.eq82–92): order 2 in cells and steps together, and close.
    let sizes = [1usize, 2, 4];
    let errors = sizes.map(|k| run_reverse(0.02, 175 * k, 250 * k, anderson).linf_to(|x| vp_law(0.02).pdf(x)));
    let order = fit_order(&sizes.map(|k| 1.0 / k as f64), &errors).unwrap();
    assert!((order - 2.0).abs() < 0.2 && errors[2] < 2e-3, "order {order}, errors {errors:?}");
}

#[test]
fn reverse_sde_has_the_forward_marginal_at_every_time() {
    // Item 40 (S3.eq84, 146): X_t and Y_{T−t} have one law.
    for t in [0.9, 0.6, 0.3, 0.1] {
        let distance = run_reverse(t, 700, 600, anderson).l1_to(|x| vp_law(t).pdf(x));
        assert!(distance < 1e-3, "t = {t}: {distance}");
    }
}

#[test]
fn reverse_sde_without_the_score_or_with_the_density_gradient_fails() {
    let to_data = |solver: &Solver1| solver.l1_to(|x| vp_law(0.02).pdf(x));
    let right = to_data(&run_reverse(0.02, 700, 1000, anderson));
    let without = to_data(&run_reverse(0.02, 700, 1000, |x, t, _| 0.5 * beta(t) * x));
    // S3.eq83 and eq145 as printed: ∇p in place of ∇ log p.
    let printed = to_data(&run_reverse(0.02, 700, 1000, |x, t, law| beta(t) * (0.5 * x + law.score(x) * law.pdf(x))));
    assert!(right < 1e-3, "{right}");
    assert!(without > 0.5 && printed > 0.5, "without {without}, printed {printed}");
}

#[test]
fn probability_flow_has_the_marginals_of_the_sde() {
    // Item 41: drift f − ½g²·score and no noise, forwards from the data; the half is needed.
    let run = |factor: f64| {
        let mut solver = Solver1::new(Grid1::new(-7.0, 7.0, 700).unwrap(), |x| data().pdf(x)).unwrap();
        let drift = |x: f64, t: f64| -beta(t) * (0.5 * x + factor * vp_law(t).score(x));
        solver.run(drift, |_| 0.0, 0.0, 0.4, 400).unwrap();
        solver.l1_to(|x| vp_law(0.4).pdf(x))
    };
    let (right, less, more) = (run(0.5), run(0.4), run(0.6));
    assert!(right < 1e-3, "{right}");
    assert!(less > 0.05 && more > 0.05, "with 0.4 of the score {less}, with 0.6 {more}");
}

// ---- the solver in two dimensions ----

fn normal2(at: [f64; 2], mean: [f64; 2], [[a, b], [_, d]]: [[f64; 2]; 2]) -> f64 {
    let (x, y, det) = (at[0] - mean[0], at[1] - mean[1], a * d - b * b);
    (-0.5 * (d * x * x - 2.0 * b * x * y + a * y * y) / det).exp() / (std::f64::consts::TAU * det.sqrt())
}

/// dX = −(X, Y) dt + √2·c dW from a correlated Gaussian: covariance c²·1 + (C − c²·1)e^{−2t}.
fn plane_ou(cells: usize, steps: usize) -> (Solver2, [f64; 2], [[f64; 2]; 2]) {
    let (c, t, start) = (0.9, 0.4f64, [[0.8, 0.4], [0.4, 0.5]]);
    let grids = [Grid1::new(-5.5, 6.0, cells).unwrap(), Grid1::new(-6.0, 5.0, cells * 6 / 5).unwrap()];
    let mut solver = Solver2::new(grids, |at| normal2(at, [0.5, -0.7], start)).unwrap();
    solver.run(|[x, y], _| [-x, -y], |_| c * 2f64.sqrt(), 0.0, t, steps).unwrap();
    let (keep, own) = ((-2.0 * t).exp(), c * c * -(-2.0 * t).exp_m1());
    let covariance = [[own + keep * 0.8, keep * 0.4], [keep * 0.4, own + keep * 0.5]];
    (solver, [0.5 * (-t).exp(), -0.7 * (-t).exp()], covariance)
}

#[test]
fn correlated_gaussian_in_the_plane_converges_with_order_two() {
    let cells = [50, 100, 200];
    let errors = cells.map(|cells| {
        let (solver, mean, covariance) = plane_ou(cells, cells);
        solver.linf_to(|at| normal2(at, mean, covariance))
    });
    let order = fit_order(&cells.map(|cells| 1.0 / cells as f64), &errors).unwrap();
    assert!((order - 2.0).abs() < 0.1 && errors[2] < 1e-3, "order {order}, errors {errors:?}");
}

#[test]
fn plane_keeps_its_mass_and_has_the_moments_of_the_closed_form() {
    let (solver, mean, covariance) = plane_ou(150, 60);
    assert!((solver.mass() - 1.0).abs() <= 1e-12, "{:e}", solver.mass() - 1.0);
    // Central fluxes give the moment equations up to dx²·f/4-terms: (0.077)²/4 = 1.5e-3, and O(dt²).
    for a in 0..2 {
        assert!((solver.mean()[a] - mean[a]).abs() < 1e-4, "{:?} against {mean:?}", solver.mean());
        for b in 0..2 {
            let error = (solver.covariance()[a][b] - covariance[a][b]).abs();
            assert!(error < 2e-3, "{:?} against {covariance:?}", solver.covariance());
        }
    }
}

#[test]
fn rotation_in_the_plane_couples_the_directions_with_order_two_in_the_steps() {
    // f = (−y, x): the density turns, which only the cross terms of the two sweeps do. Time error alone, against a fine run.
    let at = |steps: usize| {
        let grid = Grid1::new(-4.0, 4.0, 64).unwrap();
        let mut solver = Solver2::new([grid; 2], |at| normal2(at, [1.0, 0.0], [[0.3, 0.1], [0.1, 0.2]])).unwrap();
        solver.run(|[x, y], t| [-2.0 * (1.0 + t) * y, 2.0 * (1.0 + t) * x], |_| 0.5, 0.0, 0.5, steps).unwrap();
        solver
    };
    let fine = at(640);
    let steps = [20, 40, 80];
    let errors = steps.map(|steps| largest(at(steps).density().iter().zip(fine.density()).map(|(p, q)| p - q)));
    let order = fit_order(&steps.map(|steps| 0.5 / steps as f64), &errors).unwrap();
    assert!((order - 2.0).abs() < 0.1, "order {order}, errors {errors:?}");
    // The angle is ∫ 2(1 + t) dt = 1.25: the mean of (1, 0) stands at (cos, sin).
    let mean = fine.mean();
    assert!((mean[0] - 1.25f64.cos()).abs() < 1e-2 && (mean[1] - 1.25f64.sin()).abs() < 1e-2, "{mean:?}");
}

// ---- wrong use ----

#[test]
fn wrong_grids_densities_and_times_are_refused() {
    assert!(
        Grid1::new(0.0, 0.0, 10).is_err() && Grid1::new(0.0, 1.0, 2).is_err() && Grid1::new(0.0, f64::NAN, 9).is_err()
    );
    let grid = Grid1::new(0.0, 1.0, 10).unwrap();
    assert!(Solver1::new(grid, |_| 0.0).is_err() && Solver1::new(grid, |x| x - 0.5).is_err());
    assert!(Solver1::new(grid, |_| f64::NAN).is_err() && Solver2::new([grid; 2], |_| -1.0).is_err());
    let mut solver = Solver1::new(grid, |_| 1.0).unwrap();
    assert!(solver.run(|_, _| 0.0, |_| 1.0, 0.0, 1.0, 0).is_err());
    assert!(solver.run(|_, _| 0.0, |_| f64::NAN, 0.0, 1.0, 1).is_err());
    let text = solver.run(|_, _| 0.0, |_| 1.0, 1.0, 0.0, 5).unwrap_err().to_string();
    assert!(text.contains("run s = T − t with the reverse drift"), "{text}");
    assert!(solver.run(|_, _| f64::NAN, |_| 1.0, 0.0, 1.0, 1).is_err());
    assert!(solver.linf_to(|_| 0.0).is_nan(), "a NaN must not pass a bound");
}
