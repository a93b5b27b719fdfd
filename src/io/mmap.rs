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
            // All that the system brought in for it: a fault maps what stands around it too. A neighbour that is still wanted comes back by
            // another fault, while one that was released before would else stay.
            const AROUND: usize = 64 << 10;
            let (start, end) = (range.start / AROUND * AROUND, range.end.next_multiple_of(AROUND).min(map.len()));
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

    /// KiB of the map of `path` that are in this process's memory.
    #[cfg(target_os = "linux")]
    fn resident(path: &Path) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let of_map = maps.lines().skip_while(|line| !line.contains(path.to_str().unwrap()));
        let rss = of_map.map_while(|line| line.strip_prefix("Rss:").map_or(Some(None), |text| Some(Some(text))));
        let kib = rss.flatten().next().unwrap().trim().trim_end_matches("kB");
        kib.trim().parse().unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_read_and_released_leaves_memory_whatever_the_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        // Page by page: what is written at once may be mapped, and dropped, by 2 MiB at once.
        let mut file = File::create(&path).unwrap();
        (0..1024).for_each(|_| std::io::Write::write_all(&mut file, &[7; 4096]).unwrap());
        let bytes = Bytes::open(&path).unwrap();
        let sum = |range: std::ops::Range<usize>| bytes.as_slice()[range].iter().map(|b| u64::from(*b)).sum::<u64>();
        assert_eq!(sum(0..4 << 20), 7 << 22);
        assert!(resident(&path) >= 4 << 10, "{} KiB", resident(&path));
        // Pieces that end in the middle of pages, as tensors do.
        for start in (1000..4 << 20).step_by(250_000) {
            let end = (start + 250_000).min(4 << 20);
            assert_eq!(sum(start..end), 7 * (end - start) as u64);
            bytes.release(start..end);
        }
        assert!(resident(&path) <= 64, "{} KiB are left", resident(&path));
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let text = Bytes::open("none/x.bin").unwrap_err().to_string();
        assert!(text.starts_with("cannot open none/x.bin: "), "{text}");
    }
}
