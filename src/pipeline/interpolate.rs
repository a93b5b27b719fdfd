//! Strips between two samples: spherical interpolation of their starts x_T (Shoemake 1985; Song et al. 2021, DDIM, appendix D.5).

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// `count` points from `a` to `b`, `[count, …]`, on the arc between them: sin((1−s)θ)/sin θ·a + sin(sθ)/sin θ·b, s from 0 to 1, θ their angle.
///
/// Of two independent normals of d values θ is π/2 up to 1/√d, and each point is a normal of the same variance again, which points on the
/// straight line are not. The ends have the bits of `a` and `b`. Points of one direction are interpolated on the line.
///
/// * `a`, `b` — `[1, …]`, f32
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or are not of one row; [`Error::Usage`] for fewer than two points.
///
/// # Example
/// ```
/// use tweedie::{pipeline::slerp, tensor::Tensor};
/// let (a, b) = (Tensor::from_slice(&[1.0_f32, 0.0], [1, 2])?, Tensor::from_slice(&[0.0_f32, 1.0], [1, 2])?);
/// let half = slerp(&a, &b, 3)?.to_vec::<f32>()?[2..4].to_vec();
/// assert!(half.iter().all(|x| (x - 0.5_f32.sqrt()).abs() < 1e-6));
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn slerp(a: &Tensor, b: &Tensor, count: usize) -> Result<Tensor> {
    if a.shape() != b.shape() || a.shape().first() != Some(&1) {
        return Err(Error::Shape(format!(
            "slerp: expected two points [1,…] of one shape, got {}, {}",
            a.shape(),
            b.shape()
        )));
    }
    if count < 2 {
        return Err(Error::Usage(format!("--count {count}: a strip has at least its 2 ends")));
    }
    let (x, y) = (a.host::<f32>()?, b.host::<f32>()?);
    let dot = |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let cos = dot(x, y) / (dot(x, x) * dot(y, y)).sqrt();
    // A NaN, of a point at 0, has no direction either.
    let angle = if cos.abs() < 1.0 - 1e-9 { cos.acos() } else { 0.0 };
    let mut values = Vec::with_capacity(count * x.len());
    for i in 0..count {
        let s = i as f64 / (count - 1) as f64;
        let (from, to) = match angle {
            0.0 => (1.0 - s, s),
            _ if i == 0 => (1.0, 0.0),
            _ if i == count - 1 => (0.0, 1.0),
            _ => (((1.0 - s) * angle).sin() / angle.sin(), (s * angle).sin() / angle.sin()),
        };
        values.extend(x.iter().zip(y).map(|(x, y)| (from * f64::from(*x) + to * f64::from(*y)) as f32));
    }
    Tensor::from_slice(&values, a.shape().with_rows(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Address, Purpose};

    fn normals(seed: u64, d: usize) -> Tensor {
        let mut z = vec![0.0_f32; d];
        Address::new(seed, Purpose::Test).fill_normal(&mut z);
        Tensor::from_slice(&z, [1, d]).unwrap()
    }

    #[test]
    fn the_ends_are_the_points_and_what_lies_between_has_the_variance_of_a_normal() {
        const D: usize = 4096;
        let (a, b) = (normals(1, D), normals(2, D));
        let strip = slerp(&a, &b, 9).unwrap();
        let rows: Vec<Vec<f32>> = strip.to_vec::<f32>().unwrap().chunks(D).map(<[f32]>::to_vec).collect();
        assert_eq!(rows[0], a.to_vec::<f32>().unwrap());
        assert_eq!(rows[8], b.to_vec::<f32>().unwrap());
        let square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / D as f64;
        // A mean of 4096 squares of normals has the standard deviation √(2/4096) = 0.022; the middle of the straight line has 0.5.
        assert!(
            rows.iter().all(|row| (square(row) - 1.0).abs() < 0.1),
            "{:?}",
            rows.iter().map(|r| square(r)).collect::<Vec<_>>()
        );
        // Equal steps of the angle: each neighbour is as far as the next.
        let step = |i: usize| rows[i].iter().zip(&rows[i + 1]).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
        assert!((1..8).all(|i| (step(i) / step(0) - 1.0).abs() < 0.1));
    }

    #[test]
    fn points_of_one_direction_or_none_are_joined_by_a_line() {
        let a = Tensor::from_slice(&[1.0_f32, 2.0], [1, 2]).unwrap();
        let twice = Tensor::from_slice(&[2.0_f32, 4.0], [1, 2]).unwrap();
        assert_eq!(slerp(&a, &twice, 3).unwrap().to_vec::<f32>().unwrap()[2..4], [1.5, 3.0]);
        let zero = Tensor::from_slice(&[0.0_f32, 0.0], [1, 2]).unwrap();
        assert_eq!(slerp(&a, &zero, 3).unwrap().to_vec::<f32>().unwrap()[2..4], [0.5, 1.0]);
        assert!(slerp(&a, &normals(1, 3), 3).is_err() && slerp(&a, &a, 1).is_err());
    }
}
