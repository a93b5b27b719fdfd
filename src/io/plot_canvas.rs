//! The sheet that plots are drawn on: its colours, its embedded font, and how it becomes a PNG.
//!
//! A plot is drawn at twice its size and averaged down, because plotters does not smooth lines wider than one pixel.

use std::path::Path;
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::image::{Picture, write_png};
use crate::{Error, Result};

/// Drawn pixels per pixel of the file, each way.
const OVERSAMPLING: usize = 2;

pub(super) const TEXT: RGBColor = RGBColor(55, 60, 67);
pub(super) const GRID: RGBColor = RGBColor(228, 230, 234);
pub(super) const AXIS: RGBColor = RGBColor(150, 155, 163);
/// Told apart by the colour-blind (Okabe & Ito 2008), black and yellow left out.
pub(super) const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

pub(super) type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
pub(super) type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// A length in drawn pixels.
pub(super) const fn px(file_pixels: usize) -> u32 {
    (file_pixels * OVERSAMPLING) as u32
}

/// The embedded font: no system font, no display.
pub(super) fn font(file_pixels: usize) -> TextStyle<'static> {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        // An embedded font that does not parse would fail in `draw` with plotters' own words.
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
    // Sizes are absolute, so the parent's do not matter.
    ("sans-serif", px(file_pixels)).with_color(TEXT).into_text_style(&(1, 1))
}

/// Opaque, so that lines that cross often do not darken.
pub(super) fn pale(colour: RGBColor) -> RGBColor {
    let mix = |level: u8| (255.0 - 0.32 * (255.0 - f64::from(level))).round() as u8;
    RGBColor(mix(colour.0), mix(colour.1), mix(colour.2))
}

/// Text whose upper middle lies at (x, y), in pixels of the file.
pub(super) fn centred(area: &Area<'_>, text: &str, x: usize, y: usize, size: usize) -> Drawn {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    let style = font(size).pos(Pos::new(HPos::Center, VPos::Top));
    area.draw_text(text, &style, (px(x) as i32, px(y) as i32))?;
    Ok(())
}

/// Draws a white sheet of `width` by `height` pixels and writes it, whole or not at all. Its folder is made if it is missing.
pub(super) fn write_drawing(
    path: &Path,
    (width, height): (usize, usize),
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<()> {
    let mut pixels = vec![255; width * OVERSAMPLING * height * OVERSAMPLING * 3];
    let area = BitMapBackend::with_buffer(&mut pixels, (px(width), px(height))).into_drawing_area();
    // The backend is memory and the font is registered: only plotters itself can fail here.
    draw(&area).and_then(|()| Ok(area.present()?)).map_err(|e| Error::Io {
        action: "draw",
        path: path.into(),
        source: std::io::Error::other(e.to_string()),
    })?;
    drop(area);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    }
    write_png(path, &Picture { width, height, channels: 3, pixels: average_down(&pixels, width, height) })
}

/// Each pixel of the file is the mean of its `OVERSAMPLING²` drawn ones.
fn average_down(drawn: &[u8], width: usize, height: usize) -> Vec<u8> {
    let row = width * OVERSAMPLING * 3;
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let mut sum = 0;
                for dy in 0..OVERSAMPLING {
                    for dx in 0..OVERSAMPLING {
                        let at = (y * OVERSAMPLING + dy) * row + (x * OVERSAMPLING + dx) * 3 + channel;
                        sum += usize::from(drawn[at]);
                    }
                }
                pixels.push((sum / (OVERSAMPLING * OVERSAMPLING)) as u8);
            }
        }
    }
    pixels
}
