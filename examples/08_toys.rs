//! Trains a small network on four sets of points in the plane and samples from it (S0 and S1, training and sampling; items 21, 22, 54).
//!
//! DDPM: draw x0, a time and eps, and move eps_θ(x_t, t) towards eps; then go back from pure noise, here by DDIM in 100 steps.
//! Data above, samples below. Takes about a minute on two cores; an argument sets the training steps: `… --example 08_toys -- 500`.

use tweedie::Error;
use tweedie::data::Toy;
use tweedie::denoiser::MlpDenoiser;
use tweedie::io::plot::{Panel, PanelOptions, plot_panels};
use tweedie::nn::{Mlp, MlpConfig};
use tweedie::process::{SchedulerConfig, Spacing};
use tweedie::sampler::{self, Grid, GridKind, SamplerKind};
use tweedie::train::{FitOptions, fit};

const OUT: &str = "examples/out/08_toys.png";
const COUNT: usize = 3000; // points drawn in a panel

fn main() -> tweedie::Result<()> {
    let text = std::env::args().nth(1).unwrap_or_else(|| "4000".into());
    let fail = |_| Error::Usage(format!("training steps \"{text}\": expected a whole number"));
    let options = FitOptions { steps: text.parse().map_err(fail)?, ..FitOptions::default() };
    let config = SchedulerConfig::default();
    let process = config.process()?;
    let grid = Grid::new(&config, &process, &GridKind::Times(Spacing::Trailing), 100)?;
    let mlp = Mlp::new(&MlpConfig::default())?;

    let (mut above, mut below) = (Vec::new(), Vec::new());
    for toy in Toy::ALL {
        let started = std::time::Instant::now();
        let data = toy.sample(0, 20_000)?;
        let fitted = fit(&mlp, &data, &config, &options)?;
        let denoiser = MlpDenoiser { mlp: &mlp, params: &fitted.params, scheduler: &config };
        let x_t = sampler::start(&*process, 0, [COUNT, 2])?;
        let samples = sampler::draw(SamplerKind::Ddim, &denoiser, x_t, &grid, 0)?;

        let last = &fitted.losses[fitted.losses.len().saturating_sub(200)..];
        let loss = last.iter().sum::<f64>() / last.len() as f64;
        println!(
            "{}: loss {loss:.3} after {} steps, {:.1} s",
            toy.name(),
            options.steps,
            started.elapsed().as_secs_f64()
        );
        above.push(Panel::scatter(&toy.name().replace('_', " "), &data.rows(0, COUNT)?)?);
        below.push(Panel::scatter("samples", &samples)?);
    }
    above.extend(below);
    let (title, window) = ("Data above, samples of a small network below", Some([[-2.3, 2.3], [-2.3, 2.3]]));
    let labels = PanelOptions { title, x_label: "x", y_label: "y", ..PanelOptions::default() };
    plot_panels(OUT, &above, &PanelOptions { columns: 4, window, width: 230, ..labels })?;
    println!("{OUT}");
    Ok(())
}
