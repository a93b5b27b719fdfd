//! `eval --metric accuracy`: the table and the plot.

use crate::data::Dataset;
use crate::error::Result;
use crate::eval::{AccuracyOptions, AccuracyReport, classifier_accuracy, plot_accuracy};
use crate::pipeline::ClassifierPipeline;
use std::fmt::Write;
use std::path::Path;

/// Measures a classifier on `count` held-out images, with a line of text for each noise level, and draws them into `plot`, or
/// `accuracy.png` in the model folder.
///
/// # Errors
/// Those of [`classifier_accuracy`]; [`crate::Error::Io`] if the plot cannot be written.
pub fn accuracy(
    classifier: &ClassifierPipeline,
    data: &Dataset,
    (count, seed): (Option<usize>, u64),
    plot: Option<&Path>,
    model: &Path,
) -> Result<(AccuracyReport, String)> {
    let options = AccuracyOptions { images: count.unwrap_or(usize::MAX), seed, ..AccuracyOptions::default() };
    let (network, params) = (classifier.classifier(), classifier.params());
    let report = classifier_accuracy(network, params, classifier.scheduler(), data, &options)?;
    let plot = plot.map_or_else(|| model.join("accuracy.png"), Path::to_path_buf);
    plot_accuracy(&plot, &report)?;
    let share = |value: f64| format!("{:5.1} %", 100.0 * value);
    let mut text = String::from("  time  log-SNR    right   nats  exact for the training images\n");
    for p in &report.points {
        let reference = p.reference.map_or(String::new(), share);
        let (right, nats) = (share(p.accuracy), p.cross_entropy);
        let _ = writeln!(text, "  {:.3}  {:7.2}  {right}  {nats:.3}  {reference}", p.time, p.log_snr);
    }
    let _ = write!(
        text,
        "accuracy  {:.1} %, cross-entropy {:.4} ± {:.4} nats  (mean over {} noise levels of {} held-out images, seed {seed}); wrote {}",
        100.0 * report.accuracy,
        report.cross_entropy,
        report.standard_error,
        report.points.len(),
        report.images,
        plot.display()
    );
    Ok((report, text))
}
