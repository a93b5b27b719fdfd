//! Finds the IDX files of a data set in a folder, or beside a file, and joins them.

use std::path::{Path, PathBuf};

use super::idx::IdxFile;
use super::{Dataset, Part, Split};
use crate::{Error, Result};

/// Opens the data set at `path`, a folder or a file of images.
pub(super) fn load(path: &Path, split_seed: u64) -> Result<Dataset> {
    let (train, test) = if path.is_dir() { find_in_folder(path)? } else { (beside(path), None) };
    let (images, mut labels) = train.open()?;
    let [n, h, w, c] = images.image_shape()?;
    let mut split = Split::Seeded(split_seed);
    let mut parts = vec![images];
    if let Some(test) = test {
        let (test_images, test_labels) = test.open()?;
        let [test_n, ..] = test_images.image_shape()?;
        if test_images.image_shape()?[1..] != [h, w, c] {
            return Err(Error::Data(format!(
                "{} holds images {:?}, but {} holds {:?}; expected equal sizes",
                test_images.name(),
                test_images.dims(),
                parts[0].name(),
                parts[0].dims()
            )));
        }
        if (test_n > 0 && n > 0) && test_labels.is_empty() != labels.is_empty() {
            let (with, without) = if labels.is_empty() { (&test, &train) } else { (&train, &test) };
            return Err(Error::Data(format!(
                "{} has labels, but {} has none; expected both or neither",
                with.images.display(),
                without.images.display()
            )));
        }
        labels.extend(test_labels);
        split = Split::Last(test_n);
        parts.push(test_images);
    }
    let parts = parts.into_iter().map(Part::from).collect();
    Dataset::new(&path.display().to_string(), parts, [h, w, c], labels, None, split)
}

/// A file of images and perhaps one of labels.
struct Pair {
    images: PathBuf,
    labels: Option<PathBuf>,
}

impl Pair {
    /// Both files, checked to be of equal length.
    fn open(&self) -> Result<(IdxFile, Vec<u32>)> {
        let images = IdxFile::open(&self.images)?;
        let [n, ..] = images.image_shape()?;
        let Some(path) = &self.labels else { return Ok((images, Vec::new())) };
        let labels = IdxFile::open(path)?.labels()?;
        if labels.len() != n {
            return Err(Error::Data(format!(
                "{} holds {} labels, but {} holds {n} images; expected as many",
                path.display(),
                labels.len(),
                images.name()
            )));
        }
        Ok((images, labels))
    }
}

/// The training pair and the test pair; a folder of one kind only has just the first.
fn find_in_folder(folder: &Path) -> Result<(Pair, Option<Pair>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = file_name(&path);
        // Hidden files: unfinished downloads and the resource forks of archives.
        if path.is_file() && !name.starts_with('.') && (name.contains("images") || name.contains("labels")) {
            files.push(path);
        }
    }
    // Without an order of ours, the choice would be the file system's.
    files.sort();
    let (test, train): (Vec<_>, Vec<_>) = files.into_iter().partition(|path| is_test(&file_name(path)));
    let train = find_pair(folder, &train)?;
    let test = find_pair(folder, &test)?;
    match (train, test) {
        (Some(train), test) => Ok((train, test)),
        (None, Some(test)) => Ok((test, None)),
        (None, None) => Err(Error::Data(format!(
            "data set \"{}\": expected IDX files *images* (and *labels*), gzipped or not, such as \
             train-images-idx3-ubyte.gz, got a folder without any",
            folder.display()
        ))),
    }
}

fn is_test(name: &str) -> bool {
    name.contains("t10k") || name.contains("test")
}

/// The one file of images and the one of labels among `files`.
fn find_pair(folder: &Path, files: &[PathBuf]) -> Result<Option<Pair>> {
    let one = |kind: &str| {
        let mut found: Vec<&PathBuf> = files.iter().filter(|path| file_name(path).contains(kind)).collect();
        // An unpacked file beside its .gz is the same data, and can be mapped.
        let unpacked: Vec<PathBuf> = found.iter().map(|path| path.to_path_buf()).collect();
        found.retain(|path| path.extension().is_none_or(|e| e != "gz") || !unpacked.contains(&path.with_extension("")));
        match found[..] {
            [] => Ok(None),
            [path] => Ok(Some(path.clone())),
            _ => Err(Error::Data(format!(
                "data set \"{}\": expected one file of {kind}, got {}; name the file of images you want",
                folder.display(),
                found.iter().map(|path| file_name(path)).collect::<Vec<_>>().join(", ")
            ))),
        }
    };
    let Some(images) = one("images")? else { return Ok(None) };
    Ok(Some(Pair { images, labels: one("labels")? }))
}

/// The file of images with the labels whose name it implies: `train-images-idx3-ubyte.gz` →
/// `train-labels-idx1-ubyte`, gzipped or not.
fn beside(images: &Path) -> Pair {
    let name = images.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let labels = name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1");
    let unpacked = labels.strip_suffix(".gz").unwrap_or(&labels);
    let candidates = [unpacked.to_string(), format!("{unpacked}.gz")].map(|name| images.with_file_name(name));
    let labels = if labels == name { None } else { candidates.into_iter().find(|path| path.is_file()) };
    Pair { images: images.to_path_buf(), labels }
}

/// In lower case, for comparison.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
}
