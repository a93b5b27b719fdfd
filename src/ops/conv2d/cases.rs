//! Oracle and case table of [`super::conv2d`].

use super::method::{choose, forcing, growth};
use super::{Conv, ConvExtras, conv2d};
use crate::tensor::Dtype;
use crate::testing::{Array, Case};

/// Sizes of one row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// `[n, h, w, c_in]`.
    pub x: [usize; 4],
    /// Output channels.
    pub c_out: usize,
    /// Kernel size, both axes.
    pub k: usize,
    /// Stride and padding.
    pub conv: Conv,
    /// Whether the per-image vector and the residual are added.
    pub extras: bool,
}

/// The case of one row.
pub fn case(row: Row, seed: u64) -> Case {
    case_by("", row, seed)
}

/// The case of one row with the CPU's method forced: `direct`, `f2` or `f4`.
pub fn case_by(method: &'static str, row: Row, seed: u64) -> Case {
    let Row { x: [n, _, _, c_in], c_out, k, conv, extras } = row;
    let normal = |shape: &[usize], i: u64| Array::normal(shape, seed + i, 1.0, 0.0);
    let mut inputs = vec![normal(&row.x, 0), normal(&[c_out, k, k, c_in], 1), normal(&[c_out], 2)];
    let out = |axis: usize| (row.x[1 + axis] + conv.pad_before + conv.pad_after[axis] - k) / conv.stride + 1;
    if extras {
        inputs.push(normal(&[n, c_out], 3));
        inputs.push(normal(&[n, out(0), out(1), c_out], 4));
    }
    let methods =
        forcing(method, || choose(conv, [k, k], Dtype::F32, [row.x[1], row.x[2], c_in], [out(0), out(1), c_out]));
    let growth =
        [methods.forward, methods.backward_x, methods.backward_weight].map(growth).into_iter().fold(1.0, f64::max);
    let widen = |terms: usize| (terms as f64 * growth * growth).ceil() as usize;
    Case {
        op: "conv2d",
        label: format!("{row:?} {method}"),
        differentiable: vec![true; inputs.len()],
        inputs,
        run: Box::new(move |t| {
            let extras = ConvExtras { per_image: t.get(3), residual: t.get(4) };
            forcing(method, || conv2d(&t[0], &t[1], Some(&t[2]), conv, extras))
        }),
        oracle: Box::new(move |a| oracle(a, conv)),
        // The tolerance grows with the square root of the terms.
        terms: widen(k * k * c_in + 3),
        grad_terms: widen((n * out(0) * out(1)).max(k * k * c_out)),
    }
}

fn oracle(a: &[Array], conv: Conv) -> Array {
    let ([n, h, w, c_in], [c_out, kh, kw, _]) = (dims(&a[0]), dims(&a[1]));
    let out =
        |axis: usize, size: usize, k: usize| (size + conv.pad_before + conv.pad_after[axis] - k) / conv.stride + 1;
    let (h_out, w_out) = (out(0, h, kh), out(1, w, kw));
    let mut y = Array::zeros([n, h_out, w_out, c_out]);
    for (index, value) in y.data.iter_mut().enumerate() {
        let (image, oy, ox, j) =
            (index / (h_out * w_out * c_out), index / (w_out * c_out) % h_out, index / c_out % w_out, index % c_out);
        let mut sum = a[2].data[j];
        if let (Some(e), Some(r)) = (a.get(3), a.get(4)) {
            sum += e.data[image * c_out + j] + r.data[index];
        }
        for (ky, kx) in (0..kh * kw).map(|tap| (tap / kw, tap % kw)) {
            let (iy, ix) = (oy * conv.stride + ky, ox * conv.stride + kx);
            let (Some(iy), Some(ix)) = (iy.checked_sub(conv.pad_before), ix.checked_sub(conv.pad_before)) else {
                continue;
            };
            if iy >= h || ix >= w {
                continue;
            }
            for i in 0..c_in {
                sum +=
                    a[0].data[((image * h + iy) * w + ix) * c_in + i] * a[1].data[((j * kh + ky) * kw + kx) * c_in + i];
            }
        }
        *value = sum;
    }
    y
}

fn dims(a: &Array) -> [usize; 4] {
    [a.shape[0], a.shape[1], a.shape[2], a.shape[3]]
}

/// A row on each side of every branch: kernel size, stride, both downsampling paddings, odd sizes, size 1, tiles.
pub fn table() -> Vec<Case> {
    let down = |pad_before| Conv { stride: 2, pad_before, pad_after: [1; 2] };
    let rows = [
        Row { x: [1, 1, 1, 1], c_out: 1, k: 3, conv: Conv::same(3), extras: false },
        Row { x: [2, 5, 7, 3], c_out: 4, k: 3, conv: Conv::same(3), extras: true },
        Row { x: [2, 4, 4, 33], c_out: 40, k: 3, conv: Conv::same(3), extras: true },
        Row { x: [3, 3, 5, 6], c_out: 9, k: 1, conv: Conv::same(1), extras: true },
        Row { x: [1, 6, 6, 4], c_out: 5, k: 3, conv: down(1), extras: false },
        Row { x: [1, 6, 6, 4], c_out: 5, k: 3, conv: down(0), extras: false },
        Row { x: [2, 7, 5, 3], c_out: 34, k: 3, conv: down(1), extras: true },
        Row { x: [2, 7, 5, 3], c_out: 4, k: 3, conv: down(0), extras: false },
        Row { x: [1, 1, 2, 3], c_out: 4, k: 3, conv: down(1), extras: false },
        Row {
            x: [2, 1, 4, 3],
            c_out: 4,
            k: 3,
            conv: Conv { stride: 2, pad_before: 0, pad_after: [2, 1] },
            extras: false,
        },
        Row {
            x: [2, 5, 4, 3],
            c_out: 4,
            k: 1,
            conv: Conv { stride: 2, pad_before: 0, pad_after: [0; 2] },
            extras: false,
        },
        Row { x: [5, 16, 16, 8], c_out: 16, k: 3, conv: Conv::same(3), extras: false },
        // On a GPU: past small tiles on every side, 16-byte reads with each stride, 1x1 by its own kernel and by linear's, a stride that
        // leaves pixels without a tap, a window that begins outside, ranges of pixels that do not divide.
        Row { x: [2, 7, 6, 8], c_out: 68, k: 3, conv: Conv::same(3), extras: true },
        Row { x: [1, 5, 5, 72], c_out: 20, k: 3, conv: Conv::same(3), extras: false },
        Row { x: [2, 9, 7, 8], c_out: 20, k: 3, conv: down(0), extras: true },
        Row { x: [1, 8, 8, 4], c_out: 20, k: 3, conv: down(1), extras: false },
        Row { x: [3, 3, 5, 8], c_out: 20, k: 1, conv: Conv::same(1), extras: true },
        Row { x: [2, 5, 7, 8], c_out: 12, k: 1, conv: Conv::same(1), extras: false },
        Row {
            x: [2, 7, 8, 4],
            c_out: 20,
            k: 2,
            conv: Conv { stride: 3, pad_before: 1, pad_after: [0, 2] },
            extras: false,
        },
        Row { x: [3, 11, 13, 3], c_out: 5, k: 5, conv: Conv::same(5), extras: true },
        Row { x: [2, 18, 17, 4], c_out: 32, k: 3, conv: Conv::same(3), extras: false },
        Row { x: [2, 18, 17, 2], c_out: 6, k: 3, conv: Conv::same(3), extras: true },
        // On the CPU: a row of pixels longer than a job, panels in two groups with jobs that end inside an image, windows without padding.
        Row { x: [1, 3, 131, 2], c_out: 3, k: 3, conv: Conv::same(3), extras: false },
        Row { x: [3, 17, 13, 2], c_out: 70, k: 3, conv: Conv::same(3), extras: true },
        Row {
            x: [2, 4, 5, 3],
            c_out: 4,
            k: 2,
            conv: Conv { stride: 1, pad_before: 0, pad_after: [0; 2] },
            extras: false,
        },
    ];
    // By Winograd: tiles whole and cut, channels on both sides of vectors and panels, one tile and many blocks, every padding.
    let same = |x, c_out, extras| Row { x, c_out, k: 3, conv: Conv::same(3), extras };
    let padded =
        |pad_before, pad_after| Row { conv: Conv { stride: 1, pad_before, pad_after }, ..same([2, 6, 5, 4], 7, false) };
    let by_winograd = [
        same([1, 1, 1, 1], 8, false),
        same([2, 4, 4, 16], 32, true),
        same([2, 5, 7, 3], 4, true),
        same([3, 9, 6, 17], 33, true),
        same([1, 4, 4, 24], 66, false),
        same([2, 2, 3, 65], 31, true),
        same([64, 16, 16, 1], 1, false),
        padded(0, [0; 2]),
        padded(2, [2, 0]),
        padded(0, [3, 1]),
    ];
    let forced = by_winograd.into_iter().flat_map(|row| ["f2", "f4"].map(|method| case_by(method, row, 20)));
    // Past the limits of the rule, and what it must refuse even if forced.
    let chosen = [same([1, 8, 7, 32], 34, true), same([1, 7, 7, 16], 3, false)].map(|row| case(row, 20));
    let refused = case_by("f4", Row { conv: down(1), ..same([1, 6, 6, 4], 5, false) }, 20);
    rows.into_iter().map(|row| case(row, 20)).chain(forced).chain(chosen).chain([refused]).collect()
}
