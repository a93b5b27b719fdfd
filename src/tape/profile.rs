//! Where the time of a step goes, op by op. Off, it costs a look at a flag for each op.
//!
//! The thread that records runs one op after the other, so nothing is wrapped: whoever ends a piece of work calls for a lap, and the time
//! since the last lap is that work's. The tape does so when an op hands over its output and when a node has run; what is no op
//! (drawing a batch, the update of the weights) is named with [`lap`]. On a GPU laps are those of launches, not of the work launched.

use super::Held;
use crate::tensor::{Shape, Tensor};
use std::cell::{Cell, RefCell};

/// Time and number of one kind of work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lap {
    /// Seconds in all.
    pub seconds: f64,
    /// How often it was done.
    pub count: u64,
}

/// What one op took on tensors of one set of shapes, or a [`lap`] of that name.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The op's function, such as `conv2d`.
    pub op: &'static str,
    /// Shapes of the tensors it was given.
    pub inputs: Vec<Shape>,
    /// Whether the gradient of the first input was wanted.
    pub follows_first: bool,
    /// Shape of its result.
    pub output: Shape,
    /// Its forward passes.
    pub forward: Lap,
    /// Its backward passes.
    pub backward: Lap,
}

/// Index of a row, for the backward pass of what was timed forward.
#[derive(Clone, Copy)]
pub(super) struct RowId(usize);

struct Profile {
    rows: Vec<Row>,
    clock: fn() -> f64,
    last: f64,
    /// The row whose backward pass is running.
    node: Option<RowId>,
}

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static PROFILE: RefCell<Profile> = const { RefCell::new(Profile::new(|| 0.0, 0.0)) };
}

/// Runs `body` with the timer on; returns its value and the laps of this thread, in the order in which they first came.
///
/// `clock` tells seconds since any moment: of the wall, or, on a machine that others use too, of the processor.
pub fn profile<T>(clock: fn() -> f64, body: impl FnOnce() -> T) -> (T, Vec<Row>) {
    let outer = PROFILE.replace(Profile::new(clock, clock()));
    let value = {
        let _on = Held::new(&ON, true);
        body()
    };
    (value, PROFILE.replace(outer).rows)
}

/// Stops the timer of this thread until the value is dropped.
pub(super) fn off() -> impl Drop {
    Held::new(&ON, false)
}

/// Whether the timer of this thread is on.
pub(super) fn is_on() -> bool {
    ON.get()
}

/// Ends a lap: the time since the last one was that of `name`.
pub fn lap(name: &'static str) {
    with(|profile, seconds| {
        let id = profile.row(name, Vec::new(), false, [0].into());
        profile.rows[id.0].forward.add(seconds, 1);
    });
}

/// Ends the lap of an op's forward pass.
pub(super) fn forward(op: impl FnOnce() -> &'static str, inputs: &[&Tensor], output: &Tensor) -> Option<RowId> {
    with(|profile, seconds| {
        let follows_first = inputs.first().is_some_and(|x| x.requires_grad());
        let shapes = inputs.iter().map(|t| t.shape()).collect();
        let id = profile.row(op(), shapes, follows_first, output.shape());
        profile.rows[id.0].forward.add(seconds, 1);
        id
    })
}

/// Says whose backward pass begins, and ends the lap of what came before it, which nobody is charged for.
pub(super) fn begin_node(id: Option<RowId>) {
    with(|profile, _| profile.node = id);
}

/// Ends the lap of the node that was running.
pub(super) fn end_node() {
    with(|profile, seconds| {
        if let Some(id) = profile.node.take() {
            profile.rows[id.0].backward.add(seconds, 1);
        }
    });
}

/// Charges a running node for what it did so far: its sums of gradients are a lap of their own.
pub(super) fn pause_node() {
    with(|profile, seconds| {
        if let Some(id) = profile.node {
            profile.rows[id.0].backward.add(seconds, 0);
        }
    });
}

/// Calls `note` with the seconds since the last lap, and begins the next one after it.
fn with<T>(note: impl FnOnce(&mut Profile, f64) -> T) -> Option<T> {
    if !ON.get() {
        return None;
    }
    PROFILE.with_borrow_mut(|profile| {
        let seconds = (profile.clock)() - profile.last;
        let value = note(profile, seconds);
        profile.last = (profile.clock)();
        Some(value)
    })
}

impl Profile {
    const fn new(clock: fn() -> f64, last: f64) -> Profile {
        Profile { rows: Vec::new(), clock, last, node: None }
    }

    fn row(&mut self, op: &'static str, inputs: Vec<Shape>, follows_first: bool, output: Shape) -> RowId {
        let same = |row: &Row| {
            row.op == op && row.output == output && row.follows_first == follows_first && row.inputs == inputs
        };
        let index = self.rows.iter().position(same).unwrap_or_else(|| {
            let none = Lap::default();
            self.rows.push(Row { op, inputs, follows_first, output, forward: none, backward: none });
            self.rows.len() - 1
        });
        RowId(index)
    }
}

impl Lap {
    fn add(&mut self, seconds: f64, count: u64) {
        self.seconds += seconds;
        self.count += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{add, silu};
    use crate::tape::{Grads, Tape};

    #[test]
    fn every_op_is_counted_forward_and_backward_and_nothing_outside_the_profile() {
        let x = Tensor::from_slice(&[1.0_f32, 2.0], [2]).unwrap().with_grad(true);
        let step = || {
            // Both terms are x, so that its gradients are summed once.
            let (y, tape) = Tape::record(|| add(&silu(&x)?, &x)).unwrap();
            let dy = Tensor::from_slice(&[1.0_f32; 2], [2]).unwrap();
            tape.backward(&y, dy, &mut Grads::new()).unwrap();
            lap("rest");
        };
        step();
        let ((), rows) = profile(|| 0.0, || (0..3).for_each(|_| step()));
        let counts: Vec<_> = rows.iter().map(|r| (r.op, r.forward.count, r.backward.count)).collect();
        assert_eq!(counts, [("silu", 3, 3), ("add", 3, 3), ("gradient sum", 3, 0), ("rest", 3, 0)]);
        assert_eq!((rows[0].inputs.len(), rows[1].inputs.len(), rows[0].follows_first), (1, 2, true));
        step();
        assert_eq!(profile(|| 0.0, || ()).1, []);
    }

    thread_local! {
        static NOW: Cell<f64> = const { Cell::new(0.0) };
    }

    #[test]
    fn laps_have_the_time_since_the_last_one() {
        let ((), rows) = profile(
            || NOW.get(),
            || {
                for (name, seconds) in [("first", 2.0), ("second", 3.0), ("first", 5.0)] {
                    NOW.set(NOW.get() + seconds);
                    lap(name);
                }
                NOW.set(NOW.get() + 7.0);
            },
        );
        let laps: Vec<_> = rows.iter().map(|row| (row.op, row.forward)).collect();
        assert_eq!(laps, [("first", Lap { seconds: 7.0, count: 2 }), ("second", Lap { seconds: 3.0, count: 1 })]);
    }
}
