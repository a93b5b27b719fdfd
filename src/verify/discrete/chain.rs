//! Discrete time: transition matrices, their closed powers and what never mixes (items 63–65).

use super::super::measure::{largest, miss};
use super::super::{Bound, Identity};
use super::language::total_variation;
use crate::discrete::{AbsorbingTransition, MatrixTransition, Transition, UniformTransition};
use crate::error::Result;
use nalgebra::DMatrix;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 63 S3.section6.1 columns",
        claim: "columns of every power of P sum to 1 and have no negative entry",
        bound: Bound::AtMost(1e-13), // S terms of a few ε each, 20 squarings for the matrix
        measure: columns,
    },
    Identity {
        id: "item 63 S3.section6.1 push",
        claim: "p_(t+1) = P·p_t stays a law, and 50 steps at once are 50 steps",
        bound: Bound::AtMost(1e-13), // 50 sums of terms up to 1: 50·4·ε
        measure: push,
    },
    Identity {
        id: "item 63 S3.section6.1 convergence",
        claim: "two starts are |λ₂|^t apart in total variation, and no start is farther from π",
        bound: Bound::AtMost(1e-13),
        measure: convergence,
    },
    Identity {
        id: "item 63 S3.section6.1 rows",
        claim: "with the entries read as P(x, y) the mass is not kept: how far the sum is from 1",
        bound: Bound::AtLeast(0.3), // the masking chain at eps = 0.3: 1 − eps + 3·eps from the start p = e_M
        measure: rows,
    },
    Identity {
        id: "item 64 S3.section6.1 power",
        claim: "λ^t·I + (1 − λ^t)/K·11ᵀ with λ = 1 − εK/(K − 1) is the matrix power",
        bound: Bound::AtMost(1e-13),
        measure: || powers(&uniform_chains()?),
    },
    Identity {
        id: "item 64 S3.section6.1 periodic",
        claim: "K = 2 with ε = 1 swaps for ever: distance of two starts after 1000 steps",
        bound: Bound::AtLeast(1.0), // exact: the entries are 0 and 1
        measure: periodic,
    },
    Identity {
        id: "item 64 S3.section6.1 refused",
        claim: "chains without a limit are refused: how many of K = 2 with ε = 1, ε = 0, K = 1, a cycle, two parts are not",
        bound: Bound::AtMost(0.0), // a count
        measure: refused,
    },
    Identity {
        id: "item 65 S3.section6.1 power",
        claim: "a token survives t steps with probability (1 − ε)^t: the matrix power",
        bound: Bound::AtMost(1e-13),
        measure: || powers(&absorbing_chains()?),
    },
    Identity {
        id: "item 65 S3.section6.1 absorbed",
        claim: "a mask stays one: probability of anything else after any number of steps",
        bound: Bound::AtMost(0.0), // exact
        measure: absorbed,
    },
    Identity {
        id: "item 65 S3.section6.1 K states misprint",
        claim: "with a p of K entries, without the mask's, mass is lost: ε a step",
        bound: Bound::AtLeast(0.3),
        measure: without_the_mask,
    },
];

/// A chain, and the same as printed: its matrix.
type Pair = (Box<dyn Transition>, DMatrix<f64>);

fn uniform_chains() -> Result<Vec<Pair>> {
    let mut chains: Vec<Pair> = Vec::new();
    for (symbols, eps) in [(2, 0.3), (3, 1e-3), (3, 0.9), (6, 1.0)] {
        let entry = |y: usize, x: usize| if y == x { 1.0 - eps } else { eps / (symbols - 1) as f64 };
        chains.push((Box::new(UniformTransition::new(symbols, eps)?), DMatrix::from_fn(symbols, symbols, entry)));
    }
    Ok(chains)
}

fn absorbing_matrix(symbols: usize, eps: f64) -> DMatrix<f64> {
    DMatrix::from_fn(symbols + 1, symbols + 1, |y, x| match (y == symbols, x == symbols) {
        (true, true) => 1.0,
        (true, false) => eps,
        (false, false) if y == x => 1.0 - eps,
        _ => 0.0,
    })
}

fn absorbing_chains() -> Result<Vec<Pair>> {
    let mut chains: Vec<Pair> = Vec::new();
    for (symbols, eps) in [(2, 0.3), (3, 1e-3), (5, 1.0)] {
        chains.push((Box::new(AbsorbingTransition::new(symbols, eps)?), absorbing_matrix(symbols, eps)));
    }
    Ok(chains)
}

fn all_chains() -> Result<Vec<Pair>> {
    let mut chains = uniform_chains()?;
    chains.extend(absorbing_chains()?);
    let own = DMatrix::from_row_slice(3, 3, &[0.5, 0.2, 0.0, 0.4, 0.8, 0.9, 0.1, 0.0, 0.1]);
    chains.push((Box::new(MatrixTransition::new(own.clone())?), own));
    Ok(chains)
}

const TIMES: [u64; 5] = [0, 1, 2, 7, 50];

fn columns() -> Result<f64> {
    let mut worst = Vec::new();
    for (chain, _) in all_chains()? {
        for t in [0, 1, 13, 1_000_000] {
            for x in 0..chain.states() {
                let column: Vec<f64> = (0..chain.states()).map(|y| chain.power(y, x, t)).collect();
                worst.push(column.iter().sum::<f64>() - 1.0);
                worst.extend(column.into_iter().map(|p| p.min(0.0)));
            }
        }
    }
    Ok(largest(worst))
}

fn push() -> Result<f64> {
    let mut worst = Vec::new();
    for (chain, matrix) in all_chains()? {
        let states = chain.states();
        let start: Vec<f64> = (0..states).map(|x| 2.0 * (x + 1) as f64 / (states * (states + 1)) as f64).collect();
        let mut p = start.clone();
        for _ in 0..50 {
            let stepped: Vec<f64> = (0..states).map(|y| (0..states).map(|x| matrix[(y, x)] * p[x]).sum()).collect();
            p = chain.push(&p, 1)?;
            worst.extend(p.iter().zip(&stepped).map(|(a, b)| a - b));
            worst.extend([p.iter().sum::<f64>() - 1.0, p.iter().copied().fold(0.0, f64::min)]);
        }
        worst.extend(chain.push(&start, 50)?.iter().zip(&p).map(|(a, b)| a - b));
    }
    Ok(largest(worst))
}

fn convergence() -> Result<f64> {
    let mut worst = Vec::new();
    for (chain, _) in all_chains()? {
        let (states, prior) = (chain.states(), chain.stationary());
        for t in TIMES {
            let column = |x: usize| -> Vec<f64> { (0..states).map(|y| chain.power(y, x, t)).collect() };
            let pairs = (0..states).flat_map(|a| (0..states).map(move |b| (a, b)));
            let apart = pairs.map(|(a, b)| total_variation(&column(a), &column(b))).fold(0.0, f64::max);
            worst.push(apart - chain.memory(t));
            // π is a mixture of where all starts go.
            worst.extend((0..states).map(|x| (total_variation(&column(x), &prior) - apart).max(0.0)));
        }
    }
    Ok(largest(worst))
}

fn rows() -> Result<f64> {
    let chain = AbsorbingTransition::new(3, 0.3)?;
    let p = [0.0, 0.0, 0.0, 1.0];
    let wrong: f64 = (0..4).map(|y| (0..4).map(|x| chain.power(x, y, 1) * p[x]).sum::<f64>()).sum();
    Ok((wrong - 1.0).abs())
}

fn powers(chains: &[Pair]) -> Result<f64> {
    let mut worst = Vec::new();
    for (chain, matrix) in chains {
        for t in TIMES {
            let power = matrix.pow(t as u32);
            let entries = (0..chain.states()).flat_map(|y| (0..chain.states()).map(move |x| (y, x)));
            worst.extend(entries.map(|(y, x)| miss(chain.power(y, x, t), power[(y, x)])));
        }
    }
    Ok(largest(worst))
}

fn periodic() -> Result<f64> {
    let power = DMatrix::from_row_slice(2, 2, &[0.0, 1.0, 1.0, 0.0]).pow(1000);
    Ok(total_variation(power.column(0).as_slice(), power.column(1).as_slice()))
}

fn refused() -> Result<f64> {
    let cycle = DMatrix::from_row_slice(3, 3, &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let accepted = [
        UniformTransition::new(2, 1.0).is_ok(),
        UniformTransition::new(3, 0.0).is_ok(),
        UniformTransition::new(1, 0.5).is_ok(),
        AbsorbingTransition::new(3, 0.0).is_ok(),
        AbsorbingTransition::new(1, 0.5).is_ok(),
        MatrixTransition::new(cycle).is_ok(),
        MatrixTransition::new(DMatrix::identity(3, 3)).is_ok(),
        // One that mixes must not be refused.
        UniformTransition::new(3, 1.0).is_err(),
    ];
    Ok(accepted.into_iter().filter(|wrong| *wrong).count() as f64)
}

fn absorbed() -> Result<f64> {
    let chain = AbsorbingTransition::new(4, 0.2)?;
    Ok(largest(TIMES.into_iter().flat_map(|t| (0..4).map(move |y| (y, t))).map(|(y, t)| chain.power(y, 4, t))))
}

fn without_the_mask() -> Result<f64> {
    let printed = absorbing_matrix(3, 0.3).view((0, 0), (3, 3)).into_owned();
    Ok((1.0 - printed.column(0).sum()).abs())
}
