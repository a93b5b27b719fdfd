//! The C interface: stream capture. A graph is the list of what was recorded.
#![allow(non_snake_case)]

use std::ffi::{c_uint, c_ulonglong};

use super::abi::{Pointer, exports, put};
use super::queue::stream_id;
use super::*;

const CAPTURE_INVALIDATED: Code = 901;

exports! {
    cuStreamBeginCapture_v2(stream: Pointer, _mode: c_uint) {
        let mut gpu = gpu();
        let Some(stream) = gpu.streams.get_mut(&stream_id(stream as usize)) else { return INVALID_HANDLE };
        stream.capture = Some(Vec::new());
        SUCCESS
    }
    cuStreamIsCapturing(stream: Pointer, status: *mut c_uint) {
        let gpu = gpu();
        let Some(stream) = gpu.streams.get(&stream_id(stream as usize)) else { return INVALID_HANDLE };
        put(status, c_uint::from(stream.capture.is_some()))
    }
    cuStreamEndCapture(stream: Pointer, graph: *mut Pointer) {
        let mut gpu = gpu();
        let Some(stream) = gpu.streams.get_mut(&stream_id(stream as usize)) else { return INVALID_HANDLE };
        let Some(recorded) = stream.capture.take() else { return CAPTURE_INVALIDATED };
        let handle = gpu.handle();
        gpu.graphs.insert(handle, recorded);
        put(graph, handle as Pointer)
    }
    cuGraphInstantiateWithFlags(executable: *mut Pointer, graph: Pointer, _flags: c_ulonglong) {
        let mut gpu = gpu();
        let Some(work) = gpu.graphs.get(&(graph as usize)).cloned() else { return INVALID_HANDLE };
        let handle = gpu.handle();
        gpu.graphs.insert(handle, work);
        put(executable, handle as Pointer)
    }
    cuGraphUpload(_executable: Pointer, _stream: Pointer) { SUCCESS }
    cuGraphLaunch(executable: Pointer, stream: Pointer) {
        let mut gpu = gpu();
        let Some(work) = gpu.graphs.get(&(executable as usize)).cloned() else { return INVALID_HANDLE };
        work.into_iter().map(|work| gpu.submit(stream as usize, work)).find(|&code| code != SUCCESS).unwrap_or(SUCCESS)
    }
    cuGraphExecDestroy(executable: Pointer) { gpu().graphs.remove(&(executable as usize)); SUCCESS }
    cuGraphDestroy(graph: Pointer) { gpu().graphs.remove(&(graph as usize)); SUCCESS }
}
