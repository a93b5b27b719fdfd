//! The embedded digits: 1797 grey images of 8x8 pixels with 17 levels, ten classes (`assets/`).

use super::{Dataset, Part, Split, idx::IdxFile};
use crate::Result;
use crate::io::Bytes;

/// The customary split of this set: its last fifth, which other people wrote.
const HELD_OUT: usize = 360;

pub(super) fn load() -> Result<Dataset> {
    let images = include_bytes!("../../assets/digits-images-idx3-ubyte.gz");
    let labels = include_bytes!("../../assets/digits-labels-idx1-ubyte.gz");
    let images = IdxFile::parse("embedded digits images", Bytes::Static(images))?;
    let labels = IdxFile::parse("embedded digits labels", Bytes::Static(labels))?;
    let [_, h, w, c] = images.image_shape()?;
    let labels = labels.labels()?;
    Dataset::new("digits", vec![Part::from(images)], [h, w, c], labels, Some(16), Split::Last(HELD_OUT))
}
