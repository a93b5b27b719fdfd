//! `sample` with guidance, inpainting and colourisation: what it keeps, what it changes, what it refuses.

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;
use tweedie::io::image::{Picture, write_png};

/// Values of an image of the digits.
const IMAGE: usize = 64;

#[track_caller]
fn sample(folder: &TempDir, model: &Path, more: &[&str]) -> Vec<f32> {
    let out = folder.path().join("x.safetensors");
    let usual = ["--model", text(model), "--out", text(&out), "--sampler", "ddim", "--steps", "4", "--count", "3"];
    succeed(SAMPLE, usual.iter().chain(more));
    read_f32s(&out, "x0")
}

/// A model of the flags, trained for two steps.
fn flags() -> &'static Path {
    static MODEL: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MODEL.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("flags");
        train_tiny(&out, &["--preset", "flags", "--steps", "2"]);
        (folder, out)
    });
    path
}

fn png(folder: &TempDir, name: &str, [width, height, channels]: [usize; 3], level: impl Fn(usize) -> u8) -> PathBuf {
    let path = folder.path().join(name);
    let pixels = (0..width * height * channels).map(level).collect();
    write_png(&path, &Picture { width, height, channels, pixels }).unwrap();
    path
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn guidance_at_both_ends_is_the_plain_model_and_between_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let plain = sample(&folder, model(), &["--class", "3"]);
    let null = sample(&folder, model(), &["--class", "none"]);
    let guided = |w: &str| sample(&folder, model(), &["--class", "3", "--guidance-scale", w]);
    assert_eq!(bits(&guided("1")), bits(&plain));
    assert_eq!(bits(&guided("0")), bits(&null));
    let two = guided("2");
    assert!(two.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-3));
    // Ho & Salimans count from 0.
    assert_eq!(bits(&sample(&folder, model(), &["--class", "3", "--guidance-weight", "1"])), bits(&two));
    // A doubled batch has the bits of two calls, however the images are cut.
    let cut = sample(&folder, model(), &["--class", "3", "--guidance-scale", "2", "--batch", "2", "--threads", "1"]);
    assert_eq!(bits(&cut), bits(&two));
    // An empty interval leaves the plain model; one that holds all levels changes nothing.
    let within = |interval: &str| {
        sample(&folder, model(), &["--class", "3", "--guidance-scale", "2", "--guidance-interval", interval])
    };
    assert_eq!(bits(&within("1e9:")), bits(&plain));
    assert_eq!(bits(&within(":")), bits(&two));
    // A model guided away from itself is itself, up to the rounding of w·d + (1 − w)·d.
    let own = sample(&folder, model(), &["--class", "3", "--guide", text(model()), "--guidance-scale", "3"]);
    // Guided, so that eps_hat follows where x0_hat was clipped.
    let plain = sample(&folder, model(), &["--class", "3", "--recompute-eps"]);
    for (a, b) in own.iter().zip(&plain) {
        assert!((a - b).abs() < 1e-3, "{a} and {b}");
    }
}

#[test]
fn inpainting_keeps_the_known_pixels_to_the_bit_and_draws_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let photo = png(&folder, "photo.png", [16, 11, 3], |i| (i * 37 % 256) as u8);
    let want = |i: usize| (i * 37 % 256) as f32 / 127.5 - 1.0;
    for more in [&["--mask", "left"][..], &["--mask", "left", "--resample", "3", "--jump", "2"]] {
        let x0 = sample(&folder, flags(), &[&["--inpaint", text(&photo)], more].concat());
        let image = 16 * 11 * 3;
        for (at, value) in x0.iter().enumerate() {
            let (i, x) = (at % image, at % image / 3 % 16);
            assert!(x < 8 || value.to_bits() == want(i).to_bits(), "value {i}: {value} instead of {}", want(i));
        }
        // The filled half differs from image to image.
        let filled = |k: usize| x0[k * image..k * image + 24].to_vec();
        assert!(filled(0) != filled(1) && filled(1) != filled(2));
    }
    // Everything known is the picture, nothing known the plain sampler.
    let all = sample(&folder, flags(), &["--inpaint", text(&photo), "--mask", "none"]);
    assert!(all.iter().enumerate().all(|(i, v)| v.to_bits() == want(i % 528).to_bits()));
    let none = sample(&folder, flags(), &["--inpaint", text(&photo), "--mask", "all"]);
    assert_eq!(bits(&none), bits(&sample(&folder, flags(), &[])));
    // A mask as a picture: white is filled.
    let mask = png(&folder, "mask.png", [16, 11, 1], |i| if i % 16 < 8 { 255 } else { 0 });
    let by_file = sample(&folder, flags(), &["--inpaint", text(&photo), "--mask", text(&mask)]);
    assert_eq!(bits(&by_file), bits(&sample(&folder, flags(), &["--inpaint", text(&photo), "--mask", "left"])));
}

#[test]
fn colouring_keeps_the_grey_levels() {
    let folder = tempfile::tempdir().unwrap();
    let grey = png(&folder, "grey.png", [16, 11, 1], |i| (i * 53 % 256) as u8);
    let x0 = sample(&folder, flags(), &["--colorize", text(&grey), "--resample", "2"]);
    for (at, pixel) in x0.chunks(3).enumerate() {
        let (mean, want) = (pixel.iter().sum::<f32>() / 3.0, (at % 176 * 53 % 256) as f32 / 127.5 - 1.0);
        assert!((mean - want).abs() <= 1e-6, "pixel {at}: {mean} instead of {want}");
    }
    assert!(x0.chunks(3).any(|pixel| (pixel[0] - pixel[1]).abs() > 0.05), "no colour");
    // The sheet begins with the input.
    let out = folder.path().join("sheet.png");
    let flags =
        ["--model", text(flags()), "--steps", "2", "--count", "3", "--colorize", text(&grey), "--out", text(&out)];
    succeed(SAMPLE, flags.iter());
    let sheet = tweedie::io::image::read_png(&out).unwrap();
    let first: Vec<u8> = (0..3).map(|c| sheet.pixels[(3 * sheet.width + 3) * 3 + c]).collect();
    assert!(first[0] == first[1] && first[1] == first[2], "{first:?}");
}

#[test]
fn what_does_not_fit_is_refused_with_a_sentence_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let photo = png(&folder, "photo.png", [16, 11, 3], |_| 9);
    let small = png(&folder, "small.png", [8, 8, 3], |_| 9);
    let grey = png(&folder, "grey.png", [16, 11, 1], |_| 9);
    let half = png(&folder, "half.png", [16, 11, 1], |i| if i == 20 { 128 } else { 0 });
    let narrow = png(&folder, "narrow.png", [8, 11, 1], |_| 255);
    let digit = png(&folder, "digit.png", [8, 8, 1], |_| 9);
    let (photo, small, grey, half) = (text(&photo), text(&small), text(&grey), text(&half));
    let (narrow, digit, own) = (text(&narrow), text(&digit), text(model()));
    let cases: [(&Path, &[&str], &str); 18] = [
        (flags(), &["--inpaint", photo, "--mask", narrow], "the picture has 16x11 pixels, the mask 8x11"),
        (
            flags(),
            &["--inpaint", photo, "--mask", half],
            "pixel (4, 1) is [128]; expected white (filled in) or black (kept)",
        ),
        (
            flags(),
            &["--inpaint", grey, "--mask", "left"],
            "the model wants 3 channels (1 grey, 3 colours), the picture has 1",
        ),
        (flags(), &["--inpaint", small, "--mask", "left"], "the model draws 16x11 pixels, the picture has 8x8"),
        (flags(), &["--inpaint", photo, "--mask", "lefft"], "did you mean \"left\""),
        (flags(), &["--inpaint", photo, "--mask", "box:9,0,8,1"], "expected box:X,Y,WIDTH,HEIGHT within 16x11 pixels"),
        (flags(), &["--inpaint", photo, "--mask", "box:1,0,0,3"], "holds no pixel"),
        (flags(), &["--mask", "left"], "add --inpaint FILE.png"),
        (flags(), &["--inpaint", photo, "--mask", "left", "--resample", "0"], "--resample 0: expected at least 1"),
        (flags(), &["--resample", "3"], "add --inpaint or --colorize"),
        (flags(), &["--inpaint", photo, "--mask", "left", "--sampler", "rk45"], "use another sampler"),
        (flags(), &["--guidance-scale", "2"], "the model has no classes"),
        (model(), &["--colorize", digit], "the model draws grey pictures"),
        (model(), &["--guidance-scale", "nan"], "guidance scale NaN: expected a finite number"),
        (model(), &["--guidance-scale", "2", "--class", "none"], "has nothing to guide towards"),
        (model(), &["--guidance-interval", "1:2"], "says nothing without --guidance-scale W"),
        (model(), &["--guidance-scale", "2", "--guidance-interval", "2:1"], "the smaller first"),
        (model(), &["--guidance-scale", "2", "--guide", text(flags())], "the guide of 3"),
    ];
    let out = folder.path().join("no.png");
    for (model, more, want) in cases {
        let usual = ["--model", text(model), "--steps", "2", "--count", "2", "--out", text(&out)];
        let usual = if more.contains(&"rk45") { [&usual[..2], &usual[4..]].concat() } else { usual.to_vec() };
        run(SAMPLE, usual.iter().chain(more)).refuses(2, &[want]);
        assert!(!out.exists(), "{more:?} wrote a file");
    }
    let usual = ["--model", text(flags()), "--steps", "2", "--out", text(&out)];
    let run = |more: &[&str]| run(SAMPLE, usual.iter().chain(more));
    run(&["--inpaint", photo]).refuses_the_flags(&["--mask"]);
    run(&["--inpaint", "none.png", "--mask", "left"]).refuses(2, &["--inpaint none.png: no such file; name a PNG"]);
    run(&["--inpaint", own, "--mask", "left"]).refuses(1, &["expected a PNG picture"]);
    assert!(!out.exists());
}

#[test]
fn a_model_whose_labels_were_never_dropped_refuses_guidance_and_one_whose_all_were_knows_no_class() {
    let folder = tempfile::tempdir().unwrap();
    let train = |p: &str| {
        let out = folder.path().join(format!("p{p}"));
        train_tiny(&out, &["--steps", "1", "--set", &format!("p_uncond={p}")]);
        out
    };
    let out = folder.path().join("no.png");
    let refuse = |model: &Path, more: &[&str], want: &str| {
        let usual = ["--model", text(model), "--steps", "2", "--count", "2", "--out", text(&out)];
        run(SAMPLE, usual.iter().chain(more)).refuses(2, &[want]);
        assert!(!out.exists());
    };
    refuse(&train("0.0"), &["--guidance-scale", "2"], "trained without label drops (p_uncond = 0)");
    let all = train("1.0");
    refuse(&all, &["--class", "3"], "all labels were dropped in training (p_uncond = 1)");
    // Without a class it is an unconditional model.
    let plain = sample(&folder, &all, &[]);
    assert_eq!(bits(&plain), bits(&sample(&folder, &all, &["--class", "none"])));
    assert_eq!(plain.len(), 3 * IMAGE);
}
