//! Oracle and case table of [`super::linear`].

use super::{linear, linear_gelu};
use crate::testing::{Array, Case};

/// One row: `rows` of `c_in` to `c_out`.
pub fn case(rows: usize, c_in: usize, c_out: usize, residual: bool, seed: u64) -> Case {
    let mut inputs = vec![
        Array::normal([rows, c_in], seed, 1.0, 0.0),
        Array::normal([c_out, c_in], seed + 1, 1.0, 0.0),
        Array::normal([c_out], seed + 2, 1.0, 0.0),
    ];
    if residual {
        inputs.push(Array::normal([rows, c_out], seed + 3, 1.0, 0.0));
    }
    Case {
        op: "linear",
        label: format!("{rows}x{c_in}->{c_out} residual {residual}"),
        differentiable: vec![true; inputs.len()],
        inputs,
        run: Box::new(|t| linear(&t[0], &t[1], Some(&t[2]), t.get(3))),
        oracle: Box::new(oracle),
        terms: c_in + 2,
        grad_terms: rows.max(c_out),
    }
}

fn oracle(a: &[Array]) -> Array {
    let (rows, c_in, c_out) = (a[0].shape[0], a[0].shape[1], a[1].shape[0]);
    let mut y = Array::zeros([rows, c_out]);
    for r in 0..rows {
        for j in 0..c_out {
            let mut sum = a[2].data[j] + a.get(3).map_or(0.0, |e| e.data[r * c_out + j]);
            for i in 0..c_in {
                sum += a[0].data[r * c_in + i] * a[1].data[j * c_in + i];
            }
            y.data[r * c_out + j] = sum;
        }
    }
    y
}

/// As [`case`] with GELU, and with a bias or without.
pub fn gelu_case(rows: usize, c_in: usize, c_out: usize, bias: bool, seed: u64) -> Case {
    // Results of unit size, where GELU bends.
    let plain = case(rows, c_in, c_out, false, seed);
    let mut inputs = plain.inputs;
    inputs[1] = Array::normal([c_out, c_in], seed + 1, 1.0 / (c_in as f32).sqrt(), 0.0);
    inputs.truncate(if bias { 3 } else { 2 });
    Case {
        op: "linear_gelu",
        label: format!("{rows}x{c_in}->{c_out}, bias {bias}"),
        differentiable: vec![true; inputs.len()],
        inputs,
        run: Box::new(|t| linear_gelu(&t[0], &t[1], t.get(2))),
        oracle: Box::new(move |a| {
            let mut all = a.to_vec();
            all.resize_with(3, || Array::zeros([c_out]));
            let mut y = oracle(&all);
            for v in &mut y.data {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (*v + 0.044715 * v.powi(3));
                *v *= 0.5 * (1.0 + inner.tanh());
            }
            y
        }),
        ..plain
    }
}

/// Rows on both sides of each tile.
pub fn table() -> Vec<Case> {
    let rows = [
        (1, 1, 1, false),
        (8, 32, 32, true),
        (9, 33, 17, true),
        (65, 5, 70, false),
        (300, 16, 3, true),
        // More values than a packed slab: forward, and the weight's gradient below.
        (3, 530, 40, true),
        // On a GPU: past small tiles on every side; large tiles for dweight; ranges of rows that do not divide.
        (70, 68, 52, true),
        (20, 132, 136, false),
        (601, 8, 12, false),
    ];
    let mut cases: Vec<Case> =
        rows.into_iter().map(|(rows, c_in, c_out, residual)| case(rows, c_in, c_out, residual, 10)).collect();
    // A line of one piece and of two, more elements than a block of the activation's gradient.
    let with_gelu = [(1, 1, 1, true), (9, 5, 33, false), (65, 3, 270, true), (3, 530, 40, true)];
    cases.extend(with_gelu.map(|(rows, c_in, c_out, bias)| gelu_case(rows, c_in, c_out, bias, 14)));
    cases
}
