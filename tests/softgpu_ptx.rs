//! The software GPU (`tests/softgpu/`), seen as a program sees it: through cudarc.
//!
//! `opcodes.rs` holds every instruction to the PTX manual, `warp.rs` those in which lanes work together.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

#[path = "softgpu/tests/harness.rs"]
mod harness;
#[path = "softgpu/tests/opcodes.rs"]
mod opcodes;
#[path = "softgpu/tests/warp.rs"]
mod warp;
