//! Reductions over many tensors: the global norm of all gradients.
//!
//! Order    f32 squares summed in blocks of 1024 elements, blocks and tensors added in f64 in order.

use crate::device::{Device, DisjointMut, Scratch, for_each_block, no_kernel};
use crate::error::Result;
use crate::tensor::Tensor;

/// √Σ g² over all elements of all tensors; not finite if any element is not.
///
/// # Errors
/// [`crate::Error::Dtype`] for tensors that are not f32.
///
/// # Example
/// ```
/// use tweedie::{ops::grad_norm, tensor::Tensor};
/// let (a, b) = (Tensor::from_slice(&[3.0_f32], [1])?, Tensor::from_slice(&[0.0_f32, 4.0], [2])?);
/// assert_eq!(grad_norm([&a, &b])?, 5.0);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn grad_norm<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<f64> {
    let mut total = 0.0;
    for tensor in tensors {
        total += match tensor.device() {
            Device::Cpu => sum_of_squares(tensor.host()?),
            device => return Err(no_kernel("grad_norm", device)),
        };
    }
    Ok(total.sqrt())
}

fn sum_of_squares(x: &[f32]) -> f64 {
    const BLOCK: usize = 1024;
    const LANES: usize = 16;
    let blocks = x.len().div_ceil(BLOCK);
    let mut partial = Scratch::<f64>::take(blocks);
    let out = DisjointMut::new(&mut partial);
    for_each_block(blocks, 2 * BLOCK, |block| {
        let part = &x[block * BLOCK..x.len().min((block + 1) * BLOCK)];
        let mut lanes = [0.0_f32; LANES];
        for chunk in part.chunks(LANES) {
            for (lane, v) in lanes.iter_mut().zip(chunk) {
                *lane += v * v;
            }
        }
        out.slice(block, 1)[0] = lanes.iter().map(|v| f64::from(*v)).sum();
    });
    partial.iter().sum()
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
        let got = grad_norm(&tensors).unwrap();
        // Sums of at most 64 squares in f32.
        assert!((got / want - 1.0).abs() < 64.0 * f64::from(f32::EPSILON), "{got} {want}");
        let bad = Tensor::from_slice(&[1.0_f32, f32::NAN], [2]).unwrap();
        assert!(!grad_norm([&bad]).unwrap().is_finite());
    }
}
