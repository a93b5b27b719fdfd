//! Paths under guidance: w times towards the class, w − 1 times back from everything (S3.eq171–173, Remark 13; items 56, 60, 62).
//!
//! The guided score w·∇log p_t(x|y) − (w − 1)·∇log p_t(x) has the weights w and −(w − 1), which sum to 1: what both scores share (noise is
//! removed, x goes to the data) is done once whatever w is, and what the class adds, w times. Three overlapping normals, the exact denoisers, the
//! probability-flow ODE from the same 40 starts: w = 0 ignores the class, 1 draws from it, more keeps away from where other classes are likely
//! too, which is not p(x)·p(y|x)^w (item 56), and less diverse.

use tweedie::denoiser::guidance::{Guided, Strength, Two};
use tweedie::denoiser::oracle::Oracle;
use tweedie::io::plot::{Heat, Layer, Panel, PanelOptions, plot_panels, points_of};
use tweedie::process::{Level, SchedulerConfig, Spacing};
use tweedie::rng::{Address, Purpose};
use tweedie::sampler::{self, Grid, GridKind, Run, SamplerKind, SamplerOptions, StepNoise};

const OUT: &str = "examples/out/13_guidance.png";
const WINDOW: [[f64; 2]; 2] = [[-2.8, 2.8], [-2.4, 3.2]];
const COUNT: u32 = 1000;
const SHOWN: usize = 40;

fn main() -> tweedie::Result<()> {
    let centres: Vec<Vec<f64>> = (0..3)
        .map(|k| (f64::from(k) * std::f64::consts::TAU / 3.0).sin_cos())
        .map(|(sin, cos)| vec![0.8 * sin, 0.8 * cos])
        .collect();
    let everything = Oracle::isotropic(&[1.0; 3], &centres, &[0.6; 3])?;
    let class = Oracle::isotropic(&[1.0], &centres[..1], &[0.6])?;
    let log_p = |x: &[f64]| class.log_density(x, Level::CLEAN) - everything.log_density(x, Level::CLEAN) - 3.0_f64.ln();
    let heat = Layer::Heat(Heat::of(WINDOW, (120, 120), |x, y| class.log_density(&[x, y], Level::CLEAN).exp()));

    let config = SchedulerConfig::default();
    let process = config.process()?;
    let grid = Grid::new(&config, &process, &GridKind::Times(Spacing::Trailing), 100)?;
    let x_t = sampler::start(&*process, 5, [COUNT as usize, 2])?;
    let samples: Vec<u32> = (0..COUNT).collect();
    let mut panels = Vec::new();
    for w in [0.0, 1.0, 2.0, 4.0] {
        let pair = Two { towards: &class, away: &everything };
        let guided = Guided { pair, strength: Strength::of(w), rescale: 0.0 };
        let mut paths: Vec<Vec<[f64; 2]>> = points_of(&x_t)?[..SHOWN].iter().map(|x| vec![*x]).collect();
        let noise = StepNoise::Drawn(Address::new(5, Purpose::ReverseStep));
        let mut run = Run::new(&guided, noise, &samples).with_callback(|after| {
            paths.iter_mut().zip(points_of(after.x)?).for_each(|(path, x)| path.push(x));
            Ok(())
        });
        let x0 = sampler::sample(SamplerKind::Heun, &mut run, x_t.clone(), &grid, &SamplerOptions::default())?;
        drop(run);
        let points = points_of(&x0)?;
        let mean = |of: &dyn Fn(&[f64; 2]) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let centre = [mean(&|x| x[0]), mean(&|x| x[1])];
        let spread = mean(&|x| (x[0] - centre[0]).powi(2) + (x[1] - centre[1]).powi(2)).sqrt();
        let likely = mean(&|x| log_p(x).exp());
        println!("w = {w}: p(y | x) {likely:.3} on average, spread {spread:.3}");
        let panel = Panel::new(&format!("w = {w}: p(y|x) {likely:.2}, spread {spread:.2}"), heat.clone());
        panels.push(panel.with(Layer::Paths(paths)).with(Layer::Points(points[..SHOWN].to_vec())));
    }
    let title = "The same 40 starts under guidance to the class whose density is shaded";
    let options = PanelOptions { title, columns: 4, window: Some(WINDOW), ..PanelOptions::default() };
    plot_panels(OUT, &panels, &options)?;
    println!("{OUT}");
    Ok(())
}
