//! Sums over rows, the bias gradients of convolutions and linear layers.

use super::{Kernel, Lanes, Number, for_vectors, get, put};

/// The sum of each column of `rows`, whose width is that of `sums`; four rows a visit of the sums.
pub(crate) struct RowSums<'a, T> {
    pub(crate) rows: &'a [T],
    /// Overwritten.
    pub(crate) sums: &'a mut [f32],
}

impl<T: Number> Kernel for RowSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let RowSums { rows, sums } = self;
        let c = sums.len();
        sums.fill(0.0);
        if c == 0 {
            return;
        }
        let mut fours = rows.chunks_exact(4 * c);
        for four in &mut fours {
            let (ab, de) = four.split_at(2 * c);
            let ((a, b), (d, e)) = (ab.split_at(c), de.split_at(c));
            for_vectors!(V, c, |i, len| {
                let (ab, de) = (get::<V>(a, i, len).add(get(b, i, len)), get::<V>(d, i, len).add(get(e, i, len)));
                put(get::<V>(sums, i, len).add(ab.add(de)), sums, i, len);
            });
        }
        for row in fours.remainder().chunks_exact(c) {
            for_vectors!(V, c, |i, len| {
                put(get::<V>(sums, i, len).add(get(row, i, len)), sums, i, len);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Address, Purpose};
    use crate::simd::dispatch;

    #[test]
    fn column_sums_match_plain_sums_for_odd_widths_and_numbers_of_rows() {
        for (c, rows) in [(1, 1), (3, 4), (16, 7), (17, 64), (33, 61), (5, 0), (128, 9)] {
            let mut x = vec![0.0_f32; c * rows];
            Address::new(c as u64, Purpose::Test).fill_normal(&mut x);
            let mut sums = vec![f32::NAN; c];
            dispatch(RowSums { rows: &x, sums: &mut sums });
            for (j, got) in sums.iter().enumerate() {
                let column = (0..rows).map(|r| f64::from(x[r * c + j]));
                let (want, size) = column.fold((0.0, 0.0), |(sum, size), v| (sum + v, size + v.abs()));
                // At most as many roundings as rows, of partial sums below `size`.
                let bound = rows as f64 * f64::from(f32::EPSILON) * size;
                assert!((f64::from(*got) - want).abs() <= bound, "{rows}x{c}, column {j}: {got} {want}");
            }
        }
    }
}
