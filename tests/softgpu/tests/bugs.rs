//! Kernels with a planted mistake each: the mistake is found, at its line, and nothing else is.

use cudarc::driver::{CudaSlice, DriverError, PushKernelArg, sys::CUresult};

use crate::harness::{Gpu, assert_clean, findings, gpu, lines, report};

/// Runs `kernel(out, in)`; both have `words` words, and `in` holds 0, 1, ….
fn run(gpu: &Gpu, name: &str, blocks: u32, threads: u32, words: usize) -> Result<Vec<u32>, DriverError> {
    let kernel = gpu.planted(name);
    let input: CudaSlice<u32> = gpu.stream.clone_htod(&(0..words as u32).collect::<Vec<_>>())?;
    let mut out: CudaSlice<u32> = gpu.stream.alloc_zeros(words)?;
    // SAFETY: what the kernel does wrong is the point.
    unsafe { gpu.stream.launch_builder(&kernel).arg(&mut out).arg(&input).launch(lines(blocks, threads)) }?;
    gpu.stream.clone_dtoh(&out)
}

/// The first finding is of this kind, in this kernel, and at this line of bugs.cu.
#[track_caller]
fn expect(kind: &str, kernel: &str, line: u32) {
    let report = report();
    let found = report["findings"].as_array().unwrap();
    assert!(!found.is_empty(), "{kernel}: nothing was found");
    assert!(found.iter().all(|finding| finding["kind"] == kind), "{kernel}: {:#}", report["findings"]);
    assert_eq!(found[0]["kernel"], kernel);
    assert_eq!(found[0]["place"], format!("bugs.cu:{line}"), "{kernel}: {}", found[0]["detail"]);
}

/// The line of bugs.cu that has this text.
fn line(text: &str) -> u32 {
    let source = crate::harness::kernel_text("bugs.cu");
    1 + source.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no line has {text}")) as u32
}

#[test]
fn sound_kernels_give_no_finding() {
    let gpu = gpu();
    assert_eq!(run(&gpu, "sum_sound", 1, 64, 1).unwrap()[0], 2016f32.to_bits());
    let neighbours: Vec<u32> = (0..32).map(|lane| (lane + 1) % 32).collect();
    assert_eq!(run(&gpu, "warp_sound", 1, 32, 32).unwrap(), neighbours);
    assert_eq!(run(&gpu, "count_sound", 1, 64, 64).unwrap()[..8], [8; 8]);
    assert_eq!(run(&gpu, "copy_sound", 1, 32, 128).unwrap(), (0..128).collect::<Vec<u32>>());
    assert_clean();
}

#[test]
fn accesses_past_the_end_and_misaligned_ones_end_the_launch() {
    for (kernel, words, kind, code, text) in [
        ("global_past_end", 32, "out of bounds", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "void global_past_end"),
        ("shared_past_end", 64, "out of bounds", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "tile[threadIdx.x + 32] = 1.0f"),
        ("global_misaligned", 64, "misaligned", CUresult::CUDA_ERROR_MISALIGNED_ADDRESS, "void global_misaligned"),
        ("trapped", 64, "trap", CUresult::CUDA_ERROR_LAUNCH_FAILED, "__trap()"),
    ] {
        let gpu = gpu();
        assert_eq!(run(&gpu, kernel, 1, 64, words).unwrap_err().0, code, "{kernel}");
        expect(kind, kernel, line(text));
        // The error stays, as on a GPU.
        assert_eq!(gpu.stream.synchronize().unwrap_err().0, code, "{kernel}");
        crate::harness::reset();
    }
}

#[test]
fn the_report_names_block_thread_and_address() {
    let gpu = gpu();
    run(&gpu, "global_past_end", 1, 64, 32).unwrap_err();
    let finding = report()["findings"][0].clone();
    assert_eq!(
        (&finding["block"], &finding["thread"]),
        (&serde_json::json!([0, 0, 0]), &serde_json::json!([32, 0, 0]))
    );
    let detail = finding["detail"].as_str().unwrap();
    assert!(detail.contains("4 bytes at 0x7") && detail.contains("0 bytes past the end of the 128-byte"), "{detail}");
    crate::harness::reset();
}

#[test]
fn reads_of_what_nobody_wrote_are_found() {
    let gpu = gpu();
    let kernel = gpu.planted("global_unwritten");
    let mut out: CudaSlice<u32> = gpu.stream.alloc_zeros(64).unwrap();
    // SAFETY: the memory is left unwritten on purpose.
    let input: CudaSlice<u32> = unsafe { gpu.stream.alloc(64) }.unwrap();
    // SAFETY: as above.
    unsafe { gpu.stream.launch_builder(&kernel).arg(&mut out).arg(&input).launch(lines(1, 64)) }.unwrap();
    gpu.stream.synchronize().unwrap();
    expect("uninitialised global memory", "global_unwritten", line("void global_unwritten"));
    drop(gpu);

    let gpu = crate::harness::gpu();
    run(&gpu, "shared_unwritten", 1, 64, 64).unwrap();
    expect("uninitialised shared memory", "shared_unwritten", line("void shared_unwritten") + 4);
    drop(gpu);

    let gpu = crate::harness::gpu();
    let kernel = gpu.planted("local_unwritten");
    // SAFETY: as above.
    unsafe { gpu.stream.launch_builder(&kernel).arg(&mut out).arg(&3i32).launch(lines(1, 64)) }.unwrap();
    gpu.stream.synchronize().unwrap();
    expect("uninitialised local memory", "local_unwritten", line("own[threadIdx.x % 16]"));
}

#[test]
fn registers_that_nobody_wrote_are_found_when_used_and_not_when_copied() {
    let kernel = |code: &str| {
        format!(
            ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in) {{\n.reg .b64 %d<2>;\n\
             .reg .b32 %r<4>; .reg .pred %p<2>;\nld.param.u64 %d0, [out];\n{code}\nret; }}\n"
        )
    };
    for (code, found) in [
        ("mov.u32 %r1, 5; st.global.u32 [%d0], %r1;", 0),
        ("mov.u32 %r1, %r0; mov.u32 %r1, 5; st.global.u32 [%d0], %r1;", 0),
        ("mov.pred %p0, 1; mov.u32 %r1, 5; selp.u32 %r2, %r1, %r0, %p0; st.global.u32 [%d0], %r2;", 0),
        ("st.global.u32 [%d0], %r0;", 1),
        ("mov.u32 %r1, %r0; st.global.u32 [%d0], %r1;", 1),
        ("add.u32 %r1, %r0, 1; st.global.u32 [%d0], %r1;", 1),
        ("@%p0 st.global.u32 [%d0], 1;", 1),
    ] {
        let gpu = gpu();
        gpu.run(&gpu.function(&kernel(code), "k"), lines(1, 1), &[0], 1);
        assert_eq!(findings(), vec!["uninitialised register"; found], "{code}");
    }
}

#[test]
fn races_in_shared_memory_are_found_between_warps_and_inside_one() {
    let gpu = gpu();
    run(&gpu, "sum_racing", 1, 64, 1).unwrap();
    let kinds = findings();
    assert!(kinds.iter().any(|kind| kind == "shared-memory race"), "{kinds:?}");
    let place = report()["findings"][0]["place"].clone();
    assert_eq!(place, format!("bugs.cu:{}", line("tile[threadIdx.x] = threadIdx.x;")));
    drop(gpu);
    for (kernel, threads, text) in [
        ("warp_racing", 32, "out[threadIdx.x] = tile[(threadIdx.x + 1)"),
        ("reuse_racing", 64, "out[threadIdx.x] = tile[63"),
    ] {
        let gpu = crate::harness::gpu();
        run(&gpu, kernel, 1, threads, 64).unwrap();
        expect("shared-memory race", kernel, line(text));
    }
}

/// Kernels by hand, of two warps: %p1 marks the second one; tile and %r5, its address, lie in shared memory.
fn two_warps(code: &str) -> Vec<String> {
    let ptx = format!(
        ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in) {{\n.reg .b32 %r<8>;\n\
         .reg .b64 %d<4>; .reg .pred %p<4>; .shared .align 16 .b8 tile[1024]; ld.param.u64 %d1, [in];\n\
         mov.u32 %r0, %tid.x; setp.ge.u32 %p1, %r0, 32; mov.u32 %r5, tile; mad.lo.u32 %r6, %r0, 4, %r5;\n\
         st.shared.u32 [%r6], %r0; bar.sync 0;\n{code}\nret;\n}}\n"
    );
    let gpu = gpu();
    gpu.run(&gpu.function(&ptx, "k"), lines(1, 64), &[0; 64], 64);
    findings()
}

#[test]
fn a_warps_own_barrier_orders_it_with_no_other_warp() {
    let race = ["shared-memory race"];
    // The first warp reads, and is at another time of its own than the second when that one writes.
    assert_eq!(
        two_warps("@!%p1 bar.warp.sync -1; @!%p1 ld.shared.u32 %r1, [%r6]; @%p1 st.shared.u32 [%r6+-128], 7;"),
        race
    );
    assert_eq!(
        two_warps("@!%p1 bar.warp.sync -1; @!%p1 st.shared.u32 [%r6], 8; @%p1 st.shared.u32 [%r6+-128], 7;"),
        race
    );
    assert_eq!(
        two_warps("@!%p1 bar.warp.sync -1; @!%p1 st.shared.u32 [%r6], 8; @%p1 ld.shared.u32 %r1, [%r6+-128];"),
        race
    );
    // Read by both warps, then written by one of the two.
    assert_eq!(two_warps("ld.shared.u32 %r1, [%r5]; setp.eq.u32 %p2, %r0, 63; @%p2 st.shared.u32 [%r5], 7;"), race);
    // Not races: the same value, atomics, or with a barrier of the block between.
    let none: [&str; 0] = [];
    assert_eq!(two_warps("st.shared.u32 [%r5+512], 7;"), none);
    assert_eq!(two_warps("red.shared.add.u32 [%r5], 7;"), none);
    assert_eq!(two_warps("@!%p1 ld.shared.u32 %r1, [%r6]; bar.sync 0; @%p1 st.shared.u32 [%r6+-128], 7;"), none);
    // A plain read races with an atomic, in either order.
    assert_eq!(two_warps("ld.shared.u32 %r1, [%r5]; red.shared.add.u32 [%r5], 7;"), [race[0]; 2]);
}

#[test]
fn waiting_for_all_groups_but_one_leaves_the_last_in_flight() {
    let copies = "mul.wide.u32 %d2, %r0, 4; add.s64 %d2, %d1, %d2;
        cp.async.ca.shared.global [%r6+256], [%d2], 4; cp.async.commit_group;
        cp.async.ca.shared.global [%r6+512], [%d2], 4; cp.async.commit_group; cp.async.wait_group 1;";
    assert_eq!(two_warps(&format!("{copies} ld.shared.u32 %r1, [%r6+256];")), [""; 0]);
    assert_eq!(two_warps(&format!("{copies} ld.shared.u32 %r1, [%r6+512];")), ["cp.async in flight"]);
    // The copy of a neighbour has arrived, but nothing orders the two.
    assert_eq!(
        two_warps(&format!("{copies} cp.async.wait_all; xor.b32 %r7, %r6, 4; ld.shared.u32 %r1, [%r7+256];")),
        ["shared-memory race"]
    );
}

#[test]
fn races_in_global_memory_are_found_between_blocks_and_threads() {
    for (kernel, blocks, text) in [
        ("blocks_racing", 2, "void blocks_racing"),
        ("threads_racing", 1, "    out[threadIdx.x] = threadIdx.x;"),
        ("count_racing", 1, "void count_racing"),
    ] {
        let gpu = gpu();
        run(&gpu, kernel, blocks, 64, 128).unwrap();
        expect("global-memory race", kernel, line(text));
    }
}

#[test]
fn barriers_that_not_all_reach_are_found() {
    let gpu = gpu();
    run(&gpu, "barrier_diverged", 1, 64, 64).unwrap();
    expect("divergent barrier", "barrier_diverged", line("void barrier_diverged") + 3);
    drop(gpu);
    let gpu = crate::harness::gpu();
    let error = run(&gpu, "barrier_missed", 1, 64, 64).unwrap_err();
    assert_eq!(error.0, CUresult::CUDA_ERROR_LAUNCH_TIMEOUT);
    expect("deadlock", "barrier_missed", line("bar.sync 1, 64"));
    crate::harness::reset();
}

#[test]
fn shuffles_with_absent_lanes_and_early_reads_of_copies_are_found() {
    let gpu = gpu();
    run(&gpu, "shuffle_absent", 1, 32, 32).unwrap();
    expect("absent lanes", "shuffle_absent", line("__shfl_xor_sync"));
    drop(gpu);
    let gpu = crate::harness::gpu();
    run(&gpu, "copy_early", 1, 32, 128).unwrap();
    expect("cp.async in flight", "copy_early", line("out[4 * threadIdx.x + i]"));
}
