//! Whether the machine is ours: other programs, or two threads on one physical core, would fall on one side of a
//! comparison and not on the other.

use crate::common::median;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// All threads at once may take this much longer than one alone: clocks fall a little when all cores work. Two threads
/// on one core take twice as long.
const MOST: f64 = 1.35;

/// Less than this, one thread alone was disturbed while it was timed.
const LEAST: f64 = 0.85;

/// How often, and how long apart, a busy machine is asked again.
const PATIENCE: (usize, Duration) = (20, Duration::from_millis(500));

/// Of the time, some thread may wait for a core this much.
const MOST_WAITING: f64 = 0.05;

/// What other programs take while something is measured, by the kernel's account of threads that wait for a core.
pub(crate) struct Watch {
    begin: Instant,
    waited: Option<f64>,
}

impl Watch {
    /// From now on.
    pub(crate) fn start() -> Watch {
        Watch { begin: Instant::now(), waited: waited() }
    }

    /// Whether hardly any thread had to wait; true where the kernel keeps no account.
    pub(crate) fn was_quiet(&self) -> bool {
        let Some((before, now)) = self.waited.zip(waited()) else { return true };
        now - before <= MOST_WAITING * self.begin.elapsed().as_secs_f64()
    }
}

/// Seconds since the machine's start in which some thread waited for a core.
fn waited() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/pressure/cpu").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("some ")?.rsplit_once("total="))?.1;
    total.trim().parse::<f64>().ok().map(|microseconds| microseconds / 1e6)
}

/// About 4 ms of multiplications and additions that keep the floating-point units full; returns seconds.
fn work() -> f64 {
    const CHAINS: usize = 48;
    let (factor, term) = black_box((0.999_f32, 0.001_f32));
    let begin = Instant::now();
    let mut sums = [1.5_f32; CHAINS];
    for _ in 0..2_000_000 {
        for sum in &mut sums {
            *sum = *sum * factor + term;
        }
    }
    black_box(sums);
    begin.elapsed().as_secs_f64()
}

/// How many times as long the slowest of all threads takes when all work, as one that works alone.
fn share() -> f64 {
    let mut alone: Vec<f64> = (0..5).map(|_| work()).collect();
    let all_at_once = || rayon::broadcast(|_| work()).into_iter().fold(0.0, f64::max);
    let mut together: Vec<f64> = (0..5).map(|_| all_at_once()).collect();
    median(&mut together) / median(&mut alone)
}

/// Whether every thread has a core for itself at this moment.
pub(crate) fn are_free() -> bool {
    (LEAST..=MOST).contains(&share())
}

/// Asks again for some seconds; whether the cores were free in the end.
pub(crate) fn wait_until_free() -> bool {
    (0..PATIENCE.0).any(|_| {
        are_free() || {
            std::thread::sleep(PATIENCE.1);
            false
        }
    })
}

/// A sentence part for the report's head.
pub(crate) fn state() -> String {
    let share = share();
    let verdict = if (LEAST..=MOST).contains(&share) { "free" } else { "NOT free" };
    format!("cores {verdict}: all threads at once take {share:.2} times as long as one alone")
}
