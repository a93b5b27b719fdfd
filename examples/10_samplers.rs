//! One checkpoint, all samplers: a row each, every row from the same x_T (item 54; end of S3 section 4).
//!
//! The deterministic rows (ddim, euler, heun, rk4, rk45, edm, dpmpp_2m) show the same digits, since all follow one ODE; the
//! others draw fresh noise on the way.
//!
//! `cargo run --release --bin train`, then `cargo run --release --example 10_samplers [-- MODEL_FOLDER]`

use tweedie::Result;
use tweedie::io::image::{grid, write_png};
use tweedie::pipeline::{Pipeline, SampleOptions};
use tweedie::sampler::SamplerKind;

/// Images of a row: two of each digit.
const COLUMNS: usize = 20;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "runs/digits".into());
    let pipeline = Pipeline::load(folder)?;
    let mut images = Vec::new();
    for sampler in SamplerKind::ALL {
        let options = SampleOptions { sampler, steps: 25, count: COLUMNS, ..Default::default() };
        let samples = pipeline.sample(&options)?;
        println!("{:<20} {:>4} evaluations, {:.2} s", sampler.name(), samples.nfe, samples.seconds);
        images.extend(samples.x0.to_vec::<f32>()?);
    }
    let [h, w, c] = pipeline.image_shape();
    let sheet = grid(&images, [SamplerKind::ALL.len() * COLUMNS, h, w, c], COLUMNS, 4, 2)?;
    std::fs::create_dir_all("examples/out").map_err(tweedie::Error::io("create the folder", "examples/out"))?;
    write_png("examples/out/10_samplers.png", &sheet)?;
    println!("wrote examples/out/10_samplers.png: a row a sampler, in this order");
    Ok(())
}
