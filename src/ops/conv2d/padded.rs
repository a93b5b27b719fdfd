//! Images with zeros around them, for the sums of [`super::cpu`] and [`super::bf16`] that read them whole.

use crate::device::{DisjointMut, Scratch, for_each_block};

/// `[n, h, w, c]` units: f32, or words of two bf16.
pub(super) struct Padded<'a, T: bytemuck::Pod> {
    data: Data<'a, T>,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
}

enum Data<'a, T: bytemuck::Pod> {
    Same(&'a [T]),
    Copy(Scratch<T>),
}

impl<'a, T: bytemuck::Pod + Send + Sync> Padded<'a, T> {
    /// Images `[n, h, w, c]` that need no zeros.
    pub(super) fn same(data: &'a [T], [h, w, c]: [usize; 3]) -> Padded<'a, T> {
        Padded { data: Data::Same(data), h, w, c }
    }

    /// Copies `n` images of `h`×`w` pixels of `c` units between zeros, (before, after) rows and columns. `row(number among all images' rows,
    /// units)` writes a row.
    pub(super) fn copy(
        [n, h, w, c]: [usize; 4],
        rows: (usize, usize),
        columns: (usize, usize),
        row: impl Fn(usize, &mut [T]) + Sync + Send,
    ) -> Padded<'static, T> {
        let (hp, wp) = (h + rows.0 + rows.1, w + columns.0 + columns.1);
        let mut data = Scratch::<T>::take(n * hp * wp * c);
        let out = DisjointMut::new(&mut data);
        for_each_block(n * hp, 4 * wp * c, |line| {
            let (image, y) = (line / hp, line % hp);
            let line = out.slice(line * wp * c, wp * c);
            if y < rows.0 || y >= rows.0 + h {
                line.fill(T::zeroed());
                return;
            }
            let (left, rest) = line.split_at_mut(columns.0 * c);
            let (middle, right) = rest.split_at_mut(w * c);
            left.fill(T::zeroed());
            row(image * h + y - rows.0, middle);
            right.fill(T::zeroed());
        });
        Padded { data: Data::Copy(data), h: hp, w: wp, c }
    }

    /// All units.
    pub(super) fn data(&self) -> &[T] {
        match &self.data {
            Data::Same(data) => data,
            Data::Copy(data) => data,
        }
    }

    /// First unit of pixel (y, x) of image i.
    pub(super) fn at(&self, i: usize, y: usize, x: usize) -> usize {
        ((i * self.h + y) * self.w + x) * self.c
    }
}
