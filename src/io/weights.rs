//! A network's parameters in safetensors files, under diffusers' names and PyTorch's order of axes.

use super::tensors::{Entry, StoredFloats, TensorFile};
use crate::device::{Device, DisjointMut, Origin, Scratch, for_each_block};
use crate::error::{Error, Result};
use crate::nn::{Layout, ParamSpec, Params};
use crate::tensor::{Dtype, Shape, Tensor};
use std::sync::Arc;

/// Names that older diffusers files use for an attention block's layers.
const OLD_NAMES: [(&str, &str); 4] =
    [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];

/// Reads every parameter of `specs` from `file`, each under `prefix` + its name.
///
/// # Errors
/// [`Error::Model`] that lists missing and unexpected tensors, or names a tensor with both shapes.
pub fn read_params(file: &Arc<TensorFile>, specs: &[ParamSpec], prefix: &str, trainable: bool) -> Result<Params> {
    Params::new(specs, read_all(specs, &sources(file, specs, prefix)?)?, trainable)
}

/// As [`read_params`] for inference: parameters stay in the file until they are wanted, and of those that ops keep in a form of their own
/// no other copy remains.
///
/// # Errors
/// As [`read_params`].
pub fn open_params(file: &Arc<TensorFile>, specs: &[ParamSpec], prefix: &str) -> Result<Params> {
    let sources = sources(file, specs, prefix)?.into_iter().zip(specs);
    Params::new(specs, sources.map(|(source, spec)| source.into_tensor(spec.shape)).collect(), false)
}

fn sources(file: &Arc<TensorFile>, specs: &[ParamSpec], prefix: &str) -> Result<Vec<Source>> {
    let stored: Vec<String> = specs.iter().map(|s| stored_name(file, &format!("{prefix}{}", s.name))).collect();
    check_names(file, &stored, prefix)?;
    let mut sources = Vec::with_capacity(specs.len());
    for (spec, name) in specs.iter().zip(&stored) {
        let (got, want) = (file.shape(name)?, spec.file_shape());
        // Old attention files keep linear weights as 1×1 convolutions.
        let squeezed = got.len() == 4 && want.len() == 2 && got[2..] == [1, 1] && got[..2] == want[..];
        if got != &want[..] && !squeezed {
            let path = file.path().display();
            return Err(Error::Model(format!("{path}: tensor \"{name}\" has shape {got:?}, the network wants {want}")));
        }
        sources.push(Source::new(spec, file.stored(name)?));
    }
    Ok(sources)
}

/// A parameter in a file, and how its axes turn on the way.
struct Source {
    values: StoredFloats,
    /// Values of one index of the first axis.
    row: usize,
    taps: usize,
    /// Rows that are read together: so few that they stay in the cache while they are turned.
    rows: usize,
}

impl Source {
    fn new(spec: &ParamSpec, values: StoredFloats) -> Source {
        const VALUES: usize = 64 * 1024;
        let taps = match (spec.layout, spec.shape.nhwc()) {
            (Layout::Conv, Some([_, kh, kw, _])) => kh * kw,
            _ => 1,
        };
        let row = (values.get().count() / spec.shape.first().copied().unwrap_or(1).max(1)).max(1);
        Source { values, row, taps, rows: (VALUES / row).max(1).next_multiple_of(16) }
    }

    /// Reads whole rows, the first of which begins at value `start`.
    fn read(&self, start: usize, to: &mut [f32]) {
        let source = self.values.get();
        if self.taps == 1 {
            source.read(start, to);
            return;
        }
        let mut row = Scratch::<f32>::take(self.row);
        for (k, to) in to.chunks_exact_mut(self.row).enumerate() {
            source.read(start + k * self.row, &mut row);
            transpose(&row, self.row / self.taps, self.taps, to);
        }
    }

    fn into_tensor(self, shape: Shape) -> Tensor {
        // Sixteen rows or a multiple are a multiple of 64 bytes.
        let piece = 4 * self.rows * self.row;
        let read = Box::new(move |at: usize, to: &mut [u8]| {
            self.read(at / 4, bytemuck::cast_slice_mut(to));
            self.values.release(at / 4, to.len() / 4);
        });
        Tensor::from_origin(shape, Origin { piece, read })
    }
}

/// Reads all, in parallel.
fn read_all(specs: &[ParamSpec], sources: &[Source]) -> Result<Vec<Tensor>> {
    let empty = |spec: &ParamSpec| Tensor::empty(spec.shape, Dtype::F32, Device::Cpu);
    let mut tensors = specs.iter().map(empty).collect::<Result<Vec<Tensor>>>()?;
    let (mut targets, mut jobs) = (Vec::with_capacity(specs.len()), Vec::new());
    for (index, (source, tensor)) in sources.iter().zip(&mut tensors).enumerate() {
        let (count, len) = (tensor.count(), source.rows * source.row);
        jobs.extend((0..count).step_by(len).map(|start| (index, start, len.min(count - start))));
        targets.push(DisjointMut::new(tensor.host_mut::<f32>()?));
    }
    for_each_block(jobs.len(), 1 << 19, |job| {
        let (index, start, len) = jobs[job];
        sources[index].read(start, targets[index].slice(start, len));
    });
    Ok(tensors)
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

#[cfg(test)]
mod tests {
    use super::super::tensors::write_tensors;
    use super::*;
    use crate::nn::Init;
    use crate::testing::Array;
    use std::collections::HashMap;

    #[test]
    fn parameters_of_several_pieces_come_back_read_at_once_or_when_wanted() {
        let spec = |name: &str, shape: Shape, layout| ParamSpec { name: name.into(), shape, layout, init: Init::Zeros };
        let specs = [
            spec("conv", [70, 3, 3, 256].into(), Layout::Conv),
            spec("linear", [300, 400].into(), Layout::Plain),
            spec("bias", [5].into(), Layout::Plain),
        ];
        let values = |(seed, spec): (usize, &ParamSpec)| {
            Tensor::from_slice(&Array::normal(spec.shape, seed as u64, 1.0, 0.0).to_f32(), spec.shape).unwrap()
        };
        let tensors: Vec<Tensor> = specs.iter().enumerate().map(values).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_tensors(&path, param_entries(&specs, &tensors, "a.").unwrap(), HashMap::new()).unwrap();
        let file = Arc::new(TensorFile::open(&path).unwrap());
        let pieces = Source::new(&specs[0], file.stored("a.conv").unwrap());
        assert!(tensors[0].count() > 2 * pieces.rows * pieces.row, "the largest is to be read in three pieces");
        let at_once = read_params(&file, &specs, "a.", true).unwrap();
        let when_wanted = open_params(&file, &specs, "a.").unwrap();
        for (i, (spec, want)) in specs.iter().zip(&tensors).enumerate() {
            let want = want.host::<f32>().unwrap();
            assert!(at_once.tensors()[i].host::<f32>().unwrap() == want, "{}, read at once", spec.name);
            let later = &when_wanted.tensors()[i];
            assert!(*later.derived(("copy", [0; 2]), <[f32]>::to_vec).unwrap() == want, "{}, derived", spec.name);
            assert!(later.host::<f32>().unwrap() == want, "{}, read when wanted", spec.name);
        }
    }
}
