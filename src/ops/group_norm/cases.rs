//! Oracle and case table of [`super::group_norm`].

use super::{Film, GroupNorm, group_norm};
use crate::testing::{Array, Case};

/// One row.
pub fn case(x: [usize; 4], groups: usize, silu: bool, film: bool, offset: f32, seed: u64) -> Case {
    let [n, .., c] = x;
    let mut inputs = vec![
        Array::normal(x, seed, 1.0, offset),
        Array::normal([c], seed + 1, 0.5, 1.0),
        Array::normal([c], seed + 2, 0.5, 0.0),
    ];
    if film {
        inputs.push(Array::normal([n, c], seed + 3, 0.5, 0.0));
        inputs.push(Array::normal([n, c], seed + 4, 0.5, 0.0));
    }
    let norm = GroupNorm { groups, norm_eps: 1e-5, silu };
    Case {
        op: "group_norm",
        label: format!("{x:?} groups {groups} silu {silu} film {film} offset {offset}"),
        differentiable: vec![true; inputs.len()],
        inputs,
        run: Box::new(move |t| {
            let film = t.get(3).zip(t.get(4)).map(|(scale, shift)| Film { scale, shift });
            group_norm(&t[0], &t[1], &t[2], film, norm)
        }),
        oracle: Box::new(move |a| oracle(a, norm)),
        // Rounding of x·slope + offset grows with |mean|/deviation: count it as that many squared terms.
        terms: (x[1] * x[2] * c / groups).max(64 * (1 + offset.abs() as usize).pow(2)),
        grad_terms: (n * x[1] * x[2] * c / groups).max(256 * (1 + offset.abs() as usize).pow(2)),
    }
}

fn oracle(a: &[Array], norm: GroupNorm) -> Array {
    let (n, c) = (a[0].shape[0], a[0].shape[3]);
    let (pixels, per_group) = (a[0].shape[1] * a[0].shape[2], c / norm.groups);
    let mut y = Array::zeros(a[0].shape);
    for image in 0..n {
        for g in 0..norm.groups {
            let members = || {
                (0..pixels * per_group).map(|k| (image * pixels + k / per_group) * c + g * per_group + k % per_group)
            };
            let count = (pixels * per_group) as f64;
            let mean = members().map(|k| a[0].data[k]).sum::<f64>() / count;
            let var = members().map(|k| (a[0].data[k] - mean).powi(2)).sum::<f64>() / count;
            for k in members() {
                let i = k % c;
                let mut z = (a[0].data[k] - mean) / (var + norm.norm_eps).sqrt() * a[1].data[i] + a[2].data[i];
                if let (Some(scale), Some(shift)) = (a.get(3), a.get(4)) {
                    z = z * (1.0 + scale.data[image * c + i]) + shift.data[image * c + i];
                }
                y.data[k] = if norm.silu { z / (1.0 + (-z).exp()) } else { z };
            }
        }
    }
    y
}

/// As [`case`], of two tensors that meet after `a` channels.
pub fn joined([n, h, w, c]: [usize; 4], a: usize, groups: usize, silu: bool, film: bool, seed: u64) -> Case {
    let whole = case([n, h, w, c], groups, silu, film, 0.0, seed);
    let norm = GroupNorm { groups, norm_eps: 1e-5, silu };
    let part = |from: usize, len: usize| Array {
        shape: [n, h, w, len].into(),
        data: whole.inputs[0].data.chunks(c).flat_map(|row| row[from..from + len].to_vec()).collect(),
    };
    let mut inputs = vec![part(0, a), part(a, c - a)];
    inputs.extend(whole.inputs.iter().skip(1).cloned());
    Case {
        label: format!("{n}x{h}x{w}x({a}+{}) groups {groups} silu {silu} film {film}", c - a),
        differentiable: vec![true; inputs.len()],
        inputs,
        run: Box::new(move |t| {
            let film = t.get(4).zip(t.get(5)).map(|(scale, shift)| Film { scale, shift });
            group_norm((&t[0], &t[1]), &t[2], &t[3], film, norm)
        }),
        oracle: Box::new(move |i| {
            let rows = i[0].data.chunks(a).zip(i[1].data.chunks(c - a));
            let data = rows.flat_map(|(x, y)| [x, y].concat()).collect();
            let mut joined = vec![Array { shape: [n, h, w, c].into(), data }];
            joined.extend(i.iter().skip(2).cloned());
            oracle(&joined, norm)
        }),
        ..whole
    }
}

/// Rows: one pixel, odd sizes, more than one block of pixels, a far offset, each switch. On a GPU: small images whose channels divide by
/// four and do not, with more than one set of groups and with more pixels than a thread loads at once; groups too wide for
/// that, in one chunk and in two, in several strips of channels.
pub fn table() -> Vec<Case> {
    vec![
        case([1, 1, 1, 8], 2, true, false, 0.0, 30),
        case([2, 3, 5, 6], 3, true, true, 0.0, 31),
        case([2, 4, 4, 8], 8, false, false, 0.0, 32),
        case([1, 9, 8, 6], 2, true, true, 0.0, 33),
        case([2, 12, 11, 20], 4, true, false, 0.0, 34),
        case([1, 5, 5, 4], 1, false, true, 30.0, 35),
        case([2, 3, 3, 4], 2, true, true, 1000.0, 36),
        case([1, 17, 16, 32], 4, true, true, 0.0, 37),
        case([1, 9, 8, 33], 1, true, true, 0.0, 38),
        case([2, 3, 2, 70], 14, true, true, 0.0, 39),
        case([2, 2, 3, 72], 12, false, true, 0.0, 40),
        case([2, 3, 2, 260], 1, true, true, 0.0, 41),
        case([1, 10, 9, 260], 1, true, false, 1000.0, 42),
        case([2, 13, 5, 259], 1, true, true, 0.0, 43),
        case([1, 2, 2, 774], 3, false, true, 0.0, 44),
        // Two tensors that meet between groups and inside one, at a vector's edge and inside one, in one block and in several.
        joined([2, 4, 4, 8], 4, 2, true, false, 45),
        joined([2, 3, 5, 12], 5, 3, true, true, 46),
        joined([1, 17, 16, 48], 32, 4, false, false, 47),
        joined([2, 12, 11, 40], 17, 8, true, false, 48),
        joined([1, 9, 8, 33], 1, 1, false, true, 49),
    ]
}
