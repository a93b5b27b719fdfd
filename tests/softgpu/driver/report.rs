//! What tests ask: the findings and counters as JSON, and a table at exit.

use std::cmp::Reverse;
use std::ffi::{c_char, c_int};
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Gpu, gpu, is_set};
use crate::counters::Counters;

fn counters_json(counters: &Counters, opcodes: &[String]) -> Value {
    let mut fields: Map<String, Value> =
        counters.fields().into_iter().map(|(name, n)| (name.into(), n.into())).collect();
    let used = opcodes.iter().zip(&counters.opcodes).filter(|(_, count)| **count > 0);
    fields.insert(
        "opcodes".into(),
        used.map(|(name, count)| (name.clone(), Value::from(*count))).collect::<Map<_, _>>().into(),
    );
    fields.into()
}

fn report(gpu: &Gpu) -> Value {
    let findings = gpu.findings.iter().map(|finding| {
        json!({
            "kind": finding.kind.name(), "kernel": finding.kernel, "place": finding.place, "opcode": finding.opcode,
            "block": finding.block, "thread": finding.thread, "detail": finding.detail, "count": finding.count,
        })
    });
    let kernels = gpu.counters.iter().map(|(name, (sum, last, opcodes))| {
        (name.clone(), json!({ "sum": counters_json(sum, opcodes), "last": counters_json(last, opcodes) }))
    });
    json!({
        "findings": findings.collect::<Vec<_>>(),
        "kernels": kernels.collect::<Map<_, _>>(),
        "memory": { "live": gpu.memory.live, "peak": gpu.memory.peak, "total": gpu.memory.total },
        "error": gpu.error,
        "message": gpu.message,
    })
}

/// Copies `text` with a closing zero into `buffer`, as much as fits; returns the bytes that all of it needs.
unsafe fn give(text: &str, buffer: *mut c_char, bytes: usize) -> usize {
    if !buffer.is_null() && bytes > 0 {
        let length = text.len().min(bytes - 1);
        // SAFETY: the caller gives a buffer of `bytes`.
        unsafe {
            buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), length);
            buffer.add(length).write(0);
        }
    }
    text.len() + 1
}

/// The report as JSON; returns how many bytes it takes. Runs no work that waits.
///
/// # Safety
/// `buffer` is null or has `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn softgpu_report_json(buffer: *mut c_char, bytes: usize) -> usize {
    let text = report(&gpu()).to_string();
    // SAFETY: the caller's.
    unsafe { give(&text, buffer, bytes) }
}

/// Why the last module did not load; returns how many bytes the text takes.
///
/// # Safety
/// `buffer` is null or has `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn softgpu_message(buffer: *mut c_char, bytes: usize) -> usize {
    let text = gpu().message.clone();
    // SAFETY: the caller's.
    unsafe { give(&text, buffer, bytes) }
}

/// How many things are wrong so far, each place counted once.
#[unsafe(no_mangle)]
extern "C" fn softgpu_findings() -> u64 {
    gpu().findings.len() as u64
}

/// Forgets findings, counters, the error of a kernel, and the peak of memory. Memory and handles stay.
#[unsafe(no_mangle)]
extern "C" fn softgpu_reset() {
    let mut gpu = gpu();
    gpu.error = None;
    gpu.findings.clear();
    gpu.counters.clear();
    gpu.memory.peak = gpu.memory.live;
}

/// Turns the checks on or off for the launches that follow; returns how it was.
#[unsafe(no_mangle)]
extern "C" fn softgpu_set_check(on: c_int) -> c_int {
    c_int::from(std::mem::replace(&mut gpu().check, on != 0))
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

pub(super) fn print_at_exit() {
    if is_set("SOFTGPU_COUNTERS") {
        // SAFETY: the function lives as long as this library, which is never unloaded.
        unsafe { atexit(print) };
    }
}

/// What a column of the table is called, and what stands in it.
type Column = (&'static str, fn(&Counters) -> String);

const COLUMNS: [Column; 8] = [
    ("launches", |c| c.launches.to_string()),
    ("M instructions", |c| millions(c.lane_instructions)),
    ("M mma flops", |c| millions(c.mma_flops)),
    ("MB read", |c| millions(c.unique_read)),
    ("MB written", |c| millions(c.unique_written)),
    ("sectors/ideal", |c| ratio(c.sectors, c.ideal_sectors)),
    ("shared/ideal", |c| ratio(c.shared_waves, c.ideal_waves)),
    ("divergent branches", |c| c.divergent_branches.to_string()),
];

fn millions(n: u64) -> String {
    if n == 0 { "-".into() } else { format!("{:.3}", n as f64 / 1e6) }
}

fn ratio(n: u64, ideal: u64) -> String {
    if ideal == 0 { "-".into() } else { format!("{:.2}", n as f64 / ideal as f64) }
}

/// A line a kernel, the most work first, and one for all of them.
fn table<'a>(kernels: impl Iterator<Item = (&'a str, &'a Counters)>) -> String {
    let mut kernels: Vec<_> = kernels.collect();
    kernels.sort_by_key(|(name, counters)| (Reverse(counters.lane_instructions), *name));
    let mut all = Counters::default();
    kernels.iter().for_each(|(_, counters)| all.add(counters));
    kernels.push(("all", &all));
    let mut lines = vec![COLUMNS.map(|(title, _)| title.to_string())];
    lines.extend(kernels.iter().map(|(_, counters)| COLUMNS.map(|(_, value)| value(counters))));
    let names = std::iter::once("kernel").chain(kernels.iter().map(|(name, _)| *name));
    let width = names.clone().map(str::len).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..COLUMNS.len()).map(|k| lines.iter().map(|line| line[k].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (name, line) in names.zip(&lines) {
        let _ = write!(text, "[softgpu] {name:<width$}");
        for (value, width) in line.iter().zip(&widths) {
            let _ = write!(text, "  {value:>width$}");
        }
        text.push('\n');
    }
    text
}

extern "C" fn print() {
    let gpu = gpu();
    if !gpu.counters.is_empty() {
        eprint!("{}", table(gpu.counters.iter().map(|(name, (sum, _, _))| (name.as_str(), sum))));
    }
    eprintln!("[softgpu] {} findings", gpu.findings.len());
}
