//! Oracle and case table of [`super::attention`].

use super::attention;
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

/// Rows: one token, one block, several blocks, several heads, more keys than a tile, a head wider than a panel. On a GPU: each width of kernels from its first
/// head to its last, in one tile and in two, with channels that divide by four and do not; heads of two pieces.
pub fn table() -> Vec<Case> {
    let rows = [(1, 1, 1, 1), (2, 5, 3, 4), (1, 64, 1, 8), (1, 67, 2, 3), (2, 9, 1, 40), (1, 300, 2, 3)];
    let narrow = [(1, 66, 1, 16), (1, 6, 2, 17), (1, 65, 1, 32), (1, 70, 1, 33), (2, 3, 2, 64)];
    let wide = [(1, 7, 1, 65), (1, 66, 1, 128), (1, 21, 2, 129), (1, 5, 1, 256), (1, 5, 1, 257), (1, 67, 1, 260)];
    rows.into_iter().chain(narrow).chain(wide).map(|(n, t, heads, d)| case(n, t, heads, d, 40)).collect()
}
