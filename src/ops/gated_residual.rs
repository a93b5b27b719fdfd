//! Gated residual sum: y = x + gate·branch, one gate for each sample and channel (the gates of adaLN-zero, Peebles & Xie 2023).
//!
//! Saved    branch and gate (shared).
//! Cost     two reads and a write forward; backward reads dy and branch and writes one: memory bound.
//! Order    dgate sums blocks of 64 rows of a sample, blocks added in f64 in order.
//! Kernels  `kernels/gated_residual.cu`; its sums over rows are those of `linear`.

use super::same_device;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Tensor, TensorId};

/// `x + gate·branch`.
///
/// * `x`, `branch` — `[n, …, c]`, f32
/// * `gate` — `[n, c]`: one for each sample
///
/// Returns the shape of `x`, on its device. Differentiable in every argument.
///
/// # Errors
/// [`Error::Shape`] if a shape disagrees; [`Error::Device`] if the arguments live on different devices.
///
/// # Example
/// ```
/// use tweedie::{ops, tensor::Tensor};
/// let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], [1, 2, 2])?;
/// let gate = Tensor::from_slice(&[0.0_f32, 10.0], [1, 2])?;
/// assert_eq!(ops::gated_residual(&x, &x, &gate)?.to_vec::<f32>()?, [1.0, 22.0, 3.0, 44.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn gated_residual(x: &Tensor, branch: &Tensor, gate: &Tensor) -> Result<Tensor> {
    let shape = x.shape();
    if shape.len() < 2 || branch.shape() != shape {
        let other = branch.shape();
        return Err(Error::Shape(format!(
            "gated_residual: x and branch want one shape [n,…,c], got {shape} and {other}"
        )));
    }
    let (n, c) = (shape[0], shape.last_size());
    if gate.shape()[..] != [n, c] {
        return Err(Error::Shape(format!("gated_residual: gate wants [{n},{c}], got {}", gate.shape())));
    }
    let y = match same_device("gated_residual", &[x, branch, gate])? {
        Device::Cpu => cpu::forward(x, branch, gate)?,
        Device::Cuda(index) => cuda::forward(index, x, branch, gate)?,
    };
    Ok(tape::push(y, &[x, branch, gate], || {
        Box::new(GatedResidual { x: x.grad_slot(), branch: branch.clone(), gate: gate.clone() })
    }))
}

struct GatedResidual {
    x: Option<TensorId>,
    branch: Tensor,
    gate: Tensor,
}

impl Node for GatedResidual {
    fn name(&self) -> &'static str {
        "gated_residual"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (dbranch, dgate) = match dy.device() {
            Device::Cpu => cpu::backward(&self.branch, &self.gate, &dy)?,
            Device::Cuda(index) => cuda::backward(index, &self.branch, &self.gate, &dy)?,
        };
        grads.add(self.branch.grad_slot(), dbranch)?;
        grads.add(self.gate.grad_slot(), dgate)?;
        grads.add(self.x, dy)
    }
}

/// Samples, rows of one, channels.
fn sizes(x: &Tensor) -> [usize; 3] {
    let (n, c) = (x.shape()[0], x.shape().last_size());
    [n, x.count() / (n * c).max(1), c]
}

mod cpu {
    use crate::device::{Device, DisjointMut, Scratch, for_each_block};
    use crate::error::Result;
    use crate::ops::narrow;
    use crate::simd::{Kernel, Lanes, dispatch, for_vectors, get, put};
    use crate::tensor::{Dtype, Tensor};

    /// Rows of a job.
    const BLOCK: usize = 64;

    struct Forward<'a> {
        x: &'a [f32],
        branch: &'a [f32],
        gate: &'a [f32],
        y: &'a mut [f32],
    }

    impl Kernel for Forward<'_> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self) {
            let Forward { x, branch, gate, y } = self;
            let c = gate.len();
            for ((x, branch), y) in x.chunks_exact(c).zip(branch.chunks_exact(c)).zip(y.chunks_exact_mut(c)) {
                for_vectors!(V, c, |i, len| {
                    put(get::<V>(branch, i, len).mul_add(get(gate, i, len), get(x, i, len)), y, i, len);
                });
            }
        }
    }

    /// dbranch = dy·gate, and Σ dy·branch over the rows.
    struct Backward<'a> {
        branch: &'a [f32],
        gate: &'a [f32],
        dy: &'a [f32],
        dbranch: &'a mut [f32],
        sums: &'a mut [f32],
    }

    impl Kernel for Backward<'_> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self) {
            let Backward { branch, gate, dy, dbranch, sums } = self;
            let c = gate.len();
            sums.fill(0.0);
            let rows = branch.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dbranch.chunks_exact_mut(c));
            for ((branch, dy), dbranch) in rows {
                for_vectors!(V, c, |i, len| {
                    let d = get::<V>(dy, i, len);
                    put(d.mul(get(gate, i, len)), dbranch, i, len);
                    put(d.mul_add(get(branch, i, len), get(sums, i, len)), sums, i, len);
                });
            }
        }
    }

    pub(super) fn forward(x: &Tensor, branch: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let [n, rows, c] = super::sizes(x);
        let mut y = Tensor::empty(x.shape(), Dtype::F32, Device::Cpu)?;
        let (x, branch, gate) = (x.host::<f32>()?, branch.host::<f32>()?, gate.host::<f32>()?);
        let out = DisjointMut::new(y.host_mut::<f32>()?);
        let blocks = rows.div_ceil(BLOCK);
        for_each_block(n * blocks, 4 * BLOCK.min(rows) * c, |job| {
            let (sample, start) = (job / blocks, job % blocks * BLOCK);
            let (at, len) = ((sample * rows + start) * c, BLOCK.min(rows - start) * c);
            let gate = &gate[sample * c..][..c];
            dispatch(Forward { x: &x[at..at + len], branch: &branch[at..at + len], gate, y: out.slice(at, len) });
        });
        Ok(y)
    }

    pub(super) fn backward(branch: &Tensor, gate: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        let [n, rows, c] = super::sizes(dy);
        let mut dbranch = Tensor::empty(dy.shape(), Dtype::F32, Device::Cpu)?;
        let (branch, gate, dy) = (branch.host::<f32>()?, gate.host::<f32>()?, dy.host::<f32>()?);
        let blocks = rows.div_ceil(BLOCK);
        let mut partial = Scratch::<f32>::take(n * blocks * c);
        let (out, parts) = (DisjointMut::new(dbranch.host_mut::<f32>()?), DisjointMut::new(&mut partial));
        for_each_block(n * blocks, 6 * BLOCK.min(rows) * c, |job| {
            let (sample, start) = (job / blocks, job % blocks * BLOCK);
            let (at, len) = ((sample * rows + start) * c, BLOCK.min(rows - start) * c);
            dispatch(Backward {
                branch: &branch[at..at + len],
                gate: &gate[sample * c..][..c],
                dy: &dy[at..at + len],
                dbranch: out.slice(at, len),
                sums: parts.slice(job * c, c),
            });
        });
        let mut sums = Scratch::<f64>::zeroed(n * c);
        for (block, line) in partial.chunks_exact(c.max(1)).enumerate() {
            let sums = &mut sums[block / blocks.max(1) * c..][..c];
            sums.iter_mut().zip(line).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        Ok((dbranch, narrow(&sums, [n, c])?))
    }
}

mod cuda {
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::gated_residual as kernel;
    use crate::ops::linear::cuda::sum_rows;
    use crate::tensor::{Dtype, Tensor};

    pub(super) fn forward(index: usize, x: &Tensor, branch: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let [_, rows, c] = super::sizes(x);
        let mut y = Tensor::empty(x.shape(), Dtype::F32, Device::Cuda(index))?;
        let (count, rows, c) = (y.count(), size(rows)?, size(c)?);
        let (x, branch, gate) = (x.cuda_as::<f32>()?, branch.cuda_as::<f32>()?, gate.cuda_as::<f32>()?);
        let args = args![x, branch, gate, y.cuda_mut()?, count as u64, rows, c];
        // SAFETY: x, branch and y hold n·rows·c f32, gate n·c (checked in `gated_residual`); a thread has an element below the count; order and
        // types are those of `gated_residual_forward`.
        unsafe { gpu(index)?.launch(kernel::FORWARD, Geometry::covering(count, 256)?, &args) }?;
        Ok(y)
    }

    pub(super) fn backward(index: usize, branch: &Tensor, gate: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        let [n, rows, c] = super::sizes(dy);
        let gpu = gpu(index)?;
        let mut dbranch = Tensor::empty(dy.shape(), Dtype::F32, Device::Cuda(index))?;
        let count = dbranch.count();
        // dy·branch, which is then summed over rows.
        let mut products = gpu.take(count * size_of::<f32>())?;
        let (branch, gate, dy) = (branch.cuda_as::<f32>()?, gate.cuda_as::<f32>()?, dy.cuda_as::<f32>()?);
        let args = args![branch, gate, dy, dbranch.cuda_mut()?, &mut products, count as u64, size(rows)?, size(c)?];
        // SAFETY: branch, dy, dbranch and products hold n·rows·c f32, gate n·c; a thread has an element below the count; order and types are
        // those of `gated_residual_backward`.
        unsafe { gpu.launch(kernel::BACKWARD, Geometry::covering(count, 256)?, &args) }?;
        Ok((dbranch, sum_rows(index, &products, [n, rows, c], [n, c])?))
    }
}

#[doc(hidden)]
pub mod cases {
    use super::gated_residual;
    use crate::testing::{Array, Case};

    /// `n` samples of `rows` rows of `c` channels.
    pub fn case([n, rows, c]: [usize; 3], seed: u64) -> Case {
        let shape = [n, rows, c];
        Case {
            op: "gated_residual",
            label: format!("{n}x{rows}x{c}"),
            inputs: vec![
                Array::normal(shape, seed, 1.0, 0.0),
                Array::normal(shape, seed + 1, 1.0, 0.0),
                Array::normal([n, c], seed + 2, 1.0, 0.0),
            ],
            differentiable: vec![true; 3],
            run: Box::new(|t| gated_residual(&t[0], &t[1], &t[2])),
            oracle: Box::new(move |a| {
                let mut y = a[0].clone();
                for (i, y) in y.data.iter_mut().enumerate() {
                    *y += a[1].data[i] * a[2].data[i / (rows * c) * c + i % c];
                }
                y
            }),
            terms: 2,
            grad_terms: rows,
        }
    }

    /// Rows: size 1, an odd width, whole vectors, more rows than a block, more elements than a thread block.
    pub fn table() -> Vec<Case> {
        [[1, 1, 1], [2, 3, 5], [3, 65, 16], [2, 130, 33]].map(|shape| case(shape, 390)).into_iter().collect()
    }
}
