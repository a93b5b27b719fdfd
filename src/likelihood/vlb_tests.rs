use super::*;
use crate::denoiser::oracle::Oracle;
use crate::likelihood::{PixelLevels, ReverseVariance};
use crate::process::{BetaCurve, Discrete, Edm, Flow, Ou, SubVp, Ve, Vp};

const COUNT: usize = 2000;
const VARIANCE: f64 = 0.3;

fn gaussian() -> Oracle {
    Oracle::gaussian(&[0.2, -0.1], &[VARIANCE, 0.0, 0.0, VARIANCE]).unwrap()
}

/// Mean squared error of the exact x0_hat, for each dimension.
fn error(at: Level) -> f64 {
    VARIANCE * at.sigma.powi(2) / (at.alpha.powi(2) * VARIANCE + at.sigma.powi(2))
}

/// E[x²] of each dimension, summed.
const SQUARES: f64 = 2.0 * VARIANCE + 0.04 + 0.01;

fn table() -> Discrete {
    let betas: Vec<f64> = (1..=30).map(|k| 0.02 * f64::from(k)).collect();
    Discrete::from_betas(&betas, false).unwrap()
}

fn measured(route: Route<'_>, options: &VlbOptions) -> Vec<Bound> {
    let x0 = gaussian().sample(5, COUNT, Level::CLEAN).unwrap();
    let samples: Vec<u32> = (0..COUNT as u32).collect();
    vlb(&gaussian(), route, Decoder::Gaussian, &x0, &samples, options).unwrap()
}

/// The mean over points of `of`, less `want`, in standard errors.
fn z_score(bounds: &[Bound], want: f64, of: impl Fn(&Bound) -> f64) -> f64 {
    let n = bounds.len() as f64;
    let mean = bounds.iter().map(&of).sum::<f64>() / n;
    let variance = bounds.iter().map(|b| (of(b) - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean - want).abs() / (variance / n).sqrt()
}

#[test]
fn every_part_of_a_chains_bound_is_the_closed_form_for_all_and_for_few_levels() {
    // Three parts at 2000 points, seeds 5 and 7: four standard errors once in 16 000.
    for variance in [ReverseVariance::Beta, ReverseVariance::BetaTilde, ReverseVariance::Ddim { eta: 0.5 }] {
        let chain = Chain::of_table(&table(), &variance).unwrap();
        for draws in [4, 29, 100] {
            let bounds = measured(Route::Chain(&chain), &VlbOptions { draws, seed: 7, ..Default::default() });
            assert_eq!(bounds[0].terms.len(), draws.min(29));
            let sum = bounds[3].terms.iter().map(|t| t.nats).sum::<f64>() + bounds[3].constant;
            assert!((sum - bounds[3].diffusion).abs() < 1e-12 * sum.abs().max(1.0));
            let last = chain.levels()[29];
            let terminal = 2.0 * terminal_kl([0.0], last, 1.0) + 0.5 * last.alpha.powi(2) * SQUARES;
            assert!(z_score(&bounds, terminal, |b| b.terminal) < 4.0);
            let diffusion = z_score(&bounds, 2.0 * chain.diffusion(error), |b| b.diffusion);
            assert!(diffusion < 4.0, "{variance:?}, {draws} draws: {diffusion} standard errors");
            let decoder = z_score(&bounds, 2.0 * chain.gaussian_l0(error(chain.first())), |b| b.decoder);
            assert!(decoder < 4.0, "{variance:?}: {decoder} standard errors");
        }
    }
}

#[test]
fn continuous_time_has_one_value_whatever_the_process_between_its_ends() {
    // ½∫ v/(1 + v·snr) d snr = ½·ln((1 + v·snr_1)/(1 + v·snr_0)) for each dimension.
    let curve = BetaCurve::Linear { min: 0.1, max: 20.0 };
    let processes: [&dyn Process; 6] = [
        &Vp::new(curve, false).unwrap(),
        &SubVp::new(curve).unwrap(),
        &Ve::new(0.02, 30.0).unwrap(),
        &Edm::new(0.01, 50.0, 7.0).unwrap(),
        &Ou::new(4.0, 2.0).unwrap(),
        &Flow,
    ];
    for process in processes {
        let bounds = measured(Route::Continuous(process), &VlbOptions { draws: 16, seed: 3, decoder_draws: 2 });
        let snr = |time: f64| (2.0 * process.half_log_snr(time)).exp();
        let top = snr(process.min_time());
        let want = (VARIANCE * top).ln_1p() - (VARIANCE * snr(1.0)).ln_1p();
        let miss = z_score(&bounds, want, |b| b.diffusion);
        // 16 equidistant draws leave little of the noise of levels: the whole spread is that of the points' errors.
        assert!(miss < 4.0, "{}: {miss} standard errors", process.name());
        assert_eq!(bounds[0].constant, 0.0);
    }
}

#[test]
fn data_far_wider_than_the_noise_count_where_levels_are_drawn_seldom() {
    // Variance 3000: a third of a nat lies below L = −8, where the place of levels bends.
    let (data, vp) = (Oracle::gaussian(&[0.0], &[3000.0]).unwrap(), Vp::new(BetaCurve::Cosine, false).unwrap());
    let x0 = data.sample(6, COUNT, Level::CLEAN).unwrap();
    let samples: Vec<u32> = (0..COUNT as u32).collect();
    let options = VlbOptions { draws: 16, seed: 3, decoder_draws: 1 };
    let bounds = vlb(&data, Route::Continuous(&vp), Decoder::Gaussian, &x0, &samples, &options).unwrap();
    let snr = |time: f64| (2.0 * vp.half_log_snr(time)).exp();
    let want = 0.5 * ((3000.0 * snr(vp.min_time())).ln_1p() - (3000.0 * snr(1.0)).ln_1p());
    let miss = z_score(&bounds, want, |b| b.diffusion);
    assert!(miss < 4.0, "{miss} standard errors");
}

#[test]
fn bounds_do_not_depend_on_the_batch() {
    let process = Vp::new(BetaCurve::Cosine, false).unwrap();
    let x0 = gaussian().sample(5, 6, Level::CLEAN).unwrap();
    let run = |from: usize, len: usize| {
        let samples: Vec<u32> = (from as u32..(from + len) as u32).collect();
        let rows = x0.rows(from, len).unwrap();
        vlb(&gaussian(), Route::Continuous(&process), Decoder::Gaussian, &rows, &samples, &VlbOptions::default())
            .unwrap()
    };
    let whole = run(0, 6);
    assert_eq!(whole, [run(0, 1), run(1, 4), run(5, 1)].concat());
    assert!(whole[0].terms[0] != whole[1].terms[0]);
}

#[test]
fn categorical_data_cost_at_least_their_entropy() {
    // Two equally likely pixel values: one bit. The exact denoiser's bound is above it, and near.
    let levels = PixelLevels::new(2).unwrap();
    let data = Oracle::data_set(&[vec![-1.0], vec![1.0]]).unwrap();
    let x0 = data.sample(9, COUNT, Level::CLEAN).unwrap();
    let samples: Vec<u32> = (0..COUNT as u32).collect();
    let vp = Vp::new(BetaCurve::Linear { min: 0.1, max: 20.0 }, false).unwrap();
    let chain = Chain::of_table(&table(), &ReverseVariance::BetaTilde).unwrap();
    let run = |route, decoder| vlb(&data, route, decoder, &x0, &samples, &VlbOptions::default()).unwrap();
    // Continuous time loses L_T alone, 2e-5 nats of this process, far below the standard error.
    let continuous = run(Route::Continuous(&vp), Decoder::Posterior(levels));
    let miss = z_score(&continuous, std::f64::consts::LN_2, Bound::total);
    assert!(miss < 4.0, "{miss} standard errors from one bit");
    // Thirty steps lose some tenths of a bit.
    let steps = run(Route::Chain(&chain), Decoder::Discretised(levels));
    let bits = steps.iter().map(Bound::total).sum::<f64>() / (COUNT as f64 * std::f64::consts::LN_2);
    assert!(bits > 1.0 && bits < 1.5, "{bits} bits");
}

#[test]
fn bounds_that_do_not_exist_are_refused_in_a_sentence() {
    let x0 = Tensor::from_slice(&[0.1, 0.2], [1, 2]).unwrap();
    let table = table();
    let run = |route: Route<'_>, decoder, options: VlbOptions| {
        vlb(&gaussian(), route, decoder, &x0, &[0], &options).unwrap_err().to_string()
    };
    let continuous = run(Route::Continuous(&table), Decoder::Gaussian, VlbOptions::default());
    assert!(continuous.contains("a table of 30 levels and has no continuous time"), "{continuous}");
    let none = VlbOptions { draws: 0, ..VlbOptions::default() };
    assert!(run(Route::Continuous(&Flow), Decoder::Gaussian, none).contains("at least one of each"));
    let bytes = Decoder::Discretised(PixelLevels::new(256).unwrap());
    assert!(run(Route::Continuous(&Flow), bytes, VlbOptions::default()).contains("none of 256 levels"));
}
