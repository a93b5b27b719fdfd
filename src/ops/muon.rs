//! Muon (Jordan et al. 2024): momentum whose matrix is replaced by a nearly orthogonal one, so that no direction is learned much faster than another.
//!
//! g ← min(1, grad_clip/norm)·g;  m ← β·m + (1−β)·g;  u = (1−β)·g + β·m;  x = u/‖u‖;  x ← (a + b·A + c·A²)·x with A = x·xᵀ for each of [`STEPS`];
//! p ← p·(1 − lr·decay) − lr·√max(1, rows/columns)·x;  ema ← ema + (1−ema_decay)·(p − ema)
//!
//! The steps are odd polynomials of the singular values, each the one that brings the values its predecessor leaves closest to 1 (Amsel et al. 2025,
//! "The Polar Express"). After them every singular value of x that was at least 0.01 lies within 0.27 of 1, and smaller ones have grown 78 times.
//!
//! Saved    nothing: it is no step of a tape.
//! Cost     with n the shorter side and k the longer, three times 4·n²·k + 2·n³ flops a matrix, or 4·n²·k + 16·n³ where k ≥ 2·n; compute bound.
//! Order    the products' (`simd::gemm`); ‖u‖ as [`super::grad_norm`] sums.
//! Kernels  `kernels/muon.cu`, and the products of `kernels/linear.cu`.

use super::same_device;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The scalars of one update.
#[derive(Clone, Copy, Debug)]
pub struct Muon {
    /// Learning rate: about the size of a step's singular values.
    pub lr: f64,
    /// β, the decay of the momentum.
    pub momentum: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to at most this norm.
    pub grad_clip: f64,
    /// Decay of the moving average of the weights.
    pub ema_decay: f64,
}

/// One parameter with its gradient, its momentum and its moving average, all of one shape: the first axis is the rows of a matrix, the others
/// together its columns.
pub struct MuonEntry<'a> {
    /// The parameter.
    pub param: &'a mut Tensor,
    /// Its gradient.
    pub grad: &'a Tensor,
    /// Its momentum.
    pub m: &'a mut Tensor,
    /// Moving average of the parameter.
    pub ema: &'a mut Tensor,
}

/// a, b and c of each step: the odd polynomials of degree 5 nearest to 1 on [0.01, 1] and on what the step before makes of it.
const STEPS: [[f64; 3]; 3] =
    [[8.09337, -23.62043, 17.44615], [3.63659, -2.72193, 0.53655], [2.66130, -1.97715, 0.45262]];
/// Keeps ‖u‖ from 0.
const SMALL: f64 = 1e-7;

/// Updates matrices in place. Where `loss` or `norm` is not finite, nothing is changed: the host may look at them later.
///
/// * `loss` — `[1]`, f32
/// * `norm` — `[1]`, f64, of all gradients, as [`super::grad_norm`] returns it
///
/// # Errors
/// [`Error::Shape`] if shapes differ; [`Error::Device`] if not everything lives on the device of `loss`.
///
/// # Example
/// ```
/// use tweedie::{ops::{grad_norm, muon, Muon, MuonEntry}, tensor::Tensor};
/// let of = |values: [f32; 4]| Tensor::from_slice(&values, [2, 2]);
/// let (mut param, grad, mut m, mut ema) = (of([0.0; 4])?, of([3.0, 0.0, 0.0, 0.04])?, of([0.0; 4])?, of([0.0; 4])?);
/// let settings = Muon { lr: 1.0, momentum: 0.95, weight_decay: 0.0, grad_clip: 5.0, ema_decay: 0.5 };
/// let norm = grad_norm([&grad])?;
/// muon([MuonEntry { param: &mut param, grad: &grad, m: &mut m, ema: &mut ema }], &settings, &Tensor::from_slice(&[0.3_f32], [1])?, &norm)?;
/// // The direction whose gradient was 75 times smaller moves as far.
/// let p = param.to_vec::<f32>()?;
/// assert!((-1.27..-0.73).contains(&p[0]) && (-1.27..-0.73).contains(&p[3]) && p[1] == 0.0);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub fn muon<'a>(
    entries: impl IntoIterator<Item = MuonEntry<'a>>,
    settings: &Muon,
    loss: &Tensor,
    norm: &Tensor,
) -> Result<()> {
    let device = same_device("muon", &[loss, norm])?;
    if [loss.count(), norm.count()] != [1; 2] {
        return Err(Error::Shape(format!("muon: loss and norm want [1], got {} and {}", loss.shape(), norm.shape())));
    }
    for entry in entries {
        let sizes = check(device, &entry)?;
        match device {
            Device::Cpu => cpu::update(entry, sizes, settings, loss.host::<f32>()?[0], norm.host::<f64>()?[0])?,
            Device::Cuda(index) => cuda::update(index, entry, sizes, settings, loss, norm)?,
        }
    }
    Ok(())
}

/// Rows and columns of the parameter.
fn check(device: Device, entry: &MuonEntry<'_>) -> Result<[usize; 2]> {
    let param = &*entry.param;
    for t in [entry.grad, &*entry.m, &*entry.ema] {
        if t.shape() != param.shape() {
            return Err(Error::Shape(format!("muon: parameter {} and {} differ", param.shape(), t.shape())));
        }
    }
    let own = same_device("muon", &[param, entry.grad, entry.m, entry.ema])?;
    if own != device {
        return Err(Error::Device(format!("muon: loss lives on {device}, a parameter on {own}; move them to one")));
    }
    match &param.shape()[..] {
        [rows, rest @ ..] if !rest.is_empty() && param.count() > 0 => Ok([*rows, param.count() / rows]),
        _ => Err(Error::Shape(format!("muon: a parameter wants at least two axes, got {}", param.shape()))),
    }
}

impl Muon {
    /// What a step moves a weight by for each unit of the orthogonal matrix.
    fn rate(&self, [rows, columns]: [usize; 2]) -> f32 {
        (self.lr * (rows as f64 / columns as f64).max(1.0).sqrt()) as f32
    }

    fn keep(&self) -> f32 {
        (1.0 - self.lr * self.weight_decay) as f32
    }
}

/// Whether products of the shorter side alone are the cheaper way.
fn is_long([rows, columns]: [usize; 2]) -> bool {
    rows.max(columns) >= 2 * rows.min(columns)
}

mod cpu {
    use super::{Muon, MuonEntry, SMALL, STEPS, is_long};
    use crate::device::{DisjointMut, Scratch, for_each_block};
    use crate::error::Result;
    use crate::ops::reduce::{clip_factor, grad_norm};
    use crate::simd::gemm::{Matrix, multiply};
    use crate::tensor::{Dtype, Tensor};
    use crate::vectorise;

    const BLOCK: usize = 8192;

    pub(super) fn update(entry: MuonEntry<'_>, sizes: [usize; 2], s: &Muon, loss: f32, norm: f64) -> Result<()> {
        let mut x = Tensor::empty(entry.grad.shape(), Dtype::F32, entry.grad.device())?;
        let Some(scale) = clip_factor(loss, norm, s.grad_clip) else { return Ok(()) };
        let (beta, rest) = (s.momentum as f32, (1.0 - s.momentum) as f32);
        direct(x.host_mut()?, entry.grad.host()?, entry.m.host_mut()?, [scale, beta, rest]);
        let size = grad_norm([&x])?.host::<f64>()?[0];
        let factor = (1.0 / (size + SMALL)) as f32;
        let x = x.host_mut::<f32>()?;
        each_block(x.len(), {
            let x = DisjointMut::new(x);
            move |at, len| x.slice(at, len).iter_mut().for_each(|x| *x *= factor)
        });
        orthogonalise(x, sizes);
        let scalars = [s.keep(), s.rate(sizes), (1.0 - s.ema_decay) as f32];
        let (p, ema) = (DisjointMut::new(entry.param.host_mut()?), DisjointMut::new(entry.ema.host_mut()?));
        each_block(x.len(), |at, len| step(p.slice(at, len), &x[at..at + len], ema.slice(at, len), scalars));
        Ok(())
    }

    fn each_block(count: usize, work: impl Fn(usize, usize) + Sync + Send) {
        for_each_block(count.div_ceil(BLOCK), 8 * BLOCK, |block| work(block * BLOCK, BLOCK.min(count - block * BLOCK)));
    }

    /// The momentum, and what is to be made orthogonal.
    fn direct(u: &mut [f32], g: &[f32], m: &mut [f32], scalars: [f32; 3]) {
        let (count, u, m) = (g.len(), DisjointMut::new(u), DisjointMut::new(m));
        each_block(count, |at, len| run(u.slice(at, len), &g[at..at + len], m.slice(at, len), scalars));

        fn run(u: &mut [f32], g: &[f32], m: &mut [f32], k: [f32; 3]) {
            vectorise!(body(u: &mut [f32], g: &[f32], m: &mut [f32], k: [f32; 3]))
        }

        #[inline(always)]
        fn body(u: &mut [f32], g: &[f32], m: &mut [f32], [scale, beta, rest]: [f32; 3]) {
            for ((u, g), m) in u.iter_mut().zip(g).zip(m) {
                let g = scale * g;
                *m += rest * (g - *m);
                *u = g + beta * (*m - g);
            }
        }
    }

    fn step(p: &mut [f32], x: &[f32], ema: &mut [f32], scalars: [f32; 3]) {
        #[inline(always)]
        fn body(p: &mut [f32], x: &[f32], ema: &mut [f32], [keep, rate, ema_rest]: [f32; 3]) {
            for ((p, x), ema) in p.iter_mut().zip(x).zip(ema) {
                *p = keep * *p - rate * x;
                *ema += ema_rest * (*p - *ema);
            }
        }
        vectorise!(body(p: &mut [f32], x: &[f32], ema: &mut [f32], scalars: [f32; 3]))
    }

    /// The steps on x of norm 1. Where one side is at least twice the other, the polynomials of x·xᵀ (or xᵀ·x) are multiplied with one another and
    /// with x only at the end: they are smaller than x, and commute.
    fn orthogonalise(x: &mut [f32], [rows, columns]: [usize; 2]) {
        let (n, long) = (rows.min(columns), rows.max(columns));
        let square = || Scratch::<f32>::take(n * n);
        let (mut gram, mut factor, mut spare) = (square(), square(), square());
        let mut next = Scratch::<f32>::take(x.len());
        let gram_of = |gram: &mut [f32], x: &[f32]| {
            let x = if rows <= columns { Matrix::lines(x, columns) } else { Matrix::by_k(x, columns) };
            multiply(gram, [n, n, long], x, x, |_, _, _| {});
        };
        // x ← factor·x, or x·factor.
        let apply = |next: &mut [f32], x: &mut [f32], factor: &[f32]| {
            let (left, right) = match rows <= columns {
                true => (Matrix::lines(factor, n), Matrix::by_k(x, columns)),
                false => (Matrix::lines(x, columns), Matrix::lines(factor, n)),
            };
            multiply(next, [rows, columns, n], left, right, |_, _, _| {});
            x.copy_from_slice(next);
        };
        if !is_long([rows, columns]) {
            for step in STEPS {
                gram_of(&mut gram, x);
                polynomial(&mut factor, &gram, n, step);
                apply(&mut next, x, &factor);
            }
            return;
        }
        let mut all = square();
        gram_of(&mut gram, x);
        for (k, step) in STEPS.into_iter().enumerate() {
            polynomial(&mut factor, &gram, n, step);
            if k == 0 {
                all.copy_from_slice(&factor);
            } else {
                symmetric(&mut spare, &all, &factor, n);
                std::mem::swap(&mut all, &mut spare);
            }
            if k + 1 < STEPS.len() {
                symmetric(&mut spare, &gram, &factor, n);
                symmetric(&mut gram, &spare, &factor, n);
            }
        }
        apply(&mut next, x, &all);
    }

    /// a + b·A + c·A².
    fn polynomial(out: &mut [f32], gram: &[f32], n: usize, step: [f64; 3]) {
        let [a, b, c] = step.map(|v| v as f32);
        let lines = Matrix::lines(gram, n);
        multiply(out, [n, n, n], lines, lines, |i, j, line| {
            line.iter_mut().zip(&gram[i * n + j..]).for_each(|(out, gram)| *out = b * gram + c * *out);
            if let Some(diagonal) = i.checked_sub(j).and_then(|at| line.get_mut(at)) {
                *diagonal += a;
            }
        });
    }

    /// The product of symmetric matrices.
    fn symmetric(out: &mut [f32], left: &[f32], right: &[f32], n: usize) {
        multiply(out, [n, n, n], Matrix::lines(left, n), Matrix::lines(right, n), |_, _, _| {});
    }
}

mod cuda {
    use super::{Muon, MuonEntry, SMALL, STEPS, is_long};
    use crate::device::Device;
    use crate::device::cuda::{Geometry, args, gpu, size};
    use crate::error::Result;
    use crate::kernels::muon as kernel;
    use crate::ops::grad_norm;
    use crate::ops::linear::cuda::{self as products, Sizes};
    use crate::tensor::{Dtype, Tensor};

    fn geometry(count: usize) -> Result<Geometry> {
        Geometry::covering(count.div_ceil(4), 256)
    }

    pub(super) fn update(
        index: usize,
        entry: MuonEntry<'_>,
        sizes: [usize; 2],
        s: &Muon,
        loss: &Tensor,
        norm: &Tensor,
    ) -> Result<()> {
        let MuonEntry { param, grad, m, ema } = entry;
        let count = grad.count();
        for tensor in [&mut *param, &mut *m, &mut *ema] {
            tensor.cuda_as::<f32>()?;
            // Weights and averages share memory until the first update.
            tensor.make_unique()?;
        }
        let (grad, loss, norm) = (grad.cuda_as::<f32>()?, loss.cuda_as::<f32>()?, norm.cuda_as::<f64>()?);
        let gpu = gpu(index)?;
        let mut x = Tensor::empty(sizes, Dtype::F32, Device::Cuda(index))?;
        let (beta, rest) = (s.momentum as f32, (1.0 - s.momentum) as f32);
        let args = args![grad, m.cuda_mut()?, x.cuda_mut()?, count as u64, loss, norm, s.grad_clip, beta, rest];
        // SAFETY: grad, m (of one shape, checked in `check`) and x hold count f32, loss and norm a number each; a thread touches elements below
        // count; order and types are those of `muon_direction`.
        unsafe { gpu.launch(kernel::DIRECTION, geometry(count)?, &args) }?;
        let norm_of_x = grad_norm([&x])?;
        let args = args![x.cuda_mut()?, count as u64, norm_of_x.cuda_as::<f64>()?, SMALL];
        // SAFETY: x holds count f32 and its norm is one f64; order and types are those of `muon_scaled`.
        unsafe { gpu.launch(kernel::SCALED, geometry(count)?, &args) }?;
        let x = orthogonal(index, x, sizes)?;
        let (keep, rate, ema_rest) = (s.keep(), s.rate(sizes), (1.0 - s.ema_decay) as f32);
        let args = args![param.cuda_mut()?, x.cuda()?, ema.cuda_mut()?, count as u64, loss, norm, keep, rate, ema_rest];
        // SAFETY: param, x and ema hold count f32, loss and norm a number each; order and types are those of `muon_update`.
        unsafe { gpu.launch(kernel::UPDATE, geometry(count)?, &args) }
    }

    /// As the CPU's `orthogonalise`.
    fn orthogonal(index: usize, mut x: Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
        let n = rows.min(columns);
        let square = Sizes { rows: n, c_in: n, c_out: n };
        let gram_of = |x: &Tensor| match rows <= columns {
            true => products::forward(index, x, x, None, None, [n, n], Sizes { c_in: columns, ..square }),
            false => {
                let like = Tensor::empty([n, n], Dtype::F32, Device::Cuda(index))?;
                products::backward_weight(index, x, x, &like, Sizes { rows, ..square })
            }
        };
        let apply = |x: &Tensor, factor: &Tensor| match rows <= columns {
            true => products::backward_x(index, x, factor, x, Sizes { rows, c_in: columns, c_out: n }),
            false => products::forward(index, x, factor, None, None, [rows, n], Sizes { rows, ..square }),
        };
        let symmetric =
            |left: &Tensor, right: &Tensor| products::forward(index, left, right, None, None, [n, n], square);
        let polynomial = |gram: &Tensor, [a, b, c]: [f64; 3]| {
            let mut out = symmetric(gram, gram)?;
            let (blocks, count, n) = (geometry(out.count())?, out.count() as u64, size(n)?);
            let args = args![gram.cuda()?, out.cuda_mut()?, count, n, a as f32, b as f32, c as f32];
            // SAFETY: gram and out hold n·n f32 each; order and types are those of `muon_polynomial`.
            unsafe { gpu(index)?.launch(kernel::POLYNOMIAL, blocks, &args) }?;
            Ok::<_, crate::Error>(out)
        };
        if !is_long([rows, columns]) {
            for step in STEPS {
                x = apply(&x, &polynomial(&gram_of(&x)?, step)?)?;
            }
            return Ok(x);
        }
        let mut gram = gram_of(&x)?;
        let mut all = None;
        for (k, step) in STEPS.into_iter().enumerate() {
            let factor = polynomial(&gram, step)?;
            if k + 1 < STEPS.len() {
                gram = symmetric(&symmetric(&gram, &factor)?, &factor)?;
            }
            all = Some(match all {
                Some(all) => symmetric(&all, &factor)?,
                None => factor,
            });
        }
        all.map_or(Ok(x.clone()), |all| apply(&x, &all))
    }
}

#[doc(hidden)]
pub(super) mod cases {
    use super::{Muon, MuonEntry, SMALL, STEPS, muon};
    use crate::ops::grad_norm;
    use crate::tensor::{Shape, Tensor};
    use crate::testing::{Array, Case};

    /// A rate and a decay at which each part of a step shows beside the roundings that the polynomials stretch.
    const SETTINGS: Muon = Muon { lr: 0.5, momentum: 0.9, weight_decay: 0.5, grad_clip: 1.0, ema_decay: 0.9 };

    /// Parameters of `shapes`. Inputs: p, g and m of each in turn; the average begins as the parameter's own memory. Returns the parameters,
    /// momenta and averages, one after the other.
    fn case(shapes: &[&[usize]], grad_clip: f64, loss: f32) -> Case {
        let settings = Muon { grad_clip, ..SETTINGS };
        let shapes: Vec<Shape> = shapes.iter().map(|s| Shape::from(*s)).collect();
        let normal = |shape: &Shape, seed: u64, scale: f32| Array::normal(*shape, seed, scale, 0.0);
        let inputs: Vec<Array> = (shapes.iter().zip((300..).step_by(3)))
            .flat_map(|(s, seed)| [normal(s, seed, 0.3), normal(s, seed + 1, 1.0), normal(s, seed + 2, 0.05)])
            .collect();
        let longest = shapes.iter().map(|s| s.iter().product::<usize>()).max().unwrap_or(1);
        Case {
            op: "muon",
            label: format!("{shapes:?}, clip {grad_clip}, loss {loss}"),
            differentiable: vec![false; inputs.len()],
            run: Box::new(move |t| {
                let of = |k: usize| t.iter().skip(k).step_by(3).cloned().collect::<Vec<_>>();
                let (mut p, g, mut m) = (of(0), of(1), of(2));
                let mut ema = p.clone();
                let norm = grad_norm(&g)?;
                let loss = Tensor::from_slice(&[loss], [1])?.to_device(norm.device())?;
                let entries = p.iter_mut().zip(&g).zip(m.iter_mut().zip(&mut ema));
                let entries = entries.map(|((param, grad), (m, ema))| MuonEntry { param, grad, m, ema });
                muon(entries, &settings, &loss, &norm)?;
                let all: Vec<Tensor> = [p, m, ema].concat();
                let count: usize = all.iter().map(Tensor::count).sum();
                Tensor::stack_rows(&all, [count])
            }),
            oracle: Box::new(move |a| {
                let squares = a.iter().skip(1).step_by(3).flat_map(|g| &g.data).map(|g| g * g);
                let norm = squares.sum::<f64>().sqrt();
                let scale = if norm > settings.grad_clip { settings.grad_clip / norm } else { 1.0 };
                let mut out: [Vec<f64>; 3] = Default::default();
                for tensor in a.chunks_exact(3) {
                    let [p, g, m] = [0, 1, 2].map(|k| &tensor[k].data);
                    let after = match loss.is_finite() {
                        true => update(&settings, (p, g, m), tensor[0].shape[0], scale),
                        false => [p.clone(), m.clone(), p.clone()],
                    };
                    after.into_iter().zip(&mut out).for_each(|(values, list)| list.extend(values));
                }
                let data = out.concat();
                Array { shape: [data.len()].into(), data }
            }),
            inputs,
            // The three polynomials have slopes of at most 24.7, 10.1 and 4.7 where they are used: what is rounded before a step grows so much in
            // it and in each after it, 1225 times in all. Three products round in each.
            terms: 1225 * 1225 * 3 * longest,
            grad_terms: 1,
        }
    }

    type Values<'a> = (&'a [f64], &'a [f64], &'a [f64]);

    /// The formulas of the room's head: p, m and the average after them.
    fn update(s: &Muon, (p, g, m): Values<'_>, rows: usize, scale: f64) -> [Vec<f64>; 3] {
        let columns = p.len() / rows;
        let m: Vec<f64> = m.iter().zip(g).map(|(m, g)| s.momentum * m + (1.0 - s.momentum) * scale * g).collect();
        let u: Vec<f64> = m.iter().zip(g).map(|(m, g)| s.momentum * m + (1.0 - s.momentum) * scale * g).collect();
        let size = u.iter().map(|u| u * u).sum::<f64>().sqrt() + SMALL;
        let x: Vec<f64> = u.iter().map(|u| u / size).collect();
        let x = orthogonal(x, [rows, columns]);
        let rate = s.lr * (rows as f64 / columns as f64).max(1.0).sqrt();
        let after: Vec<f64> = p.iter().zip(&x).map(|(p, x)| p * (1.0 - s.lr * s.weight_decay) - rate * x).collect();
        let ema = p.iter().zip(&after).map(|(p, after)| p + (1.0 - s.ema_decay) * (after - p)).collect();
        [after, m, ema]
    }

    /// The steps with A = x·xᵀ, whichever side is shorter.
    pub(super) fn orthogonal(mut x: Vec<f64>, [rows, columns]: [usize; 2]) -> Vec<f64> {
        let product = |a: &dyn Fn(usize, usize) -> f64, b: &dyn Fn(usize, usize) -> f64, [m, n, k]: [usize; 3]| {
            let at = |i: usize| (0..k).map(|l| a(i / n, l) * b(l, i % n)).sum::<f64>();
            (0..m * n).map(at).collect::<Vec<f64>>()
        };
        for [a, b, c] in STEPS {
            let of = |i: usize, j: usize| x[i * columns + j];
            let gram = product(&of, &|l, j| of(j, l), [rows, rows, columns]);
            let gram = |i: usize, j: usize| gram[i * rows + j];
            let squared = product(&gram, &gram, [rows, rows, rows]);
            let mix = |i: usize, j: usize| b * gram(i, j) + c * squared[i * rows + j];
            let moved = product(&mix, &of, [rows, columns, rows]);
            x = x.iter().zip(moved).map(|(x, moved)| a * x + moved).collect();
        }
        x
    }

    /// Rows: wide, tall, square, a convolution's, edges of a tile, one row and one column, a loss that is not finite.
    pub(crate) fn table() -> Vec<Case> {
        vec![
            case(&[&[8, 24]], 1e3, 0.5),
            case(&[&[24, 8], &[16, 16]], 1.0, 0.5),
            case(&[&[12, 3, 3, 4], &[5, 7]], 1e3, 0.5),
            case(&[&[65, 33], &[33, 70]], 1.0, 0.5),
            case(&[&[1, 9], &[9, 1]], 1.0, 0.5),
            case(&[&[6, 4]], 1.0, f32::NAN),
            case(&[&[6, 4]], 1.0, f32::INFINITY),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::cases::orthogonal;
    use super::*;
    use crate::ops::grad_norm;
    use crate::testing::Array;
    use nalgebra::DMatrix;

    /// One step of rate 1 from zeros along `grad`, so that the parameter becomes minus the orthogonal matrix.
    fn stepped(grad: &Tensor) -> Vec<f32> {
        let zeros = || crate::testing::zeros(grad.shape()).unwrap();
        let (mut param, mut m, mut ema) = (zeros(), zeros(), zeros());
        let settings = Muon { lr: 1.0, momentum: 0.95, weight_decay: 0.0, grad_clip: 1e9, ema_decay: 0.9 };
        let norm = grad_norm([grad]).unwrap();
        let entry = MuonEntry { param: &mut param, grad, m: &mut m, ema: &mut ema };
        muon([entry], &settings, &Tensor::from_slice(&[0.1_f32], [1]).unwrap(), &norm).unwrap();
        param.to_vec().unwrap()
    }

    /// What the steps make of a singular value.
    fn polynomial(v: f64) -> f64 {
        STEPS.iter().fold(v, |v, [a, b, c]| a * v + b * v.powi(3) + c * v.powi(5))
    }

    #[test]
    fn singular_values_from_a_hundredth_on_end_within_0_27_of_1_and_smaller_ones_grow_78_times() {
        let values: Vec<f64> = (0..=10_000).map(|i| polynomial(0.01 + 0.99 * f64::from(i) / 1e4)).collect();
        let far = values.iter().map(|v| (v - 1.0).abs()).fold(0.0, f64::max);
        // Composed of the best of their kind, whose distance is 0.26944, with coefficients of five digits.
        assert!((0.2694..0.2700).contains(&far), "{far}");
        assert!((polynomial(1e-6) / 1e-6 - 78.3).abs() < 0.1);
    }

    #[test]
    fn singular_vectors_stay_and_singular_values_become_those_of_the_polynomial() {
        let (rows, columns) = (12, 30);
        let grad = Array::normal([rows, columns], 5, 1.0, 0.0);
        let svd = DMatrix::from_row_slice(rows, columns, &grad.data).svd(true, true);
        let size = grad.data.iter().map(|g| g * g).sum::<f64>().sqrt();
        let mut want = svd.clone();
        want.singular_values.iter_mut().for_each(|v| *v = polynomial(*v / size));
        let want = want.recompose().unwrap();
        let got = stepped(&Tensor::from_slice(&grad.to_f32(), grad.shape).unwrap());
        for (at, got) in got.iter().enumerate() {
            let want = -want[(at / columns, at % columns)];
            // What is rounded grows at most 1225 times, as in the case table; these singular values are where slopes are 78 in all.
            assert!((f64::from(*got) - want).abs() < 78.0 * 30.0 * f64::from(f32::EPSILON), "{at}: {got}, {want}");
        }
    }

    #[test]
    fn a_tall_matrix_moves_as_its_transpose_times_the_root_of_the_ratio() {
        let [rows, columns] = [40, 10];
        let wide = Array::normal([columns, rows], 6, 1.0, 0.0);
        let tall: Vec<f32> = (0..rows * columns).map(|at| wide.to_f32()[at % columns * rows + at / columns]).collect();
        let tall = stepped(&Tensor::from_slice(&tall, [rows, columns]).unwrap());
        let size = wide.data.iter().map(|g| g * g).sum::<f64>().sqrt();
        let want = orthogonal(wide.data.iter().map(|g| g / size).collect(), [columns, rows]);
        for (at, got) in tall.iter().enumerate() {
            let want = -2.0 * want[at % columns * rows + at / columns];
            assert!((f64::from(*got) - want).abs() < 156.0 * 40.0 * f64::from(f32::EPSILON), "{at}: {got}, {want}");
        }
    }

    #[test]
    fn what_is_no_matrix_is_refused_in_a_sentence() {
        let grad = crate::testing::zeros([4]).unwrap();
        let (mut param, mut m, mut ema) = (grad.clone(), grad.clone(), grad.clone());
        let settings = Muon { lr: 1.0, momentum: 0.9, weight_decay: 0.0, grad_clip: 1.0, ema_decay: 0.9 };
        let entry = MuonEntry { param: &mut param, grad: &grad, m: &mut m, ema: &mut ema };
        let error =
            muon([entry], &settings, &Tensor::from_slice(&[0.1_f32], [1]).unwrap(), &grad_norm([&grad]).unwrap());
        assert_eq!(error.unwrap_err().to_string(), "muon: a parameter wants at least two axes, got [4]");
    }
}
