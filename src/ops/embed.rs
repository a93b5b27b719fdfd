//! Embedding: rows of a table by index.
//!
//! Saved    the indices. Cost: one read and one write of each row. Kernels: `kernels/embed.cu`.
//! Order    the gradient of a row sums its uses in order.

use crate::device::{Device, Scratch};
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Shape, Tensor, TensorId};

/// Looks up `indices` in `weight` `[k, d]`: `[indices, d]`. Differentiable in `weight`.
///
/// # Errors
/// [`Error::Shape`] if `weight` is no matrix or an index is `k` or more.
///
/// # Example
/// ```
/// use tweedie::{ops::embed, tensor::Tensor};
/// let weight = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], [2, 2])?;
/// assert_eq!(embed(&weight, &[1, 0])?.to_vec::<f32>()?, [3.0, 4.0, 1.0, 2.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn embed(weight: &Tensor, indices: &[u32]) -> Result<Tensor> {
    look_up(weight, indices, [indices.len(), weight.shape().last_size()].into())
}

/// As [`embed`] for `n` sequences of equal length, one behind the other: `[n, t, d]`.
///
/// # Errors
/// [`Error::Shape`] as [`embed`], and if the indices are not `n` sequences of one length.
///
/// # Example
/// ```
/// use tweedie::{ops::embed_sequences, tensor::Tensor};
/// let weight = Tensor::from_slice(&[1.0_f32, 2.0], [2, 1])?;
/// let y = embed_sequences(&weight, &[1, 0, 0, 1], 2)?;
/// assert_eq!((y.to_vec::<f32>()?, &y.shape()[..]), (vec![2.0, 1.0, 1.0, 2.0], &[2, 2, 1][..]));
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn embed_sequences(weight: &Tensor, indices: &[u32], n: usize) -> Result<Tensor> {
    let t = indices.len() / n.max(1);
    if indices.len() != n * t {
        let count = indices.len();
        return Err(Error::Shape(format!("embed: {count} indices are not {n} sequences of one length")));
    }
    look_up(weight, indices, [n, t, weight.shape().last_size()].into())
}

fn look_up(weight: &Tensor, indices: &[u32], shape: Shape) -> Result<Tensor> {
    let &[k, _] = &weight.shape()[..] else {
        return Err(Error::Shape(format!("embed: weight wants [k,d], got {}", weight.shape())));
    };
    if let Some(bad) = indices.iter().find(|i| **i as usize >= k) {
        return Err(Error::Shape(format!("embed: index {bad} is outside a table of {k} rows")));
    }
    let y = match weight.device() {
        Device::Cpu => cpu::lookup(weight, indices, shape)?,
        Device::Cuda(index) => cuda::lookup(index, weight, indices, shape)?,
    };
    Ok(tape::push(y, &[weight], || {
        // In memory of the pool: the tokens of a batch are more than a page.
        let mut kept = Scratch::take(indices.len());
        kept.copy_from_slice(indices);
        Box::new(Embed { slot: weight.grad_slot(), shape: weight.shape(), indices: kept })
    }))
}

struct Embed {
    slot: Option<TensorId>,
    shape: Shape,
    indices: Scratch<u32>,
}

impl Node for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dweight = match dy.device() {
            Device::Cpu => cpu::scatter(&dy, self.shape, &self.indices)?,
            Device::Cuda(index) => cuda::scatter(index, &dy, self.shape, &self.indices)?,
        };
        grads.add(self.slot, dweight)
    }
}

mod cpu {
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::tensor::{Dtype, Shape, Tensor};

    pub(super) fn lookup(weight: &Tensor, indices: &[u32], shape: Shape) -> Result<Tensor> {
        const BLOCK: usize = 64;
        let d = weight.shape()[1];
        let mut y = Tensor::empty(shape, Dtype::F32, Device::Cpu)?;
        let table = weight.host::<f32>()?;
        let out = DisjointMut::new(y.host_mut::<f32>()?);
        for_each_block(indices.len().div_ceil(BLOCK), 8 * BLOCK * d, |block| {
            for at in block * BLOCK..indices.len().min((block + 1) * BLOCK) {
                out.slice(at * d, d).copy_from_slice(&table[indices[at] as usize * d..][..d]);
            }
        });
        Ok(y)
    }

    pub(super) fn scatter(dy: &Tensor, shape: Shape, indices: &[u32]) -> Result<Tensor> {
        let d = shape[1];
        let mut dweight = Tensor::zeros(shape, Dtype::F32, Device::Cpu)?;
        let target = dweight.host_mut::<f32>()?;
        for (row, index) in dy.host::<f32>()?.chunks_exact(d).zip(indices) {
            let line = &mut target[*index as usize * d..][..d];
            line.iter_mut().zip(row).for_each(|(t, g)| *t += g);
        }
        Ok(dweight)
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::embed as kernel;
    use crate::ops::lanes;
    use crate::tensor::{Dtype, Shape, Tensor};

    const THREADS: u32 = 128;

    pub(super) fn lookup(index: usize, weight: &Tensor, indices: &[u32], shape: Shape) -> Result<Tensor> {
        let gpu = gpu(index)?;
        let d = weight.shape()[1];
        let mut y = Tensor::empty(shape, Dtype::F32, Device::Cuda(index))?;
        let there = gpu.upload(bytemuck::cast_slice(indices))?;
        let lanes = lanes(&[d]);
        let count = y.count() / lanes;
        let args = args![weight.cuda_as::<f32>()?, &there, y.cuda_mut()?, count as u64, size(d / lanes)?, size(lanes)?];
        let geometry = Geometry::covering(count, THREADS)?;
        // SAFETY: weight has k rows of d f32, every index is below k (checked in `embed`), y has a row for each; order and types are those
        // of `embed_lookup`.
        unsafe { gpu.launch(kernel::LOOKUP, geometry, &args) }?;
        Ok(y)
    }

    pub(super) fn scatter(index: usize, dy: &Tensor, shape: Shape, indices: &[u32]) -> Result<Tensor> {
        let gpu = gpu(index)?;
        let (k, d) = (shape[0], shape[1]);
        size(indices.len())?;
        let mut dweight = Tensor::empty(shape, Dtype::F32, Device::Cuda(index))?;
        let (starts, order) = uses(k, indices);
        let starts = gpu.upload(bytemuck::cast_slice(&starts))?;
        let order = gpu.upload(bytemuck::cast_slice(&order))?;
        let lanes = lanes(&[d]);
        let count = k * d / lanes;
        let args = args![
            dy.cuda_as::<f32>()?,
            &starts,
            &order,
            dweight.cuda_mut()?,
            count as u64,
            size(d / lanes)?,
            size(lanes)?
        ];
        let geometry = Geometry::covering(count, THREADS)?;
        // SAFETY: dy has a row of d f32 for each index, dweight k rows; starts holds k + 1 places in order, which holds rows of dy; order
        // and types are those of `embed_backward`.
        unsafe { gpu.launch(kernel::BACKWARD, geometry, &args) }?;
        Ok(dweight)
    }

    /// Where each row's uses begin in the second list, which has the uses of row 0, those of row 1, …, each in their order.
    fn uses(k: usize, indices: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let mut starts = vec![0_u32; k + 1];
        for index in indices {
            starts[*index as usize + 1] += 1;
        }
        for row in 0..k {
            starts[row + 1] += starts[row];
        }
        let (mut next, mut order) = (starts.clone(), vec![0_u32; indices.len()]);
        for (use_, index) in indices.iter().enumerate() {
            order[next[*index as usize] as usize] = use_ as u32;
            next[*index as usize] += 1;
        }
        (starts, order)
    }
}

#[doc(hidden)]
pub mod cases {
    use super::embed;
    use crate::testing::{Array, Case};

    /// `count` look-ups in a table `[k, d]`.
    pub fn case(k: usize, d: usize, count: usize, seed: u64) -> Case {
        let indices: Vec<u32> = (0..count).map(|i| ((i * i + 3) % k) as u32).collect();
        let wanted = indices.clone();
        Case {
            op: "embed",
            label: format!("{count} of {k}x{d}"),
            inputs: vec![Array::normal([k, d], seed, 1.0, 0.0)],
            differentiable: vec![true],
            run: Box::new(move |t| embed(&t[0], &indices)),
            oracle: Box::new(move |a| Array {
                shape: [count, d].into(),
                data: wanted.iter().flat_map(|i| a[0].data[*i as usize * d..][..d].to_vec()).collect(),
            }),
            terms: 1,
            grad_terms: count,
        }
    }

    /// Rows: one entry, repeats, four features at a time, more than one block.
    pub fn table() -> Vec<Case> {
        vec![case(1, 1, 1, 80), case(5, 3, 9, 81), case(4, 8, 11, 82), case(9, 132, 20, 83)]
    }
}
