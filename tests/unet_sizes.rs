//! The U-Net at any image size: shapes, gradients, skips, and results that depend neither on the batch nor on threads.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers are test code too.

use proptest::prelude::*;
use proptest::sample::select;
use tweedie::nn::{BlockType, ClassEmbed, ClassInput, Mode, Params, UNet, UNetConfig, initialise};
use tweedie::rng::{Address, Purpose};
use tweedie::tape::{Grads, Tape};
use tweedie::tensor::Tensor;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Channels of the levels; attention on the deepest; a class table of 3 rows.
fn network(block_out_channels: &[usize], channels: (usize, usize), downsample_padding: usize) -> UNetConfig {
    let levels = block_out_channels.len();
    let kind = |level: usize| if level + 1 == levels { BlockType::Attention } else { BlockType::Plain };
    UNetConfig {
        in_channels: channels.0,
        out_channels: channels.1,
        down_block_types: (0..levels).map(kind).collect(),
        up_block_types: (0..levels).rev().map(kind).collect(),
        block_out_channels: block_out_channels.to_vec(),
        layers_per_block: 1,
        downsample_padding,
        attention_head_dim: Some(4),
        norm_num_groups: 2,
        class_embed: ClassEmbed::Table(3),
        ..UNetConfig::default()
    }
}

/// A network's weights and a batch for it.
struct Setup {
    unet: UNet,
    params: Params,
    x: Tensor,
    times: Vec<f32>,
    labels: Vec<u32>,
}

impl Setup {
    fn new(config: &UNetConfig, [n, h, w]: [usize; 3], seed: u64) -> Setup {
        let unet = UNet::new(config).unwrap();
        let params = initialise(unet.specs(), seed).unwrap();
        let shape = [n, h, w, config.in_channels];
        let x = Tensor::from_slice(&normal(shape.iter().product(), seed), shape).unwrap().with_grad(true);
        let times = (0..n).map(|i| (137 * i % 1000) as f32).collect();
        Setup { unet, params, x, times, labels: (0..n as u32).map(|i| i % 3).collect() }
    }

    fn run(&self, params: &Params, x: &Tensor) -> tweedie::Result<Tensor> {
        let class = Some(ClassInput::Labels(&self.labels));
        self.unet.forward(params, x, &self.times, class, Mode::Inference)
    }

    fn forward(&self) -> Vec<f32> {
        self.run(&self.params, &self.x).unwrap().to_vec().unwrap()
    }

    /// The output, and the gradients of ⟨output, dy⟩ by x and every parameter.
    fn backward(&self, dy: &[f32]) -> (Tensor, Vec<Vec<f32>>) {
        let (y, tape) = Tape::record(|| self.run(&self.params, &self.x)).unwrap();
        let mut grads = Grads::new();
        tape.backward(&y, Tensor::from_slice(dy, y.shape()).unwrap(), &mut grads).unwrap();
        let names = std::iter::once("x").chain(self.unet.specs().iter().map(|s| s.name.as_str()));
        let tensors = std::iter::once(&self.x).chain(self.params.tensors());
        let found = names.zip(tensors).map(|(name, tensor)| {
            let grad = grads.get(tensor).unwrap_or_else(|| panic!("no gradient for {name}"));
            assert_eq!(grad.shape(), tensor.shape(), "{name}");
            grad.to_vec().unwrap()
        });
        (y, found.collect())
    }

    fn output_count(&self) -> usize {
        self.x.count() / self.unet.config().in_channels * self.unet.config().out_channels
    }
}

fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Address::new(seed, Purpose::Test).fill_normal(&mut values);
    values
}

/// 1 to 3 levels.
fn levels() -> impl Strategy<Value = Vec<usize>> {
    select(vec![vec![4], vec![8, 4], vec![4, 8], vec![4, 8, 12]])
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn forward_keeps_the_size_and_every_parameter_has_a_finite_gradient(
        size in (1..=2usize, 1..=13usize, 1..=13usize).prop_map(|(n, h, w)| [n, h, w]),
        channels in (1..=5usize, 1..=5usize),
        levels in levels(),
        padding in 0..=1usize,
        (scale_shift, has_mid_block) in any::<(bool, bool)>(),
        seed in 0..1_000_000u64,
    ) {
        let config = UNetConfig { scale_shift, has_mid_block, ..network(&levels, channels, padding) };
        let setup = Setup::new(&config, size, seed);
        let (y, grads) = setup.backward(&normal(setup.output_count(), seed + 1));
        prop_assert_eq!(&y.shape()[..], &[size[0], size[1], size[2], channels.1]);
        prop_assert!(y.is_finite().unwrap());
        for (i, grad) in grads.iter().enumerate() {
            let name = if i == 0 { "x" } else { &setup.unet.specs()[i - 1].name };
            prop_assert!(grad.iter().all(|g| g.is_finite()), "{}", name);
        }
        // Something flows all the way: both ends and the time embedding have gradients that are not 0.
        for name in ["conv_in.weight", "time_embedding.linear_1.weight", "class_embedding.weight", "conv_out.weight"] {
            let index = setup.unet.specs().iter().position(|s| s.name == name).unwrap();
            prop_assert!(grads[index + 1].iter().any(|g| *g != 0.0), "{} has the gradient 0", name);
        }
    }

    #[test]
    fn removing_any_skip_changes_the_output(
        // From 3 pixels on: of the few values in a group of a smaller image, a norm leaves little but signs.
        size in (Just(1usize), 3..=13usize, 3..=13usize).prop_map(|(n, h, w)| [n, h, w]),
        levels in levels(),
        padding in 0..=1usize,
        seed in 0..1_000_000u64,
    ) {
        let setup = Setup::new(&network(&levels, (3, 2), padding), size, seed);
        let before = setup.forward();
        let specs = setup.unet.specs();
        let reversed: Vec<usize> = levels.iter().rev().copied().collect();
        // The shortcut reads the skip as it is: were there none, its zeroed weights would meet nothing but zeros, and not one
        // bit would change. The other convolution reads it behind a norm.
        let readers: [&[&str]; 2] = [&["conv_shortcut"], &["conv_shortcut", "conv1"]];
        for (i, j, names) in (0..levels.len()).flat_map(|i| [(i, 0), (i, 1)]).flat_map(|(i, j)| readers.map(|r| (i, j, r))) {
            // Block j of level i reads [features, skip]: the skip is the rest.
            let features = if j == 0 && i > 0 { reversed[i - 1] } else { reversed[i] };
            let mut tensors = setup.params.tensors().to_vec();
            for name in names {
                let name = format!("up_blocks.{i}.resnets.{j}.{name}.weight");
                let index = specs.iter().position(|s| s.name == name).unwrap();
                let c_in = specs[index].shape.last_size();
                for row in tensors[index].host_mut::<f32>().unwrap().chunks_exact_mut(c_in) {
                    row[features..].fill(0.0);
                }
            }
            let params = Params::new(specs, tensors, false).unwrap();
            let after = setup.run(&params, &setup.x).unwrap().to_vec::<f32>().unwrap();
            prop_assert!(bits(&before) != bits(&after), "up block {i}.{j}: {names:?} do not read the skip");
        }
    }
}

proptest! {
    #![proptest_config(config(8))]

    // Channels, images and sizes that are cut into several blocks and tasks.
    #[test]
    fn images_of_a_batch_equal_bit_for_bit_the_images_alone(
        (h, w) in (1..=13usize, 1..=13usize), padding in 0..=1usize, seed in 0..1_000_000u64,
    ) {
        let whole = Setup::new(&network(&[32, 48], (3, 3), padding), [5, h, w], seed);
        let all = whole.forward();
        for i in 0..5 {
            let class = Some(ClassInput::Labels(&whole.labels[i..=i]));
            let x = whole.x.rows(i, 1).unwrap();
            let one = whole.unet.forward(&whole.params, &x, &whole.times[i..=i], class, Mode::Inference).unwrap();
            let one = one.to_vec::<f32>().unwrap();
            prop_assert_eq!(bits(&all[i * one.len()..][..one.len()]), bits(&one), "image {}", i);
        }
    }

    #[test]
    fn outputs_and_gradients_do_not_depend_on_the_number_of_threads(
        (h, w) in (1..=13usize, 1..=13usize), padding in 0..=1usize, seed in 0..1_000_000u64,
    ) {
        let setup = Setup::new(&network(&[32, 48], (3, 3), padding), [5, h, w], seed);
        let dy = normal(setup.output_count(), seed + 1);
        let results = [1, 2, 3, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (y, grads) = pool.install(|| setup.backward(&dy));
            (bits(y.host().unwrap()), grads.iter().map(|g| bits(g)).collect::<Vec<_>>())
        });
        for (result, threads) in results[1..].iter().zip([2, 3, 5]) {
            prop_assert!(result.0 == results[0].0, "outputs differ with {threads} threads");
            for (i, (got, want)) in result.1.iter().zip(&results[0].1).enumerate() {
                let name = if i == 0 { "x" } else { &setup.unet.specs()[i - 1].name };
                prop_assert!(got == want, "the gradient of {name} differs with {threads} threads");
            }
        }
    }
}

fn on_threads<T: Send>(threads: usize, body: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(body)
}

#[test]
fn images_that_threads_share_out_keep_their_bits_and_their_classes() {
    let n = 13;
    let numbers = normal(n, 8);
    for class_embed in [ClassEmbed::None, ClassEmbed::Table(3), ClassEmbed::Timestep, ClassEmbed::Identity] {
        let config = UNetConfig { class_embed, ..network(&[16, 24], (3, 3), 1) };
        let setup = Setup::new(&config, [n, 9, 6], 7);
        let width = config.time_embed_dim();
        let vectors = Tensor::from_slice(&normal(n * width, 9), [n, width]).unwrap();
        let forward = |rows: std::ops::Range<usize>| {
            let part = vectors.rows(rows.start, rows.len()).unwrap();
            let class = match class_embed {
                ClassEmbed::None => None,
                ClassEmbed::Table(_) => Some(ClassInput::Labels(&setup.labels[rows.clone()])),
                ClassEmbed::Timestep => Some(ClassInput::Numbers(&numbers[rows.clone()])),
                ClassEmbed::Identity => Some(ClassInput::Vectors(&part)),
            };
            let x = setup.x.rows(rows.start, rows.len()).unwrap();
            let y = setup.unet.forward(&setup.params, &x, &setup.times[rows], class, Mode::Inference).unwrap();
            bits(y.host().unwrap())
        };
        let alone = (0..n).flat_map(|i| forward(i..i + 1)).collect::<Vec<_>>();
        for threads in [1, 2, 3, 5] {
            assert!(on_threads(threads, || forward(0..n)) == alone, "{class_embed:?}: {threads} threads change bits");
        }
    }
}

#[test]
fn a_mistake_in_the_classes_of_many_images_is_about_all_of_them() {
    let setup = Setup::new(&network(&[4, 8], (3, 3), 1), [16, 4, 4], 1);
    for (class, got) in [(None, "none"), (Some(ClassInput::Labels(&[0; 9])), "another number or kind")] {
        let run = || setup.unet.forward(&setup.params, &setup.x, &setup.times, class, Mode::Inference).unwrap_err();
        let error = on_threads(3, || run().to_string());
        assert_eq!(error, format!("class_labels: the model wants 16 labels from 0 to 2, got {got}"));
    }
}

#[test]
fn wrong_inputs_are_errors_that_say_what_was_expected() {
    let setup = Setup::new(&network(&[4, 8], (3, 3), 1), [2, 4, 4], 1);
    let plain = Setup::new(&UNetConfig { class_embed: ClassEmbed::None, ..network(&[4], (3, 3), 1) }, [2, 4, 4], 1);
    let error = |s: &Setup, x: &[usize], t: &[f32], class: Option<ClassInput<'_>>| {
        let x = Tensor::from_slice(&vec![0.0_f32; x.iter().product()], x).unwrap();
        s.unet.forward(&s.params, &x, t, class, Mode::Inference).unwrap_err().to_string()
    };
    let (good, t) = ([2, 4, 4, 3], [1.0, 2.0]);
    let labels = |labels| Some(ClassInput::Labels(labels));
    assert_eq!(error(&setup, &good, &t, labels(&[0, 3])), "class label 3: the model has rows 0 to 2");
    let wants = "class_labels: the model wants 2 labels from 0 to 2, got";
    assert_eq!(error(&setup, &good, &t, None), format!("{wants} none"));
    assert_eq!(error(&setup, &good, &t, labels(&[0])), format!("{wants} another number or kind"));
    let numbers = Some(ClassInput::Numbers(&[0.0, 1.0]));
    assert_eq!(error(&setup, &good, &t, numbers), format!("{wants} another number or kind"));
    assert_eq!(
        error(&plain, &good, &t, labels(&[0, 1])),
        "class labels were given, but the model has no class conditioning"
    );
    let wants = "unet: x wants [n,h,w,3]";
    assert_eq!(error(&plain, &[2, 4, 4, 5], &t, None), format!("{wants} with no size 0, got [2,4,4,5]"));
    assert_eq!(error(&plain, &[2, 0, 4, 3], &t, None), format!("{wants} with no size 0, got [2,0,4,3]"));
    assert_eq!(error(&plain, &[2, 4, 12], &t, None), format!("{wants}, got [2,4,12]"));
    assert_eq!(error(&plain, &good, &t[..1], None), "unet: 2 images want 2 times, got 1");
}

#[test]
fn gradients_of_the_whole_network_match_central_differences_where_skips_have_odd_sizes() {
    // Sizes that no halving divides, so that every step up resizes to its skip.
    let rows = [
        (vec![8, 12], [2, 5, 7], 1, false, true),
        (vec![8, 12], [1, 7, 3], 0, true, true),
        (vec![8, 8, 12], [1, 13, 11], 0, false, false),
        (vec![8, 12, 8], [2, 9, 6], 1, true, true),
        (vec![8], [1, 5, 1], 1, true, false),
    ];
    for (row, (levels, size, padding, scale_shift, has_mid_block)) in rows.into_iter().enumerate() {
        let seed = 500 + row as u64;
        let config = UNetConfig { scale_shift, has_mid_block, ..network(&levels, (2, 3), padding) };
        let setup = Setup::new(&config, size, seed);
        let dy = normal(setup.output_count(), seed + 1);
        let (_, grads) = setup.backward(&dy);
        let loss = |index: usize, element: usize, step: f32| -> f64 {
            let (mut x, mut tensors) = (setup.x.clone(), setup.params.tensors().to_vec());
            let tensor = if index == 0 { &mut x } else { &mut tensors[index - 1] };
            tensor.host_mut::<f32>().unwrap()[element] += step;
            let params = Params::new(setup.unet.specs(), tensors, false).unwrap();
            let y = setup.run(&params, &x).unwrap();
            y.host::<f32>().unwrap().iter().zip(&dy).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum()
        };
        // The largest element of each gradient.
        let mut probes: Vec<(usize, usize, f64)> = grads
            .iter()
            .enumerate()
            .filter_map(|(index, grad)| {
                let largest = grad.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
                largest.map(|(element, g)| (index, element, f64::from(*g)))
            })
            .collect();
        probes.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()));
        for (index, element, got) in probes.iter().copied().take(24).chain(probes.iter().copied().find(|p| p.0 == 0)) {
            let difference =
                |step: f32| (loss(index, element, step) - loss(index, element, -step)) / (2.0 * f64::from(step));
            let want = (4.0 * difference(1e-2) - difference(2e-2)) / 3.0;
            let name = if index == 0 { "x" } else { &setup.unet.specs()[index - 1].name };
            // The loss sums up to 500 products, each off by some 2e-7 independently: 5e-6, which the differences divide
            // by 2e-2 and multiply by 5/3: 4e-4 of gradients above 0.1. Their own error is of order step⁴.
            let error = (got - want).abs() / want.abs();
            assert!(got.abs() > 0.1, "{name}: {got} is too small to be told from rounding");
            println!("{levels:?} {size:?} {name}: {got:.4} {error:.2e}");
            assert!(error <= 0.005, "{levels:?} {size:?}: gradient of {name} is {got}, differences give {want}");
        }
    }
}
