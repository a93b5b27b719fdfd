//! Read-only bytes that are owned, built in, or mapped from a file. The `unsafe` of `io`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// Smaller files are read: a map costs page faults and holds the file open.
const MAP_ABOVE_BYTES: u64 = 1 << 20;

/// Bytes that do not change, wherever they live.
#[derive(Debug)]
pub enum Bytes {
    /// On the heap.
    Owned(Vec<u8>),
    /// Compiled into the program.
    Static(&'static [u8]),
    /// A file in the page cache, read when touched.
    Mapped(memmap2::Mmap),
}

impl Bytes {
    /// Opens a file: above 1 MiB it is mapped, else read.
    ///
    /// A mapped file must not be shortened or changed while the value lives: the program would see the change, or
    /// be killed by the system. [`crate::io::write_atomically`] never does that, because it replaces the file.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened, read or mapped.
    pub fn open(path: impl AsRef<Path>) -> Result<Bytes> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        // A device or pipe has no length to map.
        if metadata.is_file() && metadata.len() > MAP_ABOVE_BYTES {
            // SAFETY: the map is read-only and private to this value. Its bytes change only if another program writes
            // into or shortens this very file; the documentation above forbids that, and nothing in this crate does it.
            let map = unsafe { memmap2::Mmap::map(&file) };
            return Ok(Bytes::Mapped(map.map_err(Error::io("map", path))?));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        Ok(Bytes::Owned(bytes))
    }

    /// Says that a part was read and may leave this process's memory; touched again, it comes back from the file.
    pub fn release(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = self {
            // Whole pages inside the range: its neighbours may still be wanted.
            const PAGE: usize = 64 << 10;
            let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
            if start < end {
                // SAFETY: the map is of a file and read-only, so dropping its pages changes no byte that is read later. It is a wish.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// All the bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => bytes,
            Bytes::Static(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_above_a_mebibyte_are_mapped_and_others_read_with_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for (len, mapped) in [(0, false), (5, false), (1 << 20, false), ((1 << 20) + 1, true)] {
            let path = folder.path().join("x");
            let want: Vec<u8> = (0..len).map(|i: usize| (i % 251) as u8).collect();
            std::fs::write(&path, &want).unwrap();
            let bytes = Bytes::open(&path).unwrap();
            assert_eq!(matches!(bytes, Bytes::Mapped(_)), mapped, "{len} bytes");
            assert!(bytes.as_slice() == want, "{len} bytes differ");
            bytes.release(5..len);
            assert!(bytes.as_slice() == want, "{len} bytes differ once released");
        }
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let text = Bytes::open("none/x.bin").unwrap_err().to_string();
        assert!(text.starts_with("cannot open none/x.bin: "), "{text}");
    }
}
