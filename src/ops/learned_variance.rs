//! A reverse step whose variance the network chooses between beta-tilde and beta: its share of the variational bound, and its noise
//! (Nichol & Dhariwal 2021, eqs. 15 and 16; S1 "Σ often σ²I", item 20).
//!
//! ln variance = f·log_large + (1 − f)·log_small, f = (v + 1)/2, for each element. The bound of a step in nats,
//! ½(−1 + ln variance − log_small + (e^log_small + d²)/variance), d = factor·(prediction − target) the distance of the two means; of the last
//! step −ln of the mass that N(x0_hat, variance) gives the pixel level's bin, the outer bins reaching to infinity (Ho et al. 2020, eq. 13).
//!
//! Saved    v, prediction, target, x0 (shared) and the scalars of each image. The mean has no gradient here (its stop-gradient).
//! Order    f64 sums of each image in order, then of the images; the kernels add 16 elements a thread in f64, then a fixed tree.
//! Kernels  `kernels/learned_variance.cu`.

use super::same_device;
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::tape::{self, Grads, Node};
use crate::tensor::{Dtype, Tensor};

/// The scalars of one image's step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VarianceTerms {
    /// ln beta-tilde, v = −1.
    pub log_small: f64,
    /// ln beta, v = 1.
    pub log_large: f64,
    /// Distance of the means of an output that is off by 1: the share of x0 in the mean times that of the output in x0_hat.
    pub factor: f64,
    /// What this image's bound counts.
    pub weight: f64,
    /// Whether the step ends at clean data.
    pub is_last: bool,
}

/// The weighted bound, a mean over all elements.
///
/// * `prediction`, `target` — `[n, …]`: the part of the network's output that the mean comes from, and what it should be
/// * `v` — `[n, …]`, −1 for beta-tilde, 1 for beta; differentiable, the only one
/// * `x0` — `[n, …]` in [−1, 1]: tells the outer bins
/// * `terms` — `[n]`
/// * `half_bin` — half the distance of two pixel levels, above 0
///
/// Returns `[1]` on the device of `v`.
///
/// # Errors
/// [`Error::Shape`] if shapes differ or there are not terms for each image.
///
/// # Example
/// ```
/// use tweedie::{ops::{learned_variance, VarianceTerms}, tensor::Tensor};
/// let x = Tensor::from_slice(&[0.5_f32], [1, 1])?;
/// let terms = VarianceTerms { log_small: -2.0, log_large: -1.0, factor: 1.0, weight: 1.0, is_last: false };
/// // v = −1 is beta-tilde, and the means agree: no divergence.
/// let v = Tensor::from_slice(&[-1.0_f32], [1, 1])?;
/// assert_eq!(learned_variance(&x, &x, &v, &x, &[terms], 0.1)?.to_vec::<f32>()?, [0.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn learned_variance(
    prediction: &Tensor,
    target: &Tensor,
    v: &Tensor,
    x0: &Tensor,
    terms: &[VarianceTerms],
    half_bin: f64,
) -> Result<Tensor> {
    let n = v.shape().first().copied().unwrap_or(0);
    let all = [prediction, target, v, x0];
    if let Some(other) = all.iter().find(|t| t.shape() != v.shape()) {
        return Err(Error::Shape(format!("learned_variance: v {} and {} differ", v.shape(), other.shape())));
    }
    if terms.len() != n || v.count() == 0 {
        let (shape, t) = (v.shape(), terms.len());
        return Err(Error::Shape(format!(
            "learned_variance: {t} terms do not match v {shape}; give those of each image"
        )));
    }
    let node = LearnedVariance {
        prediction: prediction.clone(),
        target: target.clone(),
        v: v.clone(),
        x0: x0.clone(),
        terms: terms.to_vec(),
        half_bin,
    };
    let loss = match same_device("learned_variance", &all)? {
        Device::Cpu => cpu::forward(&node)?,
        Device::Cuda(index) => cuda::forward(index, &node)?,
    };
    Ok(tape::push(loss, &[v], || Box::new(node)))
}

/// mean + √variance·z.
///
/// * `mean`, `v`, `z` — `[n, …]`, f32 or f64 (f32 on a GPU)
/// * `logs` — (log_small, log_large), finite
///
/// Not differentiable.
///
/// # Errors
/// [`Error::Shape`] if shapes differ; [`Error::Dtype`] for types other than f32 and f64.
pub fn learned_step(mean: &Tensor, v: &Tensor, z: &Tensor, logs: (f64, f64)) -> Result<Tensor> {
    if v.shape() != mean.shape() || z.shape() != mean.shape() {
        let (mean, v, z) = (mean.shape(), v.shape(), z.shape());
        return Err(Error::Shape(format!("learned_step: mean, v and z want one shape, got {mean}, {v}, {z}")));
    }
    match (same_device("learned_step", &[mean, v, z])?, mean.dtype()) {
        (Device::Cpu, Dtype::F32) => cpu::step::<f32>(mean, v, z, logs, |value| value as f32),
        (Device::Cpu, Dtype::F64) => cpu::step::<f64>(mean, v, z, logs, |value| value),
        (Device::Cpu, dtype) => Err(Error::Dtype(format!("learned_step: wants f32 or f64, got {dtype:?}"))),
        (Device::Cuda(index), Dtype::F32) => cuda::step(index, mean, v, z, logs),
        (device, _) => Err(no_kernel("learned_step", device)),
    }
}

struct LearnedVariance {
    prediction: Tensor,
    target: Tensor,
    v: Tensor,
    x0: Tensor,
    terms: Vec<VarianceTerms>,
    half_bin: f64,
}

impl Node for LearnedVariance {
    fn name(&self) -> &'static str {
        "learned_variance"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let dv = match dy.device() {
            Device::Cpu => cpu::backward(&self, dy.host::<f32>()?[0])?,
            Device::Cuda(index) => cuda::backward(index, &self, &dy)?,
        };
        grads.add(self.v.grad_slot(), dv)
    }
}

/// A mass below this is no more than this (Ho et al. 2020, their code).
const LEAST_MASS: f64 = 1e-12;

mod cpu {
    use super::{LEAST_MASS, LearnedVariance, VarianceTerms};
    use crate::analytic::gaussian::{erfc, normal_pdf};
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::tensor::{Dtype, Element, Tensor};
    use std::f64::consts::FRAC_1_SQRT_2;

    /// The bound of one element and its derivative by ln variance.
    fn bound(t: &VarianceTerms, (error, log, x0): (f64, f64, f64), half_bin: f64) -> (f64, f64) {
        let d = t.factor * error;
        if !t.is_last {
            let ratio = (t.log_small - log).exp() + d * d * (-log).exp();
            return (0.5 * (log - t.log_small - 1.0 + ratio), 0.5 * (1.0 - ratio));
        }
        let rstd = (-0.5 * log).exp();
        let low = if x0 < -1.0 + half_bin { f64::NEG_INFINITY } else { (-half_bin - d) * rstd };
        let high = if x0 > 1.0 - half_bin { f64::INFINITY } else { (half_bin - d) * rstd };
        let upper = |x: f64| 0.5 * erfc(x * FRAC_1_SQRT_2);
        // Differences of tails on the side where both are small.
        let mass = if low > 0.0 {
            upper(low) - upper(high)
        } else if high < 0.0 {
            upper(-high) - upper(-low)
        } else {
            1.0 - upper(high) - upper(-low)
        };
        let moment = |x: f64| if x.is_finite() { x * normal_pdf(x, 0.0, 1.0) } else { 0.0 };
        let slope = if mass > LEAST_MASS { 0.5 * (moment(high) - moment(low)) / mass } else { 0.0 };
        (-mass.max(LEAST_MASS).ln(), slope)
    }

    fn log_variance(v: f64, small: f64, large: f64) -> f64 {
        let f = 0.5 * (v + 1.0);
        f * large + (1.0 - f) * small
    }

    /// The inputs on the host.
    struct View<'a> {
        node: &'a LearnedVariance,
        prediction: &'a [f32],
        target: &'a [f32],
        v: &'a [f32],
        x0: &'a [f32],
        row: usize,
    }

    impl View<'_> {
        fn of(node: &LearnedVariance) -> Result<View<'_>> {
            Ok(View {
                node,
                prediction: node.prediction.host()?,
                target: node.target.host()?,
                v: node.v.host()?,
                x0: node.x0.host()?,
                row: node.v.count() / node.terms.len(),
            })
        }

        /// (bound, slope) of element `k` of image `i`.
        fn bound(&self, i: usize, k: usize) -> (f64, f64) {
            let (terms, at) = (&self.node.terms[i], i * self.row + k);
            let error = f64::from(self.prediction[at]) - f64::from(self.target[at]);
            let log = log_variance(self.v[at].into(), terms.log_small, terms.log_large);
            bound(terms, (error, log, self.x0[at].into()), self.node.half_bin)
        }
    }

    /// Operations of an element's bound, about: two exponentials, or three and two series.
    const FLOPS: usize = 80;

    pub(super) fn forward(node: &LearnedVariance) -> Result<Tensor> {
        let view = View::of(node)?;
        let mut sums = vec![0.0; node.terms.len()];
        let out = DisjointMut::new(&mut sums);
        for_each_block(node.terms.len(), FLOPS * view.row, |i| {
            let sum: f64 = (0..view.row).map(|k| view.bound(i, k).0).sum();
            out.slice(i, 1)[0] = sum * node.terms[i].weight;
        });
        Tensor::from_slice(&[(sums.iter().sum::<f64>() / node.v.count() as f64) as f32], [1])
    }

    pub(super) fn backward(node: &LearnedVariance, dy: f32) -> Result<Tensor> {
        let view = View::of(node)?;
        let mut dv = Tensor::empty(node.v.shape(), Dtype::F32, Device::Cpu)?;
        let count = dv.count() as f64;
        let out = DisjointMut::new(dv.host_mut::<f32>()?);
        for_each_block(node.terms.len(), FLOPS * view.row, |i| {
            let terms = &node.terms[i];
            let k = f64::from(dy) * terms.weight * 0.5 * (terms.log_large - terms.log_small) / count;
            for (at, dv) in out.slice(i * view.row, view.row).iter_mut().enumerate() {
                *dv = (k * view.bound(i, at).1) as f32;
            }
        });
        Ok(dv)
    }

    pub(super) fn step<T: Element + Into<f64>>(
        mean: &Tensor,
        v: &Tensor,
        z: &Tensor,
        (small, large): (f64, f64),
        narrow: fn(f64) -> T,
    ) -> Result<Tensor> {
        const BLOCK: usize = 4096;
        let mut next = Tensor::empty(mean.shape(), T::DTYPE, Device::Cpu)?;
        let (mean, v, z) = (mean.host::<T>()?, v.host::<T>()?, z.host::<T>()?);
        let out = DisjointMut::new(next.host_mut::<T>()?);
        for_each_block(mean.len().div_ceil(BLOCK), 40 * BLOCK, |block| {
            let start = block * BLOCK;
            let len = BLOCK.min(mean.len() - start);
            for (i, y) in out.slice(start, len).iter_mut().enumerate() {
                let (mean, v, z): (f64, f64, f64) = (mean[start + i].into(), v[start + i].into(), z[start + i].into());
                *y = narrow(mean + (0.5 * log_variance(v, small, large)).exp() * z);
            }
        });
        Ok(next)
    }
}

mod cuda {
    use super::LearnedVariance;
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::learned_variance as kernel;
    use crate::tensor::{Dtype, Tensor};

    /// Elements of one partial sum; `kernels/learned_variance.cu` has the same number.
    const PART: usize = 4096;

    /// log_small, log_large, factor, weight, is_last of each image.
    fn terms(index: usize, node: &LearnedVariance) -> Result<Tensor> {
        let row = |t: &super::VarianceTerms| {
            [t.log_small, t.log_large, t.factor, t.weight, f64::from(u8::from(t.is_last))].map(|value| value as f32)
        };
        let rows: Vec<f32> = node.terms.iter().flat_map(row).collect();
        Tensor::from_slice(&rows, [node.terms.len(), 5])?.to_device(Device::Cuda(index))
    }

    pub(super) fn forward(index: usize, node: &LearnedVariance) -> Result<Tensor> {
        let gpu = gpu(index)?;
        let n = node.terms.len();
        let row = node.v.count() / n;
        let chunks = row.div_ceil(PART);
        let terms = terms(index, node)?;
        let mut loss = Tensor::empty([1], Dtype::F32, Device::Cuda(index))?;
        let partial = gpu.take(n * chunks * size_of::<f64>())?;
        let (p, t) = (node.prediction.cuda_as::<f32>()?, node.target.cuda_as::<f32>()?);
        let (v, x0, terms) = (node.v.cuda_as::<f32>()?, node.x0.cuda_as::<f32>()?, terms.cuda_as::<f32>()?);
        let half_bin = node.half_bin as f32;
        let parts = args![p, t, v, x0, terms, &partial, size(row)?, size(chunks)?, half_bin];
        let mut geometry = Geometry::covering(n * chunks, 1)?;
        geometry.threads = 256;
        // SAFETY: the four tensors hold n·row f32 (checked in `learned_variance`), terms n·5, partial n·chunks f64; order and types are those
        // of `learned_variance_partial`.
        unsafe { gpu.launch(kernel::PARTIAL, geometry, &parts) }?;
        let sums = args![&partial, loss.cuda_mut()?, (n * chunks) as u64, 1.0 / node.v.count() as f64];
        let one_block = Geometry { blocks: [1, 1, 1], threads: 512, shared: 0 };
        // SAFETY: partial holds n·chunks f64, loss one f32; order and types are those of `learned_variance_loss`.
        unsafe { gpu.launch(kernel::LOSS, one_block, &sums) }?;
        Ok(loss)
    }

    pub(super) fn backward(index: usize, node: &LearnedVariance, dy: &Tensor) -> Result<Tensor> {
        let n = node.terms.len();
        let row = node.v.count() / n;
        let terms = terms(index, node)?;
        let mut dv = Tensor::empty(node.v.shape(), Dtype::F32, Device::Cuda(index))?;
        let (p, t) = (node.prediction.cuda_as::<f32>()?, node.target.cuda_as::<f32>()?);
        let (v, x0, terms) = (node.v.cuda_as::<f32>()?, node.x0.cuda_as::<f32>()?, terms.cuda_as::<f32>()?);
        let (half_bin, factor) = (node.half_bin as f32, (1.0 / node.v.count() as f64) as f32);
        let dy = dy.cuda_as::<f32>()?;
        let args = args![p, t, v, x0, terms, dy, dv.cuda_mut()?, size(n)?, size(row)?, half_bin, factor];
        let geometry = Geometry::per_image(n, row, 128)?;
        // SAFETY: the tensors and dv hold n·row f32, terms n·5, dy one; a thread touches one element below row of its images; order and
        // types are those of `learned_variance_backward`.
        unsafe { gpu(index)?.launch(kernel::BACKWARD, geometry, &args) }?;
        Ok(dv)
    }

    pub(super) fn step(index: usize, mean: &Tensor, v: &Tensor, z: &Tensor, logs: (f64, f64)) -> Result<Tensor> {
        let mut next = Tensor::empty(mean.shape(), Dtype::F32, Device::Cuda(index))?;
        let count = next.count();
        let (small, large) = (logs.0 as f32, logs.1 as f32);
        let inputs = (mean.cuda_as::<f32>()?, v.cuda_as::<f32>()?, z.cuda_as::<f32>()?);
        let args = args![inputs.0, inputs.1, inputs.2, next.cuda_mut()?, count as u64, small, large];
        // SAFETY: all four hold count f32 (checked in `learned_step`); a thread touches one element below count; order and types are those of
        // `learned_variance_step`.
        unsafe { gpu(index)?.launch(kernel::STEP, Geometry::covering(count, 128)?, &args) }?;
        Ok(next)
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::{VarianceTerms, learned_step, learned_variance};
    use crate::analytic::gaussian::normal_cdf;
    use crate::testing::{Array, Case};

    const HALF_BIN: f64 = 0.0625;

    /// Terms of n images, steps from short to long; the first is the last step where said so.
    fn terms(n: usize, first_is_last: bool) -> Vec<VarianceTerms> {
        let of = |i: usize| VarianceTerms {
            log_small: -3.5 + 0.25 * (i % 8) as f64,
            log_large: -2.5 + 0.25 * (i % 8) as f64,
            factor: 0.125 * (1.0 + (i % 5) as f64),
            weight: 0.5 + (i % 3) as f64,
            is_last: first_is_last && i == 0,
        };
        (0..n).map(of).collect()
    }

    fn log_variance(v: f64, t: &VarianceTerms) -> f64 {
        t.log_small + 0.5 * (v + 1.0) * (t.log_large - t.log_small)
    }

    fn bound(t: &VarianceTerms, [p, target, v, x0]: [f64; 4]) -> f64 {
        let (variance, d) = (log_variance(v, t).exp(), t.factor * (p - target));
        if !t.is_last {
            let small = t.log_small.exp();
            return 0.5 * ((variance / small).ln() - 1.0 + (small + d * d) / variance);
        }
        let cdf = |x: f64| normal_cdf(x, x0 + d, variance.sqrt());
        let low = if x0 < -1.0 + HALF_BIN { 0.0 } else { cdf(x0 - HALF_BIN) };
        let high = if x0 > 1.0 - HALF_BIN { 1.0 } else { cdf(x0 + HALF_BIN) };
        -(high - low).max(1e-12).ln()
    }

    /// `n` images of `row` elements on 17 levels.
    fn case(n: usize, row: usize, first_is_last: bool) -> Case {
        let terms = terms(n, first_is_last);
        let copy = terms.clone();
        let mut x0 = Array::normal([n, row], 353, 8.0, 0.0);
        x0.data.iter_mut().for_each(|x| *x = (x.round() / 8.0).clamp(-1.0, 1.0));
        Case {
            op: "learned_variance",
            label: format!("{n}x{row}{}", if first_is_last { ", one last step" } else { "" }),
            inputs: vec![
                Array::normal([n, row], 350, 1.0, 0.0),
                Array::normal([n, row], 351, 1.0, 0.0),
                Array::normal([n, row], 352, 1.0, 0.0),
                x0,
            ],
            differentiable: vec![false, false, true, false],
            run: Box::new(move |t| learned_variance(&t[0], &t[1], &t[2], &t[3], &terms, HALF_BIN)),
            oracle: Box::new(move |a| {
                let value = |k: usize| {
                    let t = &copy[k / row];
                    t.weight * bound(t, [0, 1, 2, 3].map(|i: usize| a[i].data[k]))
                };
                Array { shape: [1].into(), data: vec![(0..n * row).map(value).sum::<f64>() / (n * row) as f64] }
            }),
            terms: n * row,
            grad_terms: 1,
        }
    }

    fn step(n: usize, row: usize) -> Case {
        let t = terms(1, false)[0];
        Case {
            label: format!("{n}x{row}, step"),
            inputs: (0..3).map(|i| Array::normal([n, row], 356 + i, 1.0, 0.0)).collect(),
            differentiable: vec![false; 3],
            run: Box::new(move |a| learned_step(&a[0], &a[1], &a[2], (t.log_small, t.log_large))),
            oracle: Box::new(move |a| {
                let of = |k: usize| a[0].data[k] + (0.5 * log_variance(a[1].data[k], &t)).exp() * a[2].data[k];
                Array { shape: [n, row].into(), data: (0..n * row).map(of).collect() }
            }),
            terms: 1,
            ..case(1, 1, false)
        }
    }

    /// Rows: size 1, odd, more than one block of threads, more than one partial sum on both sides of its edge, the decoder's bins inside and
    /// outside, more images than a grid has in y.
    pub(in crate::ops) fn table() -> Vec<Case> {
        let mut rows = vec![case(1, 1, false), case(3, 7, false), case(2, 1500, true), case(2, 4096, false)];
        rows.extend([
            case(1, 4099, true),
            case(3, 64, true),
            case(65_540, 1, false),
            step(1, 1),
            step(3, 77),
            step(2, 5000),
        ]);
        rows
    }
}
