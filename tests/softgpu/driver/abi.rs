//! The C interface: device, context, memory, modules, launches. Signatures are those of cuda.h.
#![allow(non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::queue::{HostFunction, Ready, Source, Work};
use super::*;

pub(super) type Pointer = *mut c_void;

/// Stores a result.
///
/// # Safety
/// `place` is null or may be written.
pub(super) unsafe fn put<T>(place: *mut T, value: T) -> Code {
    if place.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's.
    unsafe { place.write(value) };
    SUCCESS
}

/// Exports functions that return a `CUresult`.
macro_rules! exports {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $ty),*) -> Code {
            // SAFETY: pointers are as CUDA's manual wants them of the caller.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )* };
}
pub(super) use exports;

/// Attributes of an A100, which has compute capability 8.0.
fn device_attribute(attribute: c_int) -> c_int {
    match attribute {
        1 | 2 | 5 => {
            if attribute == 5 {
                c_int::MAX
            } else {
                1024
            }
        } // threads in a block, its x; blocks in x
        3 => 1024,
        4 => 64,
        6 | 7 => 65535,
        8 => SHARED_DEFAULT as c_int,
        9 => 65536, // constant memory
        10 => 32,
        11 => c_int::MAX, // pitch
        12 | 82 => 65536, // registers of a block, of a multiprocessor
        13 => 1_410_000,  // kHz
        16 => 108,
        31 | 40 | 41 => 1, // concurrent kernels, asynchronous copies, one address space
        36 => 1_215_000,
        37 => 5120,
        38 => 40 << 20,
        39 => 2048,
        75 => 8,
        76 => 0,
        81 => SHARED_OPT_IN as c_int + 4096,
        97 => SHARED_OPT_IN as c_int,
        106 => 32,   // blocks on a multiprocessor
        111 => 1024, // shared memory the driver takes of each block
        115 => 1,    // memory pools
        _ => 0,
    }
}

const UUID: [u8; 16] = *b"software gpu 8.0";

fn error_name(error: Code) -> Option<&'static CStr> {
    Some(match error {
        SUCCESS => c"CUDA_SUCCESS",
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        NO_BINARY_FOR_GPU => c"CUDA_ERROR_NO_BINARY_FOR_GPU",
        INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        FILE_NOT_FOUND => c"CUDA_ERROR_FILE_NOT_FOUND",
        INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        NOT_READY => c"CUDA_ERROR_NOT_READY",
        700 => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        LAUNCH_OUT_OF_RESOURCES => c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        702 => c"CUDA_ERROR_LAUNCH_TIMEOUT",
        716 => c"CUDA_ERROR_MISALIGNED_ADDRESS",
        719 => c"CUDA_ERROR_LAUNCH_FAILED",
        801 => c"CUDA_ERROR_NOT_SUPPORTED",
        901 => c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        _ => return None,
    })
}

fn error_text(error: Code) -> Option<&'static CStr> {
    Some(match error {
        NO_BINARY_FOR_GPU => c"no kernel image is available for execution on the device",
        INVALID_PTX => c"a PTX text was refused; softgpu_message says why",
        OUT_OF_MEMORY => c"out of memory",
        700 => c"an illegal memory access was encountered",
        716 => c"misaligned address",
        719 => c"unspecified launch failure",
        other => return error_name(other),
    })
}

exports! {
    cuInit(_flags: c_uint) { SUCCESS }
    cuDriverGetVersion(version: *mut c_int) { put(version, 12090) }
    cuDeviceGetCount(count: *mut c_int) { put(count, 1) }
    cuDeviceGet(device: *mut c_int, ordinal: c_int) { if ordinal == 0 { put(device, 0) } else { INVALID_DEVICE } }
    cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) { put(value, device_attribute(attribute)) }
    cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) {
        let text = b"software GPU (interprets PTX)\0";
        if name.is_null() || (length as usize) < text.len() { return INVALID_VALUE }
        name.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        SUCCESS
    }
    cuDeviceGetUuid(uuid: *mut [u8; 16], _device: c_int) { put(uuid, UUID) }
    cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) { put(uuid, UUID) }
    cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) { put(bytes, gpu().memory.total as usize) }
    cuDevicePrimaryCtxRetain(context: *mut Pointer, _device: c_int) { put(context, 8 as Pointer) }
    cuDevicePrimaryCtxRelease_v2(_device: c_int) { SUCCESS }
    cuCtxGetCurrent(context: *mut Pointer) { put(context, CURRENT.get() as Pointer) }
    cuCtxSetCurrent(context: Pointer) { CURRENT.set(context as usize); SUCCESS }
    cuCtxGetDevice(device: *mut c_int) { put(device, 0) }
    cuCtxSynchronize() { gpu().synchronise_all() }
    cuGetErrorName(error: Code, text: *mut *const c_char) {
        error_name(error).map_or(INVALID_VALUE, |name| put(text, name.as_ptr()))
    }
    cuGetErrorString(error: Code, text: *mut *const c_char) {
        error_text(error).map_or(INVALID_VALUE, |found| put(text, found.as_ptr()))
    }

    // ---- memory ----

    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let gpu = gpu();
        put(free, (gpu.memory.total - gpu.memory.live) as usize);
        put(total, gpu.memory.total as usize)
    }
    cuMemAlloc_v2(address: *mut u64, bytes: usize) { allocate(address, bytes) }
    cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: Pointer) { allocate(address, bytes) }
    // The pool that cuMemAllocAsync takes from: its settings change nothing here.
    cuDeviceGetDefaultMemPool(pool: *mut Pointer, _device: c_int) { put(pool, 16 as Pointer) }
    cuMemPoolSetAttribute(_pool: Pointer, _attribute: c_int, _value: Pointer) { SUCCESS }
    cuMemPoolTrimTo(_pool: Pointer, _keep: usize) { SUCCESS }
    cuMemFree_v2(address: u64) {
        let mut gpu = gpu();
        gpu.synchronise_all();
        if address == 0 || gpu.memory.free(address) { return SUCCESS }
        gpu.find_host(format!("frees {address:#x}, which is no allocation"));
        INVALID_VALUE
    }
    cuMemFreeAsync(address: u64, stream: Pointer) {
        let mut gpu = gpu();
        if gpu.memory.find(address, 0).is_none_or(|found| found.base != address) {
            gpu.find_host(format!("frees {address:#x}, which is no allocation"));
            return INVALID_VALUE;
        }
        // After a kernel's error nothing is queued any more, and memory is still given back.
        if gpu.submit(stream as usize, Work::Free(address)) != SUCCESS { gpu.memory.free(address); }
        SUCCESS
    }
    cuMemHostAlloc(address: *mut Pointer, bytes: usize, _flags: c_uint) {
        let Ok(layout) = std::alloc::Layout::from_size_align(bytes.max(1), 64) else { return OUT_OF_MEMORY };
        let host = std::alloc::alloc(layout);
        if host.is_null() { return OUT_OF_MEMORY }
        gpu().pinned.insert(host as usize, layout.size());
        put(address, host.cast())
    }
    cuMemFreeHost(address: Pointer) {
        let mut gpu = gpu();
        gpu.synchronise_all();
        let Some(bytes) = gpu.pinned.remove(&(address as usize)) else { return INVALID_VALUE };
        let Ok(layout) = std::alloc::Layout::from_size_align(bytes, 64) else { return INVALID_VALUE };
        std::alloc::dealloc(address.cast(), layout);
        SUCCESS
    }
    cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        let mut gpu = gpu();
        let work = upload(&gpu, to, from, bytes);
        gpu.submit_and_wait(0, work)
    }
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Pointer) {
        let mut gpu = gpu();
        let work = upload(&gpu, to, from, bytes);
        gpu.submit(stream as usize, work)
    }
    cuMemcpyDtoH_v2(to: Pointer, from: u64, bytes: usize) {
        gpu().submit_and_wait(0, Work::DeviceToHost { to: to as usize, from, bytes })
    }
    cuMemcpyDtoHAsync_v2(to: Pointer, from: u64, bytes: usize, stream: Pointer) {
        let mut gpu = gpu();
        let work = Work::DeviceToHost { to: to as usize, from, bytes };
        // CUDA: a copy to pageable memory returns only once it is done, one to pinned memory at once.
        if gpu.is_pinned(to as usize, bytes) { gpu.submit(stream as usize, work) } else { gpu.submit_and_wait(stream as usize, work) }
    }
    cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) { gpu().submit(0, Work::DeviceToDevice { to, from, bytes }) }
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Pointer) {
        gpu().submit(stream as usize, Work::DeviceToDevice { to, from, bytes })
    }
    cuMemsetD8_v2(to: u64, value: u8, count: usize) { gpu().submit(0, Work::Fill { to, pattern: vec![value], count }) }
    cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Pointer) {
        gpu().submit(stream as usize, Work::Fill { to, pattern: vec![value], count })
    }
    cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Pointer) {
        gpu().submit(stream as usize, Work::Fill { to, pattern: value.to_le_bytes().into(), count })
    }
    cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Pointer) {
        gpu().submit(stream as usize, Work::Fill { to, pattern: value.to_le_bytes().into(), count })
    }

    // ---- modules ----

    cuModuleLoadData(module: *mut Pointer, image: *const c_void) {
        let bytes = image.cast::<[u8; 4]>().read_unaligned();
        // Compiled code is not text: its first bytes say enough.
        let compiled = bytes[0] == 0x7f || bytes == 0xba55_ed50u32.to_le_bytes();
        let image = if compiled { &bytes[..] } else { CStr::from_ptr(image.cast()).to_bytes() };
        match gpu().load(image) { Ok(handle) => put(module, handle as Pointer), Err(error) => error }
    }
    cuModuleLoadDataEx(
        module: *mut Pointer,
        image: *const c_void,
        _count: c_uint,
        _options: *mut c_int,
        _values: *mut Pointer,
    ) {
        cuModuleLoadData(module, image)
    }
    cuModuleLoad(module: *mut Pointer, path: *const c_char) {
        let Ok(mut image) = CStr::from_ptr(path).to_str().map_err(drop).and_then(|path| std::fs::read(path).map_err(drop))
        else { return FILE_NOT_FOUND };
        image.push(0);
        image.extend([0; 4]);
        cuModuleLoadData(module, image.as_ptr().cast())
    }
    cuModuleUnload(module: Pointer) {
        let mut gpu = gpu();
        gpu.synchronise_all();
        let Some(found) = gpu.modules.remove(&(module as usize)) else { return INVALID_HANDLE };
        for &(address, _) in found.variables.values() { gpu.memory.free(address); }
        gpu.functions.retain(|_, function| !Arc::ptr_eq(&function.module, &found));
        SUCCESS
    }
    cuModuleGetFunction(function: *mut Pointer, module: Pointer, name: *const c_char) {
        let mut gpu = gpu();
        let Some(module) = gpu.modules.get(&(module as usize)).cloned() else { return INVALID_HANDLE };
        let name = CStr::from_ptr(name).to_string_lossy();
        let Some(kernel) = module.kernels.iter().position(|kernel| kernel.name == name) else { return NOT_FOUND };
        let dynamic_limit = SHARED_DEFAULT.saturating_sub(module.kernels[kernel].shared_bytes);
        let handle = gpu.handle();
        gpu.functions.insert(handle, Handle { module, kernel, dynamic_limit });
        put(function, handle as Pointer)
    }
    cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: Pointer, name: *const c_char) {
        let gpu = gpu();
        let Some(module) = gpu.modules.get(&(module as usize)) else { return INVALID_HANDLE };
        let Some(&(at, size)) = module.variables.get(&*CStr::from_ptr(name).to_string_lossy()) else { return NOT_FOUND };
        if !bytes.is_null() { put(bytes, size as usize); }
        if address.is_null() { SUCCESS } else { put(address, at) }
    }
    cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: Pointer) {
        let gpu = gpu();
        let Some(handle) = gpu.functions.get(&(function as usize)) else { return INVALID_HANDLE };
        let kernel = &handle.module.kernels[handle.kernel];
        put(value, match attribute {
            0 => thread_limit(kernel) as c_int,
            1 => kernel.shared_bytes as c_int,
            3 => kernel.local_bytes as c_int,
            4 => (kernel.slots.min(255)) as c_int, // an upper bound: before register allocation
            5 | 6 => 80,
            8 => handle.dynamic_limit as c_int,
            _ => 0,
        })
    }
    cuFuncSetAttribute(function: Pointer, attribute: c_int, value: c_int) {
        let mut gpu = gpu();
        let Some(handle) = gpu.functions.get_mut(&(function as usize)) else { return INVALID_HANDLE };
        if attribute == 8 {
            let room = SHARED_OPT_IN.saturating_sub(handle.module.kernels[handle.kernel].shared_bytes);
            if value < 0 || value as u32 > room { return INVALID_VALUE }
            handle.dynamic_limit = value as u32;
        }
        SUCCESS
    }
    cuFuncSetCacheConfig(_function: Pointer, _config: c_int) { SUCCESS }
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: Pointer, threads: c_int, shared: usize) {
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0)
    }
    /// By threads, blocks and shared memory; registers are not allocated here, so they do not limit.
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int,
        function: Pointer,
        threads: c_int,
        shared: usize,
        _flags: c_uint,
    ) {
        let gpu = gpu();
        let Some(handle) = gpu.functions.get(&(function as usize)) else { return INVALID_HANDLE };
        if threads <= 0 { return INVALID_VALUE }
        let memory = handle.module.kernels[handle.kernel].shared_bytes as usize + shared + 1024;
        let by_threads = 2048 / (threads as usize).next_multiple_of(32);
        let by_memory = (SHARED_OPT_IN as usize + 4096) / memory;
        put(blocks, by_threads.min(by_memory).min(32) as c_int)
    }

    // ---- launches ----

    cuLaunchKernel(
        function: Pointer,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: Pointer,
        params: *mut Pointer,
        _extra: *mut Pointer,
    ) {
        let mut gpu = gpu();
        let Some(handle) = gpu.functions.get(&(function as usize)) else { return INVALID_HANDLE };
        let kernel = &handle.module.kernels[handle.kernel];
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let error = geometry_error(grid, block, thread_limit(kernel));
        if error != SUCCESS { return error }
        if shared > handle.dynamic_limit || (params.is_null() && !kernel.params.is_empty()) { return INVALID_VALUE }
        let mut bytes = vec![0u8; kernel.param_bytes as usize];
        for (k, &(offset, size)) in kernel.params.iter().enumerate() {
            let source = params.add(k).read().cast::<u8>();
            bytes[offset as usize..(offset + size) as usize].copy_from_slice(std::slice::from_raw_parts(source, size as usize));
        }
        let module = handle.module.clone();
        let ready = Ready { module, kernel: handle.kernel, grid, block, dynamic_shared: shared, params: bytes };
        gpu.submit(stream as usize, Work::Launch(Arc::new(ready)))
    }
    cuLaunchHostFunc(stream: Pointer, function: HostFunction, data: Pointer) {
        gpu().submit(stream as usize, Work::Call(function, data as usize))
    }
}

thread_local!(static CURRENT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

fn thread_limit(kernel: &crate::decode::Kernel) -> u32 {
    if kernel.max_threads == 0 { 1024 } else { kernel.max_threads }
}

fn geometry_error(grid: [u32; 3], block: [u32; 3], most_threads: u32) -> Code {
    let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
    if grid.contains(&0) || block.contains(&0) || grid[1] > 65535 || grid[2] > 65535 || grid[0] > i32::MAX as u32 {
        return INVALID_VALUE;
    }
    if block[0] > 1024 || block[1] > 1024 || block[2] > 64 || threads > 1024 {
        return INVALID_VALUE;
    }
    if threads > u64::from(most_threads) { LAUNCH_OUT_OF_RESOURCES } else { SUCCESS }
}

unsafe fn allocate(address: *mut u64, bytes: usize) -> Code {
    if bytes == 0 {
        return INVALID_VALUE;
    }
    let mut gpu = gpu();
    if let Some(error) = gpu.error {
        return error;
    }
    let mut found = gpu.memory.allocate(bytes as u64);
    if found.is_none() {
        gpu.synchronise_all(); // frees may be waiting
        found = gpu.memory.allocate(bytes as u64);
    }
    // SAFETY: the caller's.
    found.map_or(OUT_OF_MEMORY, |base| unsafe { put(address, base) })
}

/// A copy to the device: pinned memory is read when it runs, other memory now.
unsafe fn upload(gpu: &Gpu, to: u64, from: *const c_void, bytes: usize) -> Work {
    let at = from as usize;
    let from = if gpu.is_pinned(at, bytes) {
        Source::Pinned(at, bytes)
    } else if bytes == 0 {
        Source::Copied(Vec::new())
    } else {
        // SAFETY: the caller's.
        Source::Copied(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec())
    };
    Work::HostToDevice { to, from }
}
