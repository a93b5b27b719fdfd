//! Files that appear whole or not at all.
//!
//! The content goes to `.NAME.tmp` in the same folder (a rename is atomic only within one file system), is forced to
//! the disk, and only then takes the name. The folder is forced too: without that a power cut may forget the rename.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes the file `path` through `write`, so that a crash, a full disk or an error leaves the old file as it was.
///
/// `write` gets a buffered writer; errors it returns are handed on. A symbolic link at `path` is replaced, not followed.
/// Two writers of one `path` at the same time share a temporary name: the caller sees to it that there is only one.
///
/// # Errors
/// [`Error::Usage`] if `path` names no file; [`Error::Io`] if the folder cannot be written, the disk is full or the rename
/// fails; whatever `write` returns. The temporary file is removed in every case.
///
/// # Example
/// ```
/// # fn main() -> tweedie::Result<()> {
/// let path = std::env::temp_dir().join(format!("tweedie-atomic-{}.txt", std::process::id()));
/// tweedie::io::write_atomically(&path, |out| {
///     out.write_all(b"whole").map_err(tweedie::Error::io("write", &path))
/// })?;
/// assert_eq!(std::fs::read(&path).ok(), Some(b"whole".to_vec()));
/// # std::fs::remove_file(&path).map_err(tweedie::Error::io("remove", &path))
/// # }
/// ```
pub fn write_atomically(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let temporary = temporary_name(path)?;
    let result = write_whole(&temporary, write)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("rename a finished file to", path)));
    if result.is_err() {
        // The error being reported matters more than a temporary that cannot be removed either.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    sync_folder(path)
}

fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    let mut writer = BufWriter::with_capacity(1 << 16, file);
    if let Err(error) = write(&mut writer) {
        // Dropping the writer would write its rest into a file that is about to be removed.
        let _ = writer.into_parts();
        return Err(error);
    }
    let file = writer.into_inner().map_err(|e| Error::io("write", path)(e.into_error()))?;
    file.sync_all().map_err(Error::io("write to disk", path))
}

fn temporary_name(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::Usage(format!("output path \"{}\": expected a file name at its end", path.display())));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    Ok(path.with_file_name(hidden))
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(Error::io("write to disk the folder", folder))
}

/// Other systems cannot open a folder for syncing; their rename is journalled.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, content: &[u8]) -> Result<()> {
        write_atomically(path, |out| out.write_all(content).map_err(Error::io("write", path)))
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_written_file_replaces_the_old_one_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        put(&path, b"old").unwrap();
        put(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_intact() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        put(&path, b"old").unwrap();
        let failed = write_atomically(&path, |out| {
            out.write_all(&[7; 1 << 20]).map_err(Error::io("write", &path))?;
            Err(Error::NonFinite("weight 3 is NaN".into()))
        });
        assert_eq!(failed.unwrap_err().to_string(), "weight 3 is NaN");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_stale_temporary_of_a_killed_run_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        fs::write(folder.path().join(".a.bin.tmp"), [9; 100]).unwrap();
        put(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_missing_folder_and_a_nameless_path_are_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let text = put(&folder.path().join("none/a.bin"), b"x").unwrap_err().to_string();
        assert!(text.starts_with("cannot create ") && text.contains("none"), "{text}");
        assert!(put(Path::new("/"), b"x").unwrap_err().to_string().contains("expected a file name"));
    }

    #[test]
    fn a_folder_in_the_place_of_the_file_is_an_error_and_the_temporary_goes() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a.bin")).unwrap();
        assert!(put(&folder.path().join("a.bin"), b"x").is_err());
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    /// The temporary's name is linked to the device that is always full, so the failure comes from the final flush.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_the_old_file_intact() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        put(&path, b"old").unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join(".a.bin.tmp")).unwrap();
        let error = put(&path, b"new").unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }
}
