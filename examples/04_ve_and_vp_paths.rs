//! Paths of the same data under a variance-exploding, a variance-preserving and a sub-VP process (S3.eq63–67; items 5, 15, 35).
//!
//! dX = f(t)·X dt + g(t) dW by Euler–Maruyama (S3.eq69), and mean ± standard deviation of the exact marginal: x_t = alpha·x0 + sigma·z, so
//! that its variance is alpha²·Var x0 + sigma². VE keeps the data where they are and drowns them; VP and sub-VP shrink them to 0.

use tweedie::analytic::{Mixture, sde::Paths, statistics};
use tweedie::io::plot::{Axes, Chart, Series, plot_charts};
use tweedie::process::{BetaSchedule::Linear, ProcessConfig};
use tweedie::rng::{Address, Purpose};

const OUT: &str = "examples/out/04_ve_and_vp_paths.png";
const PATHS: usize = 20_000;
const SHOWN: usize = 40;
const TIMES: usize = 250;

fn main() -> tweedie::Result<()> {
    let data = Mixture::new(&[0.5, 0.5], &[-1.0, 1.0], &[0.15, 0.15])?;
    let mut x0 = vec![0.0; PATHS];
    data.sample(Address::new(0, Purpose::Oracle), &mut x0);

    let (beta_min, beta_max) = (0.1, 20.0);
    let processes = [
        ("VE: alpha = 1", ProcessConfig::Ve { sigma_min: 0.01, sigma_max: 10.0 }),
        (
            "VP: alpha² + sigma² = 1",
            ProcessConfig::Vp { schedule: Linear, beta_min, beta_max, zero_terminal_snr: false },
        ),
        ("sub-VP: sigma = 1 − alpha²", ProcessConfig::SubVp { schedule: Linear, beta_min, beta_max }),
    ];
    let mut charts = Vec::new();
    for (title, config) in processes {
        let process = config.build()?;
        let mut paths = Paths::new(x0.clone(), 1);
        let mut lines = vec![Series { faint: true, ..Series::default() }; SHOWN];
        let (mut upper, mut lower) = (Vec::new(), Vec::new());
        for i in 0..=TIMES {
            let t = i as f64 / TIMES as f64;
            if i > 0 {
                // Ten steps of Euler–Maruyama between two points of a line.
                let before = (i - 1) as f64 / TIMES as f64;
                paths.run(|x, t| process.drift(t) * x, |t| process.diffusion(t), before, t, 10)?;
            }
            lines.iter_mut().zip(paths.x()).for_each(|(line, x)| line.points.push((t, *x)));
            let law = data.noised(process.alpha(t), process.sigma(t))?;
            upper.push((t, law.mean() + law.variance().sqrt()));
            lower.push((t, law.mean() - law.variance().sqrt()));
        }
        lines.push(Series { name: "mean + std, exact".into(), points: upper, ..Series::default() });
        lines.push(Series { name: "mean − std, exact".into(), points: lower, ..Series::default() });

        let (end, law) = (statistics::moments(paths.x())?, data.noised(process.alpha(1.0), process.sigma(1.0))?);
        println!(
            "{}: variance of {PATHS} paths at t = 1: {:.4}, exact {:.4}",
            process.name(),
            end.variance,
            law.variance()
        );
        let axes = Axes { title, x_label: "t", y_label: "x_t", ..Axes::default() };
        charts.push(Chart { axes, bars: None, lines });
    }
    plot_charts(OUT, "The same data under three processes", 3, &charts)?;
    println!("{OUT}");
    Ok(())
}
