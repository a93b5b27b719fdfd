//! `sample` and `eval` as programs: what they write, and that it does not depend on how the work was cut.

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tweedie::io::TensorFile;
use tweedie::nn::ClassInput;
use tweedie::pipeline::{Class, Pipeline, SampleOptions};
use tweedie::sampler::{DdimNoise, SamplerKind, SamplerOptions};

/// Values of an image of the digits.
const IMAGE: usize = 64;

/// Runs `sample` on the model with `--out` in `folder`; returns the file.
#[track_caller]
fn sample(folder: &TempDir, name: &str, more: &[&str]) -> PathBuf {
    let out = folder.path().join(name);
    succeed(SAMPLE, ["--model", text(model()), "--out", text(&out)].iter().chain(more));
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn x0(path: &Path) -> Vec<u32> {
    bits(&read_f32s(path, "x0"))
}

/// Equal to the bit; names the first value that is not.
#[track_caller]
fn assert_same(got: &[u32], want: &[u32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    if let Some(i) = (0..got.len()).find(|i| got[*i] != want[*i]) {
        let (got, want) = (f32::from_bits(got[i]), f32::from_bits(want[i]));
        panic!("{what}: value {i} is {got:e}, expected {want:e}");
    }
}

#[test]
fn a_sample_is_the_same_bytes_at_any_batch_thread_count_and_count() {
    let folder = tempfile::tempdir().unwrap();
    let samplers =
        [&["--sampler", "ddim", "--eta", "0"][..], &["--sampler", "ddim", "--eta", "0.5"], &["--sampler", "ddpm"]];
    for sampler in samplers {
        let flags = [sampler, &["--steps", "5"]].concat();
        let all = sample(&folder, "all.safetensors", &[&flags[..], &["--count", "10", "--batch", "7"]].concat());
        let want = read(&all);
        for [batch, threads] in [["1", "1"], ["3", "1"], ["7", "2"], ["3", "3"], ["64", "2"]] {
            let cut = ["--count", "10", "--batch", batch, "--threads", threads];
            let got = sample(&folder, "cut.safetensors", &[&flags[..], &cut].concat());
            assert!(read(&got) == want, "{sampler:?}: --batch {batch} --threads {threads}");
        }
        for count in ["1", "4"] {
            let fewer = sample(&folder, "fewer.safetensors", &[&flags[..], &["--count", count]].concat());
            let n = count.parse::<usize>().unwrap() * IMAGE;
            assert_same(&x0(&fewer), &x0(&all)[..n], &format!("{sampler:?}: --count {count}"));
        }
        // No two images are alike, and another seed makes others.
        let images = x0(&all);
        let distinct: std::collections::HashSet<&[u32]> = images.chunks(IMAGE).collect();
        assert_eq!(distinct.len(), 10, "{sampler:?}");
        let other = sample(&folder, "other.safetensors", &[&flags[..], &["--count", "10", "--seed", "1"]].concat());
        assert!(x0(&other).chunks(IMAGE).zip(images.chunks(IMAGE)).all(|(a, b)| a != b), "{sampler:?}: seed 1");
    }
}

#[test]
fn the_start_of_an_output_file_fed_back_gives_the_same_images() {
    let folder = tempfile::tempdir().unwrap();
    for sampler in ["ddim", "ddpm"] {
        let flags = ["--sampler", sampler, "--steps", "4", "--count", "3"];
        let first = sample(&folder, "first.safetensors", &flags);
        let again = sample(&folder, "again.safetensors", &[&flags[..], &["--init", text(&first)]].concat());
        assert!(read(&first) == read(&again), "{sampler}");
    }
    // With --init the seed no longer matters to a deterministic sampler.
    let flags = ["--sampler", "ddim", "--steps", "4", "--count", "3"];
    let first = sample(&folder, "first.safetensors", &flags);
    let init = ["--init", text(&first), "--seed", "99"];
    let seed = sample(&folder, "seed.safetensors", &[&flags[..], &init].concat());
    assert_same(&x0(&seed), &x0(&first), "another seed");
    // And the start is used as it is: negated, it ends elsewhere.
    let mut x_t = read_f32s(&first, "x_T");
    x_t.iter_mut().for_each(|v| *v = -*v);
    let negated = folder.path().join("init.safetensors");
    write_f32s(&negated, &[("x_T".into(), x_t.clone(), vec![3, 8, 8, 1])]);
    let out = sample(&folder, "negated.safetensors", &[&flags[..], &["--init", text(&negated)]].concat());
    assert!(x0(&out) != x0(&first));
    assert_same(&bits(&read_f32s(&out, "x_T")), &bits(&x_t), "x_T");
}

/// `z_0000…` of `steps` tensors for `count` images, each element by `value(step, element)`.
fn noise_file(path: &Path, steps: usize, count: usize, value: impl Fn(usize, usize) -> f32) {
    let tensor = |step| {
        let values = (0..count * IMAGE).map(|i| value(step, i)).collect();
        (format!("z_{step:04}"), values, vec![count, 8, 8, 1])
    };
    write_f32s(path, &(0..steps).map(tensor).collect::<Vec<_>>());
}

#[test]
fn given_step_noise_replaces_the_drawn_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("noise.safetensors");
    let flags = ["--steps", "4", "--count", "3", "--batch", "2", "--sampler", "ddim", "--eta", "1"];
    let given =
        |name: &str, more: &[&str]| x0(&sample(&folder, name, &[&flags[..], &["--noise", text(&path)], more].concat()));
    // A step with noise z and without differ by sigma_up·z exactly where a network sees nothing yet: the first.
    noise_file(&path, 4, 3, |_, _| 0.0);
    let states = folder.path().join("t.safetensors");
    let trajectory = ["--trajectory", text(&states)];
    let still = given("still.safetensors", &trajectory);
    let still_x1 = read_f32s(&states, "x_0001");
    noise_file(&path, 4, 3, |step, i| if step == 0 { (i % 5) as f32 - 2.0 } else { 0.0 });
    let moved = given("moved.safetensors", &trajectory);
    let moved_x1 = read_f32s(&states, "x_0001");
    assert!(moved != still);
    let shift: Vec<f64> = moved_x1.iter().zip(&still_x1).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
    let unit = shift[3];
    assert!(unit > 0.1, "sigma_up = {unit}");
    for (i, shift) in shift.iter().enumerate() {
        // Two f32 roundings of numbers below 8.
        assert!((shift - unit * ((i % 5) as f64 - 2.0)).abs() <= 8.0 * f64::from(f32::EPSILON), "element {i}: {shift}");
    }
    // Given noise leaves nothing to the seed once the start is given too.
    let start = folder.path().join("moved.safetensors");
    assert_same(&given("seed.safetensors", &["--init", text(&start), "--seed", "5"]), &moved, "another seed");

    // DDIM at eta 0 takes no noise, whatever is given.
    let flags = ["--steps", "4", "--count", "3", "--sampler", "ddim", "--eta", "0"];
    let without = sample(&folder, "a.safetensors", &flags);
    let with = sample(&folder, "b.safetensors", &[&flags[..], &["--noise", text(&path)]].concat());
    assert!(read(without) == read(with));
}

#[test]
fn zero_noise_makes_ddpm_take_its_mean_each_step() {
    let folder = tempfile::tempdir().unwrap();
    let (noise, states) = (folder.path().join("noise.safetensors"), folder.path().join("t.safetensors"));
    noise_file(&noise, 3, 2, |_, _| 0.0);
    let files = ["--noise", text(&noise), "--trajectory", text(&states)];
    sample(&folder, "x.safetensors", &[&["--sampler", "ddpm", "--steps", "3", "--count", "2"], &files[..]].concat());
    // The posterior mean of three steps over times 666, 333, 0, in f64 from the stored states and estimates.
    let pipeline = Pipeline::load(model()).unwrap();
    let process = pipeline.scheduler().process().unwrap();
    let alpha_bar = |k: Option<usize>| k.map_or(1.0, |k| process.discrete().unwrap().alpha_bar(k).unwrap());
    for (step, (t, s)) in [(666, Some(333)), (333, Some(0)), (0, None)].into_iter().enumerate() {
        let (bar_t, bar_s) = (alpha_bar(Some(t)), alpha_bar(s));
        let alpha = bar_t / bar_s;
        let of_x0 = bar_s.sqrt() * (1.0 - alpha) / (1.0 - bar_t);
        let of_x = alpha.sqrt() * (1.0 - bar_s) / (1.0 - bar_t);
        let [x, x0_hat, next] = [format!("x_{step:04}"), format!("x0_hat_{step:04}"), format!("x_{:04}", step + 1)]
            .map(|name| read_f32s(&states, &name));
        for (i, ((x, x0_hat), next)) in x.iter().zip(&x0_hat).zip(&next).enumerate() {
            let (x, x0_hat) = (f64::from(*x), f64::from(*x0_hat));
            let want = of_x0 * x0_hat + of_x * x;
            // x0_hat is stored rounded, and x0_hat = (x - sigma·eps)/alpha was formed in f32: a few ulp of its terms.
            let bound = 16.0 * f64::from(f32::EPSILON) * (1.0 + x.abs() + x0_hat.abs());
            assert!((f64::from(*next) - want).abs() <= bound, "step {step}, element {i}: {next} against {want}");
        }
    }
}

#[test]
fn a_trajectory_runs_from_the_start_to_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let states = folder.path().join("t.safetensors");
    let flags = ["--sampler", "ddim", "--steps", "6", "--count", "5", "--batch", "2", "--trajectory", text(&states)];
    let out = sample(&folder, "x.safetensors", &flags);
    let (result, file) = (TensorFile::open(&out).unwrap(), TensorFile::open(&states).unwrap());
    let x: Vec<String> = (0..=6).map(|i| format!("x_{i:04}")).collect();
    let x0_hat: Vec<String> = (0..6).map(|i| format!("x0_hat_{i:04}")).collect();
    assert_eq!(file.names(), [x0_hat.clone(), x].concat());
    for name in file.names() {
        assert_eq!(file.shape(&name).unwrap(), [5, 8, 8, 1], "{name}");
    }
    assert_same(&bits(&file.f32s("x_0000").unwrap()), &bits(&result.f32s("x_T").unwrap()), "x_0000");
    assert_same(&bits(&file.f32s("x_0006").unwrap()), &bits(&result.f32s("x0").unwrap()), "x_0006");
    // The last step of DDIM ends at its estimate; every estimate is clipped as the model says.
    let distance = |a: &str, b: &str| {
        let (a, b) = (file.f32s(a).unwrap(), file.f32s(b).unwrap());
        a.iter().zip(b).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()))
    };
    assert!(distance("x_0006", "x0_hat_0005") <= 4.0 * f32::EPSILON);
    assert!(x0_hat.iter().all(|name| file.f32s(name).unwrap().iter().all(|v| v.abs() <= 1.0)));
    // Keeping the states changes nothing.
    assert!(read(&out) == read(sample(&folder, "y.safetensors", &flags[..8])));
    assert_eq!(result.i64s("class_labels").unwrap(), [0, 1, 2, 3, 4], "classes take turns");
}

/// Pixels of a sheet's side: `n` images of 8 enlarged 6 times, 2 pixels around each.
fn side(n: u32) -> u32 {
    n * (8 * 6 + 2) + 2
}

#[test]
fn pictures_and_animations_are_valid_and_of_the_expected_size() {
    let folder = tempfile::tempdir().unwrap();
    for (count, columns, rows) in [("1", 1, 1), ("7", 3, 3), ("20", 10, 2)] {
        let path = sample(&folder, "x.png", &["--steps", "2", "--count", count]);
        let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (side(columns), side(rows)), "--count {count}");
        assert_eq!(info.color_type, png::ColorType::Grayscale);
    }
    // The picture shows the numbers of the tensor file.
    let numbers = read_f32s(&sample(&folder, "x.safetensors", &["--steps", "2", "--count", "1"]), "x0");
    let path = sample(&folder, "x.png", &["--steps", "2", "--count", "1"]);
    let mut reader = png::Decoder::new(std::io::Cursor::new(read(path))).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    for (i, x) in numbers.iter().enumerate() {
        let (row, column) = (2 + i / 8 * 6, 2 + i % 8 * 6);
        let want = ((x + 1.0) * 127.5).round() as u8;
        assert_eq!(pixels[row * side(1) as usize + column], want, "pixel {i}: {x}");
    }
    // 5 steps are 6 frames; more than 60 states are thinned, and the last stays.
    let states = folder.path().join("t.gif");
    let gifs = ["--steps", "5", "--count", "4", "--trajectory", text(&states)];
    let out = sample(&folder, "x.gif", &gifs);
    assert!(read(&out) == read(&states));
    for (path, frames) in [(out, 6), (sample(&folder, "long.gif", &["--steps", "100", "--count", "1"]), 51)] {
        let mut decoder = gif::DecodeOptions::new().read_info(std::fs::File::open(&path).unwrap()).unwrap();
        let mut seen = 0;
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            let n = if frames == 6 { 2 } else { 1 };
            assert_eq!((u32::from(frame.width), u32::from(frame.height)), (side(n), side(n)));
            seen += 1;
        }
        assert_eq!(seen, frames, "{}", path.display());
    }
}

#[test]
fn json_is_one_object_with_times_and_evaluations() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.png");
    let args = ["--steps", "5", "--count", "6", "--batch", "4", "--json", "--out", text(&out)];
    let report = succeed(SAMPLE, ["--model", text(model())].iter().chain(&args)).json();
    assert_eq!(
        (report["nfe"].as_u64(), report["count"].as_u64(), report["steps"].as_u64()),
        (Some(5), Some(6), Some(5))
    );
    let [seconds, each] = ["seconds", "seconds_per_nfe"].map(|key| report[key].as_f64().unwrap());
    assert!(seconds > 0.0 && (each * 5.0 - seconds).abs() <= 1e-9 * seconds, "{report}");
    assert_eq!(report["out"], text(&out));
    assert_eq!(succeed(SAMPLE, ["--model", text(model())].iter().chain(&args[..6]).chain(&args[7..])).stdout, "");
}

#[test]
fn weights_and_classes_choose_what_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |name: &str, more: &[&str]| sample(&folder, name, &[&["--steps", "3", "--count", "12"], more].concat());
    let ema = draw("ema.safetensors", &[]);
    assert!(read(&ema) == read(draw("same.safetensors", &["--weights", "ema"])), "ema is the default");
    assert!(x0(&ema) != x0(&draw("raw.safetensors", &["--weights", "raw"])), "raw weights draw other images");
    let labels = |path: &Path| TensorFile::open(path).unwrap().i64s("class_labels").unwrap();
    assert_eq!(labels(&ema), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
    let three = draw("three.safetensors", &["--class", "3"]);
    assert_eq!(labels(&three), [3; 12]);
    let none = draw("none.safetensors", &["--class", "none"]);
    assert_eq!(labels(&none), [10; 12], "the null class follows the ten");
    // Sample 3 of the run with turns is of class 3 and has the same noise.
    let image = |path: &Path, i: usize| x0(path)[i * IMAGE..(i + 1) * IMAGE].to_vec();
    assert_same(&image(&three, 3), &image(&ema, 3), "image 3");
    assert!(image(&three, 4) != image(&ema, 4));
    assert!(image(&none, 3) != image(&ema, 3));
}

#[test]
fn the_program_draws_what_the_library_draws() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--steps", "4", "--count", "5", "--eta", "0.5", "--seed", "3", "--class", "2", "--sampler", "ddim"];
    let path = sample(&folder, "x.safetensors", &flags);
    let options = SampleOptions {
        sampler: SamplerKind::Ddim,
        steps: 4,
        count: 5,
        settings: SamplerOptions { noise: DdimNoise::Eta(0.5), ..SamplerOptions::default() },
        seed: 3,
        class: Class::Index(2),
        ..SampleOptions::default()
    };
    let samples = Pipeline::load(model()).unwrap().sample(&options).unwrap();
    assert_same(&x0(&path), &bits(samples.x0.host().unwrap()), "x0");
    assert_eq!(samples.nfe, 4);
}

#[test]
fn the_measured_loss_does_not_depend_on_the_run_or_its_threads() {
    let measure = |more: &[&str]| {
        let args = ["--model", text(model()), "--metric", "loss", "--json", "--count", "50"];
        let report = succeed(EVAL, args.iter().chain(more)).json();
        (
            report["loss"]["mean"].as_f64().unwrap().to_bits(),
            report["loss"]["standard_error"].as_f64().unwrap().to_bits(),
        )
    };
    let want = measure(&[]);
    for threads in ["1", "1", "2", "3"] {
        assert_eq!(measure(&["--threads", threads]), want, "--threads {threads}");
    }
    assert_ne!(measure(&["--weights", "raw"]), want);
    assert_ne!(measure(&["--seed", "1"]), want);
    let mean = f64::from_bits(want.0);
    assert!(mean > 0.0 && mean < 2.0, "{mean}");
}

#[test]
fn a_forward_through_files_equals_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let x: Vec<f32> = (0..3 * IMAGE).map(|i| (i as f32 * 0.37).sin()).collect();
    let (t, labels) = ([0.0_f32, 500.0, 999.0], [0_i64, 9, 10]);
    use tweedie::io::tensors::{Entry, write_tensors};
    let entries =
        vec![Entry::f32s("x", &x, &[3, 8, 8, 1]), Entry::f32s("t", &t, &[3]), Entry::i64s("class_labels", &labels)];
    write_tensors(&input, entries, std::collections::HashMap::new()).unwrap();
    let args = ["--model", text(model()), "--forward", text(&input), "--out", text(&output)];
    succeed(EVAL, args);
    let got = TensorFile::open(&output).unwrap();
    assert_eq!(got.shape("net_out").unwrap(), [3, 8, 8, 1]);
    let pipeline = Pipeline::load(model()).unwrap();
    let x = tweedie::tensor::Tensor::from_slice(&x, [3, 8, 8, 1]).unwrap();
    let want = pipeline.forward(&x, &t, Some(ClassInput::Labels(&[0, 9, 10]))).unwrap();
    assert_same(&bits(&got.f32s("net_out").unwrap()), &bits(want.host().unwrap()), "net_out");
    let ema = read(&output);
    succeed(EVAL, args.iter().chain(&["--weights", "raw"]));
    assert!(read(&output) != ema, "raw weights make another output");
}
