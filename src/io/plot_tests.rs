use super::*;
use plotters::style::RGBColor;

const WIDTH: usize = SIZES[0].0;
const HEIGHT: usize = SIZES[0].1;

fn decode(path: &Path) -> Vec<u8> {
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width as usize, info.height as usize), (WIDTH, HEIGHT));
    pixels
}

fn count(pixels: &[u8], colour: RGBColor) -> usize {
    pixels.chunks_exact(3).filter(|p| *p == [colour.0, colour.1, colour.2]).count()
}

fn axes<'a>(title: &'a str, x_label: &'a str, y_label: &'a str, log_y: bool) -> Axes<'a> {
    Axes { title, x_label, y_label, log_x: false, log_y }
}

fn line(y: f64, faint: bool) -> Series {
    Series { points: vec![(0.0, y), (100.0, y)], faint, ..Series::default() }
}

#[test]
fn lines_are_drawn_in_their_colours_and_faint_ones_in_the_colour_of_their_mean() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.png");
    plot_lines(&path, &axes("", "", "", false), &[line(1.0, true), line(2.0, false), line(3.0, false)]).unwrap();
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
    plot_lines(&path, &axes("", "", "", false), &[Series { points: zigzag, ..Series::default() }]).unwrap();
    let pixels = decode(&path);
    // Top margin, and the labels below the axis: 14 and 48 + 14 rows, one less for the smoothing.
    for rows in [0..13, HEIGHT - 61..HEIGHT] {
        let outside = &pixels[rows.start * WIDTH * 3..rows.end * WIDTH * 3];
        assert_eq!(count(outside, COLOURS[0]), 0, "rows {rows:?}");
    }
    plot_lines(&path, &axes("", "", "", false), &[Series { points: vec![(1.0, 1.0)], ..Series::default() }]).unwrap();
    assert!(count(&decode(&path), COLOURS[0]) >= 12, "a dot of radius 3");
}

#[test]
fn titles_and_labels_are_written_with_the_embedded_font() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.png");
    let dark = |title: &str, x: &str, y: &str| {
        plot_lines(&path, &axes(title, x, y, false), &[line(1.0, false)]).unwrap();
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
    let series = |points| [Series { name: "loss".into(), points, ..Series::default() }];
    plot_lines(&with, &axes("t", "x", "y", true), &series(all)).unwrap();
    plot_lines(&without, &axes("t", "x", "y", true), &series(good)).unwrap();
    assert!(std::fs::read(&with).unwrap() == std::fs::read(&without).unwrap(), "the two plots differ");
    let finite = |points: &[(f64, f64)]| {
        plot_lines(&with, &axes("t", "x", "y", false), &series(points.to_vec())).unwrap();
        std::fs::read(&with).unwrap()
    };
    let (ends, holed) = ([(0.0, -1.0), (2.0, 1.0)], [(0.0, -1.0), (1.0, f64::INFINITY), (2.0, 1.0)]);
    assert!(finite(&holed) == finite(&ends), "an infinite point is drawn on a linear axis");
    let text = plot_lines(&with, &axes("t", "x", "y", true), &series(vec![(0.0, -1.0)])).unwrap_err().to_string();
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
            let series = [Series { name: "s".into(), points: points.clone(), ..Series::default() }];
            let result = plot_lines(&path, &axes("t", "x", "y", log_y), &series);
            assert_eq!(result.is_ok(), !log_y || points[0].1 > 0.0 || points.last().unwrap().1 > 0.0);
        }
    }
}

#[test]
fn faint_lines_after_the_last_bold_one_are_grey() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.png");
    plot_lines(&path, &Axes::default(), &[line(1.0, false), line(2.0, true)]).unwrap();
    let pixels = decode(&path);
    // The axis is of the same grey: two lines of 800 and 440 pixels, and ticks.
    assert!(count(&pixels, AXIS) > 2000, "{}", count(&pixels, AXIS));
    assert_eq!(count(&pixels, pale(COLOURS[1])), 0);
}

#[test]
fn bars_are_densities_that_count_every_sample() {
    let bars = |samples: Vec<f64>, bins, range| {
        Histogram { name: String::new(), samples, bins, range }.densities(Path::new("p.png"))
    };
    // Quarters hold 1, 2, 0 and 1 of five; the greatest sample belongs to the last bar, NaN to none.
    let got = bars(vec![0.0, 0.3, 0.4, 1.0, f64::NAN], 4, None).unwrap();
    assert_eq!(got, [(0.0, 0.25, 0.8), (0.25, 0.5, 1.6), (0.5, 0.75, 0.0), (0.75, 1.0, 0.8)]);
    // Outside the range: in no bar, but among all.
    assert_eq!(bars(vec![0.5, 7.0], 1, Some([0.0, 1.0])).unwrap(), [(0.0, 1.0, 0.5)]);
    assert_eq!(bars(vec![2.0, 2.0], 1, None).unwrap(), [(1.5, 2.5, 1.0)]);
    assert!(bars(vec![1.0], 0, None).unwrap_err().to_string().ends_with("bins = 0: expected at least 1"));
    assert!(bars(vec![f64::NAN], 3, None).unwrap_err().to_string().contains("expected samples in a range"));
    assert!(bars(vec![0.0], 3, Some([1.0, 1.0])).is_err());
}

#[test]
fn histograms_draw_bars_from_the_axis_and_curves_over_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.png");
    let samples = (0..100).map(|i| f64::from(i) / 100.0).collect();
    let bars = Histogram { name: "samples".into(), samples, bins: 2, range: Some([0.0, 2.0]) };
    let curve = Series { points: vec![(0.0, 0.5), (2.0, 0.5)], ..Series::default() };
    plot_histogram(&path, &Axes::default(), &bars, &[curve]).unwrap();
    let pixels = decode(&path);
    // The first half holds all: half of 792 columns by 464/1.06 rows, less the curve and the edge.
    let grey = count(&pixels, pale(AXIS));
    assert!((165_000..176_000).contains(&grey), "{grey}");
    assert!(count(&pixels, COLOURS[0]) > 1400, "a curve two pixels wide");
    let none = Histogram { bins: 3, ..Histogram::default() };
    assert!(plot_histogram(&path, &Axes::default(), &none, &[]).is_err());
}

#[test]
fn logarithmic_x_leaves_out_what_has_no_logarithm_and_marks_are_dots() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.png");
    let plot = |points: Vec<(f64, f64)>, marked| {
        let axes = Axes { log_x: true, log_y: true, ..Axes::default() };
        plot_lines(&path, &axes, &[Series { points, marked, ..Series::default() }]).map(|()| decode(&path))
    };
    let good = vec![(1.0, 1.0), (10.0, 0.1), (100.0, 0.01)];
    let with_zero = [vec![(0.0, 1.0)], good.clone()].concat();
    assert!(plot(with_zero, false).unwrap() == plot(good, false).unwrap(), "x = 0 was drawn");
    let rows = |marked| {
        let pixels = plot(vec![(1.0, 1.0), (10.0, 1.0)], marked).unwrap();
        pixels.chunks_exact(WIDTH * 3).filter(|row| count(row, COLOURS[0]) > 0).count()
    };
    assert!(rows(false) <= 3 && rows(true) >= 5, "a line of 2 pixels, dots of 6: {} and {}", rows(false), rows(true));
    let text = plot(vec![(-1.0, 1.0)], false).unwrap_err().to_string();
    assert!(text.ends_with("expected a point that is finite with x > 0 and y > 0, got none among 1"), "{text}");
}

#[test]
fn the_legend_stands_in_a_corner_without_lines() {
    let corner = |points: Vec<(f64, f64)>| {
        let series = [Series { name: "loss".into(), points, ..Series::default() }];
        let axes = Axes::default();
        Drawing::new(Path::new("p.png"), &axes, None, &series).unwrap().legend_corner(SIZES[0]).0
    };
    use SeriesLabelPosition::{LowerLeft, LowerRight, UpperLeft, UpperRight};
    assert!(matches!(corner(vec![(0.0, 1.0), (1.0, 0.0)]), UpperRight));
    assert!(matches!(corner(vec![(0.0, 0.0), (1.0, 1.0)]), UpperLeft));
    assert!(matches!(corner(vec![(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]), LowerRight));
    assert!(matches!(corner(vec![(0.0, 1.0), (1.0, 1.0), (1.0, 0.0)]), LowerLeft));
}

#[test]
fn charts_lie_in_rows_each_with_its_own_axes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.png");
    let bars = Histogram { samples: vec![0.5; 3], bins: 1, range: Some([0.0, 1.0]), ..Histogram::default() };
    let charts = [
        Chart { lines: vec![line(1.0, false)], ..Chart::default() },
        Chart { bars: Some(bars), ..Chart::default() },
        Chart { lines: vec![line(1e6, false)], ..Chart::default() },
    ];
    let drawn = |columns, charts: &[Chart<'_>]| {
        plot_charts(&path, "all", columns, charts).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        ((info.width as usize, info.height as usize), pixels)
    };
    let ((width, height), pixels) = drawn(2, &charts);
    assert_eq!((width, height), (1200, TITLE + 800));
    // A level line lies in the middle of its own axes: in the upper left and the lower left quarter.
    let blue: Vec<usize> = (0..width * height).filter(|i| pixels[3 * i..][..3] == [0, 114, 178]).collect();
    assert!(blue.iter().all(|i| i % width < 600) && blue.len() > 1000, "{} blue pixels", blue.len());
    for middle in [TITLE + (14 + 352) / 2, TITLE + 400 + (14 + 352) / 2] {
        assert!(blue.iter().any(|i| (i / width).abs_diff(middle) <= 12), "no line near row {middle}");
    }
    let grey = pale(AXIS);
    let right = (0..width * height).filter(|i| pixels[3 * i..][..3] == [grey.0, grey.1, grey.2] && i % width > 600);
    assert!(right.count() > 50_000, "a bar fills its chart");
    assert_eq!(drawn(3, &charts).0, (3 * 460, TITLE + 340));
    assert_eq!(drawn(9, &charts[..1]).0, (900, TITLE + 540), "no more columns than charts");
    let text = plot_charts(&path, "", 2, &[]).unwrap_err().to_string();
    assert!(text.ends_with("0 charts in 2 columns: expected at least one of each"), "{text}");
}

#[test]
fn a_legend_without_a_free_corner_gets_room_above_the_lines() {
    // A zigzag through all four corners.
    let points = (0..200).map(|i| (f64::from(i), f64::from(i % 2))).collect();
    let series =
        |count| vec![Series { name: "everywhere".into(), points: Vec::clone(&points), ..Series::default() }; count];
    for size in SIZES {
        let axes = Axes::default();
        let (few, many) = (series(2), series(20));
        let mut drawing = Drawing::new(Path::new("p.png"), &axes, None, &few).unwrap();
        assert!(drawing.legend_corner(size).1 > 0);
        let before = drawing.y_axis;
        drawing.place_legend(size);
        assert_eq!(drawing.legend_corner(size).1, 0, "{size:?}");
        assert_eq!(drawing.y_axis.bottom(), before.bottom());
        let mut drawing = Drawing::new(Path::new("p.png"), &axes, None, &many).unwrap();
        drawing.place_legend(size);
        assert_eq!(drawing.y_axis.share(1.0), before.share(1.0), "a tall legend takes no room");
    }
}

#[test]
fn a_missing_folder_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/p.png");
    plot_lines(&path, &Axes::default(), &[line(1.0, false)]).unwrap();
    assert!(path.is_file());
}
