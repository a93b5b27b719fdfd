//! Runs the variance-exploding chain backwards with the known score (S3.eq2, Remark 5; item 7).
//!
//! Forwards x^(n) = x^(n−1) + σz; backwards, from the exact law of x^(N), x^(n−1) = x^(n) + σ²·∂log p_n(x^(n)) + σz, which is DDPM's step with
//! the larger of its two variances. The data are a mixture of three normals, so p_n is one too and its score is known. As σ → 0 with Nσ²
//! fixed the error goes to 0.

use std::sync::Arc;
use tweedie::analytic::{Mixture, statistics};
use tweedie::denoiser::oracle::Oracle;
use tweedie::io::plot::{Axes, Chart, Histogram, Series, plot_charts};
use tweedie::process::{Custom, Level, Process, Variance};
use tweedie::rng::{Address, Purpose};
use tweedie::sampler::{self, Grid, Run, StepNoise};

const OUT: &str = "examples/out/02_mixture_backwards.png";
const COUNT: u32 = 20_000;
const TOTAL: f64 = 3.0; // √N·σ: the noise at the end

/// Where `count` paths end that go back in N = `steps` steps of variance σ² = TOTAL²/N; the first few are kept in `paths`.
fn run_back(oracle: &Oracle, steps: u32, count: u32, paths: &mut [Vec<(f64, f64)>]) -> tweedie::Result<Vec<f64>> {
    let process: Arc<dyn Process> = Arc::new(Custom::new(|_| 0.0, |t| TOTAL * t.sqrt(), TOTAL)?);
    let levels: Vec<Level> = (0..=steps).rev().map(|n| process.level(f64::from(n) / f64::from(steps))).collect();
    let mut keep = |t: f64, x: &[f64]| paths.iter_mut().zip(x).for_each(|(path, x)| path.push((t, *x)));

    let x_t = oracle.sample(0, count as usize, levels[0])?;
    keep(1.0, x_t.host()?);
    let samples: Vec<u32> = (0..count).collect();
    let noise = StepNoise::Drawn(Address::new(0, Purpose::ReverseStep));
    let mut run = Run::new(oracle, noise, &samples).with_callback(|after| {
        keep(after.at.to.time, after.x.host()?);
        Ok(())
    });
    sampler::ddpm(&mut run, x_t, &Grid::through(&process, &levels)?, Variance::FixedLarge, true)?.to_vec()
}

fn main() -> tweedie::Result<()> {
    let data = Mixture::new(&[0.3, 0.45, 0.25], &[-2.5, 0.5, 3.0], &[0.4, 0.6, 0.35])?;
    let oracle = Oracle::from(&data);

    let mut paths = vec![Vec::new(); 40];
    run_back(&oracle, 400, 40, &mut paths)?;
    let mut lines: Vec<Series> =
        paths.into_iter().map(|points| Series { points, faint: true, ..Series::default() }).collect();
    // p_n has the variance of the data and nσ².
    for (name, sign) in [("mean + std of p_n", 1.0), ("mean − std of p_n", -1.0)] {
        let std = |t: f64| (data.variance() + TOTAL.powi(2) * t).sqrt();
        let points = (0..=100).map(|i| f64::from(i) / 100.0).map(|t| (t, data.mean() + sign * std(t))).collect();
        lines.push(Series { name: name.into(), points, ..Series::default() });
    }

    // The law at the end, as the steps become smaller.
    let mut last = Vec::new();
    for steps in [10, 20, 40, 80, 160, 320] {
        last = run_back(&oracle, steps, COUNT, &mut [])?;
        println!("{steps:>4} steps: KS distance to the data {:.4}", statistics::ks(&last, |x| data.cdf(x))?);
    }
    println!("chance alone stays below {:.4} (99 %)", statistics::ks_critical(0.01, f64::from(COUNT))?);
    let density = (-400..=400).map(|i| f64::from(i) / 80.0).map(|x| (x, data.pdf(x))).collect();
    let backwards = Chart {
        axes: Axes { title: "40 paths, from right to left", x_label: "n/N", y_label: "x", ..Axes::default() },
        bars: None,
        lines,
    };
    let end = Chart {
        axes: Axes { title: "where 20,000 paths end", x_label: "x", y_label: "density", ..Axes::default() },
        bars: Some(Histogram { name: "320 steps".into(), samples: last, bins: 100, range: Some([-5.0, 5.0]) }),
        lines: vec![Series { name: "density of the data".into(), points: density, ..Series::default() }],
    };
    plot_charts(OUT, "A mixture run backwards with its known score", 2, &[backwards, end])?;
    println!("{OUT}");
    Ok(())
}
