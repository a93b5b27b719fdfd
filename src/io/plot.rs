//! Line plots as PNG, with an embedded font: no system font, no display.
//!
//! The plot is drawn at twice its size and averaged down, because plotters does not smooth lines wider than one
//! pixel.

use std::path::Path;
use std::sync::OnceLock;

use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::image::{Picture, write_png};
use super::plot_axis::Axis;
use crate::{Error, Result};

const WIDTH: usize = 900;
const HEIGHT: usize = 540;
/// Drawn pixels per pixel of the file, each way.
const OVERSAMPLING: usize = 2;

const TEXT: RGBColor = RGBColor(55, 60, 67);
const GRID: RGBColor = RGBColor(228, 230, 234);
const AXIS: RGBColor = RGBColor(150, 155, 163);
/// Told apart by the colour-blind (Okabe & Ito 2008), black and yellow left out.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// One line of a plot.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its entry in the legend; an empty name has none.
    pub name: String,
    /// `(x, y)` in drawing order. Points that are not finite are left out, and on a logarithmic axis those with y ≤
    /// 0.
    pub points: Vec<(f64, f64)>,
    /// Draws a thin pale line in the colour of the next series that is not faint: the raw values under their mean.
    pub faint: bool,
}

/// Draws `series` into a 900x540 PNG, whole or not at all.
///
/// * `title`, `x_label`, `y_label` — may be empty
/// * `log_y` — a logarithmic y axis
///
/// # Errors
/// [`Error::NonFinite`] if no point can be drawn; [`Error::Io`] if the file cannot be written.
///
/// # Example
/// ```
/// # fn main() -> tweedie::Result<()> {
/// use tweedie::io::plot::{Series, plot_lines};
/// let path = std::env::temp_dir().join(format!("tweedie-plot-{}.png", std::process::id()));
/// let loss = (1..=100).map(|step| (f64::from(step), 1.0 / f64::from(step))).collect();
/// plot_lines(&path, "training", "step", "loss", &[Series { name: "loss".into(), points: loss, faint: false }],
/// true)?;
/// # std::fs::remove_file(&path).map_err(tweedie::Error::io("remove", &path))
/// # }
/// ```
pub fn plot_lines(
    path: impl AsRef<Path>,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[Series],
    log_y: bool,
) -> Result<()> {
    let path = path.as_ref();
    let is_drawn = |&(x, y): &(f64, f64)| x.is_finite() && y.is_finite() && (!log_y || y > 0.0);
    let drawn: Vec<Vec<(f64, f64)>> =
        series.iter().map(|s| s.points.iter().copied().filter(is_drawn).collect()).collect();
    if drawn.iter().all(Vec::is_empty) {
        let count: usize = series.iter().map(|s| s.points.len()).sum();
        let want = if log_y { "finite with y > 0" } else { "finite" };
        return Err(Error::NonFinite(format!(
            "plot {}: expected a point that is {want}, got none among {count}",
            path.display()
        )));
    }
    let x_axis = Axis::around(drawn.iter().flatten().map(|p| p.0), false, 0.0);
    let y_axis = Axis::around(drawn.iter().flatten().map(|p| p.1), log_y, 0.04);
    let mut pixels = vec![255; WIDTH * OVERSAMPLING * HEIGHT * OVERSAMPLING * 3];
    let labels = Labels { title, x_label, y_label };
    draw(&mut pixels, &labels, series, &drawn, x_axis, y_axis)
        // The backend is memory and the font is registered: only plotters itself can fail here.
        .map_err(|e| Error::Io { action: "draw", path: path.into(), source: std::io::Error::other(e.to_string()) })?;
    write_png(path, &Picture { width: WIDTH, height: HEIGHT, channels: 3, pixels: average_down(&pixels) })
}

struct Labels<'a> {
    title: &'a str,
    x_label: &'a str,
    y_label: &'a str,
}

/// A length in drawn pixels.
const fn px(file_pixels: usize) -> u32 {
    (file_pixels * OVERSAMPLING) as u32
}

fn font(file_pixels: usize) -> TextStyle<'static> {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        // An embedded font that does not parse would fail in `draw` with plotters' own words.
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
    ("sans-serif", px(file_pixels)).with_color(TEXT).into_text_style(&(px(WIDTH), px(HEIGHT)))
}

fn draw(
    pixels: &mut [u8],
    labels: &Labels,
    series: &[Series],
    drawn: &[Vec<(f64, f64)>],
    x_axis: Axis,
    y_axis: Axis,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let area = BitMapBackend::with_buffer(pixels, (px(WIDTH), px(HEIGHT))).into_drawing_area();
    let mut builder = ChartBuilder::on(&area);
    builder.margin(px(14)).margin_right(px(26)).x_label_area_size(px(48)).y_label_area_size(px(68));
    if !labels.title.is_empty() {
        builder.caption(labels.title, font(23));
    }
    let mut chart = builder.build_cartesian_2d(x_axis, y_axis)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(px(1)))
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS.stroke_width(px(1)))
        .set_all_tick_mark_size(px(4))
        .label_style(font(15))
        .axis_desc_style(font(17))
        .x_desc(labels.x_label)
        .y_desc(labels.y_label)
        .draw()?;
    for (i, points) in drawn.iter().enumerate() {
        let bold_before = series[..i].iter().filter(|s| !s.faint).count();
        let colour = COLOURS[bold_before % COLOURS.len()];
        let (colour, width) = if series[i].faint { (pale(colour), px(1)) } else { (colour, px(2)) };
        let style = colour.stroke_width(width);
        // Segments and round joints: plotters' own polyline draws its sharp corners far out of the plot.
        let segments = points.windows(2).map(|ends| PathElement::new([ends[0], ends[1]], style));
        let line = chart.draw_series(segments)?;
        if !series[i].name.is_empty() {
            line.label(&series[i].name).legend(move |(x, y)| {
                let y = y - px(3) as i32; // the middle of small letters
                PathElement::new([(x, y), (x + px(22) as i32, y)], colour.stroke_width(px(2)))
            });
        }
        let radius = if points.len() == 1 { px(3) } else { width / 2 };
        chart.draw_series(points.iter().map(|at| Circle::new(*at, radius, colour.filled())))?;
    }
    if series.iter().any(|s| !s.name.is_empty()) {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .margin(px(12))
            .legend_area_size(px(30))
            .label_font(font(15))
            .background_style(WHITE.mix(0.9))
            .border_style(GRID.stroke_width(px(1)))
            .draw()?;
    }
    area.present()?;
    Ok(())
}

/// Opaque, so that lines that cross often do not darken.
fn pale(colour: RGBColor) -> RGBColor {
    let mix = |level: u8| (255.0 - 0.32 * (255.0 - f64::from(level))).round() as u8;
    RGBColor(mix(colour.0), mix(colour.1), mix(colour.2))
}

/// Each pixel of the file is the mean of its `OVERSAMPLING²` drawn ones.
fn average_down(drawn: &[u8]) -> Vec<u8> {
    let row = WIDTH * OVERSAMPLING * 3;
    let mut pixels = Vec::with_capacity(WIDTH * HEIGHT * 3);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(path: &Path) -> Vec<u8> {
        let mut reader =
            png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (900, 540));
        pixels
    }

    fn count(pixels: &[u8], colour: RGBColor) -> usize {
        pixels.chunks_exact(3).filter(|p| *p == [colour.0, colour.1, colour.2]).count()
    }

    fn line(y: f64, faint: bool) -> Series {
        Series { name: String::new(), points: vec![(0.0, y), (100.0, y)], faint }
    }

    #[test]
    fn lines_are_drawn_in_their_colours_and_faint_ones_in_the_colour_of_their_mean() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        plot_lines(&path, "", "", "", &[line(1.0, true), line(2.0, false), line(3.0, false)], false).unwrap();
        let pixels = decode(&path);
        // A line two pixels wide over about 800 columns.
        assert!(count(&pixels, COLOURS[0]) > 700, "first bold line");
        assert!(count(&pixels, COLOURS[1]) > 700, "second bold line");
        assert_eq!(count(&pixels, COLOURS[2]), 0, "the faint line takes no colour of its own");
        assert!(count(&pixels, pale(COLOURS[0])) > 700, "faint line");
    }

    #[test]
    fn noisy_lines_stay_inside_the_axes_and_single_points_are_dots() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        let zigzag = (0..2000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        plot_lines(&path, "", "", "", &[Series { points: zigzag, ..Series::default() }], false).unwrap();
        let pixels = decode(&path);
        // Top margin, and the labels below the axis: 14 and 48 + 14 rows, one less for the smoothing.
        for rows in [0..13, HEIGHT - 61..HEIGHT] {
            let outside = &pixels[rows.start * WIDTH * 3..rows.end * WIDTH * 3];
            assert_eq!(count(outside, COLOURS[0]), 0, "rows {rows:?}");
        }
        plot_lines(&path, "", "", "", &[Series { points: vec![(1.0, 1.0)], ..Series::default() }], false).unwrap();
        assert!(count(&decode(&path), COLOURS[0]) >= 12, "a dot of radius 3");
    }

    #[test]
    fn titles_and_labels_are_written_with_the_embedded_font() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        let dark = |title: &str, x: &str, y: &str| {
            plot_lines(&path, title, x, y, &[line(1.0, false)], false).unwrap();
            decode(&path).chunks_exact(3).filter(|p| p.iter().all(|v| *v < 120)).count()
        };
        let bare = dark("", "", "");
        assert!(bare > 100, "tick labels: {bare} dark pixels");
        for (title, x, y) in [("training loss", "", ""), ("", "optimiser step", ""), ("", "", "mean loss")] {
            let inked = dark(title, x, y);
            assert!(inked > bare + 50, "{title}{x}{y}: {inked} dark pixels against {bare}");
        }
    }

    #[test]
    fn points_that_cannot_be_drawn_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let (with, without) = (folder.path().join("a.png"), folder.path().join("b.png"));
        let good = vec![(1.0, 0.5), (2.0, 0.1), (3.0, 0.2)];
        let mut all = good.clone();
        all.insert(1, (1.5, f64::NAN));
        all.insert(1, (f64::INFINITY, 1.0));
        all.insert(1, (1.2, -3.0));
        let series = |points| [Series { name: "loss".into(), points, faint: false }];
        plot_lines(&with, "t", "x", "y", &series(all), true).unwrap();
        plot_lines(&without, "t", "x", "y", &series(good), true).unwrap();
        assert!(std::fs::read(&with).unwrap() == std::fs::read(&without).unwrap(), "the two plots differ");
        let finite = |points: &[(f64, f64)]| {
            plot_lines(&with, "t", "x", "y", &series(points.to_vec()), false).unwrap();
            std::fs::read(&with).unwrap()
        };
        let (ends, holed) = ([(0.0, -1.0), (2.0, 1.0)], [(0.0, -1.0), (1.0, f64::INFINITY), (2.0, 1.0)]);
        assert!(finite(&holed) == finite(&ends), "an infinite point is drawn on a linear axis");
        let text = plot_lines(&with, "t", "x", "y", &series(vec![(0.0, -1.0)]), true).unwrap_err().to_string();
        assert!(text.ends_with("expected a point that is finite with y > 0, got none among 1"), "{text}");
    }

    #[test]
    fn extreme_ranges_are_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        for points in [
            vec![(5.0, 5.0)],
            vec![(0.0, 0.0), (1.0, 0.0)],
            vec![(0.0, -1e300), (1e18, 1e300)],
            vec![(1.0, 1e-300), (2.0, 1e300)],
        ] {
            for log_y in [false, true] {
                let series = [Series { name: "s".into(), points: points.clone(), faint: false }];
                let result = plot_lines(&path, "t", "x", "y", &series, log_y);
                assert_eq!(result.is_ok(), !log_y || points[0].1 > 0.0 || points.last().unwrap().1 > 0.0);
            }
        }
    }
}
