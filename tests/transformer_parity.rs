//! The transformer against PyTorch's functions (`tests/fixtures/make_transformer.py` made the references).

#[path = "common/parity.rs"]
mod parity;

use tweedie::device::Device;

#[test]
fn transformers_match_pytorch_forward_and_in_every_gradient() {
    parity::assert_transformers_match(Device::Cpu);
}
