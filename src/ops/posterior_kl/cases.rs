//! Oracle and case table of [`super::posterior_kl`].

use super::{PosteriorTerm, posterior_kl};
use crate::testing::{Array, Case};

/// Terms in every relation of x_t and x0: each third row stays where it was, each fifth has no auxiliary part, each seventh no weight at all.
fn terms(rows: usize, k: usize, touched: (f64, f64)) -> Vec<PosteriorTerm> {
    let term = |r: usize| {
        let x0 = ((r * r + 1) % k) as u32;
        let x_t = if r.is_multiple_of(3) { x0 } else { ((r + 2) % k) as u32 };
        let counts = if r % 7 == 6 { 0.0 } else { 1.0 };
        let weight = counts * (0.5 + (r % 4) as f64) / (touched.1 - touched.0);
        PosteriorTerm { x_t, x0, weight, auxiliary: counts * [0.0, 0.1, 1.0, 0.01, 0.5][r % 5], touched }
    };
    (0..rows).map(term).collect()
}

/// `rows` of `k` logits around `offset`, of steps between two shares touched.
pub fn case(rows: usize, k: usize, touched: (f64, f64), offset: f32, seed: u64) -> Case {
    let terms = terms(rows, k, touched);
    let copy = terms.clone();
    Case {
        op: "posterior_kl",
        label: format!("{rows}x{k}, {} to {} touched, around {offset}", touched.0, touched.1),
        inputs: vec![Array::normal([rows, k], seed, 2.0, offset)],
        differentiable: vec![true],
        run: Box::new(move |t| Ok(posterior_kl(&t[0], &terms)?.0)),
        oracle: Box::new(move |a| {
            let rows = copy.iter().zip(a[0].data.chunks_exact(k));
            Array { shape: [1].into(), data: vec![rows.map(|(term, z)| loss(term, z)).sum()] }
        }),
        terms: k,
        // lse is rounded at its own size.
        grad_terms: k + (offset * offset) as usize,
    }
}

/// As printed: posteriors by Bayes' rule from the matrices of the graph, the model's from its joint law with x_t, Σ q·ln(q/p) with 0·ln 0 = 0.
fn loss(term: &PosteriorTerm, z: &[f64]) -> f64 {
    let (before, here) = term.touched;
    let (states, x, x0) = (z.len() as f64, term.x_t as usize, term.x0 as usize);
    let matrix = |touched: f64, y: usize, a: usize| touched / states + if y == a { 1.0 - touched } else { 0.0 };
    let step = (here - before) / (1.0 - before);
    let top = z.iter().fold(f64::NEG_INFINITY, |top, z| top.max(*z));
    let total: f64 = z.iter().map(|z| (z - top).exp()).sum();
    let clean: Vec<f64> = z.iter().map(|z| (z - top).exp() / total).collect();
    // Σ_a q(y | a)·softmax(z)_a and q(x_t | y), and the sums that normalise.
    let joint = |y: usize| matrix(step, x, y) * ((1.0 - before) * clean[y] + before / states);
    let truth = |y: usize| matrix(step, x, y) * matrix(before, y, x0);
    let (all, known): (f64, f64) = ((0..z.len()).map(joint).sum(), (0..z.len()).map(truth).sum());
    let mut sum = 0.0;
    for y in 0..z.len() {
        let (q, p) = (truth(y) / known, joint(y) / all);
        sum += if q > 0.0 { q * (q.ln() - p.ln()) } else { 0.0 };
    }
    let reached: f64 = clean.iter().enumerate().map(|(a, p)| p * matrix(here, x, a)).sum();
    term.weight * sum - term.auxiliary * (clean[x0] * matrix(here, x, x0) / reached).ln()
}

/// Each row.
fn per_row(rows: usize, k: usize, touched: (f64, f64), seed: u64) -> Case {
    let terms = terms(rows, k, touched);
    let copy = terms.clone();
    Case {
        label: format!("{rows}x{k}, each row"),
        differentiable: vec![false],
        run: Box::new(move |t| {
            let (_, rows) = posterior_kl(&t[0], &terms)?;
            let values = rows.to_device(crate::device::Device::Cpu)?.to_vec::<f64>()?;
            let narrow: Vec<f32> = values.iter().map(|v| *v as f32).collect();
            crate::tensor::Tensor::from_slice(&narrow, [values.len()])?.to_device(t[0].device())
        }),
        oracle: Box::new(move |a| Array {
            shape: [rows].into(),
            data: copy.iter().zip(a[0].data.chunks_exact(k)).map(|(term, z)| loss(term, z)).collect(),
        }),
        ..case(rows, k, touched, 0.0, seed)
    }
}

/// Rows: two states, less than a vector, a vector and a part, more than a warp, more rows than a block, logits far from 0; steps of a thousandth
/// and of half the noise, the first step, and one that leaves nothing.
pub fn table() -> Vec<Case> {
    vec![
        case(1, 2, (0.3, 0.5), 0.0, 420),
        case(3, 5, (0.25, 0.75), 0.0, 421),
        case(70, 28, (0.5, 0.501), 0.0, 422),
        case(20, 16, (0.1, 0.2), 40.0, 423),
        case(9, 100, (0.001, 0.002), -40.0, 424),
        case(30, 7, (0.0, 0.001), 0.0, 425),
        case(300, 3, (0.9, 1.0), 0.0, 426),
        per_row(8, 40, (0.7, 0.701), 427),
    ]
}
