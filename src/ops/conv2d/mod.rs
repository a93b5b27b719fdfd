//! 2-D convolution as implicit GEMM: y = conv(x, weight) + bias (+ per-image vector) (+ residual).
//!
//! Layout   x `[n,h,w,c_in]`, weight `[c_out,kh,kw,c_in]`, y `[n,h_out,w_out,c_out]`.
//! Method   each job copies the rows of x that it reads, with zeros around them; a row of the product is one output pixel, whose kh runs
//!          of kw·c_in values lie there as they are, so nothing is unfolded. The input gradient is the same product with
//!          padded dy and the weight's taps reversed, one class of pixels for each residue modulo the stride. The weight
//!          gradient sums outer products over pixels. On the CPU 3×3 kernels of stride 1 may go by Winograd's transforms instead
//!          (`winograd.rs`, chosen by `method.rs`).
//! Types    x, y and the residual may be bf16 (`bf16.rs`); weight, bias and their gradients are f32, and so are all sums.
//! Saved    x and the weight (shared, not copied).
//! Cost     2·kh·kw·c_in·c_out flops per output pixel forward, twice that backward; by Winograd 4/9 or 1/4 of it.
//! Exact    F(2×2) doubles the root mean square of rounding errors at most, F(4×4) makes it 7.2 times as large (derived in `method.rs`, and
//!          the bound of the case table). A value that is not finite spreads to the outputs of its tile.
//! Order    outputs sum (kh, kw, c_in) in order; dweight sums pixels in order; results do not depend on threads or batch. On a GPU
//!          dweight, dbias and dper_image sum ranges of pixels that depend on the shape alone, and add those in order.
//! Kernels  `kernels/conv2d.cu` and `kernels/gemm.cuh`; sums over pixels and 1×1 convolutions are those of `linear`.

mod bf16;
#[doc(hidden)]
pub mod cases;
mod cpu;
mod cuda;
mod method;
mod padded;
mod windows;
mod winograd;

pub use method::{CONV_ACCURACIES, ConvAccuracy, conv_accuracy, forced_conv_method, set_conv_accuracy};

use super::{image_shape, narrow, same_device, sum_rows};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Dtype, Shape, Tensor, TensorId};
use method::Methods;

/// Stride and zero padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Step between output pixels, 1 or more.
    pub stride: usize,
    /// Zeros above and left.
    pub pad_before: usize,
    /// Zeros below and right.
    pub pad_after: [usize; 2],
}

impl Conv {
    /// Stride 1, output size equal to the input's for a kernel of odd size `k`.
    pub fn same(k: usize) -> Conv {
        Conv { stride: 1, pad_before: k / 2, pad_after: [k / 2; 2] }
    }

    /// Output size along `axis` (0 rows, 1 columns), if the kernel fits.
    fn out_size(&self, axis: usize, size: usize, k: usize) -> Option<usize> {
        let padded = size.checked_add(self.pad_before)?.checked_add(self.pad_after[axis])?;
        padded.checked_sub(k).map(|room| room / self.stride + 1)
    }
}

/// What the convolution adds to its result in the same pass.
#[derive(Clone, Copy, Default)]
pub struct ConvExtras<'a> {
    /// `[n, c_out]`, the same for all pixels of an image: a time embedding.
    pub per_image: Option<&'a Tensor>,
    /// `[n, h_out, w_out, c_out]`: a residual.
    pub residual: Option<&'a Tensor>,
}

/// Sizes of one convolution.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    n: usize,
    h: usize,
    w: usize,
    c_in: usize,
    c_out: usize,
    kh: usize,
    kw: usize,
    h_out: usize,
    w_out: usize,
    conv: Conv,
    /// How the CPU computes it and its gradients.
    methods: Methods,
}

/// Convolves images.
///
/// * `x` — `[n, h, w, c_in]`
/// * `weight` — `[c_out, kh, kw, c_in]`
/// * `bias` — `[c_out]`
/// * `conv` — stride and padding
/// * `extras` — what is added to the result
///
/// Returns `[n, h_out, w_out, c_out]` with `h_out = (h + padding − kh)/stride + 1`, on the device of `x`; `n` may be 0.
/// Differentiable in every tensor argument.
///
/// # Errors
/// [`Error::Shape`] if sizes disagree or the padded image is smaller than the kernel; [`Error::Device`] if the
/// arguments live on different devices.
///
/// # Example
/// ```
/// use tweedie::{ops::{conv2d, Conv}, tensor::Tensor};
/// let x = Tensor::from_slice(&[1.0_f32; 9], [1, 3, 3, 1])?;
/// let weight = Tensor::from_slice(&[1.0_f32; 9], [1, 3, 3, 1])?;
/// let y = conv2d(&x, &weight, None, Conv::same(3), Default::default())?;
/// assert_eq!(y.to_vec::<f32>()?, [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    conv: Conv,
    extras: ConvExtras<'_>,
) -> Result<Tensor> {
    let sizes = check(x, weight, bias, conv, extras)?;
    let inputs: Vec<&Tensor> =
        [x, weight].into_iter().chain(bias).chain(extras.per_image).chain(extras.residual).collect();
    let y = match same_device("conv2d", &inputs)? {
        Device::Cpu => cpu::forward(x, weight, bias, extras, sizes)?,
        Device::Cuda(index) => cuda::forward(index, x, weight, bias, extras, sizes)?,
    };
    Ok(tape::push(y, &inputs, || {
        Box::new(Conv2d {
            x: x.clone(),
            weight: weight.clone(),
            bias: bias.and_then(Tensor::grad_slot),
            per_image: extras.per_image.and_then(Tensor::grad_slot),
            residual: extras.residual.and_then(Tensor::grad_slot),
            sizes,
        })
    }))
}

fn check(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv, extras: ConvExtras<'_>) -> Result<Sizes> {
    let [n, h, w, c_in] = image_shape("conv2d", x)?;
    let Some([c_out, kh, kw, wants]) = weight.shape().nhwc() else {
        return Err(Error::Shape(format!("conv2d: weight wants [c_out,kh,kw,c_in], got {}", weight.shape())));
    };
    if wants != c_in {
        let (ws, xs) = (weight.shape(), x.shape());
        return Err(Error::Shape(format!("conv2d: weight {ws} wants c_in = {wants}, but x {xs} has c = {c_in}")));
    }
    if conv.stride == 0 || kh == 0 || kw == 0 {
        let stride = conv.stride;
        return Err(Error::Shape(format!("conv2d: stride {stride} and kernel {kh}x{kw}; use 1 or more of each")));
    }
    // A step past the padded image is as good as any longer one.
    let padding = conv.pad_before.saturating_add(conv.pad_after[0].max(conv.pad_after[1]));
    let conv = Conv { stride: conv.stride.min(h.max(w).saturating_add(padding).max(1)), ..conv };
    let (Some(h_out), Some(w_out)) = (conv.out_size(0, h, kh), conv.out_size(1, w, kw)) else {
        return Err(Error::Shape(format!(
            "conv2d: kernel {kh}x{kw} does not fit into the image {h}x{w} padded by {conv:?}; pad more, or less"
        )));
    };
    Shape::from([n, h_out, w_out, c_out]).checked_count()?;
    if let Some(b) = bias.filter(|b| b.shape()[..] != [c_out]) {
        return Err(Error::Shape(format!("conv2d: bias wants [{c_out}], got {}", b.shape())));
    }
    if let Some(p) = extras.per_image.filter(|p| p.shape()[..] != [n, c_out]) {
        return Err(Error::Shape(format!("conv2d: per-image vector wants [{n},{c_out}], got {}", p.shape())));
    }
    if let Some(r) = extras.residual.filter(|r| r.shape()[..] != [n, h_out, w_out, c_out]) {
        let got = r.shape();
        return Err(Error::Shape(format!("conv2d: residual wants [{n},{h_out},{w_out},{c_out}], got {got}")));
    }
    // Chosen once: a gradient takes the accuracy that its forward had.
    let methods = match n {
        0 => Methods::default(),
        _ => method::choose(conv, [kh, kw], x.dtype(), [h, w, c_in], [h_out, w_out, c_out]),
    };
    Ok(Sizes { n, h, w, c_in, c_out, kh, kw, h_out, w_out, conv, methods })
}

struct Conv2d {
    x: Tensor,
    weight: Tensor,
    bias: Option<TensorId>,
    per_image: Option<TensorId>,
    residual: Option<TensorId>,
    sizes: Sizes,
}

impl Node for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        match dy.device() {
            Device::Cpu => self.backward_cpu(&dy, grads)?,
            Device::Cuda(index) => self.backward_cuda(index, &dy, grads)?,
        }
        grads.add(self.residual, dy)
    }
}

impl Conv2d {
    fn backward_cpu(&self, dy: &Tensor, grads: &mut Grads) -> Result<()> {
        let Sizes { n, c_out, .. } = self.sizes;
        if self.bias.is_some() || self.per_image.is_some() {
            let sums = sum_rows(dy, n, c_out)?;
            if self.per_image.is_some() {
                grads.add(self.per_image, narrow(&sums, [n, c_out])?)?;
            }
            if self.bias.is_some() {
                let mut dbias = Tensor::empty([c_out], Dtype::F32, Device::Cpu)?;
                for (j, b) in dbias.host_mut::<f32>()?.iter_mut().enumerate() {
                    *b = (0..n).map(|i| sums[i * c_out + j]).sum::<f64>() as f32;
                }
                grads.add(self.bias, dbias)?;
            }
        }
        if self.weight.requires_grad() {
            grads.add(self.weight.grad_slot(), cpu::backward_weight(&self.x, dy, self.sizes)?)?;
        }
        if self.x.requires_grad() {
            grads.add(self.x.grad_slot(), cpu::backward_x(&self.weight, dy, self.sizes)?)?;
        }
        Ok(())
    }

    fn backward_cuda(&self, index: usize, dy: &Tensor, grads: &mut Grads) -> Result<()> {
        let (x, weight, s) = (&self.x, &self.weight, self.sizes);
        let (dper_image, dbias) = cuda::backward_sums(index, dy, s, self.per_image.is_some(), self.bias.is_some())?;
        dper_image.map_or(Ok(()), |sums| grads.add(self.per_image, sums))?;
        dbias.map_or(Ok(()), |sums| grads.add(self.bias, sums))?;
        if weight.requires_grad() {
            grads.add(weight.grad_slot(), cuda::backward_weight(index, x, weight, dy, s)?)?;
        }
        if x.requires_grad() {
            grads.add(x.grad_slot(), cuda::backward_x(index, x, weight, dy, s)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::Tape;

    fn image(shape: [usize; 4], dtype: Dtype) -> Tensor {
        let x = Tensor::zeros(shape, Dtype::F32, Device::Cpu).unwrap();
        crate::ops::cast(&x, dtype).unwrap().with_grad(true)
    }

    #[test]
    fn no_images_give_no_images_and_gradients_of_zero() {
        let weight = Tensor::from_slice(&vec![1.0_f32; 32 * 9 * 32], [32, 3, 3, 32]).unwrap().with_grad(true);
        let down = Conv { stride: 2, pad_before: 1, pad_after: [1; 2] };
        for (dtype, conv) in [(Dtype::F32, Conv::same(3)), (Dtype::Bf16, Conv::same(3)), (Dtype::F32, down)] {
            let x = image([0, 8, 8, 32], dtype);
            let (y, tape) = Tape::record(|| conv2d(&x, &weight, None, conv, ConvExtras::default())).unwrap();
            assert_eq!(y.shape()[..], [0, 8 / conv.stride, 8 / conv.stride, 32]);
            let mut grads = Grads::new();
            tape.backward(&y, y.clone(), &mut grads).unwrap();
            assert_eq!(grads.get(&x).unwrap().shape(), x.shape());
            assert!(grads.get(&weight).unwrap().to_vec::<f32>().unwrap().iter().all(|v| *v == 0.0));
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_and_a_long_stride_takes_the_first_pixel() {
        let x = image([1, 8, 8, 2], Dtype::F32);
        let run = |[kh, kw]: [usize; 2], stride, pad_before, pad_after| {
            let weight = Tensor::from_slice(&vec![1.0_f32; 6 * kh * kw], [3, kh, kw, 2]).unwrap();
            let y = conv2d(&x, &weight, None, Conv { stride, pad_before, pad_after }, ConvExtras::default());
            y.map(|y| y.shape().to_vec()).map_err(|e| e.to_string())
        };
        for (kernel, stride, before, after) in [
            ([0, 3], 1, 1, [1; 2]),
            ([3, 0], 1, 1, [1; 2]),
            ([3, 3], 0, 1, [1; 2]),
            ([9, 9], 1, 0, [0; 2]),
            ([3, 3], 1, usize::MAX, [1; 2]),
            ([3, 3], 1, 1, [1, usize::MAX]),
            ([3, 3], 1, 1 << 61, [1; 2]),
        ] {
            assert!(run(kernel, stride, before, after).is_err(), "{kernel:?} {stride} {before} {after:?}");
        }
        for stride in [9, 100, usize::MAX] {
            assert_eq!(run([3, 3], stride, 1, [1; 2]).unwrap(), [1, 1, 1, 3]);
        }
    }
}
