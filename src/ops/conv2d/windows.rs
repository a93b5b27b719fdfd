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

/// Windows times an operand.
pub(super) struct Product<'a> {
    /// The left operand.
    pub(super) windows: Windows<'a>,
    /// Which elements of a window make up its row.
    pub(super) runs: Vec<Run>,
    /// The right operand.
    pub(super) b: &'a Packed,
}

/// How a product is cut into jobs: some rows of windows against some panels.
struct Cut {
    rows: usize,
    blocks: usize,
    panels: usize,
    groups: usize,
    memory: usize,
    flops: usize,
}

impl Product<'_> {
    fn cut(&self) -> Cut {
        let (windows, b) = (&self.windows, self.b);
        let [down, across] = windows.count;
        let all = windows.size[0] * down;
        let rows = (WINDOWS / across.max(1)).clamp(1, all.max(1));
        let blocks = all.div_ceil(rows);
        // Few windows: the panels are dealt out too.
        let panels = b.panels().div_ceil(JOBS.div_ceil(blocks.max(1)));
        let groups = b.panels().div_ceil(panels.max(1));
        let images = rows.div_ceil(down.max(1)) + 1;
        let memory = (rows * windows.stride + images * windows.span) * windows.padded_width() * windows.size[3];
        let memory = if windows.is_padded() { memory } else { 0 };
        let flops = 2 * rows * across * panels * b.k() * b.n().div_ceil(b.panels().max(1));
        Cut { rows, blocks, panels, groups, memory, flops }
    }

    fn job(
        &self,
        cut: &Cut,
        job: usize,
        memory: &mut [f32],
        place: impl Fn(usize, usize) -> usize,
        step: usize,
        store: impl Fn(usize, usize, &[f32]),
    ) {
        let (windows, b) = (&self.windows, self.b);
        let [down, across] = windows.count;
        let (first, panel) = (job / cut.groups * cut.rows, job % cut.groups * cut.panels);
        let count = cut.rows.min(windows.size[0] * down - first);
        // Where each row's first window begins, and where its sums go.
        let (mut from, mut to) = ([0; WINDOWS], [0; WINDOWS]);
        for r in 0..count {
            to[r] = place((first + r) / down, (first + r) % down);
        }
        let data = windows.gather(first, count, memory, &mut from);
        let steps = [windows.stride * windows.size[3], step];
        let places = Places { from: &from[..count], to: &to[..count], across, steps, next: [0, 0] };
        let panels = panel..b.panels().min(panel + cut.panels);
        multiply_gathered(Gather { data, runs: &self.runs }, b, panels, places, &store);
    }
}

/// All products, in one parallel region. `store(place(product, image, y) + x·step, j, sums)` receives the sums of its window (y, x) from column
/// j on, from several threads.
pub(super) fn multiply(
    products: &[Product<'_>],
    place: impl Fn(usize, usize, usize) -> usize + Sync + Send,
    step: usize,
    store: impl Fn(usize, usize, &[f32]) + Sync + Send,
) {
    let cuts: Vec<Cut> = products.iter().map(Product::cut).collect();
    let jobs = |cut: &Cut| cut.blocks * cut.groups;
    let memory = cuts.iter().map(|cut| cut.memory).max().unwrap_or(0);
    let flops = cuts.iter().map(|cut| cut.flops).min().unwrap_or(0);
    for_each_block_with(cuts.iter().map(jobs).sum(), flops, memory, |job, memory| {
        let (mut which, mut job) = (0, job);
        while job >= jobs(&cuts[which]) {
            job -= jobs(&cuts[which]);
            which += 1;
        }
        products[which].job(&cuts[which], job, memory, |image, y| place(which, image, y), step, &store);
    });
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
