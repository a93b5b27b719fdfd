//! Samples as files: a picture, an animation or tensors, by the file's ending.

use crate::error::{Error, Result};
use crate::io::image::{Picture, auto_columns, auto_scale, grid, write_gif, write_png};
use crate::io::tensors::{Entry, write_tensors};
use crate::pipeline::Samples;
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::path::Path;

/// Frames of an animation, at most: longer runs show every k-th state.
const FRAMES: usize = 60;

/// Checks that the folder of a file is there.
pub(super) fn check_folder(flag: &str, path: &Path) -> Result<()> {
    let (shown, folder) = (path.display(), path.parent().filter(|p| !p.as_os_str().is_empty()));
    match folder.filter(|f| !f.is_dir()) {
        None => Ok(()),
        Some(folder) => {
            let wrong = if folder.exists() { "is a file; name a folder" } else { "does not exist; make it first" };
            Err(Error::Usage(format!("{flag} {shown}: the folder {} {wrong}", folder.display())))
        }
    }
}

/// What a file name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// A sheet of all images.
    Png,
    /// The same sheet, denoising.
    Gif,
    /// Raw tensors.
    Safetensors,
}

impl OutputKind {
    /// Decides by the ending, and checks that the folder is there, before any work is done.
    ///
    /// # Errors
    /// [`Error::Usage`] for another ending, or a folder that does not exist.
    pub fn of(flag: &str, path: &Path) -> Result<OutputKind> {
        let shown = path.display();
        check_folder(flag, path)?;
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("png") => Ok(OutputKind::Png),
            Some("gif") => Ok(OutputKind::Gif),
            Some("safetensors") => Ok(OutputKind::Safetensors),
            _ => Err(Error::Usage(format!("{flag} {shown}: expected a name ending in .png, .gif or .safetensors"))),
        }
    }

    /// As [`OutputKind::of`], for a file of many states.
    ///
    /// # Errors
    /// [`Error::Usage`] for a picture too.
    pub fn of_states(flag: &str, path: &Path) -> Result<OutputKind> {
        match OutputKind::of(flag, path)? {
            OutputKind::Png => Err(no_picture(flag, path)),
            kind => Ok(kind),
        }
    }
}

fn no_picture(flag: &str, path: &Path) -> Error {
    Error::Usage(format!("{flag} {}: expected .safetensors or .gif", path.display()))
}

fn sheet(x: &Tensor, columns: Option<usize>) -> Result<Picture> {
    let Some(shape @ [n, h, w, _]) = x.shape().nhwc() else {
        return Err(Error::Shape(format!("picture: wants [n,h,w,c], got {}", x.shape())));
    };
    let columns = columns.unwrap_or(if n % 10 == 0 && n <= 100 { 10 } else { auto_columns(n) });
    grid(x.host::<f32>()?, shape, columns, auto_scale(h, w), 2)
}

/// What a picture shows beside the samples, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sheet<'a> {
    /// What they were made from, `[k,h,w,c]`: the picture begins with it.
    pub shown: Option<&'a Tensor>,
    /// Pictures of a row, if said.
    pub columns: Option<usize>,
}

/// Writes `samples` to `path`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn write_samples(path: &Path, kind: OutputKind, samples: &Samples, how: Sheet<'_>) -> Result<()> {
    match kind {
        OutputKind::Png => write_png(path, &sheet(&after(how.shown, &samples.x0)?, how.columns)?),
        OutputKind::Gif => write_frames(path, &samples.states, how.columns),
        OutputKind::Safetensors => {
            let shape = samples.x0.shape();
            let labels: Vec<i64> = samples.class_labels.iter().flatten().map(|l| i64::from(*l)).collect();
            let mut entries =
                vec![Entry::f32s("x0", samples.x0.host()?, &shape), Entry::f32s("x_T", samples.x_t.host()?, &shape)];
            if samples.class_labels.is_some() {
                entries.push(Entry::i64s("class_labels", &labels));
            }
            write_tensors(path, entries, HashMap::new())
        }
    }
}

/// `x` with `shown` before it.
fn after(shown: Option<&Tensor>, x: &Tensor) -> Result<Tensor> {
    let Some(shown) = shown else { return Ok(x.clone()) };
    let rows = shown.shape()[0] + x.shape()[0];
    Tensor::stack_rows(&[shown.clone(), x.clone()], x.shape().with_rows(rows))
}

/// Writes every state `x_0000…` (noisiest first) and every estimate `x0_hat_0000…`, or shows them as an animation.
///
/// # Errors
/// [`Error::Usage`] for a picture file; [`Error::Io`] if the file cannot be written.
pub fn write_trajectory(path: &Path, kind: OutputKind, samples: &Samples) -> Result<()> {
    match kind {
        OutputKind::Png => Err(no_picture("--trajectory", path)),
        OutputKind::Gif => write_frames(path, &samples.states, None),
        OutputKind::Safetensors => {
            let shape = samples.x0.shape();
            let mut entries = Vec::new();
            for (prefix, list) in [("x", &samples.states), ("x0_hat", &samples.x0_hats)] {
                for (i, tensor) in list.iter().enumerate() {
                    entries.push(Entry::f32s(format!("{prefix}_{i:04}"), tensor.host()?, &shape));
                }
            }
            write_tensors(path, entries, HashMap::new())
        }
    }
}

fn write_frames(path: &Path, states: &[Tensor], columns: Option<usize>) -> Result<()> {
    let stride = states.len().div_ceil(FRAMES).max(1);
    // Counted from the end, so that the finished image is a frame.
    let last = states.len().saturating_sub(1);
    let chosen = states.iter().enumerate().filter(|(i, _)| (last - i).is_multiple_of(stride));
    let frames: Vec<Picture> = chosen.map(|(_, x)| sheet(x, columns)).collect::<Result<_>>()?;
    write_gif(path, &frames, 6)
}
