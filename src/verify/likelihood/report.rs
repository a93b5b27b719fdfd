//! What the bound comes to on known data (item 34).

use super::super::measure::{derivative, largest, two_bumps};
use super::super::one_dim::falling_order_miss;
use super::super::{Bound, Identity};
use crate::analytic::Mixture;
use crate::analytic::quadrature::GaussLegendre;
use crate::analytic::statistics;
use crate::denoiser::Denoiser;
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::likelihood::{Chain, Decoder, PixelLevels, ReverseVariance, Route, VlbOptions, vlb};
use crate::process::{BetaCurve, BetaSchedule, Discrete, Level, Process, Vp};
use std::f64::consts::{LN_2, TAU};

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 34 entropy",
        claim: "Gaussian data, exact eps, σ² = β, Gaussian decoder: the bound falls to h(X⁰) + KL(p_T ‖ N(0, I)) at every doubling of T, with \
                order 1 in 1/T",
        bound: Bound::AtMost(0.1), // the next order, 1/T², is a tenth at T = 50
        measure: || Ok(largest([0.25, 4.0].into_iter().map(gaussian_order).collect::<Result<Vec<_>>>()?)),
    },
    Identity {
        id: "item 34 unit Gaussian",
        claim: "and is there at any T for N(0, 1) data",
        bound: Bound::AtMost(1e-10), // 400 steps whose constants cancel their weighted errors
        measure: || Ok(largest([gap(&ReverseVariance::Beta, 1.0, 50)?, gap(&ReverseVariance::Beta, 1.0, 400)?])),
    },
    Identity {
        id: "item 34 beta-tilde",
        claim: "with σ² = β̃ half of Euler's constant remains, .2886 nat a dimension: the miss at T = 200000, which falls like ln T/T",
        bound: Bound::AtMost(3e-3), // 2.1e-3 at that T by the same sum in another program, 1.1e-3 at twice it
        measure: || Ok((gap(&ReverseVariance::BetaTilde, 0.25, 200_000)? - 0.5 * EULER).abs()),
    },
    Identity {
        id: "item 34 mixture",
        claim: "the same order on a mixture, all expectations by quadrature",
        bound: Bound::AtMost(0.1), // as for Gaussian data
        measure: mixture_order,
    },
    Identity {
        id: "item 34 continuous time",
        claim: "h(X⁰) + KL(p_T‖N(0, I)) is ½∫ E(eps − eps*)² dL + L_T and the decoder at the clean end: the mixture's I-MMSE relation \
                d ln-likelihood/dL, relative",
        bound: Bound::AtMost(1e-6), // quadrature to 1e-10, an eighth-order difference in steps of 0.05
        measure: immse,
    },
    Identity {
        id: "item 34 measured",
        claim: "drawn by Monte Carlo the bound of 2000 points is its closed form: standard errors, chain of 100 steps, seed 34",
        bound: Bound::AtMost(4.0),
        measure: || {
            let chain = Chain::of_table(&table(100)?, &ReverseVariance::Beta)?;
            let want = chain.diffusion(|at| gaussian_error(0.25, at));
            z_of(Route::Chain(&chain), want)
        },
    },
    Identity {
        id: "item 34 measured continuous",
        claim: "and in continuous time ½·ln((1 + v·snr_1)/(1 + v·snr_0))",
        bound: Bound::AtMost(4.0),
        measure: || {
            let process = Vp::new(BetaCurve::Linear { min: 0.1, max: 20.0 }, false)?;
            let snr = |time: f64| (2.0 * process.half_log_snr(time)).exp();
            let want = 0.5 * ((0.25 * snr(process.min_time())).ln_1p() - (0.25 * snr(1.0)).ln_1p());
            z_of(Route::Continuous(&process), want)
        },
    },
    Identity {
        id: "item 34 categorical",
        claim: "three pixel values of entropy H: bound of a chain of 200 steps with the exact denoiser, less H, in bits",
        // The bound is above by the steps' KLs; each posterior is a mixture where the model's is one Gaussian.
        bound: Bound::AtLeast(1e-3),
        measure: || categorical(200),
    },
    Identity {
        id: "item 34 categorical limit",
        claim: "and the excess over H falls with T: that of 800 steps over that of 200",
        bound: Bound::AtMost(0.5),
        measure: || Ok(categorical(800)? / categorical(200)?),
    },
];

const EULER: f64 = 0.577_215_664_901_532_9;

/// VP with β from 0.1 to 20 per unit of time, in T steps.
fn table(steps: usize) -> Result<Discrete> {
    let unit = steps as f64;
    Discrete::from_betas(&BetaSchedule::Linear.betas(steps, 0.1 / unit, 20.0 / unit), false)
}

/// Mean squared error of the exact x0_hat for N(0, v) data.
fn gaussian_error(v: f64, at: Level) -> f64 {
    v * at.sigma.powi(2) / (at.alpha.powi(2) * v + at.sigma.powi(2))
}

/// The whole bound less h + KL, in nats a dimension, for N(0, v) data.
fn gap(variance: &ReverseVariance, v: f64, steps: usize) -> Result<f64> {
    let chain = Chain::of_table(&table(steps)?, variance)?;
    let last = chain.levels()[steps - 1];
    let terminal = chain.terminal([v.sqrt()]); // E x0² = v
    let bound =
        terminal + chain.diffusion(|at| gaussian_error(v, at)) + chain.gaussian_l0(gaussian_error(v, chain.first()));
    let end = last.alpha.powi(2) * v + last.sigma.powi(2);
    let entropy = 0.5 * ((TAU * v).ln() + 1.0);
    Ok(bound - entropy - 0.5 * (end - 1.0 - end.ln()))
}

const STEPS: [usize; 5] = [50, 100, 200, 400, 800];

fn gaussian_order(v: f64) -> Result<f64> {
    let gaps = STEPS.into_iter().map(|t| gap(&ReverseVariance::Beta, v, t)).collect::<Result<Vec<_>>>()?;
    falling_order_miss(&STEPS.map(|t| 1.0 / t as f64), &gaps, 1.0)
}

/// ∫ p·f over the line, for the law of x_t of the two bumps.
fn expect(law: &Mixture, f: impl Fn(f64) -> f64) -> Result<f64> {
    let reach = law.components().iter().map(|c| c.mean.abs() + 9.0 * c.std).fold(0.0, f64::max);
    Ok(GaussLegendre::new(20)?.composite(|x| law.pdf(x) * f(x), -reach, reach, 24))
}

/// E(x0 − x0_hat)² of the two bumps.
fn mixture_error(oracle: &Oracle, data: &Mixture, at: Level) -> Result<f64> {
    expect(&data.noised(at.alpha, at.sigma)?, |x| oracle.posterior_covariance(&[x], at)[0])
}

fn mixture_order() -> Result<f64> {
    let (oracle, data) = two_bumps()?;
    let square = expect(&data, |x| x * x)?;
    let entropy = expect(&data, |x| -data.log_pdf(x))?;
    let steps = [25, 50, 100, 200];
    let gap = |steps: usize| {
        let chain = Chain::of_table(&table(steps)?, &ReverseVariance::Beta)?;
        let last = chain.levels()[steps - 1];
        let errors = chain.levels().iter().map(|at| mixture_error(&oracle, &data, *at)).collect::<Result<Vec<_>>>()?;
        let end = data.noised(last.alpha, last.sigma)?;
        let kl = expect(&end, |x| end.log_pdf(x) + 0.5 * (TAU.ln() + x * x))?;
        let error = |at: Level| errors[at.t as usize];
        let bound = chain.terminal([square.sqrt()]) + chain.diffusion(error) + chain.gaussian_l0(errors[0]);
        Ok(bound - entropy - kl)
    };
    let gaps = steps.into_iter().map(gap).collect::<Result<Vec<f64>>>()?;
    falling_order_miss(&steps.map(|t| 1.0 / t as f64), &gaps, 1.0)
}

/// d/dL of E[KL(q(x_t|x0) ‖ p_t)] = I(x0; x_t) is ½·snr·E(x0 − x0_hat)² (Guo, Shamai & Verdú 2005), which makes the continuous bound exact.
fn immse() -> Result<f64> {
    let (oracle, data) = two_bumps()?;
    let at = |l: f64| {
        let snr = l.exp();
        Level::of((snr / (1.0 + snr)).sqrt(), (1.0 / (1.0 + snr)).sqrt())
    };
    let information = |l: f64| {
        let level = at(l);
        let law = data.noised(level.alpha, level.sigma);
        let entropy = law.and_then(|law| expect(&law, |x| -law.log_pdf(x))).unwrap_or(f64::NAN);
        entropy - 0.5 * ((TAU * level.sigma.powi(2)).ln() + 1.0)
    };
    let mut misses = Vec::new();
    for l in [-4.0, -1.0, 0.0, 2.0, 4.0] {
        let slope = derivative(information, l, 0.05);
        misses.push(0.5 * f64::exp(l) * mixture_error(&oracle, &data, at(l))? / slope - 1.0);
    }
    Ok(largest(misses))
}

/// Σ L_{t−1} of 2000 points of N(0, ¼) against `want`, in standard errors.
fn z_of(route: Route<'_>, want: f64) -> Result<f64> {
    const COUNT: usize = 2000;
    let data = Oracle::gaussian(&[0.0], &[0.25])?;
    let x0 = data.sample(34, COUNT, Level::CLEAN)?;
    let samples: Vec<u32> = (0..COUNT as u32).collect();
    let options = VlbOptions { draws: 12, decoder_draws: 1, seed: 34 };
    let bounds = vlb(&data as &dyn Denoiser, route, Decoder::Gaussian, &x0, &samples, &options)?;
    let moments = statistics::moments(&bounds.iter().map(|b| b.diffusion).collect::<Vec<_>>())?;
    Ok((moments.mean - want).abs() / moments.mean_error)
}

/// The bound of a chain less the entropy, in bits, for pixels −1, 0, 1 with probabilities ½, ¼, ¼; all by quadrature.
fn categorical(steps: usize) -> Result<f64> {
    let (shares, values) = ([0.5, 0.25, 0.25], [-1.0, 0.0, 1.0]);
    let data = Oracle::isotropic(&shares, &values.map(|v| vec![v]), &[0.0; 3])?;
    let chain = Chain::of_table(&table(steps)?, &ReverseVariance::BetaTilde)?;
    let rule = GaussLegendre::new(20)?;
    let expect_eps = |x0: f64, at: Level, f: &dyn Fn(f64) -> f64| {
        let density = |eps: f64| (-0.5 * eps * eps).exp() / TAU.sqrt();
        rule.composite(|eps| density(eps) * f(at.alpha * x0 + at.sigma * eps), -9.0, 9.0, 16)
    };
    let mean = |f: &dyn Fn(f64) -> f64| values.iter().zip(shares).map(|(x0, p)| p * f(*x0)).sum::<f64>();
    let error = |at: Level| mean(&|x0| expect_eps(x0, at, &|x| (x0 - data.posterior_mean(&[x], at)[0]).powi(2)));
    let (first, decoder) = (chain.first(), Decoder::Discretised(PixelLevels::new(3)?));
    let nll = |x0: f64, x: f64| {
        decoder.nll(&[x0], &[x], &data.posterior_mean(&[x], first), first, chain.decoder_variance()).unwrap_or(f64::NAN)
    };
    let l_0 = mean(&|x0| expect_eps(x0, first, &|x| nll(x0, x)));
    let terminal = mean(&|x0| chain.terminal([x0]));
    let entropy: f64 = shares.iter().map(|p| -p * p.ln()).sum();
    Ok((terminal + chain.diffusion(error) + l_0 - entropy) / LN_2)
}
