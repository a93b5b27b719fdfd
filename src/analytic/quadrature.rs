//! Integrals in one dimension: Gauss–Legendre on an interval or the line, Gauss–Hermite for expectations under a normal
//! law, tanh–sinh where an end is singular.

use std::f64::consts::{FRAC_PI_2, PI};

use crate::{Error, Result};

/// Points of the largest rule: beyond it the squared Hermite functions of the weights overflow, and composite rules do
/// better anyway.
const MAX_POINTS: usize = 200;

fn check_points(rule: &str, points: usize) -> Result<()> {
    if (1..=MAX_POINTS).contains(&points) {
        return Ok(());
    }
    Err(Error::Usage(format!("{rule}: 1 to {MAX_POINTS} points, got {points}; take a composite rule for more")))
}

/// The Gauss–Legendre rule on [−1, 1]: exact for polynomials of degree below twice its points.
#[derive(Clone, Debug)]
pub struct GaussLegendre {
    /// (node, weight), nodes ascending.
    points: Vec<(f64, f64)>,
}

impl GaussLegendre {
    /// The rule of `points` nodes, 1 to 200: roots of the Legendre polynomial by Newton's method from Tricomi's
    /// approximation cos(π(i − ¼)/(n + ½)).
    ///
    /// # Errors
    /// [`Error::Usage`] for another number of points.
    pub fn new(points: usize) -> Result<GaussLegendre> {
        check_points("gauss-legendre", points)?;
        let n = points as f64;
        let mut rule = vec![(0.0, 0.0); points];
        for i in 0..points.div_ceil(2) {
            let mut x = (PI * (i as f64 + 0.75) / (n + 0.5)).cos();
            // Quadratic convergence from four digits: three steps reach rounding, the fourth costs nothing.
            for _ in 0..4 {
                let (value, slope) = legendre(points, x);
                x -= value / slope;
            }
            if 2 * i + 1 == points {
                x = 0.0; // the middle root of an odd polynomial
            }
            let slope = legendre(points, x).1;
            let weight = 2.0 / ((1.0 - x * x) * slope * slope);
            rule[i] = (-x, weight);
            rule[points - 1 - i] = (x, weight);
        }
        Ok(GaussLegendre { points: rule })
    }

    /// Nodes and weights on [−1, 1], nodes ascending.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// ∫_a^b f(x) dx with one panel.
    pub fn integrate(&self, f: impl Fn(f64) -> f64, a: f64, b: f64) -> f64 {
        let (centre, half) = (0.5 * (a + b), 0.5 * (b - a));
        half * self.points.iter().map(|&(x, weight)| weight * f(half.mul_add(x, centre))).sum::<f64>()
    }

    /// ∫_a^b f(x) dx with `panels` equal panels, summed from a to b; 0 panels give 0.
    pub fn composite(&self, f: impl Fn(f64) -> f64, a: f64, b: f64, panels: usize) -> f64 {
        let edge = |k: usize| a + (b - a) * (k as f64 / panels as f64);
        (0..panels).map(|k| self.integrate(&f, edge(k), edge(k + 1))).sum()
    }

    /// ∫ f(x) dx over the whole line, by x = centre + scale·tan θ and `panels` equal panels of θ in (−π/2, π/2).
    ///
    /// For integrands that fall at least like 1/x²: f·dx/dθ is then bounded, and for a Cauchy law of the same scale it is
    /// constant. Take `scale` near the width of f.
    pub fn line(&self, f: impl Fn(f64) -> f64, centre: f64, scale: f64, panels: usize) -> f64 {
        let in_theta = |theta: f64| {
            let (sin, cos) = theta.sin_cos();
            scale * f(centre + scale * sin / cos) / (cos * cos)
        };
        self.composite(in_theta, -FRAC_PI_2, FRAC_PI_2, panels)
    }
}

/// The Legendre polynomial of degree n and its derivative at |x| < 1.
fn legendre(n: usize, x: f64) -> (f64, f64) {
    let (mut before, mut value) = (0.0, 1.0);
    for k in 0..n {
        let k = k as f64;
        (before, value) = (value, ((2.0 * k + 1.0) * x * value - k * before) / (k + 1.0));
    }
    (value, n as f64 * (x * value - before) / (x * x - 1.0))
}

/// The Gauss–Hermite rule for E[f(Z)], Z ~ N(0, 1): exact for polynomials of degree below twice its points.
#[derive(Clone, Debug)]
pub struct GaussHermite {
    /// (node, weight), nodes ascending; the weights sum to 1.
    points: Vec<(f64, f64)>,
}

impl GaussHermite {
    /// The rule of `points` nodes, 1 to 200.
    ///
    /// The nodes are the eigenvalues of the Jacobi matrix with √1, √2, … beside its zero diagonal (Golub & Welsch 1969),
    /// found by bisection on Sturm's count, which needs no starting guess; the weights are 1/Σ_k h_k(x)² with the
    /// orthonormal polynomials h_k, a sum of positive terms.
    ///
    /// # Errors
    /// [`Error::Usage`] for another number of points.
    pub fn new(points: usize) -> Result<GaussHermite> {
        check_points("gauss-hermite", points)?;
        let mut rule = vec![(0.0, 0.0); points];
        for i in 0..points.div_ceil(2) {
            // The i-th largest; all lie below 2√n. The middle node of an odd rule is 0.
            let x = if 2 * i + 1 == points { 0.0 } else { hermite_root(points, points - i) };
            let weight = 1.0 / hermite_squares(points, x);
            rule[i] = (-x, weight);
            rule[points - 1 - i] = (x, weight);
        }
        Ok(GaussHermite { points: rule })
    }

    /// Nodes and weights for N(0, 1), nodes ascending.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// E[f(mean + std·Z)], Z ~ N(0, 1).
    pub fn expect(&self, f: impl Fn(f64) -> f64, mean: f64, std: f64) -> f64 {
        self.points.iter().map(|&(x, weight)| weight * f(std.mul_add(x, mean))).sum()
    }
}

/// The root with `rank` roots at or below it, of the Hermite polynomial of degree `n`; a positive root.
fn hermite_root(n: usize, rank: usize) -> f64 {
    let (mut lo, mut hi) = (0.0, 2.0 * (n as f64).sqrt());
    // Until no double lies between: at most about 60 halvings of an interval below 2√200.
    loop {
        let middle = 0.5 * (lo + hi);
        if middle <= lo || middle >= hi {
            return hi;
        }
        if roots_below(n, middle) >= rank { hi = middle } else { lo = middle }
    }
}

/// How many eigenvalues of the Jacobi matrix lie below x: the negative pivots of its factorisation less x.
fn roots_below(n: usize, x: f64) -> usize {
    let (mut pivot, mut count) = (-x, usize::from(x > 0.0));
    for k in 1..n {
        if pivot == 0.0 {
            pivot = f64::MIN_POSITIVE;
        }
        pivot = -x - k as f64 / pivot;
        count += usize::from(pivot < 0.0);
    }
    count
}

/// Σ_{k<n} h_k(x)² of the polynomials orthonormal under N(0, 1).
fn hermite_squares(n: usize, x: f64) -> f64 {
    let (mut before, mut value, mut sum) = (0.0, 1.0, 0.0);
    for k in 0..n {
        sum += value * value;
        let k = k as f64;
        (before, value) = (value, (x * value - k.sqrt() * before) / (k + 1.0).sqrt());
    }
    sum
}

/// ∫_a^b f(x) dx by the tanh–sinh rule (Takahasi & Mori 1974), for analytic f that may be singular at an end.
///
/// The step is halved until two results agree within `tolerance` (absolute). An end of the interval is never passed to
/// `f`, and near an end at 0 the points keep their relative accuracy, so put a singular end at 0.
///
/// # Errors
/// [`Error::Usage`] unless a < b are finite; [`Error::NonFinite`] if f is not finite inside, or if twelve halvings do
/// not agree.
pub fn tanh_sinh(f: impl Fn(f64) -> f64, a: f64, b: f64, tolerance: f64) -> Result<f64> {
    const REACH: f64 = 6.0; // q(t) below is e^{−π sinh 6} = 1e-275 at the first point: nothing is left out
    if !(a < b && (b - a).is_finite()) {
        return Err(Error::Usage(format!(
            "tanh-sinh: the interval must be finite with a < b, got [{a}, {b}]; swap it"
        )));
    }
    let width = b - a;
    let term = |t: f64| {
        let q = 1.0 / (1.0 + (-PI * t.abs().sinh()).exp().recip()); // distance to the nearer end, as a part of the width
        let x = if t < 0.0 { a + width * q } else { b - width * q };
        if x <= a || x >= b { 0.0 } else { f(x) * width * q * (1.0 - q) * PI * t.cosh() }
    };
    let (mut step, mut sum) = (1.0, (-6..=6).map(|k| term(f64::from(k))).sum::<f64>());
    let mut last = sum;
    for _ in 0..12 {
        step *= 0.5;
        let odd = (REACH / step) as i64 - 1;
        sum += (-odd..=odd).step_by(2).map(|k| term(k as f64 * step)).sum::<f64>();
        let value = step * sum;
        if !value.is_finite() {
            return Err(Error::NonFinite(format!(
                "tanh-sinh: the integrand is not finite inside [{a}, {b}]; split the interval at its poles"
            )));
        }
        if (value - last).abs() <= tolerance {
            return Ok(value);
        }
        last = value;
    }
    Err(Error::NonFinite(format!(
        "tanh-sinh: no agreement within {tolerance} on [{a}, {b}], last {last}; split the interval where f is not smooth"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legendre_rules_are_exact_on_polynomials_up_to_their_degree() {
        // n terms of size at most 1: n·EPSILON, and as much for the nodes; 4 times that.
        for n in [1, 2, 3, 8, 33, 64, 200] {
            let rule = GaussLegendre::new(n).unwrap();
            let bound = 4.0 * (n as f64 + 4.0) * f64::EPSILON;
            for degree in [0, 1, 2 * n - 2, 2 * n - 1] {
                let value = rule.integrate(|x| x.powi(degree as i32), -1.0, 1.0);
                let want = if degree % 2 == 0 { 2.0 / (degree as f64 + 1.0) } else { 0.0 };
                assert!((value - want).abs() <= bound, "{n} points, degree {degree}: {value} against {want}");
            }
            assert!(rule.points().windows(2).all(|pair| pair[0].0 < pair[1].0), "{n} points");
        }
    }

    #[test]
    fn legendre_rules_miss_the_next_degree() {
        // The error of n points on x^(2n) is that of the squared monic polynomial: 8/45 for n = 2.
        let value = GaussLegendre::new(2).unwrap().integrate(|x| x.powi(4), -1.0, 1.0);
        assert!((0.4 - value - 8.0 / 45.0).abs() < 1e-15, "{value}");
    }

    #[test]
    fn composite_rules_gain_twice_their_points_in_order() {
        // Two points: error O(h^4), so 16-fold when the panels double.
        let rule = GaussLegendre::new(2).unwrap();
        let error = |panels| (rule.composite(f64::exp, 0.0, 1.0, panels) - (1f64.exp() - 1.0)).abs();
        let ratio = error(8) / error(16);
        assert!((ratio - 16.0).abs() < 0.1, "{ratio}");
    }

    #[test]
    fn line_rules_integrate_heavy_and_light_tails() {
        // Analytic in θ (the Gaussian with all derivatives 0 at the ends); 64 panels of 16 points, rounding 1024·EPSILON.
        let rule = GaussLegendre::new(16).unwrap();
        let gauss = rule.line(|x| (-0.5 * (x - 3.0) * (x - 3.0)).exp(), 3.0, 2.0, 64);
        assert!((gauss - (2.0 * PI).sqrt()).abs() <= 1e-12, "{gauss}");
        let rational = rule.line(|x| 1.0 / (1.0 + x.powi(4)), 0.0, 1.0, 64);
        assert!((rational - PI / 2f64.sqrt()).abs() <= 1e-12, "{rational}");
    }

    #[test]
    fn hermite_rules_are_exact_on_polynomials_up_to_their_degree() {
        // E[Z^(2m)] = (2m − 1)!!, a sum of positive terms: relative error of 2m·EPSILON from each power and node.
        for n in [1, 2, 5, 10, 32, 64] {
            let rule = GaussHermite::new(n).unwrap();
            let mut moment = 1.0;
            for m in 0..n {
                let value = rule.expect(|x| x.powi(2 * m as i32), 0.0, 1.0);
                let bound = moment * 8.0 * (m as f64 + 2.0) * f64::EPSILON;
                assert!((value - moment).abs() <= bound, "{n} points, degree {}: {value} against {moment}", 2 * m);
                moment *= 2.0 * m as f64 + 1.0;
            }
            assert!(rule.points().windows(2).all(|pair| pair[0].0 < pair[1].0), "{n} points");
        }
    }

    #[test]
    fn hermite_rules_miss_the_next_degree_by_n_factorial() {
        let value = GaussHermite::new(3).unwrap().expect(|x| x.powi(6), 0.0, 1.0);
        assert!((15.0 - value - 6.0).abs() < 1e-13, "{value}");
    }

    #[test]
    fn hermite_rules_integrate_entire_functions() {
        // E[e^{tX}] = e^{tm + t²s²/2}; the remainder (ts)^(2n)·n!/(2n)! is below rounding for 40 points at ts = 2.
        let rule = GaussHermite::new(40).unwrap();
        let value = rule.expect(|x| (2.0 * x).exp(), 0.5, 1.0);
        assert!((value / 3f64.exp() - 1.0).abs() < 1e-13, "{value}");
        let largest = GaussHermite::new(MAX_POINTS).unwrap();
        let total: f64 = largest.points().iter().map(|point| point.1).sum();
        assert!((total - 1.0).abs() < 1e-13, "{total}");
    }

    #[test]
    fn two_gaussians_convolve_to_the_gaussian_of_summed_variances() {
        // Item 18: ∫ N(y; m1, s1²) N(x − y; m2, s2²) dy = N(x; m1 + m2, s1² + s2²). Rounding of 1024 terms below 0.4.
        let rule = GaussLegendre::new(16).unwrap();
        let density =
            |x: f64, mean: f64, std: f64| (-0.5 * ((x - mean) / std).powi(2)).exp() / (std * (2.0 * PI).sqrt());
        for (m1, s1, m2, s2) in [(0.0, 1.0, 0.0, 1.0), (-1.0, 0.3, 2.0, 1.5), (4.0, 2.0, -1.0, 0.5)] {
            for x in [-2.0, 0.0, 1.0, 3.7] {
                let value = rule.line(|y| density(y, m1, s1) * density(x - y, m2, s2), m1, s1, 64);
                let want = density(x, m1 + m2, f64::hypot(s1, s2));
                assert!((value - want).abs() <= 1e-13, "({m1}, {s1}) * ({m2}, {s2}) at {x}: {value} against {want}");
                // Adding standard deviations instead of variances is a different law.
                assert!((value - density(x, m1 + m2, s1 + s2)).abs() > 1e-4, "({m1}, {s1}) * ({m2}, {s2}) at {x}");
            }
        }
    }

    #[test]
    fn tanh_sinh_integrates_smooth_and_singular_functions() {
        for (name, value, want) in [
            ("1/sqrt(x)", tanh_sinh(|x| x.sqrt().recip(), 0.0, 4.0, 1e-12), 4.0),
            ("ln x", tanh_sinh(f64::ln, 0.0, 1.0, 1e-12), -1.0),
            ("sqrt(x)", tanh_sinh(f64::sqrt, 0.0, 1.0, 1e-12), 2.0 / 3.0),
            ("exp", tanh_sinh(f64::exp, -1.0, 1.0, 1e-12), 2.0 * 1f64.sinh()),
        ] {
            let value = value.unwrap();
            assert!((value - want).abs() <= 1e-11, "{name}: {value} against {want}");
        }
    }

    #[test]
    fn tanh_sinh_reports_what_it_cannot_integrate() {
        assert!(tanh_sinh(|x| (x - 0.3).signum() * (50.0 * x).sin().signum(), 0.0, 1.0, 1e-12).is_err());
        let text = tanh_sinh(|_| f64::NAN, 0.0, 1.0, 1e-12).unwrap_err().to_string();
        assert_eq!(text, "tanh-sinh: the integrand is not finite inside [0, 1]; split the interval at its poles");
        assert!(tanh_sinh(f64::exp, 1.0, 0.0, 1e-12).is_err() && tanh_sinh(f64::exp, 0.0, f64::NAN, 1e-12).is_err());
    }

    #[test]
    fn rules_without_points_or_with_too_many_are_refused() {
        for points in [0, MAX_POINTS + 1] {
            assert!(GaussLegendre::new(points).is_err() && GaussHermite::new(points).is_err(), "{points}");
        }
    }
}
