//! The software GPU (`tests/softgpu/`), seen as a program sees it: through cudarc.
//!
//! `opcodes.rs` holds every instruction to the PTX manual, `warp.rs` those in which lanes work together, `bugs.rs` the checks
//! to kernels with a planted mistake each, `driver.rs` the driver, `math.rs` CUDA's functions, `matmul.rs` another compiler's tensor-core kernel.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "softgpu/tests/bugs.rs"]
mod bugs;
#[path = "softgpu/tests/driver.rs"]
mod driver;
#[path = "softgpu/tests/harness.rs"]
mod harness;
#[path = "softgpu/tests/math.rs"]
mod math;
#[path = "softgpu/tests/matmul.rs"]
mod matmul;
#[path = "softgpu/tests/opcodes.rs"]
mod opcodes;
#[path = "softgpu/tests/warp.rs"]
mod warp;
