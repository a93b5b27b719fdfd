//! Every op's fixed case table against its f64 oracle, forward and backward.

use tweedie::device::Device;
use tweedie::testing::cases;

#[test]
fn every_row_of_every_op_agrees_with_its_oracle() {
    let failures: Vec<String> = cases::all().iter().filter_map(|case| case.check(Device::Cpu).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
