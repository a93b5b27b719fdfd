use std::io::Write;

use super::*;
use crate::data::Dataset;

fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder with these files.
fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn load(folder: &tempfile::TempDir, file: &str) -> Result<Dataset> {
    Dataset::load(folder.path().join(file).to_str().unwrap(), 5)
}

fn images(n: u32, first: u8) -> Vec<u8> {
    let values: Vec<u8> = (0..n as u8 * 6).map(|i| first + i).collect();
    idx(&[n, 2, 3], &values)
}

#[test]
fn test_files_become_the_held_out_part_after_the_training_images() {
    let files = [
        ("train-images-idx3-ubyte.gz", gzip(&images(3, 0))),
        ("train-labels-idx1-ubyte.gz", gzip(&idx(&[3], &[2, 0, 1]))),
        ("t10k-images-idx3-ubyte", images(2, 200)),
        ("t10k-labels-idx1-ubyte", idx(&[2], &[4, 3])),
        ("README", b"not data".to_vec()),
    ];
    let dataset = load(&folder(&files), "").unwrap();
    assert_eq!((dataset.len(), dataset.shape(), dataset.max_value()), (5, [2, 3, 1], 255));
    assert_eq!((dataset.train(), dataset.held_out()), (&[0, 1, 2][..], &[3, 4][..]));
    assert_eq!(
        (dataset.image(2), dataset.image(3), dataset.image(4)),
        (&[12, 13, 14, 15, 16, 17][..], &[200, 201, 202, 203, 204, 205][..], &[206, 207, 208, 209, 210, 211][..])
    );
    assert_eq!((0..5).map(|i| dataset.label(i).unwrap()).collect::<Vec<_>>(), [2, 0, 1, 4, 3]);
    assert_eq!(dataset.num_classes(), 5);
}

#[test]
fn one_pair_holds_out_a_seeded_tenth_and_colour_images_have_four_dimensions() {
    let values: Vec<u8> = (0..20 * 12).map(|i| (i % 256) as u8).collect();
    let folder = folder(&[("my-images.idx", idx(&[20, 2, 2, 3], &values))]);
    let dataset = load(&folder, "").unwrap();
    assert_eq!((dataset.shape(), dataset.num_classes()), ([2, 2, 3], 0));
    assert_eq!((dataset.train().len(), dataset.held_out().len()), (18, 2));
    assert_eq!(dataset.image(1), &values[12..24]);
}

#[test]
fn a_file_of_images_takes_the_labels_beside_it() {
    let files = [
        ("a-images-idx3-ubyte", images(2, 0)),
        ("a-labels-idx1-ubyte.gz", gzip(&idx(&[2], &[1, 0]))),
        ("b-images-idx3-ubyte", images(3, 0)),
    ];
    let folder = folder(&files);
    assert_eq!(load(&folder, "a-images-idx3-ubyte").unwrap().label(0), Some(1));
    assert_eq!(load(&folder, "b-images-idx3-ubyte").unwrap().label(0), None);
    let text = load(&folder, "").unwrap_err().to_string();
    assert!(text.contains("one file of images, got a-images-idx3-ubyte, b-images-idx3-ubyte; name the file"), "{text}");
    let text = load(&folder, "a-labels-idx1-ubyte.gz").unwrap_err().to_string();
    assert!(text.contains("this is a file of labels"), "{text}");
}

#[test]
fn an_unpacked_file_is_preferred_to_its_archive() {
    let files = [("x-images-idx3-ubyte", images(2, 0)), ("x-images-idx3-ubyte.gz", b"damaged".to_vec())];
    assert_eq!(load(&folder(&files), "").unwrap().len(), 2);
}

#[test]
fn large_files_are_mapped_and_small_or_packed_ones_owned() {
    let values = vec![200; 2 << 20];
    let large = idx(&[2, 1024, 1024], &values);
    let folder = folder(&[("large-images", large.clone()), ("packed-images.gz", gzip(&large))]);
    let large = IdxFile::open(folder.path().join("large-images")).unwrap();
    let packed = IdxFile::open(folder.path().join("packed-images.gz")).unwrap();
    assert!(matches!(large.bytes, Bytes::Mapped(_)) && matches!(packed.bytes, Bytes::Owned(_)));
    assert!(large.values() == values && packed.values() == values);
}

#[test]
fn damaged_files_are_refused_by_name() {
    let good = images(2, 0);
    let mut trailing = good.clone();
    trailing.push(0);
    let packed = gzip(&good);
    let huge = idx(&[u32::MAX, u32::MAX, u32::MAX], &[]);
    let mut floats = good.clone();
    floats[2] = 0x0d;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut", good[..20].to_vec(), "expected 28 bytes, got 20; the file is cut short"),
        ("header", good[..9].to_vec(), "expected 16 bytes, got 9"),
        ("empty", vec![], "expected 4 bytes, got 0"),
        ("trailing", trailing.clone(), "got 1 bytes more"),
        ("floats", floats, "got 00 00 0d 03"),
        ("text", b"hello".to_vec(), "expected an IDX file of unsigned bytes"),
        ("huge", huge.clone(), "beyond any file"),
        // Fits a 64-bit size, but the header's length added to it would not.
        ("vast", idx(&[1 << 31, u32::MAX, 2], &[]), "beyond any file"),
        ("packed cut", packed[..packed.len() - 12].to_vec(), "gzip data is damaged"),
        ("packed trailing", gzip(&trailing), "got 1 bytes more"),
        ("packed short", gzip(&good[..20]), "expected 28 bytes, got 20"),
        ("packed header", gzip(&good[..9]), "expected 16 bytes, got 9"),
        ("packed huge", gzip(&huge), "beyond any file"),
    ];
    for (name, bytes, want) in cases {
        let text = IdxFile::parse(name, Bytes::Owned(bytes)).unwrap_err().to_string();
        assert!(text.starts_with(&format!("{name}: ")) && text.contains(want), "{text}");
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let text = |files: &[(&str, Vec<u8>)]| load(&folder(files), "").unwrap_err().to_string();
    let train = ("train-images", images(3, 0));
    let short = text(&[train.clone(), ("train-labels", idx(&[2], &[0, 1]))]);
    assert!(short.contains("train-labels holds 2 labels, but ") && short.contains("holds 3 images"), "{short}");
    let sizes = text(&[train.clone(), ("test-images", idx(&[1, 3, 2], &[0; 6]))]);
    assert!(sizes.contains("test-images holds images [1, 3, 2], but ") && sizes.contains("[3, 2, 3]"), "{sizes}");
    let half = text(&[train.clone(), ("train-labels", idx(&[3], &[0, 1, 2])), ("test-images", images(1, 0))]);
    assert!(half.contains("train-images has labels, but ") && half.contains("test-images has none"), "{half}");
    let swapped = text(&[train, ("train-labels", images(3, 0))]);
    assert!(swapped.contains("expected labels [n], got [3, 2, 3]"), "{swapped}");
    let none = text(&[("notes.txt", vec![])]);
    assert!(none.contains("expected IDX files *images* (and *labels*)") && none.contains("without any"), "{none}");
    assert!(text(&[("no-images", idx(&[0, 2, 3], &[]))]).contains("expected images, got 0"));
}
