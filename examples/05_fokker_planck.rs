//! One SDE as a density and as paths, forwards and back (S3.eq80, Theorem 1 with S3.eq82; items 36–38 and 40).
//!
//! Forwards ∂p/∂t = −∂(f·p)/∂x + ½g²·∂²p/∂x² is solved on a grid, without a sample, and dX = f dt + g dW is simulated. Back from p_T, in
//! s = T − t, both take Anderson's drift −(f − g²·∂log p_t/∂x): p_0 returns, and X_t and Y_{T−t} have one law.

use tweedie::analytic::fokker_planck::{Grid1, Solver1};
use tweedie::analytic::{Mixture, sde::Paths, statistics};
use tweedie::denoiser::oracle::Oracle;
use tweedie::io::plot::{Axes, Chart, Histogram, Series, plot_charts};
use tweedie::process::{BetaSchedule::Linear, ProcessConfig};
use tweedie::rng::{Address, Purpose};

const OUT: &str = "examples/out/05_fokker_planck.png";
const PATHS: usize = 20_000;
const STEPS_PER_TIME: f64 = 500.0;

fn chart<'a>(title: &'a str, paths: &Paths, solver: &Solver1) -> Chart<'a> {
    let density = solver.density().iter().enumerate().map(|(i, p)| (solver.grid().centre(i), *p)).collect();
    Chart {
        axes: Axes { title, x_label: "x", y_label: "density", ..Axes::default() },
        bars: Some(Histogram { name: "paths".into(), samples: paths.x().to_vec(), bins: 80, range: Some([-4.0, 4.0]) }),
        lines: vec![Series { name: "Fokker–Planck".into(), points: density, ..Series::default() }],
    }
}

fn main() -> tweedie::Result<()> {
    let data = Mixture::new(&[0.35, 0.65], &[-1.8, 1.0], &[0.25, 0.4])?;
    let oracle = Oracle::from(&data);
    let process =
        ProcessConfig::Vp { schedule: Linear, beta_min: 0.1, beta_max: 10.0, zero_terminal_snr: false }.build()?;
    let forward = |x: f64, t: f64| process.drift(t) * x;
    let score = |x: f64, t: f64| oracle.score(&[x], process.level(t))[0];
    let back = |x: f64, s: f64| -(forward(x, 1.0 - s) - process.diffusion(1.0 - s).powi(2) * score(x, 1.0 - s));

    let mut x0 = vec![0.0; PATHS];
    data.sample(Address::new(0, Purpose::Oracle), &mut x0);
    let mut paths = Paths::new(x0, 1);
    let mut solver = Solver1::new(Grid1::new(-4.0, 4.0, 800)?, |x| data.pdf(x))?;
    let mut charts = Vec::new();

    for (title, t0, t1) in [("t = 0.2", 0.0, 0.2), ("t = 0.5", 0.2, 0.5), ("t = 1", 0.5, 1.0)] {
        let steps = ((t1 - t0) * STEPS_PER_TIME) as usize;
        paths.run(forward, |t| process.diffusion(t), t0, t1, steps)?;
        solver.run(forward, |t| process.diffusion(t), t0, t1, steps)?;
        report("forwards", t1, &paths, &solver, &data.noised(process.alpha(t1), process.sigma(t1))?)?;
        charts.push(chart(title, &paths, &solver));
    }
    for (title, t0, t1) in [("back at t = 0.5", 1.0, 0.5), ("back at t = 0.2", 0.5, 0.2), ("back at t = 0", 0.2, 0.0)] {
        let (s0, s1, steps) = (1.0 - t0, 1.0 - t1, ((t0 - t1) * STEPS_PER_TIME) as usize);
        paths.run(back, |s| process.diffusion(1.0 - s), s0, s1, steps)?;
        solver.run(back, |s| process.diffusion(1.0 - s), s0, s1, steps)?;
        report("back", t1, &paths, &solver, &data.noised(process.alpha(t1), process.sigma(t1))?)?;
        charts.push(chart(title, &paths, &solver));
    }
    plot_charts(OUT, "Fokker–Planck and paths: forwards above, back from p_T below", 3, &charts)?;
    println!("{OUT}");
    Ok(())
}

/// Distances of the solver's density and of the paths to the exact law.
fn report(way: &str, t: f64, paths: &Paths, solver: &Solver1, exact: &Mixture) -> tweedie::Result<()> {
    let (density, samples) = (solver.l1_to(|x| exact.pdf(x)), statistics::ks(paths.x(), |x| exact.cdf(x))?);
    println!("{way:>8}, t = {t:.1}: ∫|p − exact| = {density:.1e}, KS of the paths {samples:.4}");
    Ok(())
}
