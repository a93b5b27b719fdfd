//! First values of parameters, addressed by the parameter's index: PyTorch's default distributions.

use super::param::{Init, ParamSpec, Params};
use crate::error::Result;
use crate::rng::{Address, Purpose};
use crate::tensor::Tensor;

/// Draws the first values of a network.
///
/// # Errors
/// Never on the host.
pub fn initialise(specs: &[ParamSpec], seed: u64) -> Result<Params> {
    let tensors = specs.iter().enumerate().map(|(index, spec)| {
        let mut values = vec![0.0_f32; spec.shape.count()];
        let address = Address::new(seed, Purpose::Init).sample(index);
        match spec.init {
            Init::Zeros => {}
            Init::Ones => values.fill(1.0),
            Init::Normal => address.fill_normal(&mut values),
            Init::Uniform(bound) => {
                address.fill_uniform(&mut values);
                values.iter_mut().for_each(|v| *v = ((2.0 * f64::from(*v) - 1.0) * bound) as f32);
            }
        }
        Tensor::from_slice(&values, spec.shape)
    });
    Params::new(specs, tensors.collect::<Result<_>>()?, true)
}
