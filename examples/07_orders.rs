//! Error against the number of steps: the orders of five solvers of the probability-flow ODE (end of S3 section 4; items 41 and 51).
//!
//! On a Gaussian mixture the denoiser is exact, so the steps are the only error. One that falls as steps^−p has order p: 1 for Euler and
//! DDIM, 2 for Heun and DPM-Solver++(2M), 4 for Runge–Kutta. The truth is Runge–Kutta's in 2048 steps.

use tweedie::analytic::statistics::fit_order;
use tweedie::denoiser::oracle::Oracle;
use tweedie::io::plot::{Axes, Series, plot_lines};
use tweedie::process::{BetaSchedule::Linear, Level, ProcessConfig};
use tweedie::sampler::{self, Grid, SamplerKind};

const OUT: &str = "examples/out/07_orders.png";
const STEPS: [usize; 7] = [8, 16, 32, 64, 128, 256, 512];
const LEAST: f64 = 1e-3; // the time at which the ODE stops: dpmpp_2m's last steps would be of order 1 otherwise

fn main() -> tweedie::Result<()> {
    let means = [vec![1.0, 0.0], vec![-0.5, 0.9], vec![-0.5, -0.9]];
    let oracle = Oracle::isotropic(&[0.5, 0.3, 0.2], &means, &[0.5, 0.4, 0.6])?;
    let process =
        ProcessConfig::Vp { schedule: Linear, beta_min: 0.1, beta_max: 20.0, zero_terminal_snr: false }.build()?;
    let x_t = oracle.sample(0, 200, process.level(1.0))?;

    // Equal steps of half_log_snr, from time 1 to LEAST.
    let solve = |kind: SamplerKind, steps: usize| -> tweedie::Result<Vec<f64>> {
        let (first, last) = (process.half_log_snr(1.0), process.half_log_snr(LEAST));
        let at = |i: usize| process.level_at(first + (last - first) * i as f64 / steps as f64);
        let levels: Vec<Level> = (0..=steps).map(at).collect();
        sampler::draw(kind, &oracle, x_t.clone(), &Grid::through(&process, &levels)?, 0)?.to_vec()
    };
    let truth = solve(SamplerKind::Rk4, 2048)?;

    let mut lines = Vec::new();
    for kind in [SamplerKind::Euler, SamplerKind::Ddim, SamplerKind::Heun, SamplerKind::Dpmpp2m, SamplerKind::Rk4] {
        let mut errors = Vec::new();
        for steps in STEPS {
            let squares = solve(kind, steps)?.iter().zip(&truth).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            errors.push((squares / truth.len() as f64).sqrt());
        }
        // The slope over the steps in which it has settled and rounding is far away.
        let sizes: Vec<f64> = STEPS[3..].iter().map(|n| 1.0 / *n as f64).collect();
        let order = fit_order(&sizes, &errors[3..])?;
        println!("{:<9} order {order:.2}, error {:.1e} at 64 steps", kind.name(), errors[3]);
        let points = STEPS.iter().map(|n| *n as f64).zip(errors).collect();
        lines.push(Series { name: format!("{}: order {order:.2}", kind.name()), points, marked: true, faint: false });
    }
    let title = "Error of five ODE solvers with the exact denoiser";
    let axes = Axes { title, x_label: "steps", y_label: "root mean square error of x", log_x: true, log_y: true };
    plot_lines(OUT, &axes, &lines)?;
    println!("{OUT}");
    Ok(())
}
