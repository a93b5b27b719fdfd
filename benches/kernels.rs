//! Every kernel of a training or sampling step: time, rate and share of the machine's peak, beside plain loops.
//!
//! `cargo bench --bench kernels [-- --quick]`. Rates count the work that has to be done: for products the multiply-adds,
//! for the others each byte that must be read or written once. A share above 100 % of the memory's
//! bandwidth means that the arrays stayed in the cache.

#[allow(dead_code, reason = "every bench uses a part of it")]
mod common;
#[path = "common/naive.rs"]
mod naive;

use common::{Bench, Row, Work};
use naive::{AttentionShape, ConvShape, NormShape};
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;
use tweedie::ops::{
    self, AdamW, AdamWEntry, Conv, ConvExtras, Film, GroupNorm, Noise, PosteriorTerm, ReverseStep, ScoreTerm,
    StepInputs,
};
use tweedie::rng::{Address, Purpose};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::{Dtype, Shape, Tensor};
use tweedie::{Error, Result};

const NOTES: &str = "naive: plain f32 loops on one thread (benches/common/naive.rs), timed on one image or on a part of \
the rows and scaled up.\nGFLOP/s count a multiply-add as two; GB/s count each array once and stand beside \
the better of copy and update. Products of bf16 stand beside f32's peak too; theirs is twice that.";

/// What [`measure_op`] compares and times.
struct Op<'a, F> {
    name: String,
    /// Cost forward and backward.
    work: [Work; 2],
    forward: F,
    /// The tensor whose gradient is compared.
    input: &'a Tensor,
    /// How many times the work of the naive calls goes into that of the op's.
    factor: f64,
    naive_forward: &'a dyn Fn() -> Vec<f32>,
    /// Given the gradient of the output; returns the gradient of `input` first.
    naive_backward: &'a dyn Fn(&[f32]) -> [Vec<f32>; 3],
}

const USAGE: &str = "cargo bench --bench kernels [-- NAME] [--quick | --list]   the kernels whose name contains NAME";

fn main() -> ExitCode {
    common::main(USAGE, run)
}

fn run() -> Result<()> {
    let mut bench = Bench::new("kernels");
    conv(&mut bench, ConvShape { n: 16, size: 32, c_in: 128, c_out: 128, k: 3, stride: 1 })?;
    conv(&mut bench, ConvShape { n: 16, size: 16, c_in: 256, c_out: 256, k: 3, stride: 1 })?;
    conv(&mut bench, ConvShape { n: 16, size: 32, c_in: 128, c_out: 128, k: 3, stride: 2 })?;
    conv(&mut bench, ConvShape { n: 64, size: 8, c_in: 32, c_out: 32, k: 3, stride: 1 })?;
    linear(&mut bench, [4096, 512, 2048])?;
    attention(&mut bench, AttentionShape { n: 16, t: 256, heads: 1, d: 256 })?;
    attention(&mut bench, AttentionShape { n: 16, t: 256, heads: 4, d: 64 })?;
    group_norm(&mut bench, [16, 32, 32, 128], 32)?;
    for n in [16, 512] {
        reverse_step(&mut bench, [n, 32, 32, 3], false)?;
        reverse_step(&mut bench, [n, 32, 32, 3], true)?;
    }
    bf16(&mut bench)?;
    sequences(&mut bench)?;
    adamw(&mut bench, 10_000_000)?;
    bench.finish(NOTES)
}

/// Standard normals times `scale`, followed by the tape.
fn normal(shape: impl Into<Shape>, seed: u64, scale: f32) -> Result<Tensor> {
    let shape = shape.into();
    let mut values = vec![0.0; shape.count()];
    Address::new(seed, Purpose::Test).fill_normal(&mut values);
    values.iter_mut().for_each(|v| *v *= scale);
    Ok(Tensor::from_slice(&values, shape)?.with_grad(true))
}

/// Refuses to compare the times of two things that do not compute the same: `want` holds the first of `got`'s values.
fn check(name: &str, got: &[f32], want: &[f32]) -> Result<()> {
    let most = want.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    // Sums of some thousand terms in f32 and in another order.
    let is_close = |(got, want): (&f32, &f32)| (got - want).abs() <= 1e-3 * most;
    match got.iter().zip(want).position(|pair| !is_close(pair)) {
        None => Ok(()),
        Some(i) => Err(Error::NonFinite(format!("{name}: element {i} is {}, naively {}", got[i], want[i]))),
    }
}

/// Measures an op forward and backward.
fn measure_op<F: Fn() -> Result<Tensor>>(bench: &mut Bench, op: &Op<'_, F>) -> Result<()> {
    let name = format!("{} forward", op.name);
    let forward = bench.measure(&name, op.work[0], || {
        let begin = Instant::now();
        let y = black_box((op.forward)()?);
        let time = begin.elapsed();
        drop(y);
        Ok(time)
    });
    if let Some(seconds) = forward {
        check(&name, (op.forward)()?.host()?, &(op.naive_forward)())?;
        let naive = bench.time_naive(op.factor, || drop(black_box((op.naive_forward)())));
        bench.push(Row { name, seconds, work: op.work[0], naive: Some(naive), extra: vec![] });
    }
    let mut grads = Grads::new();
    let mut kept: Option<Tensor> = None;
    let name = format!("{} backward", op.name);
    let backward = bench.measure(&name, op.work[1], || {
        grads.clear();
        let (y, tape) = Tape::record(&op.forward)?;
        let dy = match &kept {
            Some(dy) => dy.clone(),
            None => kept.insert(normal(y.shape(), 99, 1.0)?.with_grad(false)).clone(),
        };
        let begin = Instant::now();
        tape.backward(&y, dy, &mut grads)?;
        Ok(begin.elapsed())
    });
    if let (Some(seconds), Some(dy)) = (backward, &kept) {
        let dy = dy.host::<f32>()?;
        let naive = || (op.naive_backward)(dy);
        let dx = grads.get(op.input).map(Tensor::host::<f32>).transpose()?.unwrap_or_default();
        check(&name, dx, &naive()[0])?;
        let naive = bench.time_naive(op.factor, || drop(black_box(naive())));
        bench.push(Row { name, seconds, work: op.work[1], naive: Some(naive), extra: vec![] });
    }
    Ok(())
}

fn conv(bench: &mut Bench, s: ConvShape) -> Result<()> {
    let (image, image_out) = (s.size * s.size * s.c_in, s.size_out().pow(2) * s.c_out);
    let x = normal([s.n, s.size, s.size, s.c_in], 1, 1.0)?;
    let weight = normal([s.c_out, s.k, s.k, s.c_in], 2, 1.0 / ((s.c_in * s.k * s.k) as f32).sqrt())?;
    let bias = normal([s.c_out], 3, 1.0)?;
    let conv = Conv { stride: s.stride, ..Conv::same(s.k) };
    let one = ConvShape { n: 1, ..s };
    let (first, w, b) = (&x.host::<f32>()?[..image], weight.host::<f32>()?, bias.host::<f32>()?);
    let stride = if s.stride == 1 { String::new() } else { format!(" stride {}", s.stride) };
    measure_op(
        bench,
        &Op {
            name: format!("conv2d 3x3{stride} {}->{} {n}x{size}x{size}", s.c_in, s.c_out, n = s.n, size = s.size),
            work: [Work::Flops(s.flops()), Work::Flops(2.0 * s.flops())],
            forward: || ops::conv2d(&x, &weight, Some(&bias), conv, ConvExtras::default()),
            input: &x,
            factor: s.n as f64,
            naive_forward: &|| naive::conv2d(first, w, b, one),
            naive_backward: &|dy| naive::conv2d_backward(first, w, &dy[..image_out], one),
        },
    )
}

fn linear(bench: &mut Bench, [rows, c_in, c_out]: [usize; 3]) -> Result<()> {
    const NAIVE_ROWS: usize = 256;
    let x = normal([rows, c_in], 1, 1.0)?;
    let weight = normal([c_out, c_in], 2, 1.0 / (c_in as f32).sqrt())?;
    let bias = normal([c_out], 3, 1.0)?;
    let flops = 2.0 * (rows * c_in * c_out) as f64;
    let (first, w, b) = (&x.host::<f32>()?[..NAIVE_ROWS * c_in], weight.host::<f32>()?, bias.host::<f32>()?);
    measure_op(
        bench,
        &Op {
            name: format!("linear {rows}x{c_in}->{c_out}"),
            work: [Work::Flops(flops), Work::Flops(2.0 * flops)],
            forward: || ops::linear(&x, &weight, Some(&bias), None),
            input: &x,
            factor: rows as f64 / NAIVE_ROWS as f64,
            naive_forward: &|| naive::linear(first, w, b, c_in),
            naive_backward: &|dy| naive::linear_backward(first, w, &dy[..NAIVE_ROWS * c_out], c_in),
        },
    )
}

fn attention(bench: &mut Bench, s: AttentionShape) -> Result<()> {
    let image = s.t * s.heads * s.d;
    let [q, k, v] = [1, 2, 3].map(|seed| normal([s.n, s.t, s.heads * s.d], seed, 1.0));
    let (q, k, v) = (q?, k?, v?);
    let one = AttentionShape { n: 1, ..s };
    let [q1, k1, v1] = [&q, &k, &v].map(|x| x.host::<f32>().map(|x| &x[..image]));
    let (q1, k1, v1) = (q1?, k1?, v1?);
    measure_op(
        bench,
        &Op {
            name: format!("attention {}x{} tokens {} heads of {}", s.n, s.t, s.heads, s.d),
            // Backward recomputes the scores: five products of the size of forward's two.
            work: [Work::Flops(s.flops()), Work::Flops(2.5 * s.flops())],
            forward: || ops::attention(&q, &k, &v, s.heads),
            input: &q,
            factor: s.n as f64,
            naive_forward: &|| naive::attention(q1, k1, v1, one),
            naive_backward: &|dy| naive::attention_backward(q1, k1, v1, &dy[..image], one),
        },
    )
}

fn group_norm(bench: &mut Bench, [n, h, w, c]: [usize; 4], groups: usize) -> Result<()> {
    let (x, weight, bias) = (normal([n, h, w, c], 1, 1.0)?, normal([c], 2, 1.0)?, normal([c], 3, 1.0)?);
    let s = NormShape { pixels: h * w, c, groups, norm_eps: 1e-5 };
    let norm = GroupNorm { groups, norm_eps: 1e-5, silu: true };
    let (first, wh, bh) = (&x.host::<f32>()?[..h * w * c], weight.host::<f32>()?, bias.host::<f32>()?);
    let bytes = 4.0 * x.count() as f64;
    measure_op(
        bench,
        &Op {
            name: format!("group_norm+silu {n}x{h}x{w}x{c} {groups} groups"),
            // x read, y written; x and dy read, dx written.
            work: [Work::Bytes(2.0 * bytes), Work::Bytes(3.0 * bytes)],
            forward: || ops::group_norm(&x, &weight, &bias, None, norm),
            input: &x,
            factor: n as f64,
            naive_forward: &|| naive::group_norm_silu(first, wh, bh, s),
            naive_backward: &|dy| naive::group_norm_silu_backward(first, wh, bh, &dy[..h * w * c], s),
        },
    )
}

/// The products and the norm of a network in bf16. What they compute is tested; there is no naive side.
fn bf16(bench: &mut Bench) -> Result<()> {
    let cast = |x: Tensor| Ok::<_, Error>(ops::cast(&x, Dtype::Bf16)?.with_grad(true));
    for (n, size, c, stride) in [(16, 32, 128, 1), (16, 16, 256, 1), (16, 32, 128, 2)] {
        let x = cast(normal([n, size, size, c], 1, 1.0)?)?;
        let (weight, bias) = (normal([c, 3, 3, c], 2, 0.03)?, normal([c], 3, 1.0)?);
        let conv = Conv { stride, ..Conv::same(3) };
        let flops = ConvShape { n, size, c_in: c, c_out: c, k: 3, stride }.flops();
        let of_stride = if stride == 1 { String::new() } else { format!(" stride {stride}") };
        let name = format!("bf16 conv2d 3x3{of_stride} {c}->{c} {n}x{size}x{size}");
        passes(bench, &name, [Work::Flops(flops), Work::Flops(2.0 * flops)], &|| {
            ops::conv2d(&x, &weight, Some(&bias), conv, ConvExtras::default())
        })?;
    }
    let x = cast(normal([4096, 512], 1, 1.0)?)?;
    let (weight, bias) = (normal([2048, 512], 2, 0.04)?, normal([2048], 3, 1.0)?);
    let flops = 2.0 * 4096.0 * 512.0 * 2048.0;
    let forward = || ops::linear(&x, &weight, Some(&bias), None);
    passes(bench, "bf16 linear 4096x512->2048", [Work::Flops(flops), Work::Flops(2.0 * flops)], &forward)?;
    let x = cast(normal([16, 32, 32, 128], 1, 1.0)?)?;
    let (weight, bias) = (normal([128], 2, 1.0)?, normal([128], 3, 1.0)?);
    let norm = GroupNorm { groups: 32, norm_eps: 1e-5, silu: true };
    let bytes = 2.0 * x.count() as f64;
    let forward = || ops::group_norm(&x, &weight, &bias, None, norm);
    passes(bench, "bf16 group_norm+silu 16x32x32x128 32 groups", [2.0, 3.0].map(|n| Work::Bytes(n * bytes)), &forward)
}

/// What a transformer does to 16 sequences of 256 tokens of 384 channels. What it computes is tested; there is no naive side.
fn sequences(bench: &mut Bench) -> Result<()> {
    let shape = [16, 256, 384];
    let (x, branch) = (normal(shape, 1, 1.0)?, normal(shape, 2, 1.0)?);
    let (weight, gate, shift) = (normal([384], 3, 1.0)?, normal([16, 384], 4, 1.0)?, normal([16, 384], 5, 1.0)?);
    let bytes = 4.0 * x.count() as f64;
    // x read, y written; x and dy read, dx written.
    let work = [Work::Bytes(2.0 * bytes), Work::Bytes(3.0 * bytes)];
    let film = Film { scale: &gate, shift: &shift };
    passes(bench, "layer_norm 16x256x384 modulated", work, &|| ops::layer_norm(&x, &weight, None, Some(film), 1e-5))?;
    let work = [Work::Bytes(3.0 * bytes), Work::Bytes(3.0 * bytes)];
    passes(bench, "gated_residual 16x256x384", work, &|| ops::gated_residual(&x, &branch, &gate))?;
    let (wide, bias) = (normal([1536, 384], 6, 0.05)?, normal([1536], 7, 1.0)?);
    let flops = 2.0 * 4096.0 * 384.0 * 1536.0;
    let work = [Work::Flops(flops), Work::Flops(2.0 * flops)];
    passes(bench, "linear+gelu 4096x384->1536", work, &|| ops::linear_gelu(&x, &wide, Some(&bias)))?;
    let (qkv, table) = (normal([16, 256, 3 * 384], 8, 1.0)?, ops::rotary_table(256, 64, 10000.0)?);
    let flops = AttentionShape { n: 16, t: 256, heads: 6, d: 64 }.flops();
    let work = [Work::Flops(flops), Work::Flops(2.5 * flops)];
    passes(bench, "self_attention 16x256 rotary 6 heads of 64", work, &|| ops::self_attention(&qkv, 6, Some(&table)))?;
    pooling(bench)?;
    losses(bench)
}

/// A classifier's pooling of 64 maps of 16×16.
fn pooling(bench: &mut Bench) -> Result<()> {
    let (q, k, v) =
        (normal([64, 128], 1, 1.0)?, normal([64, 16, 16, 128], 2, 1.0)?, normal([64, 16, 16, 128], 3, 1.0)?);
    let bytes = 8.0 * k.count() as f64;
    let work = [Work::Bytes(bytes), Work::Bytes(2.0 * bytes)];
    passes(bench, "attention_pool 64x16x16x128", work, &|| ops::attention_pool(&q, &k, &v, 4))
}

/// Losses of 16 sequences of 256 tokens of a vocabulary of words: logits read once each way, their gradient written.
fn losses(bench: &mut Bench) -> Result<()> {
    const WORDS: usize = 1024;
    let z = normal([16, 256, WORDS], 1, 1.0)?;
    let targets: Vec<u32> = (0..4096).map(|i| (i * 7 % WORDS) as u32).collect();
    let bytes = 4.0 * z.count() as f64;
    let work = [Work::Bytes(bytes), Work::Bytes(2.0 * bytes)];
    passes(bench, "cross_entropy 4096x1024", work, &|| Ok(ops::cross_entropy(&z, &targets, &[1.0; 4096])?.0))?;
    let terms: Vec<ScoreTerm> = targets.iter().map(|x0| ScoreTerm::uniform(0, *x0, WORDS, 1.5, 1.0)).collect();
    passes(bench, "score_entropy 4096x1024", work, &|| Ok(ops::score_entropy(&z, &terms)?.0))?;
    let term = |x0: &u32| PosteriorTerm { x_t: 0, x0: *x0, weight: 100.0, auxiliary: 0.1, touched: (0.5, 0.51) };
    let terms: Vec<PosteriorTerm> = targets.iter().map(term).collect();
    passes(bench, "posterior_kl 4096x1024", work, &|| Ok(ops::posterior_kl(&z, &terms)?.0))
}

/// Measures an op forward and backward.
fn passes(bench: &mut Bench, name: &str, work: [Work; 2], forward: &dyn Fn() -> Result<Tensor>) -> Result<()> {
    let dy = normal(forward()?.shape(), 99, 1.0)?;
    let dy = ops::cast(&dy, forward()?.dtype())?.with_grad(false);
    let mut grads = Grads::new();
    for (pass, work) in ["forward", "backward"].into_iter().zip(work) {
        let name = format!("{name} {pass}");
        let measured = bench.measure(&name, work, || {
            grads.clear();
            if pass == "forward" {
                let begin = Instant::now();
                let y = black_box(forward()?);
                let time = begin.elapsed();
                drop(y);
                return Ok(time);
            }
            let (y, tape) = Tape::record(forward)?;
            let begin = Instant::now();
            tape.backward(&y, dy.clone(), &mut grads)?;
            Ok(begin.elapsed())
        });
        if let Some(seconds) = measured {
            bench.push(Row { name, seconds, work, naive: None, extra: vec![] });
        }
    }
    Ok(())
}

/// A clipped ancestral step in the middle of a run.
fn reverse_step(bench: &mut Bench, [n, h, w, c]: [usize; 4], noisy: bool) -> Result<()> {
    let (x_t, net_out) = (normal([n, h, w, c], 1, 1.0)?, normal([n, h, w, c], 2, 1.0)?);
    let noise = if noisy { 0.1 } else { 0.0 };
    let step = ReverseStep {
        from_x: 1.25,
        from_out: -0.75,
        clip: Some(1.0),
        to_x: 0.9,
        to_x0: 0.1,
        to_out: 0.0,
        to_past: 0.0,
        noise,
    };
    let address = Address::new(0, Purpose::ReverseStep);
    let samples: Vec<u32> = (0..n as u32).collect();
    let run =
        || ops::reverse_step(&x_t, &net_out, StepInputs::default(), &step, Noise::Drawn { address, samples: &samples });
    let name = format!("reverse_step {n}x{h}x{w}x{c}{}", if noisy { " with noise" } else { "" });
    let work = Work::Bytes(12.0 * x_t.count() as f64);
    let measured = bench.measure(&name, work, || {
        let begin = Instant::now();
        let next = black_box(run()?);
        let time = begin.elapsed();
        drop(next);
        Ok(time)
    });
    if let Some(seconds) = measured {
        let (x, out) = (x_t.host::<f32>()?, net_out.host::<f32>()?);
        let plain = || naive::reverse_step(x, out, &step, noisy.then_some(address), h * w * c);
        check(&name, run()?.host()?, &plain())?;
        let naive = bench.time_naive(1.0, || drop(black_box(plain())));
        bench.push(Row { name, seconds, work, naive: Some(naive), extra: vec![] });
    }
    Ok(())
}

fn adamw(bench: &mut Bench, count: usize) -> Result<()> {
    let settings = |step| AdamW {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        adam_eps: 1e-8,
        weight_decay: 0.01,
        step,
        grad_clip: 0.5,
        ema_decay: 0.999,
    };
    let (start, grad) = (normal([count], 1, 1.0)?, normal([count], 2, 1.0)?);
    let zeros = || Tensor::from_slice(&vec![0.0_f32; count], [count]);
    let (mut p, mut ema, mut m, mut v) = (start.clone(), start.clone(), zeros()?, zeros()?);
    // Twice what is allowed: gradients are halved.
    let (loss, norm) = (Tensor::from_slice(&[1.0_f32], [1])?, Tensor::from_slice(&[1.0_f64], [1])?);
    let name = format!("adamw with average {} M", count / 1_000_000);
    let work = Work::Bytes(36.0 * count as f64);
    let mut step = 0;
    let measured = bench.measure(&name, work, || {
        step += 1;
        let begin = Instant::now();
        let entry = AdamWEntry { param: &mut p, grad: &grad, m: &mut m, v: &mut v, ema: &mut ema };
        ops::adamw([entry], &settings(step), &loss, &norm)?;
        Ok(begin.elapsed())
    });
    if let Some(seconds) = measured {
        let (first, grad_values) = (start.to_vec::<f32>()?, grad.host::<f32>()?);
        let mut state = [first.clone(), vec![0.0; count], vec![0.0; count], first];
        naive::adamw(&mut state, grad_values, 0.5, &settings(1));
        (p, ema, m, v) = (start.clone(), start.clone(), zeros()?, zeros()?);
        let entry = AdamWEntry { param: &mut p, grad: &grad, m: &mut m, v: &mut v, ema: &mut ema };
        ops::adamw([entry], &settings(1), &loss, &norm)?;
        check(&name, p.host()?, &state[0])?;
        let naive = bench.time_naive(1.0, || naive::adamw(&mut state, grad_values, 0.5, &settings(2)));
        bench.push(Row { name, seconds, work, naive: Some(naive), extra: vec![] });
    }
    Ok(())
}
