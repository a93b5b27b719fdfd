//! safetensors files: reading by name with clear errors, writing atomically.

use super::atomic::write_atomically;
use super::mmap::Bytes;
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open safetensors file.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Bytes,
    metadata: Metadata,
    data_start: usize,
}

impl TensorFile {
    /// Opens and checks a file: its header must be whole and describe exactly the bytes that follow.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Model`] if it is truncated or malformed.
    pub fn open(path: impl AsRef<Path>) -> Result<TensorFile> {
        let path = path.as_ref().to_path_buf();
        let bytes = Bytes::open(&path)?;
        let (header, metadata) = SafeTensors::read_metadata(bytes.as_slice()).map_err(|e| {
            let text = format!("{}: not a whole safetensors file ({e}); copy or write it again", path.display());
            Error::Model(text)
        })?;
        Ok(TensorFile { path, bytes, metadata, data_start: 8 + header })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.metadata.tensors().into_keys().collect();
        names.sort();
        names
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The text stored under `key` in the header.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Sizes of a tensor as stored.
    ///
    /// # Errors
    /// [`Error::Model`] if it is missing.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.info(name)?.shape)
    }

    fn info(&self, name: &str) -> Result<&safetensors::tensor::TensorInfo> {
        self.metadata.info(name).ok_or_else(|| {
            let names = self.names();
            let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            let more = if names.len() > 8 { format!(" and {} more", names.len() - 8) } else { String::new() };
            Error::Model(format!("{}: tensor \"{name}\" is missing; it holds {shown}{more}", self.path.display()))
        })
    }

    /// A tensor as f32, from any float type.
    ///
    /// # Errors
    /// [`Error::Model`] if it is missing or not of a float type.
    pub fn f32s(&self, name: &str) -> Result<Vec<f32>> {
        let floats = self.floats(name)?;
        let mut values = vec![0.0; floats.count()];
        floats.read(0, &mut values);
        Ok(values)
    }

    /// A tensor of any float type where it lies in the file.
    ///
    /// # Errors
    /// As [`TensorFile::f32s`].
    pub fn floats(&self, name: &str) -> Result<Floats<'_>> {
        let (dtype, data) = self.raw(name)?;
        match dtype {
            Dtype::F32 | Dtype::F64 | Dtype::BF16 | Dtype::F16 => Ok(Floats { dtype, data }),
            other => Err(self.wrong_type(name, "floats", other)),
        }
    }

    /// As [`TensorFile::floats`], with a share in the file.
    ///
    /// # Errors
    /// As [`TensorFile::f32s`].
    pub fn stored(self: &Arc<TensorFile>, name: &str) -> Result<StoredFloats> {
        let floats = self.floats(name)?;
        let start = floats.data.as_ptr() as usize - self.bytes.as_slice().as_ptr() as usize;
        Ok(StoredFloats { dtype: floats.dtype, range: start..start + floats.data.len(), file: self.clone() })
    }

    /// A tensor as f64, from any float type.
    ///
    /// # Errors
    /// As [`TensorFile::f32s`].
    pub fn f64s(&self, name: &str) -> Result<Vec<f64>> {
        match self.raw(name)? {
            (Dtype::F64, data) => Ok(words::<8>(data).map(f64::from_le_bytes).collect()),
            _ => Ok(self.f32s(name)?.into_iter().map(f64::from).collect()),
        }
    }

    /// A tensor of integers.
    ///
    /// # Errors
    /// [`Error::Model`] if it is missing or not of an integer type of 32 or 64 bits.
    pub fn i64s(&self, name: &str) -> Result<Vec<i64>> {
        let (dtype, data) = self.raw(name)?;
        match dtype {
            Dtype::I64 => Ok(words::<8>(data).map(i64::from_le_bytes).collect()),
            Dtype::I32 => Ok(words::<4>(data).map(|w| i64::from(i32::from_le_bytes(w))).collect()),
            Dtype::U32 => Ok(words::<4>(data).map(|w| i64::from(u32::from_le_bytes(w))).collect()),
            other => Err(self.wrong_type(name, "integers", other)),
        }
    }

    /// A float tensor as an f32 [`Tensor`] of the stored shape.
    ///
    /// # Errors
    /// As [`TensorFile::f32s`]; [`Error::Model`] for more than five axes.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let shape = self.shape(name)?;
        if shape.len() > 5 {
            return Err(Error::Model(format!(
                "{}: \"{name}\" has {} axes; at most 5",
                self.path.display(),
                shape.len()
            )));
        }
        Tensor::from_slice(&self.f32s(name)?, Shape::from(shape))
    }

    fn raw(&self, name: &str) -> Result<(Dtype, &[u8])> {
        let info = self.info(name)?;
        let (start, end) = info.data_offsets;
        let bytes = self.bytes.as_slice();
        let data = bytes.get(self.data_start + start..self.data_start + end);
        data.map(|d| (info.dtype, d)).ok_or_else(|| {
            Error::Model(format!("{}: \"{name}\" lies beyond the end of the file; copy it again", self.path.display()))
        })
    }

    fn wrong_type(&self, name: &str, wants: &str, got: Dtype) -> Error {
        Error::Model(format!("{}: \"{name}\" holds {got:?}, expected {wants}", self.path.display()))
    }
}

/// Values of a float type in a file that stays open for them.
#[derive(Clone, Debug)]
pub struct StoredFloats {
    file: Arc<TensorFile>,
    dtype: Dtype,
    range: std::ops::Range<usize>,
}

impl StoredFloats {
    /// The values.
    pub fn get(&self) -> Floats<'_> {
        Floats { dtype: self.dtype, data: &self.file.bytes.as_slice()[self.range.clone()] }
    }

    /// Says that the values from number `start` on were read: see [`Bytes::release`].
    pub fn release(&self, start: usize, count: usize) {
        let (width, first) = (self.get().width(), self.range.start);
        self.file.bytes.release(first + start * width..first + (start + count) * width);
    }
}

/// Values of a float type in a file.
#[derive(Clone, Copy, Debug)]
pub struct Floats<'a> {
    dtype: Dtype,
    data: &'a [u8],
}

impl Floats<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.data.len() / self.width()
    }

    fn width(&self) -> usize {
        match self.dtype {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            _ => 2,
        }
    }

    /// Reads the values from number `start` on into `to`, as f32.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn read(&self, start: usize, to: &mut [f32]) {
        let data = &self.data[start * self.width()..][..to.len() * self.width()];
        // Bytes in a file may lie at any address, so values are read one by one.
        match self.dtype {
            Dtype::F64 => fill(to, words::<8>(data).map(|w| f64::from_le_bytes(w) as f32)),
            Dtype::BF16 => fill(to, words::<2>(data).map(|w| half::bf16::from_le_bytes(w).to_f32())),
            Dtype::F16 => fill(to, words::<2>(data).map(|w| half::f16::from_le_bytes(w).to_f32())),
            _ => fill(to, words::<4>(data).map(f32::from_le_bytes)),
        }
    }
}

fn fill(to: &mut [f32], values: impl Iterator<Item = f32>) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to = value);
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks::<N>().0.iter().copied()
}

/// One tensor on its way into a file. Its bytes are made when they are written, so a large file needs little memory.
pub struct Entry<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Box<dyn Fn() -> Cow<'a, [u8]> + 'a>,
}

impl<'a> Entry<'a> {
    /// An f32 tensor.
    pub fn f32s(name: impl Into<String>, values: &'a [f32], shape: &[usize]) -> Entry<'a> {
        let bytes = move || Cow::Borrowed(bytemuck::cast_slice(values));
        Entry { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes: Box::new(bytes) }
    }

    /// An f32 tensor whose values are made on demand.
    pub fn made(name: impl Into<String>, shape: &[usize], make: impl Fn() -> Vec<f32> + 'a) -> Entry<'a> {
        let bytes = move || Cow::Owned(bytemuck::cast_slice(&make()).to_vec());
        Entry { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes: Box::new(bytes) }
    }

    /// An i64 vector.
    pub fn i64s(name: impl Into<String>, values: &'a [i64]) -> Entry<'a> {
        let bytes = move || Cow::Borrowed(bytemuck::cast_slice(values));
        Entry { name: name.into(), dtype: Dtype::I64, shape: vec![values.len()], bytes: Box::new(bytes) }
    }
}

impl Entry<'_> {
    fn byte_count(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// The description of the tensors, which are to follow in this order, padded to whole words of eight bytes.
fn header(entries: &[Entry<'_>], texts: HashMap<String, String>) -> std::result::Result<Vec<u8>, String> {
    let mut end = 0;
    let infos = entries.iter().map(|entry| {
        let start = end;
        end += entry.byte_count();
        (entry.name.clone(), TensorInfo { dtype: entry.dtype, shape: entry.shape.clone(), data_offsets: (start, end) })
    });
    let metadata = Metadata::new(Some(texts), infos.collect()).map_err(|e| e.to_string())?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// Writes a safetensors file: under a temporary name, forced to the disk, then renamed.
///
/// The crate's own writer is not used: it makes a temporary file of a random name beside the file, which a killed
/// process leaves there for good.
///
/// # Errors
/// [`Error::Io`] if it cannot be written (the old file stays as it was).
pub fn write_tensors(
    path: impl AsRef<Path>,
    mut entries: Vec<Entry<'_>>,
    texts: HashMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    if cfg!(target_endian = "big") {
        return Err(Error::Model("safetensors: writing on a big-endian machine is not supported".into()));
    }
    // Wide elements first, so that each tensor is aligned to its element.
    entries.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let header = header(&entries, texts)
        .map_err(|reason| Error::Model(format!("{}: cannot be written: {reason}", path.display())))?;
    write_atomically(path, |out| {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io("write", path));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        entries.iter().try_for_each(|entry| put(&(entry.bytes)()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process killed here leaves behind, the next write of the same file takes over.
    #[test]
    fn while_a_file_is_written_its_folder_holds_one_temporary_of_a_fixed_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let seen = std::cell::RefCell::new(Vec::new());
        let look = || {
            let names =
                std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            seen.borrow_mut().extend(names);
            vec![1.0]
        };
        write_tensors(&path, vec![Entry::made("a", &[1], look)], HashMap::new()).unwrap();
        assert_eq!(*seen.borrow(), [".x.safetensors.tmp"]);
        assert_eq!(TensorFile::open(&path).unwrap().f32s("a").unwrap(), [1.0]);
    }

    #[cfg(unix)]
    #[test]
    fn a_written_file_has_the_permissions_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (plain, path) = (folder.path().join("plain"), folder.path().join("x.safetensors"));
        std::fs::write(&plain, b"x").unwrap();
        write_tensors(&path, vec![Entry::i64s("a", &[1])], HashMap::new()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), mode(&plain));
    }

    #[test]
    fn written_tensors_are_read_back_and_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let values = [1.0_f32, -2.0, 3.5];
        let texts = HashMap::from([("note".to_string(), "hello".to_string())]);
        write_tensors(&path, vec![Entry::f32s("a", &values, &[3]), Entry::i64s("b", &[7, -1])], texts).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.f32s("a").unwrap(), values);
        assert_eq!(file.i64s("b").unwrap(), [7, -1]);
        assert_eq!(file.text("note"), Some("hello"));
        let error = file.f32s("c").unwrap_err().to_string();
        assert!(error.contains("tensor \"c\" is missing; it holds a, b"), "{error}");
        assert!(file.f32s("b").unwrap_err().to_string().contains("holds I64, expected floats"));

        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..5], b"not tensors at all, just text"] {
            std::fs::write(&path, damaged).unwrap();
            let error = TensorFile::open(&path).unwrap_err().to_string();
            assert!(error.contains("not a whole safetensors file"), "{error}");
        }
    }
}
