use super::*;

fn read_png(path: &Path) -> Picture {
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let channels = info.color_type.samples();
    Picture { width: info.width as usize, height: info.height as usize, channels, pixels }
}

/// Frames as RGBA with their delays.
fn read_gif(path: &Path) -> (Vec<(Vec<u8>, u16)>, gif::Repeat) {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let mut decoder = options.read_info(std::fs::File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = decoder.read_next_frame().unwrap() {
        frames.push((frame.buffer.to_vec(), frame.delay));
    }
    (frames, decoder.repeat())
}

#[test]
fn levels_round_to_the_nearest_and_clamp_at_both_ends() {
    for (x, want) in
        [(-1.0, 0), (1.0, 255), (0.0, 128), (-7.0, 0), (80.0, 255), (-1.0 + 0.49 / 127.5, 0), (-1.0 + 0.51 / 127.5, 1)]
    {
        assert_eq!(to_u8(x), want, "x = {x}");
    }
    for level in 0..=255u8 {
        assert_eq!(to_u8(f32::from(level) / 127.5 - 1.0), level, "every level returns to itself");
    }
}

#[test]
fn automatic_sizes_make_square_sheets_of_visible_images() {
    assert_eq!([0, 1, 2, 4, 5, 9, 10, 64].map(auto_columns), [1, 1, 2, 2, 3, 3, 4, 8]);
    assert_eq!(
        [auto_scale(8, 8), auto_scale(28, 28), auto_scale(48, 48), auto_scale(1, 2), auto_scale(3, 99)],
        [6, 2, 1, 24, 1]
    );
}

#[test]
fn a_sheet_places_scaled_images_row_by_row_with_gaps() {
    // Three 1x2 images in two columns at scale 2 with gap 1: cells of 3 rows and 5 columns.
    let x0 = [-1.0, 1.0, 1.0, -1.0, 0.0, 0.0];
    let sheet = grid(&x0, [3, 1, 2, 1], 2, 2, 1).unwrap();
    assert_eq!((sheet.width, sheet.height, sheet.channels), (11, 7, 1));
    let row = |y: usize| sheet.pixels[y * 11..(y + 1) * 11].to_vec();
    let g = GAP_LEVEL;
    for y in [0, 3, 6] {
        assert_eq!(row(y), [g; 11], "row {y} is a gap");
    }
    for y in [1, 2] {
        assert_eq!(row(y), [g, 0, 0, 255, 255, g, 255, 255, 0, 0, g]);
    }
    for y in [4, 5] {
        assert_eq!(row(y), [g, 128, 128, 128, 128, g, g, g, g, g, g], "the missing fourth image is a gap");
    }
}

#[test]
fn every_channel_count_has_a_picture() {
    let pixel = [1.0, -1.0, 0.0, 1.0, -1.0];
    let shown = |c: usize| grid(&pixel[..c], [1, 1, 1, c], 1, 1, 0).unwrap();
    let cases: [(usize, &[u8]); 5] =
        [(1, &[255]), (2, &[255, 255, 255, 0]), (3, &[255, 0, 128]), (4, &[255, 0, 128, 255]), (5, &[255])];
    for (c, want) in cases {
        assert_eq!(shown(c).pixels, want, "{c} channels");
        assert_eq!(shown(c).channels, want.len(), "{c} channels");
    }
    let gap = grid(&pixel[..4], [1, 1, 1, 4], 1, 1, 1).unwrap();
    assert_eq!(gap.pixels[..4], [GAP_LEVEL, GAP_LEVEL, GAP_LEVEL, 255], "gaps are opaque");
}

#[test]
fn sheets_refuse_wrong_sizes_and_values_that_are_not_finite() {
    let text = |x0: &[f32], shape, columns, scale| grid(x0, shape, columns, scale, 0).unwrap_err().to_string();
    assert_eq!(text(&[0.0; 3], [1, 2, 2, 1], 1, 1), "sheet of images [1, 2, 2, 1]: expected n·h·w·c values, got 3");
    assert!(text(&[0.0; 4], [1, 2, 2, 1], 0, 1).contains("0 columns"));
    assert!(text(&[0.0; 4], [1, 2, 2, 1], 1, 0).contains("at least 1"));
    assert!(text(&[], [0, 2, 2, 1], 1, 1).contains("at least 1"));
    let nan = text(&[0.0, 0.0, f32::NAN, f32::INFINITY], [2, 1, 2, 1], 1, 1);
    assert_eq!(nan, "sheet of images [2, 1, 2, 1]: 2 of 4 values are not finite, the first (NaN) in image 1");
}

#[test]
fn png_files_return_the_same_pixels() {
    let folder = tempfile::tempdir().unwrap();
    for channels in [1, 3, 4] {
        let pixels = (0..3 * 5 * channels).map(|i| (i * 37 % 256) as u8).collect();
        let picture = Picture { width: 3, height: 5, channels, pixels };
        let path = folder.path().join("p.png");
        write_png(&path, &picture).unwrap();
        assert_eq!(read_png(&path), picture);
    }
}

#[test]
fn grey_gifs_keep_every_level_loop_and_rest_on_the_last_frame() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.gif");
    let frame = |shift: usize| Picture {
        width: 16,
        height: 16,
        channels: 1,
        pixels: (0..256).map(|i| ((i + shift) % 256) as u8).collect(),
    };
    let frames = [frame(0), frame(1), frame(2)];
    write_gif(&path, &frames, 7).unwrap();
    let (read, repeat) = read_gif(&path);
    assert_eq!(repeat, gif::Repeat::Infinite);
    assert_eq!(read.iter().map(|f| f.1).collect::<Vec<_>>(), [7, 7, 100]);
    for (got, want) in read.iter().zip(&frames) {
        let greys: Vec<u8> = got.0.chunks_exact(4).map(|p| p[0]).collect();
        assert_eq!(greys, want.pixels);
    }
}

#[test]
fn colour_gifs_stay_close_to_the_picture_and_opacity_lies_over_white() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.gif");
    let (red, clear) = ([255, 0, 0, 255], [0, 0, 255, 0]);
    let picture = Picture { width: 2, height: 1, channels: 4, pixels: [red, clear].concat() };
    write_gif(&path, &[picture], 200).unwrap();
    let (read, _) = read_gif(&path);
    assert_eq!(read[0].1, 200, "a long delay is kept on the last frame");
    assert_eq!(read[0].0, [255, 0, 0, 255, 255, 255, 255, 255]);

    // 1024 colours into 256: a smooth gradient must stay within a few levels.
    let pixels: Vec<u8> = (0..1024).flat_map(|i| [(i % 32 * 8) as u8, (i / 32 * 8) as u8, 128]).collect();
    write_gif(&path, &[Picture { width: 32, height: 32, channels: 3, pixels: pixels.clone() }], 5).unwrap();
    let (read, _) = read_gif(&path);
    let rgb = read[0].0.chunks_exact(4).flat_map(|p| p[..3].to_vec());
    let total: u32 = rgb.zip(&pixels).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    let mean = f64::from(total) / pixels.len() as f64;
    // 256 colours on a square of 256x256 levels leave cells of 16x16: a mean distance of 4 a channel, on two of three.
    assert!(mean < 8.0, "colours moved by {mean} levels on average");
}

#[test]
fn gifs_refuse_no_frames_and_frames_of_different_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.gif");
    assert!(write_gif(&path, &[], 5).unwrap_err().to_string().contains("at least one frame"));
    let frame = |width: usize| Picture { width, height: 1, channels: 1, pixels: vec![0; width] };
    let text = write_gif(&path, &[frame(2), frame(3)], 5).unwrap_err().to_string();
    assert!(text.contains("frame 1 is [3, 1, 1]") && text.contains("frame 0 is [2, 1, 1]"), "{text}");
    assert!(write_gif(&path, &[frame(70_000)], 5).unwrap_err().to_string().contains("65535"));
    let torn = Picture { width: 2, height: 2, channels: 1, pixels: vec![0; 3] };
    assert!(write_png(&path, &torn).unwrap_err().to_string().contains("got 3 bytes"));
    assert!(!path.exists());
}

#[test]
fn pictures_of_sixteen_bits_are_refused_rather_than_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep.png");
    let mut encoder = png::Encoder::new(std::fs::File::create(&path).unwrap(), 2, 1);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&[1, 2, 3, 4]).unwrap();
    assert!(super::read_png(&path).unwrap_err().to_string().contains("16 bits a channel"));
}
