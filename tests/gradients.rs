//! Every op's forward and backward against its f64 oracle, at sizes, options and data that proptest draws.

use proptest::prelude::*;
use proptest::sample::select;
use tweedie::device::Device;
use tweedie::ops::cases::{
    attention, attention_pool, concat, conv2d, cross_entropy, embed, gated_residual, group_norm, layer_norm, linear,
    pointwise, posterior_kl, resample, score_entropy, weighted_mse,
};
use tweedie::ops::{self, Conv};
use tweedie::rng::{Address, Purpose};
use tweedie::testing::{Array, Case};

/// The harness bounds errors relative to the largest value of an array. Rounding errors of a sum scale with its partial
/// sums, of which the result says nothing if terms cancel: among 1 value, one in eight lies below an eighth of the typical
/// size and fails a correct op; among 8, one in 8^8. Smaller arrays are left to the fixed tables.
const FEWEST: usize = 8;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Checks a case with the inputs of `frozen` (one bit each) not followed by the tape.
fn check(mut case: Case, frozen: u8) -> Result<(), TestCaseError> {
    for (i, (input, differentiable)) in case.inputs.iter().zip(&mut case.differentiable).enumerate() {
        *differentiable &= frozen >> i & 1 == 0 && input.data.len() >= FEWEST;
    }
    case.check(Device::Cpu).map_err(TestCaseError::fail)
}

/// Which inputs are frozen: none in half of the cases.
fn frozen() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), any::<u8>()]
}

/// A size up to 70, half of the time 1 or one next to a tile's edge.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1..=70usize, select(vec![1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65])]
}

/// Channels of a convolution or norm.
fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![1..=12usize, select(vec![15, 16, 17, 31, 32, 33, 40])]
}

fn image() -> impl Strategy<Value = [usize; 3]> {
    (1..=3usize, 1..=9usize, 1..=9usize).prop_map(|(n, h, w)| [n, h, w])
}

/// The oracle's steps that keep a case's 200 evaluations per input at some tenths of a second.
const AFFORDABLE: usize = 100_000;

fn conv_row() -> impl Strategy<Value = conv2d::Row> {
    let kinds = vec![
        (3, Conv::same(3)),
        (1, Conv::same(1)),
        (3, Conv { stride: 2, pad_before: 0, pad_after: [1; 2] }),
        (3, Conv { stride: 2, pad_before: 1, pad_after: [1; 2] }),
        (1, Conv { stride: 2, pad_before: 0, pad_after: [0; 2] }),
        // What the U-Net uses for an axis of one pixel.
        (3, Conv { stride: 2, pad_before: 0, pad_after: [2, 1] }),
        (3, Conv { stride: 2, pad_before: 0, pad_after: [1, 2] }),
    ];
    let sizes = (image(), channels(), channels());
    let row = (sizes, select(kinds), any::<bool>()).prop_map(|(([n, h, w], c_in, c_out), (k, conv), extras)| {
        conv2d::Row { x: [n, h, w, c_in], c_out, k, conv, extras }
    });
    row.prop_filter("kernel larger than the image, too few values, or too costly", |row| {
        let [n, h, w, c_in] = row.x;
        let out = |axis: usize, size: usize| {
            let room = (size + row.conv.pad_before + row.conv.pad_after[axis]).checked_sub(row.k);
            room.map_or(0, |room| room / row.conv.stride + 1)
        };
        let outputs = n * out(0, h) * out(1, w) * row.c_out;
        outputs >= FEWEST && outputs * row.k * row.k * c_in <= AFFORDABLE
    })
}

/// Image, groups and channels of a norm. A group has at least 8 values: among fewer, the variance can be far below 1, and
/// 1/deviation multiplies the rounding errors of x (a group of 1 or 2 values even has the gradient 0, as a difference of
/// values that are not).
fn norm_sizes() -> impl Strategy<Value = ([usize; 4], usize)> {
    let sizes = (image(), select(vec![1, 2, 3, 4, 8]), prop_oneof![1..=9usize, select(vec![16, 17])]);
    sizes
        .prop_map(|([n, h, w], groups, per_group)| ([n, h, w, groups * per_group], groups))
        .prop_filter("fewer than 8 values in a group, or too costly", |([n, h, w, c], groups)| {
            h * w * c / groups >= 8 && n * h * w * c <= 8_000
        })
}

fn dropout_case(n: usize, row: usize, p: f64, address: Address, seed: u64) -> Case {
    Case {
        op: "dropout",
        label: format!("{n}x{row} p {p}"),
        inputs: vec![Array::normal([n, row], seed, 1.0, 0.0)],
        differentiable: vec![true],
        run: Box::new(move |t| ops::dropout(&t[0], p, address)),
        oracle: Box::new(move |a| {
            let mut y = a[0].clone();
            for (k, v) in y.data.iter_mut().enumerate() {
                let word = address.sample(k / row).bits((k % row / 4) as u32)[k % row % 4];
                let uniform = f64::from(word >> 8) / f64::from(1 << 24);
                *v = if uniform < f64::from(p as f32) { 0.0 } else { *v / (1.0 - p) };
            }
            y
        }),
        terms: 1,
        grad_terms: 1,
    }
}

fn slice_case(rows: usize, [before, len, after]: [usize; 3], seed: u64) -> Case {
    let width = before + len + after;
    Case {
        op: "slice",
        label: format!("{rows}x{before}..{} of {width}", before + len),
        inputs: vec![Array::normal([rows, width], seed, 1.0, 0.0)],
        differentiable: vec![true],
        run: Box::new(move |t| ops::slice_channels(&t[0], before, len)),
        oracle: Box::new(move |a| Array {
            shape: [rows, len].into(),
            data: a[0].data.chunks(width).flat_map(|row| row[before..before + len].to_vec()).collect(),
        }),
        terms: 1,
        grad_terms: 1,
    }
}

/// x + y, or (x + y) + x, whose backward must add to a gradient that is shared.
fn add_case(count: usize, twice: bool, seed: u64) -> Case {
    let uses = if twice { 2.0 } else { 1.0 };
    Case {
        op: "add",
        label: format!("{count} values, x used {uses} times"),
        inputs: vec![Array::normal([count], seed, 1.0, 0.0), Array::normal([count], seed + 1, 1.0, 0.0)],
        differentiable: vec![true, true],
        run: Box::new(move |t| {
            let sum = ops::add(&t[0], &t[1])?;
            if twice { ops::add(&sum, &t[0]) } else { Ok(sum) }
        }),
        oracle: Box::new(move |a| {
            let data = a[0].data.iter().zip(&a[1].data).map(|(x, y)| uses * x + y).collect();
            Array { shape: a[0].shape, data }
        }),
        terms: 3,
        grad_terms: 2,
    }
}

fn affine_case(count: usize, factor: f32, constant: f32, seed: u64) -> Case {
    Case {
        op: "affine",
        label: format!("{factor}x + {constant} of {count}"),
        inputs: vec![Array::normal([count], seed, 1.0, 0.0)],
        differentiable: vec![true],
        run: Box::new(move |t| ops::affine(&t[0], factor, constant)),
        oracle: Box::new(move |a| {
            let data = a[0].data.iter().map(|x| f64::from(factor) * x + f64::from(constant)).collect();
            Array { shape: a[0].shape, data }
        }),
        terms: 2,
        grad_terms: 1,
    }
}

/// A gradient of 1e-4 beside values of 1: differences of whole sums would lose it.
#[test]
fn affine_s_gradient_is_compared_where_its_factor_is_tiny() {
    affine_case(646, -8.326_75e-5, -1.128_636_2, 445_322).check(Device::Cpu).unwrap();
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn linear_matches_its_oracle_at_drawn_sizes(
        (rows, c_in, c_out) in (prop_oneof![size(), select(vec![255, 256, 257, 300])], size(), size())
            .prop_filter("too few values or too costly", |(rows, c_in, c_out)| {
                rows * c_out >= FEWEST && rows * c_in * c_out <= AFFORDABLE
            }),
        residual in any::<bool>(),
        frozen in frozen(),
        seed in 0..1_000_000u64,
    ) {
        check(linear::case(rows, c_in, c_out, residual, seed), frozen)?;
    }

    #[test]
    fn conv2d_matches_its_oracle_at_drawn_sizes_strides_and_paddings(
        row in conv_row(), frozen in frozen(), seed in 0..1_000_000u64,
    ) {
        check(conv2d::case(row, seed), frozen)?;
    }

    #[test]
    fn conv2d_by_winograd_matches_its_oracle_at_drawn_sizes_and_paddings(
        ([n, h, w], c_in, c_out) in (image(), channels(), channels()),
        (pad_before, pad_after) in (0..=2usize, [0..=3usize, 0..=3]),
        method in select(vec!["f2", "f4"]),
        extras in any::<bool>(),
        frozen in frozen(),
        seed in 0..1_000_000u64,
    ) {
        let out = |axis: usize, size: usize| (size + pad_before + pad_after[axis]).saturating_sub(2);
        let outputs = n * out(0, h) * out(1, w) * c_out;
        prop_assume!(outputs >= FEWEST && outputs * 9 * c_in <= AFFORDABLE);
        let conv = Conv { stride: 1, pad_before, pad_after };
        check(conv2d::case_by(method, conv2d::Row { x: [n, h, w, c_in], c_out, k: 3, conv, extras }, seed), frozen)?;
    }

    #[test]
    fn group_norm_matches_its_oracle_at_drawn_sizes_and_options(
        (x, groups) in norm_sizes(),
        (silu, film) in any::<(bool, bool)>(),
        offset in select(vec![0.0_f32, -1.0, 10.0]),
        frozen in frozen(),
        seed in 0..1_000_000u64,
    ) {
        check(group_norm::case(x, groups, silu, film, offset, seed), frozen)?;
    }

    #[test]
    fn attention_matches_its_oracle_at_drawn_sizes(
        // From 2 tokens on: with one, softmax is constant, and the gradients of q and k are differences that are 0.
        (n, t, heads, d) in (1..=3usize, size(), 1..=4usize, prop_oneof![1..=12usize, select(vec![16, 17, 32, 33])])
            .prop_filter("too few tokens or values, or too costly", |(n, t, heads, d)| {
                *t >= 2 && n * t * heads * d >= FEWEST && n * heads * t * t * d <= AFFORDABLE
            }),
        frozen in frozen(),
        seed in 0..1_000_000u64,
    ) {
        check(attention::case(n, t, heads, d, seed), frozen)?;
    }

    #[test]
    fn silu_matches_its_oracle_at_drawn_sizes(count in FEWEST..=2_000usize, seed in 0..1_000_000u64) {
        check(pointwise::silu_case(count, seed), 0)?;
    }

    #[test]
    fn add_matches_its_oracle_when_an_input_is_used_once_or_twice(
        count in FEWEST..=2_000usize, twice in any::<bool>(), frozen in frozen(), seed in 0..1_000_000u64,
    ) {
        check(add_case(count, twice, seed), frozen)?;
    }

    #[test]
    fn affine_matches_its_oracle_for_drawn_constants(
        count in FEWEST..=2_000usize, factor in -3.0_f32..3.0, constant in -3.0_f32..3.0, seed in 0..1_000_000u64,
    ) {
        check(affine_case(count, factor, constant, seed), 0)?;
    }

    #[test]
    fn concat_and_slice_match_their_oracles_at_drawn_widths(
        rows in prop_oneof![1..=20usize, select(vec![255, 256, 257])],
        parts in [1..=17usize, 1..=17usize, 0..=17usize],
        frozen in frozen(),
        seed in 0..1_000_000u64,
    ) {
        check(concat::case(rows, parts[0], parts[1], seed), frozen)?;
        check(slice_case(rows, parts, seed), 0)?;
        check(slice_case(rows, [0, parts[0], parts[1]], seed), 0)?;
    }

    #[test]
    fn nearest_resizing_matches_its_oracle_between_drawn_sizes(
        ([n, h, w], c) in (image(), 1..=9usize), (h_out, w_out) in (1..=19usize, 1..=19usize), seed in 0..1_000_000u64,
    ) {
        check(resample::nearest([n, h, w, c], h_out, w_out, seed), 0)?;
    }

    #[test]
    fn mean_pooling_matches_its_oracle_at_drawn_sizes(
        ([n, h, w], c) in ([1..=3usize, 2..=11, 2..=11], 1..=9usize)
            .prop_filter("too few values", |([n, h, w], c)| n * (h / 2) * (w / 2) * c >= FEWEST),
        seed in 0..1_000_000u64,
    ) {
        check(resample::mean([n, h, w, c], seed), 0)?;
    }

    #[test]
    fn embed_matches_its_oracle_at_drawn_sizes(
        k in 1..=12usize, d in FEWEST..=40usize, count in 1..=60usize, seed in 0..1_000_000u64,
    ) {
        check(embed::case(k, d, count, seed), 0)?;
    }

    #[test]
    fn dropout_matches_its_oracle_at_drawn_addresses(
        (n, row) in (1..=5usize, FEWEST..=150usize),
        p in 0.0..0.9_f64,
        (step, sub) in (0..1_000usize, 0..50usize),
        seed in 0..1_000_000u64,
    ) {
        let address = Address::new(seed, Purpose::Dropout).step(step).sub_index(sub);
        check(dropout_case(n, row, p, address, seed), 0)?;
    }

    #[test]
    fn weighted_mse_matches_its_oracle_at_drawn_sizes(
        (n, row) in (1..=6usize, prop_oneof![FEWEST..=200usize, select(vec![1023, 1024, 1025])]),
        seed in 0..1_000_000u64,
    ) {
        check(weighted_mse::case(n, row, seed), 0)?;
    }

    #[test]
    fn linear_with_gelu_matches_its_oracle_at_drawn_sizes(
        (rows, c_in, c_out) in (size(), size(), size())
            .prop_filter("too few values", |(rows, _, c_out)| rows * c_out >= FEWEST),
        bias in any::<bool>(),
        frozen in frozen(),
        seed in 0..1_000_000u64,
    ) {
        check(linear::gelu_case(rows, c_in, c_out, bias, seed), frozen)?;
    }

    #[test]
    fn self_attention_matches_its_oracle_at_drawn_sizes(
        (n, t, heads, half) in (1..=2usize, 2..=40usize, 1..=3usize, 1..=18usize)
            .prop_filter("too costly", |(n, t, heads, half)| n * heads * t * t * half <= AFFORDABLE / 2),
        rotary in any::<bool>(),
        seed in 0..1_000_000u64,
    ) {
        check(attention::joined(n, t, heads, 2 * half, rotary, seed), 0)?;
    }

    #[test]
    fn layer_norm_matches_its_oracle_at_drawn_sizes_and_options(
        // From 5 channels on: of few, normalised ones say little of where they came from, and dx is a difference that is nearly 0.
        (n, rows, c) in (1..=3usize, prop_oneof![1..=20usize, select(vec![63, 64, 65])], 5..=70usize),
        (bias, film) in any::<(bool, bool)>(),
        offset in select(vec![0.0_f32, -1.0, 10.0]),
        frozen in frozen(),
        seed in 0..1_000_000u64,
    ) {
        check(layer_norm::case([n, rows, c], bias, film, offset, seed), frozen)?;
    }

    #[test]
    fn gated_residual_matches_its_oracle_at_drawn_sizes(
        (n, rows, c) in (1..=3usize, prop_oneof![1..=20usize, select(vec![63, 64, 65])], FEWEST..=70usize),
        frozen in frozen(),
        seed in 0..1_000_000u64,
    ) {
        check(gated_residual::case([n, rows, c], seed), frozen)?;
    }

    #[test]
    fn attention_pool_matches_its_oracle_at_drawn_sizes(
        (n, t) in (1..=3usize, size()), heads in 1..=3usize, d in FEWEST..=40usize, frozen in frozen(), seed in 0..1_000_000u64,
    ) {
        check(attention_pool::case([n, t, heads, d], 1.0, seed), frozen)?;
    }

    #[test]
    fn cross_entropy_matches_its_oracle_at_drawn_sizes(
        (rows, k) in (4..=70usize, 2..=70usize), offset in select(vec![0.0_f32, 20.0, -20.0]), seed in 0..1_000_000u64,
    ) {
        check(cross_entropy::case(rows, k, offset, seed), 0)?;
    }

    #[test]
    fn score_entropy_matches_its_oracle_on_every_graph(
        graph in select(vec!["absorbing", "absorbing without mask", "uniform"]),
        (rows, k) in (4..=70usize, 3..=70usize),
        seed in 0..1_000_000u64,
    ) {
        check(score_entropy::case(graph, rows, k, seed), 0)?;
    }

    #[test]
    fn posterior_kl_matches_its_oracle_for_any_step(
        (rows, k) in (4..=70usize, 2..=70usize),
        touched in select(vec![(0.0, 0.01), (0.001, 0.002), (0.2, 0.7), (0.5, 0.501), (0.9, 1.0)]),
        offset in select(vec![0.0_f32, 20.0, -20.0]),
        seed in 0..1_000_000u64,
    ) {
        check(posterior_kl::case(rows, k, touched, offset, seed), 0)?;
    }
}
