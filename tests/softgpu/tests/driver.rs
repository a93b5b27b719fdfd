//! The driver: streams that wait, memory that ends, modules, events, graphs, counters.

use cudarc::driver::sys::{CUfunction_attribute_enum, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaSlice, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::harness::{assert_clean, findings, gpu, kernel_text, lines, report};

#[test]
fn the_device_describes_itself() {
    let gpu = gpu();
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(gpu.context.compute_capability().unwrap(), (8, 0));
    assert!(gpu.context.name().unwrap().contains("software GPU"));
    gpu.context.synchronize().unwrap(); // what the test before freed may still be in its stream
    let (free, total) = gpu.context.mem_get_info().unwrap();
    let block: CudaSlice<u8> = gpu.stream.alloc_zeros(1 << 20).unwrap();
    assert_eq!(gpu.context.mem_get_info().unwrap(), (free - (1 << 20), total));
    drop(block);
    gpu.stream.synchronize().unwrap();
    assert_eq!(gpu.context.mem_get_info().unwrap(), (free, total));
    // SAFETY: the memory is not used.
    let error = unsafe { gpu.stream.alloc::<u8>(total + 1) }.unwrap_err();
    assert_eq!(error.0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
}

#[test]
fn compiled_code_is_refused_so_that_loaders_fall_back_to_ptx() {
    let gpu = gpu();
    let cubin = Ptx::from_binary(b"\x7fELF\x02\x01\x01\x33".to_vec());
    assert_eq!(gpu.context.load_module(cubin).unwrap_err().0, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    let module = gpu.context.load_module(Ptx::from_src(kernel_text("bugs.ptx"))).unwrap();
    assert_eq!(module.load_function("no_such_kernel").unwrap_err().0, CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn copies_reach_pinned_memory_only_when_the_stream_is_synchronised() {
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    let data: CudaSlice<u32> = stream.clone_htod(&[1, 2, 3, 4]).unwrap();
    // SAFETY: the copy writes it before it is read as numbers that mean something.
    let mut pinned = unsafe { gpu.context.alloc_pinned::<u32>(4) }.unwrap();
    let target = pinned.as_mut_ptr().unwrap();
    stream.memcpy_dtoh(&data, &mut pinned).unwrap();
    // SAFETY: the driver writes only inside calls to it.
    assert_eq!(unsafe { target.cast::<[u32; 4]>().read_volatile() }, [!0; 4], "poison until then");
    stream.synchronize().unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { target.cast::<[u32; 4]>().read_volatile() }, [1, 2, 3, 4]);
    assert_clean();
}

#[test]
fn a_stream_sees_anothers_work_only_behind_its_event() {
    let gpu = gpu();
    // cudarc would wait by itself.
    // SAFETY: the test orders its streams by hand.
    unsafe { gpu.context.disable_event_tracking() };
    let kernel = gpu.planted("add_one");
    let (one, two) = (gpu.context.new_stream().unwrap(), gpu.context.new_stream().unwrap());
    for ordered in [true, false] {
        crate::harness::reset();
        // SAFETY: both are written before they are read, if the streams are in order.
        let (mut a, mut b) = unsafe { (one.alloc::<f32>(64).unwrap(), one.alloc::<f32>(64).unwrap()) };
        one.memcpy_htod(&[1.0f32; 64], &mut a).unwrap();
        let written = one.record_event(None).unwrap();
        if ordered {
            two.wait(&written).unwrap();
        }
        drop(written);
        // SAFETY: 64 threads on 64 elements.
        unsafe { two.launch_builder(&kernel).arg(&mut b).arg(&a).arg(&64i32).launch(lines(1, 64)) }.unwrap();
        two.synchronize().unwrap();
        let wanted: &[&str] = if ordered { &[] } else { &["uninitialised global memory"] };
        assert_eq!(findings(), wanted, "ordered: {ordered}");
        one.synchronize().unwrap();
    }
}

#[test]
fn freed_memory_is_gone() {
    let gpu = gpu();
    let kernel = gpu.planted("add_one");
    let mut out: CudaSlice<f32> = gpu.stream.alloc_zeros(64).unwrap();
    let input: CudaSlice<f32> = gpu.stream.alloc_zeros(64).unwrap();
    let (address, record) = cudarc::driver::DevicePtr::device_ptr(&input, &gpu.stream);
    drop(record);
    drop(input);
    // SAFETY: the use after free is the point.
    unsafe { gpu.stream.launch_builder(&kernel).arg(&mut out).arg(&address).arg(&64i32).launch(lines(1, 64)) }.unwrap();
    assert_eq!(gpu.stream.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(findings(), ["out of bounds"]);
    crate::harness::reset();
}

#[test]
fn memory_that_nobody_wrote_is_found_on_its_way_to_the_host() {
    let gpu = gpu();
    // SAFETY: the read of unwritten memory is the point.
    let data = unsafe { gpu.stream.alloc::<u32>(8) }.unwrap();
    gpu.stream.clone_dtoh(&data).unwrap();
    assert_eq!(findings(), ["host"]);
    let copy = gpu.stream.clone_dtod(&data).unwrap();
    gpu.stream.clone_dtoh(&copy).unwrap();
    assert_eq!(findings(), ["host", "host"], "a copy on the device copies what is known");
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs() {
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    // SAFETY: it is written before it is read.
    let mut pinned = unsafe { gpu.context.alloc_pinned::<u32>(4) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(&[1, 2, 3, 4]);
    let data = stream.clone_htod(&pinned).unwrap();
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [1, 2, 3, 4]);
    assert_clean();
}

#[test]
fn events_measure_and_graphs_replay() {
    let gpu = gpu();
    // SAFETY: one stream only.
    unsafe { gpu.context.disable_event_tracking() };
    let stream = gpu.context.new_stream().unwrap();
    let kernel = gpu.planted("add_one");
    let mut data: CudaSlice<f32> = stream.alloc_zeros(64).unwrap();
    let source: CudaSlice<f32> = stream.clone_htod(&[1.0f32; 64]).unwrap();
    let start = stream.record_event(Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    // SAFETY: 64 threads on 64 elements.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&source).arg(&64i32).launch(lines(1, 64)) }.unwrap();
    let flags = cudarc::driver::sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert!(stream.clone_dtoh(&data).unwrap().iter().all(|&x| x == 0.0), "a capture runs nothing");
    graph.launch().unwrap();
    let end = stream.record_event(Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    assert!(stream.clone_dtoh(&data).unwrap().iter().all(|&x| x == 2.0));
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    assert_clean();
}

#[test]
fn shared_memory_beyond_48_kib_has_to_be_asked_for() {
    let gpu = gpu();
    let kernel = gpu.planted("strided");
    let input: CudaSlice<f32> = gpu.stream.alloc_zeros(64).unwrap();
    let mut out: CudaSlice<f32> = gpu.stream.alloc_zeros(64).unwrap();
    let config = LaunchConfig { shared_mem_bytes: 64 << 10, ..lines(1, 32) };
    let mut launch = |config| {
        // SAFETY: 32 threads on 64 elements.
        unsafe { gpu.stream.launch_builder(&kernel).arg(&mut out).arg(&input).arg(&1i32).arg(&1i32).launch(config) }
    };
    assert_eq!(launch(config).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
    let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    kernel.set_attribute(attribute, 64 << 10).unwrap();
    launch(config).unwrap();
    assert_eq!(launch(lines(1, 2048)).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(kernel.occupancy_max_active_blocks_per_multiprocessor(128, 0, None).unwrap(), 16);
    gpu.stream.synchronize().unwrap();
    assert_clean();
}

#[test]
fn counters_tell_sectors_bank_conflicts_and_bytes() {
    let gpu = gpu();
    let kernel = gpu.planted("strided");
    let input: CudaSlice<f32> = gpu.stream.alloc_zeros(32 * 8).unwrap();
    let mut out: CudaSlice<f32> = gpu.stream.alloc_zeros(32).unwrap();
    // Stride in global memory, pitch in shared memory; sectors of the load, passes through the banks.
    for (stride, pitch, sectors, waves) in [(1, 1, 4, 1), (2, 1, 8, 1), (8, 33, 32, 1), (1, 2, 4, 2), (1, 32, 4, 32)] {
        let config = LaunchConfig { shared_mem_bytes: 32 * 33 * 4, ..lines(1, 32) };
        // SAFETY: 32 threads, at most 8 elements apart.
        unsafe { gpu.stream.launch_builder(&kernel).arg(&mut out).arg(&input).arg(&stride).arg(&pitch).launch(config) }
            .unwrap();
        gpu.stream.synchronize().unwrap();
        let counters = report()["kernels"]["strided"]["last"].clone();
        let number = |name: &str| counters[name].as_u64().unwrap_or_else(|| panic!("no counter {name}"));
        // The store touches 4 sectors more; shared memory is written once and read once.
        assert_eq!((number("sectors"), number("ideal_sectors")), (sectors + 4, 8), "stride {stride}");
        assert_eq!((number("shared_waves"), number("ideal_waves")), (2 * waves, 2), "pitch {pitch}");
        assert_eq!((number("unique_read"), number("unique_written"), number("barriers")), (128, 128, 1));
        assert_eq!(counters["opcodes"]["bar.sync"], 1);
    }
    assert_eq!(report()["kernels"]["strided"]["sum"]["launches"], 5);
    assert_clean();
}

#[test]
fn the_table_at_exit_is_aligned_and_has_the_most_work_first() {
    const NAME: &str = "driver::the_table_at_exit_is_aligned_and_has_the_most_work_first";
    if std::env::var_os("SOFTGPU_COUNTERS").is_some() {
        // The child: the name that comes first does the least.
        let gpu = gpu();
        for (name, blocks) in [("blocks_racing", 100), ("count_sound", 800), ("global_unwritten", 400)] {
            gpu.run(&gpu.planted(name), lines(blocks, 32), &[0; 256], 256);
        }
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", NAME]).env("SOFTGPU_COUNTERS", "1").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("[softgpu] kernel ")).collect();
    let [head, kernels @ .., all, findings] = &lines[..] else { panic!("no table: {text}") };
    assert!(kernels.len() == 3 && lines[..5].iter().all(|line| line.len() == head.len()), "{text}");
    assert!(all.starts_with("[softgpu] all ") && findings.ends_with(" findings"), "{text}");
    // The column ends where its title does.
    let end = head.find("M instructions").unwrap() + "M instructions".len();
    let work: Vec<f64> = kernels.iter().map(|line| line[..end].rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(work.is_sorted_by(|a, b| a > b), "{text}");
}
