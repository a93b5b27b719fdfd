//! The variance-exploding chain and its reversal with a known score (S3 section 2.1; items 5–8).

use super::chain::{Law, Step};
use super::measure::normals;
use super::one_dim::{draw, falling_order_miss, ks_scaled, moments_z, one_row, points, uneven_bumps, worst, worst_of};
use super::{Bound, Identity};
use crate::analytic::gaussian::normal_pdf;
use crate::analytic::quadrature::GaussLegendre;
use crate::analytic::statistics;
use crate::analytic::{Mixture, gaussian};
use crate::error::Result;
use crate::ops::{self, Noise, ReverseStep, StepInputs, perturb};
use crate::process::{Level, Terminal, Variance};
use crate::rng::{Address, Purpose};
use crate::sampler::{Run, StepNoise, ddpm};
use crate::tensor::Tensor;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 5 S3.eq2-3 moments",
        claim: "mean and variance after 16 steps and after one jump are μ₀ and σ₀² + nσ², in standard errors",
        // n = 100 000, seeds 51 to 53, z-score 4.5: 1 in 37 000 for four numbers.
        bound: Bound::AtMost(4.5),
        measure: || {
            worst_of(
                [forward(false), forward(true)].map(|x| moments_z(&x?, noised(1.0)?.mean(), noised(1.0)?.variance())),
            )
        },
    },
    Identity {
        id: "item 5 S3.eq2-3 law",
        claim: "16 steps and one jump both follow the data's law convolved with N(0, nσ²): √n·KS",
        // n = 100 000; 2.23 is exceeded once in ten thousand seeds.
        bound: Bound::AtMost(2.23),
        measure: || worst_of([forward(false), forward(true)].map(|x| ks_scaled(&x?, &noised(1.0)?))),
    },
    Identity {
        id: "item 5 S3.remark1 nZ misprint",
        claim: "n·Z for √n·Z: the variance is off by (n² − n)σ²/(σ₀² + nσ²), 16 steps",
        // (16 − 1)/(1.51 + 1) = 5.96 for σ² = 1/16; the sample's standard error is 0.4 % of that.
        bound: Bound::AtLeast(5.0),
        measure: printed_jump,
    },
    Identity {
        id: "item 6 S3.eq4 moments",
        claim: "the fitted terminal Gaussian has μ̃ = μ₀ and σ̃² = σ₀² + Nσ² on known points",
        // A few sums of numbers of order 10.
        bound: Bound::AtMost(1e-14),
        measure: terminal_moments,
    },
    Identity {
        id: "item 6 S3.eq4 KL",
        claim: "KL of the true terminal law from N(μ̃, σ̃²) falls as σ̃^(−6), the first Edgeworth term of skewed data: order in 1/σ̃²",
        // The next terms are a share 1/σ̃² below 3 % of the first: 0.1 in the order.
        bound: Bound::AtMost(0.1),
        measure: || terminal_kl().and_then(|(steps, kl)| falling_order_miss(&steps, &kl, 3.0)),
    },
    Identity {
        id: "item 6 S3.eq4 deviation misprint",
        claim: "σ̃ where the variance σ̃² belongs: largest distance of the distribution functions, Nσ² = 100",
        // √10 against 10 in deviation: two centred normals whose scales differ by 3.2 are 0.25 apart.
        bound: Bound::AtLeast(0.2),
        measure: printed_terminal,
    },
    Identity {
        id: "item 7 S3.eq125 step",
        claim: "ddpm on alpha = 1 with variance β is x + σ²·∂log P + σz, the last step too",
        // x + (x0_hat − x)/n and x + σ²·score cancel to a few ε of |x| < 10.
        bound: Bound::AtMost(1e-13),
        measure: printed_step,
    },
    Identity {
        id: "item 7 S3.remark5 order",
        claim: "the reversed chain with the known score returns the data, first order in σ² at Nσ² = 1: order of W₁",
        // N = 32 to 256, exact densities: the second-order share is about 1/N of the error, 0.1 in the order.
        bound: Bound::AtMost(0.1),
        measure: || reversed_errors().and_then(|(steps, errors)| falling_order_miss(&steps, &errors, 1.0)),
    },
    Identity {
        id: "item 7 S3.remark5 distance",
        claim: "W₁ of the reversed chain to the data at N = 256, Nσ² = 1",
        // First order: W₁ is of the size of σ² = 1/256 times the slope of the score's drift, which is of order 1 to 3 here.
        bound: Bound::AtMost(0.012),
        measure: || Ok(reversed_errors()?.1.last().copied().unwrap_or(f64::NAN)),
    },
    Identity {
        id: "item 7 S3.remark5 simulation",
        claim: "4000 samples of 128 reverse steps with the known score follow the data: √n·KS",
        // n = 4000, seed 71: 1.95 once in a thousand seeds, and the bias of first order, W₁ below 0.012·2 times the density's top 0.5,
        // adds at most √4000·0.012 = 0.8.
        bound: Bound::AtMost(2.75),
        measure: simulation,
    },
    Identity {
        id: "item 7 S3.eq126 score of the later law",
        claim: "E[X^(n−1)|X^n = y] = y + σ²·∂log P_n(y) exactly, by Bayes on a grid",
        // 128 Gauss points a side of a ratio of order 1.
        bound: Bound::AtMost(1e-11),
        measure: || Ok(worst(one_step_errors(0.05, true)?)),
    },
    Identity {
        id: "item 7 S3.eq126 score of the earlier law",
        claim: "with ∂log P_(n−1), as the derivation before Remark 3 has it, the mean is off by O(σ⁴): order in σ²",
        // σ² = 0.04 to 0.005: relative corrections σ²·O(1) leave 0.1 in the order.
        bound: Bound::AtMost(0.15),
        measure: earlier_score_order,
    },
    Identity {
        id: "item 7 S3 before eq5 misprint",
        claim: "Y|X ~ N(0, σ²) for N(X, σ²): Y tells nothing of X, and E[X|Y] misses by its own spread",
        // Then E[X|Y] is the mean 0.25, while the true one runs from −1.3 to 1.3 on [−2, 2].
        bound: Bound::AtLeast(1.0),
        measure: printed_likelihood,
    },
    Identity {
        id: "item 8 S3.eq5 variance",
        claim: "N noisings and N subtractions of noise: variance σ₀² + 2Nσ² and mean μ₀, in standard errors",
        // n = 100 000, seed 81, z-score 4.5.
        bound: Bound::AtMost(4.5),
        measure: || moments_z(&subtracted()?, noised(2.0)?.mean(), noised(2.0)?.variance()),
    },
    Identity {
        id: "item 8 S3.eq5 law",
        claim: "subtracting noise noises on: √n·KS to the data's law convolved with N(0, 2Nσ²)",
        // n = 100 000; once in ten thousand seeds.
        bound: Bound::AtMost(2.23),
        measure: || ks_scaled(&subtracted()?, &noised(2.0)?),
    },
    Identity {
        id: "item 8 S3.eq5 no denoising",
        claim: "what subtraction returns is farther from the data than what it began with: W₁ after over W₁ before",
        // Anything that denoises is below 1. The variance grows from 1.5 + 1 to 1.5 + 2, which takes the distance half as far again.
        bound: Bound::AtLeast(1.2),
        measure: subtraction_distance,
    },
];

const COUNT: usize = 100_000;
const STEPS: usize = 16;
/// Deviation of one step: Nσ² = 1.
const SIGMA: f64 = 0.25;

/// The data's law after noise of variance `variance`.
fn noised(variance: f64) -> Result<Mixture> {
    uneven_bumps()?.0.noised(1.0, variance.sqrt())
}

fn data() -> Result<Tensor> {
    one_row(&draw(&uneven_bumps()?.0, 51, COUNT))
}

/// The forward chain after all steps, in one jump or one by one.
fn forward(in_one_jump: bool) -> Result<Vec<f64>> {
    if in_one_jump {
        let sigma = (STEPS as f64).sqrt() * SIGMA;
        return perturb(&data()?, &[1.0], &[sigma], Address::new(52, Purpose::Test), &[0])?.x_t.to_vec();
    }
    let mut x = data()?;
    for n in 0..STEPS {
        x = perturb(&x, &[1.0], &[SIGMA], Address::new(53, Purpose::Test).step(n), &[0])?.x_t;
    }
    x.to_vec()
}

fn printed_jump() -> Result<f64> {
    let sigma = STEPS as f64 * SIGMA;
    let x = perturb(&data()?, &[1.0], &[sigma], Address::new(52, Purpose::Test), &[0])?.x_t.to_vec()?;
    Ok((statistics::moments(&x)?.variance / noised(1.0)?.variance() - 1.0).abs())
}

fn terminal_moments() -> Result<f64> {
    // Mean 1 and variance 8/3; 9 steps of variance 0.25.
    let fit = Terminal::fit(&[-1.0, 1.0, 3.0], 1, Level::of(1.0, 3.0 * 0.5))?;
    Ok(worst([(fit.mean[0] - 1.0).abs(), (fit.variance[0] - (8.0 / 3.0 + 9.0 * 0.25)).abs()]))
}

/// 1/σ̃² and KL(P_N ‖ N(μ̃, σ̃²)), the Gaussian fitted to the data by [`Terminal`].
fn terminal_kl() -> Result<(Vec<f64>, Vec<f64>)> {
    let (law, _) = uneven_bumps()?;
    // Two points with the mixture's own mean and variance.
    let spread = law.variance().sqrt();
    let rows = [law.mean() - spread, law.mean() + spread];
    let rule = GaussLegendre::new(16)?;
    let mut lists = (Vec::new(), Vec::new());
    for variance in [32.0, 64.0, 128.0, 256.0] {
        let (fit, end) = (Terminal::fit(&rows, 1, Level::of(1.0, f64::sqrt(variance)))?, noised(variance)?);
        let deviation = fit.variance[0].sqrt();
        // p ln(p/q) − p + q ≥ 0 keeps its digits where p and q are close.
        let part = |x: f64| {
            let (p, q) = (end.pdf(x), normal_pdf(x, fit.mean[0], deviation));
            let log = end.log_pdf(x) + 0.5 * (std::f64::consts::TAU * fit.variance[0]).ln();
            let ratio = log + 0.5 * ((x - fit.mean[0]) / deviation).powi(2);
            p * ratio - p + q
        };
        lists.0.push(1.0 / fit.variance[0]);
        lists.1.push(rule.composite(part, -9.0 * deviation, 9.0 * deviation, 40));
    }
    Ok(lists)
}

fn printed_terminal() -> Result<f64> {
    let (law, end) = (uneven_bumps()?.0, noised(100.0)?);
    let variance = law.variance() + 100.0;
    let wrong = |x: f64| gaussian::normal_cdf(x, law.mean(), variance.sqrt().sqrt());
    Ok(worst(points(-30.0, 30.0, 601).into_iter().map(|x| (end.cdf(x) - wrong(x)).abs())))
}

/// The levels of X^(N), …, X^(1), X^(0).
fn levels(steps: usize, sigma: f64) -> Vec<Level> {
    let noisy = (1..=steps).rev().map(|n| Level::of(1.0, (n as f64).sqrt() * sigma));
    noisy.chain([Level::CLEAN]).collect()
}

fn printed_step() -> Result<f64> {
    let (law, oracle) = uneven_bumps()?;
    let (x, z) = (points(-6.0, 6.0, 41), normals(72, 41));
    let levels = levels(8, 0.3);
    worst_of(levels.windows(2).map(|pair| {
        let got = Step::LITERAL.apply(&oracle, (pair[0], pair[1]), &x, &z)?;
        let at = law.noised(1.0, pair[0].sigma)?;
        let printed = x.iter().zip(&z).map(|(x, z)| x + 0.09 * at.score(*x) + 0.3 * z);
        Ok(worst(got.iter().zip(printed).map(|(got, printed)| (got - printed).abs())))
    }))
}

/// σ² and W₁ to the data of the whole reversed chain at Nσ² = 1, begun at the exact law of X^(N).
fn reversed_errors() -> Result<(Vec<f64>, Vec<f64>)> {
    let (law, oracle) = uneven_bumps()?;
    // Points 0.04 apart: the smallest noise has deviation 1/16.
    let on_line = |law: &Mixture| Law::new(|x| law.pdf(x), 8.0, 400);
    let mut lists = (Vec::new(), Vec::new());
    for steps in [32, 64, 128, 256] {
        let sigma = (1.0 / f64::from(steps)).sqrt();
        let end = on_line(&noised(1.0)?).sampled(&oracle, &levels(steps as usize, sigma), Step::LITERAL)?;
        lists.0.push(sigma * sigma);
        lists.1.push(end.wasserstein(&on_line(&law)));
    }
    Ok(lists)
}

fn simulation() -> Result<f64> {
    let (law, oracle) = uneven_bumps()?;
    let samples: Vec<u32> = (0..4000).collect();
    let begin = draw(&noised(1.0)?, 70, samples.len());
    let x = Tensor::from_slice(&begin, [begin.len(), 1])?;
    let noise = StepNoise::Drawn(Address::new(71, Purpose::ReverseStep));
    let grid = super::chain::through(&levels(128, (1.0_f64 / 128.0).sqrt()))?;
    let end = ddpm(&mut Run::new(&oracle, noise, &samples), x, &grid, Variance::FixedLarge, true)?;
    ks_scaled(&end.to_vec::<f64>()?, &law)
}

/// The error of y + σ²·∂log P(y) as mean of X given Y = X + σZ, at several y, with P the law of Y or of X.
fn one_step_errors(variance: f64, of_later: bool) -> Result<Vec<f64>> {
    let (earlier, later) = (noised(0.5)?, noised(0.5 + variance)?);
    let law = if of_later { &later } else { &earlier };
    Ok(points(-3.0, 3.0, 13)
        .into_iter()
        .map(|y| {
            let mean = bayes_mean(&earlier, y, |x| normal_pdf(y, x, variance.sqrt())).unwrap_or(f64::NAN);
            (mean - (y + variance * law.score(y))).abs()
        })
        .collect())
}

/// E[X|Y = y] for a density of Y given X, by quadrature within six of y.
fn bayes_mean(prior: &Mixture, y: f64, likelihood: impl Fn(f64) -> f64) -> Result<f64> {
    let rule = GaussLegendre::new(16)?;
    let part = |power: i32| rule.composite(|x| x.powi(power) * prior.pdf(x) * likelihood(x), y - 6.0, y + 6.0, 96);
    Ok(part(1) / part(0))
}

fn earlier_score_order() -> Result<f64> {
    let variances = [0.04, 0.02, 0.01, 0.005];
    let errors = variances.map(|variance| one_step_errors(variance, false).map(worst));
    falling_order_miss(&variances, &errors.into_iter().collect::<Result<Vec<f64>>>()?, 2.0)
}

fn printed_likelihood() -> Result<f64> {
    let (law, oracle) = uneven_bumps()?;
    worst_of([-2.0, -1.0, 0.0, 1.0, 2.0].into_iter().map(|y| {
        let printed = bayes_mean(&law, y, |_| normal_pdf(y, 0.0, 0.5))?;
        Ok((oracle.posterior_mean(&[y], Level::of(1.0, 0.5))[0] - printed).abs())
    }))
}

/// N noisings, then N times x − z.
fn subtracted() -> Result<Vec<f64>> {
    let mut x = one_row(&forward(false)?)?;
    let step = ReverseStep { to_x: 1.0, noise: -SIGMA, ..Default::default() };
    for n in 0..STEPS {
        let noise = Noise::Drawn { address: Address::new(81, Purpose::Test).step(n), samples: &[0] };
        x = ops::reverse_step(&x, &x, StepInputs::default(), &step, noise)?;
    }
    x.to_vec()
}

fn subtraction_distance() -> Result<f64> {
    let data = data()?.to_vec::<f64>()?;
    let before = statistics::wasserstein_two(&forward(false)?, &data)?;
    Ok(statistics::wasserstein_two(&subtracted()?, &data)? / before)
}
