//! What all benches share: criterion as the clock, the machine's peak as the yardstick, the table and its CSV.

mod peak;

use criterion::{Criterion, SamplingMode, Throughput};
use peak::Peak;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tweedie::ops::forced_conv_method;
use tweedie::{Error, Result, cli, simd};

/// Runs a bench as the programs run: on a thread of the pool, since entering a parallel region from outside costs two context switches, and with
/// the environment's values checked. `--help` prints `usage`.
pub(crate) fn main(usage: &str, run: impl FnOnce() -> Result<()> + Send) -> ExitCode {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        println!(
            "{usage}\n\nEnvironment: RAYON_NUM_THREADS, TWEEDIE_SIMD, TWEEDIE_CONV; TWEEDIE_RECORD=FILE.csv gathers rows."
        );
        return ExitCode::SUCCESS;
    }
    cli::exit(cli::with_threads(0, run))
}

/// How long the benches may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `cargo bench`.
    Full,
    /// `cargo bench -- --quick`.
    Quick,
    /// `cargo test --benches` or `--test`: everything runs once, no time is worth reading.
    Once,
    /// `--list`: nothing runs.
    List,
}

impl Mode {
    /// As criterion understands the same arguments.
    fn from_arguments() -> Mode {
        let has = |flag: &str| std::env::args().any(|a| a == flag);
        match (has("--list"), has("--test") || !has("--bench"), has("--quick")) {
            (true, ..) => Mode::List,
            (_, true, _) => Mode::Once,
            (.., true) => Mode::Quick,
            _ => Mode::Full,
        }
    }
}

/// What one run of a measured piece of work costs.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Floating-point operations; a fused multiply-add counts as two.
    Flops(f64),
    /// Bytes that must be read or written at least once.
    Bytes(f64),
    /// Nothing worth dividing by the time.
    Uncounted,
}

/// A line of the table.
pub(crate) struct Row {
    /// What was measured; no commas.
    pub(crate) name: String,
    /// Median seconds of one run.
    pub(crate) seconds: f64,
    /// Its cost.
    pub(crate) work: Work,
    /// Seconds of the naive version for the same work.
    pub(crate) naive: Option<f64>,
    /// Further numbers with their units.
    pub(crate) extra: Vec<(f64, &'static str)>,
}

impl Row {
    /// Unit, value and share of the peak that belongs to it.
    fn rate(&self, peak: Peak) -> Option<(&'static str, f64, f64)> {
        let (unit, count, peak) = match self.work {
            Work::Flops(flops) => ("GFLOP/s", flops, peak.gflops),
            Work::Bytes(bytes) => ("GB/s", bytes, peak.memory_gb()),
            Work::Uncounted => return None,
        };
        let value = count / self.seconds / 1e9;
        Some((unit, value, value / peak))
    }
}

/// One bench program: measures through criterion and collects rows.
pub(crate) struct Bench {
    name: &'static str,
    mode: Mode,
    criterion: Criterion,
    peak: Peak,
    rows: Vec<Row>,
}

impl Bench {
    /// Reads criterion's arguments and measures the machine.
    pub(crate) fn new(name: &'static str) -> Bench {
        let mode = Mode::from_arguments();
        let millis = |quick, full| Duration::from_millis(if mode == Mode::Quick { quick } else { full });
        let criterion = Criterion::default()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(millis(500, 3000))
            .configure_from_args();
        let peak = if mode == Mode::List { Peak::UNKNOWN } else { peak::measure(mode == Mode::Once) };
        if mode != Mode::List {
            println!("machine: {}, {} threads", machine(), rayon::current_num_threads());
            println!("{peak}\n");
        }
        Bench { name, mode, criterion, peak, rows: Vec::new() }
    }

    /// Measures `run`, which does its work once and returns the time that counts. The first call is not counted.
    ///
    /// Returns the median in seconds, or `None` where the command line's filter leaves `name` out. An error of `run` ends the
    /// program.
    pub(crate) fn measure(&mut self, name: &str, work: Work, mut run: impl FnMut() -> Result<Duration>) -> Option<f64> {
        let mut samples: Vec<f64> = Vec::new();
        let mut warm = false;
        let mut group = self.criterion.benchmark_group(self.name);
        group.sampling_mode(SamplingMode::Flat);
        match work {
            Work::Flops(flops) => drop(group.throughput(Throughput::Elements(flops as u64))),
            Work::Bytes(bytes) => drop(group.throughput(Throughput::BytesDecimal(bytes as u64))),
            Work::Uncounted => {}
        }
        let once = self.mode == Mode::Once;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                if !warm && !once {
                    or_exit(run());
                    warm = true;
                }
                let mut total = Duration::ZERO;
                for _ in 0..count {
                    let time = or_exit(run());
                    samples.push(time.as_secs_f64());
                    total += time;
                }
                total
            });
        });
        group.finish();
        (!samples.is_empty()).then(|| median(&mut samples))
    }

    /// Seconds that the naive version needs for the whole work, of which one call of `run` does the part 1/`factor`.
    pub(crate) fn time_naive(&self, factor: f64, mut run: impl FnMut()) -> f64 {
        let (least, budget) = match self.mode {
            Mode::Full => (3, 1.0),
            Mode::Quick => (2, 0.2),
            Mode::Once | Mode::List => (1, 0.0),
        };
        let begin = Instant::now();
        let mut samples = Vec::new();
        while samples.len() < least || (begin.elapsed().as_secs_f64() < budget && samples.len() < 100) {
            let time = Instant::now();
            run();
            samples.push(time.elapsed().as_secs_f64());
        }
        median(&mut samples) * factor
    }

    /// Adds a line to the table.
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the table and writes the CSV.
    ///
    /// # Errors
    /// [`Error::Io`] if the CSV cannot be written.
    pub(crate) fn finish(mut self, notes: &str) -> Result<()> {
        self.criterion.final_summary();
        if self.mode == Mode::List {
            return Ok(());
        }
        if self.rows.is_empty() {
            return Err(Error::Usage("nothing has that name; `-- --list` names all that is measured".into()));
        }
        // Other programs on the machine slow the loops down, nothing speeds them up: the better of two measurements holds.
        self.peak = self.peak.max(peak::measure(self.mode == Mode::Once));
        println!("\n{} on {}, {} threads", self.name, machine(), rayon::current_num_threads());
        println!("{}\n", self.peak);
        print!("{}", self.table());
        println!("\n{notes}");
        if self.mode == Mode::Once {
            println!("Everything ran once: these times are not measurements, and no CSV was written.");
            return Ok(());
        }
        let path = self.write_csv()?;
        println!("Rows: {}", path.display());
        Ok(())
    }

    fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        let mut text = format!("{:width$}  {:>10}  {:>16}  {:>7}", "", "median ms", "rate", "of peak");
        let has_naive = self.rows.iter().any(|row| row.naive.is_some());
        text += if has_naive { "    naive ms   ratio\n" } else { "\n" };
        for row in &self.rows {
            // Writing to a String cannot fail.
            let _ = write!(text, "{:width$}  {:>10.3}", row.name, row.seconds * 1e3);
            let _ = match row.rate(self.peak) {
                Some((unit, value, share)) => write!(text, "  {value:>8.2} {unit:<7}  {:>6.1}%", share * 100.0),
                None => write!(text, "  {:16}  {:7}", "", ""),
            };
            if let Some(naive) = row.naive {
                let _ = write!(text, "  {:>10.3}  {:>5.1}x", naive * 1e3, naive / row.seconds);
            }
            for (value, unit) in &row.extra {
                let _ = write!(text, "  {value:>8.1} {unit}");
            }
            text.push('\n');
        }
        text
    }

    /// Rows to `TWEEDIE_RECORD`, where all benches of a run gather (lines are appended), else to `bench/NAME.csv` in the
    /// target folder (replaced).
    fn write_csv(&self) -> Result<PathBuf> {
        let record = std::env::var_os("TWEEDIE_RECORD").map(PathBuf::from);
        let append = record.is_some();
        let path = record.unwrap_or_else(|| {
            let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
            target.parent().unwrap_or(target).join("bench").join(format!("{}.csv", self.name))
        });
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let mut options = OpenOptions::new();
        options.create(true).append(append).write(!append).truncate(!append);
        let mut file = options.open(&path).map_err(Error::io("write", &path))?;
        let is_new = file.metadata().map_or(true, |data| data.len() == 0);
        let header =
            if is_new { "date,machine,threads,name,median_ms,unit,value,share_of_peak,naive_ratio\n" } else { "" };
        let text = format!("{header}{}", self.csv_lines());
        file.write_all(text.as_bytes()).map_err(Error::io("write", &path))?;
        Ok(path)
    }

    fn csv_lines(&self) -> String {
        let first = format!("{},{},{}", today(), machine().replace(',', " "), rayon::current_num_threads());
        let mut text = String::new();
        let mut line = |name: &str, ms: f64, unit: &str, value: String, share: String, ratio: String| {
            let _ = writeln!(text, "{first},{name},{ms:.4},{unit},{value},{share},{ratio}");
        };
        let (none, Peak { gflops, copy_gb, update_gb }) = (String::new, self.peak);
        line("peak fused multiply-add", 0.0, "GFLOP/s", format!("{gflops:.2}"), none(), none());
        line("memory copy", 0.0, "GB/s", format!("{copy_gb:.2}"), none(), none());
        line("memory update in place", 0.0, "GB/s", format!("{update_gb:.2}"), none(), none());
        for row in &self.rows {
            let (ms, rate) = (row.seconds * 1e3, row.rate(self.peak));
            let ratio = row.naive.map_or(String::new(), |naive| format!("{:.2}", naive / row.seconds));
            match rate {
                Some((unit, value, share)) => {
                    line(&row.name, ms, unit, format!("{value:.3}"), format!("{share:.4}"), ratio);
                }
                None => line(&row.name, ms, "", none(), none(), ratio),
            }
            for (value, unit) in &row.extra {
                line(&row.name, ms, unit, format!("{value:.2}"), none(), none());
            }
        }
        text
    }
}

/// The value, or the end of the program with the error: inside criterion's closures nothing can be returned.
fn or_exit<T>(value: Result<T>) -> T {
    value.unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(1)
    })
}

/// The middle of the samples, which are sorted.
pub(crate) fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len() % 2 == 1 { samples[middle] } else { 0.5 * (samples[middle - 1] + samples[middle]) }
}

/// The processor and the instruction set in use, and the convolutions' method where it is forced.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        let (_, value) = info.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'))?;
        Some(value.trim())
    };
    let model = value("model name").unwrap_or(std::env::consts::ARCH);
    // Virtual machines tell little by their name; AMD's family 25 is Zen 3 and 4, 26 is Zen 5.
    let family = value("cpu family").map_or(String::new(), |family| format!(" family {family}"));
    let forced = forced_conv_method().map_or(String::new(), |method| format!(" TWEEDIE_CONV={method}"));
    format!("{model}{family} with {:?}{forced}", simd::level())
}

/// Today's date in UTC, `2025-01-31`.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    // Days since 0000-03-01, in eras of 400 years (Hinnant, "chrono-compatible low-level date algorithms").
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + u64::from(month <= 2))
}
