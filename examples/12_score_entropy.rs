//! Why score entropy is trained by denoising: variances of its estimators over the noise (S3 section 6.2; items 71–73).
//!
//! On an enumerated language of three tokens all three have one gradient. The implicit loss needs the model at every neighbour; one drawn
//! uniformly is cheap and noisy. The denoising loss needs none, but at small noise it is the worst: no theorem puts it below.

use tweedie::discrete::loss::{denoising_score_entropy, implicit_one_neighbour, implicit_score_entropy};
use tweedie::discrete::{Absorbing, Enumeration, Graph, Head, Uniform};
use tweedie::io::plot::{Axes, Chart, Series, plot_charts};

const OUT: &str = "examples/out/12_score_entropy.png";
const NAMES: [&str; 3] = ["implicit, one neighbour", "implicit, all", "denoising"];

/// Variances of the three at the true score, with the graph's rates as weights.
fn variances<G: Graph>(model: &Enumeration<G>, sigma_bar: f64) -> tweedie::Result<[f64; 3]> {
    let (graph, states) = (model.graph(), model.graph().states());
    let weight = |x: usize, y: usize| graph.rate(x, y);
    let log_s_at = |x: &[u32]| Ok(model.ratios(x, sigma_bar).into_iter().map(f64::ln).collect::<Vec<f64>>());
    let (mut first, mut second) = ([0.0; 3], [0.0; 3]);
    let mut add = |i: usize, p: f64, value: f64| {
        first[i] += p * value;
        second[i] += p * value * value;
    };
    for (here, p) in model.marginal(sigma_bar).iter().enumerate().filter(|(_, p)| **p > 0.0) {
        let x = model.sequence(here, states);
        let count = x.len() * (states - 1);
        for pick in 0..count {
            add(0, p / count as f64, implicit_one_neighbour(graph, &x, pick, &log_s_at, &weight)?);
        }
        add(1, *p, implicit_score_entropy(graph, &x, &log_s_at, &weight)?);
        let log_s = log_s_at(&x)?;
        for (clean, q) in model.posterior(&x, sigma_bar).into_iter().enumerate().filter(|(_, q)| *q > 0.0) {
            let x0 = model.sequence(clean, graph.symbols());
            // Less its value at s = 1, which no gradient sees: s − r0·ln s − 1.
            let at = |log_s: &[f64]| denoising_score_entropy(graph, (&x, &x0), sigma_bar, log_s, &weight);
            let others = (0..log_s.len()).filter(|i| i % states != x[i / states] as usize);
            let mass: f64 = others.map(|i| weight(x[i / states] as usize, i % states)).sum();
            add(2, p * q, at(&log_s) - at(&vec![0.0; log_s.len()]) + mass);
        }
    }
    Ok([0, 1, 2].map(|i| second[i] - first[i].powi(2)))
}

fn chart<G: Graph>(graph: G, title: &'static str) -> tweedie::Result<Chart<'static>> {
    let law: Vec<f64> = (0..27).map(|i| 0.2 + ((i * 37 + 11) % 23) as f64).collect();
    let model = Enumeration::new(graph, 3, &law, Head::LogRatios)?;
    let mut lines = NAMES.map(|name| Series { name: name.into(), points: Vec::new(), marked: true, faint: false });
    println!("{title}: sigma-bar, then the variances: {}", NAMES.join("; "));
    for sigma_bar in [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0] {
        let found = variances(&model, sigma_bar)?;
        println!("{sigma_bar:<6} {:>11.4} {:>11.4} {:>11.4}", found[0], found[1], found[2]);
        lines.iter_mut().zip(found).for_each(|(line, value)| line.points.push((sigma_bar, value)));
    }
    let axes = Axes { title, x_label: "total noise", y_label: "variance", log_x: true, log_y: true };
    Ok(Chart { axes, bars: None, lines: lines.into() })
}

fn main() -> tweedie::Result<()> {
    let charts = [chart(Uniform::new(3)?, "uniform graph")?, chart(Absorbing::new(3)?, "absorbing graph")?];
    plot_charts(OUT, "Estimators of the score entropy of three tokens", 2, &charts)?;
    println!("{OUT}");
    Ok(())
}
