//! Inference on many images or sequences at once: each thread takes its own through the whole network, so that what one layer leaves is still
//! in that core's cache when the next one reads it, and no thread waits for another after every layer.

use super::Mode;
use crate::device::Device;
use crate::error::Result;
use crate::tape;
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// The least of a group: each reads all weights for itself, which alone takes the `cifar10` preset 8 % longer an image.
const LEAST: usize = 2;

/// The most of a group, so that it stays in the cache. Measured on Zen 5, milliseconds of the `small` preset on 64 images for groups of 4, 8, 16
/// and 32: 67.0, 66.4, 67.1, 73.0, and 84.7 for all together; of the `cifar10` preset on 16 for groups of 1, 2, 4 and 8: 326, 306, 302, 300,
/// and 301 together.
const MOST: usize = 8;

/// Calls `run` on consecutive ranges that make up `0..n`, a group for each thread where there are enough and as often as it takes, and joins the
/// results along their first axis. `run` must treat each row alone and by the same operations whatever stands beside it; so the result is the
/// same for any number of threads.
///
/// # Errors
/// Those of `run`.
pub(super) fn in_groups(
    n: usize,
    device: Device,
    mode: Mode,
    run: impl Fn(Range<usize>) -> Result<Tensor> + Sync,
) -> Result<Tensor> {
    let threads = rayon::current_num_threads();
    // Dropout's masks count from the first row.
    let is_plain = matches!(mode, Mode::Inference) && device == Device::Cpu && !tape::is_watching();
    if threads.min(n / LEAST) < 2 || !is_plain {
        return run(0..n);
    }
    let mut parts = Vec::new();
    // No more groups at a time than threads: one that waits for another would begin a further group and hold the tensors of both.
    for round in cut(0..n, n.div_ceil(threads * MOST)) {
        let groups: Vec<_> = cut(round.clone(), threads.min(round.len() / LEAST).max(1)).collect();
        let done = groups
            .into_par_iter()
            .with_max_len(1)
            .map(|range| tape::apart(|| run(range)))
            .collect::<Result<Vec<Tensor>>>()?;
        parts.extend(done);
    }
    Tensor::stack_rows(&parts, parts[0].shape().with_rows(n))
}

/// `range` in so many pieces of nearly equal length.
fn cut(range: Range<usize>, pieces: usize) -> impl Iterator<Item = Range<usize>> {
    let at = move |piece: usize| range.start + piece * range.len() / pieces;
    (0..pieces).map(move |piece| at(piece)..at(piece + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads<T: Send>(count: usize, body: impl FnOnce() -> T + Send) -> T {
        rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(body)
    }

    /// Rows that hold their own number, and where the ranges that were asked for begin.
    fn run(n: usize, mode: Mode) -> (Vec<f32>, Vec<usize>) {
        let starts = std::sync::Mutex::new(Vec::new());
        let y = in_groups(n, Device::Cpu, mode, |range| {
            starts.lock().unwrap().push(range.start);
            let values: Vec<f32> = range.clone().map(|row| row as f32).collect();
            Tensor::from_slice(&values, [range.len(), 1])
        });
        let mut starts = starts.into_inner().unwrap();
        starts.sort_unstable();
        (y.unwrap().to_vec().unwrap(), starts)
    }

    #[test]
    fn groups_make_up_the_whole_in_its_order() {
        for (count, n, wanted) in [
            (3, 13, vec![0, 4, 8]),
            (4, 5, vec![0, 2]),
            (4, 3, vec![0]),
            (1, 64, vec![0]),
            (2, 33, vec![0, 5, 11, 16, 22, 27]),
        ] {
            let (rows, starts) = threads(count, || run(n, Mode::Inference));
            assert_eq!(starts, wanted, "{count} threads");
            assert_eq!(rows, (0..n).map(|row| row as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_recorded_timed_checked_or_dropped_out_stays_together() {
        let address = crate::rng::Address::new(0, crate::rng::Purpose::Test);
        let starts = |mode| run(16, mode).1;
        assert_eq!(threads(2, || starts(Mode::Inference)), [0, 8]);
        assert_eq!(threads(2, || starts(Mode::Training(address))), [0]);
        assert_eq!(threads(2, || tape::Tape::record(|| Ok(starts(Mode::Inference))).unwrap().0), [0]);
        let clock: fn() -> f64 = || 0.0;
        assert_eq!(threads(2, || tape::profile::profile(clock, || starts(Mode::Inference)).0), [0]);
        let mut checked = Vec::new();
        let mut check = || {
            checked = starts(Mode::Inference);
            Ok(())
        };
        threads(2, || tape::find_non_finite(&mut check)).unwrap();
        assert_eq!(checked, [0]);
    }
    #[test]
    fn a_group_that_another_task_s_thread_takes_is_not_on_that_task_s_tape() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        let x = Tensor::from_slice(&[1.0_f32; 4], [4, 1]).unwrap().with_grad(true);
        let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let group = |range: Range<usize>| {
            // Both groups wait for each other, so that the thread that records must take one.
            begun.fetch_add(1, SeqCst);
            while begun.load(SeqCst) < 2 {
                std::thread::yield_now();
            }
            crate::ops::silu(&x)?.rows(range.start, range.len())
        };
        let recorded = threads(2, || {
            rayon::join(
                || {
                    let wait = || {
                        while begun.load(SeqCst) == 0 {
                            std::thread::yield_now();
                        }
                        while done.load(SeqCst) == 0 {
                            let _ = rayon::yield_now();
                        }
                        crate::ops::silu(&x)
                    };
                    tape::Tape::record(wait).unwrap().1.len()
                },
                || {
                    let y = in_groups(4, Device::Cpu, Mode::Inference, group);
                    done.fetch_add(1, SeqCst);
                    y.unwrap()
                },
            )
        });
        assert_eq!(recorded.0, 1);
    }
}
