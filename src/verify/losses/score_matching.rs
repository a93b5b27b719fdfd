//! Explicit, denoising, implicit and sliced score matching on known laws (S3.eq93–107, eq110–113, eq147; items 42 to 44).

use super::super::measure::{derivative, normals};
use super::super::one_dim::{points, uneven_bumps, worst, worst_of};
use super::super::{Bound, Identity};
use crate::analytic::gaussian::normal_pdf;
use crate::analytic::quadrature::{GaussHermite, GaussLegendre};
use crate::denoiser::oracle::Oracle;
use crate::denoiser::{target, x0_coefficients};
use crate::error::Result;
use crate::loss::score_matching::{ScoreModel, denoising, denoising_constant, explicit, implicit, sliced};
use crate::process::{BetaCurve, Level, Prediction, Process, Vp};
use crate::tensor::Tensor;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 42 S3.eq94 constant",
        claim: "explicit − denoising = E(∇ log p_t)² − 1/σ² for two random networks on two bumps, four levels; relative",
        // Gauss–Hermite rules of 60 points on sines of at most 2x: far below the rounding of 3600 terms.
        bound: Bound::AtMost(1e-11),
        measure: || worst_of(line_levels().map(|at| Ok(worst([constant_miss(1, at)?, constant_miss(2, at)?])))),
    },
    Identity {
        id: "item 42 S3.eq102-107 integrated",
        claim: "the same with λ(t) = σ², integrated over t of VP from 0.01 to 1: one C for two networks, and the closed one",
        bound: Bound::AtMost(1e-11), // as above
        measure: integrated_constant,
    },
    Identity {
        id: "item 42 S3.eq94 sign",
        claim: "C ≤ 0: the denoising loss is never below the explicit one; the largest C over four levels",
        // C = −E Var[∇ log p_{t|0} | x_t]: below 0 by the part of x0 that x_t does not tell.
        bound: Bound::AtMost(0.0),
        measure: || {
            let of_levels = line_levels().map(|at| Ok(denoising_constant(mean_square_score(at)?, 1, at)));
            of_levels.into_iter().try_fold(f64::NEG_INFINITY, |top, c: Result<f64>| Ok(top.max(c?)))
        },
    },
    Identity {
        id: "item 42 S3.eq93 implicit",
        claim: "E[½s² + s'] = ½·explicit − ½·E(∇ log p_t)² for two random networks, four levels",
        bound: Bound::AtMost(1e-11), // as above
        measure: || worst_of(line_levels().map(|at| Ok(worst([implicit_miss(1, at)?, implicit_miss(2, at)?])))),
    },
    Identity {
        id: "item 42 S3.eq147 plane",
        claim: "in the plane: explicit − denoising is E‖∇ log p_t‖² − 2/σ² for two random networks",
        // 20⁴ nodes of rules of 20 points, on sines of at most 2x under deviations below 1.3.
        bound: Bound::AtMost(1e-8),
        measure: plane_constant,
    },
    Identity {
        id: "item 42 S3.eq93 sliced",
        claim: "the mean over all sign vectors of ½(v·s)² + v·(∇s)v is ½‖s‖² + ∇·s, in five dimensions",
        bound: Bound::AtMost(1e-12), // 32 vectors of 25 products
        measure: sliced_signs,
    },
    Identity {
        id: "item 42 S3.eq93 without the divergence",
        claim: "½s² alone is not a score matching loss: its constants for two networks differ",
        // ∇·s of two random networks differs by numbers of order one.
        bound: Bound::AtLeast(0.05),
        measure: without_divergence,
    },
    Identity {
        id: "item 43 S3.eq95-101 posterior mean",
        claim: "E[∇ log p_{t|0} | x_t] = ∇ log p_t on two bumps, by quadrature over x0",
        // The posterior of each bump is Gaussian: 60 points, relative to a score of up to 10.
        bound: Bound::AtMost(1e-10),
        measure: posterior_mean_of_score,
    },
    Identity {
        id: "item 44 S3.eq111-112 score",
        claim: "∇ log p_{t|0} = (alpha·x0 − x_t)/σ² = −eps/σ, with x_t = alpha·x0 + σ·eps: against the logarithm's derivative",
        // Eighth-order differences of a parabola of size 50, step 1e-2: rounding alone.
        bound: Bound::AtMost(1e-10),
        measure: kernel_score,
    },
    Identity {
        id: "item 44 S3.eq110 sign",
        claim: "x0 from x_t and what each of the six networks should say is x0: one sign of eps throughout",
        bound: Bound::AtMost(1e-11), // ten roundings over an alpha of 0.01
        measure: || recovered_x0(1.0),
    },
    Identity {
        id: "item 44 S3.eq110 other sign",
        claim: "x_t = alpha·x0 − σ·eps with networks of the other sign: x0 is missed by 2σ/alpha·eps",
        // σ/alpha of 0.01 and more, eps of order one.
        bound: Bound::AtLeast(0.01),
        measure: || recovered_x0(-1.0),
    },
];

/// A network of one hidden layer of sines, smooth enough for quadrature: s_i = Σ_j A_ij·sin(B_j·x + c_j) − k_i·x_i.
struct Sines {
    dim: usize,
    out: Vec<f64>,
    inner: Vec<f64>,
    phase: Vec<f64>,
    pull: Vec<f64>,
}

const HIDDEN: usize = 6;

impl Sines {
    fn random(dim: usize, seed: u64) -> Sines {
        let numbers = normals(4200 + seed, (2 * HIDDEN + 1) * dim + HIDDEN);
        let (out, rest) = numbers.split_at(HIDDEN * dim);
        let (inner, rest) = rest.split_at(HIDDEN * dim);
        let (phase, pull) = rest.split_at(HIDDEN);
        // Slow waves: a rule of few points must follow them.
        let inner = inner.iter().map(|b| (0.5 * b).clamp(-1.0, 1.0)).collect();
        Sines {
            dim,
            out: out.to_vec(),
            inner,
            phase: phase.to_vec(),
            pull: pull.iter().map(|k| 1.0 + 0.3 * k).collect(),
        }
    }

    /// The sum over the hidden layer of `out`·`of(phase, j)`, for each output.
    fn layer(&self, x: &[f64], of: impl Fn(f64, usize) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.dim];
        for j in 0..HIDDEN {
            let row = &self.inner[j * self.dim..(j + 1) * self.dim];
            let phase = self.phase[j] + row.iter().zip(x).map(|(b, x)| b * x).sum::<f64>();
            let value = of(phase, j);
            sums.iter_mut().zip(&self.out[j * self.dim..]).for_each(|(sum, a)| *sum += a * value);
        }
        sums
    }
}

impl ScoreModel for Sines {
    fn score(&self, x: &[f64], _at: Level) -> Vec<f64> {
        let waves = self.layer(x, |phase, _| phase.sin());
        waves.iter().zip(x).zip(&self.pull).map(|((wave, x), k)| wave - k * x).collect()
    }

    fn derivative_along(&self, x: &[f64], _at: Level, v: &[f64]) -> Vec<f64> {
        let along = |j: usize| self.inner[j * self.dim..].iter().zip(v).map(|(b, v)| b * v).sum::<f64>();
        let waves = self.layer(x, |phase, j| phase.cos() * along(j));
        waves.iter().zip(v).zip(&self.pull).map(|((wave, v), k)| wave - k * v).collect()
    }
}

fn line_levels() -> [Level; 4] {
    [Level::of(0.99, 0.15), Level::of(0.8, 0.6), Level::of(0.1, 0.995), Level::of(1.0, 3.0)]
}

const POINTS: usize = 60;

/// E f(x_t) on the line.
fn mean_over_x_t(at: Level, f: impl Fn(f64) -> f64) -> Result<f64> {
    Ok(uneven_bumps()?.0.noised(at.alpha, at.sigma)?.expect(&GaussHermite::new(POINTS)?, f))
}

/// E f(x_t, eps) over data and noise.
fn mean_over_pairs(at: Level, f: impl Fn(f64, f64) -> f64) -> Result<f64> {
    let rule = GaussHermite::new(POINTS)?;
    Ok(uneven_bumps()?.0.expect(&rule, |x0| rule.expect(|eps| f(at.alpha * x0 + at.sigma * eps, eps), 0.0, 1.0)))
}

/// E(∇ log p_t)² by a fine rule over the line: the score of two bumps is no wave.
fn mean_square_score(at: Level) -> Result<f64> {
    let law = uneven_bumps()?.0.noised(at.alpha, at.sigma)?;
    let rule = GaussLegendre::new(20)?;
    let (middle, reach) = (law.mean(), 14.0 * law.variance().sqrt());
    Ok(rule.composite(|x| law.pdf(x) * law.score(x).powi(2), middle - reach, middle + reach, 400))
}

/// E(s − ∇ log p_t)² by the same rule.
fn explicit_loss(model: &Sines, at: Level) -> Result<f64> {
    let (law, oracle) = uneven_bumps()?;
    let law = law.noised(at.alpha, at.sigma)?;
    let rule = GaussLegendre::new(20)?;
    let (middle, reach) = (law.mean(), 14.0 * law.variance().sqrt());
    Ok(rule.composite(|x| law.pdf(x) * explicit(model, &oracle, &[x], at), middle - reach, middle + reach, 400))
}

fn denoising_loss(model: &Sines, at: Level) -> Result<f64> {
    mean_over_pairs(at, |x_t, eps| denoising(model, &[x_t], &[eps], at))
}

fn constant_miss(seed: u64, at: Level) -> Result<f64> {
    let model = Sines::random(1, seed);
    let (explicit, denoising) = (explicit_loss(&model, at)?, denoising_loss(&model, at)?);
    let constant = denoising_constant(mean_square_score(at)?, 1, at);
    Ok((explicit - denoising - constant).abs() / denoising)
}

fn integrated_constant() -> Result<f64> {
    let process = Vp::new(BetaCurve::Linear { min: 0.1, max: 20.0 }, false)?;
    // The identity holds at each time: a rule of eight does.
    let rule = GaussLegendre::new(8)?;
    let times: Vec<(f64, f64)> =
        rule.points().iter().map(|(node, weight)| (0.505 + 0.495 * node, 0.495 * weight)).collect();
    let integrate = |f: &dyn Fn(Level) -> Result<f64>| {
        let terms = times.iter().map(|(t, weight)| {
            let at = process.level(*t);
            Ok(weight * at.sigma.powi(2) * f(at)?)
        });
        terms.sum::<Result<f64>>()
    };
    let closed = integrate(&|at| Ok(denoising_constant(mean_square_score(at)?, 1, at)))?;
    worst_of([1, 2].map(|seed| {
        let model = Sines::random(1, seed);
        let found = integrate(&|at| Ok(explicit_loss(&model, at)? - denoising_loss(&model, at)?))?;
        Ok((found - closed).abs() / closed.abs())
    }))
}

fn implicit_miss(seed: u64, at: Level) -> Result<f64> {
    let model = Sines::random(1, seed);
    let found = mean_over_x_t(at, |x| implicit(&model, &[x], at))?;
    let want = 0.5 * explicit_loss(&model, at)? - 0.5 * mean_square_score(at)?;
    Ok((found - want).abs() / want.abs().max(1.0))
}

fn without_divergence() -> Result<f64> {
    let at = Level::of(0.8, 0.6);
    let constants = [1, 2].map(|seed| {
        let model = Sines::random(1, seed);
        let half_square = mean_over_x_t(at, |x| 0.5 * model.score(&[x], at)[0].powi(2))?;
        Ok(0.5 * explicit_loss(&model, at)? - half_square)
    });
    let [a, b]: [Result<f64>; 2] = constants;
    Ok((a? - b?).abs())
}

fn plane_constant() -> Result<f64> {
    let (weights, means, stds) = ([0.4, 0.6], [[-0.8, 0.3], [0.7, -0.5]], [0.5, 0.8]);
    let oracle = Oracle::isotropic(&weights, &means.map(|m| m.to_vec()), &stds)?;
    let (at, rule) = (Level::of(0.7, 0.7), GaussHermite::new(20)?);
    // E over a bump of the plane, in its own units.
    let plane = |f: &dyn Fn(f64, f64) -> f64| rule.expect(|u| rule.expect(|v| f(u, v), 0.0, 1.0), 0.0, 1.0);
    // ‖s − ∇ log p_t‖² − ‖∇ log p_t‖² = ‖s‖² − 2·s·∇ log p_t, whose mean is E[‖s‖² − 2·s·E[∇ log p_{t|0} | x_t]]: the score itself, no wave,
    // enters by a finer rule.
    let fine = GaussHermite::new(120)?;
    let over_x_t = |f: &dyn Fn(&[f64]) -> f64| {
        let bump = |k: usize| {
            let deviation = (at.alpha * stds[k]).hypot(at.sigma);
            let place = |axis: usize, z: f64| at.alpha * means[k][axis] + deviation * z;
            weights[k] * fine.expect(|u| fine.expect(|v| f(&[place(0, u), place(1, v)]), 0.0, 1.0), 0.0, 1.0)
        };
        bump(0) + bump(1)
    };
    let square = over_x_t(&|x| oracle.score(x, at).iter().map(|s| s * s).sum());
    let constant = denoising_constant(square, 2, at);
    Ok(worst([1, 2].map(|seed| {
        let model = Sines::random(2, seed);
        let explicit = over_x_t(&|x| explicit(&model, &oracle, x, at));
        let bump = |k: usize| {
            let given = |p: f64, q: f64| {
                let x0 = [means[k][0] + stds[k] * p, means[k][1] + stds[k] * q];
                plane(&|u, v| {
                    let x_t = [at.alpha * x0[0] + at.sigma * u, at.alpha * x0[1] + at.sigma * v];
                    denoising(&model, &x_t, &[u, v], at)
                })
            };
            weights[k] * plane(&given)
        };
        let denoising = bump(0) + bump(1);
        (explicit - denoising - constant).abs() / denoising
    })))
}

fn sliced_signs() -> Result<f64> {
    const DIM: usize = 5;
    let at = Level::of(0.7, 0.7);
    Ok(worst([1, 2].map(|seed| {
        let (model, x) = (Sines::random(DIM, seed), normals(4290 + seed, DIM));
        let sign = |bits: u32, i: usize| if bits >> i & 1 == 1 { 1.0 } else { -1.0 };
        let probes = (0..1 << DIM).map(|bits| (0..DIM).map(|i| sign(bits, i)).collect::<Vec<f64>>());
        let mean = probes.map(|v| sliced(&model, &x, at, &v)).sum::<f64>() / f64::from(1 << DIM);
        let want = implicit(&model, &x, at);
        (mean - want).abs() / want.abs().max(1.0)
    })))
}

fn posterior_mean_of_score() -> Result<f64> {
    let (law, oracle) = uneven_bumps()?;
    let rule = GaussHermite::new(POINTS)?;
    Ok(worst([Level::of(0.9, 0.4), Level::of(0.3, 0.95)].into_iter().flat_map(|at| {
        let (law, oracle, rule) = (&law, &oracle, &rule);
        points(-3.0, 3.0, 25).into_iter().map(move |x_t| {
            // Each bump's posterior given x_t is Gaussian: the rule is laid there.
            let (mut mean, mut mass) = (0.0, 0.0);
            for c in law.components() {
                let variance = (at.alpha * c.std).powi(2) + at.sigma.powi(2);
                let share = c.weight * normal_pdf(x_t, at.alpha * c.mean, variance.sqrt());
                let centre = c.mean + at.alpha * c.std.powi(2) / variance * (x_t - at.alpha * c.mean);
                let deviation = c.std * at.sigma / variance.sqrt();
                let score = rule.expect(|x0| (at.alpha * x0 - x_t) / at.sigma.powi(2), centre, deviation);
                (mean, mass) = (mean + share * score, mass + share);
            }
            let exact = oracle.score(&[x_t], at)[0];
            (mean / mass - exact).abs() / exact.abs().max(1.0)
        })
    })))
}

fn kernel_score() -> Result<f64> {
    Ok(worst([Level::of(0.9, 0.4), Level::of(0.3, 0.95)].into_iter().flat_map(|at| {
        [(-1.0, 0.7), (0.4, -1.3), (2.0, 2.0)].into_iter().map(move |(x0, eps): (f64, f64)| {
            let x_t = at.alpha * x0 + at.sigma * eps;
            let log_kernel = |x: f64| -0.5 * ((x - at.alpha * x0) / at.sigma).powi(2);
            let exact = derivative(log_kernel, x_t, 1e-2);
            let (of_x0, of_eps) = ((at.alpha * x0 - x_t) / at.sigma.powi(2), -eps / at.sigma);
            worst([(of_x0 - exact).abs(), (of_eps - exact).abs()])
        })
    })))
}

/// The miss of x0 when x_t = alpha·x0 + sign·sigma·eps is read with networks that say what they should for the plus sign.
fn recovered_x0(sign: f64) -> Result<f64> {
    let outputs = [
        Prediction::Eps,
        Prediction::X0,
        Prediction::V,
        Prediction::Score,
        Prediction::Velocity,
        Prediction::Edm { sigma_data: 0.5 },
    ];
    let mut misses = Vec::new();
    for at in line_levels().into_iter().chain([Level::of(0.01, 0.999_95)]) {
        for prediction in outputs {
            let (x0, eps) = (0.7, -1.3);
            let row = |value: f64| Tensor::from_slice(&[value], [1, 1]);
            let output = target(prediction, &row(x0)?, &row(eps)?, &[at.alpha], &[at.sigma])?.to_vec::<f64>()?[0];
            let (of_x, of_out) = x0_coefficients(prediction, at)?;
            misses.push((of_x * (at.alpha * x0 + sign * at.sigma * eps) + of_out * output - x0).abs());
        }
    }
    Ok(worst(misses))
}
