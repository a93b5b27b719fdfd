//! Denoising is not sampling (S3 Remark 4, Example 1, S3.eq6–11; items 9–11).
//!
//! Y = X + σ_z·Z. The best denoiser E[X|Y] is nearest to X in the mean, and its law is too narrow: for X ~ N(0, σ_x²) it has the variance
//! σ_x⁴/(σ_x² + σ_z²). The reverse SDE with the same denoiser, step by step from Y, gives back the law of X.

use tweedie::analytic::quadrature::GaussHermite;
use tweedie::analytic::{Mixture, statistics};
use tweedie::denoiser::oracle::Oracle;
use tweedie::io::plot::{Axes, Chart, Histogram, Series, plot_charts};
use tweedie::process::{Level, ProcessConfig};
use tweedie::sampler::{self, Grid, SamplerKind};

const OUT: &str = "examples/out/03_denoising_is_not_sampling.png";
const COUNT: usize = 20_000;
const STEPS: usize = 400;
const NOISE: f64 = 1.5; // σ_z

fn chart<'a>(title: &'a str, samples: &[f64], law: &Mixture) -> Chart<'a> {
    let density = (-300..=300).map(|i| f64::from(i) / 60.0).map(|x| (x, law.pdf(x))).collect();
    Chart {
        axes: Axes { title, x_label: "x", y_label: "density", ..Axes::default() },
        bars: Some(Histogram { name: String::new(), samples: samples.to_vec(), bins: 100, range: Some([-5.0, 5.0]) }),
        lines: vec![Series { name: "data".into(), points: density, ..Series::default() }],
    }
}

fn main() -> tweedie::Result<()> {
    // σ from 0.01 to σ_z; the data's own spread is far above 0.01.
    let process = ProcessConfig::Edm { sigma_min: 0.01, sigma_max: NOISE, rho: 2.0 }.build()?;
    let mut levels: Vec<Level> = (0..STEPS).map(|i| process.level(1.0 - i as f64 / (STEPS - 1) as f64)).collect();
    levels.push(Level::CLEAN);
    let (noisy, grid) = (levels[0], Grid::through(&process, &levels)?);

    let gaussian = Mixture::new(&[1.0], &[0.0], &[1.0])?;
    let two = Mixture::new(&[0.5, 0.5], &[-1.5, 1.5], &[0.4, 0.4])?;
    let mut charts = Vec::new();
    for (name, law) in [("Gaussian", &gaussian), ("two modes", &two)] {
        let oracle = Oracle::from(law);
        let y = oracle.sample(0, COUNT, noisy)?;
        let values = y.to_vec::<f64>()?;
        let denoised: Vec<f64> = values.iter().flat_map(|y| oracle.posterior_mean(&[*y], noisy)).collect();
        let sampled = sampler::draw(SamplerKind::EulerMaruyama, &oracle, y, &grid, 0)?.to_vec::<f64>()?;

        // Var E[X|Y] = E[E[X|Y]²] − E[X]², by quadrature over the law of Y.
        let square = |y: f64| oracle.posterior_mean(&[y], noisy)[0].powi(2);
        let exact = law.noised(1.0, NOISE)?.expect(&GaussHermite::new(200)?, square) - law.mean().powi(2);
        println!("{name}: variance of the data {:.3}", law.variance());
        println!("  denoised         {:.3} (exact {exact:.3})", statistics::moments(&denoised)?.variance);
        println!("  reverse-sampled  {:.3} (exact {:.3})", statistics::moments(&sampled)?.variance, law.variance());
        let titles = match name {
            "Gaussian" => ["N(0, 1) denoised: E[X|Y]", "N(0, 1) sampled: reverse SDE from Y"],
            _ => ["two modes denoised: E[X|Y]", "two modes sampled: reverse SDE from Y"],
        };
        charts.extend([chart(titles[0], &denoised, law), chart(titles[1], &sampled, law)]);
    }
    println!("Example 1: σ_x⁴/(σ_x² + σ_z²) = {:.3}", 1.0 / (1.0 + NOISE.powi(2)));
    plot_charts(OUT, "Denoising is not sampling: Y = X + 1.5·Z", 2, &charts)?;
    println!("{OUT}");
    Ok(())
}
