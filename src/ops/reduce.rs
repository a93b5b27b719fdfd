//! Reductions over many tensors: the global norm of all gradients.
//!
//! Order    f32 squares summed in blocks of 1024 elements, blocks and tensors added in f64 in order; the kernels' blocks are of 4096.
//! Kernels  `kernels/reduce.cu`: all tensors in one launch.

use super::same_device;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// √Σ g² over all elements of all tensors; not finite if any element is not.
///
/// Returns `[1]`, f64, on the tensors' device: the host need not wait for it. Not differentiable.
///
/// # Errors
/// [`crate::Error::Dtype`] for tensors that are not f32; [`crate::Error::Device`] if they live on different devices.
///
/// # Example
/// ```
/// use tweedie::{ops::grad_norm, tensor::Tensor};
/// let (a, b) = (Tensor::from_slice(&[3.0_f32], [1])?, Tensor::from_slice(&[0.0_f32, 4.0], [2])?);
/// assert_eq!(grad_norm([&a, &b])?.to_vec::<f64>()?, [5.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn grad_norm<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Tensor> {
    let mut tensors = tensors.into_iter().peekable();
    match tensors.peek().map_or(Device::Cpu, |first| first.device()) {
        Device::Cpu => cpu::norm(tensors),
        Device::Cuda(index) => {
            let tensors: Vec<&Tensor> = tensors.collect();
            same_device("grad_norm", &tensors)?;
            cuda::norm(index, &tensors)
        }
    }
}

/// What gradients of that norm are multiplied by so that it is at most `clip`; nothing where loss or norm is not finite: then no weight moves.
pub(super) fn clip_factor(loss: f32, norm: f64, clip: f64) -> Option<f32> {
    let factor = if norm > clip { clip / norm } else { 1.0 };
    (loss.is_finite() && norm.is_finite()).then_some(factor as f32)
}

mod cpu {
    use crate::device::{DisjointMut, PARTS, Scratch, for_each_part};
    use crate::error::Result;
    use crate::tensor::Tensor;
    use crate::vectorise;

    const BLOCK: usize = 1024;
    const JOB: usize = 16 * BLOCK;

    pub(super) fn norm<'a>(mut tensors: impl Iterator<Item = &'a Tensor>) -> Result<Tensor> {
        let mut total = 0.0;
        loop {
            let (mut parts, mut counts, mut len) = ([&[][..]; PARTS], [0; PARTS], 0);
            for tensor in tensors.by_ref().take(PARTS) {
                parts[len] = tensor.host::<f32>()?;
                counts[len] = parts[len].len();
                len += 1;
            }
            if len == 0 {
                return Tensor::from_slice(&[f64::sqrt(total)], [1]);
            }
            let mut partial = Scratch::<f64>::take(counts[..len].iter().map(|count| count.div_ceil(JOB)).sum());
            let out = DisjointMut::new(&mut partial);
            for_each_part(&counts[..len], JOB, 2 * JOB, |job, index, at, len| {
                let blocks = parts[index][at..at + len].chunks(BLOCK);
                out.slice(job, 1)[0] = blocks.map(sum_of_squares).sum();
            });
            total += partial.iter().sum::<f64>();
        }
    }

    /// Of one block: 64 sums in f32, folded to 16 and added in f64 in order.
    fn sum_of_squares(x: &[f32]) -> f64 {
        #[inline(always)]
        fn body(x: &[f32]) -> f64 {
            const LANES: usize = 64;
            let mut lanes = [0.0_f32; LANES];
            let mut chunks = x.chunks_exact(LANES);
            for chunk in &mut chunks {
                for (lane, v) in lanes.iter_mut().zip(chunk) {
                    *lane += v * v;
                }
            }
            for (lane, v) in lanes.iter_mut().zip(chunks.remainder()) {
                *lane += v * v;
            }
            // Quarters first, side by side; the rest one after the other in f64.
            let (low, high) = lanes.split_at_mut(LANES / 2);
            low.iter_mut().zip(high).for_each(|(a, b)| *a += *b);
            let (low, high) = low.split_at_mut(LANES / 4);
            low.iter_mut().zip(high).for_each(|(a, b)| *a += *b);
            low.iter().map(|v| f64::from(*v)).sum()
        }
        vectorise!(body(x: &[f32]) -> f64)
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{ChunkTable, Geometry, args, gpu};
    use crate::error::Result;
    use crate::kernels::reduce as kernel;
    use crate::tensor::{Dtype, Tensor};

    pub(super) fn norm(index: usize, tensors: &[&Tensor]) -> Result<Tensor> {
        let gpu = gpu(index)?;
        let mut table = ChunkTable::default();
        for tensor in tensors {
            table.push([tensor.cuda_as::<f32>()?], tensor.count());
        }
        let chunks = table.chunks();
        let (table, rows, geometry) = table.upload(&gpu)?;
        let mut norm = Tensor::empty([1], Dtype::F64, Device::Cuda(index))?;
        let partial = gpu.take(chunks * size_of::<f64>())?;
        // SAFETY: the table names f32 buffers that live until after the launch, with their counts; partial has a number for each block;
        // order and types are those of `reduce_partial`.
        unsafe { gpu.launch(kernel::PARTIAL, geometry, &args![&table, rows, &partial]) }?;
        let one_block = Geometry { blocks: [1, 1, 1], threads: 512, shared: 0 };
        let args = args![&partial, chunks as u64, norm.cuda_mut()?];
        // SAFETY: partial holds `chunks` f64, norm one; order and types are those of `reduce_norm`.
        unsafe { gpu.launch(kernel::NORM, one_block, &args) }?;
        Ok(norm)
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::grad_norm;
    use crate::device::Device;
    use crate::testing::{Array, Case};

    fn case(counts: &[usize], scale: f32) -> Case {
        Case {
            op: "reduce",
            label: format!("norm of {counts:?}, scale {scale}"),
            inputs: counts.iter().map(|count| Array::normal([*count], 180, scale, 0.0)).collect(),
            differentiable: vec![false; counts.len()],
            run: Box::new(|t| {
                let norm = grad_norm(t)?;
                let value = norm.to_device(Device::Cpu)?.to_vec::<f64>()?[0];
                crate::tensor::Tensor::from_slice(&[value as f32], [1])?.to_device(norm.device())
            }),
            oracle: Box::new(|a| {
                let squares = a.iter().flat_map(|a| &a.data).map(|v| v * v);
                Array { shape: [1].into(), data: vec![squares.sum::<f64>().sqrt()] }
            }),
            // Sums of at most 64 squares in f32, all positive.
            terms: 64,
            grad_terms: 1,
        }
    }

    /// Rows: one value, one chunk and its edges, many tensors.
    pub(crate) fn table() -> Vec<Case> {
        vec![
            case(&[1], 1.0),
            case(&[4096], 3.0),
            case(&[4097, 4095], 1.0),
            case(&[3, 20_000, 1, 64, 8192, 7], 1e-6),
            case(&[9; 40], 1e3),
            case(&[9; 130], 1.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Address, Purpose};

    #[test]
    fn grad_norm_matches_a_plain_f64_sum() {
        let mut values = vec![0.0_f32; 12_345];
        Address::new(8, Purpose::Test).fill_normal(&mut values);
        let (a, b) = (&values[..12_000], &values[12_000..]);
        let tensors = [Tensor::from_slice(a, [12_000]).unwrap(), Tensor::from_slice(b, [345]).unwrap()];
        let want = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let got = grad_norm(&tensors).unwrap().to_vec::<f64>().unwrap()[0];
        // Sums of at most 64 squares in f32.
        assert!((got / want - 1.0).abs() < 64.0 * f64::from(f32::EPSILON), "{got} {want}");
        let bad = Tensor::from_slice(&[1.0_f32, f32::NAN], [2]).unwrap();
        assert!(!grad_norm([&bad]).unwrap().is_finite().unwrap());
        assert_eq!(grad_norm([]).unwrap().to_vec::<f64>().unwrap(), [0.0]);
    }
}
