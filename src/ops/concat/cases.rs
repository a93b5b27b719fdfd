//! Oracles and case tables of [`super::concat_channels`], [`super::slice_channels`] and [`super::project`].

use super::{concat_channels, project, slice_channels};
use crate::testing::{Array, Case};

/// One row.
pub fn case(rows: usize, a: usize, b: usize, seed: u64) -> Case {
    Case {
        op: "concat",
        label: format!("{rows}x({a}+{b})"),
        inputs: vec![Array::normal([rows, a], seed, 1.0, 0.0), Array::normal([rows, b], seed + 1, 1.0, 0.0)],
        differentiable: vec![true, true],
        run: Box::new(|t| concat_channels(&t[0], &t[1])),
        oracle: Box::new(move |i| {
            let data = (0..rows).flat_map(|r| [&i[0].data[r * a..][..a], &i[1].data[r * b..][..b]].concat()).collect();
            Array { shape: [rows, a + b].into(), data }
        }),
        terms: 1,
        grad_terms: 1,
    }
}

/// A 1×1 convolution of `[n,h,w,a]` and `[n,h,w,b]`.
pub fn project_case([n, h, w]: [usize; 3], [a, b, c_out]: [usize; 3], seed: u64) -> Case {
    let c_in = a + b;
    let scale = 1.0 / (c_in as f32).sqrt();
    Case {
        op: "project",
        label: format!("{n}x{h}x{w}x({a}+{b}) to {c_out}"),
        inputs: vec![
            Array::normal([n, h, w, a], seed, 1.0, 0.0),
            Array::normal([n, h, w, b], seed + 1, 1.0, 0.0),
            Array::normal([c_out, 1, 1, c_in], seed + 2, scale, 0.0),
            Array::normal([c_out], seed + 3, 1.0, 0.0),
        ],
        differentiable: vec![true; 4],
        run: Box::new(|t| project((&t[0], &t[1]), &t[2], Some(&t[3]))),
        oracle: Box::new(move |i| {
            let value = |p: usize, j: usize| {
                let weight = &i[2].data[j * c_in..][..c_in];
                let x = i[0].data[p * a..][..a].iter().chain(&i[1].data[p * b..][..b]);
                weight.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + i[3].data[j]
            };
            let data = (0..n * h * w * c_out).map(|k| value(k / c_out, k % c_out)).collect();
            Array { shape: [n, h, w, c_out].into(), data }
        }),
        terms: c_in + 1,
        grad_terms: (n * h * w).max(c_out),
    }
}

/// Channels `start..start + len` of `width`.
fn slice(rows: usize, width: usize, start: usize, len: usize) -> Case {
    Case {
        op: "slice",
        label: format!("{rows}x{start}..{} of {width}", start + len),
        inputs: vec![Array::normal([rows, width], 63, 1.0, 0.0)],
        differentiable: vec![true],
        run: Box::new(move |t| slice_channels(&t[0], start, len)),
        oracle: Box::new(move |a| Array {
            shape: [rows, len].into(),
            data: a[0].data.chunks(width).flat_map(|row| row[start..start + len].to_vec()).collect(),
        }),
        terms: 1,
        grad_terms: 1,
    }
}

/// Rows: size 1, odd, four channels at a time, one side of which does not divide, more than one block.
pub fn table() -> Vec<Case> {
    let sizes = [(1, 1, 1), (5, 3, 4), (300, 2, 1), (9, 4, 8), (3, 8, 6), (70, 12, 16)];
    let mut rows: Vec<Case> = sizes.into_iter().map(|(rows, a, b)| case(rows, a, b, 60)).collect();
    // One value of each, odd, edges of a panel and of a block of rows.
    let sizes = [([1, 1, 1], [1, 1, 1]), ([2, 3, 5], [5, 8, 7]), ([1, 4, 4], [32, 16, 33]), ([1, 16, 17], [3, 40, 6])];
    rows.extend(sizes.map(|(image, channels)| project_case(image, channels, 67)));
    rows.extend([slice(7, 5, 1, 3), slice(6, 12, 4, 8), slice(6, 12, 2, 4), slice(90, 32, 16, 16)]);
    rows
}
