//! Oracle and case table of [`super::layer_norm`].

use super::layer_norm;
use crate::ops::Film;
use crate::testing::{Array, Case};

const NORM_EPS: f64 = 1e-5;

/// `n` samples of `rows` tokens of `c` channels, with a mean of `offset`; with a bias or without, with a modulation or without.
pub fn case([n, rows, c]: [usize; 3], bias: bool, film: bool, offset: f32, seed: u64) -> Case {
    let mut inputs = vec![Array::normal([n, rows, c], seed, 1.0, offset), Array::normal([c], seed + 1, 0.5, 1.0)];
    if bias {
        inputs.push(Array::normal([c], seed + 2, 1.0, 0.0));
    }
    if film {
        inputs.extend([3, 4].map(|more| Array::normal([n, c], seed + more, 0.5, 0.0)));
    }
    let after = if bias { 3 } else { 2 };
    // x − mean loses as many bits as the mean has more than the deviation.
    let lost = (1.0 + f64::from(offset).abs()).powi(2).ceil() as usize;
    Case {
        op: "layer_norm",
        label: format!("{n}x{rows}x{c} bias {bias} film {film} offset {offset}"),
        differentiable: vec![true; inputs.len()],
        inputs,
        run: Box::new(move |t| {
            let film = film.then(|| Film { scale: &t[after], shift: &t[after + 1] });
            layer_norm(&t[0], &t[1], bias.then(|| &t[2]), film, NORM_EPS)
        }),
        oracle: Box::new(move |a| oracle(a, bias, film)),
        terms: c * lost,
        grad_terms: (c + n * rows) * lost,
    }
}

fn oracle(a: &[Array], bias: bool, film: bool) -> Array {
    let (rows, c) = (a[0].shape[1], a[0].shape[2]);
    let mut y = a[0].clone();
    for (row, line) in y.data.chunks_exact_mut(c).enumerate() {
        let mean = line.iter().sum::<f64>() / c as f64;
        let variance = line.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
        for (i, v) in line.iter_mut().enumerate() {
            *v = (*v - mean) / (variance + NORM_EPS).sqrt() * a[1].data[i];
            if bias {
                *v += a[2].data[i];
            }
            if film {
                let at = row / rows * c + i;
                let [scale, shift] = [2, 1].map(|back| a[a.len() - back].data[at]);
                *v = *v * (1.0 + scale) + shift;
            }
        }
    }
    y
}

/// Rows: one row, few channels, a vector and more, with and without each option, a mean far from 0, more than a block of rows, more channels than a
/// thread block, more samples than one.
pub fn table() -> Vec<Case> {
    vec![
        case([1, 1, 8], true, false, 0.0, 300),
        case([2, 3, 5], false, false, 0.0, 310),
        case([2, 3, 16], true, true, 0.0, 320),
        case([3, 65, 33], false, true, 0.0, 330),
        case([1, 130, 12], true, false, 10.0, 340),
        case([2, 7, 384], false, true, -1.0, 350),
        case([2, 5, 1030], true, true, 0.0, 360),
    ]
}
