//! DDIM lands at the same points whatever the number of steps, DDPM does not (S3.eq151–153, S2 sub-sequences; items 50–52).
//!
//! With σ = 0 every step of DDIM is one of the probability-flow ODE, so x_T decides x_0 up to the error of the steps. DDPM adds fresh noise in
//! each. Both get the exact denoiser of five normals on a circle; dots are x_0, lines lead from x_0 of 200 steps.

use tweedie::denoiser::oracle::Oracle;
use tweedie::io::plot::{Heat, Layer, Panel, PanelOptions, plot_panels, points_of};
use tweedie::process::{Level, SchedulerConfig, Spacing};
use tweedie::sampler::{self, Grid, GridKind, SamplerKind};
use tweedie::tensor::Tensor;

const OUT: &str = "examples/out/06_ddim_consistency.png";
const WINDOW: [[f64; 2]; 2] = [[-2.2, 2.2], [-2.2, 2.2]];
const SHOWN: usize = 60;

fn main() -> tweedie::Result<()> {
    let centres: Vec<Vec<f64>> = (0..5)
        .map(|k| (f64::from(k) * std::f64::consts::TAU / 5.0).sin_cos())
        .map(|(sin, cos)| vec![1.4 * sin, 1.4 * cos])
        .collect();
    let oracle = Oracle::isotropic(&[1.0; 5], &centres, &[0.22; 5])?;
    let heat = Layer::Heat(Heat::of(WINDOW, (110, 110), |x, y| 0.3 * oracle.log_density(&[x, y], Level::CLEAN).exp()));

    // A thousand levels of DDPM, of which a run visits some: the sub-sequence τ.
    let config = SchedulerConfig::default();
    let process = config.process()?;
    let x_t = sampler::start(&*process, 3, [1000, 2])?;
    let run = |kind: SamplerKind, steps: usize| -> tweedie::Result<Tensor> {
        let grid = Grid::new(&config, &process, &GridKind::Times(Spacing::Trailing), steps)?;
        sampler::draw(kind, &oracle, x_t.clone(), &grid, 3)
    };

    let mut panels = Vec::new();
    for kind in [SamplerKind::Ddim, SamplerKind::Ddpm] {
        let finest = points_of(&run(kind, 200)?)?;
        let mut distances = Vec::new();
        for steps in [5, 10, 20, 50] {
            let points = points_of(&run(kind, steps)?)?;
            let offsets: Vec<Vec<[f64; 2]>> = finest.iter().zip(&points).map(|(a, b)| vec![*a, *b]).collect();
            let lengths = offsets.iter().map(|line| (line[0][0] - line[1][0]).hypot(line[0][1] - line[1][1]));
            let mean = lengths.sum::<f64>() / offsets.len() as f64;
            distances.push(format!("{steps} steps {mean:.3}"));
            let name = format!("{}, {steps} steps: {mean:.3}", kind.name());
            let panel = Panel::new(&name, heat.clone()).with(Layer::Paths(offsets[..SHOWN].to_vec()));
            panels.push(panel.with(Layer::Points(points[..SHOWN].to_vec())));
        }
        println!("{}: mean distance to x_0 of 200 steps: {}", kind.name(), distances.join(", "));
    }
    let (title, window) = ("The same x_T in 5 to 50 steps: mean distance to x_0 of 200 steps", Some(WINDOW));
    let options = PanelOptions { title, x_label: "x", y_label: "y", columns: 4, window, ..PanelOptions::default() };
    plot_panels(OUT, &panels, &options)?;
    println!("{OUT}");
    Ok(())
}
