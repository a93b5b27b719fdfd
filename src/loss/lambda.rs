//! A user's own weight: a function of the level, or a table of times read from a file.

use crate::error::{Error, Result};
use crate::process::Level;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

type Function = dyn Fn(Level) -> f64 + Send + Sync;

/// lambda(t): what the squared error at a level counts.
///
/// # Example
/// ```
/// use tweedie::{loss::Lambda, process::Level};
/// let sigma_squared = Lambda::new(|at| at.sigma * at.sigma);
/// assert_eq!(sigma_squared.at(Level::of(0.8, 0.5)), 0.25);
/// ```
#[derive(Clone)]
pub struct Lambda(Arc<Function>);

impl fmt::Debug for Lambda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lambda")
    }
}

impl Lambda {
    /// From a function; its values must be finite and not below 0.
    pub fn new(f: impl Fn(Level) -> f64 + Send + Sync + 'static) -> Lambda {
        Lambda(Arc::new(f))
    }

    /// Straight lines between the points (time, lambda), times ascending in [0, 1]; constant beyond the first and the last.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the first point which is out of order or out of range.
    pub fn table(points: Vec<(f64, f64)>) -> Result<Lambda> {
        if points.is_empty() {
            return Err(Error::Usage("lambda: expected at least one row of t,lambda, got none".into()));
        }
        for (i, (t, value)) in points.iter().enumerate() {
            let follows = i == 0 || *t > points[i - 1].0;
            if !((0.0..=1.0).contains(t) && follows && *value >= 0.0 && value.is_finite()) {
                return Err(Error::Usage(format!(
                    "lambda: row {} is {t},{value}: expected times ascending from 0 to 1, and finite values not below 0",
                    i + 1
                )));
            }
        }
        if points.iter().all(|(_, value)| *value == 0.0) {
            return Err(Error::Usage(
                "lambda: all values are 0, so that nothing would be learned; expected one above 0".into(),
            ));
        }
        Ok(Lambda::new(move |at| interpolate(&points, at.time)))
    }

    /// Reads a table: lines `t,lambda`, which may begin with that heading.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Usage`] that names the first line which is not two numbers, or as
    /// [`Lambda::table`].
    pub fn read(path: &Path) -> Result<Lambda> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let at = path.display();
        let mut points = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let is_heading = i == 0 && line.split(',').map(str::trim).eq(["t", "lambda"]);
            if line.trim().is_empty() || is_heading {
                continue;
            }
            let numbers: Option<Vec<f64>> = line.split(',').map(|word| word.trim().parse().ok()).collect();
            match numbers.as_deref() {
                Some(&[t, value]) => points.push((t, value)),
                _ => {
                    return Err(Error::Usage(format!(
                        "weight_table = {at}: line {} is \"{line}\": expected two numbers, t,lambda",
                        i + 1
                    )));
                }
            }
        }
        Lambda::table(points).map_err(|e| Error::Usage(format!("weight_table = {at}: {e}")))
    }

    /// Its value at a level.
    pub fn at(&self, at: Level) -> f64 {
        (self.0)(at)
    }
}

fn interpolate(points: &[(f64, f64)], time: f64) -> f64 {
    let after = points.partition_point(|(t, _)| *t <= time);
    let (Some(&(t0, v0)), Some(&(t1, v1))) = (points.get(after.wrapping_sub(1)), points.get(after)) else {
        return if after == 0 { points[0].1 } else { points[points.len() - 1].1 };
    };
    v0 + (v1 - v0) * (time - t0) / (t1 - t0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_and_interpolated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lambda.csv");
        std::fs::write(&path, "t, lambda\n0.25, 1\n\n0.75,3\n").unwrap();
        let lambda = Lambda::read(&path).unwrap();
        for (time, want) in [(0.0, 1.0), (0.25, 1.0), (0.5, 2.0), (0.75, 3.0), (1.0, 3.0)] {
            assert_eq!(lambda.at(Level { time, ..Level::CLEAN }), want, "time {time}");
        }
    }

    #[test]
    fn wrong_tables_are_named_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lambda.csv");
        for (text, part) in [
            ("", "expected at least one row"),
            ("t,lambda\n", "expected at least one row"),
            ("0,1\n0.5", "line 2 is \"0.5\": expected two numbers"),
            ("0,1,2", "line 1 is"),
            ("0.5,1\n0.5,2", "row 2 is 0.5,2"),
            ("0,-1", "row 1 is 0,-1"),
            ("0,1\n1.5,1", "row 2 is 1.5,1"),
            ("0,inf", "row 1 is 0,inf"),
            ("0,0\n1,0", "all values are 0"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Lambda::read(&path).unwrap_err().to_string();
            assert!(error.contains("weight_table = ") && error.contains(part), "{text:?}: {error}");
        }
    }
}
