//! Sums over pixels of outer products, the gradient of a weight: k runs over pixels, so two pixels at a time are interleaved into words.
//!
//! Pixels come in rows. In rounds of about [`ROUND`] pixels both operands are packed, the left one into panels of 8 channels, the right one
//! into panels of 32 channels for each column of the kernel; then every tile of the result adds the round to its sums.

use super::super::kernel::{MR, NR};
use super::super::lanes::{Kernel, Lanes, dispatch};
use super::kernel::{PairRun, pairs};
use crate::device::{DisjointMut, Scratch, for_each_block};
use half::bf16;

/// Pixels that are packed at once: more of them let a tile's sums rest in registers longer, fewer stay in the cache.
const ROUND: usize = 1024;
/// Words between panels beside their data: panels a power of two apart would compete for one set of the cache.
const SKEW: usize = 16;

/// The sizes of [`accumulate_outer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer {
    /// Rows of pixels of the left operand.
    pub(crate) rows: usize,
    /// Pixels of such a row.
    pub(crate) width: usize,
    /// Channels of the left and the right operand.
    pub(crate) channels: [usize; 2],
    /// Rows and columns of the kernel.
    pub(crate) kernel: [usize; 2],
}

/// A row of pixels: pixel x is `pixels[start + step·x]`, all its channels, and zeros where that is outside.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Pixels with their channels.
    pub(crate) pixels: &'a [bf16],
    /// Which one is pixel 0.
    pub(crate) start: isize,
    /// Distance to the next.
    pub(crate) step: usize,
}

impl<'a> Line<'a> {
    /// The pixels as they are.
    pub(crate) fn whole(pixels: &'a [bf16]) -> Line<'a> {
        Line { pixels, start: 0, step: 1 }
    }

    #[inline(always)]
    fn pixel(&self, x: usize, channels: usize) -> Option<&'a [bf16]> {
        let index = usize::try_from(self.start + (x * self.step) as isize).ok()?;
        self.pixels.get(index * channels..(index + 1) * channels)
    }
}

/// `c[i][ky][kx][j] = Σ_{row, x} left(row)[x][i]·right(first(row) + ky, kx)[x][j]`.
///
/// `first` ascends. The sum runs over pixels in order: bits do not depend on threads.
pub(crate) fn accumulate_outer<'a>(
    c: &mut [f32],
    sizes: Outer,
    left: impl Fn(usize) -> Line<'a> + Sync + Send,
    first: impl Fn(usize) -> usize + Sync + Send,
    right: impl Fn(usize, usize) -> Line<'a> + Sync + Send,
) {
    let Outer { rows, width, channels: [c_a, c_b], kernel: [kh, kw] } = sizes;
    assert_eq!(c.len(), c_a * kh * kw * c_b, "c holds {} values, not those of {sizes:?}", c.len());
    c.fill(0.0);
    let pairs_of_row = width.div_ceil(2);
    if rows == 0 || width == 0 {
        return;
    }
    let round = (ROUND / (2 * pairs_of_row)).clamp(1, rows);
    let rounds = (0..rows).step_by(round).map(|start| start..rows.min(start + round));
    // Rows of the right operand that a round meets.
    let span = |round: &std::ops::Range<usize>| first(round.end - 1) + kh - first(round.start);
    let most = rounds.clone().map(|round| span(&round)).max().unwrap_or(0);
    let (panels_a, panels_b) = (c_a.div_ceil(MR), c_b.div_ceil(NR));
    let (stride_a, stride_b) = (round * pairs_of_row * MR + SKEW, kw * most * pairs_of_row * NR + SKEW);
    let mut packed_a = Scratch::<u32>::take(panels_a * stride_a);
    let mut packed_b = Scratch::<u32>::take(panels_b * stride_b);
    let mut runs = Scratch::<PairRun>::take(round);
    let out = DisjointMut::new(c);
    for range in rounds {
        let (start, begin, span) = (range.start, first(range.start), span(&range));
        let (to_a, to_b) = (DisjointMut::new(&mut packed_a), DisjointMut::new(&mut packed_b));
        for_each_block(range.len() + span * kw, 4 * pairs_of_row * c_a.max(c_b), |job| {
            if let Some(job) = job.checked_sub(range.len()) {
                let line = right(begin + job % span, job / span);
                dispatch(PackRow::<NR> { line, width, channels: c_b, to: &to_b, row: job, stride: stride_b });
            } else {
                let line = left(start + job);
                dispatch(PackRow::<MR> { line, width, channels: c_a, to: &to_a, row: job, stride: stride_a });
            }
        });
        let mut count = 0;
        for (index, row) in range.clone().enumerate() {
            let (a, b) = (index * pairs_of_row, (first(row) - begin) * pairs_of_row);
            if count > 0 && runs[count - 1].b + runs[count - 1].len == b {
                runs[count - 1].len += pairs_of_row;
            } else {
                runs[count] = PairRun { a, b, len: pairs_of_row };
                count += 1;
            }
        }
        let (runs, packed_a, packed_b) = (&runs[..count], &packed_a, &packed_b);
        for_each_block(panels_b * panels_a * kh, 2 * MR * NR * kw * range.len() * width, |job| {
            let (panel_b, panel_a, ky) = (job / (panels_a * kh), job / kh % panels_a, job % kh);
            let a = &packed_a[panel_a * stride_a..][..stride_a];
            let lines: [*const u32; MR] = std::array::from_fn(|r| a[r..].as_ptr());
            let (i0, j0) = (panel_a * MR, panel_b * NR);
            let (live, columns) = (MR.min(c_a - i0), NR.min(c_b - j0));
            for kx in 0..kw {
                let at = |r: usize| (((i0 + r) * kh + ky) * kw + kx) * c_b + j0;
                let b = &packed_b[panel_b * stride_b + (kx * span + ky) * pairs_of_row * NR..(panel_b + 1) * stride_b];
                let mut tile = [[0.0; NR]; MR];
                for r in 0..live {
                    tile[r][..columns].copy_from_slice(out.slice(at(r), columns));
                }
                // SAFETY: runs end at the round's last row, which lies, ky rows further, inside the panel's `span` rows of column kx.
                unsafe { pairs::<MR, MR>(&lines, runs, b.as_ptr(), columns, false, &mut tile) };
                for r in 0..live {
                    out.slice(at(r), columns).copy_from_slice(&tile[r][..columns]);
                }
            }
        });
    }
}

/// Packs one row of pixels: panel p's words of pair i begin at `p·stride + (row·pairs + i)·W`.
struct PackRow<'t, 'd, 'a, const W: usize> {
    line: Line<'a>,
    width: usize,
    channels: usize,
    to: &'t DisjointMut<'d, u32>,
    row: usize,
    stride: usize,
}

impl<const W: usize> Kernel for PackRow<'_, '_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let PackRow { line, width, channels, to, row, stride } = self;
        let (pairs, zeros) = (width.div_ceil(2), [bf16::ZERO; W]);
        for i in 0..pairs {
            let first = line.pixel(2 * i, channels);
            let second = if 2 * i + 1 < width { line.pixel(2 * i + 1, channels) } else { None };
            for (p, start) in (0..channels).step_by(W).enumerate() {
                let to = to.slice(p * stride + (row * pairs + i) * W, W);
                let len = W.min(channels - start);
                let (a, b) = (part(first, start, len, &zeros), part(second, start, len, &zeros));
                // Of a whole panel the compiler knows the length.
                match (a.first_chunk::<W>(), b.first_chunk::<W>(), to.first_chunk_mut::<W>()) {
                    (Some(a), Some(b), Some(to)) => join(a, b, to),
                    _ => {
                        join(a, b, &mut to[..len]);
                        to[len..].fill(0);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn part<'a>(pixel: Option<&'a [bf16]>, start: usize, len: usize, zeros: &'a [bf16]) -> &'a [bf16] {
    match pixel {
        Some(pixel) => &pixel[start..start + len],
        None => &zeros[..len],
    }
}

#[inline(always)]
fn join(a: &[bf16], b: &[bf16], to: &mut [u32]) {
    for ((a, b), to) in a.iter().zip(b).zip(to) {
        *to = u32::from(a.to_bits()) | u32::from(b.to_bits()) << 16;
    }
}
