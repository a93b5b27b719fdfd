//! Transforms of Winograd's minimal filtering F(m×m, 3×3), m = 2 or 4, vectorised over channels, for each level.
//!
//! With tiles of a = m + 2 pixels a side (Lavin & Gray 2016): y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, and for the gradient of g, by transposing that:
//! dg = Gᵀ[Σ (A dy Aᵀ) ⊙ (Bᵀ d B)]G. The matrices interpolate at 0, ±1, ∞ for m = 2 and at 0, ±√½, ±√2, ∞ for m = 4.
//! Reciprocal points keep every constant between 1/6 and 2.83; on 128 channels of unit normals the relative error is 1.0e-6 (greatest
//! error 6e-6 of the deviation), where the usual 0, ±1, ±2, ∞ give 2.3e-6 (4e-5).

mod lines;

use super::kernel::{self, MR, NR, Run, Tile};
use super::lanes::{Kernel, Lanes, dispatch};
use crate::device::DisjointMut;
use lines::{Gradient2, Gradient4, Input2, Input4, Line, Weight2, Weight4, WeightGradient2, WeightGradient4, output};

/// The pixel that lies outside the image: zeros.
pub(crate) const OUTSIDE: usize = usize::MAX;

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

// ---- both axes, a tile of all channels ----

/// Transforms the I×I pixels at `pixels` to O×O points by `L` along both axes.
#[inline(always)]
unsafe fn expand<V: Lanes, L: Line<I, O>, const I: usize, const O: usize>(
    pixels: &[*const f32; A * A],
    to: *mut f32,
    channels: Channels,
) {
    for q in (0..channels.count).step_by(V::LEN) {
        // SAFETY: the caller's promise: pixels are readable and points writable in whole vectors.
        unsafe {
            let mut half = [[V::load_at(pixels[0]); I]; O];
            for j in 0..I {
                let mut column = [half[0][0]; I];
                for i in 0..I {
                    column[i] = V::load_at(pixels[i * I + j].add(q));
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
unsafe fn expand_input<V: Lanes>(scheme: Scheme, pixels: &[*const f32; A * A], to: *mut f32, channels: Channels) {
    // SAFETY: the caller's promise.
    unsafe {
        match scheme {
            Scheme::F2 => expand::<V, Input2, 4, 4>(pixels, to, channels),
            Scheme::F4 => expand::<V, Input4, 6, 6>(pixels, to, channels),
        }
    }
}

#[inline(always)]
unsafe fn expand_gradient<V: Lanes>(scheme: Scheme, pixels: &[*const f32; A * A], to: *mut f32, channels: Channels) {
    // SAFETY: the caller's promise.
    unsafe {
        match scheme {
            Scheme::F2 => expand::<V, Gradient2, 2, 4>(pixels, to, channels),
            Scheme::F4 => expand::<V, Gradient4, 4, 6>(pixels, to, channels),
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
        let mut pixels = [taps[0][0].as_ptr(); A * A];
        for tap in 0..9 {
            pixels[tap] = taps[tap][row].as_ptr();
        }
        let channels = Channels { count: 16, point: stride, panel: 0 };
        // SAFETY: each tap has 16 columns; the caller's promise for `to`.
        unsafe {
            let to = to.add(row * NR);
            match scheme {
                Scheme::F2 => expand::<V, Weight2, 3, 4>(&pixels, to, channels),
                Scheme::F4 => expand::<V, Weight4, 3, 6>(&pixels, to, channels),
            }
        }
    }
}

/// Points of 16 columns at `from + point·stride`, back to 3×3 taps `[9][16]`.
#[inline(always)]
unsafe fn contract_weights<V: Lanes>(scheme: Scheme, from: *const f32, stride: usize, to: &mut [[f32; 16]; 9]) {
    let mut pixels = [from; A * A];
    for (point, pixel) in pixels.iter_mut().enumerate().take(scheme.points()) {
        *pixel = from.wrapping_add(point * stride);
    }
    let channels = Channels { count: 16, point: 16, panel: 0 };
    let to = to.as_flattened_mut().as_mut_ptr();
    // SAFETY: the caller's promise; nine points of 16 columns fill `to`.
    unsafe {
        match scheme {
            Scheme::F2 => expand::<V, WeightGradient2, 4, 3>(&pixels, to, channels),
            Scheme::F4 => expand::<V, WeightGradient4, 6, 3>(&pixels, to, channels),
        }
    }
}

/// What is added to finished outputs, and where they go. Slices have readable slack behind them, as pool buffers do.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// The image, `[.., row, channels]`.
    pub(crate) out: DisjointMut<'a, f32>,
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
    pub(crate) residual: Option<&'a [f32]>,
}

/// Finishes a tile: Aᵀ m A of the points at `from + point·stride`, plus what the epilogue adds, in the order of its fields.
#[inline(always)]
unsafe fn contract<V: Lanes, const A: usize, const M: usize>(from: *const f32, stride: usize, e: &Epilogue<'_>) {
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
                        value = value.add(V::load_at(residual.as_ptr().add(at)));
                    }
                    let out = e.out.slice(at, width);
                    if width == V::LEN {
                        value.store_at(out.as_mut_ptr());
                    } else {
                        let mut whole = [0.0_f32; 16];
                        value.store_at(whole.as_mut_ptr());
                        out.copy_from_slice(&whole[..width]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn contract_output<V: Lanes>(scheme: Scheme, from: *const f32, stride: usize, e: &Epilogue<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match scheme {
            Scheme::F2 => contract::<V, 4, 2>(from, stride, e),
            Scheme::F4 => contract::<V, 6, 4>(from, stride, e),
        }
    }
}

// ---- run-time dispatch ----

/// A function that runs a body, generic over the lanes, with the vectors of [`level`](super::level).
macro_rules! at_level {
    ($name:ident, $body:ident, ($($arg:ident : $type:ty),*)) => {
        /// # Safety
        /// As the body.
        unsafe fn $name($($arg: $type),*) {
            struct Call<T>(T);
            impl Kernel for Call<($($type,)*)> {
                type Output = ();
                #[inline(always)]
                fn run<V: Lanes>(self) {
                    let ($($arg,)*) = self.0;
                    // SAFETY: the caller's promise.
                    unsafe { $body::<V>($($arg),*) }
                }
            }
            dispatch(Call(($($arg,)*)));
        }
    };
}

at_level!(run_input, expand_input, (scheme: Scheme, pixels: &[*const f32; A * A], to: *mut f32, channels: Channels));
at_level!(run_gradient, expand_gradient, (scheme: Scheme, pixels: &[*const f32; A * A], to: *mut f32, channels: Channels));
at_level!(run_weights, expand_weights, (scheme: Scheme, taps: &[[[f32; 16]; WEIGHT_ROWS]; 9], rows: usize, to: *mut f32, stride: usize));
at_level!(run_taps, contract_weights, (scheme: Scheme, from: *const f32, stride: usize, to: &mut [[f32; 16]; 9]));
at_level!(run_output, contract_output, (scheme: Scheme, from: *const f32, stride: usize, e: &Epilogue<'_>));

impl Scheme {
    fn pointers(image: &[f32], zeros: &[f32], pixels: &[usize], channels: usize) -> [*const f32; A * A] {
        assert!(channels <= zeros.len(), "{channels} channels, {} zeros", zeros.len());
        let mut pointers = [zeros.as_ptr(); A * A];
        for (pointer, &at) in pointers.iter_mut().zip(pixels) {
            if at != OUTSIDE {
                assert!(at + channels <= image.len(), "pixel at {at} + {channels} leaves {}", image.len());
                *pointer = image[at..].as_ptr();
            }
        }
        pointers
    }

    /// Bᵀ d B of one tile. `pixels`: the element of `image` at which each pixel begins, rows first, or [`OUTSIDE`]; `zeros` stands for those.
    /// Whole vectors of 16 channels are written, those beyond the last channel unspecified. `image` and `zeros` are pool buffers.
    pub(crate) fn transform_input(
        self,
        image: &[f32],
        zeros: &[f32],
        pixels: &[usize],
        to: &mut [f32],
        channels: Channels,
    ) {
        assert_eq!(pixels.len(), self.points());
        assert!(channels.extent(self.points()) <= to.len(), "{channels:?} leave {} values", to.len());
        let pointers = Scheme::pointers(image, zeros, pixels, channels.count);
        // SAFETY: pixels and points are inside their buffers by the assertions; reads past a pixel stay in the buffer or its slack.
        unsafe { run_input(self, &pointers, to.as_mut_ptr(), channels) }
    }

    /// A dy Aᵀ of one tile, otherwise as [`Scheme::transform_input`].
    pub(crate) fn transform_gradient(
        self,
        image: &[f32],
        zeros: &[f32],
        pixels: &[usize],
        to: &mut [f32],
        channels: Channels,
    ) {
        assert_eq!(pixels.len(), self.outputs() * self.outputs());
        assert!(channels.extent(self.points()) <= to.len(), "{channels:?} leave {} values", to.len());
        let pointers = Scheme::pointers(image, zeros, pixels, channels.count);
        // SAFETY: as above.
        unsafe { run_gradient(self, &pointers, to.as_mut_ptr(), channels) }
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
    pub(crate) fn finish(self, from: &[f32], stride: usize, e: &Epilogue<'_>) {
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

/// `to[r][j] = Σ_k rows_r[k]·panel[k][j]` for the `count` rows that begin `stride` elements apart in `rows`; `to` holds whole tiles of
/// [`MR`] rows, those beyond `count` unspecified.
pub(crate) fn multiply_points(
    rows: &[f32],
    count: usize,
    stride: usize,
    panel: &[f32],
    columns: usize,
    to: &mut [f32],
) {
    let k = panel.len() / NR;
    assert!((count - 1) * stride + k <= rows.len(), "{count} rows of {k} leave {}", rows.len());
    let runs = [Run { offset: 0, len: k }];
    for (group, tile) in to.chunks_exact_mut(MR * NR).enumerate().take(count.div_ceil(MR)) {
        let bases: [*const f32; MR] =
            std::array::from_fn(|r| rows[(group * MR + r).min(count - 1) * stride..].as_ptr());
        // SAFETY: a chunk has the size and alignment of a tile; the rows lie in the slice and the panel holds k rows of NR.
        unsafe { kernel::rows(&bases, &runs, panel.as_ptr(), columns, &mut *tile.as_mut_ptr().cast::<Tile>()) };
    }
}

/// `to[r][j] += Σ_k left[left_at[k] + r]·right[right_at[k] + j]` for the first `rows` rows and `columns` columns of an [`NR`]×[`NR`] square.
pub(crate) fn accumulate_points(
    left: (&[f32], &[usize]),
    right: (&[f32], &[usize]),
    rows: usize,
    columns: usize,
    to: &mut [f32],
) {
    for (data, at) in [left, right] {
        let last = at.iter().copied().max().unwrap_or(0);
        assert!(last + NR <= data.len(), "tile at {last} + {NR} leaves {}", data.len());
    }
    for (group, tile) in to.chunks_exact_mut(MR * NR).enumerate().take(rows.div_ceil(MR).min(NR / MR)) {
        // SAFETY: the assertion covers NR values of both operands from every offset; a chunk has the size and alignment of a tile.
        unsafe {
            let tile = &mut *tile.as_mut_ptr().cast::<Tile>();
            kernel::outer(left.0.as_ptr().add(group * MR), left.1, right.0.as_ptr(), right.1, columns, tile);
        }
    }
}
