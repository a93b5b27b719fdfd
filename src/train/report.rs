//! What a run leaves for people: metrics, validation losses, sample grids and the loss plot.

use super::task::{Curves, Shown};
use super::trainer::{StepReport, Trainer};
use crate::error::{Error, Result};
use crate::io::ModelFolder;
use crate::io::metrics::{MetricsLog, read_column};
use crate::io::plot::{Axes, Series, plot_lines};
use std::collections::VecDeque;

pub(super) struct Reporter {
    folder: ModelFolder,
    metrics: MetricsLog,
    recent: VecDeque<f64>,
    curves: Curves,
    val_loss: Option<f64>,
}

impl Reporter {
    /// Opens the metrics log; lines from after the checkpoint are dropped, since their steps are done again.
    pub(super) fn open(folder: &ModelFolder, trainer: &Trainer<'_>) -> Result<Reporter> {
        let samples = folder.path("samples");
        std::fs::create_dir_all(&samples).map_err(Error::io("create the folder", &samples))?;
        let metrics = MetricsLog::open(folder.path("metrics.jsonl"), Some(trainer.step))?;
        let text = toml::to_string(&trainer.config).map_err(|e| Error::Usage(format!("settings: {e}")))?;
        let path = folder.path("config.toml");
        crate::io::write_atomically(&path, |out| out.write_all(text.as_bytes()).map_err(Error::io("write", &path)))?;
        let recent = VecDeque::with_capacity(100);
        Ok(Reporter { folder: folder.clone(), metrics, recent, curves: trainer.task.curves(), val_loss: None })
    }

    /// Validates, logs and shows what is due; fills in what that gives.
    pub(super) fn after_step(&mut self, t: &mut Trainer<'_>, report: &mut StepReport, is_last: bool) -> Result<()> {
        let done = report.step + 1;
        let due = |every: u64| every > 0 && (done.is_multiple_of(every) || is_last);
        if due(t.config.validate_every)
            && let Some(loss) = t.task.validation_loss(&t.ema)?
        {
            self.val_loss = Some(loss);
            report.val_loss = self.val_loss;
        }
        if self.recent.len() == 100 {
            self.recent.pop_front();
        }
        self.recent.push_back(report.loss);
        self.metrics.append(report)?;
        if due(t.config.sample_every) {
            report.text = t.task.show(&self.folder, done, Shown { averaged: &t.ema, raw: &t.raw })?;
        }
        Ok(())
    }

    /// Mean loss of the last 100 steps; 0 before the first.
    pub(super) fn recent_loss(&self) -> f64 {
        self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64
    }

    pub(super) fn val_loss(&self) -> Option<f64> {
        self.val_loss
    }

    /// Hands all lines of the log to the operating system.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.metrics.flush()
    }

    pub(super) fn finish(&mut self, t: &mut Trainer<'_>, stopped: bool) -> Result<()> {
        self.metrics.flush()?;
        if t.step > 0 && !stopped {
            self.plot()?;
        }
        Ok(())
    }

    /// Draws `loss.png` from the whole log, so that a resumed run shows all its steps.
    pub(super) fn plot(&mut self) -> Result<()> {
        self.metrics.flush()?;
        let path = self.folder.path("metrics.jsonl");
        let raw: Vec<(f64, f64)> = read_column(&path, "loss")?.iter().map(|(s, v)| (*s as f64, *v)).collect();
        if raw.is_empty() {
            return Ok(());
        }
        let validation: Vec<(f64, f64)> =
            read_column(&path, "val_loss")?.iter().map(|(s, v)| (*s as f64, *v)).collect();
        let mut series = vec![
            Series { points: raw.clone(), faint: true, ..Series::default() },
            Series { name: self.curves.training.clone(), points: smoothed(&raw), ..Series::default() },
        ];
        if !validation.is_empty() {
            series.push(Series { name: self.curves.validation.clone(), points: validation, ..Series::default() });
        }
        let axes = Axes { title: self.curves.title, x_label: "step", y_label: "loss", log_y: true, ..Axes::default() };
        plot_lines(self.folder.path("loss.png"), &axes, &series)
    }
}

/// Running mean over a fiftieth of the points.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let width = (points.len() / 50).max(1);
    let mut sum = 0.0;
    let mut out = Vec::with_capacity(points.len());
    for (i, (x, y)) in points.iter().enumerate() {
        sum += y;
        if i >= width {
            sum -= points[i - width].1;
        }
        out.push((*x, sum / (i + 1).min(width) as f64));
    }
    out
}
