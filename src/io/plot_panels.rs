//! Panels side by side under one window: clouds of points, densities as heat maps, bundles of paths.

use std::path::Path;

use plotters::prelude::*;

use super::plot_axis::Axis;
use super::plot_canvas::{AXIS, Area, COLOURS, Drawn, GRID, centred, font, px, write_drawing};
use crate::tensor::Tensor;
use crate::{Error, Result};

const MARGIN: usize = 12;
const TITLE: usize = 40;
const PANEL_TITLE: usize = 30;
const X_TICKS: usize = 26;
const Y_TICKS: usize = 40;
const LABEL: usize = 22;

/// Sequential colours of a heat map, none to most, even in lightness (Harrower & Brewer 2003, "Blues").
const HEAT: [[f64; 3]; 6] = [
    [255.0, 255.0, 255.0],
    [222.0, 235.0, 247.0],
    [158.0, 202.0, 225.0],
    [66.0, 146.0, 198.0],
    [8.0, 81.0, 156.0],
    [8.0, 48.0, 107.0],
];

/// A density (or any number from 0 up) on a grid of equal cells.
#[derive(Clone, Debug)]
pub struct Heat {
    /// Ends of the x range.
    pub x: [f64; 2],
    /// Ends of the y range.
    pub y: [f64; 2],
    /// Cells along x; the rest of `values` are rows.
    pub columns: usize,
    /// Row by row, the lowest y first. White is 0 or below or not finite, the darkest blue the greatest value.
    pub values: Vec<f64>,
    /// Shades go with (value/greatest)^power: below 1, tails show under tall peaks.
    pub power: f64,
}

impl Heat {
    /// Evaluates `density` in the middle of each of `columns`·`rows` cells; shades go with the value itself.
    pub fn of(
        [x, y]: [[f64; 2]; 2],
        (columns, rows): (usize, usize),
        mut density: impl FnMut(f64, f64) -> f64,
    ) -> Heat {
        let middle = |[from, to]: [f64; 2], i: usize, n: usize| from + (to - from) * (i as f64 + 0.5) / n as f64;
        let mut values = Vec::with_capacity(columns * rows);
        for row in 0..rows {
            for column in 0..columns {
                values.push(density(middle(x, column, columns), middle(y, row, rows)));
            }
        }
        Heat { x, y, columns, values, power: 1.0 }
    }
}

/// One thing drawn in a panel.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A dot for each (x, y).
    Points(Vec<[f64; 2]>),
    /// Thin lines through (x, y), all of one colour.
    Paths(Vec<Vec<[f64; 2]>>),
    /// A heat map.
    Heat(Heat),
}

/// One panel: layers in drawing order. Each layer of points or paths takes the next colour.
#[derive(Clone, Debug, Default)]
pub struct Panel {
    /// Above the panel; may be empty.
    pub title: String,
    /// The first is drawn first.
    pub layers: Vec<Layer>,
}

impl Panel {
    /// A panel with one layer.
    pub fn new(title: &str, layer: Layer) -> Panel {
        Panel { title: title.into(), layers: vec![layer] }
    }

    /// A cloud of the rows of `points` `[n, 2]`.
    ///
    /// # Errors
    /// As [`points_of`].
    pub fn scatter(title: &str, points: &Tensor) -> Result<Panel> {
        Ok(Panel::new(title, Layer::Points(points_of(points)?)))
    }

    /// The same with one more layer on top.
    pub fn with(mut self, layer: Layer) -> Panel {
        self.layers.push(layer);
        self
    }
}

/// How panels are laid out.
#[derive(Clone, Copy, Debug)]
pub struct PanelOptions<'a> {
    /// Above all panels; may be empty.
    pub title: &'a str,
    /// Below each panel; may be empty.
    pub x_label: &'a str,
    /// Left of each panel; may be empty.
    pub y_label: &'a str,
    /// Panels in a row; all in one if 0.
    pub columns: usize,
    /// The ranges [x, y] that every panel shows; what is drawn outside is left out. If not said, all that is drawn fits.
    pub window: Option<[[f64; 2]; 2]>,
    /// Whether x and y have the same unit, so that a circle is round.
    pub equal_aspect: bool,
    /// Width of a panel in pixels, without its labels; at least 40.
    pub width: usize,
}

impl Default for PanelOptions<'_> {
    /// Clouds in the plane: one row, equal units, 280 pixels wide.
    fn default() -> Self {
        let (title, x_label, y_label) = ("", "", "");
        PanelOptions { title, x_label, y_label, columns: 0, window: None, equal_aspect: true, width: 280 }
    }
}

/// The rows of a tensor `[n, 2]` (f32 or f64) as points.
///
/// # Errors
/// [`Error::Shape`] for another shape; [`Error::Dtype`] for another element type.
pub fn points_of(tensor: &Tensor) -> Result<Vec<[f64; 2]>> {
    if !matches!(tensor.shape()[..], [_, 2]) {
        return Err(Error::Shape(format!("points: expected [n,2], got {}", tensor.shape())));
    }
    Ok(tensor.to_f64s()?.chunks_exact(2).map(|p| [p[0], p[1]]).collect())
}

/// Draws panels that share one window into a PNG, whole or not at all.
///
/// # Errors
/// [`Error::Usage`] if there is no panel, a panel is narrower than 40 pixels, the window is empty, or the cells of a heat
/// map do not fill rows; [`Error::NonFinite`] if no point can be drawn; [`Error::Io`] if the file cannot be written.
///
/// # Example
/// ```
/// # fn main() -> tweedie::Result<()> {
/// use tweedie::{data::Toy, io::plot::{Heat, Layer, Panel, PanelOptions, plot_panels}};
/// let path = std::env::temp_dir().join(format!("tweedie-panels-{}.png", std::process::id()));
/// let toy = Toy::Checkerboard;
/// let heat = Heat::of([[-2.5, 2.5]; 2], (100, 100), |x, y| toy.density(x, y).unwrap_or(0.0));
/// let panels = [Panel::scatter("samples", &toy.sample(0, 2000)?)?, Panel::new("density", Layer::Heat(heat))];
/// plot_panels(&path, &panels, &PanelOptions { title: "Checkerboard", ..PanelOptions::default() })?;
/// # std::fs::remove_file(&path).map_err(tweedie::Error::io("remove", &path))
/// # }
/// ```
pub fn plot_panels(path: impl AsRef<Path>, panels: &[Panel], options: &PanelOptions<'_>) -> Result<()> {
    let path = path.as_ref();
    check(path, panels, options)?;
    let window = match options.window {
        Some(window) => window,
        None => window_around(path, panels)?,
    };
    let sheet = Sheet::new(panels, options, window);
    write_drawing(path, sheet.size(), |area| sheet.draw(area))
}

fn check(path: &Path, panels: &[Panel], options: &PanelOptions<'_>) -> Result<()> {
    let fail = |text: String| Err(Error::Usage(format!("plot {}: {text}", path.display())));
    if panels.is_empty() {
        return fail("expected at least one panel, got none".into());
    }
    if !(40..=4000).contains(&options.width) {
        return fail(format!("width = {}: expected 40 to 4000 pixels", options.width));
    }
    let is_range = |[from, to]: [f64; 2]| to - from > 0.0 && (to - from).is_finite();
    if let Some(range) = options.window.iter().flatten().find(|range| !is_range(**range)) {
        return fail(format!("window {} to {}: expected a lower and an upper end", range[0], range[1]));
    }
    for heat in
        panels.iter().flat_map(|p| &p.layers).filter_map(|l| if let Layer::Heat(h) = l { Some(h) } else { None })
    {
        let (columns, count) = (heat.columns, heat.values.len());
        if columns == 0 || count == 0 || !count.is_multiple_of(columns) || !is_range(heat.x) || !is_range(heat.y) {
            return fail(format!(
                "heat map of {count} values in {columns} columns, x {:?}, y {:?}: expected full rows and ranges",
                heat.x, heat.y
            ));
        }
    }
    Ok(())
}

/// All that the panels draw, with a little room around points.
fn window_around(path: &Path, panels: &[Panel]) -> Result<[[f64; 2]; 2]> {
    let mut window = [[f64::INFINITY, f64::NEG_INFINITY]; 2];
    let mut margin = 0.04;
    let mut extend = |p: [f64; 2]| {
        if p.iter().all(|v| v.is_finite()) {
            for (range, v) in window.iter_mut().zip(p) {
                *range = [range[0].min(v), range[1].max(v)];
            }
        }
    };
    for layer in panels.iter().flat_map(|p| &p.layers) {
        match layer {
            Layer::Points(points) => points.iter().for_each(|p| extend(*p)),
            Layer::Paths(paths) => paths.iter().flatten().for_each(|p| extend(*p)),
            Layer::Heat(heat) => {
                margin = 0.0; // a heat map fills its panel
                (0..2).for_each(|i| extend([heat.x[i], heat.y[i]]));
            }
        }
    }
    if window[0][0] > window[0][1] {
        return Err(Error::NonFinite(format!("plot {}: expected a finite point, got none", path.display())));
    }
    Ok(window.map(|[low, high]| {
        let pad = if high > low { margin * (high - low) } else { 0.5 * high.abs().max(1.0) };
        [low - pad, high + pad]
    }))
}

/// Where everything lies, in pixels of the file.
struct Sheet<'a> {
    panels: &'a [Panel],
    options: &'a PanelOptions<'a>,
    window: [[f64; 2]; 2],
    columns: usize,
    title: usize,
    left: usize,
    below: usize,
    height: usize,
}

impl<'a> Sheet<'a> {
    fn new(panels: &'a [Panel], options: &'a PanelOptions<'a>, mut window: [[f64; 2]; 2]) -> Sheet<'a> {
        let span = |[low, high]: [f64; 2]| high - low;
        let widen = |[low, high]: [f64; 2], to: f64| [0.5 * (low + high - to), 0.5 * (low + high + to)];
        let mut height = options.width * 3 / 4;
        if options.equal_aspect {
            // A strip shows more around it instead of becoming a thread.
            let (x, y) = (span(window[0]), span(window[1]));
            window = [widen(window[0], x.max(0.4 * y)), widen(window[1], y.max(0.4 * x))];
            height = (options.width as f64 * span(window[1]) / span(window[0])).round() as usize;
        }
        let label = |text: &str| if text.is_empty() { 0 } else { LABEL };
        let columns = if options.columns == 0 { panels.len() } else { options.columns.min(panels.len()) };
        let title = if options.title.is_empty() { 0 } else { TITLE };
        let (left, below) = (Y_TICKS + label(options.y_label), X_TICKS + label(options.x_label));
        Sheet { panels, options, window, columns, title, left, below, height }
    }

    /// A panel with all that belongs to it.
    fn cell(&self) -> (usize, usize) {
        let above = if self.panels.iter().all(|p| p.title.is_empty()) { MARGIN } else { PANEL_TITLE };
        (self.left + self.options.width + MARGIN, above + self.height + self.below)
    }

    fn size(&self) -> (usize, usize) {
        let (cell, rows) = (self.cell(), self.panels.len().div_ceil(self.columns));
        (self.columns * cell.0 + 2 * MARGIN, self.title + rows * cell.1 + MARGIN)
    }

    fn draw(&self, area: &Area<'_>) -> Drawn {
        let (size, cell) = (self.size(), self.cell());
        if self.title > 0 {
            centred(area, self.options.title, size.0 / 2, 10, 23)?;
        }
        for (i, panel) in self.panels.iter().enumerate() {
            let (x, y) = (MARGIN + i % self.columns * cell.0, self.title + i / self.columns * cell.1);
            let part = area.clone().shrink((px(x), px(y)), (px(cell.0), px(cell.1)));
            self.draw_panel(&part, panel)?;
        }
        Ok(())
    }

    fn draw_panel(&self, area: &Area<'_>, panel: &Panel) -> Drawn {
        let above = self.cell().1 - self.height - self.below;
        centred(area, &panel.title, self.left + self.options.width / 2, 7, 18)?;
        let [x_axis, y_axis] = self.window.map(Axis::exactly);
        let mut chart = ChartBuilder::on(area)
            .margin_top(px(above))
            .margin_right(px(MARGIN))
            .x_label_area_size(px(self.below))
            .y_label_area_size(px(self.left))
            .build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .bold_line_style(GRID.stroke_width(px(1)))
            .light_line_style(TRANSPARENT)
            .axis_style(AXIS.stroke_width(px(1)))
            .set_all_tick_mark_size(px(4))
            .label_style(font(14))
            .axis_desc_style(font(16))
            .x_desc(self.options.x_label)
            .y_desc(self.options.y_label)
            .draw()?;
        // The darkest heat and the first colour are both blue.
        let has_heat = panel.layers.iter().any(|layer| matches!(layer, Layer::Heat(_)));
        let mut colours = COLOURS.iter().cycle().skip(usize::from(has_heat));
        let plane = chart.plotting_area();
        for layer in &panel.layers {
            match layer {
                Layer::Heat(heat) => draw_heat(plane, heat, self.window)?,
                Layer::Points(points) => {
                    let (radius, opacity) = dot(points.len());
                    let colour = colours.next().unwrap_or(&COLOURS[0]).mix(opacity);
                    for p in points.iter().filter(|p| self.shows(p)) {
                        plane.draw(&Circle::new((p[0], p[1]), radius, colour.filled()))?;
                    }
                }
                Layer::Paths(paths) => {
                    let opacity = (12.0 / paths.len().max(1) as f64).clamp(0.35, 0.9);
                    let style = colours.next().unwrap_or(&COLOURS[0]).mix(opacity).stroke_width(px(1));
                    for ends in paths.iter().flat_map(|path| path.windows(2)) {
                        if ends.iter().all(|p| self.shows(p)) {
                            plane.draw(&PathElement::new([ends[0], ends[1]].map(|p| (p[0], p[1])), style))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn shows(&self, p: &[f64; 2]) -> bool {
        self.window.iter().zip(p).all(|([low, high], v)| (*low..=*high).contains(v))
    }
}

/// Radius in drawn pixels and opacity: many dots are small and let denser places show.
fn dot(count: usize) -> (u32, f64) {
    match count {
        0..=300 => (px(2) + 1, 0.85),
        301..=1500 => (px(2) - 1, 0.6),
        1501..=6000 => (px(1), 0.5),
        _ => (px(1), 0.25),
    }
}

type Plane<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::cartesian::Cartesian2d<Axis, Axis>>;

fn draw_heat(plane: &Plane<'_>, heat: &Heat, window: [[f64; 2]; 2]) -> Drawn {
    let top = heat.values.iter().copied().filter(|v| v.is_finite()).fold(0.0_f64, f64::max);
    let rows = heat.values.len() / heat.columns;
    let edge = |[from, to]: [f64; 2], i: usize, n: usize| from + (to - from) * i as f64 / n as f64;
    let inside = |v: f64, [low, high]: [f64; 2]| v.clamp(low, high);
    for (i, value) in heat.values.iter().enumerate().filter(|(_, v)| v.is_finite() && **v > 0.0) {
        let (column, row) = (i % heat.columns, i / heat.columns);
        let x = [column, column + 1].map(|c| inside(edge(heat.x, c, heat.columns), window[0]));
        let y = [row, row + 1].map(|r| inside(edge(heat.y, r, rows), window[1]));
        if x[0] < x[1] && y[0] < y[1] {
            let colour = shade((value / top).powf(heat.power));
            plane.draw(&Rectangle::new([(x[0], y[0]), (x[1], y[1])], colour.filled()))?;
        }
    }
    Ok(())
}

/// The colour at `share` of the scale, 0 to 1.
fn shade(share: f64) -> RGBColor {
    let place = share.clamp(0.0, 1.0) * (HEAT.len() - 1) as f64;
    let low = (place as usize).min(HEAT.len() - 2);
    let mix = |i: usize| (HEAT[low][i] + (place - low as f64) * (HEAT[low + 1][i] - HEAT[low][i])).round() as u8;
    RGBColor(mix(0), mix(1), mix(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::tensor::Dtype;

    /// Width, height and pixels of what is written.
    fn drawn(panels: &[Panel], options: &PanelOptions<'_>) -> (usize, usize, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        plot_panels(&path, panels, options).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width as usize, info.height as usize, pixels)
    }

    /// Places of the pixels that `is_it` accepts.
    fn places(image: &(usize, usize, Vec<u8>), is_it: impl Fn(&[u8]) -> bool) -> Vec<(usize, usize)> {
        let pixels = image.2.chunks_exact(3).enumerate();
        pixels.filter(|(_, p)| is_it(p)).map(|(i, _)| (i % image.0, i / image.0)).collect()
    }

    fn is_blue(p: &[u8]) -> bool {
        i32::from(p[2]) - i32::from(p[0]) > 60
    }

    const UNIT: Option<[[f64; 2]; 2]> = Some([[0.0, 1.0]; 2]);

    fn bare() -> PanelOptions<'static> {
        PanelOptions { window: UNIT, width: 200, ..PanelOptions::default() }
    }

    fn dot_at(x: f64, y: f64) -> Panel {
        Panel::new("", Layer::Points(vec![[x, y]]))
    }

    #[test]
    fn a_point_is_drawn_at_its_place_in_every_panel_and_row() {
        // Margin 12, labels 40, 200 wide and high, 12 above a panel without title, 26 below.
        let panels = [dot_at(0.5, 0.25), dot_at(0.5, 0.25), dot_at(0.5, 0.25)];
        let image = drawn(&panels, &PanelOptions { columns: 2, ..bare() });
        assert_eq!((image.0, image.1), (24 + 2 * 252, 12 + 2 * 238));
        let blue = places(&image, is_blue);
        for (x, y) in [(152, 162), (404, 162), (152, 400)] {
            let near = blue.iter().filter(|p| p.0.abs_diff(x) <= 3 && p.1.abs_diff(y) <= 3).count();
            assert!(near >= 12, "{near} pixels near ({x}, {y})");
        }
        assert!(blue.len() < 3 * 49, "{} blue pixels", blue.len());
    }

    #[test]
    fn equal_units_make_the_panel_as_high_as_its_window() {
        let high =
            |window, equal_aspect| drawn(&[dot_at(0.5, 0.5)], &PanelOptions { window, equal_aspect, ..bare() }).1;
        let around = 12 + 26 + 12;
        assert_eq!(high(UNIT, true), 200 + around);
        assert_eq!(high(Some([[0.0, 1.0], [0.0, 2.0]]), true), 400 + around);
        assert_eq!(high(Some([[0.0, 100.0], [0.0, 1.0]]), true), 80 + around, "a strip is widened");
        assert_eq!(high(Some([[0.0, 100.0], [0.0, 1.0]]), false), 150 + around);
    }

    #[test]
    fn heat_is_darkest_in_its_greatest_cell_and_white_where_there_is_none() {
        let heat = Heat::of([[0.0, 1.0]; 2], (2, 2), |x, y| if x < 0.5 && y > 0.5 { 4.0 } else { -1.0 });
        assert_eq!(heat.values, [-1.0, -1.0, 4.0, -1.0]);
        let image = drawn(&[Panel::new("", Layer::Heat(heat))], &bare());
        let dark = places(&image, |p| p == [8, 48, 107]);
        // The upper left quarter: 100 by 100, its edges shared with grid and axis.
        assert!(dark.len().abs_diff(10_000) < 400, "{}", dark.len());
        assert!(dark.iter().all(|(x, y)| (52..=152).contains(x) && (12..=112).contains(y)));
        assert_eq!((shade(0.0), shade(1.0), shade(2.0)), (WHITE, RGBColor(8, 48, 107), RGBColor(8, 48, 107)));
    }

    #[test]
    fn what_lies_outside_the_window_is_left_out() {
        let inside = drawn(&[dot_at(0.5, 0.5)], &bare());
        let heat = Heat { x: [1.0, 2.0], ..Heat::of([[0.0, 1.0]; 2], (4, 4), |_, _| 1.0) };
        let points = Layer::Points(vec![[0.5, 0.5], [1.5, 0.5], [f64::NAN, 0.5]]);
        let panel = Panel::new("", points.clone()).with(Layer::Paths(vec![vec![[0.5, 0.5], [0.5, 3.0]]]));
        assert!(drawn(&[panel], &bare()) == inside, "a point or a path outside was drawn");
        let heated = drawn(&[Panel::new("", Layer::Heat(heat)).with(points)], &bare());
        assert!(places(&heated, is_blue).is_empty(), "a heat map outside was drawn");
    }

    #[test]
    fn without_a_window_everything_fits_and_paths_are_lines() {
        let path = (0..=10).map(|i| [f64::from(i), f64::from(i % 2)]).collect();
        let image = drawn(&[Panel::new("", Layer::Paths(vec![path]))], &PanelOptions { window: None, ..bare() });
        let blue = places(&image, is_blue);
        // 4 % of room on either side of a span of 10 that fills 200 pixels.
        let (low, high) = (blue.iter().map(|p| p.0).min().unwrap(), blue.iter().map(|p| p.0).max().unwrap());
        assert!(low.abs_diff(52 + 7) <= 2 && high.abs_diff(252 - 7) <= 2, "{low} to {high}");
        let window = window_around(Path::new("p"), &[dot_at(3.0, 0.0)]).unwrap();
        assert_eq!(window, [[1.5, 4.5], [-0.5, 0.5]]);
    }

    #[test]
    fn wrong_panels_are_named() {
        let fail = |panels: &[Panel], options: &PanelOptions<'_>| {
            plot_panels("p.png", panels, options).unwrap_err().to_string()
        };
        assert_eq!(fail(&[], &bare()), "plot p.png: expected at least one panel, got none");
        let window = Some([[1.0, 1.0], [0.0, 1.0]]);
        assert!(fail(&[dot_at(0.0, 0.0)], &PanelOptions { window, ..bare() }).contains("window 1 to 1"));
        assert!(fail(&[dot_at(0.0, 0.0)], &PanelOptions { width: 0, ..bare() }).contains("width = 0"));
        let none = Panel::new("", Layer::Points(vec![[f64::NAN, 0.0]]));
        assert!(fail(&[none], &PanelOptions::default()).ends_with("expected a finite point, got none"));
        let mut heat = Heat::of([[0.0, 1.0]; 2], (2, 2), |_, _| 1.0);
        heat.values.pop();
        assert!(fail(&[Panel::new("", Layer::Heat(heat))], &bare()).contains("3 values in 2 columns"));
        let x = Tensor::zeros([2, 3], Dtype::F32, Device::Cpu).unwrap();
        assert_eq!(Panel::scatter("", &x).unwrap_err().to_string(), "points: expected [n,2], got [2,3]");
        let x = Tensor::from_slice(&[1.0_f64, 2.0], [1, 2]).unwrap();
        assert_eq!(points_of(&x).unwrap(), [[1.0, 2.0]]);
    }
}
