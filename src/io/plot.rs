//! Plots as PNG: lines, histograms under their densities, several such charts in one figure, and panels of points, densities
//! and paths.

use std::path::Path;

use plotters::coord::cartesian::Cartesian2d;
use plotters::prelude::*;

use super::plot_axis::Axis;
use super::plot_canvas::{AXIS, Area, COLOURS, Drawn, GRID, centred, font, pale, px, write_drawing};
use crate::{Error, Result};

pub use super::plot_panels::{Heat, Layer, Panel, PanelOptions, plot_panels, points_of};

/// A chart by itself; beside another, and beside two or more.
const SIZES: [(usize, usize); 3] = [(900, 540), (600, 400), (460, 340)];
const MARGIN: usize = 14;
const MARGIN_RIGHT: usize = 26;
const X_LABELS: usize = 48;
const Y_LABELS: usize = 68;
const TITLE: usize = 44;

/// One line of a plot.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its entry in the legend; an empty name has none.
    pub name: String,
    /// `(x, y)` in drawing order. Points that are not finite are left out, and those that are not positive on a
    /// logarithmic axis.
    pub points: Vec<(f64, f64)>,
    /// Draws a thin line: pale, in the colour of the next series that is not faint (the raw values under their mean), or
    /// grey where none follows (a slope to compare with).
    pub faint: bool,
    /// Draws a dot at each point too, for few points.
    pub marked: bool,
}

/// What a plot says around its lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Axes<'a> {
    /// Above the plot; may be empty.
    pub title: &'a str,
    /// Below it; may be empty.
    pub x_label: &'a str,
    /// Left of it; may be empty.
    pub y_label: &'a str,
    /// A logarithmic x axis.
    pub log_x: bool,
    /// A logarithmic y axis.
    pub log_y: bool,
}

/// Samples of one number, drawn as bars whose area is their share of all samples.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Its entry in the legend; an empty name has none.
    pub name: String,
    /// The numbers; those that are not finite are counted in no bar.
    pub samples: Vec<f64>,
    /// Bars, all of one width; at least 1.
    pub bins: usize,
    /// Where the bars begin and end; the least and the greatest sample if not said. Samples outside are counted in no bar,
    /// but among all.
    pub range: Option<[f64; 2]>,
}

/// One chart of a figure: bars and the lines over them, on axes of their own.
#[derive(Clone, Debug, Default)]
pub struct Chart<'a> {
    /// What it says around them.
    pub axes: Axes<'a>,
    /// Drawn first.
    pub bars: Option<Histogram>,
    /// Drawn over the bars.
    pub lines: Vec<Series>,
}

/// A bar from zero: x from `.0` to `.1`, height `.2`.
type Bar = (f64, f64, f64);

/// Draws `series` into a 900x540 PNG, whole or not at all.
///
/// # Errors
/// [`Error::NonFinite`] if no point can be drawn; [`Error::Io`] if the file cannot be written.
///
/// # Example
/// ```
/// # fn main() -> tweedie::Result<()> {
/// use tweedie::io::plot::{Axes, Series, plot_lines};
/// let path = std::env::temp_dir().join(format!("tweedie-plot-{}.png", std::process::id()));
/// let error = (0..8).map(|i| f64::from(1 << i)).map(|steps| (steps, 0.3 / steps)).collect();
/// let axes = Axes { title: "Euler", x_label: "steps", y_label: "error", log_x: true, log_y: true };
/// plot_lines(&path, &axes, &[Series { name: "order 1".into(), points: error, marked: true, ..Series::default() }])?;
/// # std::fs::remove_file(&path).map_err(tweedie::Error::io("remove", &path))
/// # }
/// ```
pub fn plot_lines(path: impl AsRef<Path>, axes: &Axes<'_>, series: &[Series]) -> Result<()> {
    draw_charts(path.as_ref(), "", 1, &mut [Drawing::new(path.as_ref(), axes, None, series)?])
}

/// Draws a histogram as a density and `curves` over it into a 900x540 PNG, whole or not at all.
///
/// # Errors
/// [`Error::Usage`] if there are no bins; [`Error::NonFinite`] if no sample is finite or the range is empty;
/// [`Error::Io`] if the file cannot be written.
///
/// # Example
/// ```
/// # fn main() -> tweedie::Result<()> {
/// use tweedie::io::plot::{Axes, Histogram, Series, plot_histogram};
/// let path = std::env::temp_dir().join(format!("tweedie-bars-{}.png", std::process::id()));
/// let samples = (0..1000).map(|i| f64::from(i) / 1000.0).collect();
/// let bars = Histogram { name: "samples".into(), samples, bins: 20, range: None };
/// let uniform = Series { name: "density".into(), points: vec![(0.0, 1.0), (1.0, 1.0)], ..Series::default() };
/// plot_histogram(&path, &Axes::default(), &bars, &[uniform])?;
/// # std::fs::remove_file(&path).map_err(tweedie::Error::io("remove", &path))
/// # }
/// ```
pub fn plot_histogram(path: impl AsRef<Path>, axes: &Axes<'_>, bars: &Histogram, curves: &[Series]) -> Result<()> {
    draw_charts(path.as_ref(), "", 1, &mut [Drawing::new(path.as_ref(), axes, Some(bars), curves)?])
}

/// Draws charts beside and below each other, each on its own axes, into one PNG, whole or not at all.
///
/// * `title` — above all charts; may be empty
/// * `columns` — charts in a row, at least 1: one is 900x540 pixels, two are 600x400 each, more are 460x340
///
/// # Errors
/// [`Error::Usage`] if there is no chart, no column, or a histogram has no bins; [`Error::NonFinite`] if a chart has
/// nothing that can be drawn; [`Error::Io`] if the file cannot be written.
///
/// # Example
/// ```
/// # fn main() -> tweedie::Result<()> {
/// use tweedie::io::plot::{Axes, Chart, Series, plot_charts};
/// let path = std::env::temp_dir().join(format!("tweedie-charts-{}.png", std::process::id()));
/// let wave = |k: i32| (0..100).map(|i| (f64::from(i), f64::from(k * i).sin())).collect();
/// let chart = |title, k| Chart {
///     axes: Axes { title, ..Axes::default() },
///     lines: vec![Series { points: wave(k), ..Series::default() }],
///     ..Chart::default()
/// };
/// plot_charts(&path, "Waves", 2, &[chart("slow", 1), chart("fast", 2)])?;
/// # std::fs::remove_file(&path).map_err(tweedie::Error::io("remove", &path))
/// # }
/// ```
pub fn plot_charts(path: impl AsRef<Path>, title: &str, columns: usize, charts: &[Chart<'_>]) -> Result<()> {
    let path = path.as_ref();
    if charts.is_empty() || columns == 0 {
        let (path, n) = (path.display(), charts.len());
        return Err(Error::Usage(format!(
            "plot {path}: {n} charts in {columns} columns: expected at least one of each"
        )));
    }
    let drawings = charts.iter().map(|c| Drawing::new(path, &c.axes, c.bars.as_ref(), &c.lines));
    draw_charts(path, title, columns, &mut drawings.collect::<Result<Vec<_>>>()?)
}

fn draw_charts(path: &Path, title: &str, columns: usize, charts: &mut [Drawing<'_>]) -> Result<()> {
    let columns = columns.min(charts.len());
    let size = SIZES[(columns - 1).min(SIZES.len() - 1)];
    let above = if title.is_empty() { 0 } else { TITLE };
    let sheet = (columns * size.0, above + charts.len().div_ceil(columns) * size.1);
    write_drawing(path, sheet, |area| {
        if above > 0 {
            centred(area, title, sheet.0 / 2, 12, 25)?;
        }
        for (i, chart) in charts.iter_mut().enumerate() {
            let corner = (i % columns * size.0, above + i / columns * size.1);
            chart.draw(&area.clone().shrink((px(corner.0), px(corner.1)), (px(size.0), px(size.1))), size)?;
        }
        Ok(())
    })
}

impl Histogram {
    fn densities(&self, path: &Path) -> Result<Vec<Bar>> {
        if self.bins == 0 {
            return Err(Error::Usage(format!("plot {}: bins = 0: expected at least 1", path.display())));
        }
        let finite: Vec<f64> = self.samples.iter().copied().filter(|v| v.is_finite()).collect();
        let ends = finite.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[l, h], v| [l.min(*v), h.max(*v)]);
        let [low, high] = match self.range {
            None if ends[0] == ends[1] => [ends[0] - 0.5, ends[1] + 0.5], // one value: a bar that can be seen
            range => range.unwrap_or(ends),
        };
        let width = (high - low) / self.bins as f64;
        if !(width > 0.0 && width.is_finite()) {
            let (path, count) = (path.display(), self.samples.len());
            return Err(Error::NonFinite(format!(
                "plot {path}: expected samples in a range, got {low} to {high} and {count} samples"
            )));
        }
        let mut counts = vec![0_usize; self.bins];
        for v in finite.iter().filter(|v| (low..=high).contains(*v)) {
            counts[(((v - low) / width) as usize).min(self.bins - 1)] += 1;
        }
        let density = |count: usize| count as f64 / (self.samples.len() as f64 * width);
        let left = |i: usize| low + i as f64 * width;
        Ok(counts.into_iter().enumerate().map(|(i, count)| (left(i), left(i + 1), density(count))).collect())
    }
}

/// A chart with its axes found.
struct Drawing<'a> {
    axes: &'a Axes<'a>,
    bars_name: &'a str,
    bars: Vec<Bar>,
    series: &'a [Series],
    /// The points of each series that can be drawn.
    drawn: Vec<Vec<(f64, f64)>>,
    x_axis: Axis,
    y_axis: Axis,
}

impl<'a> Drawing<'a> {
    fn new(
        path: &Path,
        axes: &'a Axes<'a>,
        histogram: Option<&'a Histogram>,
        series: &'a [Series],
    ) -> Result<Drawing<'a>> {
        let fits = |v: f64, is_log: bool| v.is_finite() && (!is_log || v > 0.0);
        let is_drawn = |&(x, y): &(f64, f64)| fits(x, axes.log_x) && fits(y, axes.log_y);
        let drawn: Vec<Vec<(f64, f64)>> =
            series.iter().map(|s| s.points.iter().copied().filter(is_drawn).collect()).collect();
        let mut bars = histogram.map_or(Ok(Vec::new()), |h| h.densities(path))?;
        bars.retain(|b| is_drawn(&(b.0, b.2)) && b.2 > 0.0);
        if bars.is_empty() && drawn.iter().all(Vec::is_empty) {
            let count: usize = series.iter().map(|s| s.points.len()).sum();
            let want = match (axes.log_x, axes.log_y) {
                (false, false) => "finite",
                (false, true) => "finite with y > 0",
                (true, false) => "finite with x > 0",
                (true, true) => "finite with x > 0 and y > 0",
            };
            return Err(Error::NonFinite(format!(
                "plot {}: expected a point that is {want}, got none among {count}",
                path.display()
            )));
        }
        let x = drawn.iter().flatten().map(|p| p.0).chain(bars.iter().flat_map(|b| [b.0, b.1]));
        let y = drawn.iter().flatten().map(|p| p.1).chain(bars.iter().map(|b| b.2));
        let has_marks = series.iter().any(|s| s.marked);
        let x_axis = Axis::around(x, axes.log_x, if has_marks { 0.03 } else { 0.0 });
        let y_axis = if bars.is_empty() || axes.log_y {
            Axis::around(y, axes.log_y, 0.04)
        } else {
            // Bars stand on the axis.
            let (low, high) = y.fold((0.0_f64, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
            Axis::around([low, low + 1.06 * (high - low)].into_iter(), false, 0.0)
        };
        let bars_name = histogram.map_or("", |h| &h.name);
        Ok(Drawing { axes, bars_name, bars, series, drawn, x_axis, y_axis })
    }

    /// Draws into an area of `size` pixels of the file.
    fn draw(&mut self, area: &Area<'_>, size: (usize, usize)) -> Drawn {
        let has_legend = self.names().next().is_some();
        let corner = if has_legend { self.place_legend(size) } else { SeriesLabelPosition::UpperRight };
        let mut builder = ChartBuilder::on(area);
        builder.margin(px(MARGIN)).margin_right(px(MARGIN_RIGHT));
        builder.x_label_area_size(px(X_LABELS)).y_label_area_size(px(Y_LABELS));
        if !self.axes.title.is_empty() {
            builder.caption(self.axes.title, font(if size == SIZES[0] { 23 } else { 19 }));
        }
        let mut chart = builder.build_cartesian_2d(self.x_axis, self.y_axis)?;
        chart
            .configure_mesh()
            .bold_line_style(GRID.stroke_width(px(1)))
            .light_line_style(TRANSPARENT)
            .axis_style(AXIS.stroke_width(px(1)))
            .set_all_tick_mark_size(px(4))
            .label_style(font(15))
            .axis_desc_style(font(17))
            .x_desc(self.axes.x_label)
            .y_desc(self.axes.y_label)
            .draw()?;
        self.draw_bars(&mut chart)?;
        self.draw_lines(&mut chart)?;
        if has_legend {
            chart
                .configure_series_labels()
                .position(corner)
                .margin(px(12))
                .legend_area_size(px(30))
                .label_font(font(15))
                .background_style(WHITE.mix(0.9))
                .border_style(GRID.stroke_width(px(1)))
                .draw()?;
        }
        Ok(())
    }

    fn draw_bars<'c, 'd: 'c>(&self, chart: &mut Plot<'c, 'd>) -> Drawn {
        let (grey, floor) = (pale(AXIS), self.y_axis.bottom());
        let bars = self.bars.iter().map(|b| Rectangle::new([(b.0, floor), (b.1, b.2)], grey.filled()));
        let all = chart.draw_series(bars)?;
        if !self.bars_name.is_empty() {
            all.label(self.bars_name).legend(move |(x, y)| {
                let (x, y, half) = (x, y - px(3) as i32, px(5) as i32);
                Rectangle::new([(x, y - half), (x + px(22) as i32, y + half)], grey.filled())
            });
        }
        // Gaps of one pixel of the file, so that equal neighbours are told apart.
        let edges = self.bars.iter().map(|b| PathElement::new([(b.1, floor), (b.1, b.2)], WHITE.stroke_width(px(1))));
        chart.draw_series(edges)?;
        Ok(())
    }

    fn draw_lines<'c, 'd: 'c>(&self, chart: &mut Plot<'c, 'd>) -> Drawn {
        for (i, (points, series)) in self.drawn.iter().zip(self.series).enumerate() {
            let bold_before = self.series[..i].iter().filter(|s| !s.faint).count();
            let colour = COLOURS[bold_before % COLOURS.len()];
            let is_followed = self.series[i..].iter().any(|s| !s.faint);
            let (colour, width) = match (series.faint, is_followed) {
                (false, _) => (colour, px(2)),
                (true, true) => (pale(colour), px(1)),
                (true, false) => (AXIS, px(1)),
            };
            let style = colour.stroke_width(width);
            // Segments and round joints: plotters' own polyline draws its sharp corners far out of the plot.
            let segments = points.windows(2).map(|ends| PathElement::new([ends[0], ends[1]], style));
            let line = chart.draw_series(segments)?;
            let radius = if points.len() == 1 || series.marked { width + px(1) } else { width / 2 };
            if !series.name.is_empty() {
                line.label(&series.name).legend(move |(x, y)| {
                    let (y, length) = (y - px(3) as i32, px(22) as i32); // the middle of small letters
                    EmptyElement::at((x, y))
                        + PathElement::new([(0, 0), (length, 0)], colour.stroke_width(px(2)))
                        + Circle::new((length / 2, 0), radius, colour.filled())
                });
            }
            chart.draw_series(points.iter().map(|at| Circle::new(*at, radius, colour.filled())))?;
        }
        Ok(())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let bars = [self.bars_name].into_iter();
        bars.chain(self.series.iter().map(|s| s.name.as_str())).filter(|name| !name.is_empty())
    }

    /// The corner whose legend covers least, the upper right among equals. A short legend covers nothing: where no corner is free,
    /// the y axis is made longer, and it lies above everything. (A tall one would leave no height to the lines.)
    fn place_legend(&mut self, size: (usize, usize)) -> SeriesLabelPosition {
        let (corner, covered) = self.legend_corner(size);
        let high = self.legend_shares(size).1;
        if covered == 0 || high > 0.4 {
            return corner;
        }
        self.y_axis = self.y_axis.with_room_above(high);
        self.legend_corner(size).0
    }

    /// Width and height of the legend as shares of the axes, a little too large.
    fn legend_shares(&self, (width, height): (usize, usize)) -> (f64, f64) {
        let title = if self.axes.title.is_empty() { 0 } else { 40 };
        let wide = (width - MARGIN - MARGIN_RIGHT - Y_LABELS) as f64;
        let high = (height - 2 * MARGIN - X_LABELS - title) as f64;
        // As plotters draws it: 19 pixels for an entry, about 7 for a letter.
        let letters = self.names().map(|name| name.chars().count()).max().unwrap_or(0);
        ((44.0 + 7.0 * letters as f64) / wide, (22.0 + 19.0 * self.names().count() as f64) / high)
    }

    /// The corner whose legend would cover least, the upper right among equals, and how much it covers.
    fn legend_corner(&self, size: (usize, usize)) -> (SeriesLabelPosition, usize) {
        use SeriesLabelPosition::{LowerLeft, LowerRight, UpperLeft, UpperRight};
        let (box_x, box_y) = self.legend_shares(size);
        let covered = |right: bool, upper: bool| {
            let inside = |&(x, y): &(f64, f64)| {
                (if right { x > 1.0 - box_x } else { x < box_x }) && (if upper { y > 1.0 - box_y } else { y < box_y })
            };
            self.ink().filter(inside).count()
        };
        let corners =
            [(true, true, UpperRight), (false, true, UpperLeft), (true, false, LowerRight), (false, false, LowerLeft)];
        let costs = corners.map(|(right, upper, corner)| (corner, covered(right, upper)));
        costs.into_iter().min_by_key(|(_, cost)| *cost).unwrap_or((UpperRight, 0))
    }

    /// Places along the lines and in the bars, as shares of the axes.
    fn ink(&self) -> impl Iterator<Item = (f64, f64)> {
        const PARTS: usize = 24;
        let along = |from: f64, to: f64, i: usize| from + (to - from) * i as f64 / PARTS as f64;
        let share = |p: &(f64, f64)| (self.x_axis.share(p.0), self.y_axis.share(p.1));
        let lines = self.drawn.iter().flat_map(move |points| {
            points.windows(2).flat_map(move |ends| {
                let ((x0, y0), (x1, y1)) = (share(&ends[0]), share(&ends[1]));
                (0..=PARTS).map(move |i| (along(x0, x1, i), along(y0, y1, i)))
            })
        });
        let bars = self.bars.iter().flat_map(move |b| {
            let (x, top) = (self.x_axis.share(0.5 * (b.0 + b.1)), self.y_axis.share(b.2));
            (0..=PARTS).map(move |i| (x, along(0.0, top, i)))
        });
        lines.chain(bars)
    }
}

type Plot<'a, 'b> = ChartContext<'a, BitMapBackend<'b>, Cartesian2d<Axis, Axis>>;

#[cfg(test)]
#[path = "plot_tests.rs"]
mod tests;
