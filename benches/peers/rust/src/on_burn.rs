//! burn on the CPU, f32, NCHW: the flex backend with its threads, SIMD and the products of AVX-512.

use crate::{Item, Run, timed};
use burn::module::{Module, Param};
use burn::nn::GroupNormConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::silu;
use burn::tensor::module;
use burn::tensor::ops::{AttentionModuleOptions, ConvOptions};
use burn::tensor::{Device, Distribution, Tensor};

type Made<T> = Result<T, String>;

/// Where tensors live: with gradients or without.
pub fn device(gradients: bool) -> Device {
    if gradients { Device::flex().autodiff() } else { Device::flex() }
}

/// A leaf, whose gradient is kept where there are gradients.
fn normal<const D: usize>(shape: [usize; D], scale: f64, gradients: bool) -> Tensor<D> {
    let x = Tensor::random(shape, Distribution::Normal(0.0, scale), &device(gradients));
    if gradients { x.require_grad() } else { x }
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
fn pass<const D: usize>(backward: bool, forward: impl Fn() -> Tensor<D> + 'static) -> Made<Run> {
    if !backward {
        return Ok(Box::new(move || timed(|| Ok(forward()))));
    }
    let dy = normal(forward().dims(), 1.0, false).autodiff();
    Ok(Box::new(move || {
        let (y, dy) = (forward(), dy.clone());
        timed(|| Ok((y * dy).sum().backward()))
    }))
}

fn conv([n, size, c_in, c_out, stride]: [usize; 5], backward: bool) -> Made<Run> {
    let x = normal([n, c_in, size, size], 1.0, backward);
    let (w, bias) = (normal([c_out, c_in, 3, 3], 0.03, backward), normal([c_out], 1.0, backward));
    let options = ConvOptions::new([stride, stride], [1, 1], [1, 1], 1);
    pass(backward, move || module::conv2d(x.clone(), w.clone(), Some(bias.clone()), options.clone()))
}

fn attention(backward: bool) -> Made<Run> {
    let [q, k, v] = [(); 3].map(|()| normal([16, 1, 256, 256], 1.0, backward));
    pass(backward, move || {
        module::attention(q.clone(), k.clone(), v.clone(), None, None, AttentionModuleOptions::default())
    })
}

fn linear(backward: bool) -> Made<Run> {
    let (x, w) = (normal([4096, 512], 1.0, backward), normal([512, 2048], 0.04, backward));
    let bias = normal([2048], 1.0, backward);
    pass(backward, move || module::linear(x.clone(), w.clone(), Some(bias.clone())))
}

fn group_norm(backward: bool) -> Made<Run> {
    let x = normal([16, 128, 32, 32], 1.0, backward);
    let norm = GroupNormConfig::new(32, 128).init(&device(backward));
    pass(backward, move || silu(norm.forward(x.clone())))
}

#[derive(Module, Debug)]
struct Parameters {
    all: Vec<Param<Tensor<1>>>,
}

/// 64 tensors that together are as large as the U-Net's 35.7 M parameters.
fn adamw() -> Made<Run> {
    let all = (0..64).map(|_| Param::from_tensor(normal([558_600], 1.0, true))).collect();
    let gradients: Vec<Tensor<1>> = (0..64).map(|_| normal([558_600], 1.0, false)).collect();
    let mut optimizer = AdamWConfig::new().init();
    let mut module = Some(Parameters { all });
    Ok(Box::new(move || {
        let old = module.take().ok_or("the last step failed")?;
        // As after a backward pass, nobody else holds them.
        let mut grads = GradientsParams::new();
        for (param, gradient) in old.all.iter().zip(&gradients) {
            grads.register(param.id, gradient.clone().mul_scalar(1.0));
        }
        timed(|| {
            module = Some(optimizer.step(1e-3, old, grads));
            Ok(())
        })
    }))
}

fn reverse_step(shape: [usize; 4]) -> Made<Run> {
    let (x, net_out) = (normal(shape, 1.0, false), normal(shape, 1.0, false));
    pass(false, move || {
        let x0_hat = (x.clone() * 1.25 - net_out.clone() * 0.75).clamp(-1.0, 1.0);
        x.clone() * 0.9 + x0_hat * 0.1
    })
}
