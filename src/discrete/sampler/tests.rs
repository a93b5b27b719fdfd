use super::*;
use crate::discrete::{Absorbing, ConcreteScore, Constraint, Enumeration, Graph, Head, Noise, Tokens, Uniform};
use crate::error::Result;
use std::cell::RefCell;

const MASKED: Noise = Noise::LogLinear { eps: 0.0 };

fn law() -> Vec<f64> {
    (0..27).map(|i| 0.2 + ((i * 37 + 11) % 23) as f64).collect()
}

fn masked_language() -> Enumeration<Absorbing> {
    Enumeration::new(Absorbing::new(3).unwrap(), 3, &law(), Head::LogClean).unwrap()
}

fn run<G: Graph>(
    kind: TokenSampler,
    model: &Enumeration<G>,
    noise: Noise,
    n: u32,
    options: &TokenSamplerOptions,
) -> Sampled {
    let samples: Vec<u32> = (0..n).collect();
    let graph: &dyn Graph = model.graph();
    sample_tokens(kind, model, (graph, noise), 3, &samples, None, options, &mut |_, _| Ok(())).unwrap()
}

#[test]
fn expected_evaluations_are_those_of_the_share_and_of_many_runs() {
    for (steps, length) in [(16, 3), (256, 256), (1000, 128)] {
        let (share, sum) = (expected_share(steps, length), expected_evaluations(MASKED, steps, length));
        // Sums of some thousand doubles.
        assert!((share * steps as f64 - sum).abs() < 1e-9 * sum, "{share} {sum}");
    }
    for noise in [Noise::Cosine { eps: 0.0 }, Noise::Geometric { min: 0.5, max: 20.0 }] {
        let options = TokenSamplerOptions { steps: 8, batch: 64, ..Default::default() };
        let found = run(TokenSampler::Cached, &masked_language(), noise, 4000, &options).evaluations;
        let mean = found.iter().sum::<usize>() as f64 / found.len() as f64;
        // A sequence has 1 to 3 evaluations: five standard errors of 4000 are below 0.08.
        let want = expected_evaluations(noise, options.steps, 3);
        assert!((mean - want).abs() < 0.08, "{noise:?}: {mean} {want}");
    }
}

#[test]
fn a_sequence_depends_on_its_seed_and_index_and_not_on_its_batch() {
    let masked = masked_language();
    let uniform = Enumeration::new(Uniform::new(3).unwrap(), 3, &law(), Head::LogRatios).unwrap();
    for kind in TokenSampler::ALL {
        let check = |go: &dyn Fn(&TokenSamplerOptions, &[u32]) -> Sampled| {
            let options = |batch| TokenSamplerOptions { steps: 6, batch, seed: 4, ..Default::default() };
            let all = go(&options(64), &(0..40).collect::<Vec<u32>>());
            let few = go(&options(7), &(0..40).collect::<Vec<u32>>());
            assert_eq!((&all.tokens, &all.evaluations), (&few.tokens, &few.evaluations), "{}", kind.name());
            let some = go(&options(3), &[31, 5]);
            assert_eq!((some.tokens.row(0), some.tokens.row(1)), (all.tokens.row(31), all.tokens.row(5)));
            let other = go(&TokenSamplerOptions { seed: 5, ..options(64) }, &(0..40).collect::<Vec<u32>>());
            assert_ne!(other.tokens, all.tokens, "{}", kind.name());
        };
        let quiet: &mut dyn FnMut(usize, &[u32]) -> Result<()> = &mut |_, _| Ok(());
        let quiet = RefCell::new(quiet);
        check(&|options, samples| {
            let place = (masked.graph() as &dyn Graph, MASKED);
            sample_tokens(kind, &masked, place, 3, samples, None, options, &mut **quiet.borrow_mut()).unwrap()
        });
        if kind != TokenSampler::Cached {
            let noise = Noise::LogLinear { eps: 1e-2 };
            check(&|options, samples| {
                let place = (uniform.graph() as &dyn Graph, noise);
                sample_tokens(kind, &uniform, place, 3, samples, None, options, &mut **quiet.borrow_mut()).unwrap()
            });
        }
    }
}

/// Passes everything on, and keeps the size of each batch.
struct Counting<'a>(&'a Enumeration<Absorbing>, RefCell<Vec<usize>>);

impl ConcreteScore for Counting<'_> {
    fn head(&self) -> Head {
        self.0.head()
    }

    fn states(&self) -> usize {
        self.0.states()
    }

    fn is_time_free(&self) -> bool {
        self.0.is_time_free()
    }

    fn evaluate(&self, tokens: &Tokens, sigma_bar: &[f64], out: &mut [f64]) -> Result<()> {
        self.1.borrow_mut().push(tokens.rows());
        self.0.evaluate(tokens, sigma_bar, out)
    }
}

#[test]
fn the_cached_sampler_is_the_plain_one_to_the_bit_and_its_batches_are_full() {
    let model = masked_language();
    let options = TokenSamplerOptions { steps: 12, batch: 8, seed: 9, ..Default::default() };
    let plain = run(TokenSampler::Ancestral, &model, MASKED, 200, &options);
    let counting = Counting(&model, RefCell::default());
    let samples: Vec<u32> = (0..200).collect();
    let place = (model.graph() as &dyn Graph, MASKED);
    let kind = TokenSampler::Cached;
    let cached = sample_tokens(kind, &counting, place, 3, &samples, None, &options, &mut |_, _| Ok(())).unwrap();
    assert_eq!(plain.tokens, cached.tokens);
    assert!(plain.evaluations.iter().all(|n| *n == 12) && cached.evaluations.iter().all(|n| *n <= 3));
    let batches = counting.1.into_inner();
    assert_eq!((batches.len(), batches.iter().sum::<usize>()), (cached.batches, cached.evaluations.iter().sum()));
    // All but those of the last sequences, of which each wants at most three.
    assert!(batches[..batches.len() - 3].iter().all(|rows| *rows == 8), "{batches:?}");
    // Noise that is left at the end is taken out by both.
    let geometric = Noise::Geometric { min: 0.3, max: 40.0 };
    let (a, b) = (TokenSampler::Ancestral, TokenSampler::Cached);
    let (a, b) = (run(a, &model, geometric, 100, &options), run(b, &model, geometric, 100, &options));
    assert_eq!(a.tokens, b.tokens);
    assert!(a.tokens.values().iter().all(|token| *token < 3));
}

#[test]
fn known_tokens_stay_and_forbidden_ones_never_come() {
    let masked = masked_language();
    let uniform = Enumeration::new(Uniform::new(3).unwrap(), 3, &law(), Head::LogClean).unwrap();
    let constraint = Constraint::sets(vec![None, Some(vec![2]), Some(vec![0, 1])], 3).unwrap();
    let options = TokenSamplerOptions { steps: 8, seed: 2, constraint: Some(constraint), ..Default::default() };
    for kind in TokenSampler::ALL {
        let mut runs = vec![run(kind, &masked, MASKED, 50, &options)];
        if kind != TokenSampler::Cached {
            runs.push(run(kind, &uniform, Noise::LogLinear { eps: 1e-2 }, 50, &options));
        }
        for sampled in runs {
            assert!(sampled.tokens.iter().all(|x| x[0] < 3 && x[1] == 2 && x[2] < 2), "{}", kind.name());
        }
    }
}

#[test]
fn wrong_settings_are_refused_with_a_reason() {
    let model = masked_language();
    let try_run = |kind, noise, graph: &dyn Graph, options: &TokenSamplerOptions| {
        sample_tokens(kind, &model, (graph, noise), 3, &[0], None, options, &mut |_, _| Ok(())).unwrap_err().to_string()
    };
    let (plain, graph) = (TokenSamplerOptions::default(), model.graph());
    let other = Uniform::new(3).unwrap();
    assert!(try_run(TokenSampler::Euler, MASKED, &other, &plain).contains("the graph has 3 states, the model 4"));
    let zero = TokenSamplerOptions { steps: 0, ..plain.clone() };
    assert!(try_run(TokenSampler::Euler, MASKED, graph, &zero).contains("at least 1"));
    let late = TokenSamplerOptions { t_min: 1.0, ..plain.clone() };
    assert!(try_run(TokenSampler::Euler, MASKED, graph, &late).contains("t_min"));
    let short = Constraint::infill(vec![None], 3).unwrap();
    let short = TokenSamplerOptions { constraint: Some(short), ..plain.clone() };
    assert!(try_run(TokenSampler::Euler, MASKED, graph, &short).contains("expected 3 tokens, got 1"));
    assert!(TokenSampler::from_name("gilespie").unwrap_err().to_string().contains("did you mean \"gillespie\"?"));

    let uniform = Enumeration::new(other, 3, &law(), Head::LogRatios).unwrap();
    let place = (uniform.graph() as &dyn Graph, MASKED);
    for (kind, wanted) in [(TokenSampler::Cached, "a mask"), (TokenSampler::Gillespie, "eps = 1e-3")] {
        let failed = sample_tokens(kind, &uniform, place, 3, &[0], None, &plain, &mut |_, _| Ok(()));
        let text = failed.unwrap_err().to_string();
        assert!(text.contains(wanted), "{text}");
    }
}
