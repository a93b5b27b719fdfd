use super::*;

fn small(pixels: Vec<u8>, labels: Vec<u32>) -> Dataset {
    let n = pixels.len() / 2;
    Dataset::from_pixels("small", pixels, [n, 1, 2, 1], labels, 100, 1).unwrap()
}

#[test]
fn embedded_digits_have_their_known_numbers() {
    let digits = Dataset::load("digits", 0).unwrap();
    assert_eq!((digits.len(), digits.shape(), digits.max_value()), (1797, [8, 8, 1], 16));
    assert_eq!(digits.class_names().join(""), "0123456789");
    assert_eq!(
        (digits.train()[0], digits.train()[1436], digits.held_out()[0], digits.held_out()[359]),
        (0, 1436, 1437, 1796)
    );
    // The first image and the class counts as the UCI repository gives them.
    assert_eq!(digits.image(0)[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
    let counts: Vec<usize> = (0..10).map(|k| (0..1797).filter(|i| digits.label(*i) == Some(k)).count()).collect();
    assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
}

#[test]
fn pixels_become_values_from_minus_one_to_one() {
    let mut out = [0.0; 2];
    let dataset = small(vec![0, 100, 50, 25], vec![]);
    dataset.copy_image(0, &mut out);
    assert_eq!(out, [-1.0, 1.0]);
    dataset.copy_image(1, &mut out);
    assert_eq!(out, [0.0, -0.5]);
    assert_eq!((dataset.label(0), dataset.num_classes()), (None, 0));
}

#[test]
fn a_fingerprint_changes_with_every_pixel_label_and_size() {
    let pixels: Vec<u8> = (0..22).collect();
    let labels: Vec<u32> = (0..11).collect();
    let base = small(pixels.clone(), labels.clone()).fingerprint();
    assert_eq!(base, small(pixels.clone(), labels.clone()).fingerprint());
    assert_eq!(base.len(), 16);
    let mut seen = vec![base];
    for i in 0..pixels.len() {
        let mut other = pixels.clone();
        other[i] ^= 64;
        seen.push(small(other, labels.clone()).fingerprint());
    }
    for i in 0..labels.len() {
        let mut other = labels.clone();
        other[i] += 1;
        seen.push(small(pixels.clone(), other).fingerprint());
    }
    seen.push(small(pixels.clone(), vec![]).fingerprint());
    seen.push(small(pixels[..20].to_vec(), labels[..10].to_vec()).fingerprint());
    let build = |shape, max| Dataset::from_pixels("x", pixels.clone(), shape, labels.clone(), max, 1).unwrap();
    seen.push(build([11, 2, 1, 1], 100).fingerprint());
    seen.push(build([11, 1, 1, 2], 100).fingerprint());
    seen.push(build([11, 1, 2, 1], 99).fingerprint());
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "two data sets share a fingerprint");
}

#[test]
fn fingerprints_are_stable_over_versions() {
    // Stored in checkpoints: a change here refuses every resume of older runs.
    assert_eq!(small(vec![1, 2, 3, 4], vec![0, 1]).fingerprint(), "305a566068d04ae0");
}

#[test]
fn a_seeded_split_holds_out_a_tenth_and_depends_on_the_seed() {
    let (train, held_out) = Split::Seeded(1).indices(50);
    assert_eq!((train.len(), held_out.len()), (45, 5));
    let mut all = [train.clone(), held_out.clone()].concat();
    all.sort_unstable();
    assert_eq!(all, (0..50).collect::<Vec<u32>>());
    assert_ne!(Split::Seeded(2).indices(50).1, held_out);
    assert_ne!(held_out, (45..50).collect::<Vec<u32>>(), "the last ones are not a random tenth");
    assert_eq!(Split::Seeded(1).indices(2).1.len(), 1);
    assert_eq!(Split::Seeded(1).indices(1), (vec![0], vec![]));
}

#[test]
fn the_greatest_value_is_255_unless_the_images_have_few_levels() {
    for (maxima, want) in [(vec![3, 255], 255), (vec![128], 255), (vec![16, 15], 16), (vec![1, 0], 1), (vec![0], 255)] {
        assert_eq!(find_max_value(maxima.iter().copied()), want, "{maxima:?}");
    }
}

#[test]
fn unknown_names_and_missing_paths_say_what_is_known() {
    let text = |spec: &str| Dataset::load(spec, 0).unwrap_err().to_string();
    assert_eq!(
        text("digts"),
        "data set \"digts\" is unknown; known: digits, flags, text, PATH of IDX images or of a text — did you mean \"digits\"?"
    );
    assert_eq!(
        text("none/here"),
        "data set \"none/here\": expected a folder or file of IDX images, or a file of text, got a path that does not exist"
    );
}

#[test]
fn inconsistent_pixels_labels_and_splits_are_refused() {
    let build = |pixels: Vec<u8>, shape, labels, max, held_out| {
        Dataset::from_pixels("x", pixels, shape, labels, max, held_out).unwrap_err().to_string()
    };
    assert!(build(vec![0; 3], [2, 1, 2, 1], vec![], 255, 0).contains("expected 4 pixels, got 3"));
    assert!(build(vec![0; 4], [2, 1, 2, 1], vec![0], 255, 0).contains("got 1 and 2"));
    assert!(build(vec![0, 17], [2, 1, 1, 1], vec![], 16, 0).contains("pixels up to 16 (1 to 255), got 17"));
    assert!(build(vec![0; 2], [2, 1, 1, 1], vec![], 0, 0).contains("1 to 255"));
    assert!(build(vec![], [0, 1, 1, 1], vec![], 255, 0).contains("expected images, got 0"));
    assert!(build(vec![0; 2], [2, 1, 1, 1], vec![], 255, 2).contains("all 2 images are held out"));
}

#[test]
#[should_panic(expected = "image 2 of 2")]
fn an_image_beyond_the_last_panics() {
    small(vec![0; 4], vec![]).image(2);
}
