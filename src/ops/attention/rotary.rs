//! Self-attention of q, k and v that one product made, with rotary positions (Su et al. 2021): queries and keys of token p are rotated by p·θ_i in
//! the plane of channels i and i + d/2 of their head, θ_i = base^(−2i/d), so that a score depends on the distance of its tokens alone.
//!
//! Layout   qkv `[n, t, 3·heads·d]`: all heads' queries, then keys, then values; y `[n, t, heads·d]`; table `[length, d]`.
//! Saved    qkv and y (shared), the log-sum-exp of each row. Rotations are done again.
//! Cost     that of attention; a head's queries and keys are rotated where they are packed, in the cache.
//! CUDA     `attention_split` makes the three tensors of attention's kernels, rotated; `attention_join` gathers their gradients.

use super::cpu::{self, Inputs, Saved};
use super::{Sizes, cuda};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::same_device;
use crate::tape::{self, Grads, Node};
use crate::tensor::Tensor;

/// Cosines and sines of rotary positions: of each position p below `length`, cos(p·base^(−2i/d)) for i below d/2, then the sines.
///
/// * `head_dim` — d, even
/// * `base` — 10000 in Su et al. 2021
///
/// Returns `[length, head_dim]` on the host, computed in f64.
///
/// # Errors
/// [`Error::Shape`] if `head_dim` is odd; [`Error::Usage`] if `base` is not above 1.
pub fn rotary_table(length: usize, head_dim: usize, base: f64) -> Result<Tensor> {
    if !head_dim.is_multiple_of(2) || head_dim == 0 {
        return Err(Error::Shape(format!(
            "rotary: a head of {head_dim} channels has no pairs; expected an even number"
        )));
    }
    if !(base > 1.0 && base.is_finite()) {
        return Err(Error::Usage(format!("rotary: base {base}: expected a number above 1")));
    }
    let half = head_dim / 2;
    let mut table = crate::device::Scratch::<f32>::take(length * head_dim);
    for (position, row) in table.chunks_exact_mut(head_dim).enumerate() {
        let (cosines, sines) = row.split_at_mut(half);
        for (i, (cosine, sine)) in cosines.iter_mut().zip(sines).enumerate() {
            let angle = position as f64 * base.powf(-2.0 * i as f64 / head_dim as f64);
            (*cosine, *sine) = (angle.cos() as f32, angle.sin() as f32);
        }
    }
    Tensor::from_slice(&table, [length, head_dim])
}

/// Attention among the tokens of each sample, of queries, keys and values side by side.
///
/// * `qkv` — `[n, t, 3·heads·d]`, f32: queries of all heads, then keys, then values
/// * `heads` — must divide a third of the channels
/// * `rotary` — [`rotary_table`] of at least t positions, where queries and keys are to be rotated
///
/// Returns `[n, t, heads·d]` on the device of `qkv`. Differentiable in `qkv`.
///
/// # Errors
/// [`Error::Shape`] if sizes disagree; [`Error::Device`] if the arguments live on different devices; [`Error::Dtype`] if `qkv` is not f32.
///
/// # Example
/// ```
/// use tweedie::{ops, tensor::Tensor};
/// // Two tokens of one head of two channels; equal scores average the values.
/// let qkv = [0.0_f32, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 6.0];
/// let table = ops::rotary_table(2, 2, 10000.0)?;
/// let y = ops::self_attention(&Tensor::from_slice(&qkv, [1, 2, 6])?, 1, Some(&table))?;
/// assert_eq!(y.to_vec::<f32>()?, [2.0, 4.0, 2.0, 4.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn self_attention(qkv: &Tensor, heads: usize, rotary: Option<&Tensor>) -> Result<Tensor> {
    let &[n, t, wide] = &qkv.shape()[..] else {
        return Err(Error::Shape(format!("self_attention: qkv wants [n,t,3·c], got {}", qkv.shape())));
    };
    if heads == 0 || !wide.is_multiple_of(3 * heads) {
        return Err(Error::Shape(format!(
            "self_attention: {wide} channels do not divide into queries, keys and values of {heads} heads"
        )));
    }
    let sizes = Sizes { n, t, heads, d: wide / 3 / heads };
    if let Some(table) = rotary {
        match table.shape()[..] {
            [length, d] if length >= t && d == sizes.d => {}
            _ => {
                let (d, got) = (sizes.d, table.shape());
                return Err(Error::Shape(format!("self_attention: rotary wants at least [{t},{d}], got {got}")));
            }
        }
    }
    let inputs: Vec<&Tensor> = [qkv].into_iter().chain(rotary).collect();
    let (y, lse) = match same_device("self_attention", &inputs)? {
        Device::Cpu => cpu::forward(Inputs::joined(qkv, rotary)?, qkv.shape().with_last(wide / 3), sizes)?,
        Device::Cuda(index) => cuda::forward_joined(index, qkv, rotary, sizes)?,
    };
    let saved = y.clone();
    Ok(tape::push(y, &inputs[..1], || {
        Box::new(SelfAttention { qkv: qkv.clone(), rotary: rotary.cloned(), y: saved, lse, sizes })
    }))
}

pub(super) struct SelfAttention {
    pub(super) qkv: Tensor,
    pub(super) rotary: Option<Tensor>,
    pub(super) y: Tensor,
    pub(super) lse: Tensor,
    pub(super) sizes: Sizes,
}

impl Node for SelfAttention {
    fn name(&self) -> &'static str {
        "self_attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dqkv = match dy.device() {
            Device::Cpu => {
                let inputs = Inputs::joined(&self.qkv, self.rotary.as_ref())?;
                let saved = Saved { inputs, y: &self.y, dy: &dy, lse: &self.lse };
                cpu::backward_joined(&saved, self.qkv.shape(), self.sizes)?
            }
            Device::Cuda(index) => cuda::backward_joined(index, &self, &dy)?,
        };
        grads.add(self.qkv.grad_slot(), dqkv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Array;

    #[test]
    fn scores_depend_on_the_distance_of_tokens_alone() {
        // Equal tokens shifted by five positions attend alike: the first three rows of the longer sequence's window.
        let table = rotary_table(16, 8, 10000.0).unwrap();
        let all = table.to_vec::<f32>().unwrap();
        let shifted = Tensor::from_slice(&all[5 * 8..], [11, 8]).unwrap();
        let x = Array::normal([1, 6, 3 * 16], 1, 1.0, 0.0);
        let x = Tensor::from_slice(&x.to_f32(), [1, 6, 48]).unwrap();
        let run = |table| self_attention(&x, 2, table).unwrap().to_vec::<f32>().unwrap();
        let (here, there, without) = (run(Some(&table)), run(Some(&shifted)), run(None));
        // Angles up to 16 lose 16·2^-24 each.
        let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far(&here, &there) < 2e-5, "{}", far(&here, &there));
        assert!(far(&here, &without) > 1e-2, "rotations change nothing");
    }

    #[test]
    fn wrong_sizes_are_named() {
        let x = crate::testing::zeros([1, 4, 12]).unwrap();
        let text = |result: Result<Tensor>| result.err().unwrap().to_string();
        assert!(text(self_attention(&x, 5, None)).contains("12 channels do not divide into queries"));
        let short = rotary_table(3, 4, 10000.0).unwrap();
        assert!(text(self_attention(&x, 1, Some(&short))).contains("rotary wants at least [4,4], got [3,4]"));
        assert!(text(rotary_table(3, 5, 10000.0)).contains("a head of 5 channels has no pairs"));
        assert!(text(rotary_table(3, 4, 1.0)).contains("base 1: expected a number above 1"));
    }
}
