//! The C interface: streams and events.
#![allow(non_snake_case)]

use std::ffi::{c_int, c_uint};

use super::abi::{Pointer, exports, put};
use super::queue::{Event, Stream, Work, stream_id};
use super::*;

const NON_BLOCKING: c_uint = 1;

exports! {
    cuStreamCreate(stream: *mut Pointer, flags: c_uint) {
        let mut gpu = gpu();
        let handle = gpu.handle();
        gpu.streams.insert(handle, Stream::new(flags & NON_BLOCKING == 0));
        put(stream, handle as Pointer)
    }
    cuStreamCreateWithPriority(stream: *mut Pointer, flags: c_uint, _priority: c_int) { cuStreamCreate(stream, flags) }
    cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) { put(least, 0); put(greatest, -5) }
    cuStreamDestroy_v2(stream: Pointer) {
        let mut gpu = gpu();
        gpu.synchronise(stream as usize); // what waits there still runs
        if stream as usize > 2 { gpu.streams.remove(&(stream as usize)); }
        SUCCESS
    }
    cuStreamSynchronize(stream: Pointer) { gpu().synchronise(stream as usize) }
    /// Something happens between two looks, or a loop of them would not end.
    cuStreamQuery(stream: Pointer) {
        let mut gpu = gpu();
        let busy = gpu.step(stream_id(stream as usize));
        gpu.error.unwrap_or(if busy { NOT_READY } else { SUCCESS })
    }
    cuStreamWaitEvent(stream: Pointer, event: Pointer, _flags: c_uint) {
        let mut gpu = gpu();
        let Some(found) = gpu.events.get(&(event as usize)) else { return INVALID_HANDLE };
        let (time, done) = (found.recorded, found.done);
        if done >= time { return gpu.error.unwrap_or(SUCCESS) }
        gpu.submit(stream as usize, Work::Wait(event as usize, time))
    }
    cuEventCreate(event: *mut Pointer, _flags: c_uint) {
        let mut gpu = gpu();
        let handle = gpu.handle();
        gpu.events.insert(handle, Event::default());
        put(event, handle as Pointer)
    }
    cuEventDestroy_v2(event: Pointer) {
        let mut gpu = gpu();
        let Some(found) = gpu.events.get_mut(&(event as usize)) else { return INVALID_HANDLE };
        // Whoever waits for it must still find it: it goes once its last time has come.
        found.destroyed = true;
        if found.done >= found.recorded { gpu.events.remove(&(event as usize)); }
        SUCCESS
    }
    cuEventRecord(event: Pointer, stream: Pointer) {
        let mut gpu = gpu();
        let id = stream_id(stream as usize);
        let Some(found) = gpu.events.get_mut(&(event as usize)) else { return INVALID_HANDLE };
        found.recorded += 1;
        found.stream = id;
        let time = found.recorded;
        gpu.submit(id, Work::Record(event as usize, time))
    }
    cuEventQuery(event: Pointer) {
        let mut gpu = gpu();
        let Some(stream) = gpu.events.get(&(event as usize)).map(|found| found.stream) else { return INVALID_HANDLE };
        let is_done = |gpu: &Gpu| gpu.events.get(&(event as usize)).is_none_or(|found| found.done >= found.recorded);
        if !is_done(&gpu) { gpu.step(stream); return NOT_READY }
        gpu.error.unwrap_or(SUCCESS)
    }
    cuEventSynchronize(event: Pointer) {
        let mut gpu = gpu();
        let Some(time) = gpu.events.get(&(event as usize)).map(|found| found.recorded) else { return INVALID_HANDLE };
        gpu.wait_for(event as usize, time);
        gpu.error.unwrap_or(SUCCESS)
    }
    cuEventElapsedTime(milliseconds: *mut f32, start: Pointer, end: Pointer) {
        let gpu = gpu();
        let at = |event: Pointer| gpu.events.get(&(event as usize)).map(|found| (found.at, found.done >= found.recorded));
        match (at(start), at(end)) {
            (Some((Some(from), true)), Some((Some(to), true))) => {
                put(milliseconds, to.saturating_duration_since(from).as_secs_f32() * 1e3)
            }
            (Some((_, false)), _) | (_, Some((_, false))) => NOT_READY,
            _ => INVALID_HANDLE,
        }
    }
    cuEventElapsedTime_v2(milliseconds: *mut f32, start: Pointer, end: Pointer) {
        cuEventElapsedTime(milliseconds, start, end)
    }
}
