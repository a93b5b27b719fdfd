//! Optimal denoising, Tweedie's formula and the conversions (items 9–14).

use super::chain::{Gaussian, Step};
use super::one_dim::{draw, moments_z, one_row, points, uneven_bumps, worst, worst_of};
use super::{Bound, Identity};
use crate::analytic::gaussian::normal_pdf;
use crate::analytic::quadrature::{GaussHermite, GaussLegendre};
use crate::analytic::{Mixture, statistics};
use crate::denoiser::oracle::Oracle;
use crate::denoiser::{Denoiser, eps_coefficients, target, x0_coefficients};
use crate::error::{Error, Result};
use crate::ops::{self, Noise, ReverseStep, StepInputs, perturb};
use crate::process::{Level, Prediction};
use crate::rng::{Address, Purpose};
use crate::tensor::Tensor;
use nalgebra::{Cholesky, DMatrix, DVector};

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 9 S3.eq7 orthogonality",
        claim: "E[(X − E[X|Y])·g(Y)] = 0 for five g, by quadrature over (X, Y)",
        // Sums over 400 x 400 points of a total mass 1; the sums are spectrally accurate.
        bound: Bound::AtMost(1e-12),
        measure: orthogonality,
    },
    Identity {
        id: "item 9 S3.eq6 least squares",
        claim: "the mean squared error of E[X|Y] + h(Y) is that of E[X|Y] plus E[h(Y)²], for three h",
        bound: Bound::AtMost(1e-12), // as above
        measure: perturbed_errors,
    },
    Identity {
        id: "item 10 S3.eq9",
        claim: "E[X|Y] of a Gaussian is y·var_x/(var_x + var_z)",
        bound: Bound::AtMost(1e-14),
        measure: shrinkage,
    },
    Identity {
        id: "item 10 S3.eq10",
        claim: "Var E[X|Y] = σx⁴/(σx² + σz²)",
        bound: Bound::AtMost(1e-13), // a sum of 20 positive terms of a quadratic
        measure: || Ok((denoised_variance()? - VAR_X * VAR_X / (VAR_X + VAR_Z)).abs()),
    },
    Identity {
        id: "item 10 S3.eq11",
        claim: "E[X|Y] plus noise of variance σx²σz²/(σx² + σz²), the posterior's, restores σx²",
        bound: Bound::AtMost(1e-13), // as above
        measure: restored,
    },
    Identity {
        id: "item 10 S3.eq11 misprint",
        claim: "X̃ ~ N(0, σ²) with the σ² of the noise, for N(0, σx²): the variance of X̃ is not σ²",
        // σx² = 2.25 against σz² = 0.49.
        bound: Bound::AtLeast(1.0),
        measure: || Ok((denoised_variance()? + VAR_X * VAR_Z / (VAR_X + VAR_Z) - VAR_Z).abs()),
    },
    Identity {
        id: "item 11 S3.example1 collapse",
        claim: "denoised samples have mean 0 and variance σx⁴/(σx² + σz²), in standard errors",
        // n = 100 000, seed 112, z-score 4.5.
        bound: Bound::AtMost(4.5),
        measure: || moments_z(&denoised_samples()?, 0.0, VAR_X * VAR_X / (VAR_X + 9.0)),
    },
    Identity {
        id: "item 11 S3.example1 no samples",
        claim: "the share of the data's variance that the optimal denoiser loses, at σz² = 9",
        // 9/(2.25 + 9) = 0.8 exactly, within 0.2 % of a sample.
        bound: Bound::AtLeast(0.75),
        measure: || Ok(1.0 - statistics::moments(&denoised_samples()?)?.variance / VAR_X),
    },
    Identity {
        id: "item 11 S3.example1 reverse chain",
        claim: "where the denoiser loses 80 %, 512 steps of reverse sampling return σx² up to first order in σ²",
        // A step of variance s² = 9/512 leaves a relative error of order s²/(variance at the level), summed below ln(1 + 9/2.25)·s²/2.25.
        bound: Bound::AtMost(0.0126),
        measure: sampled_variance,
    },
    Identity {
        id: "item 12 S3.section2.1 tabular",
        claim: "least squares on ‖f − x0‖² over radial functions is E[x0|x_t] on the 99 % interval, all data: largest error",
        // 28 bumps 0.25 apart resolve what varies over 0.7 or more.
        bound: Bound::AtMost(1e-3),
        measure: || regression_error(None),
    },
    Identity {
        id: "item 12 S3.section2.1 trained",
        claim: "the same from 400 000 noised samples: largest error on the 99 % interval",
        // n = 400 000, seed 121. A value's standard error is 0.6·√(1/(n·p·w)): residual 0.6, w = 0.5 the width of two bumps, p = 0.01 the
        // density at the ends: 0.013 there. Of about 20 independent values the largest is below 4.5 of them.
        bound: Bound::AtMost(0.06),
        measure: || regression_error(Some(400_000)),
    },
    Identity {
        id: "item 13 S3.eq12",
        claim: "E[X|Y = y] = y + σ²·∂log P_Y(y) on mixtures in one dimension, the mean from the components' own posteriors",
        bound: Bound::AtMost(1e-10), // σ² to 9 times a score of a few ε, x to 12
        measure: tweedie_line,
    },
    Identity {
        id: "item 13 S3.eq128",
        claim: "the same in three dimensions, with any covariances",
        bound: Bound::AtMost(1e-10), // as above
        measure: tweedie_space,
    },
    Identity {
        id: "item 13 S3.eq128 second order",
        claim: "Cov[X|Y] = σ²I + σ⁴·∇²log P_Y",
        bound: Bound::AtMost(1e-10), // σ⁴ to 2 times a Hessian of order 10
        measure: tweedie_covariance,
    },
    Identity {
        id: "item 13 S3.eq13",
        claim: "P_Y(y) = ∫ P_X(x)·P_Z(y − x) dx",
        bound: Bound::AtMost(1e-13), // 1024 positive terms of a number below 1
        measure: || Ok(worst(convolved(|y, rule, p| rule.line(|x| p(x, y), y, 1.0, 64))?)),
    },
    Identity {
        id: "item 13 S3.eq13 dz misprint",
        claim: "∫ P_X(x)·P_Z(y − x) dz, x held: a constant over z, which grows with the range; its miss over |z| < 50, relative",
        // At x = y the integrand is of order 1/10 and P_Y(y) of order 1/10: 100 to one.
        bound: Bound::AtLeast(10.0),
        measure: printed_convolution,
    },
    Identity {
        id: "item 14 S3.eq129-131 round trips",
        claim: "x0, eps and the network's output recover one another in f64, for six predictions and five levels",
        // At sigma/alpha = 30 and 1e-3 one conversion divides by what another multiplied: 30ε·1e3 at most.
        bound: Bound::AtMost(1e-11),
        measure: round_trips,
    },
    Identity {
        id: "item 14 S3.eq129-131 round trips f32",
        claim: "x0 from v in f32 tensors, relative to the largest number",
        bound: Bound::AtMost(4.0 * f32::EPSILON as f64), // three products and two sums
        measure: single_precision,
    },
    Identity {
        id: "item 14 S3.eq15",
        claim: "(f − x)/(nσ²) is the score, f the exact denoiser after n steps",
        bound: Bound::AtMost(1e-10), // the difference loses 1/(nσ²) = 1e3 of f's digits at n = 1
        measure: score_from_denoiser,
    },
    Identity {
        id: "item 14 S3.eq15 no noise",
        claim: "n = 0 and pure noise are refused, not divided by: how many conversions are not",
        bound: Bound::AtMost(0.0), // a count
        measure: unguarded,
    },
];

const VAR_X: f64 = 2.25;
const VAR_Z: f64 = 0.49;

// ---- items 9 to 11 ----

/// The joint law of X, two bumps, and Y = X + 0.8·Z on a grid, with E[X|Y] at every y.
struct Joint {
    law: Mixture,
    x: Vec<f64>,
    y: Vec<f64>,
    posterior: Vec<f64>,
}

const NOISE: f64 = 0.8;

impl Joint {
    fn new() -> Result<Joint> {
        let (law, oracle) = uneven_bumps()?;
        let (x, y) = (points(-6.0, 6.0, 401), points(-11.0, 11.0, 401));
        let posterior = y.iter().map(|y| oracle.posterior_mean(&[*y], Level::of(1.0, NOISE))[0]).collect();
        Ok(Joint { law, x, y, posterior })
    }

    /// E[f(X, Y, E[X|Y])].
    fn expect(&self, f: impl Fn(f64, f64, f64) -> f64) -> f64 {
        let cell = (self.x[1] - self.x[0]) * (self.y[1] - self.y[0]);
        let row = |x: f64| {
            let along = self.y.iter().zip(&self.posterior).map(|(y, mean)| normal_pdf(*y, x, NOISE) * f(x, *y, *mean));
            self.law.pdf(x) * along.sum::<f64>()
        };
        cell * self.x.iter().map(|x| row(*x)).sum::<f64>()
    }
}

fn orthogonality() -> Result<f64> {
    let joint = Joint::new()?;
    let tests: [fn(f64) -> f64; 5] = [|_| 1.0, |y| y, |y| y * y, f64::sin, |y| (-y * y).exp()];
    Ok(worst(tests.map(|g| joint.expect(|x, y, mean| (x - mean) * g(y)).abs())))
}

fn perturbed_errors() -> Result<f64> {
    let joint = Joint::new()?;
    let least = joint.expect(|x, _, mean| (x - mean).powi(2));
    let moves: [fn(f64) -> f64; 3] = [|_| 0.1, |y| 0.3 * (2.0 * y).sin(), |y| 0.05 * y];
    Ok(worst(moves.map(|h| {
        let error = joint.expect(|x, y, mean| (mean + h(y) - x).powi(2));
        (error - least - joint.expect(|_, y, _| h(y).powi(2))).abs()
    })))
}

fn gaussian() -> Result<(Oracle, Level)> {
    Ok((Oracle::gaussian(&[0.0], &[VAR_X])?, Level::of(1.0, VAR_Z.sqrt())))
}

fn shrinkage() -> Result<f64> {
    let (oracle, at) = gaussian()?;
    let error = |y: f64| (oracle.posterior_mean(&[y], at)[0] - VAR_X / (VAR_X + VAR_Z) * y).abs();
    Ok(worst([-3.0, -0.1, 0.0, 1.7, 40.0].map(|y| error(y) / f64::max(1.0, y.abs()))))
}

/// Var E[X|Y].
fn denoised_variance() -> Result<f64> {
    let (oracle, at) = gaussian()?;
    let deviation = (VAR_X + VAR_Z).sqrt();
    Ok(GaussHermite::new(20)?.expect(|y| oracle.posterior_mean(&[y], at)[0].powi(2), 0.0, deviation))
}

fn restored() -> Result<f64> {
    let (oracle, at) = gaussian()?;
    let posterior = oracle.posterior_covariance(&[1.3], at)[0];
    let closed = VAR_X * VAR_Z / (VAR_X + VAR_Z);
    Ok(worst([(posterior - closed).abs(), (denoised_variance()? + posterior - VAR_X).abs()]))
}

/// 100 000 samples of N(0, σx²), noised with σz² = 9 and denoised.
fn denoised_samples() -> Result<Vec<f64>> {
    let x0 = draw(&Mixture::new(&[1.0], &[0.0], &[VAR_X.sqrt()])?, 111, 100_000);
    let noised = perturb(&one_row(&x0)?, &[1.0], &[3.0], Address::new(112, Purpose::Test), &[0])?.x_t;
    let denoiser = Gaussian { mean: 0.0, variance: VAR_X };
    denoiser.denoise(&noised, Level::of(1.0, 3.0))?.x0_hat()?.to_vec()
}

fn sampled_variance() -> Result<f64> {
    let steps = 512;
    let noisy = (1..=steps).rev().map(|n| Level::of(1.0, (9.0 * f64::from(n) / f64::from(steps)).sqrt()));
    let levels: Vec<Level> = noisy.chain([Level::CLEAN]).collect();
    let chain = Step::LITERAL.affine_chain(&Gaussian { mean: 0.0, variance: VAR_X }, &levels)?;
    let end = chain.into_iter().fold((0.0, VAR_X + 9.0), |moments, step| step.moments(moments));
    Ok((end.1 / VAR_X - 1.0).abs())
}

// ---- item 12 ----

/// Noise of the regression's inputs.
const LEVEL: (f64, f64) = (0.8, 0.6);

/// A constant, x, and bumps of width 0.25 at distance 0.25.
fn features(x: f64) -> DVector<f64> {
    let bumps = (0..28).map(|k| (-0.5 * ((x + 3.375) / 0.25 - f64::from(k)).powi(2)).exp());
    DVector::from_iterator(30, [1.0, x].into_iter().chain(bumps))
}

/// The largest error on the 99 % interval of least squares for x0, from noised samples or (none) from the law itself.
fn regression_error(samples: Option<usize>) -> Result<f64> {
    let (law, oracle) = uneven_bumps()?;
    let at = Level::of(LEVEL.0, LEVEL.1);
    let (mut gram, mut moment) = (DMatrix::zeros(30, 30), DVector::zeros(30));
    let mut add = |x_t: f64, x0: f64, weight: f64| {
        let phi = features(x_t);
        gram.ger(weight, &phi, &phi, 1.0);
        moment.axpy(weight * x0, &phi, 1.0);
    };
    let noised = law.noised(at.alpha, at.sigma)?;
    match samples {
        Some(count) => {
            let x0 = one_row(&draw(&law, 120, count))?;
            let p = perturb(&x0, &[at.alpha], &[at.sigma], Address::new(121, Purpose::TrainNoise), &[0])?;
            let wanted = target(Prediction::X0, &x0, &p.eps, &[at.alpha], &[at.sigma])?.to_vec::<f64>()?;
            p.x_t.to_vec::<f64>()?.iter().zip(wanted).for_each(|(x_t, x0)| add(*x_t, x0, 1.0 / count as f64));
        }
        None => {
            // All data: x0 enters through ∫ x0·p(x0|x_t) dx0, here by quadrature over x0.
            let rule = GaussHermite::new(40)?;
            for x_t in points(-6.0, 6.0, 601) {
                let likelihood = |x0: f64| normal_pdf(x_t, at.alpha * x0, at.sigma);
                let mass = noised.pdf(x_t);
                let joint = law.expect(&rule, |x0| x0 * likelihood(x0));
                add(x_t, joint / mass, 0.02 * mass);
            }
        }
    }
    let Some(factors) = Cholesky::new(gram) else {
        return Err(Error::NonFinite("regression: the features are not independent; take fewer".into()));
    };
    let weights = factors.solve(&moment);
    let interval = points(noised.quantile(0.005)?, noised.quantile(0.995)?, 301);
    Ok(worst(interval.into_iter().map(|x| (features(x).dot(&weights) - oracle.posterior_mean(&[x], at)[0]).abs())))
}

// ---- items 13 and 14 ----

fn tweedie_line() -> Result<f64> {
    let (_, oracle) = uneven_bumps()?;
    let cases =
        [0.1, 0.7, 3.0].into_iter().flat_map(|sigma| points(-12.0, 12.0, 49).into_iter().map(move |y| (sigma, y)));
    Ok(worst(cases.map(|(sigma, y)| {
        let at = Level::of(1.0, sigma);
        (oracle.posterior_mean(&[y], at)[0] - (y + sigma * sigma * oracle.score(&[y], at)[0])).abs()
    })))
}

/// Three Gaussians in space, with full covariances.
pub(super) fn space() -> Result<Oracle> {
    let means = [vec![0.0, 1.0, -1.0], vec![2.0, -1.0, 0.5], vec![-1.5, 0.0, 0.3]];
    let covariances = [
        vec![1.0, 0.3, 0.1, 0.3, 0.5, -0.2, 0.1, -0.2, 0.8],
        vec![0.2, 0.0, 0.05, 0.0, 0.1, 0.0, 0.05, 0.0, 0.3],
        vec![0.4, -0.1, 0.0, -0.1, 0.6, 0.2, 0.0, 0.2, 0.9],
    ];
    Oracle::mixture(&[0.5, 0.2, 0.3], &means, &covariances)
}

fn places() -> Vec<[f64; 3]> {
    let z = super::measure::normals(131, 60);
    z.chunks_exact(3).map(|z| [2.0 * z[0], 2.0 * z[1], 2.0 * z[2]]).collect()
}

const SIGMAS: [f64; 3] = [0.15, 0.6, 1.2];

fn tweedie_space() -> Result<f64> {
    let oracle = space()?;
    Ok(worst(places().iter().flat_map(|y| SIGMAS.map(|sigma| (y, sigma))).map(|(y, sigma)| {
        let at = Level::of(1.0, sigma);
        let (mean, score) = (oracle.posterior_mean(y, at), oracle.score(y, at));
        worst((0..3).map(|i| (mean[i] - (y[i] + sigma * sigma * score[i])).abs()))
    })))
}

fn tweedie_covariance() -> Result<f64> {
    let oracle = space()?;
    Ok(worst(places().iter().flat_map(|y| SIGMAS.map(|sigma| (y, sigma))).map(|(y, sigma)| {
        let at = Level::of(1.0, sigma);
        let (covariance, hessian) = (oracle.posterior_covariance(y, at), oracle.hessian(y, at));
        let identity = |k: usize| if k.is_multiple_of(4) { sigma * sigma } else { 0.0 };
        worst((0..9).map(|k| (covariance[k] - identity(k) - sigma.powi(4) * hessian[k]).abs()))
    })))
}

/// |P_Y − value| at several y, the value from P_X(x)·P_Z(y − x).
fn convolved(value: impl Fn(f64, &GaussLegendre, &dyn Fn(f64, f64) -> f64) -> f64) -> Result<Vec<f64>> {
    let ((law, oracle), rule) = (uneven_bumps()?, GaussLegendre::new(16)?);
    let product = |x: f64, y: f64| law.pdf(x) * normal_pdf(y - x, 0.0, 0.7);
    let error = |y: f64| (oracle.log_density(&[y], Level::of(1.0, 0.7)).exp() - value(y, &rule, &product)).abs();
    Ok([-3.0, -1.0, 0.0, 0.8, 2.5].map(error).to_vec())
}

fn printed_convolution() -> Result<f64> {
    let (oracle, at) = (uneven_bumps()?.1, Level::of(1.0, 0.7));
    let misses = convolved(|y, rule, p| rule.composite(|_z| p(y, y), -50.0, 50.0, 1))?;
    Ok(misses[3] / oracle.log_density(&[0.8], at).exp())
}

const PREDICTIONS: [Prediction; 6] = [
    Prediction::Eps,
    Prediction::X0,
    Prediction::V,
    Prediction::Score,
    Prediction::Velocity,
    Prediction::Edm { sigma_data: 0.5 },
];

fn round_trips() -> Result<f64> {
    let (x0, eps) = (0.7, -1.3);
    let row = |v: f64| Tensor::from_slice(&[v], [1, 1]);
    let levels = [(1.0, 1e-3), (0.8, 0.6), (0.14, 0.99), (1.0, 30.0), (0.3, 0.7)];
    let cases = PREDICTIONS.into_iter().flat_map(|prediction| levels.map(|level| (prediction, level)));
    worst_of(cases.map(|(prediction, (alpha, sigma))| {
        let (at, x_t) = (Level::of(alpha, sigma), alpha * x0 + sigma * eps);
        let out = target(prediction, &row(x0)?, &row(eps)?, &[alpha], &[sigma])?.to_vec::<f64>()?[0];
        let (to_x0, to_eps) = (x0_coefficients(prediction, at)?, eps_coefficients(prediction, at)?);
        // The errors of x0 scale with sigma/alpha and those of eps with alpha/sigma: each is measured in x_t.
        Ok(worst([
            (to_x0.0 * x_t + to_x0.1 * out - x0).abs() * alpha,
            (to_eps.0 * x_t + to_eps.1 * out - eps).abs() * sigma,
        ]))
    }))
}

fn single_precision() -> Result<f64> {
    let at = Level::of(0.6, 0.8);
    let values: Vec<f32> = super::measure::normals(141, 4000).iter().map(|v| *v as f32).collect();
    let x0 = Tensor::from_slice(&values, [1, 4000])?;
    let p = perturb(&x0, &[at.alpha], &[at.sigma], Address::new(142, Purpose::Test), &[0])?;
    let v = target(Prediction::V, &x0, &p.eps, &[at.alpha], &[at.sigma])?;
    let (from_x, from_out) = x0_coefficients(Prediction::V, at)?;
    let step = ReverseStep { to_x: from_x, to_out: from_out, ..Default::default() };
    let back = ops::reverse_step(&p.x_t, &v, StepInputs::default(), &step, Noise::None)?.to_vec::<f32>()?;
    let top = worst(p.x_t.to_vec::<f32>()?.iter().chain(&values).map(|v| f64::from(v.abs())));
    Ok(worst(back.iter().zip(&values).map(|(got, want)| f64::from((got - want).abs()))) / top)
}

fn score_from_denoiser() -> Result<f64> {
    let ((law, oracle), variance) = (uneven_bumps()?, 1e-3);
    worst_of([1, 10, 100, 1000].into_iter().flat_map(|n| points(-4.0, 4.0, 17).into_iter().map(move |x| (n, x))).map(
        |(n, x)| {
            let total = f64::from(n) * variance;
            let at = Level::of(1.0, total.sqrt());
            let denoised = oracle.denoise(&super::measure::column(&[x])?, at)?.x0_hat()?.to_vec::<f64>()?[0];
            Ok(((denoised - x) / total - law.noised(1.0, at.sigma)?.score(x)).abs())
        },
    ))
}

fn unguarded() -> Result<f64> {
    let (clean, noise) = (Level::CLEAN, Level::of(0.0, 1.0));
    let refused = [
        eps_coefficients(Prediction::X0, clean).is_err(),
        x0_coefficients(Prediction::Eps, noise).is_err(),
        x0_coefficients(Prediction::Score, noise).is_err(),
    ];
    let finite = [Prediction::V, Prediction::X0, Prediction::Velocity, Prediction::Edm { sigma_data: 0.5 }]
        .map(|prediction| x0_coefficients(prediction, noise).is_ok_and(|(a, b)| a.is_finite() && b.is_finite()));
    Ok(refused.into_iter().chain(finite).filter(|is_right| !is_right).count() as f64)
}
