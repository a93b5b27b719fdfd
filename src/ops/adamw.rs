//! AdamW (Loshchilov & Hutter 2019, algorithm 2) with gradient scaling and the weights' moving average, in one pass.
//!
//! g ← grad_scale·g;  m ← β1·m + (1−β1)·g;  v ← β2·v + (1−β2)·g²;
//! p ← p·(1 − lr·decay) − lr·(m/(1−β1^step)) / (√(v/(1−β2^step)) + adam_eps);  ema ← ema + (1−ema_decay)·(p − ema)
//!
//! Cost     reads five values and writes four per parameter: 36 bytes, memory bound.

use super::same_device;
use crate::device::{Device, no_kernel};
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
    /// Factor on the gradient, for clipping.
    pub grad_scale: f64,
    /// Decay of the moving average of the weights.
    pub ema_decay: f64,
}

/// Updates one parameter in place, with its moments `m`, `v` and its moving average `ema`, all of one shape.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
///
/// # Example
/// ```
/// use tweedie::{ops::{adamw, AdamW}, tensor::Tensor};
/// let one = || Tensor::from_slice(&[1.0_f32], [1]);
/// let (mut p, grad, mut ema) = (one()?, one()?, one()?);
/// let (mut m, mut v) = (Tensor::from_slice(&[0.0_f32], [1])?, Tensor::from_slice(&[0.0_f32], [1])?);
/// let settings = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, adam_eps: 0.0, weight_decay: 0.0, step: 1, grad_scale: 1.0, ema_decay: 0.5 };
/// adamw(&mut p, &grad, &mut m, &mut v, &mut ema, &settings)?;
/// // The first step of Adam has the length of the learning rate.
/// assert!((p.to_vec::<f32>()?[0] - 0.9).abs() < 1e-6 && (ema.to_vec::<f32>()?[0] - 0.95).abs() < 1e-6);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn adamw(
    param: &mut Tensor,
    grad: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    ema: &mut Tensor,
    settings: &AdamW,
) -> Result<()> {
    for t in [grad, m, v, ema] {
        if t.shape() != param.shape() {
            return Err(Error::Shape(format!("adamw: parameter {} and {} differ", param.shape(), t.shape())));
        }
    }
    match same_device("adamw", &[param, grad, m, v, ema])? {
        Device::Cpu => {
            let grad = grad.host::<f32>()?;
            cpu::update(param.host_mut()?, grad, m.host_mut()?, v.host_mut()?, ema.host_mut()?, settings);
            Ok(())
        }
        device => Err(no_kernel("adamw", device)),
    }
}

mod cpu {
    use super::AdamW;
    use crate::device::{DisjointMut, for_each_block};
    use crate::vectorise;

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
        grad_scale: f32,
        ema_rest: f32,
    }

    pub(super) fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], s: &AdamW) {
        const BLOCK: usize = 8192;
        let power = |beta: f64| 1.0 - beta.powf(s.step as f64);
        let k = Scalars {
            keep: (1.0 - s.lr * s.weight_decay) as f32,
            rate: (s.lr / power(s.beta1)) as f32,
            beta1: s.beta1 as f32,
            beta2: s.beta2 as f32,
            rest1: (1.0 - s.beta1) as f32,
            rest2: (1.0 - s.beta2) as f32,
            inverse_correction2: (1.0 / power(s.beta2)) as f32,
            adam_eps: s.adam_eps as f32,
            grad_scale: s.grad_scale as f32,
            ema_rest: (1.0 - s.ema_decay) as f32,
        };
        let count = p.len();
        let [p, m, v, ema] = [p, m, v, ema].map(DisjointMut::new);
        for_each_block(count.div_ceil(BLOCK), 20 * BLOCK.min(count), |block| {
            let (at, len) = (block * BLOCK, BLOCK.min(count - block * BLOCK));
            run(p.slice(at, len), &g[at..at + len], m.slice(at, len), v.slice(at, len), ema.slice(at, len), k);
        });
    }

    fn run(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], k: Scalars) {
        vectorise!(body(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], k: Scalars))
    }

    #[inline(always)]
    fn body(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], k: Scalars) {
        let n = p.len();
        let (g, m, v, ema) = (&g[..n], &mut m[..n], &mut v[..n], &mut ema[..n]);
        for i in 0..n {
            let grad = k.grad_scale * g[i];
            m[i] = k.beta1 * m[i] + k.rest1 * grad;
            v[i] = k.beta2 * v[i] + k.rest2 * grad * grad;
            let denominator = (v[i] * k.inverse_correction2).sqrt() + k.adam_eps;
            p[i] = k.keep * p[i] - k.rate * m[i] / denominator;
            ema[i] += k.ema_rest * (p[i] - ema[i]);
        }
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
                grad_scale: 0.7,
                ema_decay: 0.9,
            };
            let g = noise(100 + step);
            adamw(&mut p, &Tensor::from_slice(&g, [count]).unwrap(), &mut m, &mut v, &mut ema, &s).unwrap();
            for i in 0..count {
                let grad = s.grad_scale * f64::from(g[i]);
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
