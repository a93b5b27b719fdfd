//! AdamW (Loshchilov & Hutter 2019, algorithm 2) with clipping by the gradients' norm and the weights' moving average, in one pass.
//!
//! g ← min(1, grad_clip/norm)·g;  m ← β1·m + (1−β1)·g;  v ← β2·v + (1−β2)·g²;
//! p ← p·(1 − lr·decay) − lr·(m/(1−β1^step)) / (√(v/(1−β2^step)) + adam_eps);  ema ← ema + (1−ema_decay)·(p − ema)
//!
//! Cost     reads five values and writes four per parameter: 36 bytes, memory bound. Kernel: `kernels/adamw.cu`, all parameters in one launch.

use super::same_device;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The scalars of one update.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Stabiliser of the denominator.
    pub adam_eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1: corrects the moments' bias.
    pub step: u64,
    /// Gradients are scaled down to at most this norm.
    pub grad_clip: f64,
    /// Decay of the moving average of the weights.
    pub ema_decay: f64,
}

/// One parameter with its gradient, its moments and its moving average, all of one shape.
pub struct AdamWEntry<'a> {
    /// The parameter.
    pub param: &'a mut Tensor,
    /// Its gradient.
    pub grad: &'a Tensor,
    /// First moment.
    pub m: &'a mut Tensor,
    /// Second moment.
    pub v: &'a mut Tensor,
    /// Moving average of the parameter.
    pub ema: &'a mut Tensor,
}

/// Updates parameters in place. Where `loss` or `norm` is not finite, nothing is changed: the host may look at them later.
///
/// * `loss` — `[1]`, f32
/// * `norm` — `[1]`, f64, of all gradients, as [`super::grad_norm`] returns it
///
/// # Errors
/// [`Error::Shape`] if shapes differ; [`Error::Device`] if not everything lives on the device of `loss`. Entries are checked as they come:
/// on the CPU some before the one that is refused may be updated already.
///
/// # Example
/// ```
/// use tweedie::{ops::{adamw, grad_norm, AdamW, AdamWEntry}, tensor::Tensor};
/// let of = |value: f32| Tensor::from_slice(&[value], [1]);
/// let (mut param, grad, mut m, mut v, mut ema) = (of(1.0)?, of(1.0)?, of(0.0)?, of(0.0)?, of(1.0)?);
/// let settings = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, adam_eps: 0.0, weight_decay: 0.0, step: 1, grad_clip: 5.0, ema_decay: 0.5 };
/// let norm = grad_norm([&grad])?;
/// let entry = AdamWEntry { param: &mut param, grad: &grad, m: &mut m, v: &mut v, ema: &mut ema };
/// adamw([entry], &settings, &of(0.3)?, &norm)?;
/// // The first step of Adam has the length of the learning rate.
/// assert!((param.to_vec::<f32>()?[0] - 0.9).abs() < 1e-6 && (ema.to_vec::<f32>()?[0] - 0.95).abs() < 1e-6);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn adamw<'a>(
    entries: impl IntoIterator<Item = AdamWEntry<'a>>,
    settings: &AdamW,
    loss: &Tensor,
    norm: &Tensor,
) -> Result<()> {
    let device = same_device("adamw", &[loss, norm])?;
    if [loss.count(), norm.count()] != [1; 2] {
        return Err(Error::Shape(format!("adamw: loss and norm want [1], got {} and {}", loss.shape(), norm.shape())));
    }
    let entries = entries.into_iter().map(|entry| check(device, entry));
    match device {
        Device::Cpu => cpu::update(entries, settings, loss.host::<f32>()?[0], norm.host::<f64>()?[0]),
        Device::Cuda(index) => cuda::update(index, entries.collect::<Result<_>>()?, settings, loss, norm),
    }
}

fn check(device: Device, entry: AdamWEntry<'_>) -> Result<AdamWEntry<'_>> {
    let param = &*entry.param;
    for t in [entry.grad, entry.m, entry.v, entry.ema] {
        if t.shape() != param.shape() {
            return Err(Error::Shape(format!("adamw: parameter {} and {} differ", param.shape(), t.shape())));
        }
    }
    let own = same_device("adamw", &[param, entry.grad, entry.m, entry.v, entry.ema])?;
    if own != device {
        return Err(Error::Device(format!("adamw: loss lives on {device}, a parameter on {own}; move them to one")));
    }
    Ok(entry)
}

/// The settings as the update uses them.
#[derive(Clone, Copy)]
struct Scalars {
    keep: f32,
    rate: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    inverse_correction2: f32,
    adam_eps: f32,
    ema_rest: f32,
}

impl Scalars {
    fn of(s: &AdamW) -> Scalars {
        let power = |beta: f64| 1.0 - beta.powf(s.step as f64);
        Scalars {
            keep: (1.0 - s.lr * s.weight_decay) as f32,
            rate: (s.lr / power(s.beta1)) as f32,
            beta1: s.beta1 as f32,
            beta2: s.beta2 as f32,
            rest1: (1.0 - s.beta1) as f32,
            rest2: (1.0 - s.beta2) as f32,
            inverse_correction2: (1.0 / power(s.beta2)) as f32,
            adam_eps: s.adam_eps as f32,
            ema_rest: (1.0 - s.ema_decay) as f32,
        }
    }
}

mod cpu {
    use super::{AdamW, AdamWEntry, Scalars};
    use crate::device::{DisjointMut, PARTS, for_each_part};
    use crate::error::Result;
    use crate::ops::reduce::clip_factor;
    use crate::vectorise;

    pub(super) fn update<'a>(
        entries: impl Iterator<Item = Result<AdamWEntry<'a>>>,
        s: &AdamW,
        loss: f32,
        norm: f64,
    ) -> Result<()> {
        const BLOCK: usize = 8192;
        let Some(scale) = clip_factor(loss, norm, s.grad_clip) else { return Ok(()) };
        let k = Scalars::of(s);
        let mut entries = entries.peekable();
        while entries.peek().is_some() {
            let (mut parts, mut counts, mut len) = ([const { None }; PARTS], [0; PARTS], 0);
            for entry in entries.by_ref().take(PARTS) {
                let part = Part::new(entry?)?;
                (counts[len], parts[len]) = (part.grad.len(), Some(part));
                len += 1;
            }
            for_each_part(&counts[..len], BLOCK, 20 * BLOCK, |_, index, at, len| {
                let Some(Part { param, grad, m, v, ema }) = &parts[index] else { return };
                let (p, m, v) = (param.slice(at, len), m.slice(at, len), v.slice(at, len));
                run(p, &grad[at..at + len], m, v, ema.slice(at, len), k, scale);
            });
        }
        Ok(())
    }

    /// A parameter's memory.
    struct Part<'a> {
        param: DisjointMut<'a, f32>,
        grad: &'a [f32],
        m: DisjointMut<'a, f32>,
        v: DisjointMut<'a, f32>,
        ema: DisjointMut<'a, f32>,
    }

    impl<'a> Part<'a> {
        fn new(entry: AdamWEntry<'a>) -> Result<Part<'a>> {
            Ok(Part {
                param: DisjointMut::new(entry.param.host_mut()?),
                grad: entry.grad.host()?,
                m: DisjointMut::new(entry.m.host_mut()?),
                v: DisjointMut::new(entry.v.host_mut()?),
                ema: DisjointMut::new(entry.ema.host_mut()?),
            })
        }
    }

    fn run(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], k: Scalars, scale: f32) {
        vectorise!(body(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], k: Scalars, scale: f32))
    }

    #[inline(always)]
    fn body(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], k: Scalars, scale: f32) {
        let n = p.len();
        let (g, m, v, ema) = (&g[..n], &mut m[..n], &mut v[..n], &mut ema[..n]);
        for i in 0..n {
            let grad = scale * g[i];
            m[i] = k.beta1 * m[i] + k.rest1 * grad;
            v[i] = k.beta2 * v[i] + k.rest2 * grad * grad;
            let denominator = (v[i] * k.inverse_correction2).sqrt() + k.adam_eps;
            p[i] = k.keep * p[i] - k.rate * m[i] / denominator;
            ema[i] += k.ema_rest * (p[i] - ema[i]);
        }
    }
}

mod cuda {
    use super::{AdamW, AdamWEntry, Scalars};
    use crate::device::cuda::{ChunkTable, args, gpu};
    use crate::error::Result;
    use crate::kernels::adamw as kernel;
    use crate::tensor::Tensor;

    pub(super) fn update(
        index: usize,
        entries: Vec<AdamWEntry<'_>>,
        s: &AdamW,
        loss: &Tensor,
        norm: &Tensor,
    ) -> Result<()> {
        let gpu = gpu(index)?;
        let mut table = ChunkTable::default();
        for AdamWEntry { param, grad, m, v, ema } in entries {
            let count = param.count();
            let grad = grad.cuda_as::<f32>()?;
            let written = [param, m, v, ema];
            for tensor in &written {
                tensor.cuda_as::<f32>()?;
            }
            // Weights and averages share memory until the first update.
            let [param, m, v, ema] = written.map(|tensor| tensor.make_unique().and_then(|()| tensor.cuda_mut()));
            table.push([&*param?, grad, &*m?, &*v?, &*ema?], count);
        }
        let (table, rows, geometry) = table.upload(&gpu)?;
        let k = Scalars::of(s);
        let args = args![
            &table,
            rows,
            loss.cuda_as::<f32>()?,
            norm.cuda_as::<f64>()?,
            s.grad_clip,
            k.keep,
            k.rate,
            k.beta1,
            k.beta2,
            k.rest1,
            k.rest2,
            k.inverse_correction2,
            k.adam_eps,
            k.ema_rest
        ];
        // SAFETY: the table names f32 buffers of equal counts (checked in `check`); those written belong to one tensor each, which the
        // entries borrow; loss and norm hold a number each; order and types are those of `adamw_update`.
        unsafe { gpu.launch(kernel::UPDATE, geometry, &args) }
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::{AdamW, AdamWEntry, adamw};
    use crate::error::Result;
    use crate::ops::grad_norm;
    use crate::tensor::Tensor;
    use crate::testing::{Array, Case};

    const SETTINGS: AdamW = AdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        adam_eps: 1e-8,
        weight_decay: 0.05,
        step: 3,
        grad_clip: 1.0,
        ema_decay: 0.9,
    };

    /// Returns the parameters, first and second moments and averages of all tensors, one after the other.
    fn stack(tensors: &[Vec<Tensor>; 4]) -> Result<Tensor> {
        let all: Vec<Tensor> = tensors.iter().flatten().cloned().collect();
        let count: usize = all.iter().map(Tensor::count).sum();
        Tensor::stack_rows(&all, [count])
    }

    /// Parameters of `counts` elements. Inputs: p, g, m and v of each in turn; the average begins as the parameter's own memory.
    fn case(counts: &[usize], grad_clip: f64, loss: f32) -> Case {
        let normal = |count: usize, seed: u64, scale: f32| Array::normal([count], seed, scale, 0.0);
        let inputs: Vec<Array> = counts
            .iter()
            .zip((200..).step_by(4))
            .flat_map(|(count, seed)| {
                let mut v = normal(*count, seed + 3, 1.0);
                v.data.iter_mut().for_each(|v| *v = f64::from((v.abs() + 0.1) as f32));
                [normal(*count, seed, 0.01), normal(*count, seed + 1, 1.0), normal(*count, seed + 2, 0.5), v]
            })
            .collect();
        let settings = AdamW { grad_clip, ..SETTINGS };
        Case {
            op: "adamw",
            label: format!("{counts:?}, clip {grad_clip}, loss {loss}"),
            differentiable: vec![false; inputs.len()],
            inputs,
            run: Box::new(move |t| {
                let column = |k: usize| t.iter().skip(k).step_by(4).cloned().collect::<Vec<Tensor>>();
                let grads = column(1);
                let mut state = [column(0), column(2), column(3), column(0)];
                let loss = Tensor::from_slice(&[loss], [1])?.to_device(t[0].device())?;
                let norm = grad_norm(&grads)?;
                let [p, m, v, ema] = &mut state;
                let rest = grads.iter().zip(m).zip(v.iter_mut().zip(ema));
                let entries =
                    p.iter_mut().zip(rest).map(|(param, ((grad, m), (v, ema)))| AdamWEntry { param, grad, m, v, ema });
                adamw(entries, &settings, &loss, &norm)?;
                stack(&state)
            }),
            oracle: Box::new(move |a| {
                let squares = a.iter().skip(1).step_by(4).flat_map(|g| &g.data).map(|g| g * g);
                let norm = squares.sum::<f64>().sqrt();
                let scale = if norm > settings.grad_clip { settings.grad_clip / norm } else { 1.0 };
                let mut out: [Vec<f64>; 4] = Default::default();
                for tensor in a.chunks_exact(4) {
                    for i in 0..tensor[0].data.len() {
                        let [p, g, m, v] = [0, 1, 2, 3].map(|k| tensor[k].data[i]);
                        let after = if loss.is_finite() { update(&settings, p, scale * g, m, v) } else { [p, m, v, p] };
                        after.into_iter().zip(&mut out).for_each(|(value, list)| list.push(value));
                    }
                }
                let data = out.concat();
                Array { shape: [data.len()].into(), data }
            }),
            terms: 4,
            grad_terms: 1,
        }
    }

    /// Algorithm 2 for one number: p, m, v and the average after it.
    fn update(s: &AdamW, p: f64, g: f64, m: f64, v: f64) -> [f64; 4] {
        let (m, v) = (s.beta1 * m + (1.0 - s.beta1) * g, s.beta2 * v + (1.0 - s.beta2) * g * g);
        let power = |beta: f64| 1.0 - beta.powi(s.step as i32);
        let (mh, vh) = (m / power(s.beta1), v / power(s.beta2));
        let after = p - s.lr * s.weight_decay * p - s.lr * mh / (vh.sqrt() + s.adam_eps);
        [after, m, v, p + (1.0 - s.ema_decay) * (after - p)]
    }

    /// Rows: one number, with and without clipping, edges of a chunk, many tensors, a loss that is not finite.
    pub(crate) fn table() -> Vec<Case> {
        vec![
            case(&[1], 1e3, 0.5),
            case(&[37, 4096], 1.0, 0.5),
            case(&[4097, 2, 8195], 1e3, 0.5),
            case(&[5; 9], 1.0, 0.5),
            case(&[5; 70], 1.0, 0.5),
            case(&[5, 6], 1.0, f32::NAN),
            case(&[5, 6], 1.0, f32::INFINITY),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Address, Purpose};

    #[test]
    fn ten_updates_match_the_algorithm_in_f64() {
        let count = 9001;
        let noise = |seed: u64| {
            let mut values = vec![0.0_f32; count];
            Address::new(seed, Purpose::Test).fill_normal(&mut values);
            values
        };
        // Small weights, so that the ten updates are most of what is compared.
        let start: Vec<f32> = noise(1).iter().map(|v| 0.01 * v).collect();
        let mut p = Tensor::from_slice(&start, [count]).unwrap();
        let mut ema = p.clone();
        let (mut m, mut v) = (crate::testing::zeros([count]).unwrap(), crate::testing::zeros([count]).unwrap());
        let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let (mut p64, mut ema64) = (wide(&start), wide(&start));
        let (mut m64, mut v64) = (vec![0.0; count], vec![0.0; count]);
        for step in 1..=10 {
            let s = AdamW {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.99,
                adam_eps: 1e-8,
                weight_decay: 0.05,
                step,
                grad_clip: 0.7,
                ema_decay: 0.9,
            };
            let g = noise(100 + step);
            let grad = Tensor::from_slice(&g, [count]).unwrap();
            let norm = crate::ops::grad_norm([&grad]).unwrap();
            let scale = s.grad_clip / norm.to_vec::<f64>().unwrap()[0];
            let entry = AdamWEntry { param: &mut p, grad: &grad, m: &mut m, v: &mut v, ema: &mut ema };
            adamw([entry], &s, &Tensor::from_slice(&[0.1_f32], [1]).unwrap(), &norm).unwrap();
            for i in 0..count {
                let grad = scale * f64::from(g[i]);
                m64[i] = s.beta1 * m64[i] + (1.0 - s.beta1) * grad;
                v64[i] = s.beta2 * v64[i] + (1.0 - s.beta2) * grad * grad;
                let (mh, vh) = (m64[i] / (1.0 - s.beta1.powi(step as i32)), v64[i] / (1.0 - s.beta2.powi(step as i32)));
                p64[i] -= s.lr * s.weight_decay * p64[i] + s.lr * mh / (vh.sqrt() + s.adam_eps);
                ema64[i] += (1.0 - s.ema_decay) * (p64[i] - ema64[i]);
            }
        }
        // Ten updates of a dozen roundings each.
        let bound = 120.0 * f64::from(f32::EPSILON);
        crate::testing::compare("parameters", p.host().unwrap(), &p64, bound).unwrap();
        crate::testing::compare("average", ema.host().unwrap(), &ema64, bound).unwrap();
        crate::testing::compare("first moment", m.host().unwrap(), &m64, bound).unwrap();
        crate::testing::compare("second moment", v.host().unwrap(), &v64, bound).unwrap();
    }
}
