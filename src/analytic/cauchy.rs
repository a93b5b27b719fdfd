//! The Cauchy law (S3.eq1, Exercise 1; item 1): the plainest density that has no mean.

use std::f64::consts::{FRAC_1_PI, PI};

use crate::{Error, Result};

/// The centred Cauchy law of half-width `gamma`: p(x) = γ / (π(γ² + x²)).
///
/// It has no mean and no variance: check its samples by median (0), interquartile range (2γ) or a distance of
/// distribution functions, never by moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cauchy {
    gamma: f64,
}

impl Cauchy {
    /// The law of half-width at half maximum `gamma`, in the unit of x.
    ///
    /// # Errors
    /// [`Error::Usage`] unless `gamma` is finite and positive.
    pub fn new(gamma: f64) -> Result<Cauchy> {
        if !(gamma > 0.0 && gamma.is_finite()) {
            return Err(Error::Usage(format!("cauchy: gamma must be finite and positive, got {gamma}; pass γ > 0")));
        }
        Ok(Cauchy { gamma })
    }

    /// The half-width γ.
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// The density p(x) = γ / (π(γ² + x²)) (S3.eq1), per unit of x.
    pub fn pdf(&self, x: f64) -> f64 {
        // In z = x/γ, so that neither γ² nor x² overflows before the quotient is small.
        let z = x / self.gamma;
        FRAC_1_PI / (self.gamma * z.mul_add(z, 1.0))
    }

    /// The distribution function P(X ≤ x) = ½ + atan(x/γ)/π (S3, Exercise 1), in [0, 1].
    ///
    /// Below 0 it is computed as atan(γ/|x|)/π, which keeps its relative accuracy where ½ + atan cancels.
    pub fn cdf(&self, x: f64) -> f64 {
        if x < 0.0 { self.gamma.atan2(-x) * FRAC_1_PI } else { 0.5 + (x / self.gamma).atan() * FRAC_1_PI }
    }

    /// The quantile γ·tan(π(u − ½)) (S3, Exercise 1) for u in [0, 1]; ∓∞ at the ends and NaN outside.
    ///
    /// In the outer quarters it is −γ/tan(πu) and γ/tan(π(1 − u)): π(u − ½) rounds u away near ∓π/2, so the formula as
    /// printed is wrong in every digit for u below 1e-17.
    pub fn quantile(&self, u: f64) -> f64 {
        if !(0.0..=1.0).contains(&u) {
            return f64::NAN;
        }
        if u < 0.25 {
            -self.gamma / (PI * u).tan()
        } else if u > 0.75 {
            self.gamma / (PI * (1.0 - u)).tan()
        } else {
            self.gamma * (PI * (u - 0.5)).tan()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytic::quadrature::GaussLegendre;
    use crate::analytic::{inverse, statistics};
    use crate::rng::{Address, Purpose};

    #[test]
    fn cauchy_density_integrates_to_one_over_the_line() {
        // The line is x = tan θ; for γ ≠ 1 the integrand is smooth but not constant. 16-point panels of width π/64
        // leave a truncation far below the rounding of 1024 terms, 1024·EPSILON = 2e-13.
        let rule = GaussLegendre::new(16).unwrap();
        for gamma in [0.1, 1.0, 7.5] {
            let law = Cauchy::new(gamma).unwrap();
            let mass = rule.line(|x| law.pdf(x), 0.0, 1.0, 64);
            assert!((mass - 1.0).abs() <= 1e-12, "gamma {gamma}: {mass}");
        }
    }

    #[test]
    fn cauchy_cdf_is_the_integral_of_the_density() {
        // Analytic integrand, 16 panels of 16 points on an interval of 8 half-widths at most.
        let rule = GaussLegendre::new(16).unwrap();
        let law = Cauchy::new(0.7).unwrap();
        for (a, b) in [(-3.0, -1.0), (-2.0, 2.5), (0.0, 5.0)] {
            let integral = rule.composite(|x| law.pdf(x), a, b, 16);
            let difference = law.cdf(b) - law.cdf(a);
            assert!((integral - difference).abs() <= 1e-13, "[{a}, {b}]: {integral} against {difference}");
        }
    }

    #[test]
    fn cauchy_cdf_inverts_the_quantile_down_to_the_smallest_tails() {
        let law = Cauchy::new(3.0).unwrap();
        for u in [1e-300, 1e-100, 1e-17, 1e-9, 0.1, 0.249_999, 0.25, 0.4, 0.5, 0.6, 0.75, 0.750_001, 0.999] {
            let back = law.cdf(law.quantile(u));
            // Three rounded functions, each well conditioned here: 16 units in the last place, relative.
            assert!((back - u).abs() <= 16.0 * f64::EPSILON * u, "u = {u}: {back}");
        }
        // Near 1 the number 1 − u is exact, so the upper quantile mirrors the lower one bit for bit.
        assert_eq!(law.quantile(1.0 - 2f64.powi(-40)), -law.quantile(2f64.powi(-40)));
    }

    #[test]
    fn cauchy_quantile_is_infinite_at_the_ends_and_undefined_outside() {
        let law = Cauchy::new(1.0).unwrap();
        assert_eq!((law.quantile(0.0), law.quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(law.quantile(-0.1).is_nan() && law.quantile(1.1).is_nan() && law.quantile(f64::NAN).is_nan());
    }

    #[test]
    fn cauchy_quantile_as_printed_fails_in_the_tail() {
        // u = 1e-20: π(u − ½) is −π/2 rounded, whatever u is.
        let printed = (PI * (1e-20 - 0.5)).tan();
        let right = Cauchy::new(1.0).unwrap().quantile(1e-20);
        assert!((right * PI * 1e-20 + 1.0).abs() < 1e-14, "{right}");
        assert!((printed / right - 1.0).abs() > 0.5, "{printed} against {right}");
    }

    #[test]
    fn cauchy_samples_follow_the_law_in_distance_median_and_quartiles() {
        const COUNT: usize = 100_000; // seed 1
        let law = Cauchy::new(2.0).unwrap();
        let mut samples = vec![0.0; COUNT];
        inverse::sample_inverse(|u| law.quantile(u), Address::new(1, Purpose::Test), &mut samples);
        let distance = statistics::ks(&samples, |x| law.cdf(x)).unwrap();
        let critical = statistics::ks_critical(1e-3, COUNT as f64).unwrap();
        assert!(distance < critical, "{distance} against {critical}");
        // A quantile's standard error is sqrt(u(1−u)/n)/p(x_u): the median's is πγ/(2√n); the quartiles' density is
        // 1/(2πγ) and their covariance 1/(16n), so the range's error is 2πγ·sqrt((3 + 3 − 2)/16)/√n = πγ/√n.
        let root = (COUNT as f64).sqrt();
        let median = statistics::median(&samples).unwrap();
        assert!(median.abs() < 4.0 * PI * 2.0 / (2.0 * root), "median {median}");
        let range = statistics::iqr(&samples).unwrap();
        assert!((range - 4.0).abs() < 4.0 * PI * 2.0 / root, "interquartile range {range}");
    }

    #[test]
    fn cauchy_without_a_positive_width_is_refused() {
        for gamma in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Cauchy::new(gamma).is_err(), "{gamma}");
        }
        let text = Cauchy::new(-1.0).unwrap_err().to_string();
        assert_eq!(text, "cauchy: gamma must be finite and positive, got -1; pass γ > 0");
    }
}
