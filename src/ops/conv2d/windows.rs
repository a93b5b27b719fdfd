//! Products whose rows are windows of padded images: the plain sums of [`super::cpu`]. Each job copies the rows of pixels that it reads, with
//! their zeros, into its own memory, which stays in the cache while the panels of the weight pass by.

use crate::device::for_each_block_with;
use crate::simd::{Gather, Packed, Run, multiply_gathered};

/// Windows of a job, in whole rows.
const WINDOWS: usize = 128;
/// Jobs that there should be, so that threads end together.
const JOBS: usize = 8;

/// Windows of images.
pub(super) struct Windows<'a> {
    /// The images.
    pub(super) x: &'a [f32],
    /// Images, rows, columns, channels.
    pub(super) size: [usize; 4],
    /// Rows of zeros above and below.
    pub(super) rows: (usize, usize),
    /// Columns of zeros left and right.
    pub(super) columns: (usize, usize),
    /// Rows of a window.
    pub(super) span: usize,
    /// Pixels from one window to the next.
    pub(super) stride: usize,
    /// Windows down and across an image.
    pub(super) count: [usize; 2],
}

impl Windows<'_> {
    /// Elements from the beginning of a window to its pixel (y, x).
    pub(super) fn at(&self, y: usize, x: usize) -> usize {
        (y * self.padded_width() + x) * self.size[3]
    }

    fn padded_width(&self) -> usize {
        self.columns.0 + self.size[2] + self.columns.1
    }

    fn is_padded(&self) -> bool {
        (self.rows, self.columns) != ((0, 0), (0, 0))
    }

    /// The `runs` of every window times `b`. `store(place(image, y) + x·step, j, sums)` receives the sums of window (y, x) from column j on, from
    /// several threads.
    pub(super) fn multiply(
        &self,
        runs: &[Run],
        b: &Packed,
        place: impl Fn(usize, usize) -> usize + Sync + Send,
        step: usize,
        store: impl Fn(usize, usize, &[f32]) + Sync + Send,
    ) {
        let [down, across] = self.count;
        let all = self.size[0] * down;
        let rows = (WINDOWS / across.max(1)).clamp(1, all.max(1));
        let blocks = all.div_ceil(rows);
        // Few windows: the panels are dealt out too.
        let panels = b.panels().div_ceil(JOBS.div_ceil(blocks.max(1)));
        let groups = b.panels().div_ceil(panels.max(1));
        let images = rows.div_ceil(down.max(1)) + 1;
        let memory = (rows * self.stride + images * self.span) * self.padded_width() * self.size[3];
        let memory = if self.is_padded() { memory } else { 0 };
        let flops = 2 * rows * across * panels * b.k() * b.n().div_ceil(b.panels().max(1));
        for_each_block_with(blocks * groups, flops, memory, |job, memory| {
            let (first, panel) = (job / groups * rows, job % groups * panels);
            let count = rows.min(all - first);
            // Where each row's first window begins, and where its sums go.
            let (mut from, mut to) = ([0; WINDOWS], [0; WINDOWS]);
            for r in 0..count {
                to[r] = place((first + r) / down, (first + r) % down);
            }
            let data = self.gather(first, count, memory, &mut from);
            let steps = [self.stride * self.size[3], step];
            let windows = Places { from: &from[..count], to: &to[..count], across, steps, next: [0, 0] };
            multiply_gathered(Gather { data, runs }, b, panel..b.panels().min(panel + panels), windows, &store);
        });
    }

    /// The pixels of `count` rows of windows, and where each row begins.
    fn gather<'m>(&'m self, first: usize, count: usize, memory: &'m mut [f32], from: &mut [usize]) -> &'m [f32] {
        let ([_, h, w, c], [down, _]) = (self.size, self.count);
        if !self.is_padded() {
            for r in 0..count {
                from[r] = ((first + r) / down * h + (first + r) % down * self.stride) * w * c;
            }
            return self.x;
        }
        let width = self.padded_width() * c;
        let (mut r, mut filled) = (0, 0);
        while r < count {
            let (image, y) = ((first + r) / down, (first + r) % down);
            let here = (count - r).min(down - y);
            for i in 0..here {
                from[r + i] = filled + i * self.stride * width;
            }
            for row in y * self.stride..(y + here - 1) * self.stride + self.span {
                self.copy_row(image, row, &mut memory[filled..filled + width]);
                filled += width;
            }
            r += here;
        }
        &memory[..filled]
    }

    /// One row of the padded image.
    fn copy_row(&self, image: usize, row: usize, to: &mut [f32]) {
        let [_, h, w, c] = self.size;
        let Some(y) = row.checked_sub(self.rows.0).filter(|y| *y < h) else {
            to.fill(0.0);
            return;
        };
        let (left, rest) = to.split_at_mut(self.columns.0 * c);
        let (middle, right) = rest.split_at_mut(w * c);
        left.fill(0.0);
        middle.copy_from_slice(&self.x[(image * h + y) * w * c..][..w * c]);
        right.fill(0.0);
    }
}

/// Where the windows of some rows begin, and where their sums go.
#[derive(Clone)]
struct Places<'a> {
    from: &'a [usize],
    to: &'a [usize],
    across: usize,
    steps: [usize; 2],
    /// Row and column of the next window.
    next: [usize; 2],
}

impl Iterator for Places<'_> {
    type Item = (usize, usize);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, usize)> {
        let [r, x] = self.next;
        let (from, to) = (self.from.get(r)?, self.to.get(r)?);
        self.next = if x + 1 < self.across { [r, x + 1] } else { [r + 1, 0] };
        Some((from + x * self.steps[0], to + x * self.steps[1]))
    }
}
