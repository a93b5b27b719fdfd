//! Streams: work waits in its queue until something synchronises with it, so that a program that forgets to sees old data.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use super::loading::Loaded;
use super::{Code, Gpu, INVALID_HANDLE, INVALID_VALUE, SUCCESS};
use crate::exec::{self, Launch};
use crate::memory::POISON;

/// Where a copy to the device takes its bytes from.
#[derive(Clone)]
pub(crate) enum Source {
    /// Pageable memory is copied when the call is made.
    Copied(Vec<u8>),
    /// Pinned memory is read when the copy runs.
    Pinned(usize, usize),
}

pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);

#[derive(Clone)]
pub(crate) enum Work {
    HostToDevice {
        to: u64,
        from: Source,
    },
    DeviceToHost {
        to: usize,
        from: u64,
        bytes: usize,
    },
    DeviceToDevice {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        count: usize,
    },
    Launch(Arc<Ready>),
    Call(HostFunction, usize),
    Free(u64),
    /// The event's time number `u64` comes when this runs.
    Record(usize, u64),
    Wait(usize, u64),
}

/// A kernel with all it needs to run.
pub(crate) struct Ready {
    pub(crate) module: Arc<Loaded>,
    pub(crate) kernel: usize,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: u32,
    pub(crate) params: Vec<u8>,
}

pub(crate) struct Stream {
    pub(crate) queue: VecDeque<Work>,
    /// What a capture has recorded so far.
    pub(crate) capture: Option<Vec<Work>>,
    /// Whether it orders itself with the default stream.
    pub(crate) blocking: bool,
}

impl Stream {
    pub(crate) fn new(blocking: bool) -> Self {
        Stream { queue: VecDeque::new(), capture: None, blocking }
    }
}

#[derive(Default)]
pub(crate) struct Event {
    /// How often it was recorded, and how many of these times have come.
    pub(crate) recorded: u64,
    pub(crate) done: u64,
    pub(crate) stream: usize,
    pub(crate) at: Option<Instant>,
    /// Whether the program has no use for it any more, but for what waits.
    pub(crate) destroyed: bool,
}

/// The stream a handle means: 1 is the default stream too, 2 the thread's.
pub(crate) fn stream_id(handle: usize) -> usize {
    if handle <= 2 { 0 } else { handle }
}

impl Gpu {
    pub(crate) fn submit(&mut self, stream: usize, work: Work) -> Code {
        if let Some(error) = self.error {
            return error;
        }
        let stream = stream_id(stream);
        let Some(own) = self.streams.get_mut(&stream) else { return INVALID_HANDLE };
        if let Some(recorded) = &mut own.capture {
            recorded.push(work);
            return SUCCESS;
        }
        // The default stream and the blocking ones order themselves; what lies before the new work runs now.
        let others: Vec<usize> = match (stream, own.blocking) {
            (0, _) => {
                self.streams.iter().filter(|(id, other)| **id != 0 && other.blocking).map(|(id, _)| *id).collect()
            }
            (_, true) => vec![0],
            _ => Vec::new(),
        };
        for other in others {
            self.drain(other);
        }
        if let Work::DeviceToHost { to, bytes, .. } = work {
            // SAFETY: the caller of the copy vouches for its target.
            unsafe { (to as *mut u8).write_bytes(POISON, bytes) };
        }
        if let Some(own) = self.streams.get_mut(&stream) {
            own.queue.push_back(work);
        }
        SUCCESS
    }

    /// Submits and waits.
    pub(crate) fn submit_and_wait(&mut self, stream: usize, work: Work) -> Code {
        match self.submit(stream, work) {
            SUCCESS => self.synchronise(stream),
            error => error,
        }
    }

    pub(crate) fn synchronise(&mut self, stream: usize) -> Code {
        self.drain(stream_id(stream));
        self.error.unwrap_or(SUCCESS)
    }

    pub(crate) fn synchronise_all(&mut self) -> Code {
        for stream in self.streams.keys().copied().collect::<Vec<_>>() {
            self.drain(stream);
        }
        self.error.unwrap_or(SUCCESS)
    }

    fn drain(&mut self, stream: usize) {
        while self.step(stream) {}
    }

    /// Runs a stream's next work; whether there was some.
    pub(crate) fn step(&mut self, stream: usize) -> bool {
        let Some(work) = self.streams.get_mut(&stream).and_then(|stream| stream.queue.pop_front()) else {
            return false;
        };
        if let Err(code) = self.perform(&work) {
            self.error = self.error.or(Some(code));
        }
        true
    }

    /// Runs the event's stream until its time number `time` has come.
    pub(crate) fn wait_for(&mut self, event: usize, time: u64) {
        while let Some(found) = self.events.get(&event) {
            let stream = found.stream;
            if found.done >= time || !self.step(stream) {
                return;
            }
        }
    }

    fn perform(&mut self, work: &Work) -> Result<(), Code> {
        let after_error = self.error.is_some();
        match work {
            Work::Record(event, time) => {
                if let Some(event) = self.events.get_mut(event) {
                    event.done = event.done.max(*time);
                    event.at = Some(Instant::now());
                }
                self.events.retain(|_, event| !(event.destroyed && event.done >= event.recorded));
            }
            Work::Wait(event, time) => self.wait_for(*event, *time),
            Work::Free(address) => {
                self.memory.free(*address);
            }
            _ if after_error => {}
            Work::HostToDevice { to, from } => {
                let bytes = match from {
                    Source::Copied(bytes) => &bytes[..],
                    // SAFETY: `cuMemFreeHost` waits for all work before it lets pinned memory go.
                    Source::Pinned(at, length) => unsafe { std::slice::from_raw_parts(*at as *const u8, *length) },
                };
                if !self.memory.write(*to, bytes) {
                    return Err(self.bad_range("copy to the device", *to, bytes.len()));
                }
            }
            Work::DeviceToHost { to, from, bytes } => self.copy_out(*to, *from, *bytes)?,
            Work::DeviceToDevice { to, from, bytes } => {
                let Some((source, known)) = self.memory.range(*from, *bytes) else {
                    return Err(self.bad_range("copy from the device", *from, *bytes));
                };
                let Some((target, marks)) = self.memory.range(*to, *bytes) else {
                    return Err(self.bad_range("copy to the device", *to, *bytes));
                };
                // SAFETY: both ranges were checked.
                unsafe {
                    target.copy_from(source, *bytes);
                    marks.copy_from(known, *bytes);
                }
            }
            Work::Fill { to, pattern, count } => {
                if !self.memory.write(*to, &pattern.repeat(*count)) {
                    return Err(self.bad_range("memset", *to, pattern.len() * count));
                }
            }
            Work::Launch(ready) => self.run(ready)?,
            // SAFETY: the program gave the function for this.
            Work::Call(function, data) => unsafe { function(*data as *mut c_void) },
        }
        Ok(())
    }

    fn copy_out(&mut self, to: usize, from: u64, bytes: usize) -> Result<(), Code> {
        let Some((source, marks)) = self.memory.range(from, bytes) else {
            return Err(self.bad_range("copy from the device", from, bytes));
        };
        // SAFETY: `range` checked the device's side, the caller vouches for the host's.
        let marks = unsafe {
            (to as *mut u8).copy_from_nonoverlapping(source, bytes);
            std::slice::from_raw_parts(marks, bytes)
        };
        if let Some(bad) = marks.iter().position(|&mark| mark == 0) {
            self.find_host(format!(
                "copies {bytes} bytes at {from:#x} to the host; byte {bad} of them was never written"
            ));
        }
        Ok(())
    }

    fn bad_range(&mut self, what: &str, address: u64, bytes: usize) -> Code {
        let place = self.memory.describe(address);
        self.find_host(format!("{what}: {bytes} bytes at {address:#x}: {place}"));
        INVALID_VALUE
    }

    fn run(&mut self, ready: &Ready) -> Result<(), Code> {
        let kernel = &ready.module.kernels[ready.kernel];
        let outcome = exec::launch(&Launch {
            kernel,
            memory: &self.memory,
            grid: ready.grid,
            block: ready.block,
            dynamic_shared: ready.dynamic_shared,
            params: &ready.params,
            check: self.check,
            threads: self.threads,
        });
        for finding in outcome.findings {
            self.find(finding);
        }
        let names = || kernel.opcodes.clone();
        let entry = self
            .counters
            .entry(kernel.name.clone())
            .or_insert_with(|| (Default::default(), Default::default(), names()));
        if entry.2 != kernel.opcodes {
            *entry = (Default::default(), Default::default(), names()); // another module's kernel of this name
        }
        entry.0.add(&outcome.counters);
        entry.1 = outcome.counters;
        outcome.error.map_or(Ok(()), Err)
    }
}
