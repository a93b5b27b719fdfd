//! A training step in its steady state asks the allocator for no piece of a page or more; and of twenty rounds of steps at least one asks the
//! pool for no more than it holds.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers are test code too.

#[allow(dead_code)] // It is the benches' too.
#[path = "../benches/common/text.rs"]
mod text;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use text::{Model, plain};
use tweedie::config::TrainConfig;
use tweedie::data::Dataset;
use tweedie::device::pool_stats;
use tweedie::nn::TransformerConfig;
use tweedie::ops::{ConvAccuracy, attention, set_conv_accuracy};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::Tensor;
use tweedie::train::Trainer;

/// Smaller allocations are names, shapes and lists of pointers.
const LARGE: usize = 4096;

static ENABLED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static FIRST: Mutex<Option<(usize, Backtrace)>> = Mutex::new(None);

thread_local! {
    /// Whether this thread is inside [`note`], whose own allocations do not count.
    static NOTING: Cell<bool> = const { Cell::new(false) };
}

/// Counts an allocation; the first keeps its size and where it came from.
fn note(size: usize) {
    if size < LARGE || !ENABLED.load(Ordering::Relaxed) || NOTING.replace(true) {
        return;
    }
    if COUNT.fetch_add(1, Ordering::Relaxed) == 0 {
        *FIRST.lock().unwrap() = Some((size, Backtrace::force_capture()));
    }
    NOTING.set(false);
}

/// The system's allocator, watched while [`ENABLED`].
struct Watched;

// SAFETY: every call is handed on to `System` as it came; `note` neither touches the memory nor unwinds.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(new_size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// The only test of this file: another one would allocate while this one counts.
#[test]
fn training_steps_in_their_steady_state_make_no_allocation_of_a_page_or_more() {
    // The counter counts: a test that cannot fail would pass below.
    ENABLED.store(true, Ordering::Relaxed);
    drop(std::hint::black_box(vec![1_u8; LARGE]));
    ENABLED.store(false, Ordering::Relaxed);
    assert_eq!(COUNT.swap(0, Ordering::Relaxed), 1);
    FIRST.lock().unwrap().take();

    let dataset = Dataset::load("digits", 0).unwrap();
    for (batch, precision) in [(16, "f32"), (64, "f32"), (16, "bf16"), (64, "bf16")] {
        for dropout in [0.0, 0.1] {
            let config =
                TrainConfig { batch, dropout, precision: precision.into(), ..TrainConfig::preset("digits").unwrap() };
            let mut trainer = Trainer::new(&config, &dataset, tweedie::device::Device::Cpu).unwrap();
            assert_steady(&format!("{precision}, batch {batch}, dropout {dropout}"), || {
                trainer.train_step().map(|_| ())
            });
        }
    }
    let usual = TrainConfig { batch: 16, ..TrainConfig::preset("digits").unwrap() };
    for (name, config) in [
        ("muon", TrainConfig { optimizer: "muon".into(), ..usual.clone() }),
        ("recomputation", TrainConfig { recompute: true, ..usual.clone() }),
        ("plain sums", TrainConfig { conv_accuracy: "exact".into(), ..usual.clone() }),
        ("F(4×4)", TrainConfig { conv_accuracy: "fast".into(), ..usual }),
        ("the preset small", TrainConfig { batch: 4, ..TrainConfig::preset("small").unwrap() }),
    ] {
        set_conv_accuracy(ConvAccuracy::from_name(&config.conv_accuracy).unwrap());
        let mut trainer = Trainer::new(&config, &dataset, tweedie::device::Device::Cpu).unwrap();
        assert_steady(name, || trainer.train_step().map(|_| ()));
    }
    let tokens = Tensor::from_slice(&vec![0.5_f32; 5000 * 8], [1, 5000, 8]).unwrap().with_grad(true);
    let mut grads = Grads::new();
    assert_steady("attention of many tokens", || {
        grads.clear();
        let (y, tape) = Tape::record(|| attention(&tokens, &tokens, &tokens, 1))?;
        tape.backward(&y, y.clone(), &mut grads)
    });
    let small = TransformerConfig { width: 48, depth: 2, length: 80, dropout: 0.1, ..plain() };
    for config in [small.clone(), TransformerConfig { cond_dim: Some(16), ..small }] {
        let mut model = Model::new(&config).unwrap();
        assert_steady(&format!("transformer, cond_dim {:?}", config.cond_dim), || model.train_step());
        assert_steady(&format!("transformer forward, cond_dim {:?}", config.cond_dim), || model.forward());
    }
}

/// Asserts that `step`, once it is warm, asks the allocator for nothing large in any round, and in some round the pool for no more than it holds.
fn assert_steady(name: &str, mut step: impl FnMut() -> tweedie::Result<()>) {
    // Blocks that run at the same time hold working memory at the same time, and which ones meet is a matter of chance: the steps
    // begin to count after five in a row for which the pool had enough.
    let (mut held, mut enough) = (0, 0);
    for _ in 0..60 {
        step().unwrap();
        enough = if std::mem::replace(&mut held, pool_stats().held) == held { enough + 1 } else { 0 };
        if enough == 5 {
            break;
        }
    }
    // Tensors' memory comes from the pool, which maps it itself. Blocks that never met before may still do so, on a machine with other work, but
    // each such meeting is prepared for from then on: of twenty rounds one must need nothing.
    let more = (0..20).find_map(|round| {
        let held = pool_stats().held;
        ENABLED.store(true, Ordering::Relaxed);
        let outcome = (0..5).try_for_each(|_| step());
        ENABLED.store(false, Ordering::Relaxed);
        outcome.unwrap();
        let more = pool_stats().held - held;
        (more < LARGE || round == 19).then_some(more)
    });
    assert!(more.is_some_and(|more| more < LARGE), "{name}: the pool took {more:?} bytes more in the last round");
    let count = COUNT.swap(0, Ordering::Relaxed);
    if let Some((size, place)) = FIRST.lock().unwrap().take() {
        let place = place.to_string();
        let frames: Vec<&str> = place.lines().filter(|line| line.contains(" ./src/")).collect();
        let frames = if frames.is_empty() { place.clone() } else { frames.join("\n") };
        panic!("{name}: {count} allocations, the first of {size} bytes:\n{frames}");
    }
}
