//! Oracle and case table of [`super::cross_entropy`].

use super::cross_entropy;
use crate::testing::{Array, Case};

/// `rows` of `k` logits around `offset`; every third row has no weight.
pub fn case(rows: usize, k: usize, offset: f32, seed: u64) -> Case {
    let targets: Vec<u32> = (0..rows).map(|r| ((r * r + 1) % k) as u32).collect();
    let weights: Vec<f32> = (0..rows).map(|r| if r % 3 == 1 { 0.0 } else { 0.5 + (r % 5) as f32 }).collect();
    let (targets_too, weights_too) = (targets.clone(), weights.clone());
    Case {
        op: "cross_entropy",
        label: format!("{rows}x{k} around {offset}"),
        inputs: vec![Array::normal([rows, k], seed, 2.0, offset)],
        differentiable: vec![true],
        run: Box::new(move |t| Ok(cross_entropy(&t[0], &targets, &weights)?.0)),
        oracle: Box::new(move |a| {
            let entropy = |r: usize| entropy(&a[0].data[r * k..][..k], targets_too[r] as usize);
            let loss = (0..rows).map(|r| f64::from(weights_too[r]) * entropy(r)).sum();
            Array { shape: [1].into(), data: vec![loss] }
        }),
        terms: k,
        // lse is rounded at its own size.
        grad_terms: k + (offset * offset) as usize,
    }
}

fn entropy(row: &[f64], target: usize) -> f64 {
    let top = row.iter().fold(f64::NEG_INFINITY, |top, z| top.max(*z));
    row.iter().map(|z| (z - top).exp()).sum::<f64>().ln() + top - row[target]
}

/// Each row's entropy; those without weight are 0.
fn per_row(rows: usize, k: usize, seed: u64) -> Case {
    let targets: Vec<u32> = (0..rows).map(|r| (r % k) as u32).collect();
    let weights: Vec<f32> = (0..rows).map(|r| if r == 1 { 0.0 } else { 1.0 }).collect();
    let targets_too = targets.clone();
    Case {
        label: format!("{rows}x{k}, each row"),
        differentiable: vec![false],
        run: Box::new(move |t| {
            let (_, rows) = cross_entropy(&t[0], &targets, &weights)?;
            let values = rows.to_device(crate::device::Device::Cpu)?.to_vec::<f64>()?;
            let narrow: Vec<f32> = values.iter().map(|v| *v as f32).collect();
            crate::tensor::Tensor::from_slice(&narrow, [values.len()])?.to_device(t[0].device())
        }),
        oracle: Box::new(move |a| {
            let row = |r: usize| if r == 1 { 0.0 } else { entropy(&a[0].data[r * k..][..k], targets_too[r] as usize) };
            Array { shape: [rows].into(), data: (0..rows).map(row).collect() }
        }),
        ..case(rows, k, 0.0, seed)
    }
}

/// Rows: two classes, less than a vector, a vector and a part, more than a warp, more rows than a block, logits far from 0.
pub fn table() -> Vec<Case> {
    vec![
        case(1, 2, 0.0, 400),
        case(3, 5, 0.0, 401),
        case(70, 28, 0.0, 402),
        case(20, 16, 40.0, 403),
        case(9, 100, -40.0, 404),
        case(300, 3, 0.0, 405),
        per_row(5, 40, 406),
    ]
}
