//! Compiled kernels on disk, so that a program without embedded ones compiles once a machine.
//!
//! A file holds its whole key (compiler, options, source) and a checksum: names that collide and files that are damaged are misses. A
//! folder that cannot be written costs the time to compile, never the run.

use flate2::Crc;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io, process};

/// The variable that names the folder to use instead of the user's; empty for no cache.
const VARIABLE: &str = "TWEEDIE_CACHE";

/// The first bytes of a file: the format and its version.
const MAGIC: &[u8; 16] = b"tweedie kernel 1";

/// Where compiled kernels are kept, if anywhere.
pub(super) struct Cache(pub(super) Option<PathBuf>);

impl Cache {
    /// The user's own.
    pub(super) fn of_user() -> Cache {
        Cache(folder(|name| env::var_os(name)))
    }

    /// The image that was written under this key.
    pub(super) fn read(&self, stem: &str, key: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(path(self.0.as_deref()?, stem, key)).ok()?;
        let (sum, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        let (length, rest) = body.split_first_chunk::<8>()?;
        let (known, image) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        (u32::from_le_bytes(*sum) == checksum(body) && known == key.as_bytes()).then(|| image.to_vec())
    }

    /// Keeps an image; a cache that fails is none.
    pub(super) fn write(&self, stem: &str, key: &str, image: &[u8]) {
        if let Some(folder) = &self.0 {
            let _ = write(folder, &path(folder, stem, key), key, image);
        }
    }
}

fn write(folder: &Path, path: &Path, key: &str, image: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    fs::create_dir_all(folder)?;
    let body = [&(key.len() as u64).to_le_bytes(), key.as_bytes(), image].concat();
    // Renamed into place: readers see all of a file or none.
    let temporary = path.with_extension(format!("{}-{}.tmp", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let mut file = fs::File::create_new(&temporary)?;
    let written = [&MAGIC[..], &checksum(&body).to_le_bytes(), &body].iter().try_for_each(|part| file.write_all(part));
    drop(file);
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

fn path(folder: &Path, stem: &str, key: &str) -> PathBuf {
    folder.join(format!("{stem}-{:08x}", checksum(key.as_bytes())))
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The folder that the environment asks for.
fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let base = match variable(VARIABLE) {
        Some(named) if named.is_empty() => return None,
        Some(named) => return Some(PathBuf::from(named).join("kernels")),
        None => {
            // A path that is not absolute would depend on the current folder.
            let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
            if cfg!(windows) {
                absolute("LOCALAPPDATA")
            } else if cfg!(target_os = "macos") {
                absolute("HOME").map(|home| home.join("Library/Caches"))
            } else {
                absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            }
        }
    };
    base.map(|base| base.join("tweedie").join("kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_file(folder: &Path) -> PathBuf {
        let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn what_was_written_is_read_under_its_own_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache(Some(folder.path().join("deep/kernels")));
        let key = "NVRTC 12.9 -lineinfo compute_80\nint a;";
        assert_eq!(cache.read("conv2d", key), None);
        cache.write("conv2d", key, b"image");
        assert_eq!(cache.read("conv2d", key).unwrap(), b"image");
        for other in ["NVRTC 13.0 -lineinfo compute_80\nint a;", "NVRTC 12.9 -lineinfo compute_80\nint b;"] {
            assert_eq!(cache.read("conv2d", other), None);
        }
        assert_eq!(cache.read("linear", key), None);
        cache.write("conv2d", key, b"newer");
        assert_eq!(cache.read("conv2d", key).unwrap(), b"newer");
        only_file(&folder.path().join("deep/kernels"));
    }

    #[test]
    fn keys_that_share_a_name_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache(Some(folder.path().into()));
        cache.write("conv2d", "one", b"image");
        fs::rename(only_file(folder.path()), path(folder.path(), "conv2d", "two")).unwrap();
        assert_eq!(cache.read("conv2d", "two"), None);
    }

    #[test]
    fn a_damaged_file_is_a_miss_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache(Some(folder.path().into()));
        cache.write("conv2d", "key", b"image");
        let file = only_file(folder.path());
        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            assert_eq!(cache.read("conv2d", "key"), None, "cut to {length} bytes");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(&file, damaged).unwrap();
            assert_eq!(cache.read("conv2d", "key"), None, "byte {at}");
        }
        cache.write("conv2d", "key", b"image");
        assert_eq!(cache.read("conv2d", "key").unwrap(), b"image");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for cache in [Cache(None), Cache(Some(file.join("kernels")))] {
            cache.write("conv2d", "key", b"image");
            assert_eq!(cache.read("conv2d", "key"), None);
        }
    }

    #[test]
    fn the_environment_names_the_folder() {
        let of = |pairs: &[(&str, &str)]| {
            folder(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        assert_eq!(of(&[("TWEEDIE_CACHE", "here")]), Some(Path::new("here").join("kernels")));
        assert_eq!(of(&[("TWEEDIE_CACHE", ""), ("HOME", "/me")]), None);
        assert_eq!(of(&[]), None);
        if cfg!(target_os = "linux") {
            let home = ("HOME", "/me");
            assert_eq!(of(&[home]), Some("/me/.cache/tweedie/kernels".into()));
            assert_eq!(of(&[home, ("XDG_CACHE_HOME", "/cache")]), Some("/cache/tweedie/kernels".into()));
            assert_eq!(of(&[home, ("XDG_CACHE_HOME", "cache")]), Some("/me/.cache/tweedie/kernels".into()));
        }
    }
}
