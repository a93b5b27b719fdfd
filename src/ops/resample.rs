//! Resampling of images: nearest-neighbour to any size, and the mean of 2×2 pixels.
//!
//! Types    f32 or bf16, as its inputs are.
//! Saved    nothing. Cost: one read of the input, one write of the output.
//! Kernels  `kernels/resample.cu`.
//! Nearest  output pixel y reads input pixel ⌊y·h/h_out⌋, as PyTorch's `interpolate(mode="nearest")`.

use super::{image_shape, with_activation};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Tensor, TensorId};

/// Resizes `x` `[n, h, w, c]` to `[n, h_out, w_out, c]` by repeating the nearest pixel. Differentiable.
///
/// # Errors
/// [`Error::Shape`] if `x` is not an image or a size is 0.
///
/// # Example
/// ```
/// use tweedie::{ops::upsample_nearest, tensor::Tensor};
/// let x = Tensor::from_slice(&[1.0_f32, 2.0], [1, 1, 2, 1])?;
/// assert_eq!(upsample_nearest(&x, 1, 3)?.to_vec::<f32>()?, [1.0, 1.0, 2.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn upsample_nearest(x: &Tensor, h_out: usize, w_out: usize) -> Result<Tensor> {
    let [n, h, w, c] = image_shape("upsample", x)?;
    if [h, w, h_out, w_out].contains(&0) {
        return Err(Error::Shape(format!("upsample: cannot resize {h}x{w} to {h_out}x{w_out}")));
    }
    let sizes = Sizes { n, h, w, c, h_out, w_out };
    let y = match x.device() {
        Device::Cpu => with_activation!(x.dtype(), T => cpu::nearest::<T>(x, sizes))?,
        Device::Cuda(index) => cuda::nearest(index, x, sizes)?,
    };
    Ok(tape::push(y, &[x], || Box::new(Upsample { x: x.grad_slot(), sizes })))
}

/// Means of 2×2 pixels of `x` `[n, h, w, c]`: `[n, h/2, w/2, c]`, an odd last row or column is left out, as
/// PyTorch's `avg_pool2d(2)` does. Differentiable.
///
/// # Errors
/// [`Error::Shape`] if `x` is not an image of at least 2×2.
pub fn mean_pool2(x: &Tensor) -> Result<Tensor> {
    let [n, h, w, c] = image_shape("mean_pool2", x)?;
    if h < 2 || w < 2 {
        return Err(Error::Shape(format!("mean_pool2: wants at least 2x2 pixels, got {h}x{w}")));
    }
    let sizes = Sizes { n, h, w, c, h_out: h / 2, w_out: w / 2 };
    let y = match x.device() {
        Device::Cpu => with_activation!(x.dtype(), T => cpu::mean2::<T>(x, sizes))?,
        Device::Cuda(index) => cuda::mean2(index, x, sizes)?,
    };
    Ok(tape::push(y, &[x], || Box::new(MeanPool { x: x.grad_slot(), sizes })))
}

#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    h_out: usize,
    w_out: usize,
}

struct Upsample {
    x: Option<TensorId>,
    sizes: Sizes,
}

impl Node for Upsample {
    fn name(&self) -> &'static str {
        "upsample"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dx = match dy.device() {
            Device::Cpu => with_activation!(dy.dtype(), T => cpu::nearest_backward::<T>(&dy, self.sizes))?,
            Device::Cuda(index) => cuda::nearest_backward(index, &dy, self.sizes)?,
        };
        grads.add(self.x, dx)
    }
}

struct MeanPool {
    x: Option<TensorId>,
    sizes: Sizes,
}

impl Node for MeanPool {
    fn name(&self) -> &'static str {
        "mean_pool2"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dx = match dy.device() {
            Device::Cpu => with_activation!(dy.dtype(), T => cpu::mean2_backward::<T>(&dy, self.sizes))?,
            Device::Cuda(index) => cuda::mean2_backward(index, &dy, self.sizes)?,
        };
        grads.add(self.x, dx)
    }
}

mod cpu {
    use super::Sizes;
    use crate::device::{Device, DisjointMut, for_each_block, for_each_block_with};
    use crate::error::Result;
    use crate::ops::Activation;
    use crate::tensor::Tensor;

    pub(super) fn nearest<T: Activation>(x: &Tensor, s: Sizes) -> Result<Tensor> {
        let mut y = Tensor::empty([s.n, s.h_out, s.w_out, s.c], T::DTYPE, Device::Cpu)?;
        let x = x.host::<T>()?;
        let out = DisjointMut::new(y.host_mut::<T>()?);
        for_each_block(s.n * s.h_out, 4 * s.w_out * s.c, |row| {
            let (image, oy) = (row / s.h_out, row % s.h_out);
            let source = &x[(image * s.h + oy * s.h / s.h_out) * s.w * s.c..][..s.w * s.c];
            let line = out.slice(row * s.w_out * s.c, s.w_out * s.c);
            for (ox, pixel) in line.chunks_exact_mut(s.c).enumerate() {
                pixel.copy_from_slice(&source[ox * s.w / s.w_out * s.c..][..s.c]);
            }
        });
        Ok(y)
    }

    pub(super) fn nearest_backward<T: Activation>(dy: &Tensor, s: Sizes) -> Result<Tensor> {
        let mut dx = Tensor::empty([s.n, s.h, s.w, s.c], T::DTYPE, Device::Cpu)?;
        let dy = dy.host::<T>()?;
        let out = DisjointMut::new(dx.host_mut::<T>()?);
        // Sums are f32 and rounded once.
        for_each_block_with(s.n * s.h, 4 * s.w_out * s.c, s.w * s.c, |row, line| {
            let (image, iy) = (row / s.h, row % s.h);
            line.fill(0.0);
            // The output rows that read input row iy.
            let (first, last) = ((iy * s.h_out).div_ceil(s.h), ((iy + 1) * s.h_out).div_ceil(s.h));
            for oy in first..last {
                let source = &dy[(image * s.h_out + oy) * s.w_out * s.c..][..s.w_out * s.c];
                for (ox, pixel) in source.chunks_exact(s.c).enumerate() {
                    let target = &mut line[ox * s.w / s.w_out * s.c..][..s.c];
                    target.iter_mut().zip(pixel).for_each(|(t, p)| *t += p.widen());
                }
            }
            let target = out.slice(row * s.w * s.c, s.w * s.c);
            target.iter_mut().zip(line).for_each(|(t, sum)| *t = T::narrow(*sum));
        });
        Ok(dx)
    }

    pub(super) fn mean2<T: Activation>(x: &Tensor, s: Sizes) -> Result<Tensor> {
        let mut y = Tensor::empty([s.n, s.h_out, s.w_out, s.c], T::DTYPE, Device::Cpu)?;
        let x = x.host::<T>()?;
        let out = DisjointMut::new(y.host_mut::<T>()?);
        for_each_block(s.n * s.h_out, 4 * s.w * s.c, |row| {
            let (image, oy) = (row / s.h_out, row % s.h_out);
            let line = out.slice(row * s.w_out * s.c, s.w_out * s.c);
            let pixel = |dy: usize, ox: usize| &x[((image * s.h + 2 * oy + dy) * s.w + ox) * s.c..][..s.c];
            for (ox, target) in line.chunks_exact_mut(s.c).enumerate() {
                let (a, b) = (pixel(0, 2 * ox), pixel(0, 2 * ox + 1));
                let (c, d) = (pixel(1, 2 * ox), pixel(1, 2 * ox + 1));
                for i in 0..s.c {
                    let sum = (a[i].widen() + b[i].widen()) + (c[i].widen() + d[i].widen());
                    target[i] = T::narrow(0.25 * sum);
                }
            }
        });
        Ok(y)
    }

    pub(super) fn mean2_backward<T: Activation>(dy: &Tensor, s: Sizes) -> Result<Tensor> {
        let mut dx = Tensor::zeros([s.n, s.h, s.w, s.c], T::DTYPE, Device::Cpu)?;
        let dy = dy.host::<T>()?;
        let out = DisjointMut::new(dx.host_mut::<T>()?);
        for_each_block(s.n * 2 * s.h_out, 4 * s.w * s.c, |row| {
            let (image, iy) = (row / (2 * s.h_out), row % (2 * s.h_out));
            let source = &dy[(image * s.h_out + iy / 2) * s.w_out * s.c..][..s.w_out * s.c];
            let line = out.slice((image * s.h + iy) * s.w * s.c, 2 * s.w_out * s.c);
            for (ix, pixel) in line.chunks_exact_mut(s.c).enumerate() {
                pixel.iter_mut().zip(&source[ix / 2 * s.c..]).for_each(|(p, g)| *p = T::narrow(0.25 * g.widen()));
            }
        });
        Ok(dx)
    }
}

mod cuda {
    use super::Sizes;
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::{Kernel, resample as kernel};
    use crate::ops::lanes;
    use crate::tensor::{Dtype, Shape, Tensor};

    pub(super) fn nearest(index: usize, x: &Tensor, s: Sizes) -> Result<Tensor> {
        launch(kernel::NEAREST, index, x, [s.n, s.h_out, s.w_out, s.c], s)
    }

    pub(super) fn nearest_backward(index: usize, dy: &Tensor, s: Sizes) -> Result<Tensor> {
        launch(kernel::NEAREST_BACKWARD, index, dy, [s.n, s.h, s.w, s.c], s)
    }

    pub(super) fn mean2(index: usize, x: &Tensor, s: Sizes) -> Result<Tensor> {
        launch(kernel::MEAN, index, x, [s.n, s.h_out, s.w_out, s.c], s)
    }

    pub(super) fn mean2_backward(index: usize, dy: &Tensor, s: Sizes) -> Result<Tensor> {
        launch(kernel::MEAN_BACKWARD, index, dy, [s.n, s.h, s.w, s.c], s)
    }

    /// The four kernels differ in which side they write, `out`.
    fn launch(which: Kernel, index: usize, from: &Tensor, out: [usize; 4], s: Sizes) -> Result<Tensor> {
        let [n, h, w, c] = out;
        let mut target = Tensor::empty(Shape::from(out), Dtype::F32, Device::Cuda(index))?;
        size(s.w.max(s.w_out) * c)?;
        let lanes = lanes(&[c]);
        let units = w * c / lanes;
        let threads = units.next_multiple_of(32).clamp(32, 256) as u32;
        let args = args![
            from.cuda_as::<f32>()?,
            target.cuda_mut()?,
            (n * h) as u64,
            size(s.h)?,
            size(s.w)?,
            size(c / lanes)?,
            size(s.h_out)?,
            size(s.w_out)?,
            size(lanes)?
        ];
        let geometry = Geometry::per_image(n * h, units, threads)?;
        // SAFETY: x-like tensors hold n·h·w·c f32 and y-like ones n·h_out·w_out·c (checked where `s` is made, and `from` is the side that
        // is not written); a thread writes its columns of n·h rows and reads what belongs to them; all four kernels take these arguments.
        unsafe { gpu(index)?.launch(which, geometry, &args) }?;
        Ok(target)
    }
}

#[doc(hidden)]
pub mod cases {
    use super::{mean_pool2, upsample_nearest};
    use crate::testing::{Array, Case};

    /// Nearest neighbour to `h_out`×`w_out`.
    pub fn nearest(x: [usize; 4], h_out: usize, w_out: usize, seed: u64) -> Case {
        let [n, h, w, c] = x;
        Case {
            op: "upsample",
            label: format!("{x:?} to {h_out}x{w_out}"),
            inputs: vec![Array::normal(x, seed, 1.0, 0.0)],
            differentiable: vec![true],
            run: Box::new(move |t| upsample_nearest(&t[0], h_out, w_out)),
            oracle: Box::new(move |a| {
                let mut y = Array::zeros([n, h_out, w_out, c]);
                for (k, v) in y.data.iter_mut().enumerate() {
                    let (i, oy, ox, ch) = (k / (h_out * w_out * c), k / (w_out * c) % h_out, k / c % w_out, k % c);
                    *v = a[0].data[((i * h + oy * h / h_out) * w + ox * w / w_out) * c + ch];
                }
                y
            }),
            terms: 1,
            grad_terms: (h_out / h + 1) * (w_out / w + 1),
        }
    }

    /// Mean of 2×2.
    pub fn mean(x: [usize; 4], seed: u64) -> Case {
        let [n, h, w, c] = x;
        Case {
            op: "mean_pool2",
            label: format!("{x:?}"),
            inputs: vec![Array::normal(x, seed, 1.0, 0.0)],
            differentiable: vec![true],
            run: Box::new(|t| mean_pool2(&t[0])),
            oracle: Box::new(move |a| {
                let mut y = Array::zeros([n, h / 2, w / 2, c]);
                for (k, v) in y.data.iter_mut().enumerate() {
                    let (i, oy, ox, ch) =
                        (k / (h / 2 * (w / 2) * c), k / (w / 2 * c) % (h / 2), k / c % (w / 2), k % c);
                    let at = |dy: usize, dx: usize| a[0].data[((i * h + 2 * oy + dy) * w + 2 * ox + dx) * c + ch];
                    *v = (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0;
                }
                y
            }),
            terms: 4,
            grad_terms: 1,
        }
    }

    /// Rows: doubling, an odd size, a size that is no multiple, shrinking, odd pooling; channels one and four at a time, more columns
    /// than a thread block.
    pub fn table() -> Vec<Case> {
        vec![
            nearest([2, 3, 2, 8], 6, 4, 76),
            nearest([1, 3, 3, 4], 5, 7, 77),
            nearest([1, 2, 40, 32], 3, 80, 78),
            mean([1, 4, 4, 8], 79),
            mean([2, 3, 5, 4], 170),
            mean([1, 2, 90, 32], 171),
            // More rows than a grid has in y.
            nearest([65_540, 1, 1, 1], 1, 2, 172),
            mean([65_540, 2, 2, 1], 173),
            nearest([2, 3, 4, 3], 6, 8, 70),
            nearest([1, 3, 2, 2], 5, 3, 71),
            nearest([1, 1, 1, 5], 2, 1, 72),
            nearest([1, 5, 4, 2], 3, 4, 73),
            mean([2, 4, 6, 3], 74),
            mean([1, 5, 3, 2], 75),
        ]
    }
}
