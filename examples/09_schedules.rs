//! alpha, sigma and log-SNR over time of every schedule and process (S3.eq64, eq67, eq108–110; items 15, 17, 35, 39).
//!
//! Above: the four curves β(t) of the variance-preserving process. Below: one process of each kind. The log-SNR ln(alpha²/sigma²) is all that
//! tells two of them apart, up to a scale of x.

use tweedie::io::plot::{Axes, Chart, Series, plot_charts};
use tweedie::process::{BetaSchedule, Process, ProcessConfig};

const OUT: &str = "examples/out/09_schedules.png";

/// One line for each process of a number over time.
fn lines(processes: &[(&str, ProcessConfig)], number: fn(&dyn Process, f64) -> f64) -> tweedie::Result<Vec<Series>> {
    let line = |(name, config): &(&str, ProcessConfig)| {
        let process = config.build()?;
        let points = (1..400).map(|i| f64::from(i) / 400.0).map(|t| (t, number(&*process, t))).collect();
        Ok(Series { name: (*name).into(), points, ..Series::default() })
    };
    processes.iter().map(line).collect()
}

fn main() -> tweedie::Result<()> {
    let (beta_min, beta_max) = (0.1, 20.0);
    let vp = |schedule| ProcessConfig::Vp { schedule, beta_min, beta_max, zero_terminal_snr: false };
    let schedules = [
        ("linear", vp(BetaSchedule::Linear)),
        ("scaled linear", vp(BetaSchedule::ScaledLinear)),
        ("cosine", vp(BetaSchedule::Cosine)),
        ("sigmoid", vp(BetaSchedule::Sigmoid)),
    ];
    let processes = [
        ("VP, linear", vp(BetaSchedule::Linear)),
        ("sub-VP", ProcessConfig::SubVp { schedule: BetaSchedule::Linear, beta_min, beta_max }),
        ("VE", ProcessConfig::Ve { sigma_min: 0.01, sigma_max: 50.0 }),
        ("EDM", ProcessConfig::Edm { sigma_min: 0.002, sigma_max: 80.0, rho: 7.0 }),
        ("OU", ProcessConfig::Ou { rate: 2.0, noise: 2.0 }),
        ("flow", ProcessConfig::Flow),
    ];
    let log_snr: fn(&dyn Process, f64) -> f64 = |process, t| 2.0 * process.half_log_snr(t);
    // The legend stands in the charts on the right alone.
    let chart = |title: &'static str, y_label, log_y, mut lines: Vec<Series>| {
        if !title.starts_with("log-SNR") {
            lines.iter_mut().for_each(|line| line.name.clear());
        }
        Chart { axes: Axes { title, x_label: "t", y_label, log_x: false, log_y }, bars: None, lines }
    };
    let charts = [
        chart("alpha, VP", "alpha", false, lines(&schedules, |process, t| process.alpha(t))?),
        chart("sigma, VP", "sigma", false, lines(&schedules, |process, t| process.sigma(t))?),
        chart("log-SNR, VP", "ln(alpha²/sigma²)", false, lines(&schedules, log_snr)?),
        chart("alpha", "alpha", false, lines(&processes, |process, t| process.alpha(t))?),
        chart("sigma", "sigma", true, lines(&processes, |process, t| process.sigma(t))?),
        chart("log-SNR", "ln(alpha²/sigma²)", false, lines(&processes, log_snr)?),
    ];
    plot_charts(OUT, "Schedules of VP above, processes below", 3, &charts)?;
    for (name, config) in schedules.iter().chain(&processes) {
        let at = config.build()?.level(1.0);
        println!("{name:<14} at t = 1: alpha {:.4}, sigma {:.4}", at.alpha, at.sigma);
    }
    println!("{OUT}");
    Ok(())
}
