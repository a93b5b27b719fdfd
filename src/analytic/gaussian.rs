//! The normal law and one-dimensional mixtures of it: the data on which every formula of diffusion has a closed form.

use std::f64::consts::{FRAC_1_SQRT_2, PI, TAU};

use crate::analytic::inverse::{invert_cdf, open_uniform};
use crate::analytic::quadrature::GaussHermite;
use crate::rng::Address;
use crate::{Error, Result};

/// The complementary error function 2/√π ∫_x^∞ e^{−y²} dy, to a few units in the last place relative, tails included.
///
/// Below ½ it is 1 − erf by erf's series of positive terms; above, the trapezoidal rule of step h = ½ on
/// e^{x²} erfc(x) = (x/π) ∫ e^{−y²}/(y² + x²) dy with the residue of its pole (Matta & Reichl 1971), whose error is
/// e^{−π²/h²} = 7e-18.
pub fn erfc(x: f64) -> f64 {
    const STEP: f64 = 0.5;
    if x.is_nan() {
        return x;
    }
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 0.5 {
        return 1.0 - erf_series(x);
    }
    if x > 27.3 {
        return 0.0; // below the smallest double
    }
    let square = x * x;
    // e^{−x²} with the part of x² that its rounding lost: an error of 1e-14 at x = 10 otherwise.
    let gauss = (-square).exp() * (1.0 - x.mul_add(x, -square));
    let part = |n: u32| {
        let y = STEP * f64::from(n);
        2.0 * (-y * y).exp() / (y * y + square)
    };
    let sum = (1..=12).rev().map(part).sum::<f64>() + 1.0 / square; // e^{−13²/4} = 4e-19 is left out
    let value = gauss * x * STEP / PI * sum;
    // The pole at iy = ix lies inside the strip of the error bound as long as x < π/h.
    if x < 6.0 { value - 2.0 / (TAU * x / STEP).exp_m1() } else { value }
}

/// erf(x) = 2/√π e^{−x²} Σ 2ⁿ x^{2n+1}/(2n+1)!! for 0 ≤ x < ½.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..16 {
        term *= 2.0 * x * x / f64::from(2 * n + 1); // (½)^n/(2n+1)!! at most: 1e-21 at n = 16
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// ln erfc(x), to a few units in the last place of its larger part, x², where erfc itself is below the smallest double too.
///
/// Above 20 by the asymptotic series erfc(x) = e^{−x²}/(x√π)·Σ (−1)ⁿ(2n−1)!!/(2x²)ⁿ, whose ninth term is 2e-16 there.
pub fn log_erfc(x: f64) -> f64 {
    if !(x > 20.0) {
        return erfc(x).ln();
    }
    let ratio = -0.5 / (x * x);
    let (mut term, mut sum) = (1.0, 0.0);
    for n in 1..10 {
        term *= ratio * f64::from(2 * n - 1);
        sum += term;
    }
    sum.ln_1p() - (x * PI.sqrt()).ln() - x * x
}

/// ln P(low < X < high) for X ~ N(0, 1), −∞ and ∞ included; it keeps its relative accuracy in both tails.
pub fn log_normal_interval(low: f64, high: f64) -> f64 {
    if !(low < high) {
        return if low.is_nan() || high.is_nan() { f64::NAN } else { f64::NEG_INFINITY };
    }
    if low + high < 0.0 {
        return log_normal_interval(-high, -low);
    }
    // Most of the interval lies above 0 now: the difference of two upper tails, or what both tails leave.
    let log_tail = |x: f64| log_erfc(x * FRAC_1_SQRT_2) - std::f64::consts::LN_2;
    if low < 0.0 {
        return (-(log_tail(-low).exp() + log_tail(high).exp())).ln_1p();
    }
    let near = log_tail(low);
    if high == f64::INFINITY { near } else { near + (-(log_tail(high) - near).exp()).ln_1p() }
}

/// The density of N(mean, std²) at x, per unit of x.
pub fn normal_pdf(x: f64, mean: f64, std: f64) -> f64 {
    let z = (x - mean) / std;
    (-0.5 * z * z).exp() / (std * TAU.sqrt())
}

/// The distribution function of N(mean, std²); relative accuracy is kept in the lower tail. For the upper one swap signs.
pub fn normal_cdf(x: f64, mean: f64, std: f64) -> f64 {
    0.5 * erfc((mean - x) / std * FRAC_1_SQRT_2)
}

/// The quantile of N(0, 1) for u in [0, 1]; ∓∞ at the ends and NaN outside.
///
/// Hastings' rational start (Abramowitz & Stegun 26.2.23, error 4.5e-4) and three steps of Halley's method, each of which
/// cubes the error. The upper half mirrors the lower, where u keeps its relative accuracy.
pub fn normal_quantile(u: f64) -> f64 {
    if !(0.0..=1.0).contains(&u) {
        return f64::NAN;
    }
    if u > 0.5 {
        return -normal_quantile(1.0 - u);
    }
    if u == 0.0 {
        return f64::NEG_INFINITY;
    }
    let t = (-2.0 * u.ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    let mut x = above / below - t;
    for _ in 0..3 {
        // Newton's step on cdf − u, and its correction by p'/p = −x.
        let newton = (normal_cdf(x, 0.0, 1.0) - u) / normal_pdf(x, 0.0, 1.0);
        x -= newton / (1.0 + 0.5 * x * newton);
    }
    x
}

/// A one-dimensional Gaussian mixture Σ w_k N(m_k, s_k²).
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    components: Vec<Component>,
}

/// One Gaussian of a [`Mixture`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Component {
    /// Its share of the mass; the shares sum to 1.
    pub weight: f64,
    /// Its mean.
    pub mean: f64,
    /// Its standard deviation.
    pub std: f64,
}

impl Mixture {
    /// The mixture of these components; `weights` are scaled to sum 1, `stds` are standard deviations, not variances.
    ///
    /// # Errors
    /// [`Error::Usage`] unless the three have one length of at least 1, weights and stds are positive, and all is finite.
    pub fn new(weights: &[f64], means: &[f64], stds: &[f64]) -> Result<Mixture> {
        if weights.is_empty() || weights.len() != means.len() || weights.len() != stds.len() {
            return Err(Error::Usage(format!(
                "mixture: weights, means and stds want one length of at least 1, got {}, {} and {}; pass one of each per \
                 component",
                weights.len(),
                means.len(),
                stds.len()
            )));
        }
        let total: f64 = weights.iter().sum();
        let mut components = Vec::with_capacity(weights.len());
        for ((&weight, &mean), &std) in weights.iter().zip(means).zip(stds) {
            if !(weight > 0.0 && total.is_finite() && mean.is_finite() && std > 0.0 && std.is_finite()) {
                return Err(Error::Usage(format!(
                    "mixture: weight and std must be positive and all finite, got weight {weight}, mean {mean}, std {std}; \
                     leave the component out"
                )));
            }
            components.push(Component { weight: weight / total, mean, std });
        }
        Ok(Mixture { components })
    }

    /// The components, their weights summing to 1.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// The density at x, per unit of x.
    pub fn pdf(&self, x: f64) -> f64 {
        self.components.iter().map(|c| c.weight * normal_pdf(x, c.mean, c.std)).sum()
    }

    /// ln p(x), finite wherever x is: where the density itself is below the smallest double too.
    pub fn log_pdf(&self, x: f64) -> f64 {
        let largest = self.log_parts(x).fold(f64::NEG_INFINITY, f64::max);
        largest + self.log_parts(x).map(|part| (part - largest).exp()).sum::<f64>().ln()
    }

    /// ln(w_k N(x; m_k, s_k²)) of every component.
    fn log_parts(&self, x: f64) -> impl Iterator<Item = f64> + '_ {
        self.components.iter().map(move |c| {
            let z = (x - c.mean) / c.std;
            (c.weight / (c.std * TAU.sqrt())).ln() - 0.5 * z * z
        })
    }

    /// The score d/dx ln p(x) = Σ r_k(x)·(m_k − x)/s_k² with the responsibilities r_k, per unit of x.
    pub fn score(&self, x: f64) -> f64 {
        let log_pdf = self.log_pdf(x);
        let pull = |(c, part): (&Component, f64)| (part - log_pdf).exp() * (c.mean - x) / (c.std * c.std);
        self.components.iter().zip(self.log_parts(x)).map(pull).sum()
    }

    /// The distribution function P(X ≤ x).
    pub fn cdf(&self, x: f64) -> f64 {
        self.components.iter().map(|c| c.weight * normal_cdf(x, c.mean, c.std)).sum()
    }

    /// The quantile: the x with cdf(x) = u, to the accuracy with which u or 1 − u is given.
    ///
    /// It lies between the smallest and the largest quantile of the components. Above ½ the survival function is
    /// inverted, so that the upper tail is as good as the lower.
    ///
    /// # Errors
    /// [`Error::Usage`] unless u lies in (0, 1).
    pub fn quantile(&self, u: f64) -> Result<f64> {
        if u > 0.5 && u < 1.0 {
            let mirrored = self.components.iter().map(|c| Component { mean: -c.mean, ..*c }).collect();
            return Ok(-Mixture { components: mirrored }.quantile(1.0 - u)?);
        }
        let z = normal_quantile(u);
        let ends = self.components.iter().map(|c| c.mean + c.std * z);
        let (lo, hi) = ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| (lo.min(x), hi.max(x)));
        // One component makes a point of the bracket; rounding may put the answer a little outside.
        let margin = 1e-9 * (1.0 + lo.abs().max(hi.abs()));
        let bracket = if u > 0.0 && u < 1.0 { (lo - margin, hi + margin) } else { (0.0, 1.0) };
        invert_cdf(|x| self.cdf(x).min(1.0), u, bracket)
    }

    /// Fills `out` with samples: element `2i` of the address chooses the component of `out[i]`, element `2i + 1` its
    /// place within the component by the normal quantile.
    pub fn sample(&self, address: Address, out: &mut [f64]) {
        for (i, value) in out.iter_mut().enumerate() {
            let mut left = open_uniform(address, 2 * i);
            let mut chosen = self.components[0];
            for &component in &self.components {
                chosen = component; // the last one, should rounding leave a rest of the weights
                left -= component.weight;
                if left < 0.0 {
                    break;
                }
            }
            *value = chosen.mean + chosen.std * normal_quantile(open_uniform(address, 2 * i + 1));
        }
    }

    /// The law of alpha·X + sigma·eps, eps ~ N(0, 1) independent of X: the mixture of N(alpha·m_k, alpha²s_k² + sigma²)
    /// (item 18).
    ///
    /// # Errors
    /// [`Error::Usage`] if a component is left without spread (alpha and sigma both 0) or a number is not finite.
    pub fn noised(&self, alpha: f64, sigma: f64) -> Result<Mixture> {
        let column = |of: fn(&Component, f64, f64) -> f64| -> Vec<f64> {
            self.components.iter().map(|c| of(c, alpha, sigma)).collect()
        };
        let weights = column(|c, _, _| c.weight);
        Mixture::new(&weights, &column(|c, a, _| a * c.mean), &column(|c, a, s| f64::hypot(a * c.std, s)))
    }

    /// E[f(X)] by a Gauss–Hermite rule in each component: exact for polynomials of degree below twice its points.
    pub fn expect(&self, rule: &GaussHermite, f: impl Fn(f64) -> f64) -> f64 {
        self.components.iter().map(|c| c.weight * rule.expect(&f, c.mean, c.std)).sum()
    }

    /// The mean Σ w_k m_k.
    pub fn mean(&self) -> f64 {
        self.components.iter().map(|c| c.weight * c.mean).sum()
    }

    /// The variance Σ w_k (s_k² + (m_k − mean)²).
    pub fn variance(&self) -> f64 {
        let mean = self.mean();
        self.components.iter().map(|c| c.weight * (c.std * c.std + (c.mean - mean).powi(2))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_tails_and_intervals_keep_their_digits_where_the_probability_underflows() {
        // Both branches at their border, and far out: ln erfc(x) = −x² − ln(x√π) + ln(1 − 1/(2x²) + 3/(4x⁴) − …).
        assert!((log_erfc(20.0 + 1e-12) - erfc(20.0).ln()).abs() < 1e-10); // its slope there is 40
        let far = -1e6 - (1e3 * PI.sqrt()).ln() - 0.5e-6;
        assert!((log_erfc(1e3) - far).abs() < 1e-9);
        // Against the distribution function where that has digits, on both sides and across.
        for (low, high) in [(-1.0, 0.5), (0.3, 0.4), (-3.0, -2.9), (2.0, f64::INFINITY), (f64::NEG_INFINITY, -2.0)] {
            let want = normal_cdf(high, 0.0, 1.0) - normal_cdf(low, 0.0, 1.0);
            assert!((log_normal_interval(low, high).exp() - want).abs() < 1e-15, "{low} to {high}");
        }
        // Far out the interval's mass is that of its near end: a density of x·e^{−x²/2} falls by e^{−50} over one unit.
        let lost = log_normal_interval(50.0, f64::INFINITY) - log_normal_interval(50.0, 51.0);
        assert!(lost.abs() < 1e-15 && log_normal_interval(-51.0, -50.0) < -1250.0, "{lost}");
        assert_eq!(log_normal_interval(1.0, 1.0), f64::NEG_INFINITY);
        assert_eq!(log_normal_interval(f64::NEG_INFINITY, f64::INFINITY), 0.0);
        assert!(log_normal_interval(f64::NAN, 1.0).is_nan());
    }
    use crate::analytic::quadrature::GaussLegendre;
    use crate::analytic::statistics;
    use crate::rng::Purpose;

    fn example() -> Mixture {
        Mixture::new(&[1.0, 2.0, 1.0], &[-2.0, 0.5, 3.0], &[0.5, 1.0, 0.2]).unwrap()
    }

    #[test]
    fn erfc_has_its_known_digits_from_the_centre_to_the_last_tail() {
        // mpmath at 40 digits, a row on each side of every branch. Each branch rounds about ten times; next to ½ the
        // subtraction from 1 and of the pole's part doubles that: 16 units relative.
        for (x, want) in KNOWN_ERFC {
            let value = erfc(x);
            assert!((value - want).abs() <= 16.0 * f64::EPSILON * want, "erfc({x}) = {value:e} against {want:e}");
        }
        assert_eq!((erfc(0.0), erfc(30.0), erfc(f64::INFINITY), erfc(f64::NEG_INFINITY)), (1.0, 0.0, 0.0, 2.0));
        assert!(erfc(f64::NAN).is_nan());
    }

    const KNOWN_ERFC: [(f64, f64); 13] = [
        (-3.0, 1.999_977_909_503_001_5),
        (-0.3, 1.328_626_759_459_127_4),
        (0.1, 0.887_537_083_981_715),
        (0.4999, 0.479_588_004_838_613_4),
        (0.5, 0.479_500_122_186_953_5),
        (0.7, 0.322_198_806_162_581_56),
        (1.0, 0.157_299_207_050_285_13),
        (2.0, 0.004_677_734_981_047_266),
        (3.5, 7.430_983_723_414_128e-7),
        (5.9, 7.190_409_783_550_478e-17),
        (6.1, 6.314_602_150_193_718_4e-18),
        (10.6, 8.450_446_403_094_595e-51),
        (25.6, 5.292_035_239_117_21e-287),
    ];

    #[test]
    fn mixture_quantile_exists_where_the_rounded_cdf_falls() {
        // Of three components, whose sum is not monotone in its last places: one u in a thousand met such a fall.
        let mixture = Mixture::new(&[0.3, 0.5, 0.2], &[-2.5, 0.5, 3.0], &[0.3, 0.5, 0.2]).unwrap();
        for i in 0..20_000 {
            let u = 0.34 + 1e-6 * (f64::from(i) + 0.37);
            let x = mixture.quantile(u).unwrap();
            assert!((mixture.cdf(x) - u).abs() <= 64.0 * f64::EPSILON, "u = {u}: x = {x}");
        }
    }

    #[test]
    fn normal_cdf_is_the_integral_of_the_density() {
        let rule = GaussLegendre::new(16).unwrap();
        for (a, b) in [(-3.0, -1.0), (-1.0, 2.0), (1.5, 4.0)] {
            let integral = rule.composite(|x| normal_pdf(x, 0.4, 0.8), a, b, 16);
            let difference = normal_cdf(b, 0.4, 0.8) - normal_cdf(a, 0.4, 0.8);
            assert!((integral - difference).abs() < 1e-14, "[{a}, {b}]: {integral} against {difference}");
        }
    }

    #[test]
    fn normal_cdf_inverts_the_quantile_down_to_the_smallest_tails() {
        for u in [1e-300, 1e-50, 1e-10, 0.001, 0.1, 0.3, 0.5, 0.7, 0.99, 1.0 - 1e-12] {
            let x = normal_quantile(u);
            // d ln cdf/dx is about |x| in the tail, and x is rounded to |x|·EPSILON: x² units, and 16 of the functions.
            let bound = u * f64::EPSILON * (16.0 + 2.0 * x * x);
            assert!((normal_cdf(x, 0.0, 1.0) - u).abs() <= bound, "u = {u}: x = {x}");
        }
        assert_eq!((normal_quantile(0.0), normal_quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-15);
        // 1 − u is exact here, so the upper half mirrors the lower one bit for bit.
        for u in (2..=40).map(|k| 0.5f64.powi(k)) {
            assert_eq!(normal_quantile(1.0 - u), -normal_quantile(u), "u = {u}");
        }
        assert!(normal_quantile(-0.1).is_nan() && normal_quantile(f64::NAN).is_nan());
    }

    #[test]
    fn mixture_density_is_the_derivative_of_its_cdf_and_integrates_to_one() {
        let (law, rule) = (example(), GaussLegendre::new(16).unwrap());
        // 64 panels of 0.4 resolve the narrowest component (std 0.2); the mass outside ±12 is below 1e-20.
        let mass = rule.composite(|x| law.pdf(x), -12.8, 12.8, 64);
        assert!((mass - 1.0).abs() < 1e-12, "{mass}");
        for (a, b) in [(-3.0, 0.0), (2.9, 3.2)] {
            let integral = rule.composite(|x| law.pdf(x), a, b, 16);
            assert!((integral - (law.cdf(b) - law.cdf(a))).abs() < 1e-13, "[{a}, {b}]");
        }
    }

    #[test]
    fn mixture_cdf_inverts_the_quantile_in_both_tails() {
        let law = example();
        for u in [1e-100, 1e-6, 0.2, 0.25, 0.5, 0.74, 0.9, 1.0 - 1e-9] {
            let x = law.quantile(u).unwrap();
            let bound = f64::EPSILON * (u * (32.0 + 2.0 * ((x + 2.0) / 0.5).powi(2)) + 32.0 * x.abs() * law.pdf(x));
            assert!((law.cdf(x) - u).abs() <= bound, "u = {u}: x = {x}, cdf {}", law.cdf(x));
        }
        // The upper tail is the lower one of the mirrored law.
        let mirror = Mixture::new(&[1.0, 2.0, 1.0], &[2.0, -0.5, -3.0], &[0.5, 1.0, 0.2]).unwrap();
        let u = 2f64.powi(-40);
        assert_eq!(law.quantile(1.0 - u).unwrap(), -mirror.quantile(u).unwrap());
        assert!(law.quantile(0.0).is_err() && law.quantile(1.0).is_err() && law.quantile(f64::NAN).is_err());
    }

    #[test]
    fn mixture_samples_follow_the_mixture() {
        const COUNT: usize = 100_000; // seed 4
        let law = example();
        let mut samples = vec![0.0; COUNT];
        law.sample(Address::new(4, Purpose::Test), &mut samples);
        let distance = statistics::ks(&samples, |x| law.cdf(x)).unwrap();
        assert!(distance < statistics::ks_critical(1e-3, COUNT as f64).unwrap(), "{distance}");
        let found = statistics::moments(&samples).unwrap();
        assert!((found.mean - law.mean()).abs() < 4.0 * found.mean_error, "{found:?}");
        assert!((found.variance - law.variance()).abs() < 4.0 * found.variance_error, "{found:?}");
    }

    #[test]
    fn scores_are_the_slope_of_the_log_density_where_the_density_vanishes_too() {
        let law = example();
        for x in [-60.0, -3.0, -0.7, 0.5, 2.2, 3.0, 60.0] {
            // Central difference with step 1e-5: h²/6 times the third derivative (below 1e3 here), rounding
            // EPSILON·|ln p|/h with |ln p| up to 1e4.
            let slope = (law.log_pdf(x + 1e-5) - law.log_pdf(x - 1e-5)) / 2e-5;
            let bound = 1e-7 + f64::EPSILON * law.log_pdf(x).abs() / 1e-5 * 4.0;
            assert!((law.score(x) - slope).abs() <= bound, "x = {x}: {} against {slope}", law.score(x));
        }
        assert_eq!(law.pdf(60.0), 0.0);
        assert!((law.log_pdf(0.3) - law.pdf(0.3).ln()).abs() < 1e-14);
    }

    #[test]
    fn noised_mixtures_are_the_convolution_by_quadrature() {
        // Item 18, with scaling: p(y) = ∫ p(x) N(y; alpha·x, sigma²) dx; 64 panels of 16 points on ±12.8.
        let (law, rule) = (example(), GaussLegendre::new(16).unwrap());
        let noised = law.noised(0.8, 0.6).unwrap();
        for y in [-3.0, -1.0, 0.0, 0.4, 2.5] {
            let integral = rule.composite(|x| law.pdf(x) * normal_pdf(y, 0.8 * x, 0.6), -12.8, 12.8, 64);
            assert!((noised.pdf(y) - integral).abs() < 1e-13, "y = {y}: {} against {integral}", noised.pdf(y));
        }
        assert!(law.noised(0.0, 0.0).is_err());
    }

    #[test]
    fn mixture_expectations_of_polynomials_are_exact() {
        let (law, rule) = (example(), GaussHermite::new(4).unwrap());
        let second = law.expect(&rule, |x| (x - law.mean()).powi(2));
        assert!((law.expect(&rule, |x| x) - law.mean()).abs() < 1e-14);
        assert!((second - law.variance()).abs() < 1e-13, "{second} against {}", law.variance());
    }

    #[test]
    fn mixtures_that_are_no_law_are_refused() {
        for (weights, means, stds) in [
            (&[][..], &[][..], &[][..]),
            (&[1.0], &[0.0, 1.0], &[1.0]),
            (&[1.0, -0.5], &[0.0, 1.0], &[1.0, 1.0]),
            (&[1.0], &[f64::NAN], &[1.0]),
            (&[1.0], &[0.0], &[0.0]),
            (&[f64::INFINITY], &[0.0], &[1.0]),
        ] {
            assert!(Mixture::new(weights, means, stds).is_err(), "{weights:?} {means:?} {stds:?}");
        }
    }
}
