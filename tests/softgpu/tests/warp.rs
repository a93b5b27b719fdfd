//! Instructions in which lanes work together, loops and memory spaces. Each kernel is PTX by hand; expectations follow the manual.

use crate::harness::{assert_clean, gpu, lines};

const HEAD: &str = ".version 8.8\n.target sm_80\n.address_size 64\n";

/// Runs `body` in one warp; %lane is the lane, and what it leaves in %r0 comes back by lane.
fn warp(body: &str) -> Vec<u32> {
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 out, .param .u64 in) {{\n.reg .b64 %d<8>; .reg .b32 %r<16>; .reg .b32 %lane;\n\
         .reg .b16 %h<4>; .reg .pred %p<4>; .shared .align 16 .b8 tile[2048]; .local .align 8 .b8 own[64];\n\
         ld.param.u64 %d0, [out]; ld.param.u64 %d1, [in]; cvta.to.global.u64 %d0, %d0; mov.u32 %lane, %laneid;\n\
         {body}\nmul.wide.u32 %d7, %lane, 4; add.s64 %d7, %d0, %d7; st.global.u32 [%d7], %r0;\nret;\n}}\n"
    );
    let gpu = gpu();
    let input: Vec<u32> = (0..1024).collect();
    let out = gpu.run(&gpu.function(&ptx, "k"), lines(1, 32), &input, 32);
    assert_clean();
    out
}

#[track_caller]
fn expect(body: &str, by_lane: impl Fn(u32) -> u32) {
    assert_eq!(warp(body), (0..32).map(by_lane).collect::<Vec<_>>(), "{body}");
}

#[test]
fn shuffles_move_values_between_lanes() {
    let ten = "mul.lo.u32 %r1, %lane, 10; ";
    let run = |code: &str, by_lane: fn(u32) -> u32| expect(&format!("{ten}{code}"), by_lane);
    // Clamps as __shfl_*_sync passes them: 0 for up, 31 for the others; the segment mask stands in bits 8 to 12.
    run("shfl.sync.up.b32 %r0, %r1, 3, 0, -1;", |lane| 10 * if lane < 3 { lane } else { lane - 3 });
    run("shfl.sync.down.b32 %r0, %r1, 3, 31, -1;", |lane| 10 * if lane > 28 { lane } else { lane + 3 });
    run("shfl.sync.bfly.b32 %r0, %r1, 5, 31, -1;", |lane| 10 * (lane ^ 5));
    run("shfl.sync.idx.b32 %r0, %r1, 7, 31, -1;", |_| 70);
    // Width 8: mask 0x18 above the clamp.
    run("shfl.sync.idx.b32 %r0, %r1, 1, 0x181f, -1;", |lane| 10 * ((lane & !7) + 1));
    run("shfl.sync.down.b32 %r0, %r1, 2, 0x181f, -1;", |lane| 10 * if lane % 8 < 6 { lane + 2 } else { lane });
    run("shfl.sync.up.b32 %r0, %r1, 2, 0x1800, -1;", |lane| 10 * if lane % 8 >= 2 { lane - 2 } else { lane });
    run("shfl.sync.up.b32 %r2|%p1, %r1, 3, 0, -1; selp.u32 %r0, 1, 0, %p1;", |lane| u32::from(lane >= 3));
}

#[test]
fn votes_matches_and_reductions_combine_lanes() {
    let odd = "and.b32 %r1, %lane, 1; setp.eq.u32 %p1, %r1, 1; ";
    expect(&format!("{odd} vote.sync.ballot.b32 %r0, %p1, -1;"), |_| 0xaaaa_aaaa);
    expect(&format!("{odd} vote.sync.any.pred %p2, %p1, -1; selp.u32 %r0, 1, 0, %p2;"), |_| 1);
    expect(&format!("{odd} vote.sync.all.pred %p2, %p1, -1; selp.u32 %r0, 1, 0, %p2;"), |_| 0);
    expect(&format!("{odd} vote.sync.uni.pred %p2, !%p1, -1; selp.u32 %r0, 1, 0, %p2;"), |_| 0);
    let third = "rem.u32 %r1, %lane, 3; ";
    let thirds = |lane: u32| (0..32).filter(|other| other % 3 == lane % 3).fold(0, |mask, other| mask | 1 << other);
    expect(&format!("{third} match.any.sync.b32 %r0, %r1, -1;"), thirds);
    expect(&format!("{third} match.all.sync.b32 %r2|%p1, %r1, -1; selp.u32 %r0, 9, %r2, %p1;"), |_| 0);
    expect("mov.u64 %d2, 77; match.all.sync.b64 %r0|%p1, %d2, -1;", |_| !0);
    expect("redux.sync.add.u32 %r0, %lane, -1;", |_| 496);
    expect("sub.s32 %r1, %lane, 5; redux.sync.min.s32 %r0, %r1, -1;", |_| -5i32 as u32);
    expect("redux.sync.xor.b32 %r0, %lane, -1;", |_| 0);
    expect(&format!("{odd} mov.u32 %r0, 0; @%p1 bra ODD; activemask.b32 %r0; ODD: bar.warp.sync -1;"), |lane| {
        if lane % 2 == 0 { 0x5555_5555 } else { 0 }
    });
    expect(
        "mov.u32 %r0, %lanemask_lt; mov.u32 %r1, %lanemask_ge; xor.b32 %r1, %r0, %r1; add.u32 %r0, %r0, %r1;",
        |lane| ((1u32 << lane) - 1).wrapping_sub(1),
    );
}

#[test]
fn lanes_that_diverge_join_again() {
    // Collatz steps: every lane leaves the loop at its own time.
    let body = "add.u32 %r1, %lane, 1; mov.u32 %r0, 0;
        AGAIN: setp.eq.u32 %p1, %r1, 1; @%p1 bra DONE;
        and.b32 %r2, %r1, 1; setp.eq.u32 %p2, %r2, 0; @%p2 bra EVEN;
        mad.lo.u32 %r1, %r1, 3, 1; bra.uni NEXT;
        EVEN: shr.u32 %r1, %r1, 1;
        NEXT: add.u32 %r0, %r0, 1; bra AGAIN;
        DONE: redux.sync.add.u32 %r3, %r0, -1;";
    let steps = |mut n: u32| {
        std::iter::from_fn(move || (n != 1).then(|| n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 }))
    };
    expect(body, |lane| steps(lane + 1).count() as u32);
    let table = "and.b32 %r1, %lane, 3; TARGETS: .branchtargets L0, L1, L2, L3; brx.idx %r1, TARGETS;
        L0: mov.u32 %r0, 100; bra.uni END; L1: mov.u32 %r0, 101; bra.uni END; L2: mov.u32 %r0, 102; bra.uni END;
        L3: mov.u32 %r0, 103; END:";
    expect(table, |lane| 100 + lane % 4);
}

#[test]
fn memory_spaces_widths_and_vectors() {
    expect("mul.wide.u32 %d2, %lane, 4; add.s64 %d2, %d1, %d2; ld.global.nc.u32 %r0, [%d2+8];", |lane| lane + 2);
    expect("mul.wide.u32 %d2, %lane, 8; add.s64 %d2, %d1, %d2; ld.global.v2.u32 {%r1, %r0}, [%d2];", |lane| {
        2 * lane + 1
    });
    expect("mul.wide.u32 %d2, %lane, 16; add.s64 %d2, %d1, %d2; ld.global.L1::no_allocate.L2::128B.v4.b32 {%r1, _, %r2, %r3}, [%d2];
        add.u32 %r0, %r1, %r3;", |lane| 8 * lane + 3);
    expect(
        "mul.wide.u32 %d2, %lane, 8; add.s64 %d2, %d1, %d2; ld.global.u64 %d3, [%d2]; shr.u64 %d3, %d3, 32;
        cvt.u32.u64 %r0, %d3;",
        |lane| 2 * lane + 1,
    );
    // Bytes of word 255 = ff 00 00 00, signed and not.
    expect("ld.global.s8 %r0, [%d1+1020];", |_| !0);
    expect("ld.global.u8 %h1, [%d1+1020]; cvt.u32.u16 %r0, %h1;", |_| 255);
    expect("ld.global.s16 %d2, [%d1+1020]; cvt.u32.u64 %r0, %d2;", |_| 255);
    let tile = "mov.u32 %r5, tile; shl.b32 %r6, %lane, 2; add.u32 %r6, %r5, %r6; ";
    expect(
        &format!("{tile} st.shared.u32 [%r6], %lane; bar.warp.sync -1; xor.b32 %r7, %r6, 4; ld.shared.u32 %r0, [%r7];"),
        |lane| lane ^ 1,
    );
    // The same through generic addresses.
    expect(
        &format!(
            "{tile} cvt.u64.u32 %d2, %r6; cvta.shared.u64 %d2, %d2; st.u32 [%d2], %lane; ld.shared.u32 %r0, [%r6];"
        ),
        |lane| lane,
    );
    expect("mov.u64 %d2, own; cvta.local.u64 %d3, %d2; st.local.u32 [own+4], %lane; ld.u32 %r0, [%d3+4];", |lane| lane);
    expect("ld.param.u64 %d2, [in]; ld.global.u32 %r0, [%d2+40];", |_| 10);
    expect("mov.u32 %r0, %tid.x; mov.u32 %r1, %ntid.x; mad.lo.u32 %r0, %r1, 100, %r0;", |lane| 3200 + lane);
}

#[test]
fn atomics_update_one_word_from_all_lanes() {
    let word = "mov.u32 %r5, tile; setp.eq.u32 %p1, %lane, 0; @%p1 st.shared.u32 [%r5], 5; bar.warp.sync -1; ";
    let then_read = "bar.warp.sync -1; ld.shared.u32 %r0, [%r5];";
    let run = |code: &str, wanted: u32| expect(&format!("{word}{code}{then_read}"), |_| wanted);
    run("atom.shared.add.u32 %r1, [%r5], %lane;", 5 + 496);
    run("red.shared.max.u32 [%r5], %lane;", 31);
    run("red.shared.min.s32 [%r5], -7;", -7i32 as u32);
    run("red.shared.or.b32 [%r5], 0x50;", 0x55);
    run("atom.shared.exch.b32 %r1, [%r5], 9;", 9);
    run("atom.shared.cas.b32 %r1, [%r5], 5, %lane;", 0);
    run("atom.shared.inc.u32 %r1, [%r5], 7;", 5); // 5 and then 32 steps modulo 8
    run("atom.shared.dec.u32 %r1, [%r5], 7;", 5);
    run("st.shared.f32 [%r5], 0f3F800000; bar.warp.sync -1; red.shared.add.f32 [%r5], 0f3F000000;", 17f32.to_bits());
    // Each lane gets the value before its own turn.
    expect(&format!("{word} atom.shared.add.u32 %r0, [%r5], 1;"), |lane| 5 + lane);
}

#[test]
fn asynchronous_copies_fill_with_zeros() {
    let body = "mov.u32 %r5, tile; mad.lo.u32 %r5, %lane, 16, %r5; mul.wide.u32 %d2, %lane, 16; add.s64 %d2, %d1, %d2;
        setp.lt.u32 %p1, %lane, 16; selp.u32 %r6, 16, 4, %p1;
        cp.async.cg.shared.global [%r5], [%d2], 16, %r6; cp.async.commit_group; cp.async.wait_group 0;
        ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%r5]; add.u32 %r0, %r1, %r4;";
    expect(body, |lane| if lane < 16 { 8 * lane + 3 } else { 4 * lane });
    // Two groups: waiting for all but one leaves the second on its way, `wait_all` also takes what was not committed.
    let body = "mov.u32 %r5, tile; mad.lo.u32 %r5, %lane, 4, %r5; mul.wide.u32 %d2, %lane, 4; add.s64 %d2, %d1, %d2;
        cp.async.ca.shared.global [%r5], [%d2], 4; cp.async.commit_group;
        cp.async.ca.shared.global [%r5+256], [%d2+256], 4; cp.async.commit_group;
        cp.async.ca.shared.global [%r5+512], [%d2+512], 4;
        cp.async.wait_group 1; ld.shared.u32 %r0, [%r5];
        cp.async.wait_all; ld.shared.u32 %r1, [%r5+256]; ld.shared.u32 %r2, [%r5+512];
        add.u32 %r0, %r0, %r1; add.u32 %r0, %r0, %r2;";
    expect(body, |lane| 3 * lane + 64 + 128);
}

// ---- matrices ----

/// Writes the word 2·i + (2·i + 1)·65536 at word i of the tile: the half at place h is h.
const COUNT_HALVES: &str = "mov.u32 %r5, tile; mov.u32 %r6, %lane;
    FILL: shl.b32 %r7, %r6, 1; add.u32 %r8, %r7, 1; shl.b32 %r8, %r8, 16; or.b32 %r8, %r8, %r7;
    shl.b32 %r7, %r6, 2; add.u32 %r7, %r5, %r7; st.shared.u32 [%r7], %r8;
    add.u32 %r6, %r6, 32; setp.lt.u32 %p1, %r6, 128; @%p1 bra FILL; bar.warp.sync -1;
    shl.b32 %r6, %lane, 4; add.u32 %r6, %r5, %r6; ";

#[test]
fn ldmatrix_gives_lane_4r_plus_c_row_r_and_columns_2c() {
    // Four 8×8 matrices of halves one after the other; lane i gives the address of row i. Matrix q has 64q + 8·row + column.
    for q in 0..4u32 {
        let load = |trans: &str| {
            format!(
                "{COUNT_HALVES} ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r1, %r2, %r3, %r4}}, [%r6]; mov.u32 %r0, %r{};",
                q + 1
            )
        };
        expect(&load(""), |lane| {
            let first = 64 * q + 8 * (lane / 4) + 2 * (lane % 4);
            first | (first + 1) << 16
        });
        expect(&load(".trans"), |lane| {
            let first = 64 * q + 8 * (2 * (lane % 4)) + lane / 4;
            first | (first + 8) << 16
        });
    }
    let moved = format!(
        "{COUNT_HALVES} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r1}}, [%r6]; movmatrix.sync.aligned.m8n8.trans.b16 %r0, %r1;"
    );
    expect(&moved, |lane| {
        let first = 8 * (2 * (lane % 4)) + lane / 4;
        first | (first + 8) << 16
    });
}

/// The registers of a fragment by lane, from the manual's row and column of element i (two to a register if `packed` is 2).
fn fragment(
    registers: usize,
    packed: usize,
    place: impl Fn(usize, usize) -> (usize, usize),
    at: impl Fn(usize, usize) -> u32,
) -> Vec<u32> {
    let one = |register: usize, lane: usize| {
        (0..packed).fold(0, |word, half| {
            let (row, column) = place(lane, register * packed + half);
            word | at(row, column) << (16 * half)
        })
    };
    (0..registers).flat_map(|register| (0..32).map(move |lane| (register, lane))).map(|(r, l)| one(r, l)).collect()
}

/// Small integers, different in every place, exact in every format.
fn a(row: usize, k: usize) -> f32 {
    ((row * 5 + k * 3) % 13) as f32 - 6.0
}

fn b(k: usize, column: usize) -> f32 {
    ((k * 7 + column * 2) % 11) as f32 - 5.0
}

fn c(row: usize, column: usize) -> f32 {
    (row * 8 + column) as f32
}

struct Mma {
    shape: &'static str,
    types: &'static str,
    k: usize,
    packed: usize,
    encode: fn(f32) -> u32,
}

#[test]
fn mma_fragments_lie_as_the_manual_says() {
    let bf16 = |x: f32| x.to_bits() >> 16;
    let f16 = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
    let tf32 = |x: f32| x.to_bits() | 0xfff; // the low bits do not count
    for case in [
        Mma { shape: "m16n8k16", types: "f32.bf16.bf16.f32", k: 16, packed: 2, encode: bf16 },
        Mma { shape: "m16n8k16", types: "f32.f16.f16.f32", k: 16, packed: 2, encode: f16 },
        Mma { shape: "m16n8k8", types: "f32.bf16.bf16.f32", k: 8, packed: 2, encode: bf16 },
        Mma { shape: "m16n8k8", types: "f32.tf32.tf32.f32", k: 8, packed: 1, encode: tf32 },
        Mma { shape: "m16n8k4", types: "f32.tf32.tf32.f32", k: 4, packed: 1, encode: tf32 },
        Mma { shape: "m16n8k16", types: "f16.f16.f16.f16", k: 16, packed: 2, encode: f16 },
    ] {
        check_mma(&case);
    }
}

fn check_mma(case: &Mma) {
    let half_sums = case.types.starts_with("f16");
    let encode = case.encode;
    // The manual's formulas: groupID = lane >> 2, threadID_in_group = lane % 4.
    let (group, thread) = (|lane: usize| lane >> 2, |lane: usize| lane % 4);
    let a_place = |lane: usize, i: usize| match case.packed {
        2 => {
            let row = if i < 2 || (4..6).contains(&i) { group(lane) } else { group(lane) + 8 };
            (row, thread(lane) * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
        }
        _ => (group(lane) + if i % 2 == 1 { 8 } else { 0 }, thread(lane) + if i >= 2 { 4 } else { 0 }),
    };
    let b_place = |lane: usize, i: usize| match case.packed {
        2 => (thread(lane) * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, group(lane)),
        _ => (thread(lane) + 4 * i, group(lane)),
    };
    let c_place =
        |lane: usize, i: usize| (if i < 2 { group(lane) } else { group(lane) + 8 }, thread(lane) * 2 + (i & 1));
    let (na, nb) = (case.k / (2 * case.packed), case.k / (4 * case.packed));
    let nc = if half_sums { 2 } else { 4 };
    let sum_code = |x: f32| if half_sums { u32::from(half::f16::from_f32(x).to_bits()) } else { x.to_bits() };
    let sum_packed = if half_sums { 2 } else { 1 };
    let mut input = fragment(na, case.packed, a_place, |row, k| encode(a(row, k)));
    input.extend(fragment(nb, case.packed, b_place, |k, column| encode(b(k, column))));
    input.extend(fragment(nc, sum_packed, c_place, |row, column| sum_code(c(row, column))));
    let dot = |row: usize, column: usize| c(row, column) + (0..case.k).map(|k| a(row, k) * b(k, column)).sum::<f32>();
    let wanted = fragment(nc, sum_packed, c_place, |row, column| sum_code(dot(row, column)));

    let names =
        |from: usize, count: usize| (from..from + count).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ");
    let loads: String = (0..na + nb + nc).map(|i| format!("ld.global.u32 %r{i}, [%in+{}];\n", 128 * i)).collect();
    let stores: String = (0..nc).map(|i| format!("st.global.u32 [%out+{}], %r{};\n", 128 * i, 20 + i)).collect();
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 p0, .param .u64 p1) {{\n.reg .b32 %r<24>; .reg .b64 %out; .reg .b64 %in; .reg .b32 %lane;\n\
         .reg .b64 %at;\nld.param.u64 %out, [p0]; ld.param.u64 %in, [p1]; mov.u32 %lane, %tid.x; mul.wide.u32 %at, %lane, 4;\n\
         add.s64 %out, %out, %at; add.s64 %in, %in, %at;\n{loads}\
         mma.sync.aligned.{}.row.col.{} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n{stores}ret;\n}}\n",
        case.shape,
        case.types,
        names(20, nc),
        names(0, na),
        names(na, nb),
        names(na + nb, nc),
    );
    let gpu = gpu();
    let found = gpu.run(&gpu.function(&ptx, "k"), lines(1, 32), &input, 32 * nc);
    assert_eq!(found, wanted, "{} {}", case.shape, case.types);
    assert_clean();
}
