//! The CPU side of [`super::attention_pool`].

use super::{AttentionPool, Sizes};
use crate::device::{Device, DisjointMut, for_each_block};
use crate::error::Result;
use crate::tensor::{Dtype, Tensor};

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

impl Sizes {
    fn channels(&self) -> usize {
        self.heads * self.d
    }

    fn scale(&self) -> f64 {
        1.0 / (self.d as f64).sqrt()
    }

    /// Where head `h` of place `t` of one image begins.
    fn at(&self, t: usize, h: usize) -> usize {
        t * self.channels() + h * self.d
    }
}

pub(super) fn forward(q: &Tensor, k: &Tensor, v: &Tensor, s: Sizes) -> Result<(Tensor, Tensor)> {
    let Sizes { n, t, heads, d } = s;
    let mut y = Tensor::empty([n, s.channels()], Dtype::F32, Device::Cpu)?;
    let mut probabilities = Tensor::empty([n, heads, t], Dtype::F32, Device::Cpu)?;
    let (q, k, v) = (q.host::<f32>()?, k.host::<f32>()?, v.host::<f32>()?);
    {
        let (ys, ps) = (DisjointMut::new(y.host_mut::<f32>()?), DisjointMut::new(probabilities.host_mut::<f32>()?));
        let map = t * s.channels();
        for_each_block(n, 8 * map, |i| {
            let (k, v) = (&k[i * map..][..map], &v[i * map..][..map]);
            for h in 0..heads {
                let row = i * s.channels() + h * d;
                let (q, y, p) = (&q[row..][..d], ys.slice(row, d), ps.slice((i * heads + h) * t, t));
                for (place, p) in p.iter_mut().enumerate() {
                    *p = (s.scale() * dot(q, &k[s.at(place, h)..][..d])) as f32;
                }
                soften(p);
                for (channel, y) in y.iter_mut().enumerate() {
                    let values = (0..t).map(|place| f64::from(v[s.at(place, h) + channel]));
                    *y = p.iter().zip(values).map(|(p, v)| f64::from(*p) * v).sum::<f64>() as f32;
                }
            }
        });
    }
    Ok((y, probabilities))
}

/// Scores to probabilities; a NaN among them reaches all.
fn soften(p: &mut [f32]) {
    let top = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    p.iter_mut().for_each(|p| *p = (*p - top).exp());
    let sum: f64 = p.iter().map(|p| f64::from(*p)).sum();
    p.iter_mut().for_each(|p| *p = (f64::from(*p) / sum) as f32);
}

/// dv = p·dy, ds = p·(dy·v − Σ p·dy·v)/√d, dq = Σ ds·k, dk = ds·q.
pub(super) fn backward(node: &AttentionPool, dy: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let s = node.sizes;
    let Sizes { n, t, heads, d } = s;
    let empty = |like: &Tensor| Tensor::empty(like.shape(), Dtype::F32, Device::Cpu);
    let (mut dq, mut dk, mut dv) = (empty(&node.q)?, empty(&node.k)?, empty(&node.v)?);
    let (q, k, v) = (node.q.host::<f32>()?, node.k.host::<f32>()?, node.v.host::<f32>()?);
    let (p, dy) = (node.probabilities.host::<f32>()?, dy.host::<f32>()?);
    {
        let dqs = DisjointMut::new(dq.host_mut::<f32>()?);
        let (dks, dvs) = (DisjointMut::new(dk.host_mut::<f32>()?), DisjointMut::new(dv.host_mut::<f32>()?));
        let map = t * s.channels();
        for_each_block(n, 16 * map, |i| {
            let (k, v) = (&k[i * map..][..map], &v[i * map..][..map]);
            let (dk, dv) = (dks.slice(i * map, map), dvs.slice(i * map, map));
            for h in 0..heads {
                let row = i * s.channels() + h * d;
                let (q, dy, p) = (&q[row..][..d], &dy[row..][..d], &p[(i * heads + h) * t..][..t]);
                let along = |place: usize| dot(dy, &v[s.at(place, h)..][..d]);
                let mean: f64 = p.iter().enumerate().map(|(place, p)| f64::from(*p) * along(place)).sum();
                let mut sums = [0.0_f64; 64];
                for from in (0..d).step_by(sums.len()) {
                    let part = from..d.min(from + sums.len());
                    sums.fill(0.0);
                    for (place, p) in p.iter().enumerate() {
                        let (p, at) = (f64::from(*p), s.at(place, h));
                        let ds = p * (along(place) - mean) * s.scale();
                        for (sum, channel) in sums.iter_mut().zip(part.clone()) {
                            *sum += ds * f64::from(k[at + channel]);
                            dk[at + channel] = (ds * f64::from(q[channel])) as f32;
                            dv[at + channel] = (p * f64::from(dy[channel])) as f32;
                        }
                    }
                    for (dq, sum) in dqs.slice(row + part.start, part.len()).iter_mut().zip(&sums) {
                        *dq = *sum as f32;
                    }
                }
            }
        });
    }
    Ok((dq, dk, dv))
}
