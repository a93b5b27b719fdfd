//! Shapes of at most five axes, stored in place.

use crate::error::{Error, Result};
use std::fmt;
use std::ops::Deref;

const MAX_RANK: usize = 5;

/// The sizes of a tensor's axes, the last one contiguous. Images are `[n, h, w, c]`, sequences `[n, t, c]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    sizes: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The product of all sizes; 1 for a scalar.
    pub fn count(&self) -> usize {
        self.iter().product()
    }

    /// The same, if a number of bytes can still be told of so many elements.
    pub(crate) fn checked_count(&self) -> Result<usize> {
        let count = self.iter().try_fold(1_usize, |count, size| count.checked_mul(*size));
        count.filter(|count| *count <= isize::MAX as usize / 8).ok_or_else(|| {
            Error::Shape(format!(
                "tensor: shape {self} has more elements than memory can be addressed for; use smaller sizes"
            ))
        })
    }

    /// The last size (channels), 1 for a scalar.
    pub fn last_size(&self) -> usize {
        self.last().copied().unwrap_or(1)
    }

    /// `[n, h, w, c]` if the shape has four axes.
    pub fn nhwc(&self) -> Option<[usize; 4]> {
        <[usize; 4]>::try_from(&self[..]).ok()
    }

    /// The same shape with another number of rows, its first size.
    pub fn with_rows(mut self, rows: usize) -> Shape {
        if self.rank > 0 {
            self.sizes[0] = rows;
        }
        self
    }

    /// The same shape with another last size.
    pub fn with_last(mut self, size: usize) -> Shape {
        if self.rank > 0 {
            self.sizes[self.rank - 1] = size;
        }
        self
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }
}

impl From<&[usize]> for Shape {
    /// # Panics
    /// For more than five axes: no op of the crate has them, and readers of files check before.
    fn from(sizes: &[usize]) -> Shape {
        assert!(sizes.len() <= MAX_RANK, "a tensor has at most {MAX_RANK} axes, got {sizes:?}");
        let mut shape = Shape { sizes: [0; MAX_RANK], rank: sizes.len() };
        shape.sizes[..sizes.len()].copy_from_slice(sizes);
        shape
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(sizes: [usize; N]) -> Shape {
        Shape::from(&sizes[..])
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, size) in self.iter().enumerate() {
            write!(f, "{}{size}", if i > 0 { "," } else { "" })?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::tensor::{Dtype, Tensor};

    #[test]
    fn sizes_whose_product_overflows_are_refused() {
        let huge = 1_usize << 32;
        for shape in [[huge, huge], [usize::MAX, 2], [1 << 62, 1], [usize::MAX, 0]].map(Shape::from) {
            let refused = shape != Shape::from([usize::MAX, 0]);
            assert_eq!(shape.checked_count().is_err(), refused, "{shape}");
            assert_eq!(Tensor::zeros(shape, Dtype::F32, Device::Cpu).is_err(), refused, "{shape}");
            assert_eq!(Tensor::from_slice::<f32>(&[], shape).is_err(), refused, "{shape}");
        }
        let one = Tensor::from_slice(&[1.0_f32], [1]).unwrap();
        assert!(one.view([huge, huge]).is_err() && one.rows(1, usize::MAX).is_err());
        assert_eq!(Tensor::from_slice::<f32>(&[], [0, 4]).unwrap().rows(0, 0).unwrap().shape()[..], [0, 4]);
    }
}
