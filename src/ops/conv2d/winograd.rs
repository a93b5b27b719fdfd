//! 3×3 convolutions of stride 1 by Winograd's minimal filtering, forward, for the input and for the weight.
//!
//! Method   Tiles of m×m outputs (m = 2 or 4) become (m+2)² independent products over channels instead of 9·m². Groups of 8 tiles are
//!          transformed; a block of groups stays in the core's cache while every panel of 32 output channels is multiplied and transformed
//!          back, with bias, per-image vector and residual added on the way out. Nothing is padded: pixels outside the image are a
//!          pointer to zeros. The weight gradient sums outer products over tiles in the transformed domain and goes back once.
//! Cost     2·16/4 (m = 2) or 2·36/16 (m = 4) flops for each input channel of an output value, instead of 2·9, and the transforms.
//! Types    images are f32 or bf16; everything between is f32, so that a bf16 value is rounded once, when it is stored.
//! Memory   the transformed weight: 16/9 or 4 times the weight; forward without a tape it is kept with the weight until that is written.
//! Order    products sum input channels in order; the weight gradient sums tiles in order. An output value depends on its own tile alone.

use super::{ConvExtras, Sizes};
use crate::device::{Device, DisjointMut, Scratch, for_each_block, for_each_block_with};
use crate::error::Result;
use crate::ops::kept;
use crate::simd::{
    Channels, Epilogue, Number, Scheme, WEIGHT_ROWS, Window, accumulate_points, multiply_points, transpose_lines,
};
use crate::tensor::{Dtype, Element, Tensor};

/// Columns of a panel.
const PANEL: usize = 32;
/// Tiles of a group: the rows of the micro-kernel.
const GROUP: usize = 8;
/// Bytes of a block's transformed input that leave room for products and weights in a core's second-level cache.
const BLOCK_BYTES: usize = 512 << 10;
/// Elements between what would otherwise lie a power of two apart and compete for the same lines of the cache.
const SHIFT: usize = 16;

/// Geometry of the convolution that is computed: the layer's own, or that of its input gradient.
#[derive(Clone, Copy)]
struct Plan {
    scheme: Scheme,
    n: usize,
    h: usize,
    w: usize,
    c_in: usize,
    h_out: usize,
    w_out: usize,
    c_out: usize,
    pad: usize,
}

/// One tile's place.
#[derive(Clone, Copy)]
struct Place {
    image: usize,
    /// First output row and column.
    y: usize,
    x: usize,
}

impl Plan {
    fn forward(scheme: Scheme, s: &Sizes) -> Plan {
        let Sizes { n, h, w, c_in, c_out, h_out, w_out, .. } = *s;
        Plan { scheme, n, h, w, c_in, h_out, w_out, c_out, pad: s.conv.pad_before }
    }

    /// dx is the convolution of dy with the reversed taps; its margin is what the forward's leaves of 2.
    fn backward(scheme: Scheme, s: &Sizes) -> Plan {
        let Sizes { n, h, w, c_in, c_out, h_out, w_out, .. } = *s;
        Plan { scheme, n, h: h_out, w: w_out, c_in: c_out, h_out: h, w_out: w, c_out: c_in, pad: 2 - s.conv.pad_before }
    }

    /// Tiles of an image along both axes.
    fn grid(&self) -> [usize; 2] {
        [self.h_out.div_ceil(self.scheme.outputs()), self.w_out.div_ceil(self.scheme.outputs())]
    }

    fn tiles(&self) -> usize {
        self.n * self.grid()[0] * self.grid()[1]
    }

    fn place(&self, tile: usize) -> Place {
        let ([rows, columns], m) = (self.grid(), self.scheme.outputs());
        Place { image: tile / (rows * columns), y: tile / columns % rows * m, x: tile % columns * m }
    }

    /// The tile after this one.
    fn next(&self, place: Place) -> Place {
        let m = self.scheme.outputs();
        match place {
            Place { x, .. } if x + m < self.w_out => Place { x: x + m, ..place },
            Place { y, .. } if y + m < self.h_out => Place { x: 0, y: y + m, ..place },
            Place { image, .. } => Place { image: image + 1, y: 0, x: 0 },
        }
    }

    /// The input pixels of a tile.
    fn window<'a, T>(&self, x: &'a [T], place: Place) -> Window<'a, T> {
        let first = [place.y, place.x].map(|at| at as isize - self.pad as isize);
        Window { images: x, image: place.image, size: [self.h, self.w, self.c_in], first }
    }

    /// Elements of a group's transformed input, and the distance of its points.
    fn group_sizes(&self) -> [usize; 2] {
        let point = GROUP * self.c_in.next_multiple_of(SHIFT) + SHIFT;
        [self.scheme.points() * point, point]
    }

    /// Groups whose transformed input fits a block: two at least, so that a weight is used 16 times for each time it is read; no more than
    /// four, which leaves thin layers' products in the cache too.
    fn groups_in_block(&self) -> usize {
        (BLOCK_BYTES / 4 / self.group_sizes()[0]).clamp(2, 4)
    }

    /// Transforms the tiles of one group.
    fn transform_group<T: Number>(&self, x: &[T], zeros: &[T], group: usize, to: &mut [f32]) {
        let width = self.c_in.next_multiple_of(SHIFT);
        let channels = Channels { count: self.c_in, point: self.group_sizes()[1], panel: PANEL };
        let mut place = self.place(group * GROUP);
        for row in 0..GROUP.min(self.tiles() - group * GROUP) {
            self.scheme.transform_input(self.window(x, place), zeros, &mut to[row * width..], channels);
            place = self.next(place);
        }
    }
}

/// Transformed weights: for each panel of output channels and each point, `[k][PANEL]`.
#[derive(Debug)]
pub(super) struct Weights {
    data: Scratch<f32>,
    scheme: Scheme,
    k: usize,
}

impl Weights {
    fn panel(&self, panel: usize, point: usize) -> &[f32] {
        &self.data[(panel * self.scheme.points() + point) * (self.k * PANEL + SHIFT)..][..self.k * PANEL]
    }

    /// Transforms `[n][9][k]` (forward) or, with taps reversed, `[k][9][n]` (for the input gradient).
    fn new(scheme: Scheme, w: &[f32], [k, n]: [usize; 2], forward: bool) -> Weights {
        let panels = n.div_ceil(PANEL);
        let point = k * PANEL + SHIFT;
        let size = scheme.points() * point;
        let mut weights = Weights { data: Scratch::take(panels * size), scheme, k };
        let data = DisjointMut::new(&mut weights.data);
        for_each_block(panels, 4 * size, |panel| {
            let to = data.slice(panel * size, size);
            for k0 in (0..k).step_by(WEIGHT_ROWS) {
                let rows = WEIGHT_ROWS.min(k - k0);
                for j0 in [0, 16] {
                    let mut taps = [[[0.0; 16]; WEIGHT_ROWS]; 9];
                    let start = panel * PANEL + j0;
                    let columns = 16.min(n.saturating_sub(start));
                    if forward {
                        for (tap, taps) in taps.iter_mut().enumerate() {
                            let line = |column| &w[((start + column) * 9 + tap) * k + k0..][..rows];
                            transpose_lines::<16>(columns, line, &mut taps.as_flattened_mut()[..16 * rows]);
                        }
                    } else {
                        for row in 0..rows {
                            for (tap, taps) in taps.iter_mut().enumerate() {
                                let source = &w[((k0 + row) * 9 + 8 - tap) * n..][..n];
                                taps[row][..columns].copy_from_slice(&source[n.min(start)..][..columns]);
                            }
                        }
                    }
                    scheme.transform_weights(&taps, rows, &mut to[k0 * PANEL + j0..], point);
                }
            }
        });
        weights
    }
}

/// What is added to the result.
#[derive(Clone, Copy)]
struct Added<'a, T> {
    bias: Option<&'a [f32]>,
    per_image: Option<&'a [f32]>,
    residual: Option<&'a [T]>,
}

fn convolve<T: Number>(plan: &Plan, x: &[T], weights: &Weights, added: Added<'_, T>, y: &mut [T]) {
    /// With fewer blocks than this, panels are shared out too.
    const FEW: usize = 8;
    let zeros = Scratch::<T>::zeroed(plan.c_in);
    let [group_size, _] = plan.group_sizes();
    let groups = plan.tiles().div_ceil(GROUP);
    let block = plan.groups_in_block().min(groups);
    let (blocks, panels) = (groups.div_ceil(block), plan.c_out.div_ceil(PANEL));
    let flops = 2 * block * GROUP * plan.scheme.points() * plan.c_in * PANEL;
    let out = DisjointMut::new(y);
    let range = |index: usize| index * block..groups.min((index + 1) * block);
    let (tiles_size, products_size) = (block * group_size, block * plan.scheme.points() * PRODUCT);
    if blocks >= FEW {
        for_each_block_with(blocks, flops * panels, tiles_size + products_size, |index, memory| {
            let (tiles, products) = memory.split_at_mut(tiles_size);
            for (group, to) in range(index).zip(tiles.chunks_exact_mut(group_size)) {
                plan.transform_group(x, &zeros, group, to);
            }
            for panel in 0..panels {
                multiply_panel(plan, range(index), tiles, weights, panel, products, added, out);
            }
        });
        return;
    }
    let mut tiles = Scratch::<f32>::take(groups * group_size);
    let to = DisjointMut::new(&mut tiles);
    for_each_block(groups, 20 * group_size, |group| {
        plan.transform_group(x, &zeros, group, to.slice(group * group_size, group_size));
    });
    for_each_block_with(blocks * panels, flops, products_size, |job, products| {
        let (index, panel) = (job / panels, job % panels);
        multiply_panel(plan, range(index), &tiles[index * tiles_size..], weights, panel, products, added, out);
    });
}

/// Distance of points in the products of a block: for each group and point, a tile of the micro-kernel.
const PRODUCT: usize = GROUP * PANEL + SHIFT;

/// Multiplies the groups, whose transformed input begins `tiles`, with one panel, transforms back, adds and writes.
fn multiply_panel<T: Number>(
    plan: &Plan,
    groups: std::ops::Range<usize>,
    tiles: &[f32],
    weights: &Weights,
    panel: usize,
    products: &mut [f32],
    added: Added<'_, T>,
    out: DisjointMut<'_, T>,
) {
    let (scheme, points) = (plan.scheme, plan.scheme.points());
    let ([group_size, point_size], width) = (plan.group_sizes(), plan.c_in.next_multiple_of(SHIFT));
    let count = plan.tiles();
    let columns = PANEL.min(plan.c_out - panel * PANEL);
    // Rows of a last group that have no tile hold old values: their sums are not read.
    let sizes = [groups.len(), group_size, width];
    for point in 0..points {
        let (panel, to) = (weights.panel(panel, point), &mut products[point * PRODUCT..]);
        multiply_points(&tiles[point * point_size..], sizes, panel, columns, to, points * PRODUCT);
    }
    let (j, c) = (panel * PANEL, plan.c_out);
    let mut place = plan.place(groups.start * GROUP);
    for tile in groups.start * GROUP..count.min(groups.end * GROUP) {
        let (i, row) = (tile / GROUP - groups.start, tile % GROUP);
        let epilogue = Epilogue {
            out,
            at: ((place.image * plan.h_out + place.y) * plan.w_out + place.x) * c + j,
            row: plan.w_out * c,
            pixel: c,
            live: [plan.h_out - place.y, plan.w_out - place.x].map(|left| left.min(scheme.outputs())),
            columns,
            added: [added.bias.map(|b| &b[j..]), added.per_image.map(|p| &p[place.image * c + j..])],
            residual: added.residual,
        };
        scheme.finish(&products[i * points * PRODUCT + row * PANEL..], PRODUCT, &epilogue);
        place = plan.next(place);
    }
}

/// Images of `T`.
pub(super) fn forward<T: Number + Element>(
    scheme: Scheme,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    extras: ConvExtras<'_>,
    s: Sizes,
) -> Result<Tensor> {
    let plan = Plan::forward(scheme, &s);
    let sizes = [s.c_in, s.c_out];
    let weights = kept(weight, (scheme.name(), sizes), |w| Weights::new(scheme, w, sizes, true))?;
    let added = Added {
        bias: bias.map(Tensor::host::<f32>).transpose()?,
        per_image: extras.per_image.map(Tensor::host::<f32>).transpose()?,
        residual: extras.residual.map(Tensor::host::<T>).transpose()?,
    };
    let mut y = Tensor::empty([s.n, s.h_out, s.w_out, s.c_out], T::DTYPE, Device::Cpu)?;
    convolve::<T>(&plan, x.host()?, &weights, added, y.host_mut()?);
    Ok(y)
}

pub(super) fn backward_x<T: Number + Element>(
    scheme: Scheme,
    weight: &Tensor,
    dy: &Tensor,
    s: Sizes,
) -> Result<Tensor> {
    let plan = Plan::backward(scheme, &s);
    let weights = Weights::new(scheme, weight.host()?, [s.c_out, s.c_in], false);
    let mut dx = Tensor::empty([s.n, s.h, s.w, s.c_in], T::DTYPE, Device::Cpu)?;
    let added = Added { bias: None, per_image: None, residual: None };
    convolve::<T>(&plan, dy.host()?, &weights, added, dx.host_mut()?);
    Ok(dx)
}

// ---- the weight gradient ----

/// Tiles that are transformed by one job and lie together.
const CHUNK: usize = 32;
/// Bytes of transformed tiles between two rounds of products: what the last-level cache holds besides the sums.
const ROUND_BYTES: usize = 4 << 20;

/// Layout of transformed tiles for the weight gradient: `[chunk][point][panel][tile][PANEL]`.
struct Chunks {
    points: usize,
    panels: usize,
    channels: usize,
}

impl Chunks {
    fn new(scheme: Scheme, channels: usize) -> Chunks {
        Chunks { points: scheme.points(), panels: channels.div_ceil(PANEL), channels }
    }

    /// Elements of one panel of a chunk, with the shift.
    const PANEL_SIZE: usize = CHUNK * PANEL + SHIFT;

    /// Distance of points.
    fn point(&self) -> usize {
        self.panels * Chunks::PANEL_SIZE + SHIFT
    }

    fn size(&self) -> usize {
        self.points * self.point()
    }

    fn places(&self) -> Channels {
        Channels { count: self.channels, point: self.point(), panel: Chunks::PANEL_SIZE }
    }
}

pub(super) fn backward_weight<T: Number + Element>(
    scheme: Scheme,
    x: &Tensor,
    dy: &Tensor,
    s: Sizes,
) -> Result<Tensor> {
    let plan = Plan::forward(scheme, &s);
    let (x, dy) = (x.host::<T>()?, dy.host::<T>()?);
    let (ins, outs) = (Chunks::new(scheme, s.c_in), Chunks::new(scheme, s.c_out));
    let (points, tiles) = (scheme.points(), plan.tiles());
    let zeros = Scratch::<T>::zeroed(s.c_in.max(s.c_out));
    // The number of tiles in a round depends on channels alone, and so does the order of summation.
    let chunks = (ROUND_BYTES / 4 / (ins.size() + outs.size())).clamp(4, 16).min(tiles.div_ceil(CHUNK));
    let (mut left, mut right) = (Scratch::<f32>::take(chunks * outs.size()), Scratch::<f32>::take(chunks * ins.size()));
    let (mut left_at, mut right_at) = (Scratch::<usize>::take(chunks * CHUNK), Scratch::<usize>::take(chunks * CHUNK));
    for t in 0..chunks * CHUNK {
        left_at[t] = t / CHUNK * outs.size() + t % CHUNK * PANEL;
        right_at[t] = t / CHUNK * ins.size() + t % CHUNK * PANEL;
    }
    // [point][panel of c_out][panel of c_in][PANEL][PANEL]
    let strip = ins.panels * PANEL * PANEL + SHIFT;
    let mut sums = Scratch::<f32>::zeroed(points * outs.panels * strip);
    for first in (0..tiles).step_by(chunks * CHUNK) {
        let live = (tiles - first).min(chunks * CHUNK);
        let (to_left, to_right) = (DisjointMut::new(&mut left), DisjointMut::new(&mut right));
        for_each_block(live.div_ceil(CHUNK), 20 * (ins.size() + outs.size()), |chunk| {
            let to_left = to_left.slice(chunk * outs.size(), outs.size());
            let to_right = to_right.slice(chunk * ins.size(), ins.size());
            let mut place = plan.place(first + chunk * CHUNK);
            for t in 0..CHUNK.min(live - chunk * CHUNK) {
                scheme.transform_input(plan.window(x, place), &zeros, &mut to_right[t * PANEL..], ins.places());
                let size = [plan.h_out, plan.w_out, plan.c_out];
                let first = [place.y, place.x].map(|at| at as isize);
                let outputs = Window { images: dy, image: place.image, size, first };
                scheme.transform_gradient(outputs, &zeros, &mut to_left[t * PANEL..], outs.places());
                place = plan.next(place);
            }
        });
        let to = DisjointMut::new(&mut sums);
        let reach = [left_at[live - 1], right_at[live - 1]];
        for_each_block(points * outs.panels, 2 * PANEL * s.c_in * live, |job| {
            let (point, panel) = (job / outs.panels, job % outs.panels);
            let left = &left[point * outs.point() + panel * Chunks::PANEL_SIZE..];
            let rows = PANEL.min(s.c_out - panel * PANEL);
            for (panel, to) in to.slice(job * strip, strip).chunks_exact_mut(PANEL * PANEL).enumerate() {
                let right = &right[point * ins.point() + panel * Chunks::PANEL_SIZE..];
                let columns = PANEL.min(s.c_in - panel * PANEL);
                accumulate_points((left, &left_at[..live]), (right, &right_at[..live]), reach, [rows, columns], to);
            }
        });
    }
    let mut dweight = Tensor::empty([s.c_out, 3, 3, s.c_in], Dtype::F32, Device::Cpu)?;
    let out = DisjointMut::new(dweight.host_mut::<f32>()?);
    for_each_block(s.c_out, 4 * points * s.c_in, |j| {
        let line = out.slice(j * 9 * s.c_in, 9 * s.c_in);
        for i in (0..s.c_in).step_by(16) {
            let from = j / PANEL * strip + i / PANEL * PANEL * PANEL + j % PANEL * PANEL + i % PANEL;
            let mut taps = [[0.0; 16]; 9];
            scheme.weight_taps(&sums[from..], outs.panels * strip, &mut taps);
            let width = 16.min(s.c_in - i);
            for (tap, values) in taps.iter().enumerate() {
                line[tap * s.c_in + i..][..width].copy_from_slice(&values[..width]);
            }
        }
    });
    Ok(dweight)
}

#[cfg(test)]
mod tests {
    use super::super::method::forcing;
    use super::super::{Conv, conv2d};
    use super::*;
    use crate::tape::{Grads, Tape};
    use crate::testing::Array;

    fn normal(shape: [usize; 4], seed: u64) -> Tensor {
        Tensor::from_slice(&Array::normal(shape, seed, 1.0, 0.0).to_f32(), shape).unwrap()
    }

    /// y, dx and dweight.
    fn all(method: &str, x: &Tensor, weight: &Tensor) -> [Vec<f32>; 3] {
        let (x, weight) = (x.clone().with_grad(true), weight.clone().with_grad(true));
        let run = || forcing(method, || conv2d(&x, &weight, None, Conv::same(3), ConvExtras::default()));
        let (y, tape) = Tape::record(run).unwrap();
        let mut grads = Grads::new();
        let [n, h, w, c] = y.shape().nhwc().unwrap();
        tape.backward(&y, normal([n, h, w, c], 3), &mut grads).unwrap();
        [&y, grads.get(&x).unwrap(), grads.get(&weight).unwrap()].map(|t| t.to_vec().unwrap())
    }

    #[test]
    fn bits_depend_neither_on_threads_nor_on_the_batch() {
        // 120 images are enough blocks to share out alone, one image is less than a block.
        let (x, weight) = (normal([120, 9, 9, 20], 1), normal([40, 3, 3, 20], 2));
        for method in ["f2", "f4"] {
            let on = |threads| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap()
                    .install(|| all(method, &x, &weight))
            };
            let whole = on(1);
            assert!(whole == on(3), "{method}: another number of threads gave other bits");
            for image in [0, 7, 119] {
                let one = x.rows(image, 1).unwrap();
                let alone =
                    forcing(method, || conv2d(&one, &weight, None, Conv::same(3), ConvExtras::default())).unwrap();
                let alone = alone.to_vec::<f32>().unwrap();
                assert!(
                    whole[0].chunks(alone.len()).nth(image) == Some(&alone[..]),
                    "{method}: image {image} alone has other bits"
                );
            }
        }
    }

    #[test]
    fn a_written_weight_never_meets_its_old_transform() {
        let (x, mut weight) = (normal([1, 8, 8, 3], 1), normal([4, 3, 3, 3], 2));
        for method in ["direct", "f2", "f4"] {
            let run = |weight: &Tensor| {
                let y = forcing(method, || conv2d(&x, weight, None, Conv::same(3), ConvExtras::default()));
                y.unwrap().to_vec::<f32>().unwrap()
            };
            let before = run(&weight);
            let twin = weight.clone();
            weight.host_mut::<f32>().unwrap().iter_mut().for_each(|v| *v *= 2.0);
            let doubled: Vec<f32> = before.iter().map(|v| 2.0 * v).collect();
            assert_eq!(run(&weight), doubled, "{method}");
            assert_eq!(run(&twin), before, "{method}: the weight that was shared");
            drop(twin);
            // Now alone, it is written in place.
            weight.host_mut::<f32>().unwrap().iter_mut().for_each(|v| *v *= 0.5);
            assert_eq!(run(&weight), before, "{method}");
        }
    }
}
