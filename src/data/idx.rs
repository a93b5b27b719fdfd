//! IDX, the format of MNIST and its successors: a big-endian magic `0 0 8 ndim` (8 means unsigned bytes), `ndim`
//! sizes of four bytes, then the values, last index fastest. A gzipped file is recognised by its content, not by
//! its name.
//!
//! Images have three dimensions (grey, `[n, h, w]`) or four (`[n, h, w, c]`), labels one. A folder is searched for
//! `*images*` and `*labels*`; files with `t10k` or `test` in their names are the held-out part, and without them a
//! seeded tenth is held out. The path of one file of images takes the labels beside it.
//!
//! Pixel 255 becomes +1; where no pixel passes 127 the greatest does, so that images of 2 or 16 levels are not all
//! but black.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::Part;
use crate::io::Bytes;
use crate::{Error, Result};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Labels have one, colour images four.
const MAX_DIMENSIONS: usize = 4;

/// One IDX file of unsigned bytes, checked.
#[derive(Debug)]
pub struct IdxFile {
    /// What messages call it: its path.
    name: String,
    dims: Vec<usize>,
    bytes: Bytes,
    /// The length of the header.
    start: usize,
}

impl IdxFile {
    /// Opens a file; a large one that is not compressed is mapped, not read.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Data`] if it is not an IDX file of unsigned bytes with one to
    /// four dimensions, or is cut short, or goes on after its last value.
    pub fn open(path: impl AsRef<Path>) -> Result<IdxFile> {
        let path = path.as_ref();
        IdxFile::parse(&path.display().to_string(), Bytes::open(path)?)
    }

    /// Checks the bytes of an IDX file, gzipped or not; `name` is what error messages call it.
    ///
    /// # Errors
    /// [`Error::Data`], as [`IdxFile::open`].
    pub fn parse(name: &str, bytes: Bytes) -> Result<IdxFile> {
        let bytes = if bytes.as_slice().starts_with(&GZIP_MAGIC) { unzip(name, bytes.as_slice())? } else { bytes };
        let content = bytes.as_slice();
        let ndim = dimensions(name, content)?;
        let start = 4 + 4 * ndim;
        let (sizes, _) = content.get(4..start).ok_or_else(|| cut_short(name, start, content.len()))?.as_chunks::<4>();
        let dims: Vec<usize> = sizes.iter().map(|size| u32::from_be_bytes(*size) as usize).collect();
        let values = value_count(name, &dims)?;
        let have = content.len() - start;
        if have < values {
            return Err(cut_short(name, start + values, content.len()));
        }
        if have > values {
            return Err(Error::Data(format!(
                "{name}: expected {values} values of {dims:?} after the header, got {} bytes more; the file is \
                 damaged or its sizes are wrong",
                have - values
            )));
        }
        Ok(IdxFile { name: name.to_string(), dims, bytes, start })
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// All values, last index fastest.
    pub fn values(&self) -> &[u8] {
        &self.bytes.as_slice()[self.start..]
    }

    /// `[n, h, w, c]` of a file of images.
    ///
    /// # Errors
    /// [`Error::Data`] if there are not three or four dimensions.
    pub fn image_shape(&self) -> Result<[usize; 4]> {
        match *self.dims {
            [n, h, w] => Ok([n, h, w, 1]),
            [n, h, w, c] => Ok([n, h, w, c]),
            _ => Err(Error::Data(format!(
                "{}: expected images [n, h, w] or [n, h, w, c], got {:?}{}",
                self.name,
                self.dims,
                if self.dims.len() == 1 { "; this is a file of labels, name the one of images" } else { "" }
            ))),
        }
    }

    /// The values of a file of labels.
    ///
    /// # Errors
    /// [`Error::Data`] if there is more than one dimension.
    pub fn labels(&self) -> Result<Vec<u32>> {
        if self.dims.len() != 1 {
            return Err(Error::Data(format!("{}: expected labels [n], got {:?}", self.name, self.dims)));
        }
        Ok(self.values().iter().map(|label| u32::from(*label)).collect())
    }

    /// What error messages call the file.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<IdxFile> for Part {
    /// The images along the first dimension.
    fn from(file: IdxFile) -> Part {
        Part { images: file.dims[0], bytes: file.bytes, start: file.start }
    }
}

fn dimensions(name: &str, content: &[u8]) -> Result<usize> {
    match *content {
        [0, 0, 8, ndim, ..] if (1..=MAX_DIMENSIONS).contains(&usize::from(ndim)) => Ok(ndim.into()),
        [a, b, c, d, ..] => Err(Error::Data(format!(
            "{name}: expected an IDX file of unsigned bytes (first bytes 00 00 08 01 to 00 00 08 04), got {a:02x} \
             {b:02x} {c:02x} {d:02x}"
        ))),
        _ => Err(cut_short(name, 4, content.len())),
    }
}

fn value_count(name: &str, dims: &[usize]) -> Result<usize> {
    let count =
        dims.iter().try_fold(1usize, |count, size| count.checked_mul(*size)).filter(|c| *c < isize::MAX as usize);
    count.ok_or_else(|| Error::Data(format!("{name}: sizes {dims:?} are beyond any file; the header is damaged")))
}

fn cut_short(name: &str, want: usize, have: usize) -> Error {
    Error::Data(format!("{name}: expected {want} bytes, got {have}; the file is cut short, fetch it again"))
}

/// Unpacks as much as the header announces and one byte more, so that a forged file cannot fill the memory.
fn unzip(name: &str, packed: &[u8]) -> Result<Bytes> {
    let mut decoder = MultiGzDecoder::new(packed);
    let mut read = |limit: usize, bytes: &mut Vec<u8>| {
        let result = decoder.by_ref().take(limit as u64).read_to_end(bytes);
        result.map_err(|e| Error::Data(format!("{name}: gzip data is damaged ({e}); fetch the file again")))
    };
    let mut bytes = Vec::new();
    read(4, &mut bytes)?;
    let ndim = dimensions(name, &bytes)?;
    read(4 * ndim, &mut bytes)?;
    let (sizes, _) = bytes[4..].as_chunks::<4>();
    if sizes.len() < ndim {
        return Err(cut_short(name, 4 + 4 * ndim, bytes.len()));
    }
    let dims: Vec<usize> = sizes.iter().map(|size| u32::from_be_bytes(*size) as usize).collect();
    read(value_count(name, &dims)? + 1, &mut bytes)?;
    Ok(Bytes::Owned(bytes))
}

#[cfg(test)]
#[path = "idx_tests.rs"]
mod tests;
