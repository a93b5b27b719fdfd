//! `eval --metric bpd` and `--metric ode-bpd`: flags, checks, and what is printed and drawn.

use super::progress_bar;
use crate::data::Dataset;
use crate::error::{Error, Result, unknown_name};
use crate::eval::{
    Bits, BoundKind, BpdOptions, BpdReport, DecoderKind, Measured, OdeReport, bits_per_dim_of, ode_bits_per_dim,
};
use crate::io::plot::{Axes, Chart, Series, plot_charts};
use crate::likelihood::{OdeOptions, Trace};
use crate::nn::ClassEmbed;
use crate::pipeline::Pipeline;
use std::path::Path;

/// Flags of the likelihood.
#[derive(clap::Args, Clone, Debug)]
pub struct LikelihoodFlags {
    /// bpd: noise levels for each image, drawn where the sum is made; as many as the chain has steps takes each once
    #[arg(long, default_value_t = 32)]
    pub draws: usize,
    /// bpd: the bound of a chain of N equal steps of time, or continuous [default: a table's own chain, else continuous]
    #[arg(long, value_name = "N|continuous")]
    pub vlb_steps: Option<String>,
    /// bpd: small (beta-tilde) or large (beta) for a chain's steps [default: the model's own]
    #[arg(long)]
    pub variance: Option<String>,
    /// bpd: p(x0|x_1), discretised (a Gaussian's mass in each pixel bin) or posterior (by q(x_1|x0)) [default: discretised for a chain, else
    /// posterior]
    #[arg(long, value_name = "NAME")]
    pub decoder: Option<String>,
    /// bpd: where the terms over t are drawn [default: bpd.png in the model folder]
    #[arg(long, value_name = "FILE.png")]
    pub plot: Option<std::path::PathBuf>,
    /// ode-bpd: random vectors for the trace of the Jacobian, or exact (as many evaluations as an image has values)
    #[arg(long, value_name = "N|exact", default_value = "1")]
    pub probes: String,
    /// ode-bpd: law of the random vectors, rademacher or gaussian
    #[arg(long, value_name = "NAME", default_value = "rademacher")]
    pub probe: String,
    /// ode-bpd: bound of the solver's local error, absolute and relative
    #[arg(long, default_value_t = 1e-4)]
    pub tolerance: f64,
    /// bpd, ode-bpd: true (each image's own label) or none (the null class), for class-conditional models
    #[arg(long, value_name = "NAME", default_value = "true")]
    pub class: String,
}

/// A model and the data it is measured on, with what all likelihoods share.
///
/// # Errors
/// [`Error::Usage`] if the model was trained on another number of pixel levels, or has no null class where one is asked for.
pub fn measured<'a>(
    pipeline: &'a Pipeline,
    data: &'a Dataset,
    flags: &LikelihoodFlags,
    count: Option<usize>,
    seed: u64,
) -> Result<Measured<'a>> {
    if let Some(own) = pipeline.description()
        && own.max_pixel_value != data.max_value()
    {
        let (model, got) = (own.max_pixel_value + 1, data.max_value() + 1);
        return Err(Error::Usage(format!(
            "--data {}: {got} pixel levels, the model was trained on {model}; bits per dimension want the same levels",
            data.name()
        )));
    }
    let null_class = match (flags.class.as_str(), pipeline.unet().config().class_embed) {
        ("true", _) | ("none", ClassEmbed::None) => None,
        ("none", ClassEmbed::Table(rows)) => {
            let own = pipeline.description();
            if own.is_none_or(|own| own.p_uncond == 0.0) {
                return Err(Error::Usage(
                    "--class none: the model was trained without label drops, its null class is untrained".into(),
                ));
            }
            Some((rows - 1) as u32)
        }
        ("none", _) => return Err(Error::Usage("--class none: the model has no null class".into())),
        (other, _) => return Err(Error::Usage(format!("--class {other}: expected true (own labels) or none"))),
    };
    Ok(Measured {
        unet: pipeline.unet(),
        params: pipeline.params(),
        scheduler: pipeline.scheduler(),
        data,
        null_class,
        images: count.unwrap_or(usize::MAX),
        batch: 60,
        seed,
    })
}

/// Measures the bound, and draws its terms over t; the lines to print.
///
/// # Errors
/// [`Error::Usage`] for a flag that does not fit; as [`bits_per_dim_of`] and [`plot_charts`].
pub fn bpd(m: &Measured<'_>, flags: &LikelihoodFlags, folder: &Path) -> Result<(BpdReport, String)> {
    let bound = match flags.vlb_steps.as_deref() {
        None => BoundKind::Own,
        Some("continuous") => BoundKind::Continuous,
        Some(text) => BoundKind::Steps(
            text.parse()
                .map_err(|_| Error::Usage(format!("--vlb-steps {text}: expected a number of steps, or continuous")))?,
        ),
    };
    let decoder = match flags.decoder.as_deref() {
        None => None,
        Some("discretised") => Some(DecoderKind::Discretised),
        Some("posterior") => Some(DecoderKind::Posterior),
        Some(other) => return Err(unknown_name("decoder", other, &["discretised", "posterior"])),
    };
    if flags.draws == 0 {
        return Err(Error::Usage("--draws 0: expected at least 1".into()));
    }
    let variance = flags.variance.as_deref().map_or(Ok(m.scheduler.variance), super::variance_flag)?;
    let options = BpdOptions { bound, variance: variance.try_into()?, decoder, draws: flags.draws, decoder_draws: 4 };
    let report = with_bar(|progress| bits_per_dim_of(m, &options, progress))?;
    let path = flags.plot.clone().unwrap_or_else(|| folder.join("bpd.png"));
    draw(&path, &report)?;
    let part = |name: &str, bits: Bits| format!("  {name:<9} {:>8.4} ± {:.4}\n", bits.mean, bits.standard_error);
    let mut text = format!(
        "bpd  {:.4} ± {:.4} bits/dim  (upper bound of a probability; {}, {} decoder, {} pixel levels; {} held-out images × {} levels, \
         class: {}, seed {})\n",
        report.total.mean,
        report.total.standard_error,
        report.bound,
        report.decoder_name,
        report.pixel_levels,
        report.images,
        report.draws,
        report.class,
        report.seed
    );
    text += &part("L_T", report.terminal);
    text += &part("L_{t-1}", report.diffusion);
    text += &part("L_0", report.decoder);
    text += &format!("  terms over t: {}", path.display());
    Ok((report, text))
}

/// Measures the density; the line to print.
///
/// # Errors
/// [`Error::Usage`] for a flag that does not fit; as [`ode_bits_per_dim`].
pub fn ode_bpd(m: &Measured<'_>, flags: &LikelihoodFlags) -> Result<(OdeReport, String)> {
    let seed = m.seed;
    let trace = match (flags.probes.as_str(), flags.probe.as_str()) {
        ("exact", _) => Trace::Exact,
        (text, law) => {
            let probes = text
                .parse()
                .map_err(|_| Error::Usage(format!("--probes {text}: expected a number of vectors, or exact")))?;
            match law {
                "rademacher" => Trace::Rademacher { probes, seed },
                "gaussian" => Trace::Gaussian { probes, seed },
                other => return Err(unknown_name("probe", other, &["rademacher", "gaussian"])),
            }
        }
    };
    let options = OdeOptions { tolerance: flags.tolerance, trace };
    let report = with_bar(|progress| ode_bits_per_dim(m, &options, progress))?;
    let text = format!(
        "ode-bpd  {:.4} ± {:.4} bits/dim  (a density, not a probability: {}; dequantisation {}; trace {}, tolerance {:e}, {:.0} evaluations \
         an image; {} pixel levels, {} held-out images, class: {}, seed {})",
        report.total.mean,
        report.total.standard_error,
        report.quantity,
        report.dequantisation,
        report.trace,
        report.tolerance,
        report.evaluations,
        report.pixel_levels,
        report.images,
        report.class,
        report.seed
    );
    Ok((report, text))
}

/// Runs `body` under a progress bar of images.
fn with_bar<T>(body: impl FnOnce(&mut dyn FnMut(usize, usize)) -> Result<T>) -> Result<T> {
    let bar = progress_bar(0);
    let value = body(&mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    value
}

/// The terms over t, and their sum from clean data on.
fn draw(path: &Path, report: &BpdReport) -> Result<()> {
    let terms = report.curve.iter().map(|p| (p.time, p.bits)).collect();
    let mut sum = report.decoder.mean;
    let mut sums = vec![(0.0, sum)];
    let half = 0.5 / report.curve.len() as f64;
    for point in &report.curve {
        sum += point.bits;
        sums.push((point.time + half, sum));
    }
    sums.push((1.0, sum + report.terminal.mean));
    let chart = |title, log_y, points| Chart {
        axes: Axes { title, x_label: "t (0 clean, 1 noise)", y_label: "bits/dim", log_y, ..Axes::default() },
        bars: None,
        lines: vec![Series { points, marked: true, ..Series::default() }],
    };
    let title = format!(
        "{:.3} bits/dim = L_T {:.4} + L_(t-1) {:.4} + L_0 {:.4}",
        report.total.mean, report.terminal.mean, report.diffusion.mean, report.decoder.mean
    );
    let parts = format!("L_(t-1) in {} equal parts of t", report.curve.len());
    plot_charts(path, &title, 2, &[chart(&parts, true, terms), chart("sum from L_0 up to L_T", false, sums)])
}
