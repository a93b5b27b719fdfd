//! Data sets: 8-bit images, their labels, and which of them are held out; text as tokens; and toy points of the plane.

pub mod idx;
pub mod loader;

mod digits;
mod fingerprint;
mod flags;
mod idx_folder;
mod split;
mod text;
mod tokens;
mod toys;

pub use loader::Loader;
pub use text::{MASK_SYMBOL, TextSet, Tokenizer, TokenizerKind};
pub use tokens::TokenData;
pub use toys::Toy;

use std::path::Path;

use fingerprint::Fnv;
use split::Split;
use text::EMBEDDED as EMBEDDED_TEXT;

use crate::error::unknown_name;
use crate::io::Bytes;
use crate::{Error, Result};

type Load = fn() -> Result<Dataset>;

/// The embedded data sets by name.
const EMBEDDED: &[(&str, Load)] = &[("digits", digits::load), ("flags", flags::load)];

/// Consecutive images in one piece of memory.
#[derive(Debug)]
struct Part {
    bytes: Bytes,
    /// Where the first pixel lies in `bytes`.
    start: usize,
    images: usize,
}

/// A set of labelled or unlabelled images `[count, h, w, c]` with 8-bit pixels; each is training data or held out.
#[derive(Debug)]
pub struct Dataset {
    name: String,
    /// Two of them where a file of test images follows the file of training images: a map stays a map.
    parts: Vec<Part>,
    count: usize,
    labels: Vec<u32>,
    height: usize,
    width: usize,
    channels: usize,
    max_value: u32,
    class_names: Vec<String>,
    train: Vec<u32>,
    held_out: Vec<u32>,
    /// The value in [-1, 1] of each pixel level.
    levels: [f32; 256],
}

/// Whether `spec` can only be a path, and nothing is there.
pub(crate) fn is_missing(spec: &str) -> bool {
    let path = Path::new(spec);
    (path.components().count() > 1 || path.extension().is_some()) && !path.exists()
}

impl Dataset {
    /// Opens a data set: the name of an embedded one (`digits`, `flags`), or the path of IDX files (see [`idx`]).
    ///
    /// `split_seed` chooses the held-out tenth where the data set does not bring its own split.
    ///
    /// # Errors
    /// [`Error::Usage`] if `spec` is neither a known name nor a path; [`Error::Data`] if the files are malformed;
    /// [`Error::Io`] if they cannot be read.
    ///
    /// # Example
    /// ```
    /// # fn main() -> tweedie::Result<()> {
    /// let digits = tweedie::data::Dataset::load("digits", 0)?;
    /// assert_eq!((digits.len(), digits.shape(), digits.num_classes()), (1797, [8, 8, 1], 10));
    /// assert_eq!((digits.train().len(), digits.held_out().len()), (1437, 360));
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(spec: &str, split_seed: u64) -> Result<Dataset> {
        if let Some((_, load)) = EMBEDDED.iter().find(|(name, _)| *name == spec) {
            return load();
        }
        let path = Path::new(spec);
        if path.exists() {
            return idx_folder::load(path, split_seed);
        }
        if is_missing(spec) {
            return Err(Error::Usage(format!(
                "data set \"{spec}\": expected a folder or file of IDX images, or a file of text, got a path that does not exist"
            )));
        }
        let known: Vec<&str> =
            EMBEDDED.iter().map(|(name, _)| *name).chain([EMBEDDED_TEXT, "PATH of IDX images or of a text"]).collect();
        Err(unknown_name("data set", spec, &known))
    }

    /// A data set in memory; the last `held_out` images are held out. Classes are named by their number.
    ///
    /// * `pixels` — `[n, h, w, c]`, each at most `max_value`
    /// * `shape` — `[n, h, w, c]`, all at least 1
    /// * `labels` — `n` of them, or none
    /// * `max_value` — 1 to 255, the pixel value that becomes +1
    ///
    /// # Errors
    /// [`Error::Data`] if sizes disagree, a pixel exceeds `max_value`, or `held_out` leaves nothing to train on.
    pub fn from_pixels(
        name: &str,
        pixels: Vec<u8>,
        shape: [usize; 4],
        labels: Vec<u32>,
        max_value: u32,
        held_out: usize,
    ) -> Result<Dataset> {
        let [n, h, w, c] = shape;
        if pixels.len() != shape.iter().product::<usize>() {
            return Err(Error::Data(format!(
                "data set \"{name}\" of {shape:?}: expected {} pixels, got {}",
                shape.iter().product::<usize>(),
                pixels.len()
            )));
        }
        let part = Part { bytes: Bytes::Owned(pixels), start: 0, images: n };
        Dataset::new(name, vec![part], [h, w, c], labels, Some(max_value), Split::Last(held_out))
    }

    /// Joins the parts, checks all that the accessors rely on, and splits. `max_value` of `None` is found by
    /// [`find_max_value`].
    fn new(
        name: &str,
        parts: Vec<Part>,
        [height, width, channels]: [usize; 3],
        labels: Vec<u32>,
        max_value: Option<u32>,
        split: Split,
    ) -> Result<Dataset> {
        let fail = |text: String| Err(Error::Data(format!("data set \"{name}\": {text}")));
        let count: usize = parts.iter().map(|p| p.images).sum();
        let image_len = height * width * channels;
        if count == 0 || image_len == 0 {
            return fail(format!("expected images, got {count} of [{height}, {width}, {channels}]"));
        }
        if count > u32::MAX as usize {
            return fail(format!("expected at most {} images, got {count}", u32::MAX));
        }
        if !labels.is_empty() && labels.len() != count {
            return fail(format!("expected as many labels as images, got {} and {count}", labels.len()));
        }
        let pixels = |part: &'_ Part| part.start..part.start + part.images * image_len;
        let greatest = parts.iter().flat_map(|p| p.bytes.as_slice()[pixels(p)].chunks(1 << 12)).map(greatest_of);
        let max_value = match max_value {
            None => find_max_value(greatest),
            Some(max_value) => {
                let greatest = u32::from(greatest.max().unwrap_or(0));
                if max_value == 0 || max_value > 255 || greatest > max_value {
                    return fail(format!("expected pixels up to {max_value} (1 to 255), got {greatest}"));
                }
                max_value
            }
        };
        let classes = labels.iter().max().map_or(0, |greatest| *greatest as usize + 1);
        let (train, held_out) = split.indices(count);
        if train.is_empty() {
            return fail(format!("all {count} images are held out; leave at least one to train on"));
        }
        Ok(Dataset {
            name: name.to_string(),
            parts,
            count,
            labels,
            height,
            width,
            channels,
            max_value,
            class_names: (0..classes).map(|k| k.to_string()).collect(),
            train,
            held_out,
            levels: std::array::from_fn(|p| (2.0 * p as f64 / f64::from(max_value) - 1.0) as f32),
        })
    }

    /// What the user called it: a name or a path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of images, training and held-out together; at least 1.
    #[allow(clippy::len_without_is_empty)] // a data set is never empty
    pub fn len(&self) -> usize {
        self.count
    }

    /// Height, width and channels of every image.
    pub fn shape(&self) -> [usize; 3] {
        [self.height, self.width, self.channels]
    }

    /// Height·width·channels: the values of one image.
    pub fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The pixel value that becomes +1, while 0 becomes -1: 16 for the digits, 255 for 8-bit images.
    pub fn max_value(&self) -> u32 {
        self.max_value
    }

    /// The number of classes: 0 if there are no labels, else the greatest label plus 1.
    pub fn num_classes(&self) -> usize {
        self.class_names.len()
    }

    /// One name a class, in the order of the labels.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The indices of the training images; at least one.
    pub fn train(&self) -> &[u32] {
        &self.train
    }

    /// The indices of the images kept for evaluation; may be empty.
    pub fn held_out(&self) -> &[u32] {
        &self.held_out
    }

    /// The class of image `i`, below [`Dataset::num_classes`]; `None` if the set has no labels.
    pub fn label(&self, i: usize) -> Option<u32> {
        self.labels.get(i).copied()
    }

    /// The pixels of image `i`, `[h, w, c]`.
    ///
    /// # Panics
    /// If `i` is [`Dataset::len`] or more, like a slice.
    pub fn image(&self, i: usize) -> &[u8] {
        let len = self.image_len();
        let mut index = i;
        let mut part = &self.parts[0];
        for next in &self.parts[1..] {
            if index < part.images {
                break;
            }
            index -= part.images;
            part = next;
        }
        assert!(index < part.images, "image {i} of {}", self.count);
        &part.bytes.as_slice()[part.start + index * len..][..len]
    }

    /// Writes image `i` as values in [-1, 1], `2·pixel/max_value - 1`, into `out` `[h, w, c]`.
    ///
    /// # Panics
    /// If `i` is out of range or `out` does not hold [`Dataset::image_len`] values, like `copy_from_slice`.
    pub fn copy_image(&self, i: usize, out: &mut [f32]) {
        let pixels = self.image(i);
        assert_eq!(out.len(), pixels.len(), "values of an image");
        for (x, pixel) in out.iter_mut().zip(pixels) {
            *x = self.levels[usize::from(*pixel)];
        }
    }

    /// 16 hexadecimal digits that change with the shape, the number of images, a pixel, `max_value` or a label, so
    /// that resuming on other data can be refused. Not for security. Reads everything: about 10 ms for 50 MB.
    pub fn fingerprint(&self) -> String {
        let mut hash = Fnv::new();
        for number in [self.count, self.height, self.width, self.channels, self.max_value as usize] {
            hash.word(number as u64);
        }
        for part in &self.parts {
            hash.bytes(&part.bytes.as_slice()[part.start..part.start + part.images * self.image_len()]);
        }
        for label in &self.labels {
            hash.word(u64::from(*label));
        }
        hash.text()
    }
}

fn greatest_of(pixels: &[u8]) -> u8 {
    pixels.iter().copied().fold(0, u8::max)
}

/// 255, or the greatest pixel where none passes 127: so 1-bit and 4-bit images fill [-1, 1] as 8-bit ones do. Stops
/// at the first chunk that decides.
fn find_max_value(chunk_maxima: impl Iterator<Item = u8>) -> u32 {
    let mut greatest = 0;
    for maximum in chunk_maxima {
        if maximum > 127 {
            return 255;
        }
        greatest = greatest.max(maximum);
    }
    if greatest == 0 { 255 } else { u32::from(greatest) }
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
