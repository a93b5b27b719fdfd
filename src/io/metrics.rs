//! The metrics log: one JSON object a line, one line an optimiser step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::write_atomically;
use crate::{Error, Result};

/// Lines reach the file at least this often while lines come in, so that `tail -f` is useful.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// An open `metrics.jsonl`. Lines are buffered; they reach the file every second, on [`MetricsLog::flush`] and on
/// drop.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: BufWriter<File>,
    /// Reused, so that logging a step allocates nothing.
    line: Vec<u8>,
    flushed: Instant,
}

impl MetricsLog {
    /// Opens the log for appending; makes the file if there is none.
    ///
    /// A last line torn by a crash is dropped. `keep_below_step` = `Some(k)` also drops every line whose `step` is
    /// `k` or more: a run that resumes after `k` steps logs those again, and `Some(0)` begins afresh. Lines without
    /// a `step` stay. The old file is replaced atomically.
    ///
    /// # Errors
    /// [`Error::Data`] if a line other than the last is not a JSON object; [`Error::Io`] if the file cannot be read
    /// or written.
    pub fn open(path: impl AsRef<Path>, keep_below_step: Option<u64>) -> Result<MetricsLog> {
        let path = path.as_ref().to_path_buf();
        if path.exists() {
            repair(&path, keep_below_step)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io("open", &path))?;
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(MetricsLog { path, file, line: Vec::with_capacity(1 << 10), flushed: Instant::now() })
    }

    /// Appends one record: anything that serialises to a JSON object, by custom with a `step`. NaN and infinities are
    /// written as `null`.
    ///
    /// # Errors
    /// [`Error::Data`] if the record is not an object; [`Error::Io`] if it cannot be written.
    pub fn append(&mut self, record: &impl Serialize) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)
            .map_err(|e| Error::Data(format!("metrics {}: record does not serialise: {e}", self.path.display())))?;
        if self.line.first() != Some(&b'{') {
            let text = String::from_utf8_lossy(&self.line);
            return Err(Error::Data(format!(
                "metrics {}: expected an object such as {{\"step\":1}}, got {text}",
                self.path.display()
            )));
        }
        self.line.push(b'\n');
        self.file.write_all(&self.line).map_err(Error::io("write", &self.path))?;
        if self.flushed.elapsed() >= FLUSH_EVERY { self.flush() } else { Ok(()) }
    }

    /// Hands all lines to the operating system.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        self.file.flush().map_err(Error::io("write", &self.path))
    }
}

/// Reads one column as `(step, value)`, in the file's order.
///
/// Lines without a `step` or without the column are skipped, `null` is NaN (a loss that was not finite), and a torn
/// last line is ignored, so that a running training may be read.
///
/// # Errors
/// [`Error::Data`] if a line other than the last is not a JSON object, or the column holds something other than
/// numbers; [`Error::Io`] if the file cannot be read.
pub fn read_column(path: impl AsRef<Path>, column: &str) -> Result<Vec<(u64, f64)>> {
    let path = path.as_ref();
    let mut points = Vec::new();
    for_each_line(path, |number, line| {
        let fields: serde_json::Map<String, Value> = parse(path, number, line)?;
        let (Some(step), Some(value)) = (fields.get("step").and_then(Value::as_u64), fields.get(column)) else {
            return Ok(());
        };
        let value = if value.is_null() { Some(f64::NAN) } else { value.as_f64() };
        let Some(value) = value else {
            let got = &fields[column];
            return Err(Error::Data(format!(
                "metrics {}: line {number}: expected a number in \"{column}\", got {got}",
                path.display()
            )));
        };
        points.push((step, value));
        Ok(())
    })?;
    Ok(points)
}

#[derive(Deserialize)]
struct Stamp {
    step: Option<u64>,
}

fn repair(path: &Path, keep_below_step: Option<u64>) -> Result<()> {
    write_atomically(path, |out| {
        for_each_line(path, |number, line| {
            let stamp: Stamp = parse(path, number, line)?;
            let keeps = match (stamp.step, keep_below_step) {
                (Some(step), Some(below)) => step < below,
                _ => true,
            };
            if keeps {
                out.write_all(line).and_then(|()| out.write_all(b"\n")).map_err(Error::io("write", path))?;
            }
            Ok(())
        })
    })
}

fn parse<'a, T: Deserialize<'a>>(path: &Path, number: usize, line: &'a [u8]) -> Result<T> {
    serde_json::from_slice(line).map_err(|e| {
        Error::Data(format!(
            "metrics {}: line {number}: expected a JSON object ({e}); repair the line or move the file away",
            path.display()
        ))
    })
}

/// Calls `each` with the number (from 1) and the text of every line that holds something. A last line without its
/// newline counts only if it is a whole object: an object cut short never parses.
fn for_each_line(path: &Path, mut each: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(File::open(path).map_err(Error::io("open", path))?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(Error::io("read", path))? == 0 {
            break;
        }
        let is_torn = line.last() != Some(&b'\n') && serde_json::from_slice::<Stamp>(&line).is_err();
        let text = line.trim_ascii();
        if !is_torn && !text.is_empty() {
            each(number, text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log(path: &Path, keep: Option<u64>, steps: std::ops::Range<u64>) {
        let mut log = MetricsLog::open(path, keep).unwrap();
        for step in steps {
            log.append(&json!({"step": step, "loss": step as f64 * 0.5})).unwrap();
        }
    }

    #[test]
    fn resuming_gives_the_same_file_as_an_unbroken_run() {
        let folder = tempfile::tempdir().unwrap();
        let (broken, whole) = (folder.path().join("a.jsonl"), folder.path().join("b.jsonl"));
        log(&whole, None, 0..10);
        log(&broken, None, 0..7);
        // A crash tore line 8; the checkpoint is of step 5.
        OpenOptions::new().append(true).open(&broken).unwrap().write_all(b"{\"step\":7,\"lo").unwrap();
        log(&broken, Some(5), 5..10);
        assert_eq!(std::fs::read_to_string(&broken).unwrap(), std::fs::read_to_string(&whole).unwrap());
        log(&broken, Some(0), 0..1);
        assert_eq!(std::fs::read_to_string(&broken).unwrap(), "{\"step\":0,\"loss\":0.0}\n");
    }

    #[test]
    fn opening_without_a_step_keeps_whole_lines_and_drops_a_torn_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        std::fs::write(&path, "{\"note\":\"x\"}\n{\"step\":9}").unwrap();
        log(&path, None, 10..11);
        let want = "{\"note\":\"x\"}\n{\"step\":9}\n{\"step\":10,\"loss\":5.0}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), want, "a whole last line gets its newline back");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2,\"loss\":0.").unwrap();
        MetricsLog::open(&path, None).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
    }

    #[test]
    fn columns_skip_lines_without_them_and_null_is_nan() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        let mut log = MetricsLog::open(&path, None).unwrap();
        log.append(&json!({"step": 1, "loss": 0.25})).unwrap();
        log.append(&json!({"step": 2, "held_out": 3})).unwrap();
        log.append(&json!({"step": 3, "loss": f64::NAN, "held_out": 4})).unwrap();
        log.append(&json!({"loss": 9.0})).unwrap();
        log.flush().unwrap();
        let loss = read_column(&path, "loss").unwrap();
        assert_eq!(loss[0], (1, 0.25));
        assert!(loss.len() == 2 && loss[1].0 == 3 && loss[1].1.is_nan(), "{loss:?}");
        assert_eq!(read_column(&path, "held_out").unwrap(), [(2, 3.0), (4 - 1, 4.0)]);
    }

    #[test]
    fn lines_reach_the_file_on_drop_and_not_before_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        let mut log = MetricsLog::open(&path, None).unwrap();
        log.append(&json!({"step": 1})).unwrap();
        log.flushed = Instant::now() + Duration::from_secs(60); // no slow machine flushes in between
        log.append(&json!({"step": 2})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        log.flushed = Instant::now() - FLUSH_EVERY;
        log.append(&json!({"step": 3})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        log.append(&json!({"step": 4})).unwrap();
        drop(log);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
    }

    #[test]
    fn bad_lines_and_records_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        std::fs::write(&path, "{\"step\":1}\nnonsense\n{\"step\":2}\n").unwrap();
        let text = MetricsLog::open(&path, Some(5)).unwrap_err().to_string();
        assert!(text.contains("line 2: expected a JSON object"), "{text}");
        assert!(std::fs::read_to_string(&path).unwrap().contains("nonsense"), "the file is left as it was");
        std::fs::write(&path, "{\"step\":1,\"loss\":\"high\"}\n").unwrap();
        let text = read_column(&path, "loss").unwrap_err().to_string();
        assert!(text.ends_with("line 1: expected a number in \"loss\", got \"high\""), "{text}");
        let mut log = MetricsLog::open(&path, None).unwrap();
        let text = log.append(&json!([1])).unwrap_err().to_string();
        assert!(text.contains("expected an object") && text.ends_with("got [1]"), "{text}");
    }
}
