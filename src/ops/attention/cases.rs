//! Oracle and case table of [`super::attention`].

use super::{attention, rotary_table, self_attention};
use crate::testing::{Array, Case};

/// One row.
pub fn case(n: usize, t: usize, heads: usize, d: usize, seed: u64) -> Case {
    Case {
        op: "attention",
        label: format!("n {n} t {t} heads {heads} d {d}"),
        inputs: (0..3).map(|i| Array::normal([n, t, heads * d], seed + i, 1.0, 0.0)).collect(),
        differentiable: vec![true; 3],
        run: Box::new(move |x| attention(&x[0], &x[1], &x[2], heads)),
        oracle: Box::new(move |a| oracle(a, heads)),
        // Errors of a score grow with √d and multiply the exponential: d terms for each of t.
        terms: t * d + 64,
        grad_terms: t * d * 4 + 64,
    }
}

fn oracle(a: &[Array], heads: usize) -> Array {
    let (n, t, c) = (a[0].shape[0], a[0].shape[1], a[0].shape[2]);
    let d = c / heads;
    let mut y = Array::zeros(a[0].shape);
    for (image, head, i) in (0..n * heads * t).map(|k| (k / (heads * t), k / t % heads, k % t)) {
        let at = |token: usize| (image * t + token) * c + head * d;
        let score =
            |j: usize| (0..d).map(|x| a[0].data[at(i) + x] * a[1].data[at(j) + x]).sum::<f64>() / (d as f64).sqrt();
        let weights: Vec<f64> = (0..t).map(|j| score(j).exp()).collect();
        let total: f64 = weights.iter().sum();
        for x in 0..d {
            y.data[at(i) + x] = (0..t).map(|j| weights[j] / total * a[2].data[at(j) + x]).sum();
        }
    }
    y
}

/// Queries, keys and values side by side, rotated or not.
pub fn joined(n: usize, t: usize, heads: usize, d: usize, rotary: bool, seed: u64) -> Case {
    let c = heads * d;
    Case {
        op: "self_attention",
        label: format!("n {n} t {t} heads {heads} d {d} rotary {rotary}"),
        inputs: vec![Array::normal([n, t, 3 * c], seed, 1.0, 0.0)],
        differentiable: vec![true],
        run: Box::new(move |x| {
            // A position more than there are tokens.
            let table = rotary.then(|| rotary_table(t + 1, d, BASE)?.to_device(x[0].device())).transpose()?;
            self_attention(&x[0], heads, table.as_ref())
        }),
        oracle: Box::new(move |a| {
            let mut parts = [0, 1, 2].map(|part| {
                let rows = a[0].data.chunks_exact(3 * c).flat_map(|row| row[part * c..(part + 1) * c].to_vec());
                Array { shape: [n, t, c].into(), data: rows.collect() }
            });
            for part in parts.iter_mut().take(if rotary { 2 } else { 0 }) {
                turn(&mut part.data, t, c, d);
            }
            oracle(&parts, heads)
        }),
        ..case(n, t, heads, d, seed)
    }
}

const BASE: f64 = 10000.0;

/// As numbers z_i = x_i + i·x_{i + d/2} times e^(i·p·θ_i).
fn turn(x: &mut [f64], t: usize, c: usize, d: usize) {
    for (row, x) in x.chunks_exact_mut(c).enumerate() {
        for x in x.chunks_exact_mut(d) {
            for i in 0..d / 2 {
                let (sin, cos) = ((row % t) as f64 * BASE.powf(-2.0 * i as f64 / d as f64)).sin_cos();
                (x[i], x[i + d / 2]) = (x[i] * cos - x[i + d / 2] * sin, x[i] * sin + x[i + d / 2] * cos);
            }
        }
    }
}

/// Rows: one token, one block, several blocks, several heads, more keys than a tile, a head wider than a panel. On a GPU: each width of kernels from its first
/// head to its last, in one tile and in two, with channels that divide by four and do not; heads of two pieces.
pub fn table() -> Vec<Case> {
    let rows = [(1, 1, 1, 1), (2, 5, 3, 4), (1, 64, 1, 8), (1, 67, 2, 3), (2, 9, 1, 40), (1, 300, 2, 3)];
    let narrow = [(1, 66, 1, 16), (1, 6, 2, 17), (1, 65, 1, 32), (1, 70, 1, 33), (2, 3, 2, 64)];
    let wide = [(1, 7, 1, 65), (1, 66, 1, 128), (1, 21, 2, 129), (1, 5, 1, 256), (1, 5, 1, 257), (1, 67, 1, 260)];
    let mut cases: Vec<Case> =
        rows.into_iter().chain(narrow).chain(wide).map(|(n, t, heads, d)| case(n, t, heads, d, 40)).collect();
    // One third of one tensor: pairs within a vector and beyond one, more tokens than a tile of queries and of keys.
    let one = [(1, 1, 1, 2), (2, 5, 3, 4), (1, 67, 2, 34), (1, 260, 1, 6)];
    cases.extend(one.map(|(n, t, heads, d)| joined(n, t, heads, d, true, 44)));
    cases.push(joined(2, 9, 2, 5, false, 45));
    cases
}
