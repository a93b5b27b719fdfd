//! Every arithmetic instruction against the PTX manual. A row is PTX that leaves its result in %r0 (32 bits), %d0 (64) or %h0
//! (16); %r1…, %d1…, %h1… hold the row's operands in their low bits. Expectations are worked out by hand from the manual.

use std::fmt::Write as _;

use crate::harness::{assert_clean, gpu, lines};

/// Code, operands, result.
type Row<'a> = (&'a str, &'a [u64], u64);

const HEAD: &str = ".version 8.8\n.target sm_80\n.address_size 64\n";

/// Runs all rows in one kernel of one thread.
fn hold(rows: &[Row]) {
    let mut body = String::new();
    for (i, (code, operands, _)) in rows.iter().enumerate() {
        for (k, operand) in operands.iter().enumerate() {
            let k = k + 1;
            let _ = writeln!(body, "mov.u64 %d{k}, {operand}; cvt.u32.u64 %r{k}, %d{k}; cvt.u16.u64 %h{k}, %d{k};");
        }
        let _ = writeln!(body, "{code};");
        let kind = code.split('%').nth(1).unwrap();
        // The first register named is the result, or a predicate on the way to %r0.
        match &kind[..1] {
            "h" => body.push_str("cvt.u64.u16 %d0, %h0;\n"),
            "d" => {}
            _ => body.push_str("cvt.u64.u32 %d0, %r0;\n"),
        }
        let _ = writeln!(body, "st.global.u64 [%out+{}], %d0;", 8 * i);
    }
    let ptx = format!(
        "{HEAD}.visible .entry rows(.param .u64 p0, .param .u64 p1) {{\n.reg .b64 %d<6>; .reg .b32 %r<6>; .reg .b16 %h<6>;\n\
         .reg .pred %p<4>; .reg .b64 %out;\nld.param.u64 %out, [p0];\n{body}ret;\n}}\n"
    );
    let gpu = gpu();
    let words = gpu.run(&gpu.function(&ptx, "rows"), lines(1, 1), &[0], 2 * rows.len());
    let mut wrong = Vec::new();
    for (i, (code, operands, wanted)) in rows.iter().enumerate() {
        let found = u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32;
        if found != *wanted {
            wrong.push(format!("{code} on {operands:x?}: {found:#x}, not {wanted:#x}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_clean();
}

const fn f(x: f32) -> u64 {
    x.to_bits() as u64
}

const fn d(x: f64) -> u64 {
    x.to_bits()
}

const MINUS: u64 = 0xffff_ffff_ffff_ffff;
const M5: u64 = 0xffff_ffff_ffff_fffb;
const NAN: u64 = 0x7fff_ffff;

#[test]
fn integers_add_multiply_and_divide() {
    hold(&[
        ("add.u32 %r0, %r1, %r2", &[0xffff_ffff, 2], 1),
        ("add.s16 %h0, %h1, %h2", &[0xffff, 2], 1),
        ("add.s64 %d0, %d1, -1", &[0], MINUS),
        ("add.sat.s32 %r0, %r1, %r2", &[0x7fff_ffff, 1], 0x7fff_ffff),
        ("sub.s32 %r0, %r1, %r2", &[3, 5], 0xffff_fffe),
        ("sub.u64 %d0, %d1, %d2", &[3, 5], MINUS - 1),
        ("mul.lo.u32 %r0, %r1, %r2", &[0x10001, 0x10001], 0x20001),
        ("mul.hi.u32 %r0, %r1, %r2", &[0xD251_1F53, 0xffff_ffff], 0xD251_1F52),
        ("mul.hi.s32 %r0, %r1, %r2", &[M5, 1 << 30], 0xffff_fffe),
        ("mul.hi.u64 %d0, %d1, %d2", &[MINUS, MINUS], MINUS - 1),
        ("mul.hi.s64 %d0, %d1, %d2", &[MINUS, 2], MINUS),
        ("mul.wide.s32 %d0, %r1, %r2", &[M5, 3], (-15i64) as u64),
        ("mul.wide.u32 %d0, %r1, %r2", &[0xffff_ffff, 2], 0x1_ffff_fffe),
        ("mul.wide.s16 %r0, %h1, %h2", &[0xffff, 3], 0xffff_fffd),
        ("mul.wide.u16 %r0, %h1, %h2", &[0xffff, 3], 0x2_fffd),
        ("mul.lo.s16 %h0, %h1, %h2", &[0x101, 0x101], 0x0201),
        ("mad.lo.s32 %r0, %r1, %r2, %r3", &[M5, 3, 16], 1),
        ("mad.hi.u32 %r0, %r1, %r2, %r3", &[1 << 31, 4, 5], 7),
        ("mad.wide.s32 %d0, %r1, %r2, %d3", &[M5, 3, 16], 1),
        ("mad.wide.u32 %d0, %r1, %r2, %d3", &[0xffff_ffff, 2, 2], 0x2_0000_0000),
        ("mad.lo.u64 %d0, %d1, %d2, %d3", &[1 << 33, 1 << 31, 9], 9),
        ("mul24.lo.s32 %r0, %r1, %r2", &[0xff_fffb, 3], 0xffff_fff1),
        ("mul24.lo.u32 %r0, %r1, %r2", &[0x12ff_fffb, 3], 0x2ff_fff1),
        ("mul24.hi.u32 %r0, %r1, %r2", &[0xff_ffff, 0xff_ffff], 0xffff_fe00),
        ("mad24.lo.u32 %r0, %r1, %r2, %r3", &[0x0100_0003, 5, 1], 16),
        ("sad.s32 %r0, %r1, %r2, %r3", &[M5, 3, 10], 18),
        ("div.s32 %r0, %r1, %r2", &[M5, 2], 0xffff_fffe),
        ("div.u32 %r0, %r1, %r2", &[0xffff_fffb, 2], 0x7fff_fffd),
        ("div.s64 %d0, %d1, %d2", &[M5, 2], MINUS - 1),
        ("rem.s32 %r0, %r1, %r2", &[M5, 3], 0xffff_fffe),
        ("rem.u32 %r0, %r1, %r2", &[17, 5], 2),
        ("rem.u64 %d0, %d1, %d2", &[(1 << 40) + 3, 1 << 40], 3),
        ("div.u16 %h0, %h1, %h2", &[0xfffb, 2], 0x7ffd),
        ("abs.s32 %r0, %r1", &[M5], 5),
        ("neg.s32 %r0, %r1", &[5], 0xffff_fffb),
        ("neg.s64 %d0, %d1", &[5], M5),
        ("min.s32 %r0, %r1, %r2", &[M5, 3], 0xffff_fffb),
        ("min.u32 %r0, %r1, %r2", &[M5, 3], 3),
        ("max.s64 %d0, %d1, %d2", &[M5, 3], 3),
        ("max.u16 %h0, %h1, %h2", &[0xfffb, 3], 0xfffb),
        ("dp4a.s32.s32 %r0, %r1, %r2, %r3", &[0xff02_0304, 0x0101_0102, 10], 10 - 1 + 2 + 3 + 8),
        ("dp4a.u32.u32 %r0, %r1, %r2, %r3", &[0xff02_0304, 0x0101_0102, 10], 10 + 255 + 2 + 3 + 8),
        ("bfind.u32 %r0, %r1", &[0x0100_0000], 24),
        ("bfind.s32 %r0, %r1", &[MINUS - 4], 2),
        ("bfind.u32 %r0, %r1", &[0], 0xffff_ffff),
        ("bfind.shiftamt.u32 %r0, %r1", &[0x0100_0000], 7),
    ]);
}

#[test]
fn bits_shift_select_and_permute() {
    hold(&[
        ("and.b32 %r0, %r1, %r2", &[0xff00_ff00, 0x0ff0_0ff0], 0x0f00_0f00),
        ("or.b64 %d0, %d1, %d2", &[1 << 40, 3], (1 << 40) + 3),
        ("xor.b16 %h0, %h1, %h2", &[0xffff, 0x00ff], 0xff00),
        ("not.b32 %r0, %r1", &[5], 0xffff_fffa),
        ("cnot.b32 %r0, %r1", &[0], 1),
        ("shl.b32 %r0, %r1, %r2", &[3, 31], 0x8000_0000),
        ("shl.b32 %r0, %r1, %r2", &[3, 32], 0),
        ("shl.b64 %d0, %d1, %r2", &[3, 63], 1 << 63),
        ("shl.b16 %h0, %h1, 4", &[0xfff], 0xfff0),
        ("shr.u32 %r0, %r1, %r2", &[0x8000_0000, 31], 1),
        ("shr.s32 %r0, %r1, %r2", &[0x8000_0000, 99], 0xffff_ffff),
        ("shr.s64 %d0, %d1, 4", &[M5], MINUS),
        ("shr.u64 %d0, %d1, 64", &[M5], 0),
        ("shr.s16 %h0, %h1, 4", &[0x8000], 0xf800),
        ("shf.l.wrap.b32 %r0, %r1, %r2, %r3", &[0x8765_4321, 0xdead_beef, 8], 0xadbe_ef87),
        ("shf.r.wrap.b32 %r0, %r1, %r2, %r3", &[0x8765_4321, 0xdead_beef, 8], 0xef87_6543),
        ("shf.l.clamp.b32 %r0, %r1, %r2, %r3", &[0x8765_4321, 0xdead_beef, 40], 0x8765_4321),
        ("shf.r.clamp.b32 %r0, %r1, %r2, %r3", &[0x8765_4321, 0xdead_beef, 40], 0xdead_beef),
        ("bfe.u32 %r0, %r1, 4, 8", &[0x1234_5678], 0x67),
        ("bfe.s32 %r0, %r1, 4, 8", &[0x0000_0f80], 0xffff_fff8),
        ("bfe.s32 %r0, %r1, 28, 8", &[0x9000_0000], 0xffff_fff9),
        ("bfe.u32 %r0, %r1, 4, 0", &[0x1234_5678], 0),
        ("bfe.u64 %d0, %d1, 32, 16", &[0x1234_5678_9abc_def0], 0x5678),
        ("bfi.b32 %r0, %r1, %r2, 8, 4", &[0xab, 0x1234_5678], 0x1234_5b78),
        ("bfi.b64 %d0, %d1, %d2, 32, 32", &[0xab, 0x1234], 0xab_0000_1234),
        ("bmsk.clamp.b32 %r0, 4, 8", &[], 0xff0),
        ("prmt.b32 %r0, %r1, %r2, 0x5410", &[0x3322_1100, 0x7766_5544], 0x5544_1100),
        ("prmt.b32 %r0, %r1, %r2, 0x7632", &[0x3322_1100, 0x7766_5544], 0x7766_3322),
        ("prmt.b32 %r0, %r1, 0, 0x9180", &[0x0000_8012], 0xff80_0012),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0xE8", &[0b1100, 0b1010, 0b1001], 0b1000),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0x96", &[0b1100, 0b1010, 0b1001], 0b1111),
        ("brev.b32 %r0, %r1", &[1], 0x8000_0000),
        ("brev.b64 %d0, %d1", &[2], 1 << 62),
        ("popc.b32 %r0, %r1", &[0xf0f0], 8),
        ("popc.b64 %r0, %d1", &[MINUS], 64),
        ("clz.b32 %r0, %r1", &[0x0100_0000], 7),
        ("clz.b64 %r0, %d1", &[1], 63),
        ("mov.b64 %d0, {%r1, %r2}", &[1, 2], 0x2_0000_0001),
        ("mov.b32 %r0, {%h1, %h2}", &[1, 2], 0x2_0001),
        ("mov.b64 {_, %r0}, %d1", &[0x2_0000_0001], 2),
        ("mov.b32 {%h0, %h2}, %r1; mov.b16 %h0, %h2", &[0x5_0001], 5),
        ("slct.u32.s32 %r0, %r1, %r2, %r3", &[1, 2, MINUS], 2),
        ("slct.f32.f32 %r0, %r1, %r2, %r3", &[f(1.0), f(2.0), f(0.0)], f(1.0)),
    ]);
}

#[test]
fn predicates_compare_combine_and_guard() {
    hold(&[
        ("setp.lt.s32 %p1, %r1, %r2; selp.b32 %r0, 1, 2, %p1", &[M5, 3], 1),
        ("setp.lt.u32 %p1, %r1, %r2; selp.b32 %r0, 1, 2, %p1", &[M5, 3], 2),
        ("setp.hi.u64 %p1, %d1, %d2; selp.b32 %r0, 1, 2, %p1", &[1 << 40, 3], 1),
        ("setp.ge.s16 %p1, %h1, %h2; selp.b32 %r0, 1, 2, %p1", &[0xffff, 3], 2),
        ("mov.pred %p3, 1; setp.eq.and.s32 %p1|%p2, %r1, %r2, %p3; selp.b32 %r0, 1, 2, %p2", &[4, 5], 1),
        ("setp.lt.f32 %p1, %r1, %r2; selp.b32 %r0, 1, 2, %p1", &[NAN, f(1.0)], 2),
        ("setp.ltu.f32 %p1, %r1, %r2; selp.b32 %r0, 1, 2, %p1", &[NAN, f(1.0)], 1),
        ("setp.ne.f32 %p1, %r1, %r1; selp.b32 %r0, 1, 2, %p1", &[NAN], 2),
        ("setp.neu.f32 %p1, %r1, %r1; selp.b32 %r0, 1, 2, %p1", &[NAN], 1),
        ("setp.nan.f32 %p1, %r1, %r2; selp.b32 %r0, 1, 2, %p1", &[f(1.0), NAN], 1),
        ("setp.num.f32 %p1, %r1, %r2; selp.b32 %r0, 1, 2, %p1", &[f(1.0), NAN], 2),
        ("setp.eq.ftz.f32 %p1, %r1, 0f00000000; selp.b32 %r0, 1, 2, %p1", &[1], 1),
        ("setp.gt.f64 %p1, %d1, 0d3FF0000000000000; selp.b32 %r0, 1, 2, %p1", &[d(1.5)], 1),
        ("setp.gt.f16 %p1, %h1, %h2; selp.b32 %r0, 1, 2, %p1", &[0x4000, 0x3c00], 1),
        ("setp.le.bf16 %p1, %h1, %h2; selp.b32 %r0, 1, 2, %p1", &[0x4000, 0x3f80], 2),
        ("setp.eq.s32 %p1, %r1, 4; not.pred %p2, %p1; selp.b32 %r0, 1, 2, %p2", &[4], 2),
        ("setp.eq.s32 %p1, %r1, 4; mov.pred %p2, 1; xor.pred %p3, %p1, %p2; selp.b32 %r0, 1, 2, %p3", &[4], 2),
        ("setp.eq.s32 %p1, %r1, 4; mov.u32 %r0, 1; @%p1 mov.u32 %r0, 7; @!%p1 mov.u32 %r0, 9", &[4], 7),
        ("setp.eq.s32 %p1, %r1, 4; selp.b64 %d0, %d1, %d2, !%p1; cvt.u32.u64 %r0, %d0", &[4, 6], 6),
        ("testp.infinite.f32 %p1, %r1; selp.b32 %r0, 1, 2, %p1", &[f(f32::INFINITY)], 1),
        ("testp.subnormal.f32 %p1, %r1; selp.b32 %r0, 1, 2, %p1", &[1], 1),
        ("set.gt.u32.f32 %r0, %r1, %r2", &[f(2.0), f(1.0)], 0xffff_ffff),
        ("set.gt.f32.f32 %r0, %r1, %r2", &[f(2.0), f(1.0)], f(1.0)),
        ("{ .reg .pred %p1; setp.ne.b32 %p1, %r1, 0; selp.b32 %r0, 5, 6, %p1; } mov.b32 %r0, %r0", &[1], 5),
    ]);
}

#[test]
fn f32_rounds_flushes_and_saturates() {
    // 1 + 2^-24 lies halfway between 1 and its neighbour 1 + 2^-23.
    const TINY: f32 = f32::EPSILON / 2.0;
    const NEXT: u64 = 0x3f80_0001;
    hold(&[
        ("add.f32 %r0, %r1, %r2", &[f(1.0), f(TINY)], f(1.0)),
        ("add.rn.f32 %r0, %r1, %r2", &[NEXT, f(TINY)], 0x3f80_0002),
        ("add.rp.f32 %r0, %r1, %r2", &[f(1.0), f(1e-30)], NEXT),
        ("add.rz.f32 %r0, %r1, %r2", &[f(-1.0), f(1e-30)], 0xbf7f_ffff),
        ("add.rm.f32 %r0, %r1, %r2", &[f(1.0), f(-1e-30)], 0x3f7f_ffff),
        ("sub.f32 %r0, %r1, %r2", &[f(1.5), f(2.0)], f(-0.5)),
        ("mul.f32 %r0, %r1, %r2", &[f(-0.0), f(3.0)], f(-0.0)),
        ("mul.rz.f32 %r0, %r1, %r2", &[NEXT, NEXT], 0x3f80_0002),
        ("mul.rp.f32 %r0, %r1, %r2", &[NEXT, NEXT], 0x3f80_0003),
        ("mul.ftz.f32 %r0, %r1, %r2", &[f(1e-30), f(1e-10)], 0),
        ("mul.f32 %r0, %r1, %r2", &[f(1e-30), f(1e-10)], f(1e-30 * 1e-10)),
        ("add.ftz.f32 %r0, %r1, %r2", &[0x8000_0001, 0x8000_0001], 0x8000_0000),
        ("add.sat.f32 %r0, %r1, %r2", &[f(0.75), f(0.5)], f(1.0)),
        ("add.sat.f32 %r0, %r1, %r2", &[f(-0.75), f(0.5)], f(0.0)),
        // (1 + 2^-23)² − (1 + 2^-22) = 2^-46: a product rounded first would give 0.
        ("fma.rn.f32 %r0, %r1, %r1, %r2", &[NEXT, 0xbf80_0002], f(1.0 / 70_368_744_177_664.0)),
        ("fma.rz.f32 %r0, %r1, %r2, %r3", &[f(1.0), f(1.0), f(-1e-30)], 0x3f7f_ffff),
        ("div.rn.f32 %r0, %r1, %r2", &[f(1.0), f(3.0)], f(1.0 / 3.0)),
        ("div.rm.f32 %r0, %r1, %r2", &[f(1.0), f(3.0)], 0x3eaa_aaaa),
        ("div.rp.f32 %r0, %r1, %r2", &[f(1.0), f(3.0)], 0x3eaa_aaab),
        ("div.full.f32 %r0, %r1, %r2", &[f(6.0), f(3.0)], f(2.0)),
        ("rcp.rn.f32 %r0, %r1", &[f(4.0)], f(0.25)),
        ("sqrt.rn.f32 %r0, %r1", &[f(2.0)], f(std::f32::consts::SQRT_2)),
        ("sqrt.rp.f32 %r0, %r1", &[f(2.0)], 0x3fb5_04f4),
        ("neg.f32 %r0, %r1", &[f(0.0)], f(-0.0)),
        ("abs.f32 %r0, %r1", &[f(-2.5)], f(2.5)),
        ("copysign.f32 %r0, %r1, %r2", &[f(-2.5), f(3.0)], f(-3.0)),
        ("min.f32 %r0, %r1, %r2", &[NAN, f(3.0)], f(3.0)),
        ("min.NaN.f32 %r0, %r1, %r2", &[NAN, f(3.0)], NAN),
        ("min.f32 %r0, %r1, %r2", &[f(0.0), f(-0.0)], f(-0.0)),
        ("max.f32 %r0, %r1, %r2", &[f(-0.0), f(0.0)], f(0.0)),
        ("max.xorsign.abs.f32 %r0, %r1, %r2", &[f(-3.0), f(2.0)], f(-3.0)),
        ("ex2.approx.f32 %r0, %r1", &[f(-3.0)], f(0.125)),
        ("ex2.approx.ftz.f32 %r0, %r1", &[f(-140.0)], 0),
        ("lg2.approx.f32 %r0, %r1", &[f(8.0)], f(3.0)),
        ("lg2.approx.f32 %r0, %r1", &[f(0.0)], f(f32::NEG_INFINITY)),
        ("rsqrt.approx.f32 %r0, %r1", &[f(16.0)], f(0.25)),
        ("rcp.approx.ftz.f32 %r0, %r1", &[f(f32::INFINITY)], 0),
        ("sin.approx.f32 %r0, %r1", &[f(0.0)], 0),
        ("cos.approx.f32 %r0, %r1", &[f(0.0)], f(1.0)),
        ("tanh.approx.f32 %r0, %r1", &[f(100.0)], f(1.0)),
        ("mov.f32 %r0, 0fBF800000", &[], f(-1.0)),
        ("mov.f32 %r0, 1.5", &[], f(1.5)),
        ("add.f64 %d0, %d1, %d2", &[d(1.0), d(1e-16)], d(1.0)),
        ("fma.rn.f64 %d0, %d1, %d2, %d3", &[d(1.5), d(2.0), d(-1.0)], d(2.0)),
        ("div.rn.f64 %d0, %d1, %d2", &[d(1.0), d(3.0)], d(1.0 / 3.0)),
        ("sqrt.rn.f64 %d0, %d1", &[d(2.0)], d(std::f64::consts::SQRT_2)),
        ("rcp.rn.f64 %d0, 0d4000000000000000", &[], d(0.5)),
        ("max.f64 %d0, %d1, %d2", &[d(1.0), d(3.0)], d(3.0)),
        ("neg.f64 %d0, %d1", &[d(1.0)], d(-1.0)),
    ]);
}

#[test]
fn halves_round_once() {
    // f16: 0x3c00 = 1, 0x3c01 = 1 + 2^-10, 0x4000 = 2, 0x1000 = 2^-11; bf16: 0x3f80 = 1, 0x4000 = 2, 0x3b80 = 2^-8.
    hold(&[
        ("add.f16 %h0, %h1, %h2", &[0x3c00, 0x1000], 0x3c00),
        ("add.f16 %h0, %h1, %h2", &[0x3c01, 0x1000], 0x3c02),
        ("add.rn.bf16 %h0, %h1, %h2", &[0x3f80, 0x3b80], 0x3f80),
        ("mul.f16 %h0, %h1, %h2", &[0x7bff, 0x4000], 0x7c00),
        ("mul.sat.f16 %h0, %h1, %h2", &[0x4000, 0x4000], 0x3c00),
        // (1 + 2^-10)² − 1 − 2^-9 = 2^-20, a subnormal: 16 · 2^-24.
        ("fma.rn.f16 %h0, %h1, %h1, %h2", &[0x3c01, 0xbc02], 0x0010),
        ("fma.rn.ftz.f16 %h0, %h1, %h1, %h2", &[0x3c01, 0xbc02], 0),
        ("fma.rn.relu.f16 %h0, %h1, %h2, %h3", &[0x3c00, 0xbc00, 0], 0),
        ("fma.rn.bf16 %h0, %h1, %h2, %h3", &[0x4000, 0x4000, 0x3f80], 0x40a0),
        ("add.f16x2 %r0, %r1, %r2", &[0x3c00_4000, 0x3c00_3c00], 0x4000_4200),
        ("sub.f16x2 %r0, %r1, %r2", &[0x3c00_4000, 0x3c00_3c00], 0x0000_3c00),
        ("mul.bf16x2 %r0, %r1, %r2", &[0x4000_3f80, 0x4000_c000], 0x4080_c000),
        ("fma.rn.bf16x2 %r0, %r1, %r2, %r3", &[0x4000_3f80, 0x4000_c000, 0x3f80_3f80], 0x40a0_bf80),
        ("max.f16x2 %r0, %r1, %r2", &[0x3c00_bc00, 0x4000_0000], 0x4000_0000),
        ("min.bf16x2 %r0, %r1, %r2", &[0x3f80_bf80, 0x7fff_0000], 0x3f80_bf80),
        ("min.NaN.bf16x2 %r0, %r1, %r2", &[0x3f80_bf80, 0x7fff_0000], 0x7fff_bf80),
        ("neg.bf16x2 %r0, %r1", &[0x3f80_bf80], 0xbf80_3f80),
        ("abs.f16 %h0, %h1", &[0xbc00], 0x3c00),
        ("ex2.approx.f16 %h0, %h1", &[0x4000], 0x4400),
        ("tanh.approx.bf16x2 %r0, %r1", &[0x4280_0000], 0x3f80_0000),
    ]);
}

#[test]
fn conversions_round_clamp_and_extend() {
    hold(&[
        ("cvt.s64.s32 %d0, %r1", &[0xffff_fffb], M5),
        ("cvt.u64.u32 %d0, %r1", &[0xffff_fffb], 0xffff_fffb),
        ("cvt.u32.u64 %r0, %d1", &[0x1_0000_0002], 2),
        ("cvt.s32.s8 %r0, %r1", &[0x80], 0xffff_ff80),
        ("cvt.u32.u8 %r0, %r1", &[0x1ff], 0xff),
        ("cvt.s16.s8 %h0, %h1", &[0x80], 0xff80),
        ("cvt.s32.s16 %r0, %h1", &[0x8000], 0xffff_8000),
        ("cvt.u16.u32 %h0, %r1", &[0x1_2345], 0x2345),
        ("cvt.sat.u8.s32 %r0, %r1", &[M5], 0),
        ("cvt.sat.s8.s32 %r0, %r1", &[300], 127),
        ("cvt.rn.f32.s32 %r0, %r1", &[16_777_217], f(16_777_216.0)),
        ("cvt.rp.f32.s32 %r0, %r1", &[16_777_217], f(16_777_218.0)),
        ("cvt.rz.f32.u64 %r0, %d1", &[(1 << 60) + (1 << 36) - 1], f((1u64 << 60) as f32)),
        ("cvt.rn.f32.u64 %r0, %d1", &[(1 << 60) + (1 << 36) + 1], f(1_152_921_642_045_800_400.0)),
        ("cvt.rn.f64.s64 %d0, %d1", &[M5], d(-5.0)),
        ("cvt.rzi.s32.f32 %r0, %r1", &[f(-2.9)], 0xffff_fffe),
        ("cvt.rni.s32.f32 %r0, %r1", &[f(2.5)], 2),
        ("cvt.rmi.s32.f32 %r0, %r1", &[f(-2.1)], 0xffff_fffd),
        ("cvt.rpi.s64.f32 %d0, %r1", &[f(2.1)], 3),
        ("cvt.rzi.u32.f32 %r0, %r1", &[f(-1.0)], 0),
        ("cvt.rzi.s32.f32 %r0, %r1", &[f(1e20)], 0x7fff_ffff),
        ("cvt.rzi.s32.f32 %r0, %r1", &[NAN], 0),
        ("cvt.rzi.u8.f32 %r0, %r1", &[f(300.0)], 255),
        ("cvt.rni.f32.f32 %r0, %r1", &[f(3.5)], f(4.0)),
        ("cvt.rmi.f32.f32 %r0, %r1", &[f(-0.5)], f(-1.0)),
        ("cvt.sat.f32.f32 %r0, %r1", &[f(1.5)], f(1.0)),
        ("cvt.ftz.f32.f32 %r0, %r1", &[1], 0),
        ("cvt.f64.f32 %d0, %r1", &[f(1.5)], d(1.5)),
        ("cvt.rn.f32.f64 %r0, %d1", &[d(1.0 + 1e-9)], f(1.0)),
        ("cvt.rp.f32.f64 %r0, %d1", &[d(1.0 + 1e-9)], 0x3f80_0001),
        ("cvt.rn.f16.f32 %h0, %r1", &[f(65520.0)], 0x7c00),
        ("cvt.rz.f16.f32 %h0, %r1", &[f(65520.0)], 0x7bff),
        ("cvt.rn.f16.f32 %h0, %r1", &[f(2.980_232_2e-8)], 0x0000),
        ("cvt.rn.f16.f32 %h0, %r1", &[f(5.960_464_5e-8)], 0x0001),
        ("cvt.f32.f16 %r0, %h1", &[0x0001], f(5.960_464_5e-8)),
        ("cvt.f32.bf16 %r0, %h1", &[0xc040], f(-3.0)),
        ("cvt.rn.bf16.f32 %h0, %r1", &[0x3f80_8000], 0x3f80),
        ("cvt.rn.bf16.f32 %h0, %r1", &[0x3f81_8000], 0x3f82),
        ("cvt.rz.bf16.f32 %h0, %r1", &[0x3f81_ffff], 0x3f81),
        ("cvt.rn.relu.bf16.f32 %h0, %r1", &[f(-1.0)], 0),
        ("cvt.rn.bf16x2.f32 %r0, %r1, %r2", &[f(2.0), f(1.0)], 0x4000_3f80),
        ("cvt.rn.f16x2.f32 %r0, %r1, %r2", &[f(2.0), f(1.0)], 0x4000_3c00),
        ("cvt.rn.relu.f16x2.f32 %r0, %r1, %r2", &[f(-2.0), f(1.0)], 0x0000_3c00),
        ("cvt.rna.tf32.f32 %r0, %r1", &[0x3f80_1000], 0x3f80_2000),
        ("cvt.rn.f16.s32 %h0, %r1", &[3], 0x4200),
        ("cvt.rzi.s32.f16 %r0, %h1", &[0xc200], 0xffff_fffd),
    ]);
}

#[test]
fn an_unknown_opcode_is_refused_by_name_and_line() {
    let gpu = gpu();
    for (code, wanted) in [
        ("frobnicate.u32 %r0, %r0;", "ptx line 6: opcode `frobnicate.u32`"),
        ("add.odd.u32 %r0, %r0, %r0;", "ptx line 6: opcode `add.odd.u32`: not supported (`.odd`)"),
        ("mma.sync.nonsense;", "opcode `mma.sync.nonsense`"),
        ("wgmma.fence.sync.aligned;", "opcode `wgmma.fence.sync.aligned`"),
        ("add.u32 %r0, %r0;", "1 sources, 2 are wanted"),
        ("add.u64 %r0, %r0, %r0;", "register `%r0` has 32 bits, 64 are wanted"),
        ("add.u32 %r0, %r0, %r7;", "`%r7` is not declared"),
        ("bra nowhere;", "label `nowhere` is not here"),
        ("ld.global.odd.u32 %r0, [%r0];", "`.odd` is not supported"),
        ("add.u32 %r0, %r0, ;", "expected an operand"),
    ] {
        let ptx = format!("{HEAD}.visible .entry k()\n{{ .reg .b32 %r<2>;\n{code}\nret; }}\n");
        assert!(gpu.context.load_module(cudarc::nvrtc::Ptx::from_src(&ptx)).is_err(), "{code} loads");
        let message = crate::harness::message();
        assert!(message.contains(wanted), "{code}: {message}");
    }
    assert!(gpu.context.load_module(cudarc::nvrtc::Ptx::from_src("not PTX")).is_err());
}
