//! The autograd tape: a thread-local list of nodes, each with its own backward.
//!
//! Nothing is recorded outside [`Tape::record`]. A node owns what its backward needs and is dropped as soon as it has
//! run, so activations are freed while the gradients flow back.

pub mod profile;

use crate::device::{Device, DisjointMut, for_each_block};
use crate::error::{Error, Result};
use crate::simd::Number;
use crate::tensor::{Dtype, Element, Tensor, TensorId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::thread::LocalKey;

/// One recorded op.
pub trait Node {
    /// The op's name, for messages.
    fn name(&self) -> &'static str;

    /// Adds the gradients of the op's inputs, given the gradient `dy` of its output.
    ///
    /// # Errors
    /// Those of the kernels it runs.
    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()>;
}

struct Entry {
    output: TensorId,
    scope: Box<str>,
    node: Box<dyn Node>,
    row: Option<profile::RowId>,
}

/// The recorded ops, first to last.
#[derive(Default)]
pub struct Tape {
    entries: Vec<Entry>,
}

thread_local! {
    static ACTIVE: RefCell<Option<Tape>> = const { RefCell::new(None) };
    /// The entry list of the last finished tape, kept so that its memory is used again.
    static SPARE: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
    static SCOPE: RefCell<String> = const { RefCell::new(String::new()) };
    /// Whether the tape is laid aside while [`recompute`] runs its body.
    static PAUSED: Cell<bool> = const { Cell::new(false) };
    static CHECK: Cell<bool> = const { Cell::new(false) };
    static FIRST_BAD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A value of this thread that is another for as long as this lives: a panic brings the former one back too.
pub(crate) struct Held<T: Copy + 'static>(&'static LocalKey<Cell<T>>, T);

impl<T: Copy> Held<T> {
    pub(crate) fn new(cell: &'static LocalKey<Cell<T>>, value: T) -> Held<T> {
        Held(cell, cell.replace(value))
    }
}

impl<T: Copy> Drop for Held<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// The tape of this thread, another until this is dropped; the other is dropped then, unless [`Swapped::take`] took it.
struct Swapped(Option<Tape>);

impl Swapped {
    fn new(tape: Option<Tape>) -> Swapped {
        Swapped(ACTIVE.replace(tape))
    }

    fn take(&mut self) -> Option<Tape> {
        ACTIVE.take()
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        ACTIVE.set(self.0.take());
    }
}

impl Tape {
    /// Runs `body` and records every op in it that touches a tensor with `requires_grad`. A tape belongs to its thread: what `body` gives to
    /// other threads is not recorded. Two tasks of one rayon pool must not record at the same time, since a thread that waits inside an
    /// op may begin the other task.
    ///
    /// # Errors
    /// Those of `body`; [`Error::Usage`] if a tape is being recorded on this thread already.
    pub fn record<T>(body: impl FnOnce() -> Result<T>) -> Result<(T, Tape)> {
        if ACTIVE.with_borrow(Option::is_some) {
            return Err(Error::Usage("tape: already recording on this thread; finish the outer record first".into()));
        }
        let mut recording = Swapped::new(Some(Tape { entries: SPARE.take() }));
        let value = body()?;
        Ok((value, recording.take().unwrap_or_default()))
    }

    /// Number of recorded ops.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Runs the nodes last to first, starting from `dy`, the gradient of `output`; adds to `grads`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `dy` does not have `output`'s shape, and those of the nodes.
    pub fn backward(mut self, output: &Tensor, dy: Tensor, grads: &mut Grads) -> Result<()> {
        if dy.shape() != output.shape() {
            return Err(Error::Shape(format!("backward: dy {} does not match output {}", dy.shape(), output.shape())));
        }
        grads.add(output.grad_slot(), dy)?;
        while let Some(entry) = self.entries.pop() {
            let Some(dy) = grads.take(entry.output) else { continue };
            let name = entry.node.name();
            profile::begin_node(entry.row);
            entry.node.backward(dy, grads)?;
            profile::end_node();
            if CHECK.get() && grads.found_non_finite {
                note_bad("gradient", name, &entry.scope);
            }
        }
        SPARE.set(self.entries);
        Ok(())
    }

    /// Backward from a scalar loss with gradient 1.
    ///
    /// # Errors
    /// As [`Tape::backward`].
    pub fn backward_from_loss(self, loss: &Tensor, grads: &mut Grads) -> Result<()> {
        let one = Tensor::from_slice(&[1.0_f32], loss.shape())?.to_device(loss.device())?;
        self.backward(loss, one, grads)
    }
}

fn note_bad(kind: &str, name: &str, scope: &str) {
    FIRST_BAD.with_borrow_mut(|first| {
        first.get_or_insert_with(|| {
            let place = if scope.is_empty() { String::new() } else { format!(" at {scope}") };
            format!("first non-finite {kind} came from {name}{place}")
        });
    });
}

/// Runs `body` while every op's output and every gradient is checked; returns the first op that made a
/// non-finite number, as a sentence part. Slow: for finding out after a loss was not finite.
pub fn find_non_finite(body: impl FnOnce() -> Result<()>) -> Result<Option<String>> {
    let _checking = Held::new(&CHECK, true);
    FIRST_BAD.set(None);
    body()?;
    Ok(FIRST_BAD.take())
}

/// Runs `body` with `name` appended to the scope that messages show, for example `mid_block.attentions.0`.
pub fn scope<T>(name: impl std::fmt::Display, body: impl FnOnce() -> T) -> T {
    use std::fmt::Write;
    struct Until(usize);
    impl Drop for Until {
        fn drop(&mut self) {
            SCOPE.with_borrow_mut(|scope| scope.truncate(self.0));
        }
    }
    let _until = SCOPE.with_borrow_mut(|scope| {
        let before = Until(scope.len());
        let dot = if before.0 > 0 { "." } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(scope, "{dot}{name}");
        before
    });
    body()
}

/// Runs `body` as a task of its own, which is neither recorded nor timed nor checked: for work that is given to other threads. One that waits
/// inside an op may be handed it in the middle of what it records.
pub(crate) fn apart<T>(body: impl FnOnce() -> T) -> T {
    let _tape = Swapped::new(None);
    let _flags = (Held::new(&PAUSED, false), Held::new(&CHECK, false), profile::off());
    body()
}

/// Whether ops are being recorded on this thread, or will be when the gradients flow back.
pub fn is_recording() -> bool {
    PAUSED.get() || ACTIVE.with_borrow(|active| active.is_some())
}

/// Whether what this thread does is recorded, timed or checked, so that it must not be given to others.
pub(crate) fn is_watching() -> bool {
    is_recording() || CHECK.get() || profile::is_on()
}

/// Runs `body` on `inputs` and keeps these alone: what it computes in between is computed again when the gradient of its
/// result comes back, with the same bits. Without a tape, `body` just runs.
///
/// `body` may read other followed tensors, such as parameters; one of `inputs` must be followed for it to have a gradient at all.
///
/// # Errors
/// Those of `body`.
pub fn recompute(inputs: Vec<Tensor>, body: impl Fn(&[Tensor]) -> Result<Tensor> + 'static) -> Result<Tensor> {
    if ACTIVE.with_borrow(Option::is_none) {
        return body(&inputs);
    }
    let output = {
        let _laid_aside = (Swapped::new(None), Held::new(&PAUSED, true));
        body(&inputs)?
    };
    let names = inputs.clone();
    Ok(push(output, &names.iter().collect::<Vec<_>>(), || Box::new(Recompute { inputs, body })))
}

struct Recompute<F> {
    inputs: Vec<Tensor>,
    body: F,
}

impl<F: Fn(&[Tensor]) -> Result<Tensor>> Node for Recompute<F> {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (output, tape) = Tape::record(|| (self.body)(&self.inputs))?;
        tape.backward(&output, dy, grads)
    }
}

/// Hands an op's output to the tape: if one of `inputs` is followed and a tape is recording, `node` is recorded and
/// the returned tensor is followed too; otherwise `node` is never built.
pub(crate) fn push(output: Tensor, inputs: &[&Tensor], node: impl FnOnce() -> Box<dyn Node>) -> Tensor {
    let row = profile::forward(|| function_name_of(&node), inputs, &output);
    if CHECK.get() && !output.is_finite().unwrap_or(true) {
        SCOPE.with_borrow(|scope| note_bad("value", node_name_of(&node), scope));
    }
    if !inputs.iter().any(|t| t.requires_grad()) {
        return output;
    }
    ACTIVE.with_borrow_mut(|active| match active {
        None => output,
        Some(tape) => {
            let output = output.with_grad(true);
            let scope = SCOPE.with_borrow(|scope| scope.as_str().into());
            tape.entries.push(Entry { output: output.id(), scope, node: node(), row });
            output
        }
    })
}

/// The op's name from the type of the closure that builds its node, such as `tweedie::ops::linear::linear::{{closure}}`.
fn node_name_of<F>(_: &F) -> &'static str {
    let path = std::any::type_name::<F>();
    path.split("ops::").nth(1).and_then(|rest| rest.split("::").next()).unwrap_or("an op")
}

/// The op's function, the innermost name of the same type: a room may have several.
fn function_name_of<F>(_: &F) -> &'static str {
    // `tweedie::ops::room::op<its generic arguments>::{{closure}}`
    let path = std::any::type_name::<F>();
    let path = path.split('<').next().unwrap_or(path).trim_end_matches("::{{closure}}");
    path.rsplit("::").next().unwrap_or("an op")
}

/// Gradients by tensor. Keep one and use it again: its memory is kept.
#[derive(Default)]
pub struct Grads {
    map: HashMap<TensorId, Tensor>,
    found_non_finite: bool,
}

impl Grads {
    /// No gradients.
    pub fn new() -> Grads {
        Grads::default()
    }

    /// Adds a contribution: the first is moved in, later ones are added. Nothing happens without a slot.
    ///
    /// # Errors
    /// [`Error::Shape`] if two contributions disagree in shape.
    pub fn add(&mut self, slot: Option<TensorId>, contribution: Tensor) -> Result<()> {
        let Some(id) = slot else { return Ok(()) };
        if CHECK.get() && !contribution.is_finite()? {
            self.found_non_finite = true;
        }
        match self.map.remove(&id) {
            None => self.map.insert(id, contribution),
            Some(sum) => {
                profile::pause_node();
                let sum = self.map.insert(id, add_into(sum, &contribution)?);
                profile::lap("gradient sum");
                sum
            }
        };
        Ok(())
    }

    /// The gradient of `tensor`, if there is one.
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.map.get(&tensor.id())
    }

    /// Removes and returns the gradient under `id`.
    pub(crate) fn take(&mut self, id: TensorId) -> Option<Tensor> {
        self.map.remove(&id)
    }

    /// Forgets all gradients, keeping the memory of the table.
    pub fn clear(&mut self) {
        self.map.clear();
        self.found_non_finite = false;
    }
}

/// `sum + term`, in `sum`'s memory when nobody shares it.
fn add_into(mut sum: Tensor, term: &Tensor) -> Result<Tensor> {
    if sum.shape() != term.shape() {
        return Err(Error::Shape(format!("gradient sum: {} and {} differ", sum.shape(), term.shape())));
    }
    match (sum.device(), sum.dtype()) {
        (Device::Cpu, Dtype::F32) => add_on_host::<f32>(sum, term),
        (Device::Cpu, Dtype::Bf16) => add_on_host::<half::bf16>(sum, term),
        (Device::Cuda(index), Dtype::F32) if term.device() == sum.device() => {
            if !sum.is_unique() {
                return cuda::add(index, &sum, term);
            }
            cuda::accumulate(index, &mut sum, term)?;
            Ok(sum)
        }
        (device, dtype) => Err(Error::Device(format!("gradient sum: no kernel for {dtype:?} on {device}"))),
    }
}

fn add_on_host<T: Number + Element>(mut sum: Tensor, term: &Tensor) -> Result<Tensor> {
    const BLOCK: usize = 16 * 1024;
    let (count, term) = (sum.count(), term.host::<T>()?);
    let blocks = |work: &(dyn Fn(usize, usize) + Sync + Send)| {
        for_each_block(count.div_ceil(BLOCK), 4 * BLOCK, |block| work(block * BLOCK, BLOCK.min(count - block * BLOCK)));
    };
    if sum.is_unique() {
        let target = DisjointMut::new(sum.host_mut::<T>()?);
        blocks(&|at, len| {
            let terms = target.slice(at, len).iter_mut().zip(&term[at..at + len]);
            terms.for_each(|(s, t)| *s = T::narrow(s.widen() + t.widen()));
        });
        return Ok(sum);
    }
    // A gradient that two tensors share (both sides of a residual sum) is left as it is.
    let mut out = Tensor::empty(sum.shape(), T::DTYPE, Device::Cpu)?;
    let (a, target) = (sum.host::<T>()?, DisjointMut::new(out.host_mut::<T>()?));
    blocks(&|at, len| {
        let terms = a[at..at + len].iter().zip(&term[at..at + len]);
        let pairs = target.slice(at, len).iter_mut().zip(terms);
        pairs.for_each(|(s, (a, b))| *s = T::narrow(a.widen() + b.widen()));
    });
    Ok(out)
}

/// Sums of two tensors: gradients here, and the op `add`.
pub(crate) mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu};
    use crate::error::Result;
    use crate::kernels::pointwise as kernel;
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 256;

    /// `x + y`, of equal shapes on one GPU.
    pub(crate) fn add(index: usize, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let mut sum = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
        let count = sum.count();
        let args = args![x.cuda_as::<f32>()?, y.cuda_as::<f32>()?, sum.cuda_mut()?, count as u64];
        let geometry = Geometry::covering(count.div_ceil(4), THREADS)?;
        // SAFETY: all three hold count f32 (shapes are compared by the callers) and a thread touches elements below it; order and types
        // are those of `pointwise_add`.
        unsafe { gpu(index)?.launch(kernel::ADD, geometry, &args) }?;
        Ok(sum)
    }

    /// `sum += term`; nothing else may share `sum`'s memory.
    pub(super) fn accumulate(index: usize, sum: &mut Tensor, term: &Tensor) -> Result<()> {
        let count = sum.count();
        let args = args![sum.cuda_mut()?, term.cuda_as::<f32>()?, count as u64];
        let geometry = Geometry::covering(count.div_ceil(4), THREADS)?;
        // SAFETY: both hold count f32 (shapes are compared in `add_into`) and a thread touches elements below it; order and types are
        // those of `pointwise_accumulate`.
        unsafe { gpu(index)?.launch(kernel::ACCUMULATE, geometry, &args) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::silu;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn followed() -> Tensor {
        Tensor::from_slice(&[1.0_f32, f32::NAN], [2]).unwrap().with_grad(true)
    }

    fn panics<T>(body: impl FnOnce() -> T) {
        assert!(catch_unwind(AssertUnwindSafe(|| drop(body()))).is_err());
    }

    #[test]
    fn a_panic_leaves_nothing_switched_on() {
        let x = followed();
        panics(|| Tape::record(|| -> Result<()> { panic!("in a record") }));
        panics(|| find_non_finite(|| panic!("in a check")));
        panics(|| scope("lost", || panic!("in a scope")));
        panics(|| profile::profile(|| 0.0, || panic!("in a profile")));
        panics(|| Tape::record(|| recompute(vec![followed()], |_| panic!("in a recomputation"))));
        assert!(!is_watching());
        assert_eq!(Tape::record(|| silu(&x)).unwrap().1.len(), 1);
        let found = find_non_finite(|| scope("kept", || silu(&x)).map(drop)).unwrap();
        assert_eq!(found.unwrap(), "first non-finite value came from pointwise at kept");
    }

    #[test]
    fn work_apart_is_neither_recorded_nor_timed_nor_checked_and_what_is_around_it_goes_on() {
        let x = followed();
        let ((tape, found), rows) = profile::profile(
            || 0.0,
            || {
                let mut tape = 0;
                let found = find_non_finite(|| {
                    let recorded = Tape::record(|| {
                        apart(|| {
                            assert!(!is_watching());
                            silu(&x)
                        })?;
                        assert!(is_recording());
                        silu(&x)
                    })?;
                    tape = recorded.1.len();
                    Ok(())
                });
                (tape, found.unwrap())
            },
        );
        assert_eq!((tape, found.is_some()), (1, true));
        assert_eq!(rows.iter().map(|row| row.forward.count).collect::<Vec<_>>(), [1]);
        let unchecked = find_non_finite(|| apart(|| silu(&x)).map(drop));
        assert_eq!(unchecked.unwrap(), None);
    }
}
