//! Transforms of Winograd's minimal filtering F(m×m, 3×3), m = 2 or 4, vectorised over channels, for each level.
//!
//! With tiles of a = m + 2 pixels a side (Lavin & Gray 2016): y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, and for the gradient of g, by transposing that:
//! dg = Gᵀ[Σ (A dy Aᵀ) ⊙ (Bᵀ d B)]G. The matrices interpolate at 0, ±1, ∞ for m = 2 and at 0, ±√½, ±√2, ∞ for m = 4.
//! Reciprocal points keep every constant between 1/6 and 2.83; on 128 channels of unit normals the relative error is 1.0e-6 (greatest
//! error 6e-6 of the deviation), where the usual 0, ±1, ±2, ∞ give 2.3e-6 (4e-5).
//!
//! Images are f32 or bf16, transformed tiles and weights f32.

mod lines;

use super::kernel::{self, MR, NR, Run, Tile};
use super::lanes::{Kernel, Lanes, Number, dispatch};
use crate::device::DisjointMut;
use lines::{Gradient2, Gradient4, Input2, Input4, Line, Weight2, Weight4, WeightGradient2, WeightGradient4, output};

/// Rows of weights that are transformed in one call: 64 consecutive channels are four lines of the cache.
pub(crate) const WEIGHT_ROWS: usize = 64;

/// Most tile positions a side.
const A: usize = 6;

/// Which minimal filtering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// F(2×2, 3×3): 16 products for 4 outputs.
    F2,
    /// F(4×4, 3×3): 36 products for 16 outputs.
    F4,
}

impl Scheme {
    /// The name for messages and keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scheme::F2 => "conv2d f2",
            Scheme::F4 => "conv2d f4",
        }
    }

    /// Outputs of a tile, a side.
    pub(crate) fn outputs(self) -> usize {
        match self {
            Scheme::F2 => 2,
            Scheme::F4 => 4,
        }
    }

    /// Inputs of a tile, a side.
    pub(crate) fn inputs(self) -> usize {
        self.outputs() + 2
    }

    /// Products of a tile.
    pub(crate) fn points(self) -> usize {
        self.inputs() * self.inputs()
    }
}

/// Where the channels of a transformed tile go: point p's channel j to `p·point + (j/32)·panel + j%32`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channels {
    /// Channels.
    pub(crate) count: usize,
    /// Distance of points.
    pub(crate) point: usize,
    /// Distance of panels of 32 channels.
    pub(crate) panel: usize,
}

impl Channels {
    /// Elements that [`Winograd::input`] may write, counted from a tile's start: whole vectors of 16.
    fn extent(&self, points: usize) -> usize {
        let last = self.count.div_ceil(16) * 16 - 16;
        (points - 1) * self.point + last / NR * self.panel + last % NR + 16
    }
}

/// Square part of images `[.., h, w, c]`, which may reach beyond its image; pixels there are zeros.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a, T> {
    /// All images. Slices are of pool buffers, with readable slack behind them.
    pub(crate) images: &'a [T],
    /// Which image, its height, width and channels.
    pub(crate) image: usize,
    pub(crate) size: [usize; 3],
    /// Row and column of the first pixel: below zero where it lies before the image.
    pub(crate) first: [isize; 2],
}

/// Where the pixels of a window lie.
#[expect(clippy::large_enum_variant, reason = "one lives on the stack for the length of a call")]
enum Pixels<T> {
    /// All inside the image: the first, and the distances of rows and columns.
    Grid(*const T, usize, usize),
    /// Each by itself, rows first.
    Table([*const T; A * A]),
}

impl<T: Number> Window<'_, T> {
    /// The `side`² pixels; `zeros` stands for those outside.
    #[inline(always)]
    fn pixels(&self, zeros: &[T], side: usize) -> Pixels<T> {
        let [h, w, c] = self.size;
        assert!((self.image + 1) * h * w * c <= self.images.len() && c <= zeros.len(), "image or zeros are too short");
        let image = &self.images[self.image * h * w * c..][..h * w * c];
        let inside = |first: isize, size: usize| first >= 0 && first as usize + side <= size;
        if inside(self.first[0], h) && inside(self.first[1], w) {
            let at = (self.first[0] as usize * w + self.first[1] as usize) * c;
            return Pixels::Grid(image[at..].as_ptr(), w * c, c);
        }
        let mut table = [zeros.as_ptr(); A * A];
        for (i, line) in table.chunks_exact_mut(side).enumerate().take(side) {
            let Some(y) = self.first[0].checked_add_unsigned(i).and_then(|y| usize::try_from(y).ok()) else { continue };
            for (j, pixel) in line.iter_mut().enumerate() {
                let x = self.first[1] + j as isize;
                if y < h && x >= 0 && (x as usize) < w {
                    *pixel = image[(y * w + x as usize) * c..].as_ptr();
                }
            }
        }
        Pixels::Table(table)
    }
}

// ---- both axes, a tile of all channels ----

/// A pixel's address. Not a closure, which would not take the instructions of its caller.
trait Source<const I: usize>: Copy {
    type Value: Number;
    fn at(self, i: usize, j: usize) -> *const Self::Value;
}

#[derive(Clone, Copy)]
struct Grid<T>(*const T, usize, usize);

impl<T: Number, const I: usize> Source<I> for Grid<T> {
    type Value = T;
    #[inline(always)]
    fn at(self, i: usize, j: usize) -> *const T {
        self.0.wrapping_add(i * self.1 + j * self.2)
    }
}

impl<T: Number, const I: usize> Source<I> for &[*const T; A * A] {
    type Value = T;
    #[inline(always)]
    fn at(self, i: usize, j: usize) -> *const T {
        self[i * I + j]
    }
}

/// # Safety
/// As [`Lanes::load_at`].
#[inline(always)]
unsafe fn load<V: Lanes, T: Number>(from: *const T) -> V {
    // SAFETY: the caller's promise.
    T::load(unsafe { std::slice::from_raw_parts(from, V::LEN) })
}

/// Transforms the I×I pixels of `from` to O×O points by `L` along both axes.
#[inline(always)]
unsafe fn expand<V: Lanes, L: Line<I, O>, S: Source<I>, const I: usize, const O: usize>(
    from: S,
    to: *mut f32,
    channels: Channels,
) {
    for q in (0..channels.count).step_by(V::LEN) {
        // SAFETY: the caller's promise: pixels are readable and points writable in whole vectors.
        unsafe {
            let mut half = [[load::<V, _>(from.at(0, 0)); I]; O];
            for j in 0..I {
                let mut column = [half[0][0]; I];
                for i in 0..I {
                    column[i] = load::<V, _>(from.at(i, j).wrapping_add(q));
                }
                let column = L::line(column);
                for i in 0..O {
                    half[i][j] = column[i];
                }
            }
            let to = to.add(q / NR * channels.panel + q % NR);
            for i in 0..O {
                let row = L::line(half[i]);
                for j in 0..O {
                    row[j].store_at(to.add((i * O + j) * channels.point));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn expand_input<V: Lanes, T: Number>(scheme: Scheme, pixels: &Pixels<T>, to: *mut f32, channels: Channels) {
    // SAFETY: the caller's promise.
    unsafe {
        match (scheme, pixels) {
            (Scheme::F2, Pixels::Grid(p, r, c)) => expand::<V, Input2, _, 4, 4>(Grid(*p, *r, *c), to, channels),
            (Scheme::F4, Pixels::Grid(p, r, c)) => expand::<V, Input4, _, 6, 6>(Grid(*p, *r, *c), to, channels),
            (Scheme::F2, Pixels::Table(t)) => expand::<V, Input2, _, 4, 4>(t, to, channels),
            (Scheme::F4, Pixels::Table(t)) => expand::<V, Input4, _, 6, 6>(t, to, channels),
        }
    }
}

#[inline(always)]
unsafe fn expand_gradient<V: Lanes, T: Number>(scheme: Scheme, pixels: &Pixels<T>, to: *mut f32, channels: Channels) {
    // SAFETY: the caller's promise.
    unsafe {
        match (scheme, pixels) {
            (Scheme::F2, Pixels::Grid(p, r, c)) => expand::<V, Gradient2, _, 2, 4>(Grid(*p, *r, *c), to, channels),
            (Scheme::F4, Pixels::Grid(p, r, c)) => expand::<V, Gradient4, _, 4, 6>(Grid(*p, *r, *c), to, channels),
            (Scheme::F2, Pixels::Table(t)) => expand::<V, Gradient2, _, 2, 4>(t, to, channels),
            (Scheme::F4, Pixels::Table(t)) => expand::<V, Gradient4, _, 4, 6>(t, to, channels),
        }
    }
}

/// Weights of 3×3 taps as `[9][rows][columns]` with up to 16 columns, transformed to `to[point·stride + row·NR + column]`.
#[inline(always)]
unsafe fn expand_weights<V: Lanes>(
    scheme: Scheme,
    taps: &[[[f32; 16]; WEIGHT_ROWS]; 9],
    rows: usize,
    to: *mut f32,
    stride: usize,
) {
    for row in 0..rows {
        // The 16 columns of a row are one "pixel" of the general transform.
        const TAP: usize = 16 * WEIGHT_ROWS;
        let pixels = Grid(taps[0][row].as_ptr(), 3 * TAP, TAP);
        let channels = Channels { count: 16, point: stride, panel: 0 };
        // SAFETY: each tap has 16 columns; the caller's promise for `to`.
        unsafe {
            let to = to.add(row * NR);
            match scheme {
                Scheme::F2 => expand::<V, Weight2, _, 3, 4>(pixels, to, channels),
                Scheme::F4 => expand::<V, Weight4, _, 3, 6>(pixels, to, channels),
            }
        }
    }
}

/// Points of 16 columns at `from + point·stride`, back to 3×3 taps `[9][16]`.
#[inline(always)]
unsafe fn contract_weights<V: Lanes>(scheme: Scheme, from: *const f32, stride: usize, to: &mut [[f32; 16]; 9]) {
    let pixels = Grid(from, scheme.inputs() * stride, stride);
    let channels = Channels { count: 16, point: 16, panel: 0 };
    let to = to.as_flattened_mut().as_mut_ptr();
    // SAFETY: the caller's promise; nine points of 16 columns fill `to`.
    unsafe {
        match scheme {
            Scheme::F2 => expand::<V, WeightGradient2, _, 4, 3>(pixels, to, channels),
            Scheme::F4 => expand::<V, WeightGradient4, _, 6, 3>(pixels, to, channels),
        }
    }
}

/// What is added to finished outputs, and where they go. Slices have readable slack behind them, as pool buffers do.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a, T: bytemuck::Pod> {
    /// The image, `[.., row, channels]`.
    pub(crate) out: DisjointMut<'a, T>,
    /// Element of the tile's first pixel and of its first channel here.
    pub(crate) at: usize,
    /// Elements between rows of pixels.
    pub(crate) row: usize,
    /// Elements between pixels.
    pub(crate) pixel: usize,
    /// Rows and columns of the tile that lie inside the image.
    pub(crate) live: [usize; 2],
    /// Channels, at most [`NR`].
    pub(crate) columns: usize,
    /// The same for all pixels.
    pub(crate) added: [Option<&'a [f32]>; 2],
    /// As `out`.
    pub(crate) residual: Option<&'a [T]>,
}

/// Finishes a tile: Aᵀ m A of the points at `from + point·stride`, plus what the epilogue adds, in the order of its fields.
#[inline(always)]
unsafe fn contract<V: Lanes, T: Number, const A: usize, const M: usize>(
    from: *const f32,
    stride: usize,
    e: &Epilogue<'_, T>,
) {
    for q in (0..e.columns).step_by(V::LEN) {
        let width = V::LEN.min(e.columns - q);
        // SAFETY: points have NR columns each; slices are readable a vector past their end; outputs are checked by `slice`.
        unsafe {
            let mut half = [[V::load_at(from); A]; M];
            for j in 0..A {
                let mut column = [half[0][0]; A];
                for i in 0..A {
                    column[i] = V::load_at(from.add((i * A + j) * stride + q));
                }
                let column = output::<V, A, M>(column);
                for i in 0..M {
                    half[i][j] = column[i];
                }
            }
            // Not `map`: closures do not take this function's instructions.
            let mut added = [None; 2];
            for (vector, values) in added.iter_mut().zip(e.added) {
                if let Some(values) = values {
                    *vector = Some(V::load_at(values.as_ptr().add(q)));
                }
            }
            for i in 0..e.live[0] {
                let line = output::<V, A, M>(half[i]);
                for j in 0..e.live[1] {
                    let at = e.at + i * e.row + j * e.pixel + q;
                    let mut value = line[j];
                    if let Some(extra) = added[0] {
                        value = value.add(extra);
                    }
                    if let Some(extra) = added[1] {
                        value = value.add(extra);
                    }
                    if let Some(residual) = e.residual {
                        value = value.add(load::<V, T>(residual.as_ptr().add(at)));
                    }
                    let out = e.out.slice(at, width);
                    if width == V::LEN {
                        T::store(value, out);
                    } else {
                        T::store_part(value, out);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn contract_output<V: Lanes, T: Number>(scheme: Scheme, from: *const f32, stride: usize, e: &Epilogue<'_, T>) {
    // SAFETY: the caller's promise.
    unsafe {
        match scheme {
            Scheme::F2 => contract::<V, T, 4, 2>(from, stride, e),
            Scheme::F4 => contract::<V, T, 6, 4>(from, stride, e),
        }
    }
}

// ---- run-time dispatch ----

/// A function that runs a body, generic over the lanes, with the vectors of [`level`](super::level).
macro_rules! at_level {
    ($name:ident $(<$number:ident>)?, $body:ident, ($($arg:ident : $type:ty),*)) => {
        /// # Safety
        /// As the body.
        unsafe fn $name$(<$number: Number>)?($($arg: $type),*) {
            struct Call<C>(C);
            impl$(<$number: Number>)? Kernel for Call<($($type,)*)> {
                type Output = ();
                #[inline(always)]
                fn run<V: Lanes>(self) {
                    let ($($arg,)*) = self.0;
                    // SAFETY: the caller's promise.
                    unsafe { $body::<V $(, $number)?>($($arg),*) }
                }
            }
            dispatch(Call(($($arg,)*)));
        }
    };
}

at_level!(run_input<T>, expand_input, (scheme: Scheme, pixels: &Pixels<T>, to: *mut f32, channels: Channels));
at_level!(run_gradient<T>, expand_gradient, (scheme: Scheme, pixels: &Pixels<T>, to: *mut f32, channels: Channels));
at_level!(run_weights, expand_weights, (scheme: Scheme, taps: &[[[f32; 16]; WEIGHT_ROWS]; 9], rows: usize, to: *mut f32, stride: usize));
at_level!(run_taps, contract_weights, (scheme: Scheme, from: *const f32, stride: usize, to: &mut [[f32; 16]; 9]));
at_level!(run_output<T>, contract_output, (scheme: Scheme, from: *const f32, stride: usize, e: &Epilogue<'_, T>));

impl Scheme {
    /// Bᵀ d B of one tile, the window of [`Scheme::inputs`] pixels a side; `zeros`, as long as a pixel, stands for what lies outside the image.
    /// Whole vectors of 16 channels are written, those beyond the last channel unspecified. `zeros` is a pool buffer too.
    #[inline]
    pub(crate) fn transform_input<T: Number>(
        self,
        from: Window<'_, T>,
        zeros: &[T],
        to: &mut [f32],
        channels: Channels,
    ) {
        assert!(channels.extent(self.points()) <= to.len() && channels.count == from.size[2]);
        let pixels = from.pixels(zeros, self.inputs());
        // SAFETY: pixels and points are inside their buffers by the assertions; reads past a pixel stay in the buffer or its slack.
        unsafe { run_input(self, &pixels, to.as_mut_ptr(), channels) }
    }

    /// A dy Aᵀ of one tile, the window of [`Scheme::outputs`] pixels a side; otherwise as [`Scheme::transform_input`].
    #[inline]
    pub(crate) fn transform_gradient<T: Number>(
        self,
        from: Window<'_, T>,
        zeros: &[T],
        to: &mut [f32],
        channels: Channels,
    ) {
        assert!(channels.extent(self.points()) <= to.len() && channels.count == from.size[2]);
        let pixels = from.pixels(zeros, self.outputs());
        // SAFETY: as above.
        unsafe { run_gradient(self, &pixels, to.as_mut_ptr(), channels) }
    }

    /// G g Gᵀ of `rows` × 16 weights: `[9][rows][16]` to `to[point·stride + row·NR + column]`.
    pub(crate) fn transform_weights(
        self,
        taps: &[[[f32; 16]; WEIGHT_ROWS]; 9],
        rows: usize,
        to: &mut [f32],
        stride: usize,
    ) {
        assert!(rows <= WEIGHT_ROWS && rows > 0 && (self.points() - 1) * stride + (rows - 1) * NR + 16 <= to.len());
        // SAFETY: the assertion covers every write.
        unsafe { run_weights(self, taps, rows, to.as_mut_ptr(), stride) }
    }

    /// Gᵀ u G of 16 columns, whose points lie `stride` elements apart in `from`.
    pub(crate) fn weight_taps(self, from: &[f32], stride: usize, to: &mut [[f32; 16]; 9]) {
        assert!((self.points() - 1) * stride + 16 <= from.len());
        // SAFETY: the assertion covers every read.
        unsafe { run_taps(self, from.as_ptr(), stride, to) }
    }

    /// Aᵀ m A of one tile and the epilogue. The points are [`NR`] columns each, `stride` elements apart from `from[0]`.
    pub(crate) fn finish<T: Number>(self, from: &[f32], stride: usize, e: &Epilogue<'_, T>) {
        let m = self.outputs();
        assert!((self.points() - 1) * stride + NR <= from.len() && e.columns <= NR && e.live[0] <= m && e.live[1] <= m);
        assert!(e.added.iter().flatten().all(|values| values.len() >= e.columns));
        if let Some(residual) = e.residual.filter(|_| e.live[0] > 0 && e.live[1] > 0) {
            let last = e.at + (e.live[0] - 1) * e.row + (e.live[1] - 1) * e.pixel + e.columns;
            assert!(last <= residual.len(), "residual ends at {}, before {last}", residual.len());
        }
        // SAFETY: as the assertions say; reads past a slice stay in its buffer's slack.
        unsafe { run_output(self, from.as_ptr(), stride, e) }
    }
}

/// For each group g of [`MR`] rows: `to[g·to_stride + r·NR + j] = Σ_k rows[g·group_stride + r·row_stride + k]·panel[k][j]`.
pub(crate) fn multiply_points(
    rows: &[f32],
    [groups, group_stride, row_stride]: [usize; 3],
    panel: &[f32],
    columns: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    let k = panel.len() / NR;
    let last = (groups - 1) * group_stride + (MR - 1) * row_stride + k;
    assert!(last <= rows.len(), "{groups} groups of rows of {k} leave {}", rows.len());
    assert!((groups - 1) * to_stride + MR * NR <= to.len(), "{groups} tiles leave {}", to.len());
    let runs = [Run { offset: 0, len: k }];
    for group in 0..groups {
        let first = rows.as_ptr().wrapping_add(group * group_stride);
        let bases: [*const f32; MR] = std::array::from_fn(|r| first.wrapping_add(r * row_stride));
        // SAFETY: the assertions cover rows and tile, a tile is an array of f32, and the panel holds k rows of NR.
        unsafe {
            let tile = &mut *to.as_mut_ptr().add(group * to_stride).cast::<Tile>();
            kernel::rows(&bases, &runs, panel.as_ptr(), columns, tile);
        }
    }
}

/// `to[r][j] += Σ_k left[left_at[k] + r]·right[right_at[k] + j]` for the first `rows` rows and `columns` columns of an [`NR`]×[`NR`] square.
/// `reach` is the largest offset of each operand.
pub(crate) fn accumulate_points(
    left: (&[f32], &[usize]),
    right: (&[f32], &[usize]),
    reach: [usize; 2],
    [rows, columns]: [usize; 2],
    to: &mut [f32],
) {
    for ((data, at), reach) in [left, right].into_iter().zip(reach) {
        debug_assert!(at.iter().all(|at| *at <= reach));
        assert!(reach + NR <= data.len(), "tile at {reach} + {NR} leaves {}", data.len());
    }
    for (group, tile) in to.chunks_exact_mut(MR * NR).enumerate().take(rows.div_ceil(MR).min(NR / MR)) {
        // SAFETY: the assertion covers NR values of both operands from every offset; a chunk has the size and alignment of a tile.
        unsafe {
            let tile = &mut *tile.as_mut_ptr().cast::<Tile>();
            kernel::outer(left.0.as_ptr().add(group * MR), left.1, right.0.as_ptr(), right.1, columns, tile);
        }
    }
}
