//! Oracle and case table of [`super::score_entropy`].

use super::{ScoreForm, ScoreTerm, score_entropy};
use crate::testing::{Array, Case};

/// `rows` of `k` log-scores on a graph, "absorbing" with a column for the mask, "absorbing without mask", "uniform", or the uniform one with rows of
/// "all forms".
pub fn case(graph: &'static str, rows: usize, k: usize, seed: u64) -> Case {
    let terms: Vec<ScoreTerm> = (0..rows)
        .map(|r| {
            let (x0, expm1_sigma, rate) = (((r * r + 1) % k) as u32, 0.05 + r as f64 % 7.0, 0.5 + r as f64 % 3.0);
            match graph {
                // The mask is the last column, and the clean states are the others; every fourth token is not masked.
                "absorbing" => {
                    let (mask, x0) = (k as u32 - 1, x0 % (k as u32 - 1).max(1));
                    ScoreTerm::absorbing(if r % 4 == 3 { x0 } else { mask }, x0, mask, expm1_sigma, rate)
                }
                "absorbing without mask" => ScoreTerm::absorbing(k as u32, x0, k as u32, expm1_sigma, rate),
                "uniform" => ScoreTerm::uniform(((r + 1) % k) as u32, x0, k, expm1_sigma, rate),
                _ => ScoreTerm {
                    form: [ScoreForm::Squares, ScoreForm::Log, ScoreForm::Entropy][r % 3],
                    ..ScoreTerm::uniform(((r + 1) % k) as u32, x0, k, expm1_sigma, rate)
                },
            }
        })
        .collect();
    let copy = terms.clone();
    Case {
        op: "score_entropy",
        label: format!("{graph} {rows}x{k}"),
        inputs: vec![Array::normal([rows, k], seed, 1.0, 0.0)],
        differentiable: vec![true],
        run: Box::new(move |t| Ok(score_entropy(&t[0], &terms)?.0)),
        oracle: Box::new(move |a| {
            let rows = copy.iter().zip(a[0].data.chunks_exact(k));
            Array { shape: [1].into(), data: vec![rows.map(|(term, scores)| entropy(term, scores)).sum()] }
        }),
        terms: k,
        grad_terms: k,
    }
}

/// As printed, with 0·ln 0 = 0.
fn entropy(term: &ScoreTerm, scores: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (y, s) in scores.iter().enumerate().filter(|(y, _)| *y as u32 != term.x_t) {
        let r = if y as u32 == term.x0 { term.ratio_x0 } else { term.ratio_rest };
        sum += match term.form {
            ScoreForm::Entropy => s.exp() - r * s + if r > 0.0 { r * (r.ln() - 1.0) } else { 0.0 },
            ScoreForm::Squares => (s.exp() - r).powi(2),
            ScoreForm::Log => -r * s,
        };
    }
    term.weight * sum
}

/// Each row.
fn per_row(rows: usize, k: usize, seed: u64) -> Case {
    let terms: Vec<ScoreTerm> = (0..rows).map(|r| ScoreTerm::uniform(0, (r % k) as u32, k, 1.5, 2.0)).collect();
    let copy = terms.clone();
    Case {
        label: format!("{rows}x{k}, each row"),
        differentiable: vec![false],
        run: Box::new(move |t| {
            let (_, rows) = score_entropy(&t[0], &terms)?;
            let values = rows.to_device(crate::device::Device::Cpu)?.to_vec::<f64>()?;
            let narrow: Vec<f32> = values.iter().map(|v| *v as f32).collect();
            crate::tensor::Tensor::from_slice(&narrow, [values.len()])?.to_device(t[0].device())
        }),
        oracle: Box::new(move |a| Array {
            shape: [rows].into(),
            data: copy.iter().zip(a[0].data.chunks_exact(k)).map(|(term, scores)| entropy(term, scores)).collect(),
        }),
        ..case("uniform", rows, k, seed)
    }
}

/// Rows: each graph; two states, less than a vector, a vector and a part, more than a warp, more rows than a block.
pub fn table() -> Vec<Case> {
    vec![
        case("uniform", 1, 2, 410),
        case("uniform", 70, 28, 411),
        case("absorbing", 9, 5, 412),
        case("absorbing", 66, 17, 413),
        case("absorbing without mask", 7, 100, 414),
        case("uniform", 300, 3, 415),
        per_row(6, 40, 416),
        case("all forms", 66, 21, 417),
    ]
}
