//! candle on the CPU, f32, NCHW.

use crate::{Item, Run, timed};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::optim::Optimizer;
use candle_nn::{AdamW, GroupNorm, Module, ParamsAdamW, ops};

pub fn text(error: candle_core::Error) -> String {
    error.to_string()
}

type Made<T> = Result<T, String>;

fn normal(shape: &[usize], scale: f32) -> Made<Tensor> {
    Tensor::randn(0.0_f32, scale, shape, &Device::Cpu).map_err(text)
}

fn var(shape: &[usize], scale: f32) -> Made<Var> {
    Var::from_tensor(&normal(shape, scale)?).map_err(text)
}

/// All of it on the CPU, each as (name, what makes it).
pub fn items() -> Vec<Item> {
    vec![
        ("conv_128_forward", || conv([16, 32, 128, 128, 1], false)),
        ("conv_256_forward", || conv([16, 16, 256, 256, 1], false)),
        ("conv_512_256_forward", || conv([16, 16, 512, 256, 1], false)),
        ("conv_stride2_128_forward", || conv([16, 32, 128, 128, 2], false)),
        ("conv_128_both_grads", || conv([16, 32, 128, 128, 1], true)),
        ("conv_256_both_grads", || conv([16, 16, 256, 256, 1], true)),
        ("conv_512_256_both_grads", || conv([16, 16, 512, 256, 1], true)),
        ("conv_stride2_128_both_grads", || conv([16, 32, 128, 128, 2], true)),
        ("attention_forward", || attention(false)),
        ("attention_backward", || attention(true)),
        ("linear_forward", || linear(false)),
        ("linear_backward", || linear(true)),
        ("group_norm_forward", || group_norm(false)),
        ("group_norm_backward", || group_norm(true)),
        ("adamw", adamw),
        ("reverse_step_16x32", || reverse_step([16, 3, 32, 32])),
        ("reverse_step_64x256", || reverse_step([64, 3, 256, 256])),
    ]
}

/// Times `forward`, or the gradients of its output.
fn pass(backward: bool, forward: impl Fn() -> candle_core::Result<Tensor> + 'static) -> Made<Run> {
    if !backward {
        return Ok(Box::new(move || timed(|| forward().map_err(text))));
    }
    let dy = forward().and_then(|y| y.randn_like(0.0, 1.0)).map_err(text)?.detach();
    Ok(Box::new(move || {
        let y = forward().map_err(text)?;
        timed(|| (&y * &dy).and_then(|y| y.sum_all()?.backward()).map_err(text))
    }))
}

fn conv([n, size, c_in, c_out, stride]: [usize; 5], backward: bool) -> Made<Run> {
    let (x, w) = (var(&[n, c_in, size, size], 1.0)?, var(&[c_out, c_in, 3, 3], 0.03)?);
    let bias = var(&[1, c_out, 1, 1], 1.0)?;
    pass(backward, move || x.conv2d(&w, 1, stride, 1, 1)?.broadcast_add(&bias))
}

fn attention(backward: bool) -> Made<Run> {
    let [q, k, v] = [(); 3].map(|()| var(&[16, 256, 256], 1.0));
    let (q, k, v) = (q?, k?, v?);
    pass(backward, move || {
        let scores = (q.matmul(&k.t()?)? / 16.0)?;
        // The fused softmax has no gradient.
        let weights = if backward { ops::softmax(&scores, 2)? } else { ops::softmax_last_dim(&scores)? };
        weights.matmul(&v)
    })
}

fn linear(backward: bool) -> Made<Run> {
    let (x, w, bias) = (var(&[4096, 512], 1.0)?, var(&[2048, 512], 0.04)?, var(&[2048], 1.0)?);
    pass(backward, move || x.matmul(&w.t()?)?.broadcast_add(&bias))
}

fn group_norm(backward: bool) -> Made<Run> {
    let x = var(&[16, 128, 32, 32], 1.0)?;
    let (weight, bias) = (var(&[128], 1.0)?, var(&[128], 1.0)?);
    let norm = GroupNorm::new(weight.as_tensor().clone(), bias.as_tensor().clone(), 128, 32, 1e-5).map_err(text)?;
    pass(backward, move || norm.forward(&x)?.silu())
}

/// 64 tensors that together are as large as the U-Net's 35.7 M parameters.
fn adamw() -> Made<Run> {
    let vars: Made<Vec<Var>> = (0..64).map(|_| var(&[558_600], 1.0)).collect();
    let vars = vars?;
    let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu).map_err(text)?;
    for v in &vars {
        let product = v.mul(&normal(&[558_600], 1.0)?).and_then(|y| y.sum_all());
        loss = product.and_then(|y| loss + y).map_err(text)?;
    }
    let grads = loss.backward().map_err(text)?;
    let mut optimizer = AdamW::new(vars, ParamsAdamW::default()).map_err(text)?;
    Ok(Box::new(move || timed(|| optimizer.step(&grads).map_err(text))))
}

fn reverse_step(shape: [usize; 4]) -> Made<Run> {
    let (x, net_out) = (normal(&shape, 1.0)?, normal(&shape, 1.0)?);
    pass(false, move || {
        let x0_hat = (x.affine(1.25, 0.0)? - net_out.affine(0.75, 0.0)?)?.clamp(-1.0_f32, 1.0_f32)?;
        x.affine(0.9, 0.0)? + x0_hat.affine(0.1, 0.0)?
    })
}
