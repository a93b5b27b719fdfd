//! The axes of a plot: range, round ticks (1, 2, 5 times a power of ten) and their labels, linear or logarithmic.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Ticks an axis aims at; there may be a few less or more.
const TARGET_TICKS: f64 = 7.0;
/// The same for the short axes of a panel.
const PANEL_TICKS: f64 = 5.0;

/// One axis. On a logarithmic one `low` and `high` are decimal logarithms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    target_ticks: f64,
}

impl Axis {
    /// The axis that holds all `values` (finite; positive if `is_log`) with `margin` of their span to either side.
    pub(super) fn around(values: impl Iterator<Item = f64>, is_log: bool, margin: f64) -> Axis {
        let scaled = values.map(|v| if is_log { v.log10() } else { v });
        let (low, high) = scaled.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if high - low <= 1e-9 * high.abs().max(low.abs()) {
            // One value: a range around it that has ticks.
            let half = if is_log { 0.5 } else { 0.5 * high.abs().max(1.0) };
            return Axis { low: low - half, high: high + half, is_log, target_ticks: TARGET_TICKS };
        }
        // Halves first: the span of -1e300 .. 1e300 is finite, that of the largest numbers is not.
        let pad = 2.0 * margin * (0.5 * high - 0.5 * low);
        Axis { low: low - pad, high: high + pad, is_log, target_ticks: TARGET_TICKS }
    }

    /// The linear axis of a panel, with these ends.
    pub(super) fn exactly([low, high]: [f64; 2]) -> Axis {
        Axis { low, high, is_log: false, target_ticks: PANEL_TICKS }
    }

    /// The axis with `share` of it (below 1) empty at its upper end.
    pub(super) fn with_room_above(self, share: f64) -> Axis {
        Axis { high: self.low + (self.high - self.low) / (1.0 - share), ..self }
    }

    /// The value at the lower end.
    pub(super) fn bottom(&self) -> f64 {
        self.range().start
    }

    /// Where `value` lies: 0 at the lower end, 1 at the upper.
    pub(super) fn share(&self, value: f64) -> f64 {
        let v = if self.is_log { value.log10() } else { value };
        (0.5 * v - 0.5 * self.low) / (0.5 * self.high - 0.5 * self.low)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.is_log {
            return linear_ticks(self.low, self.high, self.target_ticks);
        }
        let decades = self.high - self.low;
        if decades < 0.7 {
            // Less than a factor of 5: equal steps read better than powers.
            return linear_ticks(10f64.powf(self.low), 10f64.powf(self.high), self.target_ticks);
        }
        let multiples: &[f64] = if decades <= 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let stride = (decades / self.target_ticks).ceil().max(1.0) as i32;
        let inside = |v: &f64| (self.low - 1e-9..=self.high + 1e-9).contains(&v.log10());
        let powers = (self.low.floor() as i32..=self.high.ceil() as i32).filter(|p| p.rem_euclid(stride) == 0);
        powers.flat_map(|p| multiples.iter().map(move |m| m * 10f64.powi(p))).filter(inside).collect()
    }
}

fn linear_ticks(low: f64, high: f64, target: f64) -> Vec<f64> {
    let raw = high / target - low / target;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw).unwrap_or(raw);
    // A tick at the very end must survive the rounding of a logarithm.
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    // The step is the target's share of the span or more, so there is at most one tick more than the target.
    (0..=(last - first).clamp(0.0, 16.0) as usize).map(|i| (first + i as f64) * step).collect()
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.share(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks()
    }

    fn range(&self) -> Range<f64> {
        if self.is_log { 10f64.powf(self.low)..10f64.powf(self.high) } else { self.low..self.high }
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        tick_text(*value)
    }
}

/// A short label: 0.002, 1500, 20k, 3.5M; powers of ten outside 1e-4 .. 1e9.
fn tick_text(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e9).contains(&size) {
        // Six digits after rounding, less the zeros that rounding leaves.
        let text = format!("{value:.5e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", trim_zeros(digits));
    }
    let (value, unit) = match size {
        s if s >= 1e6 => (value / 1e6, "M"),
        s if s >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{unit}", trim_zeros(&format!("{value:.7}")))
}

fn trim_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, is_log: bool) -> Vec<String> {
        Axis::around([low, high].into_iter(), is_log, 0.0).ticks().into_iter().map(tick_text).collect()
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        assert_eq!(labels(0.0, 1.0, false), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(labels(1.0, 20_000.0, false), ["5000", "10k", "15k", "20k"]);
        assert_eq!(labels(-0.03, 0.03, false), ["-0.03", "-0.02", "-0.01", "0", "0.01", "0.02", "0.03"]);
        assert_eq!(labels(1e6, 4e6, false), ["1M", "1.5M", "2M", "2.5M", "3M", "3.5M", "4M"]);
    }

    #[test]
    fn logarithmic_ticks_are_powers_or_their_multiples() {
        assert_eq!(labels(0.001, 1.0, true), ["0.001", "0.01", "0.1", "1"]);
        assert_eq!(labels(0.02, 1.0, true), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(labels(0.2, 0.3, true), ["0.2", "0.22", "0.24", "0.26", "0.28", "0.3"]);
        assert_eq!(labels(1e-12, 1e2, true), ["1e-12", "1e-10", "1e-8", "1e-6", "0.0001", "0.01", "1", "100"]);
    }

    #[test]
    fn equal_values_get_a_range_around_them() {
        for is_log in [false, true] {
            let axis = Axis::around([7.0, 7.0].into_iter(), is_log, 0.0);
            assert!(axis.range().contains(&7.0) && axis.ticks().len() > 1, "{axis:?}");
            assert_eq!(axis.map(&7.0, (0, 100)), 50);
        }
    }

    #[test]
    fn values_map_to_their_share_of_the_axis() {
        let linear = Axis::around([0.0, 10.0].into_iter(), false, 0.0);
        assert_eq!([0.0, 2.5, 10.0].map(|v| linear.map(&v, (10, 110))), [10, 35, 110]);
        let log = Axis::around([0.01, 100.0].into_iter(), true, 0.0);
        assert_eq!([0.01, 0.1, 1.0, 100.0].map(|v| log.map(&v, (400, 0))), [400, 300, 200, 0]);
    }
}
