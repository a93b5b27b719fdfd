//! Parameters live apart from the layers that use them: a layer holds [`ParamId`]s, and the same network runs on raw
//! or averaged weights by being handed other [`Params`].

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};
use std::sync::Arc;

/// Index of a parameter in its [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(usize);

/// How a parameter is stored in files, which follow PyTorch's order of axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The same in memory and in files.
    Plain,
    /// `[c_out,kh,kw,c_in]` in memory, `[c_out,c_in,kh,kw]` in files.
    Conv,
}

/// First values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Uniform in ±bound.
    Uniform(f64),
    /// Standard normal.
    Normal,
}

/// Name, size, file layout and first values of a parameter.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// The name in files, as diffusers has it.
    pub name: String,
    /// Sizes in memory.
    pub shape: Shape,
    /// Order of axes in files.
    pub layout: Layout,
    /// First values.
    pub init: Init,
}

impl ParamSpec {
    /// Sizes in files.
    pub fn file_shape(&self) -> Shape {
        match (self.layout, self.shape.nhwc()) {
            (Layout::Conv, Some([o, kh, kw, i])) => [o, i, kh, kw].into(),
            _ => self.shape,
        }
    }
}

/// Collects the parameters of a network while its layers are built.
#[derive(Default)]
pub struct Builder {
    specs: Vec<ParamSpec>,
}

impl Builder {
    /// No parameters yet.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Adds a parameter.
    pub fn add(&mut self, name: String, shape: impl Into<Shape>, layout: Layout, init: Init) -> ParamId {
        self.specs.push(ParamSpec { name, shape: shape.into(), layout, init });
        ParamId(self.specs.len() - 1)
    }

    /// All parameters, in the order in which they were added.
    pub fn finish(self) -> Vec<ParamSpec> {
        self.specs
    }
}

/// The values of a network's parameters, in the order of its specs. A clone shares the list until either changes.
#[derive(Clone)]
pub struct Params {
    tensors: Arc<Vec<Tensor>>,
}

impl Params {
    /// Wraps values; every tensor is followed by the tape if `trainable`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a tensor does not have its spec's shape.
    pub fn new(specs: &[ParamSpec], tensors: Vec<Tensor>, trainable: bool) -> Result<Params> {
        if specs.len() != tensors.len() {
            return Err(Error::Shape(format!("parameters: the network has {}, got {}", specs.len(), tensors.len())));
        }
        if let Some((s, t)) = specs.iter().zip(&tensors).find(|(s, t)| s.shape != t.shape()) {
            return Err(Error::Shape(format!("parameter {}: expected {}, got {}", s.name, s.shape, t.shape())));
        }
        let tensors: Vec<Tensor> = tensors.into_iter().map(|t| t.with_grad(trainable)).collect();
        Ok(Params { tensors: Arc::new(tensors) })
    }

    /// One parameter.
    pub fn get(&self, id: ParamId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// All parameters.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// All parameters, for an optimiser.
    pub fn tensors_mut(&mut self) -> &mut [Tensor] {
        Arc::make_mut(&mut self.tensors).as_mut_slice()
    }

    /// Where they live; a network without parameters counts as on the host.
    pub fn device(&self) -> Device {
        self.tensors.first().map_or(Device::Cpu, Tensor::device)
    }

    /// The same values on `device`.
    ///
    /// # Errors
    /// As [`Tensor::to_device`].
    pub fn to_device(&self, device: Device) -> Result<Params> {
        let copies = self.tensors.iter().map(|t| Ok(t.to_device(device)?.with_grad(t.requires_grad())));
        Ok(Params { tensors: Arc::new(copies.collect::<Result<_>>()?) })
    }

    /// Number of scalars.
    pub fn count(&self) -> usize {
        self.tensors.iter().map(Tensor::count).sum()
    }
}
