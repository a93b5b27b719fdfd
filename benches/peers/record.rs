//! The rows: printed as they come, kept as CSV, and read back as the table of docs/performance.md.

use crate::common::{machine, median, today};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use tweedie::{Error, Result};

const HEADER: &str = "date,machine,threads,item,unit,ours,ours_spread,peer,variant,theirs,theirs_spread,ratio\n";

/// Ours beside one variant of a peer, or alone.
pub(crate) struct Row {
    item: String,
    unit: &'static str,
    ours: (f64, f64),
    /// Peer, variant, value and spread.
    theirs: Option<(String, String, (f64, f64))>,
}

/// The median, and the distance between the extremes as a share of it.
fn summary(rounds: &[f64]) -> (f64, f64) {
    let mut sorted = rounds.to_vec();
    let middle = median(&mut sorted);
    (middle, (sorted[sorted.len() - 1] - sorted[0]) / middle)
}

impl Row {
    /// Of the values of the rounds; `theirs` are title, variant and values.
    pub(crate) fn of(item: &str, unit: &'static str, ours: &[f64], theirs: Option<(&str, &str, &[f64])>) -> Row {
        let theirs = theirs.map(|(title, variant, rounds)| (title.into(), variant.into(), summary(rounds)));
        Row { item: item.into(), unit, ours: summary(ours), theirs }
    }

    fn line(&self) -> String {
        let first = format!("{:28} {:>10.3} {:>6.1}%", self.item, self.ours.0, 100.0 * self.ours.1);
        match &self.theirs {
            None => first,
            Some((_, variant, (value, spread))) => {
                format!("{first}   {variant:20} {value:>10.3} {:>6.1}%  {:>6.2}", 100.0 * spread, value / self.ours.0)
            }
        }
    }
}

/// Collects rows.
pub(crate) struct Record {
    threads: usize,
    lines: String,
    refused: Vec<String>,
    saved: bool,
}

impl Record {
    /// An empty one.
    pub(crate) fn open(threads: usize) -> Record {
        Record { threads, lines: String::new(), refused: Vec::new(), saved: false }
    }

    /// Prints the row, and keeps it if the cores were `free` and there is something to compare.
    pub(crate) fn push(&mut self, row: Row, free: bool) {
        println!("{}{}", row.line(), if free { "" } else { "   (cores not free)" });
        if !free {
            self.refused.push(row.item);
        } else if let Some((peer, variant, (value, spread))) = row.theirs {
            let (ours, our_spread) = row.ours;
            self.lines += &format!(
                "{},{},{},{},{},{ours:.4},{our_spread:.3},{peer},{variant},{value:.4},{spread:.3},{:.3}\n",
                today(),
                machine().replace(',', " "),
                self.threads,
                row.item,
                row.unit,
                value / ours
            );
        }
    }

    /// Writes the rows so far: a run that is stopped keeps what it measured.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written.
    pub(crate) fn save(&mut self) -> Result<()> {
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() {
            return Ok(());
        }
        self.saved = true;
        let path = path();
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io("write", &path))?;
        let is_new = file.metadata().map_or(true, |data| data.len() == 0);
        let text = format!("{}{lines}", if is_new { HEADER } else { "" });
        file.write_all(text.as_bytes()).map_err(Error::io("write", &path))
    }

    /// As [`Record::save`], and says what was left out.
    ///
    /// # Errors
    /// As [`Record::save`].
    pub(crate) fn finish(mut self) -> Result<()> {
        self.save()?;
        self.refused.dedup();
        if !self.refused.is_empty() {
            println!("not recorded, the cores were not free: {}", self.refused.join(" "));
        }
        if self.saved {
            println!("Rows: {}", path().display());
        }
        Ok(())
    }
}

fn path() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/record/peers.csv");
    std::env::var_os("TWEEDIE_RECORD").map_or_else(usual, PathBuf::from)
}

/// A line of the file as its fields.
struct Stored {
    fields: Vec<String>,
}

impl Stored {
    fn text(&self, column: usize) -> &str {
        self.fields.get(column).map_or("", String::as_str)
    }

    fn number(&self, column: usize) -> f64 {
        self.text(column).parse().unwrap_or(f64::NAN)
    }
}

const MACHINE: usize = 1;
const ITEM: usize = 3;
const UNIT: usize = 4;
const OURS: usize = 5;
const PEER: usize = 7;
const VARIANT: usize = 8;
const THEIRS: usize = 9;

/// Prints the newest rows of each item as Markdown, in this `order`, those of the machine that the last row is of.
///
/// # Errors
/// [`Error::Io`] if there is no record.
pub(crate) fn print_table(order: &[String]) -> Result<()> {
    let path = path();
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let mut rows: Vec<Stored> =
        text.lines().skip(1).map(|line| Stored { fields: line.split(',').map(String::from).collect() }).collect();
    let machine = rows.last().map_or(String::new(), |row| row.text(MACHINE).to_string());
    rows.retain(|row| row.text(MACHINE) == machine);
    let mut items: Vec<&str> = Vec::new();
    for row in &rows {
        if !items.contains(&row.text(ITEM)) {
            items.push(row.text(ITEM));
        }
    }
    if items.is_empty() {
        return Err(Error::Usage(format!(
            "{}: no rows; measure first, with `cargo bench --bench peers`",
            path.display()
        )));
    }
    items.sort_by_key(|item| order.iter().position(|name| name == item).unwrap_or(order.len()));
    println!(
        "| item | ours | PyTorch eager / compiled / bf16 | PyTorch's best / ours | candle / burn | the faster / ours |"
    );
    println!("|---|---|---|---|---|---|");
    for item in items {
        let newest = |names: &[&str]| {
            let is_one = |row: &&Stored| row.text(ITEM) == item && names.contains(&row.text(VARIANT));
            rows.iter().rev().find(is_one)
        };
        print_item(item, &newest, &rows);
    }
    let mut titles: Vec<String> = rows.iter().map(|row| format!("{}, {}", row.text(PEER), row.text(0))).collect();
    titles.sort();
    titles.dedup();
    println!("\n{machine}: {}", titles.join("; "));
    Ok(())
}

/// The fastest of each kind; a ratio is that of times measured in one round-robin.
fn print_item<'a>(item: &str, newest: &dyn Fn(&[&str]) -> Option<&'a Stored>, rows: &[Stored]) {
    let Some(last) = rows.iter().rev().find(|row| row.text(ITEM) == item) else { return };
    let best = |names: &[&str]| {
        let found = names.iter().filter_map(|name| newest(&[name]));
        found.min_by(|a, b| a.number(THEIRS).total_cmp(&b.number(THEIRS)))
    };
    let number = |value: f64| match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    };
    let cell = |row: Option<&Stored>| row.map_or("–".into(), |row| number(row.number(THEIRS)));
    let (eager, compiled) = (best(&["eager", "foreach"]), best(&["compile", "compile_nchw"]));
    // Rows of ours in bf16 stand beside theirs alone.
    let like_best = match item.ends_with("_bf16") {
        true => best(&["bf16"]),
        false => best(&["eager", "foreach", "compile", "compile_nchw"]),
    };
    let ratio =
        |row: Option<&Stored>| row.map_or("–".into(), |row| format!("{:.2}", row.number(THEIRS) / row.number(OURS)));
    println!(
        "| {item} | {} {} | {} / {} / {} | {} | {} / {} | {} |",
        number(last.number(OURS)),
        last.text(UNIT),
        cell(eager),
        cell(compiled),
        cell(best(&["bf16"])),
        ratio(like_best),
        cell(best(&["candle"])),
        cell(best(&["burn"])),
        ratio(best(&["candle", "burn"])),
    );
}
