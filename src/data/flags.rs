//! The embedded flags: 244 colour images of 11 rows and 16 columns, 256 levels, without classes (`assets/`).

use super::{Dataset, Part, Split, idx::IdxFile};
use crate::Result;
use crate::io::Bytes;

/// The last tenth, by the names' order.
const HELD_OUT: usize = 24;

pub(super) fn load() -> Result<Dataset> {
    let images = include_bytes!("../../assets/flags-images-idx4-ubyte.gz");
    let images = IdxFile::parse("embedded flags", Bytes::Static(images))?;
    let [_, h, w, c] = images.image_shape()?;
    Dataset::new("flags", vec![Part::from(images)], [h, w, c], Vec::new(), Some(255), Split::Last(HELD_OUT))
}
