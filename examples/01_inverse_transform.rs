//! Draws Cauchy samples by inverse transform under their density (S3.eq1 and the method after it, items 1 and 2).
//!
//! If U is uniform in (0, 1) and F the distribution function, then X = F⁻¹(U) has the law F. For the Cauchy law
//! F⁻¹(u) = γ·tan(π(u − ½)). It has no mean: the mean of n samples wanders for ever, while the median settles.

use tweedie::analytic::{Cauchy, inverse, statistics};
use tweedie::io::plot::{Axes, Chart, Histogram, Series, plot_charts};
use tweedie::rng::{Address, Purpose};

const OUT: &str = "examples/out/01_inverse_transform.png";
const COUNT: usize = 100_000;

fn main() -> tweedie::Result<()> {
    let law = Cauchy::new(1.0)?;
    let mut samples = vec![0.0; COUNT];
    inverse::sample_inverse(|u| law.quantile(u), Address::new(0, Purpose::Oracle), &mut samples);

    let density = (-400..=400).map(|i| f64::from(i) / 50.0).map(|x| (x, law.pdf(x))).collect();
    let histogram = Chart {
        axes: Axes { title: "Cauchy by inverse transform", x_label: "x", y_label: "density", ..Axes::default() },
        bars: Some(Histogram { name: "samples".into(), samples: samples.clone(), bins: 80, range: Some([-8.0, 8.0]) }),
        lines: vec![Series { name: "1/(π(1 + x²))".into(), points: density, ..Series::default() }],
    };

    // Mean and median of the first n samples.
    let (mut means, mut medians) = (Vec::new(), Vec::new());
    for n in (0..=60).map(|i| (10.0 * 1e4_f64.powf(f64::from(i) / 60.0)) as usize) {
        means.push((n as f64, samples[..n].iter().sum::<f64>() / n as f64));
        medians.push((n as f64, statistics::median(&samples[..n])?));
    }
    let running = Chart {
        axes: Axes {
            title: "no mean, but a median",
            x_label: "samples n",
            y_label: "x",
            log_x: true,
            ..Axes::default()
        },
        bars: None,
        lines: vec![
            Series { name: "mean of n".into(), points: means, ..Series::default() },
            Series { name: "median of n".into(), points: medians, ..Series::default() },
        ],
    };
    plot_charts(OUT, "", 2, &[histogram, running])?;

    let distance = statistics::ks(&samples, |x| law.cdf(x))?;
    let p_value = statistics::ks_p_value(distance, COUNT as f64);
    println!("{COUNT} samples: KS distance {distance:.4} (p = {p_value:.2})");
    println!(
        "median {:.4} (exact 0), IQR {:.4} (exact 2γ = 2)",
        statistics::median(&samples)?,
        statistics::iqr(&samples)?
    );
    println!("{OUT}");
    Ok(())
}
