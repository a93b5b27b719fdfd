//! Fidelity and diversity by nearest neighbours (item 4): a generator that always returns one good image is faithful and covers nothing.
//!
//! Precision and recall are those of Kynkäänniemi et al. 2019, density and coverage those of Naeem et al. 2020. All compare two sets of
//! points through the balls around the points of one, each just large enough to hold its k nearest neighbours in its own set. For images
//! take features, or pixels where images are small and aligned.

use crate::device::{DisjointMut, for_each_block};
use crate::error::{Error, Result};
use serde::Serialize;

/// How near two sets of points are to one law.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CoverageReport {
    /// Neighbours that define a ball.
    pub k: usize,
    /// Share of the generated points inside a real point's ball: fidelity.
    pub precision: f64,
    /// Share of the real points inside a generated point's ball: diversity.
    pub recall: f64,
    /// Mean number of real balls that hold a generated point, over k: fidelity; its expectation is 1 where both sets have one law.
    pub density: f64,
    /// Share of the real points whose ball holds a generated point: diversity; [`expected_coverage`] where both sets have one law.
    pub coverage: f64,
}

/// Measures generated points against real ones.
///
/// * `real`, `generated` — `[n, dim]` and `[m, dim]`, row-major, in one unit
/// * `k` — neighbours, below n and m; Naeem et al. take 5
///
/// Balls are closed, so that an exact copy of a real point lies in its ball even where that has radius 0.
///
/// Cost: (n + m)² distances.
///
/// # Errors
/// [`Error::Usage`] if a set does not consist of rows of `dim` numbers, or has no more than k of them; [`Error::NonFinite`] for a number
/// that is not finite.
///
/// # Example
/// ```
/// use tweedie::eval::coverage;
/// // Real points on a line; the generator knows the first half of it.
/// let real: Vec<f64> = (0..100).map(f64::from).collect();
/// let generated: Vec<f64> = (0..50).map(|i| f64::from(i) + 0.25).collect();
/// let report = coverage(&real, &generated, 1, 3)?;
/// assert_eq!(report.precision, 1.0);
/// assert!((report.coverage - 0.5).abs() < 0.03);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn coverage(real: &[f64], generated: &[f64], dim: usize, k: usize) -> Result<CoverageReport> {
    check("real", real, dim, k)?;
    check("generated", generated, dim, k)?;
    let (n, m) = (real.len() / dim, generated.len() / dim);
    let (real_radii, generated_radii) = (squared_radii(real, dim, k), squared_radii(generated, dim, k));
    // Generated points in each real ball, and whether a generated ball holds the real point.
    let seen = per_row(real, dim, n * m, |i, x| {
        let distances = generated.chunks_exact(dim).map(|y| squared_distance(x, y));
        let (mut inside, mut recalled) = (0, 0);
        for (distance, radius) in distances.zip(&generated_radii) {
            inside += u32::from(distance <= real_radii[i]);
            recalled |= u32::from(distance <= *radius);
        }
        [inside, recalled]
    });
    let precise = per_row(generated, dim, n * m, |_, y| {
        let mut balls = real.chunks_exact(dim).zip(&real_radii);
        [u32::from(balls.any(|(x, radius)| squared_distance(x, y) <= *radius)), 0]
    });
    let share = |count: usize, of: usize| count as f64 / of as f64;
    Ok(CoverageReport {
        k,
        precision: share(precise.iter().filter(|[is_inside, _]| *is_inside == 1).count(), m),
        recall: share(seen.iter().filter(|[_, recalled]| *recalled == 1).count(), n),
        density: seen.iter().map(|[inside, _]| f64::from(*inside)).sum::<f64>() / (k * m) as f64,
        coverage: share(seen.iter().filter(|[inside, _]| *inside > 0).count(), n),
    })
}

/// The expected coverage of `m` generated points of the law of `n` real ones, whatever the law (Naeem et al. 2020, sec. 3.2).
///
/// A real point is missed if its k nearest neighbours among the other n − 1 real and the m generated points are all real:
/// 1 − ∏ (n − 1 − i)/(n + m − 1 − i), i < k.
pub fn expected_coverage(n: usize, m: usize, k: usize) -> f64 {
    let part = |i: usize| (n as f64 - 1.0 - i as f64) / ((n + m) as f64 - 1.0 - i as f64);
    1.0 - (0..k).map(part).product::<f64>()
}

/// The share of points with another point within `tolerance` (Euclidean, inclusive): 1 for a generator of one image, 0 for draws of a
/// density as `tolerance` goes to 0.
///
/// * `samples` — `[n, dim]`, row-major
///
/// # Errors
/// As [`coverage`] with k = 1; [`Error::Usage`] for a negative `tolerance`.
pub fn duplicate_rate(samples: &[f64], dim: usize, tolerance: f64) -> Result<f64> {
    check("samples", samples, dim, 1)?;
    if !(tolerance >= 0.0) {
        return Err(Error::Usage(format!("duplicate rate: tolerance {tolerance}: expected a distance of at least 0")));
    }
    let nearest = squared_radii(samples, dim, 1);
    let near = nearest.iter().filter(|distance| **distance <= tolerance * tolerance).count();
    Ok(near as f64 / nearest.len() as f64)
}

fn check(name: &str, rows: &[f64], dim: usize, k: usize) -> Result<()> {
    if dim == 0 || !rows.len().is_multiple_of(dim) {
        let n = rows.len();
        return Err(Error::Usage(format!("coverage: {name}: {n} numbers are no rows of {dim}")));
    }
    let n = rows.len() / dim;
    if k == 0 || n <= k {
        return Err(Error::Usage(format!(
            "coverage: {name}: {n} points and k = {k}; expected more points than k >= 1"
        )));
    }
    match rows.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let (row, value) = (at / dim, rows[at]);
            Err(Error::NonFinite(format!("coverage: {name}: point {row} holds {value}; expected finite numbers")))
        }
    }
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// Two counts for each row, rows in parallel; `pairs` is the number of distances in all.
fn per_row(rows: &[f64], dim: usize, pairs: usize, count: impl Fn(usize, &[f64]) -> [u32; 2] + Sync) -> Vec<[u32; 2]> {
    let n = rows.len() / dim;
    let mut counts = vec![[0; 2]; n];
    let out = DisjointMut::new(&mut counts);
    for_each_block(n, pairs / n * dim, |i| out.slice(i, 1)[0] = count(i, &rows[i * dim..(i + 1) * dim]));
    counts
}

/// The squared distance of each point to its k-th nearest neighbour in its own set.
fn squared_radii(rows: &[f64], dim: usize, k: usize) -> Vec<f64> {
    let n = rows.len() / dim;
    let mut radii = vec![0.0; n];
    let out = DisjointMut::new(&mut radii);
    for_each_block(n, n * dim, |i| {
        let own = &rows[i * dim..(i + 1) * dim];
        let others = rows.chunks_exact(dim).enumerate().filter(|(j, _)| *j != i);
        let mut distances: Vec<f64> = others.map(|(_, other)| squared_distance(own, other)).collect();
        out.slice(i, 1)[0] = *distances.select_nth_unstable_by(k - 1, f64::total_cmp).1;
    });
    radii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_counted_points_have_the_counted_shares() {
        // Real balls at k = 1: [-1, 1] at 0, [0, 2] at 1, [-5, 7] about 1 for the point 7: radius 6, [1, 13].
        let real = [0.0, 1.0, 7.0];
        // 0.5 lies in two balls, 12 in one, 20 in none. Generated balls: [-11, 12], [4, 20], [12, 28].
        let report = coverage(&real, &[0.5, 12.0, 20.0], 1, 1).unwrap();
        assert_eq!(report.precision, 2.0 / 3.0);
        assert_eq!(report.density, 3.0 / 3.0);
        assert_eq!(report.coverage, 1.0);
        assert_eq!(report.recall, 1.0);
        assert_eq!(coverage(&real, &[20.0, 21.0], 1, 1).unwrap().coverage, 0.0);
        assert_eq!(coverage(&real, &[20.0, 21.0], 1, 1).unwrap().recall, 0.0);
    }

    #[test]
    fn distances_are_euclidean_over_all_coordinates() {
        // Real points 5 apart (3-4-5): balls of radius 5 about each.
        let real = [0.0, 0.0, 3.0, 4.0];
        let inside = coverage(&real, &[0.0, -5.0, -100.0, 0.0], 2, 1).unwrap();
        assert_eq!((inside.precision, inside.coverage), (0.5, 0.5));
        let outside = coverage(&real, &[0.0, -5.1, -100.0, 0.0], 2, 1).unwrap();
        assert_eq!((outside.precision, outside.coverage), (0.0, 0.0));
    }

    #[test]
    fn copies_are_duplicates_and_distinct_points_are_not() {
        assert_eq!(duplicate_rate(&[1.0, 1.0, 2.0, 5.0], 1, 0.0).unwrap(), 0.5);
        assert_eq!(duplicate_rate(&[1.0, 1.0, 2.0, 5.0], 1, 1.0).unwrap(), 0.75);
        assert_eq!(duplicate_rate(&[0.5; 6], 2, 0.0).unwrap(), 1.0);
        assert!(duplicate_rate(&[1.0, 2.0], 1, f64::NAN).is_err());
    }

    #[test]
    fn expected_coverage_tends_to_one_less_two_to_the_minus_k() {
        assert!((expected_coverage(1_000_000, 1_000_000, 5) - (1.0 - 2f64.powi(-5))).abs() < 1e-6);
        // One real neighbour, one generated point: the nearest is the real one half of the time.
        assert_eq!(expected_coverage(2, 1, 1), 0.5);
    }

    #[test]
    fn sets_that_cannot_be_measured_are_refused_in_a_sentence() {
        let error = |real: &[f64], dim, k| coverage(real, &[0.0, 1.0, 2.0, 3.0], dim, k).unwrap_err().to_string();
        assert!(error(&[1.0, 2.0, 3.0], 2, 1).contains("real: 3 numbers are no rows of 2"));
        assert!(error(&[1.0, 2.0, 3.0], 1, 3).contains("3 points and k = 3"));
        assert!(error(&[1.0, 2.0, 3.0], 1, 0).contains("k = 0"));
        assert!(error(&[1.0, f64::NAN, 3.0], 1, 1).contains("point 1 holds NaN"));
        assert!(error(&[], 0, 1).contains("no rows of 0"));
    }
}
