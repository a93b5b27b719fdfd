//! Filling in: conditioning on known tokens (item 77).

use super::super::measure::largest;
use super::super::{Bound, Identity};
use super::language::{absorbing, answer, chi_square_z, pushed, times, total_variation, uniform};
use crate::discrete::{
    Constraint, Enumeration, Graph, Head, Noise, Rule, TokenSampler, TokenSamplerOptions, View, sample_tokens,
};
use crate::error::Result;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 77 S3.section6 one jump at a time",
        claim: "masked tokens uncovered one at a time in random order, by enumeration: the exact conditional, for every set of known tokens",
        bound: Bound::AtMost(1e-12),
        measure: one_at_a_time,
    },
    Identity {
        id: "item 77 S3.section6 sampled",
        claim: "the sampler of exact jumps with known tokens: chi-square against the conditional, as a normal",
        bound: Bound::AtMost(3.72), // n = 20 000, seed 85: once in ten thousand seeds
        measure: sampled,
    },
    Identity {
        id: "item 77 S3.section6 all at once",
        claim: "uncovered all in one step the tokens do not know of one another: total variation from the conditional",
        bound: Bound::AtLeast(0.02), // the correlation of this language
        measure: all_at_once,
    },
    Identity {
        id: "item 77 S3.section6 uniform clamped",
        claim: "in the uniform graph a known token that is held biases the others, in 400 steps: total variation from the conditional",
        bound: Bound::AtLeast(0.05),
        measure: || clamped(400),
    },
    Identity {
        id: "item 77 S3.section6 uniform clamped limit",
        claim: "and more steps do not help: change of that distance from 400 to 800 steps",
        bound: Bound::AtMost(0.002), // the step's own error of O(h): 0.8/400 at most, half of it gone
        measure: || Ok((clamped(400)? - clamped(800)?).abs()),
    },
];

/// p_0 given the known tokens, over digits in `0..base`.
fn conditional<G: Graph>(model: &Enumeration<G>, known: &[Option<u32>], base: usize) -> Vec<f64> {
    let mut law = vec![0.0; base.pow(known.len() as u32)];
    for (i, p) in model.law().iter().enumerate() {
        let x = model.sequence(i, model.graph().symbols());
        if known.iter().zip(&x).all(|(known, x)| known.is_none_or(|known| known == *x)) {
            law[model.index(&x, base)] = *p;
        }
    }
    let sum: f64 = law.iter().sum();
    law.into_iter().map(|p| p / sum).collect()
}

fn one_at_a_time() -> Result<f64> {
    let model = absorbing(3, 4, Head::LogClean)?;
    let (graph, mask) = (model.graph(), 3);
    let mut worst = Vec::new();
    for pattern in 0..15_u32 {
        let known: Vec<Option<u32>> = (0..4).map(|l| (pattern >> l & 1 == 1).then_some((l + pattern) % 3)).collect();
        let mut p = vec![0.0; 256];
        p[model.index(&known.iter().map(|token| token.unwrap_or(mask)).collect::<Vec<u32>>(), 4)] = 1.0;
        for left in (1..=known.iter().filter(|token| token.is_none()).count()).rev() {
            let mut next = vec![0.0; 256];
            for (here, mass) in p.iter().enumerate().filter(|(_, mass)| **mass > 0.0) {
                let x = model.sequence(here, 4);
                let values = answer(&model, &x, 1.0)?;
                let view = View { graph, head: Head::LogClean, x: &x, sigma_bar: 1.0, values: &values };
                for l in (0..4).filter(|l| x[*l] == mask) {
                    for (y, q) in view.clean(l)?.into_iter().enumerate().take(3) {
                        let mut there = x.clone();
                        there[l] = y as u32;
                        next[model.index(&there, 4)] += mass * q / left as f64;
                    }
                }
            }
            p = next;
        }
        worst.push(total_variation(&p, &conditional(&model, &known, 4)));
    }
    Ok(largest(worst))
}

const KNOWN: [Option<u32>; 4] = [None, Some(2), None, Some(0)];

fn sampled() -> Result<f64> {
    let model = absorbing(3, 4, Head::LogClean)?;
    let constraint = Some(Constraint::infill(KNOWN.to_vec(), 3)?);
    let options = TokenSamplerOptions { seed: 85, batch: 256, constraint, ..Default::default() };
    let samples: Vec<u32> = (0..20_000).collect();
    let place = (model.graph() as &dyn Graph, Noise::LogLinear { eps: 0.0 });
    let kind = TokenSampler::Gillespie;
    let found = sample_tokens(kind, &model, place, 4, &samples, None, &options, &mut |_, _| Ok(()))?;
    Ok(chi_square_z(&model, &found.tokens, &conditional(&model, &KNOWN, 4), 4))
}

fn all_at_once() -> Result<f64> {
    let (model, noise) = (absorbing(3, 4, Head::LogClean)?, Noise::LogLinear { eps: 0.0 });
    let constraint = Constraint::infill(KNOWN.to_vec(), 3)?;
    let mut p = vec![0.0; 256];
    p[model.index(&KNOWN.map(|token| token.unwrap_or(3)), 4)] = 1.0;
    let law = pushed(&model, noise, Rule::Ancestral, &[1.0, 0.0], p, Some(&constraint))?;
    Ok(total_variation(&law, &conditional(&model, &KNOWN, 4)))
}

/// Two tokens that are mostly alike; the second is known, the first sampled in steps of Euler's rule.
fn clamped(steps: usize) -> Result<f64> {
    let law = [0.45, 0.03, 0.02, 0.02, 0.2, 0.03, 0.03, 0.02, 0.2];
    let model = Enumeration::new(*uniform(3, 2, Head::LogRatios)?.graph(), 2, &law, Head::LogRatios)?;
    let noise = Noise::LogLinear { eps: 1e-3 };
    let known = [None, Some(2)];
    let constraint = Constraint::infill(known.to_vec(), 3)?;
    let mut p = vec![0.0; 9];
    (0..3).for_each(|y| p[model.index(&[y, 2], 3)] = 1.0 / 3.0);
    let end = pushed(&model, noise, Rule::Analytic, &times(1.0, 0.0, steps), p, Some(&constraint))?;
    Ok(total_variation(&end, &conditional(&model, &known, 3)))
}
