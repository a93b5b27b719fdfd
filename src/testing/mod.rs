//! Proof harness: f64 oracles, comparisons that a NaN cannot pass, finite differences, and each room's case table.
//!
//! Always compiled, because integration tests, benches and other devices run the same tables; not part of the
//! public interface.

pub mod cases;

use crate::device::Device;
use crate::error::Result;
use crate::nn::{BlockType, UNetConfig};
use crate::ops;
use crate::rng::{Address, Purpose};
use crate::tape::{Grads, Tape};
use crate::tensor::{Dtype, Shape, Tensor};

/// A plain f64 array for oracles.
#[derive(Clone, Debug)]
pub struct Array {
    /// Sizes of the axes.
    pub shape: Shape,
    /// Elements, last axis fastest.
    pub data: Vec<f64>,
}

impl Array {
    /// Zeros.
    pub fn zeros(shape: impl Into<Shape>) -> Array {
        let shape = shape.into();
        Array { shape, data: vec![0.0; shape.count()] }
    }

    /// Standard normals that are exact in f32, times `scale`, plus `offset`.
    pub fn normal(shape: impl Into<Shape>, seed: u64, scale: f32, offset: f32) -> Array {
        let shape = shape.into();
        let mut values = vec![0.0_f32; shape.count()];
        Address::new(seed, Purpose::Test).fill_normal(&mut values);
        Array { shape, data: values.iter().map(|v| f64::from(v * scale + offset)).collect() }
    }

    /// The elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|v| *v as f32).collect()
    }
}

type Run = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;
type Oracle = Box<dyn Fn(&[Array]) -> Array>;

/// One row of an op's table: inputs, the op itself, and its f64 oracle.
pub struct Case {
    /// The room's stem.
    pub op: &'static str,
    /// What this row covers.
    pub label: String,
    /// The inputs, exact in f32.
    pub inputs: Vec<Array>,
    /// Which inputs have gradients.
    pub differentiable: Vec<bool>,
    /// The op on tensors.
    pub run: Run,
    /// The plainest loop in f64.
    pub oracle: Oracle,
    /// The largest number of terms summed for one output value.
    pub terms: usize,
    /// The largest number of terms summed for one gradient value.
    pub grad_terms: usize,
}

impl Case {
    /// Checks forward and backward on `device`; the error text names op, row, index and both values.
    ///
    /// # Errors
    /// A sentence about the first disagreement.
    pub fn check(&self, device: Device) -> std::result::Result<(), String> {
        self.check_with(&format!("{} [{}] on {device}", self.op, self.label), device, &[], 0.0)
    }

    /// Checks forward and backward on the CPU with the inputs of `activations` in bf16, and so the result. Inputs are rounded to bf16, for
    /// the op and the oracle, and products of two are exact in f32: what is left beside f32's rounding are the `roundings` to bf16, of 2^-8
    /// each, between a value or the gradient of an activation and the inputs.
    ///
    /// # Errors
    /// As [`Case::check`].
    pub fn check_bf16(mut self, activations: &[usize], roundings: usize) -> std::result::Result<(), String> {
        self.inputs.iter_mut().flat_map(|input| &mut input.data).for_each(round);
        let name = format!("{} [{}] in bf16", self.op, self.label);
        self.check_with(&name, Device::Cpu, activations, roundings as f64 / 256.0)
    }

    fn check_with(
        &self,
        name: &str,
        device: Device,
        activations: &[usize],
        rounding: f64,
    ) -> std::result::Result<(), String> {
        let is_bf16 = !activations.is_empty();
        let dtype = |is_bf16: bool| if is_bf16 { Dtype::Bf16 } else { Dtype::F32 };
        let fail = |e: crate::Error| format!("{name}: {e}");
        let inputs: Vec<Tensor> = self
            .inputs
            .iter()
            .zip(&self.differentiable)
            .enumerate()
            .map(|(i, (a, d))| {
                let input = ops::cast(&Tensor::from_slice(&a.to_f32(), a.shape)?, dtype(activations.contains(&i)))?;
                Ok(input.to_device(device)?.with_grad(*d))
            })
            .collect::<Result<_>>()
            .map_err(fail)?;
        let want = (self.oracle)(&self.inputs);
        let mut dy = Array::normal(want.shape, 77, 1.0, 0.0);
        if is_bf16 {
            dy.data.iter_mut().for_each(round);
        }
        // Twice into the same gradients: a backward must add, never overwrite. Its dy belongs to it alone, then to others too.
        let mut grads = Grads::new();
        for shared in [false, true] {
            let (y, tape) = Tape::record(|| (self.run)(&inputs)).map_err(fail)?;
            if y.shape() != want.shape {
                return Err(format!("{name}: shape {} instead of {}", y.shape(), want.shape));
            }
            if y.device() != device {
                return Err(format!("{name}: the result is on {}", y.device()));
            }
            if y.dtype() != dtype(is_bf16) {
                return Err(format!("{name}: the result is {:?}", y.dtype()));
            }
            compare(name, &values(&y).map_err(fail)?, &want.data, tolerance(self.terms) + rounding)?;
            if self.differentiable.iter().any(|d| *d) {
                let cotangent = Tensor::from_slice(&dy.to_f32(), want.shape)
                    .and_then(|dy| ops::cast(&dy, y.dtype()))
                    .and_then(|dy| dy.to_device(device))
                    .map_err(fail)?;
                let kept = shared.then(|| cotangent.clone());
                tape.backward(&y, cotangent, &mut grads).map_err(fail)?;
                if let Some(kept) = kept
                    && values(&kept).map_err(fail)? != dy.to_f32()
                {
                    return Err(format!("{name}: backward wrote to a dy that others have too"));
                }
            }
        }
        for (i, input) in inputs.iter().enumerate().filter(|(i, _)| self.differentiable[*i]) {
            let grad = grads.get(input).ok_or_else(|| format!("{name}: no gradient for input {i}"))?;
            if grad.dtype() != input.dtype() {
                return Err(format!("{name}: the gradient of input {i} is {:?}", grad.dtype()));
            }
            let rounding = if input.dtype() == Dtype::Bf16 { rounding } else { 0.0 };
            self.check_gradient(name, i, &values(grad).map_err(fail)?, &dy, rounding)?;
        }
        Ok(())
    }

    /// Central differences of ⟨oracle, dy⟩ against half of the accumulated gradient of input `i`. Outputs are subtracted before they are summed:
    /// what a step does not move cancels exactly.
    fn check_gradient(
        &self,
        name: &str,
        i: usize,
        grad: &[f32],
        dy: &Array,
        rounding: f64,
    ) -> std::result::Result<(), String> {
        const STEP: f64 = 1e-5;
        let count = self.inputs[i].data.len();
        // Large inputs are probed at addressed positions, small ones everywhere.
        let probes: Vec<usize> = if count <= 96 {
            (0..count).collect()
        } else {
            (0..96).map(|p| Address::new(5, Purpose::Test).below(p, count)).collect()
        };
        let mut moved = self.inputs.clone();
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for &p in &probes {
            let centre = moved[i].data[p];
            moved[i].data[p] = centre + STEP;
            let up = (self.oracle)(&moved).data;
            moved[i].data[p] = centre - STEP;
            let down = (self.oracle)(&moved).data;
            moved[i].data[p] = centre;
            let difference: f64 = up.iter().zip(&down).zip(&dy.data).map(|((up, down), d)| (up - down) * d).sum();
            got.push(grad[p] / 2.0);
            want.push(difference / (2.0 * STEP));
        }
        compare(
            &format!("{name}: gradient of input {i}, probes {:?}…", &probes[..probes.len().min(4)]),
            &got,
            &want,
            tolerance(self.grad_terms) + rounding,
        )
    }
}

/// The elements as f32, wherever they are.
fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.to_device(Device::Cpu)?;
    if tensor.dtype() == Dtype::Bf16 { ops::cast(&tensor, Dtype::F32)?.to_vec() } else { tensor.to_vec() }
}

/// To the nearest bf16.
fn round(value: &mut f64) {
    *value = half::bf16::from_f32(*value as f32).to_f64();
}

/// k terms summed in f32: 4·sqrt(k)·eps of the largest value, with a floor of 16 roundings for the elementary
/// functions inside an op.
pub fn tolerance(terms: usize) -> f64 {
    f64::from(f32::EPSILON) * (4.0 * (terms as f64).sqrt()).max(16.0)
}

/// Compares values with an oracle's; `relative` is relative to the oracle's largest value. NaN fails.
///
/// # Errors
/// A sentence with the index and both values.
pub fn compare(what: &str, got: &[f32], want: &[f64], relative: f64) -> std::result::Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values instead of {}", got.len(), want.len()));
    }
    let size = want.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let bound = relative * size + f64::from(f32::MIN_POSITIVE);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs();
        if !(error <= bound) {
            return Err(format!("{what}: element {i} is {g:e}, oracle {w:e}, error {error:.2e} above {bound:.2e}"));
        }
    }
    Ok(())
}

/// ‖got − want‖ / ‖want‖; NaN if any value is.
pub fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (g, w) in got.iter().zip(want) {
        difference += (f64::from(*g) - f64::from(*w)).powi(2);
        norm += f64::from(*w).powi(2);
    }
    if got.len() == want.len() { (difference / norm).sqrt() } else { f64::NAN }
}

/// A zero f32 tensor on the host, for tests.
///
/// # Errors
/// Never on the host.
pub fn zeros(shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::zeros(shape, Dtype::F32, Device::Cpu)
}

/// Standard normals, f32 on the host, for tests.
///
/// # Errors
/// Never on the host.
pub fn normals(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let mut z = vec![0.0_f32; shape.iter().product()];
    Address::new(seed, Purpose::Test).fill_normal(&mut z);
    Tensor::from_slice(&z, shape)
}

/// A U-Net of two small levels, the deeper one with attention, for tests.
pub fn small_unet(channels: usize) -> UNetConfig {
    UNetConfig {
        in_channels: channels,
        out_channels: channels,
        down_block_types: vec![BlockType::Plain, BlockType::Attention],
        up_block_types: vec![BlockType::Attention, BlockType::Plain],
        block_out_channels: vec![4, 8],
        layers_per_block: 1,
        attention_head_dim: Some(4),
        norm_num_groups: 2,
        ..UNetConfig::default()
    }
}
