//! Oracle and case table of [`super::attention_pool`].

use super::attention_pool;
use crate::testing::{Array, Case};

/// `t` places of `heads` heads of `d` channels in each of `n` images; scores of about `spread`.
pub fn case([n, t, heads, d]: [usize; 4], spread: f32, seed: u64) -> Case {
    let c = heads * d;
    Case {
        op: "attention_pool",
        label: format!("{n}x{t}, {heads} heads of {d}, scores of {spread}"),
        inputs: vec![
            Array::normal([n, c], seed, spread, 0.0),
            Array::normal([n, t, c], seed + 1, 1.0, 0.0),
            Array::normal([n, t, c], seed + 2, 1.0, 0.0),
        ],
        // One place has all the weight, whatever the scores: their gradients are 0, of which differences see rounding alone.
        differentiable: vec![t > 1, t > 1, true],
        run: Box::new(move |x| attention_pool(&x[0], &x[1], &x[2], heads)),
        oracle: Box::new(move |a| oracle(a, [n, t, heads, d])),
        // A score's rounding error is relative to the score, and moves probabilities by as much.
        terms: t + (spread * spread * 10.0) as usize,
        grad_terms: t + d + (spread * spread * 10.0) as usize,
    }
}

fn oracle(a: &[Array], [n, t, heads, d]: [usize; 4]) -> Array {
    let c = heads * d;
    let mut y = Array::zeros([n, c]);
    for (i, h) in (0..n).flat_map(|i| (0..heads).map(move |h| (i, h))) {
        let at = |place: usize, channel: usize| (i * t + place) * c + h * d + channel;
        let score = |place: usize| -> f64 {
            let product = |channel: usize| a[0].data[i * c + h * d + channel] * a[1].data[at(place, channel)];
            (0..d).map(product).sum::<f64>() / (d as f64).sqrt()
        };
        let weights: Vec<f64> = (0..t).map(|place| score(place).exp()).collect();
        let total: f64 = weights.iter().sum();
        for channel in 0..d {
            let sum: f64 = weights.iter().enumerate().map(|(place, w)| w * a[2].data[at(place, channel)]).sum();
            y.data[i * c + h * d + channel] = sum / total;
        }
    }
    y
}

/// Rows: one place, fewer places than warps, places and channels on each side of a warp and of a block, several heads, sharp scores.
pub fn table() -> Vec<Case> {
    vec![
        case([2, 1, 1, 4], 1.0, 500),
        case([3, 3, 2, 5], 1.0, 503),
        case([2, 16, 2, 32], 1.0, 506),
        case([1, 131, 1, 33], 1.0, 509),
        case([2, 9, 1, 130], 1.0, 512),
        case([2, 7, 3, 8], 4.0, 515),
    ]
}
