//! Every kernel as the plainest loops that compute it: f32, one thread, no blocking, no explicit vectors. What a kernel's
//! work is worth is the ratio to these.

use tweedie::ops::{AdamW, ReverseStep};
use tweedie::rng::Address;

/// A convolution of square kernel `k`, with the same padding on all sides.
#[derive(Clone, Copy)]
pub(crate) struct ConvShape {
    /// Images.
    pub(crate) n: usize,
    /// Height and width of the input.
    pub(crate) size: usize,
    /// Input channels.
    pub(crate) c_in: usize,
    /// Output channels.
    pub(crate) c_out: usize,
    /// Kernel size.
    pub(crate) k: usize,
    /// Stride.
    pub(crate) stride: usize,
}

impl ConvShape {
    /// Height and width of the output.
    pub(crate) fn size_out(&self) -> usize {
        (self.size + 2 * (self.k / 2) - self.k) / self.stride + 1
    }

    /// Floating-point operations forward.
    pub(crate) fn flops(&self) -> f64 {
        2.0 * (self.n * self.size_out().pow(2) * self.c_out * self.k * self.k * self.c_in) as f64
    }

    /// Calls `visit(output pixel, tap, input pixel)` for every tap that lies inside the image.
    fn taps(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let (size, out, k, pad) = (self.size, self.size_out(), self.k, self.k / 2);
        for p in 0..self.n * out * out {
            let (image, y, x) = (p / (out * out), p / out % out, p % out);
            for ky in 0..k {
                for kx in 0..k {
                    let (row, column) = (y * self.stride + ky, x * self.stride + kx);
                    if (pad..size + pad).contains(&row) && (pad..size + pad).contains(&column) {
                        visit(p, ky * k + kx, (image * size + row - pad) * size + column - pad);
                    }
                }
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// y += factor·x.
fn add_scaled(y: &mut [f32], factor: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += factor * x;
    }
}

/// y `[n,h_out,w_out,c_out]` of x `[n,h,w,c_in]` and weight `[c_out,k,k,c_in]`.
pub(crate) fn conv2d(x: &[f32], weight: &[f32], bias: &[f32], s: ConvShape) -> Vec<f32> {
    let (c_in, c_out, taps) = (s.c_in, s.c_out, s.k * s.k);
    let mut y = bias.repeat(s.n * s.size_out().pow(2));
    s.taps(|to, tap, from| {
        for j in 0..c_out {
            y[to * c_out + j] += dot(&x[from * c_in..][..c_in], &weight[(j * taps + tap) * c_in..][..c_in]);
        }
    });
    y
}

/// dx and dweight, and dbias.
pub(crate) fn conv2d_backward(x: &[f32], weight: &[f32], dy: &[f32], s: ConvShape) -> [Vec<f32>; 3] {
    let (c_in, c_out, taps) = (s.c_in, s.c_out, s.k * s.k);
    let (mut dx, mut dweight, mut dbias) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; c_out]);
    s.taps(|to, tap, from| {
        for j in 0..c_out {
            let (dy, at) = (dy[to * c_out + j], (j * taps + tap) * c_in);
            add_scaled(&mut dx[from * c_in..][..c_in], dy, &weight[at..][..c_in]);
            add_scaled(&mut dweight[at..][..c_in], dy, &x[from * c_in..][..c_in]);
        }
    });
    dy.chunks_exact(c_out).for_each(|line| add_scaled(&mut dbias, 1.0, line));
    [dx, dweight, dbias]
}

/// y `[rows,c_out]` of x `[rows,c_in]` and weight `[c_out,c_in]`.
pub(crate) fn linear(x: &[f32], weight: &[f32], bias: &[f32], c_in: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len() / c_in * bias.len());
    for row in x.chunks_exact(c_in) {
        y.extend(weight.chunks_exact(c_in).zip(bias).map(|(w, b)| b + dot(row, w)));
    }
    y
}

/// dx, dweight and dbias.
pub(crate) fn linear_backward(x: &[f32], weight: &[f32], dy: &[f32], c_in: usize) -> [Vec<f32>; 3] {
    let c_out = weight.len() / c_in;
    let (mut dx, mut dweight, mut dbias) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; c_out]);
    for (row, dy) in dy.chunks_exact(c_out).enumerate() {
        for j in 0..c_out {
            add_scaled(&mut dx[row * c_in..][..c_in], dy[j], &weight[j * c_in..][..c_in]);
            add_scaled(&mut dweight[j * c_in..][..c_in], dy[j], &x[row * c_in..][..c_in]);
        }
        add_scaled(&mut dbias, 1.0, dy);
    }
    [dx, dweight, dbias]
}

/// Images `[n, pixels, c]` normalised in groups.
#[derive(Clone, Copy)]
pub(crate) struct NormShape {
    /// Pixels of an image.
    pub(crate) pixels: usize,
    /// Channels.
    pub(crate) c: usize,
    /// Groups.
    pub(crate) groups: usize,
    /// Stabiliser of the variance.
    pub(crate) norm_eps: f32,
}

impl NormShape {
    /// Calls `visit` with the (index, channel)s of each group.
    fn each_group(&self, count: usize, mut visit: impl FnMut(&[(usize, usize)])) {
        let (image, width) = (self.pixels * self.c, self.c / self.groups);
        for start in (0..count).step_by(image) {
            for g in 0..self.groups {
                let channels = g * width..(g + 1) * width;
                let members: Vec<(usize, usize)> =
                    (0..self.pixels).flat_map(|p| channels.clone().map(move |j| (start + p * self.c + j, j))).collect();
                visit(&members);
            }
        }
    }

    fn statistics(&self, x: &[f32], members: &[(usize, usize)]) -> (f32, f32) {
        let count = members.len() as f32;
        let mean = members.iter().map(|(i, _)| x[*i]).sum::<f32>() / count;
        let var = members.iter().map(|(i, _)| (x[*i] - mean).powi(2)).sum::<f32>() / count;
        (mean, 1.0 / (var + self.norm_eps).sqrt())
    }
}

/// silu(x̂·weight + bias).
pub(crate) fn group_norm_silu(x: &[f32], weight: &[f32], bias: &[f32], s: NormShape) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    s.each_group(x.len(), |members| {
        let (mean, rstd) = s.statistics(x, members);
        for &(i, j) in members {
            let u = (x[i] - mean) * rstd * weight[j] + bias[j];
            y[i] = u / (1.0 + (-u).exp());
        }
    });
    y
}

/// dx, dweight and dbias.
pub(crate) fn group_norm_silu_backward(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    dy: &[f32],
    s: NormShape,
) -> [Vec<f32>; 3] {
    let (mut dx, mut dweight, mut dbias) = (vec![0.0; x.len()], vec![0.0; s.c], vec![0.0; s.c]);
    s.each_group(x.len(), |members| {
        let (mean, rstd) = s.statistics(x, members);
        let (mut sum, mut sum_x) = (0.0, 0.0);
        for &(i, j) in members {
            let x_hat = (x[i] - mean) * rstd;
            let u = x_hat * weight[j] + bias[j];
            let sigmoid = 1.0 / (1.0 + (-u).exp());
            let du = dy[i] * sigmoid * (1.0 + u * (1.0 - sigmoid));
            dweight[j] += du * x_hat;
            dbias[j] += du;
            dx[i] = du * weight[j]; // the gradient of x̂, for the second pass
            sum += dx[i];
            sum_x += dx[i] * x_hat;
        }
        let count = members.len() as f32;
        for &(i, _) in members {
            dx[i] = rstd * (dx[i] - sum / count - (x[i] - mean) * rstd * sum_x / count);
        }
    });
    [dx, dweight, dbias]
}

/// `[n, t, heads·d]`.
#[derive(Clone, Copy)]
pub(crate) struct AttentionShape {
    /// Images.
    pub(crate) n: usize,
    /// Tokens.
    pub(crate) t: usize,
    /// Heads.
    pub(crate) heads: usize,
    /// Channels of a head.
    pub(crate) d: usize,
}

impl AttentionShape {
    /// Floating-point operations of the products forward; backward is 2.5 times this, recomputed scores included.
    pub(crate) fn flops(&self) -> f64 {
        4.0 * (self.n * self.t * self.t * self.heads * self.d) as f64
    }

    /// Calls `visit(start of the query's row, starts of the keys' rows)` for each image, head and query.
    fn each_query(&self, mut visit: impl FnMut(usize, &[usize])) {
        let c = self.heads * self.d;
        for image in 0..self.n {
            for head in 0..self.heads {
                let rows: Vec<usize> = (0..self.t).map(|i| (image * self.t + i) * c + head * self.d).collect();
                rows.iter().for_each(|query| visit(*query, &rows));
            }
        }
    }

    fn probabilities(&self, q: &[f32], k: &[f32], keys: &[usize]) -> Vec<f32> {
        let scale = 1.0 / (self.d as f32).sqrt();
        let mut p: Vec<f32> = keys.iter().map(|j| scale * dot(q, &k[*j..][..self.d])).collect();
        let most = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        p.iter_mut().for_each(|p| *p = (*p - most).exp());
        let sum: f32 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= sum);
        p
    }
}

/// softmax(q·kᵀ/√d)·v.
pub(crate) fn attention(q: &[f32], k: &[f32], v: &[f32], s: AttentionShape) -> Vec<f32> {
    let mut y = vec![0.0; s.n * s.t * s.heads * s.d];
    s.each_query(|i, keys| {
        let p = s.probabilities(&q[i..][..s.d], k, keys);
        for (p, j) in p.iter().zip(keys) {
            add_scaled(&mut y[i..][..s.d], *p, &v[*j..][..s.d]);
        }
    });
    y
}

/// dq, dk and dv.
pub(crate) fn attention_backward(q: &[f32], k: &[f32], v: &[f32], dy: &[f32], s: AttentionShape) -> [Vec<f32>; 3] {
    let count = s.n * s.t * s.heads * s.d;
    let scale = 1.0 / (s.d as f32).sqrt();
    let [mut dq, mut dk, mut dv] = [vec![0.0; count], vec![0.0; count], vec![0.0; count]];
    s.each_query(|i, keys| {
        let p = s.probabilities(&q[i..][..s.d], k, keys);
        let dp: Vec<f32> = keys.iter().map(|j| dot(&dy[i..][..s.d], &v[*j..][..s.d])).collect();
        let mean = dot(&p, &dp);
        for ((p, dp), j) in p.iter().zip(&dp).zip(keys) {
            let ds = scale * p * (dp - mean);
            add_scaled(&mut dv[*j..][..s.d], *p, &dy[i..][..s.d]);
            add_scaled(&mut dq[i..][..s.d], ds, &k[*j..][..s.d]);
            add_scaled(&mut dk[*j..][..s.d], ds, &q[i..][..s.d]);
        }
    });
    [dq, dk, dv]
}

/// One reverse step of images of `row` values; noise by std's logarithm, sine and cosine on the same random bits.
pub(crate) fn reverse_step(
    x_t: &[f32],
    net_out: &[f32],
    s: &ReverseStep,
    noise: Option<Address>,
    row: usize,
) -> Vec<f32> {
    let mut next = vec![0.0; x_t.len()];
    let clip = s.clip.map_or(f32::INFINITY, |clip| clip as f32);
    for i in 0..x_t.len() {
        let x0_hat = (s.from_x as f32 * x_t[i] + s.from_out as f32 * net_out[i]).clamp(-clip, clip);
        next[i] = s.to_x as f32 * x_t[i] + s.to_x0 as f32 * x0_hat + s.to_out as f32 * net_out[i];
    }
    if let Some(address) = noise {
        for (image, line) in next.chunks_exact_mut(row).enumerate() {
            for (block, four) in line.chunks_mut(4).enumerate() {
                let bits = address.sample(image).bits(block as u32);
                let pairs = [normals(bits[0], bits[1]), normals(bits[2], bits[3])];
                for (x, z) in four.iter_mut().zip(pairs.as_flattened()) {
                    *x += s.noise as f32 * z;
                }
            }
        }
    }
    next
}

/// Box and Muller's map of two words.
fn normals(a: u32, b: u32) -> [f32; 2] {
    const UNIT: f32 = 1.0 / 4_294_967_296.0; // 2^-32
    let radius = (-2.0 * ((a as f32 + 0.5) * UNIT).ln()).max(0.0).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * (b as f32 * UNIT)).sin_cos();
    [radius * cos, radius * sin]
}

/// The state of one parameter: p, m, v, ema.
pub(crate) type AdamState = [Vec<f32>; 4];

/// One AdamW update of gradients times `scale`.
pub(crate) fn adamw([p, m, v, ema]: &mut AdamState, grad: &[f32], scale: f32, s: &AdamW) {
    let corrections = [s.beta1, s.beta2].map(|beta| 1.0 - beta.powf(s.step as f64));
    let [beta1, beta2, correction1, correction2] = [s.beta1, s.beta2, corrections[0], corrections[1]].map(|x| x as f32);
    let [lr, decay, eps, ema_decay] = [s.lr, s.weight_decay, s.adam_eps, s.ema_decay].map(|x| x as f32);
    for i in 0..p.len() {
        let g = grad[i] * scale;
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        p[i] = p[i] * (1.0 - lr * decay) - lr * (m[i] / correction1) / ((v[i] / correction2).sqrt() + eps);
        ema[i] += (1.0 - ema_decay) * (p[i] - ema[i]);
    }
}
