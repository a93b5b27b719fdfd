//! What kernels move, counted by the software GPU: exact and the same in every run. The table of docs/performance.md is what
//! `cargo xtask test --test gpu move -- --nocapture` prints.

use super::{GPU, can_load_kernels, harness, host, normal};
use tweedie::ops::{self, Noise, ReverseStep, StepInputs};
use tweedie::rng::{Address, Purpose};
use tweedie::tensor::Tensor;

/// Which launches of a kernel since the last reset.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    Last,
    All,
}

/// How often a kernel may ask for its inputs and outputs: once, but for those that read again what the caches still hold.
fn most_traffic(kernel: &str) -> f64 {
    let tiled = [
        "linear_forward",
        "linear_backward",
        "conv2d_",
        "attention_forward",
        "attention_backward_query",
        "attention_backward_key",
    ];
    if tiled.iter().any(|stem| kernel.starts_with(stem)) {
        return f64::INFINITY; // by other tiles, as often as the sizes say
    }
    match kernel {
        // x twice, dy too in the backward: statistics first. A block's share stays in the cache.
        "group_norm_whole" => 1.6,
        "group_norm_backward_whole" => 1.8,
        // The channels' factors, again for every few pixels.
        "group_norm_forward" | "group_norm_backward_sums" | "group_norm_backward_dx" => 1.25,
        // Four outputs from one input, or four inputs of one output.
        "resample_nearest" | "resample_mean_backward" => 1.3,
        // Radix select passes over the image once a digit, of which two differ here, and once to apply.
        "dynamic_threshold_forward" => 3.1,
        // The frequencies, again for every time.
        "fourier_features" => 1.7,
        _ => 1.1,
    }
}

/// Prints what a kernel moved beside `floor`, the bytes of its inputs and outputs, and holds it there: different bytes at most 5 %
/// above the floor, sectors at most 10 % above the fewest that its accesses need, passes through shared memory at most 2 % above those it needs.
/// The third number counts all sectors, those that are read again included, and is held to [`most_traffic`].
#[track_caller]
pub(crate) fn hold(kernel: &str, what: &str, floor: usize, of: Of) {
    let report = harness::report();
    let of = match of {
        Of::Last => "last",
        Of::All => "sum",
    };
    let count = |name: &str| {
        report["kernels"][kernel][of][name].as_f64().unwrap_or_else(|| panic!("{kernel} was not run: {report:#}"))
    };
    let floor = floor as f64;
    let bytes = (count("unique_read") + count("unique_written")) / floor;
    let traffic = 32.0 * count("sectors") / floor;
    let sectors = count("sectors") / count("ideal_sectors");
    let waves = count("shared_waves") / count("ideal_waves").max(1.0);
    let size = floor / 1024.0;
    println!("| {kernel} | {what} | {size:.0} | {bytes:.3} | {traffic:.2} | {sectors:.3} | {waves:.2} |");
    assert!(bytes <= 1.05, "{kernel} [{what}]: {bytes:.3} of the bytes of its inputs and outputs");
    assert!(sectors <= 1.1, "{kernel} [{what}]: {sectors:.3} of the sectors that its accesses need");
    let most = most_traffic(kernel);
    assert!(
        traffic <= most,
        "{kernel} [{what}]: asks for {traffic:.2} of the bytes of its inputs and outputs, at most {most}"
    );
    // Which counts of a histogram collide depends on the data.
    let is_histogram = kernel == "dynamic_threshold_forward";
    assert!(
        waves <= 1.02 || is_histogram,
        "{kernel} [{what}]: {waves:.3} of the passes through shared memory that it needs"
    );
}

/// Runs `work`, then [`hold`].
#[track_caller]
pub(crate) fn hold_after(kernel: &str, what: &str, floor: usize, work: impl FnOnce()) {
    harness::reset();
    work();
    host(&normal(9, 1, 1).to_device(GPU).unwrap()); // work is done when the next thing is copied back
    hold(kernel, what, floor, Of::All);
}

fn there(x: &Tensor) -> Tensor {
    x.to_device(GPU).unwrap()
}

#[test]
fn process_kernels_move_their_inputs_and_outputs_once() {
    if !can_load_kernels() {
        return;
    }
    let _gpu = harness::gpu();
    let (n, row) = (4, 32 * 32 * 3);
    let [x, out, other] = [1, 2, 3].map(|seed| there(&normal(seed, n, row)));
    let address = Address::new(1, Purpose::TrainNoise);
    let samples = [0, 1, 2, 3];
    let (alpha, sigma) = ([0.8; 4], [0.6; 4]);
    let bytes = 4 * 3 * n * row;
    hold_after("perturb_forward", "4x32x32x3", bytes, || {
        ops::perturb(&x, &alpha, &sigma, address, &samples).unwrap();
    });
    for (what, noise) in [("4x32x32x3, ddpm", 0.5), ("4x32x32x3, ddim", 0.0)] {
        let step = ReverseStep {
            from_x: 1.2,
            from_out: -0.7,
            clip: Some(1.0),
            to_x: 0.9,
            to_x0: 0.2,
            noise,
            ..Default::default()
        };
        hold_after("reverse_step_forward", what, bytes, || {
            let noise = Noise::Drawn { address, samples: &samples };
            ops::reverse_step(&x, &out, StepInputs::default(), &step, noise).unwrap();
        });
    }
    hold_after("error_norm_forward", "4x32x32x3", bytes, || {
        ops::error_norm(&x, &out, &other, 0.1).unwrap();
    });
    harness::assert_clean();
}
