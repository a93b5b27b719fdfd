//! Layers with parameters: linear, time embedding, convolution, group norm.

use super::param::{Builder, Init, Layout, ParamId, Params};
use crate::error::Result;
use crate::ops::{self, Conv, ConvExtras, Film, Joined};
use crate::tensor::Tensor;

/// y = x·Wᵀ + b.
pub(crate) struct Linear {
    weight: ParamId,
    bias: ParamId,
}

impl Linear {
    pub(crate) fn new(b: &mut Builder, name: &str, c_in: usize, c_out: usize) -> Linear {
        Linear::with_bound(b, name, c_in, c_out, 1.0 / (c_in as f64).sqrt())
    }

    /// With first weights and biases uniform in ±`bound` instead of PyTorch's ±1/√c_in.
    pub(crate) fn with_bound(b: &mut Builder, name: &str, c_in: usize, c_out: usize, bound: f64) -> Linear {
        let init = Init::Uniform(bound);
        Linear {
            weight: b.add(format!("{name}.weight"), [c_out, c_in], Layout::Plain, init),
            bias: b.add(format!("{name}.bias"), [c_out], Layout::Plain, init),
        }
    }

    pub(crate) fn forward(&self, p: &Params, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        ops::linear(x, p.get(self.weight), Some(p.get(self.bias)), residual)
    }

    /// GELU of it.
    pub(crate) fn forward_gelu(&self, p: &Params, x: &Tensor) -> Result<Tensor> {
        ops::linear_gelu(x, p.get(self.weight), Some(p.get(self.bias)))
    }
}

/// Linear → SiLU → linear on sinusoidal features.
pub(crate) struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimeEmbedding {
    pub(crate) fn new(b: &mut Builder, name: &str, c_in: usize, c_out: usize) -> TimeEmbedding {
        TimeEmbedding {
            linear_1: Linear::new(b, &format!("{name}.linear_1"), c_in, c_out),
            linear_2: Linear::new(b, &format!("{name}.linear_2"), c_out, c_out),
        }
    }

    pub(crate) fn forward(&self, p: &Params, features: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(p, &ops::silu(&self.linear_1.forward(p, features, None)?)?, None)
    }
}

/// A convolution with bias.
pub(crate) struct Conv2d {
    weight: ParamId,
    bias: ParamId,
}

impl Conv2d {
    pub(crate) fn new(b: &mut Builder, name: &str, c_in: usize, c_out: usize, k: usize) -> Conv2d {
        let init = Init::Uniform(1.0 / ((c_in * k * k) as f64).sqrt());
        Conv2d {
            weight: b.add(format!("{name}.weight"), [c_out, k, k, c_in], Layout::Conv, init),
            bias: b.add(format!("{name}.bias"), [c_out], Layout::Plain, init),
        }
    }

    pub(crate) fn forward(&self, p: &Params, x: &Tensor, conv: Conv, extras: ConvExtras<'_>) -> Result<Tensor> {
        ops::conv2d(x, p.get(self.weight), Some(p.get(self.bias)), conv, extras)
    }
}

impl Conv2d {
    /// As a 1×1 convolution, of one tensor or two.
    pub(crate) fn project(&self, p: &Params, x: Joined<'_>) -> Result<Tensor> {
        ops::project(x, p.get(self.weight), Some(p.get(self.bias)))
    }
}

/// Group norm with its affine parameters.
pub(crate) struct Norm {
    weight: ParamId,
    bias: ParamId,
    norm: ops::GroupNorm,
}

impl Norm {
    pub(crate) fn new(b: &mut Builder, name: &str, channels: usize, norm: ops::GroupNorm) -> Norm {
        Norm {
            weight: b.add(format!("{name}.weight"), [channels], Layout::Plain, Init::Ones),
            bias: b.add(format!("{name}.bias"), [channels], Layout::Plain, Init::Zeros),
            norm,
        }
    }

    pub(crate) fn forward<'a>(&self, p: &Params, x: impl Into<Joined<'a>>, film: Option<Film<'_>>) -> Result<Tensor> {
        ops::group_norm(x, p.get(self.weight), p.get(self.bias), film, self.norm)
    }
}
