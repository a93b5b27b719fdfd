//! `cargo bench --bench unet -- --profile`, and of the transformer: each op's share of a step, with the library's lap timer.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Instant;
use tweedie::device::{Device, peak_bytes};
use tweedie::tape::profile::{Lap, Row, profile};
use tweedie::{Error, Result, simd};

/// Steps before those that are timed: buffers are taken and weights packed in them.
const WARM: usize = 2;

/// Work of a pass, for a rate.
#[derive(Clone, Copy, Default)]
struct Work {
    flops: f64,
    bytes: f64,
}

/// One line of a table: a kind of op, or one op on tensors of one shape.
#[derive(Clone, Copy, Default)]
struct Line {
    laps: [Lap; 2],
    work: [Work; 2],
}

/// Seconds of the wall.
fn wall() -> f64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    BEGIN.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// Seconds that all threads of this process had a processor.
#[cfg(target_os = "linux")]
fn processor() -> f64 {
    const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0; 2];
    // SAFETY: on 64-bit Linux a timespec is two 64-bit integers, seconds and nanoseconds.
    unsafe { clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time[0] as f64 + time[1] as f64 * 1e-9
}

#[cfg(not(target_os = "linux"))]
fn processor() -> f64 {
    wall()
}

/// `--cpu`: on a machine that others use, one thread's time on its processor says more than the wall's.
fn clock() -> fn() -> f64 {
    if std::env::args().any(|a| a == "--cpu") { processor } else { wall }
}

/// Steps that are timed, and whether a piece of work is wanted by its name.
///
/// # Errors
/// [`Error::Usage`] for an argument that is none, and where `names` has no wanted work.
pub(crate) fn arguments(names: &[&str]) -> Result<(usize, impl Fn(&str) -> bool + use<>)> {
    let (mut steps, mut only) = (5, String::new());
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("--steps", count)) => {
                let count = count.parse().ok().filter(|&count| count > 0);
                steps = count.ok_or_else(|| Error::Usage(format!("{argument}: expected a count of at least 1")))?;
            }
            Some(("--only", text)) => only = text.into(),
            _ if ["--bench", "--profile", "--cpu", "--shapes", "--recompute"].contains(&argument.as_str()) => {}
            _ => {
                return Err(Error::Usage(format!(
                    "{argument} is unknown; known: --profile, --cpu, --shapes, --recompute, --only=TEXT, --steps=N"
                )));
            }
        }
    }
    if !names.iter().any(|name| name.contains(&only)) {
        return Err(Error::Usage(format!("--only={only}: expected a part of one of: {}", names.join(", "))));
    }
    println!("machine: {}, {} threads", super::common::machine(), rayon::current_num_threads());
    println!("{steps} steps after {WARM}; each op's least time. SIMD: {:?}\n", simd::level());
    Ok((steps, move |name: &str| name.contains(&only)))
}

/// Prints the table of `step`: of each op the least time of all steps, so that the lines may sum to less than the whole.
pub(crate) fn measure(name: &str, steps: usize, mut step: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..WARM {
        step()?;
    }
    let by_shape = std::env::args().any(|a| a == "--shapes");
    let mut best: BTreeMap<String, Line> = BTreeMap::new();
    let mut whole = f64::INFINITY;
    for _ in 0..steps {
        let begin = clock()();
        let (outcome, rows) = profile(clock(), &mut step);
        outcome?;
        whole = whole.min(clock()() - begin);
        let mut lines: BTreeMap<String, Line> = BTreeMap::new();
        for row in &rows {
            let line = lines.entry(label(row, by_shape)).or_default();
            for (pass, lap) in [row.forward, row.backward].into_iter().enumerate() {
                line.laps[pass].seconds += lap.seconds;
                line.laps[pass].count += lap.count;
                let work = work(row, pass == 1);
                line.work[pass].flops += work.flops * lap.count as f64;
                line.work[pass].bytes += work.bytes * lap.count as f64;
            }
        }
        for (label, line) in lines {
            let kept = best.entry(label).or_insert(line);
            for pass in 0..2 {
                kept.laps[pass].seconds = kept.laps[pass].seconds.min(line.laps[pass].seconds);
            }
        }
    }
    println!(
        "{name}: {:.1} ms, {:.0} MiB in tensors",
        whole * 1e3,
        peak_bytes(Device::Cpu) as f64 / f64::from(1 << 20)
    );
    print(best, whole);
    Ok(())
}

fn print(lines: BTreeMap<String, Line>, whole: f64) {
    let mut lines: Vec<(String, Line)> = lines.into_iter().collect();
    let seconds = |line: &Line| line.laps[0].seconds + line.laps[1].seconds;
    lines.sort_by(|a, b| seconds(&b.1).total_cmp(&seconds(&a.1)));
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    println!("{:width$}  count  forward ms  backward ms   share    forward rate    backward rate", "");
    for (label, line) in &lines {
        let rate = |pass: usize| {
            let (lap, Work { flops, bytes }) = (line.laps[pass], line.work[pass]);
            match () {
                () if lap.seconds == 0.0 || flops + bytes == 0.0 => String::new(),
                () if flops > 0.0 => format!("{:.0} GFLOP/s", flops / lap.seconds / 1e9),
                () => format!("{:.1} GB/s", bytes / lap.seconds / 1e9),
            }
        };
        println!(
            "{label:width$}  {:5}  {:10.2}  {:11.2}  {:5.1}%  {:>14}  {:>15}",
            line.laps[0].count,
            line.laps[0].seconds * 1e3,
            line.laps[1].seconds * 1e3,
            seconds(line) / whole * 100.0,
            rate(0),
            rate(1),
        );
    }
    let all: f64 = lines.iter().map(|(_, line)| seconds(line)).sum();
    println!("{:width$}  all    {:.2} ms, {:.1}%\n", "", all * 1e3, all / whole * 100.0);
}

fn label(row: &Row, by_shape: bool) -> String {
    let kind = match (row.op, row.inputs.get(1).and_then(|w| w.nhwc()), row.inputs.first().and_then(|x| x.nhwc())) {
        ("conv2d", Some([_, kh, kw, _]), Some([_, h, ..])) => {
            let stride = if row.output[1] < h { " stride 2" } else { "" };
            format!("conv2d {kh}x{kw}{stride}")
        }
        _ => row.op.to_string(),
    };
    let shapes: Vec<String> = row.inputs.iter().take(2).map(|shape| shape.to_string()).collect();
    if by_shape && !shapes.is_empty() { format!("{kind} {} -> {}", shapes.join(" "), row.output) } else { kind }
}

/// What one pass of an op costs at least.
fn work(row: &Row, backward: bool) -> Work {
    let y = row.output.count() as f64;
    let passes = match (backward, row.follows_first) {
        (false, _) => 1.0,
        (true, true) => 2.0,
        (true, false) => 1.0,
    };
    // The weight is the last operand of more than one axis that is no image of the output's size.
    let product = |weight: usize| Work {
        flops: passes * 2.0 * y * (row.inputs[weight].count() / row.output.last_size().max(1)) as f64,
        bytes: 0.0,
    };
    let x: f64 = row.inputs.iter().map(|shape| shape.count() as f64).sum();
    let moved = |values: f64| Work { flops: 0.0, bytes: 4.0 * values };
    match row.op {
        "conv2d" | "linear" | "linear_gelu" => product(1),
        "project" => product(2),
        "attention" | "self_attention" => {
            let t = row.output.count() / (row.output[0] * row.output.last_size()).max(1);
            // Backward takes five products for forward's two, because scores are computed again.
            Work { flops: 4.0 * y * t as f64 * if backward { 2.5 } else { 1.0 }, bytes: 0.0 }
        }
        "group_norm" | "layer_norm" | "silu" => moved(if backward { 2.0 * x + y } else { x + y }),
        "add" if backward => moved(0.0),
        "gradient sum" | "batch" | "optimizer" | "gradient norm" => moved(0.0),
        _ => moved(x + y),
    }
}
