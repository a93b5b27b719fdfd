//! The CUDA side of [`super::attention`]: `kernels/attention.cu`.

use super::rotary::SelfAttention;
use super::{Attention, Sizes};
use crate::device::Device;
use crate::device::cuda::{Arg, Geometry, args, gpu, size};
use crate::error::{Error, Result};
use crate::kernels::{Kernel, attention as kernel};
use crate::tape::Grads;
use crate::tensor::{Dtype, Tensor};

/// Tokens of a tile.
const TILE: usize = 64;

/// The kernels for heads of at most `width` channels, or for the pieces of wider ones; each with the threads of a block.
struct Kernels {
    width: usize,
    forward: (Kernel, u32),
    query: (Kernel, u32),
    key: (Kernel, u32),
}

fn kernels(d: usize) -> Kernels {
    let (width, forward, query, key) = match d {
        0..=16 => (16, kernel::FORWARD_16, kernel::BACKWARD_QUERY_16, kernel::BACKWARD_KEY_16),
        17..=32 => (32, kernel::FORWARD_32, kernel::BACKWARD_QUERY_32, kernel::BACKWARD_KEY_32),
        33..=64 => (64, kernel::FORWARD_64, kernel::BACKWARD_QUERY_64, kernel::BACKWARD_KEY_64),
        65..=128 => (128, kernel::FORWARD_128, kernel::BACKWARD_QUERY_128, kernel::BACKWARD_KEY_128),
        _ => (256, kernel::FORWARD_256, kernel::BACKWARD_QUERY_256, kernel::BACKWARD_KEY_256),
    };
    // dk and dv are two sums: half the rows a thread where one takes many registers.
    let (threads, key_threads) = (if width > 128 { 256 } else { 128 }, if width > 64 { 256 } else { 128 });
    Kernels { width, forward: (forward, threads), query: (query, threads), key: (key, key_threads) }
}

/// A block for each image, head, tile of tokens and piece of channels.
fn tiles(s: Sizes, width: usize, threads: u32) -> Result<Geometry> {
    let blocks = s.n * s.heads * s.t.div_ceil(TILE) * s.d.div_ceil(width);
    Geometry::covering(blocks * threads as usize, threads)
}

/// Tokens, channels of a head, heads, scale of the scores.
fn scalars(s: Sizes) -> Result<[Arg<'static>; 4]> {
    let scale = (1.0 / (s.d as f64).sqrt()) as f32;
    Ok([Arg::U32(size(s.t)?), Arg::U32(size(s.d)?), Arg::U32(size(s.heads)?), Arg::F32(scale)])
}

pub(super) fn forward(index: usize, q: &Tensor, k: &Tensor, v: &Tensor, s: Sizes) -> Result<(Tensor, Tensor)> {
    let mut y = Tensor::empty(q.shape(), Dtype::F32, Device::Cuda(index))?;
    let mut lse = Tensor::empty([s.n, s.heads, s.t], Dtype::F32, Device::Cuda(index))?;
    let kernels = kernels(s.d);
    let (kernel, threads) = kernels.forward;
    let mut args = args![q.cuda()?, k.cuda()?, v.cuda()?, y.cuda_mut()?, lse.cuda_mut()?].to_vec();
    args.extend(scalars(s)?);
    // SAFETY: q, k, v, y hold n·t·heads·d f32 (checked in `attention`) and lse n·heads·t; a block touches tokens below t and channels below
    // d of its head alone; order and types are those of `attention_forward_*`.
    unsafe { gpu(index)?.launch(kernel, tiles(s, kernels.width, threads)?, &args) }?;
    Ok((y, lse))
}

/// The sums of dy·y over each head's channels.
fn dot(index: usize, node: &Attention, dy: &Tensor) -> Result<Tensor> {
    let s = node.sizes;
    let mut dot = Tensor::empty([s.n, s.heads, s.t], Dtype::F32, Device::Cuda(index))?;
    let lanes = s.d.div_ceil(4).next_power_of_two().min(32);
    let [t, d, heads, _] = scalars(s)?;
    let mut args = args![dy.cuda()?, node.y.cuda()?, dot.cuda_mut()?].to_vec();
    args.extend([t, d, heads, size(lanes)?.into()]);
    let geometry = Geometry::covering(s.n * s.heads * s.t.div_ceil(256 / lanes) * 256, 256)?;
    // SAFETY: dy, y hold n·t·heads·d f32 and dot n·heads·t; blocks are heads times rows, `lanes` threads share a row below t.
    unsafe { gpu(index)?.launch(kernel::BACKWARD_DOT, geometry, &args) }?;
    Ok(dot)
}

pub(super) fn backward(index: usize, node: &Attention, dy: &Tensor, grads: &mut Grads) -> Result<()> {
    let s = node.sizes;
    let dot = dot(index, node, dy)?;
    let kernels = kernels(s.d);
    let inputs = args![node.q.cuda()?, node.k.cuda()?, node.v.cuda()?, dy.cuda()?, node.lse.cuda()?, dot.cuda()?];
    if node.q.requires_grad() {
        let mut dq = Tensor::empty(dy.shape(), Dtype::F32, Device::Cuda(index))?;
        let (kernel, threads) = kernels.query;
        let mut args = inputs.to_vec();
        args.push(dq.cuda_mut()?.into());
        args.extend(scalars(s)?);
        // SAFETY: as in `forward`; dq has the shape of q.
        unsafe { gpu(index)?.launch(kernel, tiles(s, kernels.width, threads)?, &args) }?;
        grads.add(node.q.grad_slot(), dq)?;
    }
    if node.k.requires_grad() || node.v.requires_grad() {
        let mut dk = Tensor::empty(dy.shape(), Dtype::F32, Device::Cuda(index))?;
        let mut dv = Tensor::empty(dy.shape(), Dtype::F32, Device::Cuda(index))?;
        let (kernel, threads) = kernels.key;
        let mut args = inputs.to_vec();
        args.extend(args![dk.cuda_mut()?, dv.cuda_mut()?]);
        args.extend(scalars(s)?);
        // SAFETY: as in `forward`; dk and dv have the shape of q.
        unsafe { gpu(index)?.launch(kernel, tiles(s, kernels.width, threads)?, &args) }?;
        grads.add(node.k.grad_slot(), dk)?;
        grads.add(node.v.grad_slot(), dv)?;
    }
    Ok(())
}

/// Queries, keys and values of `[n, t, 3·c]` as three tensors, the first two rotated.
fn split(index: usize, qkv: &Tensor, rotary: Option<&Tensor>, s: Sizes) -> Result<[Tensor; 3]> {
    let shape = [s.n, s.t, s.heads * s.d];
    let empty = || Tensor::empty(shape, Dtype::F32, Device::Cuda(index));
    let (mut q, mut k, mut v) = (empty()?, empty()?, empty()?);
    let count = q.count();
    let table = Arg::Buffer(rotary.map(Tensor::cuda).transpose()?);
    let (t, d, heads) = (size(s.t)?, size(s.d)?, size(s.heads)?);
    let args = args![qkv.cuda()?, table, q.cuda_mut()?, k.cuda_mut()?, v.cuda_mut()?, count as u64, t, d, heads];
    // SAFETY: qkv holds three times the count of q, k and v, the table at least t·d f32 (checked in `self_attention`); a thread touches element
    // i of each and its partner in the same head; order and types are those of `attention_split`.
    unsafe { gpu(index)?.launch(kernel::SPLIT, Geometry::covering(count, 256)?, &args) }?;
    Ok([q, k, v])
}

pub(super) fn forward_joined(
    index: usize,
    qkv: &Tensor,
    rotary: Option<&Tensor>,
    s: Sizes,
) -> Result<(Tensor, Tensor)> {
    let [q, k, v] = split(index, qkv, rotary, s)?;
    forward(index, &q, &k, &v, s)
}

pub(super) fn backward_joined(index: usize, node: &SelfAttention, dy: &Tensor) -> Result<Tensor> {
    let s = node.sizes;
    let [q, k, v] = split(index, &node.qkv, node.rotary.as_ref(), s)?.map(|t| t.with_grad(true));
    let mut grads = Grads::new();
    let slots = [&q, &k, &v].map(Tensor::grad_slot);
    let apart = Attention { q, k, v, y: node.y.clone(), lse: node.lse.clone(), sizes: s };
    backward(index, &apart, dy, &mut grads)?;
    let missing = || Error::Device("attention: a gradient is missing; report this".into());
    let [dq, dk, dv] = slots.map(|slot| slot.and_then(|id| grads.take(id)).ok_or_else(missing));
    let mut dqkv = Tensor::empty(node.qkv.shape(), Dtype::F32, Device::Cuda(index))?;
    let (dq, dk, dv) = (dq?, dk?, dv?);
    let table = Arg::Buffer(node.rotary.as_ref().map(Tensor::cuda).transpose()?);
    let (count, t, d, heads) = (dq.count(), size(s.t)?, size(s.d)?, size(s.heads)?);
    let args = args![dq.cuda()?, dk.cuda()?, dv.cuda()?, table, dqkv.cuda_mut()?, count as u64, t, d, heads];
    // SAFETY: as in `split`; order and types are those of `attention_join`.
    unsafe { gpu(index)?.launch(kernel::JOIN, Geometry::covering(count, 256)?, &args) }?;
    Ok(dqkv)
}
