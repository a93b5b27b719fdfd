//! What tests ask: the findings and counters as JSON, and a table at exit.

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

extern "C" fn print() {
    let gpu = gpu();
    let mut text = String::new();
    for (name, (sum, _, _)) in &gpu.counters {
        let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
        let _ = writeln!(
            text,
            "[softgpu] {name}: {} launches, {} lane instructions, {} mma; sectors {:.2} x ideal, shared waves {:.2} x ideal, \
             {} B read, {} B written (different ones)",
            sum.launches,
            sum.lane_instructions,
            sum.mma_instructions,
            ratio(sum.sectors, sum.ideal_sectors),
            ratio(sum.shared_waves, sum.ideal_waves),
            sum.unique_read,
            sum.unique_written,
        );
    }
    let _ = writeln!(text, "[softgpu] {} findings", gpu.findings.len());
    eprint!("{text}");
}
