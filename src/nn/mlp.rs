//! A multilayer perceptron for vectors, conditioned on time: the network of low-dimensional examples.

use super::layers::{Linear, TimeEmbedding};
use super::param::{Builder, ParamSpec, Params};
use super::{Mode, Network};
use crate::error::{Error, Result};
use crate::ops;
use crate::tape;
use crate::tensor::Tensor;

// Far beyond any such network that has been trained: a slip of the pen must not ask for all memory.
const MAX_WIDTH: usize = 1 << 14;
const MAX_DEPTH: usize = 1 << 8;

/// Sizes of a [`Mlp`].
#[derive(Clone, Debug, PartialEq)]
pub struct MlpConfig {
    /// Values of a vector, in and out; at least 1.
    pub dim: usize,
    /// Values of a hidden layer, and of the time embedding; 1 to 16384.
    pub width: usize,
    /// Residual blocks of two linear layers each; 1 to 256.
    pub depth: usize,
    /// Sines and cosines of the time; 2 to 16384.
    pub time_features: usize,
    /// Times are multiplied by this before the features, whose fastest frequency is 1 radian per unit: 1 for DDPM
    /// indices (0 to 999), 1000 for times in [0, 1].
    pub time_scale: f64,
    /// First weights and biases of the input layer are uniform in ±`input_gain`/√dim. The hidden units begin with bends
    /// 1/`input_gain` wide, spread over the data: at PyTorch's 1 they are wider than the whole data, and structure finer
    /// than that is learned late or never.
    pub input_gain: f64,
}

impl Default for MlpConfig {
    /// Points of the plane under DDPM indices: 2 blocks of width 128, 0.12 M parameters.
    fn default() -> MlpConfig {
        MlpConfig { dim: 2, width: 128, depth: 2, time_features: 64, time_scale: 1.0, input_gain: 6.0 }
    }
}

impl MlpConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the field, its value and the range.
    pub fn validate(&self) -> Result<()> {
        for (field, value, least, most) in [
            ("dim", self.dim, 1, MAX_WIDTH),
            ("width", self.width, 1, MAX_WIDTH),
            ("depth", self.depth, 1, MAX_DEPTH),
            ("time_features", self.time_features, 2, MAX_WIDTH),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Error::Usage(format!("mlp config: {field} = {value}: expected {least} to {most}")));
            }
        }
        for (field, value) in [("time_scale", self.time_scale), ("input_gain", self.input_gain)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::Usage(format!("mlp config: {field} = {value}: expected a number above 0")));
            }
        }
        Ok(())
    }
}

/// h + linear_2(SiLU(linear_1(SiLU(h)) + time)).
struct Block {
    name: String,
    linear_1: Linear,
    time: Linear,
    linear_2: Linear,
}

impl Block {
    fn new(b: &mut Builder, name: String, width: usize) -> Block {
        // Variance 1/width: the hidden layers keep the size of what they get.
        let bound = (3.0 / width as f64).sqrt();
        let mut linear = |part: &str| Linear::with_bound(b, &format!("{name}.{part}"), width, width, bound);
        let (linear_1, time, linear_2) = (linear("linear_1"), linear("time"), linear("linear_2"));
        Block { name, linear_1, time, linear_2 }
    }

    /// `h` and `emb` = SiLU of the time embedding, both `[n, width]`.
    fn forward(&self, p: &Params, h: &Tensor, emb: &Tensor) -> Result<Tensor> {
        tape::scope(&self.name, || {
            let time = self.time.forward(p, emb, None)?;
            let u = self.linear_1.forward(p, &ops::silu(h)?, Some(&time))?;
            self.linear_2.forward(p, &ops::silu(&u)?, Some(h))
        })
    }
}

/// The network; its weights are kept in [`Params`].
///
/// `emb = SiLU(W₄·SiLU(W₃·features(t)))`, `h = W_in·x`, then in each block `h ← h + W₂·SiLU(W₁·SiLU(h) + W_t·emb)`,
/// and `W_out·SiLU(h)`; every W has its bias. Sinusoidal features as in the U-Net, [`ops::time_features`].
///
/// # Example
/// ```
/// use tweedie::{nn::{Mlp, MlpConfig, initialise}, tensor::Tensor};
/// let mlp = Mlp::new(&MlpConfig { width: 16, depth: 2, ..MlpConfig::default() })?;
/// let params = initialise(mlp.specs(), 0)?;
/// let x = Tensor::from_slice(&[0.5_f32, -1.0, 0.0, 2.0], [2, 2])?;
/// let both = mlp.forward(&params, &x, &[0.0, 999.0])?.to_vec::<f32>()?;
/// let second = mlp.forward(&params, &x.rows(1, 1)?, &[999.0])?;
/// assert_eq!(both[2..], second.to_vec::<f32>()?);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub struct Mlp {
    config: MlpConfig,
    specs: Vec<ParamSpec>,
    time: TimeEmbedding,
    linear_in: Linear,
    blocks: Vec<Block>,
    linear_out: Linear,
}

impl Mlp {
    /// Builds the layers that `config` describes.
    ///
    /// # Errors
    /// [`Error::Usage`] as [`MlpConfig::validate`].
    pub fn new(config: &MlpConfig) -> Result<Mlp> {
        config.validate()?;
        let b = &mut Builder::new();
        let width = config.width;
        let time = TimeEmbedding::new(b, "time_embedding", config.time_features, width);
        let linear_in =
            Linear::with_bound(b, "linear_in", config.dim, width, config.input_gain / (config.dim as f64).sqrt());
        let blocks = (0..config.depth).map(|i| Block::new(b, format!("blocks.{i}"), width)).collect();
        let linear_out = Linear::new(b, "linear_out", width, config.dim);
        let specs = std::mem::take(b).finish();
        Ok(Mlp { config: config.clone(), specs, time, linear_in, blocks, linear_out })
    }

    /// The configuration.
    pub fn config(&self) -> &MlpConfig {
        &self.config
    }

    /// The parameters, in the order of [`Params`].
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Runs the network.
    ///
    /// * `x` — `[n, dim]`
    /// * `times` — `[n]`, as the network was trained on them
    ///
    /// Returns `[n, dim]`. Differentiable in x and the parameters.
    ///
    /// # Errors
    /// [`Error::Shape`] if sizes disagree.
    pub fn forward(&self, p: &Params, x: &Tensor, times: &[f32]) -> Result<Tensor> {
        let dim = self.config.dim;
        let n = match x.shape()[..] {
            [n, d] if n > 0 && d == dim => n,
            _ => return Err(Error::Shape(format!("mlp: x wants [n,{dim}] with n at least 1, got {}", x.shape()))),
        };
        if times.len() != n {
            return Err(Error::Shape(format!("mlp: {n} vectors want {n} times, got {}", times.len())));
        }
        let scaled: Vec<f32> = times.iter().map(|t| (f64::from(*t) * self.config.time_scale) as f32).collect();
        let emb = tape::scope("time_embedding", || {
            let features = ops::time_features(&scaled, self.config.time_features, true, 0.0, x.device())?;
            ops::silu(&self.time.forward(p, &features)?)
        })?;
        let mut h = tape::scope("linear_in", || self.linear_in.forward(p, x, None))?;
        for block in &self.blocks {
            h = block.forward(p, &h, &emb)?;
        }
        tape::scope("linear_out", || self.linear_out.forward(p, &ops::silu(&h)?, None))
    }
}

impl Network for Mlp {
    fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    fn net_out(&self, p: &Params, x_t: &Tensor, times: &[f32], _mode: Mode) -> Result<Tensor> {
        self.forward(p, x_t, times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::nn::initialise;
    use crate::optim::{self, Moments, UpdateSettings};
    use crate::tape::{Grads, Tape};
    use crate::testing::{Array, Case};

    const TIMES: [f32; 3] = [0.0, 0.017, 0.8];

    fn small() -> MlpConfig {
        MlpConfig { dim: 3, width: 9, depth: 2, time_features: 6, time_scale: 1000.0, ..MlpConfig::default() }
    }

    /// y = x·Wᵀ + b + residual in f64.
    fn linear(x: &[f64], a: &[Array], at: &mut usize, residual: Option<&[f64]>) -> Vec<f64> {
        let (w, b) = (&a[*at], &a[*at + 1]);
        *at += 2;
        let (c_out, c_in) = (w.shape[0], w.shape[1]);
        let mut y = Vec::new();
        for (r, row) in x.chunks_exact(c_in).enumerate() {
            for j in 0..c_out {
                let products = (0..c_in).map(|i| w.data[j * c_in + i] * row[i]).sum::<f64>();
                y.push(products + b.data[j] + residual.map_or(0.0, |e| e[r * c_out + j]));
            }
        }
        y
    }

    fn silu(x: Vec<f64>) -> Vec<f64> {
        x.into_iter().map(|v| v / (1.0 + (-v).exp())).collect()
    }

    /// The network in plain loops; inputs are x and then the parameters in the order of the specs.
    fn oracle(a: &[Array]) -> Array {
        let scaled = TIMES.map(|t| (f64::from(t) * 1000.0) as f32);
        let features =
            ops::time_features(&scaled, 6, true, 0.0, crate::device::Device::Cpu).unwrap().to_vec::<f32>().unwrap();
        let features: Vec<f64> = features.into_iter().map(f64::from).collect();
        let at = &mut 1;
        let emb = silu(linear(&features, a, at, None));
        let emb = silu(linear(&emb, a, at, None));
        let mut h = linear(&a[0].data, a, at, None);
        for _ in 0..2 {
            let mut after = *at + 2;
            let time = linear(&emb, a, &mut after, None);
            let u = linear(&silu(h.clone()), a, at, Some(&time));
            *at = after;
            h = linear(&silu(u), a, at, Some(&h));
        }
        Array { shape: a[0].shape, data: linear(&silu(h), a, at, None) }
    }

    #[test]
    fn values_and_every_gradient_match_plain_loops_in_f64() {
        let mlp = Mlp::new(&small()).unwrap();
        let specs = mlp.specs().to_vec();
        let mut inputs = vec![Array::normal([3, 3], 1, 1.0, 0.0)];
        inputs.extend(specs.iter().enumerate().map(|(i, s)| Array::normal(s.shape, 2 + i as u64, 0.4, 0.0)));
        let case = Case {
            op: "mlp",
            label: "depth 2".into(),
            differentiable: vec![true; inputs.len()],
            inputs,
            run: Box::new(move |t| mlp.forward(&Params::new(&specs, t[1..].to_vec(), true)?, &t[0], &TIMES)),
            oracle: Box::new(oracle),
            // Eight layers of sums over 9 products, each layer's error carried on by the next.
            terms: 8 * 9,
            grad_terms: 3 * 8 * 9,
        };
        case.check(Device::Cpu).unwrap();
    }

    #[test]
    fn two_hundred_steps_learn_a_function_of_point_and_time() {
        // y = (x₂·cos(2t), x₁²), every point at t = 0 and at t = 1: needs both inputs and the hidden layers.
        let mlp = Mlp::new(&MlpConfig { width: 32, depth: 2, time_scale: 1000.0, ..MlpConfig::default() }).unwrap();
        let mut params = initialise(mlp.specs(), 0).unwrap();
        let mut ema = Params::new(mlp.specs(), params.tensors().to_vec(), false).unwrap();
        let mut moments = Moments::zeros(&params).unwrap();
        let mut x = Array::normal([64, 2], 3, 1.0, 0.0);
        let (once, twice) = x.data.split_at_mut(64);
        twice.copy_from_slice(once);
        let times: Vec<f32> = (0..64).map(|i| (i / 32) as f32).collect();
        let rows = x.data.chunks_exact(2).zip(&times);
        let y: Vec<f32> = rows.flat_map(|(x, t)| [x[1] as f32 * (2.0 * t).cos(), (x[0] * x[0]) as f32]).collect();
        let (x, y) = (Tensor::from_slice(&x.to_f32(), [64, 2]).unwrap(), Tensor::from_slice(&y, [64, 2]).unwrap());
        let mut losses = Vec::new();
        for step in 1..=200 {
            let mut grads = Grads::new();
            let record = || Ok(ops::weighted_mse(&mlp.forward(&params, &x, &times)?, &y, &[1.0; 64])?.0);
            let (loss, tape) = Tape::record(record).unwrap();
            tape.backward_from_loss(&loss, &mut grads).unwrap();
            losses.push(loss.to_vec::<f32>().unwrap()[0]);
            let norm = optim::global_norm(&params, &grads).unwrap();
            let outcome = optim::Outcome { loss, norm };
            let settings = UpdateSettings {
                lr: 5e-3,
                muon: None,
                betas: (0.9, 0.999),
                adam_eps: 1e-8,
                weight_decay: 0.0,
                grad_clip: 1.0,
                ema_decay: 0.9,
            };
            optim::update(&mut params, &mut ema, &mut moments, &grads, &outcome, step, &settings).unwrap();
        }
        let (first, last) = (losses[0], losses[199]);
        assert!(last < 0.02 * first, "{first} -> {last}");
    }

    #[test]
    fn wrong_sizes_are_named() {
        for (config, part) in [
            (MlpConfig { dim: 0, ..small() }, "dim = 0: expected 1 to"),
            (MlpConfig { width: 1 << 20, ..small() }, "width = 1048576: expected 1 to 16384"),
            (MlpConfig { depth: 0, ..small() }, "depth = 0"),
            (MlpConfig { time_features: 1, ..small() }, "time_features = 1: expected 2 to"),
            (MlpConfig { time_scale: f64::NAN, ..small() }, "time_scale = NaN"),
            (MlpConfig { input_gain: 0.0, ..small() }, "input_gain = 0: expected a number above 0"),
        ] {
            let text = Mlp::new(&config).err().unwrap().to_string();
            assert!(text.starts_with("mlp config: ") && text.contains(part), "{text}");
        }
        let mlp = Mlp::new(&small()).unwrap();
        let params = initialise(mlp.specs(), 0).unwrap();
        let x = crate::testing::zeros([2, 2]).unwrap();
        let text = mlp.forward(&params, &x, &[0.0; 2]).unwrap_err().to_string();
        assert_eq!(text, "mlp: x wants [n,3] with n at least 1, got [2,2]");
        let x = crate::testing::zeros([2, 3]).unwrap();
        let text = mlp.forward(&params, &x, &[0.0; 3]).unwrap_err().to_string();
        assert_eq!(text, "mlp: 2 vectors want 2 times, got 3");
    }
}
