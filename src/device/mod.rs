//! Devices and the memory tensors live in.
//!
//! Every op dispatches on [`Device`]; nothing outside an op's `cpu` part may assume that memory is host memory.

mod cpu;
pub(crate) mod cuda;
mod pool;

pub use cpu::{DisjointMut, PARTS, for_each_block, for_each_block_with, for_each_part};
pub use cuda::CudaBuffer;
pub use pool::{DerivedKey, HostBuffer, Origin, PoolStats, Scratch, pool_stats, reset_pool_peak};

use crate::error::{Error, Result};

/// Where a tensor lives and where the ops on it run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The host, with rayon's threads.
    Cpu,
    /// An NVIDIA GPU by index.
    Cuda(usize),
}

impl Device {
    /// Reads a `--device` value: `cpu`, `cuda` (the first GPU), `cuda:INDEX`, or `auto`, the first GPU if kernels can run on it and otherwise
    /// the CPU.
    ///
    /// # Errors
    /// [`Error::Usage`] for another text; [`Error::Device`] where the GPU cannot be used.
    pub fn from_flag(text: &str) -> Result<Device> {
        match text {
            "cpu" => Ok(Device::Cpu),
            "auto" => Ok(automatic()),
            _ => {
                let index = match text.strip_prefix("cuda") {
                    Some("") => Some(0),
                    Some(rest) => rest.strip_prefix(':').and_then(|i| i.parse::<usize>().ok()),
                    None => None,
                };
                let Some(index) = index else {
                    return Err(Error::Usage(format!(
                        "--device {text}: expected auto, cpu, cuda or cuda:INDEX; use --device cpu"
                    )));
                };
                // What keeps kernels from running shows before anything is written.
                cuda::gpu(index)?.check_kernels()?;
                Ok(Device::Cuda(index))
            }
        }
    }
}

/// The first GPU, if there is one on which kernels can run.
fn automatic() -> Device {
    if !cuda::has_driver() {
        return Device::Cpu;
    }
    match cuda::gpu(0).and_then(|gpu| gpu.check_kernels()) {
        Ok(()) => Device::Cuda(0),
        Err(reason) => {
            eprintln!("--device auto: {reason}; using the CPU");
            Device::Cpu
        }
    }
}

/// The most bytes that tensors and temporaries of `device` held at a time since [`reset_peak`].
pub fn peak_bytes(device: Device) -> usize {
    match device {
        Device::Cpu => pool_stats().peak,
        Device::Cuda(_) => cuda::peak_bytes(),
    }
}

/// Starts a new measurement of [`peak_bytes`].
pub fn reset_peak(device: Device) {
    match device {
        Device::Cpu => reset_pool_peak(),
        Device::Cuda(_) => cuda::reset_peak(),
    }
}

/// Whether kernels can be loaded: they were compiled when the library was built, or NVRTC, which compiles them at first use, is there, as
/// libnvrtc.so.12 where the loader finds it or as the library that the environment's `TWEEDIE_NVRTC` names.
pub fn can_load_kernels() -> bool {
    cuda::can_load()
}

/// The error of an op that has no side for `device`.
pub(crate) fn no_kernel(op: &str, device: Device) -> Error {
    Error::Device(format!("{op}: no kernel for {device}; use --device cpu"))
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// The memory of one tensor.
#[derive(Debug)]
#[non_exhaustive]
pub enum Storage {
    /// Host memory from the pool.
    Cpu(HostBuffer),
    /// Memory of a GPU.
    Cuda(CudaBuffer),
}

impl Storage {
    /// Takes `bytes` of memory on `device`; the content is unspecified.
    ///
    /// # Errors
    /// [`Error::Device`] for a device this version cannot allocate on.
    pub fn take(bytes: usize, device: Device) -> Result<Storage> {
        match device {
            Device::Cpu => Ok(Storage::Cpu(HostBuffer::take(bytes))),
            Device::Cuda(index) => Ok(Storage::Cuda(cuda::gpu(index)?.take(bytes)?)),
        }
    }

    /// The device of this memory.
    pub fn device(&self) -> Device {
        match self {
            Storage::Cpu(_) => Device::Cpu,
            Storage::Cuda(buffer) => Device::Cuda(buffer.index()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_flags_are_read_and_wrong_ones_name_the_choices() {
        assert!(Device::from_flag("auto").is_ok());
        assert_eq!(Device::from_flag("cpu").unwrap(), Device::Cpu);
        assert!(Device::from_flag("tpu").unwrap_err().to_string().contains("expected auto, cpu, cuda"));
        assert!(matches!(Device::from_flag("cuda:x").unwrap_err(), Error::Usage(_)));
        assert!(matches!(Device::from_flag("cuda:99").unwrap_err(), Error::Device(_)));
    }
}
