//! Digits whose top half is given (S3.eq162–170, Fig. 3; item 58): four answers to each of the 360 held-out digits.
//!
//! Writes a sheet (each digit, its half, the answers) and the answers as tensors, which a judge can read:
//! `cargo run --release --bin train -- --set class_conditional=false --out runs/digits-unconditional`, then
//! `cargo run --release --example 14_halves [-- MODEL_FOLDER [TIMES]]`, TIMES being how often stretches are taken again (10), then
//! `python tests/fixtures/judge_digits.py examples/out/14_halves.safetensors --given top`

use std::collections::HashMap;
use tweedie::data::Dataset;
use tweedie::io::image::{grid, write_png};
use tweedie::io::tensors::{Entry, write_tensors};
use tweedie::pipeline::{Class, Known, Pipeline, SampleOptions};
use tweedie::sampler::Resampling;
use tweedie::tensor::Tensor;
use tweedie::{Error, Result};

const DIGITS: usize = 360;
const ANSWERS: usize = 4;
/// Rows of the sheet.
const SHOWN: usize = 20;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let pipeline = Pipeline::load(args.next().unwrap_or_else(|| "runs/digits-unconditional".into()))?;
    let times = args.next().and_then(|text| text.parse().ok()).unwrap_or(10);
    let digits = Dataset::load("digits", 0)?;
    let (mut sheet, mut answers, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for (k, index) in digits.held_out()[..DIGITS].iter().enumerate() {
        let mut digit = vec![0.0_f32; 64];
        digits.copy_image(*index as usize, &mut digit);
        let x0 = Tensor::from_slice(&digit, [1, 8, 8, 1])?;
        let mask: Vec<f32> = (0..64).map(|at| if at < 32 { 1.0 } else { 0.0 }).collect();
        let options = SampleOptions {
            count: ANSWERS,
            class: Class::Cycle,
            seed: k as u64,
            known: Some(Known::Elements { x0, mask: Tensor::from_slice(&mask, [1, 8, 8, 1])? }),
            resampling: Resampling { times, jump: 1 },
            ..SampleOptions::default()
        };
        let drawn = pipeline.sample(&options)?.x0.to_vec::<f32>()?;
        if k < SHOWN {
            let half: Vec<f32> = digit.iter().enumerate().map(|(at, x)| if at < 32 { *x } else { 0.0 }).collect();
            [&digit, &half, &drawn].into_iter().for_each(|part| sheet.extend(part));
        }
        answers.extend(drawn);
        labels.extend([i64::from(digits.label(*index as usize).unwrap_or(0)); ANSWERS]);
    }
    let folder = "examples/out";
    std::fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    // Two digits in a row.
    let columns = 2 * (ANSWERS + 2);
    write_png(format!("{folder}/14_halves.png"), &grid(&sheet, [SHOWN * (ANSWERS + 2), 8, 8, 1], columns, 5, 2)?)?;
    let shape = [DIGITS * ANSWERS, 8, 8, 1];
    let entries = vec![Entry::f32s("x0", &answers, &shape), Entry::i64s("class_labels", &labels)];
    write_tensors(format!("{folder}/14_halves.safetensors"), entries, HashMap::new())?;
    println!("{ANSWERS} answers to each of {DIGITS} halves: examples/out/14_halves.png and .safetensors");
    Ok(())
}
