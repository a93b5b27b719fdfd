//! A network's parameters in safetensors files, under diffusers' names and PyTorch's order of axes.

use super::tensors::{Entry, Floats, TensorFile};
use crate::device::{Device, DisjointMut, Scratch, for_each_block};
use crate::error::{Error, Result};
use crate::nn::{Layout, ParamSpec, Params};
use crate::tensor::{Dtype, Shape, Tensor};

/// Names that older diffusers files use for an attention block's layers.
const OLD_NAMES: [(&str, &str); 4] =
    [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];

/// Reads every parameter of `specs` from `file`, each under `prefix` + its name.
///
/// # Errors
/// [`Error::Model`] that lists missing and unexpected tensors, or names a tensor with both shapes.
pub fn read_params(file: &TensorFile, specs: &[ParamSpec], prefix: &str, trainable: bool) -> Result<Params> {
    let stored: Vec<String> = specs.iter().map(|s| stored_name(file, &format!("{prefix}{}", s.name))).collect();
    check_names(file, &stored, prefix)?;
    let (mut tensors, mut sources) = (Vec::with_capacity(specs.len()), Vec::with_capacity(specs.len()));
    for (spec, name) in specs.iter().zip(&stored) {
        let (got, want) = (file.shape(name)?, spec.file_shape());
        // Old attention files keep linear weights as 1×1 convolutions.
        let squeezed = got.len() == 4 && want.len() == 2 && got[2..] == [1, 1] && got[..2] == want[..];
        if got != &want[..] && !squeezed {
            let path = file.path().display();
            return Err(Error::Model(format!("{path}: tensor \"{name}\" has shape {got:?}, the network wants {want}")));
        }
        tensors.push(Tensor::empty(spec.shape, Dtype::F32, Device::Cpu)?);
        sources.push(file.floats(name)?);
    }
    read_all(specs, &sources, &mut tensors)?;
    Params::new(specs, tensors, trainable)
}

/// Fills the tensors, each from where it lies in the file to where it stays: a block of channels is transposed while it is in the cache.
fn read_all(specs: &[ParamSpec], sources: &[Floats<'_>], tensors: &mut [Tensor]) -> Result<()> {
    const BLOCK: usize = 64 * 1024;
    /// Blocks of a tensor, each of `rows` of its first axis, of `size` values each.
    struct Target<'a> {
        values: DisjointMut<'a, f32>,
        rows: usize,
        size: usize,
        taps: usize,
    }
    let (mut targets, mut jobs) = (Vec::with_capacity(specs.len()), Vec::new());
    for (index, (spec, tensor)) in specs.iter().zip(tensors).enumerate() {
        let taps = match (spec.layout, spec.shape.nhwc()) {
            (Layout::Conv, Some([_, kh, kw, _])) => kh * kw,
            _ => 1,
        };
        let size = tensor.count() / spec.shape.first().copied().unwrap_or(1).max(1);
        let rows = (BLOCK / size.max(1)).max(1);
        jobs.extend((0..tensor.count()).step_by((rows * size).max(1)).map(|start| (index, start)));
        targets.push(Target { values: DisjointMut::new(tensor.host_mut::<f32>()?), rows, size, taps });
    }
    for_each_block(jobs.len(), 8 * BLOCK, |job| {
        let (index, start) = jobs[job];
        let (target, source) = (&targets[index], &sources[index]);
        let len = (target.rows * target.size).min(source.count() - start);
        let to = target.values.slice(start, len);
        if target.taps == 1 {
            source.read(start, to);
            return;
        }
        let mut row = Scratch::<f32>::take(target.size);
        for (k, to) in to.chunks_exact_mut(target.size).enumerate() {
            source.read(start + k * target.size, &mut row);
            transpose(&row, target.size / target.taps, target.taps, to);
        }
    });
    Ok(())
}

fn stored_name(file: &TensorFile, name: &str) -> String {
    if !file.contains(name) {
        for (new, old) in OLD_NAMES {
            let renamed = name.replace(new, old);
            if renamed != name && file.contains(&renamed) {
                return renamed;
            }
        }
    }
    name.to_string()
}

fn check_names(file: &TensorFile, wanted: &[String], prefix: &str) -> Result<()> {
    let wanted_set: std::collections::HashSet<&str> = wanted.iter().map(String::as_str).collect();
    let missing: Vec<&str> = wanted.iter().map(String::as_str).filter(|n| !file.contains(n)).collect();
    let names = file.names();
    let unexpected: Vec<&str> =
        names.iter().map(String::as_str).filter(|n| n.starts_with(prefix) && !wanted_set.contains(n)).collect();
    if missing.is_empty() && unexpected.is_empty() {
        return Ok(());
    }
    let list = |names: &[&str]| {
        let shown = names.iter().take(6).copied().collect::<Vec<_>>().join(", ");
        if names.len() > 6 { format!("{shown} and {} more", names.len() - 6) } else { shown }
    };
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("missing {}", list(&missing)));
    }
    if !unexpected.is_empty() {
        parts.push(format!("unexpected {}", list(&unexpected)));
    }
    let path = file.path().display();
    Err(Error::Model(format!("{path}: does not fit the network of config.json: {}", parts.join("; "))))
}

/// Entries for writing `params` under `prefix` + name.
///
/// # Errors
/// [`Error::Dtype`] if a parameter is not f32.
pub fn param_entries<'a>(specs: &'a [ParamSpec], tensors: &'a [Tensor], prefix: &str) -> Result<Vec<Entry<'a>>> {
    let entries = specs.iter().zip(tensors).map(|(spec, tensor)| {
        let (name, shape, values) = (format!("{prefix}{}", spec.name), spec.file_shape(), tensor.host::<f32>()?);
        Ok(match spec.layout {
            Layout::Plain => Entry::f32s(name, values, &shape),
            Layout::Conv => Entry::made(name, &shape, move || to_channels_first(values, shape)),
        })
    });
    entries.collect()
}

/// `[o,kh,kw,i]` to `[o,i,kh,kw]` (whose sizes are `shape`).
fn to_channels_first(values: &[f32], shape: Shape) -> Vec<f32> {
    let (i, taps) = (shape[1], shape[2] * shape[3]);
    transpose_inner(values, taps, i)
}

/// Transposes each block of `rows`×`columns`.
fn transpose_inner(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for (block, target) in values.chunks_exact(rows * columns).zip(out.chunks_exact_mut(rows * columns)) {
        transpose(block, rows, columns, target);
    }
    out
}

/// Transposes `rows`×`columns`.
fn transpose(values: &[f32], rows: usize, columns: usize, to: &mut [f32]) {
    for r in 0..rows {
        for c in 0..columns {
            to[c * rows + r] = values[r * columns + c];
        }
    }
}
