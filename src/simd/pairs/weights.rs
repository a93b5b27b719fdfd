//! Weights `[c_out, taps, c_in]` of f32, rounded and packed into panels of bf16 pairs.

use super::super::kernel::NR;
use super::super::lanes::{Narrow, Number, dispatch};
use super::super::pack::Packed;
use crate::device::{DisjointMut, Scratch, for_each_block};
use crate::vectorise;
use half::bf16;

/// A packed right-hand operand: row k of a panel has a pair of k for each of its columns.
#[derive(Debug)]
pub(crate) struct Pairs(Packed);

impl Pairs {
    /// Pairs of k.
    pub(super) fn k(&self) -> usize {
        self.0.k()
    }

    /// Columns.
    pub(super) fn n(&self) -> usize {
        self.0.n()
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.0.panels()
    }

    /// One panel: `k·NR` words.
    pub(super) fn panel(&self, index: usize) -> &[u32] {
        let words: &[u32] = bytemuck::cast_slice(self.0.panel(index));
        debug_assert_eq!(words.len(), self.k() * NR);
        words
    }
}

/// For the forward product: k runs over taps and pairs of input channels (an odd last one with a 0), columns are output channels.
pub(crate) fn forward_weights(weight: &[f32], [c_out, taps, c_in]: [usize; 3]) -> Pairs {
    let wide = c_in.div_ceil(2);
    let k = taps * wide;
    let mut words = Scratch::<u32>::take(c_out * k);
    let out = DisjointMut::new(&mut words);
    for_each_block(c_out, 4 * taps * c_in, |line| {
        let from = &weight[line * taps * c_in..][..taps * c_in];
        let to: &mut [bf16] = bytemuck::cast_slice_mut(out.slice(line * k, k));
        if c_in.is_multiple_of(2) {
            dispatch(Narrow(from, to));
            return;
        }
        for (from, to) in from.chunks_exact(c_in).zip(to.chunks_exact_mut(2 * wide)) {
            dispatch(Narrow(from, &mut to[..c_in]));
            to[c_in] = bf16::ZERO;
        }
    });
    // Packing only moves 32 bits at a time, whatever they mean.
    let words: &[f32] = bytemuck::cast_slice(&words);
    Pairs(Packed::from_columns(k, c_out, |j| &words[j * k..(j + 1) * k]))
}

/// For the input gradient: k runs over the taps of `order` and pairs of output channels, columns are input channels.
pub(crate) fn backward_weights(weight: &[f32], [c_out, taps, c_in]: [usize; 3], order: &[usize]) -> Pairs {
    #[inline(always)]
    fn pair(first: &[f32], second: &[f32], to: &mut [u32]) {
        for ((a, b), to) in first.iter().zip(second).zip(to) {
            *to = u32::from(bf16::narrow(*a).to_bits()) | u32::from(bf16::narrow(*b).to_bits()) << 16;
        }
    }
    fn alone(first: &[f32], to: &mut [u32]) {
        for (a, to) in first.iter().zip(to) {
            *to = u32::from(bf16::narrow(*a).to_bits());
        }
    }
    fn run(first: &[f32], second: &[f32], to: &mut [u32]) {
        vectorise!(pair(first: &[f32], second: &[f32], to: &mut [u32]));
    }
    let (wide, len) = (c_out.div_ceil(2), taps * c_in);
    let mut words = Scratch::<u32>::take(wide * len);
    let out = DisjointMut::new(&mut words);
    for_each_block(wide, 8 * len, |line| {
        let (first, to) = (&weight[2 * line * len..][..len], out.slice(line * len, len));
        match weight.get((2 * line + 1) * len..(2 * line + 2) * len) {
            Some(second) => run(first, second, to),
            None => alone(first, to),
        }
    });
    let words: &[f32] = bytemuck::cast_slice(&words);
    Pairs(Packed::from_rows(order.len() * wide, c_in, |row| {
        let (tap, line) = (order[row / wide], row % wide);
        &words[line * len + tap * c_in..][..c_in]
    }))
}
