//! One reverse step in one pass over memory: reads x_t and the network's output, writes the next x, makes the noise in
//! registers.
//!
//! x0_hat = clip(from_x·x_t + from_out·net_out),
//! next   = to_x·x_t + to_x0·x0_hat + to_out·net_out + to_past·past + noise·z
//!
//! Every sampler step that is linear in (x_t, x0_hat, net_out, z) and at most one earlier tensor is this op with other scalars. Scalars are f64; where
//! nothing is clipped, x0_hat's coefficients are folded in first, so that large terms of opposite sign cancel in f64.
//! Not differentiable. Cost: 12 bytes per element (f32), memory bound but for the noise.

use super::same_device;
use crate::device::{Device, no_kernel};
use crate::error::{Error, Result};
use crate::rng::Address;
use crate::tensor::{Dtype, Tensor};

/// The scalars of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReverseStep {
    /// x_t's share of x0_hat.
    pub from_x: f64,
    /// The network output's share of x0_hat.
    pub from_out: f64,
    /// x0_hat is clamped to [−clip, clip].
    pub clip: Option<f64>,
    /// x_t's share of the result.
    pub to_x: f64,
    /// x0_hat's share of the result.
    pub to_x0: f64,
    /// The network output's own share of the result.
    pub to_out: f64,
    /// The earlier tensor's share of the result.
    pub to_past: f64,
    /// Standard deviation of the noise.
    pub noise: f64,
}

/// Further tensors of a step, each of the shape of x_t.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepInputs<'a> {
    /// Replaces `clip(from_x·x_t + from_out·net_out)` where an estimate was computed outside (dynamic thresholding).
    pub x0_hat: Option<&'a Tensor>,
    /// What a multi-step or multi-stage method kept from before.
    pub past: Option<&'a Tensor>,
}

/// Where a step's standard normals come from.
#[derive(Clone, Copy)]
pub enum Noise<'a> {
    /// There is none.
    None,
    /// A tensor of the shape of x_t.
    Given(&'a Tensor),
    /// Drawn at an address; image i uses sample `samples[i]`.
    Drawn {
        /// Seed, step and purpose.
        address: Address,
        /// Sample index of each image.
        samples: &'a [u32],
    },
}

/// The next x of a sampler.
///
/// * `x_t`, `net_out` — `[n, …]`, f32 or f64
/// * `inputs` — an estimate computed outside, an earlier tensor
/// * `step` — the scalars
/// * `noise` — used where `step.noise` is not 0
///
/// Returns a tensor like `x_t`.
///
/// # Errors
/// [`Error::Shape`] if shapes differ or the noise has too few samples; [`Error::Dtype`] for types other than f32 and f64.
///
/// # Example
/// ```
/// use tweedie::{ops::{reverse_step, Noise, ReverseStep, StepInputs}, tensor::Tensor};
/// let (x, eps) = (Tensor::from_slice(&[2.0_f64], [1, 1])?, Tensor::from_slice(&[1.0_f64], [1, 1])?);
/// // alpha = 0.8, sigma = 0.6: x0_hat = (2 − 0.6)/0.8 = 1.75, clipped to 1.
/// let step = ReverseStep { from_x: 1.25, from_out: -0.75, clip: Some(1.0), to_x0: 1.0, ..Default::default() };
/// assert_eq!(reverse_step(&x, &eps, StepInputs::default(), &step, Noise::None)?.to_vec::<f64>()?, [1.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn reverse_step(
    x_t: &Tensor,
    net_out: &Tensor,
    inputs: StepInputs<'_>,
    step: &ReverseStep,
    noise: Noise<'_>,
) -> Result<Tensor> {
    let noise = if step.noise == 0.0 { Noise::None } else { noise };
    let given = if let Noise::Given(z) = noise { Some(z) } else { None };
    let all: Vec<&Tensor> = [x_t, net_out].into_iter().chain(inputs.x0_hat).chain(inputs.past).chain(given).collect();
    if let Some(other) = all.iter().find(|t| t.shape() != x_t.shape()) {
        return Err(Error::Shape(format!("reverse_step: x_t {} and {} differ", x_t.shape(), other.shape())));
    }
    let n = x_t.shape().first().copied().unwrap_or(0);
    if let Noise::Drawn { samples, .. } = noise
        && samples.len() != n
    {
        return Err(Error::Shape(format!("reverse_step: {n} images want {n} noise samples, got {}", samples.len())));
    }
    match (same_device("reverse_step", &all)?, x_t.dtype()) {
        (Device::Cpu, Dtype::F32) => cpu::step::<f32>(x_t, net_out, inputs, step, noise),
        (Device::Cpu, Dtype::F64) => cpu::step::<f64>(x_t, net_out, inputs, step, noise),
        (Device::Cpu, dtype) => Err(Error::Dtype(format!("reverse_step: wants f32 or f64, got {dtype:?}"))),
        (Device::Cuda(index), Dtype::F32) => cuda::step(index, x_t, net_out, inputs, step, noise),
        (device, _) => Err(no_kernel("reverse_step", device)),
    }
}

mod cpu {
    use super::{Noise, ReverseStep, StepInputs};
    use crate::device::{Device, DisjointMut, for_each_block};
    use crate::error::Result;
    use crate::ops::Real;
    use crate::rng::Address;
    use crate::tensor::Tensor;

    /// Elements of one job; a multiple of the noise generator's 64.
    const BLOCK: usize = 4096;

    /// The scalars in the tensor's own type. Without clipping, x0_hat's share is already folded into x and out.
    #[derive(Clone, Copy)]
    struct Scalars<T> {
        from_x: T,
        from_out: T,
        clip: T,
        to_x: T,
        to_x0: T,
        to_out: T,
        noise: T,
    }

    enum Estimate<'a, T> {
        Folded,
        Clipped,
        Given(&'a [T]),
    }

    enum BlockNoise<'a, T> {
        None,
        Given(&'a [T]),
        Drawn(Address, usize),
    }

    pub(super) fn step<T: Real>(
        x_t: &Tensor,
        net_out: &Tensor,
        inputs: StepInputs<'_>,
        step: &ReverseStep,
        noise: Noise<'_>,
    ) -> Result<Tensor> {
        let x0_hat = inputs.x0_hat;
        let n = x_t.shape().first().copied().unwrap_or(1).max(1);
        let row = x_t.count() / n;
        let fold = x0_hat.is_none() && step.clip.is_none();
        let (more_x, more_out) = if fold { (step.to_x0 * step.from_x, step.to_x0 * step.from_out) } else { (0.0, 0.0) };
        let k = Scalars {
            from_x: T::of(step.from_x),
            from_out: T::of(step.from_out),
            clip: T::of(step.clip.unwrap_or(f64::INFINITY)),
            to_x: T::of(step.to_x + more_x),
            to_x0: T::of(step.to_x0),
            to_out: T::of(step.to_out + more_out),
            noise: T::of(step.noise),
        };
        let mut next = Tensor::empty(x_t.shape(), T::DTYPE, Device::Cpu)?;
        let (x, out) = (x_t.host::<T>()?, net_out.host::<T>()?);
        let x0 = x0_hat.map(Tensor::host::<T>).transpose()?;
        let past = inputs.past.map(Tensor::host::<T>).transpose()?;
        let to_past = T::of(step.to_past);
        let given = if let Noise::Given(z) = noise { Some(z.host::<T>()?) } else { None };
        let target = DisjointMut::new(next.host_mut::<T>()?);
        let blocks = row.div_ceil(BLOCK);
        for_each_block(n * blocks, 40 * BLOCK.min(row), |job| {
            let (image, start) = (job / blocks, job % blocks * BLOCK);
            let len = BLOCK.min(row - start);
            let range = image * row + start..image * row + start + len;
            let estimate = match x0 {
                Some(x0) => Estimate::Given(&x0[range.clone()]),
                None if fold => Estimate::Folded,
                None => Estimate::Clipped,
            };
            let noise = match (noise, given) {
                (_, Some(z)) => BlockNoise::Given(&z[range.clone()]),
                (Noise::Drawn { address, samples }, _) => {
                    BlockNoise::Drawn(address.sample(samples[image] as usize), start)
                }
                _ => BlockNoise::None,
            };
            let y = target.slice(range.start, len);
            run(&x[range.clone()], &out[range.clone()], estimate, noise, k, y);
            if let Some(past) = past {
                // `y` is in the first-level cache here: 16 KiB.
                for (y, past) in y.iter_mut().zip(&past[range]) {
                    *y += to_past * *past;
                }
            }
        });
        Ok(next)
    }

    fn run<T: Real>(x: &[T], out: &[T], x0: Estimate<'_, T>, z: BlockNoise<'_, T>, k: Scalars<T>, y: &mut [T]) {
        if let BlockNoise::Drawn(address, start) = z {
            let mut drawn = [0.0_f32; BLOCK];
            let drawn = &mut drawn[..y.len()];
            address.fill_normal_from(start, drawn);
            linear(x, out, x0, k, y);
            add_drawn(drawn, k.noise, y);
        } else {
            linear(x, out, x0, k, y);
            if let BlockNoise::Given(z) = z {
                for (y, z) in y.iter_mut().zip(z) {
                    *y += k.noise * *z;
                }
            }
        }
    }

    /// `y` is in the first-level cache here: 16 KiB.
    fn add_drawn<T: Real>(z: &[f32], noise: T, y: &mut [T]) {
        for (y, z) in y.iter_mut().zip(z) {
            *y += noise * T::of_f32(*z);
        }
    }

    fn linear<T: Real>(x: &[T], out: &[T], x0: Estimate<'_, T>, k: Scalars<T>, y: &mut [T]) {
        match x0 {
            Estimate::Folded => {
                for ((y, x), out) in y.iter_mut().zip(x).zip(out) {
                    *y = k.to_x * *x + k.to_out * *out;
                }
            }
            Estimate::Clipped => {
                let low = T::of(-1.0) * k.clip;
                for ((y, x), out) in y.iter_mut().zip(x).zip(out) {
                    let raw = k.from_x * *x + k.from_out * *out;
                    // Comparisons instead of max and min keep a NaN a NaN.
                    let raw = if raw > k.clip { k.clip } else { raw };
                    let x0 = if raw < low { low } else { raw };
                    *y = k.to_x * *x + k.to_x0 * x0 + k.to_out * *out;
                }
            }
            Estimate::Given(x0) => {
                for (((y, x), out), x0) in y.iter_mut().zip(x).zip(out).zip(x0) {
                    *y = k.to_x * *x + k.to_x0 * *x0 + k.to_out * *out;
                }
            }
        }
    }
}

mod cuda {
    use super::{Noise, ReverseStep, StepInputs};
    use crate::device::Device;
    use crate::device::cuda::{Arg, Geometry, gpu, size};
    use crate::error::Result;
    use crate::kernels::reverse_step as kernel;
    use crate::rng::{Address, Purpose};
    use crate::tensor::{Dtype, Tensor};

    const THREADS: u32 = 128;

    pub(super) fn step(
        index: usize,
        x_t: &Tensor,
        net_out: &Tensor,
        inputs: StepInputs<'_>,
        step: &ReverseStep,
        noise: Noise<'_>,
    ) -> Result<Tensor> {
        let gpu = gpu(index)?;
        let n = x_t.shape().first().copied().unwrap_or(1).max(1);
        let row = x_t.count() / n;
        let fold = inputs.x0_hat.is_none() && step.clip.is_none();
        let (more_x, more_out) = if fold { (step.to_x0 * step.from_x, step.to_x0 * step.from_out) } else { (0.0, 0.0) };
        let mut next = Tensor::empty(x_t.shape(), Dtype::F32, Device::Cuda(index))?;
        let (address, samples) = match noise {
            Noise::Drawn { address, samples } => (address, Some(gpu.upload(bytemuck::cast_slice(samples))?)),
            _ => (Address::new(0, Purpose::ReverseStep), None),
        };
        let given = if let Noise::Given(z) = noise { Some(z.cuda()?) } else { None };
        let deviation = if matches!(noise, Noise::None) { 0.0 } else { step.noise };
        let [seed_low, seed_high, counter, last] = address.words();
        let scalars = [
            step.from_x,
            step.from_out,
            step.clip.unwrap_or(f64::INFINITY),
            step.to_x + more_x,
            if fold { 0.0 } else { step.to_x0 },
            step.to_out + more_out,
            step.to_past,
            deviation,
        ];
        let buffers = [Some(x_t.cuda()?), Some(net_out.cuda()?), cuda_of(inputs.x0_hat)?, cuda_of(inputs.past)?, given];
        let mut args: Vec<Arg<'_>> = buffers.into_iter().map(Arg::Buffer).collect();
        args.push(samples.as_ref().into());
        args.push(next.cuda_mut()?.into());
        args.extend([size(n)?, size(row)?].map(Arg::U32));
        args.extend(scalars.map(|v| Arg::F32(v as f32)));
        args.extend([seed_low, seed_high, counter, last].map(Arg::U32));
        let geometry = Geometry::per_image(n, row.div_ceil(4), THREADS)?;
        // SAFETY: every tensor has the shape of x_t and samples has n entries (checked in `reverse_step`); a thread touches elements
        // below row of its images alone; order and types are those of `reverse_step_forward`.
        unsafe { gpu.launch(kernel::FORWARD, geometry, &args) }?;
        Ok(next)
    }

    fn cuda_of(tensor: Option<&Tensor>) -> Result<Option<&crate::device::CudaBuffer>> {
        tensor.map(Tensor::cuda).transpose()
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::{Noise, ReverseStep, StepInputs, reverse_step};
    use crate::rng::{Address, Purpose};
    use crate::testing::{Array, Case};

    const SAMPLES: [u32; 2] = [6, 2];

    #[derive(Clone, Copy, Debug)]
    enum Kind {
        None,
        Given,
        Drawn,
    }

    /// Inputs: x_t, net_out, x0_hat, past, z.
    fn case(row: usize, clip: Option<f64>, with_x0: bool, with_past: bool, kind: Kind) -> Case {
        let step = ReverseStep {
            from_x: 1.25,
            from_out: -0.75,
            clip,
            to_x: 0.3,
            to_x0: 0.5,
            to_out: 0.2,
            to_past: 0.7,
            noise: 0.4,
        };
        let address = Address::new(9, Purpose::ReverseStep).step(3);
        Case {
            op: "reverse_step",
            label: format!("row {row}, clip {clip:?}, x0 {with_x0}, past {with_past}, noise {kind:?}"),
            inputs: (240..245).map(|seed| Array::normal([2, row], seed, 1.0, 0.0)).collect(),
            differentiable: vec![false; 5],
            run: Box::new(move |t| {
                let inputs = StepInputs { x0_hat: with_x0.then_some(&t[2]), past: with_past.then_some(&t[3]) };
                let noise = match kind {
                    Kind::None => Noise::None,
                    Kind::Given => Noise::Given(&t[4]),
                    Kind::Drawn => Noise::Drawn { address, samples: &SAMPLES },
                };
                reverse_step(&t[0], &t[1], inputs, &step, noise)
            }),
            oracle: Box::new(move |a| {
                let mut drawn = vec![0.0_f32; 2 * row];
                for (image, z) in drawn.chunks_exact_mut(row).enumerate() {
                    address.sample(SAMPLES[image] as usize).fill_normal(z);
                }
                let mut next = Array::zeros([2, row]);
                for (k, next) in next.data.iter_mut().enumerate() {
                    let [x, out, x0, past, z] = [0, 1, 2, 3, 4].map(|i| a[i].data[k]);
                    let raw = 1.25 * x - 0.75 * out;
                    let x0 = if with_x0 { x0 } else { clip.map_or(raw, |c| raw.clamp(-c, c)) };
                    let past = if with_past { 0.7 * past } else { 0.0 };
                    let z = match kind {
                        Kind::None => 0.0,
                        Kind::Given => z,
                        Kind::Drawn => f64::from(drawn[k]),
                    };
                    *next = 0.3 * x + 0.5 * x0 + 0.2 * out + past + 0.4 * z;
                }
                next
            }),
            terms: 5,
            grad_terms: 1,
        }
    }

    /// Rows: every combination of inputs at an odd size, and sizes of one value to more than a thread block.
    pub(crate) fn table() -> Vec<Case> {
        let mut rows = Vec::new();
        for clip in [None, Some(0.8)] {
            for (with_x0, with_past) in [(false, false), (true, false), (false, true), (true, true)] {
                rows.extend(
                    [Kind::None, Kind::Given, Kind::Drawn].map(|kind| case(77, clip, with_x0, with_past, kind)),
                );
            }
        }
        rows.extend([1, 3, 64, 1030].map(|row| case(row, Some(0.8), false, true, Kind::Drawn)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    fn tensor(seed: u64, n: usize, row: usize) -> Tensor {
        let mut values = vec![0.0_f32; n * row];
        Address::new(seed, Purpose::Test).fill_normal(&mut values);
        Tensor::from_slice(&values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), [n, row]).unwrap()
    }

    const STEP: ReverseStep = ReverseStep {
        from_x: 1.25,
        from_out: -0.75,
        clip: Some(1.0),
        to_x: 0.3,
        to_x0: 0.5,
        to_out: 0.2,
        to_past: 0.7,
        noise: 0.1,
    };

    #[test]
    fn a_step_equals_its_equation_with_and_without_clipping() {
        let (n, row) = (2, 4100);
        let (x, out) = (tensor(1, n, row), tensor(2, n, row));
        let address = Address::new(5, Purpose::ReverseStep).step(3);
        for clip in [Some(1.0), None] {
            let step = ReverseStep { clip, ..STEP };
            let got = reverse_step(&x, &out, StepInputs::default(), &step, Noise::Drawn { address, samples: &[7, 8] })
                .unwrap();
            let (x, out) = (x.to_vec::<f64>().unwrap(), out.to_vec::<f64>().unwrap());
            let got = got.to_vec::<f64>().unwrap();
            for image in 0..n {
                let mut z = vec![0.0; row];
                address.sample(7 + image).fill_normal(&mut z);
                for (j, z) in z.into_iter().enumerate() {
                    let k = image * row + j;
                    let raw = 1.25 * x[k] - 0.75 * out[k];
                    let x0 = clip.map_or(raw, |c: f64| raw.clamp(-c, c));
                    let want = 0.3 * x[k] + 0.5 * x0 + 0.2 * out[k] + 0.1 * f64::from(z);
                    assert!((got[k] - want).abs() < 1e-14, "element {k}: {} {want}", got[k]);
                }
            }
        }
    }

    #[test]
    fn given_noise_estimates_and_earlier_tensors_are_used() {
        let [x, out, z, x0, past] = [1, 2, 3, 4, 5].map(|seed| tensor(seed, 1, 9));
        let inputs = StepInputs { x0_hat: Some(&x0), past: Some(&past) };
        let got = reverse_step(&x, &out, inputs, &STEP, Noise::Given(&z)).unwrap().to_vec::<f64>().unwrap();
        let [x, out, z, x0, past] = [x, out, z, x0, past].map(|t| t.to_vec::<f64>().unwrap());
        for i in 0..9 {
            let want = 0.3 * x[i] + 0.5 * x0[i] + 0.2 * out[i] + 0.7 * past[i] + 0.1 * z[i];
            assert!((got[i] - want).abs() < 1e-14);
        }
    }

    #[test]
    fn nan_in_the_network_output_is_not_clipped_away() {
        let x = Tensor::from_slice(&[0.0_f32], [1, 1]).unwrap();
        let out = Tensor::from_slice(&[f32::NAN], [1, 1]).unwrap();
        let got = reverse_step(&x, &out, StepInputs::default(), &STEP, Noise::None).unwrap();
        assert!(got.to_vec::<f32>().unwrap()[0].is_nan());
    }
}
