//! Pictures: sheets of generated images as PNG, trajectories as GIF.

use std::path::Path;

use super::write_atomically;
use crate::{Error, Result};

/// The colour between the images of a sheet: light, so that it borders black images and white ones alike.
const GAP_LEVEL: u8 = 216;
/// How long a GIF rests on its last frame, in hundredths of a second.
const LAST_FRAME_CENTISECONDS: u16 = 100;
/// An image is enlarged until its longer side has at least this many pixels.
const MIN_SHOWN_PIXELS: usize = 48;
/// NeuQuant learns from every `speed`-th pixel: about this many, at most 10 times fewer than there are.
const QUANTISER_PIXELS: usize = 1 << 15;

/// An 8-bit picture, rows from the top, channels fastest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 grey, 3 RGB or 4 RGBA.
    pub channels: usize,
    /// `[height, width, channels]`.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Tells whether the sizes fit each other and the format's largest side.
    fn check(&self, format: &str, largest_side: usize) -> Result<()> {
        let Picture { width, height, channels, pixels } = self;
        if ![1, 3, 4].contains(channels) || pixels.len() != width * height * channels {
            return Err(Error::Shape(format!(
                "picture {width}x{height} with {channels} channels: expected 1, 3 or 4 channels and \
                 width·height·channels bytes, got {} bytes",
                pixels.len()
            )));
        }
        if *width == 0 || *height == 0 || (*width).max(*height) > largest_side {
            return Err(Error::Shape(format!(
                "{format} of {width}x{height} pixels: expected sides of 1 to {largest_side}; draw fewer images or at a \
                 smaller scale"
            )));
        }
        Ok(())
    }
}

/// The grey level of `x` in [-1, 1]: `(x + 1)·127.5`, rounded, clamped to 0..=255.
///
/// NaN becomes 0; [`grid`] refuses it before it comes here.
pub fn to_u8(x: f32) -> u8 {
    // `as` saturates.
    ((x + 1.0) * 127.5).round() as u8
}

/// Columns of a nearly square sheet of `n` images: `ceil(sqrt(n))`.
pub fn auto_columns(n: usize) -> usize {
    let root = n.isqrt();
    if root * root < n { root + 1 } else { root.max(1) }
}

/// The enlargement at which the longer side of an image has at least 48 pixels: 6 for 8x8, 2 for 28x28, 1 from 48.
pub fn auto_scale(h: usize, w: usize) -> usize {
    MIN_SHOWN_PIXELS.div_ceil(h.max(w).max(1))
}

/// Tiles `n` images into one sheet, row by row, with `gap` pixels around each.
///
/// * `x0` — `[n, h, w, c]`, values in [-1, 1]; values outside are clamped
/// * `shape` — `[n, h, w, c]`. `c` = 1 is grey, 2 grey and opacity, 3 RGB, 4 RGBA; of more channels the first is
///   shown as grey
/// * `columns` — images in a row, at least 1; see [`auto_columns`]
/// * `scale` — each pixel becomes a square of `scale` pixels, at least 1; see [`auto_scale`]
///
/// # Errors
/// [`Error::Shape`] if `x0` does not hold `n·h·w·c` values, or a size, `columns` or `scale` is 0;
/// [`Error::NonFinite`] if a value is NaN or infinite.
///
/// # Example
/// ```
/// # fn main() -> tweedie::Result<()> {
/// use tweedie::io::image::grid;
/// let sheet = grid(&[-1.0, 0.0, 1.0], [3, 1, 1, 1], 3, 1, 0)?;
/// assert_eq!(sheet.pixels, [0, 128, 255]);
/// # Ok(())
/// # }
/// ```
pub fn grid(x0: &[f32], shape: [usize; 4], columns: usize, scale: usize, gap: usize) -> Result<Picture> {
    let [n, h, w, c] = shape;
    check_grid(x0, shape, columns, scale)?;
    let columns = columns.min(n);
    let (cell_h, cell_w) = (h * scale + gap, w * scale + gap);
    let (height, width) = (n.div_ceil(columns) * cell_h + gap, columns * cell_w + gap);
    let channels = shown_channels(c);
    let mut pixels = vec![GAP_LEVEL; height * width * channels];
    if channels == 4 {
        pixels.iter_mut().skip(3).step_by(4).for_each(|opacity| *opacity = 255);
    }
    for i in 0..n {
        let (top, left) = (i / columns * cell_h + gap, i % columns * cell_w + gap);
        for y in 0..h * scale {
            for x in 0..w * scale {
                let from = ((i * h + y / scale) * w + x / scale) * c;
                let to = ((top + y) * width + left + x) * channels;
                copy_pixel(&x0[from..from + c], &mut pixels[to..to + channels]);
            }
        }
    }
    Ok(Picture { width, height, channels, pixels })
}

fn check_grid(x0: &[f32], shape: [usize; 4], columns: usize, scale: usize) -> Result<()> {
    if shape.contains(&0) || columns == 0 || scale == 0 {
        return Err(Error::Shape(format!(
            "sheet of images {shape:?} in {columns} columns at scale {scale}: expected every number to be at least 1"
        )));
    }
    if x0.len() != shape.iter().product::<usize>() {
        return Err(Error::Shape(format!("sheet of images {shape:?}: expected n·h·w·c values, got {}", x0.len())));
    }
    if let Some(first) = x0.iter().position(|x| !x.is_finite()) {
        let count = x0.iter().filter(|x| !x.is_finite()).count();
        return Err(Error::NonFinite(format!(
            "sheet of images {shape:?}: {count} of {} values are not finite, the first ({}) in image {}",
            x0.len(),
            x0[first],
            first / (shape[1] * shape[2] * shape[3])
        )));
    }
    Ok(())
}

/// Channels of the picture that shows an image of `c` channels.
fn shown_channels(c: usize) -> usize {
    match c {
        2 | 4 => 4,
        3 => 3,
        _ => 1,
    }
}

fn copy_pixel(from: &[f32], to: &mut [u8]) {
    if let [grey, opacity] = *from {
        to.copy_from_slice(&[to_u8(grey), to_u8(grey), to_u8(grey), to_u8(opacity)]);
        return;
    }
    for (level, x) in to.iter_mut().zip(from) {
        *level = to_u8(*x);
    }
}

/// The value in [−1, 1] of each level: level/127.5 − 1, of which [`to_u8`] is the inverse.
pub fn from_u8(picture: &Picture) -> Vec<f32> {
    picture.pixels.iter().map(|level| f32::from(*level) / 127.5 - 1.0).collect()
}

/// Reads a PNG as 8-bit grey or RGB; deeper levels lose their lower bits, palettes become colours, and full opacity is left out.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::Data`] if it is no PNG, or partly transparent.
pub fn read_png(path: impl AsRef<Path>) -> Result<Picture> {
    let path = path.as_ref();
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    let wrong = |text: String| Error::Data(format!("{}: {text}", path.display()));
    let mut decoder = png::Decoder::new(std::io::BufReader::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut depth = png::BitDepth::Eight;
    let read = || {
        let mut reader = decoder.read_info()?;
        depth = reader.info().bit_depth;
        let mut pixels = vec![0; reader.output_buffer_size().unwrap_or(0)];
        let info = reader.next_frame(&mut pixels)?;
        pixels.truncate(info.buffer_size());
        Ok::<_, png::DecodingError>((info, pixels))
    };
    let (info, pixels) = read().map_err(|e| wrong(format!("expected a PNG picture: {e}")))?;
    if depth == png::BitDepth::Sixteen {
        return Err(wrong("has 16 bits a channel; expected at most 8, as all that is kept must fit".into()));
    }
    let samples = info.color_type.samples();
    let (width, height) = (info.width as usize, info.height as usize);
    let channels = if samples.is_multiple_of(2) { samples - 1 } else { samples };
    if channels != samples && pixels.chunks_exact(samples).any(|pixel| pixel[channels] != 255) {
        return Err(wrong("is partly transparent; expected a picture without transparency".into()));
    }
    let pixels = pixels.chunks_exact(samples).flat_map(|pixel| pixel[..channels].to_vec()).collect();
    Ok(Picture { width, height, channels, pixels })
}

/// Writes a PNG, whole or not at all.
///
/// # Errors
/// [`Error::Shape`] if the picture's sizes disagree or are 0; [`Error::Io`] if it cannot be written.
pub fn write_png(path: impl AsRef<Path>, picture: &Picture) -> Result<()> {
    let path = path.as_ref();
    picture.check("PNG", i32::MAX as usize)?;
    write_atomically(path, |out| {
        let mut encoder = png::Encoder::new(out, picture.width as u32, picture.height as u32);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_color(match picture.channels {
            1 => png::ColorType::Grayscale,
            3 => png::ColorType::Rgb,
            _ => png::ColorType::Rgba,
        });
        let write = || {
            let mut writer = encoder.write_header()?;
            writer.write_image_data(&picture.pixels)?;
            writer.finish()
        };
        write().map_err(|e| Error::io("write", path)(e.into()))
    })
}

/// Writes a GIF that loops for ever and rests about a second on its last frame.
///
/// Grey frames keep all 256 levels; each colour frame gets its own 256 colours. Opacity is drawn over white.
///
/// * `frames` — at least one, all of one size and number of channels
/// * `delay_centiseconds` — how long a frame stays; browsers slow anything below 2 down to 10
///
/// # Errors
/// [`Error::Shape`] if there is no frame, frames differ in size, or a side exceeds 65535; [`Error::Io`] if the file
/// cannot be written.
pub fn write_gif(path: impl AsRef<Path>, frames: &[Picture], delay_centiseconds: u16) -> Result<()> {
    let path = path.as_ref();
    let Some(first) = frames.first() else {
        return Err(Error::Shape(format!("GIF {}: expected at least one frame, got none", path.display())));
    };
    for (i, frame) in frames.iter().enumerate() {
        frame.check("GIF", usize::from(u16::MAX))?;
        let size = |p: &Picture| [p.width, p.height, p.channels];
        if size(frame) != size(first) {
            return Err(Error::Shape(format!(
                "GIF {}: frame {i} is {:?} (width, height, channels), but frame 0 is {:?}",
                path.display(),
                size(frame),
                size(first)
            )));
        }
    }
    let greys: Vec<u8> = (0..=255).flat_map(|level: u8| [level; 3]).collect();
    let palette = if first.channels == 1 { &greys[..] } else { &[] };
    write_atomically(path, |out| {
        let write = || {
            let mut encoder = gif::Encoder::new(out, first.width as u16, first.height as u16, palette)?;
            encoder.set_repeat(gif::Repeat::Infinite)?;
            for (i, picture) in frames.iter().enumerate() {
                let mut frame = gif_frame(picture);
                let is_last = i + 1 == frames.len();
                frame.delay =
                    if is_last { delay_centiseconds.max(LAST_FRAME_CENTISECONDS) } else { delay_centiseconds };
                encoder.write_frame(&frame)?;
            }
            Ok(())
        };
        write().map_err(|e| match e {
            gif::EncodingError::Io(e) => Error::io("write", path)(e),
            other => Error::io("encode", path)(std::io::Error::other(other)),
        })
    })
}

fn gif_frame(picture: &Picture) -> gif::Frame<'_> {
    let (width, height) = (picture.width as u16, picture.height as u16);
    let speed = (picture.width * picture.height / QUANTISER_PIXELS).clamp(1, 10) as i32;
    match picture.channels {
        // The levels index the grey palette of the file.
        1 => gif::Frame { width, height, buffer: picture.pixels.as_slice().into(), ..gif::Frame::default() },
        3 => gif::Frame::from_rgb_speed(width, height, &picture.pixels, speed),
        _ => gif::Frame::from_rgb_speed(width, height, &over_white(&picture.pixels), speed),
    }
}

fn over_white(rgba: &[u8]) -> Vec<u8> {
    let blend = |level: u8, opacity: u8| {
        let (level, opacity) = (u32::from(level), u32::from(opacity));
        ((level * opacity + 255 * (255 - opacity) + 127) / 255) as u8
    };
    rgba.chunks_exact(4).flat_map(|p| [blend(p[0], p[3]), blend(p[1], p[3]), blend(p[2], p[3])]).collect()
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
