//! What the programs share: errors and exit codes, threads, progress bars, sampler flags, and files by their ending.

mod accuracy;
mod edit;
mod emerging;
mod interpolate;
mod likelihood;
mod output;
mod side_by_side;
mod token_bits;
mod tokens;

pub use accuracy::accuracy;
pub use edit::EditArgs;
pub use interpolate::{interpolation, strip_class};
pub use likelihood::{LikelihoodFlags, bpd, measured, ode_bpd};
pub use output::{OutputKind, Sheet, write_samples, write_trajectory};
pub use side_by_side::{Standing, held_out_images, metrics_of_all, side_by_side};
pub use token_bits::token_bits;
pub use tokens::{TokenFlags, TokenRequest, check_kind, harmless, has_tokens, load_tokens, sample_text};

use crate::device::Device;
use crate::discrete::TokenSampler;
use crate::error::{Error, Result, unknown_name};
use crate::io::TensorFile;
use crate::io::tensors::{Entry, write_tensors};
use crate::nn::{ClassEmbed, ClassInput, Precision};
use crate::ops::forced_conv_method;
use crate::pipeline::{Class, Pipeline, Weights};
use crate::process::{TimeConvention, Variance};
use crate::sampler::{SamplerKind, parse_tau};
use crate::tensor::{Shape, Tensor};
use crate::verify::Outcome;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

/// Prints an error as one line on stderr and turns it into the exit code: 2 for wrong use, 1 for a run that failed.
pub fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs `body` on a pool of `threads` threads; 0 means all cores. Results do not depend on their number.
///
/// The body runs on a thread of the pool itself: entering a parallel region from outside costs two context switches.
///
/// # Errors
/// [`Error::Usage`] for more than 256 threads or if they cannot be made, or an unknown value of `TWEEDIE_CONV` or `TWEEDIE_SIMD`; those of `body`.
pub fn with_threads(threads: usize, body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    const MOST: usize = 256;
    check_environment(|variable| std::env::var(variable).ok())?;
    if threads > MOST {
        return Err(Error::Usage(format!("--threads {threads}: expected 0 (all cores) to {MOST}")));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| Error::Usage(format!("--threads {threads}: {e}")))?.install(body)
}

/// What stands below the flags of a program's help: its examples, and what it reads of the environment.
pub fn help(examples: &str) -> String {
    format!(
        "{examples}

Environment:
  TWEEDIE_SIMD=portable|avx2|avx512   a lower level of vector instructions than the processor has
  TWEEDIE_CONV=direct|f2|f4           one method for all 3x3 convolutions on the CPU, whatever --conv-accuracy says
  TWEEDIE_NVRTC=PATH                  NVIDIA's runtime compiler, where it is not found by itself
  TWEEDIE_CACHE=FOLDER                where compiled GPU kernels are kept"
    )
}

/// Says on stderr that the environment's `TWEEDIE_CONV` has a say in the bits of what is trained: no setting of the run tells it.
pub fn note_forced_method() {
    if let Some(method) = forced_conv_method() {
        eprintln!(
            "note: TWEEDIE_CONV={method} forces the method of 3x3 convolutions: without it, or resumed without it, this run has other bits"
        );
    }
}

/// Refuses a value of a variable of ours that would be passed over in silence.
fn check_environment(value: impl Fn(&str) -> Option<String>) -> Result<()> {
    let known: [(&str, &[&str]); 2] =
        [("TWEEDIE_CONV", &["direct", "f2", "f4"]), ("TWEEDIE_SIMD", &["portable", "avx2", "avx512"])];
    for (variable, known) in known {
        if let Some(value) = value(variable).filter(|value| !value.is_empty() && !known.contains(&value.as_str())) {
            return Err(unknown_name(&format!("value of {variable}"), &value, known));
        }
    }
    Ok(())
}

/// Checks `--device`, and that it can compute in `precision`.
///
/// # Errors
/// [`Error::Usage`] for an unknown text or a precision that the device does not have, [`Error::Device`] for a device that cannot be used.
pub fn check_machine(device: &str, precision: Precision) -> Result<Device> {
    let device = Device::from_flag(device)?;
    if precision == Precision::Bf16 && device != Device::Cpu {
        return Err(Error::Usage(format!(
            "--precision bf16: {device} computes in f32 only; use --precision f32 or --device cpu"
        )));
    }
    Ok(device)
}

/// A bar on stderr with the time left; `message` on its right is set by the caller. Hidden if stderr is no terminal.
pub fn progress_bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(8));
    let style = ProgressStyle::with_template("{bar:28} {pos}/{len} {msg} {elapsed} < {eta}");
    // The template is a constant; the default style serves if it were malformed.
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}

/// A measured identity as a line of the table: verdict, id, number, bound, claim.
pub fn identity_line(outcome: &Outcome) -> String {
    let verdict = if outcome.pass { "pass" } else { "FAIL" };
    let Outcome { id, claim, measured, relation, bound, .. } = outcome;
    let problem = outcome.error.as_ref().map(|e| format!(" ({e})")).unwrap_or_default();
    format!("{verdict}  {id:<46} {measured:>10.3e} {relation} {bound:<9.3e} {claim}{problem}")
}

/// Reads `--class`: a number, or `none` for the null class; without it, classes take turns.
///
/// # Errors
/// [`Error::Usage`] for another text.
pub fn class_flag(text: Option<&str>) -> Result<Class> {
    match text {
        None => Ok(Class::Cycle),
        Some("none") => Ok(Class::Null),
        Some(text) => text
            .parse()
            .map(Class::Index)
            .map_err(|_| Error::Usage(format!("--class {text}: expected a number from 0, or none for the null class"))),
    }
}

/// Reads `--weights`.
///
/// # Errors
/// [`Error::Usage`] for another text than `ema` or `raw`.
pub fn weights_flag(text: &str) -> Result<Weights> {
    match text {
        "ema" => Ok(Weights::Ema),
        "raw" => Ok(Weights::Raw),
        _ => Err(Error::Usage(format!("--weights {text}: expected ema (the moving average) or raw"))),
    }
}

/// Reads `--variance`.
///
/// # Errors
/// [`Error::Usage`] for another text than `small`, `large` or `learned`.
pub fn variance_flag(text: &str) -> Result<Variance> {
    match text {
        "small" => Ok(Variance::FixedSmall),
        "large" => Ok(Variance::FixedLarge),
        "learned" => Ok(Variance::LearnedRange),
        _ => Err(Error::Usage(format!(
            "--variance {text}: expected small (beta-tilde), large (beta) or learned (the network's)"
        ))),
    }
}

/// Reads `--sampler` for a model of images.
///
/// # Errors
/// [`Error::Usage`] for an unknown name, or a sampler of tokens.
pub fn sampler_flag(name: &str) -> Result<SamplerKind> {
    match TokenSampler::from_name(name) {
        Ok(_) => Err(Error::Usage(format!(
            "--sampler {name}: draws tokens, the model is one of images; take ddpm, ddim or another of them"
        ))),
        Err(_) => SamplerKind::from_name(name),
    }
}

/// Refuses a model whose network was told another time than `asked`.
///
/// # Errors
/// [`Error::Usage`] for an unknown name, or with both conventions.
pub fn check_time_convention(asked: Option<&str>, pipeline: &Pipeline) -> Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    let (asked, has) = (TimeConvention::from_name(asked)?, pipeline.scheduler().time_convention);
    if asked == has {
        return Ok(());
    }
    let (asked, has) = (asked.name(), has.name());
    Err(Error::Usage(format!(
        "--time-convention {asked}: the model's network was trained with {has}, and cannot be told another time"
    )))
}

/// Reads `--raw-sigma`: a number for every step but the one to clean data, or a file with one number for each step.
///
/// # Errors
/// [`Error::Usage`] for a text that is neither a number nor a file, or a word of the file that is no number.
pub fn raw_sigmas(text: &str, steps: usize) -> Result<Vec<f64>> {
    if let Ok(sigma) = text.parse::<f64>() {
        // No noise may be left in the step to clean data; where it is the only one, its own bound says so.
        return Ok((0..steps).map(|step| if step + 1 < steps || steps == 1 { sigma } else { 0.0 }).collect());
    }
    let Ok(content) = std::fs::read_to_string(text) else {
        return Err(Error::Usage(format!(
            "--raw-sigma {text}: expected a number, or a text file with one for each step"
        )));
    };
    let number = |(i, word): (usize, &str)| {
        word.parse()
            .map_err(|_| Error::Usage(format!("--raw-sigma {text}: entry {} is \"{word}\", not a number", i + 1)))
    };
    content.split_whitespace().enumerate().map(number).collect()
}

/// Prints a line on stdout; a reader that has seen enough (`| head`) ends the program quietly.
pub fn print_line(text: &str) {
    use std::io::Write;
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Reads the times of a `--tau` file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::Usage`] for a word that is not a whole number.
pub fn read_tau(path: &Path) -> Result<Vec<usize>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    parse_tau(&text).map_err(|e| Error::Usage(format!("--tau {}: {e}", path.display())))
}

/// Reads `x0` from an `--encode` file.
///
/// # Errors
/// [`Error::Model`] if the file or the tensor is missing or malformed.
pub fn read_images(path: &Path) -> Result<Tensor> {
    TensorFile::open(path)?.tensor("x0")
}

/// Reads `x_T` from an `--init` file.
///
/// # Errors
/// [`Error::Model`] if the file or the tensor is missing or malformed.
pub fn read_init(path: &Path) -> Result<Tensor> {
    TensorFile::open(path)?.tensor("x_T")
}

/// Reads `z_0000`, `z_0001`, … from a `--noise` file.
///
/// # Errors
/// [`Error::Model`] if there is not even `z_0000`.
pub fn read_noise(path: &Path) -> Result<Vec<Tensor>> {
    let file = TensorFile::open(path)?;
    let mut list = vec![file.tensor("z_0000")?];
    while file.contains(&format!("z_{:04}", list.len())) {
        list.push(file.tensor(&format!("z_{:04}", list.len()))?);
    }
    Ok(list)
}

/// Runs a network once, file to file: `x [n,h,w,c]`, `t [n]`, optional `class_labels [n]` → `net_out [n,h,w,c]`.
///
/// # Errors
/// [`Error::Model`] for a malformed input file; [`Error::Usage`] and [`Error::Shape`] for input that does not fit the model.
pub fn forward_file(pipeline: &Pipeline, input: &Path, output: &Path) -> Result<Shape> {
    OutputKind::of("--out", output).and_then(|kind| match kind {
        OutputKind::Safetensors => Ok(()),
        _ => Err(Error::Usage(format!("--out {}: --forward writes .safetensors", output.display()))),
    })?;
    let file = TensorFile::open(input)?;
    let (x, t) = (file.tensor("x")?, file.f32s("t").or_else(|_| to_f32(file.i64s("t")?))?);
    let (labels, numbers, vectors);
    let class = match (file.contains("class_labels"), pipeline.unet().config().class_embed) {
        (false, _) => None,
        (true, ClassEmbed::Timestep) => {
            numbers = file.f32s("class_labels").or_else(|_| to_f32(file.i64s("class_labels")?))?;
            Some(ClassInput::Numbers(&numbers))
        }
        (true, ClassEmbed::Identity) => {
            vectors = file.tensor("class_labels")?;
            Some(ClassInput::Vectors(&vectors))
        }
        (true, _) => {
            let label = |v: &i64| {
                u32::try_from(*v).map_err(|_| Error::Usage(format!("class_labels: {v} is not a class number from 0")))
            };
            labels = file.i64s("class_labels")?.iter().map(label).collect::<Result<Vec<u32>>>()?;
            Some(ClassInput::Labels(&labels))
        }
    };
    let net_out = pipeline.forward(&x, &t, class)?;
    let shape = net_out.shape();
    write_tensors(output, vec![Entry::f32s("net_out", net_out.host()?, &shape)], HashMap::new())?;
    Ok(shape)
}

fn to_f32(values: Vec<i64>) -> Result<Vec<f32>> {
    Ok(values.into_iter().map(|v| v as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_refused_with_what_is_known() {
        let check = |name: &'static str, text: &'static str| {
            check_environment(move |variable| (variable == name).then(|| text.to_string()))
        };
        for (name, text) in [("TWEEDIE_CONV", "f2"), ("TWEEDIE_SIMD", "avx2"), ("TWEEDIE_SIMD", ""), ("OTHER", "F2")] {
            assert!(check(name, text).is_ok(), "{name}={text}");
        }
        for (name, text) in [("TWEEDIE_CONV", "F2"), ("TWEEDIE_SIMD", "neon")] {
            let error = check(name, text).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(text) && error.contains("known: "), "{error}");
        }
    }
}
