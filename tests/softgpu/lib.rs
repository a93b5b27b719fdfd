//! A software GPU: a stand-in for libcuda that interprets PTX, on which the tests run the CUDA backend without a GPU.
//!
//! `ptx/` reads PTX, `decode/` makes it ready to run, `exec/` runs it, `alu/` and `mma.rs` compute, `shadow.rs` and
//! `check.rs` find what is wrong, `counters.rs` counts, `driver/` is what a program sees. README.md has the rest.
//! It is test code, built as the example `cuda`, so that the file is called libcuda.so and integration tests find it.
#![cfg(target_os = "linux")]
// Test code: a bug here should stop the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod alu;
mod check;
mod counters;
mod decode;
mod driver;
mod exec;
mod memory;
mod mma;
mod numeric;
mod ptx;
mod regs;
mod shadow;
